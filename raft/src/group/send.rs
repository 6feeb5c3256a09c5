//! What a leader sends to its followers at the end of a turn: appends, requests for entries and for snapshots.
//!
//! All proposals of a turn travel in one append per follower, split only by size. An append may leave before its entries are
//! durable here; the leader counts itself only when they are.

use super::core::{Core, Effect, RoleState};
use crate::log::GroupLog;
use crate::output::{Fetch, FetchPurpose};
use crate::progress::{Fetching, Flow, Progress};
use crate::{Body, Entry, LogIndex, Membership, Message, Options, ReplicaId, Role, Term, Time};

/// What sending to one follower needs of the group.
struct Sender<'a> {
    options: &'a Options,
    log: &'a GroupLog,
    members: &'a Membership,
    effects: &'a mut Vec<Effect>,
    id: ReplicaId,
    term: Term,
    commit: LogIndex,
    applied: LogIndex,
    /// Witnesses are sent entries up to here: what they alone hold nobody could ever lead with, and their votes may be needed.
    held: LogIndex,
    /// Idle followers hear of a commit up to here without delay.
    tell_upto: LogIndex,
    now: Time,
}

impl Core {
    /// Splits the leader's followers from what sending to them needs.
    fn sender(&mut self, now: Time) -> Option<(&mut Vec<Progress>, Sender<'_>)> {
        let tell_upto = self.tell_upto();
        let RoleState::Leader(leader) = &mut self.role else { return None };
        let (members, last) = (&self.members.current, self.log.last_index());
        let held = if members.has_witness() {
            let (me, stable) = (self.id, self.log.stable());
            last.min(members.held_index(|id| leader.reached(id, me, stable)))
        } else {
            last
        };
        let sender = Sender {
            options: &self.options,
            log: &self.log,
            members,
            held,
            effects: &mut self.effects,
            id: self.id,
            term: self.hard.term,
            commit: self.hard.commit,
            applied: self.applying.applied,
            tell_upto,
            now,
        };
        Some((&mut leader.followers, sender))
    }

    /// Up to where idle followers hear of the commit index in a message of its own.
    pub(crate) fn tell_upto(&self) -> LogIndex {
        let RoleState::Leader(leader) = &self.role else { return LogIndex::ZERO };
        let upto = if self.options.eager_commit { self.hard.commit } else { leader.tell_upto };
        upto.min(self.hard.commit)
    }

    /// Has followers told at once when `index` is committed.
    pub(crate) fn hurry_commit(&mut self, index: LogIndex) {
        if let RoleState::Leader(leader) = &mut self.role {
            leader.tell_upto = leader.tell_upto.max(index);
        }
    }

    pub(crate) fn send_appends(&mut self, now: Time) {
        let Some((followers, mut sender)) = self.sender(now) else { return };
        for progress in followers.iter_mut().filter(|progress| !progress.paused) {
            sender.serve(progress);
        }
    }

    /// Entries that were fetched for a follower go out, if they are still what it needs.
    pub(crate) fn on_fetched_to_send(&mut self, now: Time, to: ReplicaId, entries: Vec<Entry>) {
        let Some((followers, mut sender)) = self.sender(now) else { return };
        let Some(progress) = followers.iter_mut().find(|progress| progress.id == to) else { return };
        progress.fetching = Fetching::Nothing;
        let is_wanted = progress.flow == Flow::Replicate && !progress.paused;
        if !is_wanted || entries.first().is_some_and(|first| first.index != progress.next) {
            return;
        }
        if entries.is_empty() || !sender.log.holds(&entries) {
            // Not what the log holds: to be read again, and not at once.
            progress.fetching = Fetching::Failed;
            return;
        }
        let mut rest = entries;
        while !rest.is_empty() {
            let next = rest.split_off(leading(&rest, sender.options.max_append_bytes));
            sender.append(progress, rest);
            rest = next;
        }
    }

    pub(crate) fn on_fetch_to_send_failed(&mut self, to: ReplicaId) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        if let Some(progress) = leader.follower(to) {
            progress.fetching = Fetching::Failed;
        }
    }
}

/// How many entries from the start cost `max_bytes` together; at least one.
fn leading(entries: &[Entry], max_bytes: usize) -> usize {
    let mut bytes = 0;
    let fitting = entries.iter().take_while(|entry| {
        bytes += entry.cost();
        bytes <= max_bytes
    });
    fitting.count().max(1)
}

impl Sender<'_> {
    /// How far a follower may be sent entries.
    fn last_for(&self, id: ReplicaId) -> LogIndex {
        match self.members.role(id) {
            Some(Role::Witness) => self.held,
            _ => self.log.last_index(),
        }
    }

    /// Sends what the follower may get now.
    fn serve(&mut self, progress: &mut Progress) {
        let last = self.last_for(progress.id);
        match progress.flow {
            Flow::Snapshot => return,
            Flow::Probe if progress.probing => return,
            Flow::Probe | Flow::Replicate if progress.next.prev() < self.log.truncated_index() => {
                // Nor is there anything to ask again: no append fits what the follower holds.
                return self.ask_for_snapshot(progress);
            }
            Flow::Probe => self.probe(progress),
            Flow::Replicate => {
                while progress.next <= last && !progress.is_full(self.options) {
                    if progress.fetching != Fetching::Nothing {
                        break;
                    }
                    if progress.next < self.log.cache_start() {
                        self.fetch(progress);
                        break;
                    }
                    let entries = self.log.cached(progress.next, last, self.options.max_append_bytes);
                    self.append(progress, entries);
                }
                self.tell_commit(progress);
            }
        }
        if progress.nudge {
            progress.nudge = false;
            self.send_append(progress, LogIndex::ZERO, Vec::new());
        }
    }

    /// One append, to find out where the logs agree. The first brings entries, in the hope that they fit; a repeated one
    /// does not, nor one whose entries would have to be read from disk.
    fn probe(&mut self, progress: &mut Progress) {
        let last = self.last_for(progress.id);
        let bare = progress.bare || progress.next > last || progress.next < self.log.cache_start();
        if bare {
            self.send_append(progress, LogIndex::ZERO, Vec::new());
        } else {
            let entries = self.log.cached(progress.next, last, self.options.max_append_bytes);
            let reaches = entries.last().map_or(LogIndex::ZERO, |entry| entry.index);
            progress.commit_sent = progress.commit_sent.max(self.commit.min(reaches));
            self.send_append(progress, self.commit, entries);
        }
        progress.bare = true;
        progress.hold_until(self.now.plus(self.options.retry_after()));
    }

    /// Entries into the pipeline.
    fn append(&mut self, progress: &mut Progress, entries: Vec<Entry>) {
        let last = entries.last().expect("an append in the pipeline has entries").index;
        let bytes = entries.iter().map(Entry::cost).sum();
        self.send_append(progress, self.commit, entries);
        progress.commit_sent = progress.commit_sent.max(self.commit);
        progress.on_sent(last, bytes, self.now.plus(self.options.retry_after()));
    }

    /// News of a commit to a follower that nothing else is on its way to.
    fn tell_commit(&mut self, progress: &mut Progress) {
        let is_idle = progress.is_idle() && progress.next > self.log.last_index();
        if is_idle && progress.commit_sent < self.tell_upto {
            progress.commit_sent = self.commit;
            self.send_append(progress, self.commit, Vec::new());
        }
    }

    fn send_append(&mut self, progress: &Progress, commit: LogIndex, entries: Vec<Entry>) {
        let prev_index = progress.next.prev();
        let prev_term = self.log.term(prev_index).expect("what is not compacted has a term");
        let body = Body::Append { prev_index, prev_term, commit, entries };
        self.effects.push(Effect::Send(Message { from: self.id, to: progress.id, term: self.term, body }));
    }

    fn fetch(&mut self, progress: &mut Progress) {
        progress.fetching = Fetching::Asked;
        self.effects.push(Effect::Fetch(Fetch {
            from: progress.next,
            to: self.log.cache_start().prev(),
            max_bytes: self.options.max_append_bytes,
            purpose: FetchPurpose::Send(progress.id),
        }));
    }

    /// A snapshot is made only for a follower that is there to take it.
    fn ask_for_snapshot(&mut self, progress: &mut Progress) {
        let is_alive = self.now.since(progress.heard_at) < self.options.election_timeout_min;
        if progress.answered && is_alive {
            progress.become_snapshot(self.applied);
            self.effects.push(Effect::Snapshot(progress.id));
        }
    }
}
