//! The judge of the regions' lives against wrong behaviour made by hand: each kind must be refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use multiraft::assembly::bootstrap_regions;
use multiraft_raft::{
    Body, KeyRange, LogIndex, Message, RegionDescriptor, RegionId, Replica, ReplicaId, Role, StoreId, Term,
};
use multiraft_sim::check::regions::{Regions, is_quorum};
use multiraft_sim::check::{Verdict, Violation};

const STORES: [StoreId; 3] = [StoreId(1), StoreId(2), StoreId(3)];

type Descriptor = Arc<RegionDescriptor>;

fn rule(verdict: Verdict) -> &'static str {
    verdict.map_or_else(|Violation { rule, .. }| rule, |()| "nothing")
}

fn begun() -> (Regions, Descriptor) {
    let first = bootstrap_regions(&[], &STORES);
    let mut regions = Regions::default();
    regions.begin(&first).expect("they cover the key space");
    (regions, Arc::clone(&first[1]))
}

fn changed(from: &Descriptor, change: impl FnOnce(&mut RegionDescriptor)) -> Descriptor {
    let mut descriptor = RegionDescriptor::clone(from);
    change(&mut descriptor);
    Arc::new(descriptor)
}

/// What a split at "m" makes, with the child's first key.
fn parts(parent: &Descriptor, start: &'static str) -> Vec<Descriptor> {
    let key = Bytes::from_static(b"m");
    let left = changed(parent, |one| {
        one.epoch.version += 1;
        one.range.end = key;
    });
    let right = changed(parent, |one| {
        one.id = RegionId(9);
        one.epoch.version += 1;
        one.range = KeyRange { start: Bytes::from_static(start.as_bytes()), end: Bytes::new() };
    });
    vec![left, right]
}

#[test]
fn a_split_that_leaves_a_gap_or_an_overlap_is_refused() {
    for (start, expected) in [("m", "nothing"), ("n", "every key has one owner"), ("k", "every key has one owner")] {
        let (mut regions, parent) = begun();
        assert_eq!(rule(regions.on_split(LogIndex(5), &parts(&parent, start))), expected, "{start}");
    }
}

#[test]
fn a_split_that_is_another_one_elsewhere_is_refused() {
    let (mut regions, parent) = begun();
    let parts = parts(&parent, "m");
    assert_eq!(regions.on_split(LogIndex(5), &parts), Ok(()));
    assert_eq!(regions.on_split(LogIndex(5), &parts), Ok(()), "the same on another store");
    let other = [Arc::clone(&parts[0]), changed(&parts[1], |child| child.id = RegionId(10))];
    assert_eq!(rule(regions.on_split(LogIndex(5), &other)), "descriptors of one epoch are equal");
}

#[test]
fn ranges_that_overlap_on_one_store_are_refused() {
    let (mut regions, parent) = begun();
    let parts = parts(&parent, "m");
    regions.on_split(LogIndex(5), &parts).expect("it fits");
    regions.on_state_here(StoreId(1), &parts[1]).expect("it is new");
    assert_eq!(regions.check_store(StoreId(1)), Ok(()));
    regions.on_changed_here(StoreId(1), &parent);
    assert_eq!(rule(regions.check_store(StoreId(1))), "ranges on one store never overlap");
}

#[test]
fn a_removed_replica_that_acts_or_comes_again_is_refused() {
    let (mut regions, region) = begun();
    regions.on_destroyed(StoreId(1), region.id, ReplicaId(1));
    let gone = "what was removed stays removed";
    assert_eq!(rule(regions.on_created(StoreId(1), region.id, ReplicaId(1))), gone);
    assert_eq!(regions.on_created(StoreId(1), region.id, ReplicaId(7)), Ok(()));
    assert_eq!(rule(regions.on_acts(StoreId(1), region.id, ReplicaId(1))), gone);
    assert_eq!(rule(regions.on_state_here(StoreId(1), &region)), gone);
    let forgotten = regions.on_found(StoreId(1), &[], &BTreeMap::new());
    assert_eq!(rule(forgotten), "splits, snapshots and removals survive once they are heard of");
}

#[test]
fn a_second_vote_in_a_term_is_refused() {
    let (mut regions, region) = begun();
    let mut vote = |to: u64, term: u64| {
        let body = Body::VoteReply { granted: true };
        let message = Message { from: ReplicaId(1), to: ReplicaId(to), term: Term(term), body };
        rule(regions.on_sent(StoreId(1), region.id, &message))
    };
    assert_eq!([vote(2, 5), vote(2, 5), vote(3, 6)], ["nothing"; 3]);
    assert_eq!(vote(3, 5), "a replica votes once a term");
}

#[test]
fn other_bytes_at_one_index_and_ids_given_twice_are_refused() {
    let (mut regions, region) = begun();
    assert_eq!(regions.on_state(StoreId(1), region.id, LogIndex(4), 77), Ok(()));
    assert_eq!(regions.on_state(StoreId(2), region.id, LogIndex(5), 78), Ok(()));
    let other = regions.on_state(StoreId(2), region.id, LogIndex(4), 78);
    assert_eq!(rule(other), "replicas hold the same bytes at an index");
    assert_eq!(regions.on_ids(10..20), Ok(()));
    assert_eq!(rule(regions.on_ids(19..22)), "ids are given away once");
}

#[test]
fn a_joint_configuration_needs_a_quorum_of_both_halves() {
    let replica = |id, role| Replica { id: ReplicaId(id), store: StoreId(id), role };
    let joint = [
        replica(1, Role::Voter),
        replica(2, Role::OutgoingVoter),
        replica(3, Role::OutgoingVoter),
        replica(4, Role::IncomingVoter),
        replica(5, Role::IncomingVoter),
    ];
    let holds = |stores: &'static [u64]| move |store: StoreId| stores.contains(&store.get());
    assert!(is_quorum(&joint, &holds(&[1, 2, 4])));
    assert!(!is_quorum(&joint, &holds(&[1, 4, 5])));
    assert!(!is_quorum(&joint, &holds(&[1, 2, 3])));
}
