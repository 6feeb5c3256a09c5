//! What is to become of every region: a pure function of what was collected and of the stores that are named dead.
//!
//! Regions with a quorum are left alone. Of every other region the replica that holds the most is kept, all of its log counts
//! as committed, and it alone is the region from then on, at an epoch and in a term that the dead cannot have reached. The
//! rules are those of `docs/recovery.md`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use multiraft_raft::{
    ClusterId, KeyRange, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId, Term,
};

use super::known::{Known, gather, newborn};
use super::plan::{Keep, Loss, Plan, RECOVER_AGAIN, RegionPlan, Source, Verdict};
use super::space::{Claim, Ruling, Standing, rule};
use super::survey::{ReplicaSurvey, StoreSurvey};
use crate::apply::RECOVERY_LEAP;
use crate::region::admin::FIRST_ALLOCATED_ID;

/// How far a recovered region's term and the ids of a recovered root region go beyond what survivors have seen, as both halves of
/// its epoch do: the dead have not come so far unseen.
pub(super) const EPOCH_STEP: u64 = RECOVERY_LEAP;
const TERM_STEP: u64 = 1 << 20;
const IDS_STEP: u64 = 1 << 32;

/// What a plan is to do beyond what is safe to do unasked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanOptions {
    /// Make empty regions for keys that no region owns any more, and an empty root region if that is lost. Whatever was written
    /// to those keys is lost for good then.
    pub fill_gaps: bool,
    /// Who recovers, when and why: kept in every recovered region.
    pub note: String,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Nothing was collected.
    #[error("nothing was collected: name the file of each surviving store")]
    Nothing,
    /// No store is dead.
    #[error("no store is named dead: name each one that will never come back")]
    NobodyDead,
    /// A store was collected twice.
    #[error("store {store} was collected twice: name the newest file of each store")]
    Twice {
        /// Which.
        store: StoreId,
    },
    /// The files are of several clusters.
    #[error("store {store} is of cluster {found}, the others of cluster {cluster}: name files of one cluster")]
    Clusters {
        /// Which.
        store: StoreId,
        /// Its cluster.
        found: ClusterId,
        /// The others'.
        cluster: ClusterId,
    },
    /// A store that is named dead was collected.
    #[error("store {store} is named dead and was collected: a store whose data can be read is not dead")]
    Alive {
        /// Which.
        store: StoreId,
    },
    /// Stores are neither dead nor collected: they may hold a quorum.
    #[error(
        "stores {} are named by survivors and neither collected nor named dead: a quorum may be alive on them",
        .stores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Unaccounted {
        /// Which.
        stores: Vec<StoreId>,
    },
}

/// Makes the plan. The same input, in whatever order, gives the same plan.
///
/// # Errors
/// [`PlanError`]: the input does not show that what is to be given up is lost.
pub fn make_plan(surveys: &[StoreSurvey], dead: &[StoreId], options: &PlanOptions) -> Result<Plan, PlanError> {
    let mut surveys: Vec<&StoreSurvey> = surveys.iter().collect();
    surveys.sort_by_key(|survey| survey.store);
    let named: BTreeSet<StoreId> = dead.iter().copied().collect();
    let earlier = surveys.iter().flat_map(|survey| survey.dead.iter().copied());
    let dead: BTreeSet<StoreId> = named.iter().copied().chain(earlier).collect();
    let collected: BTreeSet<StoreId> = surveys.iter().map(|survey| survey.store).collect();
    check_input(&surveys, &named, &dead)?;
    let known = gather(&surveys, &collected);
    check_accounted(&surveys, &known, &collected, &dead)?;
    let mut cases: BTreeMap<RegionId, Case<'_>> =
        known.into_iter().map(|(region, known)| (region, Case::judge(known))).collect();
    cases.entry(RegionId::ROOT).or_insert_with(|| Case::root_unheard_of(&collected));
    expect_children(&mut cases);
    add_children(&mut cases, &collected);
    settle_merges(&mut cases);
    wait_for_children(&mut cases, &collected);
    let ruling = settle_ranges(&mut cases);
    for case in cases.values_mut().filter(|case| case.owns_nothing(&ruling) && !case.known.replicas.is_empty()) {
        case.draft = Draft::Superseded { by: None };
        case.notes.push("only witnesses are left of it, and its keys are others' by now".to_owned());
    }
    let mut ids = Ids::after(&surveys, &cases);
    let version = version_after(&cases);
    let regions = cases.values().filter(|case| !case.is_forgotten(&ruling));
    let mut regions: Vec<RegionPlan> = regions.map(|case| case.conclude(&mut ids, version)).collect();
    let mut gaps = ruling.gaps;
    if options.fill_gaps {
        create_root(&mut regions, surveys[0].store, &mut ids, version);
        let free = |gap: &KeyRange| collected.iter().copied().find(|store| is_free(&cases, *store, gap));
        gaps = fill_gaps(&mut regions, gaps, &mut ids, version, &free);
    }
    let sources = surveys.iter().map(|survey| Source {
        store: survey.store,
        incarnation: survey.incarnation,
        fingerprint: survey.fingerprint(),
    });
    Ok(Plan {
        cluster: surveys[0].cluster,
        dead: dead.into_iter().collect(),
        sources: sources.collect(),
        note: options.note.clone(),
        ids_upto: ids.last,
        regions,
        gaps,
    })
}

fn check_input(surveys: &[&StoreSurvey], named: &BTreeSet<StoreId>, dead: &BTreeSet<StoreId>) -> Result<(), PlanError> {
    let first = surveys.first().ok_or(PlanError::Nothing)?;
    if named.is_empty() {
        return Err(PlanError::NobodyDead);
    }
    for (at, survey) in surveys.iter().enumerate() {
        let store = survey.store;
        if surveys[..at].iter().any(|other| other.store == store) {
            return Err(PlanError::Twice { store });
        }
        if survey.cluster != first.cluster {
            return Err(PlanError::Clusters { store, found: survey.cluster, cluster: first.cluster });
        }
        if dead.contains(&store) {
            return Err(PlanError::Alive { store });
        }
    }
    Ok(())
}

/// Every store that may hold a replica must be collected or dead: what is on it decides whether a quorum lives.
fn check_accounted(
    surveys: &[&StoreSurvey],
    known: &BTreeMap<RegionId, Known<'_>>,
    collected: &BTreeSet<StoreId>,
    dead: &BTreeSet<StoreId>,
) -> Result<(), PlanError> {
    // The replica of the root region that has come furthest knows best who is still there.
    let best = surveys.iter().max_by_key(|survey| survey.replica(RegionId::ROOT).map(|root| root.applied));
    let listed = best.map_or(&[][..], |survey| &survey.stores[..]);
    let left: BTreeSet<StoreId> = listed.iter().filter(|(_, left)| *left).map(|(store, _)| *store).collect();
    let here = listed.iter().filter(|(_, left)| !*left).map(|(store, _)| *store);
    let live = known.values().filter(|known| !known.is_merged());
    let named = live.flat_map(|known| known.configurations().flat_map(|region| &region.replicas));
    let named = named.map(|replica| replica.store).chain(here);
    let missing: BTreeSet<StoreId> =
        named.filter(|store| ![collected, dead, &left].iter().any(|stores| stores.contains(store))).collect();
    if missing.is_empty() { Ok(()) } else { Err(PlanError::Unaccounted { stores: missing.into_iter().collect() }) }
}

/// One region on its way to a verdict.
struct Case<'a> {
    known: Known<'a>,
    draft: Draft,
    notes: Vec<String>,
}

/// A verdict that still lacks what only all of them together can tell.
enum Draft {
    Healthy,
    Keep { store: StoreId, kept: Box<ReplicaSurvey>, loss: Loss, range: KeyRange },
    Superseded { by: Option<RegionId> },
    Waits { on: RegionId },
    Lost,
    Refused { reason: String },
}

impl<'a> Case<'a> {
    fn judge(known: Known<'a>) -> Self {
        let notes = known.damaged.iter().map(|(store, damaged)| {
            format!("the replica on store {store} is out of service and does not count: {}", damaged.reason)
        });
        let mut notes: Vec<String> = notes.collect();
        let draft = match known.best() {
            _ if known.is_healthy() => {
                notes.extend(known.stranding_change().map(|change| {
                    let epoch = change.epoch.conf_version;
                    format!(
                        "its log holds a change of replicas, to conf version {epoch}, that leaves it without a quorum of the living: \
                         {RECOVER_AGAIN}"
                    )
                }));
                Draft::Healthy
            }
            None => Draft::Lost,
            Some((store, kept)) => match &kept.foreseen.blocked {
                Some(reason) => {
                    let reason = format!("the log with the most, on store {store}, cannot be applied: {reason}");
                    Draft::Refused { reason }
                }
                None => keep(&known, store, kept.clone()),
            },
        };
        Self { known, draft, notes }
    }

    /// Every cluster has a root region; of this one no survivor knows more.
    fn root_unheard_of(collected: &'a BTreeSet<StoreId>) -> Self {
        let range = KeyRange { start: Bytes::new(), end: Bytes::new() };
        let (epoch, replicas) = (RegionEpoch::default(), Vec::new());
        let descriptor = RegionDescriptor { id: RegionId::ROOT, range, epoch, replicas };
        let notes = vec!["no survivor has ever had a replica of it".to_owned()];
        Self { known: Known::foreseen(&descriptor, collected), draft: Draft::Lost, notes }
    }

    fn id(&self) -> RegionId {
        self.known.descriptor.id
    }

    /// What it claims of the key space, if it claims anything.
    fn claim(&self) -> Option<Claim> {
        let region = self.id();
        if region == RegionId::ROOT {
            return None;
        }
        let newest = self.known.replicas.iter().map(|(_, replica)| &replica.descriptor);
        let newest = newest.max_by_key(|descriptor| descriptor.epoch.version);
        let (descriptor, standing) = match &self.draft {
            Draft::Healthy => {
                // All that has data of a child may still be to come.
                let keeps = self.known.best().map_or(&self.known.descriptor, |(_, best)| &best.foreseen.descriptor);
                (newest.unwrap_or(&self.known.descriptor), Standing::Lives { keeps: keeps.range.clone() })
            }
            Draft::Keep { kept, .. } => (&kept.foreseen.descriptor, Standing::Kept),
            // One that waits for its parent to split may have no replica at all.
            Draft::Waits { .. } => (newest.unwrap_or(&self.known.descriptor), Standing::Cedes),
            Draft::Refused { .. } => (newest?, Standing::Cedes),
            Draft::Superseded { .. } | Draft::Lost => return None,
        };
        let (version, range) = (descriptor.epoch.version, descriptor.range.clone());
        Some(Claim { region, version, range, standing })
    }

    /// A region of which there is no replica, and whose keys others own by now: it ended long ago.
    fn is_forgotten(&self, ruling: &Ruling) -> bool {
        self.owns_nothing(ruling) && self.known.replicas.is_empty()
    }

    /// A region of which there is no replica with data, and whose keys others own.
    fn owns_nothing(&self, ruling: &Ruling) -> bool {
        let is_lost = matches!(self.draft, Draft::Lost) && self.known.damaged.is_empty();
        let range = &self.known.descriptor.range;
        is_lost && self.id() != RegionId::ROOT && !ruling.gaps.iter().any(|gap| gap.overlaps(range))
    }

    fn goes_on_from(&mut self, store: StoreId, parent: RegionId) {
        self.draft = Draft::Healthy;
        self.notes.push(format!("it goes on from store {store}, where region {parent} is about to split"));
    }

    fn conclude(&self, ids: &mut Ids, version: u64) -> RegionPlan {
        let known = self.known.descriptor.clone();
        let verdict = match &self.draft {
            Draft::Healthy => Verdict::Healthy,
            Draft::Superseded { by } => Verdict::Superseded { by: *by },
            Draft::Waits { on } => Verdict::Waits { on: *on },
            Draft::Lost => Verdict::Lost,
            Draft::Refused { reason } => Verdict::Refused { reason: reason.clone() },
            Draft::Keep { store, kept, loss, range } => {
                let replica = Replica { id: ReplicaId(ids.next()), store: *store, role: Role::Voter };
                let conf_version = self.known.conf_version_max().saturating_add(EPOCH_STEP);
                let epoch = RegionEpoch { conf_version, version };
                let becomes = RegionDescriptor { id: self.id(), range: range.clone(), epoch, replicas: vec![replica] };
                Verdict::Keep(Keep {
                    store: *store,
                    applied: kept.applied,
                    last: kept.last,
                    expected: kept.foreseen.descriptor.clone(),
                    becomes,
                    term: Term(self.known.term().get().saturating_add(TERM_STEP)),
                    loss: *loss,
                })
            }
        };
        RegionPlan { known, verdict, notes: self.notes.clone() }
    }
}

fn keep(known: &Known<'_>, store: StoreId, kept: ReplicaSurvey) -> Draft {
    let (loss, range) = (known.loss(&kept), kept.foreseen.descriptor.range.clone());
    Draft::Keep { store, kept: Box::new(kept), loss, range }
}

/// The children of splits that regions which are left alone are still to apply somewhere: the replica that a child gets there by that
/// counts for its own quorum. Else the child would be given up, and come to life all the same as soon as that store has split.
fn expect_children(cases: &mut BTreeMap<RegionId, Case<'_>>) {
    for (child, Expected { beside, .. }) in expected_children(cases) {
        // One that nobody knows of yet is a part of its parent until then, or a gap.
        let Some(case) = cases.get_mut(&child).filter(|case| !matches!(case.draft, Draft::Healthy)) else { continue };
        let comes = beside.into_iter().find(|(store, _)| case.known.adopts(*store) && case.known.lives_with(*store));
        if let Some((store, parent)) = comes {
            case.goes_on_from(store, parent);
        }
    }
}

/// A child that splits are still to make of regions which are left alone.
struct Expected {
    child: RegionDescriptor,
    /// On which stores, and beside which region.
    beside: Vec<(StoreId, RegionId)>,
}

fn expected_children(cases: &BTreeMap<RegionId, Case<'_>>) -> BTreeMap<RegionId, Expected> {
    let mut expected: BTreeMap<RegionId, Expected> = BTreeMap::new();
    for case in cases.values().filter(|case| matches!(case.draft, Draft::Healthy | Draft::Refused { .. })) {
        for (store, replica) in &case.known.replicas {
            for child in &replica.foreseen.children {
                let new = || Expected { child: child.clone(), beside: Vec::new() };
                expected.entry(child.id).or_insert_with(new).beside.push((*store, case.id()));
            }
        }
    }
    expected
}

/// Children that nobody who was collected has data of, whose keys some replica of their parent has given away already, and that
/// others of it are still to make: their keys are no gap, which could be filled. They have their first state by then, and go on from
/// it, or can be recovered from it.
fn wait_for_children<'a>(cases: &mut BTreeMap<RegionId, Case<'a>>, collected: &'a BTreeSet<StoreId>) {
    let mut expected = expected_children(cases);
    expected.retain(|child, _| cases.get(child).is_none_or(|case| matches!(case.draft, Draft::Lost)));
    if expected.is_empty() {
        return;
    }
    let gaps = rule(cases.values().filter_map(Case::claim).collect()).gaps;
    for (id, Expected { child, beside }) in expected {
        if !gaps.iter().any(|gap| gap.overlaps(&child.range)) {
            continue;
        }
        let case = cases.entry(id).or_insert_with(|| {
            let known = Known::foreseen(&child, collected);
            Case { known, draft: Draft::Lost, notes: Vec::new() }
        });
        let comes: Vec<_> = beside.into_iter().filter(|(store, _)| case.known.adopts(*store)).collect();
        let lives = comes.iter().find(|(store, _)| case.known.lives_with(*store));
        if let Some((store, parent)) = lives.copied() {
            case.goes_on_from(store, parent);
        } else if let Some((store, on)) = comes.first().copied() {
            case.draft = Draft::Waits { on };
            case.notes.push(format!(
                "region {on} is about to split on store {store}, which makes it there: start the stores and let that end"
            ));
        }
    }
}

/// The children of splits that kept replicas are still to apply: a child of which nobody has more begins there.
fn add_children<'a>(cases: &mut BTreeMap<RegionId, Case<'a>>, collected: &'a BTreeSet<StoreId>) {
    let mut born = Vec::new();
    for case in cases.values() {
        if let Draft::Keep { store, kept, .. } = &case.draft {
            born.extend(kept.foreseen.children.iter().map(|child| (*store, case.id(), child.clone())));
        }
    }
    for (store, parent, child) in born {
        let case = cases.entry(child.id).or_insert_with(|| {
            let known = Known::foreseen(&child, collected);
            Case { known, draft: Draft::Lost, notes: Vec::new() }
        });
        if !matches!(case.draft, Draft::Lost) || !case.known.adopts(store) {
            continue;
        }
        let newborn = newborn(&child);
        case.draft = keep(&case.known, store, newborn);
        if let Draft::Keep { loss, .. } = &mut case.draft {
            // What it took over is the parent's; what was written since, nobody has.
            *loss = loss.or_possible();
        }
        case.notes
            .push(format!("it begins on store {store} as region {parent} splits there; no other replica is left"));
    }
}

/// Regions that were absorbed, or may yet be (F5: what a region has absorbed is in its state).
fn settle_merges(cases: &mut BTreeMap<RegionId, Case<'_>>) {
    let mut by_living = BTreeMap::new();
    let mut by_kept = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in cases.values() {
        match &case.draft {
            Draft::Keep { kept, .. } => {
                by_kept.extend(kept.foreseen.absorbed.iter().map(|(source, _)| (*source, case.id())));
                let is_alive = |source| matches!(cases.get(source), Some(Case { draft: Draft::Healthy, .. }));
                let alive = kept.foreseen.absorbs.iter().find(|source| is_alive(source));
                wrong.extend(alive.map(|source| (case.id(), *source)));
            }
            Draft::Healthy => {
                let lists = case.known.replicas.iter().flat_map(|(_, replica)| &replica.foreseen.absorbed);
                by_living.extend(lists.map(|(source, _)| (*source, case.id())));
            }
            _ => {}
        }
    }
    for (source, on) in by_living {
        let Some(case) = cases.get_mut(&source) else { continue };
        if !matches!(case.draft, Draft::Lost) {
            case.draft = Draft::Waits { on };
            case.notes.push(format!("region {on} has absorbed it, or is about to: start the stores and let it end"));
        }
    }
    for (source, by) in by_kept {
        let Some(case) = cases.get_mut(&source) else { continue };
        if matches!(case.draft, Draft::Keep { .. } | Draft::Refused { .. }) {
            case.draft = Draft::Superseded { by: Some(by) };
        }
    }
    for (target, source) in wrong {
        if let Some(case) = cases.get_mut(&target) {
            let reason = format!("its log merges region {source} into it, which has a quorum and may decide otherwise");
            case.draft = Draft::Refused { reason };
        }
    }
    note_thaws(cases);
}

fn note_thaws(cases: &mut BTreeMap<RegionId, Case<'_>>) {
    for case in cases.values_mut() {
        let Draft::Keep { kept, .. } = &case.draft else { continue };
        if let Some(frozen) = kept.foreseen.frozen {
            let target = frozen.target;
            case.notes
                .push(format!("it was frozen to be merged into region {target}: it goes on as it is, not merged"));
        }
        if case.known.is_merged() {
            case.notes.push(
                "a neighbour had absorbed it and has not survived: what was written after that is lost".to_owned(),
            );
            if let Draft::Keep { loss, .. } = &mut case.draft {
                *loss = loss.or_possible();
            }
        }
    }
}

/// Gives every key its one owner.
fn settle_ranges(cases: &mut BTreeMap<RegionId, Case<'_>>) -> Ruling {
    let mut ruling = rule(cases.values().filter_map(Case::claim).collect());
    for case in cases.values_mut() {
        let region = case.id();
        let is_contradicted = ruling.contradicted.contains(&region);
        if is_contradicted {
            case.notes
                .push("its keys are claimed by another region as well, in a way that no history explains".to_owned());
        }
        let Draft::Keep { kept, range, .. } = &mut case.draft else { continue };
        if region == RegionId::ROOT {
            continue;
        }
        let before = &kept.foreseen.descriptor.range;
        match ruling.pieces.get(&region).and_then(|pieces| pieces.first()) {
            _ if is_contradicted => {
                let reason = "a region that has a quorum claims its keys".to_owned();
                case.draft = Draft::Refused { reason };
            }
            Some(piece) if piece == before => {}
            Some(piece) => {
                case.notes.push(format!("it is cut from {before:?} to {piece:?}: newer regions own the rest"));
                *range = piece.clone();
            }
            None => case.draft = Draft::Superseded { by: None },
        }
    }
    ruling.gaps.sort_by(|a, b| a.start.cmp(&b.start));
    ruling
}

/// A version that no key's owner has had.
fn version_after(cases: &BTreeMap<RegionId, Case<'_>>) -> u64 {
    let seen = cases.values().flat_map(|case| {
        let foreseen = case.known.replicas.iter().map(|(_, replica)| replica.foreseen.descriptor.epoch.version);
        foreseen.chain(case.known.configurations().map(|descriptor| descriptor.epoch.version))
    });
    seen.max().unwrap_or(0).saturating_add(EPOCH_STEP)
}

/// Ids that were never used: above all that survivors have seen and that the root region may have given away.
struct Ids {
    last: u64,
}

impl Ids {
    fn after(surveys: &[&StoreSurvey], cases: &BTreeMap<RegionId, Case<'_>>) -> Self {
        let mut last = FIRST_ALLOCATED_ID - 1;
        for survey in surveys {
            last = last.max(survey.ids_upto).max(survey.next_id.map_or(0, |next| next.saturating_sub(1)));
            for replica in &survey.replicas {
                let foreseen = &replica.foreseen;
                let named = [&replica.descriptor, &foreseen.descriptor].into_iter().chain(&foreseen.children);
                let named = named.chain(foreseen.configurations.iter().map(|(_, region)| region));
                last = named.map(highest_id).fold(last, u64::max);
            }
            let buried = survey.tombstones.iter();
            last = buried.map(|buried| highest_id(&buried.descriptor).max(buried.replica.get())).fold(last, u64::max);
            let promised = survey.promises.iter().map(|(region, _)| region.get());
            last = promised.chain(survey.damaged.iter().map(|damaged| damaged.region.get())).fold(last, u64::max);
        }
        // A root region that lives on knows what it has given away; one that is recovered may have forgotten.
        if !matches!(cases.get(&RegionId::ROOT), Some(Case { draft: Draft::Healthy, .. })) {
            last = last.saturating_add(IDS_STEP);
        }
        Self { last }
    }

    fn next(&mut self) -> u64 {
        self.last = self.last.saturating_add(1);
        self.last
    }
}

fn highest_id(region: &RegionDescriptor) -> u64 {
    region.replicas.iter().map(|replica| replica.id.get()).max().unwrap_or(0).max(region.id.get())
}

/// Whether nothing that a plan leaves on a store holds any key of a gap (F4): what lags behind its region may, and what is out of
/// service. When it goes or catches up it takes those keys with it, whoever has written them.
fn is_free(cases: &BTreeMap<RegionId, Case<'_>>, store: StoreId, gap: &KeyRange) -> bool {
    !cases.values().filter(|case| case.id() != RegionId::ROOT).any(|case| {
        let stays = matches!(case.draft, Draft::Healthy | Draft::Waits { .. } | Draft::Refused { .. });
        let held = case.known.replicas.iter().filter(|(here, _)| stays && *here == store);
        let held = held.map(|(_, replica)| &replica.descriptor);
        let out = case.known.damaged.iter().filter(|(here, _)| *here == store);
        let mut all = held.chain(out.filter_map(|(_, damaged)| damaged.descriptor.as_ref()));
        all.any(|descriptor| descriptor.range.overlaps(gap))
    })
}

/// Makes empty regions where nothing is left, on a store that is `free` for each. Gaps for which there is none stay.
fn fill_gaps(
    regions: &mut Vec<RegionPlan>,
    gaps: Vec<KeyRange>,
    ids: &mut Ids,
    version: u64,
    free: &dyn Fn(&KeyRange) -> Option<StoreId>,
) -> Vec<KeyRange> {
    let mut create = |store: StoreId, range: KeyRange, conf_version: u64| {
        let replica = Replica { id: ReplicaId(ids.next()), store, role: Role::Voter };
        let epoch = RegionEpoch { conf_version, version };
        RegionDescriptor { id: RegionId::ZERO, range, epoch, replicas: vec![replica] }
    };
    let mut made = Vec::new();
    let mut left = Vec::new();
    for gap in gaps {
        match free(&gap) {
            Some(store) => made.push((store, create(store, gap, EPOCH_STEP))),
            None => left.push(gap),
        }
    }
    for (_, becomes) in &mut made {
        becomes.id = RegionId(ids.next());
    }
    regions.extend(made.into_iter().map(|(store, becomes)| RegionPlan {
        known: becomes.clone(),
        verdict: Verdict::Create { store, becomes },
        notes: vec!["nothing of these keys has survived: it is made anew, empty".to_owned()],
    }));
    regions.sort_by_key(|region| region.known.id);
    left
}

/// Makes an empty root region where nothing is left of it.
fn create_root(regions: &mut [RegionPlan], store: StoreId, ids: &mut Ids, version: u64) {
    let root = regions.iter_mut().find(|region| region.known.id == RegionId::ROOT);
    let Some(root) = root.filter(|region| matches!(region.verdict, Verdict::Lost)) else { return };
    let replica = Replica { id: ReplicaId(ids.next()), store, role: Role::Voter };
    let conf_version = root.known.epoch.conf_version.saturating_add(EPOCH_STEP);
    let epoch = RegionEpoch { conf_version, version };
    let range = KeyRange { start: Bytes::new(), end: Bytes::new() };
    let becomes = RegionDescriptor { id: RegionId::ROOT, range, epoch, replicas: vec![replica] };
    root.verdict = Verdict::Create { store, becomes };
}
