//! Consistency checks of machines that hold their state themselves.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use multiraft::{ApplyContext, CheckOutcome, CheckReport, Engine, OwnState, RegionDescriptor, SnapshotWrite, StoreId};

use crate::support::{Cluster, eventually};

const LIMIT: Duration = Duration::from_secs(60);

/// Counts, by key; perhaps without those that begin with `lost`, perhaps without a digest.
#[derive(Clone, Default)]
struct Counters {
    counts: BTreeMap<Vec<u8>, u64>,
    forgets: bool,
    has_digest: bool,
}

impl OwnState for Counters {
    fn apply(&mut self, _: ApplyContext<'_>, command: &[u8]) -> Bytes {
        if !self.forgets || !command.starts_with(b"lost") {
            *self.counts.entry(command.to_vec()).or_default() += 1;
        }
        Bytes::from_static(b"counted")
    }

    fn lookup(&self, _: &RegionDescriptor, query: &[u8]) -> Bytes {
        Bytes::from(self.counts.get(query).copied().unwrap_or_default().to_string())
    }

    fn snapshot(&self) -> SnapshotWrite {
        let counts = self.counts.clone();
        Box::new(move |out| {
            let line = |(key, count): (&Vec<u8>, &u64)| writeln!(out, "{} {count}", String::from_utf8_lossy(key));
            counts.iter().try_for_each(line)
        })
    }

    fn digest(&self) -> Option<SnapshotWrite> {
        self.has_digest.then(|| self.snapshot())
    }

    fn restore(&mut self, snapshot: &mut dyn Read) -> io::Result<()> {
        let mut text = String::new();
        snapshot.read_to_string(&mut text)?;
        let parse = |line: &str| {
            let (key, count) = line.split_once(' ')?;
            Some((key.as_bytes().to_vec(), count.parse().ok()?))
        };
        let counts: Option<BTreeMap<_, _>> = text.lines().map(parse).collect();
        self.counts = counts.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(())
    }

    fn split_off(&mut self, key: &[u8]) -> Box<dyn OwnState> {
        Box::new(Self { counts: self.counts.split_off(key), ..*self })
    }

    fn absorb(&mut self, neighbour: Box<dyn OwnState>) {
        let neighbour = neighbour.as_any().downcast::<Self>().expect("all regions run the same machine");
        self.counts.extend(neighbour.counts);
    }

    fn as_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

async fn start_all(cluster: &Cluster, forgetful: u64, has_digest: bool) -> Vec<Engine> {
    let mut engines = Vec::new();
    for store in 1..=3 {
        let machine = Counters { forgets: store == forgetful, has_digest, ..Counters::default() };
        let make = move |_: &RegionDescriptor| -> Box<dyn OwnState> { Box::new(machine.clone()) };
        engines.push(cluster.builder(store).own_state(make).start().await.unwrap());
    }
    engines
}

fn outcomes(report: &CheckReport) -> Vec<CheckOutcome> {
    report.replicas.iter().map(|replica| replica.outcome).collect()
}

async fn stop(engines: Vec<Engine>) {
    for engine in &engines {
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_without_a_digest_says_so_and_nobody_is_judged() {
    let cluster = Cluster::new(3, 1);
    let engines = start_all(&cluster, 2, false).await;
    let region = engines[0].region_for(b"key").unwrap().id;
    engines[0].propose(region, "lost").await.unwrap();
    let report = engines[1].check(region).await.unwrap();
    assert_eq!(outcomes(&report), [CheckOutcome::NotSupported; 3]);
    assert!(report.is_consistent() && report.expected.is_none());
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_are_compared_by_their_digests_through_splits_merges_and_restarts() {
    use CheckOutcome::{Different, Same};
    let cluster = Cluster::new(3, 1);
    let engines = start_all(&cluster, 2, true).await;
    let region = engines[0].region_for(b"key").unwrap().id;
    let session = engines[0].session();
    for n in 0..30 {
        session.propose(region, format!("key{:03}", n % 20)).await.unwrap();
    }
    let parts = engines[0].split(region, ["key010"]).await.unwrap();
    assert_eq!(outcomes(&engines[2].check(parts[1].id).await.unwrap()), [Same; 3]);
    engines[1].merge(parts[1].id, parts[0].id).await.unwrap();
    assert_eq!(outcomes(&engines[2].check(region).await.unwrap()), [Same; 3]);
    drop(session);
    stop(engines).await;
    let engines = start_all(&cluster, 2, true).await;
    assert_eq!(outcomes(&engines[1].check(region).await.unwrap()), [Same; 3]);

    engines[0].propose(region, "lost").await.unwrap();
    let report = engines[0].check(region).await.unwrap();
    assert_eq!(outcomes(&report), [Same, Different, Same]);
    assert!(report.replicas[1].fenced);
    stop(engines).await;
    let engines = start_all(&cluster, 0, true).await;
    assert_eq!(engines[1].status().await.damaged.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [region]);
    engines[2].repair_replica(region, StoreId(2)).await.unwrap();
    eventually(LIMIT, "all are the same again", || async {
        let report = engines[0].check(region).await.unwrap();
        assert!(report.is_consistent(), "{report:?}");
        report.replicas.iter().all(|replica| replica.outcome == Same && !replica.fenced)
    })
    .await;
    stop(engines).await;
}
