//! Ranges that are removed already, to everybody, but not yet from sled.
//!
//! sled knows no removal of a range but key by key; a region's worth of keys in one atomic batch would take memory for all of
//! them and keep everybody waiting. So a large removal is one record, a *clear*, that hides its range from all reads at once. The
//! keys go later, some at a time. A key that is put into the range afterwards is *exempt*: it is seen, and stays.
//!
//! ```text
//!   sled      a1  b2  c3  d4  e5         clear [b, e) hides b, c, d
//!   put c9    a1  b2  c9  d4  e5         c is exempt from it
//!   seen      a1      c9      e5
//! ```
//!
//! Invariant: a key of a clear's range that is not exempt from it was not put since the clear, so it is dead and may go at any
//! time. Clears may overlap: a key is seen if every clear over it exempts it.

use std::{collections::BTreeSet, ops::Bound};

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The clears of a store, oldest first.
#[derive(Debug)]
pub(super) struct Clears {
    list: Vec<Clear>,
    next_id: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clear {
    pub(super) id: u64,
    /// Moves up as keys go.
    pub(super) start: Bytes,
    /// The first key beyond; `None`: no bound.
    pub(super) end: Option<Bytes>,
    pub(super) exempt: BTreeSet<Bytes>,
}

impl Clears {
    /// What was found at the opening, in any order.
    pub(super) fn new(mut list: Vec<Clear>) -> Self {
        list.sort_by_key(|clear| clear.id);
        let next_id = list.last().map_or(1, |clear| clear.id + 1);
        Self { list, next_id }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn exempt_keys(&self) -> usize {
        self.list.iter().map(|clear| clear.exempt.len()).sum()
    }

    pub(super) fn oldest(&mut self) -> Option<&mut Clear> {
        self.list.first_mut()
    }

    pub(super) fn remove_oldest(&mut self) {
        self.list.remove(0);
    }

    /// Adds a range; answers the new clear.
    pub(super) fn add(&mut self, start: Bytes, end: Option<Bytes>) -> &Clear {
        let id = self.next_id;
        self.next_id += 1;
        self.list.push(Clear { id, start, end, exempt: BTreeSet::new() });
        self.list.last().expect("it was just added")
    }

    /// A key is put: answers the clears that it is exempt from, from now on.
    pub(super) fn exempt(&mut self, key: &Bytes) -> Vec<u64> {
        let over = self.list.iter_mut().filter(|clear| clear.contains(key));
        // A copy: the key may be a slice of a large frame.
        over.filter_map(|clear| clear.exempt.insert(Bytes::copy_from_slice(key)).then_some(clear.id)).collect()
    }

    pub(super) fn overlap(&self, start: &[u8], end: Option<&[u8]>) -> bool {
        self.list.iter().any(|clear| {
            end.is_none_or(|end| &clear.start[..] < end)
                && clear.end.as_ref().is_none_or(|clear_end| start < &clear_end[..])
        })
    }

    pub(super) fn hide(&self, key: &[u8]) -> bool {
        self.hiding(key).is_some()
    }

    /// The next key after a hidden one that may be seen; `None`: there is none.
    pub(super) fn after_hidden(&self, key: &[u8]) -> Option<Bytes> {
        let clear = self.hiding(key)?;
        let next = clear.exempt.range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded)).next();
        next.or(clear.end.as_ref()).cloned()
    }

    fn hiding(&self, key: &[u8]) -> Option<&Clear> {
        self.list.iter().find(|clear| clear.contains(key) && !clear.exempt.contains(key))
    }
}

impl Clear {
    fn contains(&self, key: &[u8]) -> bool {
        &self.start[..] <= key && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// The range, as the record holds it: `length of start: u32 be | start | 1 | end` or `... | start | 0`.
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u32(u32::try_from(self.start.len()).expect("keys are far below 4 GiB"));
        bytes.put_slice(&self.start);
        bytes.put_u8(u8::from(self.end.is_some()));
        bytes.put_slice(self.end.as_deref().unwrap_or_default());
        bytes.freeze()
    }

    pub(super) fn decode(id: u64, mut bytes: Bytes) -> Option<Self> {
        let len = bytes.try_get_u32().ok()? as usize;
        if bytes.len() <= len {
            return None;
        }
        let start = bytes.split_to(len);
        let end = match bytes.get_u8() {
            0 if bytes.is_empty() => None,
            1 => Some(bytes),
            _ => return None,
        };
        Some(Self { id, start, end, exempt: BTreeSet::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str) -> Bytes {
        Bytes::copy_from_slice(key.as_bytes())
    }

    #[test]
    fn a_record_comes_back_and_others_do_not_pass() {
        for (start, end) in [("", None), ("a", None), ("", Some("b")), ("abc", Some("b"))] {
            let clear = Clear { id: 7, start: key(start), end: end.map(key), exempt: BTreeSet::new() };
            assert_eq!(Clear::decode(7, clear.encode()), Some(clear));
        }
        for bytes in [
            &b""[..],
            b"\0\0\0",
            b"\0\0\0\0",
            b"\0\0\0\x05abc",
            b"\xff\xff\xff\xffabc",
            b"\0\0\0\x01a\x02",
            b"\0\0\0\x01a\0x",
        ] {
            assert_eq!(Clear::decode(7, Bytes::from_static(bytes)), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_key_is_seen_if_all_clears_over_it_exempt_it() {
        let mut clears = Clears::new(Vec::new());
        clears.add(key("b"), Some(key("e")));
        assert_eq!(clears.exempt(&key("c")), [1]);
        clears.add(key("c"), None);
        assert!(!clears.hide(b"a") && clears.hide(b"b") && clears.hide(b"c") && clears.hide(b"z"));
        assert_eq!(clears.exempt(&key("c")), [2]);
        assert_eq!(clears.exempt(&key("d")), [1, 2]);
        assert!(!clears.hide(b"c") && !clears.hide(b"d") && clears.hide(b"e"));
        assert_eq!(clears.after_hidden(b"b"), Some(key("c")));
        assert_eq!(clears.after_hidden(b"c1"), Some(key("d")));
        assert_eq!(clears.after_hidden(b"d1"), Some(key("e")));
        assert_eq!(clears.after_hidden(b"e"), None);
        assert!(clears.overlap(b"", Some(b"c")) && !clears.overlap(b"", Some(b"b")) && clears.overlap(b"x", None));
    }
}
