//! The engine's own records in the state store: how far a region has applied.
//!
//! ```text
//! applied record: format (2) | installed (1 bit) and length of index (7 bits) | index | term
//! ```
//!
//! Index and term are big endian, without their leading zeros. A state store writes this again with each batch of entries, and up to
//! fifteen others with it. Format 1, which is still read, is index and term of eight bytes each, and a byte for installed.

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{LogIndex, Term};

const FORMAT: u8 = 2;
const FORMAT_WIDE: u8 = 1;
const INSTALLED: u8 = 0x80;

/// A region's first state stands for this entry: it is made at bootstrap or by a split, not by a log, so that no log can be
/// replayed from nothing.
pub(crate) const FIRST_INDEX: LogIndex = LogIndex(1);
/// The term of the first state.
pub(crate) const FIRST_TERM: Term = Term(1);

/// The last entry that the state includes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AppliedRecord {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    /// The state is a received snapshot or a region's first state, and nothing was applied since: only such a state may be
    /// ahead of its log, if a crash came before the log's reset.
    pub(crate) installed: bool,
}

impl AppliedRecord {
    /// A region's first state. It is ahead of its log, which begins after it.
    pub(crate) const FIRST: Self = Self { index: FIRST_INDEX, term: FIRST_TERM, installed: true };

    pub(crate) fn encode(self) -> Bytes {
        let (index, term) = (self.index.get().to_be_bytes(), self.term.get().to_be_bytes());
        let (index, term) = (without_zeros(&index), without_zeros(&term));
        let mut out = BytesMut::with_capacity(2 + index.len() + term.len());
        out.put_u8(FORMAT);
        out.put_u8(index.len() as u8 | if self.installed { INSTALLED } else { 0 });
        out.put_slice(index);
        out.put_slice(term);
        out.freeze()
    }

    pub(crate) fn decode(stored: &[u8]) -> Option<Self> {
        let (format, rest) = stored.split_first()?;
        match *format {
            FORMAT => {
                let (mark, rest) = rest.split_first()?;
                let (index, term) = rest.split_at_checked(usize::from(mark & !INSTALLED))?;
                let (index, term) = (LogIndex(number(index)?), Term(number(term)?));
                Some(Self { index, term, installed: mark & INSTALLED != 0 })
            }
            FORMAT_WIDE if rest.len() == 17 => {
                let (index, rest) = rest.split_at(8);
                let (term, installed) = rest.split_at(8);
                let wide = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
                let installed = match installed {
                    [0] => false,
                    [1] => true,
                    _ => return None,
                };
                Some(Self { index: LogIndex(wide(index)?), term: Term(wide(term)?), installed })
            }
            _ => None,
        }
    }
}

fn without_zeros(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..]
}

/// The number in its shortest form only.
fn number(bytes: &[u8]) -> Option<u64> {
    let mut wide = [0; 8];
    let start = wide.len().checked_sub(bytes.len())?;
    wide[start..].copy_from_slice(bytes);
    (bytes.first() != Some(&0)).then_some(u64::from_be_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_others_do_not_pass() {
        for index in [0, 1, 255, 256, u64::MAX] {
            for term in [0, 7, u64::MAX - 1] {
                for installed in [false, true] {
                    let record = AppliedRecord { index: LogIndex(index), term: Term(term), installed };
                    assert_eq!(AppliedRecord::decode(&record.encode()), Some(record));
                    let wide = [&[1], &index.to_be_bytes()[..], &term.to_be_bytes(), &[u8::from(installed)]].concat();
                    assert_eq!(AppliedRecord::decode(&wide), Some(record), "the format before");
                }
            }
        }
        assert_eq!(AppliedRecord::FIRST.encode()[..], [2, 0x81, 1, 1]);
        for broken in [
            &[][..],
            &[2],
            &[2, 1],
            &[2, 1, 0, 1],
            &[2, 1, 1, 0],
            &[2, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9],
            &[2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
            &[1; 17],
            &[1; 19],
            &[3, 0x81, 1, 1],
        ] {
            assert_eq!(AppliedRecord::decode(broken), None, "{broken:?}");
        }
        assert_eq!(AppliedRecord::decode(&[&[1; 17][..], &[2]].concat()), None);
    }
}
