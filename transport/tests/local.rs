//! What is a local network's own: places, lives, and who has no link with whom.

mod support;

use std::sync::Arc;

use multiraft_raft::{ClusterId, Incarnation, StoreId};
use multiraft_transport::{DownReason, Lane, LocalNetwork, SendError, Transport, TransportConfig, TransportError};
use support::{CLUSTER, Recorder, Store, message};

fn config(network: &LocalNetwork, store: u64, incarnation: u64) -> TransportConfig {
    TransportConfig::local(CLUSTER, StoreId(store), Incarnation(incarnation), network.clone())
}

fn refused(config: TransportConfig) -> TransportError {
    Transport::start(config, Arc::new(Recorder::default())).expect_err("refused")
}

fn linked(stores: &[&Store]) {
    for store in stores {
        for _ in 1..stores.len() {
            store.events.up();
        }
    }
}

#[test]
fn stores_that_nobody_named_find_each_other() {
    let network = LocalNetwork::new();
    let stores: Vec<_> = (1..=3).map(|store| Store::start(config(&network, store, 1))).collect();
    linked(&stores.iter().collect::<Vec<_>>());
    stores[2].transport.send(StoreId(1), Lane::Append(1), &[message(1, 1)]).expect("up");
    assert_eq!(stores[0].events.messages(Lane::Append(1), 1), [message(1, 1)]);
    assert_eq!(stores[0].transport.local_addr(), None);
    let ids: Vec<StoreId> = (1..=3).map(StoreId).collect();
    assert_eq!(format!("{network:?}"), format!("LocalNetwork {{ stores: {ids:?}, .. }}"));
}

#[test]
fn what_is_handed_over_is_taken_only_if_it_is_queued() {
    let network = LocalNetwork::new();
    let a = Store::start(config(&network, 1, 1));
    let mut batch = vec![message(1, 1), message(2, 1)];
    assert_eq!(a.transport.hand_over(StoreId(2), Lane::Control, &mut batch), Err(SendError::UnknownPeer));
    assert_eq!(batch.len(), 2);
    let b = Store::start(config(&network, 2, 1));
    linked(&[&a, &b]);
    a.transport.hand_over(StoreId(2), Lane::Control, &mut batch).expect("up");
    assert_eq!(batch, []);
    assert_eq!(b.events.messages(Lane::Control, 2), [message(1, 1), message(2, 1)]);
}

#[test]
fn a_place_is_one_stores_until_it_shuts_down() {
    let network = LocalNetwork::new();
    let first = Store::start(config(&network, 1, 1));
    let other = Store::start(config(&network, 2, 1));
    linked(&[&first, &other]);
    assert!(matches!(refused(config(&network, 1, 2)), TransportError::StoreTaken(StoreId(1))));
    first.transport.shutdown();
    assert_eq!(other.events.down(), (StoreId(1), DownReason::ClosedByPeer("this store is shutting down".to_owned())));
    let second = Store::start(config(&network, 1, 2));
    assert_eq!(other.events.up().1, Incarnation(2));
    // Again, and by the drop: that is not the second one's place.
    first.transport.shutdown();
    drop(first);
    second.events.up();
    second.transport.send(StoreId(2), Lane::Control, &[message(1, 1)]).expect("up");
    assert_eq!(other.events.messages(Lane::Control, 1), [message(1, 1)]);
}

#[test]
fn an_earlier_life_of_a_store_is_turned_away() {
    let network = LocalNetwork::new();
    drop(Store::start(config(&network, 1, 5)));
    let error = refused(config(&network, 1, 4)).to_string();
    assert!(error.contains("store 1 comes with incarnation 4 after 5 was seen"), "{error}");
    drop(Store::start(config(&network, 1, 5)));
}

#[test]
fn stores_of_different_clusters_have_no_links() {
    let network = LocalNetwork::new();
    let mut of_another = config(&network, 2, 1);
    of_another.cluster = ClusterId(0xc2);
    let (a, b, c) =
        (Store::start(config(&network, 1, 1)), Store::start(of_another), Store::start(config(&network, 3, 1)));
    assert_eq!((a.events.up().0, c.events.up().0), (StoreId(3), StoreId(1)));
    assert_eq!(a.events.link_events_left() + b.events.link_events_left() + c.events.link_events_left(), 0);
}

#[test]
fn a_store_that_was_declared_dead_is_told_so_and_has_no_link() {
    struct Fenced(std::sync::mpsc::SyncSender<(StoreId, String)>);
    impl multiraft_transport::Handler for Fenced {
        fn on_frame(&self, _: multiraft_transport::ReceivedFrame) {}
        fn on_link(&self, peer: StoreId, event: multiraft_transport::LinkEvent) {
            panic!("{event:?} of {peer}");
        }
        fn on_lane_ready(&self, _: StoreId, _: Lane) {}
        fn on_snapshot(
            &self,
            _: StoreId,
            _: multiraft_transport::SnapshotHeader,
            _: multiraft_transport::SnapshotReceiver,
        ) {
        }
        fn on_fenced(&self, by: StoreId, reason: &str) {
            self.0.send((by, reason.to_owned())).expect("the test waits");
        }
    }
    let network = LocalNetwork::new();
    let mut fences = config(&network, 1, 1);
    fences.fenced.insert(StoreId(2));
    let living = Store::start(fences);
    let (told, hears) = std::sync::mpsc::sync_channel(8);
    let _dead = Transport::start(config(&network, 2, 1), Arc::new(Fenced(told))).expect("starts");
    let (by, reason) = hears.recv_timeout(support::PATIENCE).expect("told");
    assert_eq!(by, StoreId(1));
    assert!(reason.contains("declared dead"), "{reason}");
    assert!(living.transport.add_peer(StoreId(2), "anywhere"), "left alone");
    assert_eq!(living.events.link_events_left(), 0);
    assert_eq!(living.transport.status().len(), 0);
}

#[test]
fn a_removed_store_is_let_in_when_it_starts_again_or_names_the_other() {
    let network = LocalNetwork::new();
    let (a, b) = (Store::start(config(&network, 1, 1)), Store::start(config(&network, 2, 1)));
    linked(&[&a, &b]);
    let remove = |b: &Store| {
        a.transport.remove_peer(StoreId(2));
        assert_eq!(a.events.down(), (StoreId(2), DownReason::Requested));
        b.events.down();
        let error = a.transport.send(StoreId(2), Lane::Control, &[message(1, 1)]);
        assert_eq!(error, Err(SendError::UnknownPeer));
        let error = b.transport.send(StoreId(1), Lane::Control, &[message(1, 1)]);
        assert_eq!(error, Err(SendError::NotConnected));
    };
    remove(&b);
    assert!(b.transport.add_peer(StoreId(1), "anywhere"));
    linked(&[&a, &b]);
    remove(&b);
    drop(b);
    let b = Store::start(config(&network, 2, 2));
    linked(&[&a, &b]);
}
