//! The planner's rules, one round at a time: plans compared as data.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::placement::{
    ClusterView, KeySample, Kind, Kinds, Obstacle, OperationId, Outcome, PlacementOptions, Plan, Planner, Reason,
    RegionInfo, ReplicaChange, Replication, Stats, Step, StoreInfo, StoreState,
};
use multiraft_raft::{KeyRange, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId, Time};

/// A planner and a view, at one moment.
struct Case {
    planner: Planner,
    view: ClusterView,
    now: Time,
}

impl Case {
    /// Stores 1 to `stores`, each in a zone of its own.
    fn new(stores: u64) -> Self {
        Self::with(stores, |_| {})
    }

    fn with(stores: u64, change: fn(&mut PlacementOptions)) -> Self {
        let mut options = PlacementOptions::default();
        change(&mut options);
        let now = Time::ZERO.plus(Duration::from_secs(10_000));
        let mut case = Self { planner: Planner::new(options).unwrap(), view: ClusterView::new(), now };
        for id in 1..=stores {
            case.store(id, &format!("z{id}"), StoreState::Up);
        }
        case
    }

    fn store(&mut self, id: u64, zone: &str, state: StoreState) {
        let last_heard = self.view.store(StoreId(id)).map_or(self.now, |store| store.last_heard);
        self.view.observe_store(StoreInfo {
            id: StoreId(id),
            address: format!("store-{id}:7100"),
            weight: 1,
            disk_bytes: 0,
            disk_free_bytes: 0,
            is_slow: false,
            labels: [("zone".to_owned(), zone.to_owned())].into(),
            state,
            last_heard,
        });
    }

    /// A store that has not been heard of for so long.
    fn silent(&mut self, id: u64, seconds: u64) {
        let mut store = self.view.store(StoreId(id)).unwrap().clone();
        store.last_heard = Time(self.now.0 - Duration::from_secs(seconds).as_nanos() as u64);
        self.view.observe_store(store);
    }

    fn region(&mut self, region: RegionInfo) {
        self.view.observe_region(region);
    }

    fn plan(&mut self) -> Plan {
        self.planner.plan(self.now, &self.view)
    }

    fn steps(&mut self) -> Vec<(u64, Step)> {
        self.plan().operations.into_iter().map(|operation| (operation.region.0, operation.step)).collect()
    }

    fn later(&mut self, by: Duration) {
        self.now = self.now.plus(by);
        let stores: Vec<_> = self.view.stores().map(|store| store.id).collect();
        stores.into_iter().for_each(|store| self.view.heard(store, self.now));
    }
}

/// Region `id` over the letter that follows from it, with voters on `stores`, led by the first; replica ids are
/// `10 * region + store`.
fn region(id: u64, stores: &[u64]) -> RegionInfo {
    region_of(id, &stores.iter().map(|store| (*store, Role::Voter)).collect::<Vec<_>>())
}

fn region_of(id: u64, replicas: &[(u64, Role)]) -> RegionInfo {
    let key = |n: u64| Bytes::copy_from_slice(&n.to_be_bytes());
    let mut members: Vec<_> = replicas
        .iter()
        .map(|(store, role)| Replica { id: ReplicaId(10 * id + store), store: StoreId(*store), role: *role })
        .collect();
    members.sort();
    RegionInfo {
        descriptor: Arc::new(RegionDescriptor {
            id: RegionId(id),
            range: KeyRange { start: key(id), end: key(id + 1) },
            epoch: RegionEpoch::FIRST,
            replicas: members,
        }),
        leader: Some(StoreId(replicas[0].0)),
        stats: Stats { version: 1, bytes: 100 << 20, keys: 1_000, writes_per_s: 200, reads_per_s: 200, samples: None },
        behind: vec![],
        unsound: vec![],
        replication: None,
        pending: false,
    }
}

fn change(change: ReplicaChange) -> Step {
    Step::Change(change)
}

fn replace(replica: u64, store: u64) -> Step {
    change(ReplicaChange::Replace { remove: ReplicaId(replica), add: StoreId(store) })
}

fn remove(replica: u64) -> Step {
    change(ReplicaChange::Remove { replica: ReplicaId(replica) })
}

fn transfer(store: u64) -> Step {
    Step::TransferLeader { to: StoreId(store) }
}

const GONE: u64 = 300;

#[test]
fn a_healthy_cluster_gets_no_plan() {
    let mut case = Case::new(4);
    for id in 2..6 {
        case.region(region(id, &[1 + (id % 4), 1 + ((id + 1) % 4), 1 + ((id + 2) % 4)]));
    }
    assert_eq!(case.plan(), Plan::default());
}

#[test]
fn a_replica_is_replaced_once_its_store_is_gone_for_the_limit_and_not_before() {
    let mut case = Case::new(4);
    case.region(region(2, &[1, 2, 3]));
    case.silent(3, GONE - 1);
    assert_eq!(case.plan(), Plan::default());
    case.silent(3, GONE);
    let plan = case.plan();
    assert_eq!(plan.operations[0].step, replace(23, 4));
    assert_eq!(plan.operations[0].reason, Reason::StoreGone { store: StoreId(3) });
    assert_eq!(
        plan.operations[0].to_string(),
        "repair: region 2: replace replica 23 by one on store 4, because store 3 is gone"
    );
    assert_eq!(case.plan(), Plan::default(), "one operation a region at a time");
}

#[test]
fn a_store_that_is_down_or_has_left_is_replaced_too() {
    let mut case = Case::new(5);
    case.region(region(2, &[1, 2, 3]));
    case.region(region(3, &[1, 2, 4]));
    case.store(4, "z4", StoreState::Left);
    let since = Time(case.now.0 - Duration::from_secs(GONE).as_nanos() as u64);
    case.store(3, "z3", StoreState::Down { since });
    assert_eq!(case.steps(), [(2, replace(23, 5)), (3, replace(34, 5))]);
}

#[test]
fn nothing_is_planned_for_a_region_without_quorum_but_it_is_named() {
    let mut case = Case::new(5);
    case.region(region(2, &[1, 2, 3]));
    case.silent(2, GONE);
    case.silent(3, GONE);
    let plan = case.plan();
    assert_eq!(plan.operations, []);
    assert_eq!(plan.blocked[0].obstacle, Obstacle::LostQuorum);
    assert_eq!(case.planner.backlog().lost, 1);
}

#[test]
fn a_change_that_needs_a_voter_that_lags_waits() {
    let mut case = Case::new(5);
    // Four of which one may go; of the three that stay only one has caught up.
    let mut four = region(2, &[1, 2, 3, 4]);
    four.behind = vec![ReplicaId(22), ReplicaId(23)];
    case.region(four);
    let plan = case.plan();
    assert_eq!((plan.operations, plan.blocked[0].obstacle), (vec![], Obstacle::WouldLoseQuorum));
}

#[test]
fn a_joint_region_and_one_with_something_under_way_are_left_alone() {
    let mut case = Case::new(4);
    case.region(region_of(
        2,
        &[(1, Role::Voter), (2, Role::OutgoingVoter), (3, Role::IncomingVoter), (4, Role::Voter)],
    ));
    case.region(RegionInfo { pending: true, ..region(3, &[1, 2]) });
    assert_eq!(case.plan(), Plan::default());
}

#[test]
fn a_learner_that_was_left_over_becomes_the_missing_voter() {
    let mut case = Case::new(5);
    case.region(region_of(2, &[(1, Role::Voter), (2, Role::Voter), (4, Role::Learner)]));
    case.region(region_of(3, &[(1, Role::Voter), (2, Role::Voter), (3, Role::Voter), (4, Role::Learner)]));
    case.silent(3, GONE);
    let promote = change(ReplicaChange::Promote { replica: ReplicaId(24) });
    assert_eq!(case.steps(), [(2, promote), (3, replace(33, 4))]);
}

#[test]
fn a_learner_that_nobody_needs_goes() {
    let mut case = Case::new(4);
    case.region(region_of(2, &[(1, Role::Voter), (2, Role::Voter), (3, Role::Voter), (4, Role::Learner)]));
    assert_eq!(case.steps(), [(2, remove(24))]);
}

#[test]
fn a_region_grows_and_shrinks_to_what_it_wishes() {
    let mut case = Case::new(5);
    case.region(region(2, &[1]));
    let five = Some(Replication { voters: 5, witnesses: 0, learners: 0 });
    case.region(RegionInfo { replication: five, ..region(3, &[1, 2, 3]) });
    let one = Some(Replication { voters: 1, witnesses: 0, learners: 0 });
    case.region(RegionInfo { replication: one, ..region(4, &[5, 2, 1]) });
    let mut steps = case.steps();
    steps.sort_by_key(|(region, _)| *region);
    assert!(matches!(steps[0], (2, Step::Change(ReplicaChange::AddVoter { .. }))), "{steps:?}");
    assert!(matches!(steps[1], (3, Step::Change(ReplicaChange::AddVoter { .. }))), "{steps:?}");
    assert_eq!(steps[2], (4, remove(41)), "not the leader's, and store 1 bears more than store 2");
}

#[test]
fn a_surplus_leader_hands_over_before_it_goes() {
    let mut case = Case::new(4);
    case.store(1, "z1", StoreState::Draining);
    case.region(region(2, &[1, 2, 3, 4]));
    assert_eq!(case.steps().len(), 1);
    let operation = case.planner.running().next().unwrap().clone();
    assert!(matches!(operation.step, Step::TransferLeader { .. }), "{operation}");
}

#[test]
fn a_lost_witness_gets_a_successor_before_it_goes() {
    let mut case = Case::with(4, |options| options.replication = Replication { voters: 2, witnesses: 1, learners: 0 });
    case.region(region_of(2, &[(1, Role::Voter), (2, Role::Voter), (3, Role::Witness)]));
    case.silent(3, GONE);
    assert_eq!(case.steps(), [(2, change(ReplicaChange::AddWitness { store: StoreId(4) }))]);
    let mut case = Case::with(4, |options| options.replication = Replication { voters: 2, witnesses: 1, learners: 0 });
    case.region(region_of(2, &[(1, Role::Voter), (2, Role::Voter), (3, Role::Witness), (4, Role::Witness)]));
    case.silent(3, GONE);
    assert_eq!(case.steps(), [(2, remove(23))]);
}

#[test]
fn a_new_replica_goes_to_a_zone_of_its_own_and_waits_for_room_there() {
    let mut case = Case::new(2);
    case.store(3, "z1", StoreState::Up);
    case.store(5, "z5", StoreState::Up);
    // Store 3 bears less than store 5, but shares its zone with the leader.
    for id in 3..8 {
        case.region(region(id, &[5, 2, 1]));
    }
    case.region(region(2, &[1, 2]));
    let plan = case.plan();
    assert_eq!(plan.operations[0].step, change(ReplicaChange::AddVoter { store: StoreId(5) }));

    let mut case = Case::with(4, |options| options.limits.snapshots_in = 1);
    case.region(region(2, &[1, 2]));
    case.region(region(3, &[1, 2]));
    case.store(3, "z1", StoreState::Up);
    let plan = case.plan();
    assert_eq!(plan.operations.len(), 1, "store 3 is free, but in the leader's zone: {:?}", plan.operations);
    assert_eq!(plan.blocked[0].obstacle, Obstacle::Limit);
}

#[test]
fn replicas_that_share_a_zone_part_and_the_leader_stays() {
    let mut case = Case::new(4);
    case.store(2, "z1", StoreState::Up);
    case.region(region(2, &[1, 2, 3]));
    case.region(region(3, &[2, 1, 3]));
    let plan = case.plan();
    let steps: Vec<_> = plan.operations.iter().map(|operation| operation.step.clone()).collect();
    assert_eq!(steps, [replace(22, 4), replace(31, 4)]);
    assert_eq!(plan.operations[0].reason, Reason::SharedDomain { from: StoreId(2), to: StoreId(4) });
}

#[test]
fn a_full_store_gets_nothing() {
    let mut case = Case::new(4);
    let mut full = case.view.store(StoreId(4)).unwrap().clone();
    (full.disk_bytes, full.disk_free_bytes) = (1 << 30, (1 << 30) / 10 + (50 << 20));
    case.view.observe_store(full.clone());
    case.region(region(2, &[1, 2]));
    case.silent(3, 20);
    assert_eq!(case.plan().blocked[0].obstacle, Obstacle::NoStore, "50 MiB above the reserve, 100 are needed");
    full.disk_free_bytes += 60 << 20;
    case.view.observe_store(full);
    case.region(region(3, &[1, 2]));
    let plan = case.plan();
    assert_eq!(plan.operations.len(), 1, "110 MiB above the reserve: one fits, the second no more");
}

#[test]
fn draining_moves_leaders_first_then_replicas_and_ends_with_a_report() {
    let mut case = Case::new(4);
    case.region(region(2, &[2, 3, 1]));
    case.region(region(3, &[1, 2, 3]));
    case.store(1, "z1", StoreState::Draining);
    let plan = case.plan();
    assert!(plan.operations.iter().all(|operation| operation.kind() == Kind::Drain));
    let steps: Vec<_> = plan.operations.into_iter().map(|operation| (operation.region.0, operation.step)).collect();
    assert_eq!(steps, [(3, transfer(3)), (2, replace(21, 4))]);
    assert_eq!(case.view.drained(), []);
    case.view.forget_region(RegionId(2));
    case.view.forget_region(RegionId(3));
    assert_eq!(case.view.drained(), [StoreId(1)]);
}

#[test]
fn a_lone_leader_on_a_draining_store_gets_a_companion() {
    let mut case = Case::with(2, |options| options.replication.voters = 1);
    case.region(region(2, &[1]));
    case.store(1, "z1", StoreState::Draining);
    assert_eq!(case.steps(), [(2, change(ReplicaChange::AddVoter { store: StoreId(2) }))]);
    let mut case = Case::with(2, |options| options.replication.voters = 1);
    case.region(region(2, &[1, 2]));
    case.store(1, "z1", StoreState::Draining);
    assert_eq!(case.steps(), [(2, transfer(2))]);
}

#[test]
fn kinds_come_in_their_order_and_can_be_switched_off() {
    let build = || {
        let mut case = Case::with(6, |options| options.limits.per_round = 2);
        case.store(6, "z6", StoreState::Draining);
        let mut large = region(2, &[1, 2, 3]);
        large.stats.bytes = 300 << 20;
        let samples = [2u64, 3].map(|n| {
            let mut key = 2u64.to_be_bytes().to_vec();
            key.push(n as u8);
            KeySample { key: key.into(), bytes: 1, writes: 1, reads: 1 }
        });
        large.stats.samples = Some(samples.to_vec().into());
        case.region(large);
        case.region(region(3, &[1, 2, 6]));
        case.region(region(4, &[1, 2]));
        case
    };
    let kinds = |case: &mut Case| case.plan().operations.iter().map(|o| o.kind()).collect::<Vec<_>>();
    let mut case = build();
    assert_eq!(kinds(&mut case), [Kind::Repair, Kind::Drain]);
    assert_eq!(kinds(&mut case)[0], Kind::Split);
    let mut case = build();
    let options = PlacementOptions { enabled: Kinds::ALL.without(Kind::Repair), ..case.planner.options().clone() };
    case.planner.set_options(options).unwrap();
    assert_eq!(kinds(&mut case), [Kind::Drain, Kind::Split]);
    let off = PlacementOptions { enabled: Kinds::NONE, ..case.planner.options().clone() };
    case.planner.set_options(off).unwrap();
    assert_eq!(kinds(&mut case), []);
}

#[test]
fn a_dry_run_says_the_same_and_begins_nothing() {
    let mut case = Case::new(4);
    case.region(region(2, &[1, 2]));
    let dry = case.planner.dry_run(case.now, &case.view);
    assert_eq!(case.planner.running().count(), 0);
    assert_eq!(dry, case.plan());
    assert_eq!(dry.operations.len(), 1);
}

#[test]
fn a_failure_is_tried_again_after_a_wait_that_doubles() {
    let mut case = Case::new(4);
    case.region(region(2, &[1, 2]));
    let mut waits = vec![];
    for _ in 0..3 {
        let operation = case.plan().operations[0].id;
        case.planner.report(case.now, operation, Outcome::Failed);
        let from = case.now;
        while case.planner.dry_run(case.now, &case.view).operations.is_empty() {
            case.later(Duration::from_secs(1));
        }
        waits.push(case.now.since(from).as_secs());
    }
    assert_eq!(waits, [5, 10, 20]);
}

#[test]
fn an_operation_that_never_reports_is_given_up_and_its_late_report_ignored() {
    let mut case = Case::new(4);
    case.region(region(2, &[1, 2]));
    let operation = case.plan().operations[0].id;
    case.later(Duration::from_secs(599));
    assert_eq!(case.plan(), Plan::default());
    case.later(Duration::from_secs(1));
    assert_eq!(case.plan().given_up, [operation]);
    case.later(Duration::from_secs(5));
    let again = case.plan().operations[0].id;
    assert!(again > operation);
    case.planner.report(case.now, operation, Outcome::Failed);
    assert_eq!(case.planner.running().count(), 1, "the report is about the one that was given up");
}

#[test]
fn what_is_done_is_not_done_again_while_the_view_lags() {
    let mut case = Case::new(4);
    case.region(region(2, &[1, 2]));
    let operation = case.plan().operations[0].id;
    case.planner.report(case.now, operation, Outcome::Done);
    assert_eq!(case.plan(), Plan::default());
    case.later(Duration::from_secs(29));
    assert_eq!(case.plan(), Plan::default());
    case.later(Duration::from_secs(1));
    assert_eq!(case.plan().operations.len(), 1, "the view still shows two replicas: it was not done after all");
}

#[test]
fn a_successor_goes_on_with_what_it_adopts() {
    let mut case = Case::new(4);
    case.region(region(2, &[1, 2]));
    let running = case.plan().operations;
    let mut next = Planner::new(PlacementOptions::default()).unwrap().numbered_from(OperationId(100));
    next.adopt(case.now, running[0].clone());
    assert_eq!(next.plan(case.now, &case.view), Plan::default());
    next.report(case.now, running[0].id, Outcome::Failed);
    case.later(Duration::from_secs(5));
    assert_eq!(next.plan(case.now, &case.view).operations[0].id, OperationId(100));
}

#[test]
fn limits_hold_over_rounds_and_leave_room_for_what_cannot_wait() {
    let mut case = Case::with(5, |options| {
        options.limits.snapshots_in = 4;
        options.limits.snapshots_out = 4;
        options.balance.wake_after = Duration::ZERO;
    });
    // All on three stores: balancing wants to fill 4 and 5.
    for id in 2..60 {
        case.region(region(id, &[1 + id % 3, 1 + (id + 1) % 3, 1 + (id + 2) % 3]));
    }
    let filled = |case: &Case, store: u64| {
        let to = |step: &Step| matches!(step, Step::Change(ReplicaChange::Replace { add, .. } | ReplicaChange::AddVoter { store: add }) if *add == StoreId(store));
        case.planner.running().filter(|operation| to(&operation.step)).count()
    };
    for _ in 0..5 {
        case.plan();
    }
    assert_eq!((filled(&case, 4), filled(&case, 5)), (3, 3), "balancing leaves one of four");
    case.region(region(60, &[1, 2]));
    case.region(region(61, &[1, 2]));
    case.region(region(62, &[1, 2]));
    case.silent(3, 20);
    for _ in 0..5 {
        case.plan();
    }
    assert_eq!((filled(&case, 4), filled(&case, 5)), (4, 4), "repair takes it, and no more");
}

#[test]
fn load_that_leaders_can_take_along_moves_no_data() {
    let mut case = Case::with(4, |options| options.balance.wake_after = Duration::ZERO);
    for id in 2..42 {
        let at = id % 4;
        let mut even = region(id, &[1 + at, 1 + (at + 1) % 4, 1 + (at + 2) % 4]);
        even.stats.reads_per_s = if at == 0 { 3_000 } else { 100 };
        case.region(even);
    }
    let plan = case.plan();
    assert!(matches!(plan.operations[0].reason, Reason::UnevenLeaders { from: StoreId(1), .. }));
    // Store 1 leads all that is hot and has its share of replicas: leadership moves, and no data.
    for operation in &plan.operations {
        assert!(matches!(operation.reason, Reason::UnevenLeaders { .. }), "{operation}");
    }
}

#[test]
fn balancing_wakes_only_when_stores_stay_uneven() {
    let mut case = Case::new(4);
    for id in 2..12 {
        case.region(region(id, &[1, 2, 3]));
    }
    for _ in 0..30 {
        assert_eq!(case.plan(), Plan::default());
        case.later(Duration::from_secs(1));
    }
    assert!(!case.plan().operations.is_empty());
}

#[test]
fn no_data_moves_for_balance_while_a_store_is_silent() {
    let mut case = Case::with(5, |options| options.balance.wake_after = Duration::ZERO);
    for id in 2..12 {
        case.region(region(id, &[1, 2, 3]));
    }
    case.silent(5, 20);
    let plan = case.plan();
    assert!(plan.operations.iter().all(|operation| matches!(operation.step, Step::TransferLeader { .. })), "{plan:?}");
    case.later(Duration::from_secs(20));
    assert!(case.steps().iter().any(|(_, step)| matches!(step, Step::Change(_))));
}

#[test]
fn merges_wait_for_calm_prefer_pairs_on_the_same_stores_and_need_both_healthy() {
    let mut case = Case::with(4, |options| options.enabled = Kinds::NONE.with(Kind::Merge));
    let small = |id, stores: &[u64]| {
        let mut small = region(id, stores);
        (small.stats.bytes, small.stats.writes_per_s, small.stats.reads_per_s) = (1 << 20, 1, 1);
        small
    };
    case.region(small(2, &[1, 2, 4]));
    case.region(small(3, &[1, 2, 3]));
    case.region(small(4, &[1, 2, 3]));
    // Not a neighbour of any: there is a gap before it.
    case.region(small(6, &[1, 2, 3]));
    case.region(RegionInfo { behind: vec![ReplicaId(71)], ..small(7, &[1, 2, 3]) });
    assert_eq!(case.plan(), Plan::default());
    case.later(Duration::from_secs(599));
    assert_eq!(case.plan(), Plan::default());
    case.later(Duration::from_secs(1));
    let merge = Step::Merge { into: RegionId(3), into_epoch: RegionEpoch::FIRST, moves: vec![] };
    assert_eq!(case.steps(), [(4, merge)]);
}

#[test]
fn what_a_merge_makes_is_far_from_being_split() {
    let with_neighbour = |bytes: u64| {
        let mut case = Case::with(3, |options| options.enabled = Kinds::NONE.with(Kind::Merge));
        for (id, bytes) in [(2, 20 << 20), (3, bytes)] {
            let mut idle = region(id, &[1, 2, 3]);
            (idle.stats.bytes, idle.stats.writes_per_s, idle.stats.reads_per_s) = (bytes, 1, 1);
            case.region(idle);
        }
        case.plan();
        case.later(Duration::from_secs(600));
        case.plan().operations.len()
    };
    assert_eq!(with_neighbour(108 << 20), 1, "half of 256 MiB together");
    assert_eq!(with_neighbour(109 << 20), 0);
}

#[test]
fn a_busy_store_is_passed_over_for_one_in_as_good_a_place() {
    let mut case = Case::with(4, |options| options.limits.snapshots_in = 1);
    for id in 5..9 {
        case.region(region(id, &[1, 2, 4]));
    }
    case.region(region(2, &[1, 2]));
    case.region(region(3, &[1, 2]));
    let add = |store| change(ReplicaChange::AddVoter { store: StoreId(store) });
    assert_eq!(case.steps(), [(2, add(3)), (3, add(4))], "store 3 bears less, but can take only one");
}

#[test]
fn merges_stop_at_the_least_number_of_regions() {
    let mut case = Case::with(3, |options| {
        options.enabled = Kinds::NONE.with(Kind::Merge);
        options.sizes.regions_min = 3;
    });
    for id in 1..6 {
        let mut small = region(id, &[1, 2, 3]);
        (small.stats.bytes, small.stats.writes_per_s, small.stats.reads_per_s) = (1 << 20, 1, 1);
        case.region(small);
    }
    case.plan();
    case.later(Duration::from_secs(600));
    assert_eq!(case.plan().operations.len(), 1, "four regions beside the root; three have to stay");
}

#[test]
fn figures_of_an_earlier_version_neither_split_nor_merge() {
    let mut case = Case::new(3);
    let mut large = region(2, &[1, 2, 3]);
    large.stats = Stats {
        version: 0,
        bytes: 1 << 30,
        samples: Some(Arc::new([KeySample {
            key: [2u64.to_be_bytes().as_slice(), b"x"].concat().into(),
            bytes: 1,
            writes: 1,
            reads: 1,
        }])),
        ..Stats::default()
    };
    case.region(large);
    assert_eq!(case.plan(), Plan::default());
}

#[test]
fn small_noise_does_not_change_the_view() {
    let mut view = ClusterView::new();
    let at = |factor: f64| {
        let mut noisy = region(2, &[1, 2, 3]);
        for figure in [&mut noisy.stats.bytes, &mut noisy.stats.writes_per_s, &mut noisy.stats.reads_per_s] {
            *figure = (*figure as f64 * factor) as u64;
        }
        noisy
    };
    assert!(view.observe_region(at(0.91)));
    for factor in [1.0, 1.09, 0.95, 0.91] {
        assert!(!view.observe_region(at(factor)), "{factor}");
    }
    assert!(view.observe_region(at(1.3)));
}

/// That region, with the replicas on these stores out of service.
fn with_unsound(region: RegionInfo, stores: &[u64]) -> RegionInfo {
    let unsound = region.descriptor.replicas.iter().filter(|replica| stores.contains(&replica.store.0));
    RegionInfo { unsound: unsound.map(|replica| replica.id).collect(), ..region }
}

#[test]
fn a_replica_out_of_service_goes_and_another_comes_in_its_place() {
    let mut case = Case::new(3);
    case.region(with_unsound(region(2, &[1, 2, 3]), &[3]));
    let plan = case.planner.dry_run(case.now, &case.view);
    assert_eq!(plan.operations.len(), 1);
    let operation = &plan.operations[0];
    assert_eq!((&operation.step, operation.kind()), (&remove(23), Kind::Renew));
    assert_eq!(operation.reason, Reason::OutOfService { store: StoreId(3), to: StoreId(3) });
    assert_eq!(
        operation.to_string(),
        "renew: region 2: remove replica 23, because the replica on store 3 is fenced or damaged, and another one can take \
         its place"
    );
    assert_eq!(case.plan(), plan);
    assert_eq!(case.planner.backlog().renew, 1);
    case.planner.report(case.now, plan.operations[0].id, Outcome::Done);
    assert_eq!(case.plan(), Plan::default(), "it does not show yet");
    let mut two = region(2, &[1, 2]);
    Arc::make_mut(&mut two.descriptor).epoch.conf_version += 1;
    case.region(two);
    assert_eq!(case.steps(), [(2, change(ReplicaChange::AddVoter { store: StoreId(3) }))]);
    assert_eq!(case.planner.backlog().renew, 0);
}

#[test]
fn a_replica_out_of_service_goes_only_while_a_majority_is_sound() {
    let mut case = Case::new(6);
    case.region(with_unsound(region(2, &[1, 2, 3]), &[2, 3]));
    let plan = case.plan();
    assert_eq!((plan.operations, plan.blocked[0].obstacle), (vec![], Obstacle::LostQuorum));

    // Of three, one is out of service and another one lags.
    let mut case = Case::new(6);
    case.region(RegionInfo { behind: vec![ReplicaId(22)], ..with_unsound(region(2, &[1, 2, 3]), &[3]) });
    let plan = case.plan();
    assert_eq!((plan.operations, plan.blocked[0].obstacle), (vec![], Obstacle::WouldLoseQuorum));

    // Of five, two are: one goes, and the other one once there are five again.
    let mut case = Case::with(6, |options| options.replication.voters = 5);
    case.region(with_unsound(region(2, &[1, 2, 3, 4, 5]), &[4, 5]));
    assert_eq!(case.steps(), [(2, remove(24))]);

    // The only one that has the data.
    let mut case = Case::with(3, |options| options.replication.voters = 2);
    case.region(with_unsound(region(2, &[1, 2]), &[2]));
    case.region(with_unsound(region(3, &[1]), &[1]));
    assert_eq!(case.plan().operations, []);
    assert_eq!(case.planner.backlog().lost, 2);
}

#[test]
fn nothing_is_renewed_if_that_is_switched_off_or_nothing_may_come_after_it() {
    for off in [Kind::Renew, Kind::Repair] {
        let mut case = Case::new(4);
        let enabled = Kinds::ALL.without(off);
        case.planner.set_options(PlacementOptions { enabled, ..PlacementOptions::default() }).unwrap();
        case.region(with_unsound(region(2, &[1, 2, 3]), &[3]));
        assert_eq!(case.plan(), Plan::default(), "without {}", off.name());
        assert_eq!(case.planner.backlog().renew, 1);
        // A store is emptied all the same.
        case.store(3, "z3", StoreState::Draining);
        assert_eq!(case.steps(), [(2, replace(23, 4))]);
    }
}

#[test]
fn what_is_out_of_service_stays_where_no_store_takes_its_successor() {
    let mut case = Case::new(3);
    case.store(3, "z3", StoreState::Draining);
    case.region(with_unsound(region(2, &[1, 2, 3]), &[3]));
    let plan = case.plan();
    assert_eq!((plan.operations, plan.blocked[0].obstacle), (vec![], Obstacle::NoStore));
    case.store(4, "z4", StoreState::Up);
    let plan = case.plan();
    assert_eq!(plan.operations[0].step, remove(23));
    assert_eq!(plan.operations[0].reason, Reason::OutOfService { store: StoreId(3), to: StoreId(4) });
}

#[test]
fn no_more_goes_at_once_than_can_be_filled() {
    let mut case = Case::new(3);
    for id in 2..12 {
        case.region(with_unsound(region(id, &[1 + id % 2, 2 - id % 2, 3]), &[3]));
    }
    let plan = case.plan();
    assert_eq!(plan.operations.len(), 4, "store 3 receives four at once");
    assert_eq!(plan.blocked[0].obstacle, Obstacle::Limit);
    for operation in &plan.operations {
        case.planner.report(case.now, operation.id, Outcome::Done);
    }
    assert_eq!(case.plan().operations, [], "that they are gone does not show yet");
}

#[test]
fn a_replica_out_of_service_leads_nothing_and_is_the_first_to_be_spared() {
    let mut case = Case::new(5);
    case.store(1, "z1", StoreState::Draining);
    case.region(with_unsound(region(2, &[1, 2, 3]), &[2]));
    case.region(with_unsound(region(3, &[2, 3, 4, 5]), &[4]));
    assert_eq!(case.steps(), [(3, remove(34)), (2, remove(22))], "one has four");
    // Its leader is the one, and will hand over.
    case.region(with_unsound(region(4, &[3, 4, 5]), &[3]));
    let plan = case.plan();
    assert_eq!((plan.operations, plan.blocked[0].obstacle), (vec![], Obstacle::NoLeader));

    // Nobody renews it: the leader on the store that is to be emptied hands over to the other one.
    let mut case = Case::with(3, |options| options.enabled = Kinds::ALL.without(Kind::Renew));
    case.store(1, "z1", StoreState::Draining);
    case.region(with_unsound(region(2, &[1, 2, 3]), &[2]));
    assert_eq!(case.steps(), [(2, transfer(3))]);
}

impl Case {
    /// Of a disk of 1 GiB with a reserve of a tenth, so many bytes more than that are free.
    fn disk(&mut self, id: u64, above_reserve: i64) {
        let store = self.view.store(StoreId(id)).unwrap().clone();
        let disk_free_bytes = ((1 << 30) / 10 + above_reserve) as u64;
        self.view.observe_store(StoreInfo { disk_bytes: 1 << 30, disk_free_bytes, ..store });
    }
}

#[test]
fn no_leader_moves_to_a_store_that_is_slow_or_whose_disk_is_full() {
    // Store 1 is to be emptied; store 2 would take over as long as it has disk left.
    for (above_reserve, heir) in [(1, 2), (0, 3), (-1, 3)] {
        let mut case = Case::new(3);
        case.disk(2, above_reserve);
        case.store(1, "z1", StoreState::Draining);
        case.region(region(2, &[1, 2, 3]));
        assert_eq!(case.steps(), [(2, transfer(heir))], "{above_reserve} bytes above the reserve");
    }
    let mut case = Case::new(3);
    for id in [2, 3] {
        case.disk(id, 0);
    }
    case.store(1, "z1", StoreState::Draining);
    case.region(region(2, &[1, 2, 3]));
    let plan = case.plan();
    assert_eq!((plan.operations, plan.blocked[0].obstacle), (vec![], Obstacle::NoHeir));

    // One that is slow takes nothing over, either.
    let mut case = Case::new(3);
    let slow = case.view.store(StoreId(2)).unwrap().clone();
    case.view.observe_store(StoreInfo { is_slow: true, ..slow });
    case.store(1, "z1", StoreState::Draining);
    case.region(region(2, &[1, 2, 3]));
    assert_eq!(case.steps(), [(2, transfer(3))]);

    // One that waits for space has none, also where nothing is held in reserve.
    let mut case = Case::with(3, |options| options.disk_reserve_percent = 0);
    let waits = case.view.store(StoreId(2)).unwrap().clone();
    case.view.observe_store(StoreInfo { disk_bytes: 1 << 30, disk_free_bytes: 0, ..waits });
    case.store(1, "z1", StoreState::Draining);
    case.region(region(2, &[1, 2, 3]));
    assert_eq!(case.steps(), [(2, transfer(3))]);
}

#[test]
fn leaders_even_out_among_stores_that_have_disk_left() {
    let heirs = |full: Option<u64>| {
        let mut case = Case::with(3, |options| options.balance.wake_after = Duration::ZERO);
        for id in 2..14 {
            case.region(region(id, &[1, 2, 3]));
        }
        if let Some(full) = full {
            case.disk(full, 0);
        }
        let steps = case.steps().into_iter().map(|(_, step)| step);
        let to = steps.map(|step| match step {
            Step::TransferLeader { to } => to.0,
            other => panic!("{other}"),
        });
        to.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(heirs(None), [2, 3].into());
    assert_eq!(heirs(Some(2)), [3].into());
}
