//! Replicas that only a snapshot can fill: of a store that was dead until the others had cut their logs, or new ones.
//!
//! Logs are cut where applied state is durable, so with pairs in memory there are only new replicas.

use std::thread;
use std::time::{Duration, Instant};

use super::processes::{self, Dead};
use crate::client::Reply;
use crate::client::resp::{Line, Words, words};
use crate::cluster::{Admin, Cluster, Region};
use crate::random::Random;
use crate::stop::{Stop, look_again};
use crate::trouble::{Outcome, Trouble};

/// What a store counts its snapshots by.
const INSTALLED: &str = "snapshots_installed_total";
/// So many entries make a log be cut, with some to spare: it is at 4,096, and 1,024 are kept.
const GROWS_BY: u64 = 7_000;
/// How long a log may take to grow so much.
const GROWN_WITHIN: Duration = Duration::from_secs(60);
/// In so much time applied state becomes durable, and the log is cut: twice over.
const CUT_IN: Duration = Duration::from_secs(5);
/// How long a change of members, and a snapshot, may take.
const FILLED_WITHIN: Duration = Duration::from_secs(30);
/// How often it is tried: regions may be split, merged or moved away meanwhile.
const ATTEMPTS: usize = 3;
/// Who fills a log: so many, with so many writes at a time.
const WRITERS: u64 = 4;
const AT_A_TIME: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(8);

/// What is to be filled.
pub(super) enum Empty {
    /// A store that is dead.
    Behind(usize, Dead),
    /// A replica that is to be replaced.
    New,
}

/// Kills a store, if its log is one that is cut.
pub(super) fn begin(cluster: &mut Cluster, at: usize, random: &mut Random) -> Outcome<(Empty, String)> {
    if cluster.cuts_logs() && random.chance(500) {
        let (dead, how) = processes::kill(cluster, &[at])?;
        return Ok((Empty::Behind(at, dead), format!("{how} until logs are cut")));
    }
    Ok((Empty::New, "a replica is replaced".to_owned()))
}

impl Empty {
    /// Fills it, and sees that it was done by a snapshot. Nothing else may be wrong.
    pub(super) fn fill(self, cluster: &mut Cluster, random: &mut Random) -> Outcome<String> {
        let (at, mut dead) = match self {
            Self::New => return replace(cluster, random),
            Self::Behind(at, dead) => (at, dead),
        };
        let mut was_behind = None;
        for _ in 0..ATTEMPTS {
            let grown = grow(cluster, at, random);
            Stop::default().within(CUT_IN);
            let told = dead.start(cluster)?;
            let Ok(grown) = grown else {
                // It has no replica that could be behind, or operators are at it.
                return was_behind.map_or_else(|| replace(cluster, random), |told: String| Err(Trouble::new(told)));
            };
            // It counts from its start on.
            if let Some(installed) = wait_installed(cluster, at, 0) {
                return Ok(format!("{told}; {grown}; {installed} snapshots installed since"));
            }
            was_behind = Some(format!("store {} has installed no snapshot: {told}; {grown}", at + 1));
            dead = processes::kill(cluster, &[at])?.0;
        }
        dead.start(cluster)?;
        Err(Trouble::new(was_behind.unwrap_or_default()))
    }
}

/// Lets the log of a region that a dead store has a replica of grow until it has to be cut.
fn grow(cluster: &Cluster, dead: usize, random: &mut Random) -> Outcome<String> {
    let living: Vec<usize> = (0..cluster.stores.len()).filter(|at| *at != dead).collect();
    let admins: Vec<Admin> = living.iter().map(|at| cluster.admin(*at)).collect();
    let mut regions = random.pick(&admins).regions()?;
    regions.retain(|region| region.id != 1 && region.is_whole() && region.replica_on(dead as u64 + 1).is_some());
    if regions.is_empty() {
        return Err(Trouble::new(format!("store {} has no replica of a whole region", dead + 1)));
    }
    let region = random.pick(&regions).clone();
    let last = || admins.iter().filter_map(|admin| last_index(admin, region.id)).max();
    let first = last().ok_or_else(|| Trouble::new(format!("nobody tells of region {}", region.id)))?;
    let (stop, begun) = (Stop::default(), Instant::now());
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let address = cluster.stores[living[writer as usize % living.len()]].place.resp;
            let batch = writes(&region, writer);
            let stop = &stop;
            scope.spawn(move || {
                let mut line = None;
                while !stop.is_told() {
                    line = line.take().or_else(|| Line::open(address, PATIENCE, PATIENCE).ok());
                    let told = line.as_mut().map(|line| line.ask_all(&batch));
                    if !told.is_some_and(|told| told.is_ok_and(|replies| replies.iter().all(is_ok))) {
                        line = None;
                        stop.within(Duration::from_millis(50));
                    }
                }
            });
        }
        while last().is_none_or(|last| last < first + GROWS_BY) && look_again(begun, GROWN_WITHIN) {}
        stop.tell();
    });
    let grown = last().unwrap_or(first).saturating_sub(first);
    if grown < GROWS_BY {
        return Err(Trouble::new(format!("region {} has grown by {grown} entries in {GROWN_WITHIN:?}", region.id)));
    }
    Ok(format!("the log of region {} has grown by {grown} entries", region.id))
}

fn is_ok(reply: &Reply) -> bool {
    matches!(reply, Reply::Simple(text) if text == "OK")
}

/// Writes to a region, under keys that no workload has.
fn writes(region: &Region, writer: u64) -> Vec<Words> {
    // The first region begins before all keys.
    let start = if region.start.is_empty() { "a".to_owned() } else { text(&region.start) };
    (0..AT_A_TIME).map(|number| words(&["SET", &format!("{start}:filling.{writer}.{number}"), "x"])).collect()
}

/// A key of hexadecimal digits.
fn text(hex: &str) -> String {
    let bytes = (0..hex.len() / 2).filter_map(|at| u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok());
    String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
}

fn last_index(admin: &Admin, region: u64) -> Option<u64> {
    admin.status().ok()?.regions.iter().find(|known| known.id == region).map(|known| known.last_index)
}

/// Replaces a replica: elsewhere, if there is a store without one.
fn replace(cluster: &Cluster, random: &mut Random) -> Outcome<String> {
    let (admins, stores) = (cluster.admins(), cluster.stores.len() as u64);
    let (begun, mut trouble) = (Instant::now(), Trouble::new("there is no whole region"));
    while look_again(begun, FILLED_WITHIN) {
        let mut regions = random.pick(&admins).regions().unwrap_or_default();
        regions.retain(|region| region.id != 1 && region.is_whole());
        if regions.is_empty() {
            continue;
        }
        let region = random.pick(&regions);
        let (id, from) = (region.id, random.pick(&region.replicas).store);
        let to = (1..=stores).find(|store| region.replica_on(*store).is_none()).unwrap_or(from);
        let at = to as usize - 1;
        let before = cluster.metric(at, INSTALLED).unwrap_or(0);
        let commands = match to == from {
            true => vec![format!("remove {id} {from}"), format!("add {id} {to}")],
            false => vec![format!("move {id} {from} {to}")],
        };
        let changed = commands
            .iter()
            .try_for_each(|command| random.pick(&admins).ctl(&command.split(' ').collect::<Vec<_>>()).map(drop));
        match changed {
            Ok(()) => match wait_installed(cluster, at, before) {
                Some(installed) => return Ok(format!("{}: {installed} snapshots installed", commands.join(", "))),
                None => trouble = Trouble::new(format!("{}: no snapshot was installed", commands.join(", "))),
            },
            Err(why) => trouble = why,
        }
    }
    Err(trouble)
}

/// Waits until a store has installed more snapshots than so many; how many more.
fn wait_installed(cluster: &Cluster, at: usize, before: u64) -> Option<u64> {
    let begun = Instant::now();
    loop {
        let installed = cluster.metric(at, INSTALLED).unwrap_or(0).saturating_sub(before);
        if installed > 0 || !look_again(begun, FILLED_WITHIN) {
            return (installed > 0).then_some(installed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fills_a_log_lies_in_the_region() {
        let hex = |key: &str| key.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        for (start, end) in [("", "key:000000"), ("key:000000", "key:000001"), ("key:999999", "")] {
            let region = format!(
                "{{\"id\":2,\"start\":\"{}\",\"end\":\"{}\",\"conf_version\":1,\"version\":1,\"replicas\":[],\"leader\":null}}",
                hex(start),
                hex(end)
            );
            let region: Region = serde_json::from_str(&region).unwrap();
            let writes = writes(&region, 3);
            assert!(writes.iter().all(|write| region.owns(write[1].as_bytes())), "{start} to {end}: {:?}", writes[0]);
        }
    }
}
