//! What the replicas' states must look like when all is quiet: equal everywhere, and without anything applied twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use multiraft_raft::{LogIndex, RegionId, StoreId};

use super::{Verdict, Violation};
use crate::machine;

/// One replica's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    /// Where it is.
    pub store: StoreId,
    /// The last entry applied.
    pub applied: LogIndex,
    /// All its pairs.
    pub pairs: BTreeMap<Bytes, Bytes>,
}

/// Holds the replicas of a region against each other.
///
/// # Errors
/// Two differ.
pub fn check_equal(region: RegionId, replicas: &[ReplicaState]) -> Verdict {
    let Some((first, others)) = replicas.split_first() else { return Ok(()) };
    for other in others {
        if first.applied != other.applied {
            let detail = format!(
                "region {region}: store {} has applied {}, store {} has applied {}",
                first.store, first.applied, other.store, other.applied
            );
            return Err(Violation::new("replicas converge", detail));
        }
        if first.pairs != other.pairs {
            let key = first.pairs.iter().find(|(key, value)| other.pairs.get(*key) != Some(value)).map(|(key, _)| key);
            let key = key.or_else(|| other.pairs.keys().find(|key| !first.pairs.contains_key(*key)));
            let detail = format!(
                "region {region} at {}: stores {} and {} differ at key {}",
                first.applied,
                first.store,
                other.store,
                key.map_or_else(String::new, |key| key.escape_ascii().to_string())
            );
            return Err(Violation::new("replicas are equal", detail));
        }
    }
    Ok(())
}

/// Looks for list elements that are there twice: each is appended by one command.
///
/// # Errors
/// There is one.
pub fn check_once(region: RegionId, replica: &ReplicaState) -> Verdict {
    for (key, value) in &replica.pairs {
        let is_list = key.last().is_some_and(|digit| digit % 2 == 1);
        if !is_list {
            continue;
        }
        let mut elements = machine::numbers(value);
        elements.sort_unstable();
        if let Some(pair) = elements.windows(2).find(|pair| pair[0] == pair[1]) {
            let detail = format!(
                "region {region}, store {}: list {} has element {} twice",
                replica.store,
                key.escape_ascii(),
                pair[0]
            );
            return Err(Violation::new("a command takes effect at most once", detail));
        }
    }
    Ok(())
}
