//! Any message there is, for property tests.

use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{
    AppendOutcome, Body, Entry, EntryKind, Incarnation, KeyRange, LogIndex, Message, RegionDescriptor, RegionEpoch,
    RegionId, Replica, ReplicaId, Role, StoreId, Term,
};
use multiraft_transport::{
    Beat, BeatReplies, BeatReply, Beats, CaptureId, Forward, ForwardOutcome, ForwardReply, ForwardRequest, PeerMessage,
    RaftMessage, RegionMessage, RegionStep, SessionId, SessionSeq, SnapshotChunk, SnapshotHeader, SnapshotMessage,
    SnapshotStep, SupportAnswer, SupportHeartbeat, SupportMessage, SupportRound, SupportRoundAnswer, SupportVerdict,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// Mostly small, sometimes anything.
fn number() -> BoxedStrategy<u64> {
    prop_oneof![6 => 0..200_u64, 3 => 0..1_u64 << 40, 1 => any::<u64>(), 1 => Just(u64::MAX)].boxed()
}

fn bytes(length_max: usize) -> BoxedStrategy<Bytes> {
    prop_oneof![4 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 0..length_max)].prop_map(Bytes::from).boxed()
}

fn role() -> BoxedStrategy<Role> {
    select(vec![
        Role::Voter,
        Role::Learner,
        Role::Witness,
        Role::IncomingVoter,
        Role::OutgoingVoter,
        Role::DemotingVoter,
    ])
    .boxed()
}

fn epoch() -> BoxedStrategy<RegionEpoch> {
    (number(), number()).prop_map(|(conf_version, version)| RegionEpoch { conf_version, version }).boxed()
}

/// Descriptors that keep their invariant: ids ascend, no store twice.
pub(crate) fn descriptor() -> BoxedStrategy<RegionDescriptor> {
    let members = proptest::collection::btree_map(number(), (0..1_000_u64, role()), 0..12);
    (number(), bytes(300), bytes(300), epoch(), members)
        .prop_map(|(id, start, end, epoch, members)| {
            let members = members.into_iter().enumerate();
            let replicas = members.map(|(at, (id, (store, role)))| Replica {
                id: ReplicaId(id),
                store: StoreId(store * 16 + at as u64),
                role,
            });
            RegionDescriptor { id: RegionId(id), range: KeyRange { start, end }, epoch, replicas: replicas.collect() }
        })
        .boxed()
}

fn append() -> BoxedStrategy<Body> {
    let kind = select(vec![EntryKind::Empty, EntryKind::Command, EntryKind::Membership]);
    let entries = vec((prop_oneof![4 => Just(7), 1 => number()], kind, bytes(9000)), 0..20);
    (0..u64::MAX / 2, number(), number(), entries)
        .prop_map(|(prev, prev_term, commit, entries)| {
            let entries = (prev + 1..).zip(entries).map(|(index, (term, kind, data))| Entry {
                term: Term(term),
                index: LogIndex(index),
                kind,
                data: data.into(),
            });
            let entries = entries.collect();
            Body::Append { prev_index: LogIndex(prev), prev_term: Term(prev_term), commit: LogIndex(commit), entries }
        })
        .boxed()
}

fn body() -> BoxedStrategy<Body> {
    prop_oneof![
        1 => (number(), number())
            .prop_map(|(index, term)| Body::PreVote { last_index: LogIndex(index), last_term: Term(term) }),
        1 => any::<bool>().prop_map(|granted| Body::PreVoteReply { granted }),
        1 => (number(), number(), any::<bool>()).prop_map(|(index, term, transfer)| Body::Vote {
            last_index: LogIndex(index),
            last_term: Term(term),
            transfer
        }),
        1 => any::<bool>().prop_map(|granted| Body::VoteReply { granted }),
        4 => append(),
        1 => number().prop_map(|index| Body::AppendReply(AppendOutcome::Accepted { match_index: LogIndex(index) })),
        1 => (number(), number(), number()).prop_map(|(prev, index, term)| Body::AppendReply(AppendOutcome::Rejected {
            prev_index: LogIndex(prev),
            hint_index: LogIndex(index),
            hint_term: Term(term)
        })),
        1 => (number(), number()).prop_map(|(commit, round)| Body::Heartbeat { commit: LogIndex(commit), round }),
        1 => number().prop_map(|round| Body::HeartbeatReply { round }),
        1 => Just(Body::TimeoutNow),
        1 => prop_oneof![Just(Body::Promised), Just(Body::Release), Just(Body::Released)],
        1 => any::<u64>().prop_map(|epoch| Body::Fortify { epoch }),
        1 => any::<u64>().prop_map(|epoch| Body::Fortified { epoch }),
        1 => any::<u64>().prop_map(|term| Body::AskLeader { own_term: Term(term) }),
    ]
    .boxed()
}

fn raft() -> BoxedStrategy<RaftMessage> {
    let address = prop_oneof![2 => Just((5, 15, 16, 7)), 3 => (number(), number(), number(), number())];
    (address, body(), option::weighted(0.1, descriptor()))
        .prop_map(|((region, from, to, term), body, descriptor)| RaftMessage {
            region: RegionId(region),
            message: Message { from: ReplicaId(from), to: ReplicaId(to), term: Term(term), body },
            descriptor: descriptor.map(Arc::new),
        })
        .boxed()
}

fn beats() -> BoxedStrategy<Beats> {
    let beat = (number(), number(), number(), number(), number(), number()).prop_map(
        |(region, from, to, term, commit, round)| Beat {
            region: RegionId(region),
            from: ReplicaId(from),
            to: ReplicaId(to),
            term: Term(term),
            commit: LogIndex(commit),
            round,
        },
    );
    (number(), number(), number(), number(), number(), vec(beat, 0..30))
        .prop_map(|(incarnation, epoch, sequence, heard, heard_sequence, beats)| Beats {
            incarnation: Incarnation(incarnation),
            epoch,
            sequence,
            heard: (Incarnation(heard), heard_sequence),
            beats,
        })
        .boxed()
}

fn beat_replies() -> BoxedStrategy<BeatReplies> {
    let reply = (number(), number(), number(), number(), number()).prop_map(|(region, from, to, term, round)| {
        BeatReply { region: RegionId(region), from: ReplicaId(from), to: ReplicaId(to), term: Term(term), round }
    });
    (number(), number(), number(), vec(reply, 0..30))
        .prop_map(|(incarnation, epoch, sequence, replies)| BeatReplies {
            incarnation: Incarnation(incarnation),
            epoch,
            sequence,
            replies,
        })
        .boxed()
}

fn forward() -> BoxedStrategy<Forward> {
    let session = prop_oneof![Just(77_u128), any::<u128>()];
    let session = (session, number(), number(), number()).prop_map(|(session, opened, sequence, acknowledged)| {
        SessionSeq { session: SessionId(session), opened: LogIndex(opened), sequence, acknowledged }
    });
    let request = prop_oneof![
        4 => (option::of(session), bytes(9000))
            .prop_map(|(session, command)| ForwardRequest::Propose { session, command: command.into() }),
        1 => any::<bool>().prop_map(|lease| ForwardRequest::ReadIndex { lease }),
        1 => number().prop_map(|to| ForwardRequest::Transfer { to: StoreId(to) }),
        1 => bytes(100).prop_map(|request| ForwardRequest::Admin { request }),
        1 => bytes(9000).prop_map(|query| ForwardRequest::Query { query }),
        1 => option::of(bytes(100)).prop_map(|key| ForwardRequest::Locate { key }),
    ];
    (number(), number(), epoch(), number(), any::<u32>(), request)
        .prop_map(|(id, region, epoch, term, timeout_ms, request)| Forward {
            id,
            region: RegionId(region),
            epoch,
            term: Term(term),
            timeout_ms,
            request,
        })
        .boxed()
}

fn forward_reply() -> BoxedStrategy<ForwardReply> {
    let outcome = prop_oneof![
        (bytes(9000), number()).prop_map(|(reply, index)| ForwardOutcome::Applied { reply, index: LogIndex(index) }),
        (number(), number())
            .prop_map(|(index, term)| ForwardOutcome::ReadAt { index: LogIndex(index), term: Term(term) }),
        bytes(9000).prop_map(|answer| ForwardOutcome::Answered { answer }),
        number().prop_map(|term| ForwardOutcome::Leads { term: Term(term) }),
        Just(ForwardOutcome::Done),
        option::of(number()).prop_map(|hint| ForwardOutcome::NotLeader { hint: hint.map(StoreId) }),
        descriptor().prop_map(|current| ForwardOutcome::EpochMismatch { current: Arc::new(current) }),
        Just(ForwardOutcome::UnknownRegion),
        any::<u32>().prop_map(|retry_after_ms| ForwardOutcome::Busy { retry_after_ms }),
        Just(ForwardOutcome::NoSpace),
        Just(ForwardOutcome::SessionExpired),
        Just(ForwardOutcome::Uncertain),
        any::<String>().prop_map(|reason| ForwardOutcome::Refused { reason }),
        prop::collection::vec(descriptor().prop_map(Arc::new), 0..4)
            .prop_map(|regions| ForwardOutcome::Changed { regions }),
    ];
    (number(), outcome).prop_map(|(id, outcome)| ForwardReply { id, outcome }).boxed()
}

fn capture() -> BoxedStrategy<CaptureId> {
    (number(), number(), number())
        .prop_map(|(store, incarnation, number)| CaptureId {
            store: StoreId(store),
            incarnation: Incarnation(incarnation),
            number,
        })
        .boxed()
}

fn snapshot() -> BoxedStrategy<SnapshotMessage> {
    let step = prop_oneof![
        (number(), number(), descriptor(), number(), option::of(capture())).prop_map(
            |(index, term, descriptor, size_hint, capture)| {
                let (index, index_term) = (LogIndex(index), Term(term));
                SnapshotStep::Offer { index, index_term, descriptor: Arc::new(descriptor), size_hint, capture }
            }
        ),
        number().prop_map(|first_chunk| SnapshotStep::Accept { first_chunk }),
        any::<u32>().prop_map(|retry_after_ms| SnapshotStep::Refuse { retry_after_ms }),
        any::<bool>().prop_map(|installed| SnapshotStep::Finished { installed }),
    ];
    (number(), number(), number(), number(), number(), step)
        .prop_map(|(transfer, region, from, to, term, step)| SnapshotMessage {
            transfer,
            region: RegionId(region),
            from: ReplicaId(from),
            to: ReplicaId(to),
            term: Term(term),
            step,
        })
        .boxed()
}

fn region() -> BoxedStrategy<RegionMessage> {
    let step = prop_oneof![
        (number(), epoch()).prop_map(|(replica, epoch)| RegionStep::Ask { replica: ReplicaId(replica), epoch }),
        (descriptor(), any::<bool>(), number(), number()).prop_map(|(descriptor, merged, index, term)| {
            RegionStep::Tell { descriptor: Arc::new(descriptor), merged, committed: (LogIndex(index), Term(term)) }
        }),
    ];
    let step = prop_oneof![
        step,
        number().prop_map(|index| RegionStep::AskFrozen { index: LogIndex(index) }),
        (number(), number())
            .prop_map(|(id, index)| RegionStep::IsFrozen { replica: ReplicaId(id), index: LogIndex(index) }),
        (number(), number())
            .prop_map(|(id, index)| RegionStep::NeedSnapshot { replica: ReplicaId(id), index: LogIndex(index) }),
        (any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(replica, to, term, is_release)| {
            let (replica, to, term) = (ReplicaId(replica), ReplicaId(to), Term(term));
            if is_release {
                RegionStep::NotPromised { replica, to, term }
            } else {
                RegionStep::NotLed { replica, to, term }
            }
        }),
        number().prop_map(|index| RegionStep::AskDigest { index: LogIndex(index) }),
        number().prop_map(|id| RegionStep::BegunAnew { above: ReplicaId(id) }),
        (number(), number(), bytes(40)).prop_map(|(id, index, answer)| {
            RegionStep::Digest { replica: ReplicaId(id), index: LogIndex(index), answer }
        }),
    ];
    (number(), step).prop_map(|(region, step)| RegionMessage { region: RegionId(region), step }).boxed()
}

fn support() -> BoxedStrategy<SupportMessage> {
    let heartbeat = (number(), number(), number(), number(), number(), any::<u32>(), any::<bool>()).prop_map(
        |(incarnation, number, sequence, heard, heard_sequence, wish_ms, farewell)| SupportHeartbeat {
            incarnation: Incarnation(incarnation),
            number,
            sequence,
            heard: (Incarnation(heard), heard_sequence),
            wish_ms,
            farewell,
        },
    );
    let verdict = prop_oneof![
        any::<u32>().prop_map(|duration_ms| SupportVerdict::Supported { duration_ms }),
        Just(SupportVerdict::Withdrawn),
        Just(SupportVerdict::NotNow),
    ];
    let answer = (number(), number(), number(), number(), number(), verdict).prop_map(
        |(asker, number, answered, incarnation, sequence, verdict)| SupportAnswer {
            asker: Incarnation(asker),
            number,
            answered,
            incarnation: Incarnation(incarnation),
            sequence,
            verdict,
        },
    );
    let round = (number(), number(), number()).prop_map(|(incarnation, round, number)| SupportRound {
        incarnation: Incarnation(incarnation),
        round,
        number,
    });
    let round_answer = (number(), number(), number(), number()).prop_map(|(asker, round, incarnation, number)| {
        let (asker, incarnation) = (Incarnation(asker), Incarnation(incarnation));
        SupportRoundAnswer { asker, round, incarnation, number: Some(number).filter(|number| *number > 0) }
    });
    prop_oneof![
        heartbeat.prop_map(SupportMessage::Heartbeat),
        answer.prop_map(SupportMessage::Answer),
        round.prop_map(SupportMessage::Round),
        round_answer.prop_map(SupportMessage::RoundAnswer),
    ]
    .boxed()
}

pub(crate) fn message() -> BoxedStrategy<PeerMessage> {
    prop_oneof![
        8 => raft().prop_map(PeerMessage::Raft),
        1 => beats().prop_map(PeerMessage::Beats),
        1 => beat_replies().prop_map(PeerMessage::BeatReplies),
        2 => forward().prop_map(PeerMessage::Forward),
        2 => forward_reply().prop_map(PeerMessage::ForwardReply),
        1 => snapshot().prop_map(PeerMessage::Snapshot),
        1 => region().prop_map(PeerMessage::Region),
        1 => support().prop_map(PeerMessage::Support),
    ]
    .boxed()
}

pub(crate) fn header() -> BoxedStrategy<SnapshotHeader> {
    (number(), number(), number(), number(), number(), descriptor(), number(), capture())
        .prop_map(|(transfer, region, to, index, index_term, descriptor, first_chunk, capture)| SnapshotHeader {
            absorbed: Bytes::from_static(b"list"),
            transfer,
            region: RegionId(region),
            to: ReplicaId(to),
            index: LogIndex(index),
            index_term: Term(index_term),
            descriptor: Arc::new(descriptor),
            first_chunk,
            capture,
        })
        .boxed()
}

pub(crate) fn chunk() -> BoxedStrategy<SnapshotChunk> {
    (number(), any::<bool>(), bytes(9000), any::<u32>(), any::<u32>())
        .prop_map(|(number, last, data, crc, whole)| {
            let whole_crc = if last { whole } else { 0 };
            SnapshotChunk { number, last, data, crc, whole_crc }
        })
        .boxed()
}
