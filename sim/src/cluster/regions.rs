//! Operators: they ask for changes of regions, by what they know of them, with ids from the root region, one after the other.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use multiraft::logic::{AdminCommand, AdminRequest, Child, Floor, Input, Notice, Outcome};
use multiraft_raft::{ChangeOp, MembershipChange, RegionDescriptor, RegionId, ReplicaId, Role, StoreId};

use super::merges::Errand;
use super::wipe::GIVING_UP;
use super::{Cluster, Event, Waiter, id_of, place_of};
use crate::history::Key;
use crate::life::Operation;
use crate::machine;
use crate::plan::Plan;
use crate::random::Random;
use crate::schedule::MILLI;

/// How many ids an operator asks for at once: few, so that it asks often.
const IDS_AT_ONCE: u64 = 24;

/// The operators, and what they wait for.
#[derive(Debug)]
pub(super) struct Operators {
    pub(super) random: Random,
    ids: Vec<Range<u64>>,
    /// What each is about to ask for as soon as it has ids.
    pub(super) next: Vec<Option<(Operation, Arc<RegionDescriptor>)>>,
    /// The merge that each is about.
    pub(super) errands: Vec<Option<Errand>>,
    /// Where each is to split next: the boundary of what it has just merged.
    pub(super) again: Vec<Option<Bytes>>,
    waiting: BTreeMap<Waiter, Asked>,
    /// Children that each store made of a split: it makes them again if it starts before its state is durable.
    pub(super) children: std::collections::BTreeSet<(usize, RegionId)>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    operator: usize,
    store: usize,
    region: RegionId,
    purpose: Purpose,
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// So many ids.
    Ids(u64),
    /// A change that is over with its answer.
    Change,
    /// That a region is frozen, to be merged.
    Freeze,
    /// What has become of a merge.
    AskMerge,
}

impl Operators {
    pub(super) fn new(plan: &Plan, random: Random) -> Self {
        let ids = vec![0..0; plan.life.operators];
        let next = vec![None; plan.life.operators];
        let (errands, again) = (vec![None; plan.life.operators], vec![None; plan.life.operators]);
        let children = std::collections::BTreeSet::new();
        Self { random, ids, next, errands, again, waiting: BTreeMap::new(), children }
    }

    /// The region that an attempt of an operator is about.
    pub(super) fn region_of(&self, waiter: Waiter) -> Option<RegionId> {
        self.waiting.get(&waiter).map(|asked| asked.region)
    }

    /// Whether anybody waits for an answer.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Nothing of what they were about is what it was.
    pub(super) fn begin_anew(&mut self) {
        self.ids.fill(0..0);
        self.next.fill(None);
        self.errands.fill(None);
        self.again.fill(None);
    }

    /// Ids that were given away before a region was read are of no use for its new replicas.
    pub(super) fn forget_ids(&mut self, operator: usize) {
        self.ids[operator] = 0..0;
    }

    /// So many ids above a floor.
    fn take_ids(&mut self, operator: usize, count: u64, floor: ReplicaId) -> Option<Vec<u64>> {
        let free = &mut self.ids[operator];
        if free.end - free.start < count || free.start <= floor.get() {
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

    pub(super) fn plan_operation(&mut self, operator: usize, mean: u64) {
        let wait = self.operators.random.around(mean);
        self.schedule.plan_in(wait, Event::Operate { operator });
    }

    /// An operator asks for something.
    pub(super) fn on_operate(&mut self, operator: usize) {
        if (self.faults.over && !self.gives_a_store_up()) || self.is_scripted_and_done() {
            return;
        }
        if self.has_doomed() {
            return self.plan_operation(operator, self.plan.life.think);
        }
        if self.faults.over {
            self.operators.next[operator] = None;
            self.operators.errands[operator] = None;
        }
        if self.operators.errands[operator].is_some() {
            return self.go_on_merging(operator);
        }
        let drawn = match self.operators.next[operator].take() {
            Some(next) => Some(next),
            None if self.gives_a_store_up() => self.draw_giving_up(),
            None => {
                if let Some((operation, region)) = self.draw_upkeep() {
                    self.operators.forget_ids(operator);
                    return self.operate(operator, operation, region);
                }
                // Ids that were given away earlier are of no use for replicas that are added: they must be higher than
                // those of all that were ever removed.
                let operation = self.draw_operation();
                if operation == Operation::Merge {
                    if self.begin_merge(operator) {
                        return self.go_on_merging(operator);
                    }
                    return self.plan_operation(operator, self.plan.life.think);
                }
                if operation != Operation::Split {
                    self.operators.forget_ids(operator);
                }
                self.draw_region(operation).map(|region| (operation, region))
            }
        };
        let Some((operation, region)) = drawn else {
            let pause = if self.gives_a_store_up() { GIVING_UP } else { self.plan.life.think };
            return self.plan_operation(operator, pause.min(self.plan.life.think));
        };
        self.operate(operator, operation, region);
    }

    fn operate(&mut self, operator: usize, operation: Operation, region: Arc<RegionDescriptor>) {
        match self.request(operator, operation, &region) {
            Ok(Some(request)) => {
                self.say(|| format!("operator {operator} wants {operation:?} of {region:?}: {request:?}"));
                self.administer(operator, &region, request, Purpose::Change);
            }
            Ok(None) => self.plan_operation(operator, self.plan.life.think),
            Err(NoIds) => {
                self.operators.next[operator] = Some((operation, region));
                self.ask_for_ids(operator);
            }
        }
    }

    pub(super) fn ask_for_ids(&mut self, operator: usize) {
        let root = self.clients.routes.get(RegionId::ROOT);
        let Some(root) = root else { return self.plan_operation(operator, self.plan.life.think) };
        let request = AdminRequest::Command(AdminCommand::AllocateIds { count: IDS_AT_ONCE });
        self.administer(operator, &root, request, Purpose::Ids(IDS_AT_ONCE));
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
        if let Some(request) = self.clean_up(region) {
            return Ok(request);
        }
        let living = (0..self.nodes.len()).filter(|store| !self.nodes[*store].is_given_up()).map(id_of);
        let mut absent: Vec<StoreId> = living.filter(|store| region.replica_on(*store).is_none()).collect();
        // One that has no floor yet takes no replica. Who tries all the same has added a learner in vain, as the engine's handle would.
        if operation != Operation::AddLearner {
            absent.retain(|store| self.nodes[place_of(*store)].floor != Floor::Unknown);
        }
        let of_role = |role: Role| -> Vec<ReplicaId> {
            region.replicas.iter().filter(|replica| replica.role == role).map(|replica| replica.id).collect()
        };
        let (voters, learners) = (of_role(Role::Voter), of_role(Role::Learner));
        let may_lose = voters.len() > self.plan.life.voters_min;
        let random = &mut self.operators.random;
        let op = match operation {
            Operation::Split => return self.split_request(operator, region),
            Operation::Merge => return Ok(None),
            Operation::Repair => return self.repair_request(operator, region, &absent),
            Operation::GiveBack => {
                let Some(store) = absent.iter().find(|store| self.nodes[place_of(**store)].has_begun_anew()) else {
                    return Ok(None);
                };
                ChangeOp::AddVoter { id: self.one_id_on(operator, *store)?, store: *store }
            }
            Operation::AddLearner | Operation::AddWitness if absent.is_empty() => return Ok(None),
            Operation::AddLearner => {
                let store = random.pick(&absent);
                ChangeOp::AddLearner { id: self.one_id(operator)?, store }
            }
            Operation::AddWitness => {
                let store = random.pick(&absent);
                ChangeOp::AddWitness { id: self.one_id_on(operator, store)?, store }
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
        Ok(Some(AdminRequest::Membership(MembershipChange::of(vec![op], &region.replicas))))
    }

    /// A region with a replica that is dead for good, or was lost with a disk, gets rid of that first; `Some(None)`: not now. Whatever else was done to it
    /// could leave the dead with a majority.
    fn clean_up(&self, region: &RegionDescriptor) -> Option<Option<AdminRequest>> {
        let dead = region.replicas.iter().find(|replica| self.is_lost(replica))?;
        let is_joint = region.replicas.iter().any(|replica| replica.role.is_joint());
        let remove = MembershipChange::of(vec![ChangeOp::Remove { id: dead.id }], &region.replicas);
        Some((!is_joint).then_some(AdminRequest::Membership(remove)))
    }

    pub(super) fn one_id(&mut self, operator: usize) -> Result<ReplicaId, NoIds> {
        let ids = self.operators.take_ids(operator, 1, ReplicaId::ZERO).ok_or(NoIds)?;
        Ok(ReplicaId(ids[0]))
    }

    /// One that this store takes.
    pub(super) fn one_id_on(&mut self, operator: usize, store: StoreId) -> Result<ReplicaId, NoIds> {
        let floor = self.nodes[place_of(store)].floor.last();
        let ids = self.operators.take_ids(operator, 1, floor).ok_or(NoIds)?;
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
        let floor = absent[..come].iter().map(|store| self.nodes[place_of(*store)].floor.last()).max();
        let ids = self.operators.take_ids(operator, come as u64, floor.unwrap_or_default()).ok_or(NoIds)?;
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
        let again = self.operators.again[operator].take().filter(|key| region.range.contains(key));
        // A first key of its own for every part: each has something that a client can write.
        let mut owned: Vec<_> = keys.map(machine::key_bytes).filter(|key| region.range.contains(key)).skip(1).collect();
        if owned.is_empty() || room == 0 {
            return Ok(None);
        }
        let random = &mut self.operators.random;
        let wanted = if random.chance(700) { 1 } else { random.between(2, 3) as usize };
        if let Some(boundary) = again.clone() {
            owned = vec![boundary];
        }
        while owned.len() > wanted.min(room) {
            let at = random.below(owned.len() as u64) as usize;
            owned.remove(at);
        }
        let replicas = region.replicas.len() as u64;
        let count = (1 + replicas) * owned.len() as u64;
        // As the engine's handle does: above those of the parent.
        let floor = region.replicas.iter().map(|replica| replica.id).max().unwrap_or_default();
        let Some(ids) = self.operators.take_ids(operator, count, floor) else {
            self.operators.again[operator] = again;
            return Err(NoIds);
        };
        let mut ids = ids.into_iter();
        let mut id = || ids.next().unwrap_or_default();
        let children = owned.into_iter().map(|start| {
            let region = RegionId(id());
            Child { start, region, replicas: (0..replicas).map(|_| ReplicaId(id())).collect() }
        });
        let children = children.collect();
        Ok(Some(AdminRequest::Command(AdminCommand::Split { children })))
    }

    pub(super) fn administer(
        &mut self,
        operator: usize,
        region: &RegionDescriptor,
        request: AdminRequest,
        purpose: Purpose,
    ) {
        self.say(|| format!("operator {operator} asks {:?} for {purpose:?}: {request:?}", region.id));
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
        self.operators.waiting.insert(waiter, Asked { operator, store, region: region.id, purpose });
        let node = &self.nodes[store];
        if node.process.as_ref().is_none_or(|process| process.stopping) {
            let wait = random.around(MILLI);
            return self.schedule.plan_in(wait, Event::Answer { waiter, outcome: Outcome::NotLeader { hint: None } });
        }
        let deadline = node.clock.read(now).plus(self.plan.request_timeout);
        let epoch = Self::epoch_of(purpose, region);
        self.schedule.plan_in(patience * 5 / 4, Event::Deadline { waiter });
        let worker = self.worker_for(store, region.id);
        self.input(store, worker, Input::Admin { region: region.id, epoch, request, deadline, reply: waiter });
    }

    /// An operator is answered; says whether the answer was for one.
    pub(super) fn on_operator_answer(&mut self, waiter: Waiter, outcome: &Outcome) -> bool {
        let Some(asked) = self.operators.waiting.remove(&waiter) else { return false };
        let Asked { operator, region, purpose, .. } = asked;
        self.say(|| format!("operator {operator} is told {outcome:?}"));
        let mut pause = self.pause_after(operator);
        match outcome {
            Outcome::Changed { regions } => self.clients.routes.learn_split(regions),
            Outcome::EpochMismatch { current } => self.clients.routes.learn(current),
            Outcome::Applied { reply, .. } => {
                let ids = if let Purpose::Ids(ids) = purpose { ids } else { 0 };
                let first = reply.as_ref().try_into().map_or(0, u64::from_be_bytes);
                let verdict = self.regions.on_ids(first..first + ids);
                self.judge_that(verdict);
                // What a recovery has used is passed over.
                let used = self.aftermath.ids_upto.saturating_add(1);
                self.operators.ids[operator] = first.max(used)..(first + ids).max(used);
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
        self.on_merge_told(operator, purpose, outcome);
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
                    Notice::Merged { region, source } => routes.learn_merge(region, *source),
                    _ => {}
                }
            }
        }
    }
}

/// An operator must ask for ids first.
pub(super) struct NoIds;
