//! Splits and merges under writes, inside a store.
//!
//! First one by one: a region is split in the middle, and later its halves are merged again, in either direction; each time
//! the writes to it are looked at, and beside them those to a region that nobody touches, for what the machine does by itself.
//! Then as many splits as possible for a while, several at once, and as many merges of what they have left.

use std::time::{Duration, Instant};

use bytes::Bytes;
use multiraft::{Consistency, Engine, RegionError};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::check::{Written, walk};
use super::times::{Times, Window};
use super::writers::{Ending, Lane, Write, Writers, fill};
use crate::cluster::{Problem, number};
use crate::keyspace::KeySpace;

/// Bytes of each value of what regions hold at first.
const FILL_BYTES: u64 = 4096;
/// How often a change is tried that was refused or rolled back.
const ATTEMPTS: u64 = 50;
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Split,
    Merge,
}

/// A change that was made, and how long that took.
#[derive(Clone, Copy, Debug)]
struct Change {
    kind: Kind,
    region: u64,
    /// From the call to the settled end.
    window: Window,
    took: Duration,
    /// How often it had to be asked for again.
    retries: u64,
}

/// Where a region is cut, or two were: the key at which the right one begins, and one of the left one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    left: u64,
    right: u64,
    end: u64,
}

impl Cut {
    fn of(start: u64, end: u64) -> Self {
        Self { left: start, right: start + (end - start) / 2, end }
    }
}

/// Runs the job.
pub(super) async fn run(engine: &Engine, keys: KeySpace, job: &Value) -> Result<Value, Problem> {
    let [regions, rate, payload] = ["regions", "rate", "payload"].map(|name| number(job, name));
    let filled = number(job, "fill_bytes") / FILL_BYTES;
    fill(engine, keys, 0..regions, filled, FILL_BYTES as usize).await?;
    let lane = |region| Lane { regions: region..region + 1, rate, first: filled };
    let writers = Writers::start(engine, keys, payload as usize, (0..regions).map(lane).collect());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let changes = one_by_one(engine, keys, &writers, job).await?;
    let many = as_many_as_possible(engine, keys, job).await?;
    let writes = writers.stop().await?;
    let mut written = Written::default();
    for region in 0..regions {
        (0..filled).for_each(|number| written.add_key(keys.spread(region, number), FILL_BYTES as usize));
    }
    writes.iter().for_each(|lane| written.add(lane, payload as usize));
    written.check(engine, Consistency::Linearizable).await?;
    let (expected, counted) = (regions + many.splits - many.merges, walk(engine).await?.len() as u64);
    if counted != expected {
        return Err(Problem::Wrong(format!("there should be {expected} regions, and there are {counted}")));
    }
    let figures = |kind| figures(keys, &changes, &writes, kind);
    Ok(json!({
        "splits": figures(Kind::Split), "merges": figures(Kind::Merge), "written": written.json(),
        "splits_made": many.splits, "splits_per_s": many.splits_per_s,
        "merges_made": many.merges, "merges_per_s": many.merges_per_s,
        "retries_among_many": many.retries,
    }))
}

async fn one_by_one(engine: &Engine, keys: KeySpace, writers: &Writers, job: &Value) -> Result<Vec<Change>, Problem> {
    let (regions, settle) = (number(job, "regions"), Duration::from_millis(number(job, "settle_ms")));
    let mut changes = Vec::new();
    let mut left = number(job, "changes");
    while left > 0 {
        let some = left.min(regions);
        left -= some;
        for kind in [Kind::Split, Kind::Merge] {
            for region in 0..some {
                let cut = cut(keys, region);
                let from = writers.now();
                let retries = match kind {
                    Kind::Split => split(engine, cut).await?,
                    // Half of them to the left, half to the right.
                    Kind::Merge => merge(engine, cut, (changes.len() as u64).is_multiple_of(2)).await?,
                };
                let took = writers.now() - from;
                let until = from + took + settle;
                changes.push(Change { kind, region, window: Window { from, until }, took, retries });
                tokio::time::sleep(settle).await;
            }
        }
    }
    Ok(changes)
}

fn cut(keys: KeySpace, region: u64) -> Cut {
    let (left, right) = (keys.spread(region, 0), keys.middle(region));
    Cut { left, right, end: right + (right - left) }
}

/// Splits the region that owns both ends of `cut`; says how often it had to be asked for again.
async fn split(engine: &Engine, cut: Cut) -> Result<u64, Problem> {
    let mut last = None;
    for attempt in 0..ATTEMPTS {
        if let Some(region) = engine.locate(key(cut.left), None).await {
            if matches!(last, Some(RegionError::Uncertain)) && region.range.end == key(cut.right) {
                return Ok(attempt);
            }
            match engine.split(region.id, [key(cut.right)]).await {
                Ok(_) => return Ok(attempt),
                Err(error) => last = Some(error),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(failed("a split", last))
}

/// Merges the two regions that own the ends of `cut`; says how often it had to be asked for again.
async fn merge(engine: &Engine, cut: Cut, to_left: bool) -> Result<u64, Problem> {
    let mut last = None;
    for attempt in 0..ATTEMPTS {
        let left = engine.locate(key(cut.left), None).await;
        let right = engine.locate(key(cut.right), None).await;
        if let (Some(left), Some(right)) = (left, right) {
            if matches!(last, Some(RegionError::Uncertain)) && left.id == right.id {
                return Ok(attempt);
            }
            let (source, into) = if to_left { (right.id, left.id) } else { (left.id, right.id) };
            match engine.merge(source, into).await {
                Ok(_) => return Ok(attempt),
                Err(error) => last = Some(error),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(failed("a merge", last))
}

fn failed(what: &str, error: Option<RegionError>) -> Problem {
    let why = error.map_or_else(|| "the region cannot be found".to_owned(), |error| error.to_string());
    Problem::Failed { what: what.to_owned(), why }
}

fn key(key: u64) -> Bytes {
    Bytes::copy_from_slice(&key.to_be_bytes())
}

/// What many changes at once came to.
#[derive(Debug, Default)]
struct Many {
    splits: u64,
    splits_per_s: f64,
    merges: u64,
    merges_per_s: f64,
    retries: u64,
}

async fn as_many_as_possible(engine: &Engine, keys: KeySpace, job: &Value) -> Result<Many, Problem> {
    let [regions, at_once, seconds] = ["regions", "at_once", "seconds"].map(|name| number(job, name));
    let mut many = Many::default();
    if seconds == 0 {
        return Ok(many);
    }
    let time = Duration::from_secs(seconds);
    // Each task has its regions for itself: some of the first ones, or a part of one.
    let whole = (0..regions).map(|region| cut(keys, region)).map(|cut| (cut.left, cut.end));
    let mut parts = vec![Vec::new(); at_once as usize];
    for (place, piece) in whole.enumerate() {
        parts[place % at_once as usize].push(piece);
    }
    parts.retain(|part| !part.is_empty());
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for part in parts {
        tasks.spawn(split_on(engine.clone(), part, begin + time));
    }
    let mut split = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        let (part, made, retries) = ended.map_err(|error| failed_task(&error))??;
        many.splits += made;
        many.retries += retries;
        split.push(part);
    }
    many.splits_per_s = many.splits as f64 / begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    for part in split {
        tasks.spawn(merge_on(engine.clone(), part, begin + time));
    }
    while let Some(ended) = tasks.join_next().await {
        let (_, made, retries) = ended.map_err(|error| failed_task(&error))??;
        many.merges += made;
        many.retries += retries;
    }
    many.merges_per_s = many.merges as f64 / begin.elapsed().as_secs_f64();
    Ok(many)
}

fn failed_task(error: &tokio::task::JoinError) -> Problem {
    Problem::Failed { what: "a task of many".to_owned(), why: error.to_string() }
}

/// Pieces (from, to), how many changes have made them, and how often one had to be asked for again.
type Pieces = (Vec<(u64, u64)>, u64, u64);

/// Splits pieces, the largest first, until the time is up.
async fn split_on(engine: Engine, pieces: Vec<(u64, u64)>, until: Instant) -> Result<Pieces, Problem> {
    let (mut pieces, mut made, mut retries) = (std::collections::VecDeque::from(pieces), 0, 0);
    while Instant::now() < until {
        let Some((start, end)) = pieces.pop_front() else { break };
        let cut = Cut::of(start, end);
        retries += split(&engine, cut).await?;
        made += 1;
        pieces.extend([(start, cut.right), (cut.right, end)]);
    }
    Ok((pieces.into(), made, retries))
}

/// Merges neighbours among pieces, two at a time, until the time is up or no two are left.
async fn merge_on(engine: Engine, mut pieces: Vec<(u64, u64)>, until: Instant) -> Result<Pieces, Problem> {
    pieces.sort_unstable();
    let (mut made, mut retries, mut at, mut went_over) = (0, 0, 0, 0);
    while Instant::now() < until {
        if at + 1 >= pieces.len() {
            if made == went_over {
                break;
            }
            (at, went_over) = (0, made);
            continue;
        }
        let ((start, end), (right, right_end)) = (pieces[at], pieces[at + 1]);
        if end == right {
            let cut = Cut { left: start, right, end: right_end };
            retries += merge(&engine, cut, made % 2 == 0).await?;
            made += 1;
            pieces[at] = (start, right_end);
            pieces.remove(at + 1);
        }
        at += 1;
    }
    Ok((pieces, made, retries))
}

/// What the changes of one kind took, and what they did to writes.
fn figures(keys: KeySpace, changes: &[Change], writes: &[Vec<Write>], kind: Kind) -> Value {
    let of_kind = || changes.iter().filter(|change| change.kind == kind);
    let lane = |region: u64| &writes[region as usize % writes.len()];
    let spans = |region| lane(region).iter().map(|write| write.span);
    // A key's owner may stand still while that of its neighbour goes on: the worse of the two halves counts.
    let silence = |change: &Change| {
        let middle = keys.middle(change.region);
        let of = |is_right| {
            let is_there = move |write: &&Write| (write.key >= middle) == is_right && write.ending == Ending::Done;
            change.window.longest_silence(lane(change.region).iter().filter(is_there).map(|write| write.span.done))
        };
        of(false).max(of(true))
    };
    let times = |time: &dyn Fn(&Change) -> Duration| of_kind().map(time).collect::<Times>().json();
    json!({
        "ms": times(&|change| change.took),
        "stall_ms": times(&|change| change.window.longest_write(spans(change.region))),
        "silence_ms": times(&silence),
        "beside_ms": times(&|change| change.window.longest_write(spans(change.region + 1))),
        "retries": of_kind().map(|change| change.retries).sum::<u64>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::times::Span;

    #[test]
    fn a_change_is_judged_by_the_writes_to_its_own_region() {
        let keys = KeySpace::new(2);
        let ms = Duration::from_millis;
        let write = |key, due, done| Write { key, span: Span { due: ms(due), done: ms(done) }, ending: Ending::Done };
        let (left, right) = (keys.middle(0) - 1, keys.middle(0));
        // The right half answers nothing from 20 to 90; the region beside is fine.
        let own = vec![
            write(left, 10, 11),
            write(right, 15, 20),
            write(left, 50, 52),
            write(right, 60, 90),
            write(left, 99, 100),
        ];
        let beside = vec![write(keys.middle(1), 40, 47)];
        let window = Window { from: ms(30), until: ms(95) };
        let change = Change { kind: Kind::Split, region: 0, window, took: ms(20), retries: 1 };
        let found = figures(keys, &[change], &[own, beside], Kind::Split);
        let max = |name: &str| found[name]["max"].as_f64();
        assert_eq!((max("ms"), max("stall_ms"), max("silence_ms")), (Some(20.0), Some(30.0), Some(70.0)), "{found}");
        assert_eq!((max("beside_ms"), found["retries"].as_u64()), (Some(7.0), Some(1)));
        assert_eq!(figures(keys, &[change], &[Vec::new(), Vec::new()], Kind::Merge)["ms"]["count"], 0);
    }
}
