//! Applying to the shared state store: one atomic write for a whole batch of regions.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{Entry, EntryKind, LogIndex, RegionDescriptor, RegionEpoch, RegionId, StoreId, Term};
use multiraft_storage::{StateBatch, StateError, StateStore, StateView};
use multiraft_transport::{SessionSeq, SnapshotHeader, decode_descriptor, encode_descriptor};

use crate::apply::backend::AppliedRegion;
use crate::apply::decide::{RegionState, apply_command, apply_membership};
use crate::apply::record::AppliedRecord;
use crate::apply::source::{Content, SnapshotSource};
use crate::apply::{AppliedBatch, ApplyEnd, ApplyError, Dirty, Progress, ReceivedSnapshots, body};
use crate::error::ReadError;
use crate::logic::{Applied, ApplyTask, Outcome, RegionHandle, ReplyTo, SnapshotInstalled};
use crate::machine::shared::drain_overlay;
use crate::machine::{ApplyContext, RegionView, StateMachine, StateTxn};
use crate::region::command::EpochRule;
use crate::region::keys;
use crate::region::sessions::{MAX_SESSIONS, SessionRecord};

/// The embedder's machine over the shared state store.
#[derive(Clone)]
pub(crate) struct SharedBackend {
    pub(crate) machine: Arc<dyn StateMachine>,
    pub(crate) store: Arc<dyn StateStore>,
}

type Overlay = BTreeMap<Bytes, Option<Bytes>>;

impl SharedBackend {
    pub(super) fn write(&self, batch: StateBatch) -> Result<(), StateError> {
        self.store.write(batch)
    }

    pub(super) fn apply<R>(
        &mut self,
        regions: &mut BTreeMap<RegionId, Progress>,
        dirty: &mut BTreeMap<RegionId, Dirty>,
        stalled: &mut Option<StateBatch>,
        tasks: Vec<ApplyTask<R>>,
        received: &dyn ReceivedSnapshots,
        out: &mut AppliedBatch<R>,
    ) -> ApplyEnd<R> {
        let mut tasks: VecDeque<_> = tasks.into();
        while !tasks.is_empty() {
            let mut overlay = Overlay::new();
            let mut batch = StateBatch::new();
            let view = self.store.view();
            while let Some(task) = tasks.pop_front_if(|task| matches!(task, ApplyTask::Entries { .. })) {
                let ApplyTask::Entries { handle, entries, replies } = task else { break };
                let is_durable = self.store.is_durable();
                let mut run = Run { machine: &*self.machine, view: &*view, overlay: &mut overlay, is_durable };
                if let Err(error) = run.entries(regions, dirty, &mut batch, handle, &entries, replies, out) {
                    return ApplyEnd::Failed(error);
                }
            }
            drop(view);
            drain_overlay(&mut overlay, &mut batch);
            match self.write_or_stall(batch, stalled) {
                Ok(()) => {}
                Err(StateError::NoSpace { .. }) if stalled.is_some() => {
                    return ApplyEnd::Stalled { rest: tasks.into() };
                }
                Err(error) => return ApplyEnd::Failed(error.into()),
            }
            // A write of its own, after what came before it.
            if let Some(ApplyTask::Install { handle, from, header }) = tasks.pop_front() {
                let installed = match self.install(regions, received, from, &header) {
                    Ok(installed) => installed,
                    Err(error) => return ApplyEnd::Failed(error.into()),
                };
                received.discard(from, &header);
                out.installed.push(SnapshotInstalled { handle, from, header, installed });
            }
        }
        ApplyEnd::Done
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

    /// Replaces a region's state, durably, in one atomic write; returns whether it did.
    ///
    /// # Errors
    /// The state store failed, and what it holds now is not certain.
    fn install(
        &self,
        regions: &mut BTreeMap<RegionId, Progress>,
        received: &dyn ReceivedSnapshots,
        from: StoreId,
        header: &SnapshotHeader,
    ) -> Result<bool, StateError> {
        let Some(progress) = regions.get_mut(&header.region).filter(|progress| progress.applied < header.index) else {
            return Ok(false);
        };
        let batch = match self.replacement(&progress.descriptor, received, from, header) {
            Ok(batch) => batch,
            Err(error) => {
                tracing::error!(region = %header.region, %error, "a received snapshot could not be read");
                return Ok(false);
            }
        };
        match self.store.write(batch).and_then(|()| self.store.flush()) {
            Ok(()) => {}
            Err(StateError::NoSpace { path }) => {
                tracing::error!(region = %header.region, path, "no space to install a received snapshot");
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        *progress = Progress {
            descriptor: Arc::clone(&header.descriptor),
            applied: header.index,
            term: header.index_term,
            installed: true,
        };
        Ok(true)
    }

    fn replacement(
        &self,
        old: &RegionDescriptor,
        received: &dyn ReceivedSnapshots,
        from: StoreId,
        header: &SnapshotHeader,
    ) -> io::Result<StateBatch> {
        let mut batch = StateBatch::new();
        for range in [&old.range, &header.descriptor.range] {
            if header.region != RegionId::ROOT {
                let (start, end) = keys::data_range(range);
                batch.delete_range(start, end);
            }
        }
        let (start, end) = keys::sessions(header.region);
        batch.delete_range(start, end);
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
    ) -> Result<SnapshotSource, StateError> {
        let (start, end) = keys::sessions(descriptor.id);
        let mut parts = vec![self.store.snapshot(&start, &end)?];
        if descriptor.id != RegionId::ROOT {
            let (start, end) = keys::data_range(&descriptor.range);
            parts.push(self.store.snapshot(&start, &end)?);
        }
        Ok(SnapshotSource { descriptor: Arc::clone(descriptor), index, term, content: Content::Shared(parts) })
    }

    /// Puts a snapshot file's content back into a volatile store, at start.
    pub(crate) fn restore(
        &self,
        descriptor: &RegionDescriptor,
        applied: AppliedRecord,
        chunks: body::Chunks<'_>,
    ) -> io::Result<()> {
        let mut batch = StateBatch::new();
        put_stream(&mut batch, chunks)?;
        put_region(&mut batch, descriptor, applied);
        self.store.write(batch).map_err(io::Error::other)
    }

    /// All regions that the store knows, in order of id, with what they have applied.
    pub(crate) fn regions(&self) -> Result<Vec<AppliedRegion>, StateError> {
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
                regions.push(AppliedRegion { descriptor, index, term, installed });
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
    region: RegionId,
    epoch: Option<RegionEpoch>,
    query: &[u8],
) -> Result<Bytes, ReadError> {
    let state = |error: StateError| ReadError::State { reason: error.to_string() };
    let view = backend.store.view();
    let stored = view.get(&keys::descriptor(region)).map_err(state)?;
    let descriptor = stored.and_then(|stored| decode_descriptor(&stored).ok());
    let Some(descriptor) = descriptor else {
        return Err(ReadError::UnknownRegion { region });
    };
    if epoch.is_some_and(|epoch| !EpochRule::COMMAND.admits(epoch, descriptor.epoch)) {
        return Err(ReadError::EpochMismatch { current: Arc::new(descriptor) });
    }
    backend.machine.lookup(&RegionView::new(&*view, &descriptor), query).map_err(state)
}

/// One pass over entries on one view.
struct Run<'a> {
    machine: &'a dyn StateMachine,
    view: &'a dyn StateView,
    overlay: &'a mut Overlay,
    is_durable: bool,
}

impl Run<'_> {
    #[allow(clippy::too_many_arguments, reason = "one call site; the parts have different owners")]
    fn entries<R>(
        &mut self,
        regions: &mut BTreeMap<RegionId, Progress>,
        dirty: &mut BTreeMap<RegionId, Dirty>,
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
        let mut done = Applied { handle, index: last.index, cost, memberships: Vec::new() };
        let mut replies = replies.into_iter().peekable();
        if let Some(progress) = regions.get_mut(&handle.region) {
            for entry in entries {
                let reply = replies.next_if(|(index, _)| *index == entry.index).map(|(_, reply)| reply);
                let outcome = self.entry(progress, entry, batch, &mut done)?;
                if let Some(reply) = reply {
                    out.answer(reply, outcome);
                }
            }
            // A volatile store starts from snapshot files, which carry the index themselves.
            if self.is_durable {
                let Progress { applied: index, term, installed, .. } = *progress;
                let record = AppliedRecord { index, term, installed };
                self.overlay.insert(keys::applied(handle.region), Some(record.encode()));
            }
            let region = dirty.entry(handle.region).or_default();
            region.applied = progress.applied;
            region.bytes += cost;
        }
        for (_, reply) in replies {
            out.answer(reply, Outcome::Uncertain);
        }
        out.applied.push(done);
        Ok(())
    }

    fn entry(
        &mut self,
        progress: &mut Progress,
        entry: &Entry,
        batch: &mut StateBatch,
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
            EntryKind::Command => {
                let descriptor = Arc::clone(&progress.descriptor);
                let mut state = SharedState {
                    machine: self.machine,
                    view: self.view,
                    overlay: self.overlay,
                    region: descriptor.id,
                };
                apply_command(&mut state, &descriptor, entry)?
            }
            EntryKind::Membership => {
                let changed = apply_membership(&progress.descriptor, entry)?;
                if let Some(descriptor) = &changed {
                    batch.put(keys::descriptor(descriptor.id), stored_descriptor(descriptor));
                    progress.descriptor = Arc::clone(descriptor);
                }
                done.memberships.push((entry.index, changed));
                Outcome::Done
            }
        };
        (progress.applied, progress.term, progress.installed) = (entry.index, entry.term, false);
        Ok(outcome)
    }
}

/// One region within the pass.
struct SharedState<'a> {
    machine: &'a dyn StateMachine,
    view: &'a dyn StateView,
    overlay: &'a mut Overlay,
    region: RegionId,
}

impl SharedState<'_> {
    fn stored(&self, key: &Bytes) -> Result<Option<Bytes>, StateError> {
        match self.overlay.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.view.get(key),
        }
    }

    /// Forgets the least recently used session when there is one too many.
    fn forget_oldest(&mut self) -> Result<(), StateError> {
        let (start, end) = keys::sessions(self.region);
        let mut all: BTreeMap<Bytes, Bytes> = self.view.scan(&start, &end, usize::MAX)?.into_iter().collect();
        for (key, value) in self.overlay.range(start..end) {
            match value {
                Some(value) => all.insert(key.clone(), value.clone()),
                None => all.remove(key),
            };
        }
        while all.len() > MAX_SESSIONS {
            let age =
                |stored: &Bytes| SessionRecord::decode(stored).map_or(LogIndex::ZERO, |record| record.last_used());
            let Some(oldest) = all.iter().min_by_key(|(key, stored)| (age(stored), (*key).clone())) else { break };
            let oldest = oldest.0.clone();
            all.remove(&oldest);
            self.overlay.insert(oldest, None);
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
        self.overlay.insert(keys::session(self.region, seq.session), Some(record.encode()));
        // Only the command that opens a session adds one.
        if seq.sequence == 0 { self.forget_oldest() } else { Ok(()) }
    }

    fn run(&mut self, context: ApplyContext<'_>, command: &[u8]) -> Result<Bytes, StateError> {
        let mut txn = StateTxn::new(self.view, self.overlay, context.region);
        self.machine.apply(context, command, &mut txn)
    }
}
