//! What a run asks a store about itself, in the form that `multiraft serve` has for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::{
    Change, CheckOutcome, Consistency, Engine, Floor, RegionDescriptor, RegionError, RegionId, Role, StoreId,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::hex::{hex, unhex};
use super::machine::{Answer, Done, Op, Query, bytes};
use super::reply::of_answer;

/// The most bytes of a request's body.
const BODY_MAX: usize = 1 << 16;

pub(super) async fn serve(engine: Engine, listener: TcpListener) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let engine = engine.clone();
        // One that breaks off has nobody to be told.
        tokio::spawn(async move { talk(&engine, socket).await });
    }
}

async fn talk(engine: &Engine, socket: TcpStream) -> Option<()> {
    let (input, mut output) = socket.into_split();
    let mut input = BufReader::new(input);
    let (mut first, mut length) = (String::new(), 0);
    input.read_line(&mut first).await.ok()?;
    loop {
        let mut line = String::new();
        input.read_line(&mut line).await.ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        length = line.strip_prefix("content-length:").and_then(|text| text.trim().parse().ok()).unwrap_or(length);
    }
    let mut body = vec![0; length.min(BODY_MAX)];
    input.read_exact(&mut body).await.ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (code, text) = match answer(engine, (method, target), &body).await {
        Some(Ok(answer)) => (200, answer),
        Some(Err(why)) => (503, format!("{why}\n")),
        None => (404, "there is nothing of that name\n".to_owned()),
    };
    let head = format!("HTTP/1.1 {code} -\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
    output.write_all(head.as_bytes()).await.ok()?;
    output.write_all(text.as_bytes()).await.ok()
}

/// What is answered, or why it cannot be done; none to what nobody asks.
async fn answer(engine: &Engine, (method, target): (&str, &str), body: &[u8]) -> Option<Result<String, String>> {
    let (path, parameters) = target.split_once('?').unwrap_or((target, ""));
    let parameter = |name: &str| -> Result<u64, String> {
        let found = parameters.split('&').filter_map(|part| part.split_once('=')).find(|(key, _)| *key == name);
        found.and_then(|(_, value)| value.parse().ok()).ok_or_else(|| format!("there is no number `{name}`"))
    };
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    let told = match (method, path) {
        ("GET", "/status") => Ok(status(engine).await),
        ("GET", "/regions") => regions(engine).await,
        ("GET", "/metrics") => {
            let installed = engine.status().await.counters.snapshots_installed;
            return Some(Ok(format!("snapshots_installed_total {installed}\n")));
        }
        ("GET", "/region") => match parameter("id") {
            Ok(id) => told(engine, engine.describe_region(RegionId(id)).await.map(|region| vec![region])),
            Err(why) => Err(why),
        },
        ("POST", "/check") => check(engine, &asked).await,
        ("POST", "/local") => local(engine, &asked).await,
        ("POST", "/split" | "/merge" | "/replicas" | "/repair") => change(engine, path, &asked).await,
        ("POST", "/transfer") => match (parameter("region"), parameter("store")) {
            (Ok(region), Ok(store)) => {
                let moved = engine.transfer_leader(RegionId(region), StoreId(store)).await;
                return Some(moved.map(|()| "done\n".to_owned()).map_err(|error| error.to_string()));
            }
            (Err(why), _) | (_, Err(why)) => Err(why),
        },
        _ => return None,
    };
    Some(told.map(|value| value.to_string()))
}

async fn change(engine: &Engine, path: &str, asked: &Value) -> Result<Value, String> {
    let number = |of: &Value, name: &str| of[name].as_u64().ok_or_else(|| format!("there is no number `{name}`"));
    let region = |name: &str| number(asked, name).map(RegionId);
    match path {
        "/split" => {
            let keys = asked["keys"].as_array().into_iter().flatten();
            let keys: Option<Vec<Bytes>> = keys.map(|key| unhex(key.as_str()?)).collect();
            told(engine, engine.split(region("region")?, keys.ok_or("keys are hexadecimal digits")?).await)
        }
        "/merge" => {
            let merged = engine.merge(region("source")?, region("into")?).await;
            told(engine, merged.map(|region| vec![region]))
        }
        "/repair" => {
            let repaired = engine.repair_replica(region("region")?, StoreId(number(asked, "store")?)).await;
            told(engine, repaired.map(|region| vec![region]))
        }
        _ => {
            let mut changes = Vec::new();
            for change in asked["changes"].as_array().into_iter().flatten() {
                let store = StoreId(number(change, "store")?);
                changes.push(match change["change"].as_str() {
                    Some("add-voter") => Change::add_voter(store),
                    Some("add-learner") => Change::add_learner(store),
                    Some("add-witness") => Change::add_witness(store),
                    Some("promote") => Change::promote(store),
                    Some("demote") => Change::demote(store),
                    Some("remove") => Change::remove(store),
                    _ => return Err(format!("there is no such change: {change}")),
                });
            }
            let changed = engine.change_replicas(region("region")?, changes).await;
            told(engine, changed.map(|region| vec![region]))
        }
    }
}

/// Regions that have come of a change.
fn told(engine: &Engine, regions: Result<Vec<Arc<RegionDescriptor>>, RegionError>) -> Result<Value, String> {
    let regions = regions.map_err(|error| error.to_string())?;
    let regions: Vec<Value> = regions.iter().map(|region| described(region)).collect();
    Ok(json!({ "store": engine.store().get(), "regions": regions }))
}

async fn status(engine: &Engine) -> Value {
    let status = engine.status().await;
    let regions = status.regions.iter().map(|region| {
        let mut told = described(&region.descriptor);
        told["leader"] = json!(region.leader.map(multiraft::StoreId::get));
        told["is_leader"] = json!(region.is_leader);
        told["term"] = json!(region.term.get());
        told["commit"] = json!(region.commit.get());
        told["applied"] = json!(region.applied.get());
        told["last_index"] = json!(region.last_index.get());
        told
    });
    let regions: Vec<Value> = regions.collect();
    let damaged: Vec<Value> =
        status.damaged.iter().map(|(region, reason)| json!({"region": region.get(), "reason": reason})).collect();
    let floor = match status.floor {
        Floor::Above(last) => Some(last.get()),
        Floor::Whole | Floor::Unknown => None,
    };
    json!({
        "store": status.store.get(),
        "regions": regions,
        "damaged": damaged,
        "lacks_promises": status.lacks_promises,
        "rejoining": status.floor == Floor::Unknown,
        "floor": floor,
    })
}

/// The root, and the regions from the first key to the end.
async fn regions(engine: &Engine) -> Result<Value, String> {
    let mut found = Vec::new();
    found.extend(engine.describe_region(RegionId::ROOT).await.ok().map(|root| described(&root)));
    let mut key = Bytes::new();
    loop {
        let hint = engine.locate(&key, None).await.ok_or("nobody tells in time who owns a key: try again")?;
        let region = engine.describe_region(hint.id).await.unwrap_or(hint);
        if !region.owns(&key) {
            return Err("the regions are changing: try again".to_owned());
        }
        found.push(described(&region));
        if region.range.end.is_empty() {
            return Ok(json!({ "store": engine.store().get(), "regions": found }));
        }
        key.clone_from(&region.range.end);
    }
}

fn described(region: &RegionDescriptor) -> Value {
    let replicas: Vec<Value> = region
        .replicas
        .iter()
        .map(|replica| {
            let role = match replica.role {
                Role::Voter => "voter",
                Role::Learner => "learner",
                Role::Witness => "witness",
                Role::IncomingVoter => "incoming-voter",
                Role::OutgoingVoter => "outgoing-voter",
                Role::DemotingVoter => "demoting-voter",
            };
            json!({ "id": replica.id.get(), "store": replica.store.get(), "role": role })
        })
        .collect();
    json!({
        "id": region.id.get(),
        "start": hex(&region.range.start),
        "end": hex(&region.range.end),
        "conf_version": region.epoch.conf_version,
        "version": region.epoch.version,
        "replicas": replicas,
        "leader": null,
        "applied": null,
    })
}

async fn check(engine: &Engine, asked: &Value) -> Result<Value, String> {
    let region = asked["region"].as_u64().ok_or("a check is of a region")?;
    let report = engine.check(RegionId(region)).await.map_err(|error| error.to_string())?;
    let replicas: Vec<Value> = report
        .replicas
        .iter()
        .map(|replica| {
            let outcome = match replica.outcome {
                CheckOutcome::Same => "same",
                CheckOutcome::Different => "different",
                _ => "no-answer",
            };
            let (id, store) = (replica.replica.get(), replica.store.get());
            json!({ "id": id, "store": store, "outcome": outcome, "fenced": replica.fenced, "digest": null })
        })
        .collect();
    Ok(json!({
        "region": region,
        "index": report.index.get(),
        "consistent": report.is_consistent(),
        "expected": null,
        "replicas": replicas,
    }))
}

/// What this store's replicas hold under keys: whatever they have applied, or what was so no longer ago than is said.
async fn local(engine: &Engine, asked: &Value) -> Result<Value, String> {
    let staleness = asked["staleness_ms"].as_u64().map(Duration::from_millis);
    let consistency = staleness.map_or(Consistency::Local, Consistency::Bounded);
    let mut values = Vec::new();
    for key in asked["keys"].as_array().into_iter().flatten() {
        let key = key.as_str().and_then(unhex).and_then(|key| String::from_utf8(key.to_vec()).ok());
        let key = key.ok_or("keys are texts in hexadecimal digits")?;
        let query = bytes(&Query::Ops(vec![Op::Get(key.clone())]));
        let answer = engine.read_key(&key, query, consistency).await.map_err(|error| error.to_string())?;
        let Answer::Done(done) = of_answer(&answer)? else { return Err("an answer makes no sense".to_owned()) };
        let [Done::Value(value)] = &done[..] else { return Err("an answer makes no sense".to_owned()) };
        values.push(value.as_ref().map(|value| hex(value.as_bytes())));
    }
    Ok(json!({ "values": values }))
}

#[cfg(test)]
mod tests {
    use multiraft_torture::cluster::Status;

    use super::super::lone_store;
    use super::*;

    async fn post(engine: &Engine, body: Value) -> Result<Value, String> {
        let text = answer(engine, ("POST", "/local"), body.to_string().as_bytes()).await.unwrap()?;
        Ok(serde_json::from_str(&text).unwrap())
    }

    #[tokio::test]
    async fn a_store_tells_of_itself_all_that_a_run_asks() {
        let (_dir, engine) = lone_store::start(&["m"]).await;
        let text = answer(&engine, ("GET", "/status"), b"").await.unwrap().unwrap();
        let told: Status = serde_json::from_str(&text).unwrap();
        assert_eq!((told.store, told.regions.len(), told.lacks_promises), (1, 3, false));
    }

    #[tokio::test]
    async fn what_replicas_hold_is_told_with_a_bound_on_age_and_without() {
        let (_dir, engine) = lone_store::start(&["m"]).await;
        for key in ["a", "z"] {
            let set = Op::Append(key.to_owned(), "12".to_owned());
            engine.propose_key(key, bytes(&vec![set])).await.unwrap();
        }
        for bound in [json!(null), json!(0), json!(1_000)] {
            let asked = json!({ "keys": [hex(b"a"), hex(b"b"), hex(b"z")], "staleness_ms": bound });
            assert_eq!(post(&engine, asked).await, Ok(json!({ "values": ["3132", null, "3132"] })));
        }
        assert!(post(&engine, json!({ "keys": ["0"] })).await.is_err());
        engine.shutdown().await;
        let stopped = post(&engine, json!({ "keys": [hex(b"a")], "staleness_ms": 0 })).await;
        assert!(stopped.is_err(), "{stopped:?}");
    }
}
