//! Reading every acknowledged pair back, from each replica by itself.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::ledger::Expectation;
use super::regions::RegionMap;
use crate::error::Failure;
use crate::hex;
use crate::http;
use crate::serve::{LocalAnswer, LocalQuery};

/// How many keys are asked for at once.
const KEYS_PER_QUESTION: usize = 1000;

/// What was looked at, and what was not as it should be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verdict {
    /// Pairs whose last write, or delete, was acknowledged.
    pub(crate) pairs: usize,
    /// Pairs missing or wrong on any replica.
    pub(crate) lost: usize,
}

/// Asks every store, by number and address, for every pair that it should hold; what was found, and a line for each answer
/// that was wrong.
pub(crate) async fn verify(
    stores: &[(u64, SocketAddr)],
    expected: Vec<Expectation>,
    regions: &RegionMap,
) -> Result<(Verdict, Vec<String>), Failure> {
    let expected = Arc::new(expected);
    let mut readers = JoinSet::new();
    for (store, address) in stores {
        let held = (0..expected.len()).filter(|at| regions.is_on(&expected[*at].key, *store));
        readers.spawn(read_all(*address, Arc::clone(&expected), held.collect()));
    }
    let mut wrong = vec![false; expected.len()];
    let mut lines = Vec::new();
    while let Some(finished) = readers.join_next().await {
        for (at, line) in finished.expect("invariant: readers do not panic and are not aborted")? {
            wrong[at] = true;
            lines.push(line);
        }
    }
    Ok((Verdict { pairs: expected.len(), lost: wrong.into_iter().filter(|wrong| *wrong).count() }, lines))
}

/// Those of the pairs in `held` that the store does not hold as it should, and what it holds instead.
async fn read_all(
    store: SocketAddr,
    expected: Arc<Vec<Expectation>>,
    held: Vec<usize>,
) -> Result<Vec<(usize, String)>, Failure> {
    let mut wrong = Vec::new();
    for chunk in held.chunks(KEYS_PER_QUESTION) {
        let values = read(store, chunk.iter().map(|at| &expected[*at].key)).await?;
        for (at, found) in chunk.iter().zip(&values) {
            let expectation = &expected[*at];
            if !expectation.holds(found.as_ref()) {
                let found = found.as_ref().map(|value| value.escape_ascii().to_string());
                let key = expectation.key.escape_ascii();
                wrong.push((*at, format!("store {store}, {key}: {found:?}, not one of {:?}", expectation.values)));
            }
        }
    }
    Ok(wrong)
}

async fn read<'a>(
    store: SocketAddr,
    keys: impl ExactSizeIterator<Item = &'a Bytes>,
) -> Result<Vec<Option<Bytes>>, Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::during(&format!("{store} does not tell what it holds"), error);
    let count = keys.len();
    let query = LocalQuery { keys: keys.map(|key| hex::encode(key)).collect(), staleness_ms: None };
    let body = serde_json::to_vec(&query).map_err(|error| failed(&error))?;
    let answer = http::ask(store, "POST", "/local", &body).await.map_err(|error| failed(&error))?;
    let answer: LocalAnswer = serde_json::from_slice(&answer).map_err(|error| failed(&error))?;
    if answer.values.len() != count {
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
