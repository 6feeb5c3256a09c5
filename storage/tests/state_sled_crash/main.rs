//! What a power cut or a killed process leaves of a [`SledStore`].
//!
//! A recorder stands between the store and the system and keeps what each sync made durable. An image of any moment is then
//! every file with the contents of its last sync, and every directory with the entries of its last sync: the least that a
//! disk may have kept. It must hold every flushed batch, and beyond those a prefix of the later ones, each as a whole.
//!
//! What these tests do not show: a disk that keeps later writes and loses earlier ones. sled does not survive that (an
//! experiment with random 4 KiB pages of several writes lost lost a tenth to a quarter of all images); the store prevents it
//! by making sled's log synchronous, and the watermark finds most of what is left.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod history;
mod recorder;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use multiraft_storage::{RealFs, SledConfig, SledStore, StateStore, StoreFs};
use tempfile::TempDir;

use self::{
    history::History,
    recorder::{Image, Recorder},
};

/// Most ranges of the history are removed piece by piece.
fn config() -> SledConfig {
    let mut config = SledConfig::default();
    config.delete_range_keys_max = 5;
    config
}

/// A store on recorded files, and its history.
struct Run {
    _dir: TempDir,
    root: PathBuf,
    recorder: Arc<Recorder>,
    store: SledStore,
    history: History,
}

impl Run {
    fn new(seed: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let root = dir.path().canonicalize().unwrap().join("state");
        let recorder = Arc::<Recorder>::default();
        let store = SledStore::open_on(&root, config(), recorder.clone()).unwrap();
        Self { _dir: dir, root, recorder, store, history: History::new(seed) }
    }

    fn write(&mut self, batches: u64) {
        for _ in 0..batches {
            self.store.write(self.history.next_batch()).unwrap();
        }
    }

    /// What is durable now.
    fn image(&self) -> Image {
        self.recorder.image(&self.root, self.recorder.count())
    }

    /// Opens an image; answers after which batch it stands.
    fn batch_of(&self, image: &Image) -> Result<usize, String> {
        let dir = image.lay_out();
        self.history.batch_of(&SledStore::open(dir.path().join("state"), config()).map_err(|error| error.to_string())?)
    }
}

#[test]
fn every_image_between_two_syncs_holds_what_was_flushed_and_whole_batches() {
    let mut run = Run::new(1);
    // After how many syncs how many batches were flushed.
    let mut flushed = vec![(run.recorder.count(), 0)];
    for _ in 0..25 {
        let batches = run.history.random(10);
        run.write(batches);
        run.store.flush().unwrap();
        flushed.push((run.recorder.count(), run.history.batches()));
    }
    for syncs in flushed[0].0..=run.recorder.count() {
        let want = flushed.iter().rfind(|(done, _)| *done <= syncs).unwrap().1;
        let image = run.recorder.image(&run.root, syncs);
        let found = run.batch_of(&image).unwrap_or_else(|error| panic!("after {syncs} syncs: {error}"));
        assert!(found >= want, "after {syncs} syncs {want} batches were flushed, but the image stands at {found}");
    }
}

/// Shows that the images above are whole because of the store's own syncs: before them the batch is not there.
#[test]
fn before_the_stores_syncs_the_image_lacks_the_batch() {
    let mut run = Run::new(2);
    let opened = run.recorder.count();
    run.write(1);
    run.store.flush().unwrap();
    assert_eq!(run.batch_of(&run.image()), Ok(1));
    assert_eq!(run.batch_of(&run.recorder.image(&run.root, opened)), Ok(0));
}

/// Of the write that a power cut interrupts any of its pages may be on the disk.
#[test]
fn a_torn_last_write_does_not_harm_what_was_flushed() {
    for seed in 0..2 {
        let mut run = Run::new(seed);
        for round in 0..12 {
            let batches = run.history.random(12);
            run.write(batches);
            run.store.flush().unwrap();
            let (flushed, before) = (run.history.batches(), run.image());
            run.write(1);
            run.store.flush().unwrap();
            let after = run.image();
            for share in [0, 30, 60, 90, 100] {
                let image = before.with_pages_of(&after, |_| run.history.random(100) < share);
                let found = run
                    .batch_of(&image)
                    .unwrap_or_else(|error| panic!("seed {seed}, round {round}, {share} %: {error}"));
                assert!(
                    found >= flushed,
                    "seed {seed}, round {round}, {share} %: {flushed} were flushed, {found} found"
                );
            }
        }
    }
}

/// The watermark tells what sled does not: here it comes up empty.
#[test]
fn a_store_that_falls_behind_its_last_flush_is_damaged() {
    let mut run = Run::new(3);
    run.write(3);
    run.store.flush().unwrap();
    let early = run.image();
    run.write(3);
    run.store.flush().unwrap();
    let mut image = run.image();
    for lost in [early.file("db").to_vec(), Vec::new()] {
        image.set("db", lost);
        let error = run.batch_of(&image).unwrap_err();
        assert!(error.contains("what was flushed is missing") || error.contains("sled panicked"), "{error}");
    }
    let mut image = run.image();
    image.remove("FLUSHED");
    assert!(run.batch_of(&image).unwrap_err().contains("FLUSHED is missing"));
}

#[test]
fn every_damaged_byte_is_told_or_harmless() {
    let mut run = Run::new(4);
    run.write(20);
    run.store.flush().unwrap();
    let whole = run.image();
    let (flushed, mut told) = (run.history.batches(), 0);
    for round in 0..120 {
        let mut image = whole.clone();
        let names: Vec<_> = whole.names().collect();
        let name = names[run.history.random(names.len() as u64) as usize].clone();
        let mut bytes = whole.file(&name).to_vec();
        if bytes.is_empty() {
            continue;
        }
        let at = run.history.random(bytes.len() as u64) as usize;
        match run.history.random(3) {
            0 => bytes[at] ^= 1 << run.history.random(8),
            1 => bytes.truncate(at),
            _ => bytes[at..].iter_mut().take(512).for_each(|byte| *byte = 0),
        }
        image.set(&name, bytes);
        match run.batch_of(&image) {
            Ok(found) => assert_eq!(found, flushed, "round {round}: {name:?} damaged at {at}, silently"),
            Err(_) => told += 1,
        }
    }
    assert!(told > 20, "the damage does not reach the data");
}

#[test]
fn a_killed_process_loses_nothing_that_it_flushed() {
    for seed in 0..4 {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("state");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_it_is_killed", "--ignored", "--nocapture"])
            .env("STATE_DIR", &path)
            .env("STATE_SEED", seed.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut flushed = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some(batches) = line.unwrap().strip_prefix("flushed ") {
                flushed = batches.parse().unwrap();
            }
            if flushed > 20 + 37 * seed as usize {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let store = SledStore::open(&path, config()).unwrap();
        let mut history = History::new(seed);
        // It may have gone on after the last line that was read.
        (0..flushed + 2_000).for_each(|_| drop(history.next_batch()));
        let found = history.batch_of(&store).unwrap();
        assert!(found >= flushed, "{flushed} batches were flushed, {found} are there");
    }
}

/// Not a test of its own: the process that the test above kills.
#[test]
#[ignore = "started by another test"]
fn child_that_writes_until_it_is_killed() {
    let (Ok(path), Ok(seed)) = (std::env::var("STATE_DIR"), std::env::var("STATE_SEED")) else { return };
    let store = SledStore::open(path, config()).unwrap();
    let mut history = History::new(seed.parse().unwrap());
    for _ in 0..300 {
        for _ in 0..1 + history.batches() % 7 {
            store.write(history.next_batch()).unwrap();
        }
        store.flush().unwrap();
        println!("\nflushed {}", history.batches());
    }
}

#[test]
fn the_real_file_system_syncs_and_tells_its_room() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, b"x").unwrap();
    RealFs.sync_file(&path, &File::open(&path).unwrap()).unwrap();
    RealFs.sync_dir(dir.path(), &File::open(dir.path()).unwrap()).unwrap();
    assert!(RealFs.free_bytes(dir.path()).unwrap() > 0);
}

/// Where the file system knows synchronous files, sled's log is one.
#[cfg(target_os = "linux")]
#[test]
fn sleds_log_is_written_through() {
    let flags = |path: &Path| rustix::fs::ioctl_getflags(File::open(path).unwrap());
    let dir = TempDir::new().unwrap();
    let _store = SledStore::open(dir.path().join("state"), config()).unwrap();
    let probe = dir.path().join("probe");
    fs::write(&probe, b"").unwrap();
    if RealFs.write_through(&probe, &File::open(&probe).unwrap()) {
        assert!(flags(&dir.path().join("state/db")).unwrap().contains(rustix::fs::IFlags::SYNC));
    }
}

/// A model of the contents, in key order.
type Model = BTreeMap<bytes::Bytes, bytes::Bytes>;
