//! Reads on the caller's thread: of the state as it is, by lease, and by the index that a leader elsewhere has told.

use std::sync::PoisonError;

use bytes::Bytes;
use multiraft_raft::{RegionEpoch, RegionId, Time};

use crate::engine::Engine;
use crate::error::ReadError;
use crate::logic::{Look, Outcome};
use crate::shell::Completion;

impl Engine {
    /// Answers a query from the applied state here, of this instant.
    pub(crate) fn look_up(
        &self,
        region: RegionId,
        epoch: Option<RegionEpoch>,
        query: &[u8],
    ) -> Result<Bytes, ReadError> {
        self.check_running().map_err(|reason| ReadError::Stopped { reason })?;
        let open = self.running().open.read().unwrap_or_else(PoisonError::into_inner);
        let stopped = || ReadError::Stopped { reason: "shut down".to_owned() };
        let found = open.as_ref().ok_or_else(stopped)?.backend.lookup(region, epoch, query);
        if let Err(ReadError::EpochMismatch { current }) = &found {
            self.learn(current);
        }
        found
    }

    /// Reads past the worker: from the state here, if this store leads the region and a lease will do and lasts, or once the
    /// leader's store has told its index. `None`: the worker has to see to it.
    ///
    /// The order is what makes it right (R2a, R4): the read comes in, what is listed is looked at, the view is taken.
    pub(crate) async fn read_past_worker(
        &self,
        (region, epoch): (RegionId, Option<RegionEpoch>),
        query: &[u8],
        lease: bool,
        deadline: Time,
    ) -> Option<Result<Bytes, ReadError>> {
        let running = self.running();
        let leased = &running.leased;
        let looked_up = match leased.look(region, epoch, lease) {
            Look::Here { epoch } => epoch,
            Look::There { leader, term, epoch } => {
                let (reply, answer) = Completion::new();
                if !leased.ask(leader, (region, epoch, term), lease, reply) {
                    return None;
                }
                // A store from which nothing comes for so long may be out of reach: the worker knows.
                let patience = deadline.min(self.now().plus(running.config.raft.election_timeout_min));
                let Some(Outcome::ReadAt { .. }) = self.wait(answer, patience).await else { return None };
                epoch
            }
            Look::Worker => return None,
        };
        match self.look_up(region, Some(looked_up), query) {
            // What has become of the region is for the worker to say.
            Err(ReadError::EpochMismatch { .. } | ReadError::UnknownRegion { .. }) => None,
            found => {
                leased.count();
                Some(found)
            }
        }
    }
}
