//! What one may ask of regions at the admin endpoint: where they are, and to change them.
//!
//! ```text
//! GET  /regions                            all regions, in key order
//! GET  /region?id=7                        one, as its leader knows it
//! POST /split     {"region": 7, "keys": ["6b"]}
//! POST /merge     {"source": 8, "into": 7}
//! POST /replicas  {"region": 7, "changes": [{"change": "add-voter", "store": 4}, {"change": "remove", "store": 1}]}
//! ```
//!
//! Keys are in hexadecimal. What is wrong in the request is answered with 400 and had no effect; what the cluster could not
//! do, or may have done, with 503.

use std::collections::BTreeMap;
use std::time::Duration;

use multiraft::recovery::RecoveryRecord;
use multiraft::{Change, Engine, RegionDescriptor, RegionError, RegionId, StoreId, StoreStatus};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::report::{Measured, RegionReport, ReplicaReport, measured};
use crate::hex;
use crate::http::Response;

/// How long a list of all regions may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to wait before it is asked again whose a key is.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// The most changes in one request.
const MAX_CHANGES: usize = 64;

/// A region, as it is told to those who ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RegionView {
    pub(crate) id: u64,
    /// The first key, in hexadecimal.
    pub(crate) start: String,
    /// The first key behind it, in hexadecimal; empty: to the end.
    pub(crate) end: String,
    pub(crate) conf_version: u64,
    pub(crate) version: u64,
    pub(crate) replicas: Vec<ReplicaReport>,
    /// The store that leads it, as far as a replica here knows.
    pub(crate) leader: Option<u64>,
    /// What a replica here has applied.
    pub(crate) applied: Option<u64>,
    /// How large and how busy it is, if the store that was asked leads it.
    #[serde(default)]
    pub(crate) measured: Option<Measured>,
}

/// Regions: all of them, or those that have come of a change.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RegionsAnswer {
    /// The store that was asked.
    pub(crate) store: u64,
    pub(crate) regions: Vec<RegionView>,
    /// How the one region that was asked for was recovered, if its replica on the asked store remembers that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) recovered: Option<RecoveredView>,
}

/// What a region remembers of the recovery of its lost quorum.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RecoveredView {
    /// By which plan.
    pub(crate) plan: String,
    /// Who, when and why.
    pub(crate) note: String,
    /// The stores that were given up.
    pub(crate) dead: Vec<u64>,
    /// The store whose replica was kept, and the last entry of it.
    pub(crate) kept: u64,
    pub(crate) last: u64,
    /// The stores that had a replica before.
    pub(crate) before: Vec<u64>,
}

impl From<RecoveryRecord> for RecoveredView {
    fn from(record: RecoveryRecord) -> Self {
        Self {
            plan: record.plan.to_string(),
            note: record.note,
            dead: record.dead.into_iter().map(StoreId::get).collect(),
            kept: record.store.get(),
            last: record.last.0.get(),
            before: record.before.replicas.iter().map(|replica| replica.store.get()).collect(),
        }
    }
}

/// The body of `POST /split`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SplitRequest {
    pub(crate) region: u64,
    /// In hexadecimal.
    pub(crate) keys: Vec<String>,
}

/// The body of `POST /merge`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MergeRequest {
    pub(crate) source: u64,
    pub(crate) into: u64,
}

/// The body of `POST /replicas`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplicasRequest {
    pub(crate) region: u64,
    /// Several take effect together.
    pub(crate) changes: Vec<ChangeRequest>,
}

/// One change of one replica.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeRequest {
    pub(crate) change: ChangeKind,
    pub(crate) store: u64,
}

/// What is to become of the replica on a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ChangeKind {
    AddVoter,
    AddLearner,
    AddWitness,
    Promote,
    Demote,
    Remove,
}

impl ChangeRequest {
    fn to_change(self) -> Change {
        let store = StoreId(self.store);
        match self.change {
            ChangeKind::AddVoter => Change::AddVoter(store),
            ChangeKind::AddLearner => Change::AddLearner(store),
            ChangeKind::AddWitness => Change::AddWitness(store),
            ChangeKind::Promote => Change::Promote(store),
            ChangeKind::Demote => Change::Demote(store),
            ChangeKind::Remove => Change::Remove(store),
        }
    }

    fn adds(self) -> bool {
        matches!(self.change, ChangeKind::AddVoter | ChangeKind::AddLearner | ChangeKind::AddWitness)
    }
}

/// Answers `GET /regions`.
pub(crate) async fn list(engine: &Engine) -> Response {
    match walk(engine, &engine.status().await).await {
        Ok(mut regions) => {
            measure(engine, &mut regions);
            Response::json(200, &RegionsAnswer { store: engine.store().get(), regions, recovered: None })
        }
        Err(text) => Response::text(503, format!("{text}\n")),
    }
}

/// Answers `GET /region?id=7`.
pub(crate) async fn describe(engine: &Engine, id: Option<&str>) -> Response {
    let Some(id) = id.and_then(|text| text.parse().ok()) else {
        return Response::text(400, "write it as /region?id=7\n");
    };
    match engine.describe_region(RegionId(id)).await {
        Ok(region) => {
            let mut regions = vec![view(&region, &engine.status().await)];
            measure(engine, &mut regions);
            let recovered = engine.recovered(region.id).map(RecoveredView::from);
            Response::json(200, &RegionsAnswer { store: engine.store().get(), regions, recovered })
        }
        Err(error) => refusal(&error),
    }
}

/// Answers `POST /split`.
pub(crate) async fn split(engine: &Engine, request: SplitRequest) -> Response {
    let Some(keys) = request.keys.iter().map(|key| hex::decode(key)).collect::<Option<Vec<_>>>() else {
        return Response::text(400, "keys are written in hexadecimal digits\n");
    };
    answer(engine, engine.split(RegionId(request.region), keys).await).await
}

/// Answers `POST /merge`.
pub(crate) async fn merge(engine: &Engine, request: MergeRequest) -> Response {
    let merged = engine.merge(RegionId(request.source), RegionId(request.into)).await;
    answer(engine, merged.map(|region| vec![region])).await
}

/// Answers `POST /replicas`.
pub(crate) async fn change_replicas(engine: &Engine, request: ReplicasRequest) -> Response {
    if request.changes.len() > MAX_CHANGES {
        return Response::text(400, format!("there are more than {MAX_CHANGES} changes: make several requests\n"));
    }
    let status = engine.status().await;
    let knows = |store: u64| store == status.store.get() || status.peers.iter().any(|peer| peer.store.get() == store);
    if let Some(stranger) = request.changes.iter().find(|change| change.adds() && !knows(change.store)) {
        return Response::text(
            400,
            format!(
                "store {0} is not known to store {1}: start it with store {1} as a peer\n",
                stranger.store, status.store
            ),
        );
    }
    let changes = request.changes.into_iter().map(ChangeRequest::to_change);
    let changed = engine.change_replicas(RegionId(request.region), changes).await;
    answer(engine, changed.map(|region| vec![region])).await
}

pub(super) async fn answer(
    engine: &Engine,
    result: Result<Vec<std::sync::Arc<RegionDescriptor>>, RegionError>,
) -> Response {
    match result {
        Ok(regions) => {
            let status = engine.status().await;
            let mut regions: Vec<_> = regions.iter().map(|region| view(region, &status)).collect();
            measure(engine, &mut regions);
            Response::json(200, &RegionsAnswer { store: engine.store().get(), regions, recovered: None })
        }
        Err(error) => refusal(&error),
    }
}

/// Whose fault it was, and what to do.
pub(super) fn refusal(error: &RegionError) -> Response {
    match error {
        RegionError::UnknownRegion { region } => Response::text(
            404,
            format!("there is no region {region}: `multiraft ctl regions` lists those that there are\n"),
        ),
        RegionError::Split { .. }
        | RegionError::Replicas { .. }
        | RegionError::Merge { .. }
        | RegionError::NoReplica { .. }
        | RegionError::Refused { .. } => Response::text(400, format!("{error}\n")),
        _ => Response::text(503, format!("{error}\n")),
    }
}

fn view(region: &RegionDescriptor, status: &StoreStatus) -> RegionView {
    let own = status.regions.binary_search_by_key(&region.id, |known| known.descriptor.id);
    let own = own.ok().map(|at| &status.regions[at]);
    RegionView {
        id: region.id.get(),
        start: hex::encode(&region.range.start),
        end: hex::encode(&region.range.end),
        conf_version: region.epoch.conf_version,
        version: region.epoch.version,
        replicas: region.replicas.iter().map(ReplicaReport::from).collect(),
        leader: own.and_then(|own| own.leader).map(StoreId::get),
        applied: own.map(|own| own.applied.get()),
        measured: None,
    }
}

/// Adds what this store has measured of what it leads.
fn measure(engine: &Engine, regions: &mut [RegionView]) {
    let measured = measured(engine);
    regions.iter_mut().for_each(|region| region.measured = measured.get(&region.id).copied());
}

/// All regions: the root, then those that own keys, from the first key to the end. One without a replica here is asked for
/// what it is now, unless some leader was not reached: then what this store has heard of it will do.
pub(super) async fn walk(engine: &Engine, status: &StoreStatus) -> Result<Vec<RegionView>, String> {
    let deadline = Instant::now() + LIST_TIMEOUT;
    let own: BTreeMap<RegionId, &RegionDescriptor> =
        status.regions.iter().map(|region| (region.descriptor.id, &*region.descriptor)).collect();
    let mut found = Vec::new();
    match own.get(&RegionId::ROOT) {
        Some(root) => found.push(view(root, status)),
        None => found.extend(engine.describe_region(RegionId::ROOT).await.ok().map(|root| view(&root, status))),
    }
    let mut reached = true;
    let mut key = bytes::Bytes::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let lost = || format!("nobody tells in time who owns the key 0x{}: try again", hex::encode(&key));
        let hint = engine.locate(&key, Some(left)).await.ok_or_else(lost)?;
        let region = match own.get(&hint.id).filter(|own| !own.epoch.is_behind(hint.epoch)) {
            Some(own) => std::sync::Arc::new((*own).clone()),
            None if reached => match engine.describe_region(hint.id).await {
                Ok(region) => region,
                Err(_) => {
                    reached = false;
                    continue;
                }
            },
            None => hint,
        };
        if region.owns(&key) {
            found.push(view(&region, status));
            key = region.range.end.clone();
            if key.is_empty() {
                return Ok(found);
            }
        } else if Instant::now() < deadline {
            sleep(RETRY_PAUSE).await;
        } else {
            return Err(lost());
        }
    }
}

impl From<RegionReport> for RegionView {
    fn from(report: RegionReport) -> Self {
        Self {
            id: report.id,
            start: report.start,
            end: report.end,
            conf_version: report.conf_version,
            version: report.version,
            replicas: report.replicas,
            leader: report.leader,
            applied: Some(report.applied),
            measured: report.measured,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_named_as_the_command_line_names_them() {
        let text = r#"{"region":7,"changes":[{"change":"add-voter","store":4},{"change":"remove","store":1}]}"#;
        let request: ReplicasRequest = serde_json::from_str(text).unwrap();
        let changes: Vec<_> = request.changes.iter().map(|change| change.to_change()).collect();
        assert_eq!(changes, [Change::AddVoter(StoreId(4)), Change::Remove(StoreId(1))]);
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        for nonsense in ["{}", "[]", "{\"region\":-1,\"changes\":[]}", "{\"region\":1,\"changes\":[{}]}"] {
            assert!(serde_json::from_str::<ReplicasRequest>(nonsense).is_err(), "{nonsense}");
        }
    }
}
