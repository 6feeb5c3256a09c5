//! What a recovered region remembers: an entry of its log, in front of all that it decides from then on, and then a record of
//! its own.
//!
//! ```text
//! format (1) | varint plan | bytes note | count, so many varint dead stores
//! | varint store kept | index and term of the last entry kept | loss | descriptor before
//! ```

use std::sync::PoisonError;

use bytes::{BufMut, Bytes};
use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, StoreId, Term};

use super::codec::{In, Out};
use super::plan::{Keep, Plan, PlanId};
use crate::engine::Engine;

const FORMAT: u8 = 1;

/// How a region was recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryRecord {
    /// By which plan.
    pub plan: PlanId,
    /// Who, when and why, as he said it.
    pub note: String,
    /// The stores that were given up.
    pub dead: Vec<StoreId>,
    /// The store whose replica was kept.
    pub store: StoreId,
    /// The last entry of it; what may have been committed after that is lost.
    pub last: (LogIndex, Term),
    /// The region before.
    pub before: RegionDescriptor,
}

impl RecoveryRecord {
    pub(super) fn new(plan: &Plan, keep: &Keep) -> Self {
        Self {
            plan: plan.id(),
            note: plan.note.clone(),
            dead: plan.dead.clone(),
            store: keep.store,
            last: keep.last,
            before: keep.expected.clone(),
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = Out::default();
        out.0.put_u8(FORMAT);
        out.num(self.plan.0);
        out.bytes(self.note.as_bytes());
        out.list(&self.dead, |out, store| out.num(store.get()));
        out.num(self.store.get());
        out.position(self.last);
        out.descriptor(&self.before);
        out.0.freeze()
    }

    /// Reads the record; `None` if it is none of this version.
    pub(crate) fn decode(stored: &Bytes) -> Option<Self> {
        let mut body = In::new(stored.clone());
        if body.byte()? != FORMAT {
            return None;
        }
        let record = Self {
            plan: PlanId(body.num()?),
            note: body.text()?,
            dead: body.list(In::store)?,
            store: body.store()?,
            last: body.position()?,
            before: body.descriptor()?,
        };
        body.is_done().then_some(record)
    }
}

impl Engine {
    /// How a region was last recovered after it had lost its quorum, as its replica on this store remembers; `None`: never, or
    /// there is no replica here.
    #[must_use]
    pub fn recovered(&self, region: RegionId) -> Option<RecoveryRecord> {
        let open = self.running().open.read().unwrap_or_else(PoisonError::into_inner);
        let stored = open.as_ref()?.backend.recovered(region).ok().flatten()?;
        RecoveryRecord::decode(&stored)
    }
}
