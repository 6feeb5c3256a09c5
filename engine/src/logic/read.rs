//! Linearizable reads: one round of the leader confirms all reads of a turn (Ongaro's dissertation, section 6.4).

use multiraft_raft::{LogIndex, ReadReady, RegionEpoch, RegionId, Term, Time};
use multiraft_router::SlotKey;
use multiraft_transport::ForwardRequest;

use crate::logic::Outcome;
use crate::logic::forward::ForwardKind;
use crate::logic::output::ReplyTo;
use crate::logic::region::Confirmed;
use crate::logic::worker::Worker;
use crate::region::command::EpochRule;

impl<R> Worker<R> {
    /// A read of a caller on this store.
    pub(super) fn handle_read(&mut self, region: RegionId, epoch: Option<RegionEpoch>, reply: R) {
        let Some(slot) = self.slot_of(region) else {
            return self.reply(reply, Outcome::UnknownRegion);
        };
        let current = self.region(slot).descriptor();
        if epoch.is_some_and(|epoch| !EpochRule::COMMAND.admits(epoch, current.epoch)) {
            let current = current.clone();
            return self.reply(reply, Outcome::EpochMismatch { current });
        }
        self.read_here(slot, ReplyTo::Caller(reply));
    }

    /// A read waits for the end of the turn, to share its round with the others.
    pub(super) fn read_here(&mut self, slot: SlotKey, reply: ReplyTo<R>) {
        let Some(reply) = self.refuse_frozen(slot, reply) else { return };
        self.region_mut(slot).waiting().reads.push(reply);
        self.touch(slot);
    }

    /// Opens one round for all reads of the turn, or asks the leader once for all of them.
    pub(super) fn read_incoming(&mut self, now: Time, slot: SlotKey) {
        let region = self.region_mut(slot);
        let Some(waiting) = region.busy.as_mut().filter(|waiting| !waiting.reads.is_empty()) else {
            return;
        };
        let reads = std::mem::take(&mut waiting.reads);
        if region.group.is_leader() {
            return self.open_round(now, slot, reads);
        }
        let (leader, epoch) = (region.leader_store(), region.descriptor().epoch);
        let mut callers = Vec::with_capacity(reads.len());
        for read in reads {
            match read {
                ReplyTo::Caller(reply) => callers.push(reply),
                peer @ ReplyTo::Peer { .. } => self.answer(peer, Outcome::NotLeader { hint: leader }),
            }
        }
        if !callers.is_empty() {
            self.forward(now, slot, epoch, ForwardRequest::ReadIndex, ForwardKind::Read(callers));
        }
    }

    fn open_round(&mut self, now: Time, slot: SlotKey, reads: Vec<ReplyTo<R>>) {
        self.next_read += 1;
        let context = self.next_read;
        let region = self.region_mut(slot);
        if region.group.read_index(now, context).is_ok() {
            region.waiting().rounds.push_back((context, reads));
            return;
        }
        let hint = region.leader_store();
        for read in reads {
            self.answer(read, Outcome::NotLeader { hint });
        }
    }

    /// Rounds that a quorum has confirmed, and rounds that this leader could not finish.
    pub(super) fn on_reads(&mut self, slot: SlotKey, ready: &mut Vec<ReadReady>, failed: &mut Vec<u64>) {
        for ReadReady { context, index } in ready.drain(..) {
            let reads = self.take_round(slot, context);
            self.counters.reads += reads.len() as u64;
            let region = self.region(slot);
            // The round is confirmed in this very turn, so this is the term that it was opened in.
            let (region, term) = (region.id(), region.group.term());
            let mut callers = Vec::new();
            for read in reads {
                match read {
                    ReplyTo::Caller(reply) => callers.push(reply),
                    // The asking store waits for its own replica to apply the index.
                    peer @ ReplyTo::Peer { .. } => self.answer(peer, Outcome::ReadAt { index, term }),
                }
            }
            self.wait_applied(region, (index, term), callers);
        }
        for context in failed.drain(..) {
            for read in self.take_round(slot, context) {
                self.answer(read, Outcome::NotLeader { hint: None });
            }
        }
    }

    fn take_round(&mut self, slot: SlotKey, context: u64) -> Vec<ReplyTo<R>> {
        let Some(waiting) = self.region_mut(slot).busy.as_mut() else {
            return Vec::new();
        };
        let Some(at) = waiting.rounds.iter().position(|(opened, _)| *opened == context) else {
            return Vec::new();
        };
        waiting.rounds.remove(at).map_or_else(Vec::new, |(_, reads)| reads)
    }

    /// Answers confirmed reads at once if their index is applied here, else when it is.
    pub(super) fn wait_applied(&mut self, region: RegionId, (index, term): (LogIndex, Term), replies: Vec<R>) {
        if replies.is_empty() {
            return;
        }
        let Some(slot) = self.slot_of(region) else {
            for reply in replies {
                self.reply(reply, Outcome::UnknownRegion);
            }
            return;
        };
        let deadline = self.now.plus(self.config.request_timeout);
        let here = self.region_mut(slot);
        if here.group.applied_index() < index {
            here.waiting().confirmed.push(Confirmed { index, term, deadline, replies });
            // No leader hurries to tell an idle follower of a commit: the answer has told of this one.
            here.group.learn_commit(term, index);
            self.touch(slot);
            return;
        }
        for reply in replies {
            self.reply(reply, Outcome::ReadAt { index, term });
        }
    }

    /// Answers the confirmed reads whose index has been applied.
    pub(super) fn release_confirmed(&mut self, slot: SlotKey) {
        let region = self.region_mut(slot);
        let applied = region.group.applied_index();
        let Some(waiting) = region.busy.as_mut().filter(|waiting| !waiting.confirmed.is_empty()) else {
            return;
        };
        let (ready, still): (Vec<_>, Vec<_>) =
            std::mem::take(&mut waiting.confirmed).into_iter().partition(|confirmed| confirmed.index <= applied);
        waiting.confirmed = still;
        for Confirmed { index, term, replies, .. } in ready {
            for reply in replies {
                self.reply(reply, Outcome::ReadAt { index, term });
            }
        }
    }

    fn expire_proposed(&mut self, now: Time, slot: SlotKey) {
        let timeout = self.config.request_timeout;
        let region = self.region_mut(slot);
        let is_leader = region.group.is_leader();
        let Some(waiting) = region.busy.as_mut().filter(|_| !is_leader) else {
            return;
        };
        let late = waiting.proposed.iter().take_while(|proposed| proposed.at.plus(timeout) <= now).count();
        let late: Vec<_> = waiting.proposed.drain(..late).collect();
        for proposed in late {
            self.answer(proposed.reply, Outcome::Uncertain);
        }
    }

    /// Gives up those whose callers have stopped waiting: confirmed reads of a replica that lags too far behind, and commands
    /// of a lost leadership of which nothing was heard again.
    pub(super) fn expire_waiting(&mut self, now: Time, slot: SlotKey) {
        self.expire_proposed(now, slot);
        let region = self.region_mut(slot);
        let hint = region.leader_store();
        let Some(waiting) = region.busy.as_mut().filter(|waiting| !waiting.confirmed.is_empty()) else {
            return;
        };
        let (late, still): (Vec<_>, Vec<_>) =
            std::mem::take(&mut waiting.confirmed).into_iter().partition(|confirmed| confirmed.deadline <= now);
        waiting.confirmed = still;
        for reply in late.into_iter().flat_map(|confirmed| confirmed.replies) {
            self.reply(reply, Outcome::NotLeader { hint });
        }
    }
}
