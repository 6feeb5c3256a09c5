//! `multiraft ctl` against real stores: regions split, merge and move, stores join and are drained, nonsense is refused.

use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Cluster, failure, http, run};

/// The object in the last line; the command must have gone well.
fn object(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let object: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(object["ok"], true, "{object}");
    object
}

/// Asks a store until its answer is as wanted: what it knows of changes that were made through another one comes a moment later.
fn eventually(cluster: &Cluster, at: usize, command: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let told = object(&cluster.ctl(at, command));
        if is_wanted(&told) {
            return told;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{command}: {told}");
    }
}

/// What a command that must fail said; both on stderr and in the object.
fn refused(output: &Output) -> String {
    let said = failure(output);
    let text = String::from_utf8_lossy(&output.stdout);
    let object: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(object["ok"], false);
    let error = object["error"].as_str().unwrap();
    assert!(said.contains(error), "{said}");
    error.to_owned()
}

/// The ids of the regions that own keys, in key order.
fn ids(listed: &Value) -> Vec<u64> {
    let ids = listed["regions"].as_array().unwrap().iter().map(|region| region["id"].as_u64().unwrap());
    ids.filter(|id| *id != 1).collect()
}

/// The stores that a region's voters are on.
fn voters(region: &Value) -> Vec<u64> {
    let voters = region["replicas"].as_array().unwrap().iter().filter(|replica| replica["role"] == "voter");
    let mut stores: Vec<u64> = voters.map(|replica| replica["store"].as_u64().unwrap()).collect();
    stores.sort_unstable();
    stores
}

/// Three stores with one region, and a fourth that has nothing and knows the others.
fn three_and_a_newcomer() -> Cluster {
    let mut cluster = Cluster::prepare_many(4, &["--bootstrap-regions", "1", "--state", "mem"]);
    let fourth = format!("4={}", cluster.stores[3].listen);
    for at in 0..4 {
        let mut arguments = cluster.arguments(at);
        let unwanted: &[&str] = if at == 3 { &["--bootstrap-regions", "1"] } else { &["--peer", &fourth] };
        let found = arguments.windows(2).position(|pair| pair == unwanted).unwrap();
        arguments.drain(found..found + 2);
        cluster.spawn_with(at, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for at in 0..4 {
        cluster.wait_ready(at);
    }
    // It is known to the others once it has dialed them.
    for at in 0..3 {
        eventually(&cluster, at, "stores", |listed| listed["stores"][3]["connected"] == true);
    }
    cluster
}

#[test]
fn a_region_splits_is_written_across_and_merges_back() {
    let cluster = Cluster::start(&["--bootstrap-regions", "1", "--state", "mem"]);
    let mut client = cluster.client(1);
    for key in ["a", "m", "z"] {
        assert_eq!(client.ask(&format!("SET {key} before")), "+OK|");
    }
    let parts = object(&cluster.ctl(0, "split 2 k 0x74"));
    let [first, second, third] = ids(&parts)[..] else { panic!("{parts}") };
    assert_eq!(first, 2);
    assert_eq!(parts["regions"][1]["start"], "6b");
    assert_eq!(parts["regions"][1]["end"], "74");
    for at in 0..3 {
        eventually(&cluster, at, "regions", |listed| ids(listed) == [first, second, third]);
    }
    assert_eq!(client.ask("GET m"), "$6|before|");
    assert_eq!(client.ask("SET m between"), "+OK|");
    assert!(client.ask("MSET a 1 m 1").starts_with("-CROSSSLOT"));
    let merged = object(&cluster.ctl(1, &format!("merge {second} {first}")));
    assert_eq!(merged["regions"][0]["end"], "74");
    let merged = object(&cluster.ctl(2, &format!("merge {third} {first}")));
    assert_eq!((&merged["regions"][0]["start"], &merged["regions"][0]["end"]), (&"".into(), &"".into()));
    eventually(&cluster, 0, "regions", |listed| ids(listed) == [first]);
    assert_eq!(client.ask("MGET a m z"), "*3|$6|before|$7|between|$6|before|");
    assert_eq!(client.ask("MSET a 1 m 1"), "+OK|");
}

#[test]
fn a_store_that_joins_gets_replicas_by_moves_and_is_drained_again() {
    let mut cluster = three_and_a_newcomer();
    let mut client = cluster.client(0);
    assert_eq!(client.ask("SET a 1"), "+OK|");
    let mut newcomer = cluster.client(3);
    assert_eq!(newcomer.ask("GET a"), "$1|1|", "any store answers, also one without a replica");
    let parts = object(&cluster.ctl(3, "split 2 m"));
    let [first, second] = ids(&parts)[..] else { panic!("{parts}") };
    let moved = object(&cluster.ctl(0, &format!("move {first} 2 4")));
    assert_eq!(voters(&moved["regions"][0]), [1, 3, 4]);
    let added = object(&cluster.ctl(1, &format!("add {second} 4 --learner")));
    assert_eq!(voters(&added["regions"][0]), [1, 2, 3]);
    let promoted = object(&cluster.ctl(1, &format!("promote {second} 4")));
    assert_eq!(voters(&promoted["regions"][0]), [1, 2, 3, 4]);
    // A store that has just joined leads nothing for the time for which it might have promised support before: a second.
    let begun = Instant::now();
    while !cluster.ctl(1, &format!("transfer {second} 4")).status.success() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it takes no leadership");
    }
    eventually(&cluster, 3, &format!("region {second}"), |told| told["region"]["leader"] == 4);
    assert_eq!(voters(&object(&cluster.ctl(1, &format!("demote {second} 3")))["regions"][0]), [1, 2, 4]);
    assert_eq!(
        object(&cluster.ctl(1, &format!("remove {second} 3")))["regions"][0]["replicas"].as_array().unwrap().len(),
        3
    );
    assert_eq!(newcomer.ask("SET z 2"), "+OK|");
    let listed = eventually(&cluster, 0, "stores", |listed| listed["stores"][3]["regions"] == 2);
    let fourth = &listed["stores"][3];
    assert_eq!((&fourth["store"], &fourth["connected"], &fourth["incarnation"]), (&4.into(), &true.into(), &1.into()));

    let drained = object(&cluster.ctl(0, "drain 1"));
    assert_eq!(drained["moves"], 3, "the root region, too: {drained}");
    eventually(&cluster, 3, "regions", |listed| {
        listed["regions"].as_array().unwrap().iter().all(|region| voters(region) == [2, 3, 4])
    });
    cluster.signal(0, "-TERM");
    assert_eq!(cluster.wait_end(0), Some(0));
    assert_eq!(newcomer.ask("GET a"), "$1|1|");
    assert_eq!(newcomer.ask("GET z"), "$1|2|");
    assert_eq!(newcomer.ask("SET a 3"), "+OK|");
    eventually(&cluster, 3, "stores", |listed| listed["stores"][0]["connected"] == false);
    // Nobody is left to take what a second store has.
    assert!(refused(&cluster.ctl(3, "drain 2")).contains("start another store"));
}

#[test]
fn what_makes_no_sense_is_refused_with_what_to_do() {
    let cluster = Cluster::start(&["--bootstrap-regions", "2", "--state", "mem"]);
    for (command, told) in [
        ("split 2 z", "must ascend strictly and lie inside"),
        ("split 2 b a", "must ascend strictly"),
        ("split 2 a a", "must ascend strictly"),
        ("split 2 ", "must ascend strictly"),
        ("split 1 a", "the root region owns no keys"),
        ("split 99 a", "there is no region 99"),
        ("region 99", "there is no region 99"),
        ("merge 2 2", "cannot be merged with itself"),
        ("merge 1 2", "the root region owns no keys"),
        ("merge 99 2", "there is no region 99"),
        ("add 2 9", "store 9 is not known"),
        ("add 2 1", "already holds"),
        ("move 2 1 3", "already holds"),
        ("remove 2 9", "no replica on store 9"),
        ("promote 2 1", "cannot change"),
        ("transfer 99 1", "not known"),
        ("transfer 2 9", "refused"),
        ("drain 9", "store 9 is not known"),
        ("drain 1", "start another store"),
    ] {
        let said = refused(&cluster.ctl(0, command));
        assert!(said.contains(told), "{command}: {said}");
    }
    object(&cluster.ctl(0, "remove 2 1"));
    let last = object(&cluster.ctl(0, "remove 2 2"));
    assert_eq!(voters(&last["regions"][0]), [3]);
    let said = refused(&cluster.ctl(0, "remove 2 3"));
    assert!(said.contains("region 2"), "the last voter stays: {said}");
    // Nothing listens there; the address is not of this machine; the key is none.
    assert!(refused(&run(&["ctl", "--json", "--admin", "127.0.0.1:9", "regions"])).contains("does not answer"));
    assert!(failure(&run(&["ctl", "--admin", "10.0.0.1:7180", "regions"])).contains("not a loopback address"));
    assert!(failure(&run(&["ctl", "split", "2", "0x1"])).contains("hexadecimal"));
    assert!(failure(&run(&["ctl", "split", "2"])).contains("KEY"));
    assert!(failure(&run(&["ctl", "regions", "-1"])).contains("Usage"));
    let redis = cluster.stores[0].resp.to_string();
    assert!(failure(&run(&["ctl", "--admin", &redis, "regions"])).contains("speaks no HTTP"));
}

#[test]
fn requests_that_are_none_are_answered_with_a_sentence() {
    let mut cluster = Cluster::prepare(&["--bootstrap-regions", "1", "--state", "mem"]);
    cluster.spawn(0);
    cluster.wait_ready(0);
    let admin = cluster.stores[0].admin;
    let many = format!("{{\"region\":2,\"changes\":[{}]}}", ["{\"change\":\"remove\",\"store\":1}"; 65].join(","));
    for (line, body) in [
        ("POST /split", ""),
        ("POST /split", "{\"region\":2}"),
        ("POST /split", "{\"region\":2,\"keys\":[\"xyz\"]}"),
        ("POST /split", "{\"region\":2,\"keys\":[\"6b\"],\"more\":1}"),
        ("POST /split", "{\"region\":-2,\"keys\":[]}"),
        ("POST /merge", "[1, 2"),
        ("POST /replicas", "{\"region\":2,\"changes\":[{\"change\":\"fly\",\"store\":1}]}"),
        ("POST /replicas", &many),
        ("GET /region", ""),
        ("GET /region?id=seven", ""),
    ] {
        let (status, told) = http(admin, line, body);
        assert_eq!(status, "HTTP/1.1 400 Bad Request", "{line} {body}: {told}");
        assert!(told.ends_with('\n') && told.trim().contains(' '), "{told}");
    }
    assert_eq!(http(admin, "POST /regions", "").0, "HTTP/1.1 404 Not Found");
}
