//! From a key, or a region's name, to the region that answers: also on a store that has no replica of it and has never
//! heard of it.
//!
//! What a store believes of regions it does not have is a hint, gathered from other stores and from the answers of regions. It
//! may be old; so whatever is asked by key carries the epoch that it was routed by, and the region refuses it, with its
//! newest descriptor, if its range has changed. A refusal has no effect, and routing begins again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{RegionDescriptor, RegionEpoch, RegionId, Time};

use crate::engine::{Engine, PAUSE_MIN};
use crate::error::{ProposeError, ReadError};
use crate::logic::{Input, Outcome};
use crate::options::Consistency;
use crate::shell::Completion;

/// How long one other store may take to tell where a region is.
const LOCATE_TIMEOUT: Duration = Duration::from_secs(1);

/// A region that no store which answers knows is given up after so many rounds of asking all of them.
const ROUNDS_UNKNOWN: usize = 3;

/// A region that does not answer for so long may not be the key's any more: other stores are asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was tried to reach one region that has no replica here.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// The epoch of the descriptor that the worker was given as a route.
    given: Option<RegionEpoch>,
    /// How many rounds of asking ended without any store knowing the region.
    unknown: usize,
}

impl Engine {
    /// Has a command carried out by the region that owns `key`, whichever that is by then, and returns the state machine's
    /// answer. All keys that the command touches must belong to that region.
    ///
    /// The command is proposed under the epoch that it was routed by, so that it takes effect only in a region that owns the
    /// key; when the region turns out to have split, merged or moved, it is routed anew. What had no effect is tried again
    /// until [`Config::request_timeout`](crate::Config::request_timeout) is over, also if something was busy.
    ///
    /// # Errors
    /// [`ProposeError`]; only [`ProposeError::Uncertain`] leaves open whether the command had or will have an effect.
    pub async fn propose_key(&self, key: impl AsRef<[u8]>, command: impl Into<Bytes>) -> Result<Bytes, ProposeError> {
        let (key, command, deadline) = (key.as_ref(), command.into(), self.deadline(None));
        let (mut pause, mut has_waited) = (PAUSE_MIN, false);
        loop {
            let region = self.route(key, deadline).await.ok_or_else(|| self.unrouted())?;
            let patience = deadline.min(self.deadline(Some(PATIENCE)));
            let proposed =
                self.propose_until(region.id, Some(region.epoch), None, command.clone(), deadline, patience).await;
            let (error, is_lost) = match proposed {
                Err(error) if error.may_heal() => {
                    let is_lost = match error {
                        ProposeError::UnknownRegion { .. } | ProposeError::EpochMismatch { .. } => true,
                        ProposeError::NotLeader { .. } => !self.may_wait(region.id, &mut has_waited),
                        _ => false,
                    };
                    (error, is_lost)
                }
                result => return result,
            };
            if is_lost {
                self.ask_if_unchanged(key, &region, deadline).await;
            }
            if !self.pause(&mut pause, deadline).await {
                return Err(error);
            }
        }
    }

    /// Asks the state machine of the region that owns `key`, whichever that is by then. All keys that the query touches must
    /// belong to that region.
    ///
    /// # Errors
    /// [`ReadError`]. A read has no effect and may always be tried again.
    pub async fn read_key(
        &self,
        key: impl AsRef<[u8]>,
        query: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Bytes, ReadError> {
        let deadline = self.deadline(None);
        let query = query.into();
        self.read_routed(key.as_ref(), |_| query.clone(), consistency, deadline).await.map(|(_, answer)| answer)
    }

    /// Asks the region that owns a key, and tells which one it was.
    pub(crate) async fn read_routed(
        &self,
        key: &[u8],
        query: impl Fn(&RegionDescriptor) -> Bytes,
        consistency: Consistency,
        deadline: Time,
    ) -> Result<(Arc<RegionDescriptor>, Bytes), ReadError> {
        let (mut pause, mut has_waited) = (PAUSE_MIN, false);
        loop {
            let region = self.route(key, deadline).await;
            let region = region.ok_or_else(|| match self.stopped() {
                Some(reason) => ReadError::Stopped { reason },
                None => ReadError::Unrouted,
            })?;
            let patience = deadline.min(self.deadline(Some(PATIENCE)));
            let (name, query) = ((region.id, Some(region.epoch)), query(&region));
            let error = match self.read_until(name, query, consistency, deadline, patience).await {
                Ok(answer) => return Ok((region, answer)),
                Err(error) => error,
            };
            match &error {
                // A store without a replica has nothing to read locally, and that does not change by asking.
                ReadError::UnknownRegion { .. } if consistency == Consistency::Local => return Err(error),
                ReadError::NotLeader { .. } if self.may_wait(region.id, &mut has_waited) => {}
                ReadError::UnknownRegion { .. } | ReadError::NotLeader { .. } | ReadError::EpochMismatch { .. } => {
                    self.ask_if_unchanged(key, &region, deadline).await;
                }
                // As a region is that merges into its neighbour.
                ReadError::Busy { .. } => {}
                _ => return Err(error),
            }
            if !self.pause(&mut pause, deadline).await {
                return Err(error);
            }
        }
    }

    /// Whether a region without a leader is given some more time before other stores are asked for it: once, if a replica is here,
    /// which learns by itself as a rule what becomes of its region. When a store dies, its regions are many, and those who are
    /// asked have leaders to elect.
    fn may_wait(&self, region: RegionId, has_waited: &mut bool) -> bool {
        !std::mem::replace(has_waited, true) && self.running().directory.worker(region).is_some()
    }

    /// The region that owns a key, as far as this store can find out within `timeout` (default:
    /// [`Config::request_timeout`](crate::Config::request_timeout)): if it does not know, it asks the others. `None` if none
    /// that it reached knows. A hint, as [`Engine::region_for`] is: pass its epoch on with what is asked of the region.
    pub async fn locate(&self, key: impl AsRef<[u8]>, timeout: Option<Duration>) -> Option<Arc<RegionDescriptor>> {
        self.route(key.as_ref(), self.deadline(timeout)).await
    }

    /// The region that owns a key, from the directory or, if it does not know, from other stores.
    pub(crate) async fn route(&self, key: &[u8], deadline: Time) -> Option<Arc<RegionDescriptor>> {
        let mut pause = PAUSE_MIN;
        loop {
            if let Some(region) = self.region_for(key) {
                return Some(region);
            }
            if self.peer_count() == 0 || self.stopped().is_some() {
                return None;
            }
            let wanted = Bytes::copy_from_slice(key);
            self.ask_peers(RegionId(0), Some(&wanted), deadline, || self.region_for(key).is_some()).await;
            if self.region_for(key).is_none() && !self.pause(&mut pause, deadline).await {
                return None;
            }
        }
    }

    /// Why no region was found for a command.
    pub(crate) fn unrouted(&self) -> ProposeError {
        match self.stopped() {
            Some(reason) => ProposeError::Stopped { reason },
            None => ProposeError::Unrouted,
        }
    }

    /// Why nobody can be asked any more.
    fn stopped(&self) -> Option<String> {
        let is_stopping = || self.running().fault.ends_waiting().then(|| "shutting down".to_owned());
        self.check_running().err().or_else(is_stopping)
    }

    /// A region that was asked for a key is not there, or not any more: unless this store has learnt better meanwhile, other
    /// stores are asked whose the key is now.
    pub(crate) async fn ask_if_unchanged(&self, key: &[u8], asked: &RegionDescriptor, deadline: Time) {
        let is_same = || self.region_for(key).is_some_and(|known| known.id == asked.id && known.epoch == asked.epoch);
        if is_same() {
            let wanted = Bytes::copy_from_slice(key);
            self.ask_peers(RegionId(0), Some(&wanted), deadline, || !is_same()).await;
        }
    }

    /// This store's worker knows no way to a region: finds one, and returns whether it makes sense to ask the worker again.
    pub(crate) async fn find_region(&self, region: RegionId, search: &mut Search, deadline: Time) -> bool {
        let known = self.region(region);
        if known.as_ref().map(|known| known.epoch) == search.given {
            let epoch = search.given;
            let is_newer = || self.region(region).is_some_and(|now| Some(now.epoch) != epoch);
            let answers = self.ask_peers(region, None, deadline, is_newer).await;
            if !is_newer() && (answers > 0 || self.peer_count() == 0) {
                search.unknown += 1;
            }
            // Nobody tells of the end of a region that was absorbed; but who owns its keys now does.
            if let Some(known) = known.filter(|_| !is_newer() && region != RegionId::ROOT) {
                self.ask_if_unchanged(&known.range.start, &known, deadline).await;
            }
        }
        let Some(known) = self.region(region) else {
            return self.peer_count() > 0 && search.unknown < ROUNDS_UNKNOWN;
        };
        // One that owns its keys as far as anybody knows is only out of reach; one that does not has been absorbed.
        let stands = region == RegionId::ROOT || self.region_for(&known.range.start).is_some_and(|at| at.id == region);
        search.given = Some(known.epoch);
        let _ = self.send(region, Input::Route(known), 64);
        stands || search.unknown < ROUNDS_UNKNOWN
    }

    /// Whether a region has been absorbed, as this store knows it: whoever has routed by a key finds its new owner, and looking for
    /// the old one would only take time.
    ///
    /// A split leaves a region its first key and a merge takes nothing from it: one whose first key has another owner is no more.
    pub(crate) fn is_past(&self, region: RegionId) -> bool {
        self.region(region).is_some_and(|known| {
            self.region_for(&known.range.start)
                .is_some_and(|owner| owner.id != region && owner.epoch.version > known.epoch.version)
        })
    }

    /// Asks the other stores, one after the other, until one has told enough; returns how many answered.
    async fn ask_peers(
        &self,
        region: RegionId,
        key: Option<&Bytes>,
        deadline: Time,
        is_enough: impl Fn() -> bool,
    ) -> usize {
        let mut answers = 0;
        for _ in 0..self.peer_count() {
            let until = deadline.min(self.deadline(Some(LOCATE_TIMEOUT)));
            let (reply, answer) = Completion::new();
            let input = Input::Locate { region, key: key.cloned(), reply };
            if self.send(region, input, 64).is_err() {
                break;
            }
            match self.wait(answer, until).await {
                Some(Outcome::Changed { regions }) => {
                    answers += 1;
                    regions.iter().for_each(|region| self.learn(region));
                    if is_enough() {
                        break;
                    }
                }
                Some(Outcome::UnknownRegion) => answers += 1,
                _ => {}
            }
        }
        answers
    }
}

#[cfg(test)]
#[path = "routing_tests.rs"]
mod tests;
