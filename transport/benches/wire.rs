//! How fast the codec and a link over the loopback are. Run with `cargo bench -p multiraft-transport --bench wire`; with
//! `-- codec` behind it, the codec only.

#![allow(clippy::print_stdout)] // Its output is what it is for.

use std::{
    collections::BTreeMap,
    hint::black_box,
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use multiraft_raft::{
    Body, ClusterId, Entry, EntryKind, Incarnation, LogIndex, Message, RegionId, ReplicaId, StoreId, Term,
};
use multiraft_transport::{
    FrameBuilder, Handler, Lane, Limits, LinkEvent, PeerMessage, RaftMessage, ReceivedFrame, SendError, SnapshotHeader,
    SnapshotReceiver, Tls, Transport, TransportConfig, decode_frame, store_dns_name,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

fn append(region: u64, index: u64, data: &Bytes) -> PeerMessage {
    let entry =
        Entry { term: Term(5), index: LogIndex(index + 1), kind: EntryKind::Command, data: data.clone().into() };
    let body =
        Body::Append { prev_index: LogIndex(index), prev_term: Term(5), commit: LogIndex(index), entries: vec![entry] };
    let message = Message { from: ReplicaId(3 * region), to: ReplicaId(3 * region + 1), term: Term(5), body };
    PeerMessage::Raft(RaftMessage { region: RegionId(region), message, descriptor: None })
}

fn appends(count: u64, length: usize) -> Vec<PeerMessage> {
    let data = Bytes::from(vec![7; length]);
    (0..count).map(|at| append(1000 + at * 7 % 5000, 10_000 + at * 131 % 9000, &data)).collect()
}

fn codec() {
    let messages = appends(600, 100);
    let limits = Limits::default();
    let mut builder = FrameBuilder::new();
    // The best of many rounds: whatever else the machine does only adds.
    let (mut encoding, mut decoding, mut dropping, mut length) = (Duration::MAX, Duration::MAX, Duration::MAX, 0);
    for _ in 0..5000 {
        let started = Instant::now();
        messages.iter().for_each(|message| builder.push(black_box(message)));
        let body = builder.take().body();
        encoding = encoding.min(started.elapsed());
        length = body.len();
        let started = Instant::now();
        let decoded = black_box(decode_frame(&body, &limits).expect("good"));
        decoding = decoding.min(started.elapsed());
        drop(decoded);
        dropping = dropping.min(started.elapsed());
    }
    let each = |time: Duration| time.as_nanos() as f64 / messages.len() as f64;
    println!(
        "codec: frame of {length} bytes, {} messages: encode {:.1} ns, decode {:.1} ns, decode and drop {:.1} ns a message",
        messages.len(),
        each(encoding),
        each(decoding),
        each(dropping)
    );
}

/// Counts what arrives; answers on the control lane.
#[derive(Default)]
struct Counter {
    messages: AtomicU64,
    ups: AtomicU64,
    changed: Condvar,
    lock: Mutex<()>,
}

impl Counter {
    fn wait(&self, done: impl Fn(&Self) -> bool) {
        let mut held = self.lock.lock().expect("not poisoned");
        while !done(self) {
            held = self.changed.wait_timeout(held, Duration::from_secs(1)).expect("not poisoned").0;
        }
    }

    fn note(&self, count: &AtomicU64, more: u64) {
        let _held = self.lock.lock().expect("not poisoned");
        count.fetch_add(more, Ordering::Release);
        self.changed.notify_all();
    }
}

impl Handler for Counter {
    fn on_frame(&self, frame: ReceivedFrame) {
        self.note(&self.messages, frame.messages.len() as u64);
    }

    fn on_link(&self, _: StoreId, _: LinkEvent) {
        self.note(&self.ups, 1);
    }

    fn on_lane_ready(&self, _: StoreId, _: Lane) {
        self.note(&self.ups, 0);
    }

    fn on_snapshot(&self, _: StoreId, _: SnapshotHeader, _: SnapshotReceiver) {}
}

fn start(
    store: u64,
    ca: &(String, Issuer<'static, KeyPair>),
    peers: BTreeMap<StoreId, SocketAddr>,
) -> (Transport, Arc<Counter>) {
    let params = CertificateParams::new(vec![store_dns_name(StoreId(store))]).expect("a name");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &ca.1).expect("signed").pem();
    let tls = Tls::from_pem(ca.0.as_bytes(), certificate.as_bytes(), key.serialize_pem().as_bytes()).expect("PEM");
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = TransportConfig::new(ClusterId(1), StoreId(store), Incarnation(1), listen, tls);
    config.peers = peers.into_iter().map(|(id, address)| (id, address.into())).collect();
    let counter = Arc::new(Counter::default());
    (Transport::start(config, Arc::clone(&counter) as Arc<dyn Handler>).expect("starts"), counter)
}

fn link() {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let ca = (params.self_signed(&key).expect("signed").pem(), Issuer::new(params, key));
    let (a, a_counter) = start(1, &ca, BTreeMap::new());
    let (b, b_counter) = start(2, &ca, BTreeMap::from([(StoreId(1), a.local_addr().expect("it listens"))]));
    a_counter.wait(|counter| counter.ups.load(Ordering::Acquire) > 0);
    b_counter.wait(|counter| counter.ups.load(Ordering::Acquire) > 0);
    for (length, batch, total) in [(100, 1, 200_000), (100, 64, 2_000_000), (4096, 16, 100_000), (65_536, 1, 10_000)] {
        stream(&a, &a_counter, &b_counter, length, batch, total);
    }
    round_trips(&a, &b, &a_counter, &b_counter);
    for status in a.status() {
        println!("  {:?}", status.link);
    }
}

/// One direction, as fast as it goes.
fn stream(a: &Transport, a_counter: &Counter, b_counter: &Counter, length: usize, batch: u64, total: u64) {
    let messages = appends(batch, length);
    let before = b_counter.messages.load(Ordering::Acquire);
    let started = Instant::now();
    let mut sent = 0;
    while sent < total {
        match a.send(StoreId(2), Lane::Append(0), &messages) {
            Ok(()) => sent += batch,
            Err(SendError::Full) => {
                let _held =
                    a_counter.changed.wait_timeout(a_counter.lock.lock().expect("held"), Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
    b_counter.wait(|counter| counter.messages.load(Ordering::Acquire) >= before + sent);
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "link: {length} bytes, batches of {batch}: {:.0} messages/s, {:.0} MB/s",
        sent as f64 / seconds,
        sent as f64 * length as f64 / seconds / 1e6
    );
}

/// Small messages there and back, one at a time.
fn round_trips(a: &Transport, b: &Transport, a_counter: &Counter, b_counter: &Counter) {
    let message = appends(1, 100);
    let mut times = Vec::new();
    for _ in 0..5000 {
        let (at_a, at_b) = (a_counter.messages.load(Ordering::Acquire), b_counter.messages.load(Ordering::Acquire));
        let started = Instant::now();
        a.send(StoreId(2), Lane::Control, &message).expect("room");
        b_counter.wait(|counter| counter.messages.load(Ordering::Acquire) > at_b);
        b.send(StoreId(1), Lane::Control, &message).expect("room");
        a_counter.wait(|counter| counter.messages.load(Ordering::Acquire) > at_a);
        times.push(started.elapsed().as_micros());
    }
    times.sort_unstable();
    println!("link: round trip p50 {} us, p99 {} us", times[2500], times[4950]);
}

fn main() {
    codec();
    if std::env::args().any(|argument| argument == "codec") {
        return;
    }
    link();
}
