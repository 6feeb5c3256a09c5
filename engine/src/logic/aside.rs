//! Replicas of this store that are out of service: fenced by their regions, or damaged. They say nothing, and lie there until
//! their regions go on without them; then they are removed as any replica is (`lifecycle`), and a later one may come.

use std::sync::Arc;
use std::time::Duration;

use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, ReplicaId, StoreId, Term, Time};
use multiraft_router::SlotKey;
use multiraft_transport::RegionStep;

use crate::apply::Cause;
use crate::assembly::FENCED_REASON;
use crate::logic::worker::Worker;
use crate::logic::{ApplyTask, Notice};

/// How often the stores of its region are asked whether it goes on without a replica that is out of service.
const ASK_INTERVAL: Duration = Duration::from_secs(10);

const CHILD_REASON: &str = "the log may have lost what this replica of a split's child has voted: replace it";

/// How long a fenced replica that leads waits for another one to take over.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(10);

/// Of this worker.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// Replicas that have applied that they are fenced, and when.
    fenced: Vec<(SlotKey, Time)>,
    next_ask: Time,
}

impl<R> Worker<R> {
    /// The region's state says who is fenced: the replica here goes out of service if it is among them.
    pub(super) fn note_fenced(&mut self, key: SlotKey) {
        let region = self.region(key);
        let is_new = self.aside.fenced.iter().all(|(fenced, _)| *fenced != key);
        if is_new && region.merge.fenced.contains(region.group.id()) {
            self.aside.fenced.push((key, self.now));
        }
    }

    /// Takes fenced replicas out of service. Once a round: what they had to say has left by now.
    pub(super) fn set_fenced_aside(&mut self, now: Time) {
        for (key, since) in std::mem::take(&mut self.aside.fenced) {
            let Some(region) = self.regions.get_mut(key) else { continue };
            // Others elected it before it had heard. They are right to believe its log; its state answers nobody any more.
            if region.group.is_leader() && now.since(since) < HAND_OVER_TIMEOUT {
                self.hand_over(now, key);
                self.aside.fenced.push((key, since));
                continue;
            }
            let (id, replica, known) = (region.id(), region.group.id(), Arc::clone(region.descriptor()));
            self.keep_promises(key);
            self.remove_region(id);
            self.set_aside(id, replica, known);
            self.notices.push(Notice::SetAside { region: id, reason: FENCED_REASON });
        }
        self.ask_of_those_aside(now);
    }

    fn hand_over(&mut self, now: Time, key: SlotKey) {
        let group = &self.region(key).group;
        let others = self.successors(now, key);
        let Some(target) = others.max_by_key(|replica| group.match_index(replica.id)).copied() else { return };
        if self.region_mut(key).group.transfer_leader(now, target.id).is_ok() {
            self.touch(key);
        }
    }

    /// A child of a split has its state here, and its replica may have voted before the log lost what it held: it is what a start
    /// would find, and goes as such a replica does.
    pub(super) fn set_child_aside(&mut self, child: Arc<RegionDescriptor>) {
        let region = child.id;
        let newest = child.replicas.iter().map(|replica| replica.id).max().unwrap_or_default();
        self.set_aside(region, newest, child);
        self.notices.push(Notice::SetAside { region, reason: CHILD_REASON });
    }

    /// What another store says of a region, whose replica here may be out of service: if the region goes on without that very
    /// replica, it is removed (G1).
    pub(super) fn tell_aside(
        &mut self,
        region: RegionId,
        known: &Arc<RegionDescriptor>,
        committed: (LogIndex, Term),
    ) -> bool {
        let Some(held) = self.held(region) else { return false };
        let own = held.replica_on(self.config.store).map_or(ReplicaId::ZERO, |own| own.id);
        let is_newer = known.epoch.conf_version > held.epoch.conf_version;
        if known.id != region || !is_newer || known.replica(own).is_some() || !self.begin_removal(region) {
            return false;
        }
        self.counters.replicas_removed += 1;
        let known = Arc::clone(known);
        self.notices.push(Notice::Removed { region, known: Arc::clone(&known) });
        self.push_apply(ApplyTask::Destroy { region, known, cause: Cause::Removed, committed });
        true
    }

    /// The replicas that are out of service and have a state here.
    pub(super) fn replicas_aside(&self) -> Vec<(RegionId, ReplicaId)> {
        let own = |held: &RegionDescriptor| held.replica_on(self.config.store).map(|own| own.id);
        self.all_held().into_iter().filter_map(|(region, held)| Some((region, own(&held)?))).collect()
    }

    /// A replica that is out of service hears no leader: it asks, every now and then.
    fn ask_of_those_aside(&mut self, now: Time) {
        if now < self.aside.next_ask {
            return;
        }
        self.aside.next_ask = now.plus(ASK_INTERVAL);
        let own_store = self.config.store;
        for (region, held) in self.all_held() {
            let replica = held.replica_on(own_store).map_or(ReplicaId::ZERO, |own| own.id);
            let stores: Vec<StoreId> = held.replicas.iter().map(|other| other.store).collect();
            for store in stores.into_iter().filter(|store| *store != own_store) {
                self.say_of_region(store, region, RegionStep::Ask { replica, epoch: held.epoch });
            }
        }
    }
}
