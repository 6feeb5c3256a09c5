//! A run drawn with letters: answers and latencies over time, and the faults below them on the same axis.

use super::name;
use crate::report::account::Account;
use crate::report::bins::{Decades, Density, Rates, TimeBins, ticks};
use crate::report::operations::Outcome;
use crate::report::words::{duration, moment};

/// Letters before the drawing, and in it.
const MARGIN: usize = 14;
const COLUMNS: usize = super::COLUMNS - MARGIN;

const ROWS_MAX: usize = 12;
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const SHADES: [char; 5] = [' ', '·', '░', '▒', '█'];

/// All lines of it.
pub(super) fn write(account: &Account<'_>) -> Vec<String> {
    let time = TimeBins::of(account.length, COLUMNS);
    let mut lines = vec![format!(
        "  a column is {}; latency by when it was asked, the rest by when it ended",
        duration(time.width)
    )];
    lines.extend(rates(account, time));
    lines.extend(latencies(account, time));
    lines.extend(faults(account, time));
    lines.push(axis(account.length, time));
    lines
}

fn row(label: &str, columns: &[char]) -> String {
    format!("  {label:>11} {}", columns.iter().collect::<String>())
}

/// A row of bars for each outcome, each by its own measure.
fn rates(account: &Account<'_>, time: TimeBins) -> Vec<String> {
    let rates = Rates::of(&account.operations, time);
    let one = |outcome: Outcome| {
        let most = rates.bins.iter().map(|bin| bin[outcome as usize]).max().unwrap_or(0);
        let bar = |bin: &[u64; 3]| BARS[level(bin[outcome as usize], most, BARS.len() - 1)];
        let bars: Vec<char> = rates.bins.iter().map(bar).collect();
        row(&format!("{} \u{2264}{}", outcome.name(), short(most)), &bars)
    };
    Outcome::ALL.map(one).to_vec()
}

/// A number in at most five letters.
fn short(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{}k", number / 1_000),
        1_000_000..1_000_000_000 => format!("{}M", number / 1_000_000),
        _ => "10^9+".to_owned(),
    }
}

/// None is 0, the most is `levels`, and whatever there is is at least 1.
fn level(part: u64, most: u64, levels: usize) -> usize {
    if most == 0 { 0 } else { (u128::from(part) * levels as u128).div_ceil(u128::from(most)) as usize }
}

/// Two rows for each power of ten, the slowest on top.
fn latencies(account: &Account<'_>, time: TimeBins) -> Vec<String> {
    let decades = Decades::of(&account.operations);
    let rows = (decades.high - decades.low) as usize * 2;
    let density = Density::of(&account.operations, time, decades, rows);
    let most = f64::from(density.most()).ln_1p();
    let shade = |row: usize, column: usize| {
        let told: u32 =
            Outcome::ALL.iter().map(|outcome| density.at(row, column, *outcome)).fold(0, u32::saturating_add);
        let levels = (SHADES.len() - 1) as f64;
        SHADES[((f64::from(told).ln_1p() / most * levels).ceil().clamp(0.0, levels)) as usize]
    };
    let label = |row: usize| {
        let from = 10_u64.saturating_pow(decades.low + row as u32 / 2);
        if row.is_multiple_of(2) { format!("{}\u{2265}", duration(from).replace(".00", "")) } else { String::new() }
    };
    let mut lines = Vec::new();
    if density.open.iter().any(|open| *open > 0) {
        let marks: Vec<char> = density.open.iter().map(|open| if *open > 0 { '?' } else { ' ' }).collect();
        lines.push(row("never ended", &marks));
    }
    lines.extend((0..rows).rev().map(|place| {
        let shades: Vec<char> = (0..time.count).map(|column| shade(place, column)).collect();
        row(&label(place), &shades)
    }));
    lines
}

/// A row for each kind of fault, in the order in which they first came.
fn faults(account: &Account<'_>, time: TimeBins) -> Vec<String> {
    let mut rows: Vec<(&str, Vec<char>)> = Vec::new();
    for (fault, _) in &account.faults {
        let place = rows.iter().position(|(name, _)| *name == fault.name).unwrap_or_else(|| {
            let is_full = rows.len() >= ROWS_MAX;
            if !is_full {
                rows.push((&fault.name, vec![' '; time.count]));
            } else if rows.len() == ROWS_MAX {
                rows.push(("others", vec![' '; time.count]));
            }
            rows.len() - 1
        });
        let (from, to) = (time.bin(fault.begin), time.bin(fault.end_within(account.length)));
        rows[place].1[from..=to].fill('\u{2588}');
    }
    rows.iter().map(|(fault, columns)| row(&name(fault, 11), columns)).collect()
}

fn axis(length: u64, time: TimeBins) -> String {
    let mut line: Vec<char> = Vec::new();
    for tick in ticks(length, 6) {
        let label = moment(tick, length);
        let at = time.bin(tick);
        if at >= line.len() && at + label.chars().count() <= COLUMNS {
            line.resize(at, ' ');
            line.extend(label.chars());
        }
    }
    row("", &line)
}
