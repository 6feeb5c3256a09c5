//! Operators that merge regions, as the engine's handle does: they move the source's replicas beside the target's, ask for the
//! freeze, and then ask the target until they know what has become of it. Sometimes a store of the two is struck meanwhile.
//!
//! ```text
//!  begun --> (move beside: learners, then a joint change) --> freeze asked --> frozen --> asks the target --> done, rolled back
//!                                                                 |                          |
//!                                                        refused, if apart          given up: goes on by itself
//! ```

use std::sync::Arc;

use bytes::Bytes;
use multiraft::logic::{AdminCommand, AdminRequest, MergeFault, Outcome};
use multiraft_raft::{ChangeOp, LogIndex, MembershipChange, RegionDescriptor, RegionEpoch, RegionId, Replica, Role};

use super::regions::{NoIds, Purpose};
use super::wipe::GIVING_UP;
use super::{Cluster, place_of};
use crate::check::regions::are_together;
use crate::life::Operation;
use crate::plan::Fault;
use crate::schedule::{MILLI, SECOND};

/// How often an operator asks before it leaves a merge to itself.
const ATTEMPTS_MAX: u32 = 60;

/// A merge that an operator is about.
#[derive(Clone, Debug)]
pub(super) struct Errand {
    source: RegionId,
    pub(super) target: RegionId,
    attempts: u32,
    /// The source as it was read before ids for its new replicas were asked for (F3).
    read: Option<Arc<RegionDescriptor>>,
    /// The target, as the last freeze that was asked for names it.
    named: Option<Arc<RegionDescriptor>>,
    /// Source and target as the freeze has made and named them.
    frozen: Option<(Arc<RegionDescriptor>, Arc<RegionDescriptor>)>,
}

impl Cluster {
    /// An operator chooses neighbours, and begins to merge one into the other; says whether there are any.
    pub(super) fn begin_merge(&mut self, operator: usize) -> bool {
        let owners = self.clients.routes.owners();
        if owners.len() < 2 || owners.len() <= self.plan.life.regions_min {
            return false;
        }
        // Chains: what is to absorb one region is itself absorbed by another.
        let targets: Vec<RegionId> = self.operators.errands.iter().flatten().map(|errand| errand.target).collect();
        let chained: Vec<usize> = (0..owners.len()).filter(|at| targets.contains(&owners[*at])).collect();
        let random = &mut self.operators.random;
        let at = if !chained.is_empty() && random.chance(400) {
            random.pick(&chained)
        } else {
            random.below(owners.len() as u64) as usize
        };
        let beside = if at == 0 || (at + 1 < owners.len() && random.chance(500)) { at + 1 } else { at - 1 };
        let (source, target) = (owners[at], owners[beside]);
        self.operators.errands[operator] =
            Some(Errand { source, target, attempts: 0, read: None, named: None, frozen: None });
        true
    }

    /// An operator takes the next step of its merge.
    pub(super) fn go_on_merging(&mut self, operator: usize) {
        let Some(errand) = self.operators.errands[operator].as_mut() else { return };
        errand.attempts += 1;
        let attempts = errand.attempts;
        let errand = errand.clone();
        if attempts > ATTEMPTS_MAX {
            self.counters.merges_left += 1;
            return self.drop_merge(operator);
        }
        if let Some((frozen, target)) = &errand.frozen {
            let source = Arc::clone(frozen);
            let request = AdminRequest::Command(AdminCommand::CommitMerge { index: LogIndex::ZERO, source });
            let place = self.clients.routes.get(target.id).unwrap_or_else(|| Arc::clone(target));
            return self.administer(operator, &place, request, Purpose::AskMerge);
        }
        let routes = &self.clients.routes;
        let (Some(source), Some(target)) =
            (errand.read.clone().or(routes.get(errand.source)), routes.get(errand.target))
        else {
            return self.drop_merge(operator);
        };
        let is_dead = |replica: &Replica| self.is_lost(replica);
        if !are_neighbours(&source, &target) || source.replicas.iter().chain(&target.replicas).any(is_dead) {
            return self.drop_merge(operator);
        }
        if are_together(&source, &target) || self.operators.random.chance(50) {
            if let Some(errand) = &mut self.operators.errands[operator] {
                errand.named = Some(Arc::clone(&target));
            }
            let request = AdminRequest::Command(AdminCommand::Freeze { target });
            return self.administer(operator, &source, request, Purpose::Freeze);
        }
        self.move_beside(operator, &source, &target);
    }

    /// Moves a replica of the source to where one of the target is.
    fn move_beside(&mut self, operator: usize, source: &Arc<RegionDescriptor>, target: &RegionDescriptor) {
        if self.operators.errands[operator].as_ref().is_some_and(|errand| errand.read.is_none()) {
            self.operators.forget_ids(operator);
        }
        match self.next_move(operator, source, target) {
            Ok(change) => {
                if let Some(errand) = &mut self.operators.errands[operator] {
                    errand.read = None;
                }
                match change {
                    Some(change) => {
                        self.administer(operator, source, AdminRequest::Membership(change), Purpose::Change);
                    }
                    None => self.plan_operation(operator, self.plan.life.think),
                }
            }
            Err(NoIds) => {
                if let Some(errand) = &mut self.operators.errands[operator] {
                    errand.read = Some(Arc::clone(source));
                }
                self.ask_for_ids(operator);
            }
        }
    }

    /// What brings the source's replicas nearer to the target's; `None`: nothing at present.
    fn next_move(
        &mut self,
        operator: usize,
        source: &RegionDescriptor,
        target: &RegionDescriptor,
    ) -> Result<Option<MembershipChange>, NoIds> {
        if source.replicas.iter().chain(&target.replicas).any(|replica| replica.role.is_joint()) {
            return Ok(None);
        }
        let mut ops = Vec::new();
        for wanted in &target.replicas {
            let store = wanted.store;
            match (source.replica_on(store), wanted.role) {
                (None, Role::Witness) => {
                    let id = self.one_id_on(operator, store)?;
                    return Ok(Some(MembershipChange::Simple(ChangeOp::AddWitness { id, store })));
                }
                (None, _) => {
                    let id = self.one_id(operator)?;
                    return Ok(Some(MembershipChange::Simple(ChangeOp::AddLearner { id, store })));
                }
                (Some(here), role) if here.role == role => {}
                (Some(here), Role::Voter) if here.role == Role::Learner => ops.push(ChangeOp::Promote { id: here.id }),
                (Some(here), Role::Learner) if here.role == Role::Voter => ops.push(ChangeOp::Demote { id: here.id }),
                // Another kind: it goes first.
                (Some(here), _) => {
                    return Ok(Some(MembershipChange::of(vec![ChangeOp::Remove { id: here.id }], &source.replicas)));
                }
            }
        }
        let surplus = source.replicas.iter().filter(|replica| target.replica_on(replica.store).is_none());
        for replica in surplus {
            if replica.role == Role::Witness {
                return Ok(Some(MembershipChange::Simple(ChangeOp::Remove { id: replica.id })));
            }
            ops.push(ChangeOp::Remove { id: replica.id });
        }
        // Leadership stays with somebody who votes before and after: if nobody does, the new voters come first.
        let goes = |op: &ChangeOp| matches!(op, ChangeOp::Remove { .. } | ChangeOp::Demote { .. });
        let stays = source
            .replicas
            .iter()
            .any(|replica| replica.role == Role::Voter && !ops.iter().any(|op| goes(op) && op.id() == replica.id));
        if !stays && !ops.iter().all(goes) {
            ops.retain(|op| !goes(op));
        }
        Ok((!ops.is_empty()).then(|| MembershipChange::of(ops, &source.replicas)))
    }

    /// An operator hears of its merge; what it has learnt of regions is noted already.
    pub(super) fn on_merge_told(&mut self, operator: usize, purpose: Purpose, outcome: &Outcome) {
        let Some(errand) = self.operators.errands[operator].clone() else { return };
        match (purpose, outcome) {
            (Purpose::Freeze, Outcome::Changed { regions }) => {
                if let (Some(frozen), Some(target), Some(errand)) =
                    (regions.first(), errand.named, &mut self.operators.errands[operator])
                {
                    errand.frozen = Some((Arc::clone(frozen), target));
                }
                self.maybe_strike(errand.source, errand.target);
            }
            (Purpose::Freeze, Outcome::Refused { reason }) => {
                self.counters.merges_apart_refused += u64::from(*reason == MergeFault::Apart.to_string());
                if self.operators.random.chance(300) {
                    self.end_merge(operator);
                }
            }
            // It may be frozen; whoever leads it goes on by itself.
            (Purpose::Freeze, Outcome::Uncertain) if self.operators.random.chance(500) => {
                self.counters.merges_left += 1;
                self.end_merge(operator);
            }
            (Purpose::AskMerge, Outcome::Done) => {
                self.counters.merges_told_done += 1;
                self.on_told(&errand, true);
                self.end_merge(operator);
                if self.operators.random.chance(400) {
                    self.plan_split_again(operator, &errand);
                }
            }
            (Purpose::AskMerge, Outcome::EpochMismatch { current }) => {
                let Some((_, target)) = &errand.frozen else { return };
                if current.epoch.version > target.epoch.version {
                    self.counters.merges_told_rolled_back += 1;
                    self.on_told(&errand, false);
                    self.end_merge(operator);
                }
            }
            _ => {}
        }
    }

    /// What an operator is told of a merge has to be so.
    fn on_told(&mut self, errand: &Errand, is_done: bool) {
        let Some((frozen, _)) = &errand.frozen else { return };
        let verdict = self.regions.on_told_of_merge(frozen.id, frozen.epoch.version, is_done);
        self.judge_that(verdict);
    }

    /// The merged region is split where it was put together: the same range has another owner than before, at a later version.
    fn plan_split_again(&mut self, operator: usize, errand: &Errand) {
        let Some((source, target)) = &errand.frozen else { return };
        let boundary = if source.range.start == target.range.end { &source.range.start } else { &target.range.start };
        let Some(whole) = self.clients.routes.get(errand.target) else { return };
        let is_on = self.plan.life.operations.iter().any(|(operation, _)| *operation == Operation::Split);
        if is_on && whole.range.contains(boundary) && whole.range.start != boundary {
            self.operators.again[operator] = Some(boundary.clone());
            self.operators.next[operator] = Some((Operation::Split, whole));
        }
    }

    fn end_merge(&mut self, operator: usize) {
        self.operators.errands[operator] = None;
    }

    fn drop_merge(&mut self, operator: usize) {
        self.end_merge(operator);
        self.plan_operation(operator, self.plan.life.think);
    }

    /// In the middle of a merge, the leader of one of the two, or any store that they are on, dies, is cut off, or stands still.
    fn maybe_strike(&mut self, source: RegionId, target: RegionId) {
        if self.faults.over || !self.operators.random.chance(self.plan.life.strikes) {
            return;
        }
        let kinds = [Fault::Crash, Fault::Isolate, Fault::Pause];
        let kinds: Vec<Fault> = kinds.into_iter().filter(|kind| self.plan.interval(*kind).is_some()).collect();
        if kinds.is_empty() {
            return;
        }
        let region = self.operators.random.pick(&[source, target]);
        let leads = |store: &usize| {
            let process = self.nodes[*store].process.as_ref();
            let status =
                process.and_then(|process| process.workers[self.worker_for(*store, region)].worker.status(region));
            status.is_some_and(|status| status.is_leader)
        };
        let leader = (0..self.nodes.len()).find(leads);
        let places: Vec<usize> = self
            .clients
            .routes
            .get(region)
            .map_or_else(Vec::new, |known| known.replicas.iter().map(|replica| place_of(replica.store)).collect());
        let random = &mut self.operators.random;
        let store = match leader.filter(|_| random.chance(700)) {
            Some(leader) => leader,
            None if places.is_empty() => return,
            None => random.pick(&places),
        };
        let kind = random.pick(&kinds);
        let timeout = self.plan.life.merge_timeout.as_nanos() as u64;
        let length = if random.chance(500) { random.around(2 * SECOND) } else { timeout + random.below(3 * SECOND) };
        self.counters.merges_struck += 1;
        self.say(|| format!("STRIKE {kind:?} at {:?}", super::id_of(store)));
        match kind {
            Fault::Crash => self.crash_somewhere(store),
            Fault::Pause => self.pause(store, length),
            _ => {
                let others = (0..self.nodes.len()).filter(|other| *other != store);
                let ways: Vec<_> = others.flat_map(|other| [(store, other), (other, store)]).collect();
                self.cut(&ways, length);
            }
        }
    }

    /// At an epoch that every region has left, so that nothing is ever proposed: it is only asked whether a merge is done.
    pub(super) fn epoch_of(purpose: Purpose, region: &RegionDescriptor) -> Option<RegionEpoch> {
        match purpose {
            Purpose::Ids(_) => None,
            Purpose::AskMerge => Some(RegionEpoch { conf_version: 0, version: u64::MAX }),
            Purpose::Change | Purpose::Freeze => Some(region.epoch),
        }
    }

    /// The pause of an operator after an answer.
    pub(super) fn pause_after(&self, operator: usize) -> u64 {
        if self.gives_a_store_up() {
            return self.plan.life.think.min(GIVING_UP);
        }
        let is_merging = self.operators.errands[operator].is_some();
        if is_merging { (self.plan.life.think / 4).max(30 * MILLI) } else { self.plan.life.think }
    }
}

fn are_neighbours(one: &RegionDescriptor, other: &RegionDescriptor) -> bool {
    let touches = |end: &Bytes, start: &Bytes| !end.is_empty() && end == start;
    touches(&one.range.end, &other.range.start) || touches(&other.range.end, &one.range.start)
}
