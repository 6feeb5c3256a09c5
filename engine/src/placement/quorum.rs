//! Whether a region can still decide: during a change, and after it.

use multiraft_raft::{Replica, ReplicaId, Role, StoreId};

use super::operation::ReplicaChange;

/// Stands for a replica that has no id yet; zero names nobody.
const NEW: ReplicaId = ReplicaId::ZERO;

/// Whether the voters that are `live` are a majority, of both halves if the configuration is joint.
pub(super) fn has_quorum(replicas: &[Replica], live: &dyn Fn(&Replica) -> bool) -> bool {
    let majority = |votes: fn(Role) -> bool| {
        let voters = replicas.iter().filter(|replica| votes(replica.role));
        let alive = voters.clone().filter(|replica| live(replica)).count();
        alive * 2 > voters.count()
    };
    let is_joint = replicas.iter().any(|replica| replica.role.is_joint());
    majority(Role::votes_incoming) && (!is_joint || majority(Role::votes_outgoing))
}

/// Whether every configuration that `change` goes through has a live majority. A replica that comes counts as live: it votes
/// only once it has caught up.
pub(super) fn survives(replicas: &[Replica], change: ReplicaChange, live: &dyn Fn(&Replica) -> bool) -> bool {
    let live = |replica: &Replica| replica.id == NEW || live(replica);
    has_quorum(replicas, &live) && stages(replicas, change).iter().all(|stage| has_quorum(stage, &live))
}

/// The configurations that follow `replicas`.
fn stages(replicas: &[Replica], change: ReplicaChange) -> Vec<Vec<Replica>> {
    // A learner that is there already catches up before it votes, just like one that is new.
    let plus = |store: StoreId, role: Role| {
        let new = Replica { id: NEW, store, role };
        let others = replicas.iter().copied().filter(|replica| replica.store != store);
        others.chain([new]).collect::<Vec<_>>()
    };
    match change {
        ReplicaChange::AddVoter { store } => vec![plus(store, Role::Voter)],
        ReplicaChange::AddLearner { store } => vec![plus(store, Role::Learner)],
        ReplicaChange::AddWitness { store } => vec![plus(store, Role::Witness)],
        ReplicaChange::Promote { replica } => vec![with_role(replicas, replica, Role::Voter)],
        ReplicaChange::Remove { replica } => {
            vec![replicas.iter().filter(|other| other.id != replica).copied().collect()]
        }
        ReplicaChange::Replace { remove, add } => {
            let joint = with_role(&plus(add, Role::IncomingVoter), remove, Role::OutgoingVoter);
            let after = plus(add, Role::Voter).into_iter().filter(|replica| replica.id != remove).collect();
            vec![joint, after]
        }
    }
}

fn with_role(replicas: &[Replica], id: ReplicaId, role: Role) -> Vec<Replica> {
    let change = |replica: &Replica| if replica.id == id { Replica { role, ..*replica } } else { *replica };
    replicas.iter().map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(roles: &[Role]) -> Vec<Replica> {
        (1..).zip(roles).map(|(n, role)| Replica { id: ReplicaId(n), store: StoreId(n), role: *role }).collect()
    }

    /// Whether `change` is survived with only the replicas of these numbers alive.
    fn survives_with(roles: &[Role], change: ReplicaChange, alive: &[u64]) -> bool {
        survives(&replicas(roles), change, &|replica| alive.contains(&replica.id.0))
    }

    #[test]
    fn both_halves_of_a_joint_configuration_need_a_majority() {
        use Role::{IncomingVoter, OutgoingVoter, Voter};
        let joint = replicas(&[Voter, OutgoingVoter, OutgoingVoter, IncomingVoter, IncomingVoter]);
        let quorum = |alive: &[u64]| has_quorum(&joint, &|replica| alive.contains(&replica.id.0));
        assert!(quorum(&[1, 2, 4]));
        assert!(!quorum(&[1, 2, 3]), "the incoming half has one of three");
        assert!(!quorum(&[1, 4, 5]), "the outgoing half has one of three");
    }

    #[test]
    fn a_change_needs_a_majority_before_during_and_after() {
        use Role::{Learner, Voter, Witness};
        let three = [Voter; 3];
        let replace = ReplicaChange::Replace { remove: ReplicaId(3), add: StoreId(9) };
        assert!(survives_with(&three, replace, &[1, 2]));
        assert!(survives_with(&three, replace, &[1, 3]), "the new one and the first are two of three");
        assert!(!survives_with(&[Voter; 4], replace, &[1, 2]), "two of four are no majority before it");
        assert!(!survives_with(
            &[Voter, Voter],
            ReplicaChange::Replace { remove: ReplicaId(2), add: StoreId(9) },
            &[1]
        ));
        assert!(!survives_with(&three, replace, &[1]));
        let remove = ReplicaChange::Remove { replica: ReplicaId(2) };
        assert!(survives_with(&[Voter; 4], remove, &[1, 2, 3]));
        assert!(!survives_with(&three, remove, &[1, 2]), "one of two is no majority");
        assert!(!survives_with(&[Voter, Witness], ReplicaChange::AddVoter { store: StoreId(9) }, &[1]));
        assert!(survives_with(&[Voter, Voter, Learner], ReplicaChange::Promote { replica: ReplicaId(3) }, &[1, 2]));
        assert!(!survives_with(&[Voter, Learner], ReplicaChange::Promote { replica: ReplicaId(2) }, &[1]));
    }
}
