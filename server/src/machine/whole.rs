//! A batch that is carried out whole or not at all: what a transaction is to one region.
//!
//! Its operations work on a draft over the pairs, in order, each seeing what those before it wrote. The draft becomes the
//! pairs' only when all answers are there and fit. An operation that is refused by what it finds (a number that is none)
//! leaves the others as they are; what refuses the batch is a key that the region does not own, or answers that together are
//! too long to be sent.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::answer::{Answer, Refusal};
use super::carry_out::{MAX_VALUE_BYTES, Pairs, PairsMut, read_one, write_one};
use super::op::Op;

/// The most bytes of answers of more than one operation. Part of what every replica must agree on.
const REPLY_BYTES: usize = MAX_VALUE_BYTES;

/// Carries a batch out: an answer for each operation; or one refusal, and nothing was changed.
pub(crate) fn write_whole<P: PairsMut>(pairs: &mut P, ops: &[Op]) -> Result<Vec<Answer>, P::Error> {
    let mut draft = Draft { below: pairs, written: BTreeMap::new() };
    let answers = match all(ops, |op| write_one(&mut draft, op))? {
        Ok(answers) => answers,
        Err(refusal) => return Ok(vec![Answer::Refused(refusal)]),
    };
    for (key, value) in draft.written {
        let written = match value {
            Some(value) => pairs.put(&key, value),
            None => pairs.delete(&key),
        };
        assert!(written.is_ok(), "a draft takes no key that the region does not own");
    }
    Ok(answers)
}

/// Answers a batch of reads: an answer for each; or one refusal.
pub(crate) fn read_whole<P: Pairs>(pairs: &P, ops: &[Op]) -> Result<Vec<Answer>, P::Error> {
    let answers = all(ops, |op| read_one(pairs, op))?;
    Ok(answers.unwrap_or_else(|refusal| vec![Answer::Refused(refusal)]))
}

fn all<E>(ops: &[Op], mut carry_out: impl FnMut(&Op) -> Result<Answer, E>) -> Result<Result<Vec<Answer>, Refusal>, E> {
    let mut answers = Vec::with_capacity(ops.len());
    let mut length = 0;
    for op in ops {
        let answer = carry_out(op)?;
        if answer == Answer::Refused(Refusal::WrongRegion) {
            return Ok(Err(Refusal::WrongRegion));
        }
        length += answer.encoded_len();
        answers.push(answer);
        if length > REPLY_BYTES && answers.len() > 1 {
            return Ok(Err(Refusal::AnswersTooLong));
        }
    }
    Ok(Ok(answers))
}

/// Pairs, and what was written to them that they do not know of yet; `None` is a deletion.
struct Draft<'a, P> {
    below: &'a P,
    written: BTreeMap<Bytes, Option<Bytes>>,
}

impl<P: Pairs> Pairs for Draft<'_, P> {
    type Error = P::Error;

    fn owns(&self, key: &[u8]) -> bool {
        self.below.owns(key)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, P::Error> {
        match self.written.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.below.get(key),
        }
    }

    fn scan(&self, start: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, P::Error> {
        // Each write may take one of those away that lie below.
        let below = self.below.scan(start, limit.saturating_add(self.written.len()))?;
        let mut pairs: BTreeMap<Bytes, Bytes> = below.into_iter().collect();
        for (key, value) in self.written.range(Bytes::copy_from_slice(start)..) {
            match value {
                Some(value) => pairs.insert(key.clone(), value.clone()),
                None => pairs.remove(key),
            };
        }
        Ok(pairs.into_iter().take(limit).collect())
    }
}

impl<P: Pairs> PairsMut for Draft<'_, P> {
    fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), Refusal> {
        self.write(key, Some(value))
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), Refusal> {
        self.write(key, None)
    }
}

impl<P: Pairs> Draft<'_, P> {
    fn write(&mut self, key: &[u8], value: Option<Bytes>) -> Result<(), Refusal> {
        if !self.owns(key) {
            return Err(Refusal::WrongRegion);
        }
        self.written.insert(Bytes::copy_from_slice(key), value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::machine::Condition;

    /// The pairs below "z", in a map.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Map(BTreeMap<Bytes, Bytes>);

    impl Pairs for Map {
        type Error = Infallible;

        fn owns(&self, key: &[u8]) -> bool {
            key < b"z".as_slice()
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

    fn set(key: &str, value: &str) -> Op {
        Op::Set { key: b(key), value: b(value), condition: Condition::Always, previous: false }
    }

    fn write(map: &mut Map, ops: &[Op]) -> Vec<Answer> {
        let Ok(answers) = write_whole(map, ops);
        answers
    }

    #[test]
    fn each_operation_sees_what_those_before_it_did_and_a_refused_one_leaves_the_others() {
        let mut map = Map::default();
        let ops = [
            set("a", "1"),
            Op::Add { key: b("a"), delta: 4 },
            set("t", "text"),
            Op::Add { key: b("t"), delta: 1 },
            Op::Append { key: b("t"), suffix: b("s") },
            Op::Delete { keys: vec![b("a")] },
            Op::Exists { keys: vec![b("a"), b("t")] },
        ];
        let expected = [
            Answer::Done,
            Answer::Number(5),
            Answer::Done,
            Answer::Refused(Refusal::NotANumber),
            Answer::Number(5),
            Answer::Number(1),
            Answer::Number(1),
        ];
        assert_eq!(write(&mut map, &ops), expected);
        assert_eq!(map.0, BTreeMap::from([(b("t"), b("texts"))]));
    }

    #[test]
    fn a_key_of_another_region_or_too_long_answers_leave_nothing_behind() {
        let mut map = Map::default();
        write(&mut map, &[set("k", "old")]);
        let before = map.clone();
        let wrong = write(&mut map, &[set("k", "new"), set("zz", "new")]);
        assert_eq!((wrong, &map), (vec![Answer::Refused(Refusal::WrongRegion)], &before));
        map.0.insert(b("l"), Bytes::from(vec![b'x'; REPLY_BYTES / 2]));
        let before = map.clone();
        let get = || Op::Get { key: b("l") };
        let long = write(&mut map, &[set("k", "new"), get(), get()]);
        assert_eq!((long, &map), (vec![Answer::Refused(Refusal::AnswersTooLong)], &before));
        let Ok(read) = read_whole(&map, &[get(), get()]);
        assert_eq!(read, [Answer::Refused(Refusal::AnswersTooLong)]);
        map.0.insert(b("l"), Bytes::from(vec![b'x'; REPLY_BYTES]));
        assert_eq!(write(&mut map, &[get()]).len(), 1, "the answer of one operation goes out as it would alone");
    }

    #[test]
    fn a_scan_sees_the_draft() {
        let map = Map(["a", "b", "c", "d"].map(|key| (b(key), b("old"))).into());
        let written = BTreeMap::from([(b("a"), None), (b("c"), None), (b("bb"), Some(b("new")))]);
        let draft = Draft { below: &map, written };
        let keys = |start: &str, limit| {
            let Ok(pairs) = draft.scan(start.as_bytes(), limit);
            pairs.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(keys("", 9), ["b", "bb", "d"]);
        assert_eq!(keys("", 2), ["b", "bb"]);
        assert_eq!(keys("bb", 1), ["bb"]);
    }
}
