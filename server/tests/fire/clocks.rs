//! Stores' clocks under fire, and the traces that their faults have to leave in what the stores say.
//!
//! A store's own clock, on which its support and leases rest, runs fast or slow within the bound that leases are promised for.
//! The time of day, which nothing may rest on, jumps by hours and by months.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use multiraft_sim::random::Random;

use crate::harness::Cluster;
use multiraft_torture::ground::turns_of;
use multiraft_torture::stop::look_again;

/// How far a clock may be off, in millionths, with something to spare for the moment at which it is turned.
const PPM_MAX: u64 = 9_900;
/// By how many seconds the time of day jumps: at most half a day back, so that certificates are valid already, or up to a year on;
/// far enough to be seen in the hour.
const BACK: (u64, u64) = (7_500, 43_000);
const FORTH: (u64, u64) = (7_500, 31_536_000);
/// How soon a store follows an order about its clock.
const FOLLOWED: Duration = Duration::from_secs(10);

/// How often clocks were turned, or would have been if they could.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turns {
    pub(crate) paces: usize,
    pub(crate) days: usize,
}

impl Turns {
    /// Turns some clocks, if this machine and program let it; what it did.
    pub(crate) fn turn(&mut self, cluster: &Cluster, random: &mut Random) -> Vec<String> {
        let (clocks, mut said) = (cluster.clocks(), Vec::new());
        // Everything is drawn, whatever can be done: what the others draw must not depend on it.
        let turns_pace = random.chance(600) || self.paces == 0;
        let pace = turns_pace.then(|| {
            let ppm = |random: &mut Random| {
                let ppm = if random.chance(500) { PPM_MAX } else { random.below(PPM_MAX) };
                i64::try_from(ppm).unwrap() * if random.chance(500) { 1 } else { -1 }
            };
            cluster.stores.iter().map(|store| (store.id, ppm(random))).collect::<Vec<_>>()
        });
        let store = random.pick(&cluster.stores.iter().map(|store| store.id).collect::<Vec<_>>());
        let is_back = random.chance(400);
        let (least, most) = if is_back { BACK } else { FORTH };
        let seconds = i64::try_from(random.between(least, most)).unwrap() * if is_back { -1 } else { 1 };
        let day = random.chance(400).then_some(seconds);
        self.paces += usize::from(turns_pace);
        if let Some(pace) = pace.filter(|_| clocks.can_drift()) {
            pace.iter().for_each(|(store, ppm)| clocks.set_pace(*store, *ppm).unwrap());
            said.push(format!("clocks run fast by ppm: {pace:?}"));
        }
        self.days += usize::from(day.is_some());
        if let Some(seconds) = day.filter(|_| clocks.can_jump()) {
            clocks.set_day(store, seconds).unwrap();
            said.push(format!("store {store} takes it to be {seconds:+} s"));
        }
        said
    }
}

/// Lets all clocks go right again, and checks that they did not before: a store has said that its own clock was off, and dated
/// lines otherwise than the machine would.
pub(crate) fn set_right(cluster: &Cluster, turns: Turns) {
    let clocks = cluster.clocks();
    if turns.paces > 0 && clocks.can_drift() {
        cluster.stores.iter().for_each(|store| clocks.set_pace(store.id, 0).unwrap());
        (0..cluster.stores.len()).for_each(|at| await_pace(cluster, at));
        let off =
            (0..cluster.stores.len()).flat_map(|at| turns_of(&read(cluster, at))).map(|turn| turn.off_us.abs()).max();
        println!("clocks were off by up to {} ms", off.unwrap_or(0) / 1_000);
        assert!(off > Some(1_000), "{} turns of the clocks' pace have left no trace", turns.paces);
    }
    if turns.days > 0 && clocks.can_jump() {
        cluster.stores.iter().for_each(|store| clocks.set_day(store.id, 0).unwrap());
        let said: Vec<String> = (0..cluster.stores.len()).map(|at| read(cluster, at)).collect();
        // All clocks showed the right time when the stores were started.
        let first = said.iter().filter_map(|said| hours(said).next()).min().unwrap();
        let now = Command::new("date").args(["-u", "+%Y-%m-%dT%H"]).output().unwrap();
        let now = String::from_utf8(now.stdout).unwrap();
        let wrong: BTreeSet<&str> =
            said.iter().flat_map(|said| hours(said)).filter(|hour| *hour < first || *hour > now.trim_end()).collect();
        println!("the time of day was {wrong:?}");
        assert!(!wrong.is_empty(), "{} jumps of the time of day have left no trace", turns.days);
    }
}

/// Waits until a store's clock runs as it was told last.
pub(crate) fn await_pace(cluster: &Cluster, at: usize) {
    let (begun, wanted) = (Instant::now(), cluster.clocks().pace(cluster.stores[at].id));
    // A process that has begun since was not told otherwise.
    while turns_of(&read(cluster, at)).last().map_or(0, |turn| turn.ppm) != wanted {
        assert!(look_again(begun, FOLLOWED), "store {} does not follow what its clock is told", at + 1);
    }
}

fn read(cluster: &Cluster, at: usize) -> String {
    std::fs::read_to_string(cluster.log_file(at)).unwrap()
}

/// The hours in which lines are dated.
fn hours(said: &str) -> impl Iterator<Item = &str> {
    said.lines().filter(|line| line.starts_with("20")).filter_map(|line| line.get(..13))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_found_in_what_stores_say() {
        let said = "2026-11-30T22:39:11.256581Z  WARN multiraft: one\n\
                    2027-02-01T08:00:00.000000Z  WARN multiraft: another\nand its second line\n";
        assert_eq!(hours(said).collect::<Vec<_>>(), ["2026-11-30T22", "2027-02-01T08"]);
    }
}
