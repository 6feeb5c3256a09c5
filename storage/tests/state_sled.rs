//! What a [`SledStore`] does when its disk is full, a sync fails, or a snapshot is read too slowly.
#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use multiraft_storage::{SledConfig, SledStore, StateBatch, StateError, StateStore, StoreFs};
use tempfile::TempDir;

/// A file system under the test's control.
#[derive(Debug)]
struct TestFs {
    free: AtomicU64,
    sync_fails: AtomicBool,
    syncs: AtomicUsize,
}

impl TestFs {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            free: AtomicU64::new(u64::MAX),
            sync_fails: AtomicBool::new(false),
            syncs: AtomicUsize::new(0),
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if self.sync_fails.load(Ordering::Relaxed) { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
    }
}

impl StoreFs for TestFs {
    fn sync_file(&self, _path: &Path, _file: &File) -> io::Result<()> {
        self.sync()
    }

    fn sync_dir(&self, _path: &Path, _dir: &File) -> io::Result<()> {
        self.sync()
    }

    fn write_through(&self, _path: &Path, _file: &File) -> bool {
        true
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.free.load(Ordering::Relaxed))
    }
}

fn put(store: &SledStore, key: &str, value: impl Into<multiraft_raft::Payload>) -> Result<(), StateError> {
    let mut batch = StateBatch::new();
    batch.put(key.to_string(), value);
    store.write(batch)
}

fn keys(store: &SledStore) -> Vec<bytes::Bytes> {
    store.view().scan(b"", b"", usize::MAX).unwrap().into_iter().map(|(key, _)| key).collect()
}

#[test]
fn a_full_disk_refuses_writes_and_the_store_goes_on_when_there_is_room() {
    let (dir, fs) = (TempDir::new().unwrap(), TestFs::new());
    let config = SledConfig::default();
    let reserve = config.free_bytes_min;
    let store = SledStore::open_on(dir.path().join("state"), config, fs.clone()).unwrap();
    put(&store, "a", "1").unwrap();
    fs.free.store(reserve, Ordering::Relaxed);
    assert!(matches!(put(&store, "b", "2"), Err(StateError::NoSpace { .. })));
    assert_eq!(keys(&store), ["a"]);
    store.flush().unwrap();
    fs.free.store(reserve + 1_000_000, Ordering::Relaxed);
    assert!(
        matches!(put(&store, "c", vec![0; 1_000_000]), Err(StateError::NoSpace { .. })),
        "a batch too large for what is left"
    );
    put(&store, "d", "4").unwrap();
    assert_eq!(keys(&store), ["a", "d"]);
}

#[test]
fn after_a_failed_sync_the_store_refuses_everything() {
    let (dir, fs) = (TempDir::new().unwrap(), TestFs::new());
    let store = SledStore::open_on(dir.path().join("state"), SledConfig::default(), fs.clone()).unwrap();
    put(&store, "a", "1").unwrap();
    fs.sync_fails.store(true, Ordering::Relaxed);
    assert!(matches!(store.flush(), Err(StateError::Io { .. })));
    fs.sync_fails.store(false, Ordering::Relaxed);
    assert!(store.flush().is_err(), "a failed sync must not be tried again");
    assert!(put(&store, "b", "2").is_err());
    assert!(store.view().get(b"a").is_err());
    assert!(store.snapshot(b"", b"").is_err());
}

#[test]
fn a_flush_syncs_only_if_something_was_written() {
    let (dir, fs) = (TempDir::new().unwrap(), TestFs::new());
    let store = SledStore::open_on(dir.path().join("state"), SledConfig::default(), fs.clone()).unwrap();
    store.flush().unwrap();
    let before = fs.syncs.load(Ordering::Relaxed);
    store.flush().unwrap();
    assert_eq!(fs.syncs.load(Ordering::Relaxed), before);
    put(&store, "a", "1").unwrap();
    store.flush().unwrap();
    assert!(fs.syncs.load(Ordering::Relaxed) >= before + 3);
}

#[test]
fn a_store_open_elsewhere_is_not_taken_for_damaged() {
    let dir = TempDir::new().unwrap();
    let _store = SledStore::open(dir.path(), SledConfig::default()).unwrap();
    assert!(matches!(SledStore::open(dir.path(), SledConfig::default()), Err(StateError::Io { .. })));
}

#[test]
fn a_directory_of_a_failed_batch_does_not_open() {
    let dir = TempDir::new().unwrap();
    drop(SledStore::open(dir.path(), SledConfig::default()).unwrap());
    File::create(dir.path().join("FAILED")).unwrap();
    let error = SledStore::open(dir.path(), SledConfig::default()).unwrap_err();
    assert!(matches!(&error, StateError::Damaged { reason, .. } if reason.contains("half way")), "{error}");
}

#[test]
fn a_snapshot_that_is_read_too_slowly_is_given_up_and_the_others_go_on() {
    let dir = TempDir::new().unwrap();
    let mut config = SledConfig::default();
    config.snapshot_bytes_max = 20_000;
    let store = SledStore::open(dir.path(), config).unwrap();
    for number in 0..30 {
        put(&store, &format!("k{number:02}"), vec![1; 1_000]).unwrap();
    }
    let mut slow = store.snapshot(b"", b"").unwrap();
    let mut narrow = store.snapshot(b"k03", b"k06").unwrap();
    assert_eq!(slow.next_chunk(2_500).unwrap().len(), 2);
    for number in 0..30 {
        put(&store, &format!("k{number:02}"), vec![2; 1_000]).unwrap();
    }
    assert!(matches!(slow.next_chunk(1), Err(StateError::SnapshotLost { kept }) if kept > 15_000));
    let chunk = narrow.next_chunk(usize::MAX).unwrap();
    assert_eq!(chunk.len(), 3);
    assert!(chunk.iter().all(|(_, value)| value[0] == 1));
    drop(slow);
    let mut next = store.snapshot(b"", b"").unwrap();
    put(&store, "k00", "3").unwrap();
    assert_eq!(next.next_chunk(usize::MAX).unwrap()[0].1[0], 2);
}

#[test]
fn large_values_leave_nothing_behind_when_they_shrink_or_go() {
    let dir = TempDir::new().unwrap();
    let store = SledStore::open(dir.path(), SledConfig::default()).unwrap();
    for (key, len) in [("a", 100_000), ("b", 100_000), ("c", 100_000), ("d", 100_000), ("a", 9_000), ("b", 10)] {
        put(&store, key, vec![len as u8; len]).unwrap();
    }
    let mut batch = StateBatch::new();
    batch.delete("c");
    batch.delete_range("d", "e");
    store.write(batch).unwrap();
    assert_eq!(store.view().get(b"a").unwrap().unwrap(), vec![9_000u32 as u8; 9_000]);
    assert_eq!(store.view().get(b"b").unwrap().unwrap(), vec![10; 10]);
    assert_eq!(keys(&store), ["a", "b"]);
    drop(store);
    assert_eq!(std::fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0, "sled was given a large page");
    let raw = sled::open(dir.path()).unwrap();
    assert_eq!(raw.scan_prefix(b"p").count(), 3, "9,000 bytes are three pieces");
}

#[test]
fn a_large_range_goes_at_once_and_its_keys_by_and_by() {
    let dir = TempDir::new().unwrap();
    let mut config = SledConfig::default();
    config.delete_range_keys_max = 100;
    let open = || SledStore::open(dir.path(), config.clone()).unwrap();
    let store = open();
    let key = |number: u32| bytes::Bytes::copy_from_slice(&number.to_be_bytes());
    let mut batch = StateBatch::new();
    (0..30_000).for_each(|number| batch.put(key(number), "old"));
    store.write(batch).unwrap();
    let mut batch = StateBatch::new();
    batch.put(key(5), "dropped");
    batch.delete_range(key(1), key(29_999));
    batch.put(key(7), "new");
    store.write(batch).unwrap();
    put(&store, "zzzzz", "1").unwrap();
    let mut batch = StateBatch::new();
    batch.put(key(15_000), "new");
    batch.delete(key(7));
    batch.put(key(8), vec![1; 10_000]);
    store.write(batch).unwrap();
    let want = [key(0), key(8), key(15_000), key(29_999), "zzzzz".into()];
    assert_eq!(keys(&store), want);
    assert_eq!(store.view().get(&key(9)).unwrap(), None);
    // A flush clears a part; a restart finds the rest still to be done.
    store.flush().unwrap();
    assert_eq!(keys(&store), want);
    drop(store);
    let store = open();
    assert_eq!(keys(&store), want);
    // A snapshot has it done first.
    let mut snapshot = store.snapshot(b"", b"").unwrap();
    put(&store, "zzzzz", "2").unwrap();
    let seen: Vec<_> = snapshot.next_chunk(usize::MAX).unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(seen, want);
    drop((snapshot, store));
    let raw = sled::open(dir.path()).unwrap();
    assert_eq!(raw.scan_prefix(b"d").count(), want.len());
    assert_eq!(raw.scan_prefix(b"c").chain(raw.scan_prefix(b"x")).count(), 0, "the clear itself is left");
}

fn numbered(kind: u8, number: u64) -> bytes::Bytes {
    [&[kind], &number.to_be_bytes()[..]].concat().into()
}

#[test]
fn records_of_neighbours_are_one_pair_for_sled_until_they_are_long() {
    let dir = TempDir::new().unwrap();
    let store = SledStore::open(dir.path(), SledConfig::default()).unwrap();
    let mut batch = StateBatch::new();
    for number in 0..1600 {
        batch.put(numbered(1, number), "applied");
        batch.put(numbered(2, number), "descriptor");
    }
    store.write(batch).unwrap();
    let mut batch = StateBatch::new();
    batch.put(numbered(1, 5), vec![5; 9_000]);
    batch.put(numbered(1, 6), vec![6; 300]);
    batch.delete(numbered(1, 7));
    batch.delete_range(numbered(2, 8), numbered(2, 17));
    store.write(batch).unwrap();
    let applied = |store: &SledStore| store.view().scan(&[1], &[2], usize::MAX).unwrap();
    let want: Vec<_> = (0..1600).filter(|number| *number != 7).map(|number| numbered(1, number)).collect();
    assert_eq!(applied(&store).into_iter().map(|(key, _)| key).collect::<Vec<_>>(), want);
    assert_eq!(store.view().get(&numbered(1, 5)).unwrap().unwrap(), vec![5; 9_000]);
    assert_eq!(applied(&store)[6].1, vec![6; 300]);
    assert_eq!(store.view().scan(&numbered(2, 7), &numbered(2, 18), 9).unwrap().len(), 2);
    let mut batch = StateBatch::new();
    batch.put(numbered(1, 5), "short");
    batch.delete(numbered(1, 6));
    store.write(batch).unwrap();
    assert_eq!(store.view().get(&numbered(1, 5)).unwrap().unwrap(), "short");
    assert_eq!(applied(&store).len(), 1598);
    drop(store);
    let raw = sled::open(dir.path()).unwrap();
    assert_eq!(raw.scan_prefix(b"g").count(), 100 + 200 - 1);
    assert_eq!(raw.scan_prefix(b"d").chain(raw.scan_prefix(b"p")).count(), 0, "what was long is left behind");
}

#[test]
fn a_store_of_the_first_layout_is_taken_over_also_after_a_crash_on_the_way() {
    let dir = TempDir::new().unwrap();
    drop(SledStore::open(dir.path(), SledConfig::default()).unwrap());
    let is_long = |number: u64| number == 1234;
    let stored = |number: u64| if is_long(number) { vec![b'x'; 300] } else { number.to_string().into_bytes() };
    let data = |key: &[u8]| [b"d", key].concat();
    let mut all = Vec::new();
    {
        let raw = once_unlocked(|| sled::open(dir.path())).unwrap();
        raw.insert(b"mformat", &[1]).unwrap();
        let other =
            [&b""[..], &[1], &[2, 2], &[16, 0, 0, 0, 0, 0, 0, 0, 1]].map(|key| (key.to_vec(), b"other".to_vec()));
        let records = (0..3000).flat_map(|number| [1, 2].map(|kind| (numbered(kind, number).to_vec(), stored(number))));
        for (key, value) in other.into_iter().chain(records) {
            raw.insert(data(&key), [&[0], &value[..]].concat()).unwrap();
            all.push((bytes::Bytes::from(key), bytes::Bytes::from(value)));
        }
        raw.flush().unwrap();
    }
    all.sort();
    let fs = TestFs::new();
    fs.free.store(1 << 20, Ordering::Relaxed);
    let refused = once_unlocked(|| SledStore::open_on(dir.path(), SledConfig::default(), fs.clone())).unwrap_err();
    assert!(matches!(refused, StateError::NoSpace { .. }), "{refused}");
    let open = || once_unlocked(|| SledStore::open(dir.path(), SledConfig::default()));
    let read = || {
        let store = open().unwrap();
        store.flush().unwrap();
        store.view().scan(b"", b"", usize::MAX).unwrap()
    };
    assert_eq!(read(), all);
    {
        // As a crash leaves it: the format of the way, and one record that is where it was.
        let raw = once_unlocked(|| sled::open(dir.path())).unwrap();
        assert_eq!(raw.get(b"mformat").unwrap().unwrap(), &[2]);
        assert_eq!(raw.scan_prefix(b"d").count(), 4 + 2, "beside the groups");
        raw.insert(b"mformat", &[2, 1]).unwrap();
        raw.remove(&b"g\x01\0\0\0\0\0\0\0\x02"[..]).unwrap();
        for number in 32..48 {
            raw.insert(data(&numbered(1, number)), [&[0], &stored(number)[..]].concat()).unwrap();
        }
        raw.flush().unwrap();
    }
    assert_eq!(read(), all);
    let raw = once_unlocked(|| sled::open(dir.path())).unwrap();
    assert_eq!(raw.get(b"mformat").unwrap().unwrap(), &[2]);
    assert_eq!(raw.scan_prefix(b"d").count(), 4 + 2);
    raw.insert(b"mformat", &[3]).unwrap();
    drop(raw);
    let refused = open().unwrap_err();
    assert!(matches!(refused, StateError::Damaged { .. }), "{refused}");
}

/// Opens a store that something else has just let go: sled itself gives its lock up a moment after it was dropped.
fn once_unlocked<T, E: std::fmt::Display>(open: impl Fn() -> Result<T, E>) -> Result<T, E> {
    let begun = std::time::Instant::now();
    loop {
        match open() {
            Err(error) if error.to_string().contains("could not acquire lock") && begun.elapsed().as_secs() < 10 => {
                std::thread::yield_now();
            }
            opened => return opened,
        }
    }
}
