//! One region that is split, looked at, moved, checked and merged back, while it holds data; and what a watcher sees of that.
#![allow(clippy::print_stdout, reason = "a program that shows something")]

use bytes::Bytes;
use multiraft::{
    ApplyContext, Change, CheckOutcome, Engine, Event, KeyRange, RegionView, StateError, StateKind, StateMachine,
    StateTxn, StoreId,
};
use multiraft_examples::cluster::{Cluster, Failure};
use multiraft_examples::wire::{Reader, Writer};

const STATIONS: [&str; 6] = ["aarau", "basel", "chur", "davos", "egg", "flims"];
/// How many pairs one step of a walk asks for at most.
const PAGE: usize = 2;

/// How many trains have left each station.
struct Departures;

impl StateMachine for Departures {
    /// A command is a station.
    fn apply(&self, _: ApplyContext<'_>, station: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let count = state.get(station)?.and_then(|count| Reader::new(&count).number()).unwrap_or(0) + 1;
        let count = Writer::default().number(count).finish();
        // A station of another region changes nothing: commands are sent to the owner of their key.
        Ok(state.put(station, count.clone()).map_or_else(|_| Bytes::new(), |()| count))
    }

    /// A query is a range; the answer is its first pairs.
    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError> {
        let mut range = Reader::new(query);
        let (Some(start), Some(end)) = (range.bytes(), range.bytes()) else { return Ok(Bytes::new()) };
        let pairs = view.scan(start, end, PAGE)?;
        let page = pairs.iter().fold(Writer::default(), |page, (station, count)| page.bytes(station).bytes(count));
        Ok(page.finish())
    }
}

/// All stations and their counts, in order, whatever regions there are and become meanwhile.
async fn table(engine: &Engine) -> Result<String, Failure> {
    let mut counts = Vec::new();
    let mut walk = engine.scan(KeyRange::full());
    while let Some(part) = walk.next(|range| Writer::default().bytes(&range.start).bytes(&range.end).finish()).await? {
        let (mut page, mut pairs) = (Reader::new(&part.answer), Vec::new());
        pairs.extend(std::iter::from_fn(|| page.bytes().zip(page.bytes())));
        for (station, count) in &pairs {
            let count = Reader::new(count).number().ok_or("a count that is none")?;
            counts.push(format!("{} {count}", String::from_utf8_lossy(station)));
        }
        // A full page: the region may hold more of the range.
        if let Some((last, _)) = pairs.get(PAGE - 1) {
            walk.resume_after(last);
        }
    }
    Ok(counts.join(", "))
}

async fn depart(engine: &Engine) -> Result<(), Failure> {
    let session = engine.session();
    for station in STATIONS {
        // Exactly once, wherever the key lives by now.
        session.propose_key(station, station).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut cluster =
        Cluster::start([], |builder, _| builder.state_machine(Departures).state(StateKind::Memory)).await?;
    let engine = cluster.engine(1).clone();
    let mut watch = engine.events();
    depart(&engine).await?;

    let whole = engine.locate("chur", None).await.ok_or("nobody owns the key")?;
    let parts = engine.split(whole.id, ["chur", "egg"]).await?;
    println!("one region became {}", parts.len());
    depart(cluster.engine(2)).await?;
    println!("across all of them: {}", table(cluster.engine(3)).await?);

    engine.transfer_leader(parts[1].id, StoreId(2)).await?;
    let smaller = engine.change_replicas(parts[1].id, [Change::remove(StoreId(3))]).await?;
    println!("the middle one is on {} stores", smaller.replicas.len());
    let restored = engine.change_replicas(parts[1].id, [Change::add_voter(StoreId(3))]).await?;
    println!("and on {} again", restored.replicas.len());
    let report = engine.check(parts[1].id).await?;
    let same = report.replicas.iter().filter(|replica| replica.outcome == CheckOutcome::Same).count();
    println!("{same} of its replicas have the same state at entry {}", report.index);

    engine.merge(parts[1].id, parts[0].id).await?;
    let last = engine.merge(parts[2].id, parts[0].id).await?;
    depart(cluster.engine(3)).await?;
    println!("merged back, {} to {} owned by one: {}", STATIONS[0], STATIONS[5], table(&engine).await?);

    let (mut splits, mut merges) = (0, 0);
    while merges < 2 {
        match watch.next().await.ok_or("the watch ended")? {
            Event::RegionSplit { parts } => splits += parts.len() - 1,
            Event::RegionsMerged { region, .. } if region.id == last.id => merges += 1,
            _ => {}
        }
    }
    println!("store 1 saw {splits} regions come and {merges} go");
    cluster.stop().await;
    Ok(())
}
