//! Reads past the workers: what callers and the link thread of a real store do with the table that its workers keep.

use multiraft::logic::{Asker, Input, LaneKind, Look, Outcome, Question, Questions, Standing};
use multiraft_raft::{LogIndex, RegionEpoch, RegionId, StoreId, Term};
use multiraft_transport::{Forward, ForwardOutcome, ForwardReply, ForwardRequest, PeerMessage};

use super::{Cluster, Waiter, id_of, place_of};
use crate::check::Violation;
use crate::plant::Plant;

const LISTED: &str = "what is listed of a region is how it stands";
/// One of so many reads goes to the worker in any case: what it does with them is judged as well.
const BY_WORKER: u64 = 8;

impl Cluster {
    /// Reads without the worker, where a `lease` will do or not; false: it has to see to it.
    pub(super) fn read_past_worker(
        &mut self,
        store: usize,
        waiter: Waiter,
        region: RegionId,
        epoch: Option<RegionEpoch>,
        lease: bool,
    ) -> bool {
        if waiter.0.is_multiple_of(BY_WORKER) {
            return false;
        }
        let local = self.nodes[store].clock.read(self.schedule.now());
        let kept = self.keep_standing(store, region);
        let Some(process) = &mut self.nodes[store].process else { return false };
        let look = match kept {
            Some(kept) => kept.look(epoch, lease.then_some(local)),
            None => process.leases.look(region, epoch, lease.then_some(local)),
        };
        match look {
            Look::Worker => false,
            Look::Here { .. } => {
                self.counters.reads_past_workers += 1;
                self.tell(store, waiter, Outcome::ReadAt { index: LogIndex::ZERO, term: Term::ZERO });
                true
            }
            Look::There { leader, term, epoch } => {
                if self.network.session(store, place_of(leader)).is_none() {
                    return false;
                }
                let Some(question) = process.questions.ask(local, leader, (region, epoch, term), lease, waiter) else {
                    return false;
                };
                self.counters.reads_asked_for += 1;
                self.send(store, leader, LaneKind::Control, 0, vec![PeerMessage::Forward(question)]);
                true
            }
        }
    }

    /// Takes out of a frame what needs no worker.
    pub(super) fn take_reads(&mut self, store: usize, from: StoreId, messages: &mut Vec<PeerMessage>) {
        let local = self.nodes[store].clock.read(self.schedule.now());
        let (mut answers, mut answered) = (Vec::new(), Vec::new());
        for message in std::mem::take(messages) {
            match message {
                PeerMessage::Forward(Forward {
                    id,
                    region,
                    term,
                    request: ForwardRequest::ReadIndex { lease },
                    ..
                }) if let Some((index, term)) =
                    self.index_for(store, region, &Asker { store: from, term, lease_at: lease.then_some(local) }) =>
                {
                    let outcome = ForwardOutcome::ReadAt { index, term };
                    answers.push(PeerMessage::ForwardReply(ForwardReply { id, outcome }));
                }
                PeerMessage::ForwardReply(reply) if Questions::<Waiter>::is_named(reply.id) => answered.push(reply),
                message => messages.push(message),
            }
        }
        if !answers.is_empty() {
            self.counters.reads_answered_past_workers += answers.len() as u64;
            self.send(store, from, LaneKind::Control, 0, answers);
        }
        for ForwardReply { id, outcome } in answered {
            let Some(process) = &mut self.nodes[store].process else { return };
            let Some(Question { region, asked, reply }) = process.questions.take(from, id) else { continue };
            match outcome {
                ForwardOutcome::ReadAt { index, term } if process.leases.holds(region, index) => {
                    self.tell(store, reply, Outcome::ReadAt { index, term });
                }
                ForwardOutcome::ReadAt { index, term } => {
                    let worker = self.worker_for(store, region);
                    self.input(store, worker, Input::ReadConfirmed { region, index, term, asked, reply });
                }
                _ => self.tell(store, reply, Outcome::NotLeader { hint: None }),
            }
        }
    }

    /// The answers of a store are lost with the link to it.
    pub(super) fn lose_questions(&mut self, store: usize, peer: StoreId) {
        let Some(process) = &mut self.nodes[store].process else { return };
        for Question { reply, .. } in process.questions.take_all(peer) {
            self.tell(store, reply, Outcome::NotLeader { hint: None });
        }
    }

    fn index_for(&mut self, store: usize, region: RegionId, asker: &Asker) -> Option<(LogIndex, Term)> {
        if let Some(kept) = self.keep_standing(store, region) {
            return kept.index_for(asker);
        }
        self.nodes[store].process.as_ref()?.leases.index_for(region, asker)
    }

    /// How a region stood when it was last read here by a lease: what a store would go by that does not take it back (a planted
    /// bug). `None` without that bug.
    fn keep_standing(&mut self, store: usize, region: RegionId) -> Option<Standing> {
        if self.plant != Some(Plant::KeptLease) {
            return None;
        }
        let process = self.nodes[store].process.as_mut()?;
        if let Some(standing) = process.leases.standing(region).filter(|standing| standing.lease.is_some()) {
            process.kept_standings.insert(region, standing);
        }
        process.kept_standings.get(&region).cloned()
    }

    /// Before anything of a turn has left.
    pub(super) fn judge_listed(&mut self, store: usize, worker: usize) {
        let Some(process) = &self.nodes[store].process else { return };
        if let Some(region) = process.workers[worker].worker.listed_wrongly() {
            let listed = process.leases.standing(region);
            let detail = format!("{} lists {region:?} as {listed:?}", id_of(store));
            self.judge_that(Err(Violation::new(LISTED, detail)));
        }
    }
}
