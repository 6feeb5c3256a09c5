//! Regions that slept are used again: the jobs of [`super::restart`], inside a store.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use multiraft::{Consistency, Engine};
use serde_json::{Value, json};

use super::check::Written;
use super::regaining::BEFORE;
use super::times::Times;
use super::writers::{Ending, write};
use crate::cluster::{Problem, number};
use crate::keyspace::KeySpace;

/// The numbers of the keys that are written to a region: when it has slept, and right after that.
const FIRST: u64 = 2;
const NEXT: u64 = 3;
/// A third of all regions is led here: so many are looked at for each that is written to.
const STRIDES: u64 = 6;

/// Writes twice to regions that are led here and sleep, one region after the other; one client, which waits for each answer.
pub(super) async fn run(engine: &Engine, keys: KeySpace, job: &Value) -> Result<Value, Problem> {
    let [probes, payload] = ["probes", "payload"].map(|name| number(job, name));
    let status = engine.status().await;
    let in_key_order = engine.regions();
    let asleep = status.regions.iter().filter(|region| region.is_leader && region.asleep);
    let asleep: BTreeSet<_> = asleep.map(|region| region.descriptor.id).collect();
    let step = (in_key_order.len() as u64 / (probes * STRIDES).max(1)).max(1) as usize;
    let probed = in_key_order.iter().zip(0_u64..).step_by(step).filter(|(region, _)| asleep.contains(&region.id));
    let mut times: [Vec<Duration>; 2] = Default::default();
    for (_, region) in probed.take(usize::try_from(probes).unwrap_or(usize::MAX)) {
        for (number, times) in [FIRST, NEXT].into_iter().zip(&mut times) {
            let begin = Instant::now();
            if let Ending::Unknown(why) | Ending::Refused(why) =
                write(engine, keys.spread(region, number), payload as usize).await
            {
                return Err(Problem::Failed { what: "a write to a region that slept".to_owned(), why });
            }
            times.push(begin.elapsed());
        }
    }
    if times[0].len() < usize::try_from(probes).unwrap_or(usize::MAX) {
        let why = format!("of those that are led here only {} sleep: rest longer, or probe fewer", times[0].len());
        return Err(Problem::Failed { what: format!("finding {probes} regions that sleep"), why });
    }
    let [first, next] = times.map(|times| times.into_iter().collect::<Times>().json());
    Ok(json!({ "first_ms": first, "next_ms": next }))
}

/// Reads from regions all over the key space what was written to each, wherever that is led.
pub(super) async fn read(engine: &Engine, keys: KeySpace, job: &Value) -> Result<Value, Problem> {
    let [groups, probes, payload] = ["groups", "probes", "payload"].map(|name| number(job, name));
    let mut written = Written::default();
    let step = usize::try_from((groups / probes.max(1)).max(1)).unwrap_or(usize::MAX);
    let regions: Vec<u64> = (0..groups).step_by(step).collect();
    regions.iter().for_each(|region| written.add_key(keys.spread(*region, BEFORE), payload as usize));
    written.check(engine, Consistency::Linearizable).await?;
    Ok(json!({ "regions": regions.len() }))
}
