//! Stores that plan: they join by themselves, are emptied and leave from the command line, and tell how large and how busy
//! regions are.

use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Cluster, failure};

/// For what takes seconds on a machine that is not busy.
const LIMIT: Duration = Duration::from_secs(90);

/// Store 1 alone with four regions; the others know it and have nothing.
fn one_that_others_join() -> Cluster {
    // Small thresholds: what is little for them is not told. No region gets so large, or stays so small for so long.
    let flags = "--state mem --placement --placement-interval 200ms --balance-after 1s --split-bytes 1000000 \
                 --merge-bytes 1000 --merge-after 60m";
    let mut cluster = Cluster::prepare_many(4, &flags.split_whitespace().collect::<Vec<_>>());
    for at in 0..4 {
        let mut arguments = cluster.arguments(at);
        if at == 0 {
            while let Some(found) = arguments.iter().position(|argument| argument == "--peer") {
                arguments.drain(found..found + 2);
            }
            arguments.extend(["--bootstrap-regions".to_owned(), "4".to_owned()]);
        } else {
            arguments.extend(["--label".to_owned(), format!("zone=z{}", at + 1)]);
        }
        cluster.spawn_with(at, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for at in 0..4 {
        cluster.wait_ready(at);
    }
    cluster
}

/// The object in the last line.
fn object(output: &Output) -> Value {
    serde_json::from_str(String::from_utf8_lossy(&output.stdout).lines().last().unwrap()).unwrap()
}

/// Asks a store until its answer is as wanted.
fn eventually(cluster: &Cluster, at: usize, command: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let told = object(&cluster.ctl(at, command));
        if told["ok"] == true && is_wanted(&told) {
            return told;
        }
        assert!(begun.elapsed() < LIMIT, "{command}: {told}");
    }
}

/// The replicas of all regions that own keys, by store.
fn held(listed: &Value, store: u64) -> usize {
    let regions = listed["regions"].as_array().unwrap().iter();
    let replicas = regions.flat_map(|region| region["replicas"].as_array().unwrap());
    replicas.filter(|replica| replica["store"] == store).count()
}

fn refused(cluster: &Cluster, command: &str) -> String {
    let output = cluster.ctl(0, command);
    assert_eq!(object(&output)["ok"], false, "{command}");
    failure(&output)
}

#[test]
fn stores_join_are_emptied_and_leave_and_regions_are_measured() {
    let mut cluster = one_that_others_join();
    let all_have_three = |listed: &Value| {
        let regions = listed["regions"].as_array().unwrap();
        regions.len() == 5 && regions.iter().all(|region| region["replicas"].as_array().unwrap().len() == 3)
    };
    let is_spread = |listed: &Value| all_have_three(listed) && (1..=4).all(|store| held(listed, store) >= 2);
    eventually(&cluster, 0, "regions", is_spread);
    let listed = eventually(&cluster, 0, "stores", |listed| {
        let stores = listed["stores"].as_array().unwrap();
        stores.len() == 4 && stores.iter().all(|store| store["standing"] == "up")
    });
    assert_eq!(listed["stores"][3]["labels"]["zone"], "z4");
    assert_eq!(listed["stores"][3]["address"], cluster.stores[3].listen.to_string());

    // 100 keys of 1,000 bytes, in the first region.
    let mut client = cluster.client(2);
    for number in 0..100 {
        assert_eq!(client.ask(&format!("SET key:0000000{number:05} {}", "v".repeat(1_000))), "+OK|");
    }
    let begun = Instant::now();
    let size = 100 * (1_000 + "key:000000012345".len() as u64);
    while !(0..4).any(|at| {
        let regions = object(&cluster.ctl(at, "regions"));
        let told = regions["regions"].as_array().and_then(|regions| regions[1]["measured"]["bytes"].as_u64());
        told.is_some_and(|bytes| bytes.abs_diff(size) <= size / 7)
    }) {
        assert!(begun.elapsed() < LIMIT, "no leader tells of about {size} bytes");
    }
    // Whoever plans knows what lies on each store.
    let begun = Instant::now();
    let told_by_planner = |told: &Value| {
        let bytes = told["stores"].as_array().unwrap().iter().filter_map(|store| store["bytes"].as_u64());
        bytes.sum::<u64>().abs_diff(3 * size) <= size
    };
    while !told_by_planner(&object(&cluster.ctl(0, "stores"))) {
        assert!(begun.elapsed() < LIMIT, "store 1 does not tell of about three times {size} bytes");
    }
    // Whoever is asked asks the one that plans, so all say the same.
    let sums = |at: usize| -> Vec<[Value; 5]> {
        let told = object(&cluster.ctl(at, "stores"));
        assert!(told["loads_missing"].is_null(), "{told}");
        let stores = told["stores"].as_array().unwrap().iter();
        stores
            .map(|store| ["store", "regions", "leaders", "bytes", "load_per_s"].map(|name| store[name].clone()))
            .collect()
    };
    let begun = Instant::now();
    while !(1..4).all(|at| sums(at) == sums(0)) {
        assert!(begun.elapsed() < LIMIT, "the stores tell different sums");
    }

    assert!(refused(&cluster, "leave 4").contains("still holds replicas"));
    assert!(refused(&cluster, "leave 77").contains("has not joined"));
    assert!(refused(&cluster, "drain 77").contains("not known"));
    assert!(refused(&cluster, "join 9 --address nowhere").contains("10.0.0.4:7100"));
    let drained = object(&cluster.ctl(0, "drain 4"));
    assert_eq!(drained["ok"], true, "{drained}");
    let listed = eventually(&cluster, 0, "regions", all_have_three);
    assert_eq!(held(&listed, 4), 0);
    assert_eq!(object(&cluster.ctl(0, "drain 4 --cancel"))["ok"], true);
    eventually(&cluster, 0, "stores", |listed| listed["stores"][3]["standing"] == "up");
    assert_eq!(object(&cluster.ctl(1, "drain 4"))["ok"], true);
    assert_eq!(object(&cluster.ctl(1, "leave 4"))["ok"], true);
    cluster.kill(3);
    // The standing is the root region's, the sums are those of the last round of whoever plans.
    eventually(&cluster, 0, "stores", |listed| listed["stores"][3]["standing"] == "left");
    eventually(&cluster, 0, "stores", |listed| listed["stores"][3]["regions"] == 0);
    assert!(refused(&cluster, "join 4 --address 127.0.0.1:1").contains("left for good"));
    // One that is told of by hand, and never comes.
    assert_eq!(object(&cluster.ctl(0, "join 5 --address 127.0.0.1:1 --weight 2 --label zone=z5"))["ok"], true);
    let listed = eventually(&cluster, 0, "stores", |listed| listed["stores"].as_array().unwrap().len() == 5);
    assert_eq!((&listed["stores"][4]["weight"], &listed["stores"][4]["labels"]["zone"]), (&2.into(), &"z5".into()));
    assert_eq!(client.ask("STRLEN key:000000000099"), ":1000|");
}
