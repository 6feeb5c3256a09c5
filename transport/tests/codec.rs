//! The wire format: everything comes back, nothing breaks it, and it is as small as it is meant to be.

#[path = "support/arbitrary.rs"]
mod arbitrary;

use std::time::{Duration, Instant};

use bytes::Bytes;
use multiraft_raft::{Body, Entry, EntryKind, Incarnation, LogIndex, Message, RegionId, ReplicaId, Term};
use multiraft_transport::{
    Beat, BeatReplies, BeatReply, Beats, FrameBuilder, Limits, PeerMessage, RaftMessage, WireFault, decode_descriptor,
    decode_frame, decode_snapshot_chunk, decode_snapshot_header, encode_descriptor, encode_snapshot_chunk,
    encode_snapshot_header, footprint, fuzz_decode,
};
use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};

fn encode(messages: &[PeerMessage]) -> Bytes {
    let mut builder = FrameBuilder::new();
    for message in messages {
        assert!(builder.has_room(message, &Limits::default()));
        builder.push(message);
    }
    let (length, count) = (builder.len(), builder.message_count());
    let frame = builder.take();
    assert_eq!((frame.body().len(), frame.message_count()), (length, count));
    assert_eq!(frame.clone().into_wire()[..4], (length as u32).to_le_bytes());
    assert!(builder.is_empty());
    frame.body()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_frame_of_any_messages_comes_back(messages in vec(arbitrary::message(), 0..20)) {
        let body = encode(&messages);
        prop_assert!(footprint(&messages) >= std::mem::size_of_val(messages.as_slice()));
        prop_assert_eq!(decode_frame(&body, &Limits::default()), Ok(messages));
    }

    #[test]
    fn a_frame_stays_within_what_was_promised_room_for(message in arbitrary::message()) {
        let body = encode(std::slice::from_ref(&message));
        let tight = |frame_bytes_max| Limits { frame_bytes_max, ..Limits::default() };
        // Whatever has room under a limit also keeps it.
        for limit in [body.len() / 2, body.len().saturating_sub(1)] {
            prop_assert!(!FrameBuilder::new().has_room(&message, &tight(limit)));
            prop_assert!(tight(limit).admit(&message).is_err());
        }
    }

    #[test]
    fn a_frame_that_is_cut_short_is_an_error_or_ends_between_messages(
        messages in vec(arbitrary::message(), 1..4), at in any::<prop::sample::Index>()
    ) {
        let body = encode(&messages);
        let cut = body.slice(..at.index(body.len()));
        if let Ok(decoded) = decode_frame(&cut, &Limits::default()) {
            prop_assert_eq!(&decoded[..], &messages[..decoded.len()]);
            prop_assert!(decoded.len() < messages.len());
        }
    }

    #[test]
    fn descriptors_headers_and_chunks_come_back(
        descriptor in arbitrary::descriptor(), header in arbitrary::header(), chunk in arbitrary::chunk()
    ) {
        let limits = Limits::default();
        let mut out = Vec::new();
        encode_descriptor(&descriptor, &mut out);
        prop_assert_eq!(decode_descriptor(&std::mem::take(&mut out).into()), Ok(descriptor));
        encode_snapshot_header(&header, &mut out);
        prop_assert_eq!(decode_snapshot_header(&std::mem::take(&mut out).into(), &limits), Ok(header));
        encode_snapshot_chunk(&chunk, &mut out);
        prop_assert_eq!(decode_snapshot_chunk(&out.into(), &limits), Ok(chunk));
    }
}

/// splitmix64, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Good encodings of all kinds, to be spoiled.
fn corpus() -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    let mut corpus = vec![Vec::new()];
    let mut sample = |strategy: BoxedStrategy<Vec<u8>>| {
        let tree = strategy.new_tree(&mut runner).expect("a value");
        corpus.push(tree.current());
    };
    for _ in 0..40 {
        sample(vec(arbitrary::message(), 1..6).prop_map(|messages| encode(&messages).to_vec()).boxed());
        let descriptor = arbitrary::descriptor().prop_map(|descriptor| {
            let mut out = Vec::new();
            encode_descriptor(&descriptor, &mut out);
            out
        });
        sample(descriptor.boxed());
        let header = arbitrary::header().prop_map(|header| {
            let mut out = Vec::new();
            encode_snapshot_header(&header, &mut out);
            out
        });
        sample(header.boxed());
    }
    corpus.iter_mut().for_each(|bytes| bytes.truncate(2000));
    corpus
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const TELLING: [u8; 8] = [0x00, 0x01, 0x7f, 0x80, 0xff, 0x10, 0x20, 0x40];
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = TELLING[random.below(TELLING.len())],
            2 => bytes.insert(at, random.next() as u8),
            3 if !bytes.is_empty() => drop(bytes.remove(at)),
            4 => bytes.truncate(at),
            _ => {
                let end = at + random.below(bytes.len() - at);
                let piece = bytes[at..end].to_vec();
                bytes.extend_from_slice(&piece);
            }
        }
    }
}

/// Stops early on a slow machine: it is a smoke test, a fuzzer goes on from [`fuzz_decode`].
#[test]
fn two_hundred_thousand_spoiled_inputs_break_nothing() {
    let (corpus, started) = (corpus(), Instant::now());
    let mut random = Random(1);
    let mut done = 0;
    while done < 200_000 && started.elapsed() < Duration::from_secs(20) {
        let mut input = corpus[random.below(corpus.len())].clone();
        mutate(&mut input, &mut random);
        fuzz_decode(&input);
        done += 1;
    }
    println!("{done} inputs in {:?}", started.elapsed());
    assert!(done >= 10_000, "{done} inputs only");
}

/// Ten thousand groups with what a long-lived cluster's numbers look like.
fn rows() -> impl Iterator<Item = (RegionId, ReplicaId, ReplicaId, Term, LogIndex)> {
    let mut random = Random(7);
    let mut region = 1000;
    (0..10_000).map(move |_| {
        region += 1 + random.next() % 5;
        let from = region * 3 + random.next() % 3;
        let to = region * 3 + random.next() % 3;
        let (term, commit) = (5 + random.next() % 4, 10_000 + random.next() % 50_000);
        (RegionId(region), ReplicaId(from), ReplicaId(to), Term(term), LogIndex(commit))
    })
}

#[test]
fn ten_thousand_beats_take_eight_bytes_each_and_their_answers_five() {
    let beats = rows().map(|(region, from, to, term, commit)| Beat { region, from, to, term, commit, round: 0 });
    let beats = Beats {
        incarnation: Incarnation(3),
        epoch: 4,
        sequence: 900,
        heard: (Incarnation(2), 800),
        beats: beats.collect(),
    };
    let length = encode(&[PeerMessage::Beats(beats)]).len();
    println!("{:.2} bytes a beat", length as f64 / 10_000.0);
    assert!(length < 80_000, "{length}");
    let replies = rows().map(|(region, to, from, term, _)| BeatReply { region, from, to, term, round: 0 });
    let replies = BeatReplies { incarnation: Incarnation(3), epoch: 4, sequence: 900, replies: replies.collect() };
    let length = encode(&[PeerMessage::BeatReplies(replies)]).len();
    println!("{:.2} bytes a reply", length as f64 / 10_000.0);
    assert!(length < 50_000, "{length}");
}

fn append(data: Bytes, prev_index: LogIndex) -> PeerMessage {
    let entry = Entry { term: Term(5), index: prev_index.next(), kind: EntryKind::Command, data: data.into() };
    let body = Body::Append { prev_index, prev_term: Term(5), commit: prev_index, entries: vec![entry] };
    let message = Message { from: ReplicaId(30), to: ReplicaId(31), term: Term(5), body };
    PeerMessage::Raft(RaftMessage { region: RegionId(10), message, descriptor: None })
}

#[test]
fn a_second_append_of_a_group_costs_six_bytes_beside_its_data() {
    let one = encode(&[append(Bytes::new(), LogIndex(1000))]).len();
    let two = encode(&[append(Bytes::new(), LogIndex(1000)), append(Bytes::new(), LogIndex(1001))]).len();
    assert_eq!(two - one, 6);
}

#[test]
fn limits_hold_for_whole_frames() {
    let limits = Limits { frame_bytes_max: 1000, messages_max: 3, items_max: 2, ..Limits::default() };
    let message = append(Bytes::new(), LogIndex(1));
    let fault = |messages: &[PeerMessage]| decode_frame(&encode(messages), &limits).expect_err("over a limit").fault;
    let entries = fault(&vec![message; 3]);
    assert_eq!(entries, WireFault::Limit { what: "entries", found: 1, limit: 2 });
    let large = fault(&[append(Bytes::from(vec![0; 1000]), LogIndex(1))]);
    assert!(matches!(large, WireFault::Limit { what: "bytes of frame", .. }), "{large}");
    let timeout = |_| {
        let message = Message { from: ReplicaId(1), to: ReplicaId(2), term: Term(1), body: Body::TimeoutNow };
        PeerMessage::Raft(RaftMessage { region: RegionId(1), message, descriptor: None })
    };
    let many = fault(&(0..4).map(timeout).collect::<Vec<_>>());
    assert_eq!(many, WireFault::Limit { what: "messages", found: 4, limit: 3 });
}

#[test]
fn an_error_names_place_and_reason() {
    let mut body = encode(&[append(Bytes::from_static(b"abc"), LogIndex(1))]).to_vec();
    body.truncate(body.len() - 2);
    let error = decode_frame(&body.into(), &Limits::default()).expect_err("cut short");
    assert_eq!(error.to_string(), "byte 10: 2 more bytes are needed for an entry");
    let error = decode_frame(&Bytes::from_static(&[0x1f]), &Limits::default()).expect_err("no such kind");
    assert_eq!(error.to_string(), "byte 0: 0x1f is no known kind of message");
}
