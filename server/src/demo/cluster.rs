//! The store processes of a demo: children of this program, one `serve` each.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::policy::Policy;
use crate::certs::CertFiles;
use crate::cli::StateChoice;
use crate::error::Failure;
use crate::http;
use crate::serve::StatusReport;

/// How long a store may take to start, or to stop.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// What all stores have in common.
pub(crate) struct Plan {
    pub(crate) dir: PathBuf,
    pub(crate) stores: u64,
    pub(crate) begin: Begin,
    pub(crate) state: StateChoice,
}

/// How the cluster begins.
pub(crate) enum Begin {
    /// With all regions on all stores, cut at the quantiles of a file's keys.
    Presplit { regions: usize, keys: PathBuf },
    /// With one region on the first store, which knows no others yet: they know it, and dial it. What becomes of it is up to the
    /// stores, by the first policy until the cluster is grown, then by the second.
    Alone { growing: Policy, grown: Policy },
}

/// The stores, running or not.
pub(crate) struct Cluster {
    plan: Plan,
    program: PathBuf,
    pub(crate) stores: Vec<Store>,
    /// Stores that are started from now on find a cluster that is grown.
    pub(crate) is_grown: bool,
}

/// One store's place: its number and addresses, and its process while it runs.
pub(crate) struct Store {
    pub(crate) id: u64,
    listen: SocketAddr,
    pub(crate) resp: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Whether it has run before.
    started: bool,
    child: Option<Child>,
}

impl Cluster {
    /// Makes certificates and finds free ports; starts nothing.
    pub(crate) fn prepare(plan: Plan) -> Result<Self, Failure> {
        CertFiles::new(plan.dir.join("certs")).create(plan.stores)?;
        let program = std::env::current_exe().map_err(|error| Failure::during("this program is not found", error))?;
        let stores = free_places(plan.stores).map_err(|error| Failure::during("no free ports were found", error))?;
        Ok(Self { plan, program, stores, is_grown: false })
    }

    pub(crate) async fn start_all(&mut self) -> Result<(), Failure> {
        for at in 0..self.stores.len() {
            self.spawn(at)?;
        }
        for at in 0..self.stores.len() {
            self.wait_ready(at).await?;
        }
        Ok(())
    }

    pub(crate) async fn start(&mut self, at: usize) -> Result<(), Failure> {
        self.spawn(at)?;
        self.wait_ready(at).await
    }

    /// Ends a store as a power cut would end its process: SIGKILL.
    pub(crate) async fn kill(&mut self, at: usize) -> Result<(), Failure> {
        let Some(mut child) = self.stores[at].child.take() else { return Ok(()) };
        child.kill().await.map_err(|error| Failure::during("a store could not be killed", error))
    }

    pub(crate) async fn kill_all(&mut self) -> Result<(), Failure> {
        let mut children: Vec<_> = self.stores.iter_mut().filter_map(|store| store.child.take()).collect();
        let failed = |error| Failure::during("a store could not be killed", error);
        // All at once: none sees another go first.
        for child in &mut children {
            child.start_kill().map_err(failed)?;
        }
        for mut child in children {
            child.wait().await.map_err(failed)?;
        }
        Ok(())
    }

    /// Asks every store to stop in order, and sees that it does.
    pub(crate) async fn stop_all(&mut self) -> Result<(), Failure> {
        for store in &mut self.stores {
            let Some(mut child) = store.child.take() else { continue };
            let asked = http::ask(store.admin, "POST", "/stop", b"").await;
            asked.map_err(|error| Failure::during(&format!("store {} could not be asked to stop", store.id), error))?;
            let ended = timeout(STOP_TIMEOUT, child.wait()).await;
            match ended {
                Ok(Ok(status)) if status.success() => {}
                Ok(Ok(status)) => return Err(self.plan.ended(store.id, Some(status))),
                _ => return Err(Failure::new(format!("store {} did not stop within {STOP_TIMEOUT:?}", store.id))),
            }
        }
        Ok(())
    }

    /// Fails if a store that should run has ended.
    pub(crate) fn check_running(&mut self) -> Result<(), Failure> {
        for store in &mut self.stores {
            if let Some(child) = &mut store.child
                && let Ok(Some(status)) = child.try_wait()
            {
                return Err(self.plan.ended(store.id, Some(status)));
            }
        }
        Ok(())
    }

    pub(crate) fn is_up(&self, at: usize) -> bool {
        self.stores[at].child.is_some()
    }

    pub(crate) async fn status(&self, at: usize) -> Result<StatusReport, Failure> {
        let store = &self.stores[at];
        let failed = |error: &dyn std::fmt::Display| {
            Failure::during(&format!("store {} does not tell its status", store.id), error)
        };
        let body = http::ask(store.admin, "GET", "/status", b"").await.map_err(|error| failed(&error))?;
        serde_json::from_slice(&body).map_err(|error| failed(&error))
    }

    /// The status of every store; all must run.
    pub(crate) async fn all_status(&self) -> Result<Vec<StatusReport>, Failure> {
        let mut reports = Vec::with_capacity(self.stores.len());
        for at in 0..self.stores.len() {
            reports.push(self.status(at).await?);
        }
        Ok(reports)
    }

    /// The resident memory of all running stores, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let pids = self.stores.iter().filter_map(|store| store.child.as_ref()?.id());
        pids.filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok())
            .filter_map(|text| rss_of(&text))
            .sum()
    }

    fn spawn(&mut self, at: usize) -> Result<(), Failure> {
        let store = &self.stores[at];
        let certs = CertFiles::new(self.plan.dir.join("certs"));
        let log_path = self.plan.log(store.id);
        let log = File::options().create(true).append(true).open(&log_path);
        let log = log.map_err(|error| Failure::file("write", &log_path, error))?;
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--store").arg(store.id.to_string());
        command.arg("--dir").arg(self.plan.dir.join(format!("store-{}", store.id)));
        command.arg("--listen").arg(store.listen.to_string());
        let bootstraps_alone = matches!(self.plan.begin, Begin::Alone { .. }) && at == 0 && !store.started;
        for peer in self.stores.iter().filter(|peer| peer.id != store.id && !bootstraps_alone) {
            command.arg("--peer").arg(format!("{}={}", peer.id, peer.listen));
        }
        command
            .arg("--ca")
            .arg(certs.ca())
            .arg("--cert")
            .arg(certs.cert(store.id))
            .arg("--key")
            .arg(certs.key(store.id));
        command.arg("--resp").arg(store.resp.to_string()).arg("--admin").arg(store.admin.to_string());
        command.arg("--state").arg(if self.plan.state == StateChoice::Sled { "sled" } else { "mem" });
        match &self.plan.begin {
            Begin::Presplit { regions, keys } => {
                command.arg("--bootstrap-regions").arg(regions.to_string()).arg("--bootstrap-keys").arg(keys);
            }
            Begin::Alone { growing, grown } => {
                if bootstraps_alone {
                    command.args(["--bootstrap-regions", "1"]);
                }
                command.args(if self.is_grown { grown.arguments() } else { growing.arguments() });
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let child = command.spawn().map_err(|error| Failure::during("a store could not be started", error))?;
        self.stores[at].child = Some(child);
        Ok(())
    }

    async fn wait_ready(&mut self, at: usize) -> Result<(), Failure> {
        let store = &mut self.stores[at];
        let id = store.id;
        let child = store.child.as_mut().expect("invariant: called for a store that was just spawned");
        let stdout = child.stdout.take().expect("invariant: stdout is a pipe and was not taken before");
        let mut lines = BufReader::new(stdout).lines();
        let wanted = format!("ready store={id}");
        let wait = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line == wanted {
                    return true;
                }
            }
            false
        };
        match timeout(START_TIMEOUT, wait).await {
            Ok(true) => {
                store.started = true;
                Ok(())
            }
            Ok(false) => {
                let status = timeout(STOP_TIMEOUT, child.wait()).await.ok().and_then(Result::ok);
                Err(self.plan.ended(id, status))
            }
            Err(_) => Err(Failure::new(format!(
                "store {id} was not ready within {START_TIMEOUT:?}: see {}",
                self.plan.log(id).display()
            ))),
        }
    }
}

impl Plan {
    fn log(&self, store: u64) -> PathBuf {
        self.dir.join(format!("store-{store}.log"))
    }

    fn ended(&self, store: u64, status: Option<ExitStatus>) -> Failure {
        let path = self.log(store);
        let status = status.map_or_else(|| "in an unknown way".to_owned(), |status| format!("with {status}"));
        Failure::new(format!("store {store} ended {status}; the end of {}:\n{}", path.display(), tail(&path)))
    }
}

/// The last lines of a file.
fn tail(path: &Path) -> String {
    // Whatever it is: a log that cannot be read says so, and one that is not all text is shown as far as it is.
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("it cannot be read: {error}"),
    };
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// Addresses for every store. Held open together until all are found, so that none comes up twice.
fn free_places(stores: u64) -> io::Result<Vec<Store>> {
    let mut held = Vec::new();
    let mut found = Vec::new();
    for id in 1..=stores {
        let (udp, resp, admin) =
            (UdpSocket::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        found.push(Store {
            id,
            listen: udp.local_addr()?,
            resp: resp.local_addr()?,
            admin: admin.local_addr()?,
            started: false,
            child: None,
        });
        held.push((udp, resp, admin));
    }
    Ok(found)
}

/// `VmRSS` of a process' status, in bytes.
fn rss_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
