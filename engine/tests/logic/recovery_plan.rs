//! Plans of recoveries: what is kept is the best that there is, what lives is left alone, and every key has one owner.

use std::collections::BTreeSet;

use multiraft::recovery::{
    BuriedReplica, DamagedReplica, Foreseen, FrozenFor, Loss, Plan, PlanError, PlanOptions, ReplicaSurvey, StoreSurvey,
    Verdict, make_plan,
};
use multiraft::{
    ClusterId, Incarnation, KeyRange, LogIndex, RegionDescriptor, RegionId, ReplicaId, Role, StoreId, Term,
};
use multiraft_raft::HardState;
use proptest::prelude::*;

use crate::recovery_model::{Random, Truth, World, range, region};

fn plan_of(world: &World) -> Plan {
    make_plan(&world.surveys(), &world.dead(), &PlanOptions::default()).unwrap()
}

/// Whether those that live are a majority of the region's voters.
fn has_quorum(world: &World, truth: &Truth) -> bool {
    let voters = &truth.descriptor.replicas;
    let alive = voters.iter().filter(|replica| !world.dead.contains(&replica.store.0)).count();
    alive > voters.len() / 2 && truth.standings.keys().any(|store| !world.dead.contains(store))
}

fn judge_region(world: &World, truth: &Truth, plan: &Plan) {
    let region = plan.region(truth.descriptor.id);
    let survivors: Vec<_> = truth.standings.iter().filter(|(store, _)| !world.dead.contains(store)).collect();
    if has_quorum(world, truth) {
        assert_eq!(region.unwrap().verdict, Verdict::Healthy, "a region that lives is left alone");
        return;
    }
    let Some(region) = region else {
        assert!(survivors.is_empty(), "a region of which something is left is not passed over");
        return;
    };
    match &region.verdict {
        Verdict::Keep(keep) => {
            let Some(kept) = truth.standings.get(&keep.store.0) else {
                assert!(survivors.is_empty(), "a replica that is there goes before one that is still to be made");
                return;
            };
            let known = survivors.iter().map(|(_, standing)| standing.prefix.min(truth.committed)).max().unwrap();
            let has = kept.prefix.min(truth.committed);
            assert_eq!(has, known, "no survivor has more that was committed than the one that is kept");
            if keep.loss == Loss::Nothing {
                assert_eq!(has, truth.committed, "nothing is lost where that is said");
            }
            assert!(keep.becomes.epoch.conf_version > truth.descriptor.epoch.conf_version);
            assert!(keep.becomes.epoch.version > truth.descriptor.epoch.version + 1);
            assert!(keep.term > keep.last.1);
            assert_eq!(keep.becomes.replicas.len(), 1);
        }
        Verdict::Lost => assert!(survivors.is_empty(), "what survives is not given up"),
        other => panic!("{:?}: {other:?}", truth.descriptor),
    }
}

/// Every key has exactly one owner, or is named as a gap.
fn judge_space(world: &World, plan: &Plan) {
    let mut owned: Vec<KeyRange> = plan.gaps.clone();
    for region in &plan.regions {
        match &region.verdict {
            Verdict::Keep(keep) if keep.becomes.id != RegionId::ROOT => owned.push(keep.becomes.range.clone()),
            Verdict::Create { becomes, .. } if becomes.id != RegionId::ROOT => owned.push(becomes.range.clone()),
            _ => {}
        }
    }
    for truth in world.regions.values().filter(|truth| truth.descriptor.id != RegionId::ROOT) {
        if !has_quorum(world, truth) {
            continue;
        }
        owned.push(truth.at(truth.committed).range);
        // A child that is still to be made by those that live.
        let child = truth.split.as_ref().filter(|(at, _)| *at <= truth.committed).map(|(_, child)| child);
        let is_alive = |child: &&RegionDescriptor| {
            world.regions.get(&child.id.0).is_none_or(|it| it.left.is_empty() && plan.region(child.id).is_none())
        };
        owned.extend(child.filter(is_alive).map(|child| child.range.clone()));
    }
    owned.sort_by(|a, b| a.start.cmp(&b.start));
    let mut at = bytes::Bytes::new();
    for (place, range) in owned.iter().enumerate() {
        assert_eq!(range.start, at, "no gap and no overlap: {owned:?}");
        assert!(!range.end.is_empty() || place + 1 == owned.len(), "{owned:?}");
        at = range.end.clone();
    }
    assert!(at.is_empty() && !owned.is_empty(), "to the end: {owned:?}");
}

fn judge_ids(world: &World, plan: &Plan) {
    let mut ids = BTreeSet::new();
    let used = world.regions.values().flat_map(|truth| &truth.descriptor.replicas).map(|replica| replica.id.0).max();
    for region in &plan.regions {
        let becomes = match &region.verdict {
            Verdict::Keep(keep) => &keep.becomes,
            Verdict::Create { becomes, .. } => becomes,
            _ => continue,
        };
        let id = becomes.replicas[0].id.0;
        assert!(ids.insert(id) && Some(id) > used && id <= plan.ids_upto);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn plans_keep_the_most_touch_nothing_that_lives_and_cover_the_keys_once(seed in any::<u64>()) {
        let world = World::draw(seed);
        let plan = plan_of(&world);
        world.regions.values().for_each(|truth| judge_region(&world, truth, &plan));
        judge_space(&world, &plan);
        judge_ids(&world, &plan);
        let mut surveys = world.surveys();
        surveys.reverse();
        prop_assert_eq!(&make_plan(&surveys, &world.dead(), &PlanOptions::default()).unwrap(), &plan);
        prop_assert_eq!(&Plan::decode(&plan.encode()).unwrap(), &plan);
        for survey in &surveys {
            prop_assert_eq!(&StoreSurvey::decode(&survey.encode()).unwrap(), survey);
        }
        let mut options = PlanOptions::default();
        options.fill_gaps = true;
        let filled = make_plan(&surveys, &world.dead(), &options).unwrap();
        prop_assert!(filled.gaps.is_empty());
        judge_space(&world, &filled);
        judge_ids(&world, &filled);
    }

    #[test]
    fn plans_do_not_depend_on_chance(seed in any::<u64>(), other in any::<u64>()) {
        let world = World::draw(seed);
        let mut surveys = world.surveys();
        let random = &mut Random::new(other);
        for at in (1..surveys.len()).rev() {
            surveys.swap(at, random.below(at as u64 + 1) as usize);
        }
        prop_assert_eq!(make_plan(&surveys, &world.dead(), &PlanOptions::default()).unwrap(), plan_of(&world));
    }
}

fn survey(store: u64, replicas: Vec<ReplicaSurvey>) -> StoreSurvey {
    StoreSurvey {
        cluster: ClusterId(7),
        store: StoreId(store),
        incarnation: Incarnation(1),
        dead: Vec::new(),
        ids_upto: 0,
        stores: Vec::new(),
        next_id: None,
        replicas,
        damaged: Vec::new(),
        promises: Vec::new(),
        tombstones: Vec::new(),
    }
}

fn sound(descriptor: &RegionDescriptor, last: (u64, u64)) -> ReplicaSurvey {
    let last = (LogIndex(last.0), Term(last.1));
    ReplicaSurvey {
        descriptor: descriptor.clone(),
        hard_state: HardState { term: last.1, vote: ReplicaId::ZERO, commit: last.0 },
        applied: last,
        committed: last,
        last,
        frozen: None,
        absorbed: Vec::new(),
        foreseen: Foreseen {
            descriptor: descriptor.clone(),
            frozen: None,
            absorbed: Vec::new(),
            absorbs: Vec::new(),
            configurations: Vec::new(),
            children: Vec::new(),
            blocked: None,
        },
    }
}

fn plan(surveys: &[StoreSurvey], dead: &[u64]) -> Result<Plan, PlanError> {
    let dead: Vec<StoreId> = dead.iter().copied().map(StoreId).collect();
    make_plan(surveys, &dead, &PlanOptions::default())
}

fn verdict(plan: &Plan, region: u64) -> &Verdict {
    &plan.region(RegionId(region)).unwrap().verdict
}

fn keep(plan: &Plan, region: u64) -> (u64, KeyRange, Loss) {
    match verdict(plan, region) {
        Verdict::Keep(keep) => (keep.store.0, keep.becomes.range.clone(), keep.loss),
        other => panic!("{other:?}"),
    }
}

#[test]
fn half_of_the_voters_dead_loses_nothing_and_a_majority_may_lose_something() {
    let four = region(2, range("", ""), 1, &[1, 2, 3, 4]);
    let mut overtaken = sound(&four, (9, 3));
    (overtaken.applied, overtaken.hard_state.commit) = ((LogIndex(5), Term(3)), LogIndex(5));
    overtaken.committed = overtaken.applied;
    let surveys = [survey(1, vec![overtaken]), survey(2, vec![sound(&four, (7, 4))])];
    assert_eq!(keep(&plan(&surveys, &[3, 4]).unwrap(), 2), (2, range("", ""), Loss::Nothing));
    // They were four only since a change that some leader may not have applied: two of three commit, or three of five.
    let mut changed = four.clone();
    changed.epoch.conf_version = 2;
    let of = |region: &RegionDescriptor| [1, 2].map(|store| survey(store, vec![sound(region, (9, 3))]));
    assert_eq!(keep(&plan(&of(&four), &[3, 4]).unwrap(), 2).2, Loss::Nothing);
    assert_eq!(keep(&plan(&of(&changed), &[3, 4]).unwrap(), 2).2, Loss::Possible);
    let three = region(2, range("", ""), 1, &[1, 2, 3]);
    let surveys = [survey(1, vec![sound(&three, (9, 3))])];
    assert_eq!(keep(&plan(&surveys, &[2, 3]).unwrap(), 2).2, Loss::Possible);
}

#[test]
fn a_change_in_a_log_that_would_leave_no_quorum_is_told() {
    let three = region(2, range("", ""), 1, &[1, 2, 3]);
    let with = |role: Role, voter: usize| {
        let mut changed = three.clone();
        changed.epoch.conf_version += 1;
        changed.replicas[voter].role = role;
        let mut pending = sound(&three, (9, 3));
        (pending.committed, pending.hard_state.commit) = ((LogIndex(8), Term(3)), LogIndex(8));
        pending.applied = pending.committed;
        pending.foreseen.configurations = vec![(LogIndex(9), changed)];
        let plan = plan(&[survey(1, vec![pending]), survey(2, vec![sound(&three, (8, 3))])], &[3]).unwrap();
        assert_eq!(verdict(&plan, 2), &Verdict::Healthy);
        plan.region(RegionId(2)).unwrap().may_be_stranded()
    };
    // Without the second voter the first and the dead one decide; without the dead one the living do.
    assert!(with(Role::Learner, 1));
    assert!(!with(Role::Learner, 2));
}

#[test]
fn both_halves_of_a_joint_configuration_must_live() {
    let mut joint = region(2, range("", ""), 1, &[1, 2, 3, 4, 5]);
    for (replica, role) in joint.replicas.iter_mut().zip([
        Role::Voter,
        Role::OutgoingVoter,
        Role::OutgoingVoter,
        Role::IncomingVoter,
        Role::IncomingVoter,
    ]) {
        replica.role = role;
    }
    let of =
        |stores: &[u64]| stores.iter().map(|store| survey(*store, vec![sound(&joint, (9, 3))])).collect::<Vec<_>>();
    assert_eq!(verdict(&plan(&of(&[1, 2, 4]), &[3, 5]).unwrap(), 2), &Verdict::Healthy);
    // All of the outgoing half, and too little of the incoming one.
    assert_eq!(keep(&plan(&of(&[1, 2, 3]), &[4, 5]).unwrap(), 2).2, Loss::Nothing);
    // Of the incoming half enough; the outgoing one may have decided alone, before its leader had applied the change.
    assert_eq!(keep(&plan(&of(&[1, 4, 5]), &[2, 3]).unwrap(), 2).2, Loss::Possible);
}

#[test]
fn a_witness_is_never_kept_and_what_it_alone_knows_is_named_as_lost() {
    let mut with_witness = region(2, range("", ""), 1, &[1, 2, 3]);
    with_witness.replicas[1].role = Role::Witness;
    let data = survey(1, vec![sound(&with_witness, (5, 2))]);
    let witness = survey(2, vec![sound(&with_witness, (9, 2))]);
    let mut stripped = with_witness.clone();
    stripped.replicas.push(multiraft::Replica { id: ReplicaId(999), store: StoreId(4), role: Role::Voter });
    stripped.replicas.push(multiraft::Replica { id: ReplicaId(1000), store: StoreId(5), role: Role::Voter });
    let of = |region: &RegionDescriptor| {
        let mut surveys = [data.clone(), witness.clone()];
        surveys.iter_mut().for_each(|survey| survey.replicas[0].descriptor = region.clone());
        surveys
    };
    // Two of three live, but the one that could lead does not get the other's vote.
    for (region, dead) in [(&with_witness, &[3][..]), (&stripped, &[3, 4, 5])] {
        let (store, _, loss) = keep(&plan(&of(region), dead).unwrap(), 2);
        assert_eq!((store, loss), (1, Loss::Certain { upto: LogIndex(9) }));
    }
    // As long a log is no better, if it ends in an earlier term than what the witness knows to be committed.
    let longer = |commit: (u64, u64)| {
        let mut witness = sound(&with_witness, (9, 2));
        (witness.applied, witness.committed) = ((LogIndex(4), Term(1)), (LogIndex(commit.0), Term(commit.1)));
        let data = sound(&with_witness, (9, 1));
        keep(&plan(&[survey(1, vec![data]), survey(2, vec![witness])], &[3]).unwrap(), 2).2
    };
    assert_eq!(longer((9, 2)), Loss::Certain { upto: LogIndex(9) });
    assert_eq!(longer((8, 2)), Loss::Certain { upto: LogIndex(8) });
    assert_eq!(longer((8, 1)), Loss::Possible);
    let abreast = [survey(1, vec![sound(&with_witness, (9, 2))]), witness];
    assert_eq!(verdict(&plan(&abreast, &[3]).unwrap(), 2), &Verdict::Healthy);
}

#[test]
fn data_of_a_replica_that_was_removed_is_kept_though_a_witness_is_to_take_its_place() {
    let before = region(2, range("", ""), 1, &[1, 2, 3]);
    let mut after = region(2, range("", ""), 1, &[1, 2, 3]);
    after.epoch.conf_version += 2;
    (after.replicas[0].id, after.replicas[0].role) = (ReplicaId(900), Role::Witness);
    after.replicas.push(multiraft::Replica { id: ReplicaId(901), store: StoreId(4), role: Role::Witness });
    let surveys = [survey(1, vec![sound(&before, (5, 2))]), survey(4, vec![sound(&after, (9, 2))])];
    let (store, _, loss) = keep(&plan(&surveys, &[2, 3]).unwrap(), 2);
    assert_eq!((store, loss), (1, Loss::Certain { upto: LogIndex(9) }));
}

#[test]
fn a_witness_whose_regions_keys_fall_to_another_goes() {
    // Store 1 has not split yet, and the child's voters died with what they knew.
    let parent = region(2, range("", ""), 1, &[1, 2, 3]);
    let mut child = region(4, range("m", ""), 2, &[1, 2, 3, 4]);
    child.replicas[3].role = Role::Witness;
    let (behind, witness) = (survey(1, vec![sound(&parent, (9, 3))]), survey(4, vec![sound(&child, (5, 2))]));
    let plan = plan(&[behind, witness], &[2, 3]).unwrap();
    assert_eq!(keep(&plan, 2).0, 1);
    assert_eq!(verdict(&plan, 4), &Verdict::Superseded { by: None });
    assert_eq!(plan.gaps, []);
}

#[test]
fn a_child_that_its_voter_is_about_to_get_by_a_split_is_left_alone() {
    // Store 1 holds the split and has not applied it; store 2, which decides nothing, has.
    let second = |id, keys, role| {
        let mut region = region(id, keys, 2, &[1, 2]);
        region.replicas[1].role = role;
        region
    };
    let parent = second(2, range("", "m"), Role::Learner);
    let before =
        RegionDescriptor { epoch: region(2, range("", ""), 1, &[]).epoch, range: range("", ""), ..parent.clone() };
    let of = |child: &RegionDescriptor, last| {
        let mut behind = sound(&before, (9, 3));
        behind.applied = (LogIndex(8), Term(3));
        (behind.foreseen.descriptor, behind.foreseen.children) = (parent.clone(), vec![child.clone()]);
        [survey(1, vec![behind]), survey(2, vec![sound(&parent, (9, 3)), sound(child, last)])]
    };
    let child = second(4, range("m", ""), Role::Learner);
    let mut witnessed = second(4, range("m", ""), Role::Witness);
    witnessed.replicas.extend(region(4, range("", ""), 2, &[3]).replicas);
    for child in [&child, &witnessed] {
        let plan = plan(&of(child, (1, 1)), &[3]).unwrap();
        assert_eq!([verdict(&plan, 2), verdict(&plan, 4)], [&Verdict::Healthy; 2], "{child:?}");
        assert_eq!(plan.gaps, []);
    }
    // Here the new replica would not get the vote that it needs: it is recovered from once it is there.
    let surveys = of(&witnessed, (2, 2));
    let plan = plan(&surveys, &[3]).unwrap();
    assert_eq!(verdict(&plan, 4), &Verdict::Waits { on: RegionId(2) });
    assert_eq!([&plan.gaps, &filled(&surveys, &[3]).gaps], [&[]; 2]);
}

#[test]
fn what_a_witness_knows_of_a_child_is_named_as_lost_where_that_begins_with_a_split() {
    let mut child = region(4, range("m", ""), 2, &[1, 2, 3, 4]);
    child.replicas[3].role = Role::Witness;
    let mut parent = sound(&region(2, range("", ""), 1, &[1, 2, 3]), (9, 3));
    (parent.applied, parent.committed) = ((LogIndex(8), Term(3)), (LogIndex(8), Term(3)));
    parent.foreseen.descriptor = region(2, range("", "m"), 2, &[1, 2, 3]);
    parent.foreseen.children = vec![child.clone()];
    let with = |committed: u64| {
        let mut witness = sound(&child, (7, 2));
        (witness.applied, witness.committed) = ((LogIndex(1), Term(1)), (LogIndex(committed), Term(committed.min(2))));
        let surveys = [survey(1, vec![parent.clone()]), survey(4, vec![witness])];
        keep(&plan(&surveys, &[2, 3]).unwrap(), 4)
    };
    assert_eq!(with(1), (1, range("m", ""), Loss::Possible));
    assert_eq!(with(6), (1, range("m", ""), Loss::Certain { upto: LogIndex(6) }));
}

/// The plan that fills its gaps.
fn filled(surveys: &[StoreSurvey], dead: &[u64]) -> Plan {
    let dead: Vec<StoreId> = dead.iter().copied().map(StoreId).collect();
    let mut options = PlanOptions::default();
    options.fill_gaps = true;
    make_plan(surveys, &dead, &options).unwrap()
}

/// Where the plan makes regions anew, but for the root region.
fn created(plan: &Plan) -> Vec<(u64, KeyRange)> {
    let created = plan.regions.iter().filter_map(|region| match &region.verdict {
        Verdict::Create { store, becomes } if becomes.id != RegionId::ROOT => Some((store.0, becomes.range.clone())),
        _ => None,
    });
    created.collect()
}

/// Region 2 on stores `voters`, which have not split it and hold the split in their logs if they are to; and on store 4 by a
/// snapshot from after the split. Its child was made for stores 1 to 3.
fn snapshot_from_after_a_split(voters: &[u64], holds_split: bool) -> Vec<StoreSurvey> {
    let mut before = region(2, range("", ""), 1, &[1, 2, 3]);
    let mut after = region(2, range("", "m"), 2, &[1, 2, 3]);
    after.replicas.extend(region(2, range("", ""), 2, &[4]).replicas);
    after.replicas.retain(|replica| voters.contains(&replica.store.0) || replica.store == StoreId(4));
    (before.epoch.conf_version, after.epoch.conf_version) = (1, 3);
    let behind = |store: &u64| {
        let mut behind = sound(&before, (9, 3));
        if holds_split {
            (behind.applied, behind.hard_state.commit) = ((LogIndex(5), Term(3)), LogIndex(5));
            behind.committed = behind.applied;
            behind.foreseen.children = vec![region(4, range("m", ""), 2, &[1, 2, 3])];
            behind.foreseen.descriptor = after.clone();
        }
        survey(*store, vec![behind])
    };
    voters.iter().map(behind).chain([survey(4, vec![sound(&after, (9, 3))])]).collect()
}

#[test]
fn keys_that_living_replicas_are_about_to_split_off_are_no_gap() {
    // Stores 1 and 2 make the child and are its quorum: a region in its place would be a second owner.
    let surveys = snapshot_from_after_a_split(&[1, 2], true);
    let plan = filled(&surveys, &[3]);
    assert_eq!([verdict(&plan, 2), verdict(&plan, 4)], [&Verdict::Healthy; 2]);
    assert_eq!((created(&plan), plan.gaps), (vec![], vec![]));
    // Store 1 alone is none. Its state of the child is what will be left.
    let surveys = snapshot_from_after_a_split(&[1], true);
    let plan = filled(&surveys, &[2, 3]);
    assert_eq!(verdict(&plan, 2), &Verdict::Healthy);
    assert_eq!(verdict(&plan, 4), &Verdict::Waits { on: RegionId(2) });
    assert_eq!((created(&plan), plan.gaps), (vec![], vec![]));
}

#[test]
fn a_gap_is_filled_where_nothing_that_stays_holds_its_keys() {
    // Store 1 will be sent a snapshot of its region, and gives up what it held of the gap: whatever is written there by then.
    let plan = filled(&snapshot_from_after_a_split(&[1], false), &[2, 3]);
    assert_eq!(created(&plan), [(4, range("m", ""))]);
    // What is out of service keeps its keys until it goes.
    let mut surveys = vec![survey(1, vec![sound(&region(2, range("", "m"), 2, &[1]), (9, 3))]), survey(2, vec![])];
    let reason = "a test".to_owned();
    let descriptor = Some(region(3, range("m", ""), 2, &[1, 9]));
    surveys[0].damaged.push(DamagedReplica { region: RegionId(3), descriptor, reason });
    let plan = filled(&surveys, &[9]);
    assert_eq!(created(&plan), [(2, range("m", ""))]);
    let plan = filled(&surveys[..1], &[9]);
    assert_eq!((created(&plan), plan.gaps), (vec![], vec![range("m", "")]));
}

#[test]
fn replicas_out_of_service_and_buried_ones_do_not_count() {
    let three = region(2, range("", ""), 1, &[1, 2, 3]);
    let mut damaged = survey(2, Vec::new());
    let reason = "a test".to_owned();
    damaged.damaged.push(DamagedReplica { region: RegionId(2), descriptor: Some(three.clone()), reason });
    let healthy = survey(1, vec![sound(&three, (9, 3))]);
    let with_damage = plan(&[healthy.clone(), damaged], &[3]).unwrap();
    assert_eq!(keep(&with_damage, 2).0, 1);
    let mut buried = survey(2, Vec::new());
    let replica = three.replicas[1].id;
    let committed = (LogIndex(4), Term(2));
    buried.tombstones.push(BuriedReplica { descriptor: three, replica, merged: false, committed });
    assert_eq!(keep(&plan(&[healthy, buried], &[3]).unwrap(), 2).0, 1);
}

#[test]
fn what_a_removed_replica_was_told_of_a_later_term_is_named_as_lost() {
    // The leader of term 6 had the removal of store 4 committed without store 1, whose log is as long and of term 5.
    let two = region(2, range("", ""), 1, &[1, 3]);
    let told = |committed| {
        let mut removed = survey(4, Vec::new());
        removed.tombstones.push(BuriedReplica {
            descriptor: two.clone(),
            replica: ReplicaId(900),
            merged: false,
            committed,
        });
        let kept = survey(1, vec![sound(&two, (13, 5))]);
        keep(&plan(&[kept, removed], &[3]).unwrap(), 2).2
    };
    assert_eq!(told((LogIndex(13), Term(6))), Loss::Certain { upto: LogIndex(13) });
    assert_eq!(told((LogIndex(12), Term(6))), Loss::Certain { upto: LogIndex(12) });
    assert_eq!(told((LogIndex(13), Term(5))), Loss::Nothing);
}

#[test]
fn a_change_that_the_kept_log_lacks_may_not_be_all_that_it_lacks() {
    // A removed replica was told of its removal by somebody who knew no more than that.
    let before = region(2, range("", ""), 1, &[1, 3, 4]);
    let mut after = region(2, range("", ""), 1, &[1, 3]);
    after.epoch.conf_version = before.epoch.conf_version + 1;
    let mut removed = survey(4, Vec::new());
    let committed = (LogIndex(0), Term(0));
    removed.tombstones.push(BuriedReplica { descriptor: after, replica: ReplicaId(900), merged: false, committed });
    let kept = survey(1, vec![sound(&before, (13, 5))]);
    assert_eq!(keep(&plan(&[kept, removed], &[3]).unwrap(), 2).2, Loss::Possible);
}

#[test]
fn one_that_does_not_know_the_configuration_in_force_needs_its_quorum_by_its_own() {
    // Store 3 has had a witness on store 4 added. It is dead, and store 4 has never made the witness, but was told why an earlier
    // replica of its is gone. Store 1 asks nobody but store 3.
    let before = region(2, range("", ""), 1, &[1, 3]);
    let mut after = region(2, range("", ""), 1, &[1, 3, 4]);
    after.epoch.conf_version = before.epoch.conf_version + 1;
    after.replicas[2].role = Role::Witness;
    let mut told = survey(4, Vec::new());
    let committed = (LogIndex(3), Term(1));
    let buried = BuriedReplica { descriptor: after.clone(), replica: ReplicaId(10), merged: false, committed };
    told.tombstones.push(buried);
    let verdict = |commit| {
        let mut has_it = sound(&before, (13, 5));
        has_it.applied = (LogIndex(12), Term(5));
        (has_it.hard_state.commit, has_it.committed) = (LogIndex(commit), (LogIndex(commit), Term(5)));
        has_it.foreseen.descriptor = after.clone();
        has_it.foreseen.configurations = vec![(LogIndex(13), after.clone())];
        plan(&[survey(1, vec![has_it]), told.clone()], &[3]).unwrap()
    };
    assert_eq!(keep(&verdict(12), 2).0, 1);
    assert_eq!(verdict(13).region(RegionId(2)).unwrap().verdict, Verdict::Healthy, "it knows, and asks store 4");
}

#[test]
fn a_region_that_a_kept_one_has_absorbed_goes_and_one_that_it_has_not_is_thawed() {
    let (source, target) = (region(2, range("", "m"), 6, &[1, 2, 3]), region(3, range("m", ""), 4, &[1, 2, 3]));
    let mut frozen = sound(&source, (9, 3));
    frozen.frozen = Some(FrozenFor { index: LogIndex(9), target: RegionId(3), version: 4 });
    frozen.foreseen.frozen = frozen.frozen;
    let apart = plan(&[survey(1, vec![frozen.clone(), sound(&target, (5, 2))])], &[2, 3]).unwrap();
    assert_eq!(keep(&apart, 2).1, range("", "m"));
    assert_eq!(keep(&apart, 3).1, range("m", ""));
    assert!(apart.region(RegionId(2)).unwrap().notes.iter().any(|note| note.contains("not merged")));

    let mut merges = sound(&target, (6, 2));
    merges.applied = (LogIndex(5), Term(2));
    merges.foreseen.descriptor = RegionDescriptor { range: range("", ""), ..target };
    merges.foreseen.descriptor.epoch.version = 7;
    (merges.foreseen.absorbed, merges.foreseen.absorbs) = (vec![(RegionId(2), 6)], vec![RegionId(2)]);
    let merged = plan(&[survey(1, vec![frozen, merges])], &[2, 3]).unwrap();
    assert_eq!(verdict(&merged, 2), &Verdict::Superseded { by: Some(RegionId(3)) });
    assert_eq!(keep(&merged, 3).1, range("", ""));
}

/// A store that holds a pair of neighbours, the second with the merge of the first in its log.
fn merging(store: u64, source: &RegionDescriptor, target: &RegionDescriptor) -> StoreSurvey {
    let mut frozen = sound(source, (9, 3));
    frozen.frozen = Some(FrozenFor { index: LogIndex(9), target: target.id, version: target.epoch.version });
    frozen.foreseen.frozen = frozen.frozen;
    let mut merges = sound(target, (6, 2));
    merges.applied = (LogIndex(5), Term(2));
    merges.foreseen.descriptor = RegionDescriptor { range: range("", ""), ..target.clone() };
    merges.foreseen.descriptor.epoch.version = 7;
    (merges.foreseen.absorbed, merges.foreseen.absorbs) = (vec![(source.id, 6)], vec![source.id]);
    survey(store, vec![frozen, merges])
}

fn out_of_service(survey: &mut StoreSurvey, region: u64) {
    let at = survey.replicas.iter().position(|replica| replica.descriptor.id == RegionId(region)).unwrap();
    let descriptor = Some(survey.replicas.remove(at).descriptor);
    survey.damaged.push(DamagedReplica { region: RegionId(region), descriptor, reason: "a test".to_owned() });
}

#[test]
fn a_region_that_a_living_one_may_absorb_waits_for_it() {
    let (source, target) = (region(2, range("", "m"), 6, &[1, 2, 3]), region(3, range("m", ""), 4, &[1, 2, 3]));
    let (one, mut two) = (merging(1, &source, &target), merging(2, &source, &target));
    out_of_service(&mut two, 2);
    let plan = plan(&[one, two], &[3]).unwrap();
    assert_eq!(verdict(&plan, 2), &Verdict::Waits { on: RegionId(3) });
    assert_eq!(verdict(&plan, 3), &Verdict::Healthy);
    assert_eq!(plan.gaps, []);
    assert!(!plan.does_something());
}

#[test]
fn a_kept_log_that_would_absorb_a_living_region_is_refused() {
    let (source, target) = (region(2, range("", "m"), 6, &[1, 2, 3]), region(3, range("m", ""), 4, &[1, 2, 3]));
    let (one, mut two) = (merging(1, &source, &target), merging(2, &source, &target));
    out_of_service(&mut two, 3);
    let plan = plan(&[one, two], &[3]).unwrap();
    assert!(matches!(verdict(&plan, 3), Verdict::Refused { .. }));
    assert_ne!(verdict(&plan, 2), &Verdict::Superseded { by: Some(RegionId(3)) });
}

#[test]
fn a_log_that_cannot_be_applied_is_refused() {
    let three = region(2, range("", ""), 1, &[1, 2, 3]);
    let mut blocked = sound(&three, (9, 3));
    blocked.foreseen.blocked = Some("a test".to_owned());
    let plan = plan(&[survey(1, vec![blocked])], &[2, 3]).unwrap();
    assert!(matches!(verdict(&plan, 2), Verdict::Refused { .. }));
    assert_eq!(verdict(&plan, 1), &Verdict::Lost, "nobody knows of a root region");
    assert_eq!(plan.unrecovered().count(), 2);
}

#[test]
fn stores_that_the_root_region_lists_must_be_accounted_for() {
    let root = region(1, range("", ""), 1, &[1, 2, 3]);
    let mut one = survey(1, vec![sound(&root, (9, 3))]);
    one.stores = vec![(StoreId(1), false), (StoreId(8), false), (StoreId(9), true)];
    assert_eq!(plan(&[one], &[2, 3]), Err(PlanError::Unaccounted { stores: vec![StoreId(8)] }));
}

#[test]
fn stores_that_were_given_up_before_stay_so() {
    let three = region(2, range("", ""), 1, &[1, 2, 3]);
    let mut one = survey(1, vec![sound(&three, (9, 3))]);
    (one.dead, one.ids_upto) = (vec![StoreId(7)], 1 << 50);
    let plan = plan(&[one], &[2, 3]).unwrap();
    assert_eq!(plan.dead, [2, 3, 7].map(StoreId));
    assert!(plan.ids_upto > 1 << 50);
}
