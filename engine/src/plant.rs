//! Where the engine's planted bugs take effect; compiled with the feature `torture` alone, never into what ships. Which one is
//! planted, [`multiraft_storage::plant`] says. And how a store is made one of an earlier release, at the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{HardState, RegionDescriptor, RegionId, ReplicaId, Time};
use multiraft_storage::plant::Plant;
use multiraft_storage::{GroupRecord, LogChange, StateBatch, StateError, StateOp, StateView};

use crate::region::keys;

/// For how long an old reading of the clock does.
const READING: Duration = Duration::from_secs(5);
/// Among so many pairs of a child, the first in order, each fourth is lost.
const LOOKED_AT: usize = 1024;
const EACH: usize = 4;

/// Names the newest version of the wire format that a store speaks.
const WIRE: &str = "MULTIRAFT_TORTURE_WIRE";

/// Changes that version as [`WIRE`] says.
///
/// # Errors
/// It is no number.
pub(crate) fn speak_as_told(newest: &mut u16) -> Result<(), String> {
    let Some(order) = std::env::var_os(WIRE) else { return Ok(()) };
    let version = order.to_str().and_then(|text| text.parse().ok());
    *newest = version.ok_or_else(|| format!("{WIRE}={} names no wire version", order.display()))?;
    tracing::warn!(newest, "THIS STORE SPEAKS NO LATER WIRE VERSION: it was told so, for a test");
    Ok(())
}

/// Whether reads are answered from what is applied here, however fresh they are to be.
pub(crate) fn reads_stale() -> bool {
    Plant::StaleRead.is_planted()
}

/// Whether a repeated command of a session is carried out again.
pub(crate) fn applies_again() -> bool {
    Plant::DoubleApply.is_planted()
}

static LAST: Mutex<OldReading> = Mutex::new(OldReading(None));

/// At which reading of the clock leases, and the support that they rest on, are looked at, instead of now.
pub(crate) fn lease_time(now: Time) -> Time {
    if !Plant::LeaseAfterPause.is_planted() {
        return now;
    }
    LAST.lock().unwrap_or_else(PoisonError::into_inner).at(now)
}

/// When support will be seen to have run out that lasts until then.
pub(crate) fn lease_deadline(until: Time) -> Time {
    if !Plant::LeaseAfterPause.is_planted() {
        return until;
    }
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).0;
    last.map_or(until, |last| until.max(last.plus(READING)))
}

/// A reading that is made again only after a while.
#[derive(Debug, Default)]
pub(crate) struct OldReading(Option<Time>);

impl OldReading {
    pub(crate) fn at(&mut self, now: Time) -> Time {
        let last = self.0.filter(|last| now.since(*last) < READING).unwrap_or(now);
        self.0 = Some(last);
        last
    }
}

/// What goes to the log, without votes, and without terms until an entry comes with them: a log that is ahead of its term would be found
/// out at the next start.
pub(crate) fn without_votes(mut records: Vec<GroupRecord>) -> Vec<GroupRecord> {
    if Plant::VoteNotPersisted.is_planted() {
        let mut owed = OWED.lock().unwrap_or_else(PoisonError::into_inner);
        records.iter_mut().for_each(|record| forget_vote(record, &mut owed));
    }
    records
}

/// Hard states that the log was not given, by region.
static OWED: Mutex<BTreeMap<RegionId, HardState>> = Mutex::new(BTreeMap::new());

fn forget_vote(record: &mut GroupRecord, owed: &mut BTreeMap<RegionId, HardState>) {
    if record.log == LogChange::None {
        owed.extend(record.hard_state.take().map(|hard_state| (record.region, hard_state)));
        return;
    }
    let older = owed.remove(&record.region);
    record.hard_state = record.hard_state.take().or(older);
    if let Some(hard_state) = &mut record.hard_state {
        hard_state.vote = ReplicaId::ZERO;
    }
}

/// Takes pairs away from a child of a split, on every replica the same.
pub(crate) fn lose_pairs(
    batch: &mut StateBatch,
    view: &dyn StateView,
    child: &RegionDescriptor,
) -> Result<(), StateError> {
    if !Plant::LostSplitWrites.is_planted() {
        return Ok(());
    }
    let (start, end) = keys::data_range(&child.range);
    let mut pairs: BTreeSet<Bytes> = view.scan(&start, &end, LOOKED_AT)?.into_iter().map(|(key, _)| key).collect();
    for op in batch.ops() {
        match op {
            StateOp::Put { key, .. } if (&start[..]..&end[..]).contains(&&key[..]) => {
                pairs.insert(key.to_bytes());
            }
            StateOp::Delete { key } => {
                pairs.remove(&key[..]);
            }
            StateOp::Put { .. } | StateOp::DeleteRange { .. } => {}
        }
    }
    for key in pairs.into_iter().take(LOOKED_AT).step_by(EACH) {
        batch.delete(key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use multiraft_raft::{LogIndex, Term};

    use super::*;

    #[test]
    fn a_vote_does_not_reach_the_log_and_its_term_does_only_with_an_entry() {
        let mut owed = BTreeMap::new();
        let hard_state = Some(HardState { term: Term(4), vote: ReplicaId(2), commit: LogIndex(1) });
        let mut vote = GroupRecord { region: RegionId(7), log: LogChange::None, hard_state };
        forget_vote(&mut vote, &mut owed);
        assert_eq!(vote.hard_state, None);
        let reset = LogChange::Reset { index: LogIndex(3), term: Term(3) };
        for given in [None, hard_state] {
            let mut later = GroupRecord { region: RegionId(7), log: reset.clone(), hard_state: given };
            forget_vote(&mut later, &mut owed);
            assert_eq!(later.hard_state.map(|kept| (kept.term, kept.vote)), Some((Term(4), ReplicaId::ZERO)));
        }
        assert_eq!(owed, BTreeMap::new(), "what is owed is paid once");
        let mut other = GroupRecord { region: RegionId(7), log: reset, hard_state: None };
        forget_vote(&mut other, &mut owed);
        assert_eq!(other.hard_state, None);
    }
}
