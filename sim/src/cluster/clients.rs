//! Clients: what they ask for, through which store, what they do when no clear answer comes, and what the history says of
//! it all.

mod asking;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use multiraft::ReadError;
use multiraft::logic::{Freshness, Input, Outcome};
use multiraft_raft::{LogIndex, RegionEpoch, RegionId};
use multiraft_transport::{SessionId, SessionSeq};

use super::routes::Routes;
use super::{Cluster, Event, Waiter, id_of};
use crate::history::{Action, Answer, Key, Operation};
use crate::machine;
use crate::plan::Plan;
use crate::random::Random;
use crate::schedule::{MICRO, MILLI, Moment};

/// How often an operation of a session is tried before its client gives up.
const ATTEMPTS_MAX: u32 = 8;

/// The clients, and the attempts that wait for an answer.
#[derive(Debug)]
pub(super) struct Clients {
    random: Random,
    clients: Vec<Client>,
    waiting: BTreeMap<Waiter, Attempt>,
    last_waiter: u64,
    last_value: u64,
    last_session: u128,
    /// Which region owns a key, as far as the clients know.
    pub(super) routes: Routes,
    /// The value last seen in each register, for compare-and-set.
    seen: BTreeMap<Key, u64>,
    /// No client begins anything new.
    pub(super) closed: bool,
}

#[derive(Debug)]
struct Client {
    role: Role,
    running: Option<Running>,
    /// Its session, if it has one.
    session: Option<Session>,
    /// Commands that are still to be sent a second time, with what they were answered.
    repeats: VecDeque<(Running, Bytes)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    /// Does what the load says, until the clients are closed.
    Loader,
    /// Shows that the regions work again: writes some keys once, and reads them in the end.
    Prober { left: VecDeque<Key>, reads: bool },
}

/// A session, as the engine's handle keeps one: one name and one count, and where it was opened in each region. Regions that are
/// cut from one, or absorb it, know the session by the same.
#[derive(Clone, Debug)]
struct Session {
    id: SessionId,
    opened: BTreeMap<RegionId, LogIndex>,
    last: u64,
}

/// An operation under way.
#[derive(Clone, Debug)]
struct Running {
    task: Task,
    /// What it is about: the region is the one that owns this key at each attempt.
    key: Key,
    invoked: Moment,
    session: Option<SessionSeq>,
    attempts: u32,
    /// An earlier attempt may have had its effect, or may have it yet.
    uncertain: bool,
    /// An attempt went to a region that did not own the key any more.
    rerouted: bool,
    command: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Task {
    Operate {
        key: Key,
        action: Action,
    },
    OpenSession,
    Transfer {
        to: usize,
    },
    /// A command that was answered before, once more.
    Repeat {
        first_answer: Bytes,
    },
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    client: usize,
    store: usize,
    /// Where and under which epoch.
    region: RegionId,
    epoch: Option<RegionEpoch>,
}

/// How one attempt ended.
enum End {
    Done(Bytes, LogIndex),
    Value(Bytes),
    NoEffect,
    /// No effect: the client was behind, and has learned better.
    Rerouted,
    /// No effect, and another attempt would have none either.
    Expired,
    Uncertain,
}

impl Clients {
    pub(super) fn new(plan: &Plan, random: Random) -> Self {
        let client = |role| Client { role, running: None, session: None, repeats: VecDeque::new() };
        let loaders = (0..plan.load.clients).map(|_| Role::Loader);
        let probers = (2..plan.regions + 2).map(|_| Role::Prober { left: VecDeque::new(), reads: false });
        Self {
            random,
            clients: loaders.chain(probers).map(client).collect(),
            waiting: BTreeMap::new(),
            last_waiter: 0,
            last_value: 0,
            last_session: 0,
            routes: Routes::default(),
            seen: BTreeMap::new(),
            closed: false,
        }
    }

    /// Keys that a prober has not done with: not written, or, in the end, not read.
    pub(super) fn unproven(&self) -> Vec<Key> {
        let left = self.clients.iter().filter_map(|client| match &client.role {
            Role::Prober { left, .. } => Some(left),
            Role::Loader => None,
        });
        left.flatten().copied().collect()
    }

    /// The keys that probers are at: each goes on to its next one when this one is done.
    pub(super) fn probed(&self) -> Vec<Key> {
        let at = |client: &Client| match &client.role {
            Role::Prober { left, .. } => left.front().copied(),
            Role::Loader => None,
        };
        self.clients.iter().filter_map(at).collect()
    }

    /// A name for whoever waits next.
    pub(super) fn new_waiter(&mut self) -> Waiter {
        self.last_waiter += 1;
        Waiter(self.last_waiter)
    }

    fn new_value(&mut self) -> u64 {
        self.last_value += 1;
        self.last_value
    }
}

impl Cluster {
    pub(super) fn plan_clients(&mut self) {
        for client in 0..self.plan.load.clients as usize {
            let wait = self.clients.random.between(100, 1500) * MILLI;
            self.schedule.plan_in(wait, Event::Client { client });
        }
    }

    /// Lets the probers begin: to write, or (`reads`) to read every key, whatever region it belongs to by now.
    pub(super) fn start_probers(&mut self, reads: bool) {
        let keys = self.plan.load.keys;
        let mut region = 1;
        for client in 0..self.clients.clients.len() {
            let Role::Prober { left, reads: is_reading } = &mut self.clients.clients[client].role else { continue };
            region += 1;
            *left = (0..keys).map(|number| Key { region, number }).collect();
            *is_reading = reads;
            let wait = self.clients.random.below(100 * MILLI);
            self.schedule.plan_in(wait, Event::Client { client });
        }
    }

    /// A client goes on: with what it is about, or with something new.
    pub(super) fn on_client(&mut self, client: usize) {
        if self.clients.clients[client].running.is_none() {
            let Some(running) = self.choose(client) else { return };
            self.counters.operations += 1;
            self.clients.clients[client].running = Some(running);
        }
        self.attempt(client);
    }

    fn choose(&mut self, client: usize) -> Option<Running> {
        match self.clients.clients[client].role.clone() {
            Role::Prober { left, reads } => {
                let key = *left.front()?;
                let action = match (reads, key.is_list()) {
                    (true, _) => Action::Read,
                    (false, true) => Action::Append(self.clients.new_value()),
                    (false, false) => Action::Put(self.clients.new_value()),
                };
                Some(self.operation(key, action))
            }
            Role::Loader if self.clients.closed => None,
            Role::Loader => Some(self.choose_load(client)),
        }
    }

    fn choose_load(&mut self, client: usize) -> Running {
        let load = self.plan.load;
        if let Some((running, first_answer)) = self.clients.clients[client].repeats.pop_front() {
            self.counters.session_duplicates += 1;
            return Running { task: Task::Repeat { first_answer }, attempts: 0, ..running };
        }
        let random = &mut self.clients.random;
        let key = Key { region: random.between(2, self.plan.regions + 1), number: random.below(load.keys) };
        if random.chance(load.transfers) {
            let to = random.below(self.nodes.len() as u64) as usize;
            let task = Task::Transfer { to };
            return self.running(key, task, Bytes::new());
        }
        if random.chance(load.reads) {
            return self.operation(key, Action::Read);
        }
        let wants_session = random.chance(load.sessions);
        let is_cas = random.chance(load.cas);
        let session = if wants_session { self.session_for(client, key) } else { None };
        if wants_session && session.is_none() {
            let id = self.session_id(client);
            let session = Some(SessionSeq { session: id, opened: LogIndex::ZERO, sequence: 0, acknowledged: 0 });
            return Running { session, ..self.running(key, Task::OpenSession, Bytes::new()) };
        }
        let value = self.clients.new_value();
        let action = match self.clients.seen.get(&key) {
            _ if key.is_list() => Action::Append(value),
            Some(seen) if is_cas => Action::Cas(*seen, value),
            _ => Action::Put(value),
        };
        let mut running = self.operation(key, action);
        if let (Some(opened), Some(session)) = (session, &mut self.clients.clients[client].session) {
            session.last += 1;
            let (session, sequence) = (session.id, session.last);
            running.session = Some(SessionSeq { session, opened, sequence, acknowledged: sequence - 1 });
        }
        running
    }

    /// The name of the client's session.
    fn session_id(&mut self, client: usize) -> SessionId {
        let Clients { clients, last_session, .. } = &mut self.clients;
        let session = clients[client].session.get_or_insert_with(|| {
            *last_session += 1;
            Session { id: SessionId(*last_session), opened: BTreeMap::new(), last: 0 }
        });
        session.id
    }

    /// Where the client's session was opened, as it is known where `key` lives: there, or in a region that it was cut from or
    /// has absorbed.
    fn session_for(&mut self, client: usize, key: Key) -> Option<LogIndex> {
        let Clients { routes, clients, .. } = &mut self.clients;
        let owner = routes.owner(&machine::key_bytes(key))?.id;
        let lineage = routes.lineage(owner);
        let session = clients[client].session.as_ref()?;
        lineage.into_iter().find_map(|region| session.opened.get(&region).copied())
    }

    fn running(&self, key: Key, task: Task, command: Bytes) -> Running {
        let invoked = self.schedule.now();
        Running { task, key, invoked, session: None, attempts: 0, uncertain: false, rerouted: false, command }
    }

    fn operation(&mut self, key: Key, action: Action) -> Running {
        let padding = self.clients.random.below(self.plan.load.padding + 1) as usize;
        let command = machine::encode(key, action, padding).unwrap_or_default();
        self.running(key, Task::Operate { key, action }, command)
    }

    /// Asks some store.
    fn attempt(&mut self, client: usize) {
        let now = self.schedule.now();
        let patience = self.plan.request_timeout.as_nanos() as u64;
        let Some(running) = &mut self.clients.clients[client].running else { return };
        if matches!(running.task, Task::Repeat { .. }) && Some(running.invoked) < self.aftermath.lost_at {
            // Its first answer may be lost, and with it what would keep it from being carried out again.
            self.clients.clients[client].running = None;
            return self.go_on(client);
        }
        running.attempts += 1;
        if running.attempts > 1 && running.session.is_some() {
            self.counters.session_duplicates += u64::from(running.uncertain);
        }
        let running = running.clone();
        let store = self.choose_store(running.key);
        let owner = self.route(store, running.key);
        let region = owner.as_ref().map_or(RegionId::ROOT, |owner| owner.id);
        let epoch = owner.as_ref().map(|owner| owner.epoch);
        let waiter = self.clients.new_waiter();
        self.clients.waiting.insert(waiter, Attempt { client, store, region, epoch });
        if owner.is_none() {
            let wait = self.clients.random.around(MILLI);
            return self.schedule.plan_in(wait, Event::Answer { waiter, outcome: Outcome::UnknownRegion });
        }
        let node = &self.nodes[store];
        if node.process.as_ref().is_none_or(|process| process.stopping) {
            let wait = self.clients.random.around(MILLI);
            return self.schedule.plan_in(wait, Event::Answer { waiter, outcome: Outcome::NotLeader { hint: None } });
        }
        let deadline = node.clock.read(now).plus(self.plan.request_timeout);
        self.say(|| {
            let Running { task, session, .. } = &running;
            format!(
                "client {client} asks {} for {task:?} {session:?} of {region:?} {epoch:?} as {waiter:?}",
                id_of(store)
            )
        });
        let input = match running.task {
            Task::Operate { action: Action::Read, .. } => {
                let freshness = self.freshness_of(client, waiter);
                let lease = freshness == Freshness::Lease;
                let is_bounded = matches!(freshness, Freshness::Within(_));
                if !is_bounded && self.read_past_worker(store, waiter, region, epoch, lease) {
                    return self.schedule.plan_in(patience * 5 / 4, Event::Deadline { waiter });
                }
                Input::Read { region, epoch, freshness, deadline, reply: waiter }
            }
            Task::Transfer { to } => Input::Transfer { region, to: id_of(to), deadline, reply: waiter },
            _ => {
                let (session, command) = (running.session, running.command);
                Input::Propose { region, epoch, session, command: command.into(), deadline, reply: waiter }
            }
        };
        self.schedule.plan_in(patience * 5 / 4, Event::Deadline { waiter });
        let Some(input) = self.plant_in_request(store, input) else { return };
        let worker = self.worker_for(store, region);
        self.input(store, worker, input);
    }

    /// A store answers a caller.
    pub(super) fn tell(&mut self, store: usize, waiter: Waiter, outcome: Outcome) {
        debug_assert!(self.clients.waiting.get(&waiter).is_none_or(|attempt| attempt.store == store));
        let asked = self.clients.waiting.get(&waiter).filter(|attempt| {
            // A repeated command may be told where it stands in the log of the region that its own was cut from.
            let running = self.clients.clients[attempt.client].running.as_ref();
            running.is_some_and(|one| one.attempts == 1 && !matches!(one.task, Task::Repeat { .. }))
        });
        let asked = asked.map(|attempt| attempt.region);
        if let Outcome::Applied { index, .. } = &outcome
            && let Some(region) = asked.or(self.operators.region_of(waiter))
        {
            // Here and now, not when the client hears of it: later flushes must not count.
            let verdict = self.consensus.on_acknowledged(region, *index, &self.regions, &self.shadows);
            self.judge_that(verdict);
        }
        if matches!(outcome, Outcome::Busy { .. }) {
            self.counters.busy += 1;
        }
        let wait = self.clients.random.below(200 * MICRO);
        self.schedule.plan_in(wait, Event::Answer { waiter, outcome });
    }

    /// A store's process is gone: whoever waited for it knows nothing.
    pub(super) fn abandon_callers(&mut self, store: usize) {
        let waiting: Vec<Waiter> = self
            .clients
            .waiting
            .iter()
            .filter(|(_, attempt)| attempt.store == store)
            .map(|(waiter, _)| *waiter)
            .collect();
        for waiter in waiting {
            let wait = self.clients.random.below(10 * MILLI);
            self.schedule.plan_in(wait, Event::Answer { waiter, outcome: Outcome::Uncertain });
        }
    }

    pub(super) fn on_answer(&mut self, waiter: Waiter, outcome: Outcome) {
        if self.on_floor_answer(waiter, &outcome) || self.on_operator_answer(waiter, &outcome) {
            return;
        }
        let Some(attempt) = self.clients.waiting.get(&waiter).copied() else { return };
        self.say(|| format!("client {} is told {outcome:?} for {waiter:?}", attempt.client));
        let end = match outcome {
            Outcome::ReadAt { .. } => {
                let (store, life) = (attempt.store, self.nodes[attempt.store].life);
                // Its thread may stand still before it takes its view of the state.
                let longest = if self.clients.random.chance(20) { 600 * MILLI } else { 300 * MICRO };
                let wait = self.clients.random.below(longest);
                return self.schedule.plan_in(wait, Event::Lookup { waiter, store, life });
            }
            Outcome::Applied { reply, index } => End::Done(reply, index),
            Outcome::Done => {
                self.counters.transfers_done += 1;
                End::NoEffect
            }
            Outcome::Uncertain => End::Uncertain,
            Outcome::EpochMismatch { current } => {
                self.counters.epoch_mismatches += 1;
                self.clients.routes.learn(&current);
                self.learn_from(attempt);
                End::Rerouted
            }
            Outcome::UnknownRegion => {
                self.learn_from(attempt);
                End::Rerouted
            }
            Outcome::SessionExpired => End::Expired,
            _ => End::NoEffect,
        };
        self.end_attempt(waiter, end);
    }

    /// Who was wrong about a key asks the same store for what it knows.
    fn learn_from(&mut self, attempt: Attempt) {
        if let Some(running) = &self.clients.clients[attempt.client].running {
            let key = machine::key_bytes(running.key);
            self.ask_for_route(attempt.store, &key);
        }
    }

    /// A confirmed read looks the key up.
    pub(super) fn on_lookup(&mut self, waiter: Waiter, store: usize, life: u64) {
        let Some(attempt) = self.clients.waiting.get(&waiter).copied() else { return };
        let Some(running) = &self.clients.clients[attempt.client].running else { return };
        let Task::Operate { key, .. } = running.task else { return };
        let node = &self.nodes[store];
        let found = match &node.process {
            Some(process) if node.lives(life) => {
                Some(process.backend.lookup(attempt.region, attempt.epoch, &machine::key_bytes(key)))
            }
            _ => None,
        };
        let end = match found {
            Some(Ok(value)) => {
                if let Some(epoch) = attempt.epoch {
                    let verdict = self.regions.on_read(attempt.region, epoch.version);
                    self.judge_that(verdict);
                }
                End::Value(value)
            }
            Some(Err(ReadError::EpochMismatch { current })) => {
                self.counters.epoch_mismatches += 1;
                self.clients.routes.learn(&current);
                End::Rerouted
            }
            _ => End::NoEffect,
        };
        self.end_attempt(waiter, end);
    }

    /// The client waits no longer.
    pub(super) fn on_deadline(&mut self, waiter: Waiter) {
        if self.clients.waiting.contains_key(&waiter) {
            self.end_attempt(waiter, End::Uncertain);
        } else {
            self.on_operator_answer(waiter, &Outcome::Uncertain);
        }
    }

    fn end_attempt(&mut self, waiter: Waiter, end: End) {
        let Some(Attempt { client, region, .. }) = self.clients.waiting.remove(&waiter) else { return };
        let Some(mut running) = self.clients.clients[client].running.take() else { return };
        match end {
            End::Done(reply, index) => {
                self.counters.epoch_mismatches_healed += u64::from(running.rerouted);
                self.succeed(client, running, reply, index, region);
            }
            End::Value(stored) => {
                if let Task::Operate { key, action } = running.task {
                    self.counters.reads_answered += 1;
                    self.finish(client, &running, key, action, Some(machine::decode_value(key, &stored)));
                }
            }
            End::NoEffect | End::Uncertain | End::Rerouted | End::Expired => {
                running.uncertain |= matches!(end, End::Uncertain);
                running.rerouted |= matches!(end, End::Rerouted);
                if matches!(end, End::Expired) {
                    running.attempts = ATTEMPTS_MAX;
                }
                self.on_unanswered(client, running, matches!(end, End::Rerouted));
            }
        }
    }

    /// Tries again where that is safe, else gives up.
    fn on_unanswered(&mut self, client: usize, running: Running, knows_better: bool) {
        let is_prober = self.clients.clients[client].role != Role::Loader;
        let is_read = matches!(running.task, Task::Operate { action: Action::Read, .. });
        let is_safe = running.session.is_some() || (knows_better && !running.uncertain);
        let may_retry = is_safe && running.attempts < ATTEMPTS_MAX;
        if may_retry || (is_prober && is_read) {
            let wait = self.clients.random.around(30 * MILLI);
            self.clients.clients[client].running = Some(running);
            return self.schedule.plan_in(wait, Event::Client { client });
        }
        if let (Task::Operate { key, action }, true) = (&running.task, running.uncertain && !is_read) {
            self.counters.unknown_outcomes += 1;
            let (key, action) = (*key, *action);
            let operation = Operation { client: client as u64, key, action, invoked: running.invoked, returned: None };
            self.history.add(operation);
        }
        if running.session.is_some() {
            // Whatever was given up may still come: the next session knows nothing of it.
            let session = &mut self.clients.clients[client].session;
            *session = session.take().filter(|session| Some(session.id) != running.session.map(|seq| seq.session));
        }
        self.go_on(client);
    }

    fn succeed(&mut self, client: usize, running: Running, reply: Bytes, index: LogIndex, region: RegionId) {
        self.counters.writes_acknowledged += 1;
        self.record(7, index.get());
        match running.task.clone() {
            Task::Operate { key, action } => {
                let Some(answer) = machine::decode_reply(action, &reply) else {
                    return self.fail("a command is answered by its machine", format!("{action:?} got {reply:?}"));
                };
                if running.session.is_some() && self.clients.random.chance(self.plan.load.duplicates) {
                    self.clients.clients[client].repeats.push_back((running.clone(), reply));
                }
                self.finish(client, &running, key, action, Some(answer));
            }
            Task::OpenSession => {
                let opened =
                    reply.as_ref().try_into().map_or(LogIndex::ZERO, |bytes| LogIndex(u64::from_be_bytes(bytes)));
                if let Some(session) = &mut self.clients.clients[client].session {
                    session.opened.insert(region, opened);
                }
                self.go_on(client);
            }
            Task::Repeat { first_answer } => {
                self.counters.session_duplicates_hit += 1;
                if reply != first_answer {
                    let detail = format!("{:?}: first {first_answer:?}, then {reply:?}", running.session);
                    return self.fail("a repeated command gets its first answer", detail);
                }
                self.go_on(client);
            }
            Task::Transfer { .. } => self.go_on(client),
        }
    }

    fn finish(&mut self, client: usize, running: &Running, key: Key, action: Action, answer: Option<Answer>) {
        let now = self.schedule.now();
        match (&answer, action) {
            (Some(Answer::Found(found)), Action::Cas(expected, new)) => {
                let swapped = *found == expected;
                self.counters.cas_swapped += u64::from(swapped);
                self.clients.seen.insert(key, if swapped { new } else { *found });
            }
            (Some(Answer::Value(value)), _) if *value > 0 => {
                self.clients.seen.insert(key, *value);
            }
            (_, Action::Put(value)) => {
                self.clients.seen.insert(key, value);
            }
            _ => {}
        }
        let returned = answer.map(|answer| (now, answer));
        self.history.add(Operation { client: client as u64, key, action, invoked: running.invoked, returned });
        if let Role::Prober { left, reads } = &mut self.clients.clients[client].role
            && (*reads == (action == Action::Read))
            && left.front() == Some(&key)
        {
            left.pop_front();
        }
        self.go_on(client);
    }

    fn go_on(&mut self, client: usize) {
        let think = match self.clients.clients[client].role {
            Role::Loader => self.plan.load.think,
            Role::Prober { .. } => 20 * MILLI,
        };
        let wait = self.clients.random.around(think);
        self.schedule.plan_in(wait, Event::Client { client });
    }
}
