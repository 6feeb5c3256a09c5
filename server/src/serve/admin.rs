//! The admin endpoint: how a store stands, what it holds by itself, and what one may ask of it.
//!
//! ```text
//! GET  /status                     the store, its replicas, its links, its counters
//! POST /local                      {"keys": ["6b"]} -> {"values": ["76"]}: what THIS replica has applied; may be old, with
//!                                  "staleness_ms": 500 no older than that
//! POST /transfer?region=7&store=2  hand the leadership of a region over
//! POST /stop                       hand over all leaderships and exit, as on SIGTERM
//! ```
//!
//! What concerns the cluster's regions and stores stands in `regions.rs`, `check.rs` and `stores.rs`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::{Consistency, Engine, ReadOptions, RegionDescriptor, RegionId, StoreId, TransferError};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::report::{LocalAnswer, LocalQuery, StatusReport};
use super::{check, regions, stores};
use crate::hex;
use crate::http::{Request, Response};
use crate::machine::{Answer, Op, decode_answers, encode_batch};

/// How long a local read may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before it is read again while the regions are changing.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// The most keys asked for in one read of a region.
const MAX_READ_KEYS: usize = 512;

/// What the endpoint needs.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) engine: Engine,
    /// Whether the store runs with `--placement`.
    pub(crate) planned: bool,
    /// Told when somebody asks the store to stop.
    pub(crate) stop: Arc<Notify>,
}

impl Admin {
    /// Answers one request.
    pub(crate) async fn handle(self, request: Request) -> Response {
        match (request.method.as_str(), request.path()) {
            ("GET", "/status") => Response::json(200, &StatusReport::of(&self.engine).await),
            ("GET", "/regions") => regions::list(&self.engine).await,
            ("GET", "/region") => regions::describe(&self.engine, request.parameter("id")).await,
            ("GET", "/stores") => stores::list(&self.engine, self.planned).await,
            ("POST", "/join") => match understood(&request) {
                Ok(wanted) => stores::join(&self.engine, wanted).await,
                Err(refusal) => refusal,
            },
            ("POST", "/drain") => stores::drain(&self.engine, self.planned, &request).await,
            ("POST", "/undrain") => stores::undrain(&self.engine, &request).await,
            ("POST", "/leave") => stores::leave(&self.engine, &request).await,
            ("POST", "/split") => match understood(&request) {
                Ok(wanted) => regions::split(&self.engine, wanted).await,
                Err(refusal) => refusal,
            },
            ("POST", "/merge") => match understood(&request) {
                Ok(wanted) => regions::merge(&self.engine, wanted).await,
                Err(refusal) => refusal,
            },
            ("POST", "/replicas") => match understood(&request) {
                Ok(wanted) => regions::change_replicas(&self.engine, wanted).await,
                Err(refusal) => refusal,
            },
            ("POST", "/check") => match understood(&request) {
                Ok(wanted) => check::check(&self.engine, wanted).await,
                Err(refusal) => refusal,
            },
            ("POST", "/repair") => match understood(&request) {
                Ok(wanted) => check::repair(&self.engine, wanted).await,
                Err(refusal) => refusal,
            },
            ("POST", "/local") => match understood(&request) {
                Ok(query) => self.local(query).await,
                Err(refusal) => refusal,
            },
            ("POST", "/transfer") => self.transfer(&request).await,
            ("POST", "/stop") => {
                self.stop.notify_one();
                Response::text(200, "stopping\n")
            }
            _ => Response::text(
                404,
                "there are GET /status, /regions, /region and /stores, and POST /split, /merge, /replicas, /check, /repair, /join, \
                 /drain, /undrain, /leave, /transfer, /local and /stop\n",
            ),
        }
    }

    async fn transfer(&self, request: &Request) -> Response {
        let number = |name| request.parameter(name).and_then(|text| text.parse().ok());
        let (Some(region), Some(store)) = (number("region"), number("store")) else {
            return Response::text(400, "write it as /transfer?region=7&store=2\n");
        };
        match self.engine.transfer_leader(RegionId(region), StoreId(store)).await {
            Ok(()) => Response::text(200, "done\n"),
            Err(error @ TransferError::UnknownRegion { .. }) => Response::text(404, format!("{error}\n")),
            Err(error) => Response::text(503, format!("{error}\n")),
        }
    }

    async fn local(&self, query: LocalQuery) -> Response {
        let Some(keys) = query.keys.iter().map(|key| hex::decode(key)).collect::<Option<VecDeque<_>>>() else {
            return Response::text(400, "keys are written in hexadecimal digits\n");
        };
        let consistency =
            query.staleness_ms.map_or(Consistency::Local, |ms| Consistency::Bounded(Duration::from_millis(ms)));
        match read_local(&self.engine, consistency, keys).await {
            Ok(values) => {
                let values = values.into_iter().map(|value| value.map(|value| hex::encode(&value))).collect();
                Response::json(200, &LocalAnswer { values })
            }
            Err(text) => Response::text(503, format!("{text}\n")),
        }
    }
}

/// The body of a request, taken apart.
fn understood<T: serde::de::DeserializeOwned>(request: &Request) -> Result<T, Response> {
    serde_json::from_slice(&request.body)
        .map_err(|error| Response::text(400, format!("the body is not understood: {error}\n")))
}

/// The values of keys on this store, in order; neighbours of one region are read together.
async fn read_local(
    engine: &Engine,
    consistency: Consistency,
    mut keys: VecDeque<Bytes>,
) -> Result<Vec<Option<Bytes>>, String> {
    let deadline = Instant::now() + READ_TIMEOUT;
    let mut values = Vec::with_capacity(keys.len());
    while let Some(first) = keys.front() {
        let region = engine.region_for(first).ok_or("this store knows no region for a key yet")?;
        let count = keys.iter().take(MAX_READ_KEYS).take_while(|key| region.owns(key)).count();
        let ops: Vec<Op> = keys.iter().take(count).map(|key| Op::Get { key: key.clone() }).collect();
        match read_region(engine, consistency, &region, &ops).await {
            Ok(found) => {
                keys.drain(..found.len());
                values.extend(found);
            }
            // What is known of the region and its state may come a moment after each other.
            Err(_) if Instant::now() < deadline => sleep(RETRY_PAUSE).await,
            Err(text) => return Err(text),
        }
    }
    Ok(values)
}

/// The answers to the first of `ops`, at least one.
async fn read_region(
    engine: &Engine,
    consistency: Consistency,
    region: &RegionDescriptor,
    ops: &[Op],
) -> Result<Vec<Option<Bytes>>, String> {
    let options = ReadOptions::new(region.id, consistency).epoch(region.epoch).timeout(READ_TIMEOUT);
    let reply = engine.read_with(options, encode_batch(ops.iter())).await.map_err(|error| error.to_string())?;
    let answers = decode_answers(&reply).map_err(|error| error.to_string())?;
    let values: Option<Vec<_>> = answers
        .into_iter()
        .map(|answer| match answer {
            Answer::Value(value) => Some(value),
            _ => None,
        })
        .collect();
    values
        .filter(|values| !values.is_empty() && values.len() <= ops.len())
        .ok_or_else(|| "an answer makes no sense".to_owned())
}
