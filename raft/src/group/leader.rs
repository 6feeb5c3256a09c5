//! A leader: what it keeps while it leads, its followers' answers, and the commit index (dissertation, sections 3.5, 3.6.2
//! and 6.4).

use super::core::{Core, Effect, RoleState};
use super::fortify::Rest;
use super::read::Reads;
use super::transfer::Transfer;
use crate::output::Event;
use crate::progress::{Fetching, Progress};
use crate::{Body, Entry, EntryKind, LogIndex, Payload, ReplicaId, Term, Time};

/// What a leader keeps while it leads.
#[derive(Debug)]
pub(crate) struct Leader {
    /// Every member but itself, ascending in id.
    pub(crate) followers: Vec<Progress>,
    /// Where the leader's own term begins in its log: nothing before it is committed by counting.
    pub(crate) term_start: LogIndex,
    /// A membership change may stand at or before this index; the next one must wait until it is applied.
    pub(crate) pending_change: LogIndex,
    /// Followers are told at once of commits up to here: a member that a change removes is sent nothing more once this leader
    /// has applied it, and the driver may have reasons of its own.
    pub(crate) tell_upto: LogIndex,
    /// What proposals of this term that are not yet committed cost.
    pub(crate) uncommitted_bytes: usize,
    /// When the next heartbeats are due.
    pub(crate) beat_at: Time,
    /// When they were last due, and the driver last told whose support it holds.
    pub(crate) briefed_at: Time,
    pub(crate) reads: Reads,
    pub(crate) transfer: Option<Transfer>,
    /// A follower was asked to campaign in this term: leases and bulk reads are not safe until the next one.
    pub(crate) asked_to_campaign: bool,
    /// Its driver has nothing open either.
    pub(crate) may_rest: bool,
    pub(crate) rest: Rest,
}

impl Leader {
    pub(crate) fn follower(&mut self, id: ReplicaId) -> Option<&mut Progress> {
        let at = self.followers.binary_search_by_key(&id, |progress| progress.id).ok()?;
        Some(&mut self.followers[at])
    }

    /// What a member holds durably, as far as the leader `me` knows, whose own log is durable up to `stable`.
    pub(crate) fn reached(&self, id: ReplicaId, me: ReplicaId, stable: LogIndex) -> LogIndex {
        if id == me { stable } else { self.progress(id).map_or(LogIndex::ZERO, |progress| progress.matched) }
    }

    pub(crate) fn progress(&self, id: ReplicaId) -> Option<&Progress> {
        let at = self.followers.binary_search_by_key(&id, |progress| progress.id).ok()?;
        Some(&self.followers[at])
    }
}

impl Core {
    pub(crate) fn become_leader(&mut self, now: Time) {
        let last_index = self.log.last_index();
        let others = self.members.current.members().iter().map(|(id, _)| *id).filter(|id| *id != self.id);
        let leader = Leader {
            followers: others.map(|id| Progress::new(id, last_index, now)).collect(),
            term_start: last_index.next(),
            // Any entry taken over from an earlier leader may be a change of the membership.
            pending_change: last_index,
            tell_upto: LogIndex::ZERO,
            uncommitted_bytes: 0,
            beat_at: Time::NEVER,
            briefed_at: Time::ZERO,
            reads: Reads::default(),
            transfer: None,
            asked_to_campaign: false,
            may_rest: false,
            rest: Rest::Awake,
        };
        self.role = RoleState::Leader(Box::new(leader));
        self.note_role();
        self.set_leader(self.id);
        self.arm_heartbeat(now);
        // Entries of earlier terms commit only together with one of this term (dissertation, section 3.6.2), so there is
        // one at once.
        self.append_own(EntryKind::Empty, Payload::new());
    }

    /// Adds an entry of the leader's own term to its log.
    pub(crate) fn append_own(&mut self, kind: EntryKind, data: Payload) -> LogIndex {
        let entry = Entry { term: self.hard.term, index: self.log.last_index().next(), kind, data };
        let (index, cost) = (entry.index, entry.cost());
        if let RoleState::Leader(leader) = &mut self.role {
            leader.uncommitted_bytes += cost;
            if kind == EntryKind::Membership {
                leader.tell_upto = index;
            }
        }
        self.push_entry(entry);
        index
    }

    /// A leader without followers needs no heartbeat, so it costs nothing while it has nothing to do.
    pub(crate) fn arm_heartbeat(&mut self, now: Time) {
        let interval = self.options.heartbeat_interval;
        if let RoleState::Leader(leader) = &mut self.role {
            leader.beat_at = if leader.followers.is_empty() { Time::NEVER } else { now.next_multiple(interval) };
        }
    }

    /// Lets go of what a leader that leads no more still owes.
    pub(crate) fn retire(&mut self, leader: Leader) {
        self.effects.extend(leader.reads.into_contexts().map(Effect::ReadFailed));
        if let Some(Transfer { to, asked, .. }) = leader.transfer {
            let event = if asked { Event::TransferDone { to } } else { Event::TransferAborted { to } };
            self.effects.push(Effect::Event(event));
        }
    }

    pub(crate) fn handle_accepted(&mut self, now: Time, from: ReplicaId, match_index: LogIndex) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.follower(from) else { return };
        if match_index > self.log.last_index() {
            return;
        }
        let retry_at = now.plus(self.options.retry_after());
        progress.on_alive(now, retry_at);
        progress.on_accepted(match_index, self.log.truncated_index(), retry_at);
    }

    pub(crate) fn handle_rejected(
        &mut self,
        now: Time,
        from: ReplicaId,
        prev_index: LogIndex,
        (hint_index, hint_term): (LogIndex, Term),
    ) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.follower(from) else { return };
        // The follower's log ends in, or falls back to, `hint_term` there; this one's may have to fall back further. Both
        // skip whole terms, so each conflicting term costs one probe at most (dissertation, section 3.5).
        let agree = self.log.last_at_most(hint_index, hint_term);
        let next = agree.next().min(prev_index);
        progress.heard_at = now;
        progress.answered = true;
        progress.on_rejected(prev_index, next);
    }

    pub(crate) fn handle_heartbeat_reply(&mut self, now: Time, from: ReplicaId, round: u64) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let newest = leader.reads.newest_round();
        let Some(progress) = leader.follower(from) else { return };
        progress.on_alive(now, now.plus(self.options.retry_after()));
        if round <= newest {
            progress.acked_round = progress.acked_round.max(round);
        }
    }

    /// Commits what a quorum holds durably, if it ends in an entry of this term (dissertation, section 3.6.2).
    pub(crate) fn maybe_commit(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        if self.hard.commit == self.log.last_index() {
            return;
        }
        let (me, stable) = (self.id, self.log.stable());
        let reached = self.members.current.committed_index(|id| leader.reached(id, me, stable));
        if reached <= self.hard.commit || reached < leader.term_start {
            return;
        }
        let cost = self.log.cached_cost(self.hard.commit, reached);
        leader.uncommitted_bytes = leader.uncommitted_bytes.saturating_sub(cost);
        if reached == self.log.last_index() {
            leader.uncommitted_bytes = 0;
        }
        self.commit_to(reached);
    }

    /// The heartbeats that are due, and what is checked at their pace.
    pub(crate) fn on_heartbeat_due(&mut self, now: Time) {
        if let RoleState::Leader(leader) = &mut self.role {
            leader.briefed_at = now;
        }
        if self.options.check_quorum && !self.hears_quorum(now) {
            self.effects.push(Effect::Event(Event::QuorumLost { term: self.hard.term }));
            self.become_follower(now, self.hard.term, ReplicaId::ZERO);
            return;
        }
        if self.step_to_rest() {
            return;
        }
        self.send_heartbeats(false);
        self.send_fortify();
        let (silence, last) = (self.options.election_timeout_min, self.log.last_index());
        let RoleState::Leader(leader) = &mut self.role else { return };
        for progress in &mut leader.followers {
            progress.seek_absent(now, silence, last);
            progress.shrink();
            if progress.fetching == Fetching::Failed {
                progress.fetching = Fetching::Nothing;
            }
        }
        self.arm_heartbeat(now);
    }

    /// Whether a quorum gave a sign of life within the last election timeout (dissertation, section 6.2).
    fn hears_quorum(&self, now: Time) -> bool {
        let RoleState::Leader(leader) = &self.role else { return false };
        let timeout = self.options.election_timeout_min;
        // The support of a store is a sign of life of its replicas that have promised (F10).
        let is_alive = |progress: &Progress| {
            now.since(progress.heard_at) < timeout
                || (progress.support.is_some() && progress.fortified == progress.support)
        };
        self.members.current.is_quorum(|id| id == self.id || leader.progress(id).is_some_and(is_alive))
    }

    /// Sends a heartbeat with the newest read round to every follower, or to those whose answers count.
    pub(crate) fn send_heartbeats(&mut self, voters_only: bool) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let round = leader.reads.newest_round();
        let members = &self.members.current;
        for progress in leader.followers.iter_mut().filter(|progress| !voters_only || members.is_voter(progress.id)) {
            // A follower may take this index at its word, so it is one that it holds.
            let commit = self.hard.commit.min(progress.matched);
            progress.commit_sent = progress.commit_sent.max(commit);
            let body = Body::Heartbeat { commit, round };
            let message = crate::Message { from: self.id, to: progress.id, term: self.hard.term, body };
            self.effects.push(Effect::Send(message));
        }
    }
}
