//! `multiraft ctl check` against real stores: equal replicas pass; one whose state was changed by another program is found, fenced
//! and replaced.

use std::process::Output;
use std::time::{Duration, Instant};

use bytes::Bytes;
use multiraft::{
    ApplyContext, ClusterId, Engine, RegionId, RegionView, StateError, StateMachine, StateTxn, StoreId, Tls,
};
use serde_json::Value;

use crate::harness::{Cluster, failure, http, run};

const CLUSTER: &str = "00000000000000000000000000000077";
const LIMIT: Duration = Duration::from_secs(60);

/// A machine that carries nothing out.
struct Idle;

impl StateMachine for Idle {
    fn apply(&self, _: ApplyContext<'_>, _: &[u8], _: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        Ok(Bytes::new())
    }

    fn lookup(&self, _: &RegionView<'_>, _: &[u8]) -> Result<Bytes, StateError> {
        Ok(Bytes::new())
    }
}

/// The object in the last line.
fn object(output: &Output) -> Value {
    serde_json::from_slice(output.stdout.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap()).unwrap()
}

/// Each replica's store and outcome, and whether it is fenced, of the first check in an answer.
fn outcomes(told: &Value) -> Vec<(u64, String, bool)> {
    let replicas = told["checks"][0]["replicas"].as_array().unwrap().iter();
    let mut all: Vec<_> = replicas
        .map(|replica| {
            let outcome = replica["outcome"].as_str().unwrap().to_owned();
            (replica["store"].as_u64().unwrap(), outcome, replica["fenced"].as_bool().unwrap())
        })
        .collect();
    all.sort();
    all
}

fn all_same(told: &Value) -> bool {
    outcomes(told).iter().all(|(_, outcome, fenced)| outcome == "same" && !fenced)
}

/// Runs the second store of a cluster with a machine that carries nothing out, while `write` is done.
fn run_idle_second(cluster: &Cluster, write: impl FnOnce()) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tls = Tls::from_pem_files(cluster.cert("ca.pem"), cluster.cert("store-2.pem"), cluster.cert("store-2-key.pem"));
    let mut builder = Engine::builder()
        .cluster(ClusterId(u128::from_str_radix(CLUSTER, 16).unwrap()))
        .store(StoreId(2))
        .data_dir(cluster.data_dir(1))
        .listen(cluster.stores[1].listen)
        .tls(tls.unwrap())
        .state_machine(Idle);
    for peer in [&cluster.stores[0], &cluster.stores[2]] {
        builder = builder.peer(StoreId(peer.id), peer.listen);
    }
    let engine = runtime.block_on(builder.start()).unwrap();
    let applied = || {
        let status = runtime.block_on(engine.status());
        status.regions.iter().find(|region| region.descriptor.id == RegionId(2)).unwrap().applied.get()
    };
    write();
    // One of the two others leads, and has applied what it has acknowledged.
    let told = [0, 2].map(|at| object(&cluster.ctl(at, "region 2"))["region"]["applied"].as_u64().unwrap());
    let (begun, wanted) = (Instant::now(), told.into_iter().max().unwrap());
    while applied() < wanted {
        assert!(begun.elapsed() < LIMIT, "the second store does not catch up");
    }
    runtime.block_on(engine.shutdown());
}

#[test]
fn a_replica_that_differs_is_found_fenced_and_replaced() {
    let mut cluster = Cluster::start(&["--bootstrap-regions", "1", "--cluster", CLUSTER]);
    let mut client = cluster.client(0);
    assert_eq!(client.ask("SET before 1"), "+OK|");
    let whole = cluster.ctl(1, "check --all");
    assert!(whole.status.success());
    assert_eq!(object(&whole)["checks"].as_array().unwrap().len(), 2, "the root region, too");

    cluster.signal(1, "-TERM");
    assert_eq!(cluster.wait_end(1), Some(0));
    run_idle_second(&cluster, || {
        assert_eq!(client.ask("SET while-idle 1"), "+OK|");
    });
    cluster.spawn(1);
    cluster.wait_ready(1);
    // Until the store is linked again its replica does not answer, and is not judged.
    let begun = Instant::now();
    let found = loop {
        let found = cluster.ctl(2, "check 2");
        if !found.status.success() {
            break found;
        }
        assert!(outcomes(&object(&found)).contains(&(2, "no-answer".to_owned(), false)), "{found:?}");
        assert!(begun.elapsed() < LIMIT, "{found:?}");
    };
    let told = object(&found);
    assert_eq!(found.status.code(), Some(1));
    assert_eq!((&told["ok"], &told["checks"][0]["consistent"]), (&false.into(), &false.into()));
    let of = |outcome: &str| {
        vec![(1, "same".to_owned(), false), (2, outcome.to_owned(), true), (3, "same".to_owned(), false)]
    };
    assert_eq!(outcomes(&told), of("different"));
    let again = cluster.ctl(0, "check --all");
    assert_eq!(again.status.code(), Some(1), "one is still to be replaced");
    assert_eq!(cluster.client(1).ask("GET while-idle"), "$1|1|", "answered by another store");

    // The new replica may have come by a snapshot of an index behind the check.
    let begun = Instant::now();
    loop {
        let repaired = cluster.ctl(0, "check 2 --repair");
        assert!(repaired.status.success(), "{}", String::from_utf8_lossy(&repaired.stderr));
        if all_same(&object(&repaired)) {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "{repaired:?}");
    }
    let admin = cluster.stores[0].admin.to_string();
    let table = run(&["ctl", "--admin", &admin, "check", "2"]);
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(table.status.success() && text.starts_with("region  index  replica") && !text.contains("fenced"), "{text}");
    assert!(cluster.ctl(1, "check --all").status.success());
}

#[test]
fn checks_that_make_no_sense_are_refused() {
    let mut cluster = Cluster::prepare(&["--bootstrap-regions", "1", "--state", "mem"]);
    cluster.spawn(0);
    cluster.wait_ready(0);
    for arguments in [&["ctl", "check"][..], &["ctl", "check", "2", "--all"], &["ctl", "check", "two"]] {
        assert!(failure(&run(arguments)).contains("--help"), "{arguments:?}");
    }
    let admin = cluster.stores[0].admin;
    for (line, body) in [
        ("POST /check", ""),
        ("POST /check", "{\"region\":-1}"),
        ("POST /check", "{\"region\":2,\"more\":1}"),
        ("POST /repair", "{\"region\":2}"),
    ] {
        let (status, told) = http(admin, line, body);
        assert_eq!(status, "HTTP/1.1 400 Bad Request", "{line} {body}: {told}");
    }
}

#[test]
fn what_is_not_there_is_neither_checked_nor_repaired() {
    let cluster = Cluster::start(&["--bootstrap-regions", "1", "--state", "mem"]);
    let unknown = cluster.ctl(0, "check 99");
    assert!(failure(&unknown).contains("there is no region 99"));
    assert_eq!(object(&unknown)["ok"], false);
    let admin = cluster.stores[0].admin;
    assert_eq!(http(admin, "POST /repair", "{\"region\":99,\"store\":1}").0, "HTTP/1.1 404 Not Found");
    let (status, told) = http(admin, "POST /repair", "{\"region\":2,\"store\":9}");
    assert_eq!((status.as_str(), told.contains("no replica on store 9")), ("HTTP/1.1 400 Bad Request", true), "{told}");
}
