//! Applying to machines that hold their state themselves, one per region.
//!
//! The engine keeps the region's descriptor, applied index and session records beside the machine, under one lock, so that
//! a lookup sees all of one instant.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use multiraft_raft::{Entry, EntryKind, LogIndex, RegionDescriptor, RegionEpoch, RegionId, StoreId, Term};
use multiraft_storage::StateError;
use multiraft_transport::{SessionId, SessionSeq, SnapshotHeader};
use rustc_hash::FxHashMap;

use crate::apply::decide::{RegionState, apply_command, apply_membership};
use crate::apply::source::{Content, SnapshotSource};
use crate::apply::{AppliedBatch, ApplyEnd, ApplyError, Dirty, Progress, ReceivedSnapshots, body};
use crate::error::ReadError;
use crate::logic::{Applied, ApplyTask, Outcome, SnapshotInstalled};
use crate::machine::{ApplyContext, OwnState, OwnStateFactory};
use crate::region::command::EpochRule;
use crate::region::sessions::{MAX_SESSIONS, SessionRecord};

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
    sessions: BTreeMap<SessionId, SessionRecord>,
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
    ) -> std::io::Result<()> {
        let held = self.load(descriptor, index, term, chunks)?;
        let region = Arc::new(OwnRegion { held: RwLock::new(held) });
        self.regions.write().unwrap_or_else(PoisonError::into_inner).insert(descriptor.id, region);
        Ok(())
    }

    /// A new region's first snapshot: no sessions, and what an empty machine writes.
    pub(crate) fn first(&self, descriptor: &Arc<RegionDescriptor>) -> SnapshotSource {
        let machine = self.factory.create(descriptor);
        SnapshotSource {
            descriptor: Arc::clone(descriptor),
            index: LogIndex::ZERO,
            term: Term::ZERO,
            content: Content::Own(BTreeMap::new(), machine.snapshot()),
        }
    }

    fn load(
        &self,
        descriptor: &Arc<RegionDescriptor>,
        index: LogIndex,
        term: Term,
        chunks: body::Chunks<'_>,
    ) -> std::io::Result<Held> {
        let (sessions, mut stream) = body::ChunkReader::own(chunks)?;
        let mut machine = self.factory.create(descriptor);
        machine.restore(&mut stream)?;
        Ok(Held { machine, descriptor: Arc::clone(descriptor), applied: index, term, sessions })
    }

    pub(super) fn capture(&self, region: RegionId) -> Option<SnapshotSource> {
        let region = self.get(region)?;
        let held = region.read();
        Some(SnapshotSource {
            descriptor: Arc::clone(&held.descriptor),
            index: held.applied,
            term: held.term,
            content: Content::Own(held.sessions.clone(), held.machine.snapshot()),
        })
    }

    /// Answers a query, if the region is what the caller thinks it is.
    pub(crate) fn lookup(
        &self,
        region: RegionId,
        epoch: Option<RegionEpoch>,
        query: &[u8],
    ) -> Result<Bytes, ReadError> {
        let held = self.get(region).ok_or(ReadError::UnknownRegion { region })?;
        let held = held.read();
        if epoch.is_some_and(|epoch| !EpochRule::COMMAND.admits(epoch, held.descriptor.epoch)) {
            return Err(ReadError::EpochMismatch { current: Arc::clone(&held.descriptor) });
        }
        Ok(held.machine.lookup(&held.descriptor, query))
    }
}

pub(super) fn apply<R>(
    own: &OwnRegions,
    regions: &mut BTreeMap<RegionId, Progress>,
    dirty: &mut BTreeMap<RegionId, Dirty>,
    tasks: Vec<ApplyTask<R>>,
    received: &dyn ReceivedSnapshots,
    out: &mut AppliedBatch<R>,
) -> ApplyEnd<R> {
    for task in tasks {
        match task {
            ApplyTask::Entries { handle, entries, replies } => {
                let Some(last) = entries.last() else { continue };
                let cost = entries.iter().map(Entry::cost).sum();
                let mut done = Applied { handle, index: last.index, cost, memberships: Vec::new() };
                let mut replies = replies.into_iter().peekable();
                if let (Some(region), Some(progress)) = (own.get(handle.region), regions.get_mut(&handle.region)) {
                    let mut held = region.write();
                    for entry in &entries {
                        let reply = replies.next_if(|(index, _)| *index == entry.index).map(|(_, reply)| reply);
                        let outcome = match apply_entry(&mut held, entry, &mut done) {
                            Ok(outcome) => outcome,
                            Err(error) => return ApplyEnd::Failed(error),
                        };
                        if let Some(reply) = reply {
                            out.answer(reply, outcome);
                        }
                    }
                    progress.clone_from(&held.progress());
                    let region = dirty.entry(handle.region).or_default();
                    region.applied = held.applied;
                    region.bytes += cost;
                }
                for (_, reply) in replies {
                    out.answer(reply, Outcome::Uncertain);
                }
                out.applied.push(done);
            }
            ApplyTask::Install { handle, from, header } => {
                let installed = install(own, regions, received, from, &header);
                received.discard(from, &header);
                out.installed.push(SnapshotInstalled { handle, from, header, installed });
            }
        }
    }
    ApplyEnd::Done
}

fn apply_entry(held: &mut Held, entry: &Entry, done: &mut Applied) -> Result<Outcome, ApplyError> {
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
        EntryKind::Command => {
            let descriptor = Arc::clone(&held.descriptor);
            apply_command(held, &descriptor, entry)?
        }
        EntryKind::Membership => {
            let changed = apply_membership(&held.descriptor, entry)?;
            if let Some(descriptor) = &changed {
                held.descriptor = Arc::clone(descriptor);
            }
            done.memberships.push((entry.index, changed));
            Outcome::Done
        }
    };
    (held.applied, held.term) = (entry.index, entry.term);
    Ok(outcome)
}

fn install(
    own: &OwnRegions,
    regions: &mut BTreeMap<RegionId, Progress>,
    received: &dyn ReceivedSnapshots,
    from: StoreId,
    header: &SnapshotHeader,
) -> bool {
    let (Some(region), Some(progress)) = (own.get(header.region), regions.get_mut(&header.region)) else {
        return false;
    };
    if header.index <= progress.applied {
        return false;
    }
    // Loaded beside the old state, and then put in its place.
    let loaded = received
        .open(from, header)
        .and_then(|chunks| own.load(&header.descriptor, header.index, header.index_term, chunks));
    match loaded {
        Ok(held) => {
            *progress = held.progress();
            *region.write() = held;
            true
        }
        Err(error) => {
            tracing::error!(region = %header.region, %error, "a received snapshot could not be installed");
            false
        }
    }
}

impl Held {
    fn progress(&self) -> Progress {
        // Snapshot files carry the mark for state of this form.
        let descriptor = Arc::clone(&self.descriptor);
        Progress { descriptor, applied: self.applied, term: self.term, installed: false }
    }
}

impl RegionState for Held {
    fn session(&mut self, seq: SessionSeq) -> Result<Option<SessionRecord>, StateError> {
        Ok(self.sessions.get(&seq.session).cloned())
    }

    fn put_session(&mut self, seq: SessionSeq, record: &SessionRecord) -> Result<(), StateError> {
        self.sessions.insert(seq.session, record.clone());
        while self.sessions.len() > MAX_SESSIONS {
            let oldest = self.sessions.iter().min_by_key(|(id, record)| (record.last_used(), **id));
            let Some(oldest) = oldest.map(|(id, _)| *id) else { break };
            self.sessions.remove(&oldest);
        }
        Ok(())
    }

    fn run(&mut self, context: ApplyContext<'_>, command: &[u8]) -> Result<Bytes, StateError> {
        Ok(self.machine.apply(context, command))
    }
}
