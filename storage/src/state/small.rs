//! A byte string that keeps short contents in place.
//!
//! What comes in is a slice of a received frame or of a log entry; keeping that slice would keep the whole frame in memory.
//! So contents are copied: short ones into the value itself, longer ones into an allocation of their own.
//! Only from [`KEEP_MIN`] bytes on is the given buffer kept, as copying would cost more than it saves.

use std::fmt;

use bytes::Bytes;
use multiraft_raft::Payload;

/// From this length on the given buffer is shared, not copied.
const KEEP_MIN: usize = 64 * 1024;

/// A key or a value at rest.
#[derive(Clone, Default)]
pub(super) struct Small(Payload);

impl Small {
    pub(super) fn as_slice(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The first `len` bytes.
    pub(super) fn start(&self, len: usize) -> Self {
        Self(self.0.start(len))
    }

    /// The contents as a shared buffer: a copy if they are kept in place.
    pub(super) fn to_bytes(&self) -> Bytes {
        self.0.to_bytes()
    }
}

impl From<Bytes> for Small {
    fn from(bytes: Bytes) -> Self {
        Self(if bytes.len() < KEEP_MIN { Payload::copy_from_slice(&bytes) } else { Payload::from(bytes) })
    }
}

impl From<Payload> for Small {
    #[inline]
    fn from(payload: Payload) -> Self {
        if payload.is_shared() && payload.len() < KEEP_MIN {
            Self(Payload::copy_from_slice(&payload))
        } else {
            Self(payload)
        }
    }
}

impl fmt::Debug for Small {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_of_every_length_come_back() {
        for len in [0, 1, 38, 39, 255, 256, 300, KEEP_MIN - 1, KEEP_MIN, KEEP_MIN + 1] {
            let bytes: Bytes = (0..len).map(|at| (at % 251) as u8).collect();
            let small = Small::from(bytes.clone());
            assert_eq!(small.as_slice(), &bytes[..]);
            assert_eq!(small.to_bytes(), bytes);
            assert_eq!(small.start(len / 2).as_slice(), &bytes[..len / 2]);
        }
    }

    #[test]
    fn a_slice_does_not_keep_its_frame_unless_it_is_long() {
        let frame = Bytes::from(vec![7; 1 << 20]);
        let kept: Vec<Small> = [8, 100, 5_000].map(|len| Small::from(frame.slice(..len))).into();
        assert!(frame.is_unique());
        let long = Small::from(frame.slice(..KEEP_MIN));
        assert!(!frame.is_unique());
        assert_eq!((kept.len(), long.as_slice().len()), (3, KEEP_MIN));
    }

    #[test]
    fn it_is_as_small_as_promised() {
        assert_eq!(size_of::<Small>(), 40);
    }
}
