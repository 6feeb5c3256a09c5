//! What goes over all regions: `SCAN` and `DBSIZE`. Linearizable part by part, not over all keys at one instant; the parts
//! are those of [`multiraft::Scan`], so that regions may split, merge and move meanwhile without a key being lost or seen
//! twice.

use bytes::Bytes;
use multiraft::{Engine, KeyRange, Part, RegionDescriptor, Scan};
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::command::ScanStep;
use super::front::Front;
use super::glob;
use super::lanes::{LAST_TRY, Trouble, of_read_error};
use super::reply::Reply;
use crate::machine::{Answer, Op, decode_answers, encode_batch};

/// How many regions one step of a scan visits at most, so that a walk over empty regions does not run into the deadline.
const MAX_REGIONS_PER_STEP: usize = 64;
/// How many ranges are counted at once.
const COUNTS_AT_ONCE: usize = 64;

/// One step of `SCAN`, in key order.
pub(crate) async fn scan(front: &Front, step: ScanStep, deadline: Instant) -> Reply {
    let Some(position) = start_of(front, step.cursor) else {
        return Reply::error(format!(
            "ERR unknown cursor {}: it is too old, or another store gave it out; begin again with SCAN 0",
            step.cursor
        ));
    };
    let half = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
    let mut walk = front.engine.scan(KeyRange { start: position, end: Bytes::new() });
    let mut found: Vec<Bytes> = Vec::new();
    let mut missing = usize::try_from(step.count).unwrap_or(usize::MAX);
    for visited in 0..MAX_REGIONS_PER_STEP {
        if missing == 0 || (visited > 0 && Instant::now() >= half) {
            break;
        }
        let query = |part: &KeyRange| Op::Scan { start: part.start.clone(), limit: missing as u64 };
        let keys = match next(&mut walk, query, deadline).await {
            Ok(Some((_, Answer::Values(keys)))) => keys,
            Ok(Some(_)) => return not_understood(),
            Ok(None) => break,
            Err(reply) => return reply,
        };
        let keys: Vec<Bytes> = keys.into_iter().flatten().collect();
        if let Some(last) = keys.last().filter(|_| keys.len() >= missing) {
            walk.resume_after(last);
        }
        missing = missing.saturating_sub(keys.len());
        found.extend(keys);
    }
    if let Some(pattern) = &step.pattern {
        found.retain(|key| glob::matches(pattern, key));
    }
    let cursor = walk.position().map_or(0, |position| front.cursors().put(position.clone()));
    Reply::Array(vec![Reply::bulk(cursor.to_string()), Reply::Array(found.into_iter().map(Reply::Bulk).collect())])
}

fn start_of(front: &Front, cursor: u64) -> Option<Bytes> {
    if cursor == 0 { Some(Bytes::new()) } else { front.cursors().get(cursor) }
}

/// Counts all keys: what this store believes of the regions only says how the work is divided.
pub(crate) async fn db_size(front: &Front, deadline: Instant) -> Reply {
    let mut waiting = divide(&front.engine.regions()).into_iter();
    let mut counts = JoinSet::new();
    let mut total = 0i64;
    loop {
        while counts.len() < COUNTS_AT_ONCE
            && let Some(range) = waiting.next()
        {
            counts.spawn(count(front.engine.clone(), range, deadline));
        }
        match counts.join_next().await {
            None => return Reply::Number(total),
            Some(Ok(Ok(count))) => total = total.saturating_add(count),
            Some(Ok(Err(reply))) => return reply,
            Some(Err(error)) => return Reply::error(format!("ERR a count was given up: {error}")),
        }
    }
}

/// Ranges that hold every key once, cut where regions begin.
fn divide(regions: &[Arc<RegionDescriptor>]) -> Vec<KeyRange> {
    let mut starts: Vec<Bytes> = regions.iter().map(|region| region.range.start.clone()).collect();
    starts.push(Bytes::new());
    starts.sort();
    starts.dedup();
    let ends = starts.iter().skip(1).cloned().chain([Bytes::new()]);
    starts.iter().cloned().zip(ends).map(|(start, end)| KeyRange { start, end }).collect()
}

async fn count(engine: Engine, range: KeyRange, deadline: Instant) -> Result<i64, Reply> {
    let mut walk = engine.scan(range);
    let mut total = 0i64;
    let query = |part: &KeyRange| Op::Count { start: part.start.clone(), end: part.end.clone() };
    while let Some((_, answer)) = next(&mut walk, query, deadline).await? {
        let Answer::Number(count) = answer else { return Err(not_understood()) };
        total = total.saturating_add(count);
    }
    Ok(total)
}

/// Asks the next part one question until it answers.
async fn next(
    walk: &mut Scan,
    query: impl Fn(&KeyRange) -> Op,
    deadline: Instant,
) -> Result<Option<(Part, Answer)>, Reply> {
    loop {
        let mut step = walk.clone().timeout(deadline.saturating_duration_since(Instant::now()));
        let found = step.next(|part| encode_batch(std::iter::once(&query(part)))).await;
        match found.map_err(of_read_error) {
            Ok(None) => return Ok(None),
            Ok(Some(part)) => {
                *walk = step;
                let answers = decode_answers(&part.answer).map_err(|_| not_understood())?;
                let answer = answers.into_iter().next().ok_or_else(not_understood)?;
                return Ok(Some((part, answer)));
            }
            Err(Trouble::Again(pause, _)) if Instant::now() + pause + LAST_TRY < deadline => sleep(pause).await,
            Err(Trouble::Again(_, reply) | Trouble::Failed(reply)) => return Err(reply),
            Err(Trouble::Uncertain) => return Err(not_understood()),
        }
    }
}

fn not_understood() -> Reply {
    Reply::error("ERR the stores of this cluster run versions that do not understand each other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_one_of_the_ranges_whatever_is_known() {
        let region = |start: &str, end: &str| {
            let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
            Arc::new(RegionDescriptor {
                id: multiraft::RegionId(2),
                range: KeyRange { start: bytes(start), end: bytes(end) },
                epoch: multiraft::RegionEpoch::FIRST,
                replicas: Vec::new(),
            })
        };
        for known in [vec![], vec![region("", "")], vec![region("b", "d"), region("m", "")], vec![region("", "m")]] {
            let ranges = divide(&known);
            assert!(ranges[0].start.is_empty() && ranges[ranges.len() - 1].end.is_empty(), "{ranges:?}");
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start && !pair[1].start.is_empty()));
        }
    }
}
