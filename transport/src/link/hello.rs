//! The first words on a connection, see `docs/wire-format.md`.
//!
//! Fixed width, so that stores of different versions can still tell each other what they are: magic and version stand
//! first and stay there for ever.

use multiraft_raft::{ClusterId, Incarnation, StoreId};

use crate::{Birth, Limits, WIRE_VERSION, codec::WIRE_VERSION_MIN};

const MAGIC: [u8; 4] = *b"MRFT";

/// The length of a hello of version 1.
const BYTES_OF_1: usize = 4 + 2 + 16 + 8 + 8 + 1 + 16 + 4;
/// The length of one of version 2: it says in which directory the store runs.
const BYTES_OF_2: usize = BYTES_OF_1 + 8 + 1;

/// The store says that it has lost an earlier directory.
const REJOINED: u8 = 1;

/// Who is at one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Of the wire format: both ends say the same.
    pub(crate) version: u16,
    pub(crate) cluster: ClusterId,
    pub(crate) store: StoreId,
    pub(crate) incarnation: Incarnation,
    /// How many append lanes it sends on.
    pub(crate) append_lanes: u8,
    /// The newest link between the two that it knows to be over, as the arbiter named it: see [`super::arbiter`].
    pub(crate) over: LinkName,
    /// The longest frame it reads.
    pub(crate) frame_bytes_max: u32,
    /// The directory that it runs in; not known in version 1.
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
    #[error("wire version {found} where this store speaks {}: run the same release on all stores", spoken(*newest))]
    Version { found: u16, newest: u16 },
    #[error("a hello of version {found} where {said} was spoken")]
    OtherVersion { found: u16, said: u16 },
    #[error("{0} append lanes where 1 to {max} are allowed", max = crate::APPEND_LANES_MAX)]
    Lanes(u8),
    #[error("flags {0:#04x} where none but {REJOINED:#04x} is known")]
    Flags(u8),
    #[error("frames of up to {found} bytes where this store has {expected}: set the same limits on all stores")]
    FrameLimit { found: u32, expected: u32 },
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BYTES_OF_2);
        let mut put = |bytes: &[u8]| out.extend_from_slice(bytes);
        put(&MAGIC);
        put(&self.version.to_le_bytes());
        put(&self.cluster.0.to_le_bytes());
        put(&self.store.0.to_le_bytes());
        put(&self.incarnation.0.to_le_bytes());
        put(&[self.append_lanes]);
        put(&self.over.incarnation.0.to_le_bytes());
        put(&self.over.number.to_le_bytes());
        put(&self.frame_bytes_max.to_le_bytes());
        if self.version >= 2 {
            put(&self.birth.number.to_le_bytes());
            put(&[if self.birth.rejoined { REJOINED } else { 0 }]);
        }
        out
    }

    /// How much of a hello is the same in all versions: magic and version.
    pub(crate) const HEAD_BYTES: usize = 6;

    /// The version that the part says which is the same in all versions; at most `newest`.
    pub(crate) fn version(head: [u8; Self::HEAD_BYTES], newest: u16) -> Result<u16, HelloError> {
        let [magic @ .., low, high] = head;
        if magic != MAGIC {
            return Err(HelloError::Magic);
        }
        let found = u16::from_le_bytes([low, high]);
        if (WIRE_VERSION_MIN..=newest).contains(&found) {
            Ok(found)
        } else {
            Err(HelloError::Version { found, newest })
        }
    }

    /// How many bytes follow the head in a version that is spoken.
    pub(crate) fn rest_bytes(version: u16) -> usize {
        if version >= 2 { BYTES_OF_2 - Self::HEAD_BYTES } else { BYTES_OF_1 - Self::HEAD_BYTES }
    }

    /// What follows the head: [`Hello::rest_bytes`] of them.
    pub(crate) fn decode(version: u16, mut rest: &[u8]) -> Result<Self, HelloError> {
        let mut hello = Self {
            version,
            cluster: ClusterId(u128::from_le_bytes(take(&mut rest))),
            store: StoreId(u64::from_le_bytes(take(&mut rest))),
            incarnation: Incarnation(u64::from_le_bytes(take(&mut rest))),
            append_lanes: take::<1>(&mut rest)[0],
            over: LinkName {
                incarnation: Incarnation(u64::from_le_bytes(take(&mut rest))),
                number: u64::from_le_bytes(take(&mut rest)),
            },
            frame_bytes_max: u32::from_le_bytes(take(&mut rest)),
            birth: Birth::default(),
        };
        if version >= 2 {
            hello.birth.number = u64::from_le_bytes(take(&mut rest));
            let flags = take::<1>(&mut rest)[0];
            if flags > REJOINED {
                return Err(HelloError::Flags(flags));
            }
            hello.birth.rejoined = flags == REJOINED;
        }
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

/// The versions up to `newest`, for people.
fn spoken(newest: u16) -> String {
    let versions: Vec<String> = (WIRE_VERSION_MIN..=newest).map(|version| version.to_string()).collect();
    versions.join(" and ")
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest.split_first_chunk::<N>().expect("the fields add up to what a version has");
    *rest = tail;
    *head
}

/// For fuzzers: any bytes as a hello.
pub(crate) fn fuzz_hello(input: &[u8]) {
    if let Some((head, rest)) = input.split_first_chunk()
        && let Ok(version) = Hello::version(*head, WIRE_VERSION)
        && let Some(rest) = rest.get(..Hello::rest_bytes(version))
        && let Ok(hello) = Hello::decode(version, rest)
    {
        assert_eq!(hello.encode(), [head, rest].concat(), "a hello has one form");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello = Hello {
        version: 2,
        cluster: ClusterId(0x0102),
        store: StoreId(3),
        incarnation: Incarnation(4),
        append_lanes: 2,
        over: LinkName { incarnation: Incarnation(5), number: 6 },
        frame_bytes_max: 1 << 24,
        birth: Birth { number: 0x0a0b, rejoined: true },
    };

    /// What follows the version in version 1.
    const REST_OF_1: &[&[u8]] = &[
        &[2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 0, 0, 0, 0, 0, 0],
        &[4, 0, 0, 0, 0, 0, 0, 0],
        &[2],
        &[5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 0, 1],
    ];

    fn read(bytes: &[u8], newest: u16) -> Result<Hello, HelloError> {
        let (head, rest) = bytes.split_first_chunk().expect("a head");
        let version = Hello::version(*head, newest)?;
        assert_eq!(rest.len(), Hello::rest_bytes(version));
        Hello::decode(version, rest)
    }

    #[test]
    fn a_hello_of_version_2_is_written_as_it_always_was() {
        let birth: &[&[u8]] = &[&[0x0b, 0x0a, 0, 0, 0, 0, 0, 0], &[1]];
        let written = [&[&b"MRFT\x02\x00"[..]], REST_OF_1, birth].concat().concat();
        assert_eq!(HELLO.encode(), written);
        assert_eq!(read(&written, 2), Ok(HELLO));
        let whole = Hello { birth: Birth { number: 1, rejoined: false }, ..HELLO };
        assert_eq!(read(&whole.encode(), 2), Ok(whole));
    }

    #[test]
    fn a_hello_of_version_1_is_written_as_it_always_was_and_says_nothing_of_the_directory() {
        let written = [&[&b"MRFT\x01\x00"[..]], REST_OF_1].concat().concat();
        assert_eq!(Hello { version: 1, ..HELLO }.encode(), written);
        for newest in [1, 2] {
            assert_eq!(read(&written, newest), Ok(Hello { version: 1, birth: Birth::default(), ..HELLO }));
        }
    }

    #[test]
    fn other_versions_are_refused_in_the_words_that_version_1_has_for_them() {
        let said = |found: u16, newest| {
            let [low, high] = found.to_le_bytes();
            Hello::version([b'M', b'R', b'F', b'T', low, high], newest).unwrap_err().to_string()
        };
        assert_eq!(said(2, 1), "wire version 2 where this store speaks 1: run the same release on all stores");
        assert_eq!(said(3, 2), "wire version 3 where this store speaks 1 and 2: run the same release on all stores");
        assert_eq!(said(0, 2), "wire version 0 where this store speaks 1 and 2: run the same release on all stores");
    }
}
