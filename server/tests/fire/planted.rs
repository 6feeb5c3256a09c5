//! What leases promise, and the judge's teeth: a leader that is cut off goes on answering reads for as long as its lease lasts.
//!
//! As far as clocks keep to their bound, nobody else has been elected by then. Beyond it the promise ends: a leader whose clock
//! nearly stands still answers what is no longer so, and that has to be found in the history.

use std::thread;
use std::time::{Duration, Instant};

use multiraft_sim::history::Action;

use crate::Ending;
use crate::admin::status;
use crate::clients::{Place, Record, Trial};
use crate::clocks::await_pace;
use crate::harness::{Cluster, Ground, http};
use crate::resp::{Line, Reply};
use multiraft_torture::ground::{Fault, Faults};
use multiraft_torture::stop::look_again;

const FLAGS: &[&str] =
    &["--state", "mem", "--reads", "lease", "--request-timeout", "1s", "--workers", "1", "--bootstrap-regions", "1"];
/// How long an election may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);
/// How long the leader is asked before it is cut off: it has to have come to a lease.
const BEFORE: Duration = Duration::from_secs(1);
/// How long it is asked after somebody else has taken a write.
const AFTER: Duration = Duration::from_millis(300);

/// The leader's clock is slow by so many millionths, the others' fast, and it is cut off; what becomes of a key's history. None
/// if the leader had no lease just then.
fn cut_off_with(slow_ppm: i64, fast_ppm: i64) -> Option<Result<(), String>> {
    let mut cluster = Cluster::prepare_on(Ground::Proxied, 3, FLAGS);
    cluster.keep_logs();
    cluster.rule_clocks();
    (0..3).for_each(|at| cluster.spawn(at));
    (0..3).for_each(|at| cluster.wait_ready(at));
    let trial = Trial::new(0, cluster.stores.iter().map(|store| store.resp).collect());
    let place = Place::register();
    let key = trial.key(place);
    let mut writer = Writer { trial: &trial, place, number: 0, record: Record::default() };

    (0..3).for_each(|at| await_support(&cluster, at));
    let leader = leader_of(&cluster, &key);
    let others: Vec<u64> = (1..=3).filter(|store| *store != leader).collect();
    let ways = others.iter().flat_map(|other| [(leader, *other), (*other, leader)]);
    let faults: Faults = ways.map(|way| (way, Fault::Cut)).collect();
    let begun = Instant::now();
    while !writer.write(leader) {
        assert!(look_again(begun, LIMIT), "nobody leads");
    }
    let (reads, cut_at) = thread::scope(|scope| {
        let _ending = Ending(&trial);
        let reader = scope.spawn(|| read_on(&trial, place, leader));
        trial.stop.within(BEFORE);
        for store in &cluster.stores {
            cluster.clocks().set_pace(store.id, if store.id == leader { -slow_ppm } else { fast_ppm }).unwrap();
        }
        (0..3).for_each(|at| await_pace(&cluster, at));
        cluster.net.strike(&faults).unwrap();
        let (begun, cut_at) = (Instant::now(), trial.now());
        while !others.iter().any(|other| writer.write(*other)) {
            assert!(look_again(begun, LIMIT), "nobody else is elected");
        }
        trial.stop.within(AFTER);
        trial.stop.tell();
        (reader.join().unwrap(), cut_at)
    });
    assert!(cluster.net.heal().unwrap().values().sum::<u64>() > 0, "the cut has left no trace");
    // Those that were on their way then are not meant.
    let by_lease = reads.answered_since(cut_at + 50_000_000);
    println!("{slow_ppm} ppm slow: {by_lease} reads by lease alone");
    writer.record.add(reads);
    (by_lease > 0).then(|| writer.record.verdict(&trial))
}

/// Whoever writes numbers that grow.
struct Writer<'a> {
    trial: &'a Trial,
    place: Place,
    number: u64,
    record: Record,
}

impl Writer<'_> {
    /// Writes through a store; whether that was answered.
    fn write(&mut self, store: u64) -> bool {
        self.number += 1;
        let (key, value) = (self.trial.key(self.place), self.number.to_string());
        let invoked = self.trial.now();
        let told = Line::open(self.trial.stores[store as usize - 1])
            .and_then(|mut line| line.ask(&["SET", &key, &value, "GET"]));
        let reply = match told {
            // It had no effect.
            Ok(Reply::Error(text)) if !text.starts_with("UNCERTAIN ") => return false,
            Ok(Reply::Error(_)) | Err(_) => None,
            Ok(reply) => Some((self.trial.now(), reply)),
        };
        let is_told = reply.is_some();
        self.record.add_told(1, self.place, Action::Put(self.number), invoked, reply);
        is_told
    }
}

/// Reads through one store, on and on, until the trial ends.
fn read_on(trial: &Trial, place: Place, store: u64) -> Record {
    let (mut record, key) = (Record::default(), trial.key(place));
    while !trial.stop.is_told() {
        let Ok(mut line) = Line::open(trial.stores[store as usize - 1]) else { continue };
        while !trial.stop.is_told() {
            let invoked = trial.now();
            let Ok(reply @ Reply::Value(_)) = line.ask(&["GET", &key]) else { break };
            record.add_told(2, place, Action::Read, invoked, Some((trial.now(), reply)));
            record.add_answer(trial.now());
        }
    }
    record
}

/// Waits until a store is supported by both others.
fn await_support(cluster: &Cluster, at: usize) {
    let begun = Instant::now();
    let is_held = |line: &&str| line.starts_with("liveness_support_held") && line.ends_with(" 1");
    while http(cluster.stores[at].metrics, "GET /metrics", "").1.lines().filter(is_held).count() < 2 {
        assert!(look_again(begun, LIMIT), "store {} is not supported", at + 1);
    }
}

/// The store that leads the region of a key.
fn leader_of(cluster: &Cluster, key: &str) -> u64 {
    let begun = Instant::now();
    loop {
        let statuses = cluster.stores.iter().filter_map(|store| status(store.admin).ok());
        let leads =
            |status: &crate::admin::Status| status.regions.iter().any(|region| region.is_leader && region.owns(key));
        if let Some(leader) = statuses.filter(leads).map(|status| status.store).next() {
            return leader;
        }
        assert!(look_again(begun, LIMIT), "nobody leads");
    }
}

#[test]
fn leases_hold_while_clocks_keep_to_their_bound_and_what_a_wild_clock_answers_is_found() {
    if !cfg!(feature = "torture") {
        return println!("clocks do not drift: this is not built with --features torture");
    }
    let with_lease = |slow_ppm, fast_ppm| (0..5).find_map(|_| cut_off_with(slow_ppm, fast_ppm)).expect("a lease");
    with_lease(9_900, 9_900).unwrap();
    let refused = with_lease(600_000, 0).unwrap_err();
    assert!(refused.contains("not linearizable"), "{refused}");
}
