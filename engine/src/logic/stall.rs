//! Replicas that cannot apply a committed entry: the commit of a merge whose source is not beside them any more (M7). Such a
//! replica does not skip the entry. It asks its leader for a snapshot until it has one; while it leads itself, it hands over
//! to somebody else first.

use std::time::Duration;

use multiraft_raft::{LogIndex, RegionId, ReplicaId, StoreId, Time};
use multiraft_router::SlotKey;
use multiraft_transport::RegionStep;

use crate::logic::RegionHandle;
use crate::logic::worker::Worker;

/// How often.
const INTERVAL: Duration = Duration::from_secs(1);

impl<R> Worker<R> {
    /// An entry that was handed out cannot be applied.
    pub(super) fn on_stalled(&mut self, now: Time, handle: RegionHandle, index: LogIndex) {
        let Some(key) = self.live(handle) else { return };
        self.region_mut(key).group.on_stalled(index);
        self.merges.stalled.entry(handle.region).or_insert((index, now)).0 = index;
    }

    /// Does something about those that are stalled; once a round.
    pub(super) fn drive_stalled(&mut self, now: Time) {
        let due = self.merges.stalled.iter().filter(|(_, (_, at))| *at <= now);
        for region in due.map(|(region, _)| *region).collect::<Vec<_>>() {
            let Some((index, at)) = self.merges.stalled.get_mut(&region) else { continue };
            *at = now.plus(INTERVAL);
            let index = *index;
            let stalled = self.slot_of(region).filter(|key| self.region(*key).group.applied_index() < index);
            match stalled {
                Some(key) => self.drive_stall(now, key, index),
                None => {
                    self.merges.stalled.remove(&region);
                }
            }
        }
    }

    fn drive_stall(&mut self, now: Time, key: SlotKey, index: LogIndex) {
        let own_store = self.config.store;
        let region = self.region(key);
        if !region.group.is_leader() {
            let (id, replica) = (region.id(), region.group.id());
            if let Some(leader) = region.leader_store().filter(|leader| *leader != own_store) {
                self.say_of_region(leader, id, RegionStep::NeedSnapshot { replica, index });
            }
            return;
        }
        // Whoever has applied the entry cannot be told from who is about to stall like this one: they take turns.
        let others: Vec<ReplicaId> = self.successors(now, key).map(|replica| replica.id).collect();
        let turn = usize::try_from(region.group.term().get()).unwrap_or_default();
        let Some(target) = others.get(turn.checked_rem(others.len()).unwrap_or_default()).copied() else { return };
        if self.region_mut(key).group.transfer_leader(now, target).is_ok() {
            self.touch(key);
        }
    }

    /// Another store's replica cannot apply an entry: it gets a snapshot, if this one leads and has applied it.
    pub(super) fn handle_need(&mut self, from: StoreId, region: RegionId, replica: ReplicaId, index: LogIndex) {
        let Some(key) = self.slot_of(region) else { return };
        let here = self.region(key);
        let can_help = here.group.is_leader() && here.group.applied_index() >= index;
        if can_help && here.store_of(replica) == Some(from) && !self.is_served(key, replica) {
            self.want_snapshot(key, replica);
        }
    }
}
