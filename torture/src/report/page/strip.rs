//! The strip above the plots: faults as bars, a row for each kind, and what others did as ticks.

use super::figure::Canvas;
use super::markup::{Markup, Path};
use crate::report::account::{Account, Aftermath};
use crate::report::faults::Fault;
use crate::report::notes::Notes;
use crate::report::words::{counted, cut, duration, moment, tame};

/// Rows of faults and rows of notes; what does not fit goes into a last one.
const FAULT_ROWS: usize = 16;
const NOTE_ROWS: usize = 8;

/// The most letters of a text from outside in a hint.
const HINT: usize = 80;
/// How wide a letter of a label is, about.
const LETTER: f64 = 6.4;

/// A row of the strip.
enum Row<'a> {
    Faults(&'a str, Vec<&'a (Fault, Aftermath)>),
    Notes(&'a Notes<'a>),
}

/// The rows of a run, those of faults in the order in which kinds first came.
pub(super) struct Strip<'a> {
    rows: Vec<Row<'a>>,
    run: u64,
}

impl<'a> Strip<'a> {
    pub(super) fn of(account: &'a Account<'a>) -> Self {
        let mut kinds: Vec<(&str, Vec<&(Fault, Aftermath)>)> = Vec::new();
        for fault in &account.faults {
            let known = kinds.iter().position(|(name, _)| *name == fault.0.name);
            match known {
                Some(place) => kinds[place].1.push(fault),
                None if kinds.len() < FAULT_ROWS => kinds.push((&fault.0.name, vec![fault])),
                None => {
                    if kinds.len() == FAULT_ROWS {
                        kinds.push(("others", Vec::new()));
                    }
                    kinds[FAULT_ROWS].1.push(fault);
                }
            }
        }
        let faults = kinds.into_iter().map(|(name, faults)| Row::Faults(name, faults));
        let notes = account.notes.iter().take(NOTE_ROWS).map(Row::Notes);
        Self { rows: faults.chain(notes).collect(), run: account.length }
    }

    pub(super) fn height(&self, canvas: &Canvas) -> f64 {
        self.rows.len() as f64 * canvas.frame.row
    }

    /// Draws it with its upper edge at zero.
    pub(super) fn draw(&self, page: &mut Markup, canvas: &Canvas) {
        for (place, row) in self.rows.iter().enumerate() {
            let top = place as f64 * canvas.frame.row;
            let (label, class) = match row {
                Row::Faults(name, _) => ((*name).to_owned(), "<text class=\"label\" x=\""),
                Row::Notes(notes) => (notes.function.to_owned(), "<text class=\"label quiet\" x=\""),
            };
            page.raw(class);
            if canvas.frame.is_narrow {
                page.number(canvas.frame.left).raw("\" y=\"").number(top + 11.0).raw("\">");
            } else {
                page.number(canvas.frame.left - 10.0).raw("\" y=\"").number(top + canvas.frame.row - 6.0);
                page.raw("\" text-anchor=\"end\">");
            }
            page.foreign(&cut(&tame(&cut(&label, 200)), 17)).raw("</text>\n");
            let bar = canvas.frame.bar;
            let y = top + canvas.frame.row - bar - 3.0;
            match row {
                Row::Faults(_, faults) => self.draw_faults(page, canvas, faults, y),
                Row::Notes(notes) => draw_notes(page, canvas, notes, y + 2.0, bar - 4.0),
            }
        }
    }

    fn draw_faults(&self, page: &mut Markup, canvas: &Canvas, faults: &[&(Fault, Aftermath)], y: f64) {
        let mut bars: Vec<(f64, f64, Vec<&(Fault, Aftermath)>)> = Vec::new();
        for one in faults {
            let from = canvas.x(one.0.begin);
            let to = canvas.x(one.0.end_within(self.run)).max(from + 2.0);
            match bars.last_mut() {
                // Bars that cannot be told apart are one.
                Some((_, end, under)) if from < *end + 1.0 => {
                    *end = end.max(to);
                    under.push(one);
                }
                _ => bars.push((from, to, vec![one])),
            }
        }
        for (from, to, under) in bars {
            page.raw("<rect class=\"bar\" x=\"")
                .number(from)
                .raw("\" y=\"")
                .number(y)
                .raw("\" width=\"")
                .number(to - from);
            page.raw("\" height=\"").number(canvas.frame.bar).raw("\" rx=\"1.5\"><title>");
            match under.as_slice() {
                [one] => self.write_hint(page, one),
                many => {
                    page.text(&counted(many.len() as u64, "fault", "faults"));
                }
            }
            page.raw("</title></rect>\n");
            let label = if let [(fault, _)] = under.as_slice() { cut(&fault.stores, 24) } else { "".into() };
            if !label.is_empty() && (label.chars().count() + 1) as f64 * LETTER < to - from {
                page.raw("<text class=\"in\" x=\"")
                    .number(from + 4.0)
                    .raw("\" y=\"")
                    .number(y + canvas.frame.bar - 3.5);
                page.raw("\">").foreign(&label).raw("</text>\n");
            }
        }
    }

    fn write_hint(&self, page: &mut Markup, (fault, after): &(Fault, Aftermath)) {
        page.foreign(&cut(&fault.name, HINT));
        if !fault.stores.is_empty() {
            page.raw(" of ").foreign(&cut(&fault.stores, HINT));
        }
        page.raw(", from ").text(&moment(fault.begin, self.run)).raw(" for ");
        page.text(&duration(fault.end_within(self.run) - fault.begin));
        if let Some(again) = after.again {
            page.raw(", ok again after ").text(&duration(again));
        }
    }
}

fn draw_notes(page: &mut Markup, canvas: &Canvas, notes: &Notes<'_>, y: f64, height: f64) {
    let (mut good, mut bad) = (Path::default(), Path::default());
    let mut last = [f64::NEG_INFINITY; 2];
    for (time, ok) in &notes.each {
        let x = canvas.x(*time);
        let is_bad = *ok == Some(false);
        // One tick a pixel.
        if (x - last[usize::from(is_bad)]).abs() >= 1.0 {
            (if is_bad { &mut bad } else { &mut good }).down(x, y, height);
            last[usize::from(is_bad)] = x;
        }
    }
    for (path, class) in [(good, "<path class=\"tick\" d=\""), (bad, "<path class=\"tick bad\" d=\"")] {
        if !path.is_empty() {
            page.raw(class).path(&path).raw("\"/>\n");
        }
    }
}
