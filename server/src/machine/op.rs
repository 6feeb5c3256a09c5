//! What can be done to the pairs of one region, and how a batch of it looks as a proposed command.
//!
//! A batch is carried out in order, all of it inside one apply. It is also the form of a query, then with reads only.
//!
//! ```text
//! batch  = format u8 | count varint | count x op
//! op     = code u8 | fields by code
//! ```
//!
//! Format 1 is a batch that may stop early, see [`super::carry_out::REPLY_BUDGET_BYTES`]; format 2 one that is carried out
//! whole or not at all, see [`super::whole`].

use bytes::{BufMut, Bytes, BytesMut};

use super::wire::{Malformed, Reader, Writer};

const FORMAT: u8 = 1;
const FORMAT_WHOLE: u8 = 2;

const GET: u8 = 1;
const SET: u8 = 2;
const DELETE: u8 = 3;
const EXISTS: u8 = 4;
const ADD: u8 = 5;
const APPEND: u8 = 6;
const LENGTH: u8 = 7;
const GET_MANY: u8 = 8;
const SET_MANY: u8 = 9;
const SCAN: u8 = 10;
const COUNT: u8 = 12;

/// When a [`Op::Set`] is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// In any case.
    Always,
    /// If the key is absent.
    Absent,
    /// If the key is there.
    Present,
    /// If the key is there and holds this.
    Equals(Bytes),
}

/// One operation on one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// The value of a key.
    Get { key: Bytes },
    /// Sets a key, under a condition; with `previous` answers what was there before, else whether it was done.
    Set { key: Bytes, value: Bytes, condition: Condition, previous: bool },
    /// Removes keys, answers how many were there.
    Delete { keys: Vec<Bytes> },
    /// How many of the keys are there; one named twice counts twice.
    Exists { keys: Vec<Bytes> },
    /// Adds to a decimal number; an absent key is zero.
    Add { key: Bytes, delta: i64 },
    /// Appends to a value, answers its new length.
    Append { key: Bytes, suffix: Bytes },
    /// The length of a value; zero for an absent key.
    Length { key: Bytes },
    /// The values of keys.
    GetMany { keys: Vec<Bytes> },
    /// Sets pairs, the last of two for one key wins.
    SetMany { pairs: Vec<(Bytes, Bytes)> },
    /// At most `limit` keys from `start` on, within the region.
    Scan { start: Bytes, limit: u64 },
    /// How many keys there are from `start` on, within the region, below `end` (empty: to the end of the region).
    Count { start: Bytes, end: Bytes },
}

impl Op {
    /// Whether it can change anything.
    pub(crate) fn is_write(&self) -> bool {
        match self {
            Self::Set { .. } | Self::Delete { .. } | Self::Add { .. } | Self::Append { .. } | Self::SetMany { .. } => {
                true
            }
            Self::Get { .. }
            | Self::Exists { .. }
            | Self::Length { .. }
            | Self::GetMany { .. }
            | Self::Scan { .. }
            | Self::Count { .. } => false,
        }
    }

    /// The keys that it touches, which must all lie in one region.
    pub(crate) fn keys(&self) -> Vec<&Bytes> {
        match self {
            Self::Get { key }
            | Self::Set { key, .. }
            | Self::Add { key, .. }
            | Self::Append { key, .. }
            | Self::Length { key } => vec![key],
            Self::Delete { keys } | Self::Exists { keys } | Self::GetMany { keys } => keys.iter().collect(),
            Self::SetMany { pairs } => pairs.iter().map(|(key, _)| key).collect(),
            Self::Scan { start, .. } | Self::Count { start, .. } => vec![start],
        }
    }

    /// An upper bound of its encoded size, in bytes.
    pub(crate) fn encoded_len(&self) -> usize {
        /// The longest varint, a code and a condition.
        const FIELD: usize = 12;
        let sum = |bytes: &[Bytes]| bytes.iter().map(|item| item.len() + FIELD).sum::<usize>();
        FIELD
            + match self {
                Self::Get { key } | Self::Length { key } | Self::Add { key, .. } => key.len() + 2 * FIELD,
                Self::Set { key, value, condition, .. } => {
                    let compared = if let Condition::Equals(old) = condition { old.len() } else { 0 };
                    key.len() + value.len() + compared + 4 * FIELD
                }
                Self::Delete { keys } | Self::Exists { keys } | Self::GetMany { keys } => sum(keys),
                Self::Append { key, suffix } => key.len() + suffix.len() + 2 * FIELD,
                Self::SetMany { pairs } => pairs.iter().map(|(key, value)| key.len() + value.len() + 2 * FIELD).sum(),
                Self::Scan { start, .. } => start.len() + 2 * FIELD,
                Self::Count { start, end } => start.len() + end.len() + 2 * FIELD,
            }
    }

    /// Appends it to what a batch consists of.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Get { key } => put_key(out, GET, key),
            Self::Set { key, value, condition, previous } => {
                put_key(out, SET, key);
                out.bytes(value);
                out.put_u8(u8::from(*previous));
                match condition {
                    Condition::Always => out.put_u8(0),
                    Condition::Absent => out.put_u8(1),
                    Condition::Present => out.put_u8(2),
                    Condition::Equals(old) => put_key(out, 3, old),
                }
            }
            Self::Delete { keys } => put_keys(out, DELETE, keys),
            Self::Exists { keys } => put_keys(out, EXISTS, keys),
            Self::Add { key, delta } => {
                put_key(out, ADD, key);
                out.signed(*delta);
            }
            Self::Append { key, suffix } => {
                put_key(out, APPEND, key);
                out.bytes(suffix);
            }
            Self::Length { key } => put_key(out, LENGTH, key),
            Self::GetMany { keys } => put_keys(out, GET_MANY, keys),
            Self::SetMany { pairs } => {
                out.put_u8(SET_MANY);
                out.varint(pairs.len() as u64);
                for (key, value) in pairs {
                    out.bytes(key);
                    out.bytes(value);
                }
            }
            Self::Scan { start, limit } => {
                put_key(out, SCAN, start);
                out.varint(*limit);
            }
            Self::Count { start, end } => {
                put_key(out, COUNT, start);
                out.bytes(end);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match reader.u8()? {
            GET => Self::Get { key: reader.bytes()? },
            SET => {
                let (key, value) = (reader.bytes()?, reader.bytes()?);
                let previous = reader.u8()? != 0;
                let condition = match reader.u8()? {
                    0 => Condition::Always,
                    1 => Condition::Absent,
                    2 => Condition::Present,
                    3 => Condition::Equals(reader.bytes()?),
                    _ => return Err(reader.malformed()),
                };
                Self::Set { key, value, condition, previous }
            }
            DELETE => Self::Delete { keys: reader.list()? },
            EXISTS => Self::Exists { keys: reader.list()? },
            ADD => Self::Add { key: reader.bytes()?, delta: reader.signed()? },
            APPEND => Self::Append { key: reader.bytes()?, suffix: reader.bytes()? },
            LENGTH => Self::Length { key: reader.bytes()? },
            GET_MANY => Self::GetMany { keys: reader.list()? },
            SET_MANY => {
                let count = reader.count()?;
                let pairs = (0..count).map(|_| Ok((reader.bytes()?, reader.bytes()?))).collect::<Result<_, _>>()?;
                Self::SetMany { pairs }
            }
            SCAN => Self::Scan { start: reader.bytes()?, limit: reader.varint()? },
            COUNT => Self::Count { start: reader.bytes()?, end: reader.bytes()? },
            _ => return Err(reader.malformed()),
        })
    }
}

fn put_key(out: &mut BytesMut, code: u8, key: &[u8]) {
    out.put_u8(code);
    out.bytes(key);
}

fn put_keys(out: &mut BytesMut, code: u8, keys: &[Bytes]) {
    out.put_u8(code);
    out.list(keys);
}

/// A batch as it is proposed, or asked as a query.
pub(crate) fn encode_batch<'a>(ops: impl ExactSizeIterator<Item = &'a Op>) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(FORMAT);
    out.varint(ops.len() as u64);
    for op in ops {
        op.encode(&mut out);
    }
    out.freeze()
}

/// A batch that is carried out whole or not at all, of `count` operations that [`Op::encode`] has appended to `ops`.
pub(crate) fn encode_whole(count: usize, ops: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(ops.len() + 12);
    out.put_u8(FORMAT_WHOLE);
    out.varint(count as u64);
    out.put_slice(ops);
    out.freeze()
}

/// A batch as it was proposed or asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) ops: Vec<Op>,
    /// Whether all of it is carried out, or nothing.
    pub(crate) is_whole: bool,
}

impl Batch {
    /// What [`encode_batch`] or [`encode_whole`] wrote.
    pub(crate) fn decode(input: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(input);
        let is_whole = match reader.u8()? {
            FORMAT => false,
            FORMAT_WHOLE => true,
            _ => return Err(reader.malformed()),
        };
        let count = reader.count()?;
        let ops = (0..count).map(|_| Op::decode(&mut reader)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { ops, is_whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn one_of_each() -> Vec<Op> {
        let keys = vec![key("a"), key(""), key("c")];
        let set = |condition, previous| Op::Set { key: key("k"), value: key("v"), condition, previous };
        vec![
            Op::Get { key: key("k") },
            set(Condition::Always, false),
            set(Condition::Absent, true),
            set(Condition::Present, false),
            set(Condition::Equals(key("old")), true),
            Op::Delete { keys: keys.clone() },
            Op::Exists { keys: keys.clone() },
            Op::Add { key: key("n"), delta: i64::MIN },
            Op::Append { key: key("k"), suffix: key("more") },
            Op::Length { key: key("k") },
            Op::GetMany { keys },
            Op::SetMany { pairs: vec![(key("a"), key("1")), (key("b"), key(""))] },
            Op::Scan { start: key("s"), limit: 300 },
            Op::Count { start: key("a"), end: key("") },
        ]
    }

    #[test]
    fn every_operation_comes_back() {
        let ops = one_of_each();
        let encoded = encode_batch(ops.iter());
        assert_eq!(Batch::decode(&encoded), Ok(Batch { ops: ops.clone(), is_whole: false }));
        let mut body = BytesMut::new();
        ops.iter().for_each(|op| op.encode(&mut body));
        let whole = encode_whole(ops.len(), &body);
        assert_eq!(Batch::decode(&whole), Ok(Batch { ops: ops.clone(), is_whole: true }));
        assert!(encoded.len() <= 12 + ops.iter().map(Op::encoded_len).sum::<usize>());
    }

    #[test]
    fn cut_or_altered_batches_are_malformed_or_differ_and_never_panic() {
        let encoded = encode_batch(one_of_each().iter());
        for cut in 0..encoded.len() {
            assert!(Batch::decode(&encoded[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..encoded.len() {
            for bit in 0..8 {
                let mut altered = encoded.to_vec();
                altered[at] ^= 1 << bit;
                let _ = Batch::decode(&altered);
            }
        }
    }
}
