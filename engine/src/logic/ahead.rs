//! Reading ahead: what the next inputs are for is read from memory together, and not region by region.
//!
//! With thousands of regions a worker finds each in no cache, and a step of a group waits for memory some ten times. Those that come next are
//! known: they stand in the batch. So their parts are read some regions at a time before the first takes its step, each part of all
//! of them before the next part, so that the reads do not wait for each other. Nothing is changed, and nothing is woken.

use std::hint::black_box;

use multiraft_raft::{Distance, RegionId};
use multiraft_router::SlotKey;
use multiraft_transport::PeerMessage;

use crate::logic::region::Region;
use crate::logic::worker::Worker;
use crate::logic::{Applied, Input};

/// For so many inputs at a time. Together they take a part of the second-level cache.
pub(super) const AHEAD: usize = 32;
/// So many groups that a turn has touched are still where they were read to when they are polled.
pub(super) const TOUCHED_IN_CACHE: usize = 256;
/// With fewer that are awake all of them are in the caches.
const AWAKE_MIN: u32 = 256;

impl<R> Worker<R> {
    /// Whether it pays.
    pub(super) fn reads_ahead(&self) -> bool {
        self.regions.awake() >= AWAKE_MIN
    }

    /// For the next of these.
    pub(super) fn read_ahead_for_inputs(&self, inputs: &[Input<R>]) {
        self.read_ahead(inputs.iter().take(AHEAD).filter_map(region_of).filter_map(|region| self.slots.get(&region)));
    }

    /// For the next of these.
    pub(super) fn read_ahead_for_messages(&self, messages: &[PeerMessage]) {
        let regions = messages.iter().take(AHEAD).filter_map(|message| match message {
            PeerMessage::Raft(raft) => Some(raft.region),
            PeerMessage::Forward(forward) => Some(forward.region),
            _ => None,
        });
        self.read_ahead(regions.filter_map(|region| self.slots.get(&region)));
    }

    /// For the next of these.
    pub(super) fn read_ahead_for_applied(&self, applied: &[Applied]) {
        let keys = applied.iter().take(AHEAD).map(|done| done.handle);
        let keys: Vec<_> = keys.map(|handle| SlotKey { slot: handle.slot, generation: handle.generation }).collect();
        self.read_ahead(keys.iter());
    }

    /// For these, at most [`AHEAD`].
    pub(super) fn read_ahead<'a>(&self, keys: impl Iterator<Item = &'a SlotKey>) {
        let mut regions: [Option<&Region<R>>; AHEAD] = [None; AHEAD];
        let mut read = 0;
        for (place, key) in regions.iter_mut().zip(keys) {
            *place = self.regions.peek(*key);
            read ^= self.deadlines.deadline(*key).0;
        }
        for distance in [Distance::Own, Distance::Near, Distance::Far] {
            for region in regions.iter().flatten() {
                read ^= region.read_ahead(distance);
            }
        }
        black_box(read);
    }
}

/// Whose a request is.
fn region_of<R>(input: &Input<R>) -> Option<RegionId> {
    match input {
        Input::Propose { region, .. }
        | Input::Read { region, .. }
        | Input::ReadConfirmed { region, .. }
        | Input::Query { region, .. } => Some(*region),
        _ => None,
    }
}
