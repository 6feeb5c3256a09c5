//! Linearizable reads of all groups in one round trip for each pair of stores, and reads by lease without any (R1, R4 of
//! `docs/liveness.md`).
//!
//! All reads that a turn brings for fortified leaders here share one *round*: a question to the peers' stores, asked after the
//! reads came in, whether they support this store, and at which epoch. A group's reads are confirmed as soon as a quorum of
//! its voters lives on stores that have answered with the epoch under which they promised. What is not confirmed within a
//! heartbeat interval is confirmed by the group's own heartbeats instead.

use std::collections::VecDeque;

use multiraft_raft::{Incarnation, LogIndex, StoreId, Term, Time};
use multiraft_router::SlotKey;
use multiraft_transport::{PeerMessage, SupportMessage, SupportRound};

use crate::liveness::{Held, SupportEpoch};
use crate::logic::beats::{first_sequence, request_id};
use crate::logic::region::Reading;
use crate::logic::worker::Worker;
use crate::logic::{LaneKind, Outcome};

/// Reads that wait for the stores.
pub(super) struct Bulk<R> {
    /// The next round's sequence.
    next: u64,
    /// Reads of this turn.
    fresh: Vec<Bulked<R>>,
    /// Open rounds, oldest first.
    open: VecDeque<Round<R>>,
}

/// The reads of one group in one turn.
struct Bulked<R> {
    slot: SlotKey,
    term: Term,
    index: LogIndex,
    /// When they came in.
    at: Time,
    reads: Vec<Reading<R>>,
}

struct Round<R> {
    number: u64,
    since: Time,
    /// Which peers support this store, at which of its epochs.
    answers: Vec<(StoreId, u64)>,
    groups: Vec<Bulked<R>>,
}

impl<R> Bulk<R> {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self { next: first_sequence(incarnation), fresh: Vec::new(), open: VecDeque::new() }
    }

    /// When the oldest open round was begun.
    fn since(&self) -> Option<Time> {
        self.open.front().map(|round| round.since)
    }
}

impl<R> Worker<R> {
    /// Reads of this turn for a group that is led here. Gives them back if they have to be confirmed by the group itself.
    pub(super) fn read_in_bulk(&mut self, now: Time, slot: SlotKey, reads: Vec<Reading<R>>) -> Option<Vec<Reading<R>>> {
        let region = self.region(slot);
        let Some(index) = region.group.fortified_read_index() else { return Some(reads) };
        let supports = &self.supports;
        let is_fortified = |counts: &dyn Fn(&Held) -> bool| {
            region.group.is_fortified_by(|replica, epoch| {
                let held = region.store_of(replica).and_then(|store| supports.held(store));
                held.is_some_and(|(held, support)| *held == epoch && counts(support))
            })
        };
        let term = region.group.term();
        let is_alone = region.group.is_fortified_by(|_, _| false);
        // `now` was read after the reads came in (R4).
        let has_lease = is_alone || (self.config.leases && is_fortified(&|held| now < held.until()));
        let is_fortified = is_fortified(&|_| true);
        let (by_lease, reads) =
            reads.into_iter().partition::<Vec<_>, _>(|read| is_alone || (has_lease && read.takes_lease()));
        if !by_lease.is_empty() {
            self.counters.reads_by_lease += by_lease.len() as u64;
            self.finish_reads(slot, (index, term), now, by_lease);
        }
        if reads.is_empty() {
            return None;
        }
        if !is_fortified {
            return Some(reads);
        }
        self.bulk.fresh.push(Bulked { slot, term, index, at: now, reads });
        None
    }

    /// Begins a round for the reads of this turn, and gives up those that take too long.
    pub(super) fn drive_bulk(&mut self, now: Time) {
        let interval = self.config.raft.heartbeat_interval;
        while self.bulk.since().is_some_and(|since| now.since(since) >= interval) {
            let Some(round) = self.bulk.open.pop_front() else { break };
            for group in round.groups {
                self.read_apart(now, group);
            }
        }
        let groups = std::mem::take(&mut self.bulk.fresh);
        if groups.is_empty() {
            return;
        }
        let mut stores = Vec::new();
        for group in &groups {
            let replicas = self.regions.get_mut(group.slot).map_or(&[][..], |region| &region.descriptor().replicas);
            stores.extend(replicas.iter().map(|replica| replica.store));
        }
        stores.sort_unstable();
        stores.dedup();
        let round = request_id(self.bulk.next, self.config.worker);
        self.bulk.next += 1;
        self.counters.rounds += 1;
        let incarnation = self.config.incarnation;
        for store in stores {
            let Some((_, held)) = self.supports.held(store) else { continue };
            let question = SupportRound { incarnation, round, number: held.number };
            self.peers.entry(store).push(LaneKind::Control, PeerMessage::Support(SupportMessage::Round(question)));
        }
        self.bulk.open.push_back(Round { number: round, since: now, answers: Vec::new(), groups });
    }

    /// When [`Self::drive_bulk`] is to be called again.
    pub(super) fn bulk_due(&self) -> Time {
        self.bulk.since().map_or(Time::NEVER, |since| since.plus(self.config.raft.heartbeat_interval))
    }

    /// A peer answers a round: it answers all that were begun before as well, for the answer was made after all of them.
    pub(super) fn on_round_answered(&mut self, peer: StoreId, round: u64, by: Incarnation, number: Option<u64>) {
        let is_of_this_life = self.supports.held(peer).is_some_and(|(_, held)| held.by == by);
        let Some(number) = number.filter(|_| is_of_this_life) else { return };
        let epoch = SupportEpoch { incarnation: self.config.incarnation, number }.code();
        let mut open = std::mem::take(&mut self.bulk.open);
        for round in open.iter_mut().take_while(|open| open.number <= round) {
            if round.answers.contains(&(peer, epoch)) {
                continue;
            }
            round.answers.push((peer, epoch));
            for group in std::mem::take(&mut round.groups) {
                if let Some(group) = self.confirm(&round.answers, group) {
                    round.groups.push(group);
                }
            }
        }
        open.retain(|round| !round.groups.is_empty());
        self.bulk.open = open;
    }

    /// Serves a group's reads if these answers confirm its leader; else gives them back.
    fn confirm(&mut self, answers: &[(StoreId, u64)], group: Bulked<R>) -> Option<Bulked<R>> {
        let Some(region) = self.regions.get_mut(group.slot) else { return Some(group) };
        let is_same_term = region.group.fortified_read_index().is_some() && region.group.term() == group.term;
        let is_confirmed = is_same_term
            && region.group.is_fortified_by(|replica, epoch| {
                region.store_of(replica).is_some_and(|store| answers.contains(&(store, epoch)))
            });
        if !is_confirmed {
            return Some(group);
        }
        self.counters.reads_by_round += group.reads.len() as u64;
        self.finish_reads(group.slot, (group.index, group.term), group.at, group.reads);
        None
    }

    /// Has the group itself confirm reads that the stores did not.
    fn read_apart(&mut self, now: Time, group: Bulked<R>) {
        if !self.regions.wake(group.slot) {
            for read in group.reads {
                self.answer(read.into_reply(), Outcome::UnknownRegion);
            }
            return;
        }
        self.open_round(now, group.slot, group.reads);
        self.touch(group.slot);
    }
}
