//! Consistency checks, one region after the other, all through a run: whatever the faults make of it, a check never finds two
//! replicas of an engine that works with different states.

use multiraft::apply::DigestTask;
use multiraft::logic::{AdminCommand, AdminRequest, Input, Notice};
use multiraft_raft::RegionId;

use super::{Cluster, Event, Waiter, id_of};
use crate::schedule::MILLI;

/// How often a region is checked.
const INTERVAL: u64 = 700 * MILLI;

impl Cluster {
    pub(super) fn plan_check(&mut self, round: usize) {
        self.schedule.plan_in(INTERVAL, Event::Check { round });
    }

    /// Asks whoever believes that it leads the next region.
    pub(super) fn on_check(&mut self, round: usize) {
        if self.script.is_some() {
            // What is enumerated is kept small.
            return;
        }
        self.plan_check(round + 1);
        let regions: Vec<RegionId> = self.regions.newest().map(|descriptor| descriptor.id).collect();
        let Some(&region) = regions.get(round % regions.len().max(1)) else { return };
        let leads = |store: &usize| self.status(*store, region).is_some_and(|status| status.is_leader);
        let Some(store) = (0..self.nodes.len()).find(leads) else { return };
        let deadline = self.nodes[store].clock.read(self.schedule.now()).plus(self.plan.request_timeout);
        let request = AdminRequest::Command(AdminCommand::Check);
        let worker = self.worker_for(store, region);
        self.say(|| format!("{region:?} is to be checked by {}", id_of(store)));
        // Nobody waits for the answer.
        self.input(store, worker, Input::Admin { region, epoch: None, request, deadline, reply: Waiter::NOBODY });
    }

    /// Takes the digests that a batch asks for.
    pub(super) fn take_digests(&mut self, store: usize, worker: usize, tasks: Vec<DigestTask>) {
        for task in tasks {
            let (handle, index, answer) = (task.handle, task.index, task.run(&|| false));
            self.input(store, worker, Input::Digest { handle, index, answer });
        }
    }

    /// What a leader has found.
    pub(super) fn observe_checks(&mut self, notice: &Notice) {
        match notice {
            Notice::ReplicasDiffer(report) => self.fail("replicas are equal", format!("a check has found {report:?}")),
            Notice::Checked { region, .. } => {
                self.counters.checks += 1;
                self.say(|| format!("{region:?} is checked"));
            }
            _ => {}
        }
    }
}
