//! Reading every acknowledged pair back, from each replica by itself.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::ledger::Expectation;
use crate::error::Failure;
use crate::hex;
use crate::http;
use crate::serve::{LocalAnswer, LocalQuery};

/// How many keys are asked for at once.
const KEYS_PER_QUESTION: usize = 1000;

/// What was looked at, and what was not as it should be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verdict {
    /// Pairs that were acknowledged.
    pub(crate) pairs: usize,
    /// Pairs missing or wrong on any replica.
    pub(crate) lost: usize,
}

/// Asks every store for every pair.
pub(crate) async fn verify(stores: &[SocketAddr], expected: Vec<Expectation>) -> Result<Verdict, Failure> {
    let expected = Arc::new(expected);
    let mut readers = JoinSet::new();
    for store in stores {
        readers.spawn(read_all(*store, Arc::clone(&expected)));
    }
    let mut wrong = vec![false; expected.len()];
    while let Some(finished) = readers.join_next().await {
        let found = finished.expect("invariant: readers do not panic and are not aborted")?;
        for (at, _) in found.into_iter().enumerate().filter(|(_, right)| !right) {
            wrong[at] = true;
        }
    }
    Ok(Verdict { pairs: expected.len(), lost: wrong.into_iter().filter(|wrong| *wrong).count() })
}

/// For each pair, whether the store holds what it should.
async fn read_all(store: SocketAddr, expected: Arc<Vec<Expectation>>) -> Result<Vec<bool>, Failure> {
    let mut right = Vec::with_capacity(expected.len());
    for chunk in expected.chunks(KEYS_PER_QUESTION) {
        let values = read(store, chunk).await?;
        for (expectation, found) in chunk.iter().zip(&values) {
            let holds = expectation.holds(found.as_ref());
            if !holds {
                let found = found.as_ref().map(|value| value.escape_ascii().to_string());
                tracing::warn!(%store, key = %expectation.key.escape_ascii(), ?found, expected = ?expectation.values, "lost");
            }
            right.push(holds);
        }
    }
    Ok(right)
}

async fn read(store: SocketAddr, chunk: &[Expectation]) -> Result<Vec<Option<Bytes>>, Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::during(&format!("{store} does not tell what it holds"), error);
    let query = LocalQuery { keys: chunk.iter().map(|expectation| hex::encode(&expectation.key)).collect() };
    let body = serde_json::to_vec(&query).map_err(|error| failed(&error))?;
    let answer = http::ask(store, "POST", "/local", &body).await.map_err(|error| failed(&error))?;
    let answer: LocalAnswer = serde_json::from_slice(&answer).map_err(|error| failed(&error))?;
    if answer.values.len() != chunk.len() {
        return Err(failed(&"it answered another number of keys"));
    }
    answer
        .values
        .into_iter()
        .map(|value| {
            value.map(|text| hex::decode(&text).ok_or_else(|| failed(&"a value is not hexadecimal"))).transpose()
        })
        .collect()
}
