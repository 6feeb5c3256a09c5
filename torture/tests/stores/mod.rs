//! Real stores and who writes to them, for tests of what goes wrong with disks.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use multiraft_torture::client::resp::{Line, Reply, words};
use multiraft_torture::cluster::{Cluster, Place, Program, Setup, Signal};
use multiraft_torture::ground::Net;
use multiraft_torture::stop::{Stop, look_again};
use tempfile::TempDir;

/// Longer than anything takes; a test that waits so long has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(8);
/// How many write at once, and how many keys each has.
const LANES: usize = 4;
const KEYS: u64 = 25;
/// How much of what stores say is shown when a test fails.
const LINES: usize = 20;
/// What a value is filled up with.
const FILLING: usize = 300;

/// A cluster in a directory of its own.
pub(crate) struct Stores {
    pub(crate) cluster: Cluster,
    _dir: TempDir,
}

/// What was written and what of it was acknowledged: each key in turn, with ever larger numbers.
#[derive(Default)]
pub(crate) struct Writer {
    lanes: [Lane; LANES],
}

#[derive(Default)]
struct Lane {
    next: u64,
    /// By key: the largest number that was acknowledged, and the largest that was tried.
    keys: BTreeMap<String, (u64, u64)>,
}

impl Stores {
    /// Certificates and places for stores with four regions, none of which runs.
    pub(crate) fn prepare(stores: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let setup = Setup {
            program: program(),
            dir: dir.path().to_owned(),
            net: Net::Plain,
            places: Place::of_stores(stores, |_| None),
            founders: usize::try_from(stores).unwrap(),
            founding: ["--bootstrap-regions", "4"].map(str::to_owned).to_vec(),
            flags: Vec::new(),
        };
        Self { cluster: Cluster::prepare(setup).unwrap(), _dir: dir }
    }

    /// Starts all of them again, at once.
    pub(crate) fn start_all(&mut self) {
        let stores = 0..self.cluster.stores.len();
        stores.clone().for_each(|at| self.cluster.begin_start(at).unwrap());
        stores.for_each(|at| self.cluster.wait_ready(at).unwrap());
    }

    /// Tries so many writes, one after the other; how many were acknowledged.
    pub(crate) fn write(&self, writer: &mut Writer, count: u64) -> u64 {
        let addresses = self.addresses();
        let mut line = None;
        let lanes = writer.lanes.len() as u64;
        (0..count)
            .filter(|at| writer.lanes[(at % lanes) as usize].write((at % lanes) as usize, &addresses, &mut line))
            .count() as u64
    }

    /// Writes all the time, and kills all stores at once when so many writes were acknowledged; how many were. They stand still
    /// first, and then their power may go.
    pub(crate) fn write_until_killed(&mut self, writer: &mut Writer, count: u64, cut_power: impl FnOnce()) -> u64 {
        let addresses = self.addresses();
        let (acknowledged, stop) = (AtomicU64::new(0), Stop::default());
        let begun = Instant::now();
        thread::scope(|scope| {
            for (number, lane) in writer.lanes.iter_mut().enumerate() {
                let (addresses, acknowledged, stop) = (&addresses, &acknowledged, &stop);
                scope.spawn(move || {
                    let mut line = None;
                    while !stop.is_told() {
                        if lane.write(number, addresses, &mut line) {
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            while acknowledged.load(Ordering::Relaxed) < count && look_again(begun, LIMIT) {}
            let stores = 0..self.cluster.stores.len();
            stores.clone().for_each(|at| self.cluster.signal(at, Signal::STOP).unwrap());
            cut_power();
            stores.for_each(|at| self.cluster.kill(at).unwrap());
            stop.tell();
        });
        let acknowledged = acknowledged.into_inner();
        assert!(acknowledged >= count, "{acknowledged} writes in {LIMIT:?}");
        acknowledged
    }

    /// Every key holds what was acknowledged last, or what was tried after that.
    pub(crate) fn check(&self, writer: &Writer) {
        let addresses = self.addresses();
        for (key, (acknowledged, tried)) in writer.lanes.iter().flat_map(|lane| &lane.keys) {
            let mut found = None;
            eventually(key, || {
                let mut line = None;
                found = match ask(&addresses, &mut line, &["GET", key]) {
                    Some(Reply::Value(Some(value))) => {
                        let text = String::from_utf8(value).unwrap();
                        Some(text.split('-').next().unwrap().parse::<u64>().unwrap())
                    }
                    Some(Reply::Value(None)) => Some(0),
                    _ => None,
                };
                found.is_some()
            });
            let found = found.unwrap();
            let may_be = *acknowledged..=*tried;
            assert!(may_be.contains(&found), "{key} holds {found}; {acknowledged} was acknowledged, {tried} tried");
        }
    }

    /// Waits until all replicas have the same.
    pub(crate) fn settle(&self) {
        eventually("all replicas have the same", || {
            let applied = |at: usize| {
                let status = self.cluster.admin(at).status().ok()?;
                Some(status.regions.into_iter().map(|region| (region.id, region.applied)).collect::<BTreeMap<_, _>>())
            };
            let all: Vec<_> = (0..self.cluster.stores.len()).map(applied).collect();
            all[0].is_some() && all.iter().all(|one| *one == all[0])
        });
    }

    /// Has all replicas replaced that a store should have and does not serve, as an operator does: `POST /repair`.
    pub(crate) fn repair(&self, at: usize) {
        let (other, store) = ((at + 1) % self.cluster.stores.len(), self.cluster.stores[at].place.store);
        eventually("a store serves all that it should have", || {
            let (Ok(status), Ok(regions)) = (self.cluster.admin(at).status(), self.cluster.admin(other).regions())
            else {
                return false;
            };
            let is_served = |id: u64| status.regions.iter().any(|region| region.id == id);
            let wanted = regions.iter().filter(|region| region.replica_on(store).is_some() && !is_served(region.id));
            let wanted: Vec<u64> = wanted.map(|region| region.id).collect();
            for region in &wanted {
                let body = serde_json::json!({ "region": region, "store": store }).to_string();
                let answer = post(self.cluster.stores[other].place.admin, "/repair", &body);
                println!("POST /repair {body}: {}", answer.lines().next().unwrap_or_default());
            }
            wanted.is_empty() && status.damaged.is_empty()
        });
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.cluster.stores.iter().map(|store| store.place.resp).collect()
    }
}

impl Drop for Stores {
    fn drop(&mut self) {
        for at in (0..self.cluster.stores.len()).filter(|_| thread::panicking()) {
            let said = self.cluster.log(at).unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            println!("store {} said at last:\n{}", at + 1, lines[lines.len().saturating_sub(LINES)..].join("\n"));
        }
    }
}

impl Lane {
    /// Whether the next write is acknowledged.
    fn write(&mut self, lane: usize, addresses: &[SocketAddr], line: &mut Option<Line>) -> bool {
        self.next += 1;
        let number = self.next;
        // Over all regions.
        let place = (number % KEYS) * 40_000 + lane as u64;
        let key = format!("key:{place:012}");
        let entry = self.keys.entry(key.clone()).or_default();
        entry.1 = number;
        let value = format!("{number}-{}", "x".repeat(FILLING));
        let is_done = ask(addresses, line, &["SET", &key, &value]) == Some(Reply::Simple("OK".to_owned()));
        if is_done {
            entry.0 = number;
        }
        is_done
    }
}

/// Asks whichever store answers.
fn ask(addresses: &[SocketAddr], line: &mut Option<Line>, command: &[&str]) -> Option<Reply> {
    let mut open =
        line.take().or_else(|| addresses.iter().find_map(|address| Line::open(*address, PATIENCE, PATIENCE).ok()))?;
    let reply = open.ask(&words(command)).ok()?;
    *line = Some(open);
    Some(reply)
}

pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(look_again(begun, LIMIT), "not within {LIMIT:?}: {what}");
    }
}

/// What an admin endpoint answers.
pub(crate) fn post(address: SocketAddr, path: &str, body: &str) -> String {
    let exchange = || -> std::io::Result<String> {
        let mut socket = std::net::TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_read_timeout(Some(LIMIT))?;
        write!(socket, "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        Ok(text)
    };
    exchange().unwrap_or_else(|error| error.to_string())
}

/// The program beside this test's, built if nobody has.
fn program() -> Program {
    let path = Path::new(env!("CARGO_BIN_EXE_multiraft-torture")).with_file_name("multiraft");
    if !path.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "--package", "multiraft-server"]);
        assert!(build.status().unwrap().success());
    }
    Program::at(&path).unwrap()
}
