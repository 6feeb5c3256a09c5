//! Disasters and recoveries: so many stores die for good that a region can decide nothing any more; the survivors are stopped,
//! collected, and carry out the plan that the engine makes of them; then they go on without the dead.
//!
//! ```text
//!  disaster --> survivors go on for a while --> all stopped --> collect --> plan --+--> carry out, store by store --> start
//!                                                                                  |      (power goes, and again)
//!                                                                refused: the dead are repaired
//!  faults are over --> all stopped once more: whatever has lost its quorum since --> the same
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use multiraft::recovery::{
    ApplyOptions, Fence, Loss as PlannedLoss, Plan as Recoveries, PlanOptions, Recovery, RecoveryError, RegionPlan,
    StoppedStore, StoreSurvey, Verdict, make_plan,
};
use multiraft_raft::{ClusterId, KeyRange, LogIndex, RegionId, StoreId, Term};
use multiraft_storage::disk::CrashStyle;
use multiraft_storage::{LogWriter, Recovered};

use super::faults::Undo;
use super::{Cluster, Event, id_of, place_of};
use crate::check::regions::Outcome;
use crate::check::shadow::ShadowGroup;
use crate::history::{Key, Loss};
use crate::machine;
use crate::plan::Plan;
use crate::plant::Plant;
use crate::random::Random;
use crate::schedule::{MILLI, Moment, SECOND};

const TO_THE_END: &str = "a recovery is carried out to its end";
const IN_BETWEEN: &str = "a store in the middle of a recovery does not start";
const FROM_SURVIVORS: &str = "survivors can be collected and planned with";
/// How often a store loses power while it carries out one plan, at most.
const CUTS_MAX: u32 = 4;

/// How often it is looked again because of changes of replicas that may yet come into force.
const FURTHER_LOOKS_MAX: u32 = 4;

/// What a disaster has left.
#[derive(Debug)]
pub(super) struct Aftermath {
    random: Random,
    /// A plan was carried out: the dead have no way back.
    is_final: bool,
    /// Ids up to this one are used up by plans.
    pub(super) ids_upto: u64,
    /// When acknowledged writes may have been lost last.
    pub(super) lost_at: Option<Moment>,
    /// How often a plan was made once more after the faults, because a region might yet lose its quorum.
    further_looks: u32,
    /// When the survivors were stopped last.
    pub(super) looked_at: Moment,
    /// Keys of which the last writes may be lost, with where what is left of them is to be seen at the next start.
    unseen: Vec<(Key, RegionId, usize, Moment)>,
}

impl Aftermath {
    pub(super) fn new(plan: &Plan) -> Self {
        let random = Random::new(plan.disaster.map_or(0, |disaster| disaster.seed));
        Self {
            random,
            is_final: false,
            ids_upto: 0,
            lost_at: None,
            further_looks: 0,
            looked_at: Moment(0),
            unseen: Vec::new(),
        }
    }
}

impl Cluster {
    pub(super) fn plan_disaster(&mut self) {
        if let Some(disaster) = self.plan.disaster {
            self.schedule.plan(Moment(disaster.at), Event::Disaster);
        }
    }

    /// What no store does in which a recovery was begun and not finished, none that is dead, and none whose disk is lost while regions
    /// count on it.
    pub(super) fn may_start(&self, store: usize) -> bool {
        let node = &self.nodes[store];
        let is_begun = Fence::read_on(&node.top).map_or(true, |fence| fence.is_some_and(|fence| !fence.done));
        !node.is_away() && (!is_begun || self.plant == Some(Plant::SkippedFence))
    }

    /// Whether a store is one that recoveries have declared dead.
    pub(super) fn is_refused(&self, store: usize) -> bool {
        self.aftermath.is_final && self.nodes[store].dead
    }

    /// A region loses its quorum for good, and perhaps others with it.
    pub(super) fn on_disaster(&mut self) {
        let Some(disaster) = self.plan.disaster else { return };
        if self.nodes.iter().any(|node| !node.bootstrapped) {
            return self.schedule.plan_in(SECOND, Event::Disaster);
        }
        let regions: Vec<_> = self.regions.newest().cloned().collect();
        let random = &mut self.aftermath.random;
        let region = &regions[random.below(regions.len() as u64) as usize];
        let voters = region.replicas.iter().filter(|one| one.role.votes_incoming() || one.role.votes_outgoing());
        let mut voters: Vec<usize> = voters.map(|one| place_of(one.store)).collect();
        let is_half = disaster.half && voters.len().is_multiple_of(2);
        let count = (voters.len() / 2 + usize::from(!is_half)).min(self.nodes.len() - 1);
        while voters.len() > count {
            voters.swap_remove(random.below(voters.len() as u64) as usize);
        }
        self.counters.disasters += 1;
        self.record(9, region.id.get());
        self.say(|| format!("DISASTER: {voters:?} die for good, and with them the quorum of {region:?}"));
        for store in voters {
            let style = self.aftermath.random.pick(&[CrashStyle::Mix, CrashStyle::LoseAll, CrashStyle::KeepAll]);
            self.nodes[store].dead = true;
            self.counters.crashes += u64::from(self.nodes[store].process.is_some());
            self.kill(store, style);
        }
        self.schedule.plan_in(disaster.delay, Event::Recover);
    }

    /// When the faults are over, whatever has lost its quorum since then is recovered too: a change of replicas may have been on its
    /// way to a store that is dead.
    pub(super) fn plan_second_look(&mut self) {
        // It would name a recovery that is not finished: the planted bug is to be found by what it does.
        let is_hidden = self.plant == Some(Plant::SkippedFence);
        if !is_hidden && self.nodes.iter().any(|node| node.dead) {
            self.schedule.plan(self.schedule.now(), Event::Recover);
        }
    }

    /// All survivors are stopped, and what has lost its quorum is recovered.
    pub(super) fn on_recover(&mut self) {
        if self.clients.closed {
            // Every region has shown that it works, and is read a last time.
            return;
        }
        let survivors: Vec<usize> = (0..self.nodes.len()).filter(|store| !self.nodes[*store].dead).collect();
        self.aftermath.looked_at = self.schedule.now();
        for store in &survivors {
            let style = self.aftermath.random.pick(&[CrashStyle::KeepAll, CrashStyle::KeepAll, CrashStyle::Mix]);
            self.kill(*store, style);
            if self.faults.full.contains(store) {
                self.on_undo(Undo::Room { store: *store });
            }
        }
        match self.recover(&survivors) {
            Ok(is_unsettled) => {
                let looks_again = is_unsettled && self.faults.over && self.aftermath.further_looks < FURTHER_LOOKS_MAX;
                if looks_again {
                    self.aftermath.further_looks += 1;
                    // Time to elect a leader in, which brings what is under way into force.
                    let election = 2 * self.plan.raft.election_timeout_max.as_nanos() as u64;
                    self.schedule.plan_in(2 * SECOND + election, Event::Recover);
                }
            }
            Err((rule, detail)) => return self.fail(rule, detail),
        }
        let within = if self.faults.over { 300 * MILLI } else { 2 * SECOND };
        for store in (0..self.nodes.len()).filter(|store| !self.nodes[*store].dead) {
            let wait = self.aftermath.random.below(within);
            self.schedule.plan_in(wait, Event::Start { store });
        }
    }

    /// Says whether a region that has its quorum may yet lose it, by a change of replicas that its log holds.
    fn recover(&mut self, survivors: &[usize]) -> Result<bool, (&'static str, String)> {
        for store in survivors {
            let found = self.log_of(*store)?;
            let verdict = self.shadows.on_recovered(id_of(*store), &found.groups);
            verdict.map_err(|broken| (broken.rule, broken.detail))?;
        }
        let plan = self.make_plan(survivors)?;
        self.say(|| format!("{plan:#?}"));
        let is_refused = plan.regions.iter().any(|region| matches!(region.verdict, Verdict::Refused { .. }));
        if is_refused && self.aftermath.is_final {
            return Err((FROM_SURVIVORS, format!("a second plan is refused: {plan:?}")));
        }
        if is_refused {
            // Whoever can still repair the dead does that.
            self.say(|| "the dead are repaired".to_owned());
            self.counters.recoveries_refused += 1;
            self.nodes.iter_mut().for_each(|node| node.dead = false);
            return Ok(false);
        }
        let is_unsettled = plan.regions.iter().any(RegionPlan::may_be_stranded);
        if !plan.does_something() {
            return Ok(is_unsettled);
        }
        if !plan.gaps.is_empty() {
            return Err((FROM_SURVIVORS, format!("gaps are left that were to be filled: {:?}", plan.gaps)));
        }
        self.judge_plan(&plan, survivors)?;
        self.aftermath.is_final = true;
        let mut order = survivors.to_vec();
        while !order.is_empty() {
            let at = self.aftermath.random.below(order.len() as u64) as usize;
            self.carry_plan_out(order.swap_remove(at), &plan)?;
        }
        self.counters.recoveries += 1;
        self.take_over(&plan, survivors)?;
        Ok(is_unsettled)
    }

    fn stopped(&self, store: usize) -> Recovery {
        let node = &self.nodes[store];
        Recovery::on(StoppedStore {
            cluster: ClusterId(1),
            store: id_of(store),
            incarnation: node.incarnation,
            floor: node.floor,
            top: Arc::new(node.top.clone()),
            log: Arc::new(node.disk.clone()),
            log_options: self.plan.log,
            files: Arc::new(node.files_disk.clone()),
            backend: node.backend(self.plan.form),
        })
    }

    /// What a stopped store's log holds; looking changes nothing.
    fn log_of(&self, store: usize) -> Result<Recovered, (&'static str, String)> {
        let opened = LogWriter::open(Arc::new(self.nodes[store].disk.fork()), self.plan.log);
        opened
            .map(|(_, _, recovered)| recovered)
            .map_err(|error| (FROM_SURVIVORS, format!("{}: {error}", id_of(store))))
    }

    fn make_plan(&self, survivors: &[usize]) -> Result<Recoveries, (&'static str, String)> {
        let mut surveys: Vec<StoreSurvey> = Vec::new();
        for store in survivors {
            let survey = self.stopped(*store).survey();
            surveys.push(survey.map_err(|error| (FROM_SURVIVORS, format!("{}: {error}", id_of(*store))))?);
        }
        let dead: Vec<StoreId> = (0..self.nodes.len()).filter(|store| self.nodes[*store].dead).map(id_of).collect();
        let mut options = PlanOptions::default();
        options.fill_gaps = true;
        options.note = "a disaster".to_owned();
        make_plan(&surveys, &dead, &options).map_err(|error| (FROM_SURVIVORS, error.to_string()))
    }

    /// Judges what a plan gives up, and from what it goes on.
    fn judge_plan(&mut self, plan: &Recoveries, survivors: &[usize]) -> Result<(), (&'static str, String)> {
        let survivors: Vec<StoreId> = survivors.iter().map(|store| id_of(*store)).collect();
        let living: BTreeSet<StoreId> = survivors.iter().copied().collect();
        let mut buried = BTreeMap::new();
        for store in &survivors {
            let survey = self.stopped(place_of(*store)).survey();
            let survey = survey.map_err(|error| (FROM_SURVIVORS, format!("{store}: {error}")))?;
            buried.extend(survey.tombstones.iter().map(|gone| ((*store, gone.descriptor.id), gone.replica)));
        }
        for region in &plan.regions {
            let id = region.known.id;
            let mut verdict = match region.verdict {
                Verdict::Healthy | Verdict::Waits { .. } => Ok(()),
                _ => {
                    let last = |store| self.shadows.durable(store, id).map(ShadowGroup::end).unwrap_or_default();
                    self.regions.on_given_up(id, &living, &last, &|store| buried.get(&(store, id)).copied())
                }
            };
            if let Verdict::Keep(keep) = &region.verdict
                && !matches!(keep.loss, PlannedLoss::Certain { .. })
            {
                let loses_nothing = keep.loss == PlannedLoss::Nothing;
                let (store, last) = (keep.store, keep.last.0);
                verdict = verdict
                    .and_then(|()| self.consensus.on_kept(id, store, last, &survivors, loses_nothing, &self.shadows));
            }
            verdict.map_err(|broken| (broken.rule, format!("{}; the plan: {region:?}", broken.detail)))?;
        }
        Ok(())
    }

    /// Carries a plan out on one store, which loses power in the middle as often as it is drawn.
    fn carry_plan_out(&mut self, store: usize, plan: &Recoveries) -> Result<(), (&'static str, String)> {
        let cuts = self.plan.disaster.map_or(0, |disaster| disaster.cuts);
        // Regions of which nothing is left have empty ones in their place, and are listed as lost all the same.
        let options = ApplyOptions::confirm(plan.id()).accept_gaps();
        let id = id_of(store);
        for attempt in 0..=CUTS_MAX {
            let is_cut = attempt < CUTS_MAX && self.aftermath.random.chance(cuts);
            if is_cut {
                self.arm_power_cut(store);
            }
            let ended = self.stopped(store).apply(plan, &options);
            self.say(|| format!("{id} carries plan {} out: {ended:?}", plan.id()));
            if ended.is_err() && !is_cut {
                return Err((TO_THE_END, format!("{id}: {ended:?}")));
            }
            self.lose_power(store);
            let fence = Fence::read_on(&self.nodes[store].top).map_err(|error| (IN_BETWEEN, error.to_string()))?;
            let is_done = fence.as_ref().is_some_and(|fence| fence.done && fence.plan == plan.id());
            let is_begun = fence.is_some_and(|fence| !fence.done);
            if ended.is_ok() {
                return if is_done { Ok(()) } else { Err((TO_THE_END, format!("{id} has forgotten that it is done"))) };
            }
            self.counters.recoveries_interrupted += 1;
            if is_begun {
                if self.plant == Some(Plant::SkippedFence) {
                    return Ok(());
                }
                let collected = self.stopped(store).survey();
                if self.may_start(store) || !matches!(collected, Err(RecoveryError::Unfinished { .. })) {
                    return Err((IN_BETWEEN, format!("{id}: collected {collected:?}")));
                }
            }
        }
        Err((TO_THE_END, format!("{id}: not after {CUTS_MAX} attempts")))
    }

    /// The power will go in front of some operation of one of the store's disks.
    fn arm_power_cut(&mut self, store: usize) {
        let random = &mut self.aftermath.random;
        let node = &self.nodes[store];
        match random.below(4) {
            0 => node.top.cut_power_after(random.below(12)),
            1 => node.disk.cut_power_after(random.below(12)),
            2 => node.files_disk.cut_power_after(random.below(40)),
            _ => node.state.cut_power_after(random.below(30)),
        }
    }

    fn lose_power(&mut self, store: usize) {
        let random = &mut self.aftermath.random;
        let style = random.pick(&[CrashStyle::Mix, CrashStyle::Mix, CrashStyle::LoseAll, CrashStyle::KeepAll]);
        let (seed, lost_states) = (random.number(), random.number());
        let node = &self.nodes[store];
        node.top.crash(style, seed);
        node.disk.crash(style, seed.rotate_left(16));
        node.files_disk.crash(style, seed.rotate_left(32));
        let kept = match style {
            CrashStyle::KeepAll => node.state.unflushed_batches() as u64,
            CrashStyle::LoseAll => 0,
            CrashStyle::Mix => lost_states,
        };
        node.state.crash(kept);
    }

    /// From here on the regions are what the plan has made of them: shows that to the judges, the operators and the clients.
    fn take_over(&mut self, plan: &Recoveries, survivors: &[usize]) -> Result<(), (&'static str, String)> {
        let broken = |violation: crate::check::Violation| (violation.rule, violation.detail);
        let mut outcome = Outcome::default();
        for region in &plan.regions {
            let id = region.known.id;
            match &region.verdict {
                Verdict::Keep(keep) => {
                    let position = (keep.last.0.next(), keep.term);
                    self.begin_life(&keep.becomes, position);
                    self.counters.regions_recovered += 1;
                    if keep.loss != PlannedLoss::Nothing {
                        self.counters.regions_lossy += 1;
                        self.expect_loss(id, &keep.becomes.range, keep.store);
                    }
                }
                Verdict::Create { store, becomes } => {
                    self.begin_life(becomes, created_at());
                    self.counters.regions_made_anew += 1;
                    self.expect_loss(id, &becomes.range, *store);
                }
                Verdict::Healthy | Verdict::Waits { .. } => {
                    outcome.left_alone.insert(id);
                    continue;
                }
                _ => {
                    self.consensus.forget(id);
                    outcome.ended.insert(id);
                    continue;
                }
            }
            outcome.recovered.insert(id);
        }
        let living = survivors.iter().map(|store| id_of(*store)).collect();
        self.regions.on_all_recovered(&outcome, &living).map_err(broken)?;
        for store in survivors {
            self.show_log(*store, plan)?;
        }
        self.aftermath.ids_upto = plan.ids_upto;
        self.operators.begin_anew();
        Ok(())
    }

    fn begin_life(&mut self, becomes: &multiraft_raft::RegionDescriptor, (index, term): (LogIndex, Term)) {
        let store = becomes.replicas[0].store;
        self.consensus.on_recovered(becomes.id, store, index, term);
        self.regions.on_recovered(index, &Arc::new(becomes.clone()));
    }

    /// Holds what the plan has written to a store's log against what it says.
    fn show_log(&mut self, store: usize, plan: &Recoveries) -> Result<(), (&'static str, String)> {
        let id = id_of(store);
        let found = self.log_of(store)?;
        for region in &plan.regions {
            let group = found.groups.get(&region.known.id);
            let lives_from = match &region.verdict {
                Verdict::Healthy | Verdict::Waits { .. } => continue,
                Verdict::Keep(keep) if keep.store == id => Some((keep.last.0.next(), keep.term)),
                Verdict::Create { store, .. } if *store == id => Some(created_at()),
                _ => None,
            };
            let is_as_planned = group.is_none_or(|group| {
                let log = &group.log;
                match lives_from {
                    Some((index, term)) => {
                        (log.truncated_index, log.truncated_term, log.last_index) == (index, term, index.next())
                            && group.hard_state.term == term
                    }
                    None => log.last_index == LogIndex::ZERO,
                }
            });
            let is_unfinished = self.plant == Some(Plant::SkippedFence);
            if !is_unfinished && (!is_as_planned || (lives_from.is_some() && group.is_none())) {
                return Err((TO_THE_END, format!("{id} has {group:?} of {region:?}")));
            }
            let keeps_promises =
                lives_from.is_none() && matches!(region.verdict, Verdict::Keep(_) | Verdict::Create { .. });
            let verdict = self.shadows.on_rewritten(id, region.known.id, group, keeps_promises && !is_unfinished);
            verdict.map_err(|broken| (broken.rule, broken.detail))?;
        }
        Ok(())
    }

    /// The last writes to these keys may be lost: what is left is to be seen when the store starts.
    fn expect_loss(&mut self, region: RegionId, range: &KeyRange, store: StoreId) {
        let now = self.schedule.now();
        self.aftermath.lost_at = Some(now);
        if region == RegionId::ROOT {
            return;
        }
        for key in self.all_keys().into_iter().filter(|key| range.contains(&machine::key_bytes(*key))) {
            self.counters.keys_lossy += 1;
            self.aftermath.unseen.push((key, region, place_of(store), now));
        }
    }

    fn all_keys(&self) -> Vec<Key> {
        let numbers = 0..self.plan.load.keys;
        (2..self.plan.regions + 2)
            .flat_map(|region| numbers.clone().map(move |number| Key { region, number }))
            .collect()
    }

    /// A store starts after a recovery, and has done nothing yet: what it holds is what is left.
    pub(super) fn look_at_recovered(&mut self, store: usize) {
        let here: Vec<_> = self.aftermath.unseen.extract_if(.., |(_, _, place, _)| *place == store).collect();
        for (key, region, _, at) in here {
            let Some(process) = &self.nodes[store].process else { return };
            match process.backend.lookup(region, None, &machine::key_bytes(key)) {
                Ok(stored) => self.history.add_loss(Loss { key, at, found: machine::decode_value(key, &stored) }),
                Err(error) => self.fail(TO_THE_END, format!("{}: {key:?} of {region:?}: {error}", id_of(store))),
            }
        }
    }
}

/// Where the log of a region that is made anew begins.
fn created_at() -> (LogIndex, Term) {
    (LogIndex(2), Term(1 + (1 << 20)))
}
