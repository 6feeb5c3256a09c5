//! The judge of what a recovery leaves: regions that only the dead have seen, and that are yet to come.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use multiraft::assembly::bootstrap_regions;
use multiraft_raft::{LogIndex, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId, Term};
use multiraft_sim::check::Violation;
use multiraft_sim::check::regions::{Outcome, Regions};

const STORES: [StoreId; 3] = [StoreId(1), StoreId(2), StoreId(3)];
const PARENT: RegionId = RegionId(2);
const CHILD: RegionId = RegionId(100);

/// A split of the one region at `m`, as a leader on store 3 has applied it, and nobody else.
fn split_on_the_last_store() -> (Regions, Arc<RegionDescriptor>, Arc<RegionDescriptor>) {
    let begin = bootstrap_regions(&[], &STORES);
    let mut regions = Regions::default();
    regions.begin(&begin).expect("they cover the key space");
    for store in STORES {
        regions.on_found(store, &begin, &[].into()).expect("all begin with it");
    }
    let mut parent = (*begin[1]).clone();
    assert_eq!(parent.id, PARENT);
    parent.epoch = RegionEpoch { version: parent.epoch.version + 1, ..parent.epoch };
    let mut child = RegionDescriptor { id: CHILD, ..parent.clone() };
    parent.range.end = Bytes::from_static(b"m");
    child.range.start = Bytes::from_static(b"m");
    let replica = |store: &StoreId| Replica { id: ReplicaId(100 + store.get()), store: *store, role: Role::Voter };
    child.replicas = STORES.iter().map(replica).collect();
    regions.on_split(LogIndex(5), &[Arc::new(parent.clone()), Arc::new(child.clone())]).expect("a split");
    let (parent, child) = (Arc::new(parent), Arc::new(child));
    regions.on_changed_here(STORES[2], &parent);
    regions.on_state_here(STORES[2], &child).expect("it is new there");
    (regions, parent, child)
}

fn survivors() -> BTreeSet<StoreId> {
    [STORES[0], STORES[1]].into()
}

fn left_alone(regions: &[RegionId]) -> Outcome {
    Outcome { left_alone: regions.iter().copied().collect(), ..Outcome::default() }
}

fn rule(verdict: Result<(), Violation>) -> &'static str {
    verdict.map_or_else(|broken| broken.rule, |()| "nothing")
}

/// Store 3 is dead; what it and the witness on store 2 held need not be on store 1.
#[test]
fn a_region_has_its_quorum_only_if_one_that_lives_gets_the_votes_of_it() {
    let begin = bootstrap_regions(&[], &STORES);
    let mut with_witness = (*begin[1]).clone();
    with_witness.replicas[1].role = Role::Witness;
    let begin = [Arc::clone(&begin[0]), Arc::new(with_witness)];
    let mut regions = Regions::default();
    regions.begin(&begin).expect("they cover the key space");
    for store in STORES {
        regions.on_found(store, &begin, &[].into()).expect("all begin with it");
    }
    let touched = |of_one: u64, of_witness: u64, buried: Option<u64>| {
        let last = |store| (Term(3), LogIndex(if store == STORES[0] { of_one } else { of_witness }));
        let buried = |store| buried.filter(|_| store == STORES[1]).map(ReplicaId);
        rule(regions.on_given_up(PARENT, &survivors(), &last, &buried))
    };
    assert_eq!(touched(69, 76, None), "nothing", "the witness votes for nobody who has less");
    assert_eq!(touched(76, 76, None), "no region with a quorum is touched");
    assert_eq!(touched(76, 69, None), "no region with a quorum is touched");
    let witness = begin[1].replicas[1].id.0;
    assert_eq!(touched(76, 76, Some(witness)), "nothing", "it has just gone");
    assert_eq!(touched(76, 76, Some(witness - 1)), "no region with a quorum is touched", "an earlier one has");
}

#[test]
fn a_child_that_only_the_dead_have_made_is_to_come_from_its_living_parent() {
    let (mut regions, _, _) = split_on_the_last_store();
    let outcome = left_alone(&[RegionId::ROOT, PARENT]);
    assert_eq!(regions.on_all_recovered(&outcome, &survivors()), Ok(()));
    assert!(regions.newest().any(|region| region.id == CHILD), "it is asked for in the end");
}

#[test]
fn a_child_that_a_survivor_has_made_or_a_plan_has_ended_is_not_to_come() {
    let broken = "every key has one owner";
    let outcome = left_alone(&[RegionId::ROOT, PARENT]);
    let (mut regions, _, child) = split_on_the_last_store();
    regions.on_state_here(STORES[1], &child).expect("it is new there");
    assert_eq!(rule(regions.on_all_recovered(&outcome, &survivors())), broken, "a plan has to name it");

    let (mut regions, parent, _) = split_on_the_last_store();
    regions.on_state_here(STORES[0], &parent).expect("a snapshot");
    assert_eq!(rule(regions.on_all_recovered(&outcome, &survivors())), broken, "its parent gave its keys away");

    let (mut regions, _, _) = split_on_the_last_store();
    let ended = Outcome { ended: [CHILD].into(), ..outcome.clone() };
    assert_eq!(rule(regions.on_all_recovered(&ended, &survivors())), broken);

    let (mut regions, _, _) = split_on_the_last_store();
    let recovered = Outcome { recovered: [PARENT].into(), ..left_alone(&[RegionId::ROOT]) };
    assert_eq!(rule(regions.on_all_recovered(&recovered, &survivors())), broken, "its parent lives anew, and whole");
}
