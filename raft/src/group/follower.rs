//! A follower and its leader: appends, heartbeats, and one answer a turn (dissertation, section 3.5).

use super::core::{Core, Effect, Following, RoleState};
use crate::output::Event;
use crate::{AppendOutcome, Body, Entry, EntryKind, LogIndex, ReplicaId, Term, Time};

impl Core {
    pub(crate) fn handle_append(
        &mut self,
        from: ReplicaId,
        prev: (LogIndex, Term),
        commit: LogIndex,
        entries: Vec<Entry>,
    ) {
        if !is_well_formed(prev, &entries, self.hard.term) {
            return;
        }
        let (mut prev_index, mut prev_term) = prev;
        if prev_index < self.log.truncated_index() {
            // What is compacted was committed, and equals the leader's log: only what follows is of interest.
            prev_index = self.log.truncated_index();
            let sent = entries.iter().find(|entry| entry.index == prev_index);
            let known = self.log.term(prev_index).expect("the truncated index has a term");
            prev_term = sent.map_or(known, |entry| entry.term);
        }
        if self.log.term(prev_index) != Some(prev_term) {
            if prev_index <= self.hard.commit {
                self.effects.push(Effect::Event(Event::PeerContradicts { from, index: prev_index }));
            } else {
                self.refuse_append(from, prev);
            }
            return;
        }
        let bare = entries.is_empty();
        let last_new = entries.last().map_or(prev.0, |entry| entry.index).max(prev_index);
        if !self.take_entries(from, entries) {
            return;
        }
        let RoleState::Follower(following) = &mut self.role else { return };
        following.verified = following.verified.max(last_new);
        let commit = commit.min(following.verified);
        // An empty append that brings news of a commit and nothing to confirm needs no answer. A probe carries no commit
        // index, so that it is always answered.
        let is_only_news = bare && commit > self.hard.commit && last_new <= following.acknowledged;
        following.answer_due |= !is_only_news;
        let learnt = following.told.min(following.verified);
        self.commit_to(commit.max(learnt));
    }

    /// Learns beside the leader's own messages that `index` was committed when somebody led `term`.
    ///
    /// Safety: what was committed in a term stands in the log of every leader of that term or a later one (leader
    /// completeness; dissertation, section 3.6.3), so also in that of the leader of the current term if `term` is not higher.
    /// Up to `verified` this log equals that leader's. So what lies at or below both is the committed entry itself. A higher
    /// term tells nothing here: this log may still hold what that term's leader has replaced. The rest of what was told
    /// counts as soon as appends of this term reach it; it is forgotten with the role and the term.
    pub(crate) fn learn_commit(&mut self, term: Term, index: LogIndex) {
        let RoleState::Follower(following) = &mut self.role else { return };
        if term > self.hard.term {
            return;
        }
        following.told = following.told.max(index);
        let learnt = following.told.min(following.verified);
        self.commit_to(learnt);
    }

    /// Adds those entries that are not there yet; says whether the leader's log was acceptable.
    fn take_entries(&mut self, from: ReplicaId, entries: Vec<Entry>) -> bool {
        let RoleState::Follower(following) = &self.role else { return false };
        // Neither what is committed nor what this leader has sent before can be otherwise now.
        let settled = self.hard.commit.max(following.verified);
        for entry in entries {
            match self.log.term(entry.index) {
                // Compacted, hence committed, hence equal; or there.
                _ if entry.index <= self.log.truncated_index() => continue,
                Some(term) if term == entry.term => continue,
                Some(_) if entry.index <= settled => {
                    let event = Event::PeerContradicts { from, index: entry.index };
                    self.effects.push(Effect::Event(event));
                    return false;
                }
                Some(_) => self.cut_log(entry.index),
                None => {}
            }
            self.push_entry(entry);
        }
        true
    }

    pub(crate) fn push_entry(&mut self, entry: Entry) {
        if entry.kind == EntryKind::Membership {
            self.members.note_change(entry.index);
        }
        self.log.push(entry);
    }

    /// Tells the leader where to try next: the last entry that may agree with its log.
    fn refuse_append(&mut self, from: ReplicaId, (prev_index, prev_term): (LogIndex, Term)) {
        let RoleState::Follower(following) = &mut self.role else { return };
        if following.refused.is_some_and(|refused| refused <= prev_index) {
            return;
        }
        following.refused = Some(prev_index);
        // Everything up to the commit index agrees for certain.
        let hint_index = self.log.last_at_most(prev_index, prev_term).max(self.hard.commit);
        let hint_term = self.log.term(hint_index).unwrap_or(Term::ZERO);
        self.send(from, Body::AppendReply(AppendOutcome::Rejected { prev_index, hint_index, hint_term }));
    }

    pub(crate) fn handle_heartbeat(&mut self, commit: LogIndex, round: u64) {
        // The leader names no more than what this replica has acknowledged to it.
        self.commit_to(commit.min(self.log.last_index()));
        if let RoleState::Follower(following) = &mut self.role {
            following.beat_due = following.beat_due.max(Some(round));
        }
    }

    /// The turn's answers to the leader: one for all its appends, one for all its heartbeats.
    pub(crate) fn answer_leader(&mut self) {
        let RoleState::Follower(following) = &mut self.role else { return };
        let Following { verified, answer_due, beat_due, .. } = *following;
        following.refused = None;
        following.answer_due = false;
        following.beat_due = None;
        if answer_due {
            following.acknowledged = verified;
        }
        let leader = self.election.leader;
        if leader == ReplicaId::ZERO {
            return;
        }
        if answer_due {
            self.send_after_flush(leader, Body::AppendReply(AppendOutcome::Accepted { match_index: verified }));
        }
        // Says only that it follows this leader in this term; the term itself need not be durable for that, because no
        // leader of a higher one can have been elected without a durable vote (dissertation, section 6.4).
        if let Some(round) = beat_due {
            self.send(leader, Body::HeartbeatReply { round });
        }
    }

    /// An installed snapshot or a lost answer is reason to tell the leader again what is there.
    pub(crate) fn owe_answer(&mut self, verified: LogIndex) {
        if let RoleState::Follower(following) = &mut self.role {
            following.verified = following.verified.max(verified);
            following.answer_due = true;
        }
    }

    /// Gives signs of a leader's life that came another way, for instance the snapshot that it is sending.
    pub(crate) fn note_leader_alive(&mut self, now: Time) {
        if !self.is_leader() && self.election.leader != ReplicaId::ZERO {
            self.election.heard_at = now;
            self.rearm(now);
        }
    }
}

/// Whether the entries can be part of a leader's log: consecutive, with terms that never fall and none beyond the leader's
/// own. What a peer sends is not trusted to be.
fn is_well_formed(prev: (LogIndex, Term), entries: &[Entry], term: Term) -> bool {
    let (mut index, mut at_least) = prev;
    for entry in entries {
        if index.get() == u64::MAX || entry.index != index.next() || entry.term < at_least || entry.term > term {
            return false;
        }
        (index, at_least) = (entry.index, entry.term);
    }
    true
}
