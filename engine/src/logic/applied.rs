//! What became of entries that were handed out to be applied.

use std::sync::Arc;

use multiraft_raft::{Membership, RegionDescriptor, Time};
use multiraft_router::SlotKey;

use crate::logic::ahead::AHEAD;
use crate::logic::worker::Worker;
use crate::logic::{Applied, Notice};

/// How many groups that were held back go on in one turn.
const HELD_PER_TURN: usize = 64;

impl<R> Worker<R> {
    pub(super) fn on_applied(&mut self, now: Time, applied: Vec<Applied>) {
        let reads_ahead = self.reads_ahead();
        let mut applied = applied.into_iter();
        while !applied.as_slice().is_empty() {
            if reads_ahead {
                self.read_ahead_for_applied(applied.as_slice());
            }
            applied.by_ref().take(AHEAD).for_each(|done| self.on_done(now, done));
        }
        self.resume_held();
    }

    /// What became of one region's entries.
    fn on_done(&mut self, now: Time, done: Applied) {
        self.apply_backlog = self.apply_backlog.saturating_sub(done.cost);
        let live = self.live(done.handle);
        let (splits, changes_members) = (done.split.is_some(), !done.memberships.is_empty());
        if let Some(key) = live {
            for (index, descriptor) in done.memberships {
                self.on_membership(now, key, index, descriptor);
            }
        }
        // A split is the last of the entries: what it makes of the region stands. Also if the parent is gone by now, since its
        // children are there.
        if let Some(split) = done.split {
            self.on_split(live, split);
        }
        let changes = done.change.is_some();
        if let Some(change) = done.change {
            self.on_region_change(now, live, change);
        }
        let Some(key) = live else { return };
        let group = &mut self.region_mut(key).group;
        group.on_applied(now, done.index);
        // Else there is nothing that the group would want done about it.
        let matters = changes_members || splits || changes || group.has_undelivered() || group.membership().is_joint();
        self.release_confirmed(key);
        if matters {
            self.touch(key);
        } else {
            self.region_mut(key).trim();
            self.list_again(key);
        }
    }

    /// Lets some of the groups go on whose entries were held back, once there is room again.
    fn resume_held(&mut self) {
        if self.apply_backlog > self.config.apply_queue_bytes / 2 {
            return;
        }
        let count = self.held.len().min(HELD_PER_TURN);
        let resumed: Vec<SlotKey> = self.held.drain(..count).collect();
        for key in resumed {
            if let Some(region) = self.regions.get_mut(key) {
                region.held = false;
                self.touch(key);
            }
        }
    }

    fn on_membership(
        &mut self,
        now: Time,
        key: SlotKey,
        index: multiraft_raft::LogIndex,
        descriptor: Option<Arc<RegionDescriptor>>,
    ) {
        let region = self.region_mut(key);
        let Some(descriptor) = descriptor else {
            return region.group.on_membership_noop(index);
        };
        let membership = Membership::from_replicas(&descriptor.replicas);
        let before = Arc::clone(region.descriptor());
        region.set_descriptor(Arc::clone(&descriptor));
        region.group.on_membership_applied(now, index, membership);
        self.on_members(key, index, &before, &descriptor);
        self.notices.push(Notice::Descriptor(descriptor));
    }
}
