//! The log on disk: one file a store for all its groups.
//!
//! A thread takes whatever records have come together, writes them with one call, flushes them with one `fdatasync`, and then
//! tells all who wait. While it does so the next ones gather.
//!
//! ```text
//!   record: length of what follows (4), CRC-32C of the rest (4), group (4), kind (1), what that kind has
//!   entry:  term (8), store (8), index (8), then: nothing, commands (each with its length), or members
//!   vote:   term (8), store (8), committed (1)
//!   cut:    index (8)
//! ```

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::sync::oneshot;

use crate::cluster::Problem;
use crate::peers::load::Counts;

/// Kinds of records.
const BLANK: u8 = 0;
const COMMANDS: u8 = 1;
const MEMBERS: u8 = 2;
const VOTE: u8 = 3;
const CUT_AFTER: u8 = 4;
const CUT_BEFORE: u8 = 5;

/// How openraft is told that entries are durable, or why they are not.
pub(crate) trait Flushed: Send + 'static {
    fn flushed(self, outcome: io::Result<()>);
}

/// Who waits for records.
pub(super) enum Waiting<F> {
    /// openraft itself, for entries.
    Entries(F),
    /// A call.
    Call(oneshot::Sender<io::Result<()>>),
    /// Nobody: they have only to come before later ones.
    Nobody,
}

/// What is to be appended together.
struct Piece<F> {
    records: Records,
    waiting: Waiting<F>,
}

/// What the logs of all stores have done.
#[derive(Default)]
pub(super) struct Done {
    entries: AtomicU64,
    syncs: AtomicU64,
}

impl Done {
    pub(super) fn counts(&self) -> Counts {
        Counts { entries: self.entries.load(Ordering::Relaxed), syncs: self.syncs.load(Ordering::Relaxed) }
    }
}

/// The way to a store's file.
pub(crate) struct Disk<F> {
    pieces: Sender<Piece<F>>,
}

impl<F> Clone for Disk<F> {
    fn clone(&self) -> Self {
        Self { pieces: self.pieces.clone() }
    }
}

impl<F: Flushed> Disk<F> {
    /// Creates the file and starts its thread, which ends with the last way to it.
    pub(super) fn open(path: &Path, done: Arc<Done>) -> Result<Self, Problem> {
        let io = |what| move |source| Problem::Io { what, source };
        let file = OpenOptions::new().create_new(true).append(true).open(path);
        let file = file.map_err(io("the log of a store cannot be made"))?;
        #[expect(clippy::disallowed_methods, reason = "openraft waits for each append, which bounds it")]
        let (pieces, incoming) = unbounded();
        let thread = std::thread::Builder::new().name("openraft-log".to_owned());
        let thread = thread.spawn(move || run(&file, &incoming, &done));
        thread.map_err(io("a thread cannot be started"))?;
        Ok(Self { pieces })
    }

    pub(super) fn append(&self, records: Records, waiting: Waiting<F>) {
        // Who waits on a thread that has ended is told by the end of the channel that it waits on.
        let _ = self.pieces.send(Piece { records, waiting });
    }

    /// Returns when the records are durable.
    pub(super) async fn save(&self, records: Records) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.append(records, Waiting::Call(done));
        answer.await.unwrap_or_else(|_| Err(io::Error::other("the thread of the log has ended")))
    }
}

fn run<F: Flushed>(mut file: &File, incoming: &Receiver<Piece<F>>, done: &Done) {
    let (mut bytes, mut waiting) = (Vec::new(), Vec::new());
    while let Ok(first) = incoming.recv() {
        let mut writes = 0;
        for piece in std::iter::once(first).chain(incoming.try_iter()) {
            bytes.extend_from_slice(&piece.records.bytes);
            writes += piece.records.writes;
            waiting.push(piece.waiting);
        }
        let outcome = file.write_all(&bytes).and_then(|()| file.sync_data());
        bytes.clear();
        done.entries.fetch_add(writes, Ordering::Relaxed);
        done.syncs.fetch_add(1, Ordering::Relaxed);
        // An error has no copy.
        let outcome = || outcome.as_ref().copied().map_err(|error| io::Error::from(error.kind()));
        for one in waiting.drain(..) {
            match one {
                Waiting::Entries(flushed) => flushed.flushed(outcome()),
                Waiting::Call(call) => {
                    let _ = call.send(outcome());
                }
                Waiting::Nobody => {}
            }
        }
    }
}

/// What an entry has.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    Blank,
    Commands(&'a [Bytes]),
    /// One set of stores, or two while members change.
    Members(&'a [BTreeSet<u64>]),
}

/// Records of one group.
pub(super) struct Records {
    group: u32,
    bytes: Vec<u8>,
    /// How many writes are in them.
    writes: u64,
}

impl Records {
    pub(super) fn new(group: u32) -> Self {
        Self { group, bytes: Vec::new(), writes: 0 }
    }

    /// `id`: term and store of the leader that made the entry, and its index.
    pub(super) fn entry(&mut self, id: [u64; 3], content: Content<'_>) {
        let kind = match content {
            Content::Blank => BLANK,
            Content::Commands(_) => COMMANDS,
            Content::Members(_) => MEMBERS,
        };
        self.record(kind, |bytes| {
            for number in id {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            match content {
                Content::Blank => {}
                Content::Commands(commands) => {
                    for command in commands {
                        bytes.extend_from_slice(&(command.len() as u32).to_le_bytes());
                        bytes.extend_from_slice(command);
                    }
                }
                Content::Members(configs) => {
                    for config in configs {
                        bytes.push(config.len() as u8);
                        bytes.extend(config.iter().flat_map(|store| store.to_le_bytes()));
                    }
                }
            }
        });
        if let Content::Commands(commands) = content {
            self.writes += commands.len() as u64;
        }
    }

    pub(super) fn vote(mut self, (term, store, is_committed): (u64, u64, bool)) -> Self {
        self.record(VOTE, |bytes| {
            bytes.extend_from_slice(&term.to_le_bytes());
            bytes.extend_from_slice(&store.to_le_bytes());
            bytes.push(u8::from(is_committed));
        });
        self
    }

    /// From `index` on nothing counts.
    pub(super) fn cut_after(mut self, index: u64) -> Self {
        self.record(CUT_AFTER, |bytes| bytes.extend_from_slice(&index.to_le_bytes()));
        self
    }

    /// Up to `index` nothing is needed.
    pub(super) fn cut_before(mut self, index: u64) -> Self {
        self.record(CUT_BEFORE, |bytes| bytes.extend_from_slice(&index.to_le_bytes()));
        self
    }

    fn record(&mut self, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(&self.group.to_le_bytes());
        self.bytes.push(kind);
        body(&mut self.bytes);
        let length = (self.bytes.len() - begin - 4) as u32;
        let sum = crc32c::crc32c(&self.bytes[begin + 8..]);
        self.bytes[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
        self.bytes[begin + 4..begin + 8].copy_from_slice(&sum.to_le_bytes());
    }
}
