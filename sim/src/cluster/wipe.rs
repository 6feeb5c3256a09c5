//! Stores that lose their whole disk, and come back on an empty one under their number, at any time: they have forgotten what they voted
//! for and acknowledged, so what they were is lost (`floor`), and every region has to give that up some time.
//!
//! ```text
//!  doomed: dead, nothing is changed --> all can do without it? --> wiped --> begins anew, takes a floor --> is given replicas
//!                                            |                         |                                    ^
//!                                            no: it starts on          +--- every region gives it up -------+
//!                                            what it had
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use multiraft::assembly::rejoined_incarnation;
use multiraft::logic::{AdminRequest, Floor};
use multiraft_raft::{
    ChangeOp, EntryKind, Incarnation, LogIndex, MembershipChange, RegionDescriptor, RegionId, Replica, Role, StoreId,
};
use multiraft_storage::disk::CrashStyle;
use multiraft_storage::state::SimStore;
use multiraft_storage::{LogBatch, LogChange, SimDisk};

use super::faults::Undo;
use super::node::Node;
use super::regions::NoIds;
use super::{Cluster, Event, id_of, place_of};
use crate::check::shadow::ShadowGroup;
use crate::life::Operation;
use crate::plan::Fault;
use crate::plant::Plant;
use crate::schedule::{MILLI, SECOND};

/// The mean pause of operators between two changes while a store is to be given up, in nanoseconds.
pub(super) const GIVING_UP: u64 = 100 * MILLI;
/// How often it is looked whether all can do without a store that is dead.
const LOOKS_MAX: u32 = 8;
/// How often it is looked whether a store may come back.
const LOOK_AGAIN: u64 = 300 * MILLI;
/// The time of day when a run begins, in seconds since 1970.
const BEGINS_AT: u64 = 1_700_000_000;
/// Regions get voters on a store that has rejoined until they have so many.
const VOTERS: usize = 3;

/// Where a store is that loses its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// It is dead, and still has its disk.
    Doomed,
    /// Its disk is lost.
    Wiped,
    /// It starts on an empty disk.
    Rejoins,
}

impl Node {
    /// It has to stay down for now, or for good.
    pub(super) fn is_away(&self) -> bool {
        self.dead || matches!(self.absence, Some(Absence::Doomed | Absence::Wiped))
    }

    /// What it had is gone for good.
    pub(super) fn is_given_up(&self) -> bool {
        self.dead || matches!(self.absence, Some(Absence::Wiped | Absence::Rejoins))
    }

    /// It has lost its disk, come back, and takes replicas.
    pub(super) fn has_begun_anew(&self) -> bool {
        matches!(self.floor, Floor::Above(_))
    }

    /// All that it has kept is gone.
    fn lose_disks(&mut self, numbers: [u64; 3]) {
        let [log, files, top] = numbers;
        (self.disk, self.files_disk, self.top) = (SimDisk::new(log), SimDisk::new(files), SimDisk::new(top));
        self.state = SimStore::new();
    }
}

/// Changes of replicas that are in some log, and nobody has applied yet; and who hears nothing of any.
#[derive(Debug, Default)]
pub(super) struct Changes {
    logged: BTreeSet<(RegionId, LogIndex)>,
    applied: BTreeMap<RegionId, LogIndex>,
    /// A store that is cut off from all others, until the one that has lost its disk is back: then it reaches that one alone.
    hermit: Option<usize>,
}

impl Changes {
    pub(super) fn on_submitted(&mut self, batch: &LogBatch) {
        for record in &batch.records {
            let LogChange::Append(entries) = &record.log else { continue };
            let changes = entries.iter().filter(|entry| entry.kind == EntryKind::Membership);
            let applied = self.applied.get(&record.region).copied().unwrap_or_default();
            let changes = changes.map(|entry| entry.index).filter(|index| *index > applied);
            self.logged.extend(changes.map(|index| (record.region, index)));
        }
    }

    /// Somebody has applied all entries of a region up to one: whatever else was logged at these places is no more.
    pub(super) fn on_applied(&mut self, region: RegionId, index: LogIndex) {
        let applied = self.applied.entry(region).or_default();
        *applied = (*applied).max(index);
        let applied = *applied;
        self.logged.retain(|(other, at)| *other != region || *at > applied);
    }

    fn is_under_way(&self, region: RegionId) -> bool {
        self.logged.iter().any(|(other, _)| *other == region)
    }
}

impl Cluster {
    /// A store is about to lose its disk. In part of the cases another is cut off before, for long: what the regions become meanwhile,
    /// it knows nothing of.
    pub(super) fn foretell_doom(&mut self, store: usize, hermit: usize) {
        let is_late = self.changes.hermit.is_some() || self.nodes.iter().any(|node| node.absence.is_some());
        if is_late || !self.random.chance(500) {
            return self.doom(store);
        }
        self.counters.hermits += 1;
        self.changes.hermit = Some(hermit);
        let others = (0..self.nodes.len()).filter(|other| *other != hermit);
        let ways: Vec<_> = others.flat_map(|other| [(hermit, other), (other, hermit)]).collect();
        let length = self.random.between(14_000, 20_000) * MILLI;
        self.cut(&ways, length);
        let wait = self.random.between(2_000, 8_000) * MILLI;
        self.schedule.plan_in(wait, Event::Doom { store });
    }

    /// The one that has come back on an empty disk is the first that a store hears of that was cut off.
    fn meet_hermit(&mut self, store: usize) {
        let Some(hermit) = self.changes.hermit.take() else { return };
        for (from, to) in [(hermit, store), (store, hermit)] {
            self.on_undo(Undo::Unblock { from, to });
        }
    }

    /// A store dies, and is about to lose its disk: this one, or another that all can do without at present.
    pub(super) fn doom(&mut self, first: usize) {
        let is_quiet = self.nodes.iter().all(|node| node.bootstrapped && node.absence.is_none());
        let count = self.nodes.len();
        let runs = |store: &usize| self.nodes[*store].process.is_some() && self.changes.hermit != Some(*store);
        let mut stores = (0..count).map(|number| (first + number) % count).filter(runs);
        let Some(store) = stores.find(|store| self.can_do_without(*store)).filter(|_| is_quiet) else {
            self.changes.hermit = None;
            return;
        };
        self.say(|| format!("{} dies, and is about to lose its disk", id_of(store)));
        self.counters.crashes += 1;
        let style = self.random.pick(&[CrashStyle::Mix, CrashStyle::LoseAll, CrashStyle::KeepAll]);
        self.kill(store, style);
        self.nodes[store].absence = Some(Absence::Doomed);
        // What was asked for while it lived comes to its end, and by then nothing is begun that needs it.
        let wait = self.random.between(2_000, 4_000) * MILLI;
        self.schedule.plan_in(wait, Event::Wipe { store, attempts: 1 });
    }

    /// Whether all regions go on without what a store has of them, whatever of their logs comes into force.
    fn can_do_without(&self, store: usize) -> bool {
        let last = |store, region| self.shadows.durable(store, region).map(ShadowGroup::end).unwrap_or_default();
        self.regions.can_do_without(id_of(store), &last)
    }

    /// Whether the replicas of regions are changed just now, or somebody has asked for that.
    fn is_changing(&self) -> bool {
        let is_unsettled = |region: &Arc<RegionDescriptor>| {
            region.replicas.iter().any(|replica| replica.role.is_joint()) || self.changes.is_under_way(region.id)
        };
        self.operators.is_waiting() || self.regions.newest().any(is_unsettled)
    }

    /// The disk of a doomed store is lost, unless some region would be lost with it.
    pub(super) fn on_wipe(&mut self, store: usize, attempts: u32) {
        if self.nodes[store].absence != Some(Absence::Doomed) {
            return;
        }
        if self.is_changing() || !self.can_do_without(store) {
            if attempts == LOOKS_MAX {
                self.spare_doomed();
                return;
            }
            return self.schedule.plan_in(SECOND / 2, Event::Wipe { store, attempts: attempts + 1 });
        }
        let id = id_of(store);
        self.say(|| format!("{id} has lost its disk"));
        self.counters.wipes += 1;
        self.record(10, store as u64);
        self.faults.full.remove(&store);
        let numbers = [(); 3].map(|()| self.random.number());
        let node = &mut self.nodes[store];
        node.lose_disks(numbers);
        node.absence = Some(Absence::Wiped);
        self.shadows.on_wiped(id);
        self.consensus.on_wiped(id);
        self.regions.on_wiped(id);
        self.operators.children.retain(|(at, _)| *at != store);
        // One that came later has no first regions to begin with.
        if self.plant == Some(Plant::ForgottenRejoin) && store < self.plan.first_stores() {
            return self.come_back_unasked(store);
        }
        self.counters.replicas_given_up += self.regions_on(id).len() as u64;
        let soon = self.random.chance(500);
        let wait = self.random.below(if soon { SECOND / 2 } else { 10 * SECOND });
        self.schedule.plan_in(wait, Event::Rejoin { store });
    }

    /// What is doomed starts on what it had.
    pub(super) fn spare_doomed(&mut self) {
        for store in 0..self.nodes.len() {
            if self.nodes[store].absence == Some(Absence::Doomed) {
                self.say(|| format!("{} has its disk after all", id_of(store)));
                self.counters.wipes_spared += 1;
                self.changes.hermit = None;
                self.nodes[store].absence = None;
                self.schedule.plan_in(0, Event::Start { store });
            }
        }
    }

    /// The planted bug: a store begins on its empty disk as its cluster did, and its peers listen.
    fn come_back_unasked(&mut self, store: usize) {
        let node = &mut self.nodes[store];
        node.bootstrapped = false;
        node.promised = Duration::ZERO;
        node.absence = None;
        let wait = self.random.around(500 * MILLI);
        self.schedule.plan_in(wait, Event::Start { store });
    }

    /// The live regions that have a replica on a store.
    fn regions_on(&self, store: StoreId) -> Vec<Arc<RegionDescriptor>> {
        self.regions.newest().filter(|region| region.replica_on(store).is_some()).cloned().collect()
    }

    /// A store whose disk is lost begins anew, whatever regions name it.
    pub(super) fn on_rejoin(&mut self, store: usize) {
        let is_wiped = self.nodes[store].absence == Some(Absence::Wiped);
        // In the very end every key is read a last time: it stays away.
        if !is_wiped || self.clients.closed {
            return;
        }
        let id = id_of(store);
        let is_later = self.rejoined_incarnation() > self.nodes[store].incarnation;
        if !is_later {
            return self.schedule.plan_in(LOOK_AGAIN, Event::Rejoin { store });
        }
        self.say(|| format!("{id} rejoins"));
        self.counters.rejoins += 1;
        self.counters.rejoins_named += u64::from(!self.regions_on(id).is_empty());
        self.shadows.on_rejoined(id);
        self.consensus.on_rejoined(id);
        self.regions.on_rejoined(id);
        let promised = self.longest_support();
        let node = &mut self.nodes[store];
        node.absence = Some(Absence::Rejoins);
        node.floor = Floor::Unknown;
        // It may have promised a moment ago what any store may.
        node.promised = promised;
        self.start(store);
        self.meet_hermit(store);
    }

    fn rejoined_incarnation(&self) -> Incarnation {
        rejoined_incarnation(Duration::from_secs(BEGINS_AT) + Duration::from_nanos(self.schedule.now().0))
    }

    /// What a store takes for the incarnation of the life that begins now.
    pub(super) fn next_incarnation(&self, store: usize) -> Incarnation {
        match self.nodes[store].absence {
            Some(Absence::Rejoins) => self.rejoined_incarnation(),
            _ => self.nodes[store].incarnation.next(),
        }
    }

    /// Operators wait for what becomes of a store.
    pub(super) fn has_doomed(&self) -> bool {
        self.nodes.iter().any(|node| node.absence == Some(Absence::Doomed))
    }

    /// Whether a replica is dead with its store, or was lost with its disk.
    pub(super) fn is_lost(&self, replica: &Replica) -> bool {
        let node = &self.nodes[place_of(replica.store)];
        node.is_given_up() || node.floor.bars(replica.id)
    }

    /// The live regions that name what was lost with a disk.
    fn maimed(&self) -> Vec<Arc<RegionDescriptor>> {
        let is_lost = |replica: &Replica| !self.nodes[place_of(replica.store)].dead && self.is_lost(replica);
        self.regions.newest().filter(|region| region.replicas.iter().any(is_lost)).cloned().collect()
    }

    /// Operators have regions give up what was lost.
    pub(super) fn gives_a_store_up(&self) -> bool {
        let is_lossy = |node: &Node| node.absence == Some(Absence::Wiped) || node.floor != Floor::Whole;
        !self.clients.closed && self.nodes.iter().any(is_lossy) && !self.maimed().is_empty()
    }

    /// A region that names a lost replica, as its leader tells: whatever is asked of it, it gives that replica up first.
    pub(super) fn draw_giving_up(&mut self) -> Option<(Operation, Arc<RegionDescriptor>)> {
        let regions = self.maimed();
        let at = self.operators.random.below(regions.len() as u64) as usize;
        regions.get(at).map(|region| (Operation::Remove, Arc::clone(region)))
    }

    /// What has to be done for stores before anything else is drawn: they get voters back, or lose them to others.
    pub(super) fn draw_upkeep(&mut self) -> Option<(Operation, Arc<RegionDescriptor>)> {
        self.plan.interval(Fault::Wipe)?;
        if !self.operators.random.chance(500) {
            return None;
        }
        if let Some(hermit) = self.changes.hermit {
            return self.draw_lacking(|region| region.replica_on(id_of(hermit)).is_some(), Operation::Repair);
        }
        let back = |store: &usize| self.nodes[*store].has_begun_anew();
        let back: Vec<StoreId> = (0..self.nodes.len()).filter(back).map(id_of).collect();
        let voters = |region: &RegionDescriptor| region.replicas.iter().filter(|one| one.role == Role::Voter).count();
        let lacks = |region: &RegionDescriptor| {
            voters(region) < VOTERS && back.iter().any(|store| region.replica_on(*store).is_none())
        };
        self.draw_lacking(lacks, Operation::GiveBack)
    }

    fn draw_lacking(
        &mut self,
        lacks: impl Fn(&RegionDescriptor) -> bool,
        operation: Operation,
    ) -> Option<(Operation, Arc<RegionDescriptor>)> {
        let is_joint = |region: &RegionDescriptor| region.replicas.iter().any(|one| one.role.is_joint());
        let regions: Vec<_> =
            self.regions.newest().filter(|region| lacks(region) && !is_joint(region)).cloned().collect();
        let at = self.operators.random.below(regions.len() as u64) as usize;
        regions.get(at).map(|region| (operation, Arc::clone(region)))
    }

    /// Another voter takes the place of the one on the store that is cut off.
    pub(super) fn repair_request(
        &mut self,
        operator: usize,
        region: &RegionDescriptor,
        absent: &[StoreId],
    ) -> Result<Option<AdminRequest>, NoIds> {
        let hermit = self.changes.hermit.and_then(|hermit| region.replica_on(id_of(hermit)));
        let Some(gone) = hermit.copied().filter(|gone| gone.role == Role::Voter && !absent.is_empty()) else {
            return Ok(None);
        };
        let store = self.operators.random.pick(absent);
        let ops =
            vec![ChangeOp::AddVoter { id: self.one_id_on(operator, store)?, store }, ChangeOp::Remove { id: gone.id }];
        Ok(Some(AdminRequest::Membership(MembershipChange::Joint { ops, auto_leave: true })))
    }
}
