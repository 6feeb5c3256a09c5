//! What goes over all regions: `SCAN` and `DBSIZE`. Linearizable region by region, not over all of them at one instant.

use std::sync::Arc;

use bytes::Bytes;
use multiraft::{Engine, KeyRange, RegionDescriptor};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::command::ScanStep;
use super::front::Front;
use super::glob;
use super::lanes::{LAST_TRY, NO_REGION, Trouble, attempt};
use super::reply::Reply;
use crate::machine::{Answer, Op, encode_batch, successor};

/// How many regions one step of a scan visits at most, so that a walk over empty regions does not run into the deadline.
const MAX_REGIONS_PER_STEP: usize = 64;
/// How many regions are counted at once.
const COUNTS_AT_ONCE: usize = 64;

/// One step of `SCAN`, in key order.
pub(crate) async fn scan(front: &Front, step: ScanStep, deadline: Instant) -> Reply {
    let Some(mut position) = start_of(front, step.cursor) else {
        return Reply::error(format!(
            "ERR unknown cursor {}: it is too old, or another store gave it out; begin again with SCAN 0",
            step.cursor
        ));
    };
    let half = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
    let mut found: Vec<Bytes> = Vec::new();
    let mut missing = usize::try_from(step.count).unwrap_or(usize::MAX);
    let mut at_end = false;
    for visited in 0..MAX_REGIONS_PER_STEP {
        if missing == 0 || (visited > 0 && Instant::now() >= half) {
            break;
        }
        let (keys, next) = match scan_region(&front.engine, &position, missing, deadline).await {
            Ok(page) => page,
            Err(reply) => return reply,
        };
        missing = missing.saturating_sub(keys.len());
        found.extend(keys);
        match next {
            Some(next) => position = next,
            None => {
                at_end = true;
                break;
            }
        }
    }
    if let Some(pattern) = &step.pattern {
        found.retain(|key| glob::matches(pattern, key));
    }
    let cursor = if at_end { 0 } else { front.cursors().put(position) };
    Reply::Array(vec![Reply::bulk(cursor.to_string()), Reply::Array(found.into_iter().map(Reply::Bulk).collect())])
}

fn start_of(front: &Front, cursor: u64) -> Option<Bytes> {
    if cursor == 0 { Some(Bytes::new()) } else { front.cursors().get(cursor) }
}

/// Keys from `start` on in the region that owns it, and where to go on; `None`: that was the last region.
async fn scan_region(
    engine: &Engine,
    start: &Bytes,
    limit: usize,
    deadline: Instant,
) -> Result<(Vec<Bytes>, Option<Bytes>), Reply> {
    let op = Op::Scan { start: start.clone(), limit: limit as u64 };
    let (region, answer) = ask(engine, || engine.region_for(start), op, deadline).await?;
    let Answer::Values(keys) = answer else { return Err(not_understood()) };
    let keys: Vec<Bytes> = keys.into_iter().flatten().collect();
    let next = match keys.last() {
        Some(last) if keys.len() >= limit => Some(successor(last)),
        _ if region.range.end.is_empty() => None,
        _ => Some(region.range.end.clone()),
    };
    // A full page may end with the region's last key; its successor then belongs to the next region, or is behind all.
    Ok((keys, next))
}

/// Counts the keys of all regions; refused if this store does not know a region for every key, as when a replica of its own
/// is damaged, since a sum that leaves keys out is worse than none.
pub(crate) async fn db_size(front: &Front, deadline: Instant) -> Reply {
    let regions = front.engine.regions();
    if !cover_all_keys(regions.iter().map(|region| &region.range)) {
        return Reply::error(NO_REGION);
    }
    let mut waiting = regions.into_iter();
    let mut counts = JoinSet::new();
    let mut total = 0i64;
    loop {
        while counts.len() < COUNTS_AT_ONCE
            && let Some(region) = waiting.next()
        {
            counts.spawn(count_region(front.engine.clone(), region, deadline));
        }
        match counts.join_next().await {
            None => return Reply::Number(total),
            Some(Ok(Ok(count))) => total = total.saturating_add(count),
            Some(Ok(Err(reply))) => return reply,
            Some(Err(error)) => return Reply::error(format!("ERR a count was given up: {error}")),
        }
    }
}

/// Whether ranges, in key order, leave no key out.
fn cover_all_keys<'a>(ranges: impl Iterator<Item = &'a KeyRange>) -> bool {
    // Where the next range must start; none any more behind one that runs to the end.
    let mut next = Some(Bytes::new());
    for range in ranges {
        if next.as_ref() != Some(&range.start) {
            return false;
        }
        next = (!range.end.is_empty()).then(|| range.end.clone());
    }
    next.is_none()
}

/// Counts the keys of a region as it was when the count began. One that has changed since is refused, not counted twice.
async fn count_region(engine: Engine, region: Arc<RegionDescriptor>, deadline: Instant) -> Result<i64, Reply> {
    match ask(&engine, || Some(Arc::clone(&region)), Op::Count, deadline).await? {
        (_, Answer::Number(count)) => Ok(count),
        _ => Err(not_understood()),
    }
}

/// Asks one region one question until it answers.
async fn ask(
    engine: &Engine,
    region: impl Fn() -> Option<Arc<RegionDescriptor>>,
    op: Op,
    deadline: Instant,
) -> Result<(Arc<RegionDescriptor>, Answer), Reply> {
    let query = encode_batch(std::iter::once(&op));
    loop {
        let Some(region) = region() else {
            return Err(Reply::error(NO_REGION));
        };
        match attempt(engine, (region.id, region.epoch), query.clone(), false, deadline).await {
            Ok(answers) => {
                let answer = answers.into_iter().next().ok_or_else(not_understood)?;
                return Ok((region, answer));
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
    fn a_gap_anywhere_is_noticed() {
        let covers = |ranges: &[(&str, &str)]| {
            let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
            let ranges: Vec<_> = ranges.iter().map(|(a, b)| KeyRange { start: bytes(a), end: bytes(b) }).collect();
            cover_all_keys(ranges.iter())
        };
        assert!(covers(&[("", "")]));
        assert!(covers(&[("", "m"), ("m", "t"), ("t", "")]));
        for gaps in [&[][..], &[("a", "")], &[("", "m")], &[("", "m"), ("n", "")], &[("", ""), ("m", "")]] {
            assert!(!covers(gaps), "{gaps:?}");
        }
    }
}
