//! Changes of a membership: what may follow what.
//!
//! A change is either *simple* (at most one voter comes or goes, so old and new majorities overlap by themselves;
//! dissertation, section 4.1) or goes through a *joint* configuration (section 4.3):
//!
//! ```text
//!             Simple                       LeaveJoint
//!   plain ------------> plain     joint ---------------> plain
//!     |    Joint                    ^
//!     +-----------------------------+
//! ```
//!
//! The same rules serve a bare [`Membership`](super::Membership) and the replicas of a region descriptor.

use thiserror::Error;

use crate::{Replica, ReplicaId, Role, StoreId};

/// One step of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeOp {
    /// A new replica that votes.
    AddVoter {
        /// Its id, never used before.
        id: ReplicaId,
        /// Where it lives.
        store: StoreId,
    },
    /// A new replica that receives the log and does not vote.
    AddLearner {
        /// Its id, never used before.
        id: ReplicaId,
        /// Where it lives.
        store: StoreId,
    },
    /// A new replica that votes and holds no data. Only as a simple change.
    AddWitness {
        /// Its id, never used before.
        id: ReplicaId,
        /// Where it lives.
        store: StoreId,
    },
    /// A learner becomes a voter.
    Promote {
        /// Which.
        id: ReplicaId,
    },
    /// A voter becomes a learner.
    Demote {
        /// Which.
        id: ReplicaId,
    },
    /// A replica goes.
    Remove {
        /// Which.
        id: ReplicaId,
    },
}

impl ChangeOp {
    /// Whom it concerns.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        match *self {
            Self::AddVoter { id, .. }
            | Self::AddLearner { id, .. }
            | Self::AddWitness { id, .. }
            | Self::Promote { id }
            | Self::Demote { id }
            | Self::Remove { id } => id,
        }
    }
}

/// A change of a group's membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// One step, without a joint configuration.
    Simple(ChangeOp),
    /// Several steps at once, through a joint configuration.
    Joint {
        /// The steps; each concerns another replica.
        ops: Vec<ChangeOp>,
        /// Whether the leader leaves the joint configuration by itself as soon as it may.
        auto_leave: bool,
    },
    /// The end of the joint configuration.
    LeaveJoint,
}

impl MembershipChange {
    /// The change that takes these steps from these replicas: a simple one where one will do, or else a joint configuration
    /// that the leader leaves by itself.
    #[must_use]
    pub fn of(ops: Vec<ChangeOp>, replicas: &[Replica]) -> Self {
        let members: Vec<_> = replicas.iter().map(|replica| (replica.id, replica.role)).collect();
        match ops[..] {
            [op] if !is_beside_witness(&members, op) => Self::Simple(op),
            _ => Self::Joint { ops, auto_leave: true },
        }
    }

    /// Whether the configuration that it leads to is left by the leader itself.
    #[must_use]
    pub fn auto_leave(&self) -> bool {
        matches!(self, Self::Joint { auto_leave: true, .. })
    }

    pub(super) fn ops(&self) -> &[ChangeOp] {
        match self {
            Self::Simple(op) => std::slice::from_ref(op),
            Self::Joint { ops, .. } => ops,
            Self::LeaveJoint => &[],
        }
    }
}

/// Why a change does not fit a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The group is in a joint configuration.
    #[error("the group is in a joint configuration; leave it first")]
    Joint,
    /// The group is not in a joint configuration.
    #[error("the group is not in a joint configuration, so there is nothing to leave")]
    NotJoint,
    /// A joint change without a step.
    #[error("a joint change needs at least one step")]
    Empty,
    /// Replica id zero names nobody.
    #[error("replica id 0 names nobody; choose an id that was never used")]
    ZeroId,
    /// The replica to be added is there.
    #[error("replica {id} is already a member; replica ids are never reused")]
    AlreadyMember {
        /// Which.
        id: ReplicaId,
    },
    /// The replica is not there.
    #[error("replica {id} is not a member")]
    NotMember {
        /// Which.
        id: ReplicaId,
    },
    /// The store has a replica of the group.
    #[error("store {store} already holds replica {id} of the group; remove that one in an earlier change")]
    StoreTaken {
        /// Which store.
        store: StoreId,
        /// Its replica.
        id: ReplicaId,
    },
    /// Two steps concern one replica.
    #[error("two steps of one change concern replica {id}; make it one step, or two changes")]
    Twice {
        /// Which.
        id: ReplicaId,
    },
    /// The step does not fit the replica's role.
    #[error("replica {id} is a {role:?}, which this step cannot change")]
    WrongRole {
        /// Which.
        id: ReplicaId,
        /// What it is.
        role: Role,
    },
    /// Witnesses come and go only by simple changes: a joint role would hide that they hold no data.
    #[error("replica {id} is a witness; add or remove it by a simple change")]
    WitnessInJoint {
        /// Which.
        id: ReplicaId,
    },
    /// A simple change that takes away a voter while there are witnesses. The replica may be the only one with data that holds
    /// the change, so that everything since would go with it; a joint configuration is left only when one that stays has it.
    #[error("replica {id} holds data and there are witnesses; take it away by a joint change")]
    VoterBesideWitness {
        /// Which.
        id: ReplicaId,
    },
    /// Nobody would be left that may lead.
    #[error("the change would leave no voter that holds data; add or keep one")]
    NoVoterLeft,
}

/// The replicas of a region after `change`, ascending in id.
///
/// # Errors
/// If the change does not fit them, also if two would share a store.
pub fn apply_to_replicas(replicas: &[Replica], change: &MembershipChange) -> Result<Vec<Replica>, ChangeError> {
    let mut members: Vec<_> = replicas.iter().map(|replica| (replica.id, replica.role)).collect();
    let mut stores: Vec<_> = replicas.iter().map(|replica| (replica.id, replica.store)).collect();
    for op in change.ops() {
        let (ChangeOp::AddVoter { id, store }
        | ChangeOp::AddLearner { id, store }
        | ChangeOp::AddWitness { id, store }) = *op
        else {
            continue;
        };
        if let Some((holder, _)) = stores.iter().find(|(holder, taken)| *taken == store && *holder != id) {
            return Err(ChangeError::StoreTaken { store, id: *holder });
        }
        stores.push((id, store));
    }
    apply_to_members(&mut members, change)?;
    members.sort_by_key(|(id, _)| *id);
    let store_of = |id| stores.iter().find(|(member, _)| *member == id).map(|(_, store)| *store);
    Ok(members
        .into_iter()
        .map(|(id, role)| Replica { id, store: store_of(id).expect("every member has a store"), role })
        .collect())
}

/// Changes `members` in place; on an error they are in no particular state.
pub(super) fn apply_to_members(
    members: &mut Vec<(ReplicaId, Role)>,
    change: &MembershipChange,
) -> Result<(), ChangeError> {
    let is_joint = members.iter().any(|(_, role)| role.is_joint());
    match change {
        MembershipChange::LeaveJoint if !is_joint => return Err(ChangeError::NotJoint),
        MembershipChange::LeaveJoint => leave_joint(members),
        _ if is_joint => return Err(ChangeError::Joint),
        MembershipChange::Simple(op) => {
            if is_beside_witness(members, *op) {
                return Err(ChangeError::VoterBesideWitness { id: op.id() });
            }
            apply_op(members, *op, false)?;
        }
        MembershipChange::Joint { ops, .. } => {
            if ops.is_empty() {
                return Err(ChangeError::Empty);
            }
            for (at, op) in ops.iter().enumerate() {
                if ops[..at].iter().any(|earlier| earlier.id() == op.id()) {
                    return Err(ChangeError::Twice { id: op.id() });
                }
                apply_op(members, *op, true)?;
            }
        }
    }
    // Whoever counts in the incoming half must be able to lead: a witness alone could not.
    if members.iter().any(|(_, role)| role.votes_incoming() && *role != Role::Witness) {
        Ok(())
    } else {
        Err(ChangeError::NoVoterLeft)
    }
}

/// Whether a step takes away a voter that holds data where there are some that hold none.
fn is_beside_witness(members: &[(ReplicaId, Role)], op: ChangeOp) -> bool {
    let takes = matches!(op, ChangeOp::Demote { .. } | ChangeOp::Remove { .. })
        && members.iter().any(|(id, role)| *id == op.id() && *role == Role::Voter);
    takes && members.iter().any(|(_, role)| *role == Role::Witness)
}

fn leave_joint(members: &mut Vec<(ReplicaId, Role)>) {
    members.retain(|(_, role)| *role != Role::OutgoingVoter);
    for (_, role) in members {
        *role = match *role {
            Role::IncomingVoter => Role::Voter,
            Role::DemotingVoter => Role::Learner,
            other => other,
        };
    }
}

fn apply_op(members: &mut Vec<(ReplicaId, Role)>, op: ChangeOp, joint: bool) -> Result<(), ChangeError> {
    let id = op.id();
    if id == ReplicaId::ZERO {
        return Err(ChangeError::ZeroId);
    }
    let at = members.iter().position(|(member, _)| *member == id);
    let present = at.map(|at| members[at].1);
    let next = next_role(op, present, joint)?;
    match (at, next) {
        (Some(at), Some(role)) => members[at].1 = role,
        (Some(at), None) => drop(members.remove(at)),
        (None, Some(role)) => members.push((id, role)),
        (None, None) => {}
    }
    Ok(())
}

/// What a replica becomes by one step; `None`: it is gone.
fn next_role(op: ChangeOp, present: Option<Role>, joint: bool) -> Result<Option<Role>, ChangeError> {
    let id = op.id();
    let new_voter = if joint { Role::IncomingVoter } else { Role::Voter };
    match (op, present) {
        (ChangeOp::AddVoter { .. } | ChangeOp::AddLearner { .. } | ChangeOp::AddWitness { .. }, Some(_)) => {
            Err(ChangeError::AlreadyMember { id })
        }
        (ChangeOp::AddVoter { .. }, None) => Ok(Some(new_voter)),
        (ChangeOp::AddLearner { .. }, None) => Ok(Some(Role::Learner)),
        (ChangeOp::AddWitness { .. }, None) if joint => Err(ChangeError::WitnessInJoint { id }),
        (ChangeOp::AddWitness { .. }, None) => Ok(Some(Role::Witness)),
        (ChangeOp::Promote { .. } | ChangeOp::Demote { .. } | ChangeOp::Remove { .. }, None) => {
            Err(ChangeError::NotMember { id })
        }
        (ChangeOp::Promote { .. }, Some(Role::Learner)) => Ok(Some(new_voter)),
        (ChangeOp::Demote { .. }, Some(Role::Voter)) if joint => Ok(Some(Role::DemotingVoter)),
        (ChangeOp::Demote { .. }, Some(Role::Voter)) => Ok(Some(Role::Learner)),
        (ChangeOp::Promote { .. } | ChangeOp::Demote { .. }, Some(role)) => Err(ChangeError::WrongRole { id, role }),
        (ChangeOp::Remove { .. }, Some(Role::Witness)) if joint => Err(ChangeError::WitnessInJoint { id }),
        (ChangeOp::Remove { .. }, Some(Role::Voter)) if joint => Ok(Some(Role::OutgoingVoter)),
        (ChangeOp::Remove { .. }, Some(_)) => Ok(None),
    }
}
