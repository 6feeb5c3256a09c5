//! What whoever plans has to know of the regions that are led here, told a page at a time.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, Replica, ReplicaId, Term};
use multiraft_router::SlotKey;

use crate::logic::Outcome;
use crate::logic::output::{Notice, ReplyTo};
use crate::logic::region::Region;
use crate::logic::worker::Worker;

/// A replica that misses more entries than this has not caught up: it would be of little help.
const BEHIND_LAG: u64 = 1024;

/// Why nobody is told what lies on the stores.
const NO_LOADS: &str = "nobody plans, or whoever plans has not heard of all regions yet";

/// A region that is led here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedRegion {
    /// What it is.
    pub descriptor: Arc<RegionDescriptor>,
    /// The term in which it is led here.
    pub term: Term,
    /// The replicas that have not caught up, ascending.
    pub behind: Vec<ReplicaId>,
    /// The replicas that it has fenced and still has, and those that were lost with a store's disk, ascending.
    pub fenced: Vec<ReplicaId>,
    /// Whether a change of it is under way.
    pub pending: bool,
}

/// Some of a worker's regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedPage {
    /// Those that are led here.
    pub led: Vec<LedRegion>,
    /// How many replicas were looked at, of any kind.
    pub held: usize,
    /// Whether writes wait for space on this store's disk.
    pub is_full: bool,
    /// Whether this store works, but not well.
    pub is_slow: bool,
    /// Replicas that are out of service here; on a first page only.
    pub aside: Vec<(RegionId, ReplicaId)>,
    /// Where the next page begins; `None`: this was the last one.
    pub next: Option<u32>,
}

impl<R> Worker<R> {
    /// What there is in `slots` slots from `from` on.
    #[must_use]
    pub fn led_page(&self, from: u32, slots: u32) -> LedPage {
        let end = from.saturating_add(slots);
        let next = (end < self.regions.slots()).then_some(end);
        let (is_full, is_slow) = (self.upkeep.is_disk_full(), self.upkeep.is_slow());
        let mut page = LedPage { next, is_full, is_slow, ..LedPage::default() };
        if from == 0 {
            page.aside = self.replicas_aside();
        }
        for slot in from..end.min(self.regions.slots()) {
            let Some(key) = self.regions.occupant(slot) else { continue };
            page.held += 1;
            if self.regions.glimpse(key).is_some_and(|glimpse| !glimpse.leads) {
                continue;
            }
            let region = self.regions.see(key).filter(|region| region.group.is_leader() && region.initialised);
            page.led.extend(region.map(|region| self.led_region(&region)));
        }
        page
    }

    /// Somebody asks what lies on the stores: what this store's planning has made of the reports in this very term.
    pub(super) fn tell_loads(&mut self, slot: SlotKey, to: ReplyTo<R>) {
        let region = self.region(slot);
        let is_planned_here = region.id() == RegionId::ROOT && self.loads.0 == region.group.term();
        let outcome = if is_planned_here {
            Outcome::Applied { reply: self.loads.1.clone(), index: LogIndex::ZERO }
        } else {
            Outcome::Refused { reason: NO_LOADS.to_owned() }
        };
        self.answer(to, outcome);
    }

    /// A store tells whoever plans something. It plans where the root region is led.
    pub(super) fn take_report(&mut self, slot: SlotKey, report: &Bytes, to: ReplyTo<R>) {
        let region = self.region(slot);
        if region.id() != RegionId::ROOT {
            let reason = "only the root region's leader takes reports".to_owned();
            return self.answer(to, Outcome::Refused { reason });
        }
        let term = region.group.term();
        let from = match &to {
            ReplyTo::Caller(_) => self.config.store,
            ReplyTo::Peer { store, .. } => *store,
        };
        self.notices.push(Notice::Report { from, term, report: report.clone() });
        let mut reply = BytesMut::with_capacity(8);
        reply.put_u64(term.get());
        self.answer(to, Outcome::Applied { reply: reply.freeze(), index: LogIndex::ZERO });
    }

    fn led_region(&self, region: &Region<R>) -> LedRegion {
        let group = &region.group;
        let lags = |id| {
            let reached = group.match_index(id).unwrap_or(LogIndex::ZERO);
            reached == LogIndex::ZERO || reached.plus(BEHIND_LAG) < group.last_index()
        };
        let replicas = region.descriptor().replicas.iter().map(|replica| replica.id);
        let mut behind: Vec<ReplicaId> = replicas.filter(|id| *id != group.id() && lags(*id)).collect();
        behind.sort_unstable();
        // What was lost with its store's disk is out of service as well, for good.
        let is_out = |replica: &Replica| region.merge.fenced.contains(replica.id) || self.is_lost(replica);
        let fenced = |replica: &Replica| is_out(replica).then_some(replica.id);
        let mut fenced: Vec<ReplicaId> = region.descriptor().replicas.iter().filter_map(fenced).collect();
        fenced.sort_unstable();
        let pending = region.merge.frozen.is_some() || group.applied_index() < region.admin_barrier;
        LedRegion { descriptor: Arc::clone(region.descriptor()), term: group.term(), behind, fenced, pending }
    }
}
