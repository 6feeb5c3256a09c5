//! Bytes that are kept in place while they are short.
//!
//! An entry is copied several times on its way: into the log's cache, into a message for each follower, to the log writer, to who
//! applies it. A buffer with a count of its holders makes each copy two changes of a counter that other processors hold just then, and
//! its first reader waits for memory that was written elsewhere. Up to [`SHORT_MAX`] bytes a copy is cheaper than that.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    ops::{Deref, Range},
};

use bytes::{Bytes, BytesMut};

/// The longest contents that are kept in place. Chosen so that the type is 40 bytes, and an [`Entry`](crate::Entry) a cache line.
const SHORT_MAX: usize = 38;

/// The data of an entry or a proposal: bytes that do not change, short ones in place, others in a shared buffer.
#[derive(Clone)]
pub struct Payload(Repr);

#[derive(Clone)]
enum Repr {
    /// Invariant: `len <= SHORT_MAX`.
    Short { len: u8, data: [u8; SHORT_MAX] },
    /// Invariant: longer than `SHORT_MAX`.
    Shared(Bytes),
}

impl Payload {
    /// No bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self(Repr::Short { len: 0, data: [0; SHORT_MAX] })
    }

    /// Both, one behind the other.
    #[must_use]
    #[inline]
    pub fn concat(head: &[u8], rest: &[u8]) -> Self {
        let total = head.len() + rest.len();
        let mut data = [0; SHORT_MAX];
        if let Some(place) = data.get_mut(..total) {
            let (first, second) = place.split_at_mut(head.len());
            first.copy_from_slice(head);
            second.copy_from_slice(rest);
            return Self(Repr::Short { len: total as u8, data });
        }
        let mut long = BytesMut::with_capacity(total);
        long.extend_from_slice(head);
        long.extend_from_slice(rest);
        Self(Repr::Shared(long.freeze()))
    }

    /// A copy.
    #[must_use]
    #[inline]
    pub fn copy_from_slice(bytes: &[u8]) -> Self {
        Self::concat(bytes, &[])
    }

    /// Part of a buffer: a copy if it is short, which then does not keep the buffer in memory.
    ///
    /// # Panics
    /// If the range does not lie within the buffer.
    #[must_use]
    pub fn part_of(buffer: &Bytes, range: Range<usize>) -> Self {
        if range.len() <= SHORT_MAX {
            Self::copy_from_slice(&buffer[range])
        } else {
            Self(Repr::Shared(buffer.slice(range)))
        }
    }

    /// The contents.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Short { len, data } => &data[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }

    /// Whether the contents are, perhaps, part of a larger buffer, which they keep in memory.
    #[must_use]
    #[inline]
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Repr::Shared(_))
    }

    /// The contents as a shared buffer: a copy if they are kept in place.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Repr::Short { len, data } => Bytes::copy_from_slice(&data[..usize::from(*len)]),
            Repr::Shared(bytes) => bytes.clone(),
        }
    }

    /// The first `len` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn start(&self, len: usize) -> Self {
        match &self.0 {
            Repr::Short { .. } => Self::copy_from_slice(&self.as_slice()[..len]),
            Repr::Shared(bytes) => Self::part_of(bytes, 0..len),
        }
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Payload {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        if bytes.len() <= SHORT_MAX { Self::copy_from_slice(&bytes) } else { Self(Repr::Shared(bytes)) }
    }
}

impl From<&Bytes> for Payload {
    fn from(bytes: &Bytes) -> Self {
        Self::part_of(bytes, 0..bytes.len())
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.len() <= SHORT_MAX { Self::copy_from_slice(&bytes) } else { Self(Repr::Shared(bytes.into())) }
    }
}

impl From<BytesMut> for Payload {
    fn from(bytes: BytesMut) -> Self {
        bytes.freeze().into()
    }
}

impl From<Box<[u8]>> for Payload {
    fn from(bytes: Box<[u8]>) -> Self {
        bytes.into_vec().into()
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&[u8]> for Payload {
    /// A copy.
    fn from(bytes: &[u8]) -> Self {
        Self::copy_from_slice(bytes)
    }
}

impl From<&str> for Payload {
    /// A copy.
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl Borrow<[u8]> for Payload {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Ord for Payload {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl PartialOrd for Payload {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Payload {}

impl Hash for Payload {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.as_slice().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_of_every_length_come_back() {
        for len in [0, 1, SHORT_MAX - 1, SHORT_MAX, SHORT_MAX + 1, 255, 256, 300, 100_000] {
            let bytes: Bytes = (0..len).map(|at| (at % 251) as u8).collect();
            let (left, right) = bytes.split_at(len / 3);
            let all = [
                Payload::from(bytes.clone()),
                Payload::from(&bytes),
                Payload::from(bytes.to_vec()),
                Payload::copy_from_slice(&bytes),
                Payload::concat(left, right),
                Payload::part_of(&[b"before", &bytes[..], b"after"].concat().into(), 6..6 + len),
                Payload::from([&bytes[..], b"after"].concat()).start(len),
            ];
            for payload in all {
                assert_eq!(payload.as_slice(), &bytes[..]);
                assert_eq!(payload.to_bytes(), bytes);
                assert_eq!(payload, Payload::from(bytes.clone()));
            }
        }
    }

    #[test]
    fn a_short_part_does_not_keep_its_buffer() {
        let buffer = Bytes::from(vec![7; 1 << 20]);
        let short = Payload::part_of(&buffer, 10..10 + SHORT_MAX);
        assert!(buffer.is_unique());
        let long = Payload::part_of(&buffer, 10..11 + SHORT_MAX);
        assert!(!buffer.is_unique());
        assert_ne!(short, long);
    }

    #[test]
    fn an_entry_is_a_cache_line() {
        assert_eq!((size_of::<Payload>(), size_of::<crate::Entry>()), (40, 64));
    }
}
