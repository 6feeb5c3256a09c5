//! What a change of regions writes to the shared state store: splits, steps of merges, absorptions.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{LogIndex, RegionDescriptor, RegionId};
use multiraft_storage::{StateBatch, StateError, StateOp, StateView};
use multiraft_transport::SessionId;

use crate::apply::record::AppliedRecord;
use crate::apply::shared::{put_region, stored_descriptor};
use crate::apply::{AppliedBatch, Cause, Pass, note_change};
use crate::logic::{RegionChange, SplitDone};
use crate::region::keys;
use crate::region::merge::Absorbed;
use crate::region::sessions::{SessionRecord, unite_sessions};

/// Writes what a split makes of a region (C4), in the batch that its entries are applied with.
pub(super) fn put_split<R>(
    batch: &mut StateBatch,
    view: &dyn StateView,
    pass: &mut Pass<'_>,
    parts: Vec<Arc<RegionDescriptor>>,
    out: &mut AppliedBatch<R>,
) -> Result<(), StateError> {
    let Pass { catalogue: Some(catalogue), unsynced, regions, .. } = pass else {
        unreachable!("invariant: a pass that may split holds the catalogue's lock")
    };
    let mut parts = parts.into_iter();
    let parent = parts.next().expect("invariant: a split begins with the region itself");
    if let Some(progress) = regions.get_mut(parent.id) {
        progress.descriptor = Arc::clone(&parent);
    }
    let sessions = sessions_after(batch, view, parent.id)?;
    catalogue.set_state(Arc::clone(&parent));
    let mut children = Vec::new();
    for child in parts {
        let adopted = catalogue.adopts(&child);
        if adopted {
            for (id, record) in &sessions {
                batch.put(keys::session(child.id, *id), record.clone());
            }
            #[cfg(feature = "torture")]
            crate::plant::lose_pairs(batch, view, &child)?;
            put_region(batch, &child, AppliedRecord::FIRST);
            catalogue.set_state(Arc::clone(&child));
            catalogue.hold(child.id);
            unsynced.push(Arc::clone(&child));
        } else {
            // Nobody here is to own these keys; left behind, they would come to light when a neighbour takes the range.
            let (start, end) = keys::data_range(&child.range);
            batch.delete_range(start, end);
        }
        children.push((child, adopted));
    }
    batch.put(keys::descriptor(parent.id), stored_descriptor(&parent));
    catalogue.hold(parent.id);
    unsynced.push(Arc::clone(&parent));
    if let Some(done) = out.last_applied() {
        done.split = Some(SplitDone { parent, children });
    }
    Ok(())
}

/// Writes a step of a merge that concerns one region alone; its records are in the batch.
pub(super) fn put_step<R>(
    batch: &mut StateBatch,
    pass: &mut Pass<'_>,
    change: RegionChange,
    out: &mut AppliedBatch<R>,
) {
    let Pass { catalogue: Some(catalogue), unsynced, regions, .. } = pass else {
        unreachable!("invariant: a pass that may change a region holds the catalogue's lock")
    };
    let region = change.region();
    batch.put(keys::descriptor(region.id), stored_descriptor(region));
    if let Some(progress) = regions.get_mut(region.id) {
        note_change(catalogue, unsynced, progress, &change);
    }
    if let Some(done) = out.last_applied() {
        done.change = Some(change);
    }
}

/// Writes the absorption of a frozen neighbour (G2): its data stays where it is, its sessions are united with the region's, all
/// else of it goes.
pub(super) fn put_absorb<R>(
    batch: &mut StateBatch,
    view: &dyn StateView,
    pass: &mut Pass<'_>,
    (source, region, absorbed): (&Arc<RegionDescriptor>, Arc<RegionDescriptor>, Arc<Absorbed>),
    out: &mut AppliedBatch<R>,
) -> Result<(), StateError> {
    let index = out.last_applied().map_or(LogIndex::ZERO, |done| done.index);
    let sessions = |id| -> Result<BTreeMap<SessionId, SessionRecord>, StateError> {
        let stored = sessions_after(batch, view, id)?.into_iter();
        Ok(stored.filter_map(|(id, record)| Some((id, SessionRecord::decode(&record)?))).collect())
    };
    let (before, there) = (sessions(region.id)?, sessions(source.id)?);
    let after = unite_sessions(before.clone(), there, index);
    for id in before.keys().filter(|id| !after.contains_key(id)) {
        batch.delete(keys::session(region.id, *id));
    }
    for (id, record) in after.iter().filter(|(id, record)| before.get(id) != Some(record)) {
        batch.put(keys::session(region.id, *id), record.encode());
    }
    for (start, end) in [keys::sessions(source.id), keys::records(source.id)] {
        batch.delete_range(start, end);
    }
    batch.delete(keys::applied(source.id));
    batch.delete(keys::descriptor(source.id));
    let Pass { catalogue: Some(catalogue), buried, .. } = pass else {
        unreachable!("invariant: a pass that may change a region holds the catalogue's lock")
    };
    let tombstone = catalogue.tombstone_of(source.id, source, Cause::Merged, Default::default());
    batch.put(keys::tombstone(source.id), tombstone.encode());
    catalogue.bury(source.id, tombstone.clone());
    buried.push(source.id);
    put_step(batch, pass, RegionChange::Merged { region, absorbed, tombstone }, out);
    Ok(())
}

/// A region's session records as they are once the batch is written.
fn sessions_after(
    batch: &StateBatch,
    view: &dyn StateView,
    region: RegionId,
) -> Result<Vec<(SessionId, Bytes)>, StateError> {
    let (start, end) = keys::sessions(region);
    let mut records: BTreeMap<Bytes, Bytes> = view.scan(&start, &end, usize::MAX)?.into_iter().collect();
    for op in batch.ops() {
        match op {
            StateOp::Put { key, value } if (&start[..]..&end[..]).contains(&&key[..]) => {
                records.insert(key.to_bytes(), value.to_bytes());
            }
            StateOp::Delete { key } => {
                records.remove(&key[..]);
            }
            StateOp::Put { .. } | StateOp::DeleteRange { .. } => {}
        }
    }
    Ok(records.into_iter().filter_map(|(key, record)| Some((keys::session_of(&key)?, record))).collect())
}
