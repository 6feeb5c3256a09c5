//! Placement by real processes: of five stores that plan by themselves one dies for good and one is drained, both under load. In the
//! end every region has three live replicas, and then nothing is done any more.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::admin::{Status, ctl, status};
use crate::clients::{Client, Record, Trial};
use crate::harness::{Cluster, Ground};
use crate::{Ending, FOUNDERS, READING, STORES, five_stores, seed, setting, settle};
use multiraft_torture::stop::look_again;

/// How long each step may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);
const CLIENTS: u64 = 4;
/// Short, so that a test need not wait for minutes; and sizes do not matter here.
const FLAGS: &[&str] = &[
    "--placement",
    "--replicas",
    "3",
    "--placement-interval",
    "500ms",
    "--repair-after",
    "12s",
    "--balance-after",
    "2s",
    "--merge-bytes",
    "0",
];

/// The stores that are asked, by their places in the cluster.
struct Live {
    places: Vec<usize>,
    admins: Vec<SocketAddr>,
}

impl Live {
    fn of(cluster: &Cluster) -> Self {
        let admins = cluster.stores.iter().map(|store| store.admin).collect();
        Self { places: (0..cluster.stores.len()).collect(), admins }
    }

    fn remove(&mut self, place: usize) {
        let at = self.places.iter().position(|live| *live == place).unwrap();
        self.places.remove(at);
        self.admins.remove(at);
    }

    fn statuses(&self) -> Result<Vec<Status>, String> {
        self.admins.iter().map(|admin| status(*admin)).collect()
    }

    /// Waits until the cluster is as wanted.
    fn until(&self, what: &str, is_wanted: impl Fn(&[Status]) -> Result<(), String>) -> Vec<Status> {
        let begun = Instant::now();
        loop {
            let told = self.statuses().and_then(|statuses| is_wanted(&statuses).map(|()| statuses));
            match told {
                Ok(statuses) => {
                    println!("after {:.1} s: {what}", begun.elapsed().as_secs_f64());
                    return statuses;
                }
                Err(missing) => assert!(look_again(begun, LIMIT), "{what}: {missing}"),
            }
        }
    }

    /// The place of the store that leads the root region, and so plans.
    fn planner(&self) -> usize {
        let leads = |status: &Status| status.regions.iter().any(|region| region.id == 1 && region.is_leader);
        let statuses = self.until("somebody plans", |statuses| {
            statuses.iter().any(leads).then_some(()).ok_or_else(|| "nobody leads the root region".to_owned())
        });
        self.places[statuses.iter().position(leads).unwrap()]
    }
}

#[test]
fn a_dead_store_is_replaced_and_a_drained_one_emptied_under_load_and_then_nothing_moves() {
    let (seed, quiet) = (seed(), Duration::from_secs(setting("MULTIRAFT_FIRE_QUIET", || 10)));
    println!("MULTIRAFT_FIRE_SEED={seed} MULTIRAFT_FIRE_QUIET={}", quiet.as_secs());
    let mut cluster = five_stores(seed, Ground::Plain, FLAGS);
    let mut live = Live::of(&cluster);
    live.until("the stores that joined have got their share", |statuses| {
        let few = statuses.iter().find(|status| status.store > FOUNDERS && status.regions.len() < 3);
        few.map_or(Ok(()), |few| Err(format!("store {} has {} regions", few.store, few.regions.len())))?;
        settle::whole(statuses)
    });
    let trial = Trial::new(seed, cluster.stores.iter().map(|store| store.resp).collect());
    let mut record = Record::default();
    thread::scope(|scope| {
        let _ending = Ending(&trial);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|name| {
                let client = Client::new(&trial, name);
                scope.spawn(move || client.run())
            })
            .collect();

        // Who plans dies, and has to be followed by another.
        let dead = live.planner();
        cluster.kill(dead);
        live.remove(dead);
        live.until("three live replicas each, without the dead store", settle::whole);

        let drained = live.planner();
        let id = cluster.stores[drained].id;
        let other = live.places.iter().position(|place| *place != drained).unwrap();
        drain(live.admins[other], id);
        live.until("the drained store has nothing", |statuses| {
            let left = statuses.iter().find(|status| status.store == id).map_or(0, |status| status.regions.len());
            if left == 0 { Ok(()) } else { Err(format!("{left} regions are left on store {id}")) }
        });
        live.remove(drained);
        live.until("three live replicas each, without the drained store", settle::whole);
        cluster.signal(drained, "-TERM");
        assert_eq!(cluster.wait_end(drained), Some(0));

        trial.stop.tell();
        clients.into_iter().for_each(|client| record.add(client.join().unwrap()));
    });
    assert_eq!(live.places.len() as u64, STORES - 2);
    assert!(record.answered() > 100, "{} were answered", record.answered());
    // Nothing at all: no election, no entry, no change of any region.
    let statuses = settle::settle(&trial, &live.admins, quiet, |_| {});
    record.add(Client::new(&trial, CLIENTS).read_all(READING));
    settle::compare(&trial, &live.admins, &statuses);
    record.judge(&trial);
    cluster.check_logs();
}

/// Has a store emptied. Who asks may give up before that is done: it goes on.
fn drain(admin: SocketAddr, store: u64) {
    let begun = Instant::now();
    while let Err(said) = ctl(admin, &format!("drain {store}")) {
        println!("drain {store}: {said}");
        assert!(look_again(begun, LIMIT), "store {store} is not drained: {said}");
    }
}
