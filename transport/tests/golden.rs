//! Wire versions 1 and 2, to the byte: what version 1 has not is said so. Whoever must change one of these changes [`WIRE_VERSION`] too, and
//! `docs/wire-format.md`.

use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{
    AppendOutcome, Body, Entry, EntryKind, Incarnation, KeyRange, LogIndex, Message, Payload, RegionDescriptor,
    RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId, Term,
};
use multiraft_transport::{
    Beat, BeatReplies, BeatReply, Beats, CaptureId, Forward, ForwardOutcome, ForwardReply, ForwardRequest,
    FrameBuilder, Limits, PeerMessage, RaftMessage, RegionMessage, RegionStep, SessionId, SessionSeq, SnapshotChunk,
    SnapshotHeader, SnapshotMessage, SnapshotStep, SupportAnswer, SupportHeartbeat, SupportMessage, SupportRound,
    SupportRoundAnswer, SupportVerdict, WIRE_VERSION, decode_frame, encode_snapshot_chunk, encode_snapshot_header,
};

/// `hex` may have spaces and comments in brackets.
fn unhex(hex: &str) -> Vec<u8> {
    let mut depth = 0;
    let digits: Vec<u32> = hex
        .chars()
        .filter(|&c| {
            depth += i32::from(c == '[') - i32::from(c == ']');
            depth == 0 && c != ']'
        })
        .filter_map(|c| c.to_digit(16))
        .collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn is_written_as(messages: &[PeerMessage], hex: &str) {
    assert_eq!(WIRE_VERSION, 2, "a new version keeps these for the old one, and adds its own");
    let mut builder = FrameBuilder::new();
    messages.iter().for_each(|message| builder.push(message));
    let expected = unhex(hex);
    let body = builder.take().body();
    assert_eq!(body, expected, "{body:02x?} where {expected:02x?} is documented");
    assert_eq!(decode_frame(&body, &Limits::default()).as_deref(), Ok(messages));
}

fn raft(region: u64, from: u64, to: u64, term: u64, body: Body) -> PeerMessage {
    let message = Message { from: ReplicaId(from), to: ReplicaId(to), term: Term(term), body };
    PeerMessage::Raft(RaftMessage { region: RegionId(region), message, descriptor: None })
}

fn entry(term: u64, index: u64, kind: EntryKind, data: &'static [u8]) -> Entry {
    Entry { term: Term(term), index: LogIndex(index), kind, data: Payload::copy_from_slice(data) }
}

fn descriptor() -> Arc<RegionDescriptor> {
    let replica = |id, store| Replica { id: ReplicaId(id), store: StoreId(store), role: Role::Voter };
    Arc::new(RegionDescriptor {
        id: RegionId(7),
        range: KeyRange { start: Bytes::from_static(b"g"), end: Bytes::new() },
        epoch: RegionEpoch { conf_version: 1, version: 2 },
        replicas: vec![replica(21, 1), replica(22, 2)],
    })
}

const DESCRIPTOR: &str = "01 07 [start] 01 67 [end] 00 [epoch] 01 02 [two replicas] 02 [21] 2a 01 00 [22] 02 02 00";

#[test]
fn votes() {
    let (last_index, last_term) = (LogIndex(100), Term(4));
    let asked = [
        raft(7, 21, 22, 5, Body::PreVote { last_index, last_term }),
        raft(7, 21, 22, 5, Body::Vote { last_index, last_term, transfer: true }),
        raft(7, 21, 22, 5, Body::TimeoutNow),
    ];
    let hex = "00 [region] 0e [from] 2a [to] 02 [term] 0a [last index] c8 01 [last term: one less] 01
               a2 [same address, transfer] 00 01
               29";
    is_written_as(&asked, hex);
    let answered = [
        raft(7, 22, 21, 5, Body::PreVoteReply { granted: true }),
        raft(8, 25, 24, 5, Body::VoteReply { granted: false }),
    ];
    is_written_as(&answered, "81 0e 2c 01 0a  03 [region + 1] 02 [from + 3] 06 [to: from - 1] 01 [same term] 00");
}

#[test]
fn promises() {
    let said = [
        raft(7, 21, 22, 5, Body::Fortify { epoch: 3 }),
        raft(7, 21, 22, 5, Body::Release),
        raft(7, 22, 21, 5, Body::Fortified { epoch: 300 }),
        raft(7, 22, 21, 5, Body::Released),
        raft(7, 22, 21, 5, Body::Promised),
        raft(7, 22, 21, 5, Body::AskLeader { own_term: Term(6) }),
    ];
    let hex = "0b [region] 0e [from] 2a [to] 02 [term] 0a [epoch] 03
               2d
               0c [same region] 00 [from + 1] 02 [to: from - 1] 01 [same term] 00 [epoch] ac 02
               2e
               2a
               2f [term + 1] 02";
    is_written_as(&said, hex);
}

#[test]
fn a_vote_with_a_descriptor() {
    let PeerMessage::Raft(mut message) = raft(7, 21, 22, 5, Body::VoteReply { granted: true }) else { unreachable!() };
    message.descriptor = Some(descriptor());
    is_written_as(&[PeerMessage::Raft(message)], &format!("c3 0e 2a 02 0a {DESCRIPTOR}"));
}

#[test]
fn appends_and_their_answers() {
    let entries = vec![
        entry(4, 101, EntryKind::Command, b"ab"),
        entry(4, 102, EntryKind::Membership, b"c"),
        entry(5, 103, EntryKind::Empty, b""),
    ];
    let append =
        |prev, entries| Body::Append { prev_index: LogIndex(prev), prev_term: Term(4), commit: LogIndex(99), entries };
    let hex = "04 0e 2a 02 0a [prev 100] c8 01 [term 4] 01 [commit 99] 01 [three entries] 03
               [2 bytes, command, new term] 13 [4] 01 61 62
               [1 byte, membership] 0c 63
               [0 bytes, empty, new term] 01 [5] 02
               [a probe] 24 [prev 103] 00 01 [commit 99] 07 00";
    is_written_as(&[raft(7, 21, 22, 5, append(100, entries)), raft(7, 21, 22, 5, append(103, vec![]))], hex);
    let accepted = Body::AppendReply(AppendOutcome::Accepted { match_index: LogIndex(103) });
    let rejected = Body::AppendReply(AppendOutcome::Rejected {
        prev_index: LogIndex(100),
        hint_index: LogIndex(90),
        hint_term: Term(3),
    });
    is_written_as(
        &[raft(7, 22, 21, 5, accepted), raft(7, 22, 21, 5, rejected)],
        "05 0e 2c 01 0a ce 01  26 [100] 05 [90] 13 [3] 03",
    );
}

#[test]
fn heartbeats_one_by_one_and_together() {
    let single = [
        raft(7, 21, 22, 5, Body::Heartbeat { commit: LogIndex(9), round: 3 }),
        raft(7, 21, 22, 5, Body::HeartbeatReply { round: 3 }),
    ];
    is_written_as(&single, "07 0e 2a 02 0a 12 03  28 03");
    let beat = |region, from, to, commit, round| Beat {
        region: RegionId(region),
        from: ReplicaId(from),
        to: ReplicaId(to),
        term: Term(5),
        commit: LogIndex(commit),
        round,
    };
    let beats = Beats {
        incarnation: Incarnation(3),
        epoch: 4,
        sequence: 200,
        heard: (Incarnation(2), 9),
        beats: vec![beat(1, 1, 2, 50, 0), beat(2, 2, 3, 50, 0), beat(3, 3, 4, 51, 7), beat(5, 4, 5, 51, 7)],
    };
    let hex = "10 [incarnation] 03 [epoch] 04 [sequence] c8 01 [heard] 02 09 [four beats] 04
               [region, from, to, term, commit] 2f 02 02 02 0a 64
               [all as predicted] 00
               [round, commit] 30 0e 02
               [region] 01 02";
    is_written_as(&[PeerMessage::Beats(beats)], hex);
    let reply = |region, from, to, round| BeatReply {
        region: RegionId(region),
        from: ReplicaId(from),
        to: ReplicaId(to),
        term: Term(5),
        round,
    };
    let replies = BeatReplies {
        incarnation: Incarnation(3),
        epoch: 4,
        sequence: 200,
        replies: vec![reply(1, 2, 1, 0), reply(2, 4, 3, 1)],
    };
    is_written_as(
        &[PeerMessage::BeatReplies(replies)],
        "11 03 04 c8 01 02 [region, from, to, term] 0f 02 04 01 0a [round] 10 02",
    );
}

#[test]
fn support_between_stores() {
    let heartbeat = SupportHeartbeat {
        incarnation: Incarnation(3),
        number: 4,
        sequence: 200,
        heard: (Incarnation(2), 9),
        wish_ms: 1000,
        farewell: false,
    };
    let answer = SupportAnswer {
        asker: Incarnation(3),
        number: 4,
        answered: 200,
        incarnation: Incarnation(2),
        sequence: 10,
        verdict: SupportVerdict::Supported { duration_ms: 500 },
    };
    let round = SupportRound { incarnation: Incarnation(3), round: 300, number: 4 };
    let confirmed =
        SupportRoundAnswer { asker: Incarnation(3), round: 300, incarnation: Incarnation(2), number: Some(4) };
    let messages = [
        SupportMessage::Heartbeat(heartbeat),
        SupportMessage::Heartbeat(SupportHeartbeat { farewell: true, ..heartbeat }),
        SupportMessage::Answer(answer),
        SupportMessage::Answer(SupportAnswer { verdict: SupportVerdict::Withdrawn, ..answer }),
        SupportMessage::Answer(SupportAnswer { verdict: SupportVerdict::NotNow, ..answer }),
        SupportMessage::Round(round),
        SupportMessage::RoundAnswer(confirmed),
        SupportMessage::RoundAnswer(SupportRoundAnswer { number: None, ..confirmed }),
    ];
    let hex = "16 [incarnation] 03 [epoch] 04 [sequence] c8 01 [heard] 02 09 [wish] e8 07
               [farewell] 96 03 04 c8 01 02 09 e8 07
               17 [asker] 03 [epoch] 04 [sequence] c8 01 [own incarnation, sequence] 02 0a [supported, 500 ms] 00 f4 03
               17 03 04 c8 01 02 0a [withdrawn] 01
               17 03 04 c8 01 02 0a [not now] 02
               18 [incarnation] 03 [round] ac 02 [epoch] 04
               19 [asker] 03 [round] ac 02 [own incarnation] 02 [epoch] 04
               19 03 ac 02 02 [none] 00";
    is_written_as(&messages.map(PeerMessage::Support), hex);
}

#[test]
fn forwards_and_their_answers() {
    let forward = |id, request| {
        let epoch = RegionEpoch { conf_version: 1, version: 2 };
        PeerMessage::Forward(Forward { id, region: RegionId(7), epoch, term: Term(5), timeout_ms: 1000, request })
    };
    let propose = |sequence| ForwardRequest::Propose {
        session: Some(SessionSeq {
            session: SessionId(0x0102),
            opened: LogIndex(40),
            sequence,
            acknowledged: sequence - 1,
        }),
        command: Payload::copy_from_slice(b"x"),
    };
    let plain = ForwardRequest::Propose { session: None, command: Payload::copy_from_slice(b"yz") };
    let hex = "12 [id] 02 [region] 0e [epoch] 01 02 [term 5] 0a [1000 ms] e8 07 [in a session] 01
                  02 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 [opened 40] 50 [sequence 5] 05 [4] 01 01 78
               12 02 00 01 02 00 e8 07 [in the same] 02 [opened] 00 [6] 06 [5] 01 01 78
               12 02 00 01 02 00 e8 07 [plain] 00 02 79 7a
               12 02 00 01 02 00 e8 07 [read index] 03
               12 02 00 01 02 00 e8 07 [transfer] 04 [store] 03
               12 02 00 01 02 00 e8 07 [read index by lease] 09";
    let messages = [
        forward(1, propose(5)),
        forward(2, propose(6)),
        forward(3, plain),
        forward(4, ForwardRequest::ReadIndex { lease: false }),
        forward(5, ForwardRequest::Transfer { to: StoreId(3) }),
        forward(6, ForwardRequest::ReadIndex { lease: true }),
    ];
    is_written_as(&messages, hex);
    let reply = |id, outcome| PeerMessage::ForwardReply(ForwardReply { id, outcome });
    let messages = [
        reply(1, ForwardOutcome::Applied { reply: Bytes::from_static(b"ok"), index: LogIndex(100) }),
        reply(2, ForwardOutcome::ReadAt { index: LogIndex(101), term: Term(5) }),
        reply(3, ForwardOutcome::Done),
        reply(4, ForwardOutcome::NotLeader { hint: None }),
        reply(5, ForwardOutcome::NotLeader { hint: Some(StoreId(3)) }),
        reply(6, ForwardOutcome::EpochMismatch { current: descriptor() }),
        reply(7, ForwardOutcome::UnknownRegion),
        reply(8, ForwardOutcome::Busy { retry_after_ms: 10 }),
        reply(9, ForwardOutcome::SessionExpired),
        reply(10, ForwardOutcome::Uncertain),
        reply(11, ForwardOutcome::Refused { reason: "no".to_owned() }),
        reply(12, ForwardOutcome::NoSpace),
    ];
    let hex = format!(
        "13 02 00 [100] c8 01 02 6f 6b   13 02 01 [101] 02 [term 5] 0a   13 02 02   13 02 03   13 02 04 03
         13 02 05 {DESCRIPTOR}
         13 02 06   13 02 07 0a   13 02 08   13 02 09   13 02 0a 02 6e 6f   13 02 0c"
    );
    is_written_as(&messages, &hex);
}

const CAPTURE: CaptureId = CaptureId { store: StoreId(2), incarnation: Incarnation(3), number: 300 };

#[test]
fn the_snapshot_conversation() {
    let say = |step| {
        PeerMessage::Snapshot(SnapshotMessage {
            transfer: 9,
            region: RegionId(7),
            from: ReplicaId(21),
            to: ReplicaId(22),
            term: Term(5),
            step,
        })
    };
    let (index, index_term) = (LogIndex(100), Term(4));
    let messages = [
        say(SnapshotStep::Offer { index, index_term, descriptor: descriptor(), size_hint: 300, capture: None }),
        say(SnapshotStep::Offer {
            index,
            index_term,
            descriptor: descriptor(),
            size_hint: 300,
            capture: Some(CAPTURE),
        }),
        say(SnapshotStep::Accept { first_chunk: 2 }),
        say(SnapshotStep::Refuse { retry_after_ms: 0 }),
        say(SnapshotStep::Finished { installed: true }),
        say(SnapshotStep::Finished { installed: false }),
    ];
    let hex = format!(
        "14 [transfer] 09 0e 2a 02 0a [offer] 00 [100] 64 [term 4] 01 {DESCRIPTOR} [300] ac 02 [no capture] 00
         14 09 00 00 02 00 [offer] 00 64 01 {DESCRIPTOR} ac 02 [capture] 01 02 03 ac 02
         14 09 00 00 02 00 [accept] 01 02
         14 09 00 00 02 00 [refuse] 02 00
         14 09 00 00 02 00 [finished] 03
         14 09 00 00 02 00 [failed] 04"
    );
    is_written_as(&messages, &hex);
}

#[test]
fn questions_of_stores_without_a_replica() {
    let forward = |id, request| {
        let epoch = RegionEpoch { conf_version: 1, version: 2 };
        PeerMessage::Forward(Forward { id, region: RegionId(7), epoch, term: Term(0), timeout_ms: 1000, request })
    };
    let outcome = ForwardOutcome::Answered { answer: Bytes::from_static(b"ok") };
    let messages = [
        forward(1, ForwardRequest::Query { query: Bytes::from_static(b"yz") }),
        forward(2, ForwardRequest::Locate { key: None }),
        forward(3, ForwardRequest::Locate { key: Some(Bytes::from_static(b"k")) }),
        PeerMessage::ForwardReply(ForwardReply { id: 4, outcome }),
        PeerMessage::ForwardReply(ForwardReply { id: 5, outcome: ForwardOutcome::Leads { term: Term(7) } }),
    ];
    let hex = "12 02 0e 01 02 00 e8 07 [query] 06 02 79 7a
               12 02 00 01 02 00 e8 07 [locate] 07
               12 02 00 01 02 00 e8 07 [locate a key] 08 01 6b
               13 02 [answered] 0d 02 6f 6b
               13 02 [leads] 0e [term 7] 07";
    is_written_as(&messages, hex);
}

#[test]
fn changes_of_regions() {
    let epoch = RegionEpoch { conf_version: 1, version: 2 };
    let request = ForwardRequest::Admin { request: Bytes::from_static(b"xyz") };
    let forward = Forward { id: 1, region: RegionId(7), epoch, term: Term(0), timeout_ms: 1000, request };
    let outcome = ForwardOutcome::Changed { regions: vec![descriptor(), descriptor()] };
    let say = |step| PeerMessage::Region(RegionMessage { region: RegionId(7), step });
    let messages = [
        PeerMessage::Forward(forward),
        PeerMessage::ForwardReply(ForwardReply { id: 1, outcome }),
        say(RegionStep::Ask { replica: ReplicaId(21), epoch }),
        say(RegionStep::Tell { descriptor: descriptor(), merged: false, committed: (LogIndex(300), Term(5)) }),
        say(RegionStep::Tell { descriptor: descriptor(), merged: true, committed: (LogIndex(0), Term(0)) }),
        say(RegionStep::AskFrozen { index: LogIndex(300) }),
        say(RegionStep::IsFrozen { replica: ReplicaId(21), index: LogIndex(300) }),
        say(RegionStep::NeedSnapshot { replica: ReplicaId(21), index: LogIndex(300) }),
    ];
    let hex = format!(
        "12 02 0e 01 02 00 e8 07 [admin] 05 03 78 79 7a
         13 00 [changed] 0b [two] 02 {DESCRIPTOR} {DESCRIPTOR}
         15 00 [ask] 00 15 01 02
         15 00 [tell] 01 ac 02 05 {DESCRIPTOR}
         15 00 [tell merged] 02 00 00 {DESCRIPTOR}
         15 00 [ask frozen] 03 ac 02   15 00 [is frozen] 04 15 ac 02
         15 00 [need snapshot] 07 15 ac 02"
    );
    is_written_as(&messages, &hex);
}

#[test]
fn digests_of_states() {
    let say = |step| PeerMessage::Region(RegionMessage { region: RegionId(7), step });
    let answer = Bytes::from_static(b"xyz");
    let messages = [
        say(RegionStep::AskDigest { index: LogIndex(300) }),
        say(RegionStep::Digest { replica: ReplicaId(21), index: LogIndex(300), answer }),
    ];
    is_written_as(&messages, "15 0e [ask] 05 ac 02   15 00 [digest] 06 15 ac 02 03 78 79 7a");
}

#[test]
fn what_a_store_says_for_a_replica_that_is_gone() {
    let say = |step| PeerMessage::Region(RegionMessage { region: RegionId(7), step });
    let (replica, to, term) = (ReplicaId(21), ReplicaId(22), Term(5));
    let messages = [say(RegionStep::NotLed { replica, to, term }), say(RegionStep::NotPromised { replica, to, term })];
    is_written_as(&messages, "15 0e [leads nothing] 08 15 16 05   15 00 [has promised nothing] 09 15 16 05");
}

#[test]
fn what_a_store_of_version_2_says_that_has_begun_anew() {
    let step = RegionStep::BegunAnew { above: ReplicaId(300) };
    let message = PeerMessage::Region(RegionMessage { region: RegionId(7), step });
    is_written_as(&[message], "15 0e [has begun anew] 0a ac 02");
}

#[test]
fn snapshot_headers_and_chunks() {
    let header = SnapshotHeader {
        absorbed: Bytes::from_static(&[1, 0]),
        transfer: 9,
        region: RegionId(7),
        to: ReplicaId(22),
        index: LogIndex(100),
        index_term: Term(4),
        descriptor: descriptor(),
        first_chunk: 200,
        capture: CAPTURE,
    };
    let mut out = Vec::new();
    encode_snapshot_header(&header, &mut out);
    assert_eq!(out, unhex(&format!("09 07 16 64 04 c8 01 [capture] 02 03 ac 02 [absorbed] 02 01 00 {DESCRIPTOR}")));
    out.clear();
    let chunk = SnapshotChunk {
        number: 200,
        last: true,
        data: Bytes::from_static(b"abc"),
        crc: 0x0403_0201,
        whole_crc: 0x0807_0605,
    };
    encode_snapshot_chunk(&chunk, &mut out);
    assert_eq!(out, unhex("01 c8 01 01 02 03 04 05 06 07 08 61 62 63"));
    out.clear();
    let chunk =
        SnapshotChunk { number: 200, last: false, data: Bytes::from_static(b"abc"), crc: 0x0403_0201, whole_crc: 0 };
    encode_snapshot_chunk(&chunk, &mut out);
    assert_eq!(out, unhex("00 c8 01 01 02 03 04 61 62 63"));
}
