//! The drawing of a run over time: faults, answers per second, latencies, one above the other on one axis.
//!
//! What is drawn depends on the width of the drawing, not on the number of operations: answers are counted in bins; latencies
//! are dots while these are few, and then the density of a grid.

use super::markup::{Markup, Path};
use super::strip::Strip;
use crate::report::account::Account;
use crate::report::bins::{Decades, Density, Rates, TimeBins, ticks};
use crate::report::operations::Outcome;
use crate::report::words::{count, counted, cut, duration, moment};

/// The measures of a drawing, in pixels.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) is_narrow: bool,
    width: f64,
    pub(super) left: f64,
    right: f64,
    /// A row of the strip, and a bar in it.
    pub(super) row: f64,
    pub(super) bar: f64,
    rate: f64,
    latency: f64,
    /// The side of a cell of the density, and the width of a bin of answers.
    cell: f64,
    ticks: u64,
}

pub(super) const WIDE: Frame = Frame {
    is_narrow: false,
    width: 1080.0,
    left: 124.0,
    right: 16.0,
    row: 20.0,
    bar: 14.0,
    rate: 130.0,
    latency: 240.0,
    cell: 4.0,
    ticks: 10,
};

pub(super) const NARROW: Frame = Frame {
    is_narrow: true,
    width: 380.0,
    left: 50.0,
    right: 6.0,
    row: 32.0,
    bar: 13.0,
    rate: 100.0,
    latency: 200.0,
    cell: 4.0,
    ticks: 5,
};

/// Above a plot, for its title.
const TITLE: f64 = 40.0;
/// Below the last, for the axis.
const AXIS: f64 = 24.0;
/// The lane of what never ended.
const LANE: f64 = 12.0;
/// As long as there are no more, operations are drawn one by one.
const DOTS_MAX: usize = 4_000;

/// How many faults a column names, each in so many letters.
const NAMES: usize = 4;
const HINT: usize = 60;

/// A frame, and the run in it.
pub(super) struct Canvas {
    pub(super) frame: &'static Frame,
    run: u64,
}

impl Canvas {
    fn plot_width(&self) -> f64 {
        self.frame.width - self.frame.left - self.frame.right
    }

    /// Where a moment lies.
    pub(super) fn x(&self, time: u64) -> f64 {
        let part = time.min(self.run) as f64 / self.run.max(1) as f64;
        self.frame.left + part * self.plot_width()
    }

    fn bins(&self) -> TimeBins {
        TimeBins::of(self.run, (self.plot_width() / self.frame.cell) as usize)
    }

    /// From where to where a bin goes.
    fn bin(&self, bins: TimeBins, place: usize) -> (f64, f64) {
        let begin = bins.width.saturating_mul(place as u64);
        (self.x(begin), self.x(begin.saturating_add(bins.width)))
    }
}

pub(super) fn draw(page: &mut Markup, account: &Account<'_>, frame: &'static Frame) {
    let canvas = Canvas { frame, run: account.length };
    let strip = Strip::of(account);
    let rate_top = strip.height(&canvas) + if account.faults.is_empty() { TITLE - 14.0 } else { TITLE };
    let has_lane = account.all.tally.open > 0;
    let latency_top = rate_top + frame.rate + TITLE + if has_lane { LANE } else { 0.0 };
    let bottom = latency_top + frame.latency;
    page.raw(if frame.is_narrow {
        "<svg class=\"narrow\" viewBox=\"0 0 "
    } else {
        "<svg class=\"wide\" viewBox=\"0 0 "
    });
    page.number(frame.width).raw(" ").number(bottom + AXIS);
    page.raw("\" role=\"img\" aria-label=\"Faults, answers per second and latencies over time\">\n");
    draw_windows(page, account, &canvas, bottom);
    draw_axis(page, &canvas, rate_top, bottom);
    strip.draw(page, &canvas);
    let rates = Rates::of(&account.operations, canvas.bins());
    draw_rates(page, &canvas, &rates, rate_top);
    draw_latencies(page, account, &canvas, latency_top);
    draw_hints(page, account, &canvas, &rates, (rate_top, bottom));
    page.raw("</svg>\n");
}

fn draw_windows(page: &mut Markup, account: &Account<'_>, canvas: &Canvas, bottom: f64) {
    let mut path = Path::default();
    let mut last = f64::NEG_INFINITY;
    for (begin, end) in account.windows.each() {
        let from = canvas.x(*begin).max(last);
        let to = canvas.x(*end).max(canvas.x(*begin) + 1.0);
        // What is no wider than what was drawn before it is in it.
        if to > from {
            path.rectangle(from, 0.0, to - from, bottom);
            last = to;
        }
    }
    if !path.is_empty() {
        page.raw("<path class=\"window\" d=\"").path(&path).raw("\"/>\n");
    }
}

fn draw_axis(page: &mut Markup, canvas: &Canvas, top: f64, bottom: f64) {
    let mut path = Path::default();
    for tick in ticks(canvas.run, canvas.frame.ticks) {
        let x = canvas.x(tick);
        path.down(x, bottom, 4.0);
        let is_last = x > canvas.frame.width - canvas.frame.right - 16.0;
        page.raw(if is_last {
            "<text class=\"axis\" text-anchor=\"end\" x=\""
        } else {
            "<text class=\"axis\" text-anchor=\"middle\" x=\""
        });
        page.number(if is_last { x + 4.0 } else { x }).raw("\" y=\"").number(bottom + 18.0).raw("\">");
        page.text(&moment(tick, canvas.run)).raw("</text>\n");
    }
    path.across(canvas.frame.left, bottom, canvas.plot_width());
    path.across(canvas.frame.left, top + canvas.frame.rate, canvas.plot_width());
    page.raw("<path class=\"base\" d=\"").path(&path).raw("\"/>\n");
}

/// The title of a plot, and the names of outcomes in their colours.
fn draw_title(page: &mut Markup, canvas: &Canvas, title: &'static str, y: f64) {
    page.raw("<text class=\"title\" x=\"")
        .number(canvas.frame.left)
        .raw("\" y=\"")
        .number(y - 12.0)
        .raw("\">")
        .raw(title);
    page.raw("<tspan class=\"ok\" dx=\"10\">ok</tspan><tspan class=\"fail\" dx=\"8\">fail</tspan>");
    page.raw("<tspan class=\"info\" dx=\"8\">info</tspan></text>\n");
}

fn draw_level(page: &mut Markup, canvas: &Canvas, grid: &mut Path, y: f64, label: &str) {
    grid.across(canvas.frame.left, y, canvas.plot_width());
    page.raw("<text class=\"axis\" text-anchor=\"end\" x=\"")
        .number(canvas.frame.left - 8.0)
        .raw("\" y=\"")
        .number(y + 4.0);
    page.raw("\">").text(label).raw("</text>\n");
}

/// Bars of answers, what is ok at the bottom.
fn draw_rates(page: &mut Markup, canvas: &Canvas, rates: &Rates, top: f64) {
    draw_title(page, canvas, "answers per second", top);
    let height = canvas.frame.rate;
    let per_second = 1e9 / rates.time.width as f64;
    let most = rates.most().max(1) as f64 * per_second;
    let step = round_step(most / 3.0);
    let full = (most / step).ceil() * step;
    let mut grid = Path::default();
    for level in 1..=(full / step).round() as usize {
        let y = top + height - level as f64 * step / full * height;
        draw_level(page, canvas, &mut grid, y, &rate(level as f64 * step));
    }
    page.raw("<path class=\"grid\" d=\"").path(&grid).raw("\"/>\n");
    let mut paths = [Path::default(), Path::default(), Path::default()];
    for (place, bin) in rates.bins.iter().enumerate() {
        let (from, to) = canvas.bin(rates.time, place);
        let mut y = top + height;
        for (path, ended) in paths.iter_mut().zip(bin) {
            if *ended > 0 {
                let high = (*ended as f64 * per_second / full * height).max(1.0);
                y -= high;
                path.rectangle(from, y, (to - from).max(1.0), high);
            }
        }
    }
    for (path, class) in paths.iter().zip(FILLS) {
        page.raw(class).path(path).raw("\"/>\n");
    }
}

const FILLS: [&str; 3] = ["<path class=\"f-ok\" d=\"", "<path class=\"f-fail\" d=\"", "<path class=\"f-info\" d=\""];
const DOTS: [&str; 3] = ["<path class=\"d-ok\" d=\"", "<path class=\"d-fail\" d=\"", "<path class=\"d-info\" d=\""];
/// How dense, from little to much.
const LEVELS: [&str; 5] =
    ["<g class=\"l1\">", "<g class=\"l2\">", "<g class=\"l3\">", "<g class=\"l4\">", "<g class=\"l5\">"];

/// A step of 1, 2 or 5 of some power of ten.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].map(|times| times * power).into_iter().find(|step| *step >= least * 0.999).unwrap_or(10.0 * power)
}

fn rate(rate: f64) -> String {
    match rate {
        1e7.. => format!("{}M", count((rate / 1e6).round() as u64)),
        1e4.. => format!("{}k", count((rate / 1e3).round() as u64)),
        1.0.. => count(rate.round() as u64),
        _ => format!("{:.3}", rate).trim_end_matches('0').to_owned(),
    }
}

fn draw_latencies(page: &mut Markup, account: &Account<'_>, canvas: &Canvas, top: f64) {
    let decades = Decades::of(&account.operations);
    let height = canvas.frame.latency;
    let has_lane = account.all.tally.open > 0;
    draw_title(page, canvas, "latency", if has_lane { top - LANE } else { top });
    let mut grid = Path::default();
    for decade in decades.low..=decades.high {
        let time = 10_u64.saturating_pow(decade);
        let y = top + height - decades.place(time) * height;
        draw_level(page, canvas, &mut grid, y, &duration(time).replace(".00", "").replace(".0 ", " "));
    }
    page.raw("<path class=\"grid\" d=\"").path(&grid).raw("\"/>\n");
    let density = Density::of(&account.operations, canvas.bins(), decades, (height / canvas.frame.cell) as usize);
    if has_lane {
        let mut path = Path::default();
        for (place, open) in density.open.iter().enumerate() {
            if *open > 0 {
                let (from, to) = canvas.bin(density.time, place);
                path.rectangle(from, top - LANE, (to - from).max(2.0), 6.0);
            }
        }
        page.raw("<path class=\"f-info\" d=\"").path(&path).raw("\"/>\n<text class=\"axis\" text-anchor=\"end\" x=\"");
        page.number(canvas.frame.left - 8.0).raw("\" y=\"").number(top - LANE + 6.0).raw("\">no end</text>\n");
    }
    if account.operations.all.len() <= DOTS_MAX {
        draw_dots(page, account, canvas, decades, top);
    } else {
        draw_density(page, canvas, &density, top);
    }
}

fn draw_dots(page: &mut Markup, account: &Account<'_>, canvas: &Canvas, decades: Decades, top: f64) {
    for (outcome, class) in Outcome::ALL.into_iter().zip(DOTS) {
        let mut path = Path::default();
        for operation in account.operations.all.iter().filter(|operation| operation.outcome == outcome) {
            let Some(end) = operation.end else { continue };
            let place = decades.place(end - operation.begin);
            path.dot(canvas.x(operation.begin), top + (1.0 - place) * canvas.frame.latency);
        }
        if !path.is_empty() {
            page.raw(class).path(&path).raw("\"/>\n");
        }
    }
}

/// Cells, side by side in one shape where they are equally dense.
fn draw_density(page: &mut Markup, canvas: &Canvas, density: &Density, top: f64) {
    let most = f64::from(density.most()).ln_1p();
    let side = canvas.frame.latency / density.rows as f64;
    for (outcome, class) in Outcome::ALL.into_iter().zip(FILLS) {
        // What is rare is what somebody looks for: it is never faint.
        let least = if outcome == Outcome::Ok { 1 } else { 3 };
        let level = |row, column| match density.at(row, column, outcome) {
            0 => 0,
            some => ((f64::from(some).ln_1p() / most * LEVELS.len() as f64).ceil() as usize).clamp(least, LEVELS.len()),
        };
        let mut paths: [Path; LEVELS.len()] = Default::default();
        for row in 0..density.rows {
            let y = top + canvas.frame.latency - (row + 1) as f64 * side;
            let mut column = 0;
            while column < density.time.count {
                let first = column;
                let dense = level(row, first);
                while column < density.time.count && level(row, column) == dense {
                    column += 1;
                }
                if dense > 0 {
                    let (from, to) = (canvas.bin(density.time, first).0, canvas.bin(density.time, column - 1).1);
                    paths[dense - 1].rectangle(from, y, (to - from).max(1.0), side);
                }
            }
        }
        for (path, group) in paths.iter().zip(LEVELS).filter(|(path, _)| !path.is_empty()) {
            page.raw(group).raw(class).path(path).raw("\"/></g>\n");
        }
    }
}

/// What a column says when it is pointed at.
fn draw_hints(page: &mut Markup, account: &Account<'_>, canvas: &Canvas, rates: &Rates, (top, bottom): (f64, f64)) {
    let under_way = under_way(account, rates.time);
    page.raw("<g class=\"hint\">\n");
    for (place, bin) in rates.bins.iter().enumerate() {
        let begin = rates.time.width.saturating_mul(place as u64);
        let (from, to) = canvas.bin(rates.time, place);
        page.raw("<rect x=\"").number(from).raw("\" y=\"").number(top).raw("\" width=\"").number((to - from).max(1.0));
        page.raw("\" height=\"").number(bottom - top).raw("\"><title>").text(&moment(begin, canvas.run)).raw(": ");
        let told = Outcome::ALL.map(|outcome| format!("{} {}", count(bin[outcome as usize]), outcome.name()));
        page.text(&told.join(", "));
        if rates.slowest[place] > 0 {
            page.raw("; the slowest took ").text(&duration(rates.slowest[place]));
        }
        let (faults, names) = &under_way[place];
        if *faults > 0 {
            page.raw("; ").text(&counted(*faults, "fault", "faults")).raw(" under way");
            for (place, name) in names.iter().enumerate() {
                page.raw(if place > 0 { ", " } else { ": " }).foreign(&cut(name, HINT));
            }
        }
        page.raw("</title></rect>\n");
    }
    page.raw("</g>\n");
}

/// For each bin, how many faults were under way at some moment of it, and the names of the first.
fn under_way<'a>(account: &'a Account<'a>, time: TimeBins) -> Vec<(u64, Vec<&'a str>)> {
    let mut bins = vec![(0, Vec::new()); time.count];
    for (fault, _) in &account.faults {
        let (first, last) = (time.bin(fault.begin), time.bin(fault.end_within(account.length)));
        for (faults, names) in &mut bins[first..=last] {
            *faults += 1;
            if names.len() < NAMES && !names.contains(&fault.name.as_str()) {
                names.push(&fault.name);
            }
        }
    }
    bins
}
