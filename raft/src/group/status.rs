//! What can be asked of a group. Nothing here changes anything.

use super::Group;
use super::core::{Candidacy, RoleState};
use super::leader::Leader;
use crate::output::RoleKind;
use crate::progress::{Flow, Progress};
use crate::{FlushProof, HardState, LogIndex, LogSummary, Membership, ReplicaId, Term, Time};

/// A group at one moment, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This replica.
    pub id: ReplicaId,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in that term; [`ReplicaId::ZERO`] if nobody.
    pub vote: ReplicaId,
    /// What it does.
    pub role: RoleKind,
    /// Who leads, if known.
    pub leader: Option<ReplicaId>,
    /// The first entry that the log holds.
    pub first: LogIndex,
    /// The last entry.
    pub last: LogIndex,
    /// What is durable here.
    pub stable: LogIndex,
    /// What is committed, as far as known.
    pub commit: LogIndex,
    /// What is applied.
    pub applied: LogIndex,
    /// What a leader knows of each other member.
    pub peers: Vec<PeerStatus>,
}

/// What a leader knows of one other member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which.
    pub id: ReplicaId,
    /// What it holds durably.
    pub matched: LogIndex,
    /// What it is sent next.
    pub next: LogIndex,
    /// How it is sent appends.
    pub flow: Flow,
    /// Whether its driver paused it.
    pub paused: bool,
    /// When it last gave a sign of life.
    pub heard_at: Time,
    /// Append messages on their way.
    pub inflight_appends: usize,
    /// Bytes of entries on their way.
    pub inflight_bytes: usize,
}

impl<P: FlushProof> Group<P> {
    /// This replica.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.core.id
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.core.hard.term
    }

    /// Whom this replica voted for in the current term.
    #[must_use]
    pub fn vote(&self) -> Option<ReplicaId> {
        Some(self.core.hard.vote).filter(|vote| *vote != ReplicaId::ZERO)
    }

    /// Who leads the current term, if known.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        self.core.known_leader()
    }

    /// Whether this replica leads. Another may lead a higher term without its knowledge.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.core.is_leader()
    }

    /// What this replica does.
    #[must_use]
    pub fn role(&self) -> RoleKind {
        self.core.role_kind()
    }

    /// What is known to be committed.
    #[must_use]
    pub fn commit_index(&self) -> LogIndex {
        self.core.hard.commit
    }

    /// What was reported as applied.
    #[must_use]
    pub fn applied_index(&self) -> LogIndex {
        self.core.applying.applied
    }

    /// Term, vote and commit index, durable or not.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.core.hard
    }

    /// The last entry in the log.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.core.log.last_index()
    }

    /// The term of the last entry.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.core.log.last_term()
    }

    /// The first entry that the log holds, or would hold next.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.core.log.first_index()
    }

    /// Everything up to here is durable in this replica's log.
    #[must_use]
    pub fn stable_index(&self) -> LogIndex {
        self.core.log.stable()
    }

    /// The term at `index`: known for the entries of the log and the one before its first.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.core.log.term(index)
    }

    /// Which entries the log holds.
    #[must_use]
    pub fn log_summary(&self) -> LogSummary {
        self.core.log.summary()
    }

    /// The membership in force here.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.core.members.current
    }

    /// At a leader: the index that must be applied before the next membership change can be proposed, if it is not.
    #[must_use]
    pub fn pending_change(&self) -> Option<LogIndex> {
        let pending = self.core.lead()?.pending_change;
        (pending > self.core.applying.applied).then_some(pending)
    }

    /// At a leader: the target of the open transfer.
    #[must_use]
    pub fn transfer_target(&self) -> Option<ReplicaId> {
        Some(self.core.lead()?.transfer?.to)
    }

    /// Whether this leader has asked another replica to campaign in this term. From then on, until its next term, it must not
    /// serve reads by a lease or by store-level support.
    #[must_use]
    pub fn has_asked_to_campaign(&self) -> bool {
        self.core.lead().is_some_and(|leader| leader.asked_to_campaign)
    }

    /// Whether this leader has committed an entry of its own term, so that its commit index covers all earlier leaders'.
    #[must_use]
    pub fn has_committed_in_term(&self) -> bool {
        self.core.lead().is_some_and(|leader| self.core.hard.commit >= leader.term_start)
    }

    /// Whether the group waits for a flush, an application, a read, an answer or a transfer: if not, and it leads, its
    /// followers hold everything, and it could rest.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        let core = &self.core;
        let is_busy = core.durability.is_pending()
            || core.log.has_unlogged()
            || core.applying.applied < core.hard.commit
            || !core.effects.is_empty();
        is_busy
            || match &core.role {
                RoleState::Follower(following) => following.answer_due || following.beat_due.is_some(),
                RoleState::PreCandidate(_) | RoleState::Candidate(_) => true,
                RoleState::Leader(leader) => {
                    leader.reads.len() > 0
                        || leader.transfer.is_some()
                        || core.hard.commit < core.log.last_index()
                        || leader.followers.iter().any(|progress| progress.matched < core.log.last_index())
                }
            }
    }

    /// At a leader: what `of` holds durably; for the leader itself, what is durable here.
    #[must_use]
    pub fn match_index(&self, of: ReplicaId) -> Option<LogIndex> {
        let leader = self.core.lead()?;
        if of == self.core.id {
            return Some(self.core.log.stable());
        }
        leader.progress(of).map(|progress| progress.matched)
    }

    /// At a leader: how far the commit index was told to `of`.
    #[must_use]
    pub fn commit_told(&self, of: ReplicaId) -> Option<LogIndex> {
        self.core.lead()?.progress(of).map(|progress| progress.commit_sent)
    }

    /// Everything, for people and metrics.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            id: self.id(),
            term: self.term(),
            vote: self.core.hard.vote,
            role: self.role(),
            leader: self.leader(),
            first: self.first_index(),
            last: self.last_index(),
            stable: self.stable_index(),
            commit: self.commit_index(),
            applied: self.applied_index(),
            peers: self.core.lead().map_or_else(Vec::new, |leader| leader.followers.iter().map(peer_status).collect()),
        }
    }

    /// The bytes of memory that this group takes, its entries' payloads included.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let core = &self.core;
        let role = match &core.role {
            RoleState::Follower(_) => 0,
            RoleState::PreCandidate(candidacy) | RoleState::Candidate(candidacy) => {
                size_of::<Candidacy>() + candidacy.answers.capacity() * size_of::<(ReplicaId, bool)>()
            }
            RoleState::Leader(leader) => {
                size_of::<Leader>()
                    + leader.reads.heap_bytes()
                    + leader.followers.capacity() * size_of::<Progress>()
                    + leader.followers.iter().map(Progress::heap_bytes).sum::<usize>()
            }
        };
        size_of::<Self>()
            + role
            + core.log.heap_bytes()
            + core.durability.heap_bytes()
            + core.members.heap_bytes()
            + core.applying.heap_bytes()
            + core.effects.capacity() * size_of::<super::core::Effect>()
    }
}

fn peer_status(progress: &Progress) -> PeerStatus {
    let (inflight_appends, inflight_bytes) = progress.inflight();
    PeerStatus {
        id: progress.id,
        matched: progress.matched,
        next: progress.next,
        flow: progress.flow,
        paused: progress.paused,
        heard_at: progress.heard_at,
        inflight_appends,
        inflight_bytes,
    }
}

impl super::core::Core {
    fn lead(&self) -> Option<&Leader> {
        match &self.role {
            RoleState::Leader(leader) => Some(leader),
            _ => None,
        }
    }
}
