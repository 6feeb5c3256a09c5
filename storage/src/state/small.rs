//! A byte string that keeps short contents in place.
//!
//! What comes in is a slice of a received frame or of a log entry; keeping that slice would keep the whole frame in memory.
//! So contents are copied: up to [`INLINE_MAX`] bytes into the value itself, longer ones into an allocation of their own.
//! Only from [`KEEP_MIN`] bytes on is the given buffer kept, as copying would cost more than it saves.

use std::fmt;

use bytes::Bytes;

/// The longest contents that need no allocation. Chosen so that the type is 40 bytes.
const INLINE_MAX: usize = 38;

/// From this length on the given buffer is shared, not copied.
const KEEP_MIN: usize = 64 * 1024;

/// A key or a value at rest.
#[derive(Clone)]
pub(super) struct Small(Repr);

#[derive(Clone)]
enum Repr {
    /// Invariant: `len <= INLINE_MAX`, and the bytes behind it are zero.
    Inline {
        len: u8,
        data: [u8; INLINE_MAX],
    },
    Shared(Bytes),
}

impl Small {
    pub(super) fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, data } => &data[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }

    /// The first `len` bytes.
    pub(super) fn start(&self, len: usize) -> Self {
        match (&self.0, inline(&self.as_slice()[..len])) {
            (_, Some(inline)) => Self(inline),
            (Repr::Shared(bytes), None) => Self(Repr::Shared(bytes.slice(..len))),
            (Repr::Inline { .. }, None) => unreachable!("what is part of an inline value can be inline"),
        }
    }

    /// The contents as a shared buffer: a copy if they are kept in place.
    pub(super) fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Repr::Inline { len, data } => Bytes::copy_from_slice(&data[..usize::from(*len)]),
            Repr::Shared(bytes) => bytes.clone(),
        }
    }
}

impl Default for Small {
    fn default() -> Self {
        Self(Repr::Inline { len: 0, data: [0; INLINE_MAX] })
    }
}

impl From<Bytes> for Small {
    fn from(bytes: Bytes) -> Self {
        if let Some(inline) = inline(&bytes) {
            return Self(inline);
        }
        Self(Repr::Shared(if bytes.len() < KEEP_MIN { Bytes::copy_from_slice(&bytes) } else { bytes }))
    }
}

fn inline(bytes: &[u8]) -> Option<Repr> {
    let len = u8::try_from(bytes.len()).ok()?;
    let mut data = [0; INLINE_MAX];
    data.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(Repr::Inline { len, data })
}

impl fmt::Debug for Small {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_of_every_length_come_back() {
        for len in
            [0, 1, INLINE_MAX - 1, INLINE_MAX, INLINE_MAX + 1, 255, 256, 300, KEEP_MIN - 1, KEEP_MIN, KEEP_MIN + 1]
        {
            let bytes: Bytes = (0..len).map(|at| (at % 251) as u8).collect();
            let small = Small::from(bytes.clone());
            assert_eq!(small.as_slice(), &bytes[..]);
            assert_eq!(small.to_bytes(), bytes);
        }
    }

    #[test]
    fn a_short_slice_does_not_keep_its_frame() {
        let frame = Bytes::from(vec![7; 1 << 20]);
        let kept: Vec<Small> = [8, 100, 5_000].map(|len| Small::from(frame.slice(..len))).into();
        assert!(frame.is_unique());
        assert_eq!(kept.len(), 3);
    }

    #[test]
    fn it_is_as_small_as_promised() {
        assert_eq!(size_of::<Small>(), 40);
    }
}
