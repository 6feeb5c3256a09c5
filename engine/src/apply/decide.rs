//! What one entry means for a region: the same decisions for both forms of state machine.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{Entry, EntryKind, LogIndex, MembershipChange, RegionDescriptor, RegionEpoch, apply_to_replicas};
use multiraft_storage::StateError;
use multiraft_transport::SessionSeq;

use crate::apply::ApplyError;
use crate::logic::Outcome;
use crate::machine::ApplyContext;
use crate::region::command::{Command, EpochRule, decode_epoch};
use crate::region::sessions::{Admission, SessionRecord};

/// When a session with too many answers that are not acknowledged may try again.
const FULL_WINDOW_RETRY: Duration = Duration::from_millis(20);

/// A region's state, as the decisions need it.
pub(super) trait RegionState {
    fn session(&mut self, seq: SessionSeq) -> Result<Option<SessionRecord>, StateError>;
    fn put_session(&mut self, seq: SessionSeq, record: &SessionRecord) -> Result<(), StateError>;
    fn run(&mut self, context: ApplyContext<'_>, command: &[u8]) -> Result<Bytes, StateError>;
}

/// Carries one command out, once.
pub(super) fn apply_command(
    state: &mut dyn RegionState,
    region: &Arc<RegionDescriptor>,
    entry: &Entry,
) -> Result<Outcome, ApplyError> {
    let Some(command) = Command::decode(&entry.data) else {
        return Err(ApplyError::Unreadable { region: region.id, index: entry.index });
    };
    let context = ApplyContext { region, index: entry.index };
    let Some(seq) = command.session else {
        if !EpochRule::COMMAND.admits(command.epoch, region.epoch) {
            return Ok(Outcome::EpochMismatch { current: Arc::clone(region) });
        }
        let reply = state.run(context, &command.data)?;
        return Ok(Outcome::Applied { reply, index: entry.index });
    };
    let record = state.session(seq)?;
    if seq.sequence == 0 {
        return open_session(state, seq, record, entry.index);
    }
    let Some(mut record) = record else {
        return Ok(Outcome::SessionExpired);
    };
    match record.admit(seq) {
        Admission::Repeat(index, reply) => Ok(Outcome::Applied { reply, index }),
        Admission::Expired => Ok(Outcome::SessionExpired),
        Admission::Full => Ok(Outcome::Busy { retry_after: FULL_WINDOW_RETRY }),
        // The epoch is looked at after the session: a command that took effect before the region changed is a repetition.
        Admission::Apply if !EpochRule::COMMAND.admits(command.epoch, region.epoch) => {
            Ok(Outcome::EpochMismatch { current: Arc::clone(region) })
        }
        Admission::Apply => {
            let reply = state.run(context, &command.data)?;
            record.record(seq, entry.index, reply.clone());
            state.put_session(seq, &record)?;
            Ok(Outcome::Applied { reply, index: entry.index })
        }
    }
}

/// Opens a session; opening it again tells what it was opened as.
fn open_session(
    state: &mut dyn RegionState,
    seq: SessionSeq,
    record: Option<SessionRecord>,
    index: LogIndex,
) -> Result<Outcome, ApplyError> {
    let record = match record {
        Some(record) => record,
        None => {
            let record = SessionRecord::open(index);
            state.put_session(seq, &record)?;
            record
        }
    };
    let mut reply = BytesMut::with_capacity(8);
    reply.put_u64(record.opened().get());
    Ok(Outcome::Applied { reply: reply.freeze(), index })
}

/// Carries a membership change out: the new descriptor, or `None` if the change is refused as things stand.
pub(super) fn apply_membership(
    region: &Arc<RegionDescriptor>,
    entry: &Entry,
) -> Result<Option<Arc<RegionDescriptor>>, ApplyError> {
    debug_assert_eq!(entry.kind, EntryKind::Membership);
    let unreadable = || ApplyError::Unreadable { region: region.id, index: entry.index };
    let (change, context) = MembershipChange::decode(&entry.data).map_err(|_| unreadable())?;
    // Without a context: the group's own step out of a joint configuration, which nothing can outdate.
    if !context.is_empty() {
        let proposed = decode_epoch(&context).ok_or_else(unreadable)?;
        if !EpochRule::MEMBERSHIP.admits(proposed, region.epoch) {
            return Ok(None);
        }
    }
    let Ok(replicas) = apply_to_replicas(&region.replicas, &change) else {
        return Ok(None);
    };
    let epoch = RegionEpoch { conf_version: region.epoch.conf_version + 1, version: region.epoch.version };
    Ok(Some(Arc::new(RegionDescriptor { replicas, epoch, ..RegionDescriptor::clone(region) })))
}
