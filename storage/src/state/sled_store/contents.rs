//! What a store holds, as everybody sees it: sled's pairs without those that a clear hides. Reads, and the one way to change.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    super::{Pair, StateError, resolved::Resolved},
    clears::Clears,
    layout::{Layout, LayoutBatch},
};

/// A reader inside the gate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contents<'a> {
    pub(super) layout: &'a Layout,
    pub(super) clears: &'a Clears,
}

impl<'a> Contents<'a> {
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        if self.clears.hide(key) { Ok(None) } else { self.layout.get(key) }
    }

    /// The pairs from `start` to `end` (excluded; `None`: no bound), in order.
    pub(super) fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<Pair, StateError>> + use<'a> {
        let layout = self.layout;
        self.stored(start, end).map(move |pair| {
            let (key, stored) = pair?;
            let value = layout.assemble(&key, stored)?;
            Ok((key, value))
        })
    }

    /// The keys from `start` to `end` (excluded; `None`: no bound), in order.
    pub(super) fn keys(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<Bytes, StateError>> + use<'a> {
        self.stored(start, end).map(|pair| Ok(pair?.0))
    }

    /// Leaps over what is hidden, so a scan takes no time for it.
    fn stored(&self, start: &[u8], end: Option<&[u8]>) -> impl Iterator<Item = Result<Pair, StateError>> + use<'a> {
        let Self { layout, clears } = *self;
        let end = end.map(Bytes::copy_from_slice);
        let mut pairs = Some(layout.stored(start, end.as_deref()));
        std::iter::from_fn(move || {
            loop {
                match pairs.as_mut()?.next()? {
                    Ok((key, _)) if clears.hide(&key) => {
                        pairs = clears.after_hidden(&key).map(|next| layout.stored(&next, end.as_deref()));
                    }
                    Ok(pair) => return Some(Ok(pair)),
                    Err(error) => {
                        pairs = None;
                        return Some(Err(error));
                    }
                }
            }
        })
    }
}

/// Writes the outcome of a batch. The caller is alone inside the gate.
pub(super) fn apply(layout: &Layout, clears: &mut Clears, outcome: Resolved) -> Result<(), StateError> {
    let (changes, ranges) = outcome.into_parts();
    let mut batch = LayoutBatch::default();
    for (start, end) in ranges {
        layout.put_clear(&mut batch, clears.add(start, end));
    }
    if !clears.is_empty() {
        for key in puts(&changes) {
            clears.exempt(key).into_iter().for_each(|id| layout.put_exempt(&mut batch, id, key));
        }
    }
    layout.apply(batch, changes)
}

/// Removes up to `keys_max` keys that the oldest clear hides; answers whether there is more to do. The caller is alone inside
/// the gate.
pub(super) fn clear_some(layout: &Layout, clears: &mut Clears, keys_max: usize) -> Result<bool, StateError> {
    let Some(clear) = clears.oldest() else { return Ok(false) };
    let mut dead = BTreeMap::new();
    let mut next = None;
    for (seen, pair) in layout.stored(&clear.start, clear.end.as_deref()).enumerate() {
        let (key, _) = pair?;
        if seen == keys_max {
            next = Some(key);
            break;
        }
        if !clear.exempt.contains(&key) {
            dead.insert(key, None);
        }
    }
    let mut batch = LayoutBatch::default();
    match next {
        Some(next) => {
            // In memory only: after a restart the range is gone through again, and is found cleared up to here.
            clear.start = next;
            layout.apply(batch, dead)?;
        }
        None => {
            layout.remove_clear(&mut batch, clear);
            layout.apply(batch, dead)?;
            clears.remove_oldest();
        }
    }
    Ok(!clears.is_empty())
}

fn puts(changes: &BTreeMap<Bytes, Option<Bytes>>) -> impl Iterator<Item = &Bytes> {
    changes.iter().filter(|(_, value)| value.is_some()).map(|(key, _)| key)
}
