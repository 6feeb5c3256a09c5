//! The power goes at every single operation of a snapshot store: what it had told is there, and nothing is there in part.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use multiraft_raft::{LogIndex, RegionId, Term};
use multiraft_storage::{
    SnapshotError, SnapshotId, SnapshotItem, SnapshotStore,
    disk::{CrashStyle, SimDisk},
};

fn id(region: u64, index: u64) -> SnapshotId {
    SnapshotId { region: RegionId(region), index: LogIndex(index), term: Term(1) }
}

fn item(region: u64, index: u64) -> SnapshotItem {
    let chunks = vec![Bytes::from(vec![index as u8; 9_000]), Bytes::from(format!("{region} {index}"))];
    SnapshotItem { id: id(region, index), header: Bytes::new(), chunks }
}

/// One call.
type Step = fn(&SnapshotStore) -> Result<(), SnapshotError>;

/// What it is to change: the new index of regions, or none.
type Changes = Vec<(u64, Option<u64>)>;

fn steps() -> Vec<(Step, Changes)> {
    vec![
        (
            |store| store.save_many(vec![item(1, 1), item(2, 1), item(3, 1)]),
            vec![(1, Some(1)), (2, Some(1)), (3, Some(1))],
        ),
        (|store| store.save(item(1, 2)), vec![(1, Some(2))]),
        (|store| store.remove(RegionId(2)), vec![(2, None)]),
        (
            |store| {
                let mut writer = store.receive(id(4, 9), b"")?;
                (writer.chunks()..3).try_for_each(|_| writer.append(&[9; 5_000]))?;
                writer.finish().map(drop)
            },
            vec![(4, Some(9))],
        ),
        (|store| store.compact(u64::MAX).map(drop), vec![]),
        (|store| store.save(item(3, 2)), vec![(3, Some(2))]),
        (|store| store.save(item(2, 1)), vec![(2, Some(1))]),
        (|store| store.remove_many(&[RegionId(1), RegionId(4)]), vec![(1, None), (4, None)]),
        (|store| store.compact(u64::MAX).map(drop), vec![]),
        (|store| store.save(item(1, 1)), vec![(1, Some(1))]),
    ]
}

type Model = BTreeMap<u64, u64>;

fn apply(model: &mut Model, changes: &[(u64, Option<u64>)]) {
    for (region, index) in changes {
        match index {
            Some(index) => drop(model.insert(*region, *index)),
            None => drop(model.remove(region)),
        }
    }
}

/// What a store tells, after reading all of it.
fn contents(disk: &SimDisk) -> Model {
    let (store, damaged) = SnapshotStore::open(Arc::new(disk.clone())).unwrap();
    assert_eq!(damaged, []);
    let infos = store.list();
    infos.iter().for_each(|info| store.verify(info.id.region).unwrap());
    infos.iter().map(|info| (info.id.region.get(), info.id.index.get())).collect()
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_that_was_told() {
    let whole = SimDisk::new(3);
    let (store, _) = SnapshotStore::open(Arc::new(whole.clone())).unwrap();
    steps().iter().for_each(|(step, _)| step(&store).unwrap());
    let operations = whole.operations();
    assert!(operations > 40);
    for (style, seeds) in [(CrashStyle::LoseAll, 1), (CrashStyle::KeepAll, 1), (CrashStyle::Mix, 12)] {
        for (operation, seed) in (0..operations).flat_map(|operation| (0..seeds).map(move |seed| (operation, seed))) {
            let disk = SimDisk::new(3);
            disk.cut_power_after(operation);
            let (mut told, mut under_way) = (Model::new(), Vec::new());
            if let Ok((store, _)) = SnapshotStore::open(Arc::new(disk.clone())) {
                for (step, changes) in steps() {
                    if step(&store).is_err() {
                        under_way = changes;
                        break;
                    }
                    apply(&mut told, &changes);
                }
            }
            let mut also = told.clone();
            apply(&mut also, &under_way);
            disk.crash(style, seed);
            // Twice: what the start itself changes must not matter.
            for _ in 0..2 {
                let found = contents(&disk);
                assert!(
                    found == told || found == also,
                    "{style:?} at {operation}, seed {seed}: {found:?}, told {told:?}"
                );
                disk.crash(style, seed + 1);
            }
        }
    }
}

/// Whoever opens the store builds on what it then has: it must be durable, also if the process ended between a rename and its sync.
#[test]
fn what_a_store_finds_when_it_opens_is_durable() {
    let whole = SimDisk::new(3);
    let (store, _) = SnapshotStore::open(Arc::new(whole.clone())).unwrap();
    steps().iter().for_each(|(step, _)| step(&store).unwrap());
    for operation in 0..whole.operations() {
        let disk = SimDisk::new(3);
        let (store, _) = SnapshotStore::open(Arc::new(disk.clone())).unwrap();
        disk.cut_power_after(operation);
        let _ = steps().iter().try_for_each(|(step, _)| step(&store));
        disk.crash(CrashStyle::KeepAll, 0);
        let found = contents(&disk);
        disk.crash(CrashStyle::LoseAll, 0);
        assert_eq!(contents(&disk), found, "killed before operation {operation}");
    }
}

/// Random saves and removals with power cuts between and inside of them.
#[test]
fn a_long_life_with_power_cuts_ends_where_it_should() {
    for seed in 0..30u64 {
        let mut random = seed;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let disk = SimDisk::new(seed);
        let mut model = Model::new();
        for life in 0..25 {
            let (store, damaged) = SnapshotStore::open(Arc::new(disk.clone())).unwrap();
            assert_eq!(damaged, []);
            disk.cut_power_after(next(60));
            let mut also = model.clone();
            for _ in 0..20 {
                let mut changes = Vec::new();
                let done = match next(6) {
                    0 => {
                        let regions = [1 + next(6), 1 + next(6)];
                        changes.extend(regions.map(|region| (region, None)));
                        store.remove_many(&regions.map(RegionId))
                    }
                    1 => store.compact(1 + next(40_000)).map(drop),
                    _ => {
                        let regions: Vec<u64> = (1..=6).filter(|_| next(3) == 0).collect();
                        let items =
                            regions.iter().map(|region| item(*region, model.get(region).unwrap_or(&0) + next(3)));
                        let items: Vec<SnapshotItem> = items.collect();
                        changes.extend(items.iter().map(|item| (item.id.region.get(), Some(item.id.index.get()))));
                        store.save_many(items)
                    }
                };
                also = model.clone();
                apply(&mut also, &changes);
                if done.is_err() {
                    break;
                }
                model = also.clone();
            }
            disk.crash([CrashStyle::LoseAll, CrashStyle::KeepAll, CrashStyle::Mix][next(3) as usize], next(1_000));
            let found = contents(&disk);
            assert!(
                found == model || found == also,
                "seed {seed}, life {life}: {found:?}, told {model:?}, under way {also:?}"
            );
            model = found;
        }
    }
}
