//! Three stores, or some more, as child processes: started, spoken to, ended.
//!
//! Invariant: when a [`Stores`] is dropped, its processes and its directory are gone, also after a failure.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tempfile::TempDir;

use crate::args::{Cluster, Operation, State};
use crate::progress::Progress;
use crate::usage;

/// How many stores hold the regions of a benchmark.
pub(crate) const STORES: u64 = 3;
/// How long a store may take to open its directory and to listen.
const START_WITHIN: Duration = Duration::from_secs(120);
/// How long one may take to answer beyond what was asked for.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long all keys that are read may take to be written.
const FILL_WITHIN: Duration = Duration::from_secs(600);
/// How long one may take to stop when asked to, before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Why a benchmark came to no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("no certificate could be made: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("store {store}: {what}")]
    Said { store: u64, what: String },
    #[error("store {store} has stopped; what it said stands above")]
    Gone { store: u64 },
    #[error("store {store} was not {stage} within {} s: the machine may be overloaded", .within.as_secs())]
    Late { store: u64, stage: &'static str, within: Duration },
    #[error("nothing was written: {0}")]
    NothingWritten(String),
    #[error("what was read is not what was written: {0}")]
    Wrong(String),
    #[error("{what} did not succeed: {why}")]
    Failed { what: String, why: String },
    #[error("{0}")]
    Micro(String),
    #[error("the planner did not come to rest: {operations} operations in an hour without a cause; drained: {drained}")]
    NoRest { operations: u64, drained: bool },
}

/// What the stores of one run are given.
pub(crate) struct Plan<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) groups: u64,
    pub(crate) clients: u64,
    pub(crate) operation: Operation,
    pub(crate) payload: u64,
    pub(crate) state: State,
    /// Writes, or reads, a second that begin whether or not those before are answered; `None`: each client waits for its answer.
    pub(crate) rate: Option<u64>,
    /// All stores are in one process.
    pub(crate) together: bool,
    /// Clients live where the regions are led that they write to.
    pub(crate) at_leaders: bool,
    /// They talk over channels instead of QUIC.
    pub(crate) channels: bool,
    /// Stores beyond the three, which hold nothing at first.
    pub(crate) spares: u64,
    /// Whether replicas are placed by planning, so that a store can be emptied.
    pub(crate) places: bool,
    /// Whether regions stay led from where they are led, instead of going home to the store that they prefer.
    pub(crate) keeps_leaders: bool,
    /// How fast a store sends snapshots, in bytes a second; zero: as fast as it can; `None`: as the engine does by itself.
    pub(crate) snapshot_rate: Option<u64>,
    /// How many replicas planning lets a store receive, and send, at once; `None`: as the engine does by itself.
    pub(crate) replicas_at_once: Option<u64>,
}

impl<'a> Plan<'a> {
    /// Three stores without clients.
    pub(crate) fn new(cluster: &'a Cluster, groups: u64, state: State) -> Self {
        Self {
            cluster,
            groups,
            clients: 0,
            operation: Operation::Write,
            payload: 0,
            state,
            rate: None,
            together: false,
            at_leaders: false,
            channels: false,
            spares: 0,
            places: false,
            keeps_leaders: false,
            snapshot_rate: None,
            replicas_at_once: None,
        }
    }

    fn stores(&self) -> u64 {
        STORES + self.spares
    }
}

/// Where the certificate of the authority, of a store, and its key lie.
pub(crate) fn files(dir: &Path, store: u64) -> (PathBuf, PathBuf, PathBuf) {
    (dir.join("ca.pem"), dir.join(format!("store-{store}.pem")), dir.join(format!("store-{store}.key")))
}

/// Where a store keeps what it has.
pub(crate) fn data_dir(dir: &Path, store: u64) -> PathBuf {
    dir.join(format!("data-{store}"))
}

/// Running stores.
pub(crate) struct Stores {
    children: Vec<Store>,
    addresses: Vec<SocketAddr>,
    /// Dropped after the children are gone.
    dir: TempDir,
}

struct Store {
    number: u64,
    process: Child,
    /// Taken when the store is to stop.
    commands: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Stores {
    /// Starts all and returns when each listens and every region has a leader, as far as that happens in time; also says of
    /// how many regions the worst store knows none.
    pub(crate) fn start(plan: &Plan<'_>) -> Result<(Self, u64), Problem> {
        let place = plan.cluster.dir.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new().prefix("multiraft-bench-").tempdir_in(&place);
        let dir = dir.map_err(|source| Problem::Io { what: "no directory could be made: see --dir", source })?;
        if usage::lies_in_memory(dir.path()) {
            eprintln!("warning: {} lies in memory, flushes cost nothing there: use --dir", place.display());
        }
        write_certificates(dir.path(), plan.stores())?;
        let addresses = free_addresses(plan.stores())?;
        let _progress = Progress::until("starting");
        let mut stores = Self { children: Vec::new(), addresses, dir };
        for number in if plan.together { 1..=1 } else { 1..=plan.stores() } {
            let child = spawn(number, stores.dir.path(), &stores.addresses, plan, plan.cluster.leaders_within)?;
            stores.children.push(child);
        }
        stores.all("ready", START_WITHIN)?;
        let led = stores.all("led", plan.cluster.leaders_within() + ANSWER_WITHIN)?;
        let leaderless = led.iter().map(|answer| number(answer, "leaderless")).max().unwrap_or_default();
        if leaderless > 0 {
            eprintln!("warning: {leaderless} of {} regions have no leader", plan.groups);
        }
        Ok((stores, leaderless))
    }

    /// Where all stores are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where a store keeps what it has.
    pub(crate) fn data_dir(&self, store: u64) -> PathBuf {
        data_dir(self.dir.path(), store)
    }

    /// Has every key that is read written once.
    pub(crate) fn fill(&mut self) -> Result<(), Problem> {
        let _progress = Progress::until("filling");
        self.tell("fill")?;
        self.all("filled", FILL_WITHIN).map(drop)
    }

    /// Lets the clients run.
    pub(crate) fn load(&mut self, time: Duration) -> Result<(), Problem> {
        let _progress = Progress::of("warming up", time);
        self.tell(&format!("load {}", time.as_millis()))?;
        self.all("loaded", time + ANSWER_WITHIN).map(drop)
    }

    /// What each store measures in a window.
    pub(crate) fn measure(&mut self, time: Duration) -> Result<Vec<Value>, Problem> {
        let _progress = Progress::of("measuring", time);
        self.tell(&format!("measure {}", time.as_millis()))?;
        self.all("measured", time + ANSWER_WITHIN)
    }

    /// Has one store do a job of [`crate::live`]; gives what came out.
    pub(crate) fn drive(&mut self, store: u64, job: &Value, within: Duration) -> Result<Value, Problem> {
        let _progress = Progress::until("at work");
        let child = self.child(store)?;
        child.tell(&format!("drive {job}"))?;
        child.answer("driven", Instant::now() + within, within)
    }

    /// Has a store stop in order, and returns once it has.
    pub(crate) fn stop(&mut self, store: u64) -> Result<(), Problem> {
        let child = self.child(store)?;
        child.commands = None;
        // Its output ends when it does.
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            match child.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Problem::Late { store, stage: "stopped", within: ANSWER_WITHIN });
                }
            }
        }
        let ended = child.process.wait();
        ended.map(drop).map_err(|source| Problem::Io { what: "a store cannot be waited for", source })
    }

    /// Starts a store once more on what it has left, and returns when it listens.
    pub(crate) fn start_again(&mut self, store: u64, plan: &Plan<'_>) -> Result<(), Problem> {
        let again = spawn(store, self.dir.path(), &self.addresses, plan, 0)?;
        let child = self.child(store)?;
        *child = again;
        for stage in ["ready", "led"] {
            child.answer(stage, Instant::now() + START_WITHIN, START_WITHIN)?;
        }
        Ok(())
    }

    fn child(&mut self, store: u64) -> Result<&mut Store, Problem> {
        self.children.iter_mut().find(|child| child.number == store).ok_or(Problem::Gone { store })
    }

    /// Kills a store outright (SIGKILL) and returns once it is gone; says when, in microseconds since 1970, an instant before.
    pub(crate) fn kill(&mut self, store: u64) -> Result<u64, Problem> {
        let io = |source| Problem::Io { what: "a store cannot be killed", source };
        let child = self.child(store)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        child.process.kill().map_err(io)?;
        child.process.wait().map_err(io)?;
        child.commands = None;
        Ok(u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
    }

    fn tell(&mut self, line: &str) -> Result<(), Problem> {
        self.children.iter_mut().try_for_each(|child| child.tell(line))
    }

    /// Waits until every store has said that it is at `stage`.
    fn all(&mut self, stage: &'static str, within: Duration) -> Result<Vec<Value>, Problem> {
        let deadline = Instant::now() + within;
        self.children.iter().map(|child| child.answer(stage, deadline, within)).collect()
    }
}

impl Store {
    fn tell(&mut self, line: &str) -> Result<(), Problem> {
        let gone = Problem::Gone { store: self.number };
        let Some(commands) = self.commands.as_mut() else { return Err(gone) };
        writeln!(commands, "{line}").map_err(|_| gone)
    }

    fn answer(&self, stage: &'static str, deadline: Instant, within: Duration) -> Result<Value, Problem> {
        let store = self.number;
        let left = deadline.saturating_duration_since(Instant::now());
        let line = self.lines.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => Problem::Late { store, stage, within },
            RecvTimeoutError::Disconnected => Problem::Gone { store },
        })?;
        match serde_json::from_str::<Value>(&line) {
            Ok(answer) if answer["at"] == stage => Ok(answer),
            _ => Err(Problem::Said { store, what: format!("expected to be {stage}, but: {line}") }),
        }
    }
}

/// A whole number in an answer; one that is not there counts as zero.
pub(crate) fn number(answer: &Value, name: &str) -> u64 {
    answer[name].as_u64().unwrap_or_default()
}

impl Drop for Stores {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.commands.take();
        }
        let deadline = Instant::now() + STOP_WITHIN;
        for child in &mut self.children {
            // Its output ends when it does; anything else that it says is of no use any more.
            while child.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
            let _ = child.process.kill();
            let _ = child.process.wait();
        }
    }
}

/// `leaders_within`: for how many seconds it waits until each of its regions has a leader.
fn spawn(
    number: u64,
    dir: &Path,
    addresses: &[SocketAddr],
    plan: &Plan<'_>,
    leaders_within: u64,
) -> Result<Store, Problem> {
    let io = |what| move |source| Problem::Io { what, source };
    let program = std::env::current_exe().map_err(io("this program cannot be found again"))?;
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut command = Command::new(program);
    command.arg("store").arg("--dir").arg(dir).args(["--addresses", &addresses.join(",")]);
    for (name, value) in [
        ("--store", number),
        ("--groups", plan.groups),
        ("--clients", plan.clients),
        ("--payload", plan.payload),
        ("--threads", plan.cluster.threads),
        ("--workers", plan.cluster.workers),
        ("--seed", plan.cluster.seed),
        ("--leaders-within", leaders_within),
        ("--spares", plan.spares),
    ] {
        command.args([name, &value.to_string()]);
    }
    for (name, is_set) in [
        ("--together", plan.together),
        ("--at-leaders", plan.at_leaders),
        ("--channels", plan.channels),
        ("--places", plan.places),
        ("--keeps-leaders", plan.keeps_leaders),
    ] {
        command.args(is_set.then_some(name));
    }
    for (name, value) in
        [("--rate", plan.rate), ("--snapshot-rate", plan.snapshot_rate), ("--replicas-at-once", plan.replicas_at_once)]
    {
        command.args(value.into_iter().flat_map(|value| [name.to_owned(), value.to_string()]));
    }
    command
        .args(["--operation", plan.operation.name(), "--state", plan.state.name()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = command.spawn().map_err(io("a store cannot be started"))?;
    let output = process.stdout.take().expect("the output was asked for");
    let commands = process.stdin.take();
    let (sender, lines) = sync_channel(16);
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    Ok(Store { number, process, commands, lines })
}

pub(crate) fn write_certificates(dir: &Path, stores: u64) -> Result<(), Problem> {
    let write = |path: PathBuf, pem: String| {
        std::fs::write(path, pem).map_err(|source| Problem::Io { what: "a certificate cannot be written", source })
    };
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    write(files(dir, 1).0, params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    for store in 1..=stores {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec![format!("store-{store}.multiraft")])?;
        let (_, certificate_file, key_file) = files(dir, store);
        write(certificate_file, params.signed_by(&key, &issuer)?.pem())?;
        write(key_file, key.serialize_pem())?;
    }
    Ok(())
}

/// Addresses on loopback that are free at this moment: bound together, so that they differ, and given back.
pub(crate) fn free_addresses(stores: u64) -> Result<Vec<SocketAddr>, Problem> {
    let io = |source| Problem::Io { what: "no UDP port on loopback is free", source };
    let sockets: Result<Vec<UdpSocket>, _> = (0..stores).map(|_| UdpSocket::bind("127.0.0.1:0")).collect();
    sockets.map_err(io)?.iter().map(|socket| socket.local_addr().map_err(io)).collect()
}
