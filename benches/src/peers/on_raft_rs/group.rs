//! One group on one store: the Raft node, the state, and who waits for an answer.

use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::{ConfState, Entry, Message, MessageType};
use raft::{Config, INVALID_INDEX, RawNode, StateRole};
use raft_engine::Engine as Log;

use super::storage::GroupLog;
use super::{Done, Proposal};
use crate::cluster::STORES;
use crate::peers::state::{State, put};

/// What raft-rs's own examples take: ten ticks until an election, three for a heartbeat.
const ELECTION_TICKS: usize = 10;
const HEARTBEAT_TICKS: usize = 3;
/// As TiKV sets it.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// A log is compacted when it has this many entries that all replicas have, and as many stay.
const COMPACT_ENTRIES: u64 = 8192;

/// Why a write was not carried out, or is not known to be.
pub(super) const NOT_LEADER: &str = "the store does not lead the group";

/// Answers to give, gathered over all groups of a turn.
pub(super) type Answers = Vec<(Done, Result<(), &'static str>)>;

/// See above.
pub(super) struct Group {
    pub(super) raft: RawNode<GroupLog>,
    state: State,
    /// By index, with the term.
    waiting: VecDeque<(u64, u64, Done)>,
    /// Proposals of this turn.
    pub(super) proposals: Vec<Proposal>,
    /// Messages that must not leave before this turn's flush.
    pub(super) held: Vec<Message>,
    /// Whether it stands in the list of those that have something to do.
    pub(super) is_due: bool,
    /// The number of the ready that the next flush makes durable.
    pub(super) unflushed: Option<u64>,
}

impl Group {
    pub(super) fn new(store: u64, group: u64, log: Arc<Log>, logger: &slog::Logger) -> raft::Result<Self> {
        let config = Config {
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            check_quorum: true,
            pre_vote: true,
            // As TiKV does: followers hear of a commit with the next append or heartbeat.
            skip_bcast_commit: true,
            ..Config::new(store)
        };
        let members = ConfState { voters: (1..=STORES).collect(), ..ConfState::default() };
        Ok(Self {
            raft: RawNode::new(&config, GroupLog::new(group, log, members), logger)?,
            state: State::default(),
            waiting: VecDeque::new(),
            proposals: Vec::new(),
            held: Vec::new(),
            is_due: false,
            unflushed: None,
        })
    }

    /// Proposes what was gathered in a turn, as one message with an entry for each write.
    pub(super) fn propose(&mut self, answers: &mut Answers) {
        if self.proposals.is_empty() {
            return;
        }
        let mut proposals = std::mem::take(&mut self.proposals);
        let raft = &mut self.raft.raft;
        let (last, term) = (raft.raft_log.last_index(), raft.term);
        let entry = |proposal: &mut Proposal| Entry { data: std::mem::take(&mut proposal.command), ..Entry::default() };
        let entries: Vec<Entry> = proposals.iter_mut().map(entry).collect();
        let message =
            Message { msg_type: MessageType::MsgPropose, from: raft.id, entries: entries.into(), ..Message::default() };
        let is_taken = raft.state == StateRole::Leader && raft.step(message).is_ok();
        for (index, proposal) in (last + 1..).zip(proposals) {
            match is_taken {
                true => self.waiting.push_back((index, term, proposal.done)),
                false => answers.push((proposal.done, Err(NOT_LEADER))),
            }
        }
    }

    /// Applies what is committed.
    pub(super) fn apply(&mut self, entries: Vec<Entry>, answers: &mut Answers) {
        let Some(last) = entries.last().map(|entry| entry.index) else { return };
        for entry in entries {
            // A new leader's first entry is empty.
            put(&mut self.state, &entry.data);
            while let Some((_, term, done)) = self.waiting.pop_front_if(|(index, ..)| *index <= entry.index) {
                answers.push((done, if term == entry.term { Ok(()) } else { Err(NOT_LEADER) }));
            }
        }
        self.raft.advance_apply_to(last);
        self.cut(last);
    }

    /// Those who wait here wait in vain.
    pub(super) fn refuse(&mut self, answers: &mut Answers) {
        answers.extend(self.waiting.drain(..).map(|(_, _, done)| (done, Err(NOT_LEADER))));
    }

    /// Gives back the memory of entries that are applied here and that nobody has to be sent.
    fn cut(&mut self, applied: u64) {
        let raft = &mut self.raft.raft;
        let needed = match raft.state {
            StateRole::Leader => raft.prs().iter().map(|(_, progress)| progress.matched).min().unwrap_or(INVALID_INDEX),
            _ => applied,
        };
        let persisted = raft.raft_log.persisted;
        raft.mut_store().cut(applied.min(needed).min(persisted));
    }

    /// Where to compact the log to, if there is enough of it.
    pub(super) fn maybe_compact(&mut self, applied: u64) -> Option<u64> {
        let log = self.raft.mut_store();
        if applied < log.first() + 2 * COMPACT_ENTRIES {
            return None;
        }
        log.compact(applied - COMPACT_ENTRIES);
        Some(log.first())
    }
}
