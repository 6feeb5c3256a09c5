//! A cluster of `multiraft serve` processes, on certificates, sockets and directories of its own.

mod admin;
mod process;
mod program;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use admin::{Admin, Peer, Region, Replica, Status};
pub use process::{Ended, Process, Signal};
pub use program::{EMBEDDED, Program};

use crate::ground::{Clocks, Net, clean_up_after, free_address};
use crate::trouble::{Outcome, Trouble, While};

/// How long a store may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What a cluster is made of.
#[derive(Debug)]
pub struct Setup {
    /// What every store runs.
    pub program: Program,
    /// Where everything is written: certificates, logs, orders, and data unless it is told to lie elsewhere.
    pub dir: PathBuf,
    /// What lies between the stores, which are numbered from 1.
    pub net: Net,
    /// Where they stand.
    pub places: Vec<Place>,
    /// How many of them begin the cluster; the others join it.
    pub founders: usize,
    /// What the founders are told besides.
    pub founding: Vec<String>,
    /// What every store is told besides.
    pub flags: Vec<String>,
}

/// Where a store stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number.
    pub store: u64,
    /// Where other stores reach it.
    pub listen: SocketAddr,
    /// Where clients do.
    pub resp: SocketAddr,
    /// Where operators do.
    pub admin: SocketAddr,
    /// Where it tells its metrics.
    pub metrics: SocketAddr,
}

impl Place {
    /// The places of so many stores: at addresses of their own if the net gives them some, else on loopback.
    #[must_use]
    pub fn of_stores(stores: u64, address: impl Fn(u64) -> Option<std::net::IpAddr>) -> Vec<Self> {
        let place = |store: u64| {
            let [listen, resp, admin, metrics] = match address(store) {
                Some(ip) => [7100, 6379, 7180, 7190].map(|port| SocketAddr::from((ip, port))),
                None => [(); 4].map(|()| free_address()),
            };
            Self { store, listen, resp, admin, metrics }
        };
        (1..=stores).map(place).collect()
    }
}

/// A store of the cluster.
#[derive(Debug)]
pub struct Store {
    /// Where it stands.
    pub place: Place,
    /// Its data directory.
    pub data: PathBuf,
    /// Libraries to be loaded before all others.
    pub preload: Vec<PathBuf>,
    /// What else it finds in its environment.
    pub environment: BTreeMap<OsString, OsString>,
    process: Option<Process>,
}

/// The cluster. What still runs is killed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    program: Program,
    /// What lies between the stores.
    pub net: Net,
    /// Their clocks.
    pub clocks: Clocks,
    /// The stores, in the order of their numbers.
    pub stores: Vec<Store>,
    founders: usize,
    founding: Vec<String>,
    flags: Vec<String>,
}

impl Cluster {
    /// Certificates and directories, and nothing that runs.
    ///
    /// # Errors
    /// The directory cannot be written, or the program not be run.
    pub fn prepare(setup: Setup) -> Outcome<Self> {
        let Setup { program, dir, net, places, founders, founding, flags } = setup;
        let made = program
            .command()
            .arg("certs")
            .arg("--out")
            .arg(dir.join("certs"))
            .arg("--stores")
            .arg(places.len().to_string())
            .output();
        let made = made.trying(|| format!("running {}", program.path().display()))?;
        if !made.status.success() {
            return Err(Trouble::new(format!("making certificates: {}", String::from_utf8_lossy(&made.stderr))));
        }
        let clocks = Clocks::new(&dir, program.can_drift());
        let stores = places.into_iter().map(|place| Store {
            data: dir.join(format!("store-{}", place.store)),
            place,
            preload: clocks.preload().map(Path::to_owned).into_iter().collect(),
            environment: BTreeMap::new(),
            process: None,
        });
        let stores: Vec<Store> = stores.collect();
        let mut cluster = Self { dir, program, net, clocks, stores, founders, founding, flags };
        for at in 0..cluster.stores.len() {
            let variables = cluster.clocks.environment(cluster.stores[at].place.store)?;
            let variables = variables.into_iter().map(|(name, value)| (OsString::from(name), value));
            cluster.stores[at].environment.extend(variables);
        }
        Ok(cluster)
    }

    /// The number of a running store's process.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self, at: usize) -> Outcome<u32> {
        Ok(self.process(at)?.pid())
    }

    /// Starts all stores for the first time, the founders as such.
    ///
    /// # Errors
    /// One does not come to serve.
    pub fn found(&mut self) -> Outcome<()> {
        for at in 0..self.stores.len() {
            let mut arguments = self.arguments(at, if at < self.founders { self.founders } else { self.stores.len() });
            if at < self.founders {
                arguments.extend(self.founding.iter().cloned());
            }
            self.spawn(at, &arguments)?;
        }
        (0..self.stores.len()).try_for_each(|at| self.wait_ready(at))
    }

    /// The command line of a store that is told of the first `known` stores.
    fn arguments(&self, at: usize, known: usize) -> Vec<String> {
        let place = &self.stores[at].place;
        let mut arguments = vec![self.program.of_stores().1.to_owned()];
        let mut flag = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        let cert = |name: String| self.dir.join("certs").join(name).display().to_string();
        flag("--store", place.store.to_string());
        flag("--dir", self.stores[at].data.display().to_string());
        flag("--listen", place.listen.to_string());
        for peer in self.stores[..known].iter().map(|store| store.place).filter(|peer| peer.store != place.store) {
            flag("--peer", format!("{}={}", peer.store, self.net.way(place.store, peer.store, peer.listen)));
        }
        flag("--ca", cert("ca.pem".to_owned()));
        flag("--cert", cert(format!("store-{}.pem", place.store)));
        flag("--key", cert(format!("store-{}-key.pem", place.store)));
        flag("--resp", place.resp.to_string());
        flag("--admin", place.admin.to_string());
        flag("--metrics", place.metrics.to_string());
        if !place.admin.ip().is_loopback() {
            arguments.push("--expose".to_owned());
        }
        arguments.extend(self.flags.iter().cloned());
        arguments
    }

    fn spawn(&mut self, at: usize, arguments: &[String]) -> Outcome<()> {
        let store = &self.stores[at];
        let mut command = self.net.command(store.place.store, &self.program.of_stores().0.display().to_string());
        command.args(arguments).envs(&store.environment).env("RUST_LOG", "warn,multiraft=debug");
        if !store.preload.is_empty() {
            let libraries: Vec<String> = store.preload.iter().map(|path| path.display().to_string()).collect();
            command.env("LD_PRELOAD", libraries.join(":"));
        }
        let process = Process::spawn(command, &self.log_file(at))?;
        self.stores[at].process = Some(process);
        Ok(())
    }

    /// Starts a store again, which knows of all others.
    ///
    /// # Errors
    /// It cannot be run, or does not come to serve.
    pub fn start(&mut self, at: usize) -> Outcome<()> {
        let arguments = self.arguments(at, self.stores.len());
        self.spawn(at, &arguments)?;
        self.wait_ready(at)
    }

    /// Begins to start a store again; [`Cluster::wait_ready`] is to follow.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn begin_start(&mut self, at: usize) -> Outcome<()> {
        let arguments = self.arguments(at, self.stores.len());
        self.spawn(at, &arguments)
    }

    /// The same for a store that has lost its data.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn begin_rejoin(&mut self, at: usize) -> Outcome<()> {
        let mut arguments = self.arguments(at, self.stores.len());
        arguments.push("--rejoin".to_owned());
        self.spawn(at, &arguments)
    }

    /// Waits until a store says that it serves.
    ///
    /// # Errors
    /// It ends instead, or takes too long.
    pub fn wait_ready(&mut self, at: usize) -> Outcome<()> {
        let (number, log) = (self.stores[at].place.store, self.log_file(at));
        let ready = self.process_mut(at)?.wait_for_line(&format!("ready store={number}"), READY_WITHIN);
        ready.trying(|| format!("store {number} does not serve; it says in {} why", log.display()))
    }

    /// SIGKILL, and waits until the process is gone.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, at: usize) -> Outcome<()> {
        let mut process = self.take(at)?;
        let pid = process.pid();
        process.kill();
        clean_up_after(pid);
        Ok(())
    }

    /// SIGTERM, on which a store hands its leaderships over and ends with 0.
    ///
    /// # Errors
    /// It ends otherwise, or not within `limit`.
    pub fn stop(&mut self, at: usize, limit: Duration) -> Outcome<()> {
        let number = self.stores[at].place.store;
        let mut process = self.take(at)?;
        process.signal(Signal::TERM)?;
        match process.wait_end(limit) {
            Some(Ended { code: Some(0) }) => Ok(()),
            ended => Err(Trouble::new(format!("store {number} was asked to stop, and within {limit:?}: {ended:?}"))),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The store does not run.
    pub fn signal(&self, at: usize, signal: Signal) -> Outcome<()> {
        self.process(at)?.signal(signal)
    }

    /// The state letter of a store's process, as the kernel tells it: `T` is stopped.
    ///
    /// # Errors
    /// The store does not run.
    pub fn state_of(&self, at: usize) -> Outcome<char> {
        self.process(at)?.state()
    }

    /// Whether a store was started and not killed or stopped since, however it has fared.
    #[must_use]
    pub fn is_started(&self, at: usize) -> bool {
        self.stores[at].process.is_some()
    }

    /// How a started store has ended by itself; `None` while it runs.
    ///
    /// # Errors
    /// It was not started.
    pub fn ended(&mut self, at: usize) -> Outcome<Option<Ended>> {
        Ok(self.process_mut(at)?.ended())
    }

    /// Lets go of a store that has ended by itself.
    ///
    /// # Errors
    /// It runs.
    pub fn bury(&mut self, at: usize) -> Outcome<Ended> {
        let ended = self.ended(at)?.ok_or_else(|| Trouble::new(format!("store {} still runs", at + 1)))?;
        self.stores[at].process = None;
        Ok(ended)
    }

    fn process(&self, at: usize) -> Outcome<&Process> {
        self.stores[at].process.as_ref().ok_or_else(|| not_running(at))
    }

    fn process_mut(&mut self, at: usize) -> Outcome<&mut Process> {
        self.stores[at].process.as_mut().ok_or_else(|| not_running(at))
    }

    fn take(&mut self, at: usize) -> Outcome<Process> {
        self.stores[at].process.take().ok_or_else(|| not_running(at))
    }

    /// A store's admin endpoint.
    #[must_use]
    pub fn admin(&self, at: usize) -> Admin {
        Admin::new(self.stores[at].place.admin, self.program.clone())
    }

    /// The admin endpoints of all stores.
    #[must_use]
    pub fn admins(&self) -> Vec<Admin> {
        (0..self.stores.len()).map(|at| self.admin(at)).collect()
    }

    /// What a store counts by that name, since its start, in all its parts together.
    ///
    /// # Errors
    /// It does not say.
    pub fn metric(&self, at: usize, name: &str) -> Outcome<u64> {
        admin::metric(self.stores[at].place.metrics, name)
    }

    /// Whether a store that is dead for long finds its peers' logs cut: with pairs in memory they keep them, and whoever plans
    /// replaces its replicas.
    #[must_use]
    pub fn cuts_logs(&self) -> bool {
        !self.flags.windows(2).any(|flag| flag == ["--state", "mem"])
            && !self.flags.iter().any(|flag| flag == "--placement")
    }

    /// Where everything is written.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a store's words go.
    #[must_use]
    pub fn log_file(&self, at: usize) -> PathBuf {
        self.dir.join(format!("store-{}.log", self.stores[at].place.store))
    }

    /// What a store has said in all its lives.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn log(&self, at: usize) -> Outcome<String> {
        let file = self.log_file(at);
        let bytes = std::fs::read(&file).trying(|| format!("reading {}", file.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// No store has panicked, as far as their logs tell.
    ///
    /// # Errors
    /// The line in which one does.
    pub fn check_logs(&self) -> Outcome<()> {
        for at in 0..self.stores.len() {
            let said = self.log(at)?;
            if let Some(line) = said.lines().find(|line| line.contains("panicked at") || line.contains("assertion")) {
                return Err(Trouble::new(format!("store {} has panicked: {line}", at + 1)));
            }
        }
        Ok(())
    }

    /// A program that runs where a store does.
    #[must_use]
    pub fn command(&self, at: usize, program: &str) -> Command {
        self.net.command(self.stores[at].place.store, program)
    }
}

fn not_running(at: usize) -> Trouble {
    Trouble::new(format!("store {} does not run", at + 1))
}
