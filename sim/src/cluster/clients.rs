//! Clients: what they ask for, through which store, what they do when no clear answer comes, and what the history says of
//! it all.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use multiraft::logic::{Input, Outcome};
use multiraft_raft::{LogIndex, RegionId};
use multiraft_transport::{SessionId, SessionSeq};

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
    /// The value last seen in each register, for compare-and-set.
    seen: BTreeMap<Key, u64>,
    /// No client begins anything new.
    pub(super) closed: bool,
}

#[derive(Debug)]
struct Client {
    role: Role,
    running: Option<Running>,
    /// The session in each region.
    sessions: BTreeMap<u64, Session>,
    /// Commands that are still to be sent a second time, with what they were answered.
    repeats: VecDeque<(Running, Bytes)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    /// Does what the load says, until the clients are closed.
    Loader,
    /// Shows that a region works again: writes once, and reads every key in the end.
    Prober { region: u64, wrote: bool, reads: Option<VecDeque<Key>> },
}

#[derive(Clone, Copy, Debug)]
struct Session {
    id: SessionId,
    opened: LogIndex,
    last: u64,
}

/// An operation under way.
#[derive(Clone, Debug)]
struct Running {
    task: Task,
    region: u64,
    invoked: Moment,
    session: Option<SessionSeq>,
    attempts: u32,
    /// An earlier attempt may have had its effect, or may have it yet.
    uncertain: bool,
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
}

/// How one attempt ended.
enum End {
    Done(Bytes, LogIndex),
    Value(Bytes),
    NoEffect,
    Uncertain,
}

impl Clients {
    pub(super) fn new(plan: &Plan, random: Random) -> Self {
        let client = |role| Client { role, running: None, sessions: BTreeMap::new(), repeats: VecDeque::new() };
        let loaders = (0..plan.load.clients).map(|_| Role::Loader);
        let probers = (2..plan.regions + 2).map(|region| Role::Prober { region, wrote: false, reads: None });
        Self {
            random,
            clients: loaders.chain(probers).map(client).collect(),
            waiting: BTreeMap::new(),
            last_waiter: 0,
            last_value: 0,
            last_session: 0,
            seen: BTreeMap::new(),
            closed: false,
        }
    }

    /// Regions whose prober has not done what it is there for: written, or, in the end, read every key.
    pub(super) fn unproven(&self, in_the_end: bool) -> Vec<u64> {
        let is_unproven = |client: &Client| match &client.role {
            Role::Prober { region, wrote, reads } => {
                let is_done = if in_the_end { reads.as_ref().is_some_and(VecDeque::is_empty) } else { *wrote };
                (!is_done).then_some(*region)
            }
            Role::Loader => None,
        };
        self.clients.iter().filter_map(is_unproven).collect()
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

    /// Lets the probers begin: to write, or (`reads`) to read every key of their regions.
    pub(super) fn start_probers(&mut self, reads: bool) {
        let keys = self.plan.load.keys;
        for client in 0..self.clients.clients.len() {
            let Role::Prober { region, reads: left, .. } = &mut self.clients.clients[client].role else { continue };
            let region = *region;
            if reads {
                *left = Some((0..keys).map(|number| Key { region, number }).collect());
            }
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
            Role::Prober { region, reads: Some(left), .. } => {
                let key = *left.front()?;
                debug_assert_eq!(key.region, region);
                Some(self.operation(key, Action::Read))
            }
            Role::Prober { wrote: true, .. } => None,
            Role::Prober { region, .. } => {
                let value = self.clients.new_value();
                Some(self.operation(Key { region, number: 0 }, Action::Put(value)))
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
            return self.running(key.region, task, Bytes::new());
        }
        if random.chance(load.reads) {
            return self.operation(key, Action::Read);
        }
        let wants_session = random.chance(load.sessions);
        let is_cas = random.chance(load.cas);
        if wants_session && !self.clients.clients[client].sessions.contains_key(&key.region) {
            let id = SessionId(self.clients.last_session + 1);
            self.clients.last_session += 1;
            let session = Some(SessionSeq { session: id, opened: LogIndex::ZERO, sequence: 0, acknowledged: 0 });
            return Running { session, ..self.running(key.region, Task::OpenSession, Bytes::new()) };
        }
        let value = self.clients.new_value();
        let action = match self.clients.seen.get(&key) {
            _ if key.is_list() => Action::Append(value),
            Some(seen) if is_cas => Action::Cas(*seen, value),
            _ => Action::Put(value),
        };
        let mut running = self.operation(key, action);
        if wants_session && let Some(session) = self.clients.clients[client].sessions.get_mut(&key.region) {
            session.last += 1;
            let Session { id, opened, last } = *session;
            running.session =
                Some(SessionSeq { session: id, opened, sequence: last, acknowledged: last.saturating_sub(1) });
        }
        running
    }

    fn running(&self, region: u64, task: Task, command: Bytes) -> Running {
        let invoked = self.schedule.now();
        Running { task, region, invoked, session: None, attempts: 0, uncertain: false, command }
    }

    fn operation(&mut self, key: Key, action: Action) -> Running {
        let padding = self.clients.random.below(self.plan.load.padding + 1) as usize;
        let command = machine::encode(key, action, padding).unwrap_or_default();
        self.running(key.region, Task::Operate { key, action }, command)
    }

    /// Asks some store.
    fn attempt(&mut self, client: usize) {
        let now = self.schedule.now();
        let store = self.clients.random.below(self.nodes.len() as u64) as usize;
        let patience = self.plan.request_timeout.as_nanos() as u64;
        let clients = &mut self.clients;
        let Some(running) = &mut clients.clients[client].running else { return };
        running.attempts += 1;
        if running.attempts > 1 && running.session.is_some() {
            self.counters.session_duplicates += u64::from(running.uncertain);
        }
        let running = running.clone();
        clients.last_waiter += 1;
        let waiter = Waiter(clients.last_waiter);
        clients.waiting.insert(waiter, Attempt { client, store });
        let node = &self.nodes[store];
        if node.process.as_ref().is_none_or(|process| process.stopping) {
            let wait = self.clients.random.around(MILLI);
            return self.schedule.plan_in(wait, Event::Answer { waiter, outcome: Outcome::NotLeader { hint: None } });
        }
        let deadline = node.clock.read(now).plus(self.plan.request_timeout);
        let region = RegionId(running.region);
        self.say(|| {
            format!("client {client} asks {} for {:?} {:?} as {waiter:?}", id_of(store), running.task, running.session)
        });
        let input = match running.task {
            Task::Operate { action: Action::Read, .. } => Input::Read { region, epoch: None, deadline, reply: waiter },
            Task::Transfer { to } => Input::Transfer { region, to: id_of(to), deadline, reply: waiter },
            _ => {
                let (session, command) = (running.session, running.command);
                Input::Propose { region, epoch: None, session, command, deadline, reply: waiter }
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
        if let Outcome::Applied { index, .. } = &outcome
            && let Some(attempt) = self.clients.waiting.get(&waiter)
            && let Some(running) = &self.clients.clients[attempt.client].running
        {
            // Here and now, not when the client hears of it: later flushes must not count.
            let region = RegionId(running.region);
            let stores: Vec<_> = (0..self.nodes.len()).map(id_of).collect();
            let verdict = self.consensus.on_acknowledged(region, *index, &stores, &self.shadows);
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
        let Some(attempt) = self.clients.waiting.get(&waiter).copied() else { return };
        self.say(|| format!("client {} is told {outcome:?} for {waiter:?}", attempt.client));
        let end = match outcome {
            Outcome::ReadAt { .. } => {
                let (store, life) = (attempt.store, self.nodes[attempt.store].life);
                let wait = self.clients.random.below(300 * MICRO);
                return self.schedule.plan_in(wait, Event::Lookup { waiter, store, life });
            }
            Outcome::Applied { reply, index } => End::Done(reply, index),
            Outcome::Done => {
                self.counters.transfers_done += 1;
                End::NoEffect
            }
            Outcome::Uncertain => End::Uncertain,
            _ => End::NoEffect,
        };
        self.end_attempt(waiter, end);
    }

    /// A confirmed read looks the key up.
    pub(super) fn on_lookup(&mut self, waiter: Waiter, store: usize, life: u64) {
        let Some(attempt) = self.clients.waiting.get(&waiter).copied() else { return };
        let Some(running) = &self.clients.clients[attempt.client].running else { return };
        let Task::Operate { key, .. } = running.task else { return };
        let node = &self.nodes[store];
        let found = match &node.process {
            Some(process) if node.lives(life) => {
                process.backend.lookup(RegionId(key.region), None, &machine::key_bytes(key)).ok()
            }
            _ => None,
        };
        self.end_attempt(waiter, found.map_or(End::NoEffect, End::Value));
    }

    /// The client waits no longer.
    pub(super) fn on_deadline(&mut self, waiter: Waiter) {
        if self.clients.waiting.contains_key(&waiter) {
            self.end_attempt(waiter, End::Uncertain);
        }
    }

    fn end_attempt(&mut self, waiter: Waiter, end: End) {
        let Some(Attempt { client, .. }) = self.clients.waiting.remove(&waiter) else { return };
        let Some(mut running) = self.clients.clients[client].running.take() else { return };
        match end {
            End::Done(reply, index) => self.succeed(client, running, reply, index),
            End::Value(stored) => {
                if let Task::Operate { key, action } = running.task {
                    self.counters.reads_answered += 1;
                    self.finish(client, &running, key, action, Some(machine::decode_value(key, &stored)));
                }
            }
            End::NoEffect | End::Uncertain => {
                running.uncertain |= matches!(end, End::Uncertain);
                self.on_unanswered(client, running);
            }
        }
    }

    /// Tries again where that is safe, else gives up.
    fn on_unanswered(&mut self, client: usize, running: Running) {
        let is_prober = self.clients.clients[client].role != Role::Loader;
        let is_read = matches!(running.task, Task::Operate { action: Action::Read, .. });
        let may_retry = running.session.is_some() && running.attempts < ATTEMPTS_MAX;
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
            self.clients.clients[client].sessions.remove(&running.region);
        }
        self.go_on(client);
    }

    fn succeed(&mut self, client: usize, running: Running, reply: Bytes, index: LogIndex) {
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
                if let Some(seq) = running.session {
                    let session = Session { id: seq.session, opened, last: 0 };
                    self.clients.clients[client].sessions.insert(running.region, session);
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
        if let Role::Prober { wrote, reads, .. } = &mut self.clients.clients[client].role {
            match reads {
                Some(left) if action == Action::Read => {
                    left.pop_front();
                }
                _ => *wrote = true,
            }
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
