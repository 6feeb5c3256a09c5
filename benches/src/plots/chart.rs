//! A chart of lines, as SVG.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
/// What is left around the field: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (80.0, 46.0, 190.0, 56.0);
/// Told apart also by those who see few colours (Okabe and Ito, "Color universal design", 2008).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
/// About so many marks on an axis that is not logarithmic.
const MARKS: f64 = 6.0;

/// What is drawn.
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
}

/// One axis.
pub(super) struct Axis {
    pub(super) name: &'static str,
    pub(super) is_log: bool,
}

/// One line: its points, in order of x.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// An axis with its ends.
struct Scale {
    is_log: bool,
    from: f64,
    to: f64,
}

impl Scale {
    fn over(values: impl Iterator<Item = f64>, is_log: bool) -> Self {
        let (mut from, mut to) =
            values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        if is_log {
            from = 10f64.powf(from.log10().floor());
            to = 10f64.powf(to.log10().ceil());
            if from >= to {
                to = from * 10.0;
            }
        } else {
            let step = step(to);
            (from, to) = (0.0, ((to / step).ceil() * step).max(step));
        }
        Self { is_log, from, to }
    }

    /// Where a value lies, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        if self.is_log {
            (value / self.from).log10() / (self.to / self.from).log10()
        } else {
            (value - self.from) / (self.to - self.from)
        }
    }

    fn marks(&self) -> Vec<f64> {
        if self.is_log {
            return std::iter::successors(Some(self.from), |mark| Some(mark * 10.0))
                .take_while(|mark| *mark <= self.to * 1.001)
                .collect();
        }
        let step = step(self.to);
        (0..=(self.to / step).round() as u64).map(|number| number as f64 * step).collect()
    }
}

/// 1, 2 or 5 times a power of ten, so that about [`MARKS`] of it make up `to`.
fn step(to: f64) -> f64 {
    let rough = (to / MARKS).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough).unwrap_or(10.0);
    factor * power
}

impl Chart {
    /// The picture; `None` if there is nothing to draw.
    pub(super) fn svg(&self) -> Option<String> {
        let usable = |value: f64, axis: &Axis| value.is_finite() && (!axis.is_log || value > 0.0);
        let points = || {
            let all = self.lines.iter().flat_map(|line| line.points.iter().copied());
            all.filter(|(x, y)| usable(*x, &self.x) && usable(*y, &self.y))
        };
        points().next()?;
        let x = Scale::over(points().map(|(x, _)| x), self.x.is_log);
        let y = Scale::over(points().map(|(_, y)| y), self.y.is_log);
        let (left, top, right, bottom) = MARGIN;
        let across = |value: f64| left + x.place(value) * (WIDTH - left - right);
        let up = |value: f64| HEIGHT - bottom - y.place(value) * (HEIGHT - top - bottom);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        );
        let mut text = |at: (f64, f64), anchor: &str, more: &str, words: &str| {
            let (x, y) = at;
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{more}>{}</text>",
                escaped(words)
            );
        };
        text((left, 24.0), "start", " font-size=\"15\"", &self.title);
        text(((left + WIDTH - right) / 2.0, HEIGHT - 14.0), "middle", "", self.x.name);
        let middle = (top + HEIGHT - bottom) / 2.0;
        text((18.0, middle), "middle", &format!(" transform=\"rotate(-90 18 {middle:.1})\""), self.y.name);
        x.marks().iter().for_each(|mark| text((across(*mark), HEIGHT - bottom + 18.0), "middle", "", &short(*mark)));
        y.marks().iter().for_each(|mark| text((left - 8.0, up(*mark) + 4.0), "end", "", &short(*mark)));
        for (place, line) in self.lines.iter().enumerate() {
            let at = (WIDTH - right + 34.0, top + 14.0 + 20.0 * place as f64);
            text(at, "start", "", &line.name);
        }
        for mark in x.marks() {
            let at = across(mark);
            let _ = writeln!(svg, "<path d=\"M{at:.1} {top}V{:.1}\" stroke=\"#ddd\"/>", HEIGHT - bottom);
        }
        for mark in y.marks() {
            let at = up(mark);
            let _ = writeln!(svg, "<path d=\"M{left} {at:.1}H{:.1}\" stroke=\"#ddd\"/>", WIDTH - right);
        }
        for (place, (line, colour)) in self.lines.iter().zip(COLOURS.into_iter().cycle()).enumerate() {
            let places: Vec<(f64, f64)> = line
                .points
                .iter()
                .filter(|(x, y)| usable(*x, &self.x) && usable(*y, &self.y))
                .map(|(x, y)| (across(*x), up(*y)))
                .collect();
            let list: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                list.join(" ")
            );
            let legend = (WIDTH - right + 22.0, top + 10.0 + 20.0 * place as f64);
            for (x, y) in places.into_iter().chain([legend]) {
                let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>");
            }
        }
        svg.push_str("</svg>\n");
        Some(svg)
    }
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A number as an axis has room for.
fn short(value: f64) -> String {
    for (power, letter) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value >= power {
            return format!("{}{letter}", value / power);
        }
    }
    format!("{value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        let axis = |name, is_log| Axis { name, is_log };
        let line = Line { name: "16 < 32".to_owned(), points };
        Chart { title: "t".to_owned(), x: axis("groups", true), y: axis("writes/s", false), lines: vec![line] }
    }

    #[test]
    fn points_lie_where_their_values_are() {
        let svg = chart(vec![(1.0, 0.0), (100.0, 60.0)]).svg().unwrap_or_default();
        // The field reaches from 80 to 570, and from 384 up to 46.
        assert!(svg.contains("points=\"80.0,384.0 570.0,46.0\""), "{svg}");
        assert!(svg.contains("16 &lt; 32") && svg.ends_with("</svg>\n"), "{svg}");
    }

    #[test]
    fn what_no_axis_can_show_is_left_out() {
        assert_eq!(chart(vec![(0.0, 5.0), (f64::NAN, 1.0)]).svg(), None);
        assert!(chart(vec![(5.0, 5.0)]).svg().is_some(), "one point is enough");
    }

    #[test]
    fn marks_are_round_numbers() {
        let marks = |to: f64, is_log| Scale::over([1.0, to].into_iter(), is_log).marks();
        assert_eq!(marks(37_000.0, false), [0.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0]);
        assert_eq!(marks(10_000.0, true), [1.0, 10.0, 100.0, 1_000.0, 10_000.0]);
        assert_eq!([short(10_000.0), short(0.5), short(2e6)], ["10k", "0.5", "2M"]);
    }
}
