//! The first words on a connection, see `docs/wire-format.md`.
//!
//! Fixed width, so that stores of different versions can still tell each other what they are: magic and version stand
//! first and stay there for ever.

use multiraft_raft::{ClusterId, Incarnation, StoreId};

use crate::{Birth, Limits, WIRE_VERSION};

const MAGIC: [u8; 4] = *b"MRFT";

/// The length of a hello of version 2.
pub(crate) const HELLO_BYTES: usize = 4 + 2 + 16 + 8 + 8 + 1 + 16 + 4 + 8 + 1;

/// The store says that it has lost an earlier directory.
const REJOINED: u8 = 1;

/// Who is at one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) cluster: ClusterId,
    pub(crate) store: StoreId,
    pub(crate) incarnation: Incarnation,
    /// How many append lanes it sends on.
    pub(crate) append_lanes: u8,
    /// The newest link between the two that it knows to be over, as the arbiter named it: see [`super::arbiter`].
    pub(crate) over: LinkName,
    /// The longest frame it reads.
    pub(crate) frame_bytes_max: u32,
    /// The directory that it runs in.
    pub(crate) birth: Birth,
}

/// How the arbiter of a pair of stores names a link: its own incarnation and a counter. Later links have larger names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkName {
    pub(crate) incarnation: Incarnation,
    pub(crate) number: u64,
}

/// Why a hello was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("the first bytes are not multiraft's")]
    Magic,
    #[error("wire version {0} where this store speaks {WIRE_VERSION}: run the same release on all stores")]
    Version(u16),
    #[error("{0} append lanes where 1 to {max} are allowed", max = crate::APPEND_LANES_MAX)]
    Lanes(u8),
    #[error("flags {0:#04x} where none but {REJOINED:#04x} is known")]
    Flags(u8),
    #[error("frames of up to {found} bytes where this store has {expected}: set the same limits on all stores")]
    FrameLimit { found: u32, expected: u32 },
}

impl Hello {
    pub(crate) fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut out = [0; HELLO_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC);
        put(&WIRE_VERSION.to_le_bytes());
        put(&self.cluster.0.to_le_bytes());
        put(&self.store.0.to_le_bytes());
        put(&self.incarnation.0.to_le_bytes());
        put(&[self.append_lanes]);
        put(&self.over.incarnation.0.to_le_bytes());
        put(&self.over.number.to_le_bytes());
        put(&self.frame_bytes_max.to_le_bytes());
        put(&self.birth.number.to_le_bytes());
        put(&[if self.birth.rejoined { REJOINED } else { 0 }]);
        out
    }

    /// How much of a hello is the same in all versions: magic and version.
    pub(crate) const HEAD_BYTES: usize = 6;

    /// Checks the part that is the same in all versions.
    pub(crate) fn check_head(head: &[u8]) -> Result<(), HelloError> {
        let Some(([magic @ .., low, high], _)) = head.split_first_chunk::<{ Self::HEAD_BYTES }>() else {
            return Err(HelloError::Magic);
        };
        if magic != &MAGIC {
            return Err(HelloError::Magic);
        }
        let version = u16::from_le_bytes([*low, *high]);
        if version == WIRE_VERSION { Ok(()) } else { Err(HelloError::Version(version)) }
    }

    pub(crate) fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, HelloError> {
        Self::check_head(bytes)?;
        let mut rest = &bytes[Self::HEAD_BYTES..];
        let hello = Self {
            cluster: ClusterId(u128::from_le_bytes(take(&mut rest))),
            store: StoreId(u64::from_le_bytes(take(&mut rest))),
            incarnation: Incarnation(u64::from_le_bytes(take(&mut rest))),
            append_lanes: take::<1>(&mut rest)[0],
            over: LinkName {
                incarnation: Incarnation(u64::from_le_bytes(take(&mut rest))),
                number: u64::from_le_bytes(take(&mut rest)),
            },
            frame_bytes_max: u32::from_le_bytes(take(&mut rest)),
            birth: Birth { number: u64::from_le_bytes(take(&mut rest)), rejoined: false },
        };
        let flags = take::<1>(&mut rest)[0];
        if flags > REJOINED {
            return Err(HelloError::Flags(flags));
        }
        let hello = Self { birth: Birth { rejoined: flags == REJOINED, ..hello.birth }, ..hello };
        if !(1..=crate::APPEND_LANES_MAX).contains(&usize::from(hello.append_lanes)) {
            return Err(HelloError::Lanes(hello.append_lanes));
        }
        Ok(hello)
    }

    /// Whether both ends read the same frames.
    pub(crate) fn check_limits(&self, limits: &Limits) -> Result<(), HelloError> {
        let expected = u32::try_from(limits.frame_bytes_max).unwrap_or(u32::MAX);
        if self.frame_bytes_max == expected {
            return Ok(());
        }
        Err(HelloError::FrameLimit { found: self.frame_bytes_max, expected })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest.split_first_chunk::<N>().expect("the fields add up to HELLO_BYTES");
    *rest = tail;
    *head
}

/// For fuzzers: any bytes as a hello.
pub(crate) fn fuzz_hello(input: &[u8]) {
    if let Some(bytes) = input.first_chunk::<HELLO_BYTES>()
        && let Ok(hello) = Hello::decode(bytes)
    {
        assert_eq!(hello.encode(), *bytes, "a hello has one form");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_written_as_it_always_was() {
        let hello = Hello {
            cluster: ClusterId(0x0102),
            store: StoreId(3),
            incarnation: Incarnation(4),
            append_lanes: 2,
            over: LinkName { incarnation: Incarnation(5), number: 6 },
            frame_bytes_max: 1 << 24,
            birth: Birth { number: 0x0a0b, rejoined: true },
        };
        let parts: [&[u8]; 9] = [
            b"MRFT\x02\x00",
            &[2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[3, 0, 0, 0, 0, 0, 0, 0],
            &[4, 0, 0, 0, 0, 0, 0, 0],
            &[2],
            &[5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 1],
            &[0x0b, 0x0a, 0, 0, 0, 0, 0, 0],
            &[1],
        ];
        assert_eq!(hello.encode().to_vec(), parts.concat());
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        let whole = Hello { birth: Birth { number: 1, rejoined: false }, ..hello };
        assert_eq!(Hello::decode(&whole.encode()), Ok(whole));
    }
}
