//! Real stores on disks that go wrong. What this machine does not allow is left out, with the reason.

#![allow(clippy::print_stdout, reason = "whoever runs the tests wants to know what was left out, and the figures")]
#![allow(clippy::unwrap_used, reason = "this is all test")]

mod stores;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use multiraft_torture::cluster::Region;
use multiraft_torture::disk::damage::{Kind, strike};
use multiraft_torture::disk::forgetful::Forgetful;
use multiraft_torture::disk::shim::{Order, Shim, SyncFails};
use multiraft_torture::disk::small::Small;
use multiraft_torture::random::Random;
use multiraft_torture::trouble::Outcome;
use stores::{LIMIT, Stores, Writer, eventually};

/// What a machine may refuse; `None`, and a line that says so, if it does.
fn or_skip<T>(made: Outcome<T>) -> Option<T> {
    made.inspect_err(|trouble| println!("SKIPPED: {trouble}")).ok()
}

/// Puts the data of each store on a file system that forgets.
fn forgetful(stores: &mut Stores) -> Option<Vec<Forgetful>> {
    let dir = stores.cluster.dir().to_owned();
    let mount = |store: &mut multiraft_torture::cluster::Store| {
        let number = store.place.store;
        let beneath = dir.join(format!("beneath-{number}"));
        let forgetful = Forgetful::mount(&dir.join(format!("forgetful-{number}")), &beneath)?;
        store.data = forgetful.path().to_owned();
        Ok(forgetful)
    };
    or_skip(stores.cluster.stores.iter_mut().map(mount).collect())
}

/// Kills all stores in the middle of writes, again and again, and takes the power from them all.
fn lose_power(stores: u64, rounds: u64) {
    let mut stores = Stores::prepare(stores);
    let Some(disks) = forgetful(&mut stores) else { return };
    stores.cluster.found().unwrap();
    disks.iter().for_each(|disk| disk.slow_syncs(Duration::from_millis(2)));
    let mut writer = Writer::default();
    let (mut bytes, mut changes, mut acknowledged) = (0, 0, 0);
    for round in 0..rounds {
        acknowledged += stores.write_until_killed(&mut writer, 150, || disks.iter().for_each(Forgetful::cut_power));
        let mut luck = Random::of_part(round, "luck", 0);
        for disk in &disks {
            let lost = disk.forget((round % 2 == 1).then_some(&mut luck)).unwrap();
            bytes += lost.bytes;
            changes += lost.changes;
        }
        stores.start_all();
        stores.check(&writer);
    }
    let asked: Vec<_> = disks.iter().map(Forgetful::asked).collect();
    println!("{acknowledged} writes acknowledged, {bytes} bytes and {changes} changes forgotten; {asked:?}");
    assert!(bytes > 0, "nothing was lost in {rounds} losses of power");
    stores.cluster.check_logs().unwrap();
}

#[test]
fn what_one_store_has_acknowledged_survives_the_loss_of_power() {
    lose_power(1, 6);
}

#[test]
fn what_three_stores_have_acknowledged_survives_the_loss_of_all_their_power() {
    lose_power(3, 4);
}

#[test]
fn a_store_whose_disk_is_full_takes_no_writes_and_goes_on_when_there_is_space() {
    let mut stores = Stores::prepare(1);
    let at = stores.cluster.dir().join("small");
    let Some(small) = or_skip(Small::mount(&at, 512 << 20)) else { return };
    stores.cluster.stores[0].data = small.path().join("data");
    stores.cluster.found().unwrap();
    let mut writer = Writer::default();
    assert_eq!(stores.write(&mut writer, 10), 10);
    small.fill().unwrap();
    eventually("a write is refused", || {
        small.fill().unwrap();
        stores.write(&mut writer, 1) == 0
    });
    let was = small.give_back().unwrap().unwrap();
    println!("{was:?}");
    assert!(was.refused > 1 && was.lasted > Duration::ZERO);
    eventually("a write is taken again", || stores.write(&mut writer, 1) == 1);
    stores.check(&writer);
    stores.cluster.check_logs().unwrap();
}

/// One store with the library.
fn shimmed() -> Option<(Stores, Shim)> {
    let mut stores = Stores::prepare(1);
    let shim = or_skip(Shim::build(&stores.cluster.dir().join("shim")))?;
    shim.lie_under(&mut stores.cluster.stores[0]).unwrap();
    Some((stores, shim))
}

#[test]
fn a_store_whose_log_fails_to_sync_ends_and_has_everything_when_it_starts_again() {
    let Some((mut stores, shim)) = shimmed() else { return };
    stores.cluster.found().unwrap();
    // Were the state store hit as well, it would have to be thrown away.
    let log = stores.cluster.stores[0].data.join("log");
    let mut writer = Writer::default();
    assert_eq!(stores.write(&mut writer, 10), 10);
    let order = Order { sync_fails: Some(SyncFails::FromAfter(5)), ..Order::default() };
    shim.order(1, &log, &order).unwrap();
    let begun = Instant::now();
    while stores.cluster.ended(0).unwrap().is_none() {
        assert!(begun.elapsed() < LIMIT, "the store goes on: {:?}", shim.hits(1));
        stores.write(&mut writer, 1);
    }
    assert_eq!(stores.cluster.bury(0).unwrap().code, Some(1));
    let hits = shim.hits(1).unwrap();
    println!("{hits:?}");
    assert!(hits["syncs_failed"] > 0);
    shim.heal(1).unwrap();
    stores.start_all();
    stores.check(&writer);
    assert_eq!(stores.write(&mut writer, 10), 10);
}

#[test]
fn a_store_with_a_slow_disk_is_slow_and_one_with_a_full_log_refuses() {
    let Some((mut stores, shim)) = shimmed() else { return };
    stores.cluster.found().unwrap();
    let log = stores.cluster.stores[0].data.join("log");
    let mut writer = Writer::default();
    assert_eq!(stores.write(&mut writer, 10), 10);
    let late = Duration::from_millis(200);
    shim.order(1, &log, &Order { sync_delay: late, ..Order::default() }).unwrap();
    let begun = Instant::now();
    assert_eq!(stores.write(&mut writer, 3), 3);
    assert!(begun.elapsed() >= late * 3);
    shim.order(1, &log, &Order { full: true, ..Order::default() }).unwrap();
    eventually("a write is refused", || stores.write(&mut writer, 1) == 0);
    shim.heal(1).unwrap();
    let hits = shim.hits(1).unwrap();
    println!("{hits:?}");
    assert!(hits["syncs_delayed"] >= 3 && hits["writes_refused"] >= 1);
    eventually("a write is taken again", || stores.write(&mut writer, 1) == 1);
    stores.check(&writer);
}

#[test]
fn torn_writes_of_all_stores_cost_nothing() {
    let mut stores = Stores::prepare(3);
    stores.cluster.found().unwrap();
    let mut writer = Writer::default();
    for seed in 0..2 {
        stores.write_until_killed(&mut writer, 100, || {});
        for store in &stores.cluster.stores {
            println!("{}", strike(&store.data, Kind::TornWrite, &mut Random::new(seed)).unwrap());
        }
        stores.start_all();
        stores.check(&writer);
        for at in 0..3 {
            assert_eq!(stores.cluster.admin(at).status().unwrap().damaged, [""; 0]);
        }
    }
}

/// One of three stores is damaged while it is down; the others go on, and the operator replaces what is out of service.
fn damage_one(kind: Kind) {
    let mut stores = Stores::prepare(3);
    stores.cluster.found().unwrap();
    let mut writer = Writer::default();
    stores.write(&mut writer, 400);
    stores.settle();
    stores.cluster.kill(2).unwrap();
    let damage = strike(&stores.cluster.stores[2].data, kind, &mut Random::new(3)).unwrap();
    assert!(stores.write(&mut writer, 20) > 0);
    if kind == Kind::Wiped {
        stores.cluster.begin_rejoin(2).unwrap();
        stores.cluster.wait_ready(2).unwrap();
    } else {
        stores.cluster.start(2).unwrap();
    }
    let damaged = stores.cluster.admin(2).status().unwrap().damaged.len();
    println!("{damage}: {damaged} regions out of service");
    assert_eq!(damaged == 0, kind == Kind::Wiped);
    stores.check(&writer);
    stores.repair(2);
    stores.check(&writer);
    // Now it counts again: with another one away, all writes are taken.
    stores.cluster.kill(0).unwrap();
    eventually("a write is taken", || stores.write(&mut writer, 1) == 1);
    stores.check(&writer);
    stores.cluster.check_logs().unwrap();
}

#[test]
fn a_store_with_a_flipped_bit_is_repaired() {
    damage_one(Kind::FlippedBit);
}

#[test]
fn a_store_with_a_zeroed_block_is_repaired() {
    damage_one(Kind::ZeroedBlock);
}

#[test]
fn a_store_that_has_lost_its_newest_segment_is_repaired() {
    damage_one(Kind::LostSegment);
}

#[test]
fn a_store_that_may_have_forgotten_votes_says_so_and_names_the_children_of_splits_that_it_cannot_serve() {
    let mut stores = Stores::prepare(3);
    stores.cluster.found().unwrap();
    stores.write(&mut Writer::default(), 400);
    stores.settle();
    stores.cluster.kill(2).unwrap();
    strike(&stores.cluster.stores[2].data, Kind::LostSegment, &mut Random::new(3)).unwrap();
    stores.cluster.start(2).unwrap();
    stores.repair(2);
    assert!(stores.cluster.admin(2).status().unwrap().lacks_promises);
    assert!(!stores.cluster.admin(0).status().unwrap().lacks_promises);
    let key = "key:000000600000";
    let owner = |regions: Vec<Region>| regions.into_iter().find(|region| region.owns(key.as_bytes())).unwrap().id;
    let region = owner(stores.cluster.admin(0).regions().unwrap());
    stores.cluster.admin(0).ctl(&["split", &region.to_string(), key]).unwrap();
    let child = owner(stores.cluster.admin(0).regions().unwrap());
    assert_ne!(child, region);
    eventually("the child is named", || {
        let status = stores.cluster.admin(2).status().unwrap();
        status.damaged.iter().any(|damaged| damaged["region"] == child)
    });
    // Once its replica is replaced it counts on this store as on any other.
    stores.repair(2);
    eventually("the child is served", || {
        stores.cluster.admin(2).status().unwrap().regions.iter().any(|region| region.id == child)
    });
}

#[test]
fn a_store_that_has_lost_everything_is_repaired() {
    damage_one(Kind::Wiped);
}

#[test]
fn a_store_cannot_be_damaged_while_it_runs() {
    let mut stores = Stores::prepare(1);
    stores.cluster.found().unwrap();
    let trouble = strike(&stores.cluster.stores[0].data, Kind::Wiped, &mut Random::new(1)).unwrap_err();
    assert!(trouble.to_string().contains("stop it first"), "{trouble}");
    assert!(fs::exists(stores.cluster.stores[0].data.join("STORE")).unwrap());
}

/// Tells the test below that it is the process that mounts, and where.
const MOUNTS_AT: &str = "MULTIRAFT_TORTURE_MOUNTS_AT";

#[test]
fn nothing_is_mounted_any_more_after_a_signal() {
    let name = "nothing_is_mounted_any_more_after_a_signal";
    if let Some(dir) = std::env::var_os(MOUNTS_AT).map(PathBuf::from) {
        let small = or_skip(Small::mount(&dir.join("small"), 1 << 20));
        let forgetful = or_skip(Forgetful::mount(&dir.join("forgetful"), &dir.join("beneath")));
        println!("\nmounted {}", small.is_some() && forgetful.is_some());
        loop {
            std::thread::park();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]).env(MOUNTS_AT, dir.path()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = lines.map_while(Result::ok).find(|line| line.starts_with("mounted ")).unwrap();
    let mounts = || fs::read_to_string("/proc/self/mounts").unwrap().matches(dir.path().to_str().unwrap()).count();
    assert_eq!(mounts() == 2, told == "mounted true");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert!(!child.wait().unwrap().success());
    assert_eq!(mounts(), 0);
}
