//! What a living cluster does next: where to split, what to move, what to merge. Pure: from what regions are to what to ask for.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::ledger::Ledger;
use crate::hex;
use crate::serve::RegionView;

/// A replica that is to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) region: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// The regions to split now, largest first, each with the key that halves what it has taken in. There shall be as large a part
/// of the wanted number of regions as of the data is there.
pub(crate) fn splits(regions: &[RegionView], ledger: &Ledger, wanted: usize, at_once: usize) -> Vec<(u64, Bytes)> {
    let total: usize = ledger.pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
    let mut filled: Vec<_> = regions.iter().map(|region| (region.id, held_by(region, ledger))).collect();
    let loaded: usize = filled.iter().map(|(_, held)| size_of(held)).sum();
    let wanted_now = wanted * loaded / total.max(1);
    filled.sort_by_key(|(_, held)| std::cmp::Reverse(size_of(held)));
    let halved = filled.into_iter().filter_map(|(id, held)| Some((id, middle(&held)?)));
    halved.take(at_once.min(wanted_now.saturating_sub(regions.len()))).collect()
}

/// Moves after which every store has as many replicas as every other, but for one. A region moves at most once.
pub(crate) fn moves(regions: &[RegionView], stores: &[u64]) -> Vec<Move> {
    let mut held: BTreeMap<u64, usize> = stores.iter().map(|store| (*store, 0)).collect();
    for replica in regions.iter().flat_map(|region| &region.replicas) {
        *held.entry(replica.store).or_default() += 1;
    }
    let (mut moves, mut moved) = (Vec::new(), BTreeSet::new());
    while let Some((from, to)) = uneven(&held) {
        let is_on = |region: &&RegionView, store| region.replicas.iter().any(|replica| replica.store == store);
        let fits = |region: &&RegionView| !moved.contains(&region.id) && is_on(region, from) && !is_on(region, to);
        let Some(region) = regions.iter().find(fits) else { break };
        moved.insert(region.id);
        moves.push(Move { region: region.id, from, to });
        shift(&mut held, from, to);
    }
    moves
}

/// Transfers, as (region, store), after which every store leads as many regions as every other, as far as replicas allow.
pub(crate) fn transfers(regions: &[RegionView], stores: &[u64]) -> Vec<(u64, u64)> {
    let mut led: BTreeMap<u64, usize> = stores.iter().map(|store| (*store, 0)).collect();
    for leader in regions.iter().filter_map(|region| region.leader) {
        *led.entry(leader).or_default() += 1;
    }
    let (mut transfers, mut moved) = (Vec::new(), BTreeSet::new());
    while let Some((from, to)) = uneven(&led) {
        let votes =
            |region: &&RegionView| region.replicas.iter().any(|replica| replica.store == to && replica.role == "voter");
        let fits = |region: &&RegionView| !moved.contains(&region.id) && region.leader == Some(from) && votes(region);
        let Some(region) = regions.iter().find(fits) else { break };
        moved.insert(region.id);
        transfers.push((region.id, to));
        shift(&mut led, from, to);
    }
    transfers
}

/// Neighbours to merge, as (source, into), that together hold no more than `limit` bytes. No region stands in two merges.
pub(crate) fn merges(regions: &[RegionView], ledger: &Ledger, limit: usize) -> Vec<(u64, u64)> {
    let sizes: Vec<_> = regions.iter().map(|region| size_of(&held_by(region, ledger))).collect();
    let (mut merges, mut at) = (Vec::new(), 0);
    while at + 1 < regions.len() {
        if sizes[at] + sizes[at + 1] <= limit {
            merges.push((regions[at + 1].id, regions[at].id));
            at += 1;
        }
        at += 1;
    }
    merges
}

/// The pairs in a region that are acknowledged and not deleted, ascending.
fn held_by<'a>(region: &RegionView, ledger: &'a Ledger) -> Vec<&'a (Bytes, Bytes)> {
    let bound = |digits: &str| hex::decode(digits).unwrap_or_default();
    let (start, end) = (bound(&region.start), bound(&region.end));
    let first = ledger.pairs.partition_point(|(key, _)| *key < start);
    let behind = if end.is_empty() { ledger.pairs.len() } else { ledger.pairs.partition_point(|(key, _)| *key < end) };
    (first..behind).filter(|at| ledger.is_held(*at)).map(|at| &ledger.pairs[at]).collect()
}

fn size_of(held: &[&(Bytes, Bytes)]) -> usize {
    held.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// The key that halves the bytes; `None` if there are not two keys.
fn middle(held: &[&(Bytes, Bytes)]) -> Option<Bytes> {
    let half = size_of(held) / 2;
    let mut before = 0;
    let behind_half = held.iter().position(|(key, value)| {
        before += key.len() + value.len();
        before >= half
    });
    let at = behind_half?.max(1);
    held.get(at).map(|(key, _)| key.clone())
}

/// The stores that have the most and the fewest, unless they are even.
fn uneven(counts: &BTreeMap<u64, usize>) -> Option<(u64, u64)> {
    let (most, fewest) =
        (counts.iter().max_by_key(|(_, count)| **count)?, counts.iter().min_by_key(|(_, count)| **count)?);
    (*most.1 > *fewest.1 + 1).then_some((*most.0, *fewest.0))
}

fn shift(counts: &mut BTreeMap<u64, usize>, from: u64, to: u64) {
    *counts.entry(from).or_default() -= 1;
    *counts.entry(to).or_default() += 1;
}

#[cfg(test)]
mod tests {
    use super::super::dataset::DataSet;
    use super::*;
    use crate::serve::ReplicaReport;

    fn ledger() -> Ledger {
        let pairs = (0..16).map(|i| (Bytes::from(format!("k{i:02}")), Bytes::from_static(b"v"))).collect();
        Ledger::new(DataSet { name: String::new(), pairs })
    }

    fn region(id: u64, start: &str, end: &str, stores: &[u64]) -> RegionView {
        let replica = |store: &u64| ReplicaReport { id: *store, store: *store, role: "voter".to_owned() };
        RegionView {
            id,
            start: hex::encode(start.as_bytes()),
            end: hex::encode(end.as_bytes()),
            conf_version: 1,
            version: 1,
            replicas: stores.iter().map(replica).collect(),
            leader: stores.first().copied(),
            applied: None,
        }
    }

    fn acknowledge(ledger: &Ledger, pairs: std::ops::Range<usize>) {
        for at in pairs {
            ledger.note_tried(at, 0);
            ledger.note_acknowledged(at, 0);
        }
    }

    #[test]
    fn regions_split_as_the_data_comes_in_and_no_further_than_wanted() {
        let ledger = ledger();
        let whole = [region(2, "", "", &[1])];
        assert!(splits(&whole, &ledger, 4, 8).is_empty(), "there is nothing to split yet");
        acknowledge(&ledger, 0..4);
        assert!(splits(&whole, &ledger, 4, 8).is_empty(), "one region for a quarter of the data");
        acknowledge(&ledger, 4..8);
        assert_eq!(splits(&whole, &ledger, 4, 8), [(2, Bytes::from_static(b"k03"))]);
        acknowledge(&ledger, 8..16);
        let parts = [region(2, "", "k03", &[1]), region(3, "k03", "", &[1])];
        assert_eq!(splits(&parts, &ledger, 4, 8), [(3, Bytes::from_static(b"k09")), (2, Bytes::from_static(b"k01"))]);
        assert_eq!(splits(&parts, &ledger, 4, 1).len(), 1);
        assert!(splits(&parts, &ledger, 2, 8).is_empty());
    }

    #[test]
    fn moves_and_transfers_make_stores_even() {
        let regions: Vec<_> = (2..10).map(|id| region(id, "", "", &[1, 2, 3])).collect();
        let moves = moves(&regions, &[1, 2, 3, 4]);
        assert_eq!(moves.len(), 6);
        assert!(moves.iter().all(|step| step.to == 4));
        for store in 1..=3 {
            assert_eq!(moves.iter().filter(|step| step.from == store).count(), 2);
        }
        let transfers = transfers(&regions, &[1, 2, 3]);
        assert_eq!(transfers.iter().filter(|(_, to)| *to == 2).count(), 3);
        assert_eq!(transfers.iter().filter(|(_, to)| *to == 3).count(), 2);
    }

    #[test]
    fn what_has_become_small_merges_with_its_neighbour() {
        let ledger = ledger();
        acknowledge(&ledger, 0..16);
        let regions = [
            region(2, "", "k08", &[1]),
            region(3, "k08", "k10", &[1]),
            region(4, "k10", "k12", &[1]),
            region(5, "k12", "", &[1]),
        ];
        assert!(merges(&regions, &ledger, 8).is_empty());
        (8..16).for_each(|at| ledger.note_deleted(at));
        assert_eq!(merges(&regions, &ledger, 8), [(4, 3)]);
        assert_eq!(merges(&regions, &ledger, 32), [(3, 2), (5, 4)]);
    }
}
