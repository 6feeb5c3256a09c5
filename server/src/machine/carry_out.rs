//! What each operation does to pairs, whatever holds them: pure functions, the same on every replica.
//!
//! Keeps the rule that an operation which is refused, or whose condition does not hold, changes nothing.

use bytes::{Bytes, BytesMut};

use super::answer::{Answer, Refusal};
use super::op::{Condition, Op};

/// The longest value, in bytes. Appending beyond it is refused, since no command could write such a value at once.
/// Part of what every replica must agree on, therefore not a setting.
pub(crate) const MAX_VALUE_BYTES: usize = 8 << 20;

/// A batch is carried out as long as its answers stay below this many bytes (the first operation always is), so that no
/// batch of reads of large values makes an answer beyond what a frame may carry. Part of what every replica must agree on.
pub(crate) const REPLY_BUDGET_BYTES: usize = 4 << 20;

/// How many pairs are looked at in one step of counting.
const COUNT_PAGE: usize = 1024;

/// The pairs of one region at one instant.
pub(crate) trait Pairs {
    type Error;

    fn owns(&self, key: &[u8]) -> bool;
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Self::Error>;
    /// At most `limit` pairs of the region from `start` on.
    fn scan(&self, start: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Self::Error>;
}

/// The pairs of one region while a command is carried out.
pub(crate) trait PairsMut: Pairs {
    fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), Refusal>;
    fn delete(&mut self, key: &[u8]) -> Result<(), Refusal>;
}

/// Carries a batch out in order; may stop early, see [`REPLY_BUDGET_BYTES`].
pub(crate) fn write_batch<P: PairsMut>(pairs: &mut P, ops: &[Op]) -> Result<Vec<Answer>, P::Error> {
    within_budget(ops, |op| write_one(pairs, op))
}

/// Answers a batch of reads in order; may stop early, see [`REPLY_BUDGET_BYTES`].
pub(crate) fn read_batch<P: Pairs>(pairs: &P, ops: &[Op]) -> Result<Vec<Answer>, P::Error> {
    within_budget(ops, |op| read_one(pairs, op))
}

fn within_budget<E>(ops: &[Op], mut carry_out: impl FnMut(&Op) -> Result<Answer, E>) -> Result<Vec<Answer>, E> {
    let mut answers = Vec::with_capacity(ops.len());
    let mut spent = 0;
    for op in ops {
        if spent >= REPLY_BUDGET_BYTES {
            break;
        }
        let answer = carry_out(op)?;
        spent += answer.encoded_len();
        answers.push(answer);
    }
    Ok(answers)
}

pub(super) fn write_one<P: PairsMut>(pairs: &mut P, op: &Op) -> Result<Answer, P::Error> {
    if op.keys().into_iter().any(|key| !pairs.owns(key)) {
        return Ok(Answer::Refused(Refusal::WrongRegion));
    }
    match op {
        Op::Set { key, value, condition, previous } => set(pairs, key, value, condition, *previous),
        Op::Delete { keys } => delete(pairs, keys),
        Op::Add { key, delta } => add(pairs, key, *delta),
        Op::Append { key, suffix } => append(pairs, key, suffix),
        Op::SetMany { pairs: wanted } => Ok(wanted
            .iter()
            .try_for_each(|(key, value)| pairs.put(key, value.clone()))
            .map_or_else(Answer::Refused, |()| Answer::Done)),
        Op::Get { .. }
        | Op::Exists { .. }
        | Op::Length { .. }
        | Op::GetMany { .. }
        | Op::Scan { .. }
        | Op::Count { .. } => read_one(pairs, op),
    }
}

pub(super) fn read_one<P: Pairs>(pairs: &P, op: &Op) -> Result<Answer, P::Error> {
    if op.keys().into_iter().any(|key| !pairs.owns(key)) {
        return Ok(Answer::Refused(Refusal::WrongRegion));
    }
    Ok(match op {
        Op::Get { key } => Answer::Value(pairs.get(key)?),
        Op::Exists { keys } => {
            let mut found = 0;
            for key in keys {
                found += i64::from(pairs.get(key)?.is_some());
            }
            Answer::Number(found)
        }
        Op::Length { key } => Answer::Number(pairs.get(key)?.map_or(0, |value| as_number(value.len()))),
        Op::GetMany { keys } => get_many(pairs, keys)?,
        Op::Scan { start, limit } => {
            let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
            Answer::Values(pairs.scan(start, limit)?.into_iter().map(|(key, _)| Some(key)).collect())
        }
        Op::Count { start, end } => Answer::Number(count(pairs, start, end)?),
        // Never sent as a query: what writes goes through the log.
        Op::Set { .. } | Op::Delete { .. } | Op::Add { .. } | Op::Append { .. } | Op::SetMany { .. } => {
            Answer::Refused(Refusal::Malformed)
        }
    })
}

/// Values of keys, refused when together they are longer than one value may be.
fn get_many<P: Pairs>(pairs: &P, keys: &[Bytes]) -> Result<Answer, P::Error> {
    let mut values = Vec::with_capacity(keys.len());
    let mut length = 0;
    for key in keys {
        let value = pairs.get(key)?;
        length += value.as_ref().map_or(0, Bytes::len);
        if length > MAX_VALUE_BYTES {
            return Ok(Answer::Refused(Refusal::TooLong));
        }
        values.push(value);
    }
    Ok(Answer::Values(values))
}

fn count<P: Pairs>(pairs: &P, start: &Bytes, end: &Bytes) -> Result<i64, P::Error> {
    let mut found = 0;
    let mut start = start.clone();
    loop {
        let page = pairs.scan(&start, COUNT_PAGE)?;
        let below = page.iter().take_while(|(key, _)| end.is_empty() || key < end).count();
        found += as_number(below);
        match page.last() {
            Some((last, _)) if below == COUNT_PAGE => start = successor(last),
            _ => return Ok(found),
        }
    }
}

fn set<P: PairsMut>(
    pairs: &mut P,
    key: &[u8],
    value: &Bytes,
    condition: &Condition,
    previous: bool,
) -> Result<Answer, P::Error> {
    // An unconditional set asks the state nothing.
    let old = if previous || *condition != Condition::Always { pairs.get(key)? } else { None };
    let holds = match condition {
        Condition::Always => true,
        Condition::Absent => old.is_none(),
        Condition::Present => old.is_some(),
        Condition::Equals(wanted) => old.as_ref() == Some(wanted),
    };
    if holds && let Err(refusal) = pairs.put(key, value.clone()) {
        return Ok(Answer::Refused(refusal));
    }
    Ok(match (previous, holds) {
        (true, _) => Answer::Value(old),
        (false, true) => Answer::Done,
        (false, false) => Answer::NotDone,
    })
}

fn delete<P: PairsMut>(pairs: &mut P, keys: &[Bytes]) -> Result<Answer, P::Error> {
    let mut removed = 0;
    for key in keys {
        if pairs.get(key)?.is_some() {
            if let Err(refusal) = pairs.delete(key) {
                return Ok(Answer::Refused(refusal));
            }
            removed += 1;
        }
    }
    Ok(Answer::Number(removed))
}

fn add<P: PairsMut>(pairs: &mut P, key: &[u8], delta: i64) -> Result<Answer, P::Error> {
    let old = match pairs.get(key)? {
        None => 0,
        Some(value) => match decimal(&value) {
            Some(number) => number,
            None => return Ok(Answer::Refused(Refusal::NotANumber)),
        },
    };
    let Some(sum) = old.checked_add(delta) else { return Ok(Answer::Refused(Refusal::Overflow)) };
    Ok(pairs.put(key, Bytes::from(sum.to_string())).map_or_else(Answer::Refused, |()| Answer::Number(sum)))
}

fn append<P: PairsMut>(pairs: &mut P, key: &[u8], suffix: &[u8]) -> Result<Answer, P::Error> {
    let old = pairs.get(key)?.unwrap_or_default();
    let length = old.len() + suffix.len();
    if length > MAX_VALUE_BYTES {
        return Ok(Answer::Refused(Refusal::TooLong));
    }
    let mut value = BytesMut::with_capacity(length);
    value.extend_from_slice(&old);
    value.extend_from_slice(suffix);
    Ok(pairs.put(key, value.freeze()).map_or_else(Answer::Refused, |()| Answer::Number(as_number(length))))
}

/// A decimal number as Redis reads one: no sign but a minus, no leading zero, no blank.
pub(crate) fn decimal(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

/// The smallest key greater than `key`.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.extend_from_slice(&[0]);
    next.freeze()
}

fn as_number(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;

    /// The pairs from "a" to "z" in a map: what a region is, without a store below it.
    #[derive(Default)]
    struct Map(BTreeMap<Bytes, Bytes>);

    impl Pairs for Map {
        type Error = Infallible;

        fn owns(&self, key: &[u8]) -> bool {
            key >= b"a".as_slice() && key < b"z".as_slice()
        }

        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
            Ok(self.0.get(key).cloned())
        }

        fn scan(&self, start: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Infallible> {
            let start = Bytes::copy_from_slice(start);
            Ok(self.0.range(start..).take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
        }
    }

    impl PairsMut for Map {
        fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), Refusal> {
            self.0.insert(Bytes::copy_from_slice(key), value);
            Ok(())
        }

        fn delete(&mut self, key: &[u8]) -> Result<(), Refusal> {
            self.0.remove(key);
            Ok(())
        }
    }

    fn b(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn one(map: &mut Map, op: Op) -> Answer {
        let answers = match write_batch(map, &[op]) {
            Ok(answers) => answers,
            Err(never) => match never {},
        };
        assert_eq!(answers.len(), 1);
        answers.into_iter().next().unwrap()
    }

    fn set_op(key: &str, value: &str, condition: Condition, previous: bool) -> Op {
        Op::Set { key: b(key), value: b(value), condition, previous }
    }

    #[test]
    fn conditions_decide_whether_a_set_is_done() {
        let map = &mut Map::default();
        let equals = |old: &str| Condition::Equals(b(old));
        let steps = [
            (set_op("k", "1", Condition::Present, false), Answer::NotDone),
            (set_op("k", "1", equals(""), false), Answer::NotDone),
            (set_op("k", "1", Condition::Absent, false), Answer::Done),
            (set_op("k", "2", Condition::Absent, false), Answer::NotDone),
            (set_op("k", "2", Condition::Absent, true), Answer::Value(Some(b("1")))),
            (set_op("k", "3", equals("2"), false), Answer::NotDone),
            (set_op("k", "3", equals("1"), false), Answer::Done),
            (set_op("k", "4", Condition::Present, true), Answer::Value(Some(b("3")))),
            (set_op("k", "5", equals("0"), true), Answer::Value(Some(b("4")))),
            (Op::Get { key: b("k") }, Answer::Value(Some(b("4")))),
        ];
        for (op, expected) in steps {
            assert_eq!(one(map, op.clone()), expected, "{op:?}");
        }
    }

    #[test]
    fn adding_refuses_what_is_no_number_and_what_overflows_and_changes_nothing() {
        let map = &mut Map::default();
        let add = |delta| Op::Add { key: b("n"), delta };
        assert_eq!(one(map, add(5)), Answer::Number(5));
        assert_eq!(one(map, add(-7)), Answer::Number(-2));
        assert_eq!(one(map, add(i64::MIN)), Answer::Refused(Refusal::Overflow));
        assert_eq!(one(map, Op::Get { key: b("n") }), Answer::Value(Some(b("-2"))));
        for text in ["x", "", " 1", "1 ", "+1", "01", "-0", "9223372036854775808", "1.0"] {
            one(map, set_op("n", text, Condition::Always, false));
            assert_eq!(one(map, add(1)), Answer::Refused(Refusal::NotANumber), "{text:?}");
        }
    }

    #[test]
    fn appending_counting_scanning_and_deleting() {
        let map = &mut Map::default();
        assert_eq!(one(map, Op::Append { key: b("k"), suffix: b("ab") }), Answer::Number(2));
        assert_eq!(one(map, Op::Append { key: b("k"), suffix: b("c") }), Answer::Number(3));
        assert_eq!(one(map, Op::Length { key: b("k") }), Answer::Number(3));
        let pairs = (0..2500).map(|i| (b(&format!("m{i:04}")), b("v"))).collect();
        assert_eq!(one(map, Op::SetMany { pairs }), Answer::Done);
        let count = |start: &str, end: &str| Op::Count { start: b(start), end: b(end) };
        assert_eq!(one(map, count("a", "")), Answer::Number(2501));
        assert_eq!(one(map, count("m0001", "m1500")), Answer::Number(1499));
        assert_eq!(one(map, count("b", "k")), Answer::Number(0));
        let found = one(map, Op::Scan { start: b("m0007"), limit: 2 });
        assert_eq!(found, Answer::Values(vec![Some(b("m0007")), Some(b("m0008"))]));
        assert_eq!(one(map, Op::Exists { keys: vec![b("k"), b("k"), b("x")] }), Answer::Number(2));
        assert_eq!(one(map, Op::Delete { keys: vec![b("k"), b("k"), b("x")] }), Answer::Number(1));
        assert_eq!(one(map, Op::GetMany { keys: vec![b("k"), b("m0000")] }), Answer::Values(vec![None, Some(b("v"))]));
    }

    #[test]
    fn what_the_region_does_not_own_is_refused_whole() {
        let map = &mut Map::default();
        let pairs = vec![(b("k"), b("v")), (b("zz"), b("v"))];
        assert_eq!(one(map, Op::SetMany { pairs }), Answer::Refused(Refusal::WrongRegion));
        assert_eq!(one(map, Op::Get { key: b("k") }), Answer::Value(None));
        let too_long = Op::Append { key: b("k"), suffix: Bytes::from(vec![0; MAX_VALUE_BYTES + 1]) };
        assert_eq!(one(map, too_long), Answer::Refused(Refusal::TooLong));
    }

    #[test]
    fn a_batch_stops_where_its_answers_grow_too_long() {
        let map = &mut Map::default();
        map.0.insert(b("k"), Bytes::from(vec![b'x'; REPLY_BUDGET_BYTES / 2]));
        let gets = vec![Op::Get { key: b("k") }; 5];
        let Ok(answers) = read_batch(map, &gets);
        assert_eq!(answers.len(), 2);
        let rest = [gets[0].clone(), set_op("k", "small", Condition::Always, true), gets[1].clone(), gets[2].clone()];
        let Ok(answers) = write_batch(map, &rest);
        assert_eq!(answers.len(), 2);
        assert_eq!(map.0[&b("k")], b("small"), "what was answered was carried out");
    }
}
