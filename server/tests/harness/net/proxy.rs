//! Datagrams between stores on loopback, passed on by a thread that may drop them or take its time.
//!
//! ```text
//! store 1 ──▶ front ┐                ┌ back ──▶ store 2      what store 1 knows as store 2 is `front`
//!         ◀──       └─ proxy 1 -> 2 ─┘      ◀──              what store 2 sees of store 1 is `back`
//! ```
//!
//! One such pair of sockets for each ordered pair of stores: the connections that 2 dials to 1 take the way 2 -> 1.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{collections::BTreeMap, io};

use multiraft_sim::random::Random;
use tokio::sync::oneshot;

use super::{Fault, Faults, Met};
use crate::harness::address;

/// The largest datagram there is.
const DATAGRAM: usize = 65_536;

/// A proxy for a cluster. Ends when it is dropped.
pub(crate) struct Proxy {
    ways: BTreeMap<(u64, u64), SocketAddr>,
    weather: Arc<Mutex<Weather>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The faults there are, and what met them.
struct Weather {
    faults: Faults,
    met: Met,
    random: Random,
}

impl Weather {
    /// How late a packet is to come, if it is.
    fn pass(&mut self, pair: (u64, u64)) -> Option<Duration> {
        let Some(fault) = self.faults.get(&pair) else { return Some(Duration::ZERO) };
        let late = match fault {
            Fault::Cut => None,
            Fault::Loss(percent) if self.random.below(100) < *percent => None,
            Fault::Loss(_) => return Some(Duration::ZERO),
            Fault::Late(ms) => Some(Duration::from_millis(self.random.between(1, *ms))),
        };
        *self.met.entry(pair).or_default() += 1;
        late
    }
}

/// A pair of sockets between two stores.
struct Way {
    pair: (u64, u64),
    /// Where the two listen.
    stores: (SocketAddr, SocketAddr),
    front: UdpSocket,
    back: UdpSocket,
}

impl Proxy {
    /// A proxy for stores that listen there.
    pub(crate) fn start(listens: &[(u64, SocketAddr)]) -> Self {
        let pairs = listens.iter().flat_map(|from| listens.iter().map(move |to| (*from, *to)));
        let ways: Vec<Way> = pairs
            .filter(|(from, to)| from.0 != to.0)
            .map(|(from, to)| Way { pair: (from.0, to.0), stores: (from.1, to.1), front: socket(), back: socket() })
            .collect();
        let fronts = ways.iter().map(|way| (way.pair, way.front.local_addr().unwrap())).collect();
        let random = Random::new(u64::from(std::process::id()));
        let weather = Arc::new(Mutex::new(Weather { faults: Faults::new(), met: Met::new(), random }));
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn({
            let weather = Arc::clone(&weather);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    for way in ways {
                        run(way, &weather);
                    }
                    let _ = stopped.await;
                });
            }
        });
        Self { ways: fronts, weather, stop: Some(stop), thread: Some(thread) }
    }

    /// Where store `from` finds store `to`.
    pub(crate) fn way(&self, from: u64, to: u64) -> SocketAddr {
        self.ways[&(from, to)]
    }

    pub(super) fn strike(&self, faults: &Faults) {
        let mut weather = self.weather.lock().unwrap();
        weather.faults.clone_from(faults);
        weather.met = faults.keys().map(|pair| (*pair, 0)).collect();
    }

    pub(super) fn heal(&self) -> Met {
        let mut weather = self.weather.lock().unwrap();
        weather.faults.clear();
        std::mem::take(&mut weather.met)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()), "the proxy has panicked");
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(address()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Passes on what comes, both ways, as long as the runtime lives.
fn run(way: Way, weather: &Arc<Mutex<Weather>>) {
    let (from, to) = way.pair;
    let socket = |socket| Arc::new(tokio::net::UdpSocket::from_std(socket).unwrap());
    let (front, back) = (socket(way.front), socket(way.back));
    let there = ((from, to), Arc::clone(&front), Arc::clone(&back), way.stores.0, way.stores.1);
    let back_again = ((to, from), back, front, way.stores.1, way.stores.0);
    for (pair, source, target, sender, receiver) in [there, back_again] {
        let weather = Arc::clone(weather);
        tokio::spawn(async move {
            let mut buffer = vec![0; DATAGRAM];
            loop {
                let Ok((length, came_from)) = source.recv_from(&mut buffer).await else { continue };
                if came_from != sender {
                    continue;
                }
                let passed = weather.lock().unwrap().pass(pair);
                match passed {
                    None => {}
                    Some(Duration::ZERO) => drop_failed(target.send_to(&buffer[..length], receiver).await),
                    Some(late) => {
                        let (target, datagram) = (Arc::clone(&target), buffer[..length].to_vec());
                        tokio::spawn(async move {
                            tokio::time::sleep(late).await;
                            drop_failed(target.send_to(&datagram, receiver).await);
                        });
                    }
                }
            }
        });
    }
}

/// A datagram that cannot be sent is a lost one.
fn drop_failed(_sent: io::Result<usize>) {}
