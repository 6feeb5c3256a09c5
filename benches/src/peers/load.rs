//! What a peer is to the benchmark, and the clients that write to it.
//!
//! A client is one task with one write under way: it draws a group, waits until its command is committed and applied, and goes
//! on. All peers have the same clients, the same commands and the same runtime.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::options::Peer as Options;
use crate::clients::{Draws, Failed, Tally};
use crate::cluster::Problem;
use crate::keyspace::{KeySpace, value};

/// How long a client rests after an error.
const REST: Duration = Duration::from_millis(20);
/// How many of the first writes are under way at once.
const FIRST_AT_ONCE: u64 = 64;

/// What the logs of all stores of a peer have done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Writes that were logged: one on each store that logged it.
    pub(crate) entries: u64,
    /// Flushes of a log.
    pub(crate) syncs: u64,
}

/// Many groups on three stores in this process.
pub(crate) trait Peer: Send + Sync + Sized + 'static {
    /// Starts three stores with `options.groups` groups; these need not have leaders yet.
    fn start(options: &Options) -> impl Future<Output = Result<Self, Problem>>;

    /// Carries out a command in a group, at its leader if that is known; returns once it is committed (durable on a quorum)
    /// and applied. After an error it may be carried out or not.
    fn write(&self, group: u64, command: Bytes) -> impl Future<Output = Result<(), String>> + Send;

    /// Told when leaders have come to rest, so that clients know where these are.
    fn on_rested(&self) -> impl Future<Output = ()> {
        async {}
    }

    /// What the logs have done.
    fn counts(&self) -> impl Future<Output = Counts>;
}

/// What all clients share.
pub(crate) struct Load<P> {
    pub(crate) peer: P,
    pub(crate) groups: u64,
    pub(crate) keys: KeySpace,
    pub(crate) value: Vec<u8>,
    pub(crate) tally: Tally,
}

impl<P: Peer> Load<P> {
    pub(crate) fn new(peer: P, options: &Options) -> Self {
        Self {
            peer,
            groups: options.groups,
            keys: KeySpace::new(options.groups),
            value: value(options.payload),
            tally: Tally::new(),
        }
    }

    /// Writes once to each group, so that each has a leader.
    pub(crate) async fn write_once(self: &Arc<Self>, within: Duration) -> Result<(), Problem> {
        let deadline = Instant::now() + within;
        let mut tasks = JoinSet::new();
        for first in 0..FIRST_AT_ONCE.min(self.groups) {
            let load = Arc::clone(self);
            tasks.spawn(async move {
                let mut group = first;
                while group < load.groups {
                    let command = load.keys.put(group, 0, &load.value);
                    match load.peer.write(group, command).await {
                        Ok(()) => group += FIRST_AT_ONCE,
                        Err(why) if Instant::now() > deadline => {
                            return Err(Problem::Failed { what: format!("the first write to group {group}"), why });
                        }
                        Err(_) => tokio::time::sleep(REST).await,
                    }
                }
                Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|error| Problem::Failed { what: "the first writes".to_owned(), why: error.to_string() })??;
        }
        Ok(())
    }

    /// Starts this many clients; they go on until the set is dropped.
    pub(crate) fn start_clients(self: &Arc<Self>, clients: u64, seed: u64) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let draws = Draws::new(seed.wrapping_add(number << 32));
            tasks.spawn(client(Arc::clone(self), draws));
        }
        tasks
    }
}

async fn client<P: Peer>(load: Arc<Load<P>>, mut draws: Draws) {
    loop {
        let group = draws.below(load.groups);
        let command = load.keys.put(group, draws.next(), &load.value);
        let begin = Instant::now();
        match load.peer.write(group, command).await {
            Ok(()) => load.tally.note(Ok(begin.elapsed())),
            Err(why) => {
                load.tally.note(Err(Failed::Otherwise(why)));
                tokio::time::sleep(REST).await;
            }
        }
    }
}
