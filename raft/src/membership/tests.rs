//! Quorums against their definition, changes against the promise that makes them safe, and the codec.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::StoreId;

fn id(n: u64) -> ReplicaId {
    ReplicaId(n)
}

fn roles() -> impl Strategy<Value = Vec<(ReplicaId, Role)>> {
    let role = prop::sample::select(vec![
        Role::Voter,
        Role::Voter,
        Role::Learner,
        Role::Witness,
        Role::IncomingVoter,
        Role::OutgoingVoter,
        Role::DemotingVoter,
    ]);
    prop::collection::btree_map(1..20u64, role, 1..12)
        .prop_map(|roles| roles.into_iter().map(|(n, role)| (id(n), role)).collect())
}

/// A plain membership, of voters, witnesses and learners, with a voter that holds data.
fn plain() -> impl Strategy<Value = Membership> {
    let role = prop::sample::select(vec![Role::Voter, Role::Voter, Role::Voter, Role::Learner, Role::Witness]);
    prop::collection::btree_map(2..12u64, role, 0..7).prop_map(|roles| {
        let mut roles: Vec<_> = roles.into_iter().map(|(n, role)| (id(n), role)).collect();
        roles.push((id(1), Role::Voter));
        Membership::from_roles(roles)
    })
}

fn op() -> impl Strategy<Value = ChangeOp> {
    (0..6u8, 0..14u64, 1..20u64).prop_map(|(kind, n, store)| {
        let (id, store) = (id(n), StoreId(store));
        match kind {
            0 => ChangeOp::AddVoter { id, store },
            1 => ChangeOp::AddLearner { id, store },
            2 => ChangeOp::AddWitness { id, store },
            3 => ChangeOp::Promote { id },
            4 => ChangeOp::Demote { id },
            _ => ChangeOp::Remove { id },
        }
    })
}

fn change() -> impl Strategy<Value = MembershipChange> {
    prop_oneof![
        op().prop_map(MembershipChange::Simple),
        (prop::collection::vec(op(), 0..5), any::<bool>())
            .prop_map(|(ops, auto_leave)| MembershipChange::Joint { ops, auto_leave }),
        Just(MembershipChange::LeaveJoint),
    ]
}

/// The definition: more than half of those who count, in each half that there is.
fn is_quorum_by_definition(membership: &Membership, set: &BTreeSet<ReplicaId>) -> bool {
    let more_than_half = |voters: Vec<ReplicaId>| {
        let inside = voters.iter().filter(|voter| set.contains(voter)).count();
        inside * 2 > voters.len()
    };
    let incoming = more_than_half(membership.incoming_voters().collect());
    incoming && (!membership.is_joint() || more_than_half(membership.outgoing_voters().collect()))
}

/// The definition: somebody who holds data, in each half that there is.
fn is_held_by_definition(membership: &Membership, set: &BTreeSet<ReplicaId>) -> bool {
    let holds = |voter: &ReplicaId| set.contains(voter) && membership.role(*voter) != Some(Role::Witness);
    let (mut incoming, mut outgoing) = (membership.incoming_voters(), membership.outgoing_voters());
    incoming.any(|voter| holds(&voter)) && (!membership.is_joint() || outgoing.any(|voter| holds(&voter)))
}

/// All sets of the members that count, as quorums.
fn quorums(membership: &Membership) -> Vec<BTreeSet<ReplicaId>> {
    let voters: Vec<_> = membership.voters().collect();
    (0..1u32 << voters.len())
        .map(|bits| voters.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, id)| *id).collect())
        .filter(|set| membership.is_quorum(|id| BTreeSet::contains(set, &id)))
        .collect()
}

proptest! {
    #[test]
    fn quorum_is_a_majority_of_each_half(roles in roles(), set in prop::collection::btree_set(1..20u64, 0..12)) {
        let membership = Membership::from_roles(roles);
        let set: BTreeSet<_> = set.into_iter().map(id).collect();
        prop_assert_eq!(membership.is_quorum(|id| set.contains(&id)), is_quorum_by_definition(&membership, &set));
    }

    #[test]
    fn committed_index_is_the_highest_that_a_quorum_with_data_has_reached(
        roles in roles(),
        reached in prop::collection::vec(0..6u64, 20),
    ) {
        let membership = Membership::from_roles(roles);
        let of = |id: ReplicaId| LogIndex(reached[id.get() as usize]);
        let by_definition = (0..6u64)
            .filter(|index| {
                let set = membership.voters().filter(|id| of(*id) >= LogIndex(*index)).collect();
                is_quorum_by_definition(&membership, &set) && is_held_by_definition(&membership, &set)
            })
            .max()
            .unwrap_or(0);
        prop_assert_eq!(membership.committed_index(of), LogIndex(by_definition));
        let held = (0..6u64).filter(|index| {
            let set = membership.voters().filter(|id| of(*id) >= LogIndex(*index)).collect();
            is_held_by_definition(&membership, &set)
        });
        prop_assert_eq!(membership.held_index(of), LogIndex(held.max().unwrap_or(0)));
    }

    #[test]
    fn vote_is_decided_as_soon_as_no_answer_can_change_it(
        roles in roles(),
        answers in prop::collection::vec(prop::option::of(any::<bool>()), 20),
    ) {
        let membership = Membership::from_roles(roles);
        let of = |id: ReplicaId| answers[id.get() as usize];
        let granted = |open: bool| membership.is_quorum(|id| of(id).unwrap_or(open));
        let expected = match (granted(false), granted(true)) {
            (true, _) => VoteOutcome::Won,
            (false, true) => VoteOutcome::Pending,
            (false, false) => VoteOutcome::Lost,
        };
        prop_assert_eq!(membership.vote_outcome(of), expected);
    }

    /// What makes a change safe: no quorum before it is disjoint from a quorum after it (dissertation, sections 4.1, 4.3).
    #[test]
    fn quorums_before_and_after_a_change_overlap(before in plain(), first in change()) {
        let mut steps = vec![before];
        for change in [first, MembershipChange::LeaveJoint] {
            let Ok(next) = steps.last().expect("one at least").apply(&change) else { continue };
            steps.push(next);
        }
        for pair in steps.windows(2) {
            for old in quorums(&pair[0]) {
                for new in quorums(&pair[1]) {
                    prop_assert!(!old.is_disjoint(&new), "{:?} and {:?} of {:?}", old, new, pair);
                }
            }
        }
    }

    #[test]
    fn replicas_and_roles_change_alike(before in plain(), change in change()) {
        let replicas: Vec<_> = before
            .members()
            .iter()
            .map(|(id, role)| Replica { id: *id, store: StoreId(100 + id.get()), role: *role })
            .collect();
        match (before.apply(&change), apply_to_replicas(&replicas, &change)) {
            (Ok(membership), Ok(replicas)) => {
                prop_assert!(replicas.windows(2).all(|pair| pair[0].id < pair[1].id));
                let stores: BTreeSet<_> = replicas.iter().map(|replica| replica.store).collect();
                prop_assert_eq!(stores.len(), replicas.len());
                prop_assert!(membership.members().iter().any(|(id, _)| membership.may_lead(*id)));
                prop_assert_eq!(
                    Membership::from_replicas(&replicas).with_auto_leave(change.auto_leave()),
                    membership
                );
            }
            (_, Err(ChangeError::StoreTaken { .. })) => {}
            (membership, replicas) => prop_assert_eq!(membership.err(), replicas.err()),
        }
    }

    #[test]
    fn change_survives_encoding(change in change(), context in prop::collection::vec(any::<u8>(), 0..20)) {
        let bytes = change.encode(&context);
        prop_assert_eq!(MembershipChange::decode(&bytes), Ok((change, Bytes::from(context))));
    }

    #[test]
    fn decoding_garbage_gives_an_error_or_a_change(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first %= 3;
        }
        let bytes = Bytes::from(bytes);
        if let Ok((change, context)) = MembershipChange::decode(&bytes) {
            // One change has one form.
            prop_assert_eq!(change.encode(&context), bytes);
        }
    }
}

#[test]
fn bytes_of_a_change_are_fixed() {
    let ops = vec![ChangeOp::AddVoter { id: id(300), store: StoreId(4) }, ChangeOp::Remove { id: id(2) }];
    let change = MembershipChange::Joint { ops, auto_leave: true };
    assert_eq!(change.encode(b"c")[..], [1, 1, 1, 2, 0, 0xac, 0x02, 4, 5, 2, b'c']);
    assert_eq!(MembershipChange::LeaveJoint.encode(b"")[..], [1, 2]);
    assert_eq!(MembershipChange::Simple(ChangeOp::Promote { id: id(7) }).encode(b"")[..], [1, 0, 3, 7]);
}

#[test]
fn damaged_changes_are_named() {
    let decode = |bytes: &'static [u8]| MembershipChange::decode(&Bytes::from_static(bytes)).unwrap_err();
    assert_eq!(decode(&[]), ChangeDecodeError::Short);
    assert_eq!(decode(&[2, 0]), ChangeDecodeError::Version(2));
    assert_eq!(decode(&[1, 9]), ChangeDecodeError::Tag(9));
    assert_eq!(decode(&[1, 0, 6, 1]), ChangeDecodeError::Tag(6));
    assert_eq!(decode(&[1, 0, 5, 0x80]), ChangeDecodeError::Short);
    assert_eq!(decode(&[1, 0, 5, 0x80, 0]), ChangeDecodeError::Number, "a longer form of zero");
    assert_eq!(
        decode(&[1, 0, 5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
        ChangeDecodeError::Number,
        "more than 64 bits"
    );
    assert_eq!(decode(&[1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]), ChangeDecodeError::Short, "a count that lies");
}

fn three() -> Membership {
    Membership::from_roles(vec![(id(1), Role::Voter), (id(2), Role::Voter), (id(3), Role::Learner)])
}

#[test]
fn joint_change_goes_through_joint_roles_and_out_again() {
    let ops = vec![
        ChangeOp::AddVoter { id: id(4), store: StoreId(4) },
        ChangeOp::Remove { id: id(1) },
        ChangeOp::Demote { id: id(2) },
        ChangeOp::Promote { id: id(3) },
    ];
    let joint = three().apply(&MembershipChange::Joint { ops, auto_leave: true }).unwrap();
    assert_eq!(
        joint.members(),
        [
            (id(1), Role::OutgoingVoter),
            (id(2), Role::DemotingVoter),
            (id(3), Role::IncomingVoter),
            (id(4), Role::IncomingVoter)
        ]
    );
    assert!(joint.is_joint() && joint.auto_leave() && joint.may_lead(id(1)));
    let after = joint.apply(&MembershipChange::LeaveJoint).unwrap();
    assert_eq!(after.members(), [(id(2), Role::Learner), (id(3), Role::Voter), (id(4), Role::Voter)]);
    assert!(!after.is_joint() && !after.auto_leave() && !after.may_lead(id(2)));
}

#[test]
fn change_that_does_not_fit_is_refused_with_its_reason() {
    let store = StoreId(9);
    let simple = |op| three().apply(&MembershipChange::Simple(op)).unwrap_err();
    let joint = |ops| three().apply(&MembershipChange::Joint { ops, auto_leave: true }).unwrap_err();
    assert_eq!(simple(ChangeOp::AddVoter { id: id(1), store }), ChangeError::AlreadyMember { id: id(1) });
    assert_eq!(simple(ChangeOp::AddVoter { id: id(0), store }), ChangeError::ZeroId);
    assert_eq!(simple(ChangeOp::Remove { id: id(9) }), ChangeError::NotMember { id: id(9) });
    assert_eq!(simple(ChangeOp::Promote { id: id(1) }), ChangeError::WrongRole { id: id(1), role: Role::Voter });
    assert_eq!(simple(ChangeOp::Demote { id: id(3) }), ChangeError::WrongRole { id: id(3), role: Role::Learner });
    assert_eq!(joint(vec![]), ChangeError::Empty);
    assert_eq!(joint(vec![ChangeOp::AddWitness { id: id(5), store }]), ChangeError::WitnessInJoint { id: id(5) });
    let twice = vec![ChangeOp::Remove { id: id(2) }, ChangeOp::Demote { id: id(2) }];
    assert_eq!(joint(twice), ChangeError::Twice { id: id(2) });
    let all = vec![ChangeOp::Remove { id: id(1) }, ChangeOp::Demote { id: id(2) }];
    assert_eq!(joint(all), ChangeError::NoVoterLeft);
    assert_eq!(three().apply(&MembershipChange::LeaveJoint).unwrap_err(), ChangeError::NotJoint);

    let with_witness = Membership::from_roles(vec![(id(1), Role::Voter), (id(2), Role::Witness)]);
    let goes = ChangeOp::Remove { id: id(1) };
    let alone = with_witness.apply(&MembershipChange::Joint { ops: vec![goes], auto_leave: true });
    assert_eq!(alone, Err(ChangeError::NoVoterLeft), "a witness alone cannot lead");
    let alone = with_witness.apply(&MembershipChange::Simple(goes));
    assert_eq!(alone, Err(ChangeError::VoterBesideWitness { id: id(1) }));
    assert!(with_witness.is_voter(id(2)) && !with_witness.may_lead(id(2)));
}

#[test]
fn two_replicas_never_share_a_store() {
    let replicas = [Replica { id: id(1), store: StoreId(1), role: Role::Voter }];
    let change = MembershipChange::Simple(ChangeOp::AddLearner { id: id(2), store: StoreId(1) });
    assert_eq!(apply_to_replicas(&replicas, &change), Err(ChangeError::StoreTaken { store: StoreId(1), id: id(1) }));
}
