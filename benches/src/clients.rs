//! The clients of a store: each proposes to a region that it draws, waits for the answer, and goes on.
//!
//! One client is one task, as an embedder's would be. What is answered while the window is open is counted, with the time
//! it took; nothing else is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use multiraft::{Consistency, Engine, ProposeError, ReadError, RegionId};
use tokio::task::JoinSet;

use crate::keyspace::{DONE, KeySpace};

/// The longest time that is told apart from longer ones: a minute, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;
/// How long a client rests after an error that says nothing of when to try again.
const REST: Duration = Duration::from_millis(20);
/// How many keys of a region are read, at most.
const FILLED: u64 = 8;
/// How many clients write them, and how often each tries.
const FILLING: usize = 32;
const ATTEMPTS: u32 = 50;

/// Times in microseconds, to three digits.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constant and in order")
}

/// What the clients of a store have counted while the window was open.
pub(crate) struct Tally {
    is_open: AtomicBool,
    counted: Mutex<Counted>,
}

/// The same, taken out.
pub(crate) struct Counted {
    /// One time for each proposal that was answered.
    pub(crate) latencies: Histogram<u64>,
    /// Proposals that were refused, or whose outcome is unknown, other than for a full queue.
    pub(crate) errors: u64,
    /// The first of them.
    pub(crate) first_error: Option<String>,
    /// Proposals that were refused because a queue was full.
    pub(crate) busy: u64,
}

/// How a proposal failed.
pub(crate) enum Failed {
    Busy,
    Otherwise(String),
}

impl Counted {
    fn new() -> Self {
        Self { latencies: latencies(), errors: 0, first_error: None, busy: 0 }
    }
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self { is_open: AtomicBool::new(false), counted: Mutex::new(Counted::new()) }
    }

    /// From here on answers count.
    pub(crate) fn open(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    /// From here on they do not; gives what was counted.
    pub(crate) fn close(&self) -> Counted {
        self.is_open.store(false, Ordering::Release);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *counted, Counted::new())
    }

    pub(crate) fn note(&self, outcome: Result<Duration, Failed>) {
        if !self.is_open.load(Ordering::Acquire) {
            return;
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(time) => counted.latencies.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            Err(Failed::Busy) => counted.busy += 1,
            Err(Failed::Otherwise(error)) => {
                counted.errors += 1;
                counted.first_error.get_or_insert(error);
            }
        }
    }
}

/// What all clients of a store share.
pub(crate) struct Load {
    pub(crate) engine: Engine,
    pub(crate) keys: KeySpace,
    /// In key order.
    pub(crate) regions: Vec<RegionId>,
    /// Which of them the clients go to.
    pub(crate) places: Places,
    /// How the clients read; `None`: they write.
    pub(crate) consistency: Option<Consistency>,
    pub(crate) value: Vec<u8>,
    pub(crate) tally: Arc<Tally>,
}

/// Places of regions in key order, which may change.
pub(crate) struct Places(RwLock<Vec<u64>>);

impl Places {
    pub(crate) fn new(places: Vec<u64>) -> Self {
        Self(RwLock::new(places))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Any of them; there is one.
    pub(crate) fn draw(&self, draws: &mut Draws) -> u64 {
        let places = self.0.read().unwrap_or_else(PoisonError::into_inner);
        places[usize::try_from(draws.below(places.len() as u64)).expect("a place in a list in memory")]
    }

    /// Says whether these are others than before. None would leave clients nowhere to go: then all stays as it is.
    pub(crate) fn set(&self, new: Vec<u64>) -> bool {
        let mut places = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changes = !new.is_empty() && *places != new;
        if changes {
            *places = new;
        }
        changes
    }
}

/// Starts the clients with these numbers; they go on until the set is dropped.
pub(crate) fn start(load: &Arc<Load>, numbers: impl Iterator<Item = u64>, seed: u64) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for number in numbers {
        tasks.spawn(client(Arc::clone(load), Draws::new(seed.wrapping_add(number << 32))));
    }
    tasks
}

async fn client(load: Arc<Load>, mut draws: Draws) {
    loop {
        let (place, draw) = (load.places.draw(&mut draws), draws.next());
        if let Some(rest) = operate(&load, place, draw, Instant::now()).await {
            tokio::time::sleep(rest).await;
        }
    }
}

/// Writes or reads once, and notes how that went, with the time since `begin`. Gives how long to rest, if it failed.
pub(crate) async fn operate(load: &Load, place: u64, draw: u64, begin: Instant) -> Option<Duration> {
    match load.consistency {
        Some(consistency) => read(load, consistency, (place, draw), begin).await,
        None => write(load, place, draw, begin).await,
    }
}

async fn write(load: &Load, place: u64, draw: u64, begin: Instant) -> Option<Duration> {
    let command = load.keys.put(place, draw, &load.value);
    let region = load.regions[usize::try_from(place).expect("a place in a list in memory")];
    match load.engine.propose(region, command).await {
        Ok(answer) if answer == DONE => {
            load.tally.note(Ok(begin.elapsed()));
            None
        }
        Ok(answer) => fail(load, String::from_utf8_lossy(&answer).into_owned()),
        Err(ProposeError::Busy { retry_after }) => {
            load.tally.note(Err(Failed::Busy));
            Some(retry_after)
        }
        Err(error) => fail(load, error.to_string()),
    }
}

async fn read(load: &Load, consistency: Consistency, drawn: (u64, u64), begin: Instant) -> Option<Duration> {
    let (place, draw) = drawn;
    let key = load.keys.key(place, draw % FILLED);
    let region = load.regions[usize::try_from(place).expect("a place in a list in memory")];
    let must_be_there = matches!(consistency, Consistency::Linearizable | Consistency::Lease);
    match load.engine.read(region, key, consistency).await {
        Ok(value) if must_be_there && value != load.value => {
            fail(load, format!("what is read has {} bytes, and {} were written", value.len(), load.value.len()))
        }
        Ok(_) => {
            load.tally.note(Ok(begin.elapsed()));
            // Some reads wait for nothing; the other tasks are to have their turn all the same.
            tokio::task::consume_budget().await;
            None
        }
        Err(ReadError::Busy { retry_after }) => {
            load.tally.note(Err(Failed::Busy));
            Some(retry_after)
        }
        Err(error) => fail(load, error.to_string()),
    }
}

fn fail(load: &Load, why: String) -> Option<Duration> {
    load.tally.note(Err(Failed::Otherwise(why)));
    Some(REST)
}

/// Writes the keys that are read, of every `stores`th region from the `first` on.
pub(crate) async fn fill(load: &Arc<Load>, first: u64, stores: u64) -> Result<(), String> {
    let mut tasks = JoinSet::new();
    for client in 0..FILLING {
        let load = Arc::clone(load);
        tasks.spawn(async move {
            let places = (first..load.regions.len() as u64).step_by(stores as usize).skip(client).step_by(FILLING);
            for (place, draw) in places.flat_map(|place| (0..FILLED).map(move |draw| (place, draw))) {
                let region = load.regions[usize::try_from(place).expect("a place in a list in memory")];
                let mut attempts = ATTEMPTS;
                // The same value to the same key: may be repeated.
                while let Err(error) = load.engine.propose(region, load.keys.put(place, draw, &load.value)).await {
                    attempts -= 1;
                    if attempts == 0 {
                        return Err(error.to_string());
                    }
                    tokio::time::sleep(REST).await;
                }
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| error.to_string())??;
    }
    Ok(())
}

/// Numbers that a seed decides (SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly below `limit`, which is not zero, as far as 64 bits allow.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        let scaled = (u128::from(self.next()) * u128::from(limit)) >> 64;
        u64::try_from(scaled).expect("below a limit of 64 bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_repeat_for_a_seed_and_spread_evenly() {
        let list = |seed| {
            let mut draws = Draws::new(seed);
            (0..8000).map(|_| draws.below(8)).collect::<Vec<_>>()
        };
        assert_eq!(list(7), list(7));
        assert_ne!(list(7), list(8));
        for place in 0..8 {
            let share = list(7).iter().filter(|drawn| **drawn == place).count();
            assert!((900..1100).contains(&share), "place {place} was drawn {share} times of 8000");
        }
    }

    #[test]
    fn only_answers_within_the_window_count() {
        let tally = Tally::new();
        tally.note(Ok(Duration::from_micros(5)));
        tally.open();
        tally.note(Ok(Duration::from_micros(300)));
        tally.note(Err(Failed::Otherwise("refused".to_owned())));
        tally.note(Err(Failed::Busy));
        let counted = tally.close();
        tally.note(Ok(Duration::from_micros(5)));
        assert_eq!((counted.latencies.len(), counted.latencies.max()), (1, 300));
        assert_eq!((counted.errors, counted.first_error.as_deref(), counted.busy), (1, Some("refused"), 1));
        assert_eq!(tally.close().latencies.len(), 0);
    }
}
