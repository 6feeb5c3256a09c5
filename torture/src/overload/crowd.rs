//! Clients far beyond what the stores can take: each keeps a window of commands on its way, whatever becomes of them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::pipe::{self, Said, Waiting, Written};

/// How long one waits before it connects again.
const PAUSE: Duration = Duration::from_millis(100);

/// Who they are and what they do.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    /// Where stores take commands; clients are spread over them.
    pub(super) stores: Vec<SocketAddr>,
    /// A place in each of the regions that they write to.
    pub(super) places: Vec<String>,
    /// How many.
    pub(super) clients: u64,
    /// How many commands each keeps on its way.
    pub(super) window: usize,
    /// How long a value is, in bytes.
    pub(super) payload: usize,
}

/// What they were told, all together.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) busy: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) uncertain: AtomicU64,
    /// Commands to which no reply came before their connection ended.
    pub(super) unanswered: AtomicU64,
}

/// The same at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) done: u64,
    pub(super) busy: u64,
    pub(super) refused: u64,
    pub(super) uncertain: u64,
    pub(super) unanswered: u64,
}

impl Counts {
    pub(super) fn now(&self) -> Tally {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Tally {
            sent: of(&self.sent),
            done: of(&self.done),
            busy: of(&self.busy),
            refused: of(&self.refused),
            uncertain: of(&self.uncertain),
            unanswered: of(&self.unanswered),
        }
    }

    fn add(&self, said: Said) {
        let count = match said {
            Said::Done => &self.done,
            Said::Busy => &self.busy,
            Said::Refused => &self.refused,
            Said::Uncertain => &self.uncertain,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Tally {
    /// What has come since another moment.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            sent: self.sent - before.sent,
            done: self.done - before.done,
            busy: self.busy - before.busy,
            refused: self.refused - before.refused,
            uncertain: self.uncertain - before.uncertain,
            unanswered: self.unanswered - before.unanswered,
        }
    }

    /// How many commands are on their way.
    pub(super) fn outstanding(&self) -> u64 {
        self.sent - self.done - self.busy - self.refused - self.uncertain - self.unanswered
    }
}

/// The last key of each client, and what it was told of it.
pub(super) type Ledger = Vec<Written>;

/// Runs them until they are told to stop; then their connections are dropped with what is on its way.
///
/// # Errors
/// A store has answered something that it may never say.
pub(super) async fn run(wish: &Wish, counts: &Arc<Counts>, over: &watch::Receiver<bool>) -> io::Result<Ledger> {
    let filling: Arc<[u8]> = vec![b'x'; wish.payload].into();
    let mut clients = JoinSet::new();
    for number in 0..wish.clients {
        let at = number as usize;
        let client = Client {
            address: wish.stores[at % wish.stores.len()],
            // Each store's clients write to all places.
            base: format!("{}:crowd-{number}", wish.places[at / wish.stores.len() % wish.places.len()]),
            window: wish.window,
            filling: Arc::clone(&filling),
            counts: Arc::clone(counts),
        };
        clients.spawn(client.run(over.clone()));
    }
    let mut ledger = Vec::new();
    while let Some(ended) = clients.join_next().await {
        ledger.push(ended.map_err(io::Error::other)??);
    }
    Ok(ledger)
}

struct Client {
    address: SocketAddr,
    base: String,
    window: usize,
    filling: Arc<[u8]>,
    counts: Arc<Counts>,
}

impl Client {
    async fn run(self, mut over: watch::Receiver<bool>) -> io::Result<Written> {
        let mut connection = 0;
        loop {
            let written = Mutex::new(Written::new(&self.base, connection));
            let waiting = Waiting::default();
            let ended = tokio::select! {
                biased;
                _ = over.wait_for(|over| *over) => None,
                ended = self.press(&written, &waiting) => Some(ended),
            };
            while waiting.pop().is_some() {
                self.counts.unanswered.fetch_add(1, Ordering::Relaxed);
            }
            match ended {
                None => return Ok(written.into_inner().unwrap_or_else(PoisonError::into_inner)),
                Some(Err(error)) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                Some(_) => {}
            }
            connection += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Keeps one connection full until it ends.
    async fn press(&self, written: &Mutex<Written>, waiting: &Waiting<u64>) -> io::Result<()> {
        let (mut output, mut replies) = pipe::open(self.address).await?;
        let key = written.lock().unwrap_or_else(PoisonError::into_inner).key.clone();
        let room = Semaphore::new(self.window);
        let sending = async {
            for number in 1.. {
                room.acquire().await.map_err(io::Error::other)?.forget();
                written.lock().unwrap_or_else(PoisonError::into_inner).tried = number;
                waiting.push(number);
                self.counts.sent.fetch_add(1, Ordering::Relaxed);
                pipe::set(&mut output, &key, number, &self.filling).await?;
            }
            Ok::<(), io::Error>(())
        };
        let hearing = async {
            loop {
                let said = replies.next().await?;
                room.add_permits(1);
                let number = waiting.pop().ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidData, "a reply to a command that was not sent")
                })?;
                self.counts.add(said);
                if said == Said::Done {
                    written.lock().unwrap_or_else(PoisonError::into_inner).acknowledged = number;
                }
            }
        };
        tokio::select! {
            ended = sending => ended,
            ended = hearing => ended,
        }
    }
}
