//! Applying to the shared state store: one atomic write for a whole batch of regions.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{Entry, EntryKind, LogIndex, Payload, RegionDescriptor, RegionEpoch, RegionId, StoreId, Term};
use multiraft_storage::{StateBatch, StateError, StateStore, StateView};
use multiraft_transport::{SessionId, SessionSeq, SnapshotHeader, decode_descriptor, encode_descriptor};

use crate::apply::backend::AppliedRegion;
use crate::apply::changes::{put_absorb, put_split, put_step};
use crate::apply::decide::{
    AdminDecision, RegionState, apply_command, apply_membership, decide_admin, is_admin, membership_outcome,
};
use crate::apply::lag::changes_nothing;
use crate::apply::record::AppliedRecord;
use crate::apply::regions::{Progress, Regions};
use crate::apply::source::{Content, SnapshotSource};
use crate::apply::{AppliedBatch, ApplyError, Cause, Pass, ReceivedSnapshots, Tombstone, body};
use crate::error::ReadError;
use crate::logic::{Applied, ApplyTask, Outcome, RegionHandle, ReplyTo};
use crate::machine::overlay::Overlay;
use crate::machine::{ApplyContext, RegionView, StateMachine, StateTxn};
use crate::measure::{Survey, Tallies, Touches};
use crate::region::check::FENCED;
use crate::region::command::EpochRule;
use crate::region::holds_data;
use crate::region::keys;
use crate::region::merge::{ABSORBED, Absorbed, FROZEN, MergeState};
use crate::region::sessions::{FORGOTTEN, MAX_SESSIONS, SessionRecord, forget_surplus};

/// The embedder's machine over the shared state store.
#[derive(Clone)]
pub(crate) struct SharedBackend {
    pub(crate) machine: Arc<dyn StateMachine>,
    pub(crate) store: Arc<dyn StateStore>,
}

/// How much a survey reads at a time.
const SURVEY_CHUNK_BYTES: usize = 64 << 10;

impl SharedBackend {
    pub(super) fn write(&self, batch: StateBatch) -> Result<(), StateError> {
        self.store.write(batch)
    }

    pub(super) fn apply<R>(
        &mut self,
        mut pass: Pass<'_>,
        stalled: &mut Option<StateBatch>,
        tasks: Vec<ApplyTask<R>>,
        out: &mut AppliedBatch<R>,
    ) -> Result<(), ApplyError> {
        let mut overlay = Overlay::default();
        let mut batch = StateBatch::new();
        let view = self.store.view();
        let is_durable = self.store.is_durable();
        let mut change = None;
        for task in tasks {
            let ApplyTask::Entries { handle, entries, replies } = task else { continue };
            let mut run = Run {
                machine: &*self.machine,
                view: &*view,
                overlay: &mut overlay,
                is_durable,
                store: pass.store,
                change: &mut change,
            };
            run.entries(&mut pass, &mut batch, handle, &entries, replies, out)?;
        }
        overlay.drain_into(&mut batch);
        match change {
            Some(AdminDecision::Split(parts)) => put_split(&mut batch, &*view, &mut pass, parts, out)?,
            Some(AdminDecision::Step(change)) => put_step(&mut batch, &mut pass, change, out),
            Some(AdminDecision::Absorb { source, region, absorbed }) => {
                put_absorb(&mut batch, &*view, &mut pass, (&source, region, absorbed), out)?;
            }
            Some(AdminDecision::Check { index }) => {
                pass.checks.extend(out.last_applied().map(|done| (done.handle, index)));
            }
            Some(AdminDecision::Answer(_)) | None => {}
        }
        drop(view);
        Ok(self.write_or_stall(batch, stalled)?)
    }

    fn write_or_stall(&self, batch: StateBatch, stalled: &mut Option<StateBatch>) -> Result<(), StateError> {
        if batch.is_empty() {
            return Ok(());
        }
        if !self.store.is_durable() {
            return self.store.write(batch);
        }
        let kept = batch.clone();
        self.store.write(batch).inspect_err(|_| *stalled = Some(kept))
    }

    /// Replaces a region's state, durably, in one atomic write; tells how it then stands with merges, if it did.
    ///
    /// # Errors
    /// The state store failed, and what it holds now is not certain.
    pub(super) fn install(
        &self,
        regions: &mut Regions,
        received: &dyn ReceivedSnapshots,
        from: StoreId,
        header: &SnapshotHeader,
        covered: (&[Arc<RegionDescriptor>], &[Tombstone]),
    ) -> Result<Option<MergeState>, StateError> {
        let Some(progress) = regions.get_mut(header.region).filter(|progress| progress.applied < header.index) else {
            return Ok(None);
        };
        // A replica without a state owns no keys: those of its descriptor may be another's.
        let old = (progress.applied > LogIndex::ZERO).then(|| Arc::clone(&progress.descriptor));
        let batch = match self.replacement(old.as_deref(), received, from, header, covered) {
            Ok(batch) => batch,
            Err(error) => {
                tracing::error!(region = %header.region, %error, "a received snapshot could not be read");
                return Ok(None);
            }
        };
        match self.store.write(batch).and_then(|()| self.store.flush()) {
            Ok(()) => {}
            Err(StateError::NoSpace { path }) => {
                tracing::error!(region = %header.region, path, "no space to install a received snapshot");
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        *progress = Progress {
            descriptor: Arc::clone(&header.descriptor),
            applied: header.index,
            term: header.index_term,
            installed: true,
            merge: self.merge_state(header.region)?,
        };
        Ok(Some(progress.merge.clone()))
    }

    /// A record of a region itself.
    pub(super) fn record(&self, region: RegionId, name: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.store.view().get(&keys::record(region, name))
    }

    /// What a region's own records say of merges.
    fn merge_state(&self, region: RegionId) -> Result<MergeState, StateError> {
        let view = self.store.view();
        let record = |name| view.get(&keys::record(region, name));
        Ok(MergeState::of_records(record(FROZEN)?, record(ABSORBED)?, record(FENCED)?))
    }

    fn replacement(
        &self,
        old: Option<&RegionDescriptor>,
        received: &dyn ReceivedSnapshots,
        from: StoreId,
        header: &SnapshotHeader,
        (covered, tombstones): (&[Arc<RegionDescriptor>], &[Tombstone]),
    ) -> io::Result<StateBatch> {
        let mut batch = StateBatch::new();
        // G3: what the region has absorbed goes in the same write.
        for (gone, tombstone) in covered.iter().zip(tombstones) {
            let ranges = [keys::data_range(&gone.range), keys::sessions(gone.id), keys::records(gone.id)];
            ranges.into_iter().for_each(|(start, end)| batch.delete_range(start, end));
            batch.delete(keys::applied(gone.id));
            batch.delete(keys::descriptor(gone.id));
            batch.put(keys::tombstone(gone.id), tombstone.encode());
        }
        for range in old.map(|old| &old.range).into_iter().chain([&header.descriptor.range]) {
            if header.region != RegionId::ROOT {
                let (start, end) = keys::data_range(range);
                batch.delete_range(start, end);
            }
        }
        for (start, end) in [keys::sessions(header.region), keys::records(header.region)] {
            batch.delete_range(start, end);
        }
        put_stream(&mut batch, received.open(from, header)?)?;
        let applied = AppliedRecord { index: header.index, term: header.index_term, installed: true };
        put_region(&mut batch, &header.descriptor, applied);
        Ok(batch)
    }

    pub(super) fn capture(
        &self,
        descriptor: &Arc<RegionDescriptor>,
        index: LogIndex,
        term: Term,
        absorbed: &Arc<Absorbed>,
    ) -> Result<SnapshotSource, StateError> {
        let (start, end) = keys::sessions(descriptor.id);
        let mut parts = vec![self.store.snapshot(&start, &end)?];
        let (start, end) = keys::records(descriptor.id);
        parts.push(self.store.snapshot(&start, &end)?);
        if descriptor.id != RegionId::ROOT {
            let (start, end) = keys::data_range(&descriptor.range);
            parts.push(self.store.snapshot(&start, &end)?);
        }
        let (descriptor, absorbed) = (Arc::clone(descriptor), Arc::clone(absorbed));
        Ok(SnapshotSource { descriptor, index, term, absorbed, content: Content::Shared(parts) })
    }

    /// What a witness gets of a region: its records.
    pub(super) fn capture_bare(
        &self,
        descriptor: &Arc<RegionDescriptor>,
        index: LogIndex,
        term: Term,
        absorbed: &Arc<Absorbed>,
    ) -> Result<SnapshotSource, StateError> {
        let (start, end) = keys::records(descriptor.id);
        let content = Content::Shared(vec![self.store.snapshot(&start, &end)?]);
        let (descriptor, absorbed) = (Arc::clone(descriptor), Arc::clone(absorbed));
        Ok(SnapshotSource { descriptor, index, term, absorbed, content })
    }

    /// Reads on in a region's range, some bytes and at least one chunk; whether that was the rest of it.
    pub(super) fn survey(&self, survey: &mut Survey, bytes: usize) -> Result<bool, StateError> {
        let (start, end) = keys::data_range(&survey.range);
        let from = survey.next.clone().unwrap_or(start);
        // Of this instant for as long as it takes to read so much: what is counted need not be of one moment.
        let mut snapshot = self.store.snapshot(&from, &end)?;
        let mut read = 0;
        while read < bytes {
            let pairs = snapshot.next_chunk(SURVEY_CHUNK_BYTES)?;
            let Some((last, _)) = pairs.last() else { return Ok(true) };
            survey.next = Some([last, &[0][..]].concat().into());
            for (key, value) in &pairs {
                let size = (key.len() - 1 + value.len()) as u64;
                survey.take(&keys::user(key), size);
                read += key.len() + value.len();
            }
        }
        Ok(false)
    }

    /// Puts a snapshot file's content back into a volatile store, at start.
    pub(crate) fn restore(
        &self,
        descriptor: &RegionDescriptor,
        applied: AppliedRecord,
        chunks: body::Chunks<'_>,
    ) -> io::Result<MergeState> {
        let mut batch = StateBatch::new();
        put_stream(&mut batch, chunks)?;
        put_region(&mut batch, descriptor, applied);
        self.store.write(batch).map_err(io::Error::other)?;
        self.merge_state(descriptor.id).map_err(io::Error::other)
    }

    /// All tombstones.
    pub(super) fn tombstones(&self) -> Result<BTreeMap<RegionId, Tombstone>, StateError> {
        let (start, end) = keys::all_tombstones();
        let stored = self.store.view().scan(&start, &end, usize::MAX)?;
        let damaged =
            || StateError::Damaged { path: "state store".to_owned(), reason: "a tombstone cannot be read".to_owned() };
        stored
            .iter()
            .map(|(_, stored)| {
                let tombstone = Tombstone::decode(stored).ok_or_else(damaged)?;
                Ok((tombstone.descriptor.id, tombstone))
            })
            .collect()
    }

    /// Whether the making of the first regions was begun and not finished.
    pub(super) fn is_being_made(&self) -> Result<bool, StateError> {
        Ok(self.store.view().get(&keys::making())?.is_some())
    }

    /// All regions that the store knows, in order of id, with what they have applied.
    pub(crate) fn regions(&self) -> Result<Vec<AppliedRegion>, StateError> {
        if self.is_being_made()? {
            let reason = "the first regions were not all made: start the store with the bootstrap that it was first started with";
            return Err(StateError::Damaged { path: "state store".to_owned(), reason: reason.to_owned() });
        }
        let view = self.store.view();
        let (mut start, end) = keys::all_descriptors();
        let mut regions = Vec::new();
        loop {
            let page = view.scan(&start, &end, 1024)?;
            let Some((last, _)) = page.last() else { break };
            let mut next = last.to_vec();
            next.push(0);
            for (_, stored) in &page {
                let Some(descriptor) = decode_descriptor(stored).ok().map(Arc::new) else {
                    return Err(StateError::Damaged {
                        path: "state store".to_owned(),
                        reason: "a region descriptor cannot be read".to_owned(),
                    });
                };
                let applied = view.get(&keys::applied(descriptor.id))?;
                let applied = applied.and_then(|stored| AppliedRecord::decode(&stored)).unwrap_or_default();
                let AppliedRecord { index, term, installed } = applied;
                let record = |name| view.get(&keys::record(descriptor.id, name));
                let merge = MergeState::of_records(record(FROZEN)?, record(ABSORBED)?, record(FENCED)?);
                regions.push(AppliedRegion { descriptor, index, term, installed, merge });
            }
            start = next.into();
        }
        Ok(regions)
    }
}

/// Adds what a snapshot holds to a batch.
fn put_stream(batch: &mut StateBatch, chunks: body::Chunks<'_>) -> io::Result<()> {
    let mut reader = body::ChunkReader::shared(chunks)?;
    while let Some((key, value)) = reader.pair()? {
        batch.put(key, value);
    }
    Ok(())
}

/// Adds a region's own records to a batch.
pub(crate) fn put_region(batch: &mut StateBatch, descriptor: &RegionDescriptor, applied: AppliedRecord) {
    batch.put(keys::descriptor(descriptor.id), stored_descriptor(descriptor));
    batch.put(keys::applied(descriptor.id), applied.encode());
}

/// The stored form of a descriptor.
pub(crate) fn stored_descriptor(descriptor: &RegionDescriptor) -> Bytes {
    let mut out = Vec::with_capacity(64);
    encode_descriptor(descriptor, &mut out);
    out.into()
}

/// Answers a query from the store's state of this instant, if the region is what the caller thinks it is.
pub(crate) fn lookup(
    backend: &SharedBackend,
    store: StoreId,
    (region, epoch): (RegionId, Option<RegionEpoch>),
    query: &[u8],
    tallies: Option<&Tallies>,
) -> Result<Bytes, ReadError> {
    let state = |error: StateError| ReadError::State { reason: error.to_string() };
    let view = backend.store.view();
    let stored = view.get(&keys::descriptor(region)).map_err(state)?;
    let descriptor = stored.and_then(|stored| decode_descriptor(&stored).ok());
    let Some(descriptor) = descriptor.filter(|descriptor| holds_data(descriptor, store)) else {
        return Err(ReadError::UnknownRegion { region });
    };
    if epoch.is_some_and(|epoch| !EpochRule::COMMAND.admits(epoch, descriptor.epoch)) {
        return Err(ReadError::EpochMismatch { current: Arc::new(descriptor) });
    }
    if epoch.is_none() && view.get(&keys::record(region, FROZEN)).map_err(state)?.is_some() {
        // Its keys may have another owner by now, whose writes are not seen here (M1).
        return Err(ReadError::EpochMismatch { current: Arc::new(descriptor) });
    }
    let touches = tallies.map(|tallies| RefCell::new(tallies.touches()));
    let found = backend.machine.lookup(&RegionView::new(&*view, &descriptor, touches.as_ref()), query);
    drop(view);
    if let (Some(tallies), Some(touches)) = (tallies, touches) {
        tallies.add_reads(region, touches.into_inner());
    }
    found.map_err(state)
}

/// One pass over entries on one view.
struct Run<'a> {
    machine: &'a dyn StateMachine,
    view: &'a dyn StateView,
    overlay: &'a mut Overlay,
    is_durable: bool,
    store: StoreId,
    /// What the pass ends with, if its last entry changes the region.
    change: &'a mut Option<AdminDecision>,
}

impl Run<'_> {
    #[allow(clippy::too_many_arguments, reason = "one call site; the parts have different owners")]
    fn entries<R>(
        &mut self,
        pass: &mut Pass<'_>,
        batch: &mut StateBatch,
        handle: RegionHandle,
        entries: &[Entry],
        replies: Vec<(LogIndex, ReplyTo<R>)>,
        out: &mut AppliedBatch<R>,
    ) -> Result<(), ApplyError> {
        let Some(last) = entries.last() else {
            return Ok(());
        };
        let cost = entries.iter().map(Entry::cost).sum();
        let mut done = Applied { handle, index: last.index, cost, memberships: Vec::new(), split: None, change: None };
        let mut replies = replies.into_iter().peekable();
        let mut touches = pass.tallies.map(Tallies::touches);
        if let Some(progress) = pass.regions.get_mut(handle.region) {
            let lags = changes_nothing(progress, entries);
            self.overlay.reserve(entries.len());
            for entry in entries {
                let reply = replies.next_if(|(index, _)| *index == entry.index).map(|(_, reply)| reply);
                let context = (&mut *pass.members, touches.as_mut());
                let outcome = self.entry(progress, entry, batch, context, &mut done)?;
                if let Some(reply) = reply {
                    out.answer(reply, outcome);
                }
            }
            if lags {
                *pass.lagging.entry(handle.region).or_default() += cost;
            } else {
                // A volatile store starts from snapshot files, which carry the index themselves.
                if self.is_durable {
                    let Progress { applied: index, term, installed, .. } = *progress;
                    let record = AppliedRecord { index, term, installed };
                    self.overlay.set(keys::applied(handle.region), Some(record.encode().into()));
                }
                let region = pass.dirty.entry(handle.region).or_default();
                region.applied = progress.applied;
                region.bytes += cost + pass.lagging.remove(&handle.region).unwrap_or_default();
            }
        }
        if let (Some(tallies), Some(touches)) = (pass.tallies, touches) {
            tallies.add_writes(handle.region, touches);
        }
        for (_, reply) in replies {
            out.answer(reply, Outcome::Uncertain);
        }
        out.push_applied(done);
        Ok(())
    }

    fn entry(
        &mut self,
        progress: &mut Progress,
        entry: &Entry,
        batch: &mut StateBatch,
        (members, touches): (&mut Vec<Arc<RegionDescriptor>>, Option<&mut Touches>),
        done: &mut Applied,
    ) -> Result<Outcome, ApplyError> {
        if entry.index <= progress.applied {
            // A snapshot that was installed meanwhile includes it; whether with its answer cannot be told.
            if entry.kind == EntryKind::Membership {
                done.memberships.push((entry.index, Some(Arc::clone(&progress.descriptor))));
            }
            return Ok(Outcome::Uncertain);
        }
        assert_eq!(entry.index, progress.applied.next(), "entries are applied without a gap");
        let outcome = match entry.kind {
            EntryKind::Empty => Outcome::Done,
            EntryKind::Command if is_admin(entry) => {
                let descriptor = Arc::clone(&progress.descriptor);
                let mut state = SharedState {
                    machine: self.machine,
                    view: self.view,
                    overlay: self.overlay,
                    region: descriptor.id,
                    touches: None,
                };
                let decision = decide_admin(&descriptor, &progress.merge, entry, &mut state)?;
                let outcome = decision.outcome();
                *self.change = Some(decision);
                outcome
            }
            EntryKind::Command => {
                let descriptor = Arc::clone(&progress.descriptor);
                let mut state = SharedState {
                    machine: self.machine,
                    view: self.view,
                    overlay: self.overlay,
                    region: descriptor.id,
                    touches,
                };
                apply_command(&mut state, &descriptor, progress.merge.frozen.is_some(), entry)?
            }
            EntryKind::Membership => {
                let changed = apply_membership(&progress.descriptor, progress.merge.frozen.is_some(), entry)?;
                if let Some(descriptor) = &changed {
                    batch.put(keys::descriptor(descriptor.id), stored_descriptor(descriptor));
                    self.leave_tombstone(progress, descriptor, entry, batch);
                    progress.descriptor = Arc::clone(descriptor);
                    members.push(Arc::clone(descriptor));
                }
                let outcome = membership_outcome(changed.as_ref(), &progress.descriptor);
                done.memberships.push((entry.index, changed));
                outcome
            }
        };
        (progress.applied, progress.term, progress.installed) = (entry.index, entry.term, false);
        Ok(outcome)
    }
}

impl Run<'_> {
    /// A replica that applies its own removal leaves its tombstone in the same write (G1): after a restart nothing else would
    /// tell which replica the state was of, and that one must not come to be again with nothing of what it promised.
    fn leave_tombstone(&self, before: &Progress, after: &Arc<RegionDescriptor>, entry: &Entry, batch: &mut StateBatch) {
        let own = before.descriptor.replica_on(self.store).filter(|own| after.replica(own.id).is_none());
        if let Some(own) = own.filter(|_| self.is_durable) {
            let tombstone = Tombstone {
                replica: own.id,
                descriptor: Arc::clone(after),
                cause: Cause::Removed,
                committed: (entry.index, entry.term),
                version: before.descriptor.epoch.version,
                absorbed: Absorbed::clone(&before.merge.absorbed),
            };
            batch.put(keys::tombstone(after.id), tombstone.encode());
        }
    }
}

/// One region within the pass.
struct SharedState<'a> {
    machine: &'a dyn StateMachine,
    view: &'a dyn StateView,
    overlay: &'a mut Overlay,
    region: RegionId,
    /// Where it is counted what is written, if it is.
    touches: Option<&'a mut Touches>,
}

impl SharedState<'_> {
    fn stored(&self, key: &Bytes) -> Result<Option<Bytes>, StateError> {
        match self.overlay.get(key) {
            Some(value) => Ok(value),
            None => self.view.get(key),
        }
    }

    /// Forgets the least recently used session when there is one too many.
    fn forget_oldest(&mut self) -> Result<(), StateError> {
        let (start, end) = keys::sessions(self.region);
        let mut all: BTreeMap<Bytes, Bytes> = self.view.scan(&start, &end, usize::MAX)?.into_iter().collect();
        for (key, value) in self.overlay.range(&start, &end) {
            match value {
                Some(value) => all.insert(key, value),
                None => all.remove(&key),
            };
        }
        if all.len() <= MAX_SESSIONS {
            return Ok(());
        }
        let decoded = all.iter().filter_map(|(key, stored)| {
            Some((keys::session_of(key)?, SessionRecord::decode(stored).unwrap_or_default()))
        });
        let mut sessions: BTreeMap<SessionId, SessionRecord> = decoded.collect();
        let forgotten = forget_surplus(&mut sessions);
        if let Some(mark) = sessions.get(&FORGOTTEN).filter(|_| !forgotten.is_empty()) {
            self.overlay.set(keys::session(self.region, FORGOTTEN), Some(mark.encode().into()));
        }
        for id in forgotten {
            self.overlay.set(keys::session(self.region, id), None);
        }
        Ok(())
    }
}

impl RegionState for SharedState<'_> {
    fn session(&mut self, seq: SessionSeq) -> Result<Option<SessionRecord>, StateError> {
        let stored = self.stored(&keys::session(self.region, seq.session))?;
        Ok(stored.and_then(|stored| SessionRecord::decode(&stored)))
    }

    fn put_session(&mut self, seq: SessionSeq, record: &SessionRecord) -> Result<(), StateError> {
        self.overlay.set(keys::session(self.region, seq.session), Some(record.encode().into()));
        // Only the command that opens a session adds one.
        if seq.sequence == 0 { self.forget_oldest() } else { Ok(()) }
    }

    fn record(&mut self, name: &'static [u8]) -> Result<Option<Bytes>, StateError> {
        self.stored(&keys::record(self.region, name))
    }

    fn put_record(&mut self, name: &'static [u8], record: Option<Bytes>) {
        self.overlay.set(keys::record(self.region, name), record.map(Payload::from));
    }

    fn run(&mut self, context: ApplyContext<'_>, command: &[u8]) -> Result<Bytes, StateError> {
        let mut txn = StateTxn::new(self.view, self.overlay, context.region, self.touches.as_deref_mut());
        self.machine.apply(context, command, &mut txn)
    }
}
