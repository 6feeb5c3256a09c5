//! Lists as the values of keys: elements of one length, so that what was appended can be told apart from a torn part of it.
//!
//! ```text
//! 000000000042,000000000043,      elements 42 and 43
//! 000017.000003,                  the third command of session 17
//! ```

use crate::trouble::{Outcome, Trouble};

/// The element of a number, as it is appended.
pub(super) fn element(number: i64) -> String {
    format!("{number:012},")
}

/// The numbers of a list.
pub(super) fn numbers(list: Option<&str>) -> Outcome<Vec<i64>> {
    parts(list, 12)?.map(|part| part.parse().map_err(|_| torn(part))).collect()
}

/// How long a command is in a log.
pub(super) const COMMAND_BYTES: i64 = 15;

/// A command of a session, as it is appended.
pub(super) fn command(session: i64, sequence: i64) -> String {
    format!("{session:07}.{sequence:06},")
}

/// The commands in a log: session and sequence.
pub(super) fn commands(log: Option<&str>) -> Outcome<Vec<(i64, i64)>> {
    let pair = |part: &str| {
        let (session, sequence) = part.split_once('.')?;
        Some((session.parse().ok()?, sequence.parse().ok()?))
    };
    parts(log, 14)?.map(|part| pair(part).ok_or_else(|| torn(part))).collect()
}

fn parts(list: Option<&str>, bytes: usize) -> Outcome<impl Iterator<Item = &str>> {
    let list = list.unwrap_or_default();
    match list.split_terminator(',').find(|part| part.len() != bytes) {
        Some(part) => Err(torn(part)),
        None if !list.is_empty() && !list.ends_with(',') => Err(torn(list)),
        None => Ok(list.split_terminator(',')),
    }
}

fn torn(part: &str) -> Trouble {
    let shown: String = part.chars().take(100).collect();
    Trouble::new(format!("a list holds `{shown}`, which nobody appends"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_back_and_torn_ones_are_refused() {
        assert_eq!(numbers(None), Ok(Vec::new()));
        assert_eq!(numbers(Some(&(element(1) + &element(999_999)))), Ok(vec![1, 999_999]));
        let log = command(17, 3) + &command(9_999_999, 999_999);
        assert_eq!(i64::try_from(log.len()), Ok(2 * COMMAND_BYTES));
        assert_eq!(commands(Some(&log)), Ok(vec![(17, 3), (9_999_999, 999_999)]));
        for torn in ["1,", "000000000001", "000000000001,0000,", "00000000000x,", ",", "000000000001,,"] {
            assert!(numbers(Some(torn)).is_err(), "{torn}");
        }
        assert!(commands(Some("00000170000003,")).is_err());
    }
}
