//! What operations do to the model's regions.

use multiraft::placement::{Operation, ReplicaChange, Step};
use multiraft::{RegionEpoch, RegionId, Replica, Role, StoreId};

use super::{Model, Region};

impl Model {
    /// Carries an operation out as far as it goes; gives whether it took effect. An unlucky change of replicas may leave its
    /// learner behind.
    pub(super) fn carry_out(&mut self, operation: &Operation, is_lucky: bool) -> bool {
        let Some(region) = self.regions.get(&operation.region).cloned() else { return false };
        let has_leader = region.leader.is_some_and(|leader| self.is_alive(leader));
        if region.epoch != operation.epoch || !has_leader || !self.has_quorum(&region) {
            return false;
        }
        match &operation.step {
            Step::Change(change) => self.change(operation.region, region, *change, is_lucky),
            Step::TransferLeader { to } => {
                let may = is_lucky && self.is_alive(*to) && region.replicas.iter().any(|replica| replica.store == *to);
                if may {
                    self.regions.get_mut(&operation.region).expect("there").leader = Some(*to);
                }
                may
            }
            Step::Split { keys } => is_lucky && self.split(operation.region, region, &keys[0]),
            Step::Merge { into, into_epoch, .. } => {
                is_lucky && self.merge(operation.region, region, *into, *into_epoch)
            }
        }
    }

    fn has_quorum(&self, region: &Region) -> bool {
        let voters = region.replicas.iter().filter(|replica| replica.role == Role::Voter);
        let live = voters.clone().filter(|replica| self.is_alive(replica.store)).count();
        live * 2 > voters.count()
    }

    fn change(&mut self, id: RegionId, mut region: Region, change: ReplicaChange, is_lucky: bool) -> bool {
        // Leadership may have moved meanwhile: whoever carries a change out never removes the leader's replica.
        if let ReplicaChange::Remove { replica } | ReplicaChange::Replace { remove: replica, .. } = change
            && region.replicas.iter().any(|other| other.id == replica && Some(other.store) == region.leader)
        {
            return false;
        }
        let learner = |replica: &&mut Replica, store: StoreId| replica.store == store && replica.role == Role::Learner;
        match change {
            ReplicaChange::AddVoter { store } | ReplicaChange::Replace { add: store, .. } => {
                if !self.is_alive(store) {
                    return false;
                }
                if !region.replicas.iter_mut().any(|replica| learner(&replica, store)) {
                    assert!(region.replicas.iter().all(|replica| replica.store != store), "two replicas on a store");
                    let replica = self.new_replica(store, Role::Learner);
                    region.replicas.push(replica);
                    region.epoch.conf_version += 1;
                }
                if is_lucky {
                    let learner = region.replicas.iter_mut().find(|replica| learner(replica, store));
                    learner.expect("made above").role = Role::Voter;
                    region.epoch.conf_version += 2;
                    if let ReplicaChange::Replace { remove, .. } = change {
                        region.replicas.retain(|replica| replica.id != remove);
                    }
                } else if self.random.below(2) == 0 {
                    return false;
                }
            }
            _ if !is_lucky => return false,
            ReplicaChange::Remove { replica } => {
                region.replicas.retain(|other| other.id != replica);
                region.epoch.conf_version += 1;
            }
            ReplicaChange::Promote { replica } => {
                let learner = region.replicas.iter_mut().find(|other| other.id == replica);
                learner.expect("a member").role = Role::Voter;
                region.epoch.conf_version += 1;
            }
            ReplicaChange::AddLearner { .. } | ReplicaChange::AddWitness { .. } => {
                panic!("nobody wishes for one here: {change}")
            }
        }
        region.replicas.sort();
        let leader = region.leader.expect("checked");
        assert!(region.replicas.iter().any(|replica| replica.store == leader), "the leader's replica was removed");
        self.regions.insert(id, region);
        is_lucky
    }

    fn split(&mut self, id: RegionId, mut region: Region, at: &[u8]) -> bool {
        let at = u64::from_be_bytes(at.try_into().expect("one of the model's keys"));
        assert!(region.start < at && at < region.end, "a split outside of the range");
        let part = (at - region.start) as f64 / (region.end - region.start) as f64;
        region.epoch.version += 1;
        let mut child = region.clone();
        (child.start, region.end) = (at, at);
        for replica in &mut child.replicas {
            *replica = self.new_replica(replica.store, replica.role);
        }
        scale(&mut child, 1.0 - part);
        scale(&mut region, part);
        let child_id = RegionId(self.next_region);
        self.next_region += 1;
        self.regions.insert(id, region);
        self.regions.insert(child_id, child);
        self.tell_region_late(child_id);
        true
    }

    fn merge(&mut self, id: RegionId, source: Region, into: RegionId, into_epoch: RegionEpoch) -> bool {
        let Some(mut target) = self.regions.get(&into).cloned().filter(|target| target.epoch == into_epoch) else {
            return false;
        };
        assert!(source.end == target.start || target.end == source.start, "not neighbours");
        (target.start, target.end) = (target.start.min(source.start), target.end.max(source.end));
        target.epoch.version = target.epoch.version.max(source.epoch.version) + 1;
        target.bytes += source.bytes;
        target.writes += source.writes;
        target.reads += source.reads;
        self.regions.remove(&id);
        self.regions.insert(into, target);
        true
    }
}

fn scale(region: &mut Region, by: f64) {
    region.bytes *= by;
    region.writes *= by;
    region.reads *= by;
}
