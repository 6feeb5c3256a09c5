//! A machine whose data lives on the shared state store.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{Payload, RegionDescriptor, RegionId};
use multiraft_storage::{StateError, StateView};

use crate::machine::ApplyContext;
use crate::machine::overlay::Overlay;
use crate::measure::Touches;
use crate::region::keys;

/// The state machine of all regions of a store, over the shared state store.
pub trait StateMachine: Send + Sync + 'static {
    /// Carries a committed command out by reading and writing `state`, and answers its caller. Deterministic; refusals
    /// are answers.
    ///
    /// # Errors
    /// Only what `state` returned: the state store failed. The store then stops serving; nothing of the batch is kept.
    fn apply(&self, context: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError>;

    /// Answers a query from one instant's view of the region, on the caller's thread.
    ///
    /// Keep it short: on a state store without versions (sled) nothing is written while a view is open, in any region. Bound
    /// scans, and never ask the engine from inside.
    ///
    /// # Errors
    /// Only what `view` returned.
    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError>;
}

/// A write to a key that the region does not own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {key:?} lies outside the region {region}: route the command by key")]
pub struct KeyOutsideRegion {
    /// The key.
    pub key: Bytes,
    /// The region.
    pub region: RegionId,
}

/// The state as one apply batch sees it: what is stored, with the batch's own writes on top.
///
/// Keys are the embedder's; the engine keeps its own records apart from them.
pub struct StateTxn<'a> {
    view: &'a dyn StateView,
    /// Writes of this apply batch that the view does not show yet, by stored key.
    overlay: &'a mut Overlay,
    region: &'a RegionDescriptor,
    /// Where it is counted what is written, if it is.
    touches: Option<&'a mut Touches>,
}

impl<'a> StateTxn<'a> {
    pub(crate) fn new(
        view: &'a dyn StateView,
        overlay: &'a mut Overlay,
        region: &'a RegionDescriptor,
        touches: Option<&'a mut Touches>,
    ) -> Self {
        Self { view, overlay, region, touches }
    }

    /// The region; only keys that it owns may be touched. The root region owns none.
    #[must_use]
    pub fn region(&self) -> &RegionDescriptor {
        self.region
    }

    /// The value of a key; `None` also for a key that the region does not own.
    ///
    /// # Errors
    /// [`StateError`] if the state store failed; pass it on.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        if !self.region.owns(key) {
            return Ok(None);
        }
        let stored = keys::data(key);
        match self.overlay.get(&stored) {
            Some(value) => Ok(value),
            None => self.view.get(&stored),
        }
    }

    /// Sets a key.
    ///
    /// # Errors
    /// [`KeyOutsideRegion`]; nothing is written.
    pub fn put(&mut self, key: &[u8], value: impl Into<Payload>) -> Result<(), KeyOutsideRegion> {
        self.check(key)?;
        let value = value.into();
        if let Some(touches) = &mut self.touches {
            touches.note(|| Bytes::copy_from_slice(key));
            touches.bytes += (key.len() + value.len()) as u64;
        }
        self.overlay.set(keys::data(key), Some(value));
        Ok(())
    }

    /// Removes a key.
    ///
    /// # Errors
    /// [`KeyOutsideRegion`]; nothing is removed.
    pub fn delete(&mut self, key: &[u8]) -> Result<(), KeyOutsideRegion> {
        self.check(key)?;
        if let Some(touches) = &mut self.touches {
            touches.note(|| Bytes::copy_from_slice(key));
            touches.removed += 1;
        }
        self.overlay.set(keys::data(key), None);
        Ok(())
    }

    /// The pairs of the region from `start` to `end` (excluded; empty: to the end of the region), at most `limit`.
    ///
    /// # Errors
    /// [`StateError`] if the state store failed; pass it on.
    pub fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        let Some((from, to)) = keys::clamp(self.region, start, end) else {
            return Ok(Vec::new());
        };
        merge_scan(self.view, self.overlay, from, &to, limit)
    }

    fn check(&self, key: &[u8]) -> Result<(), KeyOutsideRegion> {
        if self.region.owns(key) {
            return Ok(());
        }
        Err(KeyOutsideRegion { key: Bytes::copy_from_slice(key), region: self.region.id })
    }
}

/// Scans the view with the overlay on top, both by stored key.
fn merge_scan(
    view: &dyn StateView,
    overlay: &Overlay,
    from: Bytes,
    to: &Bytes,
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, StateError> {
    let mut found = Vec::new();
    let mut cursor = from;
    while found.len() < limit && (to.is_empty() || cursor < *to) {
        let wanted = (limit - found.len()).saturating_add(1);
        let stored = view.scan(&cursor, to, wanted)?;
        // Beyond the last stored pair of a full page the view may hold more: merge only up to there.
        let next = (stored.len() == wanted).then(|| successor(&stored[wanted - 1].0));
        let end = next.as_ref().unwrap_or(to).clone();
        let mut page: BTreeMap<Bytes, Bytes> = stored.into_iter().collect();
        for (key, value) in overlay.range(&cursor, &end) {
            match value {
                Some(value) => page.insert(key, value),
                None => page.remove(&key),
            };
        }
        found.extend(page.into_iter().map(|(key, value)| (keys::user(&key), value)));
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    found.truncate(limit);
    Ok(found)
}

/// The smallest key greater than `key`.
fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// One instant of one region, for lookups.
pub struct RegionView<'a> {
    view: &'a dyn StateView,
    region: &'a RegionDescriptor,
    /// Where it is counted what is read, if it is.
    touches: Option<&'a RefCell<Touches>>,
}

/// A scan counts as one key read for so many that it returns, and one at least.
const SCANNED_PER_READ: usize = 64;

impl<'a> RegionView<'a> {
    pub(crate) fn new(
        view: &'a dyn StateView,
        region: &'a RegionDescriptor,
        touches: Option<&'a RefCell<Touches>>,
    ) -> Self {
        Self { view, region, touches }
    }

    fn note(&self, key: impl FnOnce() -> Bytes) {
        if let Some(touches) = self.touches {
            touches.borrow_mut().note(key);
        }
    }

    /// The region, as of this instant.
    #[must_use]
    pub fn region(&self) -> &RegionDescriptor {
        self.region
    }

    /// The value of a key; `None` also for a key that the region does not own.
    ///
    /// # Errors
    /// [`StateError`] if the state store failed; pass it on.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        if !self.region.owns(key) {
            return Ok(None);
        }
        self.note(|| Bytes::copy_from_slice(key));
        self.view.get(&keys::data(key))
    }

    /// The pairs of the region from `start` to `end` (excluded; empty: to the end of the region), at most `limit`.
    ///
    /// # Errors
    /// [`StateError`] if the state store failed; pass it on.
    pub fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        let Some((from, to)) = keys::clamp(self.region, start, end) else {
            return Ok(Vec::new());
        };
        let pairs = self.view.scan(&from, &to, limit)?;
        self.note(|| keys::user(&from));
        pairs.iter().step_by(SCANNED_PER_READ).skip(1).for_each(|(key, _)| self.note(|| keys::user(key)));
        Ok(pairs.into_iter().map(|(key, value)| (keys::user(&key), value)).collect())
    }
}
