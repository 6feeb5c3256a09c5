//! A worker thread: one batch of inputs in, one turn of the logic, its outputs carried out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};
use multiraft_raft::{RegionId, StoreId, Time};
use multiraft_router::{Driver, Mailbox};
use multiraft_storage::{LogBatch, SharedLog, SubmitError};
use multiraft_transport::{ForwardOutcome, ForwardReply, Lane, PeerMessage, Permit, Transport};
use tokio::sync::oneshot;

use crate::directory::Directory;
use crate::events::{Event, EventSender};
use crate::logic::{
    BeatMerger, Counters, FetchTask, Input, LedCount, LedPage, LocateTask, Notice, Outcome, ReplyTo, TurnOutput,
    Worker, split_by_worker, wire_outcome, worker_of,
};
use crate::shell::Completion;
use crate::shell::apply::ApplyWork;
use crate::shell::fault::Fault;
use crate::shell::log::FetchWork;
use crate::shell::outbox::Outbox;
use crate::shell::receive::Receiving;
use crate::shell::streams::Streams;
use crate::status::RegionStatus;
use crate::steward::Inbox;

/// How long a worker waits before it tries again what a full queue did not take.
const RETRY: Duration = Duration::from_millis(1);
/// When a query may be tried again that the applier had no room for.
pub(super) const LOOKUP_RETRY: Duration = Duration::from_millis(20);

/// What comes to a worker thread.
pub(crate) enum Work {
    /// For the logic.
    Input(Input<Completion>),
    /// A frame's messages for this worker; the permit is given back after the turn.
    Frame { from: StoreId, messages: Vec<PeerMessage>, permit: Arc<Permit> },
    /// How do the regions stand?
    Status(oneshot::Sender<WorkerStatus>),
    /// What does this worker lead, in so many slots?
    LedPage {
        /// The first slot.
        from: u32,
        /// How many.
        slots: u32,
        /// Who asks.
        sender: oneshot::Sender<LedPage>,
    },
    /// How many regions does this worker lead?
    Led(oneshot::Sender<LedCount>),
}

/// What a worker tells of itself.
pub(crate) struct WorkerStatus {
    pub(crate) regions: Vec<RegionStatus>,
    pub(crate) counters: Counters,
}

/// The driver of one worker's logic.
pub(super) struct WorkerShell {
    pub(super) worker: Worker<Completion>,
    pub(super) log: Arc<SharedLog>,
    pub(super) outbox: Outbox,
    pub(super) apply: Sender<ApplyWork>,
    pub(super) fetch: Sender<FetchWork>,
    pub(super) beats: Arc<Mutex<BeatMerger>>,
    pub(super) transport: Arc<Transport>,
    pub(super) streams: Arc<Streams>,
    pub(super) receiving: Arc<Receiving>,
    pub(super) directory: Arc<Directory>,
    pub(super) events: EventSender,
    pub(super) fault: Fault,
    pub(super) store: StoreId,
    pub(super) index: usize,
    pub(super) inputs: Vec<Input<Completion>>,
    pub(super) permits: Vec<Arc<Permit>>,
    pub(super) out: TurnOutput<Completion>,
    /// A batch that the log had no room for.
    pub(super) unsubmitted: Option<LogBatch>,
    /// A batch that the applier had no room for.
    pub(super) unapplied: Option<ApplyWork>,
    /// The mailboxes of all workers, for children of splits.
    pub(super) workers: Vec<Mailbox<Work>>,
    pub(super) damage: Damage,
    pub(super) full: Vec<StoreId>,
    /// For reports, if this store may plan.
    pub(super) inbox: Option<Inbox>,
    pub(super) meters: Meters,
}

/// Replicas of this store that are out of service, as all of it knows.
pub(super) struct Damage {
    /// Shared with the status of the store.
    pub(super) list: Arc<Mutex<Vec<(RegionId, String)>>>,
    /// Once all are gone, the log may forget that it was damaged.
    pub(super) may_settle: bool,
}

impl Damage {
    fn add(&self, region: RegionId, reason: &str) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|(other, _)| *other != region);
        list.push((region, reason.to_owned()));
    }

    /// A replica is gone for good, with what may have been lost of it.
    fn clear(&self, region: RegionId, log: &SharedLog) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|(other, _)| *other != region);
        if list.is_empty() && self.may_settle {
            log.settle_damage();
        }
    }
}

/// What a worker tells the metrics, once a turn.
pub(super) struct Meters {
    elections: metrics::Counter,
    proposed: metrics::Counter,
    forwarded: metrics::Counter,
    busy: metrics::Counter,
    snapshots_offered: metrics::Counter,
    snapshots_resumed: metrics::Counter,
    snapshots_failed: metrics::Counter,
    snapshots_installed: metrics::Counter,
    commit_seconds: metrics::Histogram,
    batch_groups: metrics::Histogram,
}

impl Meters {
    pub(super) fn new() -> Self {
        Self {
            elections: metrics::counter!("elections_won_total"),
            proposed: metrics::counter!("proposals_total"),
            forwarded: metrics::counter!("proposals_forwarded_total"),
            busy: metrics::counter!("proposals_busy_total"),
            snapshots_offered: metrics::counter!("snapshots_offered_total"),
            snapshots_resumed: metrics::counter!("snapshots_resumed_total"),
            snapshots_failed: metrics::counter!("snapshots_failed_total"),
            snapshots_installed: metrics::counter!("snapshots_installed_total"),
            commit_seconds: metrics::histogram!("propose_to_commit_seconds"),
            batch_groups: metrics::histogram!("worker_log_records"),
        }
    }

    fn record(&self, before: &Counters, after: &Counters, out: &TurnOutput<Completion>) {
        self.elections.increment(after.elections_won - before.elections_won);
        self.proposed.increment(after.proposed - before.proposed);
        self.forwarded.increment(after.forwarded - before.forwarded);
        self.busy.increment(after.busy - before.busy);
        self.snapshots_offered.increment(after.snapshots_sent - before.snapshots_sent);
        self.snapshots_resumed.increment(after.snapshots_resumed - before.snapshots_resumed);
        self.snapshots_failed.increment(after.snapshots_failed - before.snapshots_failed);
        self.snapshots_installed.increment(after.snapshots_installed - before.snapshots_installed);
        let committed = after.committed_here - before.committed_here;
        if committed > 0 {
            // The mean of the turn: a histogram entry for each command would cost more than the command.
            let mean = (after.commit_latency - before.commit_latency).as_secs_f64() / committed as f64;
            self.commit_seconds.record(mean);
        }
        if !out.log.is_empty() {
            self.batch_groups.record(out.log.len() as f64);
        }
    }
}

impl Driver<Work> for WorkerShell {
    fn turn(&mut self, now: Time, work: &mut Vec<Work>) -> Time {
        if self.fault.is_set() {
            // Nothing is served any more: whoever waits learns that the outcome is unknown.
            work.clear();
            return Time::NEVER;
        }
        if !self.submit_again() || !self.apply_again() {
            // The log or the applier is behind by all that it may hold: this worker stands still until it has caught up. Its
            // inputs stay where they are, so there is nothing to wait on but time.
            if self.fault.ends_waiting() {
                work.clear();
                return Time::NEVER;
            }
            #[allow(clippy::disallowed_methods, reason = "a full queue downstream signals nothing")]
            std::thread::sleep(RETRY);
            return now;
        }
        let mut statuses = Vec::new();
        for work in work.drain(..) {
            self.take(work, &mut statuses);
        }
        let before = self.worker.counters();
        let mut next = self.worker.turn(now, &mut self.inputs, &mut self.out);
        self.meters.record(&before, &self.worker.counters(), &self.out);
        self.carry_out();
        self.permits.clear();
        for status in statuses {
            let _ = status.send(self.status());
        }
        if self.unsubmitted.is_some() || self.unapplied.is_some() || self.outbox.is_blocked() {
            next = next.min(now.plus(RETRY));
        }
        next
    }

    fn stopped(&mut self) {
        self.permits.clear();
    }
}

impl WorkerShell {
    fn take(&mut self, work: Work, statuses: &mut Vec<oneshot::Sender<WorkerStatus>>) {
        match work {
            Work::Input(input) => {
                match &input {
                    Input::Link { peer, up: None } => self.outbox.on_link_lost(*peer),
                    Input::LaneReady { .. } => {
                        self.outbox.retry();
                    }
                    _ => {}
                }
                self.inputs.push(input);
            }
            Work::Frame { from, messages, permit } => {
                self.permits.push(permit);
                self.inputs.push(Input::Messages { from, messages });
            }
            Work::Status(sender) => statuses.push(sender),
            Work::LedPage { from, slots, sender } => {
                let _ = sender.send(self.worker.led_page(from, slots));
            }
            Work::Led(sender) => {
                let _ = sender.send(self.worker.led());
            }
        }
    }

    fn status(&self) -> WorkerStatus {
        WorkerStatus { regions: self.worker.statuses().collect(), counters: self.worker.counters() }
    }

    /// Carries a turn's output out: the append first, then what may leave beside it.
    fn carry_out(&mut self) {
        if !self.out.log.is_empty() {
            let records = std::mem::take(&mut self.out.log);
            #[cfg(feature = "torture")]
            let records = crate::plant::without_votes(records);
            self.submit(LogBatch { ticket: self.out.ticket, records });
        }
        if self.outbox.is_blocked() {
            self.outbox.retry();
        }
        // A snapshot is expected before the peer is told that it may send it.
        for task in std::mem::take(&mut self.out.snapshots) {
            self.streams.on_task(self.index, task, &self.apply, &self.receiving);
        }
        self.outbox.send(&mut self.out.sends, &mut self.full);
        // Before anything that the next turn brings: the lane may be ready again by then, and that must come later.
        self.inputs.extend(self.full.drain(..).map(|peer| Input::LaneFull { peer }));
        self.send_beats();
        if !self.out.apply.is_empty() {
            let tasks = std::mem::take(&mut self.out.apply);
            self.hand_over(ApplyWork::Tasks(tasks));
        }
        self.hand_out_lookups();
        self.answer_locates();
        for task in self.out.fetches.drain(..) {
            if let Err(refused) = self.fetch.try_send(FetchWork { worker: self.index, task }) {
                let FetchTask { handle, fetch } = refused.into_inner().task;
                self.inputs.push(Input::Fetched { handle, fetch, entries: None });
            }
        }
        for adopt in self.out.adopts.drain(..) {
            let worker = worker_of(adopt.descriptor.id, self.workers.len());
            let _ = self.workers[worker].send_reserved(Work::Input(Input::Adopt(adopt)));
        }
        for tombstone in self.out.absorbed.drain(..) {
            let worker = worker_of(tombstone.descriptor.id, self.workers.len());
            let _ = self.workers[worker].send_reserved(Work::Input(Input::Absorbed { tombstone }));
        }
        let local = std::mem::take(&mut self.out.local);
        deliver_local(&self.workers, self.store, local);
        for (reply, outcome) in self.out.replies.drain(..) {
            reply.complete(outcome);
        }
        for notice in self.out.notices.drain(..) {
            if let Notice::Report { from, term, report } = notice {
                if let Some(inbox) = &self.inbox {
                    inbox.push((from, term, report));
                }
                continue;
            }
            match notice {
                Notice::SetAside { region, reason } => self.damage.add(region, reason),
                Notice::Cleared { region } => self.damage.clear(region, &self.log),
                notice => tell(&self.directory, &self.events, self.index, notice),
            }
        }
    }

    fn submit(&mut self, batch: LogBatch) {
        match self.log.submit(batch) {
            Ok(()) => {}
            Err(SubmitError::Busy(batch)) => self.unsubmitted = Some(batch),
            Err(error) => self.fault.set(format!("the log takes no more: {error}")),
        }
    }

    fn submit_again(&mut self) -> bool {
        if let Some(batch) = self.unsubmitted.take() {
            self.submit(batch);
        }
        self.unsubmitted.is_none()
    }

    fn hand_over(&mut self, work: ApplyWork) {
        // Disconnected: the store is stopping.
        if let Err(TrySendError::Full(work)) = self.apply.try_send(work) {
            self.unapplied = Some(work);
        }
    }

    /// Queries change nothing: where the applier is behind by all that it may hold they are refused rather than kept.
    fn hand_out_lookups(&mut self) {
        if self.out.lookups.is_empty() {
            return;
        }
        let lookups = ApplyWork::Lookups(std::mem::take(&mut self.out.lookups));
        let Err(TrySendError::Full(ApplyWork::Lookups(refused))) = self.apply.try_send(lookups) else { return };
        for lookup in refused {
            let outcome = Outcome::Busy { retry_after: LOOKUP_RETRY };
            match lookup.to {
                ReplyTo::Caller(reply) => reply.complete(outcome),
                ReplyTo::Peer { store, id } => self.say(store, id, wire_outcome(outcome)),
            }
        }
    }

    /// Tells peers what this store has heard of regions.
    fn answer_locates(&mut self) {
        for LocateTask { region, key, from, id } in std::mem::take(&mut self.out.locates) {
            let known = match key {
                Some(key) => self.directory.lookup(&key),
                None => self.directory.get(region),
            };
            let outcome =
                known.map_or(ForwardOutcome::UnknownRegion, |known| ForwardOutcome::Changed { regions: vec![known] });
            self.say(from, id, outcome);
        }
    }

    /// Answers a peer. What cannot be sent is asked for again.
    fn say(&self, store: StoreId, id: u64, outcome: ForwardOutcome) {
        let message = PeerMessage::ForwardReply(ForwardReply { id, outcome });
        let _ = self.transport.hand_over(store, Lane::Control, &mut vec![message]);
    }

    fn apply_again(&mut self) -> bool {
        if let Some(work) = self.unapplied.take() {
            self.hand_over(work);
        }
        self.unapplied.is_none()
    }

    fn send_beats(&mut self) {
        if self.out.beats.is_empty() {
            return;
        }
        let mut merger = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        for share in self.out.beats.drain(..) {
            for (to, message) in merger.handle_share(share) {
                // A heartbeat that does not get through is followed by the next.
                let _ = self.transport.hand_over(to, Lane::Liveness, &mut vec![message]);
            }
        }
    }
}

/// Hands messages of this store to its own workers.
pub(super) fn deliver_local(workers: &[Mailbox<Work>], store: StoreId, messages: Vec<PeerMessage>) {
    if messages.is_empty() {
        return;
    }
    for (worker, messages) in workers.iter().zip(split_by_worker(messages, workers.len())) {
        if !messages.is_empty() {
            let _ = worker.send_reserved(Work::Input(Input::Messages { from: store, messages }));
        }
    }
}

fn tell(directory: &Directory, events: &EventSender, worker: usize, notice: Notice) {
    let event = match notice {
        Notice::Hosted(handle) => return directory.host(worker, handle),
        Notice::Vacated(handle) => return directory.vacate(worker, handle),
        Notice::Woken(descriptor) => return directory.wake(&descriptor),
        Notice::Rested(packed) => return directory.rest(&packed),
        Notice::Leader { region, term, leader } => Event::LeaderChanged { region, term, leader },
        Notice::SnapshotInstalled { region, index } => Event::SnapshotInstalled { region, index },
        Notice::Heard(descriptor) => return directory.update(&descriptor),
        Notice::Descriptor(descriptor) => {
            directory.update(&descriptor);
            Event::RegionChanged { descriptor }
        }
        Notice::Split(parts) => {
            directory.update_all(&parts);
            Event::RegionSplit { parts }
        }
        Notice::Merged { region, source } => {
            directory.update(&region);
            Event::RegionsMerged { region, source }
        }
        Notice::Checked { region, is_consistent } => {
            metrics::counter!("consistency_checks_total").increment(1);
            return tracing::info!(%region, is_consistent, "a consistency check has ended");
        }
        Notice::ReplicasDiffer(report) => {
            metrics::counter!("consistency_mismatches_total").increment(1);
            let (region, index) = (report.region.id, report.index);
            for replica in report.differing() {
                let (store, replica) = (replica.store, replica.replica);
                tracing::error!(%region, %index, %replica, %store, "a replica's state is not what it has to be");
            }
            Event::ReplicasDiffer { report }
        }
        Notice::ReplicaFenced { region, fenced, store } => {
            let (replica, index) = (fenced.replica, fenced.index);
            metrics::counter!("replicas_fenced_total").increment(1);
            tracing::error!(%region, %index, %replica, %store, "a replica is fenced: replace it");
            Event::ReplicaFenced { region, replica, store, index }
        }
        Notice::Removed { region, known } => {
            directory.update(&known);
            Event::ReplicaRemoved { region }
        }
        Notice::Report { .. } | Notice::SetAside { .. } | Notice::Cleared { .. } => return,
    };
    events.send(event);
}
