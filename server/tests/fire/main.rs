//! Five stores, each a process of its own, under fire: clients write and read, operators split, merge and move, stores are killed,
//! stopped and made to stand still, parted from each other, and their clocks turned; in the end what the clients were told is judged.
//!
//! `MULTIRAFT_FIRE_SECONDS` says how long (half a minute unless told otherwise), `MULTIRAFT_FIRE_SEED` draws the same again: what is
//! asked for and when, not how the processes run.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which says what it does")]

mod admin;
mod bounded;
mod clients;
mod clocks;
mod counters;
mod ground;
#[path = "../harness/mod.rs"]
mod harness;
mod nemesis;
mod operator;
mod placement;
mod planted;
mod resp;
mod settle;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bounded::Reader;
use clients::{Client, Record, Trial};
use harness::{Cluster, Ground};
use multiraft_sim::random::Random;
use nemesis::Nemesis;
use operator::{Done, Operator};

/// How many stores there are; a region has replicas on three of them.
const STORES: u64 = 5;
/// The stores that a cluster begins with.
const FOUNDERS: u64 = 3;
const CLIENTS: u64 = 10;
/// Those who read what may be old.
const READERS: u64 = 2;
const OPERATORS: u64 = 3;
/// How long nothing may move in the end.
const QUIET: Duration = Duration::from_secs(3);
/// How many writes have to be taken when the last fault is over, one after the other, and how soon each: a request that was sent
/// astray takes the time-out, and may be sent astray twice.
const WRITES: usize = 50;
const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// How long reading every key may take in the end.
const READING: Duration = Duration::from_secs(120);
/// The longest time in which no client at all may be answered. Two stores may be dead at a time, and the machine busy.
const STALL_MAX: Duration = Duration::from_secs(12);

fn setting(name: &str, default: impl FnOnce() -> u64) -> u64 {
    std::env::var(name).map_or_else(|_| default(), |text| text.parse().unwrap())
}

fn seed() -> u64 {
    setting("MULTIRAFT_FIRE_SEED", || {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap())
    })
}

/// Three stores begin with some regions, two more join them.
fn five_stores(seed: u64, ground: Ground, flags: &[&str]) -> Cluster {
    let state = if seed.is_multiple_of(2) { "sled" } else { "mem" };
    let reads = if (seed / 2).is_multiple_of(2) { "linearizable" } else { "lease" };
    println!("state {state}, reads {reads}");
    let common = ["--state", state, "--reads", reads, "--request-timeout", "3s", "--workers", "2"];
    let mut cluster = Cluster::prepare_on(ground, STORES, &[&common[..], flags].concat());
    cluster.keep_logs();
    cluster.rule_clocks();
    for at in 0..STORES as usize {
        let mut arguments = cluster.arguments(at);
        if (at as u64) < FOUNDERS {
            for joins in FOUNDERS..STORES {
                let peer = cluster.peer(at, joins as usize);
                let found = arguments.iter().position(|word| *word == peer).unwrap();
                arguments.drain(found - 1..=found);
            }
            arguments.extend(["--bootstrap-regions".to_owned(), "8".to_owned()]);
        }
        cluster.spawn_with(at, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for at in 0..STORES as usize {
        cluster.wait_ready(at);
    }
    cluster
}

/// Runs `redis-benchmark` against one store after the other, if it is installed; how often it came to its end. It gives up when
/// a store dies under it.
fn benchmark(trial: &Trial, mut random: Random) -> Option<usize> {
    Command::new("redis-benchmark").arg("--version").stdout(Stdio::null()).status().ok()?;
    let mut finished = 0;
    while !trial.stop.is_told() {
        let store = random.pick(&trial.stores);
        let (host, port) = (store.ip().to_string(), store.port().to_string());
        let mut run = Command::new("timeout");
        run.args(["20", "redis-benchmark", "-h", &host, "-p", &port, "-t", "set,get,incr", "-q"]);
        let ended = run.args(["-n", "500", "-c", "8", "-P", "4", "-r", "1000000"]).output().unwrap();
        if ended.status.success() {
            finished += 1;
        } else {
            let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
            let said = out.lines().chain(err.lines()).last().unwrap_or_default().trim_end().to_owned();
            println!("{:7.3} redis-benchmark: {said}", trial.begun.elapsed().as_secs_f64());
        }
        trial.stop.within(Duration::from_millis(100));
    }
    Some(finished)
}

/// At least so many of something have to have happened in so long.
fn floor(what: &str, found: usize, per_minute: usize, length: Duration) {
    let wanted = per_minute * usize::try_from(length.as_secs()).unwrap() / 60;
    assert!(found >= wanted, "{what}: {found} in {length:?}, {wanted} are wanted");
}

#[test]
fn histories_are_linearizable_while_regions_change_and_stores_die() {
    let seed = seed();
    let length = Duration::from_secs(setting("MULTIRAFT_FIRE_SECONDS", || 30));
    println!("MULTIRAFT_FIRE_SEED={seed} MULTIRAFT_FIRE_SECONDS={}", length.as_secs());
    let mut random = Random::new(seed);
    let mut cluster = five_stores(seed, ground::of_seed(seed), &[]);
    println!("{}", ground::describe(&cluster.net, cluster.clocks()));
    let admins: Vec<SocketAddr> = cluster.stores.iter().map(|store| store.admin).collect();
    let trial = Trial::new(seed, cluster.stores.iter().map(|store| store.resp).collect());

    let (mut record, mut done) = (Record::default(), Done::default());
    let (blows, benchmarks) = thread::scope(|scope| {
        // However this ends, the threads come to theirs.
        let _ending = Ending(&trial);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|name| {
                scope.spawn({
                    let client = Client::new(&trial, name);
                    move || client.run()
                })
            })
            .collect();
        let operators: Vec<_> = (0..OPERATORS)
            .map(|_| {
                scope.spawn({
                    let operator = Operator::new(&trial, admins.clone(), random.fork());
                    move || operator.run()
                })
            })
            .collect();
        let readers: Vec<_> = (0..READERS)
            .map(|name| {
                let reader = Reader::new(&trial, CLIENTS + 1 + name, admins.clone());
                scope.spawn(move || reader.run())
            })
            .collect();
        let benchmarks = scope.spawn({
            let (trial, random) = (&trial, random.fork());
            move || benchmark(trial, random)
        });
        let blows = Nemesis::new(&trial, &mut cluster, random.fork()).strike_until(length);
        trial.stop.tell();
        // Whatever operators still wait for.
        let healed = Instant::now();
        let (last, slowest) = Client::new(&trial, CLIENTS + READERS + 1).write_everywhere(WRITES, RECOVERY_MAX);
        println!("{WRITES} writes after the last fault took {:?}, the slowest {slowest:?}", healed.elapsed());
        record.add(last);
        clients.into_iter().for_each(|client| record.add(client.join().unwrap()));
        readers.into_iter().for_each(|reader| record.add(reader.join().unwrap()));
        operators.into_iter().for_each(|operator| done.add(operator.join().unwrap()));
        (blows, benchmarks.join().unwrap())
    });
    let stall = record.longest_stall();
    println!(
        "{} answered, {} unknown, {} refused, {} of bounded age, longest stall {stall:?}, {done:?}, {blows:?}, benchmarks {benchmarks:?}",
        record.answered(),
        record.unknown,
        record.refused,
        record.bounded,
    );
    clocks::set_right(&cluster, blows.turns);

    let say = |what: &str| println!("{:7.3} {what}", trial.begun.elapsed().as_secs_f64());
    let statuses = settle::settle(&trial, &admins, QUIET, |regions| settle::mend(&admins, regions, &mut random));
    say("at rest");
    record.add(Client::new(&trial, CLIENTS).read_all(READING));
    say("every key is read");
    settle::compare(&trial, &admins, &statuses);
    say("replicas are equal");
    let of_bounded_age = record.bounded;
    record.judge(&trial);
    say("histories are linearizable");
    cluster.check_logs();

    assert!(stall < STALL_MAX, "nobody was answered for {stall:?}");
    floor("splits", done.splits, 5, length);
    floor("merges", done.merges, 4, length);
    floor("moves", done.moves, 5, length);
    floor("kills", blows.kills, 3, length);
    floor("partings", blows.partings, 3, length);
    floor("turns of clocks", blows.turns.paces, 2, length);
    floor("reads of bounded age", of_bounded_age, 200, length);
}

/// Tells a trial's threads that it is over, also when something has gone wrong.
struct Ending<'a>(&'a Trial);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.stop.tell();
    }
}
