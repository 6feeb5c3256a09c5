//! Everything that was written is read.
//!
//! What was acknowledged has to be there, byte for byte; what was refused must not; what is of unknown outcome may be either.

use std::sync::Arc;

use bytes::Bytes;
use multiraft::{Consistency, Engine, KeyRange, RegionDescriptor};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::writers::{Ending, Write, value_of};
use crate::cluster::Problem;

/// How many reads are under way at once.
const READERS: usize = 64;

/// What has to be found at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    There,
    Perhaps,
    Absent,
}

/// What was written, as it has to be read.
#[derive(Debug, Default)]
pub(crate) struct Written {
    keys: Vec<(u64, usize, Due)>,
    refused: u64,
    unknown: u64,
    first_error: Option<String>,
}

impl Written {
    /// A key that was surely written, with a value of this length.
    pub(crate) fn add_key(&mut self, key: u64, length: usize) {
        self.keys.push((key, length, Due::There));
    }

    pub(crate) fn add(&mut self, writes: &[Write], length: usize) {
        for write in writes {
            let due = match &write.ending {
                Ending::Done => Due::There,
                Ending::Unknown(error) => {
                    self.unknown += 1;
                    self.first_error.get_or_insert_with(|| error.clone());
                    Due::Perhaps
                }
                Ending::Refused(error) => {
                    self.refused += 1;
                    self.first_error.get_or_insert_with(|| error.clone());
                    Due::Absent
                }
            };
            self.keys.push((write.key, length, due));
        }
    }

    /// How many there were, and how many of them were not acknowledged.
    pub(crate) fn json(&self) -> Value {
        json!({
            "keys": self.keys.len(), "refused": self.refused, "unknown": self.unknown, "first_error": self.first_error,
        })
    }

    /// Reads it all.
    pub(crate) async fn check(&self, engine: &Engine, consistency: Consistency) -> Result<(), Problem> {
        let keys = Arc::new(self.keys.clone());
        let mut tasks = JoinSet::new();
        for reader in 0..READERS {
            let (engine, keys) = (engine.clone(), Arc::clone(&keys));
            tasks.spawn(async move {
                for (key, length, due) in keys.iter().skip(reader).step_by(READERS) {
                    let name = key.to_be_bytes();
                    let found = engine.read_key(name, Bytes::copy_from_slice(&name), consistency).await;
                    let found = found.map_err(|error| format!("key {key:016x}: {error}"))?;
                    judge(*key, *length, *due, &found)?;
                }
                Ok(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            let outcome: Result<(), String> = ended.map_err(|error| Problem::Wrong(error.to_string()))?;
            outcome.map_err(Problem::Wrong)?;
        }
        Ok(())
    }
}

fn judge(key: u64, length: usize, due: Due, found: &[u8]) -> Result<(), String> {
    if found.is_empty() {
        return match due {
            Due::There => Err(format!("key {key:016x} was acknowledged and is gone")),
            Due::Perhaps | Due::Absent => Ok(()),
        };
    }
    if due == Due::Absent {
        return Err(format!("key {key:016x} is there though its write was refused"));
    }
    if found != value_of(key, length) {
        return Err(format!("key {key:016x} does not hold what was written, but {} other bytes", found.len()));
    }
    Ok(())
}

/// All regions, by a walk over all keys that asks the owner of each.
pub(crate) async fn walk(engine: &Engine) -> Result<Vec<Arc<RegionDescriptor>>, Problem> {
    let mut scan = engine.scan(KeyRange::full());
    let mut regions = Vec::new();
    loop {
        match scan.next(|range| range.start.clone()).await {
            Ok(Some(part)) => regions.push(part.region),
            Ok(None) => return Ok(regions),
            Err(error) => return Err(Problem::Wrong(format!("a walk over all regions failed: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_judged_by_how_its_write_ended() {
        let right = value_of(7, 20);
        let other = value_of(8, 20);
        assert!(right.len() == 20 && right != other);
        for (due, found, is_right) in [
            (Due::There, &right[..], true),
            (Due::There, &[], false),
            (Due::There, &other, false),
            (Due::There, &right[..19], false),
            (Due::Perhaps, &right, true),
            (Due::Perhaps, &[], true),
            (Due::Perhaps, &other, false),
            (Due::Absent, &[], true),
            (Due::Absent, &right, false),
        ] {
            assert_eq!(judge(7, 20, due, found).is_ok(), is_right, "{due:?}: {found:?}");
        }
    }
}
