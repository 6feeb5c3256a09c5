//! Each workload against stores in this process: histories of correct ones hold, also when outcomes are unknown, and those of
//! stores that lie are refused; what makes no sense ends the run.

#![allow(clippy::unwrap_used, reason = "a test")]

mod fake;

use std::time::{Duration, Instant};

use fake::{Manner, stores};
use multiraft_torture::check::{Verdict, Workload, judge};
use multiraft_torture::history::{Format, History};
use multiraft_torture::random::Random;
use multiraft_torture::stop::{Stop, look_again};
use multiraft_torture::trouble::Trouble;
use multiraft_torture::workload::{Load, Recovered, Settings};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn load(workload: Workload, manner: Manner) -> Load {
    let places = stores(manner);
    let request_timeout = Duration::from_secs(2);
    Load::new(Settings { workload, seed: 11, places, clients: 6, rate: None, request_timeout })
}

/// Runs a load until so many operations were answered, or it ends by itself.
fn run(load: &Load, answered: u64) -> Result<Recovered, Trouble> {
    load.prepare(PATIENCE)?;
    let stop = Stop::default();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| load.run(&stop));
        let begun = Instant::now();
        while load.answered() < answered && !running.is_finished() && look_again(begun, PATIENCE) {}
        stop.tell();
        running.join().unwrap()
    })?;
    load.finish(PATIENCE)
}

/// The verdict on what was recorded, as it would be read from a file.
fn verdict(load: &Load) -> Verdict {
    let text = load.recorder().history().write(Format::Edn);
    judge(&History::read(text.as_bytes(), Format::Edn).unwrap(), None).unwrap()
}

/// How often stores of one manner are tried at most.
const RUNS_MAX: usize = 5;

/// How many answered operations a workload's run has; those that move slowly have fewer.
fn enough(workload: Workload) -> u64 {
    if workload == Workload::Scan { 1_000 } else { 2_000 }
}

fn holds(manner: Manner) {
    for workload in Workload::ALL {
        let load = load(workload, manner);
        let recovered = run(&load, enough(workload)).unwrap_or_else(|trouble| panic!("{}: {trouble}", workload.name()));
        let verdict = verdict(&load);
        assert!(verdict.judgement().holds(), "{manner:?}\n{}", verdict.table());
        assert_eq!(verdict.workload(), workload);
        assert!(verdict.answered() >= enough(workload) / 4 && recovered.reads > 0, "{}", verdict.table());
        assert!(recovered.slowest < PATIENCE && (1..=2).contains(&recovered.slowest_store));
        assert_eq!(load.unknown() > 0, manner == Manner::Stormy, "{}", verdict.table());
        assert_eq!(load.refused() > 0, manner == Manner::Stormy || workload == Workload::BoundedStaleness);
    }
}

#[test]
fn histories_of_correct_stores_hold() {
    holds(Manner::Calm);
}

#[test]
fn histories_of_correct_stores_hold_when_outcomes_are_unknown() {
    holds(Manner::Stormy);
}

#[test]
fn each_workload_does_all_that_its_checker_knows() {
    let functions = |workload| match workload {
        Workload::Register => &["read", "write", "cas"][..],
        Workload::ListAppend => &["txn", "append", "read"],
        Workload::Set | Workload::Counter => &["add", "read"],
        Workload::Bank => &["transfer", "read"],
        Workload::UniqueIds => &["generate"],
        Workload::Sessions => &["command", "read"],
        Workload::Scan => &["put", "delete", "scan"],
        Workload::Lock => &["acquire", "release"],
        Workload::BoundedStaleness => &["read", "write", "cas", "read-bounded"],
        Workload::LongFork => &["txn"],
    };
    for workload in Workload::ALL {
        let load = load(workload, Manner::Calm);
        run(&load, 500).unwrap();
        let verdict = verdict(&load);
        for function in functions(workload) {
            let counts = verdict.counts().get(*function).copied().unwrap_or_default();
            assert!(counts.ok >= 5, "{function}\n{}", verdict.table());
        }
        let random = &mut Random::new(3);
        assert!((0..100).all(|_| load.cut(random).len() == "key:000000".len()));
    }
}

/// What is found against stores of that manner.
fn found(workload: Workload, manner: Manner) -> Vec<&'static str> {
    let load = load(workload, manner);
    run(&load, enough(workload)).unwrap_or_else(|trouble| panic!("{}, {manner:?}: {trouble}", workload.name()));
    verdict(&load).judgement().anomalies()
}

#[track_caller]
fn finds(workload: Workload, manner: Manner, anomalies: &[&str]) {
    // What a lie does to a history depends on who was under way beside: one run may not have all that it can do.
    let mut seen = Vec::new();
    for _ in 0..RUNS_MAX {
        seen.extend(found(workload, manner));
        if anomalies.iter().all(|anomaly| seen.contains(anomaly)) {
            return;
        }
    }
    panic!("{}, {manner:?}: {anomalies:?} are not all among {seen:?}", workload.name());
}

#[test]
fn stale_reads_are_found() {
    finds(Workload::Register, Manner::StaleReads, &["nonlinearizable"]);
    finds(Workload::ListAppend, Manner::StaleReads, &["stale-read"]);
    finds(Workload::Set, Manner::StaleReads, &["stale-read"]);
    finds(Workload::Counter, Manner::StaleReads, &["too-low", "went-back"]);
    finds(Workload::LongFork, Manner::StaleReads, &["stale-read"]);
    finds(Workload::Bank, Manner::StaleReads, &["wrong-total"]);
}

#[test]
fn reads_older_than_their_bound_are_found() {
    let found = found(Workload::BoundedStaleness, Manner::StaleReads);
    assert!(found.iter().any(|kind| ["outside-bound", "nonlinearizable"].contains(kind)), "{found:?}");
}

#[test]
fn lost_writes_are_found() {
    finds(Workload::Register, Manner::LostWrites, &["nonlinearizable"]);
    finds(Workload::ListAppend, Manner::LostWrites, &["lost-append"]);
    finds(Workload::Set, Manner::LostWrites, &["lost-element"]);
    finds(Workload::Counter, Manner::LostWrites, &["too-low"]);
    finds(Workload::UniqueIds, Manner::LostWrites, &["duplicate-id"]);
    finds(Workload::Sessions, Manner::LostWrites, &["lost-command"]);
    finds(Workload::Scan, Manner::LostWrites, &["missing-key"]);
}

#[test]
fn doubled_writes_are_found() {
    finds(Workload::ListAppend, Manner::DoubleWrites, &["duplicate-element"]);
    finds(Workload::Set, Manner::DoubleWrites, &["duplicate-element"]);
    finds(Workload::Counter, Manner::DoubleWrites, &["too-high"]);
    finds(Workload::Bank, Manner::DoubleWrites, &["wrong-total"]);
}

#[test]
fn session_commands_that_are_carried_out_twice_are_found() {
    finds(Workload::Sessions, Manner::DoubledSessions, &["applied-twice"]);
}

#[test]
fn torn_transactions_are_found() {
    finds(Workload::Bank, Manner::TornTransactions, &["wrong-total"]);
    finds(Workload::ListAppend, Manner::TornTransactions, &["lost-append"]);
}

#[test]
fn locks_that_two_hold_are_found() {
    finds(Workload::Lock, Manner::BlindConditions, &["two-holders"]);
    finds(Workload::Register, Manner::BlindConditions, &["nonlinearizable"]);
}

#[test]
fn scans_that_leave_keys_away_are_found() {
    finds(Workload::Scan, Manner::PatchyScans, &["missing-key"]);
}

#[test]
fn what_makes_no_sense_ends_the_run() {
    for workload in Workload::ALL {
        for manner in [Manner::Garbage, Manner::StrangeErrors, Manner::WrongKinds] {
            let load = load(workload, manner);
            let begun = Instant::now();
            let ended = load.run(&Stop::default());
            let trouble = ended.expect_err(workload.name()).to_string();
            assert!(trouble.starts_with("client "), "{}, {manner:?}: {trouble}", workload.name());
            assert!(begun.elapsed() < PATIENCE);
            assert_eq!(load.answered(), 0, "{}, {manner:?}: it is counted", workload.name());
        }
    }
}

#[test]
fn a_rate_is_kept_and_stores_that_are_gone_are_told_of() {
    let places = stores(Manner::Calm);
    let request_timeout = Duration::from_secs(2);
    let settings =
        Settings { workload: Workload::Counter, seed: 3, places, clients: 4, rate: Some(200), request_timeout };
    let paced = Load::new(settings.clone());
    let begun = Instant::now();
    run(&paced, 100).unwrap();
    // A hundred operations at 200 a second, less the first of each client.
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());

    // Nobody listens there any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut settings = settings;
    settings.places[1].resp = gone;
    let lame = Load::new(settings.clone());
    let trouble = lame.finish(Duration::from_millis(50)).unwrap_err().to_string();
    assert!(trouble.contains("store 2 takes no"), "{trouble}");
    settings.places.clear();
    let nowhere = Load::new(settings);
    for ended in [nowhere.prepare(PATIENCE), nowhere.run(&Stop::default()), nowhere.finish(PATIENCE).map(|_| ())] {
        assert!(ended.unwrap_err().to_string().contains("a load needs a store"));
    }
}
