//! Regions that have lost their leader take writes again: the jobs of [`super::failover`], inside a store that lives on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use multiraft::{Consistency, Engine, StoreId};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::check::Written;
use super::times::Times;
use super::writers::{Ending, fill, write};
use crate::cluster::{Problem, number};
use crate::keyspace::KeySpace;

/// The numbers of the keys that are written in each region: before, and after its leader was killed.
pub(super) const BEFORE: u64 = 0;
const AFTER: u64 = 1;
/// Rest after a write that failed; the engine has rested between its own attempts already.
const REST: Duration = Duration::from_millis(5);

/// Writes once to every region, or `count` keys of it.
pub(super) async fn once(engine: &Engine, keys: KeySpace, job: &Value) -> Result<Value, Problem> {
    let [groups, payload, count] = ["groups", "payload", "count"].map(|name| number(job, name));
    let begin = Instant::now();
    fill(engine, keys, 0..groups, count.max(BEFORE + 1), payload as usize).await?;
    Ok(json!({ "seconds": begin.elapsed().as_secs_f64() }))
}

/// Tells which regions a store leads, by their numbers in the key space.
pub(super) async fn led(engine: &Engine, job: &Value) -> Value {
    let store = Some(StoreId(number(job, "by")));
    let status = engine.status().await;
    let led: BTreeSet<_> =
        status.regions.iter().filter(|region| region.leader == store).map(|region| region.descriptor.id).collect();
    let in_key_order = engine.regions();
    let numbers = in_key_order.iter().zip(0_u64..).filter(|(region, _)| led.contains(&region.id));
    json!({ "regions": numbers.map(|(_, number)| number).collect::<Vec<_>>() })
}

/// For each of the regions, how long after the kill a write succeeds again; then reads them all.
///
/// Each region has one client of its own, as an embedder's would be: it calls `propose_key` at once, and again when that fails. So
/// what the engine rests between its own attempts (up to 100 ms) is in the times.
pub(super) async fn run(engine: &Engine, keys: KeySpace, job: &Value) -> Result<Value, Problem> {
    let [killed_at, payload, within] = ["killed_at_us", "payload", "within_s"].map(|name| number(job, name));
    let payload = payload as usize;
    let killed = Killed::at(killed_at);
    let regions: Vec<u64> = job["regions"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    let mut clients = JoinSet::new();
    for region in &regions {
        let key = keys.spread(*region, AFTER);
        clients.spawn(regain(engine.clone(), key, payload, killed, Duration::from_secs(within)));
    }
    let mut times = Vec::with_capacity(regions.len());
    while let Some(ended) = clients.join_next().await {
        let time = ended.map_err(|error| Problem::Wrong(format!("a client has died: {error}")))?;
        times.push(time.map_err(|why| Problem::Failed { what: format!("writing within {within} s"), why })?);
    }
    let mut written = Written::default();
    for region in regions {
        for number in [BEFORE, AFTER] {
            written.add_key(keys.spread(region, number), payload);
        }
    }
    written.check(engine, Consistency::Linearizable).await?;
    Ok(json!({ "ms": times.into_iter().collect::<Times>().json(), "written": written.json() }))
}

/// Writes until that succeeds; gives the time since the kill.
async fn regain(
    engine: Engine,
    key: u64,
    payload: usize,
    killed: Killed,
    within: Duration,
) -> Result<Duration, String> {
    loop {
        // The same bytes to the same key: may be repeated.
        let (Ending::Unknown(why) | Ending::Refused(why)) = write(&engine, key, payload).await else {
            return Ok(killed.elapsed());
        };
        if killed.elapsed() >= within {
            return Err(why);
        }
        tokio::time::sleep(REST).await;
    }
}

/// When the store was killed.
///
/// The parent and this store share no other clock than the wall clock, which is read once on either side; what follows is measured
/// on the monotonic one.
#[derive(Clone, Copy)]
struct Killed {
    before_begin: Duration,
    begin: Instant,
}

impl Killed {
    /// From microseconds since 1970.
    fn at(micros: u64) -> Self {
        let at = UNIX_EPOCH + Duration::from_micros(micros);
        let before_begin = SystemTime::now().duration_since(at).unwrap_or_default();
        Self { before_begin, begin: Instant::now() }
    }

    fn elapsed(&self) -> Duration {
        self.before_begin + self.begin.elapsed()
    }
}
