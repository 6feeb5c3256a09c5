//! When all is healed: every region has three live replicas that hold the same, every key one owner, and nothing moves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use multiraft_sim::random::Random;

use crate::admin::{Region, Status, ctl, local, status};
use crate::clients::Trial;
use crate::operator::repair;
use multiraft_torture::stop::look_again;

/// How long a healed cluster may take to come to rest.
const LIMIT: Duration = Duration::from_secs(180);
/// How many keys are read from a replica at once.
const KEYS_AT_ONCE: usize = 256;

/// Waits until the cluster is at rest, and stays so for a while. `meanwhile` may put right what operators have begun and left
/// behind.
pub(crate) fn settle(
    trial: &Trial,
    admins: &[SocketAddr],
    quiet: Duration,
    mut meanwhile: impl FnMut(&BTreeMap<u64, Region>),
) -> Vec<Status> {
    let (begun, mut told) = (Instant::now(), Instant::now());
    let mut still: Option<(Instant, Vec<Position>)> = None;
    loop {
        let statuses: Result<Vec<Status>, String> = admins.iter().map(|admin| status(*admin)).collect();
        let found = statuses.and_then(|statuses| {
            meanwhile(&newest(&statuses));
            rest(&statuses).map(|positions| (statuses, positions))
        });
        let trouble = match found {
            Ok((statuses, positions)) => {
                let since = match still.take().filter(|(_, before)| *before == positions) {
                    Some((since, _)) => since,
                    None => Instant::now(),
                };
                if since.elapsed() >= quiet {
                    return statuses;
                }
                still = Some((since, positions));
                "it still moves".to_owned()
            }
            Err(trouble) => {
                still = None;
                if told.elapsed() > Duration::from_secs(5) {
                    told = Instant::now();
                    println!("{:7.3} {trouble}", trial.begun.elapsed().as_secs_f64());
                }
                trouble
            }
        };
        assert!(look_again(begun, LIMIT), "seed {}: the cluster does not come to rest: {trouble}", trial.seed);
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
pub(crate) fn mend(admins: &[SocketAddr], regions: &BTreeMap<u64, Region>, random: &mut Random) {
    for region in regions.values().filter(|region| region.leader.is_some()) {
        if let Some(command) = repair(region, admins.len() as u64, random) {
            let told = ctl(random.pick(admins), &command);
            println!("{command}: {}", told.map_or_else(|said| said, |_| "done".to_owned()));
        }
    }
}

/// Where all regions stand, if they are at rest; else what is missing.
fn rest(statuses: &[Status]) -> Result<Vec<Position>, String> {
    let regions = newest(statuses);
    let mut positions = Vec::new();
    for region in regions.values() {
        if !region.is_whole() {
            return Err(format!("three voters are wanted: {region:?}"));
        }
        if let Some(lost) = region.replicas.iter().find(|replica| statuses.iter().all(|one| one.store != replica.store))
        {
            return Err(format!("{lost:?} is on a store that is gone: {region:?}"));
        }
        let mut leaders = BTreeSet::new();
        for status in statuses {
            let here = status.regions.iter().find(|here| here.id == region.id);
            match (region.replica_on(status.store), here) {
                (None, None) => {}
                (Some(_), Some(here)) => {
                    let applied = here.applied.unwrap_or(0);
                    let is_level = here.replicas == region.replicas
                        && (here.version, here.conf_version) == (region.version, region.conf_version)
                        && (here.term, here.last_index) == (region.term, region.last_index)
                        && here.commit == here.last_index
                        && applied == here.commit;
                    if !is_level {
                        return Err(format!("store {} is not level with {region:?}: {here:?}", status.store));
                    }
                    if here.is_leader {
                        leaders.insert(status.store);
                    }
                }
                (wanted, found) => {
                    return Err(format!("store {} should have {wanted:?} of {region:?}: {found:?}", status.store));
                }
            }
        }
        if leaders.len() != 1 {
            return Err(format!("region {} is led by {leaders:?}", region.id));
        }
        positions.push((region.id, region.term, region.last_index, region.version, region.conf_version));
    }
    cover(&regions)?;
    Ok(positions)
}

/// Whether each region has three voters, all on these stores, and nothing else; else what is missing. It may be written to.
pub(crate) fn whole(statuses: &[Status]) -> Result<(), String> {
    let regions = newest(statuses);
    for region in regions.values() {
        let is_held = |store| {
            let here = statuses.iter().find(|status| status.store == store);
            let mut held = here.into_iter().flat_map(|status| &status.regions);
            held.any(|here| here.id == region.id && here.applied.unwrap_or(0) > 0)
        };
        if !region.is_whole() || !region.replicas.iter().all(|replica| is_held(replica.store)) {
            return Err(format!("three live voters are wanted: {region:?}"));
        }
    }
    cover(&regions)
}

/// Every key belongs to one region.
fn cover(regions: &BTreeMap<u64, Region>) -> Result<(), String> {
    let mut owners: Vec<&Region> = regions.values().filter(|region| region.id != 1).collect();
    owners.sort_unstable_by(|a, b| a.start.cmp(&b.start));
    let mut reached = Some(String::new());
    for region in owners {
        if reached.as_ref() != Some(&region.start) {
            return Err(format!("keys up to {reached:?} have an owner, the next begins at {region:?}"));
        }
        reached = Some(region.end.clone()).filter(|end| !end.is_empty());
    }
    reached.map_or(Ok(()), |end| Err(format!("keys from {end} on have no owner")))
}

/// The replicas of every region hold the same under all keys.
pub(crate) fn compare(trial: &Trial, admins: &[SocketAddr], statuses: &[Status]) {
    let (regions, keys) = (newest(statuses), trial.keys());
    let mut compared = 0;
    for region in regions.values() {
        let of_region: Vec<String> = keys.iter().filter(|key| region.owns(key)).cloned().collect();
        for keys in of_region.chunks(KEYS_AT_ONCE) {
            let held = region.replicas.iter().map(|replica| {
                let at = statuses.iter().position(|status| status.store == replica.store);
                let admin = admins[at.unwrap()];
                local(admin, keys)
                    .unwrap_or_else(|said| panic!("region {} on store {}: {said}", region.id, replica.store))
            });
            let held: Vec<_> = held.collect();
            assert!(
                held.windows(2).all(|pair| pair[0] == pair[1]),
                "seed {}: {region:?}: {keys:?}: {held:?}",
                trial.seed
            );
            compared += keys.len();
        }
    }
    assert_eq!(compared, keys.len(), "every key was compared");
    for status in statuses {
        assert!(status.damaged.is_empty(), "store {}: {:?}", status.store, status.damaged);
    }
}
