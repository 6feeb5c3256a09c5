//! What each store's log must hold, kept beside the real one: every batch that was handed to a log, and which of them its
//! tokens have declared durable. After a crash the recovered log is held against it.

use std::collections::{BTreeMap, VecDeque};

use multiraft_raft::{HardState, LogIndex, LogTicket, RegionId, StoreId, Term};
use multiraft_storage::{GroupRecord, LogBatch, LogChange, RecoveredGroup};

use super::{Verdict, Violation};

/// One group's log, without the contents of its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShadowGroup {
    /// The last hard state.
    pub hard_state: HardState,
    /// Entries up to here are gone.
    pub truncated: LogIndex,
    /// The term there.
    pub truncated_term: Term,
    /// The terms of the entries behind it.
    terms: VecDeque<Term>,
}

impl ShadowGroup {
    /// The last entry.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        self.truncated.plus(self.terms.len() as u64)
    }

    /// Where the log ends, in the order in which voters compare logs.
    #[must_use]
    pub fn end(&self) -> (Term, LogIndex) {
        (self.term(self.last()).expect("a log knows the term at its end"), self.last())
    }

    /// The term at `index`, if that is known here.
    #[must_use]
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        match index.get().checked_sub(self.truncated.get())? {
            0 => Some(self.truncated_term),
            after => self.terms.get(after as usize - 1).copied(),
        }
    }

    fn of(found: &RecoveredGroup) -> Self {
        let log = &found.log;
        let mut terms = VecDeque::new();
        let mut index = log.first_index();
        while index <= log.last_index {
            terms.extend(log.term(index));
            index = index.next();
        }
        Self { hard_state: found.hard_state, truncated: log.truncated_index, truncated_term: log.truncated_term, terms }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::None => {}
            Change::Append { first, terms } => {
                let keep = first.get().saturating_sub(self.truncated.get() + 1);
                self.terms.truncate(keep as usize);
                self.terms.extend(terms);
            }
            Change::Truncate { index, term } => {
                let gone = index.since(self.truncated).min(self.terms.len() as u64);
                self.terms.drain(..gone as usize);
                (self.truncated, self.truncated_term) = (*index, *term);
            }
            Change::Reset { index, term } => {
                self.terms.clear();
                (self.truncated, self.truncated_term) = (*index, *term);
            }
            Change::Remove => *self = Self::default(),
        }
    }
}

/// A record, reduced to what a shadow needs.
#[derive(Clone, Debug)]
struct Record {
    region: RegionId,
    change: Change,
    hard_state: Option<HardState>,
}

#[derive(Clone, Debug)]
enum Change {
    None,
    Append { first: LogIndex, terms: Vec<Term> },
    Truncate { index: LogIndex, term: Term },
    Reset { index: LogIndex, term: Term },
    Remove,
}

impl Record {
    fn of(record: &GroupRecord) -> Self {
        let change = match &record.log {
            LogChange::None => Change::None,
            LogChange::Append(entries) => match entries.first() {
                Some(first) => {
                    Change::Append { first: first.index, terms: entries.iter().map(|entry| entry.term).collect() }
                }
                None => Change::None,
            },
            LogChange::Truncate { index, term } => Change::Truncate { index: *index, term: *term },
            LogChange::Reset { index, term } => Change::Reset { index: *index, term: *term },
            LogChange::Remove => Change::Remove,
        };
        Self { region: record.region, change, hard_state: record.hard_state }
    }
}

/// The groups of one store.
type Groups = BTreeMap<RegionId, ShadowGroup>;

#[derive(Clone, Debug, Default)]
struct StoreShadow {
    /// What tokens have declared durable.
    durable: Groups,
    /// With everything that was handed in.
    latest: Groups,
    /// Handed in and not declared durable, by lane, oldest first.
    pending: BTreeMap<u32, VecDeque<(u64, Vec<Record>)>>,
    /// What was durable of groups until damage may have cost them records, or the disk was lost.
    lost: Groups,
    /// What was durable on a disk that was lost, once the store has begun anew.
    forgotten: Groups,
}

/// The shadows of all stores.
#[derive(Clone, Debug, Default)]
pub struct Shadows {
    stores: BTreeMap<StoreId, StoreShadow>,
}

impl Shadows {
    /// A batch was handed to a store's log.
    pub fn on_submitted(&mut self, store: StoreId, batch: &LogBatch) {
        let shadow = self.stores.entry(store).or_default();
        let records: Vec<Record> = batch.records.iter().map(Record::of).collect();
        records.iter().for_each(|record| carry_out(&mut shadow.latest, record));
        shadow.pending.entry(batch.ticket.lane).or_default().push_back((batch.ticket.seq, records));
    }

    /// A token has declared everything of a lane up to `upto` durable.
    pub fn on_durable(&mut self, store: StoreId, upto: LogTicket) {
        let StoreShadow { durable, pending, .. } = self.stores.entry(store).or_default();
        let Some(lane) = pending.get_mut(&upto.lane) else { return };
        while let Some((_, records)) = lane.pop_front_if(|(seq, _)| *seq <= upto.seq) {
            records.iter().for_each(|record| carry_out(durable, record));
        }
    }

    /// Records of these regions may be lost on a store: nothing is expected of them any more.
    pub fn forget(&mut self, store: StoreId, is_lost: impl Fn(RegionId) -> bool) {
        let StoreShadow { durable, latest, pending, lost, .. } = self.stores.entry(store).or_default();
        for (region, log) in durable.extract_if(.., |region, _| is_lost(*region)) {
            // A store that starts again names its damage again.
            if lost.get(&region).is_none_or(|before| before.last() < log.last()) {
                lost.insert(region, log);
            }
        }
        latest.retain(|region, _| !is_lost(*region));
        for (_, records) in pending.values_mut().flatten() {
            records.retain(|record| !is_lost(record.region));
        }
    }

    /// A store has lost its disk: nothing is expected of it any more. What it held it did hold (see [`Shadows::lost`]), until it begins anew.
    pub fn on_wiped(&mut self, store: StoreId) {
        self.forget(store, |_| true);
    }

    /// A store that has lost its disk begins anew: what it held counts for the replicas that were lost with it, and for no others.
    pub fn on_rejoined(&mut self, store: StoreId) {
        let before = self.stores.remove(&store).unwrap_or_default();
        let mut forgotten = before.forgotten;
        forgotten.extend(before.lost);
        self.stores.insert(store, StoreShadow { forgotten, ..StoreShadow::default() });
    }

    /// What was durable of a group on a store's disk when that was lost, and the store has begun anew.
    #[must_use]
    pub fn forgotten(&self, store: StoreId, region: RegionId) -> Option<&ShadowGroup> {
        self.stores.get(&store)?.forgotten.get(&region)
    }

    /// A recovery has written a group's records on a store that does not run: what it keeps of promises is judged, the rest is
    /// taken as it is found.
    ///
    /// # Errors
    /// A replica that has given way has forgotten what it promised.
    pub fn on_rewritten(
        &mut self,
        store: StoreId,
        region: RegionId,
        found: Option<&RecoveredGroup>,
        keeps_promises: bool,
    ) -> Verdict {
        let shadow = self.stores.entry(store).or_default();
        let found = found.map(ShadowGroup::of).unwrap_or_default();
        let before = shadow.durable.get(&region).cloned().unwrap_or_default();
        let promised = |group: &ShadowGroup| (group.hard_state.term, group.hard_state.vote);
        if keeps_promises && promised(&before) != promised(&found) {
            let detail =
                format!("store {store}, region {region}: {} has become {}", describe(&before), describe(&found));
            return Err(Violation::new("what was promised outlives a recovery", detail));
        }
        shadow.durable.insert(region, found.clone());
        shadow.latest.insert(region, found);
        // What was held of the life before says nothing about the next one.
        shadow.lost.remove(&region);
        Ok(())
    }

    /// A store found these groups in its log at the start.
    ///
    /// # Errors
    /// Something is missing that was declared durable, or something is there that was never handed in, or a batch is there
    /// in part.
    pub fn on_recovered(&mut self, store: StoreId, found: &BTreeMap<RegionId, RecoveredGroup>) -> Verdict {
        let shadow = self.stores.entry(store).or_default();
        let found: Groups = found.iter().map(|(region, group)| (*region, ShadowGroup::of(group))).collect();
        for lane in std::mem::take(&mut shadow.pending).into_values() {
            settle_lane(&mut shadow.durable, lane, &found);
        }
        shadow.latest = shadow.durable.clone();
        let empty = ShadowGroup::default();
        for region in shadow.durable.keys().chain(found.keys()) {
            let expected = shadow.durable.get(region).unwrap_or(&empty);
            let there = found.get(region).unwrap_or(&empty);
            if expected != there {
                let detail = format!(
                    "store {store}, region {region}: the log held {} and came back with {}",
                    describe(expected),
                    describe(there)
                );
                return Err(Violation::new("what was flushed survives", detail));
            }
        }
        Ok(())
    }

    /// What is durable of a group on a store.
    #[must_use]
    pub fn durable(&self, store: StoreId, region: RegionId) -> Option<&ShadowGroup> {
        self.stores.get(&store)?.durable.get(&region)
    }

    /// What was durable of a group on a store until damage may have cost it records, or it lost its disk.
    #[must_use]
    pub fn lost(&self, store: StoreId, region: RegionId) -> Option<&ShadowGroup> {
        self.stores.get(&store)?.lost.get(&region)
    }

    /// What a store has handed to its log of a group, durable or not.
    #[must_use]
    pub fn latest(&self, store: StoreId, region: RegionId) -> Option<&ShadowGroup> {
        self.stores.get(&store)?.latest.get(&region)
    }
}

fn carry_out(groups: &mut Groups, record: &Record) {
    let group = groups.entry(record.region).or_default();
    group.apply(&record.change);
    if let Some(hard_state) = record.hard_state {
        group.hard_state = hard_state;
    }
}

/// Of a lane's batches that were under way, as many as the recovered log shows count as durable: a prefix, each as a whole.
fn settle_lane(durable: &mut Groups, lane: VecDeque<(u64, Vec<Record>)>, found: &Groups) {
    let regions: Vec<RegionId> =
        lane.iter().flat_map(|(_, records)| records.iter().map(|record| record.region)).collect();
    let empty = ShadowGroup::default();
    let fits = |groups: &Groups| {
        regions.iter().all(|region| groups.get(region).unwrap_or(&empty) == found.get(region).unwrap_or(&empty))
    };
    let mut candidate = durable.clone();
    if fits(&candidate) {
        return;
    }
    for (_, records) in lane {
        records.iter().for_each(|record| carry_out(&mut candidate, record));
        if fits(&candidate) {
            *durable = candidate;
            return;
        }
    }
}

fn describe(group: &ShadowGroup) -> String {
    let ShadowGroup { hard_state, truncated, .. } = group;
    format!(
        "({truncated}, {}] ending in term {:?}, term {} vote {} commit {}",
        group.last(),
        group.term(group.last()),
        hard_state.term,
        hard_state.vote,
        hard_state.commit
    )
}
