//! Entries that change no state, such as the first of a new leader: applied at once, and told to the state store later.
//!
//! A store that takes over thousands of regions would otherwise write as many records before it can serve them, and one whose
//! disk is full could not serve a region that nobody writes to. What the state store tells is never ahead of the state: a
//! record that lags behind costs a replay of those entries after a restart, no more. The log is cut by what is recorded.

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use multiraft_raft::{Entry, EntryKind, LogIndex, RegionId};
use multiraft_storage::{StateBatch, StateError};

use super::regions::Progress;
use super::{AppliedBatch, Applier, Dirty, Form};
use crate::logic::{Applied, ApplyTask, Outcome};
use crate::region::keys;

/// How many records are made up for at a time: a bound on how long they keep the catalogue, and entries, waiting.
const AT_ONCE: usize = 512;
/// How many, when the applied regions are asked for.
const PER_CHECKPOINT: usize = 8 * AT_ONCE;

/// Whether a region's next entries change nothing of its state.
pub(super) fn changes_nothing(progress: &Progress, entries: &[Entry]) -> bool {
    // Of a frozen region nothing is put off: it may be gone at any moment.
    progress.applied > LogIndex::ZERO
        && progress.merge.frozen.is_none()
        && entries.first().is_some_and(|first| first.index == progress.applied.next())
        && entries.iter().all(|entry| entry.kind == EntryKind::Empty)
}

impl Applier {
    /// While a batch is stalled: applies what changes no state, of regions of which nothing waits. Gives the other tasks back, in
    /// order: they come after the stalled batch and its rest.
    pub fn apply_beside<R>(&mut self, tasks: Vec<ApplyTask<R>>) -> (AppliedBatch<R>, Vec<ApplyTask<R>>) {
        let mut batch = AppliedBatch::default();
        let mut rest = Vec::new();
        for task in tasks {
            let task = match task {
                // Changes nothing, so nothing has to wait for it.
                ApplyTask::Rest { packed } => {
                    self.rest(packed);
                    continue;
                }
                task => task,
            };
            let region = task.region();
            let waits = !matches!(self.form, Form::Shared(_)) || self.waiting.contains(&region);
            let progress = self.regions.get_mut(region).filter(|_| !waits);
            match (task, progress) {
                (ApplyTask::Entries { handle, entries, replies }, Some(progress))
                    if changes_nothing(progress, &entries) =>
                {
                    let cost = entries.iter().map(Entry::cost).sum();
                    for Entry { index, term, .. } in &entries {
                        (progress.applied, progress.term, progress.installed) = (*index, *term, false);
                    }
                    *self.lagging.entry(region).or_default() += cost;
                    let index = progress.applied;
                    batch.push_applied(Applied {
                        handle,
                        index,
                        cost,
                        memberships: Vec::new(),
                        split: None,
                        change: None,
                    });
                    replies.into_iter().for_each(|(_, reply)| batch.answer(reply, Outcome::Done));
                }
                (task, _) => {
                    self.waiting.insert(region);
                    rest.push(task);
                }
            }
        }
        (batch, rest)
    }

    /// The regions that have applied since this was last asked, and how far the state store knows of it.
    ///
    /// # Errors
    /// [`StateError`] if the state store failed; that it has no space is no failure, and only means fewer regions.
    pub fn take_dirty(&mut self) -> Result<BTreeMap<RegionId, Dirty>, StateError> {
        self.record_lagging(PER_CHECKPOINT)?;
        self.tell_rested();
        Ok(std::mem::take(&mut self.dirty).into_iter().collect())
    }

    /// Tells the state store how far regions have applied whose last entries have changed no state: all of them.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn record_all(&mut self) -> Result<(), StateError> {
        while !self.lagging.is_empty() {
            let before = self.lagging.len();
            self.record_lagging(AT_ONCE)?;
            if self.lagging.len() == before {
                return Err(StateError::NoSpace { path: "state store".to_owned() });
            }
        }
        Ok(())
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.is_some() || !self.unsynced.is_empty()
    }

    /// Nothing is known of the region here any more.
    pub(super) fn forget(&mut self, region: RegionId) {
        self.regions.remove(region);
        self.dirty.remove(&region);
        self.lagging.remove(&region);
    }

    /// For some of those that lag. Without space they go on lagging.
    fn record_lagging(&mut self, count: usize) -> Result<(), StateError> {
        if self.is_stalled() {
            return Ok(());
        }
        let Form::Shared(shared) = &self.form else { return Ok(()) };
        let lagging: Vec<RegionId> = self.lagging.keys().take(count).copied().collect();
        for some in lagging.chunks(AT_ONCE) {
            let catalogue = Arc::clone(&self.catalogue);
            let entries = catalogue.lock();
            let mut batch = StateBatch::new();
            for region in some {
                // Another applier may have put a region's end into the state since.
                if let Some(applied) = self.regions.record(*region).filter(|_| entries.is_here(*region)) {
                    batch.put(keys::applied(*region), applied.encode());
                }
            }
            if !batch.is_empty() && shared.store.is_durable() {
                match shared.write(batch) {
                    Err(StateError::NoSpace { .. }) => return Ok(()),
                    written => written?,
                }
            }
            for region in some {
                let bytes = self.lagging.remove(region).unwrap_or_default();
                if let Some(applied) = self.regions.record(*region).filter(|_| entries.is_here(*region)) {
                    let dirty = self.dirty.entry(*region).or_default();
                    dirty.applied = applied.index;
                    dirty.bytes += bytes;
                }
            }
        }
        Ok(())
    }
}
