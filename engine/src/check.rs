//! Consistency checks through the handle, and replacing a replica whose state is wrong or lost.

use std::sync::Arc;
use std::time::Duration;

use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, Role, StoreId, Time};

use crate::engine::Engine;
use crate::error::RegionError;
use crate::logic::{AdminCommand, AdminRequest, CheckReport, Outcome};
use crate::regions::Change;

/// How long a check may take: a large state is read whole, on every replica.
const CHECK_TIMEOUT: Duration = Duration::from_secs(120);

impl Engine {
    /// Compares the states of a region's replicas: each takes the digest of its state at one and the same entry of the log, beside
    /// everything else, and the leader compares them. Any store may be asked.
    ///
    /// A replica that differs from what a quorum of the voters has is fenced before this returns: it takes no part any more and
    /// answers no read, until it is replaced ([`Engine::repair_replica`]). Where no quorum agrees, nobody is fenced; the report
    /// tells who has what. A replica that does not answer within half a minute (two seconds if its store is not linked) is left
    /// out.
    ///
    /// # Errors
    /// [`RegionError`]; nothing was compared, and the check may be made again. [`RegionError::Busy`]: the region is being merged,
    /// checked by somebody else, or changes its replicas.
    pub async fn check(&self, region: RegionId) -> Result<CheckReport, RegionError> {
        let deadline = self.deadline(Some(CHECK_TIMEOUT));
        let mut current = self.describe(region, deadline).await?;
        let index = loop {
            let request = AdminRequest::Command(AdminCommand::Check);
            match self.request_admin(region, Some(current.epoch), request, deadline).await {
                Ok(Outcome::Applied { index, .. }) => break index,
                Ok(_) => return Err(RegionError::Uncertain),
                // It was split, or has other replicas: it is still to be checked.
                Err(RegionError::EpochMismatch { current: newer }) if newer.epoch != current.epoch => current = newer,
                Err(error) => return Err(error),
            }
        };
        self.findings(region, index, deadline).await
    }

    async fn findings(&self, region: RegionId, index: LogIndex, deadline: Time) -> Result<CheckReport, RegionError> {
        match self.request_admin(region, None, AdminRequest::Findings { index }, deadline).await? {
            Outcome::Applied { reply, .. } => CheckReport::decode(&reply).ok_or(RegionError::Uncertain),
            _ => Err(RegionError::Uncertain),
        }
    }

    /// Replaces the replica on `store` by a new one on the same store, which is filled from its peers: what is to be done with one
    /// that is fenced or damaged. Returns the region as it is afterwards.
    ///
    /// The old replica goes first, since a store holds one at most; the new one joins as the old one was, once it has caught up. A
    /// leader hands over first.
    ///
    /// # Errors
    /// [`RegionError`], as of [`Engine::change_replicas`]. After an error the old replica may be gone already:
    /// [`RegionError::NoReplica`] says so when this is tried again, and `change_replicas` adds the new one.
    pub async fn repair_replica(&self, region: RegionId, store: StoreId) -> Result<Arc<RegionDescriptor>, RegionError> {
        let current = self.describe_region(region).await?;
        let old = current.replica_on(store).copied();
        let old = old.ok_or_else(|| RegionError::NoReplica { store, current: Arc::clone(&current) })?;
        let add = match old.role {
            Role::Voter => Change::AddVoter(store),
            Role::Learner => Change::AddLearner(store),
            Role::Witness => Change::AddWitness(store),
            _ => return Err(RegionError::Busy { region }),
        };
        let without = self.change_replicas_of(current, vec![Change::Remove(store)]).await?;
        self.change_replicas_of(without, vec![add]).await
    }
}
