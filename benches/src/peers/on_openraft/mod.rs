//! openraft as a peer: one Raft instance for each group and store, all on one asynchronous runtime. [`v0_9`] is its stable line,
//! [`v0_10`] the next one, of which there are pre-releases only.
//!
//! openraft ships neither a log nor a network. Here all groups of a store share one file, written and flushed by a thread of its
//! own for whatever has come together ([`mod@file`]); requests go straight to the other instance, which takes them from its channel.
//! Both lines are given several writes in one call ([`writes`]). What is left out, to the peer's advantage: the shared file is
//! never cut, and never read again.

mod file;
mod kept;
mod log;
pub(super) mod v0_10;
pub(super) mod v0_9;
mod writes;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use self::file::{Disk, Done, Flushed};
use self::writes::Writer;
use super::load::{Counts, Peer};
use super::options::Peer as Options;
use crate::cluster::{Problem, STORES};

/// What openraft's own examples take, in milliseconds; its defaults, ten times as short, are for few groups.
const HEARTBEAT_MS: u64 = 500;
const ELECTION_MS_MIN: u64 = 1500;
const ELECTION_MS_MAX: u64 = 3000;

/// The commands of one entry.
#[derive(Clone, Debug)]
pub(crate) struct Batch(Arc<[Bytes]>);

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands", self.0.len())
    }
}

/// A Raft instance of one of the lines.
pub(crate) trait Instance: Send + Sync + Sized + 'static {
    /// How it is told that entries are durable.
    type Flushed: Flushed;
    type Config: Send + Sync;
    /// Batches of a group that are best under way at once.
    const BATCHES_AT_ONCE: usize;

    fn config() -> Result<Self::Config, String>;

    fn start(
        config: &Arc<Self::Config>,
        store: u64,
        group: u32,
        disk: Disk<Self::Flushed>,
        instances: &Arc<Instances<Self>>,
    ) -> impl Future<Output = Result<Self, String>>;

    /// Tells the instance of its group's members; it stands for election at once.
    fn initialize(&self, members: BTreeSet<u64>) -> impl Future<Output = Result<(), String>>;

    /// Returns once the batch is committed and applied here.
    fn write(&self, batch: Batch) -> impl Future<Output = Result<(), Refused>> + Send;
}

/// A batch that was not, or perhaps not, carried out.
pub(crate) struct Refused {
    /// The store that leads, if another one is known to.
    leader: Option<u64>,
    why: String,
}

/// All instances, by store and group.
pub(crate) type Instances<I> = Vec<Vec<OnceLock<I>>>;

/// Three stores.
pub(crate) struct Stores<I> {
    writers: Vec<Arc<Writer<I>>>,
    done: Arc<Done>,
}

impl<I: Instance> Peer for Stores<I> {
    async fn start(options: &Options) -> Result<Self, Problem> {
        let failed = |what: &'static str| move |why: String| Problem::Failed { what: what.to_owned(), why };
        let config = Arc::new(I::config().map_err(failed("openraft's configuration"))?);
        let done = Arc::new(Done::default());
        let empty = || (0..options.groups).map(|_| OnceLock::new()).collect();
        let instances: Arc<Instances<I>> = Arc::new((0..STORES).map(|_| empty()).collect());
        for (store, place) in (1..=STORES).zip(instances.iter()) {
            let disk = Disk::open(&options.dir.join(format!("openraft-{store}")), Arc::clone(&done))?;
            for (group, place) in (0..).zip(place) {
                let instance = I::start(&config, store, group, disk.clone(), &instances).await;
                let instance = instance.map_err(failed("the start of an instance"))?;
                place.get_or_init(|| instance);
            }
        }
        let mut writers = Vec::new();
        for group in 0..options.groups {
            let first = (group % STORES) as usize;
            let writer = Writer::new(group as usize, first, Arc::clone(&instances));
            let initialized = writer.instance(first).initialize((1..=STORES).collect()).await;
            initialized.map_err(failed("the start of a group"))?;
            writers.push(Arc::new(writer));
        }
        Ok(Self { writers, done })
    }

    async fn write(&self, group: u64, command: Bytes) -> Result<(), String> {
        let group = usize::try_from(group).expect("a place in a list in memory");
        self.writers[group].write(command).await
    }

    async fn counts(&self) -> Counts {
        self.done.counts()
    }
}
