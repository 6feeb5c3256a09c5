//! What this worker knows of the support between this store and its peers (`docs/liveness.md`, sections L and F).

use std::collections::BTreeMap;

use multiraft_raft::{StoreId, Time};

use crate::liveness::{Held, SupportEpoch, SupportNews};
use crate::logic::Worker;

/// Support given and held, by peer.
#[derive(Debug, Default)]
pub(super) struct Supports {
    peers: BTreeMap<StoreId, Support>,
}

#[derive(Debug, Default)]
struct Support {
    /// At which of its epochs this store supports the peer.
    given: Option<SupportEpoch>,
    /// What this store holds of the peer.
    held: Option<Held>,
}

impl<R> Worker<R> {
    pub(super) fn on_support(&mut self, _now: Time, news: SupportNews) {
        match news {
            SupportNews::Given { peer, epoch } => self.supports.peers.entry(peer).or_default().given = Some(epoch),
            SupportNews::Withdrawn { peer, epoch } => {
                let peer = self.supports.peers.entry(peer).or_default();
                peer.given = peer.given.filter(|given| *given != epoch);
            }
            SupportNews::Held { peer, support } => self.supports.peers.entry(peer).or_default().held = Some(support),
            SupportNews::Lost { peer } => self.supports.peers.entry(peer).or_default().held = None,
            SupportNews::MayVote | SupportNews::RoundAnswered { .. } => {}
        }
    }
}
