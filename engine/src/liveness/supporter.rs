//! One pair of stores from the supporter's side: what this store promises a peer (L3, L5, L7, L8).
//!
//! ```text
//!             higher epoch               fresh heartbeat
//!   nothing ---------------> known ----------------------> supported --+ fresh heartbeat: until = max(until, now + d)
//!      ^                      |  ^                          |      ^---+
//!      |                      |  +---- higher epoch --------+
//!      |            farewell  |     (withdrawn first)       |  now > until, or farewell
//!      |                      v                             v
//!      +---- never ------- withdrawn <----------------------+
//! ```

use std::time::Duration;

use multiraft_raft::{StoreId, Time};
use multiraft_transport::{SupportHeartbeat, SupportVerdict};

use super::{SupportEpoch, SupportNews};

/// What this store has promised one peer.
///
/// Kept for as long as the process lasts, whatever becomes of the peer: a withdrawn epoch must never be supported again.
#[derive(Debug, Default)]
pub(super) struct Supporter {
    /// The highest epoch that was asked for. Invariant: never goes back.
    epoch: SupportEpoch,
    /// The newest heartbeat of that epoch's incarnation that was taken in.
    sequence: u64,
    standing: Standing,
}

/// How the highest epoch stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// Asked for, never supported.
    #[default]
    Known,
    Supported {
        until: Time,
    },
    /// For good.
    Withdrawn,
}

impl Supporter {
    /// The epoch that is supported now.
    pub(super) fn given(&self) -> Option<SupportEpoch> {
        matches!(self.standing, Standing::Supported { .. }).then_some(self.epoch)
    }

    /// Takes a heartbeat (L3); `None`: dropped, it is not answered. `now` was read after the heartbeat had come in. `most` is the
    /// longest duration that this store gives; `None`: it supports nothing new any more.
    pub(super) fn handle(
        &mut self,
        now: Time,
        peer: StoreId,
        heartbeat: &SupportHeartbeat,
        is_fresh: bool,
        (most, is_giving): (u32, bool),
        news: &mut Vec<SupportNews>,
    ) -> Option<SupportVerdict> {
        let SupportHeartbeat { incarnation, number, sequence, wish_ms, farewell, .. } = *heartbeat;
        let epoch = SupportEpoch { incarnation, number };
        if epoch < self.epoch || (incarnation, sequence) <= (self.epoch.incarnation, self.sequence) {
            return None;
        }
        self.sequence = sequence;
        if epoch > self.epoch {
            self.withdraw(peer, news);
            (self.epoch, self.standing) = (epoch, Standing::Known);
        }
        if farewell {
            self.withdraw(peer, news);
        }
        let duration_ms = wish_ms.min(most);
        let until = now.plus(Duration::from_millis(u64::from(duration_ms)));
        let verdict = match &mut self.standing {
            Standing::Withdrawn => SupportVerdict::Withdrawn,
            _ if !is_fresh || duration_ms == 0 => SupportVerdict::NotNow,
            Standing::Known if !is_giving => SupportVerdict::NotNow,
            Standing::Known => {
                self.standing = Standing::Supported { until };
                news.push(SupportNews::Given { peer, epoch });
                SupportVerdict::Supported { duration_ms }
            }
            Standing::Supported { until: present } => {
                *present = until.max(*present);
                SupportVerdict::Supported { duration_ms }
            }
        };
        Some(verdict)
    }

    /// Withdraws what has run out (L7). To be called when the messages that wait have been taken in.
    pub(super) fn tick(&mut self, now: Time, peer: StoreId, news: &mut Vec<SupportNews>) {
        if matches!(self.standing, Standing::Supported { until } if now > until) {
            self.withdraw(peer, news);
        }
    }

    /// When [`Supporter::tick`] would withdraw.
    pub(super) fn deadline(&self) -> Time {
        match self.standing {
            Standing::Supported { until } => Time(until.0.saturating_add(1)),
            Standing::Known | Standing::Withdrawn => Time::NEVER,
        }
    }

    /// The mark first, then the word to the workers.
    fn withdraw(&mut self, peer: StoreId, news: &mut Vec<SupportNews>) {
        let was = std::mem::replace(&mut self.standing, Standing::Withdrawn);
        if matches!(was, Standing::Supported { .. }) {
            news.push(SupportNews::Withdrawn { peer, epoch: self.epoch });
        }
    }
}
