//! Sessions that callers hold: the same command again through another store, after a restart, a split, a merge.

use std::time::Duration;

use bytes::Bytes;
use multiraft::{
    ApplyContext, Consistency, Engine, ProposeError, RegionView, SessionToken, StateError, StateMachine, StateTxn,
};

use crate::support::{Cluster, eventually};

const LIMIT: Duration = Duration::from_secs(30);

/// Appends `value` to `key` for the command `key value`, and answers the whole of it: who repeats an append is told so by the
/// answer.
struct Appender;

impl StateMachine for Appender {
    fn apply(&self, _: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let (key, suffix) = command.split_at(command.iter().position(|byte| *byte == b' ').unwrap());
        let mut value = state.get(key)?.unwrap_or_default().to_vec();
        value.extend_from_slice(&suffix[1..]);
        let written = state.put(key, value.clone());
        Ok(written.map_or_else(|outside| outside.to_string().into(), |()| value.into()))
    }

    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError> {
        Ok(view.get(query)?.unwrap_or_default())
    }
}

async fn start(cluster: &Cluster, store: u64) -> Engine {
    cluster.builder(store).state_machine(Appender).start().await.unwrap()
}

async fn start_all(cluster: &Cluster) -> Vec<Engine> {
    let mut engines = Vec::new();
    for store in cluster.stores() {
        engines.push(start(cluster, store.0).await);
    }
    engines
}

async fn stop(engines: Vec<Engine>) {
    for engine in &engines {
        engine.shutdown().await;
    }
}

async fn read(engine: &Engine, key: &'static str) -> Bytes {
    engine.read_key(key, key, Consistency::Linearizable).await.unwrap()
}

/// Appends under a number.
async fn append(
    engine: &Engine,
    token: &SessionToken,
    (sequence, acknowledged): (u64, u64),
    key: &str,
    value: &str,
) -> Result<Bytes, ProposeError> {
    engine.propose_once(token, sequence, acknowledged, key, format!("{key} {value}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_repeated_through_other_stores_and_after_a_restart_and_takes_effect_once() {
    let cluster = Cluster::new(3, 1);
    let mut engines = start_all(&cluster).await;
    let token = engines[0].open_session("key").await.unwrap();
    assert_eq!(append(&engines[0], &token, (1, 0), "key", "a").await.unwrap(), "a");
    assert_eq!(append(&engines[0], &token, (2, 0), "key", "b").await.unwrap(), "ab");
    // As another process has it, from a file.
    let token: SessionToken = token.to_string().parse().unwrap();
    engines.remove(0).shutdown().await;
    engines.insert(0, start(&cluster, 1).await);
    for engine in &engines {
        assert_eq!(append(engine, &token, (1, 0), "key", "a").await.unwrap(), "a");
        assert_eq!(append(engine, &token, (2, 0), "key", "b").await.unwrap(), "ab");
    }
    assert_eq!(read(&engines[2], "key").await, "ab");
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_attempts_that_overtake_each_other_take_effect_once() {
    let cluster = Cluster::new(3, 1);
    let engines = start_all(&cluster).await;
    let token = engines[0].open_session("key").await.unwrap();
    let mut expected = String::new();
    for sequence in 1..=30 {
        expected.push_str(&format!("{sequence},"));
        let value = format!("{sequence},");
        let attempt = |at: usize| append(&engines[at], &token, (sequence, sequence - 1), "key", &value);
        let (one, two, three) = tokio::join!(attempt(0), attempt(1), attempt(2));
        for reply in [one, two, three] {
            assert_eq!(reply.unwrap(), expected);
        }
    }
    assert_eq!(read(&engines[1], "key").await, expected);
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_known_on_both_sides_of_a_split_and_after_a_merge() {
    let cluster = Cluster::new(3, 1);
    let engines = start_all(&cluster).await;
    let token = engines[0].open_session("key100").await.unwrap();
    let (left, right) = ("key100", "key800");
    assert_eq!(append(&engines[0], &token, (1, 0), left, "a").await.unwrap(), "a");
    assert_eq!(append(&engines[0], &token, (2, 0), right, "b").await.unwrap(), "b");
    let region = engines[0].region_for(b"key").unwrap().id;
    let parts = engines[0].split(region, ["key500"]).await.unwrap();
    for engine in &engines {
        assert_eq!(append(engine, &token, (1, 0), left, "a").await.unwrap(), "a");
        assert_eq!(append(engine, &token, (2, 0), right, "b").await.unwrap(), "b");
    }
    // New ones on both sides, of which each side knows its own.
    assert_eq!(append(&engines[1], &token, (3, 0), right, "c").await.unwrap(), "bc");
    assert_eq!(append(&engines[1], &token, (4, 1), left, "d").await.unwrap(), "ad");
    let merged = || async { engines[0].merge(parts[0].id, parts[1].id).await.is_ok() };
    eventually(LIMIT, "the parts merge", merged).await;
    for engine in &engines {
        assert_eq!(append(engine, &token, (2, 0), right, "b").await.unwrap(), "b");
        assert_eq!(append(engine, &token, (3, 0), right, "c").await.unwrap(), "bc");
        assert_eq!(append(engine, &token, (4, 1), left, "d").await.unwrap(), "ad");
        // What was acknowledged on the left is so for what has become of both.
        let acknowledged = append(engine, &token, (1, 0), left, "a").await;
        assert!(matches!(acknowledged, Err(ProposeError::SessionExpired { .. })), "{acknowledged:?}");
    }
    assert_eq!((read(&engines[2], left).await, read(&engines[2], right).await), ("ad".into(), "bc".into()));
    assert_eq!(append(&engines[2], &token, (5, 4), right, "e").await.unwrap(), "bce");
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_split_and_merge_under_repeated_commands() {
    let cluster = Cluster::new(3, 1);
    let engines = start_all(&cluster).await;
    let token = engines[0].open_session("key").await.unwrap();
    let keys = ["key100", "key800"];
    let changes = tokio::spawn({
        let engine = engines[2].clone();
        async move {
            for _ in 0..4 {
                let region = engine.region_for(b"key100").unwrap();
                if let Ok(parts) = engine.split(region.id, ["key500"]).await {
                    let merged = || async { engine.merge(parts[1].id, parts[0].id).await.is_ok() };
                    eventually(LIMIT, "the parts merge", merged).await;
                }
            }
        }
    });
    let mut rounds = 0;
    while rounds < 40 || !changes.is_finished() {
        for (at, key) in keys.into_iter().enumerate() {
            let (sequence, value) = (1 + 2 * rounds + at as u64, format!("{rounds},"));
            let expected: String = (0..=rounds).map(|round| format!("{round},")).collect();
            for engine in &engines[..2] {
                // What one key's caller has been told acknowledges nothing of the other's that is still asked for.
                let numbers = (sequence, (2 * rounds).saturating_sub(2));
                assert_eq!(append(engine, &token, numbers, key, &value).await.unwrap(), expected);
            }
        }
        rounds += 1;
    }
    changes.await.unwrap();
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_never_opened_the_session_and_an_acknowledged_number_carry_nothing_out() {
    let cluster = Cluster::new(3, 2);
    let engines = start_all(&cluster).await;
    let token = engines[0].open_session("key100").await.unwrap();
    let elsewhere = engines[1].region_for(b"key900").unwrap().id;
    assert_ne!(elsewhere, engines[1].region_for(b"key100").unwrap().id);
    let expired = append(&engines[1], &token, (1, 0), "key900", "x").await;
    assert_eq!(expired, Err(ProposeError::SessionExpired { region: elsewhere }));
    assert_eq!(read(&engines[2], "key900").await, "");
    for sequence in 1..=3 {
        append(&engines[0], &token, (sequence, 0), "key100", "y").await.unwrap();
    }
    append(&engines[0], &token, (4, 2), "key100", "z").await.unwrap();
    // A late repetition says less of what is acknowledged, and takes nothing back.
    assert_eq!(append(&engines[1], &token, (3, 0), "key100", "y").await.unwrap(), "yyy");
    for sequence in 1..=2 {
        let late = append(&engines[1], &token, (sequence, 0), "key100", "y").await;
        assert!(matches!(late, Err(ProposeError::SessionExpired { .. })), "{late:?}");
    }
    for numbers in [(0, 0), (5, 5), (5, 6)] {
        let refused = append(&engines[0], &token, numbers, "key100", "x").await;
        assert!(matches!(refused, Err(ProposeError::Refused { .. })), "{refused:?}");
    }
    assert_eq!(read(&engines[2], "key100").await, "yyyz");
    let other = engines[2].open_session("key900").await.unwrap();
    assert_eq!(append(&engines[0], &other, (1, 0), "key900", "x").await.unwrap(), "x");
    stop(engines).await;
}
