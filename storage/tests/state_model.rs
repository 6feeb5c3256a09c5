//! Every state store against a plain ordered map, under random batches, reads, snapshots and restarts.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;
use multiraft_storage::{MemStore, Pair, SimStore, SledConfig, SledStore, StateBatch, StateSnapshot, StateStore};
use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;

type Model = BTreeMap<Bytes, Bytes>;

#[derive(Clone, Debug)]
enum Op {
    Put(Bytes, Bytes),
    Delete(Bytes),
    DeleteRange(Bytes, Bytes),
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Op>),
    Scan(Bytes, Bytes, usize),
    OpenSnapshot(Bytes, Bytes),
    ReadSnapshot(usize, usize),
    DropSnapshot(usize),
    Flush,
    Restart(u64),
}

/// Few different keys, so that steps meet; the empty one among them, and such as sled's store keeps in groups.
fn key() -> impl Strategy<Value = Bytes> {
    let numbered = (0..4u8, 0..40u8, 0..9usize)
        .prop_map(|(kind, number, more)| [&[kind, 0, 0, 0, 0, 0, 0, 0, number][..], &[0][..more / 8]].concat());
    prop_oneof![vec(0..4u8, 0..4), numbered].prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![8 => 0..60usize, 2 => 230..250usize, 1 => 4_000..9_000usize]
        .prop_flat_map(|len| any::<u8>().prop_map(move |fill| Bytes::from(vec![fill; len])))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (key(), value()).prop_map(|(key, value)| Op::Put(key, value)),
        3 => key().prop_map(Op::Delete),
        1 => (key(), key()).prop_map(|(start, end)| Op::DeleteRange(start, end)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => vec(op(), 0..12).prop_map(Step::Write),
        4 => (key(), key(), 0..20usize).prop_map(|(start, end, limit)| Step::Scan(start, end, limit)),
        2 => (key(), key()).prop_map(|(start, end)| Step::OpenSnapshot(start, end)),
        5 => (any::<usize>(), 0..6_000usize).prop_map(|(which, max_bytes)| Step::ReadSnapshot(which, max_bytes)),
        1 => any::<usize>().prop_map(Step::DropSnapshot),
        1 => Just(Step::Flush),
        1 => any::<u64>().prop_map(Step::Restart),
    ]
}

fn range(model: &Model, start: &Bytes, end: &Bytes) -> Vec<Pair> {
    if !end.is_empty() && start >= end {
        return Vec::new();
    }
    let end = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end.clone()) };
    model.range((Bound::Included(start.clone()), end)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn write(store: &dyn StateStore, model: &mut Model, ops: Vec<Op>) {
    let mut batch = StateBatch::new();
    for op in ops {
        match op {
            Op::Put(key, value) => {
                batch.put(key.clone(), value.clone());
                model.insert(key, value);
            }
            Op::Delete(key) => {
                batch.delete(key.clone());
                model.remove(&key);
            }
            Op::DeleteRange(start, end) => {
                for (key, _) in range(model, &start, &end) {
                    model.remove(&key);
                }
                batch.delete_range(start, end);
            }
        }
    }
    store.write(batch).unwrap();
}

/// `restart` answers the store after a clean restart (everything was flushed).
fn run<S: StateStore>(mut store: S, steps: Vec<Step>, mut restart: impl FnMut(S, u64) -> S) {
    let mut model = Model::new();
    let mut snapshots: Vec<(Box<dyn StateSnapshot>, Vec<Pair>)> = Vec::new();
    for step in steps {
        match step {
            Step::Write(ops) => write(&store, &mut model, ops),
            Step::Scan(start, end, limit) => {
                let mut want = range(&model, &start, &end);
                want.truncate(limit);
                let view = store.view();
                assert_eq!(view.scan(&start, &end, limit).unwrap(), want);
                assert_eq!(view.get(&start).unwrap().as_ref(), model.get(&start));
            }
            Step::OpenSnapshot(start, end) => {
                snapshots.push((store.snapshot(&start, &end).unwrap(), range(&model, &start, &end)));
            }
            Step::ReadSnapshot(which, max_bytes) if !snapshots.is_empty() => {
                let which = which % snapshots.len();
                let (snapshot, want) = &mut snapshots[which];
                let chunk = snapshot.next_chunk(max_bytes).unwrap();
                assert_eq!(chunk.is_empty(), want.is_empty());
                let rest = want.split_off(chunk.len());
                assert_eq!(&chunk, want);
                *want = rest;
            }
            Step::DropSnapshot(which) if !snapshots.is_empty() => drop(snapshots.swap_remove(which % snapshots.len())),
            Step::ReadSnapshot(..) | Step::DropSnapshot(_) => (),
            Step::Flush => store.flush().unwrap(),
            Step::Restart(seed) => {
                store.flush().unwrap();
                snapshots.clear();
                store = restart(store, seed);
            }
        }
        assert_eq!(store.view().scan(b"", b"", usize::MAX).unwrap(), range(&model, &Bytes::new(), &Bytes::new()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn mem_store_equals_a_map(steps in vec(step(), 1..60)) {
        run(MemStore::new(), steps, |store, _| store);
    }

    #[test]
    fn sim_store_equals_a_map(steps in vec(step(), 1..60)) {
        run(SimStore::new(), steps, |store, seed| {
            store.crash(seed);
            store
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sled_store_equals_a_map(steps in vec(step(), 1..60), delete_range_keys_max in prop_oneof![Just(0), Just(3), Just(100)]) {
        let dir = TempDir::new().unwrap();
        let mut config = SledConfig::default();
        config.delete_range_keys_max = delete_range_keys_max;
        let open = || SledStore::open(dir.path(), config.clone()).unwrap();
        run(open(), steps, |store, _| {
            drop(store);
            open()
        });
    }
}
