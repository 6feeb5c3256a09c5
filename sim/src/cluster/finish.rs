//! After the faults: every region must take writes again within a bounded time, all replicas must become equal, and what
//! the clients saw must make sense.

use multiraft_raft::RegionId;

use super::{Cluster, Event, id_of};
use crate::check::Violation;
use crate::check::linearizable;
use crate::check::state::{ReplicaState, check_equal, check_once};
use crate::machine;
use crate::plan::CHAOS;
use crate::schedule::{Moment, SECOND};

/// Every region must have taken a write so long after the faults have ended.
const PROGRESS_WITHIN: u64 = 12 * SECOND;

impl Cluster {
    pub(super) fn begin_recovery(&mut self) {
        self.start_probers(false);
        self.schedule.plan(Moment(CHAOS + PROGRESS_WITHIN), Event::Settle);
    }

    /// The time for recovery is over: clients stop, and every key is read a last time.
    pub(super) fn on_settle(&mut self) {
        let late = self.clients.unproven(false);
        if !late.is_empty() {
            let detail =
                format!("regions {late:?} took no write within {} s after the faults", PROGRESS_WITHIN / SECOND);
            return self.fail("every region works again", detail);
        }
        self.clients.closed = true;
        self.start_probers(true);
    }

    /// Judges the run as a whole.
    pub(super) fn judge(&mut self) {
        self.gather_counters();
        let unread = self.clients.unproven(true);
        if !unread.is_empty() {
            return self
                .fail("every region works again", format!("keys of regions {unread:?} could not be read in the end"));
        }
        for region in 1..self.plan.regions + 2 {
            let replicas = self.replicas(RegionId(region));
            self.judge_that(check_equal(RegionId(region), &replicas));
            replicas.first().into_iter().for_each(|replica| self.judge_that(check_once(RegionId(region), replica)));
        }
        if let Err(refused) = linearizable::check(&self.history) {
            self.judge_that(Err(Violation::new("clients see one copy of each key", refused.to_string())));
        }
    }

    fn replicas(&self, region: RegionId) -> Vec<ReplicaState> {
        let mut replicas = Vec::new();
        for (store, node) in self.nodes.iter().enumerate() {
            let Some(process) = &node.process else { continue };
            let worker = &process.workers[self.worker_for(store, region)].worker;
            let Some(status) = worker.status(region) else { continue };
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
            self.counters.forwarded += process.workers.iter().map(|host| host.worker.counters().forwarded).sum::<u64>();
        }
    }
}
