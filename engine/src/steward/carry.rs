//! Carrying one operation out, by the calls that an embedder has as well.

use std::time::Duration;

use multiraft_raft::{RegionDescriptor, ReplicaId, StoreId};

use crate::engine::Engine;
use crate::error::RegionError;
use crate::placement::{Operation, ReplicaChange, Step};
use crate::regions::Change;

/// How long to look for a region's leader.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why an operation came to nothing, or may have.
#[derive(Debug, thiserror::Error)]
pub(super) enum CarryError {
    /// The region is no longer what the operation was planned for.
    #[error("the region has changed meanwhile")]
    Changed,
    /// The replica is gone.
    #[error("replica {0} is gone")]
    Gone(ReplicaId),
    #[error(transparent)]
    Region(#[from] RegionError),
    #[error(transparent)]
    Transfer(#[from] crate::error::TransferError),
}

/// Carries `operation` out, if its region is still at the epoch that it was planned for.
pub(super) async fn carry_out(engine: &Engine, operation: &Operation) -> Result<(), CarryError> {
    let region = operation.region;
    let current = engine.describe(region, engine.deadline(Some(DESCRIBE_TIMEOUT))).await?;
    if current.epoch != operation.epoch {
        return Err(CarryError::Changed);
    }
    match &operation.step {
        Step::Change(change) => {
            let changes = changes_of(&current, *change)?;
            engine.change_replicas_of(current, changes).await?;
        }
        Step::TransferLeader { to } => engine.transfer_leader(region, *to).await?,
        Step::Split { keys } => {
            engine.split_of(&current, keys).await?;
        }
        Step::Merge { into, into_epoch, .. } => {
            let target = engine.describe(*into, engine.deadline(Some(DESCRIBE_TIMEOUT))).await?;
            if target.epoch != *into_epoch {
                return Err(CarryError::Changed);
            }
            engine.merge(region, *into).await?;
        }
    }
    Ok(())
}

/// What a change of replicas is by the stores that it concerns.
fn changes_of(region: &RegionDescriptor, change: ReplicaChange) -> Result<Vec<Change>, CarryError> {
    let store_of = |id: ReplicaId| -> Result<StoreId, CarryError> {
        region.replica(id).map(|replica| replica.store).ok_or(CarryError::Gone(id))
    };
    Ok(match change {
        ReplicaChange::AddVoter { store } => vec![Change::AddVoter(store)],
        ReplicaChange::AddLearner { store } => vec![Change::AddLearner(store)],
        ReplicaChange::AddWitness { store } => vec![Change::AddWitness(store)],
        ReplicaChange::Promote { replica } => vec![Change::Promote(store_of(replica)?)],
        ReplicaChange::Remove { replica } => vec![Change::Remove(store_of(replica)?)],
        ReplicaChange::Replace { remove, add } => vec![Change::AddVoter(add), Change::Remove(store_of(remove)?)],
    })
}
