//! The store whose vote decides dies between two votes.
//!
//! ```text
//!   first life     one side <~~~ late ~~~> V <--- cut ---> other side      V votes for one side, dies
//!   second life    one side <--- cut ----> V <-----------> other side      V is asked by the other side
//! ```
//!
//! The sides never reach each other. V dies at a moment when somebody has just been elected by its vote: entries of that leader are
//! still on their way, so that the vote alone can keep V from giving another one in the same term.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::between::leader_of_most;
use super::processes;
use crate::cluster::Cluster;
use crate::ground::{Fault, Faults};
use crate::random::Random;
use crate::stop::{Stop, look_again};
use crate::trouble::{Outcome, Trouble};

/// How late packets of the first life are at most, in milliseconds: drawn.
const LATE_MS: (u64, u64) = (100, 300);
/// How long an election is waited for: a store that starts may not vote for a second, and campaigns are two seconds apart.
const ELECTED_WITHIN: Duration = Duration::from_secs(6);
/// How long V lives on after the first election, in milliseconds: drawn.
const ON_MS: (u64, u64) = (0, 250);

/// A region and a term in which somebody led it.
type Led = BTreeSet<(u64, u64)>;

/// The second life of the voter.
pub(super) struct Voter {
    at: usize,
    other: Vec<usize>,
    led: Led,
    packets: u64,
    told: String,
}

/// The first life, and the beginning of the second.
pub(super) fn strike(cluster: &mut Cluster, random: &mut Random) -> Outcome<(Voter, String)> {
    let stores = cluster.stores.len();
    let at = leader_of_most(&cluster.admins()) as usize - 1;
    let mut sides: Vec<usize> = (0..stores).filter(|store| *store != at).collect();
    random.shuffle(&mut sides);
    let other = sides.split_off(sides.len() / 2);
    let (late, on) = (random.between(LATE_MS.0, LATE_MS.1), random.between(ON_MS.0, ON_MS.1));
    let how = format!("store {} between {} and {}", at + 1, list(&sides), list(&other));

    let (first, _) = processes::kill(cluster, &[at])?;
    let led = led_by(cluster, &sides);
    let mut faults = cuts(at, &sides, &other);
    if cluster.net.can_delay() {
        let ways = sides.iter().flat_map(|side| [way(*side, at), way(at, *side)]);
        faults.extend(ways.map(|way| (way, Fault::Late(late))));
    }
    cluster.net.strike(&faults)?;
    let mut told = first.start(cluster)?;
    let begun = Instant::now();
    while led_by(cluster, &sides).is_subset(&led) && look_again(begun, ELECTED_WITHIN) {}
    Stop::default().within(Duration::from_millis(on));
    let (second, _) = processes::kill(cluster, &[at])?;
    let elected = led_by(cluster, &sides).difference(&led).count();
    told = format!("{told}; {} won {elected} elections", list(&sides));

    let led = led_by(cluster, &other);
    let packets = cluster.net.heal()?.values().sum::<u64>();
    cluster.net.strike(&cuts(at, &other, &sides))?;
    let again = second.start(cluster)?;
    Ok((Voter { at, other, led, packets, told: format!("{told}; {again}") }, how))
}

impl Voter {
    /// Ends it.
    pub(super) fn heal(self, cluster: &Cluster) -> Outcome<String> {
        let Self { at, other, led, packets, told } = self;
        let elected = led_by(cluster, &other).difference(&led).count();
        let packets = packets + cluster.net.heal()?.values().sum::<u64>();
        if packets == 0 {
            return Err(Trouble::new(format!(
                "the sides of store {} have left no trace: no packet was cut off",
                at + 1
            )));
        }
        Ok(format!("{told}; {} won {elected}; {packets} packets were late or cut off", list(&other)))
    }
}

/// What stores lead, each as it says itself; nothing, if it says nothing.
fn led_by(cluster: &Cluster, stores: &[usize]) -> Led {
    let told = stores.iter().filter_map(|at| cluster.admin(*at).status().ok());
    let led = told.flat_map(|status| status.regions).filter(|region| region.is_leader);
    led.map(|region| (region.id, region.term)).collect()
}

/// The voter reaches `near` alone, and the two sides not each other.
fn cuts(voter: usize, near: &[usize], far: &[usize]) -> Faults {
    let from = near.iter().copied().chain([voter]);
    let pairs = from.flat_map(|near| far.iter().flat_map(move |far| [way(near, *far), way(*far, near)]));
    pairs.map(|way| (way, Fault::Cut)).collect()
}

fn way(from: usize, to: usize) -> (u64, u64) {
    (from as u64 + 1, to as u64 + 1)
}

fn list(at: &[usize]) -> String {
    at.iter().map(|at| (at + 1).to_string()).collect::<Vec<_>>().join("+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_voter_reaches_one_side_and_nobody_else_the_other() {
        let cut = |faults: Faults| faults.into_keys().collect::<Vec<_>>();
        assert_eq!(cut(cuts(1, &[0], &[2])), [(1, 3), (2, 3), (3, 1), (3, 2)]);
        assert_eq!(cut(cuts(1, &[2], &[0])), [(1, 2), (1, 3), (2, 1), (3, 1)]);
        let five = cuts(0, &[1, 2], &[3, 4]);
        assert_eq!(five.len(), 12);
        assert!(five.keys().all(|(from, to)| (*from > 3) != (*to > 3)), "{five:?}");
    }
}
