//! Overload from outside: a crowd sends far more than three stores can take to one half of the regions, and a few lone clients write a
//! little to the others. Then one store stands still and another's disk is slow, and then all is well again.
//!
//! ```text
//! quiet      lone clients
//! crowded    lone clients, crowd
//! hurt       lone clients, crowd; one store stopped (SIGSTOP), another with a slow disk
//! healed     nothing is wrong and nobody presses: every store has to answer for every region soon
//! ```
//!
//! What is asked: that memory stays within what the configuration says, that callers are told `BUSY`, that nothing acknowledged is lost,
//! and that who has nothing to do with the crowd is not held up by it.

#![allow(clippy::print_stdout, reason = "a run goes on for long: whoever waits sees what it does")]

mod crowd;
mod lone;
mod memory;
mod pipe;
mod told;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::client::{Line, Reply, words};
use crate::cluster::{Cluster, Place, Program, Setup, Signal};
use crate::disk::shim::{Order, Shim};
use crate::ground::Net;
use crate::random::Random;
use crate::run::prepare;
use crate::stop::{Stop, look_again};
use crate::trouble::{Outcome, Trouble, While};
use crowd::{Counts, Ledger, Tally, Wish};
use lone::{Diary, Lone};
use memory::{Look, Resident, Room};
use pipe::Written;
pub use told::Summary;

/// How many stores.
const STORES: u64 = 3;
/// How long all regions may take to answer at first.
const PREPARED_WITHIN: Duration = Duration::from_secs(60);
/// How soon after the end every store has to answer for every region.
const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// How long a store may take to stand still.
const STILL_WITHIN: Duration = Duration::from_secs(5);
/// How long one exchange is waited for, when health is looked at.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long after a store was stopped the others may need to find out and to elect: support runs out after 1 s, and what was under way
/// has to end first.
const FAILOVER: Duration = Duration::from_secs(5);

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long it lasts that a store stands still, in seconds.
    pub seconds: u64,
    /// What is drawn from.
    pub seed: u64,
    /// How many regions.
    pub regions: u64,
    /// How many clients the crowd has.
    pub clients: u64,
    /// How long the crowd's values are, in bytes.
    pub payload: usize,
    /// How many bytes of values each of the crowd keeps on its way.
    pub window: usize,
    /// How many lone clients.
    pub lone: u64,
    /// How many writes a second each of these makes.
    pub rate: u64,
    /// By how much each write and sync of the slow disk is late.
    pub disk_delay: Duration,
    /// Where stores keep the pairs: `sled` or `mem`.
    pub state: String,
    /// How many workers a store has.
    pub workers: u64,
    /// The longest that a lone client may be left without an acknowledgement, beside what it takes to find out that a store is gone;
    /// none: twice the p99 of the crowded part.
    pub silence: Option<Duration>,
    /// The program; none: it is built.
    pub program: Option<PathBuf>,
    /// How to run the same again.
    pub command: String,
}

/// The parts of a run, by when they began, since the beginning.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    quiet: Duration,
    crowded: Duration,
    hurt: Duration,
    healed: Duration,
}

/// Who is hurt, by places in the cluster.
#[derive(Clone, Copy, Debug)]
struct Hurt {
    stopped: usize,
    slow: usize,
}

/// What was seen.
struct Seen {
    parts: Parts,
    hurt: Hurt,
    /// What the crowd was told while all were well, and while they were not.
    crowded: Tally,
    hurting: Tally,
    /// The most that was on its way, in commands.
    outstanding: u64,
    /// How often stores told a caller `Busy`; their Redis front ends are such callers, and try again for a while.
    refused: u64,
    /// How often the slow disk was met.
    delayed: u64,
    ledger: Ledger,
    diaries: Vec<Diary>,
    looks: Vec<Look>,
    /// How soon every store answered for every region.
    healed: Outcome<Duration>,
    /// Of each store, at the end.
    resident: Vec<Resident>,
}

/// Runs a plan.
///
/// # Errors
/// The run could not be made: that says nothing of the stores.
pub fn run(plan: &Plan) -> Outcome<Summary> {
    let (dir, _) = prepare::directory(None)?;
    let (mut cluster, shim) = cluster(plan, &dir)?;
    cluster.found()?;
    let places = places(plan.regions);
    let addresses: Vec<SocketAddr> = cluster.stores.iter().map(|store| store.place.resp).collect();
    answers_everywhere(&addresses, &places, PREPARED_WITHIN)?;
    let seen = press(plan, &cluster, &shim, &addresses, &places)?;
    let lost = lost(&addresses, &seen)?;
    let panics = cluster.check_logs();
    let mut summary = told::summary(plan, &seen, &lost, panics, &room(plan, &seen));
    let data: Vec<PathBuf> = cluster.stores.iter().map(|store| store.data.clone()).collect();
    drop(cluster);
    if !summary.ok {
        // What the stores have said tells more than gigabytes of a crowd's values.
        data.iter().for_each(|data| drop(std::fs::remove_dir_all(data)));
        let _ = writeln!(summary.text, "what the stores have said is in {}", dir.as_path().display());
        dir.keep();
    }
    Ok(summary)
}

fn cluster(plan: &Plan, dir: &prepare::Folder) -> Outcome<(Cluster, Shim)> {
    let dir = dir.as_path();
    let program = plan.program.as_deref().map_or_else(Program::build, Program::at)?;
    let timeout = format!("{}s", prepare::REQUEST_TIMEOUT.as_secs());
    let workers = plan.workers.to_string();
    let flags = ["--state", &plan.state, "--request-timeout", &timeout, "--workers", &workers];
    let mut cluster = Cluster::prepare(Setup {
        program,
        dir: dir.to_owned(),
        net: Net::Plain,
        places: Place::of_stores(STORES, |_| None),
        founders: STORES as usize,
        founding: prepare::founding(dir, plan.regions)?,
        flags: flags.map(str::to_owned).to_vec(),
    })?;
    let shim = Shim::build(&dir.join("shim"))?;
    cluster.stores.iter_mut().try_for_each(|store| shim.lie_under(store))?;
    Ok((cluster, shim))
}

/// A key in the middle of each region, in key order.
fn places(regions: u64) -> Vec<String> {
    (0..regions).map(|region| format!("key:{:06}", (2 * region + 1) * 1_000_000 / (2 * regions))).collect()
}

/// The places of the crowd: every other one, from the first on.
fn of_crowd(places: &[String]) -> Vec<String> {
    places.iter().step_by(2).cloned().collect()
}

/// The clients that want little, each with a region of its own as far as there are some, at stores that are not to be stopped.
fn lone_clients(plan: &Plan, addresses: &[SocketAddr], places: &[String], hurt: Hurt) -> Vec<Lone> {
    let quiet: Vec<&String> = places.iter().skip(1).step_by(2).collect();
    let asked: Vec<SocketAddr> =
        addresses.iter().enumerate().filter(|(at, _)| *at != hurt.stopped).map(|(_, address)| *address).collect();
    let client = |number: u64| {
        let at = number as usize;
        // Spread over all regions, so over all leaders and workers.
        let place = quiet[(at * quiet.len() / plan.lone as usize) % quiet.len()];
        Lone {
            number,
            address: asked[at % asked.len()],
            base: format!("{place}:lone-{number}"),
            interval: Duration::from_secs(1) / u32::try_from(plan.rate).unwrap_or(1).max(1),
        }
    };
    (0..plan.lone).map(client).collect()
}

/// One part after the other.
fn press(plan: &Plan, cluster: &Cluster, shim: &Shim, addresses: &[SocketAddr], places: &[String]) -> Outcome<Seen> {
    let mut random = Random::of_part(plan.seed, "overload", 0);
    let mut order: Vec<usize> = (0..addresses.len()).collect();
    random.shuffle(&mut order);
    let hurt = Hurt { stopped: order[0], slow: order[1] };
    let pids = (0..addresses.len()).map(|at| cluster.pid(at)).collect::<Outcome<Vec<u32>>>()?;
    let wish = Wish {
        stores: addresses.to_vec(),
        places: of_crowd(places),
        clients: plan.clients,
        window: (plan.window / plan.payload.max(1)).max(2),
        payload: plan.payload,
    };
    let lone_clients = lone_clients(plan, addresses, places, hurt);
    let (crowd_over, crowd_ends) = watch::channel(false);
    let (lone_over, lone_ends) = watch::channel(false);
    let (counts, stop) = (Arc::new(Counts::default()), Stop::default());
    let begun = Instant::now();
    thread::scope(|scope| {
        // However this ends, the threads come to theirs.
        let _ending = Ending { stop: &stop, over: [&crowd_over, &lone_over] };
        let watching = memory::watch_aside(scope, pids.clone(), begun, &stop);
        let writing = scope.spawn(move || few(lone_clients, begun, lone_ends));
        let wait = |seconds: f64| {
            stop.within(Duration::from_secs_f64(seconds));
        };
        let mut parts = Parts::default();
        let seconds = plan.seconds as f64;
        println!("all stores serve: {} lone clients", plan.lone);
        // Caches are cold and leaders have just been elected.
        wait((seconds / 20.0).min(2.0));
        parts.quiet = begun.elapsed();
        wait((seconds / 6.0).clamp(2.0, 10.0));
        parts.crowded = begun.elapsed();
        println!("a crowd of {} comes", plan.clients);
        let crowding = scope.spawn({
            let counts = Arc::clone(&counts);
            move || many(&wish, &counts, &crowd_ends)
        });
        let mut outstanding = 0;
        let mut press_on = |length: f64| {
            let since = Instant::now();
            while since.elapsed().as_secs_f64() < length {
                wait(0.1);
                outstanding = outstanding.max(counts.now().outstanding());
            }
            counts.now()
        };
        let at_hurt = press_on((seconds / 3.0).clamp(3.0, 20.0));
        let delayed_before = delayed(shim, cluster, hurt)?;
        strike(plan, cluster, shim, hurt)?;
        parts.hurt = begun.elapsed();
        println!("store {} stands still, the disk of store {} is slow", hurt.stopped + 1, hurt.slow + 1);
        let at_end = press_on(seconds);
        heal(cluster, shim, hurt)?;
        parts.healed = begun.elapsed();
        println!("all is over");
        crowd_over.send_replace(true);
        let healing = Instant::now();
        let ledger = joined(crowding)?;
        let healed = answers_everywhere(addresses, places, HEALED_WITHIN).map(|()| healing.elapsed());
        lone_over.send_replace(true);
        let diaries = joined(writing)?;
        let delayed = delayed(shim, cluster, hurt)? - delayed_before;
        let refused = (0..addresses.len()).map(|at| refused(cluster, at)).sum::<Outcome<u64>>()?;
        stop.tell();
        let looks = joined(watching)?;
        let resident = pids.iter().map(|pid| memory::resident(*pid)).collect::<Outcome<_>>()?;
        let hurting = at_end.since(&at_hurt);
        Ok(Seen {
            parts,
            hurt,
            crowded: at_hurt,
            hurting,
            outstanding,
            refused,
            delayed,
            ledger,
            diaries,
            looks,
            healed,
            resident,
        })
    })
}

fn joined<T>(handle: thread::ScopedJoinHandle<'_, Outcome<T>>) -> Outcome<T> {
    handle.join().map_err(|_| Trouble::new("a thread of the harness has panicked"))?
}

/// Tells all threads that it is over, also when something has gone wrong.
struct Ending<'a> {
    stop: &'a Stop,
    over: [&'a watch::Sender<bool>; 2],
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.stop.tell();
        self.over.iter().for_each(|over| {
            over.send_replace(true);
        });
    }
}

/// Runs the crowd on a thread.
fn many(wish: &Wish, counts: &Arc<Counts>, over: &watch::Receiver<bool>) -> Outcome<Ledger> {
    runtime()?.block_on(crowd::run(wish, counts, over)).trying(|| "in the crowd".to_owned())
}

/// Runs the lone clients on a thread, which they share with nobody: what it measures is to be the stores'.
fn few(clients: Vec<Lone>, begun: Instant, over: watch::Receiver<bool>) -> Outcome<Vec<Diary>> {
    runtime()?.block_on(async {
        let mut writing = Vec::new();
        for client in clients {
            let number = client.number;
            writing.push((number, tokio::spawn(client.run(begun, over.clone()))));
        }
        let mut diaries = Vec::new();
        for (number, writing) in writing {
            let diary = writing.await.map_err(std::io::Error::other).and_then(|diary| diary);
            diaries.push(diary.trying(|| format!("lone client {number}"))?);
        }
        Ok(diaries)
    })
}

fn runtime() -> Outcome<Runtime> {
    Builder::new_current_thread().enable_all().build().trying(|| "starting clients".to_owned())
}

fn strike(plan: &Plan, cluster: &Cluster, shim: &Shim, hurt: Hurt) -> Outcome<()> {
    cluster.signal(hurt.stopped, Signal::STOP)?;
    let since = Instant::now();
    while cluster.state_of(hurt.stopped)? != 'T' {
        if !look_again(since, STILL_WITHIN) {
            return Err(Trouble::new(format!("store {} was sent SIGSTOP and goes on", hurt.stopped + 1)));
        }
    }
    let order = Order { sync_delay: plan.disk_delay, write_delay: plan.disk_delay, ..Order::default() };
    shim.order(hurt.slow as u64 + 1, &cluster.stores[hurt.slow].data, &order)
}

fn heal(cluster: &Cluster, shim: &Shim, hurt: Hurt) -> Outcome<()> {
    shim.heal(hurt.slow as u64 + 1)?;
    let state = cluster.state_of(hurt.stopped)?;
    if state != 'T' {
        return Err(Trouble::new(format!("store {} went on by itself: state {state}", hurt.stopped + 1)));
    }
    cluster.signal(hurt.stopped, Signal::CONT)
}

fn delayed(shim: &Shim, cluster: &Cluster, hurt: Hurt) -> Outcome<u64> {
    let hits = shim.hits(cluster.stores[hurt.slow].place.store)?;
    Ok(hits.get("syncs_delayed").copied().unwrap_or(0) + hits.get("writes_delayed").copied().unwrap_or(0))
}

/// How often a store has told callers `Busy`: at its door, in front of a worker, and where a group or an applier was full.
fn refused(cluster: &Cluster, at: usize) -> Outcome<u64> {
    let counters = ["propose_refused_total", "worker_busy_total", "proposals_busy_total"];
    counters.into_iter().map(|counter| cluster.metric(at, counter)).sum()
}

/// Waits until every store has carried a write and a read out in every region.
fn answers_everywhere(addresses: &[SocketAddr], places: &[String], limit: Duration) -> Outcome<()> {
    let begun = Instant::now();
    for address in addresses {
        let mut line = None;
        for place in places {
            let key = format!("{place}:health");
            loop {
                let told = ask(*address, &mut line, &["SET", &key, "1"]);
                if matches!(&told, Ok(Reply::Simple(text)) if text == "OK") {
                    let found = ask(*address, &mut line, &["GET", &key]);
                    if matches!(&found, Ok(Reply::Value(Some(value))) if value == b"1") {
                        break;
                    }
                }
                if !look_again(begun, limit) {
                    return Err(Trouble::new(format!(
                        "{address} does not answer for {key} within {limit:?}: {told:?}"
                    )));
                }
            }
        }
    }
    Ok(())
}

fn ask(address: SocketAddr, line: &mut Option<Line>, command: &[&str]) -> Result<Reply, String> {
    let mut open = match line.take() {
        Some(open) => open,
        None => Line::open(address, ANSWER_WITHIN, ANSWER_WITHIN).map_err(|error| error.to_string())?,
    };
    let reply = open.ask(&words(command)).map_err(|error| error.to_string())?;
    *line = Some(open);
    Ok(reply)
}

/// How many keys were read once more, and what is wrong with some.
struct Lost {
    read: usize,
    acknowledged: usize,
    wrong: Vec<String>,
}

/// Reads every key that was written to: it must hold what was acknowledged last, or what was sent after that.
fn lost(addresses: &[SocketAddr], seen: &Seen) -> Outcome<Lost> {
    let of_lone = seen.diaries.iter().flat_map(|diary| &diary.keys);
    let keys: Vec<&Written> = of_lone.chain(&seen.ledger).filter(|written| written.tried > 0).collect();
    let acknowledged = keys.iter().filter(|written| written.acknowledged > 0).count();
    let mut lost = Lost { read: 0, acknowledged, wrong: Vec::new() };
    let begun = Instant::now();
    let mut lines: Vec<Option<Line>> = addresses.iter().map(|_| None).collect();
    for written in keys {
        let at = lost.read % addresses.len();
        let found = loop {
            match ask(addresses[at], &mut lines[at], &["GET", &written.key]) {
                Ok(Reply::Value(Some(value))) => break pipe::number_of(&value),
                Ok(Reply::Value(None)) => break Some(0),
                other if !look_again(begun, HEALED_WITHIN) => {
                    return Err(Trouble::new(format!("{} could not be read: {other:?}", written.key)));
                }
                _ => {}
            }
        };
        lost.read += 1;
        if !found.is_some_and(|found| (written.acknowledged..=written.tried).contains(&found)) {
            lost.wrong.push(format!("{written:?} holds {found:?}"));
        }
    }
    Ok(lost)
}

/// What a store may need, of this plan.
fn room(plan: &Plan, seen: &Seen) -> Room {
    let keys = seen.ledger.len() + seen.diaries.iter().map(|diary| diary.keys.len()).sum::<usize>();
    Room {
        workers: plan.workers,
        peers: STORES - 1,
        regions: plan.regions + 1,
        connections: plan.clients.div_ceil(STORES) + plan.lone,
        command_bytes: plan.payload as u64,
        state_bytes: if plan.state == "mem" { keys as u64 * (plan.payload as u64 + 256) } else { 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_region_has_a_place_and_the_crowd_every_other_one() {
        let places = places(4);
        assert_eq!(places, ["key:125000", "key:375000", "key:625000", "key:875000"]);
        assert_eq!(of_crowd(&places), ["key:125000", "key:625000"]);
    }
}
