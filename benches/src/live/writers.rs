//! Writers that do not wait for each other.
//!
//! Each write is due at an instant that is fixed before anything has happened; it begins then, whatever has become of those
//! before it, and its time counts from then. So a stall is seen by every write that falls into it (an open loop: nothing is
//! left out because its client was waiting). Every write has a key of its own, so that it is known in the end what has to be
//! there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use multiraft::{Engine, ProposeError};
use tokio::task::{JoinHandle, JoinSet};

use super::times::Span;
use crate::cluster::Problem;
use crate::keyspace::{DONE, KeySpace, set};

/// Writes of one lane that may be under way: more than fall due within the time in which each is given up, at any sensible
/// rate. Beyond, the loop would not be open any more, and the run is given up.
const UNDER_WAY_MAX: usize = 50_000;
/// How many writes fill regions at once.
const FILLING: u64 = 32;

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Done,
    /// It may or may not have taken effect.
    Unknown(String),
    /// It has not.
    Refused(String),
}

/// One write, as it went.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) key: u64,
    pub(crate) span: Span,
    pub(crate) ending: Ending,
}

/// Some regions, and who writes to them, each key of them once.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    /// The regions, by their number in the key space; written to in turn.
    pub(crate) regions: std::ops::Range<u64>,
    /// Writes a second, to all of them together.
    pub(crate) rate: u64,
    /// The number of the first key: those below are filled already.
    pub(crate) first: u64,
}

/// What all lanes share.
struct Shared {
    engine: Engine,
    keys: KeySpace,
    payload: usize,
    begin: Instant,
    is_over: AtomicBool,
}

/// Running writers.
pub(crate) struct Writers {
    shared: Arc<Shared>,
    lanes: Vec<RunningLane>,
}

struct RunningLane {
    /// Those that are answered.
    writes: Arc<Mutex<Vec<Write>>>,
    task: JoinHandle<Result<(), Problem>>,
}

impl Writers {
    pub(crate) fn start(engine: &Engine, keys: KeySpace, payload: usize, lanes: Vec<Lane>) -> Self {
        let (begin, is_over) = (Instant::now(), AtomicBool::new(false));
        let shared = Arc::new(Shared { engine: engine.clone(), keys, payload, begin, is_over });
        let start = |lane| {
            let writes: Arc<Mutex<Vec<Write>>> = Arc::default();
            let task = tokio::spawn(write_on(Arc::clone(&shared), lane, Arc::clone(&writes)));
            RunningLane { writes, task }
        };
        let lanes = lanes.into_iter().map(start).collect();
        Self { shared, lanes }
    }

    /// The time since they began.
    pub(crate) fn now(&self) -> Duration {
        self.shared.begin.elapsed()
    }

    /// Lets them end; gives the writes of each lane, once all are answered.
    pub(crate) async fn stop(self) -> Result<Vec<Vec<Write>>, Problem> {
        self.shared.is_over.store(true, Ordering::Release);
        let mut all = Vec::new();
        for RunningLane { writes, task } in self.lanes {
            task.await.map_err(|error| Problem::Wrong(format!("a writer has died: {error}")))??;
            all.push(std::mem::take(&mut *writes.lock().unwrap_or_else(PoisonError::into_inner)));
        }
        Ok(all)
    }
}

async fn write_on(shared: Arc<Shared>, lane: Lane, writes: Arc<Mutex<Vec<Write>>>) -> Result<(), Problem> {
    let mut under_way = JoinSet::new();
    let regions = lane.regions.end - lane.regions.start;
    let mut number: u64 = 0;
    let outcome = loop {
        let due = Duration::from_nanos(number.saturating_mul(1_000_000_000) / lane.rate);
        tokio::time::sleep_until((shared.begin + due).into()).await;
        if shared.is_over.load(Ordering::Acquire) {
            break Ok(());
        }
        while under_way.try_join_next().is_some() {}
        if under_way.len() >= UNDER_WAY_MAX {
            let why = format!("{UNDER_WAY_MAX} writes are not answered; try a lower --rate");
            break Err(Problem::Failed { what: "writing at the wanted pace".to_owned(), why });
        }
        let key = shared.keys.spread(lane.regions.start + number % regions, lane.first + number);
        let (shared, writes) = (Arc::clone(&shared), Arc::clone(&writes));
        under_way.spawn(async move {
            let ending = write(&shared.engine, key, shared.payload).await;
            let span = Span { due, done: shared.begin.elapsed() };
            writes.lock().unwrap_or_else(PoisonError::into_inner).push(Write { key, span, ending });
        });
        number += 1;
    };
    while under_way.join_next().await.is_some() {}
    outcome
}

/// Writes one key, by whatever region owns it.
pub(crate) async fn write(engine: &Engine, key: u64, length: usize) -> Ending {
    let key = key.to_be_bytes();
    match engine.propose_key(key, set(&key, &value_of(u64::from_be_bytes(key), length))).await {
        Ok(answer) if answer == DONE => Ending::Done,
        Ok(answer) => Ending::Refused(String::from_utf8_lossy(&answer).into_owned()),
        Err(error @ (ProposeError::Uncertain | ProposeError::Stopped { .. })) => Ending::Unknown(error.to_string()),
        Err(error) => Ending::Refused(error.to_string()),
    }
}

/// What is written to a key: bytes that only this key has.
pub(crate) fn value_of(key: u64, length: usize) -> Vec<u8> {
    let mut seed = key;
    let mut value = Vec::with_capacity(length + 8);
    while value.len() < length {
        seed = (seed ^ (seed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(1);
        value.extend_from_slice(&seed.to_be_bytes());
    }
    value.truncate(length);
    value
}

/// Writes the first `count` keys of each of `regions`, with values of `length` bytes, as fast as some clients can.
pub(crate) async fn fill(
    engine: &Engine,
    keys: KeySpace,
    regions: std::ops::Range<u64>,
    count: u64,
    length: usize,
) -> Result<(), Problem> {
    let all: Arc<Vec<u64>> =
        Arc::new(regions.flat_map(|region| (0..count).map(move |number| keys.spread(region, number))).collect());
    let mut tasks = JoinSet::new();
    for client in 0..FILLING {
        let (engine, all) = (engine.clone(), Arc::clone(&all));
        tasks.spawn(async move {
            for key in all.iter().skip(client as usize).step_by(FILLING as usize) {
                // The same bytes to the same key: may be repeated.
                let mut attempts = 0;
                loop {
                    match write(&engine, *key, length).await {
                        Ending::Done => break,
                        Ending::Unknown(_) | Ending::Refused(_) if attempts < 5 => attempts += 1,
                        Ending::Unknown(why) | Ending::Refused(why) => return Err(why),
                    }
                }
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        let outcome = ended.map_err(|error| Problem::NothingWritten(error.to_string()))?;
        outcome.map_err(Problem::NothingWritten)?;
    }
    Ok(())
}
