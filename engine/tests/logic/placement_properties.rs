//! The planner on random clusters: whatever a region looks like, no plan breaks a rule of the replicas or of the votes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use multiraft::placement::{
    Backlog, ClusterView, Kind, PlacementOptions, Planner, RegionInfo, ReplicaChange, Replication, Stats, Step,
    StoreInfo, StoreState,
};
use multiraft_raft::{
    ChangeOp, KeyRange, MembershipChange, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId,
    Time, apply_to_replicas,
};
use proptest::prelude::*;

const STORES: u64 = 8;
/// The state of a store whose disk is full.
const FULL: u8 = 7;
/// The state of a store that works, but not well.
const SLOW: u8 = 8;
const NEW: ReplicaId = ReplicaId(1_000_000);

/// What a random store is: state, zone, how long silent, weight.
type RandomStore = (u8, u8, u64, u32);
/// What a random region is: replicas (role, behind) by store, which of them leads, voters it wants, load, pending.
type RandomRegion = (Vec<(u8, bool)>, usize, usize, u64, bool);

fn stores() -> impl Strategy<Value = Vec<RandomStore>> {
    let silent = prop_oneof![4 => Just(0u64), 1 => Just(60), 1 => Just(1_000)];
    prop::collection::vec((0u8..9, 0u8..4, silent, 1u32..4), STORES as usize)
}

fn regions() -> impl Strategy<Value = Vec<RandomRegion>> {
    let replicas = prop::collection::vec((0u8..20, prop::bool::weighted(0.1)), STORES as usize);
    prop::collection::vec((replicas, 0usize..8, 1usize..6, 0u64..2_000, prop::bool::weighted(0.05)), 1..40)
}

fn build(stores: &[RandomStore], regions: &[RandomRegion], now: Time) -> ClusterView {
    let mut view = ClusterView::new();
    for (id, (state, zone, silent, weight)) in (1..).zip(stores) {
        let last_heard = Time(now.0 - Duration::from_secs(*silent).as_nanos() as u64);
        view.observe_store(StoreInfo {
            id: StoreId(id),
            address: String::new(),
            weight: *weight,
            disk_bytes: 1 << 40,
            disk_free_bytes: if *state == FULL { 1 << 36 } else { 1 << 39 },
            is_slow: *state == SLOW,
            labels: [("zone".to_owned(), zone.to_string())].into(),
            state: match state {
                0 => StoreState::Draining,
                1 => StoreState::Left,
                2 => StoreState::Down { since: last_heard },
                _ => StoreState::Up,
            },
            last_heard,
        });
    }
    for (id, region) in (2..).zip(regions) {
        view.observe_region(region_info(id, region, 1));
    }
    view
}

fn region_info(id: u64, random: &RandomRegion, conf_version: u64) -> RegionInfo {
    let (on, leader, voters, load, pending) = random;
    let role = |code: u8| match code {
        0..=8 => Some(Role::Voter),
        9 => Some(Role::Learner),
        10 => Some(Role::Witness),
        11 if id.is_multiple_of(8) => Some(Role::IncomingVoter),
        12 if id.is_multiple_of(8) => Some(Role::OutgoingVoter),
        _ => None,
    };
    let replica = |(store, (code, _)): (u64, &(u8, bool))| {
        Some(Replica { id: ReplicaId(100 * id + store), store: StoreId(store), role: role(*code)? })
    };
    let mut replicas: Vec<_> = (1..).zip(on).filter_map(replica).collect();
    if !replicas.iter().any(|replica| replica.role == Role::Voter) {
        replicas = vec![Replica { id: ReplicaId(100 * id + 1), store: StoreId(1), role: Role::Voter }];
    }
    let voting: Vec<_> = replicas.iter().filter(|replica| replica.role == Role::Voter).collect();
    let leader = voting.get(*leader).map(|replica| replica.store);
    let behind = replicas.iter().filter(|r| Some(r.store) != leader && on[r.store.0 as usize - 1].1).map(|r| r.id);
    let unsound = replicas.iter().filter(|r| on[r.store.0 as usize - 1].0.is_multiple_of(8)).map(|r| r.id);
    let key = |n: u64| n.to_be_bytes().to_vec().into();
    RegionInfo {
        leader,
        stats: Stats { version: 1, bytes: load << 17, writes_per_s: *load, reads_per_s: *load, ..Stats::default() },
        behind: behind.collect(),
        unsound: unsound.collect(),
        replication: Some(Replication { voters: *voters, witnesses: usize::from(id.is_multiple_of(5)), learners: 0 }),
        pending: *pending,
        descriptor: Arc::new(RegionDescriptor {
            id: RegionId(id),
            range: KeyRange { start: key(id), end: key(id + 1) },
            epoch: RegionEpoch { conf_version, version: 1 },
            replicas,
        }),
    }
}

/// The changes of a membership that a planned change stands for.
fn changes(region: &RegionInfo, change: ReplicaChange) -> Vec<MembershipChange> {
    let simple = MembershipChange::Simple;
    let joined = |store: StoreId, and: Option<ReplicaId>| {
        let there = region.descriptor.replica_on(store);
        let add = there.is_none().then_some(simple(ChangeOp::AddLearner { id: NEW, store }));
        let promote = ChangeOp::Promote { id: there.map_or(NEW, |learner| learner.id) };
        let end = match and {
            None => vec![simple(promote)],
            Some(id) => {
                let ops = vec![promote, ChangeOp::Remove { id }];
                vec![MembershipChange::Joint { ops, auto_leave: true }, MembershipChange::LeaveJoint]
            }
        };
        add.into_iter().chain(end).collect()
    };
    match change {
        ReplicaChange::AddVoter { store } => joined(store, None),
        ReplicaChange::Replace { remove, add } => joined(add, Some(remove)),
        ReplicaChange::AddLearner { store } => vec![simple(ChangeOp::AddLearner { id: NEW, store })],
        ReplicaChange::AddWitness { store } => vec![simple(ChangeOp::AddWitness { id: NEW, store })],
        ReplicaChange::Promote { replica } => vec![simple(ChangeOp::Promote { id: replica })],
        ReplicaChange::Remove { replica } => {
            let remove = MembershipChange::of(vec![ChangeOp::Remove { id: replica }], &region.descriptor.replicas);
            let leaves = matches!(remove, MembershipChange::Joint { .. }).then_some(MembershipChange::LeaveJoint);
            [remove].into_iter().chain(leaves).collect()
        }
    }
}

fn is_full(view: &ClusterView, store: StoreId) -> bool {
    let store = view.store(store).unwrap();
    store.disk_free_bytes < store.disk_bytes / 10
}

fn is_heard(view: &ClusterView, store: StoreId, now: Time) -> bool {
    let store = view.store(store).unwrap();
    let is_part = matches!(store.state, StoreState::Up | StoreState::Draining);
    is_part && now.since(store.last_heard) <= Duration::from_secs(10)
}

/// Whether a majority is live; the replica on `new` has caught up by the time it votes.
fn assert_quorum(view: &ClusterView, region: &RegionInfo, replicas: &[Replica], new: Option<StoreId>, now: Time) {
    let is_sound = |r: &Replica| !region.unsound.contains(&r.id);
    let is_current = |r: &Replica| is_sound(r) && (Some(r.store) == new || !region.behind.contains(&r.id));
    let live = |r: &Replica| r.id == NEW || (is_heard(view, r.store, now) && is_current(r));
    for votes in [Role::votes_incoming, Role::votes_outgoing] {
        let is_joint = replicas.iter().any(|replica| replica.role.is_joint());
        let voters: Vec<_> =
            replicas.iter().filter(|r| if is_joint { votes(r.role) } else { r.role.votes_incoming() }).collect();
        let alive = voters.iter().filter(|replica| live(replica)).count();
        assert!(alive * 2 > voters.len(), "{alive} live voters of {voters:?}");
    }
}

fn assert_rules(view: &ClusterView, planner: &mut Planner, now: Time) {
    let mut taken: BTreeSet<RegionId> =
        planner.running().flat_map(|o| [Some(o.region), o.other_region()]).flatten().collect();
    for operation in planner.plan(now, view).operations {
        for region in [Some(operation.region), operation.other_region()].into_iter().flatten() {
            assert!(taken.insert(region), "{operation}: the region is taken");
        }
        let region = view.region(operation.region).unwrap();
        assert_eq!((region.leader, region.descriptor.epoch), (Some(operation.leader), operation.epoch), "{operation}");
        assert!(!region.pending && region.descriptor.replicas.iter().all(|r| !r.role.is_joint()), "{operation}");
        assert!(is_heard(view, operation.leader, now), "{operation}");
        match operation.step {
            Step::Change(change) => {
                let mut replicas = region.descriptor.replicas.clone();
                let new = match change {
                    ReplicaChange::AddVoter { store } | ReplicaChange::Replace { add: store, .. } => Some(store),
                    _ => None,
                };
                assert_quorum(view, region, &replicas, None, now);
                for change in changes(region, change) {
                    replicas = apply_to_replicas(&replicas, &change).unwrap_or_else(|e| panic!("{operation}: {e}"));
                    assert_quorum(view, region, &replicas, new, now);
                }
                assert!(replicas.iter().any(|r| r.store == operation.leader), "{operation}: the leader is removed");
                if let (Kind::Renew, ReplicaChange::Remove { replica }) = (operation.kind(), change) {
                    let own = region.descriptor.replica_on(operation.leader).unwrap();
                    let (goes, stays) = (region.unsound.contains(&replica), !region.unsound.contains(&own.id));
                    assert!(goes && stays && own.role == Role::Voter, "{operation}");
                }
                if let Some(new) = replicas.iter().find(|replica| replica.id == NEW) {
                    assert_eq!(view.store(new.store).unwrap().state, StoreState::Up, "{operation}");
                    assert!(is_heard(view, new.store, now) && !is_full(view, new.store), "{operation}");
                }
            }
            Step::TransferLeader { to } => {
                let heir = region.descriptor.replica_on(to).unwrap();
                assert!(heir.role == Role::Voter && !region.behind.contains(&heir.id), "{operation}");
                assert!(!region.unsound.contains(&heir.id) && !is_full(view, to), "{operation}");
                assert!(!view.store(to).unwrap().is_slow, "{operation}");
                assert!(is_heard(view, to, now) && view.store(to).unwrap().state == StoreState::Up, "{operation}");
            }
            Step::Split { .. } | Step::Merge { .. } => {}
        }
    }
}

/// What a planner that sees everything for the first time finds.
fn fresh(view: &ClusterView, now: Time) -> Backlog {
    let mut planner = Planner::new(PlacementOptions::default()).unwrap();
    planner.plan(now, view);
    Backlog { running: 0, ..planner.backlog() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_plan_breaks_a_rule_and_changes_are_seen_as_well_as_the_whole(
        before in stores(), after in stores(), first in regions(), second in regions()
    ) {
        let now = Time::ZERO.plus(Duration::from_secs(100_000));
        let mut view = build(&before, &first, now);
        let mut options = PlacementOptions::default();
        options.balance.wake_after = Duration::ZERO;
        let mut planner = Planner::new(options).unwrap();
        let mut twin = planner.clone();
        prop_assert_eq!(planner.dry_run(now, &view), twin.plan(now, &view));
        assert_rules(&view, &mut planner, now);
        assert_rules(&view, &mut planner, now);

        // Stores change state; some regions change, some vanish.
        for store in build(&after, &[], now).stores() {
            view.observe_store(store.clone());
        }
        for (id, region) in (2..).step_by(2).zip(&second) {
            view.observe_region(region_info(id, region, 2));
        }
        view.forget_region(RegionId(3));
        assert_rules(&view, &mut planner, now);
        prop_assert_eq!(Backlog { running: 0, ..planner.backlog() }, fresh(&view, now));
    }
}
