//! openraft as a peer: one Raft instance for each group and store, all on one asynchronous runtime.
//!
//! openraft ships neither a log nor a network. Here all groups of a store share one file, written and flushed by a thread of its
//! own for whatever has come together ([`disk`]); requests go straight to the other instance, which takes them from its channel
//! ([`network`]). Its stable line waits for each append's flush before it takes up the next ([`writes`] says what is done about
//! it). What is left out, to the peer's advantage: the shared file is never cut, and never read again.

mod disk;
mod log;
mod machine;
mod network;
mod writes;

use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use openraft::{Config, Raft};

use self::disk::Disk;
use self::log::GroupLog;
use self::machine::Machine;
use self::network::Links;
use self::writes::Writer;
use crate::cluster::{Problem, STORES};
use crate::peers::load::{Counts, Peer};
use crate::peers::options::Peer as Options;

/// What openraft's own examples take, in milliseconds; its defaults, ten times as short, are for few groups.
const HEARTBEAT_MS: u64 = 500;
const ELECTION_MS_MIN: u64 = 1500;
const ELECTION_MS_MAX: u64 = 3000;

/// The commands of one entry.
#[derive(Clone, Debug)]
pub(crate) struct Batch(Arc<[Bytes]>);

openraft::declare_raft_types!(
    /// What the instances are made of.
    pub(crate) Types: D = Batch, R = (), NodeId = u64, Node = ()
);

/// All instances, by store and group.
pub(crate) type Rafts = Vec<Vec<OnceLock<Raft<Types>>>>;

/// What the logs of all stores have done.
#[derive(Default)]
pub(crate) struct Done {
    entries: AtomicU64,
    syncs: AtomicU64,
}

/// Three stores.
pub(crate) struct Stores {
    writers: Vec<Arc<Writer>>,
    done: Arc<Done>,
}

impl Peer for Stores {
    async fn start(options: &Options) -> Result<Self, Problem> {
        let failed = |what: &str, why: String| Problem::Failed { what: what.to_owned(), why };
        let config = Config {
            heartbeat_interval: HEARTBEAT_MS,
            election_timeout_min: ELECTION_MS_MIN,
            election_timeout_max: ELECTION_MS_MAX,
            ..Config::default()
        };
        let config = config.validate().map_err(|error| failed("openraft's configuration", error.to_string()))?;
        let config = Arc::new(config);
        let done = Arc::new(Done::default());
        let empty = || (0..options.groups).map(|_| OnceLock::new()).collect();
        let rafts: Arc<Rafts> = Arc::new((0..STORES).map(|_| empty()).collect());
        for (store, place) in (1..=STORES).zip(rafts.iter()) {
            let disk = Disk::open(&options.dir.join(format!("openraft-{store}")), Arc::clone(&done))?;
            for (group, place) in (0..).zip(place) {
                let log = GroupLog::new(group, disk.clone());
                let links = Links::new(group as usize, Arc::clone(&rafts));
                let raft = Raft::new(store, Arc::clone(&config), links, log, Machine::default()).await;
                let raft = raft.map_err(|error| failed("the start of an instance", error.to_string()))?;
                place.get_or_init(|| raft);
            }
        }
        let mut writers = Vec::new();
        for group in 0..options.groups {
            // The instance that is told of the members stands for election at once.
            let first = (group % STORES) as usize;
            let raft = rafts[first][group as usize].get().expect("all instances were made above");
            let members: BTreeSet<u64> = (1..=STORES).collect();
            let initialized = raft.initialize(members).await;
            initialized.map_err(|error| failed("the start of a group", error.to_string()))?;
            writers.push(Arc::new(Writer::new(group as usize, first, Arc::clone(&rafts))));
        }
        Ok(Self { writers, done })
    }

    async fn write(&self, group: u64, command: Bytes) -> Result<(), String> {
        let group = usize::try_from(group).expect("a place in a list in memory");
        self.writers[group].write(command).await
    }

    async fn counts(&self) -> Counts {
        Counts { entries: self.done.entries.load(Ordering::Relaxed), syncs: self.done.syncs.load(Ordering::Relaxed) }
    }
}
