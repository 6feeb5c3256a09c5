//! Who is let in, and what is told to who is not.

mod support;

use std::sync::Arc;

use multiraft_raft::{ClusterId, Incarnation, StoreId};
use multiraft_transport::{
    Birth, Births, DownReason, Lane, LocalNetwork, Tls, Transport, TransportConfig, TransportError,
};
use support::{
    Authority, Recorder, Store, log, message, pair_of,
    raw::{self, RawPeer},
};

/// Store 2 dials store 1, and comes to nothing: waits for what both log.
fn refused(
    one: multiraft_transport::TransportConfig,
    mut two: multiraft_transport::TransportConfig,
    dialer: &[&str],
    answerer: &[&str],
) {
    log::capture();
    let one = Store::start(one);
    two.peers.insert(StoreId(1), one.address().into());
    let two = Store::start(two);
    log::wait(&[&["a dial failed"], dialer].concat());
    log::wait(&[&["an incoming connection came to nothing"], answerer].concat());
    assert_eq!((one.events.link_events_left(), two.events.link_events_left()), (0, 0));
    assert!(two.transport.status()[0].dial_failures > 0);
}

#[test]
fn a_certificate_of_another_authority_is_refused_by_who_is_dialed() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut two = theirs.config(2, 1);
    // It would trust us, we do not trust it.
    two.network = support::quic(theirs.tls_trusting(&ours, StoreId(2)));
    refused(ours.config(1, 1), two, &["aborted by peer", "invalid peer certificate"], &["invalid peer certificate"]);
}

#[test]
fn a_certificate_of_another_authority_is_refused_by_who_dials() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut two = theirs.config(2, 1);
    two.network = support::quic(ours.tls_trusting(&theirs, StoreId(2)));
    refused(ours.config(1, 1), two, &["invalid peer certificate"], &["aborted by peer", "invalid peer certificate"]);
}

#[test]
fn another_cluster_is_refused_with_both_names() {
    let authority = Authority::new();
    let mut two = authority.config(2, 1);
    two.cluster = ClusterId(0xc2);
    let parts = [
        "store 2 is of cluster 000000000000000000000000000000c2",
        "store 1 of cluster 000000000000000000000000000000c1",
    ];
    refused(authority.config(1, 1), two, &parts, &parts);
}

#[test]
fn other_limits_are_refused() {
    let authority = Authority::new();
    let mut two = authority.config(2, 1);
    two.limits.frame_bytes_max = 8 << 20;
    let parts = ["frames of up to 8388608 bytes where this store has 16777216"];
    refused(authority.config(1, 1), two, &parts, &parts);
}

#[test]
fn a_store_that_answers_at_another_ones_address_is_refused() {
    log::capture();
    let authority = Authority::new();
    let three = Store::start(authority.config(3, 1));
    let mut one = authority.config(1, 1);
    one.peers.insert(StoreId(2), three.address().into());
    let one = Store::start(one);
    log::wait(&["a dial failed", "peer=2", "store-2.multiraft", "store-3.multiraft"]);
    assert_eq!((one.events.link_events_left(), three.events.link_events_left()), (0, 0));
}

#[test]
fn a_store_that_claims_to_be_another_is_refused() {
    log::capture();
    let authority = Authority::new();
    let one = Store::start(authority.config(1, 1));
    let raw = RawPeer::dial(&authority, 3, StoreId(1), one.address());
    raw.greet(&raw::hello(2, Incarnation(1))).expect_err("refused");
    let reason = raw.closed();
    assert!(reason.starts_with("7: the certificate does not prove that this is store 2"), "{reason}");
    log::wait(&["an incoming connection came to nothing", "is store 2", "store-3.multiraft"]);
    assert_eq!(one.events.link_events_left(), 0);
}

#[test]
fn a_wildcard_proves_nothing() {
    let authority = Authority::new();
    let one = Store::start(authority.config(1, 1));
    let raw = RawPeer::dial_as(&authority, "*.multiraft", StoreId(1), one.address());
    raw.greet(&raw::hello(2, Incarnation(1))).expect_err("refused");
    let reason = raw.closed();
    assert!(reason.starts_with("7: the certificate does not prove that this is store 2"), "{reason}");
    assert_eq!(one.events.link_events_left(), 0);
}

/// Lets no store in but one that says that it has lost its directory.
#[derive(Debug)]
struct OnlyRejoined;

impl Births for OnlyRejoined {
    fn admit(&self, peer: StoreId, incarnation: Incarnation, birth: Birth) -> Result<(), String> {
        let found =
            format!("store {peer}, incarnation {incarnation}, birth {:x}: start it with --rejoin", birth.number);
        birth.rejoined.then_some(()).ok_or(found)
    }
}

#[test]
fn a_store_that_comes_in_another_directory_is_refused_by_either_side_and_both_say_what_to_do() {
    let authority = Authority::new();
    let (plain, birth) = (|store| authority.config(store, 1), Birth { number: 0x1dea, rejoined: false });
    let parts = |store: u64| format!("store {store}, incarnation 1, birth {:x}: start it with --rejoin", birth.number);
    let remembering = |store| TransportConfig { births: Some(Arc::new(OnlyRejoined)), ..plain(store) };
    let (one, two) = (parts(1), parts(2));
    refused(remembering(1), TransportConfig { birth, ..plain(2) }, &[&two], &[&two]);
    // The arbiter has the link before the other one turns it away.
    let answers = Store::start(TransportConfig { birth, ..plain(1) });
    let mut dials = remembering(2);
    dials.peers.insert(StoreId(1), answers.address().into());
    let dials = Store::start(dials);
    answers.events.up();
    assert_eq!(answers.events.down(), (StoreId(2), DownReason::ClosedByPeer(one.clone())));
    log::wait(&["a dial failed", &one]);
    assert_eq!(dials.events.link_events_left(), 0);
    let birth = Birth { rejoined: true, ..birth };
    let (a, b) = pair_of(remembering(1), TransportConfig { birth, ..plain(2) });
    a.transport.send(StoreId(2), Lane::Control, &[message(1, 1)]).expect("up");
    assert_eq!(b.events.messages(Lane::Control, 1), [message(1, 1)]);
}

#[test]
fn on_a_local_network_a_store_in_another_directory_has_no_link() {
    let network = LocalNetwork::new();
    let config = |store| TransportConfig::local(support::CLUSTER, StoreId(store), Incarnation(1), network.clone());
    let birth = |rejoined| Birth { number: 7, rejoined };
    let _one = Store::start(TransportConfig { births: Some(Arc::new(OnlyRejoined)), ..config(1) });
    let two = Store::start(TransportConfig { birth: birth(false), ..config(2) });
    let three = Store::start(TransportConfig { birth: birth(true), ..config(3) });
    three.events.up();
    three.events.up();
    two.events.up();
    let linked = |store: &Store| {
        let status = store.transport.status();
        status.iter().filter(|peer| peer.link.is_some()).map(|peer| peer.store.0).collect::<Vec<_>>()
    };
    assert_eq!((linked(&two), linked(&three)), (vec![3], vec![1, 2]));
}

#[test]
fn a_hello_with_unknown_flags_is_refused() {
    let authority = Authority::new();
    let one = Store::start(authority.config(1, 1));
    let raw = RawPeer::dial(&authority, 2, StoreId(1), one.address());
    raw.greet(&raw::hello_of_2(2, Incarnation(1), 7, 2)).expect_err("refused");
    assert_eq!(raw.closed(), "9: flags 0x02 where none but 0x01 is known");
}

#[test]
fn an_unknown_store_with_a_good_certificate_is_let_in() {
    let authority = Authority::new();
    let (a, b) = pair_of(authority.config(1, 1), authority.config(2, 1));
    // Store 1 was told of nobody.
    a.transport.send(StoreId(2), Lane::Control, &[message(1, 1)]).expect("up");
    assert_eq!(b.events.messages(Lane::Control, 1), [message(1, 1)]);
    assert!(a.transport.status()[0].address.is_none());
}

#[test]
fn a_hello_that_is_none_is_refused() {
    let authority = Authority::new();
    let one = Store::start(authority.config(1, 1));
    let raw = RawPeer::dial(&authority, 2, StoreId(1), one.address());
    raw.greet(b"GET / HTTP/1.1\r\n\r\n").expect_err("refused");
    assert_eq!(raw.closed(), "9: the first bytes are not multiraft's");
    assert_eq!(one.events.link_events_left(), 0);
}

/// Greets as store 2, then begins a stream with `bytes`: how the link ends.
fn violation(bytes: &[u8]) -> (DownReason, String) {
    let authority = Authority::new();
    let one = Store::start(authority.config(1, 1));
    let raw = RawPeer::dial(&authority, 2, StoreId(1), one.address());
    let _streams = raw.greet(&raw::hello(2, Incarnation(1))).expect("greeted");
    assert_eq!(one.events.up().0, StoreId(2));
    raw.runtime.block_on(async {
        let mut stream = raw.connection.open_uni().await.expect("a lane");
        stream.write_all(bytes).await.expect("written");
        // Keeps the stream open until the other side has made up its mind.
        raw.connection.closed().await;
    });
    let (peer, reason) = one.events.down();
    assert_eq!(peer, StoreId(2));
    assert_eq!(one.events.link_events_left(), 0);
    // The store is as good as before.
    let mut two = authority.config(2, 2);
    two.peers.insert(StoreId(1), one.address().into());
    let two = Store::start(two);
    one.events.up();
    two.events.up();
    two.transport.send(StoreId(1), Lane::Control, &[message(1, 1)]).expect("up");
    assert_eq!(one.events.messages(Lane::Control, 1), [message(1, 1)]);
    (reason, raw.closed())
}

#[test]
fn a_malformed_frame_closes_the_link_with_the_reason() {
    let (reason, told) = violation(b"\x01\x03\x00\x00\x00\x05\xff\xff");
    let what = "control lane, frame 0: byte 1: 1 more bytes are needed for a number";
    assert_eq!(reason, DownReason::Violation(what.to_owned()));
    assert_eq!(told, format!("9: the peer broke the protocol: {what}"));
}

#[test]
fn a_frame_beyond_the_limit_closes_the_link_before_it_is_read() {
    let (reason, _) = violation(b"\x00\xff\xff\xff\xff");
    let what = "liveness lane, frame 0: 4294967295 bytes where at most 16777216 are allowed";
    assert_eq!(reason, DownReason::Violation(what.to_owned()));
}

#[test]
fn a_lane_that_does_not_exist_closes_the_link() {
    let (reason, _) = violation(b"\x09");
    assert_eq!(reason, DownReason::Violation("there is no lane 9 among 2 append lanes".to_owned()));
}

/// Greets as store 2, then opens a snapshot stream with `bytes`: how the link ends.
fn snapshot_violation(bytes: &[u8]) -> DownReason {
    let authority = Authority::new();
    let one = Store::start(authority.config(1, 1));
    let raw = RawPeer::dial(&authority, 2, StoreId(1), one.address());
    let _streams = raw.greet(&raw::hello(2, Incarnation(1))).expect("greeted");
    one.events.up();
    raw.runtime.block_on(async {
        let (mut send, _recv) = raw.connection.open_bi().await.expect("a stream");
        send.write_all(bytes).await.expect("written");
        raw.connection.closed().await;
    });
    one.events.down().1
}

#[test]
fn a_malformed_snapshot_closes_the_link() {
    let violation = |what: &str| DownReason::Violation(format!("snapshot stream: {what}"));
    let reason = snapshot_violation(b"\x02\x00\x00\x00\x09\x07");
    assert_eq!(reason, violation("byte 2: 1 more bytes are needed for a number"));
    let reason = snapshot_violation(b"\xff\xff\xff\x7f");
    assert_eq!(reason, violation("a header of 2147483647 bytes"));
    // A good header, for chunks from number 0, then chunk 1.
    let header = b"\x11\x00\x00\x00\x09\x07\x02\x64\x04\x00\x01\x01\x09\x00\x01\x07\x00\x00\x01\x02\x00";
    let chunk = b"\x07\x00\x00\x00\x00\x01\x00\x00\x00\x00\xab";
    let reason = snapshot_violation(&[&header[..], chunk].concat());
    assert_eq!(reason, violation("chunk 1 where chunk 0 was due"));
}

#[test]
fn a_dialer_that_says_nothing_is_told_to_go() {
    let authority = Authority::new();
    let mut config = authority.config(1, 1);
    config.link.handshake_timeout = std::time::Duration::from_millis(300);
    let one = Store::start(config);
    let raw = RawPeer::dial(&authority, 2, StoreId(1), one.address());
    assert_eq!(raw.closed(), "10: the greeting took too long");
    assert_eq!(one.events.link_events_left(), 0);
}

#[test]
fn a_lane_that_ends_closes_the_link() {
    let authority = Authority::new();
    let one = Store::start(authority.config(1, 1));
    let raw = RawPeer::dial(&authority, 2, StoreId(1), one.address());
    let _streams = raw.greet(&raw::hello(2, Incarnation(1))).expect("greeted");
    one.events.up();
    raw.runtime.block_on(async {
        let mut stream = raw.connection.open_uni().await.expect("a lane");
        stream.write_all(&[2]).await.expect("written");
        stream.finish().expect("open");
        raw.connection.closed().await;
    });
    let what = "append-0 lane, frame 0: the stream ended".to_owned();
    assert_eq!(one.events.down(), (StoreId(2), DownReason::Violation(what)));
}

#[test]
fn a_store_with_another_ones_certificate_does_not_start() {
    let authority = Authority::new();
    let mut config = authority.config(1, 1);
    config.network = support::quic(authority.tls(StoreId(4)));
    let error = Transport::start(config, std::sync::Arc::new(Recorder::default())).expect_err("not its certificate");
    assert!(matches!(error, TransportError::Tls(_)));
    let text = error.to_string();
    assert!(text.contains("store-1.multiraft") && text.contains("store-4.multiraft"), "{text}");
}

#[test]
fn errors_about_pem_files_name_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let authority = Authority::new();
    let (certificate, key) = authority.certify(StoreId(1));
    std::fs::write(path("ca.pem"), authority.pem()).expect("written");
    std::fs::write(path("store.pem"), certificate).expect("written");
    std::fs::write(path("store.key"), key).expect("written");
    Tls::from_pem_files(path("ca.pem"), path("store.pem"), path("store.key")).expect("good files");
    let fails = |ca, certificate, key, parts: [&str; 2]| {
        let error = Tls::from_pem_files(path(ca), path(certificate), path(key)).expect_err("bad files").to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    fails("none.pem", "store.pem", "store.key", ["cannot read the CA certificate file", "none.pem"]);
    fails("ca.pem", "store.key", "store.key", ["no certificate found", "store.key"]);
    fails("ca.pem", "store.pem", "store.pem", ["no private key found", "BEGIN PRIVATE KEY"]);
    let (_, other_key) = authority.certify(StoreId(2));
    std::fs::write(path("other.key"), other_key).expect("written");
    fails("ca.pem", "store.pem", "other.key", ["certificate and key are not accepted", "own"]);
}
