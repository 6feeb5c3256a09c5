//! A handful of whole runs: every rule holds, a run repeats to the last event, and planted bugs are found.

use multiraft_sim::plan::Plan;
use multiraft_sim::plan::{CHAOS, RECOVERY};
use multiraft_sim::plant::Plant;
use multiraft_sim::run::{find, run_seed, run_seeds};

#[test]
fn every_rule_holds_in_a_handful_of_seeds() {
    let summary = run_seeds(0..4, Plan::draw, 2, None, &|_| {});
    assert_eq!(summary.seeds, 4);
    let failures: Vec<_> = summary.failed.iter().map(|report| (report.seed, report.violation.clone())).collect();
    assert_eq!(failures, vec![]);
    assert_eq!(summary.virtual_nanos, 4 * u128::from(CHAOS + RECOVERY));
    assert!(summary.counters.writes_acknowledged > 1_000, "{:?}", summary.counters);
}

#[test]
fn a_seed_repeats_its_run_and_other_seeds_do_not() {
    let (first, second, other) = (run_seed(3, None, false), run_seed(3, None, false), run_seed(4, None, false));
    assert_eq!(first.digest, second.digest);
    assert_eq!(first.counters, second.counters);
    assert_ne!(first.digest, other.digest);
}

#[test]
fn a_run_does_not_depend_on_what_ran_before_or_beside_it() {
    let alone = run_seed(5, None, false);
    let beside = std::thread::scope(|scope| {
        let other = scope.spawn(|| run_seed(2, None, false));
        let beside = run_seed(5, None, false);
        other.join().expect("a run does not panic");
        beside
    });
    assert_eq!(alone.digest, beside.digest);
}

/// In the first, members that had missed a change used up term after term before the one that could win; in the second, a change on its
/// way to a dead store came into force only long after the faults; in the third, a witness that nobody living knew to ask had been counted.
#[test]
fn every_rule_holds_after_disasters_that_once_left_a_region_without_a_leader() {
    type Draw = fn(u64) -> Plan;
    let seeds: [(u64, Draw); 3] =
        [(910_028, Plan::draw_disaster), (910_476, Plan::draw_disaster), (851_471, Plan::draw)];
    for (seed, draw) in seeds {
        let summary = run_seeds(seed..seed + 1, draw, 1, None, &|_| {});
        let failures: Vec<_> = summary.failed.iter().map(|report| (report.seed, report.violation.clone())).collect();
        assert!(failures.is_empty(), "{failures:?}");
    }
}

#[test]
fn planted_bugs_are_found() {
    for plant in [Plant::LyingDisk, Plant::LostSession, Plant::LocalRead] {
        assert!(find(plant, 0..20).is_some(), "{plant:?}");
    }
}

/// What real processes once did: a store that had lost its directory came back under its number, and voted as if it had been told nothing.
#[test]
fn a_store_that_comes_back_unasked_on_an_empty_disk_makes_two_leaders_and_loses_writes() {
    for (seed, rule) in [(230, "election safety"), (47, "leader completeness")] {
        let violation = run_seed(seed, Some(Plant::ForgottenRejoin), false).violation;
        assert_eq!(violation.map(|violation| violation.rule), Some(rule), "seed {seed}");
        assert_eq!(run_seed(seed, None, false).violation, None, "seed {seed}");
    }
}

/// It is told from when on it takes replicas, and takes earlier ones: a leader's word brings back what has forgotten its votes.
#[test]
fn a_store_that_begins_anew_without_a_floor_is_again_what_was_lost() {
    for seed in [4, 8, 17] {
        let violation = run_seed(seed, Some(Plant::IgnoredFloor), false).violation;
        let rule = violation.map(|violation| violation.rule);
        assert_eq!(rule, Some("what was lost with a disk is silent"), "seed {seed}");
        assert_eq!(run_seed(seed, None, false).violation, None, "seed {seed}");
    }
}
