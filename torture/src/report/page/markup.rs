//! HTML that is written safely by construction: what is markup stands in the source of this program, everything else is escaped.

use std::fmt::Write as _;

use crate::report::words::{cut, tame};

/// The most letters of one text from outside.
const TEXT_TOLD: usize = 2_000;

/// A document in the making.
#[derive(Debug, Default)]
pub(super) struct Markup {
    out: String,
    /// How many bytes of texts from outside may still be told.
    allowance: usize,
}

impl Markup {
    /// Markup. Only what the compiler has seen can be some.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.out.push_str(markup);
        self
    }

    /// A text, for content and for attributes in double quotes.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for letter in tame(text).chars() {
            match letter {
                '&' => self.out.push_str("&amp;"),
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '"' => self.out.push_str("&quot;"),
                '\'' => self.out.push_str("&#39;"),
                other => self.out.push(other),
            }
        }
        self
    }

    /// So much may be told of texts from outside from now on.
    pub(super) fn allow(&mut self, bytes: usize) -> &mut Self {
        self.allowance = bytes;
        self
    }

    /// A text from outside, whose length nobody has looked at. What is too much is cut.
    pub(super) fn foreign(&mut self, text: &str) -> &mut Self {
        let before = self.out.len();
        if self.allowance == 0 {
            return self.text("\u{2026}");
        }
        self.text(&cut(text, TEXT_TOLD));
        self.allowance = self.allowance.saturating_sub(self.out.len() - before);
        self
    }

    /// A number of a drawing, to a tenth.
    pub(super) fn number(&mut self, number: f64) -> &mut Self {
        write_number(&mut self.out, number);
        self
    }

    /// The `d` of a path.
    pub(super) fn path(&mut self, path: &Path) -> &mut Self {
        self.out.push_str(&path.out);
        self
    }

    pub(super) fn finish(self) -> String {
        self.out
    }
}

fn write_number(out: &mut String, number: f64) {
    // Nothing that is drawn is not finite; the worst would be a line at the wrong place.
    let tenths = (number * 10.0).round() as i64;
    let sign = if tenths < 0 { "-" } else { "" };
    let (whole, tenth) = (tenths.unsigned_abs() / 10, tenths.unsigned_abs() % 10);
    let _ = if tenth == 0 { write!(out, "{sign}{whole}") } else { write!(out, "{sign}{whole}.{tenth}") };
}

/// Many shapes of one look.
#[derive(Clone, Debug, Default)]
pub(super) struct Path {
    out: String,
}

impl Path {
    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    fn letter(&mut self, letter: char, numbers: &[f64]) {
        self.out.push(letter);
        for (place, number) in numbers.iter().enumerate() {
            let before = self.out.len();
            write_number(&mut self.out, *number);
            // A minus parts numbers as well as a blank does.
            if place > 0 && !self.out[before..].starts_with('-') {
                self.out.insert(before, ' ');
            }
        }
    }

    pub(super) fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64) {
        self.letter('M', &[x, y]);
        self.letter('h', &[width]);
        self.letter('v', &[height]);
        self.letter('h', &[-width]);
        self.out.push('z');
    }

    /// A line without a length: with round ends, a dot.
    pub(super) fn dot(&mut self, x: f64, y: f64) {
        self.letter('M', &[x, y]);
        self.letter('h', &[0.0]);
    }

    pub(super) fn across(&mut self, x: f64, y: f64, width: f64) {
        self.letter('M', &[x, y]);
        self.letter('h', &[width]);
    }

    pub(super) fn down(&mut self, x: f64, y: f64, height: f64) {
        self.letter('M', &[x, y]);
        self.letter('v', &[height]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_no_markup() {
        let mut markup = Markup::default();
        markup.raw("<p title=\"").text("\" onclick='x'").raw("\">").text("</p><script>&amp;\u{0}").raw("</p>");
        let expected = "<p title=\"&quot; onclick=&#39;x&#39;\">&lt;/p&gt;&lt;script&gt;&amp;amp;\\u{0}</p>";
        assert_eq!(markup.finish(), expected);
    }

    #[test]
    fn foreign_texts_end_with_the_allowance() {
        let mut markup = Markup::default();
        markup.allow(10).foreign("<<").foreign("abc").foreign("d").text("own");
        assert_eq!(markup.finish(), "&lt;&lt;abc\u{2026}own");
        let mut markup = Markup::default();
        markup.allow(usize::MAX).foreign(&"x".repeat(1_000_000));
        assert!(markup.finish().len() < TEXT_TOLD + 10);
    }

    #[test]
    fn numbers_are_short() {
        let mut path = Path::default();
        path.rectangle(1.04, -2.25, 3.0, 0.96);
        assert_eq!(path.out, "M1-2.3h3v1h-3z");
        path = Path::default();
        path.dot(f64::NAN, 12.34);
        assert_eq!(path.out, "M0 12.3h0");
    }
}
