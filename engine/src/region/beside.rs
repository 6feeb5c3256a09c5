//! The way of a region's replicas to the places and kinds of another's, which a merge needs (M10).

use multiraft_raft::{RegionDescriptor, Role};

use crate::regions::Change;

/// What is to be changed next, all at once; nothing if both have replicas of the same kinds on the same stores.
///
/// Witnesses come and go one by one. Those that are in the way go first, so that voters can take their places; those that are
/// wanted come last, when the voters that they stand beside are there.
pub(crate) fn step_beside(region: &RegionDescriptor, other: &RegionDescriptor) -> Vec<Change> {
    let wanted_on = |store| other.replica_on(store).map(|replica| replica.role);
    let in_the_way = region
        .replicas
        .iter()
        .find(|replica| replica.role == Role::Witness && wanted_on(replica.store) != Some(Role::Witness));
    if let Some(witness) = in_the_way {
        return vec![Change::Remove(witness.store)];
    }
    let mut changes = Vec::new();
    for wanted in &other.replicas {
        let store = wanted.store;
        match (region.replica_on(store).map(|replica| replica.role), wanted.role) {
            (None, Role::Voter) => changes.push(Change::AddVoter(store)),
            (None, Role::Learner) => changes.push(Change::AddLearner(store)),
            (Some(Role::Learner), Role::Voter) => changes.push(Change::Promote(store)),
            (Some(Role::Voter), Role::Learner) => changes.push(Change::Demote(store)),
            _ => {}
        }
    }
    for replica in region.replicas.iter().filter(|replica| replica.role != Role::Witness) {
        if matches!(wanted_on(replica.store), None | Some(Role::Witness)) {
            changes.push(Change::Remove(replica.store));
        }
    }
    if !changes.is_empty() {
        return changes;
    }
    let missing =
        other.replicas.iter().find(|wanted| wanted.role == Role::Witness && region.replica_on(wanted.store).is_none());
    missing.map(|wanted| Change::AddWitness(wanted.store)).into_iter().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use bytes::Bytes;
    use multiraft_raft::{
        ChangeOp, KeyRange, MembershipChange, RegionEpoch, RegionId, Replica, ReplicaId, StoreId, apply_to_replicas,
    };

    use super::*;
    use crate::region::merge::are_together;

    const KINDS: [Option<Role>; 4] = [None, Some(Role::Voter), Some(Role::Learner), Some(Role::Witness)];

    /// All regions on three stores that have a voter which holds data.
    fn all(id: u64) -> Vec<RegionDescriptor> {
        let mut all = Vec::new();
        for drawn in 0..4_usize.pow(3) {
            let replicas: Vec<Replica> = (0..3)
                .filter_map(|place| {
                    let role = KINDS[drawn / 4_usize.pow(place) % 4]?;
                    let place = u64::from(place) + 1;
                    Some(Replica { id: ReplicaId(id * 10 + place), store: StoreId(place), role })
                })
                .collect();
            if replicas.iter().any(|replica| replica.role == Role::Voter) {
                let (range, epoch) = (KeyRange { start: Bytes::new(), end: Bytes::new() }, RegionEpoch::default());
                all.push(RegionDescriptor { id: RegionId(id), range, epoch, replicas });
            }
        }
        all
    }

    fn op(region: &RegionDescriptor, change: Change, id: ReplicaId) -> ChangeOp {
        let on = |store| region.replica_on(store).unwrap().id;
        match change {
            Change::AddVoter(store) => ChangeOp::AddVoter { id, store },
            Change::AddLearner(store) => ChangeOp::AddLearner { id, store },
            Change::AddWitness(store) => ChangeOp::AddWitness { id, store },
            Change::Promote(store) => ChangeOp::Promote { id: on(store) },
            Change::Demote(store) => ChangeOp::Demote { id: on(store) },
            Change::Remove(store) => ChangeOp::Remove { id: on(store) },
        }
    }

    #[test]
    fn every_region_comes_beside_every_other_by_steps_that_are_allowed() {
        let (sources, targets) = (all(2), all(3));
        let mut longest = 0;
        for (source, target) in sources.iter().flat_map(|source| targets.iter().map(move |target| (source, target))) {
            let (mut region, mut steps, mut next) = (source.clone(), 0, 100);
            while !are_together(&region, target) {
                let changes = step_beside(&region, target);
                assert!(!changes.is_empty(), "stuck between {source:?} and {target:?} at {region:?}");
                let mut ops = Vec::new();
                for change in changes {
                    next += 1;
                    ops.push(op(&region, change, ReplicaId(next)));
                }
                let change = MembershipChange::of(ops, &region.replicas);
                region.replicas = apply_to_replicas(&region.replicas, &change).unwrap();
                if region.replicas.iter().any(|replica| replica.role.is_joint()) {
                    region.replicas = apply_to_replicas(&region.replicas, &MembershipChange::LeaveJoint).unwrap();
                }
                steps += 1;
                assert!(steps <= 8, "no end between {source:?} and {target:?}");
            }
            longest = longest.max(steps);
            assert_eq!(step_beside(&region, target), []);
        }
        assert!(longest > 2, "witnesses come and go one by one");
    }
}
