//! The stores of the cluster through the handle: who has joined, which is to be emptied, which has left.

use std::collections::BTreeMap;
use std::sync::Arc;

use multiraft_raft::{RegionId, StoreId};

use crate::engine::{Engine, PAUSE_MIN};
use crate::error::{RegionError, StoreError};
use crate::logic::{AdminCommand, AdminRequest, Outcome, StoreCommand, StoreRecord};
use crate::placement::StoreLoad;
use crate::region::stores::Stores;
use crate::steward::decode_loads;

impl Engine {
    /// The stores that have joined the cluster, by id. Any store may be asked; the root region's leader answers.
    ///
    /// # Errors
    /// [`StoreError::Root`].
    pub async fn stores(&self) -> Result<Vec<StoreRecord>, StoreError> {
        Ok(self.change_store(StoreId::ZERO, StoreCommand::List).await?.into_values().collect())
    }

    /// What lies on each store that has joined, as the store that plans knows it; any store may ask. What it knows is as old as
    /// the last reports: mostly a round.
    ///
    /// # Errors
    /// [`StoreError::Root`]: the root region's leader cannot be reached, or it does not plan, or has not heard of all regions yet.
    pub async fn store_loads(&self) -> Result<BTreeMap<StoreId, StoreLoad>, StoreError> {
        match self.request_admin(RegionId::ROOT, None, AdminRequest::Loads, self.deadline(None)).await {
            Ok(Outcome::Applied { reply, .. }) => decode_loads(&reply).ok_or(StoreError::Root(RegionError::Uncertain)),
            Ok(_) => Err(StoreError::Root(RegionError::Uncertain)),
            Err(error) => Err(StoreError::Root(error)),
        }
    }

    /// Makes a store known to the cluster, or its new address, weight and labels. What is wanted of it stays as it is: a
    /// store that is being emptied still is. A store that is given a seat by its builder does this by itself. Returns the
    /// record as it is then.
    ///
    /// # Errors
    /// [`StoreError::Left`] if the store has left, [`StoreError::TooLarge`], [`StoreError::Root`].
    pub async fn join(&self, record: StoreRecord) -> Result<StoreRecord, StoreError> {
        let store = record.id;
        let mut stores = self.change_store(store, StoreCommand::Join(Arc::new(record))).await?;
        stores.remove(&store).ok_or(StoreError::Root(RegionError::Uncertain))
    }

    /// Has a store emptied: its leaders hand over, its replicas are replaced by others elsewhere. On return this is decided;
    /// [`Engine::stores`] tells when it is done ([`StoreStanding::Drained`](crate::StoreStanding::Drained)). Needs a cluster
    /// that plans ([`Config::placement`](crate::Config::placement)) and stores that have room.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn drain_store(&self, store: StoreId) -> Result<(), StoreError> {
        self.change_store(store, StoreCommand::Drain(store)).await.map(drop)
    }

    /// Has a store take part again that was to be emptied and has not left.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn cancel_drain(&self, store: StoreId) -> Result<(), StoreError> {
        self.change_store(store, StoreCommand::CancelDrain(store)).await.map(drop)
    }

    /// Notes that a drained store is gone for good. Its id cannot join again until it is forgotten, and should not then.
    ///
    /// # Errors
    /// [`StoreError::NotDrained`] if it may still hold replicas; else as the others.
    pub async fn leave(&self, store: StoreId) -> Result<(), StoreError> {
        self.change_store(store, StoreCommand::Leave(store)).await.map(drop)
    }

    /// Removes what is known of a store that has left. Does nothing if nothing is known.
    ///
    /// # Errors
    /// [`StoreError::NotLeft`]; else as the others.
    pub async fn forget_store(&self, store: StoreId) -> Result<(), StoreError> {
        self.change_store(store, StoreCommand::Forget(store)).await.map(drop)
    }

    /// Each command comes to the same when it is carried out twice, so one of unknown outcome is simply asked for again.
    pub(crate) async fn change_store(&self, store: StoreId, command: StoreCommand) -> Result<Stores, StoreError> {
        let deadline = self.deadline(None);
        let request = AdminRequest::Command(AdminCommand::Store(command));
        let mut pause = PAUSE_MIN;
        loop {
            let reply = match self.request_admin(RegionId::ROOT, None, request.clone(), deadline).await {
                Ok(Outcome::Applied { reply, .. }) => reply,
                Err(RegionError::Uncertain) if self.pause(&mut pause, deadline).await => continue,
                Ok(_) => return Err(StoreError::Root(RegionError::Uncertain)),
                Err(error) => return Err(StoreError::Root(error)),
            };
            let answer = StoreCommand::read_answer(&reply).ok_or(StoreError::Root(RegionError::Uncertain))?;
            return answer.map_err(|fault| StoreError::of(store, fault));
        }
    }
}
