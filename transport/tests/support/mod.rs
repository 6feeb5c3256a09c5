//! What the tests of links share: an authority, stores, and a handler that records what it is told.

#![allow(dead_code)] // Each test file uses a part.

pub(crate) mod log;
pub(crate) mod raw;
pub(crate) mod relay;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use multiraft_raft::{ClusterId, Incarnation, Payload, RegionEpoch, RegionId, StoreId, Term};
use multiraft_transport::{
    Forward, ForwardRequest, Handler, Lane, LinkEvent, LocalNetwork, Network, PeerAddress, PeerMessage, ReceivedFrame,
    SnapshotHeader, SnapshotReceiver, Tls, Transport, TransportConfig, store_dns_name,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The length of a hello of wire version 1.
pub(crate) const HELLO_BYTES: usize = 59;

pub(crate) const CLUSTER: ClusterId = ClusterId(0xc1);

/// A certificate authority that lives for one test.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Certificate and key of a store, as PEM.
    pub(crate) fn certify(&self, store: StoreId) -> (String, String) {
        self.certify_name(&store_dns_name(store))
    }

    /// The same for any DNS name.
    pub(crate) fn certify_name(&self, name: &str) -> (String, String) {
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a DNS name");
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    pub(crate) fn tls(&self, store: StoreId) -> Tls {
        self.tls_trusting(self, store)
    }

    /// A certificate of this authority, for a store that trusts another one.
    pub(crate) fn tls_trusting(&self, trusted: &Self, store: StoreId) -> Tls {
        let (certificate, key) = self.certify(store);
        Tls::from_pem(trusted.pem.as_bytes(), certificate.as_bytes(), key.as_bytes()).expect("good PEM")
    }

    pub(crate) fn config(&self, store: u64, incarnation: u64) -> TransportConfig {
        let store = StoreId(store);
        TransportConfig::over(quic(self.tls(store)), CLUSTER, store, Incarnation(incarnation))
    }
}

/// QUIC on loopback, on any port.
pub(crate) fn quic(tls: Tls) -> Network {
    Network::Quic { listen: SocketAddr::from(([127, 0, 0, 1], 0)), tls }
}

/// What the stores of a test are on, where that makes no difference.
pub(crate) enum Net {
    Quic(Box<Authority>),
    Local(LocalNetwork),
}

impl Net {
    pub(crate) fn config(&self, store: u64, incarnation: u64) -> TransportConfig {
        match self {
            Self::Quic(authority) => authority.config(store, incarnation),
            Self::Local(network) => {
                TransportConfig::local(CLUSTER, StoreId(store), Incarnation(incarnation), network.clone())
            }
        }
    }

    /// Of the next life of a store that has shut down, in the same place.
    pub(crate) fn config_again(&self, store: &Store, incarnation: u64) -> TransportConfig {
        let mut config = self.config(store.id.0, incarnation);
        if let (Network::Quic { listen, .. }, Some(address)) = (&mut config.network, store.transport.local_addr()) {
            *listen = address;
        }
        config
    }
}

/// Makes of each function two tests: over QUIC, and on a local network.
#[allow(unused_macros)] // As above.
macro_rules! on_every_network {
    ($($test:ident,)*) => {
        mod over_quic {
            $(
                #[test]
                fn $test() {
                    super::$test(&super::Net::Quic(Box::new(super::support::Authority::new())));
                }
            )*
        }

        mod on_a_local_network {
            $(
                #[test]
                fn $test() {
                    super::$test(&super::Net::Local(multiraft_transport::LocalNetwork::new()));
                }
            )*
        }
    };
}

/// Where a transport is reached.
pub(crate) fn address_of(transport: &Transport) -> PeerAddress {
    transport.local_addr().map_or_else(|| "on the local network".into(), PeerAddress::from)
}

/// What a handler was told.
pub(crate) enum Event {
    Frame(ReceivedFrame),
    Link(StoreId, LinkEvent),
    Ready(StoreId, Lane),
    Snapshot(StoreId, Box<SnapshotHeader>, SnapshotReceiver),
}

/// Records events in their order; tests take them out one by one.
#[derive(Default)]
pub(crate) struct Recorder {
    events: Mutex<VecDeque<Event>>,
    more: Condvar,
}

impl Recorder {
    fn record(&self, event: Event) {
        self.events.lock().expect("not poisoned").push_back(event);
        self.more.notify_all();
    }

    /// The first event that `pick` wants; others stay where they are.
    pub(crate) fn wait<T>(&self, what: &str, mut pick: impl FnMut(Event) -> Result<T, Event>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut events = self.events.lock().expect("not poisoned");
        let mut looked_at = 0;
        loop {
            while looked_at < events.len() {
                let event = events.remove(looked_at).expect("in range");
                match pick(event) {
                    Ok(picked) => return picked,
                    Err(event) => {
                        events.insert(looked_at, event);
                        looked_at += 1;
                    }
                }
            }
            let left = deadline.checked_duration_since(Instant::now()).unwrap_or_else(|| panic!("waited for {what}"));
            events = self.more.wait_timeout(events, left).expect("not poisoned").0;
        }
    }

    pub(crate) fn link(&self) -> (StoreId, LinkEvent) {
        self.wait("a link event", |event| match event {
            Event::Link(peer, event) => Ok((peer, event)),
            other => Err(other),
        })
    }

    /// Waits for a link to come up; anything else about links fails the test.
    pub(crate) fn up(&self) -> (StoreId, Incarnation, u64) {
        match self.link() {
            (peer, LinkEvent::Up { incarnation, session }) => (peer, incarnation, session),
            (peer, event) => panic!("wanted an up, got {event:?} of {peer}"),
        }
    }

    pub(crate) fn down(&self) -> (StoreId, multiraft_transport::DownReason) {
        match self.link() {
            (peer, LinkEvent::Down { reason, .. }) => (peer, reason),
            (peer, event) => panic!("wanted a down, got {event:?} of {peer}"),
        }
    }

    pub(crate) fn frame(&self) -> ReceivedFrame {
        self.wait("a frame", |event| match event {
            Event::Frame(frame) => Ok(frame),
            other => Err(other),
        })
    }

    pub(crate) fn ready(&self) -> (StoreId, Lane) {
        self.wait("a ready lane", |event| match event {
            Event::Ready(peer, lane) => Ok((peer, lane)),
            other => Err(other),
        })
    }

    pub(crate) fn snapshot(&self) -> (StoreId, SnapshotHeader, SnapshotReceiver) {
        self.wait("a snapshot", |event| match event {
            Event::Snapshot(from, header, stream) => Ok((from, *header, stream)),
            other => Err(other),
        })
    }

    /// All messages of `lane` until there are `count`; fails on more.
    pub(crate) fn messages(&self, lane: Lane, count: usize) -> Vec<PeerMessage> {
        let mut messages = Vec::new();
        while messages.len() < count {
            messages.extend(self.wait("frames of a lane", |event| match event {
                Event::Frame(frame) if frame.lane == lane => Ok(frame.messages),
                other => Err(other),
            }));
        }
        assert_eq!(messages.len(), count);
        messages
    }

    /// All that was told and not taken.
    pub(crate) fn drain(&self) -> Vec<Event> {
        self.events.lock().expect("not poisoned").drain(..).collect()
    }

    /// How many events about links were told and not taken.
    pub(crate) fn link_events_left(&self) -> usize {
        let events = self.events.lock().expect("not poisoned");
        events.iter().filter(|event| matches!(event, Event::Link(..))).count()
    }
}

impl Handler for Recorder {
    fn on_frame(&self, frame: ReceivedFrame) {
        self.record(Event::Frame(frame));
    }

    fn on_link(&self, peer: StoreId, event: LinkEvent) {
        self.record(Event::Link(peer, event));
    }

    fn on_lane_ready(&self, peer: StoreId, lane: Lane) {
        self.record(Event::Ready(peer, lane));
    }

    fn on_snapshot(&self, from: StoreId, header: SnapshotHeader, stream: SnapshotReceiver) {
        self.record(Event::Snapshot(from, Box::new(header), stream));
    }
}

/// A running store.
pub(crate) struct Store {
    id: StoreId,
    pub(crate) transport: Transport,
    pub(crate) events: Arc<Recorder>,
}

impl Store {
    pub(crate) fn start(config: TransportConfig) -> Self {
        let (id, events) = (config.store, Arc::new(Recorder::default()));
        let transport = Transport::start(config, Arc::clone(&events) as Arc<dyn Handler>).expect("starts");
        Self { id, transport, events }
    }

    pub(crate) fn id(&self) -> StoreId {
        self.id
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.transport.local_addr().expect("it is over QUIC")
    }
}

/// Two stores, 1 and 2, with a link that is up.
pub(crate) fn pair(net: &Net) -> (Store, Store) {
    pair_of(net.config(1, 1), net.config(2, 1))
}

/// The same, configured. The second one dials.
pub(crate) fn pair_of(a: TransportConfig, mut b: TransportConfig) -> (Store, Store) {
    let a_id = a.store;
    let a = Store::start(a);
    b.peers.insert(a_id, address_of(&a.transport));
    let b = Store::start(b);
    a.events.up();
    b.events.up();
    (a, b)
}

/// A message of about `length` bytes that can be told from others by its id.
pub(crate) fn message(id: u64, length: usize) -> PeerMessage {
    PeerMessage::Forward(Forward {
        id,
        region: RegionId(id % 100),
        epoch: RegionEpoch::FIRST,
        term: Term(1),
        timeout_ms: 1000,
        request: ForwardRequest::Propose { session: None, command: Payload::from(vec![id as u8; length]) },
    })
}
