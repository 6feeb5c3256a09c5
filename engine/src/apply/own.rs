//! Applying to machines that hold their state themselves, one per region.
//!
//! The engine keeps the region's descriptor, applied index and session records beside the machine, under one lock, so that
//! a lookup sees all of one instant.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use multiraft_raft::{Entry, EntryKind, KeyRange, LogIndex, RegionDescriptor, RegionEpoch, RegionId, StoreId, Term};
use multiraft_storage::StateError;
use multiraft_transport::{SessionSeq, SnapshotHeader};
use rustc_hash::FxHashMap;

use crate::apply::body::OwnRecords;
use crate::apply::decide::{
    AdminDecision, RegionState, apply_command, apply_membership, decide_admin, is_admin, membership_outcome,
};
use crate::apply::record::{FIRST_INDEX, FIRST_TERM};
use crate::apply::regions::{Progress, Regions};
use crate::apply::source::{Content, SnapshotSource};
use crate::apply::{AppliedBatch, ApplyError, Cause, Pass, ReceivedSnapshots, Tombstone, body, note_change};
use crate::error::ReadError;
use crate::logic::{Applied, ApplyTask, Outcome, RegionChange, SplitDone};
use crate::machine::{ApplyContext, OwnState, OwnStateFactory, SnapshotWrite};
use crate::measure::{STRETCHES, Size, Survey, Tallies, Touches};
use crate::region::check::FENCED;
use crate::region::command::EpochRule;
use crate::region::holds_data;
use crate::region::merge::{ABSORBED, FROZEN, MergeState};
use crate::region::sessions::{SessionRecord, forget_surplus, unite_sessions};

/// All own-state regions of a store. Shared by the appliers and by whoever looks something up.
pub(crate) struct OwnRegions {
    factory: Arc<dyn OwnStateFactory>,
    /// Looked up only, never iterated.
    regions: RwLock<FxHashMap<RegionId, Arc<OwnRegion>>>,
}

/// One region's machine.
pub(crate) struct OwnRegion {
    held: RwLock<Held>,
}

struct Held {
    machine: Box<dyn OwnState>,
    descriptor: Arc<RegionDescriptor>,
    applied: LogIndex,
    term: Term,
    records: OwnRecords,
    /// Where it is counted what is written, while it is.
    touches: Option<Touches>,
}

impl Held {
    fn source(&self, records: OwnRecords, write: SnapshotWrite) -> SnapshotSource {
        SnapshotSource {
            descriptor: Arc::clone(&self.descriptor),
            index: self.applied,
            term: self.term,
            absorbed: self.merge().absorbed,
            content: Content::Own(records, write),
        }
    }
}

impl OwnRegion {
    fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OwnRegions {
    pub(crate) fn new(factory: Arc<dyn OwnStateFactory>) -> Self {
        Self { factory, regions: RwLock::default() }
    }

    fn get(&self, region: RegionId) -> Option<Arc<OwnRegion>> {
        self.regions.read().unwrap_or_else(PoisonError::into_inner).get(&region).cloned()
    }

    /// Makes a region's machine from a snapshot.
    pub(crate) fn restore(
        &self,
        descriptor: &Arc<RegionDescriptor>,
        index: LogIndex,
        term: Term,
        chunks: body::Chunks<'_>,
    ) -> std::io::Result<MergeState> {
        let held = self.load(descriptor, index, term, chunks)?;
        let merge = held.merge();
        self.insert(held);
        Ok(merge)
    }

    fn insert(&self, held: Held) {
        let region = held.descriptor.id;
        let region_held = Arc::new(OwnRegion { held: RwLock::new(held) });
        self.regions.write().unwrap_or_else(PoisonError::into_inner).insert(region, region_held);
    }

    /// The region is gone from here.
    pub(super) fn remove(&self, region: RegionId) {
        self.regions.write().unwrap_or_else(PoisonError::into_inner).remove(&region);
    }

    /// A new region's first snapshot: no sessions, and what an empty machine writes.
    pub(crate) fn first(&self, descriptor: &Arc<RegionDescriptor>) -> SnapshotSource {
        let machine = self.factory.create(descriptor);
        SnapshotSource {
            descriptor: Arc::clone(descriptor),
            index: FIRST_INDEX,
            term: FIRST_TERM,
            absorbed: Arc::default(),
            content: Content::Own(OwnRecords::default(), machine.snapshot()),
        }
    }

    fn load(
        &self,
        descriptor: &Arc<RegionDescriptor>,
        index: LogIndex,
        term: Term,
        chunks: body::Chunks<'_>,
    ) -> std::io::Result<Held> {
        let (records, mut stream) = body::ChunkReader::own(chunks)?;
        let mut machine = self.factory.create(descriptor);
        machine.restore(&mut stream)?;
        Ok(Held { machine, descriptor: Arc::clone(descriptor), applied: index, term, records, touches: None })
    }

    pub(super) fn capture(&self, region: RegionId) -> Option<SnapshotSource> {
        let region = self.get(region)?;
        let held = region.read();
        Some(held.source(held.records.clone(), held.machine.snapshot()))
    }

    /// What a witness gets of a region: its records, and a machine that has seen nothing.
    pub(super) fn capture_bare(&self, region: RegionId) -> Option<SnapshotSource> {
        let region = self.get(region)?;
        let held = region.read();
        let records = OwnRecords { sessions: BTreeMap::new(), records: held.records.records.clone() };
        Some(held.source(records, self.factory.create(&held.descriptor).snapshot()))
    }

    /// The state of this instant as a consistency check compares it; inside `None`: the machine offers none.
    pub(super) fn capture_digest(&self, region: RegionId) -> Option<Option<SnapshotSource>> {
        let region = self.get(region)?;
        let held = region.read();
        let source = |write| held.source(held.records.clone(), write);
        Some(held.machine.digest().map(source))
    }

    /// Gives a region another descriptor and cuts its machine to the range of that; offline.
    pub(super) fn rewrite(
        &self,
        before: &KeyRange,
        becomes: &Arc<RegionDescriptor>,
        index: LogIndex,
        term: Term,
        records: Vec<(&'static [u8], Option<Bytes>)>,
    ) {
        let Some(region) = self.get(becomes.id) else { return };
        let mut held = region.write();
        if becomes.id != RegionId::ROOT && becomes.range.end != before.end {
            drop(held.machine.split_off(&becomes.range.end));
        }
        if becomes.id != RegionId::ROOT && becomes.range.start != before.start {
            held.machine = held.machine.split_off(&becomes.range.start);
        }
        (held.descriptor, held.applied, held.term) = (Arc::clone(becomes), index, term);
        for (name, record) in records {
            held.put_record(name, record);
        }
    }

    /// A record of a region itself.
    pub(super) fn record(&self, region: RegionId, name: &[u8]) -> Option<Bytes> {
        self.get(region)?.read().records.records.get(name).cloned()
    }

    /// Asks a region's machine how large it is, and where its bytes lie.
    pub(crate) fn survey(&self, survey: &mut Survey) {
        let Some(region) = self.get(survey.region) else { return survey.take_own(None, Vec::new()) };
        let held = region.read();
        let found = held.machine.size().map(|(bytes, keys)| Size { bytes, keys });
        survey.take_own(found, held.machine.sample(STRETCHES));
    }

    /// Answers a query, if the region is what the caller thinks it is.
    pub(crate) fn lookup(
        &self,
        store: StoreId,
        (region, epoch): (RegionId, Option<RegionEpoch>),
        query: &[u8],
        tallies: Option<&Tallies>,
    ) -> Result<Bytes, ReadError> {
        let held = self.get(region).ok_or(ReadError::UnknownRegion { region })?;
        let held = held.read();
        if !holds_data(&held.descriptor, store) {
            return Err(ReadError::UnknownRegion { region });
        }
        if epoch.is_some_and(|epoch| !EpochRule::COMMAND.admits(epoch, held.descriptor.epoch)) {
            return Err(ReadError::EpochMismatch { current: Arc::clone(&held.descriptor) });
        }
        if epoch.is_none() && held.records.records.contains_key(FROZEN) {
            // Its keys may have another owner by now, whose writes are not seen here (M1).
            return Err(ReadError::EpochMismatch { current: Arc::clone(&held.descriptor) });
        }
        if let Some(tallies) = tallies {
            let mut touches = tallies.touches();
            held.touch(query, &mut touches);
            tallies.add_reads(region, touches);
        }
        Ok(held.machine.lookup(&held.descriptor, query))
    }
}

pub(super) fn apply<R>(
    own: &OwnRegions,
    mut pass: Pass<'_>,
    tasks: Vec<ApplyTask<R>>,
    out: &mut AppliedBatch<R>,
) -> Result<(), ApplyError> {
    for task in tasks {
        let ApplyTask::Entries { handle, entries, replies } = task else { continue };
        let Some(last) = entries.last() else { continue };
        let cost = entries.iter().map(Entry::cost).sum();
        let mut done = Applied { handle, index: last.index, cost, memberships: Vec::new(), split: None, change: None };
        let mut replies = replies.into_iter().peekable();
        if let (Some(region), Some(progress)) = (own.get(handle.region), pass.regions.get(handle.region)) {
            let merge = progress.merge;
            let mut held = region.write();
            held.touches = pass.tallies.map(Tallies::touches);
            for entry in &entries {
                let reply = replies.next_if(|(index, _)| *index == entry.index).map(|(_, reply)| reply);
                let outcome = apply_entry(own, &mut held, &merge, entry, &mut pass, &mut done)?;
                if let Some(reply) = reply {
                    out.answer(reply, outcome);
                }
            }
            if let (Some(tallies), Some(touches)) = (pass.tallies, held.touches.take()) {
                tallies.add_writes(handle.region, touches);
            }
            pass.regions.insert(held.progress());
            if let (Some(change), Some(catalogue), Some(progress)) =
                (&done.change, pass.catalogue.as_deref_mut(), pass.regions.get_mut(handle.region))
            {
                note_change(catalogue, pass.unsynced, progress, change);
            }
            let region = pass.dirty.entry(handle.region).or_default();
            region.applied = held.applied;
            region.bytes += cost;
        }
        for (_, reply) in replies {
            out.answer(reply, Outcome::Uncertain);
        }
        out.push_applied(done);
    }
    Ok(())
}

fn apply_entry(
    own: &OwnRegions,
    held: &mut Held,
    merge: &MergeState,
    entry: &Entry,
    pass: &mut Pass<'_>,
    done: &mut Applied,
) -> Result<Outcome, ApplyError> {
    if entry.index <= held.applied {
        // A snapshot that was installed meanwhile includes it; whether with its answer cannot be told.
        if entry.kind == EntryKind::Membership {
            done.memberships.push((entry.index, Some(Arc::clone(&held.descriptor))));
        }
        return Ok(Outcome::Uncertain);
    }
    assert_eq!(entry.index, held.applied.next(), "entries are applied without a gap");
    let outcome = match entry.kind {
        EntryKind::Empty => Outcome::Done,
        EntryKind::Command if is_admin(entry) => {
            let decision = decide_admin(&Arc::clone(&held.descriptor), merge, entry, held)?;
            let outcome = decision.outcome();
            match decision {
                AdminDecision::Answer(_) => {}
                AdminDecision::Check { index } => pass.checks.push((done.handle, index)),
                AdminDecision::Split(parts) => done.split = Some(split(own, held, &parts, pass)),
                AdminDecision::Step(change) => {
                    held.descriptor = Arc::clone(change.region());
                    done.change = Some(change);
                }
                AdminDecision::Absorb { source, region, absorbed } => {
                    let tombstone = absorb(own, held, &source, entry.index, pass);
                    held.descriptor = Arc::clone(&region);
                    done.change = Some(RegionChange::Merged { region, absorbed, tombstone });
                }
            }
            outcome
        }
        EntryKind::Command => {
            let descriptor = Arc::clone(&held.descriptor);
            apply_command(held, &descriptor, merge.frozen.is_some(), entry)?
        }
        EntryKind::Membership => {
            let changed = apply_membership(&held.descriptor, merge.frozen.is_some(), entry)?;
            if let Some(descriptor) = &changed {
                held.descriptor = Arc::clone(descriptor);
                pass.members.push(Arc::clone(descriptor));
            }
            let outcome = membership_outcome(changed.as_ref(), &held.descriptor);
            done.memberships.push((entry.index, changed));
            outcome
        }
    };
    (held.applied, held.term) = (entry.index, entry.term);
    Ok(outcome)
}

/// Cuts a region's machine (C4); the last part is cut off first, so that each cut goes to the end of what is left.
fn split(own: &OwnRegions, held: &mut Held, parts: &[Arc<RegionDescriptor>], pass: &mut Pass<'_>) -> SplitDone {
    let Pass { catalogue: Some(catalogue), unsynced, .. } = pass else {
        unreachable!("invariant: a pass that may split holds the catalogue's lock")
    };
    let parent = Arc::clone(&parts[0]);
    catalogue.set_state(Arc::clone(&parent));
    let mut children = Vec::new();
    for child in parts[1..].iter().rev() {
        let machine = held.machine.split_off(&child.range.start);
        let adopted = catalogue.adopts(child);
        if adopted {
            let (applied, term) = (FIRST_INDEX, FIRST_TERM);
            // Sessions follow their keys; what the region notes of itself stays with it.
            let records = OwnRecords { sessions: held.records.sessions.clone(), records: BTreeMap::new() };
            let held = Held { machine, descriptor: Arc::clone(child), applied, term, records, touches: None };
            own.insert(held);
            catalogue.set_state(Arc::clone(child));
            catalogue.hold(child.id);
            unsynced.push(Arc::clone(child));
        }
        children.push((Arc::clone(child), adopted));
    }
    children.reverse();
    held.descriptor = Arc::clone(&parent);
    catalogue.hold(parent.id);
    unsynced.push(Arc::clone(&parent));
    SplitDone { parent, children }
}

/// Takes over a frozen neighbour's machine and sessions (G2).
fn absorb(
    own: &OwnRegions,
    held: &mut Held,
    source: &Arc<RegionDescriptor>,
    index: LogIndex,
    pass: &mut Pass<'_>,
) -> Tombstone {
    let Pass { catalogue: Some(catalogue), buried, .. } = pass else {
        unreachable!("invariant: a pass that may change a region holds the catalogue's lock")
    };
    if let Some(neighbour) = own.get(source.id) {
        let mut neighbour = neighbour.write();
        // Whoever still holds it sees an empty machine; nobody reads from a frozen one.
        let empty = own.factory.create(source);
        held.machine.absorb(std::mem::replace(&mut neighbour.machine, empty));
        let sessions = std::mem::take(&mut held.records.sessions);
        held.records.sessions = unite_sessions(sessions, neighbour.records.sessions.clone(), index);
    }
    own.remove(source.id);
    let tombstone = catalogue.tombstone_of(source.id, source, Cause::Merged, Default::default());
    catalogue.bury(source.id, tombstone.clone());
    buried.push(source.id);
    tombstone
}

pub(super) fn install(
    own: &OwnRegions,
    regions: &mut Regions,
    received: &dyn ReceivedSnapshots,
    from: StoreId,
    header: &SnapshotHeader,
    covered: &[Arc<RegionDescriptor>],
) -> Option<MergeState> {
    let progress = regions.get_mut(header.region).filter(|progress| progress.applied < header.index)?;
    // Loaded beside the old state, and then put in its place.
    let loaded = received
        .open(from, header)
        .and_then(|chunks| own.load(&header.descriptor, header.index, header.index_term, chunks));
    match loaded {
        Ok(held) => {
            *progress = held.progress();
            match own.get(header.region) {
                Some(region) => *region.write() = held,
                None => own.insert(held),
            }
            let merge = progress.merge.clone();
            // G3: what the region has absorbed is in its state.
            covered.iter().for_each(|gone| own.remove(gone.id));
            Some(merge)
        }
        Err(error) => {
            tracing::error!(region = %header.region, %error, "a received snapshot could not be installed");
            None
        }
    }
}

impl Held {
    /// What the region's own records say of merges.
    fn merge(&self) -> MergeState {
        let record = |name: &[u8]| self.records.records.get(name).cloned();
        MergeState::of_records(record(FROZEN), record(ABSORBED), record(FENCED))
    }

    /// Counts a command or a query as one key, if the machine does not tell which.
    fn touch(&self, request: &[u8], touches: &mut Touches) {
        match self.machine.key_of(request) {
            Some(key) => touches.note(|| key),
            None => touches.note_unknown(),
        }
    }

    fn progress(&self) -> Progress {
        // Snapshot files carry the mark for state of this form.
        let descriptor = Arc::clone(&self.descriptor);
        Progress { descriptor, applied: self.applied, term: self.term, installed: false, merge: self.merge() }
    }
}

impl RegionState for Held {
    fn session(&mut self, seq: SessionSeq) -> Result<Option<SessionRecord>, StateError> {
        Ok(self.records.sessions.get(&seq.session).cloned())
    }

    fn put_session(&mut self, seq: SessionSeq, record: &SessionRecord) -> Result<(), StateError> {
        let sessions = &mut self.records.sessions;
        sessions.insert(seq.session, record.clone());
        // Only the command that opens a session adds one.
        if seq.sequence == 0 {
            forget_surplus(sessions);
        }
        Ok(())
    }

    fn record(&mut self, name: &'static [u8]) -> Result<Option<Bytes>, StateError> {
        Ok(self.records.records.get(name).cloned())
    }

    fn put_record(&mut self, name: &'static [u8], record: Option<Bytes>) {
        match record {
            Some(record) => self.records.records.insert(Bytes::from_static(name), record),
            None => self.records.records.remove(name),
        };
    }

    fn run(&mut self, context: ApplyContext<'_>, command: &[u8]) -> Result<Bytes, StateError> {
        if let Some(mut touches) = self.touches.take() {
            self.touch(command, &mut touches);
            touches.bytes += command.len() as u64;
            self.touches = Some(touches);
        }
        Ok(self.machine.apply(context, command))
    }
}
