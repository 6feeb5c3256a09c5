//! Consistency checks at the admin endpoint.
//!
//! ```text
//! POST /check   {"region": 7}               compare its replicas; one that differs from a quorum is fenced
//! POST /repair  {"region": 7, "store": 2}   replace the replica there by a new one, filled from its peers
//! ```

use multiraft::{CheckOutcome, CheckReport, Engine, RegionId, ReplicaCheck, StateDigest, StoreId};
use serde::{Deserialize, Serialize};

use super::regions;
use crate::http::Response;

/// The body of `POST /check`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckRequest {
    pub(crate) region: u64,
}

/// The body of `POST /repair`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RepairRequest {
    pub(crate) region: u64,
    pub(crate) store: u64,
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckView {
    pub(crate) region: u64,
    /// The index at which all states were taken.
    pub(crate) index: u64,
    /// No replica was found to differ.
    pub(crate) consistent: bool,
    /// The digest that is right, as far as that can be told; in hexadecimal.
    pub(crate) expected: Option<String>,
    pub(crate) replicas: Vec<ReplicaCheckView>,
}

/// One replica of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplicaCheckView {
    pub(crate) id: u64,
    pub(crate) store: u64,
    /// `same`, `different`, `no-answer`, `not-supported`, `witness`.
    pub(crate) outcome: String,
    /// It is out of service until it is replaced.
    pub(crate) fenced: bool,
    /// In hexadecimal.
    pub(crate) digest: Option<String>,
}

impl From<&CheckReport> for CheckView {
    fn from(report: &CheckReport) -> Self {
        Self {
            region: report.region.id.get(),
            index: report.index.get(),
            consistent: report.is_consistent(),
            expected: report.expected.as_ref().map(StateDigest::to_string),
            replicas: report.replicas.iter().map(ReplicaCheckView::from).collect(),
        }
    }
}

impl From<&ReplicaCheck> for ReplicaCheckView {
    fn from(check: &ReplicaCheck) -> Self {
        let outcome = match check.outcome {
            CheckOutcome::Same => "same",
            CheckOutcome::Different => "different",
            CheckOutcome::NotSupported => "not-supported",
            CheckOutcome::Witness => "witness",
            _ => "no-answer",
        };
        Self {
            id: check.replica.get(),
            store: check.store.get(),
            outcome: outcome.to_owned(),
            fenced: check.fenced,
            digest: check.digest.as_ref().map(StateDigest::to_string),
        }
    }
}

/// Answers `POST /check`.
pub(crate) async fn check(engine: &Engine, request: CheckRequest) -> Response {
    match engine.check(RegionId(request.region)).await {
        Ok(report) => Response::json(200, &CheckView::from(&report)),
        Err(error) => regions::refusal(&error),
    }
}

/// Answers `POST /repair`.
pub(crate) async fn repair(engine: &Engine, request: RepairRequest) -> Response {
    let repaired = engine.repair_replica(RegionId(request.region), StoreId(request.store)).await;
    regions::answer(engine, repaired.map(|region| vec![region])).await
}
