//! One store: a thread that drives all its groups in turns.
//!
//! ```text
//!   gather input -> step groups -> take what is ready of each -> send what may leave before the flush
//!                -> one write and one flush for all -> send what had to wait -> answer clients
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use raft::StateRole;
use raft::eraftpb::Message;
use raft_engine::{Command, Engine as Log, LogBatch};

use super::group::{Answers, Group};
use super::storage::Indexed;
use super::{Proposal, Shared};
use crate::cluster::STORES;

/// The time of one tick, as in raft-rs's own examples.
const TICK: Duration = Duration::from_millis(100);
/// How many inputs make a turn at most.
const INPUTS_MAX: usize = 4096;

/// What comes into a store.
pub(super) enum Input {
    Propose(Proposal),
    /// What another store has to say in a turn, with the groups.
    Messages(Vec<(u32, Message)>),
}

/// See above.
pub(super) struct Node {
    store: u64,
    groups: Vec<Group>,
    inbox: Receiver<Input>,
    /// By store.
    outlets: Vec<Sender<Input>>,
    /// What goes out next, by store.
    outgoing: Vec<Vec<(u32, Message)>>,
    log: Arc<Log>,
    batch: LogBatch,
    /// Groups with something to do.
    due: Vec<u32>,
    /// Groups with something in the batch.
    unflushed: Vec<u32>,
    answers: Answers,
    shared: Arc<Shared>,
}

impl Node {
    pub(super) fn new(
        store: u64,
        groups: u64,
        inbox: Receiver<Input>,
        outlets: Vec<Sender<Input>>,
        log: Arc<Log>,
        shared: Arc<Shared>,
    ) -> raft::Result<Self> {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let groups = (0..groups).map(|group| Group::new(store, group, Arc::clone(&log), &logger));
        Ok(Self {
            store,
            groups: groups.collect::<raft::Result<_>>()?,
            inbox,
            outgoing: outlets.iter().map(|_| Vec::new()).collect(),
            outlets,
            log,
            batch: LogBatch::default(),
            due: Vec::new(),
            unflushed: Vec::new(),
            answers: Vec::new(),
            shared,
        })
    }

    /// Runs for ever.
    pub(super) fn run(mut self) {
        // Each store leads a third of the groups; if that fails, time-outs decide.
        for group in (self.store as usize - 1..self.groups.len()).step_by(STORES as usize) {
            let _ = self.groups[group].raft.campaign();
            self.note_due(group as u32);
        }
        let mut next_tick = Instant::now() + TICK;
        loop {
            if self.due.is_empty()
                && let Ok(input) = self.inbox.recv_deadline(next_tick)
            {
                self.handle_input(input);
            }
            for _ in 0..INPUTS_MAX {
                let Ok(input) = self.inbox.try_recv() else { break };
                self.handle_input(input);
            }
            if Instant::now() >= next_tick {
                self.tick();
                next_tick = (next_tick + TICK).max(Instant::now());
            }
            self.turn();
        }
    }

    fn note_due(&mut self, group: u32) {
        let one = &mut self.groups[group as usize];
        if !std::mem::replace(&mut one.is_due, true) {
            self.due.push(group);
        }
    }

    fn handle_input(&mut self, input: Input) {
        match input {
            Input::Propose(proposal) => {
                let group = proposal.group;
                self.groups[group as usize].proposals.push(proposal);
                self.note_due(group);
            }
            Input::Messages(messages) => {
                for (group, message) in messages {
                    // What raft-rs refuses it need not have; the sender repeats what matters.
                    let _ = self.groups[group as usize].raft.step(message);
                    self.note_due(group);
                }
            }
        }
    }

    fn tick(&mut self) {
        for group in 0..self.groups.len() {
            if self.groups[group].raft.tick() {
                self.note_due(group as u32);
            }
        }
    }

    fn turn(&mut self) {
        // What a flush makes possible is done in the same turn.
        while !self.due.is_empty() {
            for group in std::mem::take(&mut self.due) {
                self.groups[group as usize].is_due = false;
                self.groups[group as usize].propose(&mut self.answers);
                if self.groups[group as usize].raft.has_ready() {
                    self.handle_ready(group);
                }
            }
            self.send();
            self.flush();
        }
        self.send();
        for (done, outcome) in self.answers.drain(..) {
            // A client that is gone needs no answer.
            let _ = done.send(outcome);
        }
    }

    fn handle_ready(&mut self, number: u32) {
        let group = &mut self.groups[number as usize];
        let mut ready = group.raft.ready();
        match ready.ss().map(|soft| soft.raft_state) {
            Some(StateRole::Leader) => {
                self.shared.leaders[number as usize].store(self.store as u8, Ordering::Relaxed);
            }
            Some(_) => group.refuse(&mut self.answers),
            None => {}
        }
        let (messages, entries) = (ready.take_messages(), ready.take_entries());
        if !entries.is_empty() {
            self.shared.entries.fetch_add(entries.len() as u64, Ordering::Relaxed);
            let added = self.batch.add_entries::<Indexed>(u64::from(number), &entries);
            added.expect("entries of a turn are far below the two GiB that a batch holds");
            group.raft.mut_store().append(entries);
        }
        if let Some(hard_state) = ready.hs() {
            // The commit index alone need not be durable.
            if ready.must_sync() {
                let put = self.batch.put_message(u64::from(number), b"hard-state".to_vec(), hard_state);
                put.expect("the key is not one of raft-engine's own");
            }
            group.raft.mut_store().hard_state = hard_state.clone();
        }
        let (held, committed) = (ready.take_persisted_messages(), ready.take_committed_entries());
        let (ready_number, must_wait) = (ready.number(), ready.must_sync() || group.unflushed.is_some());
        group.raft.advance_append_async(ready);
        let may_leave = if must_wait {
            if group.unflushed.replace(ready_number).is_none() {
                self.unflushed.push(number);
            }
            group.held.extend(held);
            messages
        } else {
            group.raft.on_persist_ready(ready_number);
            // One of the two is always empty: a leader's messages need not wait, all others' have to.
            if messages.is_empty() { held } else { messages }
        };
        if let Some(applied) = committed.last().map(|entry| entry.index) {
            group.apply(committed, &mut self.answers);
            if let Some(index) = group.maybe_compact(applied) {
                self.batch.add_command(u64::from(number), Command::Compact { index });
            }
        }
        self.address(number, may_leave);
    }

    fn address(&mut self, group: u32, messages: Vec<Message>) {
        for message in messages {
            self.outgoing[message.to as usize - 1].push((group, message));
        }
    }

    /// Makes durable what the turn has gathered, and lets go what waited for that.
    fn flush(&mut self) {
        if self.unflushed.is_empty() {
            return;
        }
        self.log.write(&mut self.batch, true).expect("a store whose log cannot be written must not go on");
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        for number in std::mem::take(&mut self.unflushed) {
            let group = &mut self.groups[number as usize];
            let held = std::mem::take(&mut group.held);
            if let Some(ready) = group.unflushed.take() {
                group.raft.on_persist_ready(ready);
            }
            self.address(number, held);
            if self.groups[number as usize].raft.has_ready() {
                self.note_due(number);
            }
        }
    }

    fn send(&mut self) {
        for (outlet, messages) in self.outlets.iter().zip(&mut self.outgoing) {
            if !messages.is_empty() {
                // A store that has stopped hears nothing.
                let _ = outlet.send(Input::Messages(std::mem::take(messages)));
            }
        }
    }
}
