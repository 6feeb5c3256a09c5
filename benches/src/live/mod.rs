//! What happens to regions while they are written to.
//!
//! The parent's side of each benchmark ([`split_merge`], [`drain`], [`snapshot`], [`failover`], [`restart`], [`recovery`]) starts the stores and prints; what is timed runs inside the first store
//! as a *job*: the writers, the calls that change regions, and in the end the reading of all that was written. So all times are
//! of one clock, and a client's way to a leader elsewhere is in them.
//!
//! ```text
//!   writers   write at a fixed pace, whatever becomes of the writes before
//!   changes   splits and merges, one by one and as many as possible
//!   emptying  everything leaves a store
//!   regaining a region's leader is killed, and it takes writes again
//!   waking    regions that slept are written to, and read from at a store that was down
//!   filling   a replica that begins with nothing is sent a snapshot
//!   check     reads everything that was written
//!   times     quantiles, and the longest write and silence around a change
//! ```

mod changes;
mod check;
pub(crate) mod drain;
mod emptying;
pub(crate) mod failover;
mod filling;
pub(crate) mod recovery;
mod regaining;
pub(crate) mod restart;
pub(crate) mod snapshot;
pub(crate) mod split_merge;
mod times;
mod waking;
mod writers;

use multiraft::Engine;
use serde_json::Value;

use crate::cluster::Problem;
use crate::keyspace::KeySpace;

/// Does a job that the parent has sent, inside a store.
pub(crate) async fn drive(engine: &Engine, keys: KeySpace, job: &str) -> Result<Value, Problem> {
    let refuse = |what: String| Problem::Said { store: engine.store().0, what };
    let job: Value = serde_json::from_str(job).map_err(|error| refuse(format!("a job is not JSON: {error}")))?;
    let mut answer = match job["job"].as_str() {
        Some("changes") => changes::run(engine, keys, &job).await?,
        Some("emptying") => emptying::run(engine, keys, &job).await?,
        Some("filling") => filling::run(engine, keys, &job).await?,
        Some("check") => filling::check(engine, keys, &job).await?,
        Some("once") => regaining::once(engine, keys, &job).await?,
        Some("led") => regaining::led(engine, &job).await,
        Some("waking") => waking::run(engine, keys, &job).await?,
        Some("reading") => waking::read(engine, keys, &job).await?,
        Some("regaining") => regaining::run(engine, keys, &job).await?,
        _ => return Err(refuse(format!("`{}` is no job", job["job"]))),
    };
    answer["at"] = "driven".into();
    Ok(answer)
}
