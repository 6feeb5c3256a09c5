//! Datagrams between stores on loopback, passed on by a thread that may drop them, take its time, or pass them twice.
//!
//! ```text
//! store 1 ──▶ front ┐                ┌ back ──▶ store 2      what store 1 knows as store 2 is `front`
//!         ◀──       └─ proxy 1 -> 2 ─┘      ◀──              what store 2 sees of store 1 is `back`
//! ```
//!
//! One such pair of sockets for each ordered pair of stores: the connections that 2 dials to 1 take the way 2 -> 1.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use super::{Fault, Faults, Met, free_address};
use crate::random::Random;
use crate::trouble::{Outcome, While};

/// The largest datagram there is.
const DATAGRAM: usize = 65_536;
/// How late the second of two equal datagrams may be, in milliseconds.
const AGAIN_MS: u64 = 100;

/// A proxy for a cluster. Ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    ways: BTreeMap<(u64, u64), SocketAddr>,
    weather: Arc<Mutex<Weather>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The faults there are, and what met them.
#[derive(Debug)]
struct Weather {
    faults: Faults,
    met: Met,
    random: Random,
}

/// What becomes of a datagram.
enum Fate {
    Lost,
    /// It comes so much later.
    Comes(Duration),
    /// It comes at once, and again so much later.
    ComesTwice(Duration),
}

impl Weather {
    fn fate(&mut self, pair: (u64, u64)) -> Fate {
        let untouched = Fate::Comes(Duration::ZERO);
        let Some(fault) = self.faults.get(&pair) else { return untouched };
        let fate = match *fault {
            Fault::Cut => Fate::Lost,
            Fault::Loss(percent) if self.random.below(100) < percent => Fate::Lost,
            Fault::Late(ms) => Fate::Comes(Duration::from_millis(self.random.between(1, ms.max(1)))),
            Fault::Twice(percent) if self.random.below(100) < percent => {
                Fate::ComesTwice(Duration::from_millis(self.random.between(1, AGAIN_MS)))
            }
            Fault::Loss(_) | Fault::Twice(_) => return untouched,
        };
        *self.met.entry(pair).or_default() += 1;
        fate
    }
}

/// A pair of sockets between two stores.
struct Way {
    pair: (u64, u64),
    /// Where the two listen.
    stores: (SocketAddr, SocketAddr),
    front: std::net::UdpSocket,
    back: std::net::UdpSocket,
}

impl Proxy {
    /// A proxy for stores that listen there.
    ///
    /// # Errors
    /// Sockets or a thread cannot be had.
    pub fn start(listens: &[(u64, SocketAddr)], seed: u64) -> Outcome<Self> {
        let mut ways = Vec::new();
        for (from, from_listen) in listens {
            for (to, to_listen) in listens.iter().filter(|(to, _)| to != from) {
                let stores = (*from_listen, *to_listen);
                ways.push(Way { pair: (*from, *to), stores, front: socket()?, back: socket()? });
            }
        }
        let fronts = ways.iter().map(|way| Ok((way.pair, way.front.local_addr()?)));
        let fronts = fronts.collect::<Outcome<BTreeMap<_, _>>>()?;
        let random = Random::of_part(seed, "proxy", 0);
        let weather = Arc::new(Mutex::new(Weather { faults: Faults::new(), met: Met::new(), random }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.trying(|| "starting the proxy".to_owned())?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn({
            let weather = Arc::clone(&weather);
            move || {
                runtime.block_on(async {
                    ways.into_iter().for_each(|way| pass_on(way, &weather));
                    let _ = stopped.await;
                });
            }
        });
        Ok(Self { ways: fronts, weather, stop: Some(stop), thread: Some(thread) })
    }

    /// Where store `from` finds store `to`.
    ///
    /// # Panics
    /// The proxy knows no such stores.
    #[must_use]
    pub fn way(&self, from: u64, to: u64) -> SocketAddr {
        self.ways[&(from, to)]
    }

    pub(super) fn strike(&self, faults: &Faults) {
        let mut weather = lock(&self.weather);
        weather.faults.clone_from(faults);
        weather.met = faults.keys().map(|pair| (*pair, 0)).collect();
    }

    pub(super) fn heal(&self) -> Met {
        let mut weather = lock(&self.weather);
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

fn lock(weather: &Mutex<Weather>) -> MutexGuard<'_, Weather> {
    weather.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often another address is tried.
const TRIES_MAX: u32 = 20;

fn socket() -> Outcome<std::net::UdpSocket> {
    let trying = || "opening a socket of the proxy".to_owned();
    let mut tries = 0;
    let socket = loop {
        match std::net::UdpSocket::bind(free_address()) {
            // Somebody else has taken it in between.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < TRIES_MAX => tries += 1,
            bound => break bound.trying(trying)?,
        }
    };
    socket.set_nonblocking(true).trying(trying)?;
    Ok(socket)
}

/// Passes on what comes, both ways, as long as the runtime lives.
fn pass_on(way: Way, weather: &Arc<Mutex<Weather>>) {
    let (from, to) = way.pair;
    let socket = |socket| Arc::new(UdpSocket::from_std(socket).expect("within a runtime, and does not block"));
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
                let datagram = &buffer[..length];
                let fate = lock(&weather).fate(pair);
                match fate {
                    Fate::Lost => {}
                    Fate::Comes(Duration::ZERO) => send(&target, datagram, receiver).await,
                    Fate::Comes(late) => send_later(&target, datagram, receiver, late),
                    Fate::ComesTwice(late) => {
                        send(&target, datagram, receiver).await;
                        send_later(&target, datagram, receiver, late);
                    }
                }
            }
        });
    }
}

fn send_later(target: &Arc<UdpSocket>, datagram: &[u8], receiver: SocketAddr, late: Duration) {
    let (target, datagram) = (Arc::clone(target), datagram.to_vec());
    tokio::spawn(async move {
        tokio::time::sleep(late).await;
        send(&target, &datagram, receiver).await;
    });
}

async fn send(target: &UdpSocket, datagram: &[u8], receiver: SocketAddr) {
    // A datagram that cannot be sent is a lost one.
    let _ = target.send_to(datagram, receiver).await;
}
