//! What whoever plans knows: the stores as the root region keeps them, the regions as their leaders report them.
//!
//! Reports come late, twice and out of order, and from leaders that are none any more. What settles it: a region's later term
//! wins, then its epoch; and of two regions that share a key the one with the lower version is of the past.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{RegionDescriptor, RegionId, ReplicaId, StoreId, Term, Time};
use multiraft_storage::DiskSpace;

use super::report::{Report, StoreNews};
use crate::logic::{LedRegion, StoreStanding};
use crate::measure::Figures;
use crate::placement::{ClusterView, KeySample, RegionInfo, Sizes, Stats, StoreInfo, StoreState};
use crate::region::stores::Stores;

/// What is known of the cluster, for one term of the root region.
#[derive(Debug, Default)]
pub(super) struct Facts {
    view: ClusterView,
    /// Where the known regions that own keys begin. Invariant: their ranges do not overlap.
    starts: BTreeMap<Bytes, RegionId>,
    /// The term in which each known region was reported.
    terms: BTreeMap<RegionId, Term>,
    /// How many replicas each store has said it holds.
    held: BTreeMap<StoreId, u64>,
    standings: BTreeMap<StoreId, StoreStanding>,
    /// Size and load of the known regions, as far as they were told.
    figures: BTreeMap<RegionId, Told>,
    /// The replicas that regions have fenced, as their leaders say.
    fenced: BTreeMap<RegionId, Vec<ReplicaId>>,
    /// The replicas that are out of service on a store, as it says.
    aside: BTreeMap<StoreId, BTreeMap<RegionId, ReplicaId>>,
    disks: BTreeMap<StoreId, DiskSpace>,
}

/// What was told of a region's size and load.
#[derive(Debug, Default)]
struct Told {
    /// By its leader, or the one before as long as that one has told nothing.
    leader: Option<Figures>,
    /// By those that answer queries from their own replicas.
    others: BTreeMap<StoreId, Figures>,
}

impl Told {
    /// All of it together, under the version that the leader has measured.
    fn stats(&self) -> Stats {
        let Some(leader) = &self.leader else { return Stats::default() };
        // Queries that were answered of the region as it was before are not told of what it is now.
        let others = || self.others.values().filter(|other| other.version == leader.version);
        let samples = others().flat_map(|other| other.samples.iter()).chain(leader.samples.iter());
        let mut samples: Vec<KeySample> = samples.cloned().collect();
        samples.sort_by(|one, other| one.key.cmp(&other.key));
        Stats {
            version: leader.version,
            bytes: leader.bytes,
            keys: leader.keys,
            writes_per_s: leader.writes_per_s,
            reads_per_s: others().fold(leader.reads_per_s, |sum, other| sum.saturating_add(other.reads_per_s)),
            samples: (!samples.is_empty()).then(|| samples.into()),
        }
    }
}

impl Facts {
    /// Nothing is known yet; for a planner with these thresholds.
    pub(super) fn new(sizes: &Sizes) -> Self {
        Self { view: ClusterView::of_sizes(sizes), ..Self::default() }
    }

    pub(super) fn view(&self) -> &ClusterView {
        &self.view
    }

    /// Takes in the stores as the root region keeps them now. One that is new counts as heard of.
    pub(super) fn take_stores(&mut self, now: Time, stores: &Stores) {
        let gone: Vec<StoreId> = self.standings.keys().filter(|store| !stores.contains_key(store)).copied().collect();
        for store in gone {
            self.standings.remove(&store);
            self.take_aside(store, BTreeMap::new());
            self.disks.remove(&store);
            self.view.forget_store(store);
        }
        for record in stores.values() {
            let state = match record.standing {
                StoreStanding::Up => StoreState::Up,
                StoreStanding::Draining | StoreStanding::Drained => StoreState::Draining,
                StoreStanding::Left => StoreState::Left,
            };
            let known = self.view.store(record.id);
            let disk = self.disks.get(&record.id).copied().unwrap_or_default();
            let info = StoreInfo {
                id: record.id,
                address: record.address.clone(),
                weight: record.weight,
                disk_bytes: disk.bytes,
                disk_free_bytes: disk.free_bytes,
                is_slow: known.is_some_and(|known| known.is_slow),
                labels: record.labels.clone(),
                state,
                last_heard: known.map_or(now, |known| known.last_heard),
            };
            self.standings.insert(record.id, record.standing);
            if known != Some(&info) {
                self.view.observe_store(info);
            }
        }
    }

    /// Takes in what a store has reported.
    pub(super) fn take_report(&mut self, now: Time, from: StoreId, report: Report) {
        self.view.heard(from, now);
        self.held.insert(from, report.held);
        if let Some(StoreNews { disk, is_slow, aside }) = report.store {
            self.take_aside(from, aside);
            self.disks.insert(from, disk);
            if let Some(known) = self.view.store(from) {
                let (disk_bytes, disk_free_bytes) = (disk.bytes, disk.free_bytes);
                self.view.observe_store(StoreInfo { disk_bytes, disk_free_bytes, is_slow, ..known.clone() });
            }
        }
        for region in report.led {
            self.take_region(from, region);
        }
        for figures in report.figures {
            self.take_figures(from, figures);
        }
    }

    /// Figures count if they are of whoever leads the region as far as is known, or of a store that has a replica of it.
    fn take_figures(&mut self, from: StoreId, figures: Figures) {
        let id = figures.region;
        let Some(region) = self.view.region(id).filter(|known| known.descriptor.replica_on(from).is_some()) else {
            return;
        };
        if figures.leads && region.leader != Some(from) {
            return;
        }
        let told = self.figures.entry(id).or_default();
        if figures.leads {
            told.others.remove(&from);
            told.leader = Some(figures);
        } else if figures.reads_per_s == 0 {
            told.others.remove(&from);
        } else {
            told.others.insert(from, figures);
        }
        let region = RegionInfo { stats: told.stats(), ..region.clone() };
        self.view.observe_region(region);
    }

    fn take_region(&mut self, from: StoreId, region: LedRegion) {
        let LedRegion { descriptor, term, behind, fenced, pending } = region;
        let id = descriptor.id;
        if descriptor.replica_on(from).is_none() || self.terms.get(&id).is_some_and(|known| *known > term) {
            return;
        }
        let known = self.view.region(id).map(|known| known.descriptor.epoch);
        if known.is_some_and(|known| descriptor.epoch.is_behind(known)) {
            return;
        }
        if id != RegionId::ROOT {
            let Some(past) = self.past_owners(&descriptor) else { return };
            past.into_iter().for_each(|region| self.forget(region));
            self.forget_start(id);
            self.starts.insert(descriptor.range.start.clone(), id);
        }
        self.terms.insert(id, term);
        let stats = self.figures.get(&id).map_or_else(Stats::default, Told::stats);
        if fenced.is_empty() {
            self.fenced.remove(&id);
        } else {
            self.fenced.insert(id, fenced);
        }
        let (leader, unsound) = (Some(from), self.unsound(&descriptor));
        self.view.observe_region(RegionInfo { descriptor, leader, stats, behind, unsound, replication: None, pending });
    }

    /// The replicas of a region that are out of service, ascending: as its leader says, or their own stores.
    fn unsound(&self, descriptor: &RegionDescriptor) -> Vec<ReplicaId> {
        let id = descriptor.id;
        let is_fenced = |replica: ReplicaId| self.fenced.get(&id).is_some_and(|fenced| fenced.contains(&replica));
        let is_aside = |store, replica| self.aside.get(&store).is_some_and(|aside| aside.get(&id) == Some(&replica));
        let unsound = descriptor.replicas.iter().filter(|replica| {
            // A later one on the same store is another replica.
            is_fenced(replica.id) || is_aside(replica.store, replica.id)
        });
        let mut unsound: Vec<ReplicaId> = unsound.map(|replica| replica.id).collect();
        unsound.sort_unstable();
        unsound
    }

    /// Takes in which replicas a store says are out of service there.
    fn take_aside(&mut self, from: StoreId, aside: BTreeMap<RegionId, ReplicaId>) {
        let before = if aside.is_empty() { self.aside.remove(&from) } else { self.aside.insert(from, aside) };
        let before = before.unwrap_or_default();
        let after = self.aside.get(&from);
        let changed: Vec<RegionId> = before
            .iter()
            .chain(after.into_iter().flatten())
            .filter(|(region, _)| before.get(region) != after.and_then(|after| after.get(region)))
            .map(|(region, _)| *region)
            .collect();
        for id in changed {
            let Some(region) = self.view.region(id).cloned() else { continue };
            let unsound = self.unsound(&region.descriptor);
            self.view.observe_region(RegionInfo { unsound, ..region });
        }
    }

    /// The known regions that share keys with this one and are of the past; `None`: this one is.
    fn past_owners(&self, descriptor: &RegionDescriptor) -> Option<Vec<RegionId>> {
        let range = &descriptor.range;
        let before = self.starts.range::<Bytes, _>(..&range.start).next_back();
        let from = self.starts.range::<Bytes, _>(&range.start..);
        let inside = from.take_while(|(start, _)| range.end.is_empty() || **start < range.end);
        let mut past = Vec::new();
        for (_, id) in before.into_iter().chain(inside).filter(|(_, id)| **id != descriptor.id) {
            let other = &self.view.region(*id)?.descriptor;
            let is_apart = !other.range.end.is_empty() && other.range.end <= range.start;
            if is_apart {
                continue;
            }
            if other.epoch.version >= descriptor.epoch.version {
                return None;
            }
            past.push(*id);
        }
        Some(past)
    }

    fn forget(&mut self, region: RegionId) {
        self.forget_start(region);
        self.terms.remove(&region);
        self.figures.remove(&region);
        self.fenced.remove(&region);
        self.view.forget_region(region);
    }

    fn forget_start(&mut self, region: RegionId) {
        let start = self.view.region(region).map(|known| known.descriptor.range.start.clone());
        if let Some(start) = start.filter(|start| self.starts.get(start) == Some(&region)) {
            self.starts.remove(&start);
        }
    }

    /// Whether every region is known: the root, and one for each key.
    pub(super) fn is_complete(&self) -> bool {
        !self.view.has_holes() && self.view.region(RegionId::ROOT).is_some()
    }

    /// Whether every store that has joined and has not left has reported.
    pub(super) fn has_heard_all(&self) -> bool {
        let mut here = self.standings.iter().filter(|(_, standing)| **standing != StoreStanding::Left);
        here.all(|(store, _)| self.held.contains_key(store))
    }

    /// Stores that were to be emptied and are: no region names them, and they themselves say that they hold nothing, or have
    /// not been heard of for `silent_after`.
    pub(super) fn drained(&self, now: Time, silent_after: Duration) -> Vec<StoreId> {
        if !self.is_complete() {
            return Vec::new();
        }
        let draining = self.standings.iter().filter(|(_, standing)| **standing == StoreStanding::Draining);
        let is_empty = |store: &StoreId| {
            let is_silent = self.view.store(*store).is_some_and(|known| now.since(known.last_heard) > silent_after);
            self.view.replicas_on(*store) == 0 && (is_silent || self.held.get(store) == Some(&0))
        };
        draining.map(|(store, _)| *store).filter(is_empty).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use multiraft_raft::{KeyRange, RegionEpoch, Replica, ReplicaId, Role};

    use super::*;
    use crate::logic::StoreRecord;

    const NOW: Time = Time::ZERO;

    fn led(id: u64, range: (&'static str, &'static str), version: u64, stores: &[u64], term: u64) -> LedRegion {
        let replica =
            |store: &u64| Replica { id: ReplicaId(id * 10 + store), store: StoreId(*store), role: Role::Voter };
        let range = KeyRange { start: range.0.into(), end: range.1.into() };
        let epoch = RegionEpoch { conf_version: 1, version };
        let replicas = stores.iter().map(replica).collect();
        let descriptor = Arc::new(RegionDescriptor { id: RegionId(id), range, epoch, replicas });
        LedRegion { descriptor, term: Term(term), behind: Vec::new(), fenced: Vec::new(), pending: false }
    }

    fn root() -> LedRegion {
        led(RegionId::ROOT.get(), ("", ""), 1, &[1, 2, 3], 1)
    }

    fn report(facts: &mut Facts, from: u64, held: u64, led: Vec<LedRegion>) {
        facts.take_report(NOW, StoreId(from), Report { held, led, ..Report::default() });
    }

    fn known(facts: &Facts) -> Vec<u64> {
        facts.view().regions().map(|region| region.id().get()).collect()
    }

    #[test]
    fn a_view_is_complete_when_each_key_has_a_region() {
        let mut facts = Facts::default();
        assert!(!facts.is_complete());
        report(&mut facts, 1, 9, vec![root(), led(2, ("", "g"), 1, &[1, 2, 3], 1)]);
        assert!(!facts.is_complete());
        report(&mut facts, 2, 9, vec![led(3, ("p", ""), 1, &[1, 2, 3], 1)]);
        assert!(!facts.is_complete(), "nobody has told of g to p");
        report(&mut facts, 3, 9, vec![led(4, ("g", "p"), 1, &[1, 2, 3], 1)]);
        assert!(facts.is_complete());
    }

    #[test]
    fn newer_owners_of_keys_take_the_place_of_older_ones_and_late_reports_are_dropped() {
        let mut facts = Facts::default();
        let parent = led(2, ("", ""), 1, &[1, 2, 3], 1);
        report(&mut facts, 1, 9, vec![root(), parent.clone()]);
        report(&mut facts, 2, 9, vec![led(3, ("g", ""), 2, &[1, 2, 3], 1)]);
        assert_eq!(known(&facts), [1, 3], "the parent must have been split");
        report(&mut facts, 1, 9, vec![parent]);
        assert_eq!(known(&facts), [1, 3]);
        report(&mut facts, 1, 9, vec![led(2, ("", "g"), 2, &[1, 2, 3], 1)]);
        assert!(facts.is_complete());
        report(&mut facts, 1, 9, vec![led(2, ("", ""), 4, &[1, 2, 3], 1)]);
        assert_eq!(known(&facts), [1, 2], "it has absorbed its neighbour");
        report(&mut facts, 2, 9, vec![led(3, ("g", ""), 3, &[1, 2, 3], 1)]);
        assert_eq!(known(&facts), [1, 2]);
    }

    #[test]
    fn the_leader_of_the_later_term_counts_and_only_who_has_a_replica_can_lead() {
        let mut facts = Facts::default();
        let leader = |facts: &Facts| facts.view().region(RegionId(2)).and_then(|region| region.leader);
        report(&mut facts, 2, 9, vec![led(2, ("", ""), 1, &[1, 2, 3], 5)]);
        report(&mut facts, 1, 9, vec![led(2, ("", ""), 1, &[1, 2, 3], 4)]);
        report(&mut facts, 7, 9, vec![led(2, ("", ""), 1, &[1, 2, 3], 9)]);
        assert_eq!(leader(&facts), Some(StoreId(2)));
        report(&mut facts, 1, 9, vec![led(2, ("", ""), 1, &[1, 2, 3], 6)]);
        assert_eq!(leader(&facts), Some(StoreId(1)));
    }

    #[test]
    fn a_store_is_drained_when_everybody_says_so_or_it_is_silent() {
        let mut facts = Facts::default();
        let silent = Duration::from_secs(10);
        let record = |id: u64, standing| {
            let (id, address) = (StoreId(id), String::new());
            (id, StoreRecord { id, address, weight: 1, labels: BTreeMap::new(), standing })
        };
        let standings = [(1, StoreStanding::Up), (4, StoreStanding::Draining), (5, StoreStanding::Draining)];
        facts.take_stores(NOW, &standings.map(|(id, standing)| record(id, standing)).into());
        report(&mut facts, 4, 0, Vec::new());
        assert_eq!(facts.drained(NOW, silent), [], "not all regions have been heard of");
        report(&mut facts, 1, 9, vec![root(), led(2, ("", ""), 1, &[1, 2, 4], 1)]);
        assert_eq!(facts.drained(NOW, silent), [], "a region names it");
        report(&mut facts, 1, 9, vec![led(2, ("", ""), 2, &[1, 2, 3], 1)]);
        assert_eq!(facts.drained(NOW, silent), [StoreId(4)]);
        report(&mut facts, 4, 1, Vec::new());
        assert_eq!(facts.drained(NOW, silent), [], "it has not removed its replica yet");
        let later = NOW.plus(Duration::from_secs(11));
        facts.view.heard(StoreId(4), later);
        assert_eq!(facts.drained(later, silent), [StoreId(5)], "the other one was not heard of for long");
    }

    #[test]
    fn what_leaders_have_fenced_and_stores_have_set_aside_is_out_of_service_until_it_is_gone() {
        let mut facts = Facts::default();
        let unsound = |facts: &Facts, id| -> Vec<u64> {
            let region = facts.view().region(RegionId(id)).unwrap();
            region.unsound.iter().map(|replica| replica.get()).collect()
        };
        let aside = |facts: &mut Facts, from, aside: Option<&[(u64, u64)]>| {
            let aside = aside
                .map(|aside| aside.iter().map(|(region, replica)| (RegionId(*region), ReplicaId(*replica))).collect());
            let store = aside.map(|aside| StoreNews { aside, ..StoreNews::default() });
            facts.take_report(NOW, StoreId(from), Report { held: 9, store, ..Report::default() });
        };
        aside(&mut facts, 3, Some(&[(2, 23), (3, 99)]));
        let whole = || led(2, ("", "g"), 1, &[1, 2, 3], 1);
        report(&mut facts, 1, 9, vec![root(), whole(), led(3, ("g", ""), 1, &[1, 2, 3], 1)]);
        assert_eq!((unsound(&facts, 2), unsound(&facts, 3)), (vec![23], vec![]), "99 is an earlier one of region 3");
        report(&mut facts, 1, 9, vec![LedRegion { fenced: vec![ReplicaId(22), ReplicaId(23)], ..whole() }]);
        assert_eq!(unsound(&facts, 2), [22, 23]);
        aside(&mut facts, 3, None);
        assert_eq!(unsound(&facts, 2), [22, 23], "a report that does not say changes nothing");
        aside(&mut facts, 3, Some(&[]));
        aside(&mut facts, 1, Some(&[(2, 21)]));
        assert_eq!(unsound(&facts, 2), [21, 22, 23]);
        report(&mut facts, 1, 9, vec![whole()]);
        assert_eq!(unsound(&facts, 2), [21], "its leader speaks of others no more");
        report(&mut facts, 2, 9, vec![led(2, ("", "g"), 2, &[2, 3], 1)]);
        assert_eq!(unsound(&facts, 2), []);
        assert!(facts.fenced.is_empty());
    }

    #[test]
    fn what_a_store_says_of_its_disk_is_known_until_it_says_something_else() {
        let mut facts = Facts::default();
        let free = |facts: &Facts| {
            let store = facts.view().store(StoreId(1)).unwrap();
            (store.disk_bytes, store.disk_free_bytes)
        };
        let tell = |facts: &mut Facts, free_bytes| {
            let store = Some(StoreNews { disk: DiskSpace { bytes: 900, free_bytes }, ..StoreNews::default() });
            facts.take_report(NOW, StoreId(1), Report { store, ..Report::default() });
        };
        let record = StoreRecord {
            id: StoreId(1),
            address: String::new(),
            weight: 1,
            labels: BTreeMap::new(),
            standing: StoreStanding::Up,
        };
        let stores: Stores = [(StoreId(1), record)].into();
        tell(&mut facts, 90);
        facts.take_stores(NOW, &stores);
        assert_eq!(free(&facts), (900, 90), "also if it reports before its record is seen");
        tell(&mut facts, 80);
        assert_eq!(free(&facts), (900, 80));
        report(&mut facts, 1, 9, Vec::new());
        facts.take_stores(NOW, &stores);
        assert_eq!(free(&facts), (900, 80));
    }

    fn figures(id: u64, leads: bool, version: u64, per_s: u64) -> Figures {
        let key = if leads { "m" } else { "k" };
        let sample = KeySample { key: key.into(), bytes: 0, writes: per_s, reads: per_s };
        Figures {
            region: RegionId(id),
            leads,
            version,
            bytes: per_s << 30,
            keys: 5,
            writes_per_s: if leads { per_s } else { 0 },
            reads_per_s: per_s,
            samples: [sample].into(),
        }
    }

    fn measured(facts: &mut Facts, from: u64, figures: Figures) -> Stats {
        let id = figures.region;
        facts.take_report(NOW, StoreId(from), Report { held: 1, figures: vec![figures], ..Report::default() });
        facts.view().region(id).map_or_else(Stats::default, |region| region.stats.clone())
    }

    #[test]
    fn figures_of_the_leader_count_and_reads_of_all_who_answer_are_added_up() {
        let mut facts = Facts::default();
        assert_eq!(measured(&mut facts, 1, figures(2, true, 1, 100)), Stats::default(), "an unknown region");
        report(&mut facts, 1, 9, vec![root(), led(2, ("", ""), 1, &[1, 2, 3], 1)]);
        assert_eq!(measured(&mut facts, 2, figures(2, true, 1, 900)).bytes, 0, "2 leads no more, or not yet");
        assert_eq!(measured(&mut facts, 2, figures(2, false, 1, 50)), Stats::default(), "the leader has not told yet");
        let stats = measured(&mut facts, 1, figures(2, true, 1, 100));
        assert_eq!((stats.version, stats.bytes, stats.writes_per_s, stats.reads_per_s), (1, 100 << 30, 100, 150));
        let keys: Vec<_> = stats.samples.unwrap().iter().map(|sample| sample.key.clone()).collect();
        assert_eq!(keys, ["k", "m"], "samples of all, in order");
        assert_eq!(measured(&mut facts, 9, figures(2, false, 1, 500)).reads_per_s, 150, "9 has no replica");
        assert_eq!(measured(&mut facts, 3, figures(2, false, 2, 500)).reads_per_s, 150, "of another version");
        assert_eq!(measured(&mut facts, 2, figures(2, false, 1, 0)).reads_per_s, 100);
    }

    #[test]
    fn figures_stay_until_a_new_leader_tells_and_go_with_their_region() {
        let mut facts = Facts::default();
        report(&mut facts, 1, 9, vec![root(), led(2, ("", ""), 1, &[1, 2, 3], 1)]);
        measured(&mut facts, 1, figures(2, true, 1, 100));
        report(&mut facts, 2, 9, vec![led(2, ("", ""), 1, &[1, 2, 3], 2)]);
        let stats = |facts: &Facts, id| facts.view().region(RegionId(id)).unwrap().stats.clone();
        assert_eq!(stats(&facts, 2).writes_per_s, 100);
        assert_eq!(measured(&mut facts, 2, figures(2, true, 1, 300)).writes_per_s, 300);
        // A split makes them figures of the past, and a merge away forgets them.
        report(&mut facts, 2, 9, vec![led(2, ("", "g"), 2, &[1, 2, 3], 2), led(3, ("g", ""), 2, &[1, 2, 3], 1)]);
        assert_eq!((stats(&facts, 2).version, stats(&facts, 3)), (1, Stats::default()));
        report(&mut facts, 2, 9, vec![led(3, ("", ""), 4, &[1, 2, 3], 1)]);
        assert_eq!(known(&facts), [1, 3]);
        assert!(facts.figures.is_empty());
    }
}
