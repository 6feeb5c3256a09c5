//! Three stores in one thread: for each a worker, its applier and its log, with frames between them. The first leads every
//! region.
//!
//! Driven as the simulator drives them, but on a real directory, and on clocks that stand still while anything is counted: so
//! there are no heartbeats, and a write is what it is on its way: turns, an append of the log, frames, an apply.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::apply::{AppliedRegion, Applier, ApplyEnd, Backend};
use multiraft::assembly::{assemble, bootstrap_regions};
use multiraft::logic::{
    ApplyTask, BEATS_AT_ONCE, BeatMerger, Input, MERGE_TIMEOUT, Outcome, Outgoing, TurnOutput, Worker, WorkerConfig,
};
use multiraft::snapshots::{Received, SnapshotFiles};
use multiraft::{Config, Incarnation, RegionId, StoreId};
use multiraft_raft::Time;
use multiraft_storage::{LogBatch, LogOptions, LogWriter, MemStore, RealDisk};
use multiraft_transport::{Frame, FrameBuilder, Limits, PeerMessage, decode_frame};

use super::count::count_if;
use crate::cluster::{Problem, STORES};
use crate::keyspace::{DONE, KeySpace, PutMap, value};

/// The store that leads.
const LEADER: usize = 0;
/// A step of the leader's clock while it is elected.
const STEP: Duration = Duration::from_millis(20);
/// After so many steps it should lead.
const STEPS_MAX: u32 = 5_000;
/// As long as anybody waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is counted of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The turns of the leader's worker.
    LeaderTurns,
    /// The turns of the second store's worker, which follows.
    FollowerTurns,
    /// What the leader sends to one follower becomes frames.
    Encode,
    /// And is read there.
    Decode,
    /// The leader's log takes its batches.
    Log,
    /// The leader's applier carries them out.
    Apply,
}

/// The stores.
pub(super) struct Stores {
    stores: Vec<Store>,
    /// Of the key space, in order.
    regions: Vec<RegionId>,
    keys: KeySpace,
    value: Vec<u8>,
    rounds: u64,
}

struct Store {
    id: StoreId,
    now: Time,
    worker: Worker<u64>,
    inputs: Vec<Input<u64>>,
    log: LogWriter,
    applier: Applier,
    received: Received,
    merger: BeatMerger,
    builder: FrameBuilder,
    /// Callers whose command is applied.
    answered: u64,
}

fn failed(what: impl std::fmt::Display) -> Problem {
    Problem::Micro(what.to_string())
}

impl Stores {
    pub(super) fn new(groups: u64, payload: u64, seed: u64, dir: &Path) -> Result<Self, Problem> {
        let keys = KeySpace::new(groups);
        let ids: Vec<StoreId> = (1..=STORES).map(StoreId).collect();
        let descriptors = bootstrap_regions(&keys.boundaries(), &ids);
        let regions = descriptors[1..].iter().map(|descriptor| descriptor.id).collect();
        let open = |id: &StoreId| Store::open(*id, &ids, &descriptors, seed, dir);
        let stores = ids.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { stores, regions, keys, value: value(payload), rounds: 0 })
    }

    /// Only the leader's clock moves until it leads everything: nobody else gets impatient.
    pub(super) fn lead_all(&mut self) -> Result<(), Problem> {
        for store in 0..self.stores.len() {
            let own = self.stores[store].id;
            let others: Vec<StoreId> = self.stores.iter().map(|other| other.id).filter(|id| *id != own).collect();
            let up = |peer| Input::Link { peer, up: Some(Incarnation(1)) };
            self.stores[store].inputs.extend(others.into_iter().map(up));
        }
        for _ in 0..STEPS_MAX {
            self.settle(None, true)?;
            // The root region is led as well.
            if self.stores[LEADER].worker.led().led == self.regions.len() + 1 {
                return Ok(());
            }
            self.stores[LEADER].now = self.stores[LEADER].now.plus(STEP);
        }
        Err(failed("the first store does not lead all regions"))
    }

    /// Writes once to each region, all at once, until it is committed, applied and answered.
    pub(super) fn write_to_all(&mut self, counted: Option<Part>) -> Result<(), Problem> {
        self.rounds += 1;
        let leader = &mut self.stores[LEADER];
        let deadline = leader.now.plus(PATIENCE);
        for (place, region) in (0..).zip(&self.regions) {
            let command = self.keys.put(place, self.rounds, &self.value);
            let (region, reply) = (*region, place);
            leader.inputs.push(Input::Propose {
                region,
                epoch: None,
                session: None,
                command: command.into(),
                deadline,
                reply,
            });
        }
        self.settle(counted, false)?;
        let expected = self.rounds * self.regions.len() as u64;
        let answered = self.stores[LEADER].answered;
        if answered == expected { Ok(()) } else { Err(failed(format!("{answered} of {expected} writes are answered"))) }
    }

    /// Turns, until nothing is left to do at these times. Without `idles` a store that has no input has no turn.
    fn settle(&mut self, counted: Option<Part>, idles: bool) -> Result<(), Problem> {
        let mut first = idles;
        loop {
            let mut is_quiet = true;
            for store in 0..self.stores.len() {
                if self.stores[store].inputs.is_empty() && !first {
                    continue;
                }
                is_quiet = false;
                let sends = self.stores[store].turn(counted.filter(|part| part.is_of(store)))?;
                self.deliver(store, sends, counted)?;
            }
            if is_quiet {
                return Ok(());
            }
            first = false;
        }
    }

    fn deliver(&mut self, from: usize, sends: Vec<Outgoing>, counted: Option<Part>) -> Result<(), Problem> {
        let limits = Limits::default();
        for Outgoing { to, messages, .. } in sends {
            let place = self.stores.iter().position(|store| store.id == to);
            let place = place.ok_or_else(|| failed(format!("nobody is store {to}")))?;
            // Of two followers that are sent the same, one counts.
            let is_counted = |part| from == LEADER && place == LEADER + 1 && counted == Some(part);
            let sender = &mut self.stores[from];
            let frame = count_if(is_counted(Part::Encode), || encode(&mut sender.builder, &messages));
            let body = frame.body();
            let read = count_if(is_counted(Part::Decode), || decode_frame(&body, &limits));
            let messages = read.map_err(failed)?;
            let from = self.stores[from].id;
            self.stores[place].inputs.push(Input::Messages { from, messages });
        }
        Ok(())
    }
}

impl Part {
    /// Whether this is done by the store of that place.
    fn is_of(self, store: usize) -> bool {
        match self {
            Self::FollowerTurns => store == LEADER + 1,
            _ => store == LEADER,
        }
    }
}

fn encode(builder: &mut FrameBuilder, messages: &[PeerMessage]) -> Frame {
    messages.iter().for_each(|message| builder.push(message));
    builder.take()
}

impl Store {
    fn open(
        id: StoreId,
        all: &[StoreId],
        descriptors: &[Arc<multiraft::RegionDescriptor>],
        seed: u64,
        dir: &Path,
    ) -> Result<Self, Problem> {
        let disk = |name: &str| RealDisk::open(dir.join(format!("{name}-{}", id.0))).map(Arc::new).map_err(failed);
        let options = LogOptions { segment_bytes: 4 << 20, spare_segments: 1, ..LogOptions::default() };
        let (log, _, recovered) = LogWriter::open(disk("log")?, options).map_err(failed)?;
        let files = SnapshotFiles::open_on(disk("files")?).map_err(failed)?;
        let backend = Backend::shared(Arc::new(PutMap), Arc::new(MemStore::new())).of_store(id, &files);
        backend.create_regions(descriptors).map_err(failed)?;
        let assembled = assemble(backend.regions().map_err(failed)?, BTreeMap::new(), &recovered);
        backend.begin(&assembled.starts, &BTreeMap::new());
        let applied = assembled.starts.iter().map(|start| AppliedRegion {
            descriptor: Arc::clone(&start.descriptor),
            index: start.applied,
            term: start.applied_term,
            installed: start.installed,
            merge: start.merge.clone(),
        });
        let (incarnation, now) = (Incarnation(1), Time(1_000_000_000));
        let worker = Worker::new(worker_config(id, all, seed), recovered.token(0), &assembled.starts, now);
        Ok(Self {
            id,
            now,
            worker,
            inputs: Vec::new(),
            log,
            applier: backend.applier(applied),
            received: Received::new(&files, true).map_err(failed)?,
            merger: BeatMerger::new(1, incarnation),
            builder: FrameBuilder::new(),
            answered: 0,
        })
    }

    /// One turn, and all that it wants done, at once. Gives what is to be sent.
    fn turn(&mut self, counted: Option<Part>) -> Result<Vec<Outgoing>, Problem> {
        let mut out = TurnOutput::default();
        let is_turn = matches!(counted, Some(Part::LeaderTurns | Part::FollowerTurns));
        let mut inputs = std::mem::take(&mut self.inputs);
        count_if(is_turn, || self.worker.turn(self.now, &mut inputs, &mut out));
        if !out.log.is_empty() {
            let batch = LogBatch { ticket: out.ticket, records: std::mem::take(&mut out.log) };
            let committed = count_if(counted == Some(Part::Log), || self.log.commit(vec![batch]));
            self.inputs.extend(committed.map_err(failed)?.into_iter().map(|token| Input::Flushed { token }));
        }
        if !out.apply.is_empty() {
            self.apply(std::mem::take(&mut out.apply), counted == Some(Part::Apply))?;
        }
        let mut sends = std::mem::take(&mut out.sends);
        for share in out.beats.drain(..) {
            let merged = self.merger.handle_share(share).into_iter();
            let lane = multiraft::logic::LaneKind::Liveness;
            sends.extend(merged.map(|(to, message)| Outgoing { to, lane, messages: vec![message] }));
        }
        let refused = out.replies.first().map(|(_, outcome)| format!("a write ends with {outcome:?}"));
        let is_odd = !(out.fetches.is_empty() && out.snapshots.is_empty() && out.lookups.is_empty());
        match refused.or_else(|| is_odd.then(|| "something is wanted that no write takes".to_owned())) {
            Some(what) => Err(failed(what)),
            None => Ok(sends),
        }
    }

    fn apply(&mut self, tasks: Vec<ApplyTask<u64>>, is_counted: bool) -> Result<(), Problem> {
        let (mut batch, end) = count_if(is_counted, || self.applier.apply(tasks, &self.received));
        if !matches!(end, ApplyEnd::Done) || !batch.parked.is_empty() {
            return Err(failed(format!("entries cannot be applied: {end:?}")));
        }
        for (_, outcome) in batch.replies.drain(..) {
            match outcome {
                Outcome::Applied { reply, .. } if reply == Bytes::from_static(DONE) => self.answered += 1,
                outcome => return Err(failed(format!("a write ends with {outcome:?}"))),
            }
        }
        self.inputs.extend(batch.take_inputs());
        Ok(())
    }
}

/// As the engine's own.
fn worker_config(id: StoreId, all: &[StoreId], seed: u64) -> WorkerConfig {
    let config = Config::default();
    WorkerConfig {
        store: id,
        incarnation: Incarnation(1),
        worker: 0,
        peers: all.iter().copied().filter(|store| *store != id).collect(),
        raft: Arc::new(config.raft),
        request_timeout: config.request_timeout,
        apply_queue_bytes: config.apply_queue_bytes,
        compact_entries: config.compact_entries,
        compact_keep_entries: config.compact_keep_entries,
        snapshots_at_once: config.snapshots_at_once,
        snapshots: config.snapshots,
        merge_timeout: MERGE_TIMEOUT,
        // The first store is to lead all of them.
        balance_leaders: false,
        leases: false,
        beats_at_once: BEATS_AT_ONCE,
        awaits_vote: false,
        seed: seed ^ (id.0 << 40),
    }
}
