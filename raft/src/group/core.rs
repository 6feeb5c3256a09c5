//! The state of one group, and the changes of role that everything else is built on.
//!
//! [`Core`] is what [`Group`](super::Group) is without the type of its flush proof, so that it is compiled once. Each
//! sub-struct owns an invariant; the operations live in the neighbouring files, one a file.

use std::sync::Arc;

use super::apply::Applying;
use super::fortify::{Bond, Releases};
use super::leader::Leader;
use super::membership::Members;
use crate::durability::Durability;
use crate::log::GroupLog;
use crate::output::{Event, Fetch, ReadReady, RoleKind};
use crate::random::Random;
use crate::{Body, HardState, LogIndex, Message, Options, Priority, ReplicaId, Restored, Term, Time};

/// One group's consensus state.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) options: Arc<Options>,
    pub(crate) id: ReplicaId,
    /// Invariant: `term` never falls; `vote` changes within a term only from nobody to somebody; `commit` never falls and
    /// is at most the last index.
    pub(crate) hard: HardState,
    pub(crate) log: GroupLog,
    pub(crate) durability: Durability,
    pub(crate) members: Members,
    pub(crate) applying: Applying,
    pub(crate) election: Election,
    pub(crate) role: RoleState,
    /// What this replica has promised to a leader, and nobody has ended.
    pub(crate) bond: Option<Bond>,
    /// What it owes those who promised to it while it led.
    pub(crate) releases: Option<Box<Releases>>,
    pub(crate) effects: Vec<Effect>,
}

/// Who leads, and when to stop believing it.
#[derive(Debug)]
pub(crate) struct Election {
    /// The leader of the current term, if known; [`ReplicaId::ZERO`] if not.
    pub(crate) leader: ReplicaId,
    /// When that leader was last heard.
    pub(crate) heard_at: Time,
    /// When to campaign, or to campaign again.
    pub(crate) deadline: Time,
    pub(crate) priority: Priority,
    pub(crate) random: Random,
    /// Pre-votes refused because of promises since a leader was known.
    pub(crate) refusals: u32,
    /// The wait that ends at `deadline` is no drawn timeout, but this replica's place in the line of those that might campaign.
    pub(crate) stands_in_line: bool,
    /// It has waited longer for somebody with a newer log since it campaigned last.
    pub(crate) made_way: bool,
}

/// A replica's part in its group.
#[derive(Debug)]
pub(crate) enum RoleState {
    Follower(Following),
    PreCandidate(Box<Candidacy>),
    Candidate(Box<Candidacy>),
    Leader(Box<Leader>),
}

/// What a follower owes its leader.
#[derive(Debug)]
pub(crate) struct Following {
    /// Up to here this log is known to equal that of the leader of the current term.
    pub(crate) verified: LogIndex,
    /// The last `verified` that was told to the leader.
    pub(crate) acknowledged: LogIndex,
    /// Tell the leader `verified` at the end of the turn.
    pub(crate) answer_due: bool,
    /// The lowest append refused in this turn: those behind it in the same pipeline need no answer of their own.
    pub(crate) refused: Option<LogIndex>,
    /// Answer the leader's heartbeat of this round at the end of the turn.
    pub(crate) beat_due: Option<u64>,
    /// Committed by a leader of this term or of an earlier one, as was learnt beside the leader's appends; perhaps more than
    /// this log is known to hold.
    pub(crate) told: LogIndex,
}

/// The answers to a campaign.
#[derive(Debug, Default)]
pub(crate) struct Candidacy {
    pub(crate) answers: Vec<(ReplicaId, bool)>,
    /// Somebody could not grant what was asked because of a promise: it has to be asked again.
    pub(crate) was_put_off: bool,
}

impl Candidacy {
    pub(crate) fn record(&mut self, from: ReplicaId, granted: bool) {
        // The first answer counts: a voter does not change its mind within a term.
        if self.answer(from).is_none() {
            self.answers.push((from, granted));
        }
    }

    pub(crate) fn answer(&self, of: ReplicaId) -> Option<bool> {
        self.answers.iter().find(|(from, _)| *from == of).map(|(_, granted)| *granted)
    }
}

/// Something for the next [`Output`](crate::Output).
#[derive(Debug)]
pub(crate) enum Effect {
    /// May leave at once.
    Send(Message),
    /// Asserts durability.
    Gate(Message),
    Event(Event),
    Read(ReadReady),
    ReadFailed(u64),
    Snapshot(ReplicaId),
    Fetch(Fetch),
}

impl Core {
    pub(crate) fn new(options: Arc<Options>, id: ReplicaId, restored: Restored, seed: u64, now: Time) -> Self {
        if let Err(error) = restored.validate() {
            panic!("{error}");
        }
        let Restored { hard_state, log, applied, membership } = restored;
        let log = GroupLog::new(log);
        let hard = HardState { commit: hard_state.commit.max(applied).min(log.last_index()), ..hard_state };
        let mut core = Self {
            options,
            id,
            hard,
            durability: Durability::new(hard_state),
            members: Members::new(membership, log.last_index()),
            applying: Applying::new(applied),
            log,
            election: Election {
                leader: ReplicaId::ZERO,
                heard_at: Time::ZERO,
                deadline: Time::NEVER,
                priority: Priority::default(),
                random: Random::new(seed),
                refusals: 0,
                stands_in_line: false,
                made_way: false,
            },
            role: RoleState::Follower(Following::new(hard.commit)),
            bond: None,
            releases: None,
            effects: Vec::new(),
        };
        core.rearm(now);
        core
    }

    pub(crate) fn role_kind(&self) -> RoleKind {
        match self.role {
            RoleState::Follower(_) => RoleKind::Follower,
            RoleState::PreCandidate(_) => RoleKind::PreCandidate,
            RoleState::Candidate(_) => RoleKind::Candidate,
            RoleState::Leader(_) => RoleKind::Leader,
        }
    }

    pub(crate) fn is_leader(&self) -> bool {
        matches!(self.role, RoleState::Leader(_))
    }

    pub(crate) fn known_leader(&self) -> Option<ReplicaId> {
        Some(self.election.leader).filter(|leader| *leader != ReplicaId::ZERO)
    }

    /// Follows `leader` (or nobody known) in `term`, which may be a new one.
    pub(crate) fn become_follower(&mut self, now: Time, term: Term, leader: ReplicaId) {
        let led = self.hard.term;
        self.enter_term(term);
        let before = self.role_kind();
        let role = RoleState::Follower(Following::new(self.hard.commit));
        if let RoleState::Leader(leader) = std::mem::replace(&mut self.role, role) {
            self.release_followers(now, led, &leader.followers);
            self.retire(*leader);
        }
        if before != RoleKind::Follower {
            self.note_role();
        }
        self.set_leader(leader);
        // A higher term alone is no reason to wait longer: a candidate that cannot win would hold up those that can.
        if before == RoleKind::Leader {
            self.rearm(now);
        }
    }

    /// Moves to `term`, if it is new, with no vote in it (dissertation, section 3.3).
    pub(crate) fn enter_term(&mut self, term: Term) {
        assert!(term >= self.hard.term, "a term never falls");
        if term > self.hard.term {
            self.hard.term = term;
            self.hard.vote = ReplicaId::ZERO;
        }
    }

    pub(crate) fn set_leader(&mut self, leader: ReplicaId) {
        if leader != ReplicaId::ZERO {
            self.election.refusals = 0;
            self.election.made_way = false;
        }
        if self.election.leader != leader {
            self.election.leader = leader;
            let event = Event::LeaderChanged { leader: self.known_leader(), term: self.hard.term };
            self.effects.push(Effect::Event(event));
        }
    }

    pub(crate) fn note_role(&mut self) {
        let event = Event::RoleChanged { role: self.role_kind(), term: self.hard.term };
        self.effects.push(Effect::Event(event));
    }

    /// Starts to wait for a newly drawn election timeout.
    pub(crate) fn rearm(&mut self, now: Time) {
        let Election { priority, random, .. } = &mut self.election;
        let wait = priority.wait(self.options.election_timeout_min, self.options.election_timeout_max, random);
        self.election.deadline = wait.map_or(Time::NEVER, |wait| now.plus(wait));
        self.election.stands_in_line = false;
    }

    /// Queues a message that may leave at once, in the current term.
    pub(crate) fn send(&mut self, to: ReplicaId, body: Body) {
        let message = Message { from: self.id, to, term: self.hard.term, body };
        self.effects.push(Effect::Send(message));
    }

    /// Queues a message that asserts durability, in the current term.
    pub(crate) fn send_after_flush(&mut self, to: ReplicaId, body: Body) {
        let message = Message { from: self.id, to, term: self.hard.term, body };
        self.effects.push(Effect::Gate(message));
    }

    /// Raises the commit index, which never falls and never passes the log's end.
    pub(crate) fn commit_to(&mut self, index: LogIndex) {
        assert!(index <= self.log.last_index(), "what is committed is in the log");
        self.hard.commit = self.hard.commit.max(index);
    }

    /// Drops the log's entries from `from` on, and with them everything that was known of them.
    pub(crate) fn cut_log(&mut self, from: LogIndex) {
        // Log matching and leader completeness (dissertation, figure 3.2): no leader contradicts what is committed.
        assert!(from > self.hard.commit, "a committed entry is never replaced");
        self.log.cut(from);
        self.durability.clamp(from.prev());
        self.members.cut(from);
    }

    /// Whether a leader was heard of within the last election timeout.
    pub(crate) fn hears_leader(&self, now: Time) -> bool {
        self.election.leader != ReplicaId::ZERO && now.since(self.election.heard_at) < self.options.election_timeout_min
    }

    /// Whether this replica believes that its group has a working leader (dissertation, section 4.2.3).
    pub(crate) fn has_live_leader(&self, now: Time) -> bool {
        if !(self.options.pre_vote || self.options.check_quorum) {
            return false;
        }
        match self.role {
            // A leader that has lost its quorum steps down by itself.
            RoleState::Leader(_) => true,
            _ => self.hears_leader(now),
        }
    }
}

impl Following {
    pub(crate) fn new(commit: LogIndex) -> Self {
        // Every leader's log holds what is committed (dissertation, section 3.6.3).
        Self {
            verified: commit,
            acknowledged: LogIndex::ZERO,
            answer_due: false,
            refused: None,
            beat_due: None,
            told: LogIndex::ZERO,
        }
    }
}
