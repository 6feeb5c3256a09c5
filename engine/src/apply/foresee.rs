//! What a replica's log would make of its region if all of it were applied: looked at, not carried out.
//!
//! For the recovery of a lost quorum: whoever chooses which replica is kept must know what each would become. The decisions are
//! those of [`decide`](super::decide), taken without a state: commands of the embedder change no region.

use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{Entry, EntryKind, LogIndex, RegionDescriptor, RegionId};
use multiraft_storage::StateError;
use multiraft_transport::SessionSeq;

use crate::apply::decide::{AdminDecision, RegionState, apply_membership, decide_admin, is_admin, wanted_source};
use crate::apply::{AppliedRegion, ApplyError};
use crate::logic::RegionChange;
use crate::machine::ApplyContext;
use crate::region::admin::AdminCommand;
use crate::region::command::Command;
use crate::region::merge::MergeState;
use crate::region::sessions::SessionRecord;

/// What a region becomes entry by entry.
#[derive(Clone, Debug)]
pub(crate) struct Foresight {
    /// The region after the entries so far.
    pub(crate) descriptor: Arc<RegionDescriptor>,
    /// How it stands with merges then.
    pub(crate) merge: MergeState,
    /// What each change of replicas on the way has led to.
    pub(crate) configurations: Vec<(LogIndex, Arc<RegionDescriptor>)>,
    /// The regions that splits on the way make, as they are made.
    pub(crate) children: Vec<Arc<RegionDescriptor>>,
    /// The neighbours that it absorbs on the way.
    pub(crate) absorbs: Vec<RegionId>,
    /// How many ids the root region gives away on the way.
    pub(crate) ids: u64,
    /// Why the rest of the log cannot be applied here.
    pub(crate) blocked: Option<String>,
}

impl Foresight {
    /// Begins with the region as it is applied.
    pub(crate) fn new(region: &AppliedRegion) -> Self {
        Self {
            descriptor: Arc::clone(&region.descriptor),
            merge: region.merge.clone(),
            configurations: Vec::new(),
            children: Vec::new(),
            absorbs: Vec::new(),
            ids: 0,
            blocked: None,
        }
    }

    /// Takes the next entry. `frozen_here` tells by which entry another region is frozen on this store, durably.
    ///
    /// # Errors
    /// The entry cannot be read.
    pub(crate) fn take(
        &mut self,
        entry: &Entry,
        frozen_here: &dyn Fn(RegionId) -> Option<LogIndex>,
    ) -> Result<(), ApplyError> {
        if self.blocked.is_some() {
            return Ok(());
        }
        if entry.kind == EntryKind::Membership {
            let changed = apply_membership(&self.descriptor, self.merge.frozen.is_some(), entry)?;
            if let Some(changed) = changed {
                self.configurations.push((entry.index, Arc::clone(&changed)));
                self.descriptor = changed;
            }
            return Ok(());
        }
        if !is_admin(entry) {
            return Ok(());
        }
        if let Some((source, index)) = wanted_source(&self.descriptor, &self.merge, entry)
            && frozen_here(source) != Some(index)
        {
            self.blocked = Some(format!(
                "entry {} merges region {source} into it, whose replica on this store is not frozen by entry {index}",
                entry.index
            ));
            return Ok(());
        }
        self.take_admin(entry)
    }

    fn take_admin(&mut self, entry: &Entry) -> Result<(), ApplyError> {
        let unreadable = || ApplyError::Unreadable { region: self.descriptor.id, index: entry.index };
        let command = Command::decode(&entry.data).ok_or_else(unreadable)?;
        match AdminCommand::of(&command).ok_or_else(unreadable)? {
            AdminCommand::AllocateIds { count } => self.ids = self.ids.saturating_add(count),
            AdminCommand::Store(_) | AdminCommand::Recovered(_) => {}
            _ => self.take_decision(decide_admin(&self.descriptor, &self.merge, entry, &mut Blank)?),
        }
        Ok(())
    }

    fn take_decision(&mut self, decision: AdminDecision) {
        match decision {
            AdminDecision::Answer(_) | AdminDecision::Check { .. } => {}
            AdminDecision::Split(parts) => {
                let mut parts = parts.into_iter();
                if let Some(parent) = parts.next() {
                    self.descriptor = parent;
                }
                self.children.extend(parts);
            }
            AdminDecision::Step(change) => {
                self.descriptor = Arc::clone(change.region());
                match change {
                    RegionChange::Frozen { frozen, .. } => self.merge.frozen = Some(frozen),
                    RegionChange::Thawed { .. } => self.merge.frozen = None,
                    RegionChange::ReplicasFenced { fenced, .. } => self.merge.fenced = fenced,
                    RegionChange::Fenced { .. } | RegionChange::Merged { .. } => {}
                }
            }
            AdminDecision::Absorb { source, region, absorbed } => {
                self.absorbs.push(source.id);
                self.descriptor = region;
                self.merge.absorbed = absorbed;
            }
        }
    }
}

/// No state: what a change of a region comes to does not depend on it.
struct Blank;

impl RegionState for Blank {
    fn session(&mut self, _: SessionSeq) -> Result<Option<SessionRecord>, StateError> {
        Ok(None)
    }

    fn put_session(&mut self, _: SessionSeq, _: &SessionRecord) -> Result<(), StateError> {
        Ok(())
    }

    fn record(&mut self, _: &'static [u8]) -> Result<Option<Bytes>, StateError> {
        Ok(None)
    }

    fn put_record(&mut self, _: &'static [u8], _: Option<Bytes>) {}

    fn run(&mut self, _: ApplyContext<'_>, _: &[u8]) -> Result<Bytes, StateError> {
        Ok(Bytes::new())
    }
}

#[cfg(test)]
mod tests {
    use multiraft_raft::{ChangeOp, KeyRange, MembershipChange, RegionEpoch, Replica, ReplicaId, Role, StoreId, Term};

    use super::*;
    use crate::region::admin::Child;
    use crate::region::command::encode_epoch;

    fn region() -> AppliedRegion {
        let replica = |id| Replica { id: ReplicaId(id), store: StoreId(id), role: Role::Voter };
        let range = KeyRange { start: Bytes::from_static(b"b"), end: Bytes::from_static(b"x") };
        let epoch = RegionEpoch { conf_version: 1, version: 5 };
        let replicas = vec![replica(1), replica(2), replica(3)];
        let descriptor = Arc::new(RegionDescriptor { id: RegionId(2), range, epoch, replicas });
        let (index, term) = (LogIndex(9), Term(3));
        AppliedRegion { descriptor, index, term, installed: false, merge: MergeState::default() }
    }

    fn admin(index: u64, epoch: RegionEpoch, command: &AdminCommand) -> Entry {
        let data = Command::encode_admin(epoch, &command.encode());
        Entry { term: Term(3), index: LogIndex(index), kind: EntryKind::Command, data }
    }

    #[test]
    fn splits_and_changes_of_replicas_are_foreseen_in_their_order() {
        let region = region();
        let mut foresight = Foresight::new(&region);
        let remove = MembershipChange::Simple(ChangeOp::Remove { id: ReplicaId(3) });
        let data = remove.encode(&encode_epoch(region.descriptor.epoch));
        let change = Entry { term: Term(3), index: LogIndex(10), kind: EntryKind::Membership, data: data.into() };
        let after = RegionEpoch { conf_version: 2, version: 5 };
        let child = Child {
            start: Bytes::from_static(b"m"),
            region: RegionId(7),
            replicas: vec![ReplicaId(71), ReplicaId(72)],
        };
        let split = admin(11, after, &AdminCommand::Split { children: vec![child] });
        let command = Command::encode(after, None, b"whatever");
        let command = Entry { term: Term(3), index: LogIndex(12), kind: EntryKind::Command, data: command };
        for entry in [change, split, command] {
            foresight.take(&entry, &|_| None).unwrap();
        }
        assert_eq!(foresight.configurations.len(), 1);
        assert_eq!(foresight.descriptor.replicas.len(), 2);
        assert_eq!(foresight.descriptor.range.end, "m");
        assert_eq!(foresight.children[0].range.start, "m");
        assert_eq!(foresight.blocked, None);
    }

    #[test]
    fn a_merge_without_its_frozen_source_blocks_the_rest() {
        let region = region();
        let mut source = RegionDescriptor::clone(&region.descriptor);
        source.id = RegionId(3);
        source.range = KeyRange { start: Bytes::from_static(b"x"), end: Bytes::new() };
        source.epoch.version = 6;
        let commit = AdminCommand::CommitMerge { index: LogIndex(4), source: Arc::new(source) };
        let commit = admin(10, region.descriptor.epoch, &commit);
        let mut without = Foresight::new(&region);
        without.take(&commit, &|_| None).unwrap();
        assert!(without.blocked.is_some());
        assert_eq!(without.descriptor, region.descriptor);
        let mut with = Foresight::new(&region);
        with.take(&commit, &|id| (id == RegionId(3)).then_some(LogIndex(4))).unwrap();
        assert_eq!(with.absorbs, [RegionId(3)]);
        assert_eq!((with.descriptor.range.end.len(), with.descriptor.epoch.version), (0, 7));
    }

    /// Numbers, one after the other, from one.
    fn draw(seed: &mut u64, below: u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % below
    }

    /// The next entry of a log of changes, of which most fit the region as it is then, and some do not.
    fn drawn_entry(seed: &mut u64, index: u64, region: &RegionDescriptor) -> Entry {
        let stale = u64::from(draw(seed, 5) == 0);
        let epoch = RegionEpoch { version: region.epoch.version + stale, ..region.epoch };
        let id = 10 * index;
        let membership = |change: &MembershipChange| {
            let data = change.encode(&encode_epoch(epoch));
            Entry { term: Term(3), index: LogIndex(index), kind: EntryKind::Membership, data: data.into() }
        };
        match draw(seed, 6) {
            0 | 1 => {
                let start = [b'b' + u8::try_from(draw(seed, 24)).unwrap_or(0)];
                let count = region.replicas.len() as u64 + u64::from(draw(seed, 6) == 0);
                let replicas = (1..=count).map(|replica| ReplicaId(id + replica)).collect();
                let child = Child { start: Bytes::copy_from_slice(&start), region: RegionId(id), replicas };
                admin(index, epoch, &AdminCommand::Split { children: vec![child] })
            }
            2 | 3 => {
                let store = StoreId(4 + draw(seed, 3));
                let op = match draw(seed, 3) {
                    0 => ChangeOp::AddLearner { id: ReplicaId(id), store },
                    1 => ChangeOp::AddVoter { id: ReplicaId(id), store },
                    _ => ChangeOp::Remove { id: ReplicaId(2 + draw(seed, 2)) },
                };
                membership(&match draw(seed, 3) {
                    0 => MembershipChange::Joint { ops: vec![op], auto_leave: true },
                    1 => MembershipChange::LeaveJoint,
                    _ => MembershipChange::Simple(op),
                })
            }
            4 => {
                let version = epoch.version;
                admin(index, epoch, &AdminCommand::Fence { source: RegionId(9), frozen: 1, version })
            }
            _ => {
                let data = Command::encode(epoch, None, b"whatever");
                Entry { term: Term(3), index: LogIndex(index), kind: EntryKind::Command, data }
            }
        }
    }

    #[test]
    fn what_is_foreseen_is_what_comes() {
        use crate::apply::{ApplyEnd, Backend};
        use crate::logic::{ApplyTask, RegionHandle};

        let (mut splits, mut changes) = (0, 0);
        for case in 0..400u64 {
            let (mut seed, region) = (case, region());
            let (mut foresight, mut entries) = (Foresight::new(&region), Vec::new());
            for index in 10..24 {
                let entry = drawn_entry(&mut seed, index, &foresight.descriptor);
                foresight.take(&entry, &|_| None).unwrap();
                entries.push(entry);
            }
            (splits, changes) = (splits + foresight.children.len(), changes + foresight.configurations.len());
            let store = Arc::new(multiraft_storage::MemStore::new());
            let files =
                crate::snapshots::SnapshotFiles::open_on(Arc::new(multiraft_storage::SimDisk::new(case))).unwrap();
            let backend = Backend::shared(Arc::new(Nothing), store).of_store(StoreId(1), &files);
            let start = crate::assembly::empty_start(Arc::clone(&region.descriptor));
            backend.begin(&[start], &std::collections::BTreeMap::new());
            let mut applier = backend.applier([region.clone()]);
            let handle = RegionHandle { region: region.descriptor.id, slot: 0, generation: 0 };
            let task: ApplyTask<()> = ApplyTask::Entries { handle, entries, replies: Vec::new() };
            let (batch, end) = applier.apply(vec![task], &Nothing);
            assert!(matches!(end, ApplyEnd::Done), "{end:?}");
            let applied = applier.applied(region.descriptor.id).unwrap();
            assert_eq!(applied.descriptor, foresight.descriptor, "case {case}");
            let made = batch.applied().filter_map(|applied| applied.split.as_ref());
            let children: Vec<_> = made.flat_map(|split| &split.children).map(|(child, _)| Arc::clone(child)).collect();
            assert_eq!(children, foresight.children, "case {case}");
        }
        assert!(splits > 100 && changes > 100, "there is something to foresee: {splits}, {changes}");
    }

    /// A machine that keeps nothing, and a place where nothing is received.
    struct Nothing;

    impl crate::machine::StateMachine for Nothing {
        fn apply(
            &self,
            _: ApplyContext<'_>,
            _: &[u8],
            _: &mut crate::machine::StateTxn<'_>,
        ) -> Result<Bytes, StateError> {
            Ok(Bytes::new())
        }

        fn lookup(&self, _: &crate::machine::RegionView<'_>, _: &[u8]) -> Result<Bytes, StateError> {
            Ok(Bytes::new())
        }
    }

    impl crate::apply::ReceivedSnapshots for Nothing {
        fn open(
            &self,
            _: StoreId,
            _: &multiraft_transport::SnapshotHeader,
        ) -> std::io::Result<crate::apply::Chunks<'static>> {
            Err(std::io::ErrorKind::NotFound.into())
        }

        fn discard(&self, _: StoreId, _: &multiraft_transport::SnapshotHeader) {}
    }
}
