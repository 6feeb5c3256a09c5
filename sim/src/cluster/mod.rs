//! A whole cluster in one thread: stores, the network between them, their disks and their clients, on virtual time.
//!
//! What runs in it is what ships: the engine's workers and appliers, the log, the state stores, the wire codec. This module
//! is the shell around them, as `multiraft`'s own shell is in a real process: it decides nothing but how long things take
//! and what goes wrong.
//!
//! ```text
//!  clients --> worker turn --> log queue --> flush --> token --+
//!                 ^   |------> frames over links --> peers     |
//!                 |   +------> apply queue --> state --> answers
//!                 +--------------------------------------------+
//! ```

mod apply;
mod checks;
mod clients;
mod counted;
mod disaster;
mod faults;
mod finish;
mod floor;
mod leased;
mod links;
mod lives;
mod log;
mod media;
mod merges;
mod network;
mod node;
mod observe;
mod planted;
mod regions;
mod routes;
mod scripted;
mod streams;
mod support;
mod turn;
mod wipe;

use std::collections::BTreeMap;

use multiraft::logic::Floor;
use multiraft_raft::{RegionId, StoreId};

use crate::check::Violation;
use crate::check::consensus::Consensus;
use crate::check::regions::Regions;
use crate::check::shadow::Shadows;
use crate::check::support::Supports;
use crate::counters::Counters;
use crate::enumerate::Script;
use crate::history::History;
use crate::plan::{Fault, Plan, RECOVERY};
use crate::plant::Plant;
use crate::random::{Random, fold};
use crate::schedule::{Moment, SECOND, Schedule};

use clients::Clients;
use counted::Counting;
use disaster::Aftermath;
use faults::Faults;
use network::{Network, Packet};
use node::{Node, first_regions};
use regions::Operators;
use wipe::Changes;

/// Names who waits for an answer of a worker: an attempt of a client's operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiter(u64);

impl Waiter {
    /// Nobody waits.
    const NOBODY: Self = Self(0);
}

/// What happens at some moment. A `life` names one run of one store's process: what was planned for an earlier one is void.
#[derive(Debug)]
enum Event {
    Turn { store: usize, life: u64, worker: usize },
    Support { store: usize, life: u64 },
    LogDone { store: usize, life: u64 },
    Fetched { store: usize, life: u64, worker: usize, task: multiraft::logic::FetchTask },
    ApplyDone { store: usize, life: u64, worker: usize },
    Checkpoint { store: usize, life: u64 },
    CheckpointDone { store: usize, life: u64 },
    Start { store: usize },
    Stop { store: usize, life: u64 },
    Failed { store: usize, life: u64 },
    Packet(Packet),
    LinkUp { link: usize, side: usize, session: u64 },
    LinkDown { link: usize, side: usize, session: u64 },
    LinkIdle { link: usize, session: u64 },
    Dial { link: usize },
    LaneReady { store: usize, life: u64, peer: StoreId, worker: usize },
    SendSnapshot { store: usize, life: u64, task: multiraft::logic::SnapshotTask },
    Chunk(streams::Chunk),
    StreamLost { store: usize, life: u64, from: StoreId, transfer: u64 },
    StreamSent { store: usize, life: u64, transfer: u64, sent: bool },
    Client { client: usize },
    Operate { operator: usize },
    Deadline { waiter: Waiter },
    Lookup { waiter: Waiter, store: usize, life: u64 },
    Answer { waiter: Waiter, outcome: multiraft::logic::Outcome },
    Fault(Fault),
    Undo(faults::Undo),
    Resume { store: usize },
    Disaster,
    Recover,
    Doom { store: usize },
    Wipe { store: usize, attempts: u32 },
    Rejoin { store: usize },
    AskFloor { store: usize, life: u64, again: Option<Waiter> },
    Floor { store: usize, life: u64, floor: Floor },
    Heal,
    Settle,
    Check { round: usize },
    Begin,
    End,
}

/// What a run was, in the end.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The first thing that happened and must not.
    pub violation: Option<Violation>,
    /// What happened.
    pub counters: Counters,
    /// A digest of everything that happened, in order.
    pub digest: u64,
    /// How much virtual time passed, in nanoseconds.
    pub virtual_nanos: u64,
}

/// A cluster in the middle of a run.
pub struct Cluster {
    plan: Plan,
    plant: Option<Plant>,
    counting: Counting,
    schedule: Schedule<Event>,
    random: Random,
    nodes: Vec<Node>,
    network: Network,
    clients: Clients,
    operators: Operators,
    faults: Faults,
    aftermath: Aftermath,
    history: History,
    consensus: Consensus,
    shadows: Shadows,
    regions: Regions,
    supports: Supports,
    changes: Changes,
    floors: floor::Floors,
    counters: Counters,
    digest: u64,
    violation: Option<Violation>,
    /// What goes wrong, in a run in which that is given.
    script: Option<Script>,
    /// When a store last applied that the merge of a region is rolled back.
    thawed: BTreeMap<RegionId, Moment>,
    /// When the run is over.
    end: Moment,
    /// Print what happens.
    verbose: bool,
}

impl Cluster {
    /// A cluster of new stores, as the plan has it.
    #[must_use]
    pub fn new(plan: Plan, plant: Option<Plant>, verbose: bool) -> Self {
        let mut random = Random::new(plan.seed ^ 0x00c1_0c57);
        let nodes = (0..plan.stores()).map(|store| Node::new(store, &plan, &mut random)).collect();
        let mut cluster = Self {
            network: Network::new(plan.stores(), &plan.workers),
            clients: Clients::new(&plan, random.fork()),
            faults: Faults::new(random.fork()),
            aftermath: Aftermath::new(&plan),
            operators: Operators::new(&plan, random.fork()),
            nodes,
            schedule: Schedule::default(),
            random,
            history: History::default(),
            consensus: Consensus::default(),
            shadows: Shadows::default(),
            regions: Regions::default(),
            supports: Supports::default(),
            changes: Changes::default(),
            floors: floor::Floors::default(),
            counters: Counters::default(),
            digest: plan.seed,
            violation: None,
            script: None,
            plant,
            counting: Counting::default(),
            thawed: BTreeMap::new(),
            end: Moment(plan.chaos + RECOVERY),
            plan,
            verbose,
        };
        cluster.begin();
        cluster
    }

    fn begin(&mut self) {
        let first = first_regions(&self.plan);
        first.iter().for_each(|descriptor| self.clients.routes.learn(descriptor));
        let verdict = self.regions.begin(&first);
        self.judge_that(verdict);
        for store in 0..self.nodes.len() {
            let wait = self.random.below(SECOND / 2);
            self.schedule.plan_in(wait, Event::Start { store });
        }
        self.plan_dials();
        self.plan_clients();
        self.plan_operators();
        self.plan_faults();
        self.plan_disaster();
        self.plan_check(0);
        self.schedule.plan(Moment(self.plan.chaos), Event::Heal);
    }

    /// Lets everything happen, and judges it.
    #[must_use]
    pub fn run(self) -> Report {
        self.run_to_end().0
    }

    fn run_to_end(mut self) -> (Report, Option<Script>) {
        while self.violation.is_none() {
            let Some(event) = self.schedule.next(self.end) else { break };
            self.counters.events += 1;
            self.handle(event);
        }
        if self.violation.is_none() {
            self.judge();
        }
        let script = self.script.take();
        let report = Report {
            seed: self.plan.seed,
            digest: fold(self.digest, self.schedule.planned()),
            virtual_nanos: if self.violation.is_none() { self.end.0 } else { self.schedule.now().0 },
            counters: self.counters,
            violation: self.violation,
        };
        (report, script)
    }

    fn handle(&mut self, event: Event) {
        let Some(event) = self.hold_back(event) else { return };
        match event {
            Event::Turn { store, life, worker } => self.on_turn(store, life, worker),
            Event::Support { store, life } => self.on_support(store, life),
            Event::LogDone { store, life } => self.on_log_done(store, life),
            Event::Fetched { store, life, worker, task } => self.on_fetched(store, life, worker, task),
            Event::ApplyDone { store, life, worker } => self.on_apply_done(store, life, worker),
            Event::Checkpoint { store, life } => self.on_checkpoint(store, life),
            Event::CheckpointDone { store, life } => self.on_checkpoint_done(store, life),
            Event::Start { store } => self.start(store),
            Event::Stop { store, life } => self.stop(store, life),
            Event::Failed { store, life } => self.on_failed(store, life),
            Event::Packet(packet) => self.on_packet(packet),
            Event::LinkUp { link, side, session } => self.on_link_up(link, side, session),
            Event::LinkDown { link, side, session } => self.on_link_down(link, side, session),
            Event::LinkIdle { link, session } => self.on_link_idle(link, session),
            Event::Dial { link } => self.on_dial(link),
            Event::LaneReady { store, life, peer, worker } => self.on_lane_ready(store, life, peer, worker),
            Event::SendSnapshot { store, life, task } => self.send_snapshot(store, life, task),
            Event::Chunk(chunk) => self.on_chunk(chunk),
            Event::StreamLost { store, life, from, transfer } => self.on_stream_lost(store, life, from, transfer),
            Event::StreamSent { store, life, transfer, sent } => self.on_stream_sent(store, life, transfer, sent),
            Event::Client { client } => self.on_client(client),
            Event::Operate { operator } => self.on_operate(operator),
            Event::Deadline { waiter } => self.on_deadline(waiter),
            Event::Lookup { waiter, store, life } => self.on_lookup(waiter, store, life),
            Event::Answer { waiter, outcome } => self.on_answer(waiter, outcome),
            Event::Fault(fault) => self.on_fault(fault),
            Event::Undo(undo) => self.on_undo(undo),
            Event::Resume { store } => self.on_resume(store),
            Event::Disaster => self.on_disaster(),
            Event::Recover => self.on_recover(),
            Event::Doom { store } => self.doom(store),
            Event::Wipe { store, attempts } => self.on_wipe(store, attempts),
            Event::Rejoin { store } => self.on_rejoin(store),
            Event::AskFloor { store, life, again } => self.ask_for_floor(store, life, again),
            Event::Floor { store, life, floor } => self.on_floor(store, life, floor),
            Event::Heal => self.on_heal(),
            Event::Begin => self.on_script_begins(),
            Event::End => self.on_script_ends(),
            Event::Settle => self.on_settle(),
            Event::Check { round } => self.on_check(round),
        }
    }

    /// A store that stands still does nothing until it goes on; one that has failed does nothing any more.
    fn hold_back(&mut self, event: Event) -> Option<Event> {
        let store = match &event {
            Event::Turn { store, .. }
            | Event::Support { store, .. }
            | Event::LogDone { store, .. }
            | Event::Fetched { store, .. }
            | Event::ApplyDone { store, .. }
            | Event::Checkpoint { store, .. }
            | Event::CheckpointDone { store, .. }
            | Event::Stop { store, .. }
            | Event::Lookup { store, .. }
            | Event::LaneReady { store, .. }
            | Event::SendSnapshot { store, .. }
            | Event::AskFloor { store, .. }
            | Event::Floor { store, .. }
            | Event::StreamLost { store, .. }
            | Event::StreamSent { store, .. } => *store,
            Event::Packet(packet) => packet.to,
            Event::Chunk(chunk) => chunk.to,
            Event::LinkUp { link, side, .. } | Event::LinkDown { link, side, .. } => self.network.ends(*link)[*side],
            _ => return Some(event),
        };
        // Its connections live on until it is ended.
        let is_of_a_link =
            matches!(event, Event::Packet(_) | Event::Chunk(_) | Event::LinkUp { .. } | Event::LinkDown { .. });
        if !is_of_a_link && self.nodes[store].process.as_ref().is_some_and(|process| process.failed) {
            return None;
        }
        let until = self.nodes[store].paused_until;
        if until <= self.schedule.now() {
            return Some(event);
        }
        let held = &mut self.nodes[store].held;
        if held.is_empty() {
            self.schedule.plan(until, Event::Resume { store });
        }
        held.push(event);
        None
    }

    /// A store goes on after it stood still, with all that came meanwhile.
    fn on_resume(&mut self, store: usize) {
        let until = self.nodes[store].paused_until;
        if until > self.schedule.now() {
            return self.schedule.plan(until, Event::Resume { store });
        }
        for event in std::mem::take(&mut self.nodes[store].held) {
            self.handle(event);
        }
    }

    /// Remembers the first breach of a rule; the run ends with it.
    fn judge_that(&mut self, verdict: crate::check::Verdict) {
        if let Err(violation) = verdict
            && self.violation.is_none()
        {
            self.say(|| format!("VIOLATION {violation}"));
            self.violation = Some(violation);
        }
    }

    fn fail(&mut self, rule: &'static str, detail: impl Into<String>) {
        self.judge_that(Err(Violation::new(rule, detail)));
    }

    /// Adds something that happened to the run's digest.
    fn record(&mut self, what: u64, which: u64) {
        self.digest = fold(fold(self.digest, self.schedule.now().0), fold(what, which));
    }

    /// Tells what happens, to whoever replays the run.
    #[allow(clippy::print_stdout, reason = "the readable log of a replay goes to standard output")]
    fn say(&self, line: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:?}  {}", self.schedule.now(), line());
        }
    }
}

/// The name of a store by its place.
fn id_of(store: usize) -> StoreId {
    StoreId(store as u64 + 1)
}

/// The place of a store by its name.
fn place_of(store: StoreId) -> usize {
    store.get() as usize - 1
}
