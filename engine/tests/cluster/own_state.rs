//! The own-state form: a machine per region that holds its data itself.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use multiraft::{ApplyContext, Consistency, Engine, OwnState, RegionDescriptor, SnapshotWrite, StoreId};

use crate::support::{Cluster, eventually};

/// Counts, by key.
#[derive(Default)]
struct Counters(BTreeMap<Vec<u8>, u64>);

impl OwnState for Counters {
    fn apply(&mut self, _: ApplyContext<'_>, command: &[u8]) -> Bytes {
        let count = self.0.entry(command.to_vec()).or_default();
        *count += 1;
        Bytes::from(count.to_string())
    }

    fn lookup(&self, _: &RegionDescriptor, query: &[u8]) -> Bytes {
        Bytes::from(self.0.get(query).copied().unwrap_or_default().to_string())
    }

    fn snapshot(&self) -> SnapshotWrite {
        let state = self.0.clone();
        Box::new(move |out| {
            for (key, count) in &state {
                writeln!(out, "{} {count}", String::from_utf8_lossy(key))?;
            }
            Ok(())
        })
    }

    fn restore(&mut self, snapshot: &mut dyn Read) -> io::Result<()> {
        let mut text = String::new();
        snapshot.read_to_string(&mut text)?;
        let parse = |line: &str| {
            let (key, count) = line.split_once(' ')?;
            Some((key.as_bytes().to_vec(), count.parse().ok()?))
        };
        let pairs: Option<BTreeMap<_, _>> = text.lines().map(parse).collect();
        self.0 = pairs.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(())
    }

    fn split_off(&mut self, key: &[u8]) -> Box<dyn OwnState> {
        Box::new(Self(self.0.split_off(key)))
    }

    fn absorb(&mut self, neighbour: Box<dyn OwnState>) {
        let neighbour = neighbour.as_any().downcast::<Self>().expect("all regions run the same machine");
        self.0.extend(neighbour.0);
    }

    fn as_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

async fn start(cluster: &Cluster, store: u64) -> Engine {
    let make = |_: &RegionDescriptor| -> Box<dyn OwnState> { Box::<Counters>::default() };
    cluster.builder(store).own_state(make).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_state_survives_restarts_and_catches_up_by_snapshot() {
    let mut cluster = Cluster::new(3, 1);
    cluster.config.compact_entries = 50;
    cluster.config.compact_keep_entries = 5;
    cluster.config.checkpoint_interval = Duration::from_millis(50);
    cluster.config.volatile_log_bytes = 1000;
    let mut engines = Vec::new();
    for store in 1..=3 {
        engines.push(start(&cluster, store).await);
    }
    let region = engines[0].region_for(b"key").unwrap().id;
    engines.remove(2).shutdown().await;
    let session = engines[0].session();
    for n in 0..300 {
        session.propose(region, format!("key{}", n % 10)).await.unwrap();
    }
    let first = &engines[0];
    eventually(Duration::from_secs(20), "the log is cut", || async {
        first.status().await.regions.iter().any(|status| status.first_index.get() > 100)
    })
    .await;
    engines.push(start(&cluster, 3).await);
    for engine in &engines {
        assert_eq!(engine.read(region, "key7", Consistency::Linearizable).await.unwrap(), "30");
    }
    drop(session);
    for engine in engines.drain(..) {
        engine.shutdown().await;
    }
    for store in 1..=3 {
        engines.push(start(&cluster, store).await);
    }
    for engine in &engines {
        assert_eq!(engine.read(region, "key7", Consistency::Linearizable).await.unwrap(), "30");
    }
    for engine in &engines {
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_state_is_cut_by_a_split_and_survives_restarts() {
    let cluster = Cluster::new(3, 1);
    let mut engines = Vec::new();
    for store in 1..=3 {
        engines.push(start(&cluster, store).await);
    }
    let region = engines[0].region_for(b"key").unwrap().id;
    for n in 0..40 {
        engines[0].propose(region, format!("key{n:03}")).await.unwrap();
    }
    let parts = engines[0].split(region, ["key010", "key020"]).await.unwrap();
    assert_eq!(parts.len(), 3);
    let count = async |engine: &Engine, n: usize| {
        let key = format!("key{n:03}");
        engine.read_key(&key, key.clone(), Consistency::Linearizable).await
    };
    for n in 0..40 {
        let key = format!("key{n:03}");
        assert_eq!(engines[n % 3].propose_key(&key, key.clone()).await.unwrap(), "2");
    }
    for engine in &engines {
        engine.shutdown().await;
    }
    let mut engines = Vec::new();
    for store in 1..=3 {
        engines.push(start(&cluster, store).await);
    }
    for n in 0..40 {
        assert_eq!(count(&engines[n % 3], n).await.unwrap(), "2");
    }
    for engine in &engines {
        engine.shutdown().await;
    }
}

/// Holds up whoever writes a snapshot out while it is shut.
#[derive(Default)]
struct Gate {
    /// Whether it is shut, and how many have come to it since.
    state: Mutex<(bool, usize)>,
    opened: Condvar,
}

impl Gate {
    fn shut(&self, is_shut: bool) {
        *self.state.lock().unwrap() = (is_shut, 0);
        self.opened.notify_all();
    }

    fn waiting(&self) -> usize {
        self.state.lock().unwrap().1
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        drop(self.opened.wait_while(state, |(is_shut, _)| *is_shut).unwrap());
    }
}

/// Counters whose snapshots take as long to be written as the gate is shut.
struct Gated(Counters, Arc<Gate>);

impl OwnState for Gated {
    fn apply(&mut self, context: ApplyContext<'_>, command: &[u8]) -> Bytes {
        self.0.apply(context, command)
    }

    fn lookup(&self, region: &RegionDescriptor, query: &[u8]) -> Bytes {
        self.0.lookup(region, query)
    }

    fn snapshot(&self) -> SnapshotWrite {
        let (write, gate) = (self.0.snapshot(), Arc::clone(&self.1));
        Box::new(move |out| {
            gate.pass();
            write(out)
        })
    }

    fn restore(&mut self, snapshot: &mut dyn Read) -> io::Result<()> {
        self.0.restore(snapshot)
    }

    fn split_off(&mut self, key: &[u8]) -> Box<dyn OwnState> {
        Box::new(Self(Counters(self.0.0.split_off(key)), Arc::clone(&self.1)))
    }

    fn absorb(&mut self, neighbour: Box<dyn OwnState>) {
        let neighbour = neighbour.as_any().downcast::<Self>().expect("all regions run the same machine");
        self.0.0.extend(neighbour.0.0);
    }

    fn as_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_while_a_snapshot_is_written_out_for_a_follower() {
    let mut cluster = Cluster::new(3, 1);
    cluster.config.compact_entries = 50;
    cluster.config.compact_keep_entries = 5;
    cluster.config.checkpoint_interval = Duration::from_millis(50);
    cluster.config.volatile_log_bytes = 1000;
    let gate = Arc::new(Gate::default());
    let start = async |store| {
        let gate = Arc::clone(&gate);
        let make = move |_: &RegionDescriptor| -> Box<dyn OwnState> {
            Box::new(Gated(Counters::default(), Arc::clone(&gate)))
        };
        cluster.builder(store).own_state(make).start().await.unwrap()
    };
    let mut engines = vec![start(1).await, start(2).await, start(3).await];
    let region = engines[0].region_for(b"key").unwrap().id;
    engines.remove(2).shutdown().await;
    let session = engines[0].session();
    for n in 0..300 {
        session.propose(region, format!("key{}", n % 10)).await.unwrap();
    }
    for engine in &engines {
        eventually(Duration::from_secs(20), "the log is cut", || async {
            engine.status().await.regions.iter().any(|status| status.first_index.get() > 100)
        })
        .await;
    }
    gate.shut(true);
    engines.push(start(3).await);
    eventually(Duration::from_secs(20), "a snapshot waits at the gate", || async { gate.waiting() > 0 }).await;
    for n in 0..100 {
        session.propose(region, format!("key{}", n % 10)).await.unwrap();
    }
    assert_eq!(engines[2].status().await.counters.snapshots_installed, 0);
    gate.shut(false);
    // What was written meanwhile comes by the log, which was held for that.
    eventually(Duration::from_secs(20), "the third store has it all", || async {
        engines[2].read(region, "key7", Consistency::Local).await.unwrap() == "40"
    })
    .await;
    for engine in &engines {
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_state_is_recovered_after_a_lost_quorum() {
    use multiraft::recovery::{ApplyOptions, PlanOptions, make_plan};

    let cluster = Cluster::new(3, 1);
    let mut engines = Vec::new();
    for store in 1..=3 {
        engines.push(start(&cluster, store).await);
    }
    let region = engines[0].region_for(b"key").unwrap().id;
    let session = engines[0].session();
    for n in 0..60 {
        session.propose(region, format!("key{}", n % 10)).await.unwrap();
    }
    let parts = engines[0].split(region, ["key5"]).await.unwrap();
    for n in 0..10 {
        engines[0].propose_key(format!("key{n}"), format!("key{n}")).await.unwrap();
    }
    let first = &engines[0];
    eventually(Duration::from_secs(20), "store 1 has it all", || async {
        let count = |key: &'static str| first.read_key(key, key, Consistency::Local);
        matches!((count("key4").await, count("key9").await), (Ok(four), Ok(nine)) if four == "7" && nine == "7")
    })
    .await;
    drop(session);
    for engine in engines {
        engine.shutdown().await;
    }

    let make = |_: &RegionDescriptor| -> Box<dyn OwnState> { Box::<Counters>::default() };
    let recovery = || cluster.builder(1).own_state(make).recovery().unwrap();
    let collected = recovery();
    let survey = tokio::task::spawn_blocking(|| collected.survey()).await.unwrap().unwrap();
    let plan = make_plan(&[survey], &[StoreId(2), StoreId(3)], &PlanOptions::default()).unwrap();
    let (carried_out, options) = (recovery(), ApplyOptions::confirm(plan.id()));
    let applied = tokio::task::spawn_blocking(move || carried_out.apply(&plan, &options)).await.unwrap().unwrap();
    assert_eq!(applied.kept.len(), 3);

    let mut survivor = start(&cluster, 1).await;
    for round in 0..2 {
        for n in 0..10 {
            let key = format!("key{n}");
            let count = survivor.read_key(key.clone(), key, Consistency::Linearizable).await.unwrap();
            assert_eq!(count, "7", "round {round}, key{n}");
        }
        assert_eq!(survivor.regions().len(), parts.len());
        survivor.shutdown().await;
        survivor = start(&cluster, 1).await;
    }
    survivor.propose_key("key1", "key1").await.unwrap();
    survivor.shutdown().await;
}
