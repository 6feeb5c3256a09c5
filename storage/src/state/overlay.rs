//! Old values for open snapshots, for a store that keeps none itself.
//!
//! While a snapshot is open, the writer hands over the old value of every key that it changes and that the snapshot has not
//! passed yet. The snapshot reads the store as it is now and puts the old values over it.
//!
//! ```text
//!   store now     a1      c9  d4      (c was 3 and b was 2 when the snapshot was opened; d is new)
//!   overlay           b2  c3  d-
//!   snapshot      a1  b2  c3
//! ```
//!
//! Locking: the store lets writers in alone and snapshots together. [`Overlays::keep`] runs under the writer's lock,
//! [`Overlays::open`], [`Overlays::take`] and [`Overlays::put_back`] under the readers'. So no write happens between `take`
//! and `put_back`, and nothing is missed.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{Pair, StateError, mem::bound};

/// What an entry costs beside its bytes, roughly.
const ENTRY_OVERHEAD: usize = 128;

/// The overlays of all open snapshots of a store.
#[derive(Debug)]
pub(super) struct Overlays {
    registry: Mutex<Registry>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Registry {
    open: BTreeMap<u64, Overlay>,
    next_id: u64,
    /// Invariant: the sum of the open overlays' `bytes`, those taken out included.
    bytes: usize,
}

/// What one snapshot has still to hand out, and the old values for it.
#[derive(Debug)]
pub(super) struct Overlay {
    /// The first key that may not have been handed out, or `None` at the end.
    next: Option<Bytes>,
    /// The first key beyond, or empty.
    end: Bytes,
    /// `None`: the key was not there. Invariant: all keys lie in what is still to be handed out.
    old: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
    /// It outgrew the limit; its old values are gone.
    lost_at: Option<usize>,
}

impl Overlays {
    /// `bytes_max` bounds the old values of all open snapshots together; the largest is given up when it is passed.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { registry: Mutex::default(), bytes_max }
    }

    pub(super) fn open(&self, start: &[u8], end: &[u8]) -> u64 {
        let mut registry = self.registry();
        let id = registry.next_id;
        registry.next_id += 1;
        registry.open.insert(
            id,
            Overlay {
                next: Some(Bytes::copy_from_slice(start)),
                end: Bytes::copy_from_slice(end),
                old: BTreeMap::new(),
                bytes: 0,
                lost_at: None,
            },
        );
        id
    }

    pub(super) fn close(&self, id: u64) {
        let mut registry = self.registry();
        if let Some(overlay) = registry.open.remove(&id) {
            registry.bytes -= overlay.bytes;
        }
    }

    /// Whether an open snapshot wants anything of a range (`None`: no bound).
    pub(super) fn want(&self, start: &[u8], end: Option<&[u8]>) -> bool {
        self.registry().open.values().filter(|overlay| overlay.lost_at.is_none()).any(|overlay| {
            overlay.next.as_ref().is_some_and(|next| end.is_none_or(|end| &next[..] < end))
                && bound(&overlay.end).is_none_or(|overlay_end| start < overlay_end)
        })
    }

    /// Keeps the present values, as `read` tells them, of those `keys` that an open snapshot still wants.
    pub(super) fn keep<'k, E>(
        &self,
        keys: impl Iterator<Item = &'k Bytes>,
        mut read: impl FnMut(&[u8]) -> Result<Option<Bytes>, E>,
    ) -> Result<(), E> {
        let mut registry = self.registry();
        if registry.open.is_empty() {
            return Ok(());
        }
        for key in keys {
            let mut old = None;
            let Registry { open, bytes, .. } = &mut *registry;
            for overlay in open.values_mut().filter(|overlay| overlay.wants(key)) {
                let value = match &old {
                    Some(value) => Option::clone(value),
                    None => old.insert(read(key)?).clone(),
                };
                *bytes += overlay.insert(key, value);
            }
            if registry.bytes > self.bytes_max {
                registry.give_up_largest();
            }
        }
        Ok(())
    }

    /// Takes an overlay out to read through it; it has to be put back before a writer comes.
    pub(super) fn take(&self, id: u64) -> Option<Overlay> {
        self.registry().open.remove(&id)
    }

    pub(super) fn put_back(&self, id: u64, overlay: Overlay, bytes_before: usize) {
        let mut registry = self.registry();
        registry.bytes -= bytes_before - overlay.bytes;
        registry.open.insert(id, overlay);
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    fn give_up_largest(&mut self) {
        if let Some(largest) = self.open.values_mut().max_by_key(|overlay| overlay.bytes) {
            self.bytes -= largest.bytes;
            largest.lost_at = Some(largest.bytes);
            largest.bytes = 0;
            largest.old = BTreeMap::new();
        }
    }
}

impl Overlay {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is still to be handed out, or `None` at the end.
    pub(super) fn rest(&self) -> Option<(&Bytes, &Bytes)> {
        self.next.as_ref().map(|next| (next, &self.end))
    }

    /// Merges `now`, the store's present pairs of the rest in order, with the old values, up to about `max_bytes`.
    pub(super) fn next_chunk(
        &mut self,
        now: impl Iterator<Item = Result<Pair, StateError>>,
        max_bytes: usize,
    ) -> Result<Vec<Pair>, StateError> {
        if let Some(kept) = self.lost_at {
            return Err(StateError::SnapshotLost { kept });
        }
        let Some(start) = &self.next else { return Ok(Vec::new()) };
        let old = self.old.range::<[u8], _>((Bound::Included(&start[..]), Bound::Unbounded));
        let (mut pairs, mut bytes, mut next) = (Vec::new(), 0, None);
        for pair in merge(now, old) {
            let (key, value) = pair?;
            if !pairs.is_empty() && bytes + key.len() + value.len() > max_bytes {
                next = Some(key);
                break;
            }
            bytes += key.len() + value.len();
            pairs.push((key, value));
        }
        self.move_to(next);
        Ok(pairs)
    }

    fn wants(&self, key: &Bytes) -> bool {
        self.lost_at.is_none()
            && self.next.as_ref().is_some_and(|next| next <= key)
            && bound(&self.end).is_none_or(|end| &key[..] < end)
            && !self.old.contains_key(key)
    }

    /// Answers by how many bytes it grew.
    fn insert(&mut self, key: &Bytes, value: Option<Bytes>) -> usize {
        let grown = entry_bytes(key, value.as_ref());
        // A key that is a slice of a frame would keep the whole frame.
        self.old.insert(Bytes::copy_from_slice(key), value);
        self.bytes += grown;
        grown
    }

    /// Everything before `next` was handed out: its old values are not needed any more.
    fn move_to(&mut self, next: Option<Bytes>) {
        let rest = next.as_ref().map_or_else(BTreeMap::new, |next| self.old.split_off(next));
        let passed = std::mem::replace(&mut self.old, rest);
        self.bytes -= passed.iter().map(|(key, value)| entry_bytes(key, value.as_ref())).sum::<usize>();
        self.next = next;
    }
}

fn entry_bytes(key: &Bytes, value: Option<&Bytes>) -> usize {
    key.len() + value.map_or(0, Bytes::len) + ENTRY_OVERHEAD
}

/// The pairs of an earlier instant: `now` with the `old` values put over it.
fn merge<'a>(
    now: impl Iterator<Item = Result<Pair, StateError>> + 'a,
    old: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)> + 'a,
) -> impl Iterator<Item = Result<Pair, StateError>> + 'a {
    let (mut now, mut old) = (now.peekable(), old.peekable());
    std::iter::from_fn(move || {
        loop {
            let old_is_next = match (now.peek(), old.peek()) {
                (None, None) => return None,
                (Some(Err(_)), _) | (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some(Ok((key, _))), Some((old_key, _))) => *old_key <= key,
            };
            if !old_is_next {
                return now.next();
            }
            let (key, value) = old.next().expect("it was seen by the peek above");
            now.next_if(|pair| pair.as_ref().is_ok_and(|(now_key, _)| now_key == key));
            if let Some(value) = value {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    })
}
