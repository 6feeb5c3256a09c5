//! One run: a cluster, clients, faults and changes, then peace; what clients were told is judged, and a report written.

#![allow(clippy::print_stdout, reason = "a run goes on for long: whoever waits sees what it does")]

mod judge;
mod leaders;
pub(crate) mod prepare;
mod self_test;
mod settle;

pub use self_test::self_test;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use leaders::Leaders;
use settle::Compared;

use crate::check::Workload;
use crate::cluster::{Admin, Cluster};
use crate::history::{Format, Recorder};
use crate::nemesis::{Changed, Disks, Kind, Nemesis, Notes, Operator, Tally};
use crate::random::Random;
use crate::report::{self, Check};
use crate::stop::Stop;
use crate::trouble::{Outcome, Trouble, While};
use crate::workload::{Load, Settings};

/// How long the first state of a workload may take to be written.
const PREPARED_WITHIN: Duration = Duration::from_secs(60);
/// How soon after the last fault something has to succeed through every store.
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);
/// The check that compares the replicas of each region.
const EQUAL: &str = "replicas are equal";
/// How many operators change regions.
const OPERATORS: u64 = 2;

/// Which net lies between stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ground {
    /// Network namespaces, unless a fault needs the proxy or this machine has none.
    #[default]
    Any,
    /// Network namespaces.
    Namespaces,
    /// A proxy on loopback.
    Proxy,
}

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What clients do, beside each other.
    pub workloads: Vec<Workload>,
    /// What goes wrong.
    pub kinds: Vec<Kind>,
    /// How many stores.
    pub stores: u64,
    /// For how long.
    pub seconds: u64,
    /// What is drawn from.
    pub seed: u64,
    /// How many regions the cluster begins with.
    pub regions: u64,
    /// Clients of each workload.
    pub clients: u64,
    /// Operations a second of each workload; none: as fast as they can.
    pub rate: Option<u64>,
    /// The program; none: it is built.
    pub program: Option<PathBuf>,
    /// A program that embeds the engine and is what stores run, with their clients in its process; none: stores run the program.
    pub embedding: Option<PathBuf>,
    /// What lies between stores.
    pub ground: Ground,
    /// Where stores keep the pairs: `sled` or `mem`; none: drawn.
    pub state: Option<String>,
    /// What reads rest on: `linearizable` or `lease`; none: drawn.
    pub reads: Option<String>,
    /// A bug to be planted in every store.
    pub plant: Option<String>,
    /// Where the history goes, by its ending as EDN or JSON lines.
    pub history: Option<PathBuf>,
    /// Where the report goes, and what is kept of a failed run; none: a folder of its own, which stays only then.
    pub out: Option<PathBuf>,
    /// How to run the same again.
    pub command: String,
}

/// How a run has gone.
#[derive(Debug)]
pub struct Summary {
    /// Whether every check held.
    pub ok: bool,
    /// What there is to say, for a terminal.
    pub text: String,
    /// The same for machines, on one line.
    pub json: String,
    /// The names of the checks by which stores were found to have broken a promise: those of histories, and of what they say of
    /// themselves. Others may fail because a run has not gone as it was meant to.
    pub refuted: Vec<String>,
}

/// What came of the faulty part.
struct Fired {
    struck: Outcome<Tally>,
    changed: Changed,
    leaders: Leaders,
    clients: Vec<Outcome<()>>,
}

/// Runs a plan.
///
/// # Errors
/// The run could not be made: that says nothing of the stores.
pub fn run(plan: &Plan) -> Outcome<Summary> {
    let (dir, kept) = prepare::directory(plan.out.as_deref())?;
    let (mut cluster, disks, mut ground) = prepare::cluster(plan, dir.as_path())?;
    cluster.found()?;
    if let Some(plant) = &plan.plant {
        check_planted(&cluster, plant)?;
    }
    let loads: Vec<Load> = plan.workloads.iter().map(|workload| load(plan, &cluster, *workload)).collect();
    for load in &loads {
        load.prepare(PREPARED_WITHIN)?;
    }
    let recorders: Vec<&Recorder> = loads.iter().map(Load::recorder).collect();
    let notes = Notes::new(&recorders);
    println!("all stores serve; {} s of {} under {}", plan.seconds, names(&plan.workloads), names_of(&plan.kinds));
    let fired = fire(plan, &mut cluster, &disks, &loads, notes)?;
    let mut checks = judge::of_fire(&fired);
    checks.extend(judge::of_drains(plan, &fired.changed));
    let mut refuted = Vec::new();
    let leaders = judge::of("one leader a term", fired.leaders.verdict());
    refuted.extend((!leaders.ok).then(|| leaders.name.clone()));
    checks.push(leaders);
    let is_healed = fired.struck.is_ok();
    if is_healed {
        let (of_peace, differ) = peace(plan, &cluster, &loads, notes);
        checks.extend(of_peace);
        refuted.extend(differ.then(|| EQUAL.to_owned()));
    }
    checks.push(judge::of(
        "no store has panicked",
        cluster.check_logs().map(|()| "as far as their logs tell".to_owned()),
    ));
    ground.extend(
        fired
            .struck
            .iter()
            .flatten()
            .map(|(kind, (times, trace))| format!("{}: {times} times; last: {trace}", kind.name())),
    );
    ground.push(format!("changes confirmed: {}", told(&fired.changed)));
    for (load, workload) in loads.iter().zip(&plan.workloads) {
        let (check, held) = judge::of_history(load, *workload, plan.seconds);
        if !held {
            refuted.push(check.name.clone());
        }
        checks.push(check);
    }
    let ok = checks.iter().all(|check| check.ok);
    let artefacts = artefacts(plan, &cluster, &loads, !ok || kept, dir.as_path())?;
    drop(cluster);
    drop(disks);
    let summary = summarize(plan, &loads, ground, checks, artefacts, dir.as_path())?;
    if kept || !ok {
        dir.keep();
    }
    Ok(Summary { refuted, ..summary })
}

/// A store says which bug it has: one that is built without bugs would pass, and nobody know why.
fn check_planted(cluster: &Cluster, plant: &str) -> Outcome<()> {
    for at in 0..cluster.stores.len() {
        if !cluster.log(at)?.lines().any(|line| line.contains("A BUG IS PLANTED") && line.contains(plant)) {
            return Err(Trouble::new(format!(
                "store {} does not have the bug `{plant}`: it is not built with the feature `torture`",
                at + 1
            )));
        }
    }
    Ok(())
}

fn load(plan: &Plan, cluster: &Cluster, workload: Workload) -> Load {
    Load::new(Settings {
        workload,
        seed: plan.seed,
        places: cluster.stores.iter().map(|store| prepare::place(&store.place)).collect(),
        clients: plan.clients,
        rate: plan.rate,
        request_timeout: prepare::PATIENCE,
    })
}

/// Lets everything loose on each other until the time is over; then all is healed.
fn fire(plan: &Plan, cluster: &mut Cluster, disks: &Disks, loads: &[Load], notes: Notes<'_>) -> Outcome<Fired> {
    let (stop, drawn) = (Stop::default(), AtomicU64::new(0));
    let admins: Vec<Admin> = cluster.admins();
    // Keys to cut at are drawn from the workloads in turn.
    let cut = |random: &mut Random| {
        let at = drawn.fetch_add(1, Ordering::Relaxed) as usize % loads.len();
        loads[at].cut(random)
    };
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    let nemesis = Nemesis::new(cluster, disks, notes, &plan.kinds, Random::of_part(plan.seed, "nemesis", 0));
    thread::scope(|scope| {
        // However this ends, the threads come to theirs.
        let _ending = Ending(&stop);
        let clients: Vec<_> = loads.iter().map(|load| scope.spawn(|| load.run(&stop))).collect();
        let operators: Vec<_> = (0..OPERATORS)
            .map(|number| {
                let random = Random::of_part(plan.seed, "operator", number);
                // Two who empty stores would leave regions nowhere to go.
                let kinds = plan.kinds.iter().copied().filter(|kind| number == 0 || *kind != Kind::Drain);
                let kinds: Vec<Kind> = kinds.collect();
                let operator = Operator::new(&admins, notes, &kinds, &cut, random);
                let stop = &stop;
                scope.spawn(move || operator.run(stop))
            })
            .collect();
        let watches: Vec<_> = admins.iter().map(|admin| scope.spawn(|| Leaders::watch(admin, &stop))).collect();
        let struck = nemesis.strike_until(end, &stop);
        if struck.is_ok() {
            stop.within(end.saturating_duration_since(Instant::now()));
        }
        stop.tell();
        let panicked = || Trouble::new("a thread of the harness has panicked");
        let clients =
            clients.into_iter().map(|client| client.join().map_err(|_| panicked())).collect::<Outcome<_>>()?;
        let mut changed = Changed::default();
        for operator in operators {
            changed.add(operator.join().map_err(|_| panicked())?);
        }
        let mut leaders = Leaders::default();
        for watch in watches {
            leaders.add(watch.join().map_err(|_| panicked())?);
        }
        Ok(Fired { struck, changed, leaders, clients })
    })
}

/// After the last fault: everything works again, soon; the cluster comes to rest; replicas are equal; all is read once more. And whether
/// replicas were seen to differ.
fn peace(plan: &Plan, cluster: &Cluster, loads: &[Load], notes: Notes<'_>) -> (Vec<Check>, bool) {
    notes.say("all faults are over");
    let mut checks = Vec::new();
    for (load, workload) in loads.iter().zip(&plan.workloads) {
        let name = format!("{}: everything succeeds again", workload.name());
        let finished = load.finish(RECOVERED_WITHIN);
        let line = finished.map(|found| {
            let (slowest, store, reads) = (found.slowest, found.slowest_store, found.reads);
            format!("the slowest took {slowest:.1?}, through store {store}; {reads} keys read once more")
        });
        checks.push(judge::of(&name, line));
    }
    let admins = cluster.admins();
    let mut random = Random::of_part(plan.seed, "settle", 0);
    // Whoever has a bug need not come to rest.
    let limit = if plan.plant.is_some() { settle::LIMIT / 6 } else { settle::LIMIT };
    let settled = settle::settle(&admins, limit, &mut random).map(|took| format!("after {took:.1?}"));
    checks.push(judge::of("the cluster comes to rest, all regions whole", settled));
    let compared = settle::compare(&admins);
    let differ = matches!(compared, Ok(Compared::Different(_)));
    let equal = compared.and_then(|compared| match compared {
        Compared::Equal(regions) => Ok(format!("{regions} regions, each at one index")),
        Compared::Different(what) => Err(Trouble::new(what)),
    });
    checks.push(judge::of(EQUAL, equal));
    (checks, differ)
}

/// Writes histories where they are wanted; where what is kept of this run lies.
fn artefacts(plan: &Plan, cluster: &Cluster, loads: &[Load], keep: bool, dir: &Path) -> Outcome<Vec<String>> {
    let mut artefacts = Vec::new();
    let mut write = |path: PathBuf, load: &Load| -> Outcome<()> {
        let format = Format::of(&path).trying(|| "naming a history".to_owned())?;
        let text = load.recorder().history().write(format);
        std::fs::write(&path, text).trying(|| format!("writing {}", path.display()))?;
        artefacts.push(path.display().to_string());
        Ok(())
    };
    for (load, workload) in loads.iter().zip(&plan.workloads) {
        if let Some(path) = &plan.history {
            write(if loads.len() == 1 { path.clone() } else { beside(path, workload.name()) }, load)?;
        }
        if keep {
            for ending in ["edn", "jsonl"] {
                write(dir.join(format!("{}.{ending}", workload.name())), load)?;
            }
        }
    }
    if keep {
        artefacts.extend((0..cluster.stores.len()).map(|at| cluster.log_file(at).display().to_string()));
    }
    Ok(artefacts)
}

/// The same path with a name before its ending.
fn beside(path: &Path, name: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{name}.{ending}"))
}

fn summarize(
    plan: &Plan,
    loads: &[Load],
    ground: Vec<String>,
    checks: Vec<Check>,
    artefacts: Vec<String>,
    dir: &Path,
) -> Outcome<Summary> {
    let ok = checks.iter().all(|check| check.ok);
    let (mut text, mut lines) = (String::new(), Vec::new());
    for (load, workload) in loads.iter().zip(&plan.workloads) {
        let history = load.recorder().history();
        let facts = report::Facts {
            command: plan.command.clone(),
            seed: plan.seed,
            workload: workload.name().to_owned(),
            nemeses: plan.kinds.iter().map(|kind| kind.name().to_owned()).collect(),
            stores: plan.stores,
            seconds: plan.seconds,
            ground: ground.clone(),
            history: &history,
            checks: checks.iter().filter(|check| !is_of_another(&check.name, *workload)).cloned().collect(),
            artefacts: artefacts.clone(),
        };
        text.push_str(&report::text(&facts));
        lines.push(report::json(&facts));
        let file = dir.join(format!("report-{}.html", workload.name()));
        std::fs::write(&file, report::html(&facts)).trying(|| format!("writing {}", file.display()))?;
    }
    let json = serde_json::json!({ "ok": ok, "seed": plan.seed, "runs": lines }).to_string();
    Ok(Summary { ok, text, json, refuted: Vec::new() })
}

/// Whether a check is about another workload than this one.
fn is_of_another(check: &str, workload: Workload) -> bool {
    let about = check.split(':').next().unwrap_or_default();
    about != workload.name() && Workload::of(about).is_some()
}

fn names(workloads: &[Workload]) -> String {
    workloads.iter().map(|workload| workload.name()).collect::<Vec<_>>().join(", ")
}

fn names_of(kinds: &[Kind]) -> String {
    if kinds.is_empty() {
        "no faults".to_owned()
    } else {
        kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
    }
}

fn told(changed: &Changed) -> String {
    let done: Vec<String> = changed.done.iter().map(|(kind, times)| format!("{} {times}", kind.name())).collect();
    format!(
        "{}; {} refused or not confirmed",
        if done.is_empty() { "none".to_owned() } else { done.join(", ") },
        changed.failed
    )
}

/// Tells a run's threads that it is over, also when something has gone wrong.
struct Ending<'a>(&'a Stop);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.tell();
    }
}
