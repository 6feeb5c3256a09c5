//! Why a group refuses what its driver asks for. Each says what to do.

use std::fmt;

use thiserror::Error;

use crate::{ChangeError, LogIndex, ReplicaId};

/// Why proposals were refused. None of them was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This replica does not lead.
    #[error("this replica does not lead; propose {}", Whither(leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<ReplicaId>,
    },
    /// Leadership is being handed over.
    #[error("leadership is being handed to replica {to}; propose there, or again within an election timeout")]
    TransferInProgress {
        /// Who is to lead.
        to: ReplicaId,
    },
    /// Too much is uncommitted.
    #[error(
        "{uncommitted_bytes} bytes are uncommitted and {limit} are allowed; propose again when some have committed"
    )]
    Busy {
        /// What is uncommitted.
        uncommitted_bytes: usize,
        /// What may be.
        limit: usize,
    },
    /// A membership change may be under way.
    #[error("a membership change may stand at or before index {index}; propose the change again when that is applied")]
    ChangePending {
        /// What must be applied first.
        index: LogIndex,
    },
    /// The change does not fit.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// A membership change came as an ordinary proposal.
    #[error("a membership change must be proposed through propose_membership")]
    MembershipAmongProposals,
}

/// Why a read was refused. Nothing will be answered for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadRefused {
    /// This replica does not lead.
    #[error("this replica does not lead; read {}", Whither(leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<ReplicaId>,
    },
    /// Too many reads wait already.
    #[error("{limit} reads wait already; try again in a moment")]
    Busy {
        /// How many may wait.
        limit: usize,
    },
}

/// Why a transfer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TransferRefused {
    /// This replica does not lead.
    #[error("this replica does not lead; ask {}", Whither(leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<ReplicaId>,
    },
    /// The target leads already.
    #[error("the target leads already")]
    AlreadyLeader,
    /// The target is no member, or one that cannot lead.
    #[error("replica {to} cannot lead: it is no voter of this group that holds data; choose another")]
    CannotLead {
        /// The target.
        to: ReplicaId,
    },
    /// Another transfer is open.
    #[error("leadership is already being handed to replica {to}; wait an election timeout")]
    InProgress {
        /// Its target.
        to: ReplicaId,
    },
}

/// Where to go, or when to come back.
struct Whither<'a>(&'a Option<ReplicaId>);

impl fmt::Display for Whither<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(leader) => write!(f, "at replica {leader}, which leads"),
            None => f.write_str("again after the next election; no leader is known"),
        }
    }
}
