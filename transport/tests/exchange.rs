//! Messages between two stores over real sockets.

#[macro_use]
mod support;

use multiraft_raft::{Incarnation, StoreId};
use multiraft_transport::{DownReason, Lane, Network, SendError, Transport, TransportConfig, TransportError};
use support::{Authority, Net, Recorder, Store, address_of, message, pair};

on_every_network! {
    messages_arrive_in_both_directions_in_order_on_each_lane,
    a_command_of_eight_mebibytes_gets_through,
    sending_to_nobody_is_an_error,
    shutdown_tells_both_sides_once,
    a_removed_peer_is_forgotten_and_can_come_back,
    settings_that_make_no_sense_are_named,
}

fn messages_arrive_in_both_directions_in_order_on_each_lane(net: &Net) {
    let (a, b) = pair(net);
    let lanes = [Lane::Liveness, Lane::Control, Lane::Append(0), Lane::Append(1)];
    for (from, to) in [(&a, &b), (&b, &a)] {
        let peer = if std::ptr::eq(from, &a) { StoreId(2) } else { StoreId(1) };
        for id in 0..200 {
            for lane in lanes {
                from.transport.send(peer, lane, &[message(2 * id, 10), message(2 * id + 1, 1000)]).expect("room");
            }
        }
        for lane in lanes {
            let expected: Vec<_> = (0..400).map(|id| message(id, if id % 2 == 0 { 10 } else { 1000 })).collect();
            assert_eq!(to.events.messages(lane, 400), expected, "{lane}");
        }
    }
    let status = a.transport.status();
    assert_eq!(status.len(), 1);
    assert_eq!(status[0].store, StoreId(2));
    assert_eq!(status[0].connections, 1);
    assert_eq!(status[0].sent.iter().map(|lane| lane.messages).collect::<Vec<_>>(), [400; 4]);
    assert!(status[0].link.is_some());
    match net {
        // A packet has room for a few of these messages at most.
        Net::Quic(_) => assert!(status[0].packets_sent > 100, "{status:?}"),
        Net::Local(_) => assert_eq!(status[0].packets_sent, 0),
    }
}

fn a_command_of_eight_mebibytes_gets_through(net: &Net) {
    let (a, b) = pair(net);
    let large = [message(1, 8 << 20)];
    a.transport.send(StoreId(2), Lane::Append(0), &large).expect("room");
    assert_eq!(b.events.messages(Lane::Append(0), 1), large);
    let too_large = [message(1, 17 << 20)];
    let error = a.transport.send(StoreId(2), Lane::Append(0), &too_large).expect_err("too large");
    assert!(matches!(error, SendError::TooLarge(_)), "{error}");
}

fn sending_to_nobody_is_an_error(net: &Net) {
    let mut config = net.config(1, 1);
    config.peers.insert(StoreId(2), "127.0.0.1:9".into());
    let store = Store::start(config);
    let send = |peer, lane| store.transport.send(StoreId(peer), lane, &[message(1, 1)]);
    assert_eq!(send(2, Lane::Control), Err(SendError::NotConnected));
    assert_eq!(send(3, Lane::Control), Err(SendError::UnknownPeer));
    assert_eq!(send(2, Lane::Append(2)), Err(SendError::UnknownLane(Lane::Append(2))));
}

fn shutdown_tells_both_sides_once(net: &Net) {
    let (a, b) = pair(net);
    a.transport.shutdown();
    assert_eq!(a.events.down(), (StoreId(2), DownReason::Shutdown));
    let (peer, reason) = b.events.down();
    assert_eq!(peer, StoreId(1));
    assert_eq!(reason, DownReason::ClosedByPeer("this store is shutting down".to_owned()));
    a.transport.shutdown();
    assert_eq!((a.events.link_events_left(), b.events.link_events_left()), (0, 0));
    let error = a.transport.send(StoreId(2), Lane::Control, &[message(1, 1)]).expect_err("stopped");
    assert_eq!(error, SendError::NotConnected);
}

#[test]
fn a_taken_port_is_named() {
    let authority = Authority::new();
    let first = Store::start(authority.config(1, 1));
    let mut config = authority.config(2, 1);
    config.network = Network::Quic { listen: first.address(), tls: authority.tls(StoreId(2)) };
    let error = Transport::start(config, std::sync::Arc::new(Recorder::default())).expect_err("taken");
    assert!(matches!(error, TransportError::Bind { .. }), "{error}");
    assert!(error.to_string().contains(&first.address().to_string()), "{error}");
}

fn a_removed_peer_is_forgotten_and_can_come_back(net: &Net) {
    let (a, b) = pair(net);
    b.transport.remove_peer(StoreId(1));
    assert_eq!(b.events.down(), (StoreId(1), DownReason::Requested));
    a.events.down();
    b.transport.add_peer(StoreId(1), address_of(&a.transport));
    assert_eq!(b.events.up().1, Incarnation(1));
    a.events.up();
    a.transport.send(StoreId(2), Lane::Control, &[message(7, 7)]).expect("up");
    assert_eq!(b.events.messages(Lane::Control, 1), [message(7, 7)]);
}

#[test]
fn a_peer_can_be_dialed_by_host_name() {
    let authority = Authority::new();
    let a = Store::start(authority.config(1, 1));
    let mut config = authority.config(2, 1);
    let address = format!("localhost:{}", a.address().port());
    config.peers.insert(StoreId(1), address.as_str().into());
    let b = Store::start(config);
    a.events.up();
    b.events.up();
    assert_eq!(b.transport.status()[0].address.as_ref().map(ToString::to_string), Some(address));
}

fn settings_that_make_no_sense_are_named(net: &Net) {
    let fails = |change: fn(&mut TransportConfig), parts: [&str; 2]| {
        let mut config = net.config(1, 1);
        change(&mut config);
        let error = Transport::start(config, std::sync::Arc::new(Recorder::default())).expect_err("no sense");
        assert!(matches!(error, TransportError::Config { .. }));
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    fails(|config| config.append_lanes = 0, ["append_lanes is 0", "1 to 16"]);
    fails(|config| config.link.loopback_mtu = 9000, ["link.loopback_mtu is 9000", "1200 to 8900"]);
    fails(|config| config.link.keep_alive = config.link.idle_timeout, ["link.keep_alive", "idle timeout"]);
    fails(|config| config.snapshots.window_bytes = 100, ["snapshots.window_bytes is 100", "16 KiB"]);
}
