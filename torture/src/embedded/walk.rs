//! Walks over all keys, one step after the other. Where a walk stands is its cursor, so that it goes on through any store.
//!
//! A step begins where the one before has ended, and each of its parts holds all keys up to there: so no key is lost or seen twice,
//! whatever regions become meanwhile. Of two clients one walks by [`Engine::scan`]; the other reads at the key where it stands,
//! and the machine tells where the region ends that has answered.

use std::time::{Duration, Instant};

use bytes::Bytes;
use multiraft::{Consistency, Engine, KeyRange};

use super::machine::{Answer, Query, bytes};
use super::reply::{of_answer, of_read};

/// After so long a step ends with what it has.
const STEP: Duration = Duration::from_secs(1);

/// How a client walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    ByScan,
    ByKeys,
}

/// What a step has found, and where the next one begins; none: the walk is at its end.
pub(super) type Step = (Vec<String>, Option<Bytes>);

impl Walk {
    /// A step from a key on, of `count` keys at most, which are all the keys up to where the next step begins.
    ///
    /// # Errors
    /// The reply that says why not.
    pub(super) async fn step(
        self,
        engine: &Engine,
        reads: Consistency,
        from: Bytes,
        count: usize,
    ) -> Result<Step, String> {
        match self {
            Self::ByScan => by_scan(engine, reads, from, count).await,
            Self::ByKeys => by_keys(engine, reads, from, count).await,
        }
    }
}

async fn by_scan(engine: &Engine, reads: Consistency, from: Bytes, count: usize) -> Result<Step, String> {
    let begun = Instant::now();
    let mut scan = engine.scan(KeyRange { start: from, end: Bytes::new() }).consistency(reads);
    let mut found: Vec<String> = Vec::new();
    while found.len() < count && begun.elapsed() < STEP {
        let missing = count - found.len();
        let Some(part) = scan.next(|part| query(&part.start, missing)).await.map_err(|error| of_read(&error))? else {
            break;
        };
        let (keys, end) = keys_of(&part.answer)?;
        if end != part.range.end {
            return Err(format!("ERR the part was told to end at {:?}, its region ends at {end:?}", part.range.end));
        }
        if let Some(last) = keys.last().filter(|_| keys.len() >= missing) {
            scan.resume_after(last.as_bytes());
        }
        found.extend(keys);
    }
    Ok((found, scan.position().cloned()))
}

async fn by_keys(engine: &Engine, reads: Consistency, from: Bytes, count: usize) -> Result<Step, String> {
    let begun = Instant::now();
    let (mut found, mut at) = (Vec::new(), Some(from));
    while let Some(from) = &at
        && found.len() < count
        && begun.elapsed() < STEP
    {
        let missing = count - found.len();
        let answer = engine.read_key(from, query(from, missing), reads).await.map_err(|error| of_read(&error))?;
        let (keys, end) = keys_of(&answer)?;
        at = match keys.last() {
            Some(last) if keys.len() >= missing => Some(Bytes::from([last.as_bytes(), &[0]].concat())),
            _ => Some(end).filter(|end| !end.is_empty()),
        };
        found.extend(keys);
    }
    Ok((found, at))
}

fn query(from: &Bytes, limit: usize) -> Bytes {
    bytes(&Query::Keys { from: from.to_vec(), limit })
}

fn keys_of(answer: &Bytes) -> Result<(Vec<String>, Bytes), String> {
    match of_answer(answer)? {
        Answer::Keys { keys, end } => Ok((keys, Bytes::from(end))),
        other => Err(format!("ERR keys were asked for, and {other:?} was answered")),
    }
}
