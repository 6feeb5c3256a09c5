//! The task that moves the steward's data: from workers and peers into the facts, from the planner to the engine's calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use multiraft_raft::{RegionId, ReplicaId, StoreId, Term};
use multiraft_storage::DiskSpace;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;

use super::carry::carry_out;
use super::loads::encode_loads;
use super::options::{Placement, Seat};
use super::planning::Planning;
use super::report::{Report, StoreNews};
use super::reporter::Reporter;
use super::surveys::Surveys;
use crate::engine::Engine;
use crate::error::StoreError;
use crate::logic::{AdminRequest, Input, LedRegion, Outcome, StoreCommand, StoreRecord, StoreStanding, worker_of};
use crate::measure::{Figures, Gauges, Tally};
use crate::placement::{Operation, OperationId, Outcome as Ending, Sizes};
use crate::region::stores::{Stores, decode_stores};
use crate::shell::{Running, Work};

/// How many slots of a worker are looked at in one of its turns.
const SLOTS_PER_PAGE: u32 = 1024;
/// How long a worker may take to tell a page, and the root region's leader to take a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// How many replicas that are out of service a report names.
const ASIDE_MAX: usize = 4096;
/// How many more rounds of planning an interval has at most, while operations end.
const REPLANS_AN_INTERVAL: u32 = 20;
/// How often a store reports that does not plan itself.
const INTERVAL: Duration = Duration::from_secs(1);

/// Starts the steward of a store that has a seat, or plans, or both. It ends with the store.
/// Peers that were `named` by the embedder stay at the addresses that he gave; others are reached where they say.
pub(crate) fn start(engine: &Engine, seat: Option<Seat>, named: BTreeSet<StoreId>) {
    let placement = engine.running().config.placement.clone();
    if placement.is_none() && seat.is_none() {
        return;
    }
    let (running, user) = engine.watch();
    let interval = placement.as_ref().map_or(INTERVAL, |placement| placement.interval);
    let sizes = placement.as_ref().map_or_else(Sizes::default, |placement| placement.options.sizes);
    let meters = placement.as_ref().map(|placement| (Gauges::new(sizes), Surveys::new(placement.survey_bytes_per_s)));
    let steward = Steward {
        running,
        user,
        interval,
        placement,
        seat: Some(seat.unwrap_or_default()),
        joining: None,
        meters,
        reporter: Reporter::new(&sizes),
        is_scarce: false,
        planning: None,
        operations: Operations::default(),
        noting: None,
        peers: Peers { named, added: BTreeMap::new() },
    };
    tokio::spawn(steward.run());
}

struct Steward {
    running: Weak<Running>,
    /// Whether the embedder still has a handle.
    user: Weak<()>,
    interval: Duration,
    placement: Option<Placement>,
    /// To join with; gone once the store has joined.
    seat: Option<Seat>,
    joining: Option<JoinHandle<Result<Stores, StoreError>>>,
    /// How large and how busy regions are; with placement only.
    meters: Option<(Gauges, Surveys)>,
    reporter: Reporter,
    /// Whether the workers were told that there is little space left.
    is_scarce: bool,
    planning: Option<Box<Planning>>,
    operations: Operations,
    /// Stores that are being noted as drained.
    noting: Option<JoinHandle<()>>,
    peers: Peers,
}

/// The other stores, as the transport was told of them.
struct Peers {
    /// By the embedder.
    named: BTreeSet<StoreId>,
    /// By the steward, with their addresses.
    added: BTreeMap<StoreId, String>,
}

/// What runs. All of it ends when this is dropped.
#[derive(Default)]
struct Operations {
    tasks: JoinSet<(OperationId, Ending)>,
    /// What has ended and was not told yet.
    ended: Vec<(OperationId, Ending)>,
    handles: BTreeMap<OperationId, AbortHandle>,
}

impl Steward {
    async fn run(mut self) {
        loop {
            let Some(running) = self.running.upgrade().filter(|_| self.user.strong_count() > 0) else { return };
            let engine = Engine::of_store(running);
            if engine.running().fault.ends_waiting() {
                return;
            }
            self.maybe_join(&engine).await;
            self.look_after(&engine).await;
            drop(engine);
            self.rest().await;
        }
    }

    /// Rests until the next round is due. Where operations end meanwhile, others take their places: what waits for a place would
    /// else be carried out no faster than so many an interval, however short each takes.
    async fn rest(&mut self) {
        let due = Instant::now() + self.interval;
        while self.operations.ends_before(due).await {
            // Those that end together are followed together.
            tokio::time::sleep_until(due.min(Instant::now() + self.interval / REPLANS_AN_INTERVAL)).await;
            let running = self.running.upgrade().filter(|_| self.user.strong_count() > 0);
            let (Some(running), Some(placement)) = (running, self.placement.clone()) else { return };
            let Some(term) = self.planning.as_ref().map(|planning| planning.term()) else { return };
            self.plan(&Engine::of_store(running), term, &placement).await;
        }
    }

    /// Joins, once; tries again until that has worked or can never.
    async fn maybe_join(&mut self, engine: &Engine) {
        if self.joining.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(joining) = self.joining.take()
        {
            match joining.await {
                Ok(Ok(stores)) => {
                    self.seat = None;
                    self.peers.update(engine, &stores);
                }
                Ok(Err(error @ (StoreError::Left { .. } | StoreError::TooLarge { .. }))) => {
                    tracing::error!(%error, "this store cannot join");
                    self.seat = None;
                }
                Ok(Err(error)) => tracing::info!(%error, "this store has not joined yet"),
                Err(_) => {}
            }
        }
        let Some(seat) = self.seat.as_ref().filter(|_| self.joining.is_none()) else { return };
        let record = StoreRecord {
            id: engine.store(),
            address: seat.address.clone().or_else(|| own_address(engine)).unwrap_or_default(),
            weight: seat.weight,
            labels: seat.labels.clone(),
            standing: StoreStanding::Up,
        };
        let engine = engine.clone();
        let command = StoreCommand::Join(Arc::new(record));
        self.joining = Some(tokio::spawn(async move { engine.change_store(engine.store(), command).await }));
    }

    /// One round: reports, and plans if the root region is led here.
    async fn look_after(&mut self, engine: &Engine) {
        // A store whose workers stand still does not report, and falls silent.
        let Some(LookedAt { held, is_full, is_slow, aside, led }) = look_at_workers(engine).await else { return };
        let disk = self.look_at_disk(engine, is_full).await;
        let root = led.iter().find(|region| region.descriptor.id == RegionId::ROOT).map(|region| region.term);
        if let Some(stores) = stores_here(engine).filter(|_| self.seat.is_none()) {
            self.peers.update(engine, &stores);
        }
        let figures = self.measure(engine, &led).await;
        let mut taken = None;
        // Whoever has just begun to lead the root region hears everything at once.
        for _ in 0..2 {
            let mut is_known = true;
            let mut reports = self.reporter.reports(held, led.clone(), figures.clone());
            let news = || StoreNews { disk, is_slow, aside: aside.clone() };
            reports.iter_mut().take(1).for_each(|first| first.store = Some(news()));
            for report in reports {
                taken = tell(engine, &report).await;
                let Some(term) = taken else { break };
                is_known &= self.reporter.on_taken(term, &report);
            }
            if is_known {
                break;
            }
        }
        let (Some(term), Some(placement)) = (root, self.placement.clone()) else {
            return self.stop_planning(engine);
        };
        if self.planning.as_ref().is_some_and(|planning| planning.term() != term) {
            self.stop_planning(engine);
        }
        // A leader that takes reports has applied what its predecessors have committed: its record of the stores is whole. One
        // that does not for a moment goes on later, with what it knows: nobody tells it again in the same term.
        if taken == Some(term) {
            self.plan(engine, term, &placement).await;
        }
    }

    /// The store's disk. While writes wait for space there is none, whatever the file system says. Where so little is left that the
    /// next write may be refused, the workers hear of it, also if none has been.
    async fn look_at_disk(&mut self, engine: &Engine, is_full: bool) -> DiskSpace {
        let dir = engine.running().data_dir.clone();
        let Ok(Ok(found)) = tokio::task::spawn_blocking(move || DiskSpace::of(&dir)).await else {
            return DiskSpace { bytes: u64::from(is_full), free_bytes: 0 };
        };
        let is_scarce = found.free_bytes < engine.running().free_bytes_min;
        if self.is_scarce != is_scarce {
            self.is_scarce = is_scarce;
            tracing::info!(is_scarce, free_bytes = found.free_bytes, "the space left on this store's disk");
            for mailbox in &engine.running().mailboxes {
                // Closed: the worker has stopped.
                let _ = mailbox.send_reserved(Work::Input(Input::DiskScarce { is_scarce }));
            }
        }
        DiskSpace { free_bytes: if is_full { 0 } else { found.free_bytes }, ..found }
    }

    /// How large and how busy regions are here.
    async fn measure(&mut self, engine: &Engine, led: &[LedRegion]) -> Vec<Figures> {
        let Some((gauges, surveys)) = &mut self.meters else { return Vec::new() };
        gauges.begin(engine.now(), led);
        gauges.take(take_tallies(engine), |region| engine.region(region).map(|known| known.epoch.version));
        surveys.round(&self.running, gauges, self.interval).await;
        let figures: Vec<Figures> = gauges.figures().collect();
        *engine.running().figures.lock().unwrap_or_else(PoisonError::into_inner) = figures.clone().into();
        figures
    }

    fn stop_planning(&mut self, engine: &Engine) {
        if self.planning.take().is_some() {
            self.operations = Operations::default();
            set_state(engine, None);
        }
    }

    async fn plan(&mut self, engine: &Engine, term: Term, placement: &Placement) {
        let Some(stores) = stores_here(engine) else { return };
        let now = engine.now();
        let planning = match self.planning.take() {
            Some(planning) => planning,
            None => match Planning::new(term, now, placement) {
                Ok(planning) => Box::new(planning),
                Err(error) => return tracing::error!(%error, "nothing is planned"),
            },
        };
        let posted = engine.running().inbox.take();
        let outcomes = self.operations.ended();
        // A round may look at a hundred thousand regions: it has a thread for itself.
        let round = tokio::task::spawn_blocking(move || {
            let mut planning = planning;
            planning.take_reports(now, posted);
            for (operation, ending) in outcomes {
                planning.take_outcome(now, operation, ending);
            }
            let round = planning.round(now, &stores);
            (planning, round)
        });
        let Ok((planning, round)) = round.await else {
            self.operations = Operations::default();
            return tracing::error!("a round of planning was cut short: planning begins anew");
        };
        for operation in &round.give_up {
            self.operations.give_up(*operation);
        }
        for operation in round.begin {
            tracing::info!(%operation, "begun");
            point_the_way(engine, &planning, &operation);
            self.operations.begin(engine.clone(), operation);
        }
        self.note_drained(engine, round.drained);
        set_state(engine, Some(planning.state().clone()));
        if planning.state().is_complete {
            let (mailboxes, loads) = (&engine.running().mailboxes, encode_loads(&planning.state().loads));
            let mailbox = &mailboxes[worker_of(RegionId::ROOT, mailboxes.len())];
            // Closed: the worker has stopped.
            let _ = mailbox.send_reserved(Work::Input(Input::Loads { term, loads }));
        }
        self.planning = Some(planning);
    }

    fn note_drained(&mut self, engine: &Engine, drained: Vec<StoreId>) {
        if drained.is_empty() || self.noting.as_ref().is_some_and(|noting| !noting.is_finished()) {
            return;
        }
        let engine = engine.clone();
        self.noting = Some(tokio::spawn(async move {
            for store in drained {
                match engine.change_store(store, StoreCommand::Drained(store)).await {
                    Ok(_) => tracing::info!(%store, "this store holds nothing any more and may leave"),
                    Err(error) => tracing::warn!(%store, %error, "a store is empty, and that could not be noted"),
                }
            }
        }));
    }
}

impl Peers {
    /// Tells the transport of stores that have joined and of new addresses, and of those that are no more.
    ///
    /// Of two stores the one that joins later learns of the other at once, so every two know of each other.
    fn update(&mut self, engine: &Engine, stores: &Stores) {
        let transport = &engine.running().transport;
        let own = engine.store();
        let here = stores.values().filter(|store| store.standing != StoreStanding::Left && store.id != own);
        for store in here.filter(|store| !self.named.contains(&store.id)) {
            if self.added.get(&store.id) != Some(&store.address) {
                self.added.insert(store.id, store.address.clone());
                if !transport.add_peer(store.id, store.address.as_str()) {
                    tracing::error!(peer = %store.id, "too many stores: this one is not dialed");
                }
            }
        }
        let is_here = |id: &StoreId| stores.get(id).is_some_and(|store| store.standing != StoreStanding::Left);
        self.added.retain(|id, _| {
            if !is_here(id) {
                transport.remove_peer(*id);
                engine.running().support.remove_peer(*id);
            }
            is_here(id)
        });
    }
}

impl Operations {
    fn begin(&mut self, engine: Engine, operation: Operation) {
        let id = operation.id;
        let handle = self.tasks.spawn(async move {
            match carry_out(&engine, &operation).await {
                Ok(()) => (id, Ending::Done),
                Err(error) => {
                    tracing::info!(%operation, %error, "an operation came to nothing");
                    (id, Ending::Failed)
                }
            }
        });
        self.handles.insert(id, handle);
    }

    fn give_up(&mut self, operation: OperationId) {
        if let Some(handle) = self.handles.remove(&operation) {
            handle.abort();
        }
    }

    /// What has ended since this was last asked, and how.
    fn ended(&mut self) -> Vec<(OperationId, Ending)> {
        while let Some(task) = self.tasks.try_join_next() {
            self.on_ended(task);
        }
        std::mem::take(&mut self.ended)
    }

    /// Waits until an operation ends or it is `due`; says whether one has ended.
    async fn ends_before(&mut self, due: Instant) -> bool {
        loop {
            match tokio::time::timeout_at(due, self.tasks.join_next()).await {
                Ok(Some(task)) => {
                    if self.on_ended(task) {
                        return true;
                    }
                }
                Ok(None) => {
                    tokio::time::sleep_until(due).await;
                    return false;
                }
                Err(_) => return false,
            }
        }
    }

    /// Whether that is to be told: one that was given up is not, the planner knows.
    fn on_ended(&mut self, task: Result<(OperationId, Ending), JoinError>) -> bool {
        let Ok((operation, ending)) = task else { return false };
        self.handles.remove(&operation);
        self.ended.push((operation, ending));
        true
    }
}

/// What there is on a store.
#[derive(Default)]
struct LookedAt {
    /// How many replicas.
    held: usize,
    /// Whether writes wait for space.
    is_full: bool,
    /// Whether it works, but not well.
    is_slow: bool,
    /// Those that are out of service.
    aside: BTreeMap<RegionId, ReplicaId>,
    /// The regions that it leads.
    led: Vec<LedRegion>,
}

/// `None` if a worker does not tell.
async fn look_at_workers(engine: &Engine) -> Option<LookedAt> {
    let mut found = LookedAt::default();
    for mailbox in &engine.running().mailboxes {
        let mut next = Some(0);
        while let Some(from) = next {
            let (sender, receiver) = oneshot::channel();
            mailbox.send_reserved(Work::LedPage { from, slots: SLOTS_PER_PAGE, sender }).ok()?;
            let page = tokio::time::timeout(REPORT_TIMEOUT, receiver).await.ok()?.ok()?;
            found.held += page.held;
            found.is_full |= page.is_full;
            found.is_slow |= page.is_slow;
            found.aside.extend(page.aside);
            found.led.extend(page.led);
            next = page.next;
        }
    }
    // What is left out is told once others are replaced.
    found.aside = found.aside.into_iter().take(ASIDE_MAX).collect();
    Some(found)
}

/// What was done in regions here since this was last asked.
fn take_tallies(engine: &Engine) -> BTreeMap<RegionId, Tally> {
    let open = engine.running().open.read().unwrap_or_else(PoisonError::into_inner);
    open.as_ref().map(|open| open.backend.take_tallies()).unwrap_or_default()
}

/// Sends a report to the root region's leader; its term, if it has taken it.
async fn tell(engine: &Engine, report: &Report) -> Option<Term> {
    let request = AdminRequest::Report(report.encode());
    let deadline = engine.deadline(Some(REPORT_TIMEOUT));
    match engine.request_admin(RegionId::ROOT, None, request, deadline).await {
        Ok(Outcome::Applied { reply, .. }) => reply.as_ref().try_into().ok().map(u64::from_be_bytes).map(Term),
        _ => None,
    }
}

/// What others reach this store by, unless they were told: where it listens. On a local network its id is enough.
fn own_address(engine: &Engine) -> Option<String> {
    engine.local_addr().map(|address| address.to_string())
}

/// The stores as the root region's replica here knows them.
fn stores_here(engine: &Engine) -> Option<Stores> {
    let open = engine.running().open.read().unwrap_or_else(PoisonError::into_inner);
    match open.as_ref()?.backend.stores() {
        Ok(Some(stored)) => decode_stores(&stored),
        Ok(None) => Some(Stores::new()),
        Err(error) => {
            tracing::error!(%error, "the record of the stores cannot be read");
            None
        }
    }
}

/// Lets the store know the regions of an operation, which need not have a replica here: it finds their leaders then.
fn point_the_way(engine: &Engine, planning: &Planning, operation: &Operation) {
    let regions = [Some(operation.region), operation.other_region()].into_iter().flatten();
    let known = regions.filter_map(|id| planning.facts().view().region(id));
    known.for_each(|region| engine.learn(&region.descriptor));
}

fn set_state(engine: &Engine, state: Option<super::PlacementState>) {
    *engine.running().placement.lock().unwrap_or_else(PoisonError::into_inner) = state;
}
