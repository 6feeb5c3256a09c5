//! Faults of disks. What lies under the stores' data directories is chosen before they start, by the faults that are to come.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Kind, processes};
use crate::cluster::{Admin, Cluster, Region, Signal};
use crate::disk::damage;
use crate::disk::forgetful::Forgetful;
use crate::disk::shim::{Order, Shim, SyncFails};
use crate::disk::small::Small;
use crate::random::Random;
use crate::stop::{Stop, look_again};
use crate::trouble::{Outcome, Trouble};

/// How large a disk in memory is: a log with its spares, a state, and some room.
const SMALL_BYTES: u64 = 512 << 20;
/// Where in its data directory a store's log lies.
const LOG: &str = "log";
/// How long a sync takes on a disk that forgets: long enough for power to go in the middle of one.
const SYNC_TAKES: Duration = Duration::from_millis(2);
/// Among so many losses of power at least one has to meet something that was not synced.
const POWER_LOSSES_MIN: u64 = 4;
/// How soon a store whose disk refuses to sync has to end.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// How long a change of a region may be on its way that was asked for before the others noticed that a store is dead.
const CHANGES_END_WITHIN: Duration = Duration::from_secs(3);
/// How long a store that comes back with a damaged log may take until all its replicas are in service again.
const REPAIRED_WITHIN: Duration = Duration::from_secs(120);

/// What lies under a store's data directory.
#[derive(Debug)]
enum Disk {
    Plain,
    Small(Small),
    Forgetful(Forgetful),
}

/// The disks of a cluster.
#[derive(Debug)]
pub struct Disks {
    shim: Option<Shim>,
    disks: Vec<Disk>,
    /// Bytes and names that were lost with the power.
    forgotten: AtomicU64,
}

impl Disks {
    /// Puts under each store what these faults need, before it is started for the first time; and says what it could not.
    ///
    /// # Errors
    /// A fault cannot be had on this machine in any way.
    pub fn prepare(cluster: &mut Cluster, kinds: &[Kind], notes: &mut Vec<String>) -> Outcome<Self> {
        let wants = |kind: Kind| kinds.contains(&kind);
        let mut disks = Self { shim: None, disks: Vec::new(), forgotten: AtomicU64::new(0) };
        let mut needs_shim = wants(Kind::SyncFails) || wants(Kind::DiskSlow);
        for at in 0..cluster.stores.len() {
            let store = cluster.stores[at].place.store;
            let (data, beneath) = (cluster.stores[at].data.clone(), cluster.dir().join(format!("beneath-{store}")));
            let disk = if wants(Kind::PowerLoss) {
                needs_shim |= wants(Kind::DiskFull);
                match Forgetful::mount(&data, &beneath) {
                    Ok(disk) => {
                        disk.slow_syncs(SYNC_TAKES);
                        Disk::Forgetful(disk)
                    }
                    Err(trouble) => {
                        notes.push(format!("store {store} loses no more than its process when power goes: {trouble}"));
                        Disk::Plain
                    }
                }
            } else if wants(Kind::DiskFull) {
                match Small::mount(&data, SMALL_BYTES) {
                    Ok(small) => Disk::Small(small),
                    Err(trouble) => {
                        notes.push(format!("no small disk for store {store}, writes are refused instead: {trouble}"));
                        needs_shim = true;
                        Disk::Plain
                    }
                }
            } else {
                Disk::Plain
            };
            disks.disks.push(disk);
        }
        if let Some(disk) = disks.disks.first() {
            match disk {
                Disk::Forgetful(_) => {
                    notes.push("data lies on a file system that forgets what was not synced".to_owned());
                }
                Disk::Small(_) => notes.push(format!("data lies on disks of {} MiB in memory", SMALL_BYTES >> 20)),
                Disk::Plain => {}
            }
        }
        if needs_shim {
            let shim = Shim::build(&cluster.dir().join("shim"))?;
            cluster.stores.iter_mut().try_for_each(|store| shim.lie_under(store))?;
            notes.push("a library in front of libc makes disks slow and lets them fail".to_owned());
            disks.shim = Some(shim);
        }
        Ok(disks)
    }

    fn shim(&self) -> Outcome<&Shim> {
        self.shim.as_ref().ok_or_else(|| Trouble::new("there is no library in front of libc"))
    }

    /// Begins a fault of one store's disk; `None` if there is nothing to damage yet.
    pub(super) fn begin(
        &self,
        cluster: &mut Cluster,
        kind: Kind,
        at: usize,
        random: &mut Random,
    ) -> Outcome<Option<(Sick, String)>> {
        let (store, data) = (cluster.stores[at].place.store, cluster.stores[at].data.clone());
        let what = match kind {
            Kind::DiskFull if matches!(self.disks[at], Disk::Small(_)) => {
                let Disk::Small(small) = &self.disks[at] else { return Err(Trouble::new("the disk is not small")) };
                Ill::Full { ballast: small.fill()? }
            }
            Kind::DiskFull => {
                // A log that begins a segment reserves the space for it before it writes.
                let order = Order { full: true, ..Order::default() };
                self.order(store, &data.join(LOG), order, &["writes_refused", "reservations_refused"])?
            }
            Kind::DiskSlow => {
                let delay = Duration::from_millis(random.between(50, 600));
                let order = if random.chance(700) {
                    Order { sync_delay: delay, ..Order::default() }
                } else {
                    Order { sync_delay: delay / 4, write_delay: delay / 4, ..Order::default() }
                };
                self.order(store, &data, order, &["syncs_delayed"])?
            }
            Kind::SyncFails => {
                let after = SyncFails::FromAfter(random.below(20));
                let order = Order { sync_fails: Some(after), ..Order::default() };
                self.order(store, &data.join(LOG), order, &["syncs_failed"])?
            }
            Kind::TornLog | Kind::DamagedLog | Kind::Wipe => {
                let (dead, _) = processes::kill(cluster, &[at])?;
                if kind.loses_data() {
                    // Changes that began while it lived end, and by then none begins that needs it.
                    Stop::default().within(CHANGES_END_WITHIN);
                    if !can_do_without(cluster, at) {
                        dead.start(cluster)?;
                        return Ok(None);
                    }
                }
                let options: &[damage::Kind] = match kind {
                    Kind::TornLog => &[damage::Kind::TornWrite],
                    Kind::Wipe => &[damage::Kind::Wiped],
                    _ => &[damage::Kind::FlippedBit, damage::Kind::ZeroedBlock, damage::Kind::LostSegment],
                };
                match damage::strike(&data, *random.pick(options), random) {
                    Ok(damage) => Ill::Damaged { dead, damage: damage.to_string() },
                    // Its log may be too short for it.
                    Err(_) if kind == Kind::DamagedLog => {
                        dead.start(cluster)?;
                        return Ok(None);
                    }
                    Err(trouble) => return Err(trouble),
                }
            }
            other => return Err(Trouble::new(format!("the fault `{}` is none of disks", other.name()))),
        };
        let how = format!("store {store}: {what}");
        Ok(Some((Sick { kind, at, what }, how)))
    }

    fn order(&self, store: u64, data: &std::path::Path, order: Order, counters: Counters) -> Outcome<Ill> {
        let shim = self.shim()?;
        let before = shim.hits_of(store, counters)?;
        shim.order(store, data, &order)?;
        Ok(Ill::Ordered { order, counters, before })
    }

    /// Power goes at some stores, in the middle of what they write: they stand still, nothing reaches their disks any more, they die,
    /// and the disks forget what was not synced.
    pub(super) fn lose_power(
        &self,
        cluster: &mut Cluster,
        at: &[usize],
        random: &mut Random,
    ) -> Outcome<(processes::Dead, String)> {
        let mut disks = Vec::new();
        for at in at {
            let Disk::Forgetful(disk) = &self.disks[*at] else { continue };
            cluster.signal(*at, Signal::STOP)?;
            disks.push((at + 1, disk));
        }
        disks.iter().for_each(|(_, disk)| disk.cut_power());
        let (dead, mut told) = processes::kill(cluster, at)?;
        for (store, disk) in disks {
            // Half of the time everything is gone, else a drawn part of it.
            let is_lucky = random.chance(500);
            let lost = disk.forget(is_lucky.then_some(&mut *random))?;
            let (bytes, files, names) = (lost.bytes, lost.files, lost.changes);
            self.forgotten.fetch_add(bytes + names, Ordering::Relaxed);
            let _ = write!(told, "; store {store} has lost {bytes} bytes of {files} files, and {names} names");
        }
        Ok((dead.with_trace(told.clone()), told))
    }

    /// Fails if power was lost `times`, and never with anything that was not synced.
    pub(super) fn check_forgotten(&self, times: u64) -> Outcome<()> {
        let can_forget = self.disks.iter().any(|disk| matches!(disk, Disk::Forgetful(_)));
        if can_forget && times >= POWER_LOSSES_MIN && self.forgotten.load(Ordering::Relaxed) == 0 {
            return Err(Trouble::new(format!("{times} losses of power have left no trace: nothing was forgotten")));
        }
        Ok(())
    }
}

/// What the shim counts of one kind of fault.
type Counters = &'static [&'static str];

/// What a disk has.
enum Ill {
    Full { ballast: u64 },
    Ordered { order: Order, counters: Counters, before: u64 },
    Damaged { dead: processes::Dead, damage: String },
}

impl std::fmt::Display for Ill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full { ballast } => write!(f, "full, with {ballast} bytes of ballast"),
            Self::Ordered { order, .. } => write!(f, "{order:?}"),
            Self::Damaged { damage, .. } => f.write_str(damage),
        }
    }
}

/// A store with a sick disk.
pub(super) struct Sick {
    kind: Kind,
    at: usize,
    what: Ill,
}

impl Sick {
    /// Whether the store may end by itself.
    pub(super) fn may_end(&self) -> Option<usize> {
        (self.kind == Kind::SyncFails).then_some(self.at)
    }

    /// The disk is well again, and the store runs. `None`: it has never been sick, since the store had nothing to write.
    pub(super) fn heal(self, disks: &Disks, cluster: &mut Cluster) -> Outcome<Option<String>> {
        let store = cluster.stores[self.at].place.store;
        Ok(Some(match self.what {
            Ill::Full { .. } => {
                let Disk::Small(small) = &disks.disks[self.at] else {
                    return Err(Trouble::new("the disk is not small"));
                };
                let was = small
                    .give_back()?
                    .ok_or_else(|| Trouble::new(format!("the disk of store {store} was not full")))?;
                let (lasted, free) = (was.lasted, was.free_after);
                format!("store {store} had no byte free for {lasted:.1?}, and {free} after that")
            }
            Ill::Ordered { counters, before, .. } => {
                let shim = disks.shim()?;
                let hits = || -> Outcome<u64> { Ok(shim.hits_of(store, counters)? - before) };
                let begun = Instant::now();
                while hits()? == 0 {
                    // Clients may have nothing to do with its regions, and all of these may have gone elsewhere.
                    if !give_it_something_to_write(cluster, self.at, || hits().is_ok_and(|hits| hits > 0))? {
                        shim.heal(store)?;
                        return Ok(None);
                    }
                    // To ask for something may take longer than that: regions lack leaders while their stores are down.
                    if !look_again(begun, ENDS_WITHIN) && hits()? == 0 {
                        let counters = counters.join(" or ");
                        return Err(Trouble::new(format!("store {store} has not met its sick disk: no {counters}")));
                    }
                }
                let ended =
                    if self.kind == Kind::SyncFails { ended_by_itself(cluster, self.at)? } else { String::new() };
                let hits = hits()?;
                shim.heal(store)?;
                if self.kind == Kind::SyncFails {
                    cluster.start(self.at)?;
                }
                format!("store {store}: {hits} {}{ended}", counters.join(" or ").replace('_', " "))
            }
            Ill::Damaged { damage, .. } if self.kind == Kind::Wipe => {
                let rejoined = rejoined(cluster, self.at)?;
                format!("{damage}; {rejoined}")
            }
            Ill::Damaged { dead, damage } => {
                let started = dead.start(cluster)?;
                let repaired = if self.kind == Kind::TornLog { String::new() } else { repaired(cluster, self.at)? };
                let began_anew = if cluster.admin(self.at).status()?.lacks_promises {
                    // What it may have voted for is lost, and it would not take the children of splits.
                    cluster.kill(self.at)?;
                    let wiped = damage::wipe(&cluster.stores[self.at].data)?;
                    format!("; it may have forgotten votes, so: {wiped}; {}", rejoined(cluster, self.at)?)
                } else {
                    String::new()
                };
                format!("{damage}; {started}{repaired}{began_anew}")
            }
        }))
    }
}

/// Has something written to a region that a store has a replica of: a consistency check is an entry of its log. Says whether there is
/// such a region. Ends early when it has `met` what it is to meet.
fn give_it_something_to_write(cluster: &Cluster, at: usize, met: impl Fn() -> bool) -> Outcome<bool> {
    let others = others(cluster, at);
    let Some(regions) = others.iter().find_map(|other| other.regions().ok()) else { return Ok(true) };
    let mut here = regions.iter().filter(|region| region.replica_on(at as u64 + 1).is_some()).peekable();
    let has_any = here.peek().is_some();
    for region in here {
        if met() {
            break;
        }
        // Whatever comes of it: it may have no leader just now.
        let _ = others.iter().any(|other| other.ctl(&["check", &region.id.to_string()]).is_ok());
    }
    Ok(has_any)
}

/// A store that cannot sync has to end, and to say why.
fn ended_by_itself(cluster: &mut Cluster, at: usize) -> Outcome<String> {
    let begun = Instant::now();
    while cluster.ended(at)?.is_none() {
        if !look_again(begun, ENDS_WITHIN) {
            // Whoever stands still does not end.
            let _ = cluster.signal(at, Signal::ABORT);
            return Err(Trouble::new(format!("store {} goes on although its disk refuses to sync", at + 1)));
        }
    }
    let ended = cluster.bury(at)?;
    if ended.code != Some(1) {
        return Err(Trouble::new(format!(
            "store {} has ended in disorder when its disk refused to sync: {ended:?}",
            at + 1
        )));
    }
    Ok(", and it has ended with 1".to_owned())
}

/// Has every replica replaced that a store names as damaged, as an operator does, until there is none.
fn repaired(cluster: &Cluster, at: usize) -> Outcome<String> {
    let (begun, store) = (Instant::now(), cluster.stores[at].place.store);
    let others = others(cluster, at);
    let (mut named, mut refused) = (BTreeSet::<u64>::new(), String::new());
    until(
        begun,
        || format!("store {store} still has damaged replicas"),
        || {
            let Ok(status) = cluster.admin(at).status() else { return false };
            let damaged: Vec<u64> = status.damaged.iter().filter_map(|damaged| damaged["region"].as_u64()).collect();
            named.extend(damaged.iter().copied());
            for region in &damaged {
                // Refused for now, if the region has no leader or is in the middle of another change.
                for other in &others {
                    match other.repair(*region, store) {
                        Ok(_) => break,
                        Err(trouble) => refused = trouble.to_string(),
                    }
                }
            }
            damaged.is_empty()
        },
    )
    .map_err(|trouble| Trouble::new(format!("{trouble}; last: {refused}")))?;
    Ok(format!("; {} replicas were named as damaged, and replaced within {:.1?}", named.len(), begun.elapsed()))
}

/// Brings a store back that has lost everything, as an operator does: it begins anew while regions still name it, these give up what it
/// was, and it is given replicas again.
fn rejoined(cluster: &mut Cluster, at: usize) -> Outcome<String> {
    let (begun, store) = (Instant::now(), cluster.stores[at].place.store.to_string());
    cluster.begin_rejoin(at)?;
    cluster.wait_ready(at)?;
    let others = others(cluster, at);
    let mut removed = BTreeSet::new();
    let is_on = |region: &Region| region.replica_on(at as u64 + 1).is_some();
    until(
        begun,
        || format!("what store {store} was is not forgotten by all regions"),
        || {
            let Ok(status) = cluster.admin(at).status() else { return false };
            // Else what is added is as old as what was lost.
            let Some(floor) = status.floor else { return false };
            let Some(regions) = others.iter().find_map(|other| other.regions().ok()) else { return false };
            let is_lost = |region: &&Region| region.replica_on(at as u64 + 1).is_some_and(|own| own.id <= floor);
            let maimed: Vec<u64> = regions.iter().filter(is_lost).map(|region| region.id).collect();
            for region in &maimed {
                let id = region.to_string();
                // Refused for now, if the region has no leader or is in the middle of another change.
                if others.iter().any(|other| other.ctl(&["remove", &id, &store]).is_ok()) {
                    removed.insert(*region);
                }
            }
            maimed.is_empty()
        },
    )?;
    until(
        begun,
        || format!("store {store} does not get back what it had"),
        || {
            let Some(regions) = others.iter().find_map(|other| other.regions().ok()) else { return false };
            let voters = |region: &Region| region.replicas.iter().filter(|replica| replica.role == "voter").count();
            let lacking = regions.iter().filter(|region| voters(region) < 3 && !is_on(region));
            let lacking: Vec<String> = lacking.map(|region| region.id.to_string()).collect();
            for id in &lacking {
                others.iter().any(|other| other.ctl(&["add", id, &store]).is_ok());
            }
            lacking.is_empty()
        },
    )?;
    Ok(format!("it rejoined, and {} regions gave up what it was, which took {:.1?}", removed.len(), begun.elapsed()))
}

/// Whether every region has a quorum without what this store has of it, for good. Operators move and change regions all the time:
/// some have two voters now and then, of which neither may be lost.
pub(super) fn can_do_without(cluster: &Cluster, at: usize) -> bool {
    let store = at as u64 + 1;
    others(cluster, at).iter().all(|other| {
        let Ok(regions) = other.regions() else { return false };
        regions.iter().filter(|region| region.replica_on(store).is_some()).all(|region| {
            region.replicas.iter().filter(|replica| replica.role == "voter" && replica.store != store).count() > 1
        })
    })
}

fn others(cluster: &Cluster, at: usize) -> Vec<Admin> {
    (0..cluster.stores.len()).filter(|other| *other != at).map(|other| cluster.admin(other)).collect()
}

/// Tries again until it is so.
fn until(begun: Instant, what: impl Fn() -> String, mut is_so: impl FnMut() -> bool) -> Outcome<()> {
    while !is_so() {
        if !look_again(begun, REPAIRED_WITHIN) {
            return Err(Trouble::new(format!("{} after {REPAIRED_WITHIN:?}", what())));
        }
    }
    Ok(())
}
