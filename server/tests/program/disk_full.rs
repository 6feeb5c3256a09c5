//! A disk that fills up under a store that is written to, and has space again.
//!
//! Each store has a file system in memory of its own, in a mount namespace of its own: nobody else sees it, and it is gone with
//! the process. Where mounts are not allowed, not even in a user namespace, files may not grow beyond a limit instead.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Client, Cluster, http};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many regions are written to; there is one more, behind them.
const WRITTEN: usize = 4;
/// A key in that one.
const QUIET: &str = "key:000000999999";

/// How stores get disks that can be full.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Means {
    /// `mount`, in a namespace made with these flags.
    Mount(&'static str),
    /// No file may be written beyond a limit (`RLIMIT_FSIZE`).
    Limit,
}

impl Means {
    #[allow(clippy::print_stdout, reason = "whoever reads of a failure wants to know")]
    fn find() -> Self {
        let can_mount = |flags: &&str| {
            let tried = Command::new("unshare").args([*flags, "sh", "-c", "mount -t tmpfs none /mnt"]).output();
            tried.is_ok_and(|tried| tried.status.success())
        };
        let found = ["-m", "-Urm"].into_iter().find(can_mount).map_or(Self::Limit, Self::Mount);
        println!("disks are made small by {found:?}");
        found
    }

    /// The state that the store can be given: the limit on files is none that sled could foresee.
    fn state(self) -> &'static str {
        if self == Self::Limit { "mem" } else { "sled" }
    }

    fn spawn(self, cluster: &mut Cluster, at: usize, megabytes: u64) {
        let dir = cluster.data_dir(at);
        std::fs::create_dir_all(&dir).unwrap();
        let dir = dir.to_str().unwrap();
        match self {
            Self::Mount(flags) => {
                let mount = format!("mount -t tmpfs -o size={megabytes}m none {dir} && exec \"$@\"");
                cluster.spawn_under(at, &["unshare", flags, "sh", "-c", &mount, "sh"]);
            }
            Self::Limit => cluster.spawn_under(at, &["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"]),
        }
        cluster.wait_ready(at);
    }

    /// Leaves so many megabytes (`None`: plenty) beyond what is in use.
    fn leave(self, cluster: &Cluster, at: usize, megabytes: Option<u64>) {
        let (pid, dir) = (cluster.pid(at).to_string(), cluster.data_dir(at));
        let (dir, megabytes) = (dir.to_str().unwrap(), megabytes.unwrap_or(4096));
        let script = match self {
            Self::Mount(flags) => {
                let user = if flags.contains('U') { "-U --preserve-credentials" } else { "" };
                format!(
                    "nsenter -t {pid} -m {user} sh -c 'used=$(df -k --output=used {dir} | tail -1); \
                     mount -o remount,size=$((used + {megabytes} * 1024))k {dir}'"
                )
            }
            Self::Limit => format!("prlimit --pid {pid} --fsize={}:", megabytes << 20),
        };
        let done = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(done.status.success(), "{script}: {done:?}");
    }
}

/// Writes that were tried: each to a key of its own.
#[derive(Default)]
struct Ledger {
    acknowledged: Vec<String>,
    refused: Vec<String>,
    tried: usize,
}

impl Ledger {
    /// Writes a megabyte to the next key, in the regions by turns; what was said.
    fn write(&mut self, client: &mut Client) -> String {
        let key = format!("key:000000{:06}", 1_000_000 / (WRITTEN + 1) * (self.tried % WRITTEN) + self.tried);
        self.tried += 1;
        let asked = Instant::now();
        let told = client.ask_bytes(&[b"SET", key.as_bytes(), &vec![b'x'; 1 << 20]]);
        assert!(asked.elapsed() < Duration::from_secs(20), "answered after {:?}", asked.elapsed());
        match told.as_str() {
            "+OK|" => self.acknowledged.push(key),
            uncertain if uncertain.starts_with("-UNCERTAIN ") => {}
            refused => {
                let known = ["-ERR the disk of store ", "-BUSY ", "-CLUSTERDOWN ", "-TRYAGAIN "];
                assert!(known.iter().any(|known| refused.starts_with(known)), "{refused}");
                self.refused.push(key);
            }
        }
        told
    }

    /// What was acknowledged is there, through each store, and what was refused is not.
    fn check(&self, cluster: &Cluster) {
        for at in 0..3 {
            let mut client = cluster.client(at);
            for (keys, length) in [(&self.acknowledged, ":1048576|"), (&self.refused, ":0|")] {
                for key in keys {
                    let told =
                        eventually(|| Some(client.ask(&format!("STRLEN {key}"))).filter(|told| told.starts_with(':')));
                    assert_eq!(told, length, "{key} through store {}", at + 1);
                }
            }
        }
    }
}

fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "this never came to be");
    }
}

/// How many regions a store leads, and how many entries its replicas have applied.
fn progress(cluster: &Cluster, at: usize) -> (usize, u64) {
    let (_, body) = http(cluster.stores[at].admin, "GET /status", "");
    let status: Value = serde_json::from_str(&body).unwrap();
    let regions = status["regions"].as_array().unwrap();
    let leads = |region: &&Value| region["leader"] == status["store"];
    (regions.iter().filter(leads).count(), regions.iter().map(|region| region["applied"].as_u64().unwrap()).sum())
}

#[test]
fn a_store_whose_log_finds_no_space_gives_its_leaders_away_and_comes_back_by_itself() {
    let means = Means::find();
    let regions = (WRITTEN + 1).to_string();
    let mut cluster =
        Cluster::prepare(&["--bootstrap-regions", &regions, "--request-timeout", "10s", "--state", "mem"]);
    // Room for one segment of the log, and none for a second.
    means.spawn(&mut cluster, 0, 100);
    if means == Means::Limit {
        means.leave(&cluster, 0, Some(48));
    }
    for at in 1..3 {
        cluster.spawn(at);
        cluster.wait_ready(at);
    }
    eventually(|| (progress(&cluster, 0).0 > 0).then_some(()));
    let (mut ledger, mut clients) = (Ledger::default(), [cluster.client(0), cluster.client(1)]);
    for at in 0..80 {
        ledger.write(&mut clients[at % 2]);
    }
    eventually(|| (progress(&cluster, 0).0 == 0).then_some(()));
    assert!(ledger.acknowledged.len() >= 70, "the others lead on: {} were acknowledged", ledger.acknowledged.len());
    let before = ledger.acknowledged.len();
    for client in &mut clients {
        eventually(|| (ledger.write(client) == "+OK|").then_some(()));
    }
    assert!(ledger.acknowledged.len() > before, "also through the store without space");
    means.leave(&cluster, 0, None);
    eventually(|| (progress(&cluster, 0).0 > 0).then_some(()));
    eventually(|| (progress(&cluster, 0).1 == progress(&cluster, 1).1).then_some(()));
    ledger.write(&mut clients[0]);
    ledger.check(&cluster);
}

#[test]
fn when_no_store_has_space_writes_are_refused_and_all_is_well_afterwards() {
    let means = Means::find();
    let regions = (WRITTEN + 1).to_string();
    let mut cluster =
        Cluster::prepare(&["--bootstrap-regions", &regions, "--request-timeout", "2s", "--state", means.state()]);
    cluster.keep_logs();
    for at in 0..3 {
        means.spawn(&mut cluster, at, 1024);
    }
    let mut clients: Vec<_> = (0..3).map(|at| cluster.client(at)).collect();
    let mut ledger = Ledger::default();
    eventually(|| (clients[0].ask(&format!("SET {QUIET} quiet")) == "+OK|").then_some(()));
    // Each store has applied it: one that has not yet could not do so on a full disk.
    for client in &mut clients {
        eventually(|| (client.ask(&format!("GET {QUIET}")) == "$5|quiet|").then_some(()));
        eventually(|| (ledger.write(client) == "+OK|").then_some(()));
    }
    for at in 0..3 {
        means.leave(&cluster, at, Some(48));
    }
    for client in &mut clients {
        let told = eventually(|| {
            let told = ledger.write(client);
            told.starts_with("-ERR the disk of store ").then_some(told)
        });
        assert!(told.ends_with(" is full: free some space there, it goes on by itself|"), "{told}");
    }
    // A region with a command that is committed and cannot be applied has to wait, its readers too; no other has.
    for client in &mut clients {
        assert_eq!(client.ask(&format!("GET {QUIET}")), "$5|quiet|");
    }
    for at in 0..3 {
        means.leave(&cluster, at, None);
    }
    for client in &mut clients {
        eventually(|| (ledger.write(client) == "+OK|").then_some(()));
    }
    ledger.check(&cluster);
}
