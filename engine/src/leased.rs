//! Reads by lease on the caller's thread.

use bytes::Bytes;
use multiraft_raft::{RegionEpoch, RegionId, Time};

use crate::engine::Engine;
use crate::error::ReadError;
use crate::logic::{Look, Outcome};
use crate::shell::Completion;

impl Engine {
    /// Reads past the worker: from the state here, if this store leads the region and its lease lasts, or once the leader's store
    /// has told its index. `None`: the worker has to see to it.
    ///
    /// The order is what makes it right (R4): the read comes in, the lease is seen to last, the view is taken.
    pub(crate) async fn read_by_lease(
        &self,
        (region, epoch): (RegionId, Option<RegionEpoch>),
        query: &[u8],
        deadline: Time,
    ) -> Option<Result<Bytes, ReadError>> {
        let leased = &self.running().leased;
        let looked_up = match leased.look(region, epoch) {
            Look::Here { epoch } => epoch,
            Look::There { leader, term, epoch } => {
                let (reply, answer) = Completion::new();
                if !leased.ask(leader, (region, epoch, term), reply) {
                    return None;
                }
                let Some(Outcome::ReadAt { .. }) = self.wait(answer, deadline).await else { return None };
                epoch
            }
            Look::Worker => return None,
        };
        match self.look_up(region, Some(looked_up), query) {
            // What has become of the region is for the worker to say.
            Err(ReadError::EpochMismatch { .. } | ReadError::UnknownRegion { .. }) => None,
            found => Some(found),
        }
    }
}
