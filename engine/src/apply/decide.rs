//! What one entry means for a region: the same decisions for both forms of state machine.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{
    Entry, EntryKind, LogIndex, MembershipChange, RegionDescriptor, RegionEpoch, RegionId, apply_to_replicas,
};
use multiraft_storage::StateError;
use multiraft_transport::SessionSeq;

use crate::apply::ApplyError;
use crate::logic::{Outcome, RegionChange};
use crate::machine::ApplyContext;
use crate::region::admin::{AdminCommand, FIRST_ALLOCATED_ID, split_descriptor};
use crate::region::check::{FENCED, FencedReplica};
use crate::region::command::{Command, EpochRule, decode_epoch};
use crate::region::merge::{
    ABSORBED, Absorbed, FROZEN, FROZEN_RETRY, Frozen, MergeFault, MergeState, are_together, check_merge, merged,
};
use crate::region::sessions::{Admission, SessionRecord};
use crate::region::stores::{STORES, StoreCommand, Stores, carry_out, decode_stores, encode_answer, encode_stores};

/// Where the root region notes which ids it has given away: below are those of the first regions.
pub(super) const NEXT_ID: &[u8] = b"next id";
/// Where a region notes that it was recovered after it had lost its quorum: when last, and from what.
pub(super) const RECOVERED: &[u8] = b"recovered";

/// When a session with too many answers that are not acknowledged may try again.
const FULL_WINDOW_RETRY: Duration = Duration::from_millis(20);

/// A region's state, as the decisions need it.
pub(super) trait RegionState {
    fn session(&mut self, seq: SessionSeq) -> Result<Option<SessionRecord>, StateError>;
    fn put_session(&mut self, seq: SessionSeq, record: &SessionRecord) -> Result<(), StateError>;
    /// A record of the region itself.
    fn record(&mut self, name: &'static [u8]) -> Result<Option<Bytes>, StateError>;
    /// Sets it; `None` removes it.
    fn put_record(&mut self, name: &'static [u8], record: Option<Bytes>);
    fn run(&mut self, context: ApplyContext<'_>, command: &[u8]) -> Result<Bytes, StateError>;
}

/// Carries one command out, once.
pub(super) fn apply_command(
    state: &mut dyn RegionState,
    region: &Arc<RegionDescriptor>,
    is_frozen: bool,
    entry: &Entry,
) -> Result<Outcome, ApplyError> {
    if is_frozen {
        // M1: not even a session is opened.
        return Ok(Outcome::Busy { retry_after: FROZEN_RETRY });
    }
    if Command::is_bare(&entry.data) {
        // Only witnesses get such a one, and nobody waits for it there.
        return Ok(Outcome::Applied { reply: Bytes::new(), index: entry.index });
    }
    let Some(command) = Command::decode(&entry.data) else {
        return Err(ApplyError::Unreadable { region: region.id, index: entry.index });
    };
    let context = ApplyContext { region, index: entry.index };
    let Some(seq) = command.session else {
        if !EpochRule::COMMAND.admits(command.epoch, region.epoch) {
            return Ok(Outcome::EpochMismatch { current: Arc::clone(region) });
        }
        let reply = state.run(context, command.data)?;
        return Ok(Outcome::Applied { reply, index: entry.index });
    };
    let record = state.session(seq)?;
    if seq.sequence == 0 {
        // Who names a key that the region has given away opens nothing here: it would never be used.
        if record.is_none() && !EpochRule::COMMAND.admits(command.epoch, region.epoch) {
            return Ok(Outcome::EpochMismatch { current: Arc::clone(region) });
        }
        return open_session(state, seq, record, entry.index);
    }
    let Some(mut record) = record else {
        return Ok(Outcome::SessionExpired);
    };
    match record.admit(seq) {
        #[cfg(feature = "torture")]
        Admission::Repeat(..) if crate::plant::applies_again() => {
            let reply = state.run(context, command.data)?;
            Ok(Outcome::Applied { reply, index: entry.index })
        }
        Admission::Repeat(index, reply) => Ok(Outcome::Applied { reply, index }),
        Admission::Expired => Ok(Outcome::SessionExpired),
        Admission::Full => Ok(Outcome::Busy { retry_after: FULL_WINDOW_RETRY }),
        // The epoch is looked at after the session: a command that took effect before the region changed is a repetition.
        Admission::Apply if !EpochRule::COMMAND.admits(command.epoch, region.epoch) => {
            Ok(Outcome::EpochMismatch { current: Arc::clone(region) })
        }
        Admission::Apply => {
            let reply = state.run(context, command.data)?;
            record.record(seq, entry.index, reply.clone());
            state.put_session(seq, &record)?;
            Ok(Outcome::Applied { reply, index: entry.index })
        }
    }
}

/// What a command that changes the region itself comes to.
pub(super) enum AdminDecision {
    /// The region stays what it is; this is the answer.
    Answer(Outcome),
    /// The region becomes these: itself first, in key order.
    Split(Vec<Arc<RegionDescriptor>>),
    /// A step that concerns this region alone; its records are changed.
    Step(RegionChange),
    /// The digest of the state as of this entry is to be taken.
    Check {
        /// The entry.
        index: LogIndex,
    },
    /// The region absorbs a frozen neighbour and becomes this; its own record says so.
    Absorb {
        /// The neighbour, frozen.
        source: Arc<RegionDescriptor>,
        /// What the region becomes.
        region: Arc<RegionDescriptor>,
        /// What it has absorbed then.
        absorbed: Arc<Absorbed>,
    },
}

impl AdminDecision {
    /// The answer to who asked for it.
    pub(super) fn outcome(&self) -> Outcome {
        let regions = match self {
            Self::Answer(outcome) => return outcome.clone(),
            Self::Check { index } => return Outcome::Applied { reply: Bytes::new(), index: *index },
            Self::Split(parts) => parts.clone(),
            Self::Step(change) => vec![Arc::clone(change.region())],
            Self::Absorb { region, .. } => vec![Arc::clone(region)],
        };
        Outcome::Changed { regions }
    }
}

/// Decides what a command that changes the region itself comes to. Every replica decides the same.
pub(super) fn decide_admin(
    region: &Arc<RegionDescriptor>,
    merge: &MergeState,
    entry: &Entry,
    state: &mut dyn RegionState,
) -> Result<AdminDecision, ApplyError> {
    let unreadable = || ApplyError::Unreadable { region: region.id, index: entry.index };
    let command = Command::decode(&entry.data).filter(|command| command.admin).ok_or_else(unreadable)?;
    let mismatch = || AdminDecision::Answer(Outcome::EpochMismatch { current: Arc::clone(region) });
    let decoded = AdminCommand::of(&command).ok_or_else(unreadable)?;
    let MergeState { frozen, absorbed, fenced } = merge;
    let newer = |version: u64| {
        let epoch = RegionEpoch { version, ..region.epoch };
        Arc::new(RegionDescriptor { epoch, ..RegionDescriptor::clone(region) })
    };
    let is_done = |source, frozen| absorbed.contains(source, frozen);
    let done = || AdminDecision::Answer(Outcome::Done);
    match &decoded {
        // What this region has absorbed stands, frozen or not: it is told before anything else.
        AdminCommand::Fence { source, frozen, .. } if is_done(*source, *frozen) => return Ok(done()),
        AdminCommand::CommitMerge { source, .. } if is_done(source.id, source.epoch.version) => return Ok(done()),
        AdminCommand::RollBack { .. } => {}
        // M1.
        _ if frozen.is_some() => return Ok(mismatch()),
        _ => {}
    }
    match decoded {
        AdminCommand::Freeze { target } => {
            if !EpochRule::MERGE.admits(command.epoch, region.epoch) {
                return Ok(mismatch());
            }
            let fault = check_merge(region, &target).err();
            let fault = fault.or_else(|| (!are_together(region, &target)).then_some(MergeFault::Apart));
            if let Some(fault) = fault {
                return Ok(AdminDecision::Answer(Outcome::Refused { reason: fault.to_string() }));
            }
            let frozen = Arc::new(Frozen { index: entry.index, target });
            state.put_record(FROZEN, Some(frozen.encode()));
            Ok(AdminDecision::Step(RegionChange::Frozen { region: newer(region.epoch.version + 1), frozen }))
        }
        AdminCommand::RollBack { index } => {
            if frozen.as_ref().is_none_or(|frozen| frozen.index != index) {
                return Ok(mismatch());
            }
            state.put_record(FROZEN, None);
            Ok(AdminDecision::Step(RegionChange::Thawed { region: newer(region.epoch.version + 1) }))
        }
        AdminCommand::Fence { version, .. } if region.epoch.version != version => Ok(mismatch()),
        AdminCommand::Fence { version, .. } => {
            Ok(AdminDecision::Step(RegionChange::Fenced { region: newer(version + 1) }))
        }
        AdminCommand::CommitMerge { source, .. } => {
            // M2: only at the very epoch that the freeze names.
            if !EpochRule::MERGE.admits(command.epoch, region.epoch) || check_merge(&source, region).is_err() {
                return Ok(mismatch());
            }
            let mut absorbed = Absorbed::clone(absorbed);
            absorbed.0.push((source.id, source.epoch.version));
            state.put_record(ABSORBED, Some(absorbed.encode()));
            let region = Arc::new(merged(&source, region));
            Ok(AdminDecision::Absorb { source, region, absorbed: Arc::new(absorbed) })
        }
        AdminCommand::Split { children } => {
            if !EpochRule::SPLIT.admits(command.epoch, region.epoch) {
                return Ok(AdminDecision::Answer(Outcome::EpochMismatch { current: Arc::clone(region) }));
            }
            Ok(match split_descriptor(region, &children) {
                Ok(parts) => AdminDecision::Split(parts.into_iter().map(Arc::new).collect()),
                Err(fault) => AdminDecision::Answer(Outcome::Refused { reason: fault.to_string() }),
            })
        }
        AdminCommand::Check | AdminCommand::FenceReplicas { .. }
            if !EpochRule::CHECK.admits(command.epoch, region.epoch) =>
        {
            Ok(mismatch())
        }
        AdminCommand::Check => Ok(AdminDecision::Check { index: entry.index }),
        AdminCommand::FenceReplicas { index, expected, replicas } => {
            let fence = |replica| FencedReplica { replica, index, expected };
            let more: Vec<FencedReplica> = replicas.into_iter().map(fence).collect();
            let Some(fenced) = fenced.with(region, &more) else {
                let reason = "too few voters would be left to elect a leader".to_owned();
                return Ok(AdminDecision::Answer(Outcome::Refused { reason }));
            };
            state.put_record(FENCED, Some(fenced.encode()));
            let (region, fenced) = (Arc::clone(region), Arc::new(fenced));
            Ok(AdminDecision::Step(RegionChange::ReplicasFenced { region, fenced }))
        }
        AdminCommand::AllocateIds { count } => {
            let first = allocate_ids(state, count)?;
            let mut reply = BytesMut::with_capacity(8);
            reply.put_u64(first);
            Ok(AdminDecision::Answer(Outcome::Applied { reply: reply.freeze(), index: entry.index }))
        }
        AdminCommand::Recovered(record) => {
            state.put_record(RECOVERED, Some(record));
            Ok(done())
        }
        AdminCommand::Store(command) => {
            let reply = change_store(state, &command)?.ok_or_else(unreadable)?;
            Ok(AdminDecision::Answer(Outcome::Applied { reply, index: entry.index }))
        }
    }
}

/// What a commit of a merge needs beside the region: the source, and the entry that froze it. `None` if the entry is none, or
/// cannot take effect.
pub(super) fn wanted_source(
    region: &RegionDescriptor,
    merge: &MergeState,
    entry: &Entry,
) -> Option<(RegionId, LogIndex)> {
    if !is_admin(entry) || merge.frozen.is_some() {
        return None;
    }
    let command = Command::decode(&entry.data)?;
    let AdminCommand::CommitMerge { index, source } = AdminCommand::of(&command)? else { return None };
    let counts = EpochRule::MERGE.admits(command.epoch, region.epoch)
        && !merge.absorbed.contains(source.id, source.epoch.version)
        && check_merge(&source, region).is_ok();
    counts.then_some((source.id, index))
}

/// Takes the next `count` ids out of those that the root region has not given away; the first of them.
fn allocate_ids(state: &mut dyn RegionState, count: u64) -> Result<u64, StateError> {
    let stored = state.record(NEXT_ID)?;
    let next = stored.and_then(|stored| stored.as_ref().try_into().ok()).map_or(FIRST_ALLOCATED_ID, u64::from_be_bytes);
    state.put_record(NEXT_ID, Some(Bytes::copy_from_slice(&next.saturating_add(count).to_be_bytes())));
    Ok(next)
}

/// Changes what the root region knows of a store; the answer, or `None` if what it knows cannot be read.
fn change_store(state: &mut dyn RegionState, command: &StoreCommand) -> Result<Option<Bytes>, StateError> {
    let stored = state.record(STORES)?;
    let Some(mut stores) = stored.map_or(Some(Stores::new()), |stored| decode_stores(&stored)) else {
        return Ok(None);
    };
    Ok(Some(match carry_out(&mut stores, command) {
        Ok(is_changed) => {
            if is_changed {
                state.put_record(STORES, Some(encode_stores(&stores)));
            }
            encode_answer(Ok(&stores))
        }
        Err(fault) => encode_answer(Err(fault)),
    }))
}

/// Whether an entry may change the region itself.
pub(super) fn is_admin(entry: &Entry) -> bool {
    entry.kind == EntryKind::Command && Command::is_admin(&entry.data)
}

/// The answer to who asked for a membership change.
pub(super) fn membership_outcome(changed: Option<&Arc<RegionDescriptor>>, current: &Arc<RegionDescriptor>) -> Outcome {
    match changed {
        Some(changed) => Outcome::Changed { regions: vec![Arc::clone(changed)] },
        None => Outcome::EpochMismatch { current: Arc::clone(current) },
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
    is_frozen: bool,
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
    if is_frozen {
        return Ok(None);
    }
    let Ok(replicas) = apply_to_replicas(&region.replicas, &change) else {
        return Ok(None);
    };
    let epoch = RegionEpoch { conf_version: region.epoch.conf_version + 1, version: region.epoch.version };
    Ok(Some(Arc::new(RegionDescriptor { replicas, epoch, ..RegionDescriptor::clone(region) })))
}
