//! `multiraft demo`: a cluster on this machine that loses stores and nothing else.
//!
//! ```text
//! start stores -> write the data set ------------------------------> check each replica
//!                  |         |            |                                  |
//!                grow   kill -9 one   start it again       kill -9 all, start them, check each replica
//!                                                                            |
//!                                                    delete a half, merge back, check each replica
//! ```
//!
//! Growing and merging back are left out with `--presplit`, where all regions are there from the start.

mod client;
mod cluster;
mod dataset;
mod failover;
mod ledger;
mod living;
mod load;
mod policy;
mod regions;
mod report;
mod seen;
mod verify;

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use crate::cli::DemoArgs;
use crate::error::Failure;
use crate::serve::RegionView;
use cluster::{Begin, Cluster, Plan};
use dataset::DataSet;
use failover::{Failover, Probes};
use ledger::Ledger;
use living::Living;
use load::Load;
use policy::Policy;
use regions::RegionMap;
use report::{Findings, Totals};

/// How often progress is looked at, and told.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// How long replicas may take to become level once nothing is written any more.
const LEVEL_TIMEOUT: Duration = Duration::from_secs(240);
/// The exit code after SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;

/// Runs the demo; the exit code is zero only if all held.
pub(crate) fn run(args: DemoArgs) -> Result<ExitCode, Failure> {
    let data = DataSet::load(args.load.as_deref())?;
    if data.pairs.len() < args.regions() {
        return Err(Failure::new(format!(
            "{} holds {} keys, too few for {} regions with data each: choose fewer --regions or --load more",
            data.name,
            data.pairs.len(),
            args.regions()
        )));
    }
    if args.regions() == 0 {
        return Err(Failure::new("--regions must be at least 1"));
    }
    let place = Place::new(&args)?;
    let runtime = Runtime::new().map_err(|error| Failure::during("the runtime could not be started", error))?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = run_in(&args, place.path(), data) => Some(outcome),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    // The stores are children that end with the runtime's tasks.
    drop(runtime);
    match outcome {
        None => {
            place.clean(args.keep)?;
            Ok(ExitCode::from(INTERRUPTED))
        }
        Some(Ok(found)) if found.ok() => {
            place.clean(args.keep)?;
            tell(&args, &found)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Ok(found)) => {
            place.leave();
            tell(&args, &found)?;
            Ok(ExitCode::FAILURE)
        }
        Some(Err(failure)) => {
            place.leave();
            Err(failure)
        }
    }
}

fn tell(args: &DemoArgs, found: &Findings) -> Result<(), Failure> {
    say(&format!("\n{}", found.to_text()))?;
    for problem in found.problems() {
        say(&format!("NOT AS IT SHOULD BE: {problem}"))?;
    }
    if args.json {
        let json = serde_json::to_string(&found.to_json()).map_err(|error| Failure::during("no report", error))?;
        say(&json)?;
    }
    Ok(())
}

/// Prints a line.
fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let said = writeln!(out, "{text}").and_then(|()| out.flush());
    said.map_err(|error| Failure::during("stdout cannot be written to", error))
}

/// The directory of a run.
enum Place {
    Temporary(TempDir),
    Given(PathBuf),
}

impl Place {
    fn new(args: &DemoArgs) -> Result<Self, Failure> {
        let Some(path) = &args.dir else {
            let dir = tempfile::Builder::new().prefix("multiraft-demo-").tempdir();
            return dir.map(Self::Temporary).map_err(|error| Failure::during("no temporary directory", error));
        };
        fs::create_dir_all(path).map_err(|error| Failure::file("create", path, error))?;
        let mut entries = fs::read_dir(path).map_err(|error| Failure::file("read", path, error))?;
        if entries.next().is_some() {
            return Err(Failure::new(format!("{} is not empty: name an empty or a new directory", path.display())));
        }
        Ok(Self::Given(path.clone()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Given(path) => path,
        }
    }

    /// Removes it, unless it shall stay.
    fn clean(self, keep: bool) -> Result<(), Failure> {
        if keep {
            self.leave();
            return Ok(());
        }
        match self {
            Self::Temporary(dir) => dir.close().map_err(|error| Failure::during("cleaning up", error)),
            Self::Given(path) => fs::remove_dir_all(&path).map_err(|error| Failure::file("remove", &path, error)),
        }
    }

    fn leave(self) {
        let path = match self {
            Self::Temporary(dir) => dir.keep(),
            Self::Given(path) => path,
        };
        // Whoever reads stdout has gone if this fails.
        let _ = say(&format!("data and logs stay in {}", path.display()));
    }
}

/// A run under way.
struct Demo {
    cluster: Cluster,
    ledger: Arc<Ledger>,
    regions: RegionMap,
    /// Changes the regions; `None` if they stay as they are.
    living: Option<Living>,
    totals: Totals,
    started: Instant,
}

async fn run_in(args: &DemoArgs, dir: &Path, data: DataSet) -> Result<Findings, Failure> {
    let started = Instant::now();
    say(&format!(
        "{}: {} pairs; {} stores, {} regions{}, in {}",
        data.name,
        data.pairs.len(),
        args.stores(),
        args.regions(),
        if args.presplit() { "" } else { " to come from one" },
        dir.display()
    ))?;
    let begin = if args.presplit() {
        let keys = dir.join("keys");
        fs::write(&keys, data.key_lines()).map_err(|error| Failure::file("write", &keys, error))?;
        Begin::Presplit { regions: args.regions(), keys }
    } else {
        let bytes = data.pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
        let (growing, grown) = (Policy::growing(bytes, args.regions()), Policy::grown(bytes, args.regions()));
        Begin::Alone { growing, grown }
    };
    let mut cluster = Cluster::prepare(Plan { dir: dir.to_owned(), stores: args.stores(), begin, state: args.state })?;
    cluster.start_all().await?;
    let regions = RegionMap::of(cluster.status(0).await?.regions.into_iter().map(RegionView::from))
        .ok_or_else(|| Failure::new("store 1 tells nonsense of its regions"))?;
    let expected = if args.presplit() { args.regions() } else { 1 };
    if regions.len() != expected {
        return Err(Failure::new(format!("there are {} regions, not {expected}", regions.len())));
    }
    let ledger = Arc::new(Ledger::new(data));
    let living = Living {
        stores: cluster.stores.iter().map(|store| (store.id, store.admin)).collect(),
        ledger: Arc::clone(&ledger),
        wanted: args.regions(),
        started,
        seen: Arc::default(),
    };
    let living = (!args.presplit()).then_some(living);
    let mut demo = Demo { cluster, ledger, regions, living, totals: Totals::default(), started };
    demo.say("all stores are ready")?;
    demo.wait_level("electing leaders").await?;
    if let Some(living) = &demo.living {
        living.join().await?;
    }
    demo.run(args).await
}

impl Demo {
    async fn run(mut self, args: &DemoArgs) -> Result<Findings, Failure> {
        let resp: Vec<SocketAddr> = self.cluster.stores.iter().map(|store| store.resp).collect();
        let load = Arc::new(Load::new(Arc::clone(&self.ledger), resp.clone()));
        let writing = Instant::now();
        let writers = load.start();
        self.grow(&load).await?;
        let regions = self.regions.len();
        let (grown, third) = (Instant::now(), Duration::from_secs(args.seconds) / 3);
        self.watch(&load, grown + third, |_| false).await?;
        let failover = self.lose_a_store(&load, grown + third * 2).await?;
        let pairs = self.ledger.pairs.len();
        self.watch(&load, grown + third * 3, |_| false).await?;
        self.watch(&load, grown + LEVEL_TIMEOUT, |load| load.ledger.acknowledged() == pairs).await?;
        load.stop();
        let result = load.finish(writers).await;
        let writing = writing.elapsed();
        self.say(&format!("{} writes acknowledged", load.acknowledged()))?;
        let resident_bytes = self.cluster.resident_bytes();
        let mut verdicts = vec![self.check("after the writing").await?];
        let leaders = self.count_all().await?;
        let replicas = self.regions.replicas();
        let regions_without_data = self.regions.without(self.ledger.pairs.iter().map(|(key, _)| key));
        self.say("killing all stores with SIGKILL")?;
        self.cluster.kill_all().await?;
        self.cluster.is_grown = true;
        self.cluster.start_all().await?;
        verdicts.push(self.check("after all were killed and started again").await?);
        if let Some(living) = self.living.clone() {
            living.shrink(&resp).await?;
            verdicts.push(self.check("after merging back").await?);
        }
        for status in self.cluster.all_status().await? {
            self.totals.add(&status);
        }
        let counts = self.living.as_ref().map(Living::counts).unwrap_or_default();
        self.cluster.stop_all().await?;
        self.say("all stores stopped in order")?;
        Ok(Findings {
            stores: args.stores(),
            wanted: args.regions(),
            regions,
            regions_end: self.regions.len(),
            replicas,
            counts,
            leaders,
            writes: load.acknowledged() + failover.times_us.len(),
            retried: load.retried(),
            given_up: result.given_up,
            writing,
            latencies_us: result.latencies_us,
            failover,
            totals: self.totals,
            resident_bytes,
            verdicts,
            regions_without_data,
        })
    }

    /// Makes the regions while the data comes in, unless they are there.
    async fn grow(&mut self, load: &Load) -> Result<(), Failure> {
        let Some(living) = self.living.clone() else { return Ok(()) };
        let growing = tokio::spawn(living.grow());
        while !growing.is_finished() {
            self.watch(load, Instant::now() + TELL_INTERVAL, |_| growing.is_finished()).await?;
        }
        growing.await.map_err(|error| Failure::during("growing ended early", error))??;
        self.look_again().await
    }

    /// Takes note of what the regions are by now.
    async fn look_again(&mut self) -> Result<(), Failure> {
        let Some(living) = &self.living else { return Ok(()) };
        let regions = RegionMap::of(living.regions().await?);
        self.regions = regions.ok_or_else(|| Failure::new("store 1 tells nonsense of the regions"))?;
        Ok(())
    }

    /// Kills the store that leads most regions, measures how these come back, and starts it again at `restart` at the
    /// earliest.
    async fn lose_a_store(&mut self, load: &Load, restart: Instant) -> Result<Failover, Failure> {
        let reports = self.cluster.all_status().await?;
        let led_by = |at: usize| reports[at].regions.iter().filter(|region| region.is_leader).map(|region| region.id);
        let victim = (0..reports.len()).max_by_key(|at| led_by(*at).count()).expect("invariant: there are stores");
        let led: Vec<u64> = led_by(victim).filter(|id| self.regions.start(*id).is_some()).collect();
        let others = self.cluster.stores.iter().enumerate().filter(|(at, _)| *at != victim);
        let others: Vec<SocketAddr> = others.map(|(_, store)| store.resp).collect();
        let probes = Probes::new(&led, &self.regions, others, Arc::clone(&self.ledger));
        let id = self.cluster.stores[victim].id;
        self.say(&format!("killing store {id} with SIGKILL: it leads {} regions", led.len()))?;
        self.totals.add(&self.cluster.status(victim).await?);
        self.cluster.kill(victim).await?;
        let probing = tokio::spawn(probes.run(Instant::now()));
        while !probing.is_finished() {
            self.watch(load, Instant::now() + TELL_INTERVAL, |_| probing.is_finished()).await?;
        }
        let failover = probing.await.map_err(|error| Failure::during("the probes ended early", error))?;
        self.say(&format!("{} of them take writes again", failover.times_us.len()))?;
        self.watch(load, restart, |_| false).await?;
        self.cluster.start(victim).await?;
        self.say(&format!("store {id} is back"))?;
        Ok(failover)
    }

    /// Tells how the writing goes, until a moment or until `done`.
    async fn watch(&mut self, load: &Load, until: Instant, done: impl Fn(&Load) -> bool) -> Result<(), Failure> {
        let mut told = (Instant::now(), load.acknowledged());
        while Instant::now() < until && !done(load) {
            sleep(LOOK_INTERVAL.min(until.saturating_duration_since(Instant::now()))).await;
            self.cluster.check_running()?;
            if told.0.elapsed() >= TELL_INTERVAL {
                let (writes, elapsed) = (load.acknowledged(), told.0.elapsed());
                let rate = (writes - told.1) as f64 / elapsed.as_secs_f64();
                let up = (0..self.cluster.stores.len()).filter(|at| self.cluster.is_up(*at)).count();
                let pairs = self.ledger.pairs.len();
                self.say(&format!(
                    "{} of {pairs} pairs, {writes} writes, {rate:.0} a second, {up} stores up",
                    self.ledger.acknowledged()
                ))?;
                told = (Instant::now(), writes);
            }
        }
        Ok(())
    }

    /// Waits until every replica of every region has applied all that its leader holds.
    async fn wait_level(&mut self, what: &str) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut told = begun;
        loop {
            self.cluster.check_running()?;
            self.look_again().await?;
            let progress = self.regions.progress(&self.cluster.all_status().await?);
            if progress.level == self.regions.len() {
                return Ok(());
            }
            if begun.elapsed() > LEVEL_TIMEOUT {
                return Err(Failure::new(format!(
                    "{what}: after {LEVEL_TIMEOUT:?} only {} of {} regions have a leader and {} are level on all replicas",
                    progress.led,
                    self.regions.len(),
                    progress.level
                )));
            }
            if told.elapsed() >= TELL_INTERVAL {
                told = Instant::now();
                let (led, level) = (progress.led, progress.level);
                self.say(&format!("{what}: {led} regions have a leader, {level} are level on all replicas"))?;
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Reads every acknowledged pair from each replica.
    async fn check(&mut self, when: &str) -> Result<verify::Verdict, Failure> {
        let stores: Vec<_> = self.cluster.stores.iter().map(|store| (store.id, store.admin)).collect();
        let begun = Instant::now();
        let (verdict, wrong) = loop {
            if let Some(living) = &self.living {
                living.calm().await?;
            }
            self.wait_level("waiting for all replicas").await?;
            let before = self.regions.clone();
            let found = verify::verify(&stores, self.ledger.expectations(), &self.regions).await;
            self.look_again().await?;
            // A replica that has gone meanwhile holds nothing, and answers nothing, any more.
            if before == self.regions || begun.elapsed() > LEVEL_TIMEOUT {
                break found?;
            }
        };
        wrong.iter().for_each(|line| tracing::warn!("lost: {line}"));
        self.say(&format!("{when}: {} pairs checked on every replica, {} lost", verdict.pairs, verdict.lost))?;
        Ok(verdict)
    }

    /// Adds up what all stores have counted; how many regions each leads.
    async fn count_all(&mut self) -> Result<Vec<(u64, usize)>, Failure> {
        let mut leaders = Vec::new();
        for status in self.cluster.all_status().await? {
            self.totals.add(&status);
            let led =
                status.regions.iter().filter(|region| region.is_leader && self.regions.start(region.id).is_some());
            leaders.push((status.store, led.count()));
        }
        Ok(leaders)
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        say(&format!("[{:6.1} s] {text}", self.started.elapsed().as_secs_f64()))
    }
}
