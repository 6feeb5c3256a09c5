//! Digests side by side, and the forms in which they travel.

use multiraft_raft::{KeyRange, RegionEpoch, RegionId, Replica};
use proptest::prelude::*;

use super::*;

fn digest(byte: u8) -> StateDigest {
    StateDigest([byte; DIGEST_BYTES])
}

fn region(roles: &[Role]) -> Arc<RegionDescriptor> {
    let replica = |(id, role): (u64, &Role)| Replica { id: ReplicaId(id), store: StoreId(id), role: *role };
    let replicas = (1..).zip(roles).map(replica).collect();
    let epoch = RegionEpoch { conf_version: 1, version: 1 };
    let range = KeyRange { start: Bytes::new(), end: Bytes::new() };
    Arc::new(RegionDescriptor { id: RegionId(2), range, epoch, replicas })
}

fn of(answers: &[Option<u8>]) -> BTreeMap<ReplicaId, DigestAnswer> {
    let told = (1..).zip(answers).filter_map(|(id, byte)| Some((ReplicaId(id), (*byte)?)));
    told.map(|(id, byte)| (id, DigestAnswer::Digest(digest(byte)))).collect()
}

/// The outcomes, and the replicas to fence.
fn judged(roles: &[Role], answers: &[Option<u8>]) -> (Vec<CheckOutcome>, Vec<u64>) {
    let (report, to_fence) = judge(&region(roles), LogIndex(9), &FencedReplicas::default(), &of(answers));
    let outcomes = report.replicas.iter().map(|replica| replica.outcome).collect();
    (outcomes, to_fence.iter().map(|fenced| fenced.replica.get()).collect())
}

use CheckOutcome::{Different, NoAnswer, Same, Witness};
use Role::{Learner, Voter};

#[test]
fn the_minority_is_fenced_if_a_quorum_of_the_voters_agrees() {
    assert_eq!(judged(&[Voter; 3], &[Some(1), Some(1), Some(1)]), (vec![Same; 3], vec![]));
    assert_eq!(judged(&[Voter; 3], &[Some(1), Some(2), Some(1)]), (vec![Same, Different, Same], vec![2]));
    let five = judged(&[Voter; 5], &[Some(3), Some(1), Some(1), Some(2), Some(1)]);
    assert_eq!(five, (vec![Different, Same, Same, Different, Same], vec![1, 4]));
    let learner = judged(&[Voter, Voter, Learner], &[Some(1), Some(1), Some(2)]);
    assert_eq!(learner, (vec![Same, Same, Different], vec![3]));
}

#[test]
fn without_a_quorum_of_equals_nobody_is_fenced() {
    // Two that differ: nobody can say which is right.
    assert_eq!(judged(&[Voter; 3], &[Some(1), Some(2), None]), (vec![Different, Different, NoAnswer], vec![]));
    assert_eq!(judged(&[Voter; 2], &[Some(1), Some(2)]), (vec![Different; 2], vec![]));
    // Most of those that answered, but if the third were fenced the two would be no quorum of the five.
    let few = judged(&[Voter; 5], &[Some(1), Some(1), Some(2), None, None]);
    assert_eq!(few, (vec![Same, Same, Different, NoAnswer, NoAnswer], vec![]));
    // Learners are heard, and do not decide.
    let learners = judged(&[Voter, Voter, Learner, Learner], &[Some(2), None, Some(1), Some(1)]);
    assert_eq!(learners, (vec![Different, NoAnswer, Same, Same], vec![]));
    let witness = judged(&[Voter, Voter, Role::Witness], &[Some(1), Some(2), Some(2)]);
    assert_eq!(witness, (vec![Different, Different, Witness], vec![]));
}

#[test]
fn who_does_not_answer_is_not_judged() {
    let (report, to_fence) =
        judge(&region(&[Voter; 3]), LogIndex(9), &FencedReplicas::default(), &of(&[Some(1), None, None]));
    assert_eq!((report.expected, report.is_consistent(), to_fence), (Some(digest(1)), true, vec![]));
    let answers = BTreeMap::from([(ReplicaId(1), DigestAnswer::NotSupported), (ReplicaId(2), DigestAnswer::Missing)]);
    let (report, _) = judge(&region(&[Voter; 3]), LogIndex(9), &FencedReplicas::default(), &answers);
    let outcomes: Vec<_> = report.replicas.iter().map(|replica| replica.outcome).collect();
    assert_eq!((report.expected, outcomes), (None, vec![CheckOutcome::NotSupported, NoAnswer, NoAnswer]));
}

#[test]
fn a_list_of_fenced_replicas_leaves_a_quorum_and_forgets_who_is_gone() {
    let fence = |id| FencedReplica { replica: ReplicaId(id), index: LogIndex(9), expected: digest(1) };
    let one = FencedReplicas::default().with(&region(&[Voter; 3]), &[fence(2)]).expect("two of three are left");
    assert_eq!(one.with(&region(&[Voter; 3]), &[fence(2)]), Some(one.clone()), "again");
    assert_eq!(one.with(&region(&[Voter; 3]), &[fence(3)]), None, "one of three is no quorum");
    let two = one.with(&region(&[Voter; 5]), &[fence(3)]).expect("three of five");
    assert_eq!(two.with(&region(&[Voter, Voter]), &[]), None, "a quorum of what it is now");
    assert_eq!(one.with(&region(&[Voter]), &[]), Some(FencedReplicas::default()), "the second is gone");
    assert_eq!(one.with(&region(&[Voter, Voter, Voter, Learner]), &[fence(4)]).expect("a learner").0.len(), 2);
}

#[test]
fn all_forms_survive_a_round_trip_and_refuse_cuts() {
    for answer in [DigestAnswer::Digest(digest(7)), DigestAnswer::NotSupported, DigestAnswer::Missing] {
        let bytes = answer.encode();
        assert_eq!(DigestAnswer::decode(&bytes), Some(answer));
        assert!((0..bytes.len()).all(|len| DigestAnswer::decode(&bytes[..len]).is_none()));
    }
    let fence = |id| FencedReplica { replica: ReplicaId(id), index: LogIndex(900), expected: digest(1) };
    let fenced = FencedReplicas(vec![fence(300), fence(4)]);
    let stored = fenced.encode();
    assert_eq!(FencedReplicas::decode(&stored), Some(fenced.clone()));
    assert!((0..stored.len()).all(|len| FencedReplicas::decode(&stored[..len]).is_none()));
    let (report, _) = judge(&region(&[Voter, Learner, Role::Witness]), LogIndex(900), &fenced, &of(&[Some(1), None]));
    let bytes = report.encode();
    assert_eq!(CheckReport::decode(&bytes), Some(report));
    assert!((0..bytes.len()).all(|len| CheckReport::decode(&bytes.slice(..len)).is_none()));
}

proptest! {
    #[test]
    fn whatever_comes_is_read_or_refused(bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        let _ = DigestAnswer::decode(&bytes);
        let _ = CheckReport::decode(&bytes);
        if let Some(fenced) = FencedReplicas::decode(&bytes) {
            prop_assert_eq!(FencedReplicas::decode(&fenced.encode()), Some(fenced));
        }
    }

    #[test]
    fn those_that_are_not_fenced_are_a_quorum_that_agrees(
        roles in prop::collection::vec(prop::sample::select(vec![Voter, Voter, Voter, Learner, Role::Witness]), 1..8),
        answers in prop::collection::vec(prop::option::of(0_u8..3), 8),
    ) {
        let region = region(&roles);
        let (report, to_fence) = judge(&region, LogIndex(9), &FencedReplicas::default(), &of(&answers));
        if !to_fence.is_empty() {
            prop_assert!(FencedReplicas::default().with(&region, &to_fence).is_some());
            let agree = report.replicas.iter().filter(|replica| replica.outcome == Same);
            let voters = agree.filter(|one| region.replica(one.replica).is_some_and(|it| it.role == Voter)).count();
            prop_assert!(2 * voters > roles.iter().filter(|role| role.votes_incoming()).count());
        }
    }
}
