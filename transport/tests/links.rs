//! One link per pair of stores: who dials, who restarts, which connection counts.

#[macro_use]
mod support;

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use multiraft_raft::{Incarnation, StoreId};
use multiraft_transport::{
    DownReason, Handler, Lane, LinkEvent, ReceivedFrame, SnapshotHeader, SnapshotReceiver, Transport,
};
use support::{Authority, Event, Net, Store, address_of, message, pair, pair_of, relay::Relay};

on_every_network! {
    a_closed_link_comes_back_by_itself,
    a_peer_that_restarts_orderly_comes_back_with_its_new_incarnation,
    all_of_five_stores_find_each_other,
    a_handler_that_panics_costs_its_link_only,
    links_that_come_and_go_tell_a_consistent_story,
}

/// Messages there and back, so that whatever else was on its way has arrived too.
fn ping_pong(a: &Store, b: &Store, times: u64) {
    let (a_id, b_id) = (a.id(), b.id());
    for id in 0..times {
        a.transport.send(b_id, Lane::Control, &[message(id, 10)]).expect("up");
        assert_eq!(b.events.messages(Lane::Control, 1), [message(id, 10)]);
        b.transport.send(a_id, Lane::Control, &[message(id, 10)]).expect("up");
        assert_eq!(a.events.messages(Lane::Control, 1), [message(id, 10)]);
    }
}

#[test]
fn a_simultaneous_dial_ends_in_one_connection() {
    let authority = Authority::new();
    for _ in 0..10 {
        let (a, b) = (Store::start(authority.config(1, 1)), Store::start(authority.config(2, 1)));
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                a.transport.add_peer(StoreId(2), b.address());
            });
            start.wait();
            b.transport.add_peer(StoreId(1), a.address());
        });
        assert_eq!(a.events.up().0, StoreId(2));
        assert_eq!(b.events.up().0, StoreId(1));
        ping_pong(&a, &b, 50);
        for store in [&a, &b] {
            assert_eq!(store.events.link_events_left(), 0, "one connection, up once");
            assert_eq!(store.transport.status()[0].connections, 1);
        }
    }
}

fn a_closed_link_comes_back_by_itself(net: &Net) {
    let (a, b) = pair(net);
    let mut before = 0;
    for _ in 0..5 {
        a.transport.disconnect(StoreId(2));
        assert_eq!(a.events.down(), (StoreId(2), DownReason::Requested));
        assert_eq!(b.events.down(), (StoreId(1), DownReason::ClosedByPeer("closed on request".to_owned())));
        let (peer, incarnation, session) = b.events.up();
        assert_eq!((peer, incarnation), (StoreId(1), Incarnation(1)));
        assert!(session > before, "sessions grow");
        before = session;
        a.events.up();
        ping_pong(&a, &b, 3);
    }
    assert_eq!((a.events.link_events_left(), b.events.link_events_left()), (0, 0));
}

fn a_peer_that_restarts_orderly_comes_back_with_its_new_incarnation(net: &Net) {
    let (a, b) = pair(net);
    b.transport.shutdown();
    assert_eq!(a.events.down().0, StoreId(2));
    let mut again = net.config_again(&b, 2);
    again.peers.insert(StoreId(1), address_of(&a.transport));
    let b = Store::start(again);
    assert_eq!(a.events.up().1, Incarnation(2));
    b.events.up();
    ping_pong(&a, &b, 3);
}

/// The old process is cut off instead of closing: for the survivor its connection looks alive for a minute.
fn killed_and_restarted(survivor_id: u64, restarted_id: u64) {
    let authority = Authority::new();
    let patient = |store, incarnation| {
        let mut config = authority.config(store, incarnation);
        config.link.idle_timeout = Duration::from_secs(60);
        config
    };
    let survivor = Store::start(patient(survivor_id, 1));
    let relay = Relay::to(survivor.address());
    let mut config = patient(restarted_id, 1);
    config.peers.insert(StoreId(survivor_id), relay.address().into());
    let old = Store::start(config);
    survivor.events.up();
    old.events.up();
    relay.cut();
    let mut config = patient(restarted_id, 2);
    config.peers.insert(StoreId(survivor_id), survivor.address().into());
    let new = Store::start(config);
    assert_eq!(survivor.events.down(), (StoreId(restarted_id), DownReason::Replaced));
    let (peer, incarnation, _) = survivor.events.up();
    assert_eq!((peer, incarnation), (StoreId(restarted_id), Incarnation(2)));
    new.events.up();
    ping_pong(&survivor, &new, 3);
    assert_eq!(survivor.events.link_events_left(), 0);
}

#[test]
fn a_killed_peer_that_restarts_replaces_its_lingering_link_at_the_arbiter() {
    killed_and_restarted(1, 2);
}

#[test]
fn a_killed_arbiter_that_restarts_replaces_its_lingering_link() {
    killed_and_restarted(2, 1);
}

/// The close never arrives: one side has given the link up, the other still holds it.
fn given_up_by_one_side(holder_id: u64, other_id: u64) {
    let authority = Authority::new();
    let patient = |store| {
        let mut config = authority.config(store, 1);
        config.link.idle_timeout = Duration::from_secs(60);
        config
    };
    let holder = Store::start(patient(holder_id));
    let relay = Relay::to(holder.address());
    let mut config = patient(other_id);
    config.peers.insert(StoreId(holder_id), relay.address().into());
    let other = Store::start(config);
    holder.events.up();
    other.events.up();
    relay.cut();
    other.transport.disconnect(StoreId(holder_id));
    assert_eq!(other.events.down().1, DownReason::Requested);
    other.transport.set_peer_address(StoreId(holder_id), holder.address());
    assert_eq!(holder.events.down(), (StoreId(other_id), DownReason::Replaced));
    assert_eq!(holder.events.up().1, Incarnation(1));
    other.events.up();
    ping_pong(&holder, &other, 3);
}

#[test]
fn a_link_that_the_peer_gave_up_is_replaced_at_the_arbiter() {
    given_up_by_one_side(1, 2);
}

#[test]
fn a_link_that_the_arbiter_gave_up_is_replaced() {
    given_up_by_one_side(2, 1);
}

#[test]
fn a_silent_peer_is_given_up_after_the_idle_timeout() {
    let authority = Authority::new();
    let hasty = |store| {
        let mut config = authority.config(store, 1);
        config.link.idle_timeout = Duration::from_millis(300);
        config.link.keep_alive = Duration::from_millis(50);
        config
    };
    let a = Store::start(hasty(1));
    let relay = Relay::to(a.address());
    let mut config = hasty(2);
    config.peers.insert(StoreId(1), relay.address().into());
    let b = Store::start(config);
    a.events.up();
    b.events.up();
    relay.cut();
    assert_eq!(a.events.down(), (StoreId(2), DownReason::TimedOut));
    assert_eq!(b.events.down(), (StoreId(1), DownReason::TimedOut));
}

#[test]
fn an_earlier_process_of_a_store_is_turned_away() {
    support::log::capture();
    let authority = Authority::new();
    let (a, _b) = pair_of(authority.config(1, 1), authority.config(2, 5));
    let mut config = authority.config(2, 4);
    config.peers.insert(StoreId(1), a.address().into());
    let old = Store::start(config);
    support::log::wait(&["a dial failed", "store 2 comes with incarnation 4 after 5 was seen"]);
    assert_eq!(old.events.link_events_left(), 0);
    assert_eq!(a.events.link_events_left(), 0);
}

fn all_of_five_stores_find_each_other(net: &Net) {
    let stores: Vec<_> = (1..=5).map(|id| Store::start(net.config(id, 1))).collect();
    for (at, store) in stores.iter().enumerate() {
        for (other_at, other) in stores.iter().enumerate().filter(|(other_at, _)| *other_at != at) {
            store.transport.add_peer(StoreId(other_at as u64 + 1), address_of(&other.transport));
        }
    }
    for store in &stores {
        let mut peers: Vec<_> = (0..4).map(|_| store.events.up().0).collect();
        peers.sort_unstable();
        peers.dedup();
        assert_eq!(peers.len(), 4);
    }
}

#[test]
fn lost_packets_cost_time_and_nothing_else() {
    let authority = Authority::new();
    let a = Store::start(authority.config(1, 1));
    let relay = Relay::to(a.address());
    let mut config = authority.config(2, 1);
    config.peers.insert(StoreId(1), relay.address().into());
    let b = Store::start(config);
    a.events.up();
    b.events.up();
    relay.lose_one_in(7);
    let expected: Vec<_> = (0..300).map(|id| message(id, 2000)).collect();
    for message in &expected {
        b.transport.send(StoreId(1), Lane::Append(1), std::slice::from_ref(message)).expect("room");
    }
    assert_eq!(a.events.messages(Lane::Append(1), expected.len()), expected);
    ping_pong(&a, &b, 20);
    assert_eq!((a.events.link_events_left(), b.events.link_events_left()), (0, 0));
}

#[test]
fn renewed_certificates_serve_the_next_connection() {
    let (old, new) = (Authority::new(), Authority::new());
    let (a, b) = pair_of(old.config(1, 1), old.config(2, 1));
    for (store, id) in [(&a, 1), (&b, 2)] {
        store.transport.set_tls(new.tls(StoreId(id))).expect("its own");
        store.transport.set_tls(new.tls(StoreId(9))).expect_err("another one's");
    }
    ping_pong(&a, &b, 1);
    a.transport.disconnect(StoreId(2));
    for store in [&a, &b] {
        store.events.down();
        store.events.up();
    }
    ping_pong(&a, &b, 1);
    // Who has the old authority's only is out.
    support::log::capture();
    let mut config = old.config(3, 1);
    config.peers.insert(StoreId(1), a.address().into());
    let _late = Store::start(config);
    support::log::wait(&["a dial failed", "invalid peer certificate"]);
    assert_eq!(a.events.link_events_left(), 0);
}

#[test]
fn no_more_peers_than_allowed() {
    support::log::capture();
    let authority = Authority::new();
    let mut config = authority.config(1, 1);
    config.link.peers_max = 1;
    let (a, _b) = pair_of(config, authority.config(2, 1));
    assert!(!a.transport.add_peer(StoreId(3), "127.0.0.1:9"));
    let mut config = authority.config(4, 1);
    config.peers.insert(StoreId(1), a.address().into());
    let _fourth = Store::start(config);
    support::log::wait(&["a dial failed", "too many peers: 1 are known already"]);
    assert_eq!(a.events.link_events_left(), 0);
}

/// Panics at the first frame.
struct Clumsy(support::Recorder);

impl Handler for Clumsy {
    fn on_frame(&self, frame: ReceivedFrame) {
        assert_ne!(frame.messages, [message(13, 13)], "bad luck");
        self.0.on_frame(frame);
    }

    fn on_link(&self, peer: StoreId, event: LinkEvent) {
        self.0.on_link(peer, event);
    }

    fn on_lane_ready(&self, _: StoreId, _: Lane) {}

    fn on_snapshot(&self, _: StoreId, _: SnapshotHeader, _: SnapshotReceiver) {}
}

fn a_handler_that_panics_costs_its_link_only(net: &Net) {
    let clumsy = Arc::new(Clumsy(support::Recorder::default()));
    let transport = Transport::start(net.config(1, 1), Arc::clone(&clumsy) as Arc<dyn Handler>).expect("starts");
    let mut config = net.config(2, 1);
    config.peers.insert(StoreId(1), address_of(&transport));
    let b = Store::start(config);
    clumsy.0.up();
    b.events.up();
    b.transport.send(StoreId(1), Lane::Control, &[message(13, 13)]).expect("up");
    assert!(matches!(clumsy.0.down().1, DownReason::Internal(_)));
    b.events.down();
    b.events.up();
    b.transport.send(StoreId(1), Lane::Control, &[message(14, 14)]).expect("up again");
    assert_eq!(clumsy.0.messages(Lane::Control, 1), [message(14, 14)]);
}

/// Links must take turns, and frames belong to the link that is up.
fn tells_a_consistent_story(store: &Store) -> usize {
    let (mut up, mut last, mut links) = (None, 0, 0);
    for event in store.events.drain() {
        match event {
            Event::Link(_, LinkEvent::Up { session, .. }) => {
                assert_eq!(up, None, "one link at a time");
                assert!(session > last, "sessions grow");
                (up, last, links) = (Some(session), session, links + 1);
            }
            Event::Link(_, LinkEvent::Down { session, .. }) => {
                assert_eq!(up, Some(session), "down once, after up");
                up = None;
            }
            Event::Frame(frame) => assert_eq!(up, Some(frame.session), "frames of the link that is up"),
            Event::Ready(..) => assert!(up.is_some()),
            Event::Snapshot(..) => unreachable!("nobody sends any"),
        }
    }
    assert_eq!(up, None, "down at the end");
    links
}

fn links_that_come_and_go_tell_a_consistent_story(net: &Net) {
    let hasty = |store| {
        let mut config = net.config(store, 1);
        config.link.backoff_max = Duration::from_millis(20);
        config
    };
    let (a, b) = (Store::start(hasty(1)), Store::start(hasty(2)));
    a.transport.add_peer(StoreId(2), address_of(&b.transport));
    b.transport.add_peer(StoreId(1), address_of(&a.transport));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for (from, to) in [(&a, StoreId(2)), (&b, StoreId(1))] {
            let is_over = &is_over;
            scope.spawn(move || {
                for id in 0.. {
                    // Most of it is refused or lost: there is no link, or it goes down.
                    let _ = from.transport.send(to, Lane::Append((id % 2) as u8), &[message(id, 3000)]);
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    thread::yield_now();
                }
            });
        }
        for round in 0..30 {
            let (from, to) = if round % 3 == 0 { (&a, StoreId(2)) } else { (&b, StoreId(1)) };
            let before = from.transport.status()[0].connections;
            from.transport.disconnect(to);
            let deadline = Instant::now() + support::PATIENCE;
            while from.transport.status()[0].connections <= before {
                assert!(Instant::now() < deadline, "no new link");
                thread::yield_now();
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    a.transport.shutdown();
    b.transport.shutdown();
    for store in [&a, &b] {
        let links = tells_a_consistent_story(store);
        // One that is closed at once may never be up at the other side.
        assert!(links >= 15, "{links} links");
    }
}
