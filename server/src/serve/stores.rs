//! What one may ask of stores at the admin endpoint: who they are, and that they join, are emptied, and leave.
//!
//! ```text
//! GET  /stores                    the stores that this one knows
//! POST /join   {"store": 4, "address": "10.0.0.4:7100", "weight": 1, "labels": {"zone": "a"}}
//! POST /drain?store=4             has it emptied by whoever plans; POST /undrain?store=4 takes that back
//! POST /leave?store=4             a store that is drained is gone for good
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use multiraft::{Engine, StoreError, StoreId, StoreRecord, StoreStanding};
use serde::{Deserialize, Serialize};

use super::regions::walk;
use crate::http::{Request, Response};

/// How long the root region may take to tell of the stores before the list is made without it.
const RECORDS_TIMEOUT: Duration = Duration::from_secs(2);

/// A store, as another one sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoreView {
    pub(crate) store: u64,
    /// Whether it is the one that was asked, or linked to it.
    pub(crate) connected: bool,
    pub(crate) incarnation: Option<u64>,
    /// Replicas there.
    pub(crate) regions: usize,
    /// Regions that it leads; if whoever plans cannot be asked, of those that have a replica on the store that was asked.
    pub(crate) leaders: usize,
    /// `up`, `draining`, `drained` or `left`, if it has joined.
    #[serde(default)]
    pub(crate) standing: Option<String>,
    #[serde(default)]
    pub(crate) address: Option<String>,
    #[serde(default)]
    pub(crate) weight: Option<u32>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// What its replicas hold, and how many keys a second they take, as whoever plans knows it.
    #[serde(default)]
    pub(crate) bytes: Option<u64>,
    #[serde(default)]
    pub(crate) load_per_s: Option<u64>,
}

/// The stores that one knows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoresAnswer {
    /// The store that was asked.
    pub(crate) store: u64,
    /// Whether it runs with `--placement`.
    #[serde(default)]
    pub(crate) planned: bool,
    /// Why whoever plans could not be asked, if somebody should plan.
    #[serde(default)]
    pub(crate) loads_missing: Option<String>,
    pub(crate) stores: Vec<StoreView>,
}

/// The body of `POST /join`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinRequest {
    pub(crate) store: u64,
    pub(crate) address: String,
    pub(crate) weight: u32,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
}

/// Answers `GET /stores`.
pub(crate) async fn list(engine: &Engine, planned: bool) -> Response {
    let status = engine.status().await;
    let regions = match walk(engine, &status).await {
        Ok(regions) => regions,
        Err(text) => return Response::text(503, format!("{text}\n")),
    };
    let view = |store, connected, incarnation| StoreView { store, connected, incarnation, ..StoreView::default() };
    let own = view(status.store.get(), true, Some(status.incarnation.get()));
    let mut stores = BTreeMap::from([(own.store, own)]);
    for peer in &status.peers {
        let id = peer.store.get();
        stores.insert(id, view(id, peer.connected, peer.incarnation.map(multiraft::Incarnation::get)));
    }
    for region in &regions {
        for replica in &region.replicas {
            // One that holds replicas is told of even if this store has never heard of it otherwise.
            stores.entry(replica.store).or_insert_with(|| view(replica.store, false, None)).regions += 1;
        }
        if let Some(leader) = region.leader.and_then(|leader| stores.get_mut(&leader)) {
            leader.leaders += 1;
        }
    }
    let records = tokio::time::timeout(RECORDS_TIMEOUT, engine.stores()).await;
    for record in records.ok().and_then(Result::ok).unwrap_or_default() {
        let id = record.id.get();
        let known = stores.entry(id).or_insert_with(|| view(id, false, None));
        known.standing = Some(standing(record.standing).to_owned());
        (known.address, known.weight, known.labels) = (Some(record.address), Some(record.weight), record.labels);
    }
    let loads_missing = if planned { fill_in_loads(engine, &mut stores).await } else { None };
    let (store, stores) = (status.store.get(), stores.into_values().collect());
    Response::json(200, &StoresAnswer { store, planned, loads_missing, stores })
}

/// What lies on the stores, as whoever plans knows it, wherever that is; else why it cannot be told.
async fn fill_in_loads(engine: &Engine, stores: &mut BTreeMap<u64, StoreView>) -> Option<String> {
    let loads = match tokio::time::timeout(RECORDS_TIMEOUT, engine.store_loads()).await {
        Ok(Ok(loads)) => loads,
        Ok(Err(error)) => return Some(error.to_string()),
        Err(_) => return Some(format!("the root region's leader did not answer within {RECORDS_TIMEOUT:?}")),
    };
    for (store, load) in loads {
        if let Some(known) = stores.get_mut(&store.get()) {
            (known.bytes, known.load_per_s) = (Some(load.bytes), Some(load.load_per_s));
            // It hears of all replicas and leaders.
            (known.regions, known.leaders) = (load.replicas, load.leaders);
        }
    }
    None
}

/// Answers `POST /join`.
pub(crate) async fn join(engine: &Engine, request: JoinRequest) -> Response {
    let JoinRequest { store, address, weight, labels } = request;
    let is_reachable =
        address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if store == 0 || weight == 0 || !is_reachable {
        return Response::text(
            400,
            "a store is a number from 1 on, with an address as 10.0.0.4:7100 and a weight from 1 on\n",
        );
    }
    let record = StoreRecord { id: StoreId(store), address, weight, labels, standing: StoreStanding::Up };
    answer(engine.join(record).await.map(|record| standing(record.standing)))
}

/// Answers `POST /drain`.
pub(crate) async fn drain(engine: &Engine, planned: bool, request: &Request) -> Response {
    if !planned {
        return Response::text(
            400,
            "nobody plans in this cluster: start the stores with --placement, or use `multiraft ctl drain`\n",
        );
    }
    match named(request) {
        Ok(store) => answer(engine.drain_store(store).await.map(|()| "draining")),
        Err(refusal) => refusal,
    }
}

/// Answers `POST /undrain`.
pub(crate) async fn undrain(engine: &Engine, request: &Request) -> Response {
    match named(request) {
        Ok(store) => answer(engine.cancel_drain(store).await.map(|()| "up")),
        Err(refusal) => refusal,
    }
}

/// Answers `POST /leave`.
pub(crate) async fn leave(engine: &Engine, request: &Request) -> Response {
    match named(request) {
        Ok(store) => answer(engine.leave(store).await.map(|()| "left")),
        Err(refusal) => refusal,
    }
}

fn named(request: &Request) -> Result<StoreId, Response> {
    let store = request.parameter("store").and_then(|text| text.parse().ok()).filter(|store| *store > 0);
    store.map(StoreId).ok_or_else(|| Response::text(400, format!("write it as {}?store=4\n", request.path())))
}

fn answer(result: Result<&'static str, StoreError>) -> Response {
    match result {
        Ok(standing) => Response::text(200, format!("{standing}\n")),
        Err(error @ StoreError::Unknown { .. }) => Response::text(404, format!("{error}\n")),
        Err(error @ StoreError::Root(_)) => Response::text(503, format!("{error}\n")),
        Err(error) => Response::text(400, format!("{error}\n")),
    }
}

/// What is wanted of a store, in a word.
fn standing(standing: StoreStanding) -> &'static str {
    match standing {
        StoreStanding::Up => "up",
        StoreStanding::Draining => "draining",
        StoreStanding::Drained => "drained",
        StoreStanding::Left => "left",
        _ => "unknown",
    }
}
