//! Linearizable reads: one round of the leader confirms all reads of a turn (Ongaro's dissertation, section 6.4).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{LogIndex, ReadReady, RegionEpoch, RegionId, StoreId, Term, Time};
use multiraft_router::SlotKey;
use multiraft_transport::ForwardRequest;

use crate::logic::forward::{ForwardKind, RETRY};
use crate::logic::output::ReplyTo;
use crate::logic::region::{Confirmed, Reading};
use crate::logic::worker::Worker;
use crate::logic::{Freshness, LookupTask, Outcome};
use crate::region::command::EpochRule;
use crate::region::holds_data;

/// What a waiting query counts for beside its bytes.
const QUERY_OVERHEAD: usize = 128;

/// The bytes that are charged at present. Each charge is given back when it is dropped.
#[derive(Default)]
pub(super) struct Charged(Arc<AtomicUsize>);

impl Charged {
    fn charge(&self, bytes: usize) -> Charge {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Charge { bytes, all: Arc::clone(&self.0) }
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// See [`Charged`].
pub(super) struct Charge {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl<R> Worker<R> {
    /// A read of a caller on this store.
    pub(super) fn handle_read(
        &mut self,
        now: Time,
        region: RegionId,
        epoch: Option<RegionEpoch>,
        freshness: Freshness,
        reply: R,
    ) {
        let Some(slot) = self.slot_of(region) else {
            return self.reply(reply, Outcome::UnknownRegion);
        };
        // Decided for good by the lookup, in the same view of the state: this only saves the round.
        let current = self.region(slot).descriptor();
        if epoch.is_some_and(|epoch| EpochRule::COMMAND.is_outdated(epoch, current.epoch)) {
            let current = current.clone();
            return self.reply(reply, Outcome::EpochMismatch { current });
        }
        if let Freshness::Within(age) = freshness
            && let Some(known) = self.fresh_within(now, slot, epoch, age)
        {
            self.counters.reads_by_age += 1;
            return self.reply(reply, known);
        }
        if !matches!(freshness, Freshness::Within(_)) {
            self.list(slot);
        }
        self.read_here(slot, ReplyTo::Caller(reply), freshness != Freshness::Linearizable);
    }

    /// What to answer a read from this replica as it is, if it holds all that was committed `age` ago (R5). Under an epoch that the
    /// replica has not come to, the caller may ask for keys that are another region's here.
    pub(super) fn fresh_within(
        &self,
        now: Time,
        slot: SlotKey,
        epoch: Option<RegionEpoch>,
        age: Duration,
    ) -> Option<Outcome> {
        let region = self.region(slot);
        if epoch.is_some_and(|epoch| region.descriptor().epoch.version < epoch.version) {
            return None;
        }
        let can_serve = holds_data(region.descriptor(), self.config.store) && region.merge.frozen.is_none();
        let is_fresh = region.fresh_as_of != Time::ZERO && now.since(region.fresh_as_of) <= age;
        let (index, term) = (region.group.applied_index(), region.group.term());
        (can_serve && is_fresh).then_some(Outcome::ReadAt { index, term })
    }

    /// A read of a caller on this store that is to be carried out at the leader's.
    pub(super) fn handle_query(
        &mut self,
        now: Time,
        region: RegionId,
        epoch: Option<RegionEpoch>,
        query: Bytes,
        reply: R,
    ) {
        let slot = self.slot_of(region);
        if let Some(slot) = slot.filter(|slot| self.region(*slot).group.is_leader()) {
            return self.query_here(slot, epoch, query, ReplyTo::Caller(reply));
        }
        let name = (region, epoch.unwrap_or_default());
        self.forward_on(now, slot, name, ForwardRequest::Query { query }, ForwardKind::Query(reply));
    }

    /// A read that is answered here, by the leader's own state: it shares the round of the turn.
    pub(super) fn query_here(&mut self, slot: SlotKey, epoch: Option<RegionEpoch>, query: Bytes, to: ReplyTo<R>) {
        let current = self.region(slot).descriptor();
        if epoch.is_some_and(|epoch| EpochRule::COMMAND.is_outdated(epoch, current.epoch)) {
            let current = current.clone();
            return self.answer(to, Outcome::EpochMismatch { current });
        }
        let Some(to) = self.refuse_frozen(slot, to) else { return };
        if self.query_bytes.get() > self.config.apply_queue_bytes {
            self.counters.busy += 1;
            return self.answer(to, Outcome::Busy { retry_after: RETRY });
        }
        let charge = self.query_bytes.charge(query.len() + QUERY_OVERHEAD);
        self.region_mut(slot).waiting().reads.push(Reading::Query { epoch, query, to, _charge: charge });
        self.touch(slot);
    }

    /// Another store asks for an index: its question may be all that is lacking to confirm the leader.
    pub(super) fn read_for_store(&mut self, slot: SlotKey, (from, term): (StoreId, Term), to: ReplyTo<R>, lease: bool) {
        self.list(slot);
        let Some((index, term)) = self.index_by_word(slot, from, term) else {
            return self.read_here(slot, to, lease);
        };
        self.counters.reads += 1;
        self.counters.reads_by_word += 1;
        self.answer(to, Outcome::ReadAt { index, term });
    }

    /// A read waits for the end of the turn, to share its round with the others.
    pub(super) fn read_here(&mut self, slot: SlotKey, reply: ReplyTo<R>, lease: bool) {
        let Some(to) = self.refuse_frozen(slot, reply) else { return };
        self.region_mut(slot).waiting().reads.push(Reading::Index { to, lease });
        self.touch(slot);
    }

    /// Opens one round for all reads of the turn, or asks the leader once for all of them.
    pub(super) fn read_incoming(&mut self, now: Time, slot: SlotKey) {
        let own_store = self.config.store;
        let region = self.region_mut(slot);
        let Some(waiting) = region.busy.as_mut().filter(|waiting| !waiting.reads.is_empty()) else {
            return;
        };
        let reads = std::mem::take(&mut waiting.reads);
        if region.group.is_leader() {
            if let Some(reads) = self.read_in_bulk(now, slot, reads) {
                self.open_round(now, slot, reads);
            }
            return;
        }
        if !holds_data(region.descriptor(), own_store) {
            // A witness has nothing to be read.
            let hint = region.leader_store();
            for read in reads {
                self.answer(read.into_reply(), Outcome::NotLeader { hint });
            }
            return;
        }
        let (leader, epoch) = (region.leader_store(), region.descriptor().epoch);
        let (mut by_lease, mut by_round) = (Vec::new(), Vec::new());
        for read in reads {
            match read {
                Reading::Index { to: ReplyTo::Caller(reply), lease: true } => by_lease.push(reply),
                Reading::Index { to: ReplyTo::Caller(reply), lease: false } => by_round.push(reply),
                other => self.answer(other.into_reply(), Outcome::NotLeader { hint: leader }),
            }
        }
        for (lease, callers) in [(true, by_lease), (false, by_round)] {
            if !callers.is_empty() {
                self.forward(now, slot, epoch, ForwardRequest::ReadIndex { lease }, ForwardKind::Read(callers));
            }
        }
    }

    pub(super) fn open_round(&mut self, now: Time, slot: SlotKey, reads: Vec<Reading<R>>) {
        self.next_read += 1;
        let context = self.next_read;
        let region = self.region_mut(slot);
        if region.group.read_index(now, context).is_ok() {
            region.waiting().rounds.push_back((context, now, reads));
            return;
        }
        let hint = region.leader_store();
        for read in reads {
            self.answer(read.into_reply(), Outcome::NotLeader { hint });
        }
    }

    /// Rounds that a quorum has confirmed, and rounds that this leader could not finish.
    pub(super) fn on_reads(&mut self, slot: SlotKey, ready: &mut Vec<ReadReady>, failed: &mut Vec<u64>) {
        for ReadReady { context, index } in ready.drain(..) {
            let Some((as_of, reads)) = self.take_round(slot, context) else { continue };
            // The round is confirmed in this very turn, so this is the term that it was opened in.
            let term = self.region(slot).group.term();
            self.finish_reads(slot, (index, term), as_of, reads);
        }
        for context in failed.drain(..) {
            for read in self.take_round(slot, context).into_iter().flat_map(|(_, reads)| reads) {
                self.answer(read.into_reply(), Outcome::NotLeader { hint: None });
            }
        }
    }

    /// Reads are confirmed: they may be served from a state that has `index`, committed in `term` at the latest, applied. It holds
    /// all that was committed at `as_of`.
    pub(super) fn finish_reads(
        &mut self,
        slot: SlotKey,
        (index, term): (LogIndex, Term),
        as_of: Time,
        reads: Vec<Reading<R>>,
    ) {
        self.counters.reads += reads.len() as u64;
        let region = self.region(slot).id();
        let mut waits = Vec::new();
        for read in reads {
            match read {
                // The asking store waits for its own replica to apply the index.
                Reading::Index { to: peer @ ReplyTo::Peer { .. }, .. } => {
                    self.answer(peer, Outcome::ReadAt { index, term });
                }
                read => waits.push(read),
            }
        }
        self.wait_applied(region, (index, term), as_of, waits);
    }

    fn take_round(&mut self, slot: SlotKey, context: u64) -> Option<(Time, Vec<Reading<R>>)> {
        let waiting = self.region_mut(slot).busy.as_mut()?;
        let at = waiting.rounds.iter().position(|(opened, ..)| *opened == context)?;
        waiting.rounds.remove(at).map(|(_, begun, reads)| (begun, reads))
    }

    /// Answers confirmed reads at once if their index is applied here, else when it is.
    pub(super) fn wait_applied(
        &mut self,
        region: RegionId,
        (index, term): (LogIndex, Term),
        as_of: Time,
        reads: Vec<Reading<R>>,
    ) {
        if reads.is_empty() {
            return;
        }
        let Some(slot) = self.slot_of(region) else {
            for read in reads {
                self.answer(read.into_reply(), Outcome::UnknownRegion);
            }
            return;
        };
        let deadline = self.now.plus(self.config.request_timeout);
        let here = self.region_mut(slot);
        if here.group.applied_index() < index {
            here.waiting().confirmed.push(Confirmed { index, term, as_of, deadline, reads });
            // No leader hurries to tell an idle follower of a commit: the answer has told of this one.
            here.group.learn_commit(term, index);
            self.touch(slot);
            return;
        }
        here.fresh_as_of = here.fresh_as_of.max(as_of);
        for read in reads {
            self.serve(slot, (index, term), read);
        }
    }

    /// A read is confirmed and its index applied.
    fn serve(&mut self, slot: SlotKey, (index, term): (LogIndex, Term), read: Reading<R>) {
        let region = self.region(slot).id();
        // Nobody reads from a region that gives itself away (M1): its freeze may be within what was waited for.
        match read {
            Reading::Index { to, .. } => {
                let Some(to) = self.refuse_frozen(slot, to) else { return };
                self.answer(to, Outcome::ReadAt { index, term });
            }
            Reading::Query { epoch, query, to, .. } => {
                let Some(to) = self.refuse_frozen(slot, to) else { return };
                // What the region becomes after this instant does not answer for it.
                let epoch = Some(epoch.unwrap_or(self.region(slot).descriptor().epoch));
                self.lookups.push(LookupTask { region, epoch, query, to });
            }
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
        for Confirmed { index, term, as_of, reads, .. } in ready {
            let region = self.region_mut(slot);
            region.fresh_as_of = region.fresh_as_of.max(as_of);
            for read in reads {
                self.serve(slot, (index, term), read);
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
        for read in late.into_iter().flat_map(|confirmed| confirmed.reads) {
            self.answer(read.into_reply(), Outcome::NotLeader { hint });
        }
    }
}
