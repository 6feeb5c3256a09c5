//! Faults between stores: partitions, and packets that are lost, late, or come twice.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Kind;
use crate::cluster::{Admin, Cluster};
use crate::ground::{Fault, Faults, Met, Shape};
use crate::random::Random;
use crate::trouble::{Outcome, Trouble};

/// Stores that lost each other dial again at least that often.
pub(super) const DIALS_WITHIN: Duration = Duration::from_secs(3);

/// A fault that lies between stores.
pub(super) struct Struck {
    shape: Shape,
    faults: Faults,
    since: Instant,
}

/// Strikes as the kind of fault says. Whoever is `hurt` is not asked what it leads.
pub(super) fn strike(
    cluster: &Cluster,
    kind: Kind,
    hurt: &BTreeSet<usize>,
    random: &mut Random,
) -> Outcome<(Struck, String)> {
    let stores = cluster.stores.len() as u64;
    // Among three, a ring cuts nobody off.
    let partitions = [Shape::Halves, Shape::Leader, Shape::OneWay, Shape::Bridge, Shape::Ring];
    let shape = match kind {
        Kind::Loss => Shape::Loss,
        Kind::Delay => Shape::Late,
        Kind::Duplicate => Shape::Twice,
        _ => *random.pick(if stores > 3 { &partitions } else { &partitions[..4] }),
    };
    let well = (0..cluster.stores.len()).filter(|at| !hurt.contains(at));
    let well: Vec<Admin> = well.map(|at| cluster.admin(at)).collect();
    let faults = shape.draw(stores, leader_of_most(&well), random);
    cluster.net.strike(&faults)?;
    let how = format!("{shape:?}, {}", told(&faults));
    Ok((Struck { shape, faults, since: Instant::now() }, how))
}

impl Struck {
    /// Ends it. Whoever was `hurt` meanwhile need not have sent anything. None if nobody met it, and nobody had to.
    pub(super) fn heal(self, cluster: &Cluster, hurt: &BTreeSet<usize>) -> Outcome<Option<String>> {
        let lasted = self.since.elapsed();
        let met = cluster.net.heal()?;
        let packets = met.values().sum::<u64>();
        if packets == 0 && !must_be_met(&self.faults, lasted, hurt) {
            return Ok(None);
        }
        if packets == 0 {
            return Err(Trouble::new(format!("{:?} has left no trace: no packet met it", self.shape)));
        }
        let silent = silent(&self.faults, &met, hurt);
        if lasted > DIALS_WITHIN && !silent.is_empty() {
            let shape = self.shape;
            return Err(Trouble::new(format!("{shape:?} has left no trace between the stores {silent:?}: {met:?}")));
        }
        Ok(Some(format!("{packets} packets met it")))
    }
}

/// Whether it has lasted until stores that had lost each other before have dialled again, and one of its ways begins at a store that
/// is alive.
fn must_be_met(faults: &Faults, lasted: Duration, hurt: &BTreeSet<usize>) -> bool {
    lasted > DIALS_WITHIN && faults.keys().any(|(from, _)| !hurt.contains(&(*from as usize - 1)))
}

/// The pairs of stores, both alive, that were cut off from each other and have not even tried.
fn silent(faults: &Faults, met: &Met, hurt: &BTreeSet<usize>) -> Vec<(u64, u64)> {
    let cut = faults.iter().filter(|(_, fault)| **fault == Fault::Cut).map(|(way, _)| *way);
    let is_well = |store: u64| !hurt.contains(&(store as usize - 1));
    let living = cut.filter(|(from, to)| is_well(*from) && is_well(*to));
    let tried = |way: (u64, u64)| met.get(&way).is_some_and(|packets| *packets > 0);
    living.filter(|(from, to)| !tried((*from, *to)) && !tried((*to, *from))).collect()
}

/// The store that leads the most regions, of those that answer.
pub(super) fn leader_of_most(admins: &[Admin]) -> u64 {
    let led = admins.iter().filter_map(|admin| admin.status().ok()).map(|status| {
        let led = status.regions.iter().filter(|region| region.is_leader).count();
        (led, status.store)
    });
    led.max().map_or(1, |(_, store)| store)
}

/// Faults, short.
fn told(faults: &Faults) -> String {
    let ways: Vec<String> = faults
        .iter()
        .filter(|(_, fault)| **fault == Fault::Cut)
        .map(|((from, to), _)| format!("{from}>{to}"))
        .collect();
    match faults.values().next() {
        Some(Fault::Cut) => ways.join(" "),
        Some(other) => format!("{other:?} on all ways"),
        None => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_that_were_cut_off_and_never_tried_are_found() {
        let faults: Faults = [(1, 2), (2, 1), (1, 3), (3, 1)].map(|way| (way, Fault::Cut)).into();
        let met = Met::from([((1, 2), 0), ((2, 1), 5), ((1, 3), 0), ((3, 1), 0)]);
        let nobody = BTreeSet::new();
        assert_eq!(silent(&faults, &met, &nobody), [(1, 3), (3, 1)], "2 has tried");
        assert_eq!(silent(&faults, &met, &BTreeSet::from([2])), [], "the dead need not try");
        assert_eq!(silent(&faults, &Met::new(), &BTreeSet::from([2])), [(1, 2), (2, 1)]);
        let lossy: Faults = faults.keys().map(|way| (*way, Fault::Loss(5))).collect();
        assert_eq!(silent(&lossy, &Met::new(), &nobody), [], "few packets need not be lost");
    }

    #[test]
    fn a_fault_need_not_be_met_if_it_was_short_or_nobody_was_there_to_meet_it() {
        let (one_way, nobody): (Faults, _) = ([((3, 1), Fault::Cut)].into(), BTreeSet::new());
        let long = DIALS_WITHIN + Duration::from_millis(1);
        assert!(must_be_met(&one_way, long, &nobody));
        assert!(must_be_met(&one_way, long, &BTreeSet::from([0])), "whoever lives dials the dead as well");
        assert!(!must_be_met(&one_way, long, &BTreeSet::from([2])));
        assert!(!must_be_met(&one_way, DIALS_WITHIN, &nobody));
        let both: Faults = [(1, 3), (3, 1)].map(|way| (way, Fault::Cut)).into();
        assert!(must_be_met(&both, long, &BTreeSet::from([2])));
    }
}
