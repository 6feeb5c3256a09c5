//! When all is healed: every region has three live replicas, every key one owner, nothing moves, and replicas hold the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::cluster::{Admin, Region, Status};
use crate::nemesis::repair;
use crate::random::Random;
use crate::stop::look_again;
use crate::trouble::{Outcome, Trouble};

/// How long a healed cluster may take to come to rest.
pub(super) const LIMIT: Duration = Duration::from_secs(180);
/// How long comparing may be tried.
const COMPARED_WITHIN: Duration = Duration::from_secs(20);
/// For how long nothing must move.
const QUIET: Duration = Duration::from_secs(2);

/// Waits until the cluster is at rest and stays so for a while, and puts right what operators have begun and left behind; how long it
/// took.
///
/// # Errors
/// It does not come to rest: what is missing.
pub(super) fn settle(admins: &[Admin], limit: Duration, random: &mut Random) -> Outcome<Duration> {
    let begun = Instant::now();
    let mut still: Option<(Instant, Vec<Position>)> = None;
    loop {
        let statuses: Outcome<Vec<Status>> = admins.iter().map(Admin::status).collect();
        let found = statuses.and_then(|statuses| {
            mend(admins, &newest(&statuses), random);
            rest(&statuses)
        });
        let missing = match found {
            Ok(positions) => {
                let since = match still.take().filter(|(_, before)| *before == positions) {
                    Some((since, _)) => since,
                    None => Instant::now(),
                };
                if since.elapsed() >= QUIET {
                    return Ok(begun.elapsed());
                }
                still = Some((since, positions));
                Trouble::new("it still moves")
            }
            Err(trouble) => {
                still = None;
                trouble
            }
        };
        if !look_again(begun, limit) {
            return Err(Trouble::new(format!("the cluster has not come to rest in {limit:?}: {missing}")));
        }
    }
}

/// What comparing the replicas of all regions has shown.
pub(super) enum Compared {
    Equal(usize),
    /// What differs.
    Different(String),
}

/// Lets the cluster compare the replicas of every region, each at one index.
///
/// # Errors
/// It cannot be told.
pub(super) fn compare(admins: &[Admin]) -> Outcome<Compared> {
    let begun = Instant::now();
    let admin = admins.first().ok_or_else(|| Trouble::new("there are no stores"))?;
    loop {
        match admin.ctl(&["check", "--all"]) {
            Ok(told) => {
                let checks = told["checks"].as_array().map_or(&[][..], Vec::as_slice);
                let differ: Vec<_> = checks.iter().filter(|check| check["consistent"] != true).collect();
                return match (checks.len(), differ.first()) {
                    (0, _) => Err(Trouble::new("no region was compared")),
                    (regions, None) => Ok(Compared::Equal(regions)),
                    (regions, Some(first)) => Ok(Compared::Different(format!(
                        "{} of {regions} regions differ, such as {first}",
                        differ.len()
                    ))),
                };
            }
            Err(trouble) if trouble.to_string().contains("replicas differ or are fenced") => {
                return Ok(Compared::Different(trouble.to_string()));
            }
            // A leadership may just have moved.
            Err(trouble) if !look_again(begun, COMPARED_WITHIN) => return Err(trouble),
            Err(_) => {}
        }
    }
}

/// Where a region stands: id, term, last index, both halves of its epoch.
type Position = (u64, u64, u64, u64, u64);

/// The regions as the newest of their replicas knows them.
fn newest(statuses: &[Status]) -> BTreeMap<u64, Region> {
    let mut newest: BTreeMap<u64, Region> = BTreeMap::new();
    for region in statuses.iter().flat_map(|status| &status.regions) {
        let epoch = |region: &Region| (region.version, region.conf_version);
        match newest.get(&region.id) {
            Some(known) if epoch(known) >= epoch(region) => {}
            _ => {
                newest.insert(region.id, region.clone());
            }
        }
    }
    newest
}

/// Takes the next step towards three voters where one is needed. What cannot be done now can be done a moment later.
fn mend(admins: &[Admin], regions: &BTreeMap<u64, Region>, random: &mut Random) {
    for region in regions.values().filter(|region| region.leader.is_some()) {
        if let Some(command) = repair(region, admins.len() as u64, random) {
            let _ = random.pick(admins).ctl(&command.split(' ').collect::<Vec<_>>());
        }
    }
}

/// Where all regions stand, if they are at rest; else what is missing.
fn rest(statuses: &[Status]) -> Outcome<Vec<Position>> {
    let regions = newest(statuses);
    let mut positions = Vec::new();
    for region in regions.values() {
        if !region.is_whole() {
            return Err(Trouble::new(format!("three voters are wanted: {region:?}")));
        }
        let gone = region.replicas.iter().find(|replica| statuses.iter().all(|one| one.store != replica.store));
        if let Some(gone) = gone {
            return Err(Trouble::new(format!("{gone:?} is on a store that is gone: {region:?}")));
        }
        let mut leaders = BTreeSet::new();
        for status in statuses {
            let here = status.regions.iter().find(|here| here.id == region.id);
            match (region.replica_on(status.store), here) {
                (None, None) => {}
                (Some(_), Some(here)) if is_level(region, here) => {
                    leaders.extend(here.is_leader.then_some(status.store));
                }
                (wanted, found) => {
                    let store = status.store;
                    return Err(Trouble::new(format!("store {store} should have {wanted:?} of {region:?}: {found:?}")));
                }
            }
        }
        if leaders.len() != 1 {
            return Err(Trouble::new(format!("region {} is led by {leaders:?}", region.id)));
        }
        positions.push((region.id, region.term, region.last_index, region.version, region.conf_version));
    }
    cover(&regions)?;
    Ok(positions)
}

fn is_level(region: &Region, here: &Region) -> bool {
    here.replicas == region.replicas
        && (here.version, here.conf_version) == (region.version, region.conf_version)
        && (here.term, here.last_index) == (region.term, region.last_index)
        && here.commit == here.last_index
        && here.applied.unwrap_or(0) == here.commit
}

/// Every key belongs to one region.
fn cover(regions: &BTreeMap<u64, Region>) -> Outcome<()> {
    let mut owners: Vec<&Region> = regions.values().filter(|region| region.id != 1).collect();
    owners.sort_unstable_by(|a, b| a.start.cmp(&b.start));
    let mut reached = Some(String::new());
    for region in owners {
        if reached.as_ref() != Some(&region.start) {
            return Err(Trouble::new(format!("keys up to {reached:?} have an owner, the next begins at {region:?}")));
        }
        reached = Some(region.end.clone()).filter(|end| !end.is_empty());
    }
    reached.map_or(Ok(()), |end| Err(Trouble::new(format!("keys from {end} on have no owner"))))
}
