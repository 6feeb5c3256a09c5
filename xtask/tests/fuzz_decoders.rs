//! Every decoder of what comes from the network, on mutated and random bytes.
//!
//! A smoke test, not a search: quick and the same on every machine. `FUZZ_ITERATIONS` makes it longer, `FUZZ_SEED` moves it
//! elsewhere. A failure prints the bytes.

use std::panic::catch_unwind;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{
    AppendOutcome, Body, Entry, EntryKind, Incarnation, KeyRange, LogIndex, Message, Payload, RegionDescriptor,
    RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId, Term,
};
use multiraft_transport::{
    Beat, BeatReplies, BeatReply, Beats, CaptureId, Forward, ForwardOutcome, ForwardReply, ForwardRequest,
    FrameBuilder, PeerMessage, RaftMessage, RegionMessage, RegionStep, SnapshotHeader, SnapshotMessage, SnapshotStep,
    SupportAnswer, SupportHeartbeat, SupportMessage, SupportRound, SupportRoundAnswer, SupportVerdict,
    encode_descriptor, encode_snapshot_header, fuzz_decode,
};

#[test]
fn decoders_survive_any_bytes() {
    let iterations = number("FUZZ_ITERATIONS", 5_000);
    let mut random = Random(number("FUZZ_SEED", 1).wrapping_mul(2).wrapping_add(1));
    let corpus = corpus();
    for input in &corpus {
        survive(input);
    }
    for _ in 0..iterations {
        let input = match random.below(8) {
            0 => noise(&mut random),
            _ => mutated(&corpus, &mut random),
        };
        survive(&input);
    }
}

#[test]
fn corpus_is_what_the_encoders_write() {
    for input in corpus() {
        let accepted = multiraft_transport::decode_frame(&Bytes::from(input.clone()), &Default::default()).is_ok()
            || multiraft_transport::decode_descriptor(&Bytes::from(input.clone())).is_ok()
            || multiraft_transport::decode_snapshot_header(&Bytes::from(input.clone()), &Default::default()).is_ok();
        assert!(accepted, "mutants of what nothing accepts test nothing: {}", hex(&input));
    }
}

fn survive(input: &[u8]) {
    if catch_unwind(|| fuzz_decode(input)).is_err() {
        panic!("a decoder failed on these {} bytes: {}", input.len(), hex(input));
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a whole number"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A sequence of numbers from a seed: xorshift64*, good enough to scatter mutations.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from((self.next() >> 32) % limit.max(1) as u64).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}

fn noise(random: &mut Random) -> Vec<u8> {
    let length = random.below(200);
    (0..length).map(|_| random.byte()).collect()
}

/// One of the corpus, changed in one to four places.
fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len());
        match random.below(6) {
            0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            1 if !input.is_empty() => input[at] = random.byte(),
            // What counts and lengths look like when they lie.
            2 if !input.is_empty() => input[at] = 0xff,
            3 => input.truncate(at),
            4 => input.insert(at, random.byte()),
            _ => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input
}

/// Valid inputs of every kind, to start from.
fn corpus() -> Vec<Vec<u8>> {
    let messages = messages();
    let mut corpus: Vec<Vec<u8>> = messages.iter().map(|message| frame(std::slice::from_ref(message))).collect();
    corpus.push(frame(&messages));
    let mut bytes = Vec::new();
    encode_descriptor(&descriptor(), &mut bytes);
    corpus.push(bytes);
    let header = SnapshotHeader {
        absorbed: Bytes::from_static(&[1, 0]),
        transfer: 1,
        region: RegionId(7),
        to: ReplicaId(3),
        index: LogIndex(90),
        index_term: Term(4),
        descriptor: Arc::new(descriptor()),
        first_chunk: 2,
        capture: CaptureId { store: StoreId(1), incarnation: Incarnation(2), number: 3 },
    };
    let mut bytes = Vec::new();
    encode_snapshot_header(&header, &mut bytes);
    corpus.push(bytes);
    corpus
}

fn frame(messages: &[PeerMessage]) -> Vec<u8> {
    let mut builder = FrameBuilder::new();
    for message in messages {
        builder.push(message);
    }
    builder.take().body().to_vec()
}

fn descriptor() -> RegionDescriptor {
    let replica = |id, store, role| Replica { id: ReplicaId(id), store: StoreId(store), role };
    RegionDescriptor {
        id: RegionId(7),
        range: KeyRange { start: Bytes::from_static(b"g"), end: Bytes::from_static(b"p") },
        epoch: RegionEpoch { conf_version: 3, version: 5 },
        replicas: vec![replica(1, 1, Role::Voter), replica(3, 2, Role::IncomingVoter), replica(9, 3, Role::Learner)],
    }
}

fn messages() -> Vec<PeerMessage> {
    let (index, term) = (LogIndex(300), Term(4));
    let entry = |index, kind, data: &'static [u8]| Entry { term, index, kind, data: Payload::copy_from_slice(data) };
    let entries = vec![
        entry(index.next(), EntryKind::Empty, b""),
        entry(index.plus(2), EntryKind::Command, b"some command"),
        entry(index.plus(3), EntryKind::Membership, &[0xff; 40]),
    ];
    let bodies = [
        Body::PreVote { last_index: index, last_term: term },
        Body::VoteReply { granted: true },
        Body::Vote { last_index: index, last_term: term, transfer: true },
        Body::Append { prev_index: index, prev_term: term, commit: LogIndex(299), entries },
        Body::AppendReply(AppendOutcome::Accepted { match_index: index }),
        Body::AppendReply(AppendOutcome::Rejected { prev_index: index, hint_index: LogIndex(9), hint_term: Term(2) }),
        Body::Heartbeat { commit: index, round: 17 },
        Body::HeartbeatReply { round: 17 },
        Body::TimeoutNow,
    ];
    let mut messages: Vec<PeerMessage> = bodies
        .into_iter()
        .map(|body| {
            let message = Message { from: ReplicaId(1), to: ReplicaId(3), term, body };
            PeerMessage::Raft(RaftMessage { region: RegionId(7), message, descriptor: Some(Arc::new(descriptor())) })
        })
        .collect();
    messages.extend(store_messages());
    messages.extend(support_messages());
    messages
}

fn store_messages() -> Vec<PeerMessage> {
    let (region, from, to, term) = (RegionId(7), ReplicaId(1), ReplicaId(3), Term(4));
    let incarnation = Incarnation(2);
    let request = ForwardRequest::Propose { session: None, command: Payload::copy_from_slice(b"a command") };
    let forward = |request| Forward { id: 5, region, epoch: RegionEpoch::FIRST, term, timeout_ms: 900, request };
    let reply = |outcome| PeerMessage::ForwardReply(ForwardReply { id: 5, outcome });
    let offer = SnapshotStep::Offer {
        index: LogIndex(90),
        index_term: term,
        descriptor: Arc::new(descriptor()),
        size_hint: 1 << 20,
        capture: Some(CaptureId { store: StoreId(1), incarnation: Incarnation(2), number: 3 }),
    };
    let snapshot = |step| PeerMessage::Snapshot(SnapshotMessage { transfer: 8, region, from, to, term, step });
    vec![
        PeerMessage::Beats(Beats {
            incarnation,
            epoch: 1,
            sequence: 44,
            heard: (incarnation, 43),
            beats: vec![Beat { region, from, to, term, commit: LogIndex(90), round: 3 }; 3],
        }),
        PeerMessage::BeatReplies(BeatReplies {
            incarnation,
            epoch: 1,
            sequence: 44,
            replies: vec![BeatReply { region, from, to, term, round: 3 }; 3],
        }),
        PeerMessage::Forward(forward(request)),
        PeerMessage::Forward(forward(ForwardRequest::ReadIndex { lease: false })),
        PeerMessage::Forward(forward(ForwardRequest::Transfer { to: StoreId(2) })),
        reply(ForwardOutcome::Applied { reply: Bytes::from_static(b"done"), index: LogIndex(91) }),
        reply(ForwardOutcome::EpochMismatch { current: Arc::new(descriptor()) }),
        reply(ForwardOutcome::NotLeader { hint: Some(StoreId(2)) }),
        reply(ForwardOutcome::Refused { reason: "no".to_owned() }),
        reply(ForwardOutcome::Changed { regions: vec![Arc::new(descriptor()), Arc::new(descriptor())] }),
        PeerMessage::Forward(forward(ForwardRequest::Query { query: Bytes::from_static(b"a query") })),
        PeerMessage::Forward(forward(ForwardRequest::Locate { key: None })),
        PeerMessage::Forward(forward(ForwardRequest::Locate { key: Some(Bytes::from_static(b"a key")) })),
        reply(ForwardOutcome::Leads { term: Term(7) }),
        reply(ForwardOutcome::Answered { answer: Bytes::from_static(b"an answer") }),
        PeerMessage::Forward(forward(ForwardRequest::Admin { request: Bytes::from_static(b"split") })),
        PeerMessage::Region(RegionMessage {
            region,
            step: RegionStep::Tell {
                descriptor: Arc::new(descriptor()),
                merged: true,
                committed: (LogIndex(7), Term(2)),
            },
        }),
        PeerMessage::Region(RegionMessage { region, step: RegionStep::AskDigest { index: LogIndex(7) } }),
        PeerMessage::Region(RegionMessage {
            region,
            step: RegionStep::Digest {
                replica: ReplicaId(21),
                index: LogIndex(7),
                answer: Bytes::from_static(b"a digest"),
            },
        }),
        snapshot(offer),
        snapshot(SnapshotStep::Accept { first_chunk: 2 }),
        snapshot(SnapshotStep::Finished { installed: true }),
    ]
}

fn support_messages() -> Vec<PeerMessage> {
    let (own, asker) = (Incarnation(4), Incarnation(3));
    let heartbeat = SupportHeartbeat {
        incarnation: asker,
        number: 2,
        sequence: 44,
        heard: (own, 43),
        wish_ms: 1000,
        farewell: true,
    };
    let verdict = SupportVerdict::Supported { duration_ms: 1000 };
    let answer = SupportAnswer { asker, number: 2, answered: 44, incarnation: own, sequence: 45, verdict };
    let all = [
        SupportMessage::Heartbeat(heartbeat),
        SupportMessage::Answer(answer),
        SupportMessage::Round(SupportRound { incarnation: asker, round: 300, number: 2 }),
        SupportMessage::RoundAnswer(SupportRoundAnswer { asker, round: 300, incarnation: own, number: Some(2) }),
    ];
    all.map(PeerMessage::Support).to_vec()
}
