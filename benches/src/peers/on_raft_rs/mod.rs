//! raft-rs as a peer, with raft-engine as its log, driven as TiKV drives them: a fixed thread a store polls all groups that have
//! something to do, one log batch with one flush a turn for all of them, messages batched by store.
//!
//! raft-rs is the consensus of one group and no more, so the driver is ours: [`node`] is the loop, [`group`] what belongs to one
//! group, [`storage`] the log as raft-rs reads it. Stores are connected by channels. What it leaves out, to the peer's
//! advantage: snapshots (a follower must not fall behind the log's start), the commit index on disk, forwarding, restarts.

mod group;
mod node;
mod storage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use bytes::Bytes;
use crossbeam_channel::{Sender, unbounded};
use raft_engine::{Config as LogConfig, Engine as Log};
use tokio::sync::oneshot;

use self::node::{Input, Node};
use crate::cluster::{Problem, STORES};
use crate::peers::load::{Counts, Peer};
use crate::peers::options::Peer as Options;

/// What all threads share.
pub(crate) struct Shared {
    /// Which store leads a group, from 1, as far as is known.
    leaders: Vec<AtomicU8>,
    entries: AtomicU64,
    syncs: AtomicU64,
}

/// Where the answer to a write goes.
pub(crate) type Done = oneshot::Sender<Result<(), &'static str>>;

/// A write on its way.
pub(crate) struct Proposal {
    group: u32,
    command: Bytes,
    done: Done,
}

/// Three stores, each with a thread of its own.
pub(crate) struct Stores {
    shared: Arc<Shared>,
    /// By store.
    inboxes: Vec<Sender<Input>>,
}

impl Peer for Stores {
    async fn start(options: &Options) -> Result<Self, Problem> {
        let shared = Arc::new(Shared {
            // Who campaigns first.
            leaders: (0..options.groups).map(|group| AtomicU8::new((group % STORES) as u8 + 1)).collect(),
            entries: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        });
        #[expect(
            clippy::disallowed_methods,
            reason = "clients and flow control bound it; two stores must not wait for each other"
        )]
        let (inboxes, outlets): (Vec<_>, Vec<_>) = (0..STORES).map(|_| unbounded()).unzip();
        for (store, inbox) in (1..=STORES).zip(outlets) {
            let dir = options.dir.join(format!("raft-engine-{store}"));
            let config = LogConfig { dir: dir.to_string_lossy().into_owned(), ..LogConfig::default() };
            let failed = |why: String| Problem::Failed { what: format!("the start of store {store}"), why };
            let log = Log::open(config).map_err(|error| failed(error.to_string()))?;
            let node = Node::new(store, options.groups, inbox, inboxes.clone(), Arc::new(log), Arc::clone(&shared));
            let node = node.map_err(|error| failed(error.to_string()))?;
            let thread = std::thread::Builder::new().name(format!("raft-rs-{store}"));
            let thread = thread.spawn(move || node.run());
            thread.map_err(|source| Problem::Io { what: "a thread cannot be started", source })?;
        }
        Ok(Self { shared, inboxes })
    }

    async fn write(&self, group: u64, command: Bytes) -> Result<(), String> {
        let group = u32::try_from(group).expect("there are fewer groups");
        let leader = self.shared.leaders[group as usize].load(Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        let input = Input::Propose(Proposal { group, command, done });
        self.inboxes[usize::from(leader) - 1].send(input).map_err(|_| "the store has stopped".to_owned())?;
        answer.await.unwrap_or(Err("the store has stopped")).map_err(ToOwned::to_owned)
    }

    async fn counts(&self) -> Counts {
        Counts {
            entries: self.shared.entries.load(Ordering::Relaxed),
            syncs: self.shared.syncs.load(Ordering::Relaxed),
        }
    }
}
