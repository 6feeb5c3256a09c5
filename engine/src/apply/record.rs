//! The engine's own records in the state store: how far a region has applied.
//!
//! ```text
//! applied record: format (1) | index (u64, big endian) | term (u64, big endian) | installed (1)
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{LogIndex, Term};

const FORMAT: u8 = 1;

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
        let mut out = BytesMut::with_capacity(18);
        out.put_u8(FORMAT);
        out.put_u64(self.index.get());
        out.put_u64(self.term.get());
        out.put_u8(u8::from(self.installed));
        out.freeze()
    }

    pub(crate) fn decode(stored: &[u8]) -> Option<Self> {
        let (format, rest) = stored.split_first()?;
        if *format != FORMAT || rest.len() != 17 {
            return None;
        }
        let (index, rest) = rest.split_at(8);
        let (term, installed) = rest.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
        let installed = match installed {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        Some(Self { index: LogIndex(number(index)?), term: Term(number(term)?), installed })
    }
}
