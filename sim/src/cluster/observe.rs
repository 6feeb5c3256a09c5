//! What the judges are shown of each turn.

use multiraft::logic::{ApplyTask, Notice, TurnOutput};

use multiraft_storage::LogBatch;

use super::{Cluster, Waiter, id_of};

impl Cluster {
    /// Shows the judges what a turn hands to the log.
    pub(super) fn observe_batch(&mut self, store: usize, batch: Option<&LogBatch>) {
        let Some(batch) = batch else { return };
        let verdict = self.consensus.on_submitted(id_of(store), batch, &self.shadows);
        self.judge_that(verdict);
        self.shadows.on_submitted(id_of(store), batch);
        self.changes.on_submitted(batch);
    }

    /// Shows the judges what a turn wants done, before any of it is.
    pub(super) fn observe_turn(&mut self, store: usize, worker: usize, out: &TurnOutput<Waiter>) {
        self.observe_sends(store, out);
        self.judge_listed(store, worker);
        for notice in &out.notices {
            self.observe_checks(notice);
            if let Notice::Leader { region, term, leader: Some(leader) } = notice {
                let verdict = self.consensus.on_leader(*region, *term, *leader);
                self.judge_that(verdict);
                if *leader == id_of(store) {
                    self.on_elected(store, *region, *term);
                }
            }
        }
        for task in &out.apply {
            if let ApplyTask::Entries { handle, entries, .. } = task {
                self.counters.applied += entries.len() as u64;
                let Some(process) = &self.nodes[store].process else { return };
                let term = process.workers[worker].worker.status(handle.region).map(|status| status.term);
                let term = term.unwrap_or_default();
                let verdict = self.consensus.on_handed_out(id_of(store), handle.region, term, entries);
                self.judge_that(verdict);
            }
        }
    }

    fn on_elected(&mut self, store: usize, region: multiraft_raft::RegionId, term: multiraft_raft::Term) {
        self.counters.elections_won += 1;
        self.say(|| format!("{} leads {region:?} in {term:?}", id_of(store)));
        self.record(6, region.get() << 32 | term.get());
        let verdict = self.consensus.on_elected(region, term, id_of(store), &self.shadows);
        self.judge_that(verdict);
    }
}
