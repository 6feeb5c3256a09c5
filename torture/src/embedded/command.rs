//! What clients are told to ask, in the words of Redis clients; no more of them than runs use.

use bytes::Bytes;
use multiraft::SessionToken;

use super::hex::unhex;
use super::machine::{Condition, Op};

/// The most keys of one step of a walk.
const KEYS_MAX: usize = 1_000;

/// What a client is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// To queue what follows.
    Multi,
    /// To have carried out together what was queued.
    Exec,
    Data(Op),
    /// A step of a walk over all keys, from this one on.
    Scan {
        from: Bytes,
        count: usize,
    },
    /// To open a session where this key is.
    Open {
        key: String,
    },
    /// A write in a session, which counts once however often it comes.
    Once {
        token: SessionToken,
        sequence: u64,
        acknowledged: u64,
        op: Op,
    },
}

/// What these words mean, if anything.
pub(super) fn parse(words: &[&str]) -> Option<Command> {
    Some(match *words {
        ["MULTI"] => Command::Multi,
        ["EXEC"] => Command::Exec,
        ["SCAN", cursor, "COUNT", count] => {
            let from = if cursor == "0" { Bytes::new() } else { unhex(cursor)? };
            Command::Scan { from, count: count.parse::<usize>().ok()?.clamp(1, KEYS_MAX) }
        }
        ["SESSION", "OPEN", key] => Command::Open { key: key.to_owned() },
        ["SESSION", "DO", token, sequence, acknowledged, ref words @ ..] => Command::Once {
            token: token.parse().ok()?,
            sequence: sequence.parse().ok()?,
            acknowledged: acknowledged.parse().ok()?,
            op: data(words).filter(|op| !op.is_read())?,
        },
        _ => Command::Data(data(words)?),
    })
}

fn data(words: &[&str]) -> Option<Op> {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let set = |key: &str, value: &str, condition| Op::Set { key: key.to_owned(), value: value.to_owned(), condition };
    let add = |key: &str, more| Op::Add(key.to_owned(), more);
    Some(match *words {
        ["GET", key] => Op::Get(key.to_owned()),
        ["MGET", _, ..] => Op::GetMany(owned(&words[1..])),
        ["SET", key, value] => set(key, value, Condition::Always),
        ["SET", key, value, "NX"] => set(key, value, Condition::Absent),
        ["SET", key, value, "IFEQ", wanted] => set(key, value, Condition::Equals(wanted.to_owned())),
        ["MSET", _, _, ..] if words.len() % 2 == 1 => {
            let pair = |pair: &[&str]| (pair[0].to_owned(), pair[1].to_owned());
            Op::SetMany(words[1..].chunks_exact(2).map(pair).collect())
        }
        ["APPEND", key, more] => Op::Append(key.to_owned(), more.to_owned()),
        ["INCR", key] => add(key, 1),
        ["INCRBY", key, more] => add(key, more.parse().ok()?),
        ["DECRBY", key, less] => add(key, less.parse::<i64>().ok()?.checked_neg()?),
        ["DEL", _, ..] => Op::Delete(owned(&words[1..])),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "00000000000000010000000000000002-9";

    fn of(line: &str) -> Option<Command> {
        parse(&line.split(' ').collect::<Vec<_>>())
    }

    #[test]
    fn commands_are_understood() {
        let a = || "a".to_owned();
        let set = |condition| Command::Data(Op::Set { key: a(), value: "1".to_owned(), condition });
        let append = Op::Append(a(), "x".to_owned());
        let pairs = vec![(a(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
        let cases = [
            ("MGET a a", Command::Data(Op::GetMany(vec![a(), a()]))),
            ("SET a 1", set(Condition::Always)),
            ("SET a 1 NX", set(Condition::Absent)),
            ("SET a 1 IFEQ NX", set(Condition::Equals("NX".to_owned()))),
            ("MSET a 1 b 2", Command::Data(Op::SetMany(pairs))),
            ("INCR a", Command::Data(Op::Add(a(), 1))),
            ("DECRBY a 5", Command::Data(Op::Add(a(), -5))),
            ("DEL a", Command::Data(Op::Delete(vec![a()]))),
            ("SCAN 0 COUNT 7", Command::Scan { from: Bytes::new(), count: 7 }),
            ("SCAN 6100 COUNT 0", Command::Scan { from: Bytes::from_static(b"a\0"), count: 1 }),
            ("SESSION OPEN a", Command::Open { key: a() }),
            (
                &format!("SESSION DO {TOKEN} 7 3 APPEND a x"),
                Command::Once { token: TOKEN.parse().unwrap(), sequence: 7, acknowledged: 3, op: append },
            ),
        ];
        for (line, wanted) in cases {
            assert_eq!(of(line), Some(wanted), "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_none() {
        let get = format!("SESSION DO {TOKEN} 1 0 GET a");
        for line in ["GET", "MGET", "MSET a", "MSET a 1 b", "SET a 1 XX", "INCRBY a x", "DEL", "SCAN 6 COUNT 1", &get] {
            assert_eq!(of(line), None, "{line}");
        }
        let least = i64::MIN;
        assert_eq!(of(&format!("DECRBY a {least}")), None);
    }
}
