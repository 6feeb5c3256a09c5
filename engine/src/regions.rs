//! Changing regions through the handle: splits, other replicas.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{
    ChangeError, ChangeOp, MembershipChange, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role,
    StoreId, Time, apply_to_replicas,
};

use crate::engine::Engine;
use crate::error::RegionError;
use crate::logic::{AdminCommand, AdminRequest, Child, Outcome};
use crate::region::admin::{ALLOCATED_AT_ONCE_MAX, check_split_keys};
use crate::region::beside::step_beside;
use crate::region::merge::{are_together, check_merge};

/// How many ids a store asks the root region for at once.
const IDS_AT_ONCE: u64 = 1024;

/// How long a change of replicas may take: the new ones have to catch up.
const REPLICAS_TIMEOUT: Duration = Duration::from_secs(120);

/// How often it is asked, at least, whether a merge is done.
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// A wanted change of one replica of a region, by the store that it lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A voter on a store that has no replica of the region. It joins as a learner and votes once it has caught up.
    AddVoter(StoreId),
    /// A learner: it receives everything and does not count.
    AddLearner(StoreId),
    /// A voter without data: it makes up a quorum, never leads and answers no reads. Only alone.
    AddWitness(StoreId),
    /// The learner there becomes a voter, once it has caught up.
    Promote(StoreId),
    /// The voter there becomes a learner.
    Demote(StoreId),
    /// The replica there goes.
    Remove(StoreId),
}

impl Change {
    /// [`Change::AddVoter`].
    #[must_use]
    pub fn add_voter(store: StoreId) -> Self {
        Self::AddVoter(store)
    }

    /// [`Change::AddLearner`].
    #[must_use]
    pub fn add_learner(store: StoreId) -> Self {
        Self::AddLearner(store)
    }

    /// [`Change::AddWitness`].
    #[must_use]
    pub fn add_witness(store: StoreId) -> Self {
        Self::AddWitness(store)
    }

    /// [`Change::Promote`].
    #[must_use]
    pub fn promote(store: StoreId) -> Self {
        Self::Promote(store)
    }

    /// [`Change::Demote`].
    #[must_use]
    pub fn demote(store: StoreId) -> Self {
        Self::Demote(store)
    }

    /// [`Change::Remove`].
    #[must_use]
    pub fn remove(store: StoreId) -> Self {
        Self::Remove(store)
    }
}

/// Ids that the root region has given to this store and that are not used yet.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    free: Mutex<Range<u64>>,
    /// Ids up to this one are used up by a recovery, whatever the root region says.
    used_upto: u64,
}

impl Ids {
    pub(crate) fn above(used_upto: u64) -> Self {
        Self { free: Mutex::default(), used_upto }
    }

    /// Some of them, if there are so many and they are all above `floor`.
    fn take(&self, count: u64, floor: u64) -> Option<Range<u64>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let end = free.start + count;
        if end > free.end || free.start <= floor {
            return None;
        }
        let taken = free.start..end;
        free.start = end;
        Some(taken)
    }

    /// What is left of an earlier block is given up: ids are plenty.
    fn refill(&self, block: Range<u64>) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) = block;
    }
}

impl Engine {
    /// Splits a region at `keys`, which must ascend and lie inside its range: the region keeps what lies before the first
    /// key, each further part becomes a region of its own, led from the same store. Returns all parts, in key order.
    ///
    /// On return the split is committed, applied at the leader and durable there.
    ///
    /// # Errors
    /// [`RegionError`]; only [`RegionError::Uncertain`] leaves open whether the region was or will be split.
    pub async fn split(
        &self,
        region: RegionId,
        keys: impl IntoIterator<Item = impl Into<Bytes>>,
    ) -> Result<Vec<Arc<RegionDescriptor>>, RegionError> {
        let keys: Vec<Bytes> = keys.into_iter().map(Into::into).collect();
        let deadline = self.deadline(None);
        let mut current = self.describe(region, deadline).await?;
        loop {
            match self.split_of(&current, &keys).await {
                // Its replicas have changed meanwhile: the keys may still be fine.
                Err(RegionError::EpochMismatch { current: newer }) if newer.epoch != current.epoch => current = newer,
                result => return result,
            }
        }
    }

    /// Splits a region that is at this very epoch.
    pub(crate) async fn split_of(
        &self,
        current: &Arc<RegionDescriptor>,
        keys: &[Bytes],
    ) -> Result<Vec<Arc<RegionDescriptor>>, RegionError> {
        let deadline = self.deadline(None);
        let refuse = |fault| RegionError::Split { fault, current: Arc::clone(current) };
        check_split_keys(current, keys.iter()).map_err(refuse)?;
        let replicas = current.replicas.len() as u64;
        // Above those of its parent: a store on which that one has come to be takes them, too, should they come to it by a message.
        let floor = current.replicas.iter().map(|replica| replica.id.get()).max().unwrap_or_default();
        let mut ids = self.allocate_ids((1 + replicas) * keys.len() as u64, floor, deadline).await?;
        let mut child = |key: &Bytes| {
            let region = RegionId(ids.next()?);
            let replicas = (0..replicas).map(|_| ids.next().map(ReplicaId)).collect::<Option<Vec<_>>>()?;
            Some(Child { start: key.clone(), region, replicas })
        };
        let children: Vec<Child> = keys.iter().map_while(&mut child).collect();
        let request = AdminRequest::Command(AdminCommand::Split { children });
        self.administer(current.id, Some(current.epoch), request, deadline).await
    }

    /// Merges a region into its neighbour, which takes over its keys and its sessions. Returns the merged region.
    ///
    /// If the two are not on the same stores, the source's replicas are moved there first. From then on, for some round trips,
    /// the source takes neither writes nor reads; callers get `Busy` and try again. On return the merge is committed and
    /// applied at the target's leader. A merge that cannot be finished is rolled back by itself: the source takes writes
    /// again.
    ///
    /// # Errors
    /// [`RegionError`]. [`RegionError::RolledBack`]: nothing has changed but versions, try again. After
    /// [`RegionError::Uncertain`] the merge goes on by itself, to one end or the other.
    pub async fn merge(&self, source: RegionId, into: RegionId) -> Result<Arc<RegionDescriptor>, RegionError> {
        let deadline = self.deadline(Some(REPLICAS_TIMEOUT));
        let mut pause = Duration::from_millis(20);
        let (frozen, target) = loop {
            let from = self.describe(source, deadline).await?;
            let target = self.describe(into, deadline).await?;
            check_merge(&from, &target).map_err(|fault| RegionError::Merge { fault, current: Arc::clone(&from) })?;
            if !are_together(&from, &target) {
                self.move_beside(&from, &target).await?;
                continue;
            }
            let request = AdminRequest::Command(AdminCommand::Freeze { target: Arc::clone(&target) });
            match self.administer(source, Some(from.epoch), request, deadline).await {
                Ok(regions) => {
                    let frozen = regions.into_iter().next().ok_or(RegionError::Uncertain)?;
                    break (frozen, target);
                }
                Err(RegionError::EpochMismatch { .. }) if self.pause(&mut pause, deadline).await => {}
                Err(error) => return Err(error),
            }
        };
        self.await_merge(&frozen, &target, deadline).await
    }

    /// Waits for a merge to come to one end or the other.
    async fn await_merge(
        &self,
        frozen: &Arc<RegionDescriptor>,
        target: &Arc<RegionDescriptor>,
        deadline: Time,
    ) -> Result<Arc<RegionDescriptor>, RegionError> {
        let probe = AdminRequest::Command(AdminCommand::CommitMerge {
            // An index that no freeze has: it is only asked whether the merge is done.
            index: multiraft_raft::LogIndex::ZERO,
            source: Arc::clone(frozen),
        });
        let mut pause = Duration::from_millis(5);
        loop {
            // At an epoch that the target has left, so that nothing is ever proposed.
            let passed = Some(RegionEpoch { conf_version: 0, version: u64::MAX });
            match self.request_admin(target.id, passed, probe.clone(), deadline).await {
                Ok(Outcome::Done) => return self.describe(target.id, deadline).await,
                Err(RegionError::EpochMismatch { current }) if current.epoch.version > target.epoch.version => {
                    return Err(RegionError::RolledBack { current });
                }
                Ok(_) | Err(RegionError::EpochMismatch { .. } | RegionError::UnknownRegion { .. }) => {}
                Err(error) => return Err(error),
            }
            if !self.pause(&mut pause, deadline).await {
                return Err(RegionError::Uncertain);
            }
            pause = pause.min(ASK_INTERVAL);
        }
    }

    /// Moves the replicas of a region nearer to where those of another are, by one step.
    async fn move_beside(
        &self,
        region: &Arc<RegionDescriptor>,
        other: &Arc<RegionDescriptor>,
    ) -> Result<(), RegionError> {
        let changes = step_beside(region, other);
        // Of the region as it was looked at: what a leader's worker tells may be older than what its applier has answered.
        match self.change_replicas_of(Arc::clone(region), changes).await {
            // Somebody else has moved one of the two: look again.
            Ok(_) | Err(RegionError::EpochMismatch { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Changes the replicas of a region; several changes at once take effect together (by joint consensus). Returns the
    /// region as it is afterwards. If no voter stays, the new ones come in one step and the old ones go in a second.
    ///
    /// A new voter first joins as a learner and catches up, so that it can help as soon as it counts. If that takes too long
    /// the learner stays, and the same call may be made again.
    ///
    /// Refused if those left could not elect a leader without stores that have not been heard of for an election timeout: of three
    /// voters of which one is down, the one that is down may be removed, and no other.
    ///
    /// # Errors
    /// [`RegionError`]. After [`RegionError::Uncertain`] and [`RegionError::Busy`] some of the changes may have been made: look
    /// at the region.
    pub async fn change_replicas(
        &self,
        region: RegionId,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<Arc<RegionDescriptor>, RegionError> {
        let current = self.describe(region, self.deadline(Some(REPLICAS_TIMEOUT))).await?;
        self.change_replicas_of(current, changes.into_iter().collect()).await
    }

    /// Changes the replicas of a region that is at this very epoch.
    pub(crate) async fn change_replicas_of(
        &self,
        mut current: Arc<RegionDescriptor>,
        changes: Vec<Change>,
    ) -> Result<Arc<RegionDescriptor>, RegionError> {
        let deadline = self.deadline(Some(REPLICAS_TIMEOUT));
        check_changes(&current, &changes)?;
        // New voters begin as learners; one that an earlier attempt has left there is taken up again.
        for change in &changes {
            let Change::AddVoter(store) = *change else { continue };
            if current.replica_on(store).is_none() {
                let id = ReplicaId(self.allocate_id(deadline).await?);
                current = self.change_once(&current, ChangeOp::AddLearner { id, store }, deadline).await?;
            }
        }
        let mut ops = Vec::new();
        for change in &changes {
            ops.push(self.op_of(&current, *change, deadline).await?);
        }
        // Leadership stays with somebody who votes before and after: if nobody does, the new voters come first.
        let goes = |op: &ChangeOp| matches!(op, ChangeOp::Remove { .. } | ChangeOp::Demote { .. });
        let stays =
            |replica: &Replica| replica.role == Role::Voter && !ops.iter().any(|op| goes(op) && op.id() == replica.id);
        if !current.replicas.iter().any(stays) && !ops.iter().all(goes) {
            let (gone, come): (Vec<_>, Vec<_>) = ops.into_iter().partition(goes);
            current = self.change_together(&current, come, deadline).await?;
            ops = gone;
        }
        self.change_together(&current, ops, deadline).await
    }

    /// Makes several steps at once, and waits until the joint configuration that they go through is left.
    async fn change_together(
        &self,
        current: &Arc<RegionDescriptor>,
        ops: Vec<ChangeOp>,
        deadline: Time,
    ) -> Result<Arc<RegionDescriptor>, RegionError> {
        let change = MembershipChange::of(ops, &current.replicas);
        let region = current.id;
        let mut current = self.change_members(current, change, deadline).await?;
        // The joint configuration is left by itself.
        let mut pause = Duration::from_millis(5);
        while current.replicas.iter().any(|replica| replica.role.is_joint()) {
            if !self.pause(&mut pause, deadline).await {
                return Err(RegionError::Uncertain);
            }
            // A new leader that has not applied the change yet describes what was before it.
            let told = self.describe(region, deadline).await?;
            if !told.epoch.is_behind(current.epoch) {
                current = told;
            }
        }
        Ok(current)
    }

    async fn op_of(
        &self,
        current: &Arc<RegionDescriptor>,
        change: Change,
        deadline: Time,
    ) -> Result<ChangeOp, RegionError> {
        let id_on = |store| {
            let replica = current.replica_on(store).map(|replica| replica.id);
            replica.ok_or_else(|| RegionError::NoReplica { store, current: Arc::clone(current) })
        };
        Ok(match change {
            Change::AddVoter(store) | Change::Promote(store) => ChangeOp::Promote { id: id_on(store)? },
            Change::AddLearner(store) => {
                ChangeOp::AddLearner { id: ReplicaId(self.allocate_id(deadline).await?), store }
            }
            Change::AddWitness(store) => {
                ChangeOp::AddWitness { id: ReplicaId(self.allocate_id(deadline).await?), store }
            }
            Change::Demote(store) => ChangeOp::Demote { id: id_on(store)? },
            Change::Remove(store) => ChangeOp::Remove { id: id_on(store)? },
        })
    }

    async fn change_once(
        &self,
        current: &Arc<RegionDescriptor>,
        op: ChangeOp,
        deadline: Time,
    ) -> Result<Arc<RegionDescriptor>, RegionError> {
        self.change_members(current, MembershipChange::Simple(op), deadline).await
    }

    async fn change_members(
        &self,
        current: &Arc<RegionDescriptor>,
        change: MembershipChange,
        deadline: Time,
    ) -> Result<Arc<RegionDescriptor>, RegionError> {
        apply_to_replicas(&current.replicas, &change)
            .map_err(|fault| RegionError::Replicas { fault, current: Arc::clone(current) })?;
        let request = AdminRequest::Membership(change);
        let regions = self.administer(current.id, Some(current.epoch), request, deadline).await?;
        regions.into_iter().next().ok_or(RegionError::Uncertain)
    }

    /// The region as its leader knows it.
    ///
    /// # Errors
    /// [`RegionError`].
    pub async fn describe_region(&self, region: RegionId) -> Result<Arc<RegionDescriptor>, RegionError> {
        self.describe(region, self.deadline(None)).await
    }

    pub(crate) async fn describe(
        &self,
        region: RegionId,
        deadline: Time,
    ) -> Result<Arc<RegionDescriptor>, RegionError> {
        let mut pause = Duration::from_millis(1);
        loop {
            let regions = self.administer(region, None, AdminRequest::Describe, deadline).await?;
            let told = regions.into_iter().next().ok_or(RegionError::UnknownRegion { region })?;
            // The applier answers a change before the leader's worker has heard of it: who asks next must not be told of what was.
            let is_old = self.region(region).is_some_and(|known| told.epoch.is_behind(known.epoch));
            if !is_old {
                return Ok(told);
            }
            if !self.pause(&mut pause, deadline).await {
                return Err(RegionError::Busy { region });
            }
        }
    }

    /// An id for a replica of a region that there is: higher than that of any replica that the region has had, or the tombstone
    /// of one on the same store would keep it out for ever. So it does not come from a block, which others may have overtaken,
    /// but from the root region itself, and after the epoch was learned that the change is proposed under.
    async fn allocate_id(&self, deadline: Time) -> Result<u64, RegionError> {
        self.allocate_block(1, deadline).await
    }

    /// Ids above `floor`, which the root region has given away, that were never used, for regions and their first replicas. Most calls
    /// need no round trip: the root region gives them away in blocks.
    async fn allocate_ids(&self, count: u64, floor: u64, deadline: Time) -> Result<Range<u64>, RegionError> {
        loop {
            if let Some(ids) = self.ids().take(count, floor) {
                return Ok(ids);
            }
            let size = count.max(IDS_AT_ONCE);
            let first = self.allocate_block(size, deadline).await?;
            self.ids().refill(first..first + size);
        }
    }

    /// The root region gives so many ids away; the first of them.
    pub(crate) async fn allocate_block(&self, count: u64, deadline: Time) -> Result<u64, RegionError> {
        loop {
            let first = self.allocate_next(count, deadline).await?;
            let used_upto = self.ids().used_upto;
            if first > used_upto {
                return Ok(first);
            }
            // The root region lived through a recovery that has taken ids from it unasked: those are passed over.
            let next = first.saturating_add(count);
            if next <= used_upto {
                self.allocate_next((used_upto - next + 1).min(ALLOCATED_AT_ONCE_MAX), deadline).await?;
            }
        }
    }

    async fn allocate_next(&self, count: u64, deadline: Time) -> Result<u64, RegionError> {
        let request = AdminRequest::Command(AdminCommand::AllocateIds { count });
        let first = match self.request_admin(RegionId::ROOT, None, request, deadline).await? {
            Outcome::Applied { reply, .. } => reply.as_ref().try_into().ok().map(u64::from_be_bytes),
            _ => None,
        };
        first.ok_or(RegionError::Uncertain)
    }

    /// Has a region changed, and returns what has come of it.
    async fn administer(
        &self,
        region: RegionId,
        epoch: Option<RegionEpoch>,
        request: AdminRequest,
        deadline: Time,
    ) -> Result<Vec<Arc<RegionDescriptor>>, RegionError> {
        match self.request_admin(region, epoch, request, deadline).await? {
            Outcome::Changed { regions } => Ok(regions),
            _ => Err(RegionError::Uncertain),
        }
    }
}

/// Checks what can be checked before anything is proposed.
fn check_changes(current: &Arc<RegionDescriptor>, changes: &[Change]) -> Result<(), RegionError> {
    let refuse = |fault| Err(RegionError::Replicas { fault, current: Arc::clone(current) });
    if changes.is_empty() {
        return refuse(ChangeError::Empty);
    }
    if current.replicas.iter().any(|replica| replica.role.is_joint()) {
        return refuse(ChangeError::Joint);
    }
    // As if all of it happened at once, with ids that nobody has.
    let mut ops = Vec::new();
    for (change, free) in changes.iter().zip(1..) {
        let id = ReplicaId(u64::MAX - free);
        let id_on = |store| current.replica_on(store).map(|replica| replica.id);
        let named = |store| id_on(store).ok_or(RegionError::NoReplica { store, current: Arc::clone(current) });
        ops.push(match *change {
            Change::AddVoter(store) => match current.replica_on(store) {
                // An earlier attempt has got so far.
                Some(replica) if replica.role == Role::Learner => ChangeOp::Promote { id: replica.id },
                _ => ChangeOp::AddVoter { id, store },
            },
            Change::AddLearner(store) => ChangeOp::AddLearner { id, store },
            Change::AddWitness(store) => ChangeOp::AddWitness { id, store },
            Change::Promote(store) => ChangeOp::Promote { id: named(store)? },
            Change::Demote(store) => ChangeOp::Demote { id: named(store)? },
            Change::Remove(store) => ChangeOp::Remove { id: named(store)? },
        });
    }
    let change = MembershipChange::of(ops, &current.replicas);
    match apply_to_replicas(&current.replicas, &change) {
        Ok(_) => Ok(()),
        Err(fault) => refuse(fault),
    }
}
