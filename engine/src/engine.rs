//! The handle that embedders hold.

use std::future::Future;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{Payload, RegionDescriptor, RegionEpoch, RegionId, StoreId, Time};
use multiraft_router::SendError;
use multiraft_transport::SessionSeq;
use tokio::sync::oneshot;

use crate::builder::Builder;
use crate::error::{ProposeError, ReadError, RegionError, TransferError};
use crate::events::Events;
use crate::logic::{AdminCommand, AdminRequest, Input, LedCount, Outcome, worker_of};
use crate::measure::Figures;
use crate::options::{Consistency, ProposeOptions, ReadOptions};
use crate::region::is_witness;
use crate::regions::Ids;
use crate::routing::Search;
use crate::session::Session;
use crate::shell::{Completion, Running, Work};
use crate::status::{PeerStatus, StoreCounters, StoreStatus};
use crate::steward::PlacementState;

/// The first pause before a request without effect is tried again; doubles up to [`PAUSE_MAX`].
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// How long a worker may take to tell how many regions it leads.
const LED_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a linearizable read is tried from a replica here before it is carried out at the leader's store.
const LOCAL_ATTEMPTS: u32 = 3;
/// When to try again after a full mailbox.
const BUSY_RETRY: Duration = Duration::from_millis(10);

/// A running store. Cheap to clone; all clones are the same store, which stops with [`Engine::shutdown`] or when the last
/// clone is dropped.
#[derive(Clone)]
pub struct Engine {
    running: Arc<Running>,
    /// Held by the embedder's clones only: the store's own tasks end when there are none any more.
    user: Option<Arc<()>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("store", &self.running.store).finish_non_exhaustive()
    }
}

impl Engine {
    /// Collects what a store needs.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(running: Running) -> Self {
        Self { running: Arc::new(running), user: Some(Arc::new(())) }
    }

    /// The store's own handle of itself; it does not keep the store from stopping for longer than a task takes to notice.
    pub(crate) fn of_store(running: Arc<Running>) -> Self {
        Self { running, user: None }
    }

    /// The running store, and whether anybody uses it, for the store's own tasks.
    pub(crate) fn watch(&self) -> (Weak<Running>, Weak<()>) {
        (Arc::downgrade(&self.running), self.user.as_ref().map_or_else(Weak::new, Arc::downgrade))
    }

    pub(crate) fn running(&self) -> &Running {
        &self.running
    }

    /// Which store this is.
    #[must_use]
    pub fn store(&self) -> StoreId {
        self.running.store
    }

    /// Where it listens for other stores; `None` on a [local network](crate::Builder::local_network).
    #[must_use]
    pub fn local_addr(&self) -> Option<std::net::SocketAddr> {
        self.running.transport.local_addr()
    }

    /// Has a command carried out by a region's state machine, and returns the machine's answer.
    ///
    /// On return the command is committed (durable on a quorum of the region's voters) and applied here or at the leader.
    /// Any store may be asked; one that does not lead sends the command on. Commands to one region through one store, each
    /// proposed after the call before it has returned, take effect in that order; also after [`ProposeError::Uncertain`]: that
    /// command comes before the next, or never.
    ///
    /// # Errors
    /// [`ProposeError`]; only [`ProposeError::Uncertain`] leaves open whether the command had or will have an effect.
    pub async fn propose(&self, region: RegionId, command: impl Into<Bytes>) -> Result<Bytes, ProposeError> {
        self.propose_with(ProposeOptions::new(region), command).await
    }

    /// Like [`Engine::propose`], with options.
    ///
    /// # Errors
    /// As there.
    pub async fn propose_with(
        &self,
        options: ProposeOptions,
        command: impl Into<Bytes>,
    ) -> Result<Bytes, ProposeError> {
        let deadline = self.deadline(options.timeout);
        self.propose_until(options.region, options.epoch, None, command.into(), deadline, deadline).await
    }

    /// Proposes until there is an answer or the time is up. A proposal that had no effect is tried again, up to `patience`;
    /// one of unknown outcome never is. Whose patience ends before the deadline has routed by a key, and does so again.
    pub(crate) async fn propose_until(
        &self,
        region: RegionId,
        epoch: Option<RegionEpoch>,
        session: Option<SessionSeq>,
        command: Bytes,
        deadline: Time,
        patience: Time,
    ) -> Result<Bytes, ProposeError> {
        let limit = self.running.config.max_command_bytes;
        if command.len() > limit {
            return Err(ProposeError::TooLarge { size: command.len(), limit });
        }
        let (started, bytes, admission) = (self.now(), command.len() as u64 + 64, &self.running.admission);
        let Some(admitted) = admission.enter(region, bytes) else {
            return Err(ProposeError::Busy { retry_after: admission.retry_after() });
        };
        let (mut pause, mut search) = (PAUSE_MIN, Search::default());
        loop {
            self.check_running().map_err(|reason| ProposeError::Stopped { reason })?;
            let (reply, answer) = Completion::new();
            let input = Input::Propose { region, epoch, session, command: Payload::from(&command), deadline, reply };
            match self.send(region, input, bytes) {
                Ok(()) => {}
                Err(Refused::Busy) => return Err(ProposeError::Busy { retry_after: BUSY_RETRY }),
                Err(Refused::Stopped) => return Err(ProposeError::Stopped { reason: "shutting down".to_owned() }),
            }
            let outcome = self.wait(answer, deadline).await.unwrap_or(Outcome::Uncertain);
            let refusal = match outcome {
                Outcome::Applied { reply, .. } => {
                    let now = self.now();
                    self.running.propose_seconds.record(now.since(started).as_secs_f64());
                    admitted.served(started, now);
                    return Ok(reply);
                }
                Outcome::NotLeader { hint } => ProposeError::NotLeader { region, hint },
                Outcome::NoSpace { store } => ProposeError::NoSpace { store },
                Outcome::EpochMismatch { current } => {
                    self.learn(&current);
                    if epoch.is_some() {
                        return Err(ProposeError::EpochMismatch { current });
                    }
                    // The caller named no epoch: the leader did, before the region changed.
                    ProposeError::Busy { retry_after: BUSY_RETRY }
                }
                Outcome::UnknownRegion if self.find_region(region, &mut search, patience).await => {
                    ProposeError::NotLeader { region, hint: None }
                }
                other => return Err(propose_error(region, other)),
            };
            if (patience < deadline && self.is_past(region)) || !self.pause(&mut pause, patience).await {
                return Err(refusal);
            }
        }
    }

    /// Asks a region's state machine.
    ///
    /// The query is answered from the state of this store, on the caller's thread; by the leader's store, if this one has no
    /// replica of the region and the read is linearizable.
    ///
    /// # Errors
    /// [`ReadError`]. A read has no effect and may always be tried again.
    pub async fn read(
        &self,
        region: RegionId,
        query: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Bytes, ReadError> {
        self.read_with(ReadOptions::new(region, consistency), query).await
    }

    /// Like [`Engine::read`], with options.
    ///
    /// # Errors
    /// As there.
    pub async fn read_with(&self, options: ReadOptions, query: impl Into<Bytes>) -> Result<Bytes, ReadError> {
        let deadline = self.deadline(options.timeout);
        let name = (options.region, options.epoch);
        self.read_until(name, query.into(), options.consistency, deadline, deadline).await
    }

    /// Reads until there is an answer, the time is up, or (while there is no leader) `patience` is.
    pub(crate) async fn read_until(
        &self,
        (region, epoch): (RegionId, Option<RegionEpoch>),
        query: Bytes,
        consistency: Consistency,
        deadline: Time,
        patience: Time,
    ) -> Result<Bytes, ReadError> {
        if consistency == Consistency::Local {
            return self.look_up(region, epoch, &query);
        }
        #[cfg(feature = "torture")]
        if crate::plant::reads_stale()
            && let Ok(found) = self.look_up(region, epoch, &query)
        {
            return Ok(found);
        }
        let lease = consistency == Consistency::Lease;
        if (lease || consistency == Consistency::Linearizable)
            && let Some(found) = self.read_past_worker((region, epoch), &query, lease, deadline).await
        {
            return found;
        }
        let (mut pause, mut search) = (PAUSE_MIN, Search::default());
        // A witness here has nothing to look up.
        let is_bare = self.region(region).is_some_and(|known| is_witness(&known, self.store()));
        let mut refusals = if is_bare { LOCAL_ATTEMPTS } else { 0 };
        loop {
            self.check_running().map_err(|reason| ReadError::Stopped { reason })?;
            let (reply, answer) = Completion::new();
            // Without an epoch of the caller's, the answer must still be of the region that the round was for, and not of what
            // it has become since.
            let looked_up = epoch.or_else(|| self.region(region).map(|known| known.epoch));
            // A replica here saves the way of the answer. One that cannot say who leads may have been removed without
            // knowing it yet.
            let (input, bytes) = if refusals < LOCAL_ATTEMPTS {
                (Input::Read { region, epoch, freshness: consistency.freshness(), deadline, reply }, 64)
            } else {
                let query = query.clone();
                let bytes = query.len() as u64 + 64;
                (Input::Query { region, epoch, query, deadline, reply }, bytes)
            };
            match self.send(region, input, bytes) {
                Ok(()) => {}
                Err(Refused::Busy) => return Err(ReadError::Busy { retry_after: BUSY_RETRY }),
                Err(Refused::Stopped) => return Err(ReadError::Stopped { reason: "shutting down".to_owned() }),
            }
            let hint = match self.wait(answer, deadline).await {
                Some(Outcome::ReadAt { .. }) => match self.look_up(region, looked_up, &query) {
                    // The replica has gone since its read was confirmed.
                    Err(ReadError::UnknownRegion { .. }) => None,
                    Err(ReadError::EpochMismatch { .. }) if epoch.is_none() => None,
                    found => return found,
                },
                Some(Outcome::Answered { answer }) => return Ok(answer),
                Some(Outcome::UnknownRegion) if refusals < LOCAL_ATTEMPTS => {
                    refusals = LOCAL_ATTEMPTS;
                    continue;
                }
                Some(Outcome::UnknownRegion) => {
                    if !self.find_region(region, &mut search, patience).await {
                        return Err(ReadError::UnknownRegion { region });
                    }
                    None
                }
                Some(Outcome::EpochMismatch { current }) => {
                    self.learn(&current);
                    if epoch.is_some() {
                        return Err(ReadError::EpochMismatch { current });
                    }
                    // The caller named no epoch: the leader did, before the region changed.
                    None
                }
                Some(Outcome::Busy { retry_after }) => return Err(ReadError::Busy { retry_after }),
                Some(Outcome::Refused { reason }) => return Err(ReadError::Refused { reason }),
                Some(Outcome::NotLeader { hint }) => hint,
                Some(_) | None => None,
            };
            refusals += 1;
            if (patience < deadline && self.is_past(region)) || !self.pause(&mut pause, patience).await {
                return Err(ReadError::NotLeader { region, hint });
            }
        }
    }

    /// Makes another store the leader of a region. Any store may be asked.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn transfer_leader(&self, region: RegionId, to: StoreId) -> Result<(), TransferError> {
        let deadline = self.deadline(None);
        let (mut pause, mut search) = (PAUSE_MIN, Search::default());
        loop {
            self.check_running().map_err(|reason| TransferError::Stopped { reason })?;
            let (reply, answer) = Completion::new();
            let sent = self.send(region, Input::Transfer { region, to, deadline, reply }, 64);
            let outcome = match sent {
                Ok(()) => self.wait(answer, deadline).await.unwrap_or(Outcome::Uncertain),
                Err(Refused::Busy) => Outcome::NotLeader { hint: None },
                Err(Refused::Stopped) => return Err(TransferError::Stopped { reason: "shutting down".to_owned() }),
            };
            match outcome {
                Outcome::Done => return Ok(()),
                Outcome::NotLeader { .. } | Outcome::Busy { .. } => {}
                Outcome::UnknownRegion if self.find_region(region, &mut search, deadline).await => {}
                Outcome::UnknownRegion => return Err(TransferError::UnknownRegion { region }),
                Outcome::Refused { reason } => return Err(TransferError::Refused { reason }),
                _ => return Err(TransferError::Uncertain),
            }
            if !self.pause(&mut pause, deadline).await {
                return Err(TransferError::NotLeader { region });
            }
        }
    }

    pub(crate) fn ids(&self) -> &Ids {
        &self.running.ids
    }

    /// Asks a region's leader for a change until there is an answer or the time is up. What had no effect is tried again.
    pub(crate) async fn request_admin(
        &self,
        region: RegionId,
        epoch: Option<RegionEpoch>,
        request: AdminRequest,
        deadline: Time,
    ) -> Result<Outcome, RegionError> {
        let (mut pause, mut search) = (PAUSE_MIN, Search::default());
        loop {
            self.check_running().map_err(|reason| RegionError::Stopped { reason })?;
            let (reply, answer) = Completion::new();
            let until = deadline.min(self.deadline(None));
            let input = Input::Admin { region, epoch, request: request.clone(), deadline: until, reply };
            let outcome = match self.send(region, input, 64) {
                Ok(()) => self.wait(answer, until).await.unwrap_or(Outcome::Uncertain),
                Err(Refused::Busy) => Outcome::Busy { retry_after: BUSY_RETRY },
                Err(Refused::Stopped) => {
                    return Err(RegionError::Stopped { reason: "shutting down".to_owned() });
                }
            };
            let refusal = match outcome {
                Outcome::NotLeader { hint } => RegionError::NotLeader { region, hint },
                Outcome::Busy { .. } => RegionError::Busy { region },
                Outcome::NoSpace { store } => RegionError::NoSpace { store },
                // What has no effect may be asked for again.
                Outcome::Uncertain if has_no_effect(&request) => RegionError::NotLeader { region, hint: None },
                Outcome::UnknownRegion if self.find_region(region, &mut search, deadline).await => {
                    RegionError::NotLeader { region, hint: None }
                }
                Outcome::UnknownRegion => return Err(RegionError::UnknownRegion { region }),
                Outcome::EpochMismatch { current } => {
                    self.learn(&current);
                    return Err(RegionError::EpochMismatch { current });
                }
                Outcome::Refused { reason } => return Err(RegionError::Refused { reason }),
                Outcome::Changed { regions } => {
                    // Known here before the caller hears of it: what it asks next may be routed by it.
                    regions.iter().for_each(|region| self.learn(region));
                    return Ok(Outcome::Changed { regions });
                }
                Outcome::Applied { .. } | Outcome::Done => return Ok(outcome),
                _ => return Err(RegionError::Uncertain),
            };
            if !self.pause(&mut pause, deadline).await {
                return Err(refusal);
            }
        }
    }

    /// The region that owns a key, as this store knows it; `None` if it knows none.
    #[must_use]
    pub fn region_for(&self, key: &[u8]) -> Option<Arc<RegionDescriptor>> {
        self.running.directory.lookup(key)
    }

    /// A region by id, as this store knows it.
    #[must_use]
    pub fn region(&self, region: RegionId) -> Option<Arc<RegionDescriptor>> {
        self.running.directory.get(region)
    }

    /// All regions that own keys, in key order, as this store knows them.
    #[must_use]
    pub fn regions(&self) -> Vec<Arc<RegionDescriptor>> {
        self.running.directory.in_key_order()
    }

    /// Opens a session: its commands take effect exactly once, also when they are tried again after an unknown outcome.
    #[must_use]
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// How planning stands, if this store plans: the one that leads the root region does, if [`Config::placement`] is set.
    ///
    /// [`Config::placement`]: crate::Config::placement
    #[must_use]
    pub fn placement(&self) -> Option<PlacementState> {
        self.running.placement.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How large and how busy regions are, by region: those that this store leads, and what it reads of others. Measured with
    /// [`Config::placement`] only, and of a region that is new, or led here only now, after some rounds.
    ///
    /// [`Config::placement`]: crate::Config::placement
    #[must_use]
    pub fn figures(&self) -> Arc<[Figures]> {
        self.running.figures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Watches what happens from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        self.running.events.subscribe()
    }

    /// How the store stands. Costs a look at every region.
    pub async fn status(&self) -> StoreStatus {
        let running = &self.running;
        let mut regions = Vec::new();
        let mut counters = StoreCounters { reads: running.leased.served(), ..StoreCounters::default() };
        for mailbox in &running.mailboxes {
            let (sender, receiver) = oneshot::channel();
            if mailbox.try_send(Work::Status(sender), 0).is_err() {
                continue;
            }
            let Ok(worker) = receiver.await else { continue };
            regions.extend(worker.regions);
            let counted = worker.counters;
            counters.turns += counted.turns;
            counters.proposed += counted.proposed;
            counters.forwarded += counted.forwarded;
            counters.applied += counted.committed;
            counters.elections_won += counted.elections_won;
            counters.reads += counted.reads;
            counters.busy += counted.busy;
            counters.snapshots_installed += counted.snapshots_installed;
            counters.snapshots_resumed += counted.snapshots_resumed;
            counters.snapshots_failed += counted.snapshots_failed;
        }
        regions.sort_by_key(|region| region.descriptor.id);
        if let Some(open) = &*running.open.read().unwrap_or_else(PoisonError::into_inner) {
            let log = open.reader.stats();
            (counters.log_syncs, counters.log_entries, counters.log_bytes) = (log.syncs, log.entries, log.bytes);
        }
        let (beats, messages) = running.beats.lock().unwrap_or_else(PoisonError::into_inner).sent();
        (counters.beats_sent, counters.beat_messages_sent) = (beats, messages);
        let links = running.transport.status();
        for link in &links {
            counters.snapshot_bytes_sent += link.snapshot_bytes_sent;
            counters.snapshot_bytes_received += link.snapshot_bytes_received;
        }
        let of = |link: multiraft_transport::PeerStatus| {
            let support = running.support.standing(link.store);
            PeerStatus::of(link, support)
        };
        let peers: Vec<PeerStatus> = links.into_iter().map(of).collect();
        for peer in &peers {
            counters.packets_sent += peer.packets_sent;
            counters.frames_sent += peer.frames_sent;
            counters.messages_sent += peer.messages_sent;
            counters.bytes_sent += peer.bytes_sent;
        }
        StoreStatus {
            store: running.store,
            incarnation: running.incarnation,
            regions,
            damaged: running.damaged.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            lacks_promises: running.lacks_promises,
            floor: running.store_file.floor(),
            wire_version: running.transport.wire_version_max(),
            peers,
            counters,
        }
    }

    /// Hands every region that this store leads to another store, as far as there is one that takes it, and returns how many it
    /// still leads when that is done or the time is up. Stores that stop as well take none: then this ends at once. Leadership is not taken back afterwards: for use before a
    /// shutdown.
    pub async fn handover(&self, timeout: Duration) -> usize {
        let deadline = self.deadline(Some(timeout));
        for mailbox in &self.running.mailboxes {
            let _ = mailbox.send_reserved(Work::Input(Input::Handover));
        }
        loop {
            let LedCount { led, movable } = self.led().await;
            if movable == 0 || self.running.clock.now() >= deadline {
                return led;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn led(&self) -> LedCount {
        let mut all = LedCount::default();
        for mailbox in &self.running.mailboxes {
            let (sender, receiver) = oneshot::channel();
            // A worker that stands still keeps what it leads; it is not waited for.
            if mailbox.try_send(Work::Led(sender), 0).is_ok() {
                let told = within(LED_TIMEOUT, receiver).await.and_then(Result::ok);
                let LedCount { led, movable } = told.unwrap_or(LedCount { led: 1, movable: 1 });
                all = LedCount { led: all.led + led, movable: all.movable + movable };
            }
        }
        all
    }

    /// Why this store no longer serves, if a disk failed or a worker died.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.running.fault.reason().map(str::to_owned)
    }

    /// Stops the store: what was accepted is finished, links are closed, files are flushed. Other clones of this handle
    /// answer `Stopped` from then on.
    pub async fn shutdown(&self) {
        let running = Arc::clone(&self.running);
        // A join error means that the runtime is going away; then dropping the last handle does the same.
        let _ = tokio::task::spawn_blocking(move || running.stop()).await;
    }

    pub(crate) fn deadline(&self, timeout: Option<Duration>) -> Time {
        self.running.clock.now().plus(timeout.unwrap_or(self.running.config.request_timeout))
    }

    /// A part of the time that is left, so that an answer which was lost can be asked for again.
    pub(crate) fn slice(&self, deadline: Time) -> Time {
        let left = deadline.since(self.now());
        self.now().plus((left / 2).max(Duration::from_millis(100).min(left)))
    }

    pub(crate) fn now(&self) -> Time {
        self.running.clock.now()
    }

    pub(crate) fn check_running(&self) -> Result<(), String> {
        self.running.fault.reason().map_or(Ok(()), |reason| Err(reason.to_owned()))
    }

    /// Takes news of a region; older news than what is known is dropped.
    pub(crate) fn learn(&self, region: &Arc<RegionDescriptor>) {
        self.running.directory.update(region);
    }

    /// How many other stores there are.
    pub(crate) fn peer_count(&self) -> usize {
        self.running.transport.status().len()
    }

    pub(crate) fn send(&self, region: RegionId, input: Input<Completion>, bytes: u64) -> Result<(), Refused> {
        let mailboxes = &self.running.mailboxes;
        // One that has no replica here goes to the worker that would drive it: that one knows routes.
        let worker = self.running.directory.worker(region).unwrap_or_else(|| worker_of(region, mailboxes.len()));
        mailboxes[worker].try_send(Work::Input(input), bytes).map_err(|error| match error {
            SendError::Busy(_) | SendError::TooLarge(_) => Refused::Busy,
            _ => Refused::Stopped,
        })
    }

    /// Waits for an answer; `None` if none came in time, or never will.
    pub(crate) async fn wait(&self, answer: oneshot::Receiver<Outcome>, deadline: Time) -> Option<Outcome> {
        self.running.patience.wait(self.running.clock, answer, deadline).await
    }

    /// Waits before the next attempt; false if there is no time for one.
    pub(crate) async fn pause(&self, pause: &mut Duration, deadline: Time) -> bool {
        if self.running.clock.now().plus(*pause) >= deadline {
            return false;
        }
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(PAUSE_MAX);
        true
    }
}

pub(crate) enum Refused {
    Busy,
    Stopped,
}

async fn within<T>(left: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(left, future).await.ok()
}

/// Whether a request may be made again, whatever became of it.
fn has_no_effect(request: &AdminRequest) -> bool {
    use AdminRequest::{Command, Describe, Findings, Loads, Report};
    matches!(request, Describe | Loads | Findings { .. } | Report(_) | Command(AdminCommand::Check))
}

fn propose_error(region: RegionId, outcome: Outcome) -> ProposeError {
    match outcome {
        Outcome::UnknownRegion => ProposeError::UnknownRegion { region },
        Outcome::EpochMismatch { current } => ProposeError::EpochMismatch { current },
        Outcome::Busy { retry_after } => ProposeError::Busy { retry_after },
        Outcome::SessionExpired => ProposeError::SessionExpired { region },
        Outcome::Refused { reason } => ProposeError::Refused { reason },
        _ => ProposeError::Uncertain,
    }
}
