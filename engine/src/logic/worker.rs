//! One worker's share of a store's regions, and its turn.
//!
//! A turn takes a batch of inputs, steps every group that they touch, and gathers what all of them want done: one append to
//! the shared log, one batch per peer, one batch to apply. Nothing leaves before the append except what asserts no
//! durability; the rest waits for the log's token in `flush`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{HardState, Incarnation, Options, Output, RegionId, ReplicaId, StoreId, Term, Time};
use multiraft_router::{Deadlines, SlotKey};
use multiraft_storage::{FlushToken, GroupRecord, LogChange};
use rustc_hash::FxHashMap;

use crate::logic::ahead::{AHEAD, TOUCHED_IN_CACHE};
use crate::logic::aside::Aside;
use crate::logic::beats::CALLERS;
use crate::logic::bulk::Bulk;
use crate::logic::campaign::Campaigns;
use crate::logic::check::Checks;
use crate::logic::flush::{FlushQueue, sort_records};
use crate::logic::lifecycle::Lifecycle;
use crate::logic::merge::Merges;
use crate::logic::output::ReplyTo;
use crate::logic::park::Parked;
use crate::logic::peers::Peers;
use crate::logic::read::Charged;
use crate::logic::region::{Reading, Region};
use crate::logic::regions::Regions;
use crate::logic::route::Routes;
use crate::logic::snapshot::{SnapshotLimits, Transfers};
use crate::logic::support::Supports;
use crate::logic::upkeep::Upkeep;
use crate::logic::{
    Counters, FetchTask, Input, Leases, LocateTask, LookupTask, Notice, Outcome, RegionHandle, RegionStart, TurnOutput,
};

/// Groups' deadlines are served in steps of this; heartbeats fall on multiples of it anyway.
const DEADLINE_GRID: Duration = Duration::from_millis(10);

/// What a worker is told when it is made.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// This store.
    pub store: StoreId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Which worker this is, from zero; at most 254.
    pub worker: usize,
    /// All other stores known at the start.
    pub peers: Vec<StoreId>,
    /// Timers and flow control of the groups.
    pub raft: Arc<Options>,
    /// How long a forwarded request is waited for.
    pub request_timeout: Duration,
    /// What may be handed out to be applied and not reported back, in bytes, before callers get `Busy`.
    pub apply_queue_bytes: usize,
    /// Cut a group's log when it has this many entries that are durably applied...
    pub compact_entries: u64,
    /// ...and keep this many of them.
    pub compact_keep_entries: u64,
    /// Snapshots sent, and received, at once by this worker.
    pub snapshots_at_once: usize,
    /// How long they may take, and what may be kept for them by this worker.
    pub snapshots: SnapshotLimits,
    /// How long a merge that is led here may take before it is given up.
    pub merge_timeout: Duration,
    /// Whether leaders hand over to the region's preferred store.
    pub balance_leaders: bool,
    /// Whether leaders serve linearizable reads on the strength of support alone, where it is held (R4 of
    /// `docs/liveness.md`): only where the clocks' drift is within the bound.
    pub leases: bool,
    /// So many groups may have heartbeats due in one interval before those that are written to put theirs off.
    pub beats_at_once: usize,
    /// Nobody votes or campaigns here before [`SupportNews::MayVote`](crate::liveness::SupportNews::MayVote) (L10).
    pub awaits_vote: bool,
    /// From which the groups' random timeouts are drawn.
    pub seed: u64,
}

/// The regions of one worker. Deterministic: equal inputs at equal times give equal outputs.
pub struct Worker<R> {
    pub(super) config: WorkerConfig,
    pub(super) regions: Regions<R>,
    /// Looked up only, never iterated.
    pub(super) slots: FxHashMap<RegionId, SlotKey>,
    pub(super) deadlines: Deadlines,
    pub(super) peers: Peers<R>,
    pub(super) flush: FlushQueue,
    pub(super) transfers: Transfers,
    pub(super) upkeep: Upkeep,
    pub(super) lives: Lifecycle<R>,
    pub(super) merges: Merges,
    pub(super) checks: Checks,
    pub(super) aside: Aside,
    /// What lies on the stores, as it was made known in a term of the root region.
    pub(super) loads: (Term, Bytes),
    pub(super) routes: Routes,
    pub(super) supports: Supports,
    pub(super) bulk: Bulk<R>,
    /// For callers and links, which read without this worker.
    pub(super) leases: Arc<Leases>,
    pub(super) parked: Parked<R>,
    pub(super) campaigns: Campaigns,
    /// What waiting queries hold, in bytes.
    pub(super) query_bytes: Charged,
    pub(super) counters: Counters,
    /// What was handed out to be applied and not reported back, in bytes.
    pub(super) apply_backlog: usize,
    /// The context of the last read round.
    pub(super) next_read: u64,
    /// Answers of this turn.
    pub(super) replies: Vec<(R, Outcome)>,
    /// Queries of this turn that may be answered.
    pub(super) lookups: Vec<LookupTask<R>>,
    /// What peers asked in this turn.
    pub(super) locates: Vec<LocateTask>,
    /// Notices of this turn.
    pub(super) notices: Vec<Notice>,
    /// Regions to be polled at the end of the turn.
    pub(super) touched: Vec<SlotKey>,
    /// Records that do not come out of a group's poll (a log that must be reset at the start).
    pub(super) early_records: Vec<GroupRecord>,
    /// Groups whose committed entries wait until the applier has caught up.
    pub(super) held: VecDeque<SlotKey>,
    /// Leading groups that wait for a lane.
    pub(super) paused: Vec<SlotKey>,
    scratch: Output<FlushToken>,
    /// How many records and tasks to apply the last turn had that had any: what the next has room for at once.
    usual: (usize, usize),
    /// When this turn began.
    pub(super) now: Time,
    /// A region was removed since heartbeats were handed in: some of them may be its.
    pub(super) removed: bool,
    /// The moment on the heartbeat grid up to which this worker's share was handed in.
    pub(super) next_beat: Time,
}

impl<R> Worker<R> {
    /// A worker with the regions that were found at the start.
    ///
    /// `durable` is the log's evidence that what it recovered is durable. Regions that have no replica on this store have
    /// applied its removal: that is carried out.
    #[must_use]
    pub fn new(config: WorkerConfig, durable: FlushToken, starts: &[RegionStart], now: Time) -> Self {
        assert!(config.worker < CALLERS, "at most 255 workers");
        let mut worker = Self {
            regions: Regions::new(Arc::clone(&config.raft)),
            slots: FxHashMap::default(),
            deadlines: Deadlines::new(),
            peers: Peers::new(config.peers.iter().copied(), config.incarnation),
            flush: FlushQueue::new(durable),
            transfers: Transfers::new(config.incarnation),
            upkeep: Upkeep::new(now),
            loads: (Term::ZERO, Bytes::new()),
            lives: Lifecycle::default(),
            merges: Merges::new(config.incarnation),
            checks: Checks::default(),
            aside: Aside::default(),
            routes: Routes::new(),
            supports: Supports::new(config.awaits_vote),
            bulk: Bulk::new(config.incarnation),
            leases: Arc::default(),
            parked: Parked::default(),
            campaigns: Campaigns::default(),
            query_bytes: Charged::default(),
            counters: Counters::default(),
            apply_backlog: 0,
            next_read: 0,
            replies: Vec::new(),
            lookups: Vec::new(),
            locates: Vec::new(),
            notices: Vec::new(),
            touched: Vec::new(),
            early_records: Vec::new(),
            held: VecDeque::new(),
            paused: Vec::new(),
            scratch: Output::new(),
            usual: (0, 0),
            now,
            removed: false,
            next_beat: now.next_multiple(config.raft.heartbeat_interval),
            config,
        };
        for start in starts {
            worker.add_region(now, start);
        }
        worker
    }

    pub(super) fn add_region(&mut self, now: Time, start: &RegionStart) {
        let id = start.descriptor.id;
        let Some(own) = start.descriptor.replica_on(self.config.store).copied() else {
            return self.finish_removal(start);
        };
        // The state may have applied more than the log holds: a snapshot was installed and the crash came before the
        // log's reset. What is applied is committed; the log begins after it.
        let mut start = start.clone();
        if start.log.term(start.applied) != Some(start.applied_term) {
            let (index, term) = (start.applied, start.applied_term);
            start.log = multiraft_raft::LogSummary {
                truncated_index: index,
                truncated_term: term,
                last_index: index,
                runs: Vec::new(),
            };
            // Its term was led by somebody: this replica cannot have voted in it, or the vote would be in the log.
            let raised = start.hard_state.term < term;
            if raised {
                start.hard_state = HardState { term, vote: ReplicaId::ZERO, commit: index };
            }
            self.early_records.push(GroupRecord {
                region: id,
                log: LogChange::Reset { index, term },
                hard_state: raised.then_some(start.hard_state),
            });
        }
        self.insert_region(now, &start, own.id, true);
    }

    /// A replica that has a state, or (not `initialised`) has none yet.
    pub(super) fn insert_region(&mut self, now: Time, start: &RegionStart, own: ReplicaId, initialised: bool) {
        let seed = mix(self.config.seed, start.descriptor.id.get());
        let options = Arc::clone(&self.config.raft);
        let key = self.regions.insert_with(|key| Region::new(start, own, initialised, key, options, seed, now));
        self.slots.insert(start.descriptor.id, key);
        let handle = self.region(key).handle();
        self.notices.push(Notice::Hosted(handle));
        self.set_merge_state(key, start.merge.clone());
        self.take_promise(now, key);
        self.touch(key);
    }

    /// Takes a region out of service; who waits for it learns that the outcome is unknown.
    pub(super) fn remove_region(&mut self, region: RegionId) {
        let Some(key) = self.slots.remove(&region) else { return };
        self.deadlines.disarm(key);
        self.keep_promise(key);
        self.removed = true;
        self.on_region_gone(region, key);
        self.forget_check(region);
        self.abandon_parked(region);
        self.end_attempt(key);
        self.leases.take_off(region);
        let Some(mut removed) = self.regions.remove(key) else { return };
        self.notices.push(Notice::Vacated(removed.handle()));
        let Some(waiting) = removed.busy.take() else { return };
        let reads = waiting.reads.into_iter().chain(waiting.rounds.into_iter().flat_map(|(_, _, reads)| reads));
        for read in reads {
            self.answer(read.into_reply(), Outcome::NotLeader { hint: None });
        }
        let proposed = waiting.proposed.into_iter().map(|proposed| proposed.reply);
        for reply in waiting.incoming_replies.into_iter().chain(proposed) {
            self.answer(reply, Outcome::Uncertain);
        }
        for read in waiting.confirmed.into_iter().flat_map(|confirmed| confirmed.reads) {
            self.answer(read.into_reply(), Outcome::UnknownRegion);
        }
        if let Some((_, reply)) = waiting.transfer {
            self.answer(reply, Outcome::UnknownRegion);
        }
    }

    /// Takes a turn: handles `inputs` and what is due, and fills `out`. Returns when the next turn is due at the latest.
    pub fn turn(&mut self, now: Time, inputs: &mut Vec<Input<R>>, out: &mut TurnOutput<R>) -> Time {
        self.counters.turns += 1;
        self.now = now;
        self.regions.begin_turn(now);
        if !inputs.is_empty() || self.deadlines.next() <= now {
            self.upkeep.note_activity(now, self.regions.slots());
        }
        let reads_ahead = self.reads_ahead();
        let mut inputs = inputs.drain(..);
        while !inputs.as_slice().is_empty() {
            if reads_ahead {
                self.read_ahead_for_inputs(inputs.as_slice());
            }
            inputs.by_ref().take(AHEAD).for_each(|input| self.take(now, input));
        }
        drop(inputs);
        self.expire_parked(now);
        self.drive_wakes(now);
        self.handle_due(now);
        self.upkeep(now, out);
        self.poll_touched(now, out);
        self.drive_bulk(now);
        self.hand_in_beats(now, out);
        self.peers.drain(self.config.incarnation, &mut out.sends);
        self.merges.drain(&mut out.absorbed, &mut out.local);
        out.replies.append(&mut self.replies);
        out.notices.extend(self.regions.take_woken().map(Notice::Woken));
        out.notices.append(&mut self.notices);
        out.lookups.append(&mut self.lookups);
        out.locates.append(&mut self.locates);
        self.next_deadline()
    }

    pub(super) fn handle(&mut self, now: Time, input: Input<R>) {
        match input {
            Input::Propose { region, epoch, session, command, deadline, reply } => {
                if now >= deadline {
                    return self.reply(reply, Outcome::NotLeader { hint: None });
                }
                self.handle_propose(now, region, epoch, session, command, reply);
            }
            Input::Read { region, epoch, freshness, deadline, reply } => {
                if now >= deadline {
                    return self.reply(reply, Outcome::NotLeader { hint: None });
                }
                self.handle_read(now, region, epoch, freshness, reply);
            }
            Input::ReadConfirmed { region, index, term, asked, reply } => {
                let read = Reading::Index { to: ReplyTo::Caller(reply), lease: true };
                self.wait_applied(region, (index, term), asked, vec![read]);
            }
            Input::Transfer { region, to, deadline, reply } => {
                if now >= deadline {
                    return self.reply(reply, Outcome::NotLeader { hint: None });
                }
                self.handle_transfer(now, region, to, reply);
            }
            Input::Admin { region, epoch, request, deadline, reply } => {
                if now >= deadline {
                    return self.reply(reply, Outcome::NotLeader { hint: None });
                }
                self.handle_admin(now, region, epoch, &request, reply);
            }
            Input::Query { region, epoch, query, deadline, reply } => {
                if now >= deadline {
                    return self.reply(reply, Outcome::NotLeader { hint: None });
                }
                self.handle_query(now, region, epoch, query, reply);
            }
            Input::Route(descriptor) => self.on_route(descriptor),
            Input::Locate { region, key, reply } => self.handle_locate(now, region, key, reply),
            Input::Adopt(adopt) => self.on_adopt(now, adopt),
            Input::Absorbed { tombstone } => self.on_absorbed(tombstone),
            Input::Stalled { handle, index } => self.on_stalled(now, handle, index),
            Input::Created { region, replica, allowed } => self.on_created(now, region, replica, allowed),
            Input::Destroyed(destroyed) => self.on_destroyed(destroyed),
            Input::Messages { from, messages } => self.handle_messages(now, from, messages),
            Input::Link { peer, up } => {
                self.peers.entry(peer).heard = now;
                let orphans = self.peers.on_link(peer, up);
                self.abandon_forwards(orphans);
                self.on_link_transfers(now, peer);
            }
            Input::LaneFull { peer } => {
                self.peers.entry(peer).lane_full = true;
                self.peers.count_full();
            }
            Input::LaneReady { peer } => self.on_lane_ready(peer),
            Input::Flushed { token } => self.on_flushed(now, token),
            Input::Applied(applied) => self.on_applied(now, applied),
            Input::Checked { handle, index } => self.on_checked(now, handle, index),
            Input::Digest { handle, index, answer } => self.on_digest(handle, index, answer),
            Input::Fetched { handle, fetch, entries } => {
                let Some(key) = self.live(handle) else { return };
                let group = &mut self.region_mut(key).group;
                match entries {
                    Some(entries) => group.on_fetched(now, fetch, entries),
                    None => group.fetch_failed(now, fetch),
                }
                self.touch(key);
            }
            Input::Checkpointed(regions) => self.on_checkpointed(&regions),
            Input::SnapshotMoving { from, transfer } => self.on_snapshot_moving(now, from, transfer),
            Input::SnapshotSent { transfer, sent, kept } => self.on_snapshot_streamed(now, transfer, sent, kept),
            Input::SnapshotReceived { from, header } => self.on_snapshot_received(from, header),
            Input::SnapshotLost { from, transfer, kept } => self.on_snapshot_lost(now, from, transfer, kept),
            Input::SnapshotInstalled(done) => self.on_snapshot_installed(now, done),
            Input::Damaged { region } => self.on_damaged(region),
            Input::DiskFull { disk, full } => self.upkeep.set_disk_full(now, disk, full),
            Input::Loads { term, loads } => self.loads = (term, loads),
            Input::DiskScarce { is_scarce } => self.upkeep.set_disk_scarce(is_scarce),
            Input::Slow { is_slow } => self.upkeep.set_slow(now, is_slow),
            Input::Floor(floor) => self.on_floor(floor),
            Input::Handover => self.upkeep.start_handover(),
            Input::Support(news) => self.on_support(now, news),
        }
    }

    /// Polls every touched group once and sorts what it wants done.
    fn poll_touched(&mut self, now: Time, out: &mut TurnOutput<R>) {
        let ticket = self.flush.next_ticket();
        out.ticket = ticket;
        out.log.append(&mut self.early_records);
        self.drain_lives(&mut out.apply, &mut out.adopts);
        let spacing = self.beat_spacing();
        let mut written = Vec::new();
        let mut scratch = std::mem::take(&mut self.scratch);
        // Those of a short turn were read a moment ago.
        let reads_ahead = self.reads_ahead() && self.touched.len() > TOUCHED_IN_CACHE;
        // Answering may touch further regions; they are taken in the same turn.
        while !self.touched.is_empty() {
            let mut touched = std::mem::take(&mut self.touched);
            for (at, key) in touched.iter().copied().enumerate() {
                if reads_ahead && at % AHEAD == 0 {
                    self.read_ahead(touched[at..].iter().take(AHEAD));
                }
                let Some(region) = self.regions.get_mut(key) else { continue };
                region.touched = false;
                let somebody_waits = region.busy.is_some();
                self.tell_lost_links(now, key);
                if somebody_waits {
                    self.propose_incoming(now, key);
                    self.read_incoming(now, key);
                }
                self.pause_full_lanes(key);
                let hold = self.apply_backlog > self.config.apply_queue_bytes;
                let Some(region) = self.regions.get_mut(key) else { continue };
                region.group.hold_delivery(hold);
                if hold && !region.held && region.group.has_undelivered() {
                    region.held = true;
                    self.held.push_back(key);
                }
                region.group.poll_output(now, ticket, &mut scratch);
                if out.log.is_empty() && !scratch.log.is_empty() {
                    out.log.reserve(self.usual.0);
                    written.reserve(self.usual.0);
                }
                let logged = self.sort_output(key, &mut scratch, out);
                if logged && written.last() != Some(&key) {
                    written.push(key);
                }
                let more = scratch.more;
                scratch.clear();
                let region = self.region_mut(key);
                if logged && spacing > 0 {
                    region.group.put_off_beats(now, spacing);
                }
                (region.stirred, region.trimmed) = (true, false);
                region.trim();
                // On a grid, so that thousands of groups with random timeouts wake the worker some hundred times a second at most.
                let deadline = if more { now } else { on_grid(region.group.next_deadline()) };
                self.deadlines.arm(key, deadline);
                self.list_again(key);
            }
            if self.touched.is_empty() {
                touched.clear();
                self.touched = touched;
                break;
            }
        }
        self.scratch = scratch;
        if !out.apply.is_empty() {
            self.usual.1 = out.apply.len();
        }
        if !out.log.is_empty() {
            self.usual.0 = out.log.len();
            self.flush.on_appended(ticket, written);
        }
        self.release_gated();
    }

    /// Sorts one group's output; returns whether it appended to the log.
    fn sort_output(&mut self, key: SlotKey, output: &mut Output<FlushToken>, out: &mut TurnOutput<R>) -> bool {
        let region = self.region(key);
        let (id, handle) = (region.id(), region.handle());
        let logged = sort_records(id, output, &mut out.log);
        // Most of it is empty most of the time, and looking is cheaper than emptying.
        if !output.events.is_empty() {
            for event in output.events.drain(..) {
                self.on_event(key, event);
            }
        }
        for message in output.messages.drain(..) {
            self.send_raft(key, message);
        }
        let region = self.region_mut(key);
        region.round_told = region.round_told.max(region.round_seen);
        if !output.gated.is_empty() {
            for gated in output.gated.drain(..) {
                self.flush.gate(key, gated);
            }
        }
        if !output.committed.is_empty() {
            self.hand_out(key, std::mem::take(&mut output.committed), out);
        }
        if !output.reads.is_empty() || !output.reads_failed.is_empty() {
            self.on_reads(key, &mut output.reads, &mut output.reads_failed);
        }
        if !output.fetches.is_empty() || !output.snapshots.is_empty() {
            out.fetches.extend(output.fetches.drain(..).map(|fetch| FetchTask { handle, fetch }));
            for replica in output.snapshots.drain(..) {
                self.want_snapshot(key, replica);
            }
        }
        logged
    }

    fn hand_out(&mut self, key: SlotKey, entries: Vec<multiraft_raft::Entry>, out: &mut TurnOutput<R>) {
        self.counters.committed += entries.len() as u64;
        let bytes = entries.iter().map(multiraft_raft::Entry::cost).sum::<usize>();
        self.apply_backlog += bytes;
        self.note_committed(key, bytes);
        let replies = self.claim_replies(key, &entries);
        let handle = self.region(key).handle();
        if out.apply.is_empty() {
            out.apply.reserve(self.usual.1);
        }
        out.apply.push(crate::logic::ApplyTask::Entries { handle, entries, replies });
    }

    fn next_deadline(&self) -> Time {
        if !self.touched.is_empty() || self.supports.has_wakes() || self.campaigns.moves_on() {
            return Time::ZERO;
        }
        let beats = if self.peers.has_beats() { self.next_beat } else { Time::NEVER };
        self.deadlines.next().min(beats).min(self.upkeep.next()).min(self.bulk_due()).min(self.parked.next())
    }

    /// Lists a region for the end of the turn.
    pub(super) fn touch(&mut self, key: SlotKey) {
        if let Some(region) = self.regions.get_mut(key)
            && !region.touched
        {
            region.touched = true;
            self.touched.push(key);
        }
    }

    /// The replica of a region that can serve: one that has a state.
    pub(super) fn slot_of(&mut self, region: RegionId) -> Option<SlotKey> {
        self.any_slot(region).filter(|key| self.region(*key).initialised)
    }

    /// The replica of a region, also one without a state.
    pub(super) fn any_slot(&mut self, region: RegionId) -> Option<SlotKey> {
        self.slots.get(&region).copied().filter(|key| self.regions.wake(*key))
    }

    /// Whether a region has a replica here, which sleeps on if it does.
    pub(super) fn is_here(&self, region: RegionId) -> bool {
        self.slots.contains_key(&region)
    }

    /// The region that a completion is for, if it still is what it was.
    pub(super) fn live(&mut self, handle: RegionHandle) -> Option<SlotKey> {
        let key = SlotKey { slot: handle.slot, generation: handle.generation };
        self.regions.get_mut(key).filter(|region| region.id() == handle.region).map(|_| key)
    }

    pub(super) fn region(&self, key: SlotKey) -> &Region<R> {
        self.regions.get(key).expect("invariant: a key that was looked up in this turn is live")
    }

    pub(super) fn region_mut(&mut self, key: SlotKey) -> &mut Region<R> {
        self.regions.get_mut(key).expect("invariant: a key that was looked up in this turn is live")
    }

    /// What has been counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let (packed, unpacked) = self.regions.counts();
        Counters { packed, unpacked, ..self.counters }
    }

    /// The regions of this worker, in slot order, as the driver may show them.
    pub fn statuses(&self) -> impl Iterator<Item = crate::status::RegionStatus> + '_ {
        self.regions.iter().filter(|(_, region)| region.initialised).map(|(_, region)| region.status())
    }

    /// The state of one region.
    #[must_use]
    pub fn status(&self, region: RegionId) -> Option<crate::status::RegionStatus> {
        let region = self.regions.see(*self.slots.get(&region)?)?;
        region.initialised.then(|| region.status())
    }

    /// The handles of all regions, for the driver's directory.
    pub fn handles(&self) -> impl Iterator<Item = RegionHandle> + '_ {
        self.regions.iter().map(|(_, region)| region.handle())
    }
}

/// The first point of the grid that is not before `deadline`.
fn on_grid(deadline: Time) -> Time {
    if deadline == Time::NEVER { deadline } else { Time(deadline.0.saturating_sub(1)).next_multiple(DEADLINE_GRID) }
}

/// Mixes a region's id into a seed (the finaliser of splitmix64), so that no two groups draw the same timeouts.
pub(super) fn mix(seed: u64, id: u64) -> u64 {
    let mut z = seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
