//! After the faults: every region must take writes again within a bounded time, all replicas must become equal, and what
//! the clients saw must make sense.

use std::sync::Arc;

use multiraft::RegionStatus;
use multiraft::logic::DigestAnswer;
use multiraft_raft::{RegionDescriptor, RegionId, Role};

use super::{Cluster, Event, id_of, place_of};
use crate::check::Violation;
use crate::check::linearizable;
use crate::check::state::{ReplicaState, check_equal, check_once};
use crate::machine;
use crate::schedule::{Moment, SECOND};

/// Every region must have taken a write so long after the faults have ended, or after the survivors of a disaster were stopped last to be
/// looked at. One that is frozen then is waited for as long again as a merge may take before it is given up: until then, nothing promises
/// that it takes any. So is one that has just been thawed.
const PROGRESS_WITHIN: u64 = 12 * SECOND;
/// How long clients may take to come back to a region that takes writes again, one key after the other.
const COME_BACK: u64 = 2 * SECOND;

impl Cluster {
    pub(super) fn begin_recovery(&mut self) {
        self.start_probers(false);
        self.schedule.plan(Moment(self.plan.chaos + PROGRESS_WITHIN), Event::Settle);
    }

    /// The time for recovery is over: clients stop, and every key is read a last time.
    pub(super) fn on_settle(&mut self) {
        let late = self.clients.unproven();
        let merge_timeout = self.plan.life.merge_timeout.as_nanos() as u64;
        let begun = self.plan.chaos.max(self.aftermath.looked_at.0);
        let limit = Moment(begun + PROGRESS_WITHIN + merge_timeout);
        if !late.is_empty() {
            let due = Moment(begun + PROGRESS_WITHIN);
            if self.schedule.now() < due {
                self.end.0 += due.0 - self.schedule.now().0;
                return self.schedule.plan(due, Event::Settle);
            }
            // A prober asks for one key after the other: those behind a frozen one have not been asked for.
            let asked = self.clients.probed();
            let all_frozen = asked.iter().all(|key| self.was_just_frozen(&machine::key_bytes(*key)));
            if all_frozen && self.schedule.now() < limit {
                self.counters.merges_awaited += 1;
                self.end.0 += merge_timeout;
                return self.schedule.plan(limit, Event::Settle);
            }
            let seconds = (self.schedule.now().0 - begun) / SECOND;
            let detail = format!("{late:?} took no write within {seconds} s after the faults");
            return self.fail("every region works again", detail);
        }
        self.clients.closed = true;
        self.start_probers(true);
    }

    /// Whether the region that owns a key is frozen, or was a moment ago.
    fn was_just_frozen(&self, key: &[u8]) -> bool {
        let owner = self.regions.newest().find(|region| region.id != RegionId::ROOT && region.range.contains(key));
        let thawed = owner.and_then(|region| self.thawed.get(&region.id));
        self.regions.is_frozen(key) || thawed.is_some_and(|at| self.schedule.now().0 < at.0 + COME_BACK)
    }

    /// Judges the run as a whole.
    pub(super) fn judge(&mut self) {
        self.gather_counters();
        let unread = self.clients.unproven();
        if !unread.is_empty() {
            return self.fail("every region works again", format!("{unread:?} could not be read in the end"));
        }
        self.judge_quiet();
        self.judge_support();
        let regions: Vec<RegionId> = self.regions.newest().map(|descriptor| descriptor.id).collect();
        for region in regions {
            let replicas = self.replicas(region);
            self.judge_that(check_equal(region, &replicas));
            self.judge_digests(region);
            replicas.first().into_iter().for_each(|replica| self.judge_that(check_once(region, replica)));
            (0..self.nodes.len()).for_each(|store| self.sample(store, region));
        }
        if let Err(refused) = linearizable::check(&self.history) {
            self.judge_that(Err(Violation::new("clients see one copy of each key", refused.to_string())));
        }
    }

    /// What a consistency check compares is the same on all replicas, whatever each has gone through: the region's own records and
    /// sessions, too.
    fn judge_digests(&mut self, region: RegionId) {
        let mut all = Vec::new();
        for (store, node) in self.nodes.iter().enumerate() {
            let Some(process) = &node.process else { continue };
            let applier = &process.workers[self.worker_for(store, region)].applier;
            // A replica that is out of service is not compared, nor one without data.
            let status = process.workers[self.worker_for(store, region)].worker.status(region);
            if status.is_some_and(|status| !is_witness(&status.descriptor, store)) {
                all.extend(applier.digest(region).map(|found| (id_of(store), found)));
            }
        }
        let is_digest = |answer: &DigestAnswer| matches!(answer, DigestAnswer::Digest(_));
        if all.iter().any(|(_, found)| !is_digest(&found.1) || *found != all[0].1) {
            self.fail("replicas have one digest", format!("{region:?}: {all:?}"));
        }
    }

    /// Every region is what its last committed change made of it: all its replicas are there, know that and follow a leader,
    /// nothing is on its way, and nothing is left of what was removed.
    fn judge_quiet(&mut self) {
        const QUIET: &str = "a healed cluster becomes quiet";
        let newest: Vec<Arc<RegionDescriptor>> = self.regions.newest().cloned().collect();
        if let Some(region) = self.regions.unfinished() {
            return self.fail("every merge ends", format!("region {region} is still frozen"));
        }
        for descriptor in &newest {
            let region = descriptor.id;
            if descriptor.replicas.iter().any(|replica| replica.role.is_joint()) {
                return self.fail(QUIET, format!("{descriptor:?} is still joint"));
            }
            let mut leaders = 0;
            for replica in &descriptor.replicas {
                // A replica that damage has put out of service stays out until another takes its place, and so does a dead one, and
                // one that was lost with a disk.
                let node = &self.nodes[place_of(replica.store)];
                if self.is_lost(replica) || node.out.contains(&region) {
                    continue;
                }
                let status = self.status(place_of(replica.store), region);
                if status.as_ref().is_none_or(|status| status.descriptor != *descriptor) {
                    return self.fail(QUIET, format!("{replica:?} of {descriptor:?} is {status:?}"));
                }
                leaders += usize::from(status.is_some_and(|status| status.is_leader));
            }
            if leaders != 1 {
                return self.fail(QUIET, format!("{descriptor:?} has {leaders} leaders"));
            }
        }
        for store in 0..self.nodes.len() {
            let Some(process) = &self.nodes[store].process else { continue };
            let handles = process.workers.iter().flat_map(|host| host.worker.handles());
            let stray = handles.map(|handle| handle.region).find(|region| {
                let newest = newest.iter().find(|descriptor| descriptor.id == *region);
                newest.is_none_or(|descriptor| descriptor.replica_on(id_of(store)).is_none())
            });
            if let Some(region) = stray {
                let status = self.status(store, region);
                return self.fail(QUIET, format!("{} still has a replica of {region:?}: {status:?}", id_of(store)));
            }
        }
    }

    pub(super) fn status(&self, store: usize, region: RegionId) -> Option<RegionStatus> {
        let process = self.nodes[store].process.as_ref()?;
        process.workers[self.worker_for(store, region)].worker.status(region)
    }

    fn replicas(&self, region: RegionId) -> Vec<ReplicaState> {
        let mut replicas = Vec::new();
        for (store, node) in self.nodes.iter().enumerate() {
            let Some(process) = &node.process else { continue };
            let worker = &process.workers[self.worker_for(store, region)].worker;
            let Some(status) = worker.status(region) else { continue };
            if is_witness(&status.descriptor, store) {
                // It has nothing that could be looked up.
                continue;
            }
            let pairs = process.backend.lookup(region, None, b"").map(|all| machine::decode_all(&all));
            let pairs = pairs.unwrap_or_default();
            replicas.push(ReplicaState { store: id_of(store), applied: status.applied, pairs });
        }
        replicas
    }

    /// Numbers that the workers of a process count for themselves; processes that died have taken theirs with them.
    fn gather_counters(&mut self) {
        for node in &self.nodes {
            let Some(process) = &node.process else { continue };
            for host in &process.workers {
                let counted = host.worker.counters();
                self.counters.forwarded += counted.forwarded;
                self.counters.rests += counted.rests;
                self.counters.replicas_packed += counted.packed;
                self.counters.replicas_unpacked += counted.unpacked;
                self.counters.promises_ended += counted.promises_ended;
                self.counters.read_rounds += counted.rounds;
                self.counters.reads_by_round += counted.reads_by_round;
                self.counters.reads_by_lease += counted.reads_by_lease;
                self.counters.reads_by_word += counted.reads_by_word;
                self.counters.reads_by_age += counted.reads_by_age;
            }
        }
    }
}

fn is_witness(region: &RegionDescriptor, store: usize) -> bool {
    region.replica_on(id_of(store)).is_some_and(|replica| replica.role == Role::Witness)
}
