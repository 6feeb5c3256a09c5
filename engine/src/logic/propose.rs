//! From a caller's command to an entry: checks, the envelope, and who waits for it.

use multiraft_raft::{EntryKind, LogIndex, Payload, Proposal, ProposeError, RegionEpoch, RegionId, StoreId, Time};
use multiraft_router::SlotKey;
use multiraft_transport::{ForwardRequest, SessionSeq};

use crate::logic::Outcome;
use crate::logic::forward::{ForwardKind, RETRY};
use crate::logic::output::ReplyTo;
use crate::logic::region::{Proposed, Waiting};
use crate::logic::worker::Worker;
use crate::region::command::{Command, EpochRule};

impl<R> Worker<R> {
    /// A command of a caller on this store.
    pub(super) fn handle_propose(
        &mut self,
        now: Time,
        region: RegionId,
        epoch: Option<RegionEpoch>,
        session: Option<SessionSeq>,
        command: Payload,
        reply: R,
    ) {
        let name = (region, epoch.unwrap_or_default());
        let Some(slot) = self.slot_of(region) else {
            let request = ForwardRequest::Propose { session, command };
            return self.forward_on(now, None, name, request, ForwardKind::Propose(reply));
        };
        let here = self.region(slot);
        if here.group.is_leader() {
            return self.propose_here(slot, epoch, session, command, ReplyTo::Caller(reply));
        }
        let current = here.descriptor();
        // Only if the caller is behind: one that knows more than this lagging replica is sent on.
        if epoch.is_some_and(|epoch| EpochRule::COMMAND.is_outdated(epoch, current.epoch)) {
            let current = current.clone();
            return self.reply(reply, Outcome::EpochMismatch { current });
        }
        let request = ForwardRequest::Propose { session, command };
        self.forward_on(now, Some(slot), name, request, ForwardKind::Propose(reply));
    }

    /// A command for a region that this store leads: it waits for the end of the turn, to be proposed with the others.
    pub(super) fn propose_here(
        &mut self,
        slot: SlotKey,
        epoch: Option<RegionEpoch>,
        session: Option<SessionSeq>,
        command: Payload,
        reply: ReplyTo<R>,
    ) {
        if self.upkeep.is_disk_full() {
            let store = self.config.store;
            return self.answer(reply, Outcome::NoSpace { store });
        }
        let Some(reply) = self.refuse_frozen(slot, reply) else { return };
        if self.apply_backlog > self.config.apply_queue_bytes {
            self.counters.busy += 1;
            return self.answer(reply, Outcome::Busy { retry_after: RETRY });
        }
        let region = self.region(slot);
        let current = region.descriptor();
        let epoch = epoch.unwrap_or(current.epoch);
        // A caller may know of a split that this worker has not heard of yet: whether it errs is decided at apply.
        if EpochRule::COMMAND.is_outdated(epoch, current.epoch) {
            let current = current.clone();
            return self.answer(reply, Outcome::EpochMismatch { current });
        }
        let data = Command::encode(epoch, session, &command);
        let waiting = self.region_mut(slot).waiting();
        waiting.incoming.push(Proposal { kind: EntryKind::Command, data });
        waiting.incoming_replies.push(reply);
        self.touch(slot);
    }

    /// Proposes what came in during the turn, all of it or nothing.
    pub(super) fn propose_incoming(&mut self, now: Time, slot: SlotKey) {
        let region = self.region_mut(slot);
        let Some(waiting) = region.busy.as_mut().filter(|waiting| !waiting.incoming.is_empty()) else {
            return;
        };
        let count = waiting.incoming.len() as u64;
        let outcome = region.group.propose(now, &mut waiting.incoming);
        waiting.incoming.clear();
        match outcome {
            Ok(first) => {
                let term = region.group.term();
                note_proposed(now, waiting, first, term);
                self.counters.proposed += count;
            }
            Err(error) => {
                let replies = std::mem::take(&mut waiting.incoming_replies);
                let hint = region.leader_store();
                let outcome = self.refusal(&error, hint);
                for reply in replies {
                    self.answer(reply, outcome.clone());
                }
            }
        }
    }

    fn refusal(&mut self, error: &ProposeError, hint: Option<StoreId>) -> Outcome {
        match error {
            // Somebody else leads, or soon will: to be tried again.
            ProposeError::NotLeader { .. } | ProposeError::TransferInProgress { .. } => Outcome::NotLeader { hint },
            _ => {
                self.counters.busy += 1;
                Outcome::Busy { retry_after: RETRY }
            }
        }
    }

    /// Finds who waits for committed entries. A command whose place was taken by another term's entry had no effect and
    /// never will.
    pub(super) fn claim_replies(
        &mut self,
        slot: SlotKey,
        entries: &[multiraft_raft::Entry],
    ) -> Vec<(LogIndex, ReplyTo<R>)> {
        let now = self.now;
        let region = self.regions.get_mut(slot).expect("invariant: polled in this turn");
        let hint = region.leader_store();
        let Some(waiting) = region.busy.as_mut().filter(|waiting| !waiting.proposed.is_empty()) else {
            return Vec::new();
        };
        let mut claimed = Vec::new();
        let mut lost = Vec::new();
        for entry in entries {
            while let Some(front) = waiting.proposed.front() {
                if front.index > entry.index {
                    break;
                }
                let hit = front.index == entry.index && front.term == entry.term;
                let Some(proposed) = waiting.proposed.pop_front() else { break };
                if hit {
                    self.counters.committed_here += 1;
                    self.counters.commit_latency += now.since(proposed.at);
                    claimed.push((entry.index, proposed.reply));
                    break;
                }
                lost.push(proposed.reply);
            }
        }
        for reply in lost {
            self.answer(reply, Outcome::NotLeader { hint });
        }
        claimed
    }
}

fn note_proposed<R>(now: Time, waiting: &mut Waiting<R>, first: LogIndex, term: multiraft_raft::Term) {
    // A new term's entries may overwrite what an earlier leadership of this store proposed and never committed: those who
    // wait for the overwritten ones are answered when the index commits, so both may stand in the queue, in index order.
    let mut fresh = waiting.incoming_replies.drain(..).zip(0..).map(|(reply, offset)| Proposed {
        index: first.plus(offset),
        term,
        reply,
        at: now,
    });
    if waiting.proposed.back().is_none_or(|last| last.index < first) {
        return waiting.proposed.extend(fresh);
    }
    let start = waiting.proposed.partition_point(|proposed| proposed.index < first);
    let overwritten: Vec<Proposed<R>> = waiting.proposed.drain(start..).collect();
    let mut old = overwritten.into_iter().peekable();
    for proposed in fresh.by_ref() {
        while let Some(earlier) = old.next_if(|earlier| earlier.index <= proposed.index) {
            waiting.proposed.push_back(earlier);
        }
        waiting.proposed.push_back(proposed);
    }
    waiting.proposed.extend(old);
}
