//! Operators: they ask for changes of regions, by what they know of them, with ids from the root region, one after the other.
//! And what the judges are shown of the regions' lives.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use multiraft::apply::AppliedBatch;
use multiraft::logic::{AdminCommand, AdminRequest, ApplyTask, Child, Input, Notice, Outcome, SplitDone, TurnOutput};
use multiraft_raft::{ChangeOp, MembershipChange, RegionDescriptor, RegionId, ReplicaId, Role, StoreId};
use multiraft_transport::{PeerMessage, RegionStep};

use super::{Cluster, Event, Waiter, id_of};
use crate::history::Key;
use crate::life::Operation;
use crate::machine;
use crate::plan::Plan;
use crate::random::{Random, digest_of, fold};
use crate::schedule::MILLI;

/// How many ids an operator asks for at once: few, so that it asks often.
const IDS_AT_ONCE: u64 = 24;

/// The operators, and what they wait for.
#[derive(Debug)]
pub(super) struct Operators {
    random: Random,
    ids: Vec<Range<u64>>,
    /// What each is about to ask for as soon as it has ids.
    next: Vec<Option<(Operation, Arc<RegionDescriptor>)>>,
    waiting: BTreeMap<Waiter, Asked>,
    /// Children that each store made of a split: it makes them again if it starts before its state is durable.
    children: std::collections::BTreeSet<(usize, RegionId)>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    operator: usize,
    store: usize,
    region: RegionId,
    /// How many ids, if it is ids that were asked for.
    ids: u64,
}

impl Operators {
    pub(super) fn new(plan: &Plan, random: Random) -> Self {
        let ids = vec![0..0; plan.life.operators];
        let next = vec![None; plan.life.operators];
        Self { random, ids, next, waiting: BTreeMap::new(), children: std::collections::BTreeSet::new() }
    }

    /// The region that an attempt of an operator is about.
    pub(super) fn region_of(&self, waiter: Waiter) -> Option<RegionId> {
        self.waiting.get(&waiter).map(|asked| asked.region)
    }

    fn take_ids(&mut self, operator: usize, count: u64) -> Option<Vec<u64>> {
        let free = &mut self.ids[operator];
        if free.end - free.start < count {
            return None;
        }
        let taken = (free.start..free.start + count).collect();
        free.start += count;
        Some(taken)
    }
}

impl Cluster {
    pub(super) fn plan_operators(&mut self) {
        if self.plan.life.operations.is_empty() {
            return;
        }
        // A script says itself when its operation begins.
        if self.plan.chaos != crate::plan::CHAOS {
            return;
        }
        for operator in 0..self.plan.life.operators {
            let wait = self.operators.random.between(500, 3000) * MILLI;
            self.schedule.plan_in(wait, Event::Operate { operator });
        }
    }

    fn plan_operation(&mut self, operator: usize, mean: u64) {
        let wait = self.operators.random.around(mean);
        self.schedule.plan_in(wait, Event::Operate { operator });
    }

    /// An operator asks for something.
    pub(super) fn on_operate(&mut self, operator: usize) {
        if self.faults.over || self.is_scripted_and_done() {
            return;
        }
        let drawn = match self.operators.next[operator].take() {
            Some(next) => Some(next),
            None => {
                // Ids that were given away earlier are of no use for replicas that are added: they must be higher than
                // those of all that were ever removed.
                let operation = self.draw_operation();
                if operation != Operation::Split {
                    self.operators.ids[operator] = 0..0;
                }
                self.draw_region(operation).map(|region| (operation, region))
            }
        };
        let Some((operation, region)) = drawn else {
            return self.plan_operation(operator, self.plan.life.think);
        };
        match self.request(operator, operation, &region) {
            Ok(Some(request)) => {
                self.say(|| format!("operator {operator} wants {operation:?} of {region:?}: {request:?}"));
                self.administer(operator, &region, request, 0);
            }
            Ok(None) => self.plan_operation(operator, self.plan.life.think),
            Err(NoIds) => {
                self.operators.next[operator] = Some((operation, region));
                let root = self.clients.routes.get(RegionId::ROOT);
                let Some(root) = root else { return self.plan_operation(operator, self.plan.life.think) };
                let request = AdminRequest::Command(AdminCommand::AllocateIds { count: IDS_AT_ONCE });
                self.administer(operator, &root, request, IDS_AT_ONCE);
            }
        }
    }

    fn draw_operation(&mut self) -> Operation {
        let operations = &self.plan.life.operations;
        let total: u64 = operations.iter().map(|(_, weight)| weight).sum();
        let mut at = self.operators.random.below(total);
        for (operation, weight) in operations {
            if at < *weight {
                return *operation;
            }
            at -= weight;
        }
        operations[0].0
    }

    fn draw_region(&mut self, operation: Operation) -> Option<Arc<RegionDescriptor>> {
        let mut regions = self.clients.routes.owners();
        if operation != Operation::Split && self.script.is_none() {
            regions.push(RegionId::ROOT);
        }
        if regions.is_empty() {
            return None;
        }
        let region = self.operators.random.pick(&regions);
        self.clients.routes.get(region)
    }

    /// What to ask of a region's leader; `None`: nothing fits.
    fn request(
        &mut self,
        operator: usize,
        operation: Operation,
        region: &RegionDescriptor,
    ) -> Result<Option<AdminRequest>, NoIds> {
        let absent: Vec<StoreId> =
            (0..self.nodes.len()).map(id_of).filter(|store| region.replica_on(*store).is_none()).collect();
        let of_role = |role: Role| -> Vec<ReplicaId> {
            region.replicas.iter().filter(|replica| replica.role == role).map(|replica| replica.id).collect()
        };
        let (voters, learners) = (of_role(Role::Voter), of_role(Role::Learner));
        let may_lose = voters.len() > self.plan.life.voters_min;
        let random = &mut self.operators.random;
        let op = match operation {
            Operation::Split => return self.split_request(operator, region),
            Operation::AddLearner | Operation::AddWitness if absent.is_empty() => return Ok(None),
            Operation::AddLearner => {
                let store = random.pick(&absent);
                ChangeOp::AddLearner { id: self.one_id(operator)?, store }
            }
            Operation::AddWitness => {
                let store = random.pick(&absent);
                ChangeOp::AddWitness { id: self.one_id(operator)?, store }
            }
            Operation::Promote if learners.is_empty() => return Ok(None),
            Operation::Promote => ChangeOp::Promote { id: random.pick(&learners) },
            Operation::Demote if !may_lose => return Ok(None),
            Operation::Demote => ChangeOp::Demote { id: random.pick(&voters) },
            Operation::Remove => {
                let others = region.replicas.iter().filter(|replica| replica.role != Role::Voter);
                let mut choices: Vec<ReplicaId> = others.map(|replica| replica.id).collect();
                if may_lose {
                    choices.extend(&voters);
                }
                if choices.is_empty() {
                    return Ok(None);
                }
                ChangeOp::Remove { id: random.pick(&choices) }
            }
            Operation::Replace => return self.replace_request(operator, region, &voters, &learners, &absent),
        };
        Ok(Some(AdminRequest::Membership(MembershipChange::Simple(op))))
    }

    fn one_id(&mut self, operator: usize) -> Result<ReplicaId, NoIds> {
        let ids = self.operators.take_ids(operator, 1).ok_or(NoIds)?;
        Ok(ReplicaId(ids[0]))
    }

    /// Several replicas at once: some go, as many come, in part as learners that become voters.
    fn replace_request(
        &mut self,
        operator: usize,
        region: &RegionDescriptor,
        voters: &[ReplicaId],
        learners: &[ReplicaId],
        absent: &[StoreId],
    ) -> Result<Option<AdminRequest>, NoIds> {
        let mut ops = Vec::new();
        let come = absent.len().min(1 + usize::from(self.operators.random.chance(300)));
        let ids = self.operators.take_ids(operator, come as u64).ok_or(NoIds)?;
        for (id, store) in ids.into_iter().zip(absent) {
            ops.push(ChangeOp::AddVoter { id: ReplicaId(id), store: *store });
        }
        if let Some(id) = learners.first().filter(|_| self.operators.random.chance(500)) {
            ops.push(ChangeOp::Promote { id: *id });
        }
        let gone = ops.len().min(voters.len());
        let first = self.operators.random.below(voters.len().max(1) as u64) as usize;
        for at in 0..gone {
            let id = voters[(first + at) % voters.len()];
            let op = if self.operators.random.chance(700) { ChangeOp::Remove { id } } else { ChangeOp::Demote { id } };
            ops.push(op);
        }
        let is_joint = region.replicas.iter().any(|replica| replica.role.is_joint());
        let fits = !ops.is_empty() && !is_joint;
        Ok(fits.then_some(AdminRequest::Membership(MembershipChange::Joint { ops, auto_leave: true })))
    }

    fn split_request(&mut self, operator: usize, region: &RegionDescriptor) -> Result<Option<AdminRequest>, NoIds> {
        let room = self.plan.life.regions_max.saturating_sub(self.clients.routes.owners().len());
        let keys = (2..self.plan.regions + 2)
            .flat_map(|region| (0..self.plan.load.keys).map(move |number| Key { region, number }));
        // A first key of its own for every part: each has something that a client can write.
        let mut owned: Vec<_> = keys.map(machine::key_bytes).filter(|key| region.range.contains(key)).skip(1).collect();
        if owned.is_empty() || room == 0 {
            return Ok(None);
        }
        let random = &mut self.operators.random;
        let wanted = if random.chance(700) { 1 } else { random.between(2, 3) as usize };
        while owned.len() > wanted.min(room) {
            let at = random.below(owned.len() as u64) as usize;
            owned.remove(at);
        }
        let replicas = region.replicas.len() as u64;
        let count = (1 + replicas) * owned.len() as u64;
        let mut ids = self.operators.take_ids(operator, count).ok_or(NoIds)?.into_iter();
        let mut id = || ids.next().unwrap_or_default();
        let children = owned.into_iter().map(|start| {
            let region = RegionId(id());
            Child { start, region, replicas: (0..replicas).map(|_| ReplicaId(id())).collect() }
        });
        let children = children.collect();
        Ok(Some(AdminRequest::Command(AdminCommand::Split { children })))
    }

    fn administer(&mut self, operator: usize, region: &RegionDescriptor, request: AdminRequest, ids: u64) {
        let now = self.schedule.now();
        let patience = self.plan.request_timeout.as_nanos() as u64;
        let waiter = self.clients.new_waiter();
        let near: Vec<usize> = region.replicas.iter().map(|replica| super::place_of(replica.store)).collect();
        let random = &mut self.operators.random;
        let store = if near.is_empty() || random.chance(200) {
            random.below(self.nodes.len() as u64) as usize
        } else {
            random.pick(&near)
        };
        self.operators.waiting.insert(waiter, Asked { operator, store, region: region.id, ids });
        let node = &self.nodes[store];
        if node.process.as_ref().is_none_or(|process| process.stopping) {
            let wait = random.around(MILLI);
            return self.schedule.plan_in(wait, Event::Answer { waiter, outcome: Outcome::NotLeader { hint: None } });
        }
        let deadline = node.clock.read(now).plus(self.plan.request_timeout);
        let epoch = (ids == 0).then_some(region.epoch);
        self.schedule.plan_in(patience * 5 / 4, Event::Deadline { waiter });
        let worker = self.worker_for(store, region.id);
        self.input(store, worker, Input::Admin { region: region.id, epoch, request, deadline, reply: waiter });
    }

    /// An operator is answered; says whether the answer was for one.
    pub(super) fn on_operator_answer(&mut self, waiter: Waiter, outcome: &Outcome) -> bool {
        let Some(asked) = self.operators.waiting.remove(&waiter) else { return false };
        let Asked { operator, store, region, ids } = asked;
        self.say(|| format!("operator {operator} is told {outcome:?}"));
        let mut pause = self.plan.life.think;
        match outcome {
            Outcome::Changed { regions } => self.clients.routes.learn_split(regions),
            Outcome::EpochMismatch { current } => self.clients.routes.learn(current),
            Outcome::Applied { reply, .. } if ids > 0 => {
                let first = reply.as_ref().try_into().map_or(0, u64::from_be_bytes);
                let verdict = self.regions.on_ids(first..first + ids);
                self.judge_that(verdict);
                self.operators.ids[operator] = first..first + ids;
                pause = MILLI;
            }
            Outcome::UnknownRegion => {
                // Another store may know where it has gone.
                let other = self.operators.random.below(self.nodes.len() as u64) as usize;
                let known = self.nodes[other].process.as_ref().and_then(|process| process.routes.get(region));
                known.iter().for_each(|known| self.clients.routes.learn(known));
            }
            _ => {}
        }
        let _ = store;
        self.plan_operation(operator, pause);
        true
    }

    /// A store's process is gone: operators that waited for it know nothing.
    pub(super) fn abandon_operators(&mut self, store: usize) {
        let waiting: Vec<Waiter> = self
            .operators
            .waiting
            .iter()
            .filter(|(_, asked)| asked.store == store)
            .map(|(waiter, _)| *waiter)
            .collect();
        for waiter in waiting {
            let wait = self.operators.random.below(10 * MILLI);
            self.schedule.plan_in(wait, Event::Answer { waiter, outcome: Outcome::Uncertain });
        }
    }

    /// What stores tell those who watch: their own directories hear all of it, the clients some.
    pub(super) fn on_notices(&mut self, store: usize, notices: Vec<Notice>) {
        for notice in notices {
            let hears = self.operators.random.chance(self.plan.life.hearsay);
            let clients = hears.then_some(&mut self.clients.routes);
            let here = self.nodes[store].process.as_mut().map(|process| &mut process.routes);
            for routes in here.into_iter().chain(clients) {
                match &notice {
                    Notice::Descriptor(descriptor) | Notice::Removed { known: descriptor, .. } => {
                        routes.learn(descriptor);
                    }
                    Notice::Split(parts) => routes.learn_split(parts),
                    _ => {}
                }
            }
        }
    }

    /// Shows the judges what committed changes a batch holds, whether or not the state store has taken it yet.
    pub(super) fn observe_changes(&mut self, batch: &AppliedBatch<Waiter>) {
        for done in &batch.applied {
            for (index, descriptor) in &done.memberships {
                if let Some(descriptor) = descriptor {
                    let verdict = self.regions.on_membership(*index, descriptor);
                    self.judge_that(verdict);
                }
            }
            if let Some(SplitDone { parent, children }) = &done.split {
                let mut parts = vec![Arc::clone(parent)];
                parts.extend(children.iter().map(|(child, _)| Arc::clone(child)));
                let verdict = self.regions.on_split(done.index, &parts);
                self.judge_that(verdict);
            }
        }
    }

    /// Shows the judges what a batch has made of a store's replicas.
    pub(super) fn observe_applied(&mut self, store: usize, worker: usize, batch: &AppliedBatch<Waiter>) {
        let id = id_of(store);
        for done in &batch.applied {
            for (_, descriptor) in &done.memberships {
                descriptor.iter().for_each(|descriptor| self.regions.on_changed_here(id, descriptor));
            }
            if let Some(split) = &done.split {
                self.observe_split(store, worker, split);
            }
        }
        for done in batch.installed.iter().filter(|done| done.installed) {
            let descriptor = &done.header.descriptor;
            let is_first = self.is_without_state(store, descriptor.id);
            self.counters.snapshots_into_empty += u64::from(is_first);
            let mut verdict = self.regions.on_snapshot(descriptor);
            if verdict.is_ok() {
                verdict = self.regions.on_state_here(id, descriptor);
            }
            self.judge_that(verdict);
            self.sample(store, descriptor.id);
        }
        for (region, replica, allowed) in batch.created.iter().filter(|(_, _, allowed)| *allowed) {
            self.say(|| format!("{id} creates {replica:?} of {region:?}: {allowed}"));
            self.counters.replicas_created += 1;
            self.counters.replicas_readded += u64::from(self.regions.had(id, *region));
            let verdict = self.regions.on_created(id, *region, *replica);
            self.judge_that(verdict);
        }
        for (region, _, tombstone) in &batch.destroyed {
            let Some(tombstone) = tombstone else { continue };
            self.say(|| format!("{id} has removed {region:?}: {tombstone:?}"));
            self.counters.replicas_removed += 1;
            self.regions.on_destroyed(id, *region, tombstone.replica);
            self.consensus.on_removed(id, *region, &self.shadows);
            self.operators.children.retain(|(at, child)| (*at, *child) != (store, *region));
        }
        // What another applier has done and could not write out yet is not known here.
        let process = self.nodes[store].process.as_ref();
        if process.is_some_and(|process| process.workers.iter().all(|host| host.stalled.is_none())) {
            let verdict = self.regions.check_store(id);
            self.judge_that(verdict);
        }
    }

    fn observe_split(&mut self, store: usize, worker: usize, split: &SplitDone) {
        let id = id_of(store);
        self.say(|| format!("{id} applies a split: {split:?}"));
        self.counters.splits += 1;
        let verdict = self.regions.on_state_here(id, &split.parent);
        self.judge_that(verdict);
        for (child, adopted) in &split.children {
            if *adopted {
                self.counters.children_by_vote += u64::from(self.is_without_state(store, child.id));
                let verdict = self.regions.on_state_here(id, child);
                self.judge_that(verdict);
            } else {
                self.counters.children_ahead += 1;
            }
            self.counters.splits_replayed += u64::from(!self.operators.children.insert((store, child.id)));
        }
        let _ = worker;
        self.sample(store, split.parent.id);
    }

    /// Whether a store has a replica of a region that has no state yet.
    fn is_without_state(&self, store: usize, region: RegionId) -> bool {
        let Some(process) = &self.nodes[store].process else { return false };
        let worker = &process.workers[self.worker_for(store, region)].worker;
        worker.status(region).is_none() && worker.handles().any(|handle| handle.region == region)
    }

    /// Shows the judges a replica's state of this moment.
    pub(super) fn sample(&mut self, store: usize, region: RegionId) {
        let worker = self.worker_for(store, region);
        let Some(process) = &self.nodes[store].process else { return };
        let host = &process.workers[worker];
        if host.stalled.is_some() {
            return;
        }
        let Some(source) = host.applier.capture(region).ok().flatten() else { return };
        let index = source.index;
        let mut digest = fold(source.term.get(), digest_of(format!("{:?}", source.descriptor).as_bytes()));
        let streamed = source.stream(&mut |chunk| {
            digest = fold(digest, digest_of(&chunk));
            Ok(())
        });
        if streamed.is_ok() {
            self.counters.states_compared += 1;
            let verdict = self.regions.on_state(id_of(store), region, index, digest);
            self.judge_that(verdict);
        }
    }

    /// Shows the judges what replicas a turn lets speak.
    pub(super) fn observe_sends(&mut self, store: usize, out: &TurnOutput<Waiter>) {
        let id = id_of(store);
        for message in out.sends.iter().flat_map(|outgoing| &outgoing.messages) {
            let verdict = match message {
                PeerMessage::Raft(raft) => self.regions.on_sent(id, raft.region, &raft.message),
                PeerMessage::Region(about) => {
                    if let RegionStep::Tell { .. } = about.step
                        && self.regions.had(id, about.region)
                    {
                        self.counters.tombstones_told += 1;
                    }
                    Ok(())
                }
                _ => Ok(()),
            };
            self.judge_that(verdict);
        }
        for share in &out.beats {
            for beat in &share.beats {
                let verdict = self.regions.on_acts(id, beat.region, beat.from);
                self.judge_that(verdict);
            }
        }
        let destroyed = out.apply.iter().filter(|task| matches!(task, ApplyTask::Destroy { .. })).count();
        self.record(8, destroyed as u64);
    }

    /// Counts what a tombstone keeps out.
    pub(super) fn observe_receipt(&mut self, store: usize, messages: &[PeerMessage]) {
        for message in messages {
            if let PeerMessage::Raft(raft) = message
                && raft.descriptor.is_some()
                && self.regions.is_gone(id_of(store), raft.region, raft.message.to)
            {
                self.counters.tombstone_refusals += 1;
            }
        }
    }
}

/// An operator must ask for ids first.
struct NoIds;
