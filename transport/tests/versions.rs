//! Stores of several wire versions: which one two of them talk in, and what an older one is not told.

mod support;

use std::{
    sync::{Arc, Barrier, Mutex},
    thread,
    time::{Duration, Instant},
};

use multiraft_raft::{Incarnation, RegionId, ReplicaId, StoreId};
use multiraft_transport::{
    Birth, Births, DownReason, FrameBuilder, Lane, PeerMessage, RegionMessage, RegionStep, TransportConfig,
    store_dns_name,
};
use quinn::ConnectionError;
use support::{
    Authority, Net, PATIENCE, Store, message, pair_of,
    raw::{self, RawPeer, RawServer},
    relay::Relay,
};

/// What version 1 has not.
fn begun_anew() -> PeerMessage {
    let step = RegionStep::BegunAnew { above: ReplicaId(300) };
    PeerMessage::Region(RegionMessage { region: RegionId(7), step })
}

/// A store that speaks version 1 alone.
fn old(authority: &Authority, store: u64) -> TransportConfig {
    TransportConfig { wire_version_max: 1, ..authority.config(store, 1) }
}

/// The version of a store's only link.
fn version(store: &Store) -> u16 {
    store.transport.status()[0].link.as_ref().expect("there is a link").version
}

/// Lets everybody in, and remembers what they said of their directories.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<(StoreId, Birth)>>);

impl Births for Told {
    fn admit(&self, peer: StoreId, _: Incarnation, birth: Birth) -> Result<(), String> {
        self.0.lock().expect("not poisoned").push((peer, birth));
        Ok(())
    }
}

/// The two talk in `expected`. What version 1 has not gets through, or is left out between what has a place in both.
fn talk_in(expected: u16, a: TransportConfig, b: TransportConfig) {
    let births = Arc::new(Told::default());
    let birth = Birth { number: 0x1dea, rejoined: true };
    let (a_id, b_id) = (a.store, b.store);
    let a = TransportConfig { births: Some(Arc::clone(&births) as Arc<dyn Births>), birth, ..a };
    let b = TransportConfig { births: Some(Arc::clone(&births) as Arc<dyn Births>), birth, ..b };
    let (a, b) = pair_of(a, b);
    assert_eq!((version(&a), version(&b)), (expected, expected));
    for (from, to) in [(&a, &b), (&b, &a)] {
        let mut said = vec![message(1, 10), begun_anew(), message(2, 10)];
        from.transport.send(to.id(), Lane::Control, &said).expect("up");
        // Alone, it is nothing at all.
        from.transport.send(to.id(), Lane::Append(0), &[begun_anew()]).expect("up");
        if expected == 1 {
            said.remove(1);
        }
        assert_eq!(to.events.messages(Lane::Control, said.len()), said);
    }
    let told = if expected == 1 { Birth::default() } else { birth };
    let mut admitted = births.0.lock().expect("not poisoned").clone();
    admitted.sort_by_key(|(store, _)| *store);
    let mut both = [(a_id, told), (b_id, told)];
    both.sort_by_key(|(store, _)| *store);
    assert_eq!(admitted, both);
    assert_eq!((a.events.link_events_left(), b.events.link_events_left()), (0, 0));
    assert_eq!(b.transport.status()[0].dial_failures, 0);
}

#[test]
fn two_stores_talk_in_the_newest_version_that_both_speak_whoever_dials() {
    let authority = Authority::new();
    let new = |store| authority.config(store, 1);
    talk_in(2, new(1), new(2));
    talk_in(2, new(2), new(1));
    talk_in(1, new(1), old(&authority, 2));
    talk_in(1, old(&authority, 1), new(2));
    talk_in(1, new(2), old(&authority, 1));
    talk_in(1, old(&authority, 2), new(1));
}

#[test]
fn a_store_of_the_release_before_is_answered_in_its_version() {
    let authority = Authority::new();
    for (ours, theirs) in [(1, 2), (2, 1)] {
        let one = Store::start(authority.config(ours, 1));
        let raw = RawPeer::dial(&authority, theirs, StoreId(ours), one.address());
        assert_eq!(raw.protocol(), "multiraft/1");
        let (mut send, mut recv) = raw.greet(&raw::hello(theirs, Incarnation(1))).expect("greeted");
        raw.runtime.block_on(async {
            if ours < theirs {
                let name = recv.read_to_end(100).await.expect("the link's name follows, and nothing else");
                assert_eq!(name, 1_u64.to_le_bytes());
            } else {
                raw::name_link(&mut send).await;
            }
        });
        assert_eq!(one.events.up().0, StoreId(theirs));
        assert_eq!(version(&one), 1);
    }
}

#[test]
fn a_store_of_the_release_before_is_greeted_in_its_version_at_once() {
    let authority = Authority::new();
    for (ours, theirs) in [(1, 2), (2, 1)] {
        let raw = RawServer::start(&authority, theirs);
        let mut config = authority.config(ours, 1);
        config.birth = Birth { number: 7, rejoined: true };
        config.peers.insert(StoreId(theirs), raw.address().into());
        let one = Store::start(config);
        let dialed = raw.answer().expect("it is not refused");
        assert_eq!(dialed.hello, raw::hello(ours, Incarnation(1)));
        assert_eq!(one.events.up().0, StoreId(theirs));
        one.transport.send(StoreId(theirs), Lane::Control, &[begun_anew(), message(1, 10)]).expect("up");
        let mut expected = FrameBuilder::new();
        expected.push(&message(1, 10));
        assert_eq!(raw.frame(&dialed, 1), expected.take().body());
        assert_eq!((version(&one), one.transport.status()[0].dial_failures), (1, 0));
    }
}

#[test]
fn over_a_link_of_version_1_nothing_of_version_2_is_taken() {
    let authority = Authority::new();
    let one = Store::start(authority.config(1, 1));
    let raw = RawPeer::dial(&authority, 2, StoreId(1), one.address());
    let _streams = raw.greet(&raw::hello(2, Incarnation(1))).expect("greeted");
    one.events.up();
    let mut frame = FrameBuilder::new();
    frame.push(&begun_anew());
    raw.runtime.block_on(async {
        let mut stream = raw.connection.open_uni().await.expect("a lane");
        stream.write_all(&[&[1], &frame.take().into_wire()[..]].concat()).await.expect("written");
        raw.connection.closed().await;
    });
    let what = "control lane, frame 0: it holds what version 1 has not".to_owned();
    assert_eq!(one.events.down(), (StoreId(2), DownReason::Violation(what)));
}

#[test]
fn other_versions_are_refused_by_name() {
    let authority = Authority::new();
    let refused = |config: TransportConfig, hello: &[u8]| {
        let one = Store::start(config);
        let raw = RawPeer::dial(&authority, 2, StoreId(1), one.address());
        raw.greet(hello).expect_err("refused");
        assert_eq!(one.events.link_events_left(), 0);
        raw.closed()
    };
    let of_2 = raw::hello_of_2(2, Incarnation(1), 7, 0);
    let mut of_3 = of_2.clone();
    of_3[4] = 3;
    let mut of_0 = of_2.clone();
    of_0[4] = 0;
    let reason = |version, spoken: &str| {
        format!("5: wire version {version} where this store speaks {spoken}: run the same release on all stores")
    };
    assert_eq!(refused(authority.config(1, 1), &of_3), reason(3, "1 and 2"));
    assert_eq!(refused(authority.config(1, 1), &of_0), reason(0, "1 and 2"));
    // As the release did that had version 1 alone.
    assert_eq!(refused(old(&authority, 1), &of_2), reason(2, "1"));
}

#[test]
fn who_offers_later_versions_too_is_met_in_the_newest_of_this_release() {
    let authority = Authority::new();
    let chosen = |config: TransportConfig, protocols: &[&str]| {
        let one = Store::start(config);
        let name = store_dns_name(StoreId(2));
        RawPeer::dial_in(&authority, &name, StoreId(1), one.address(), protocols).map(|raw| raw.protocol())
    };
    let all = ["multiraft/3", "multiraft/2", "multiraft/1"];
    assert_eq!(chosen(authority.config(1, 1), &all).as_deref(), Ok("multiraft/2"));
    assert_eq!(chosen(old(&authority, 1), &all).as_deref(), Ok("multiraft/1"));
    let nothing = chosen(authority.config(1, 1), &all[..1]);
    assert!(matches!(nothing, Err(ConnectionError::ConnectionClosed(_))), "{nothing:?}");
}

#[test]
fn who_greets_in_version_2_without_having_offered_it_is_answered_in_it() {
    let authority = Authority::new();
    let one = Store::start(authority.config(1, 1));
    let raw = RawPeer::dial(&authority, 2, StoreId(1), one.address());
    let _streams = raw.greet(&raw::hello_of_2(2, Incarnation(1), 7, 0)).expect("greeted");
    one.events.up();
    assert_eq!(version(&one), 2);
}

#[test]
fn an_answer_in_another_version_is_refused() {
    let authority = Authority::new();
    let mut raw = RawServer::start(&authority, 1);
    raw.hello = raw::hello_of_2(1, Incarnation(1), 7, 0);
    let mut config = authority.config(2, 1);
    config.peers.insert(StoreId(1), raw.address().into());
    let two = Store::start(config);
    let dialed = raw.answer().expect("it greets in version 1");
    assert_eq!(raw.closed(&dialed), "9: a hello of version 2 where 1 was spoken");
    assert_eq!(two.events.link_events_left(), 0);
}

#[test]
fn a_peer_that_is_upgraded_or_taken_back_is_met_in_its_version_at_the_next_dial() {
    let authority = Authority::new();
    let net = Net::Quic(Box::new(authority));
    let a = Store::start(net.config(1, 1));
    let start = |config: TransportConfig, newest| Store::start(TransportConfig { wire_version_max: newest, ..config });
    let mut b = start(net.config(2, 1), 1);
    a.transport.add_peer(StoreId(2), b.address());
    for (incarnation, newest) in [(2, 2), (3, 1), (4, 2)] {
        a.events.up();
        b.events.up();
        assert_eq!(version(&a), version(&b));
        b.transport.shutdown();
        a.events.down();
        b = start(net.config_again(&b, incarnation), newest);
        a.events.up();
        b.events.up();
        assert_eq!((version(&a), version(&b)), (newest, newest));
        a.transport.disconnect(StoreId(2));
        a.events.down();
        b.events.down();
    }
}

#[test]
fn stores_of_two_versions_that_dial_each_other_at_once_end_in_one_connection() {
    let authority = Authority::new();
    for round in 0..10 {
        let (a, b) = (Store::start(authority.config(1 + round % 2, 1)), Store::start(old(&authority, 2 - round % 2)));
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                a.transport.add_peer(b.id(), b.address());
            });
            start.wait();
            b.transport.add_peer(a.id(), a.address());
        });
        a.events.up();
        b.events.up();
        a.transport.send(b.id(), Lane::Control, &[message(1, 10)]).expect("up");
        assert_eq!(b.events.messages(Lane::Control, 1), [message(1, 10)]);
        assert_eq!((version(&a), version(&b)), (1, 1));
        assert_eq!((a.events.link_events_left(), b.events.link_events_left()), (0, 0), "one connection, up once");
    }
}

#[test]
fn lost_packets_do_not_change_what_two_stores_agree_on() {
    let authority = Authority::new();
    let hasty = |mut config: TransportConfig| {
        config.link.backoff_max = Duration::from_millis(50);
        config
    };
    for (newest, one_in) in [(2, 3), (1, 3), (2, 4), (1, 4)] {
        let a = Store::start(authority.config(1, 1));
        let relay = Relay::to(a.address());
        relay.lose_one_in(one_in);
        let mut config = hasty(authority.config(2, 1));
        config.wire_version_max = newest;
        config.peers.insert(StoreId(1), relay.address().into());
        let b = Store::start(config);
        let deadline = Instant::now() + PATIENCE;
        let linked = |store: &Store| {
            store.transport.status().first().and_then(|peer| peer.link.as_ref().map(|link| link.version))
        };
        let mut seen = (None, None);
        while seen.0.is_none() || seen.1.is_none() {
            assert!(Instant::now() < deadline, "no link with one packet lost of {one_in}");
            seen = (linked(&a).or(seen.0), linked(&b).or(seen.1));
            thread::yield_now();
        }
        assert_eq!(seen, (Some(newest), Some(newest)));
    }
}
