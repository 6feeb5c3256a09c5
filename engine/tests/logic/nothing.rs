//! A state machine without state, and snapshots that never come.

use std::io;

use bytes::Bytes;
use multiraft::apply::{Chunks, ReceivedSnapshots};
use multiraft::{ApplyContext, RegionView, StateError, StateMachine, StateTxn, StoreId};
use multiraft_transport::SnapshotHeader;

/// Commands change nothing, queries find nothing.
pub(crate) struct Nothing;

impl StateMachine for Nothing {
    fn apply(&self, _: ApplyContext<'_>, _: &[u8], _: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        Ok(Bytes::new())
    }

    fn lookup(&self, _: &RegionView<'_>, _: &[u8]) -> Result<Bytes, StateError> {
        Ok(Bytes::new())
    }
}

/// No snapshot ever comes.
pub(crate) struct NoSnapshots;

impl ReceivedSnapshots for NoSnapshots {
    fn open(&self, _: StoreId, _: &SnapshotHeader) -> io::Result<Chunks<'static>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn discard(&self, _: StoreId, _: &SnapshotHeader) {}
}
