//! Numbers, times and texts as people read them, and foreign texts made harmless.

use std::borrow::Cow;

/// A text without what could act on a terminal or hide from a reader: control characters and those that turn the direction of
/// writing are spelled out.
pub(super) fn tame(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_wild) {
        return Cow::Borrowed(text);
    }
    let spell = |letter: char| match letter {
        '\t' => " ".to_owned(),
        '\n' => "\\n".to_owned(),
        wild if is_wild(wild) => format!("\\u{{{:x}}}", u32::from(wild)),
        other => other.to_string(),
    };
    Cow::Owned(text.chars().map(spell).collect())
}

fn is_wild(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(u32::from(letter) & 0xfffe, 0xfffe)
}

/// The text, or as many letters of it as fit, and a sign that there were more.
pub(super) fn cut(text: &str, letters: usize) -> Cow<'_, str> {
    if text.char_indices().nth(letters).is_none() {
        return Cow::Borrowed(text);
    }
    let kept: String = text.chars().take(letters.saturating_sub(1)).collect();
    Cow::Owned(kept + "\u{2026}")
}

/// With commas between thousands.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 fault`, `2 faults`.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A part of a whole, rounded down, so that only all of it is 100 %.
pub(super) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let hundredths = u128::from(part) * 10_000 / u128::from(whole);
    if part == whole { "100 %".to_owned() } else { format!("{}.{:02} %", hundredths / 100, hundredths % 100) }
}

const UNITS: [(u64, &str); 4] = [(1, "ns"), (1_000, "\u{b5}s"), (1_000_000, "ms"), (1_000_000_000, "s")];
const MINUTE: u64 = 60_000_000_000;
const HOUR: u64 = 60 * MINUTE;

/// A time in nanoseconds, to three figures.
pub(super) fn duration(ns: u64) -> String {
    if ns == 0 {
        return "0".to_owned();
    }
    if ns >= 100 * MINUTE {
        return format!("{:.1} h", ns as f64 / HOUR as f64);
    }
    if ns >= 10 * MINUTE {
        return format!("{:.1} min", ns as f64 / MINUTE as f64);
    }
    let (size, unit) = unit_of(ns);
    let number = ns as f64 / size as f64;
    match number {
        _ if size == 1 => format!("{ns} {unit}"),
        ..9.995 => format!("{number:.2} {unit}"),
        ..99.95 => format!("{number:.1} {unit}"),
        _ => format!("{number:.0} {unit}"),
    }
}

/// A moment of a run that is so long: in one unit for the whole run, which is told by the caller's `0`.
pub(super) fn moment(ns: u64, length: u64) -> String {
    let (size, unit) = match length {
        _ if length >= 100 * MINUTE => (HOUR, "h"),
        _ if length >= 10 * MINUTE => (MINUTE, "min"),
        _ => unit_of(length.max(1)),
    };
    if size == 1 {
        return format!("{ns} {unit}");
    }
    // Two figures behind the point, less what says nothing.
    let number = format!("{:.2}", ns as f64 / size as f64);
    format!("{} {unit}", number.trim_end_matches('0').trim_end_matches('.'))
}

fn unit_of(ns: u64) -> (u64, &'static str) {
    // Not before what would be rounded up to a thousand.
    let fits = |(size, _): &&(u64, &str)| *size == 1 || ns as f64 / *size as f64 >= 0.9995;
    UNITS.iter().rev().find(fits).copied().unwrap_or(UNITS[0])
}

/// The times of `1, 2, 5, 10, 20, ...` that is the least which is no less than `least`.
pub(super) fn round_above(least: u64) -> u64 {
    let mut power = 1_u64;
    loop {
        for times in [1, 2, 5] {
            match power.checked_mul(times) {
                Some(round) if round >= least => return round,
                Some(_) => {}
                None => return u64::MAX,
            }
        }
        let Some(next) = power.checked_mul(10) else { return u64::MAX };
        power = next;
    }
}

/// Lines of at most so many letters, broken at blanks where there are some.
pub(super) fn wrapped(text: &str, letters: usize) -> Vec<String> {
    let letters = letters.max(1);
    let mut lines = Vec::new();
    let mut rest: Vec<char> = text.trim_end().chars().collect();
    while rest.len() > letters {
        let blank = rest[..=letters].iter().rposition(|letter| *letter == ' ').filter(|at| *at > letters / 2);
        let at = blank.unwrap_or(letters);
        let after = rest.split_off(at);
        lines.push(rest.into_iter().collect::<String>());
        rest = after.into_iter().skip_while(|letter| *letter == ' ').collect();
    }
    lines.push(rest.into_iter().collect());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_figures_and_the_unit_that_fits() {
        let told =
            [0, 7, 999, 1_000, 12_345, 999_499, 999_999, 4_560_000, 61_200_000_000, 599_000_000_000].map(duration);
        let expected = [
            "0",
            "7 ns",
            "999 ns",
            "1.00 \u{b5}s",
            "12.3 \u{b5}s",
            "999 \u{b5}s",
            "1.00 ms",
            "4.56 ms",
            "61.2 s",
            "599 s",
        ];
        assert_eq!(told, expected);
        assert_eq!(duration(u64::MAX), "5124095.6 h");
        assert_eq!(moment(1_500_000_000, 30_000_000_000), "1.5 s");
        assert_eq!(moment(0, 30_000_000_000), "0 s");
        assert_eq!(moment(20, 500), "20 ns");
    }

    #[test]
    fn nothing_but_all_is_a_hundred_percent() {
        assert_eq!([share(0, 0), share(1, 3), share(9_999_999, 10_000_000)], ["-", "33.33 %", "99.99 %"]);
        assert_eq!(share(u64::MAX, u64::MAX), "100 %");
        assert_eq!([count(0), count(999), count(1_000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn round_numbers_are_no_less_than_asked_for() {
        let round = [0, 1, 3, 6, 11, 200, 201, u64::MAX - 1].map(round_above);
        assert_eq!(round, [1, 1, 5, 10, 20, 200, 500, u64::MAX]);
    }

    #[test]
    fn commands_to_a_terminal_are_spelled_out() {
        assert_eq!(tame("a\u{1b}[2J\u{202e}b\nc\td"), "a\\u{1b}[2J\\u{202e}b\\nc d");
        assert_eq!(tame("caf\u{e9} \u{4e2d}"), "caf\u{e9} \u{4e2d}");
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde\u{2026}");
    }

    #[test]
    fn lines_break_at_blanks_and_else_where_they_must() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrapped("", 4), [""]);
    }
}
