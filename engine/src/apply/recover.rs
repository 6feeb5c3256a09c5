//! What a recovery of lost quorum does to a state, besides applying what the log holds: it gives a region another descriptor.
//!
//! Offline only: no worker runs, and no peer is told. The state written here stands for an entry behind the log's last, in a
//! term that nobody has led; it is ahead of its log as an installed snapshot is, and the log is reset to it afterwards.

use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{KeyRange, LogIndex, RegionDescriptor, RegionId, Term};
use multiraft_storage::{StateBatch, StateError};

use crate::apply::backend::Form;
use crate::apply::decide::NEXT_ID;
use crate::apply::record::AppliedRecord;
use crate::apply::regions::Progress;
use crate::apply::shared::put_region;
use crate::apply::{Applier, to_state_error};
use crate::region::keys;
use crate::region::merge::FROZEN;
use crate::region::stores::STORES;

/// How far a region is applied.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    pub(crate) descriptor: Arc<RegionDescriptor>,
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
}

/// What a region's state becomes.
#[derive(Clone, Debug)]
pub(crate) struct Rewrite {
    pub(crate) becomes: Arc<RegionDescriptor>,
    /// The entry that the new state stands for.
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    /// In the root region: the next id that it gives away, and the record of the stores.
    pub(crate) next_id: Option<u64>,
    pub(crate) stores: Option<Bytes>,
}

impl Rewrite {
    /// The region's own records that change with it. It is frozen no more: whoever was to absorb it is given up or fenced.
    fn records(&self) -> Vec<(&'static [u8], Option<Bytes>)> {
        let mut records = vec![(FROZEN, None)];
        let next = self.next_id.map(|next| Bytes::copy_from_slice(&next.to_be_bytes()));
        records.extend(next.map(|next| (NEXT_ID, Some(next))));
        records.extend(self.stores.clone().map(|stores| (STORES, Some(stores))));
        records
    }
}

impl Applier {
    /// How far a region is applied here; `None` if it has no state here.
    pub(crate) fn applied(&self, region: RegionId) -> Option<Applied> {
        let progress = self.regions.get(region).filter(|progress| progress.applied > LogIndex::ZERO)?;
        let Progress { descriptor, applied: index, term, .. } = progress;
        Some(Applied { descriptor, index, term })
    }

    /// Rewrites a region's state, in one atomic write that is durable when this returns.
    ///
    /// # Errors
    /// [`StateError`]; nothing has changed then, or all of it.
    pub(crate) fn rewrite(&mut self, rewrite: &Rewrite) -> Result<(), StateError> {
        let becomes = &rewrite.becomes;
        let Some(progress) = self.regions.get_mut(becomes.id) else { return Ok(()) };
        let before = std::mem::replace(&mut progress.descriptor, Arc::clone(becomes));
        (progress.applied, progress.term, progress.installed) = (rewrite.index, rewrite.term, true);
        progress.merge.frozen = None;
        let mut entries = self.catalogue.lock();
        entries.set_state(Arc::clone(becomes));
        entries.set_merge(becomes.id, None, Arc::clone(&progress.merge.absorbed));
        drop(entries);
        match &mut self.form {
            Form::Shared(shared) => {
                shared.write(batch(&before.range, rewrite))?;
                if shared.store.is_durable() {
                    shared.store.flush()?;
                }
            }
            Form::Own(own) => own.rewrite(&before.range, becomes, rewrite.index, rewrite.term, rewrite.records()),
        }
        if let Some(files) = self.files.clone()
            && let Some(source) = self.capture(becomes.id)?
        {
            files.save_ahead_of_log(source).map_err(to_state_error)?;
        }
        Ok(())
    }
}

fn batch(before: &KeyRange, rewrite: &Rewrite) -> StateBatch {
    let mut batch = StateBatch::new();
    let becomes = &rewrite.becomes;
    if becomes.id != RegionId::ROOT && becomes.range != *before {
        // What the region gives up is another's, and lies elsewhere.
        let ((start, end), (from, to)) = (keys::data_range(before), keys::data_range(&becomes.range));
        for (start, end) in [(start, from), (to, end)].into_iter().filter(|(start, end)| start < end) {
            batch.delete_range(start, end);
        }
    }
    for (name, record) in rewrite.records() {
        let key = keys::record(becomes.id, name);
        match record {
            Some(record) => batch.put(key, record),
            None => batch.delete(key),
        }
    }
    put_region(&mut batch, becomes, AppliedRecord { index: rewrite.index, term: rewrite.term, installed: true });
    batch
}
