//! The safety properties of Raft (Ongaro's dissertation, figure 3.2), judged from what stores hand to their logs and to
//! their appliers: election safety, log matching, leader completeness, state machine safety; and that what is acknowledged
//! is durable on a quorum.

use std::collections::{BTreeMap, BTreeSet};

use multiraft::apply::{bared, is_bare};
use multiraft_raft::{Entry, LogIndex, RegionId, Replica, StoreId, Term};
use multiraft_storage::{LogBatch, LogChange};

use super::regions::{Regions, is_quorum_of};
use super::shadow::{ShadowGroup, Shadows};
use super::{Verdict, Violation};
use crate::random::{digest_of, fold};

/// The first entry of a log: what comes before it is a region's first state.
const FIRST: usize = 2;

/// An entry that was applied somewhere.
#[derive(Clone, Copy, Debug)]
struct Committed {
    term: Term,
    content: Content,
    /// It was committed in this term or an earlier one.
    by_term: Term,
}

/// What a replica must be handed next, to be applied.
#[derive(Debug)]
struct Next {
    index: LogIndex,
    /// Or, once, what follows a snapshot that was installed since: its group hears of each a little later, and until then goes on from
    /// where it is, be that an earlier one.
    behind_snapshots: BTreeSet<LogIndex>,
}

impl Next {
    fn at(index: LogIndex) -> Self {
        Self { index, behind_snapshots: BTreeSet::new() }
    }

    /// Whether it may be the entry at `index`; what comes next then is the one behind that.
    fn takes(&mut self, index: LogIndex) -> bool {
        let takes = index == self.index || self.behind_snapshots.contains(&index);
        if takes {
            self.index = index.next();
            self.behind_snapshots.retain(|other| *other > index);
        }
        takes
    }
}

impl Default for Next {
    fn default() -> Self {
        Self::at(LogIndex(FIRST as u64))
    }
}

/// What is known of all groups.
#[derive(Debug, Default)]
pub struct Consensus {
    leaders: BTreeMap<(RegionId, Term), StoreId>,
    /// Every entry that was ever handed to a log: its digest and the term of the entry before it.
    entries: BTreeMap<(RegionId, LogIndex, Term), (Content, Option<Term>)>,
    /// From index [`FIRST`] on.
    committed: BTreeMap<RegionId, Vec<Committed>>,
    /// What each replica must be handed next, to be applied.
    next: BTreeMap<(StoreId, RegionId), Next>,
    /// What is durable in each replica's state.
    state: BTreeMap<(StoreId, RegionId), LogIndex>,
    /// How far replicas that are gone had come, and the states of those that damage has put out of service.
    removed: BTreeMap<(StoreId, RegionId), LogIndex>,
    /// How far those had come that were lost with a disk, where the store has begun anew.
    forgotten: BTreeMap<(StoreId, RegionId), LogIndex>,
}

impl Consensus {
    /// `store` leads, or is said to lead, `region` in `term`.
    ///
    /// # Errors
    /// Another store did.
    pub fn on_leader(&mut self, region: RegionId, term: Term, store: StoreId) -> Verdict {
        let first = *self.leaders.entry((region, term)).or_insert(store);
        if first == store {
            return Ok(());
        }
        let detail = format!("region {region} has leaders {first} and {store} in term {term}");
        Err(Violation::new("election safety", detail))
    }

    /// `store` has just become leader: it must hold everything that was committed in earlier terms.
    ///
    /// # Errors
    /// It does not.
    pub fn on_elected(&self, region: RegionId, term: Term, store: StoreId, logs: &Shadows) -> Verdict {
        let Some(committed) = self.committed.get(&region) else { return Ok(()) };
        let log = logs.latest(store, region).cloned().unwrap_or_default();
        for (entry, index) in committed.iter().zip(FIRST as u64..).map(|(entry, index)| (entry, LogIndex(index))) {
            let is_held = index <= log.truncated || log.term(index) == Some(entry.term);
            if entry.by_term < term && !is_held {
                let detail = format!(
                    "store {store} leads region {region} in term {term} without entry {index} of term {}, committed by term {}",
                    entry.term, entry.by_term
                );
                return Err(Violation::new("leader completeness", detail));
            }
        }
        Ok(())
    }

    /// `store` hands a batch to its log; `logs` do not know of it yet.
    ///
    /// # Errors
    /// An entry differs from one with the same index and term, or follows another one.
    pub fn on_submitted(&mut self, store: StoreId, batch: &LogBatch, logs: &Shadows) -> Verdict {
        for record in &batch.records {
            let LogChange::Append(entries) = &record.log else { continue };
            let first = entries.first().map_or(LogIndex::ZERO, |entry| entry.index);
            let mut before = match first.prev() {
                LogIndex::ZERO => Some(Term::ZERO),
                index => logs.latest(store, record.region).and_then(|log| log.term(index)),
            };
            for entry in entries {
                self.on_entry(store, record.region, entry, before)?;
                before = Some(entry.term);
            }
        }
        Ok(())
    }

    fn on_entry(&mut self, store: StoreId, region: RegionId, entry: &Entry, before: Option<Term>) -> Verdict {
        let found = (Content::of(entry), before);
        let known = self.entries.entry((region, entry.index, entry.term)).or_insert(found);
        known.1 = known.1.or(before);
        if known.0.agrees(found.0) && (before.is_none() || known.1 == before) {
            return Ok(());
        }
        let detail = format!(
            "store {store}, region {region}: entry {} of term {} differs from the one seen before, or follows another",
            entry.index, entry.term
        );
        Err(Violation::new("log matching", detail))
    }

    /// `store` starts, with `region` applied up to `applied`.
    pub fn on_start(&mut self, store: StoreId, region: RegionId, applied: LogIndex) {
        self.next.insert((store, region), Next::at(applied.next()));
    }

    /// `store`, in `term`, hands these entries of `region` out to be applied.
    ///
    /// # Errors
    /// They leave a gap, come twice, or differ from what another replica applied there.
    pub fn on_handed_out(&mut self, store: StoreId, region: RegionId, term: Term, entries: &[Entry]) -> Verdict {
        let next = self.next.entry((store, region)).or_default();
        let committed = self.committed.entry(region).or_default();
        for entry in entries {
            if !next.takes(entry.index) {
                let detail =
                    format!("store {store}, region {region}: entry {} comes after {}", entry.index, next.index.prev());
                return Err(Violation::new("entries are applied without a gap", detail));
            }
            let found = Committed { term: entry.term, content: Content::of(entry), by_term: term };
            let at = entry.index.get() as usize - FIRST;
            let known = committed.len();
            match committed.get_mut(at) {
                Some(known) => {
                    if known.term == found.term && known.content.agrees(found.content) {
                        known.by_term = known.by_term.min(term);
                        continue;
                    }
                    let detail = format!(
                        "store {store}, region {region}: entry {} applied of term {}, of term {} elsewhere",
                        entry.index, found.term, known.term
                    );
                    return Err(Violation::new("state machine safety", detail));
                }
                None if at == known => committed.push(found),
                None => {
                    let detail = format!(
                        "store {store}, region {region}: entry {} applied before its predecessors",
                        entry.index
                    );
                    return Err(Violation::new("entries are applied without a gap", detail));
                }
            }
        }
        Ok(())
    }

    /// `store` has durably replaced `region`'s state by a snapshot at `index`.
    pub fn on_installed(&mut self, store: StoreId, region: RegionId, index: LogIndex) {
        self.next.entry((store, region)).or_default().behind_snapshots.insert(index.next());
        self.on_state_durable(store, region, index);
    }

    /// `store`'s replica of `region` is gone: a later one begins anew. What it held it did hold, until it was not needed any more.
    pub fn on_removed(&mut self, store: StoreId, region: RegionId, logs: &Shadows) {
        self.next.remove(&(store, region));
        let state = self.state.remove(&(store, region)).unwrap_or_default();
        let log = logs.durable(store, region).map_or(LogIndex::ZERO, |log| log.last());
        self.removed.insert((store, region), state.max(log));
    }

    /// `store`'s state of `region` is durable up to `index`.
    pub fn on_state_durable(&mut self, store: StoreId, region: RegionId, index: LogIndex) {
        let durable = self.state.entry((store, region)).or_default();
        *durable = (*durable).max(index);
    }

    /// The state of `region` that `store` came back with.
    ///
    /// # Errors
    /// It is older than what was durable.
    pub fn on_state_found(&self, store: StoreId, region: RegionId, index: LogIndex) -> Verdict {
        let durable = self.state.get(&(store, region)).copied().unwrap_or_default();
        if index >= durable {
            return Ok(());
        }
        let detail = format!("store {store}, region {region}: applied {durable} was durable, {index} came back");
        Err(Violation::new("applied state that was flushed survives", detail))
    }

    /// `store`'s replica of `region` is out of service: what it holds from now on counts for nothing. What it held before it did
    /// hold (see [`Shadows::lost`] for its log).
    pub fn on_lost(&mut self, store: StoreId, region: RegionId) {
        if let Some(state) = self.state.remove(&(store, region)) {
            let held = self.removed.entry((store, region)).or_default();
            *held = (*held).max(state);
        }
    }

    /// `store` has lost its disk, and with it every state and what it was to apply next.
    pub fn on_wiped(&mut self, store: StoreId) {
        let held: Vec<RegionId> = self.state.keys().filter(|(at, _)| *at == store).map(|(_, region)| *region).collect();
        held.into_iter().for_each(|region| self.on_lost(store, region));
        self.next.retain(|(at, _), _| *at != store);
    }

    /// `store` has lost its disk, and begins anew: what it held counts for the replicas that were lost with it, and for no others.
    pub fn on_rejoined(&mut self, store: StoreId) {
        self.forgotten.extend(self.removed.extract_if(.., |(at, _), _| *at == store));
    }

    /// A plan keeps the replica of `region` on `store`, whose log ends at `last`: what `survivors` know to be committed must be in
    /// it; where nothing is to be lost, everything that was ever committed.
    ///
    /// # Errors
    /// It is not.
    pub fn on_kept(
        &self,
        region: RegionId,
        store: StoreId,
        last: LogIndex,
        survivors: &[StoreId],
        loses_nothing: bool,
        logs: &Shadows,
    ) -> Verdict {
        let known = |survivor: &StoreId| {
            let promised = logs.durable(*survivor, region).map(|log| log.hard_state.commit).unwrap_or_default();
            self.state.get(&(*survivor, region)).copied().unwrap_or_default().max(promised)
        };
        let known = survivors.iter().map(known).max().unwrap_or_default();
        let upto = if loses_nothing { known.max(self.committed(region)) } else { known };
        let committed = self.committed.get(&region).map_or(&[][..], |committed| &committed[..]);
        let log = logs.durable(store, region).cloned().unwrap_or_default();
        let differs = |(entry, index): &(&Committed, LogIndex)| {
            *index > last || (*index > log.truncated && log.term(*index).is_some_and(|term| term != entry.term))
        };
        let indexes = (FIRST as u64..=upto.get()).map(LogIndex);
        match committed.iter().zip(indexes).find(differs) {
            None => Ok(()),
            Some((entry, index)) => {
                let detail = format!(
                    "region {region} goes on from store {store}, whose log ends at {last}: entry {index} of term {} is not in it; \
                     survivors know of {known}, nothing is to be lost: {loses_nothing}",
                    entry.term
                );
                Err(Violation::new("a recovery keeps what survivors know, and all where it loses nothing", detail))
            }
        }
    }

    /// `region` has begun a new life in `term`, with a state that stands for an entry at `index`, on `store` alone.
    pub fn on_recovered(&mut self, region: RegionId, store: StoreId, index: LogIndex, term: Term) {
        let committed = self.committed.entry(region).or_default();
        // What the kept log was is told by nobody any more: it is in the state.
        let stands_for = Committed { term, content: Content { bare: 0, full: None }, by_term: term };
        committed.clear();
        committed.resize((index.get() as usize + 1).saturating_sub(FIRST), stands_for);
        self.forget(region);
        self.state.insert((store, region), index);
    }

    /// `region` is no more; or its replicas begin anew.
    pub fn forget(&mut self, region: RegionId) {
        self.next.retain(|(_, other), _| *other != region);
        self.state.retain(|(_, other), _| *other != region);
        self.removed.retain(|(_, other), _| *other != region);
    }

    /// A client was told that the entry at `index` of `region` is committed and applied.
    ///
    /// # Errors
    /// No quorum of its configuration holds it durably, so some crashes could undo it. A replica whose log was damaged counts with
    /// what it held until then, and so does one whose disk was lost: its acknowledgement, or the answer that rests on it, may have been under way already.
    /// (That it says nothing any more is judged by itself.) One that its store was given since counts with what it has.
    pub fn on_acknowledged(&self, region: RegionId, index: LogIndex, regions: &Regions, logs: &Shadows) -> Verdict {
        let at = (index.get() as usize).wrapping_sub(FIRST);
        let Some(entry) = self.committed.get(&region).and_then(|committed| committed.get(at)) else {
            let detail = format!("region {region}: entry {index} was acknowledged before any replica applied it");
            return Err(Violation::new("what is acknowledged is applied", detail));
        };
        let has = |log: &ShadowGroup| index <= log.truncated || log.term(index) == Some(entry.term);
        let holds = |replica: &Replica| {
            let store = replica.store;
            if regions.is_forgotten(store, region, replica.id) {
                let was_held = self.forgotten.get(&(store, region)).is_some_and(|held| *held >= index);
                return was_held || logs.forgotten(store, region).is_some_and(has);
            }
            let in_state = self.state.get(&(store, region)).is_some_and(|durable| *durable >= index);
            let in_log = logs.durable(store, region).is_some_and(has) || logs.lost(store, region).is_some_and(has);
            let was_held = self.removed.get(&(store, region)).is_some_and(|held| *held >= index);
            in_state || in_log || was_held
        };
        let configurations = regions.configurations(region, index);
        if configurations.iter().any(|replicas| is_quorum_of(replicas, &holds)) {
            return Ok(());
        }
        let detail = format!(
            "region {region}: entry {index} was acknowledged, and is durable on no quorum of {configurations:?}"
        );
        Err(Violation::new("what is acknowledged is durable on a quorum", detail))
    }

    /// How many entries of `region` are known to be committed.
    #[must_use]
    pub fn committed(&self, region: RegionId) -> LogIndex {
        LogIndex(self.committed.get(&region).map_or(0, |committed| (committed.len() + FIRST - 1) as u64))
    }
}

/// What an entry says: to a witness, and to all others, if one of these was seen.
#[derive(Clone, Copy, Debug)]
struct Content {
    bare: u64,
    full: Option<u64>,
}

impl Content {
    fn of(entry: &Entry) -> Self {
        let full = (!is_bare(entry)).then(|| digest(entry));
        Self { bare: digest(&bared(entry.clone())), full }
    }

    /// Whether both can be the same entry; what one does not tell is taken from the other.
    fn agrees(&mut self, other: Self) -> bool {
        let agrees = self.bare == other.bare && self.full.zip(other.full).is_none_or(|(one, other)| one == other);
        self.full = self.full.or(other.full);
        agrees
    }
}

fn digest(entry: &Entry) -> u64 {
    fold(fold(digest_of(&entry.data), entry.kind as u64), entry.term.get())
}
