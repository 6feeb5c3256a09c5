//! A state machine without state, snapshots that never come, and an applier that wants neither.

use std::io;

use bytes::Bytes;
use multiraft::apply::{AppliedBatch, Applier, ApplyEnd, Chunks, ReceivedSnapshots};
use multiraft::logic::{Input, TurnOutput};
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
struct NoSnapshots;

impl ReceivedSnapshots for NoSnapshots {
    fn open(&self, _: StoreId, _: &SnapshotHeader) -> io::Result<Chunks<'static>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn discard(&self, _: StoreId, _: &SnapshotHeader) {}
}

/// Has a turn's tasks carried out, to the end; what comes of it for the worker is put with the next inputs.
pub(crate) fn apply(
    applier: &mut Applier,
    out: &mut TurnOutput<u32>,
    inputs: &mut Vec<Input<u32>>,
) -> AppliedBatch<u32> {
    let (mut batch, end) = applier.apply(std::mem::take(&mut out.apply), &NoSnapshots);
    assert!(matches!(end, ApplyEnd::Done), "{end:?}");
    inputs.extend(batch.take_inputs());
    batch
}
