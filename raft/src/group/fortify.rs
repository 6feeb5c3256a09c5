//! Fortified leaders: followers that keep quiet without being told so again and again.
//!
//! A leader asks each follower, once for each term and period of support between their stores, to *fortify* it. A follower
//! that promises votes for no other and does not campaign until its store withdraws its support, the leader releases it, or
//! somebody leads a higher term. So neither needs heartbeats while nothing happens: the leader *rests*, and a follower that
//! has promised waits for nothing.
//!
//! A period of support is the driver's to establish and to end; here it is a number (`epoch`), which the driver sees to is
//! never used twice between two replicas' stores. Nothing of this touches what Raft's safety rests on: a promise makes a
//! replica refuse and keep quiet, which Raft allows at any time. What may be concluded from promises is in
//! `docs/liveness.md`; the numbers F1 to F10 there are those below.

use std::num::NonZeroU64;
use std::time::Duration;

use super::core::{Core, Effect, RoleState};
use crate::progress::{Fetching, Flow, Progress};
use crate::{Body, LogIndex, Message, Priority, ReplicaId, Term, Time};

/// What a follower has promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// To whom.
    pub leader: ReplicaId,
    /// The term that it leads.
    pub term: Term,
    /// The period of support under which it stands.
    pub epoch: u64,
}

/// A promise, and when its holder last asked whether it still has a point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bond {
    pub(crate) promise: Promise,
    /// Ask no earlier than this.
    pub(crate) ask_at: Time,
}

/// Replicas that may have promised to this one as the leader of a term in which it leads them no more, and that have not
/// been released yet for certain (F8).
#[derive(Debug)]
pub(crate) struct Releases {
    /// Each replica once, with the newest such term.
    owed: Vec<(ReplicaId, Term)>,
    at: Time,
    /// How many times they were sent.
    sent: u32,
}

/// Where a leader stands on its way to rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It beats.
    #[default]
    Awake,
    /// It beats with this round, until every follower that counts has answered it: then they all know this commit index.
    Asked { index: LogIndex, round: u64 },
    /// It is silent.
    Resting,
}

/// Waits double from one heartbeat interval, up to an election timeout; so often at most.
const MAX_DOUBLINGS: u32 = 8;
/// Releases that nobody acknowledges are repeated about once in ten minutes in the end, if heartbeats leave ten times a second.
const MAX_DELAY_DOUBLINGS: u32 = 13;

impl Core {
    /// What forbids a vote for `candidate` (F3). A vote that a leader of a later term asked for is not forbidden (F4).
    fn is_bound_against(&self, candidate: ReplicaId, transfer: bool, term: Term) -> bool {
        self.bond.is_some_and(|Bond { promise, .. }| {
            let by_wish_of_a_leader = transfer && term > promise.term;
            promise.leader != candidate && !by_wish_of_a_leader
        })
    }

    /// Whether a request for a vote is refused because of a promise; then the leader is asked whether it still leads (F7).
    pub(crate) fn refuses_by_promise(&mut self, now: Time, candidate: ReplicaId, transfer: bool, term: Term) -> bool {
        let is_bound = self.is_bound_against(candidate, transfer, term);
        if is_bound {
            self.ask_leader(now);
        }
        is_bound
    }

    /// Whether this replica has promised not to campaign.
    pub(crate) fn is_bound(&self) -> bool {
        self.bond.is_some()
    }

    /// Whether it has promised so to the leader of its own term: then there is nothing to wait for.
    pub(crate) fn keeps_quiet(&self) -> bool {
        self.bond.is_some_and(|bond| bond.promise.term == self.hard.term)
    }

    pub(crate) fn restore_promise(&mut self, now: Time, promise: Promise) {
        self.bond = Some(Bond { promise, ask_at: now });
    }

    /// A vote is asked for by the wish of a leader of the term before: a promise to an earlier leader ends (F4).
    pub(crate) fn end_promise_for_transfer(&mut self, now: Time, term: Term) {
        if self.bond.is_some_and(|bond| term > bond.promise.term) {
            self.end_promise(now);
        }
    }

    /// A leader of the current term was heard: a promise to one of an earlier term ends (F4).
    pub(crate) fn end_promise_to_earlier(&mut self, now: Time) {
        if self.bond.is_some_and(|bond| bond.promise.term < self.hard.term) {
            self.end_promise(now);
        }
    }

    fn end_promise(&mut self, now: Time) {
        self.bond = None;
        if !self.is_leader() {
            self.rearm(now);
        }
    }

    /// The leader may have had this replica campaign: that ends the promise to it, and one to an earlier leader (F4).
    pub(crate) fn end_promise_to_campaign(&mut self, now: Time, from: ReplicaId) {
        let term = self.hard.term;
        let ends = |promise: Promise| promise.term < term || (promise.leader, promise.term) == (from, term);
        if self.bond.is_some_and(|bond| ends(bond.promise)) {
            self.end_promise(now);
        }
    }

    /// A leader of this term, which has been accepted, asks for the promise (F2). The driver has seen to it that this
    /// store supports that of the leader in this period.
    pub(crate) fn handle_fortify(&mut self, now: Time, from: ReplicaId, epoch: u64) {
        let promise = Promise { leader: from, term: self.hard.term, epoch };
        self.bond = Some(Bond { promise, ask_at: now });
        self.send(from, Body::Fortified { epoch });
    }

    /// A follower has promised.
    pub(crate) fn handle_fortified(&mut self, from: ReplicaId, epoch: u64) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        if let Some(progress) = leader.follower(from) {
            // A late answer speaks of an earlier period.
            progress.fortified = progress.fortified.max(NonZeroU64::new(epoch));
        }
    }

    /// Somebody who led `term` lets its followers go. It may speak of an earlier term than the current one.
    pub(crate) fn handle_release(&mut self, now: Time, from: ReplicaId, term: Term) {
        if self.bond.is_some_and(|Bond { promise, .. }| (promise.leader, promise.term) == (from, term)) {
            self.end_promise(now);
        }
        self.send_in(term, from, Body::Released);
    }

    pub(crate) fn handle_released(&mut self, from: ReplicaId, term: Term) {
        self.releases.take_if(|releases| {
            releases.owed.retain(|owed| *owed != (from, term));
            releases.owed.is_empty()
        });
    }

    /// A follower that has promised asks whether this replica leads `term` (F7). Any answer but yes lets it go.
    pub(crate) fn handle_ask_leader(&mut self, now: Time, from: ReplicaId, term: Term, own_term: Term) {
        if own_term > self.hard.term {
            self.become_follower(now, own_term, ReplicaId::ZERO);
        }
        if !self.is_leader() || self.hard.term != term {
            self.send_in(term, from, Body::Release);
            return;
        }
        self.rouse(now);
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.follower(from) else {
            // A member that this configuration leaves out promises nothing to anyone that counts.
            self.send_in(term, from, Body::Release);
            return;
        };
        if let Some(epoch) = progress.support {
            progress.asked = true;
            self.send(from, Body::Fortify { epoch: epoch.get() });
        }
    }

    /// Asks the leader that was promised to, now or when the last question has had time to be answered.
    pub(crate) fn ask_leader(&mut self, now: Time) {
        let own_term = self.hard.term;
        let interval = self.options.heartbeat_interval;
        let Some(bond) = self.bond.as_mut().filter(|bond| now >= bond.ask_at) else { return };
        bond.ask_at = now.plus(interval);
        let Promise { leader, term, .. } = bond.promise;
        self.send_in(term, leader, Body::AskLeader { own_term });
    }

    fn send_in(&mut self, term: Term, to: ReplicaId, body: Body) {
        self.effects.push(Effect::Send(Message { from: self.id, to, term, body }));
    }

    /// The driver's store has withdrawn the support under which the promise stood. After `wait` this replica campaigns, if
    /// it hears of no leader until then.
    pub(crate) fn on_withdrawn(&mut self, now: Time, wait: Duration) {
        if self.bond.take().is_none() || self.is_leader() {
            return;
        }
        // What was heard of the leader was heard before its store fell silent.
        self.election.heard_at = Time::ZERO;
        if self.election.priority == Priority::NEVER {
            self.rearm(now);
        } else {
            self.election.deadline = now.plus(wait);
            self.election.stands_in_line = true;
        }
    }

    /// A pre-vote was refused because of a promise. That may end soon: once the voter's store has withdrawn, too.
    pub(crate) fn on_promised(&mut self, now: Time) {
        let RoleState::PreCandidate(candidacy) = &mut self.role else { return };
        candidacy.was_put_off = true;
        let wait = self.options.heartbeat_interval * (1 << self.election.refusals.min(MAX_DOUBLINGS));
        self.election.refusals += 1;
        let at = now.plus(wait.min(self.options.election_timeout_min));
        self.election.deadline = self.election.deadline.min(at);
    }

    /// Sets the period in which the driver's store holds the support of a follower's store; `None`: in none.
    pub(crate) fn set_support(&mut self, peer: ReplicaId, epoch: Option<u64>) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        if let Some(progress) = leader.follower(peer) {
            progress.support = epoch.and_then(NonZeroU64::new);
        }
    }

    /// Whether a quorum of voters, this one included, has promised and passes `counts`, which is given the period of the
    /// promise on record (F5).
    pub(crate) fn is_fortified_by(&self, counts: impl Fn(ReplicaId, u64) -> bool) -> bool {
        let RoleState::Leader(leader) = &self.role else { return false };
        self.members.current.is_quorum(|id| {
            let promised = || leader.progress(id).and_then(|progress| progress.fortified);
            id == self.id || promised().is_some_and(|epoch| counts(id, epoch.get()))
        })
    }

    /// The period of a follower's promise on record (F5).
    pub(crate) fn promised_epoch(&self, follower: ReplicaId) -> Option<u64> {
        let RoleState::Leader(leader) = &self.role else { return None };
        leader.progress(follower)?.fortified.map(NonZeroU64::get)
    }

    /// Whether a quorum has promised under support that is held now.
    pub(crate) fn is_fortified(&self) -> bool {
        let RoleState::Leader(leader) = &self.role else { return false };
        let held = |id| leader.progress(id).and_then(|progress| progress.support);
        self.is_fortified_by(|id, epoch| held(id).is_some_and(|held| held.get() == epoch))
    }

    pub(crate) fn fortified_read_index(&self) -> Option<LogIndex> {
        let RoleState::Leader(leader) = &self.role else { return None };
        let may_serve = self.hard.commit >= leader.term_start && !leader.asked_to_campaign;
        may_serve.then_some(self.hard.commit)
    }

    /// Asks the followers that have not promised in the present period.
    pub(crate) fn send_fortify(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        for progress in &mut leader.followers {
            let Some(epoch) = progress.support.filter(|epoch| progress.fortified != Some(*epoch)) else { continue };
            progress.asked = true;
            let body = Body::Fortify { epoch: epoch.get() };
            let message = Message { from: self.id, to: progress.id, term: self.hard.term, body };
            self.effects.push(Effect::Send(message));
        }
    }

    /// Lets go of those among `followers` that may have promised to this replica as the leader of `term`: it leads no more, or
    /// they are no members any more.
    pub(crate) fn release_followers(&mut self, now: Time, term: Term, followers: &[Progress]) {
        let asked: Vec<_> = followers.iter().filter(|progress| progress.asked).map(|progress| progress.id).collect();
        if asked.is_empty() {
            return;
        }
        let releases = self.releases.get_or_insert_with(|| Box::new(Releases { owed: Vec::new(), at: now, sent: 0 }));
        releases.owed.retain(|(id, _)| !asked.contains(id));
        releases.owed.extend(asked.into_iter().map(|id| (id, term)));
        (releases.at, releases.sent) = (now, 0);
        self.send_releases(now);
    }

    /// Sends what is owed, when it is due: later and later to those who never answer, whose stores may be gone for good.
    pub(crate) fn send_releases(&mut self, now: Time) {
        let interval = self.options.heartbeat_interval;
        let Some(releases) = self.releases.as_mut().filter(|releases| now >= releases.at) else { return };
        releases.at = now.plus(interval.saturating_mul(1 << releases.sent.min(MAX_DELAY_DOUBLINGS)));
        releases.sent += 1;
        for (to, term) in releases.owed.clone() {
            self.send_in(term, to, Body::Release);
        }
    }

    /// To whom this replica owes a release, or would if it led no more; with the term that it led.
    pub(crate) fn owed_releases(&self) -> Vec<(ReplicaId, Term)> {
        let mut owed = self.releases.as_ref().map_or_else(Vec::new, |releases| releases.owed.clone());
        if let RoleState::Leader(leader) = &self.role {
            let asked = leader.followers.iter().filter(|progress| progress.asked);
            owed.extend(asked.map(|progress| (progress.id, self.hard.term)));
        }
        owed
    }

    pub(crate) fn releases_due(&self) -> Time {
        self.releases.as_ref().map_or(Time::NEVER, |releases| releases.at)
    }

    pub(crate) fn allow_rest(&mut self, allowed: bool) {
        if let RoleState::Leader(leader) = &mut self.role {
            leader.may_rest = allowed;
        }
    }

    pub(crate) fn is_resting(&self) -> bool {
        matches!(&self.role, RoleState::Leader(leader) if leader.rest == Rest::Resting)
    }

    /// Beats again, and forgets how long the followers were silent: they had no reason to speak.
    pub(crate) fn rouse(&mut self, now: Time) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        if leader.rest == Rest::Resting {
            leader.rest = Rest::Awake;
            leader.followers.iter_mut().for_each(|progress| progress.heard_at = now);
            self.arm_heartbeat(now);
        }
    }

    /// Takes a step towards rest when heartbeats are due; says whether none are needed any more (S1, S2). Rest needs a round in
    /// which every follower whose store is alive has answered that it has everything and knows it to be committed.
    pub(crate) fn step_to_rest(&mut self) -> bool {
        if !self.could_rest() {
            if let RoleState::Leader(leader) = &mut self.role {
                leader.rest = Rest::Awake;
            }
            return false;
        }
        let last = self.log.last_index();
        let RoleState::Leader(leader) = &mut self.role else { return false };
        match leader.rest {
            Rest::Resting => true,
            Rest::Asked { index, round } if index == last => {
                let mut live = leader.followers.iter().filter(|progress| progress.support.is_some());
                let all_know = live.all(|progress| progress.acked_round >= round);
                if all_know {
                    leader.rest = Rest::Resting;
                    leader.beat_at = Time::NEVER;
                }
                all_know
            }
            Rest::Asked { .. } | Rest::Awake => {
                leader.rest = Rest::Asked { index: last, round: leader.reads.open_bare_round() };
                false
            }
        }
    }

    /// Puts the heartbeats off that are due next, by so many intervals more, if no follower has need of them: each has promised under
    /// support that is held, is sent entries in a pipeline, and owes no answer for too long (S2a). Whether it is held is told when
    /// heartbeats are due, so they are put off again and again for twice as long at most.
    pub(crate) fn put_off_beats(&mut self, now: Time, intervals: u32) {
        let interval = self.options.heartbeat_interval;
        let RoleState::Leader(leader) = &mut self.role else { return };
        let can_wait = |progress: &Progress| {
            progress.support.is_some()
                && progress.fortified == progress.support
                && progress.flow == Flow::Replicate
                && progress.fetching == Fetching::Nothing
                && !progress.paused
                && (progress.is_idle() || now < progress.retry_at)
        };
        if leader.beat_at != Time::NEVER && leader.followers.iter().all(can_wait) {
            let wait = interval * intervals;
            let latest = leader.briefed_at.plus((interval + wait) * 2);
            leader.beat_at = leader.beat_at.max(now.next_multiple(interval).plus(wait).min(latest));
        }
    }

    /// Whether nothing is open, here or at a follower that counts.
    fn could_rest(&self) -> bool {
        let RoleState::Leader(leader) = &self.role else { return false };
        let last = self.log.last_index();
        let is_settled = |progress: &Progress| {
            progress.support.is_none()
                || (progress.fortified == progress.support
                    && progress.flow == Flow::Replicate
                    && progress.matched == last
                    && progress.is_idle()
                    && !progress.paused)
        };
        leader.may_rest
            && leader.transfer.is_none()
            && leader.reads.len() == 0
            && !self.members.current.is_joint()
            && self.hard.commit == last
            && self.applying.applied == last
            && self.log.stable() == last
            && last >= leader.term_start
            && leader.followers.iter().all(is_settled)
            && self.is_fortified()
    }
}
