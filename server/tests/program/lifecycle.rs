//! Stores that stop, die and come back.

use std::net::SocketAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use multiraft_torture::stop::look_again;

use crate::harness::{Client, Cluster, failure, hand_over, http, multiraft, request, run};

#[test]
fn acknowledged_writes_survive_the_death_of_any_store_and_of_all() {
    let mut cluster = Cluster::start(&["--bootstrap-regions", "8"]);
    let mut written = Vec::new();
    for victim in 0..3 {
        let mut client = cluster.client((victim + 1) % 3);
        for number in 0..40 {
            if number == 20 {
                cluster.kill(victim);
            }
            let key = format!("key:000000{:06}", (victim * 40 + number) * 8_000);
            let mut told = client.ask(&format!("SET {key} {victim}"));
            // In doubt or refused while the regions find new leaders: setting the same again does no harm.
            for _ in 0..100 {
                if told == "+OK|" {
                    break;
                }
                told = client.ask(&format!("SET {key} {victim}"));
            }
            assert_eq!(told, "+OK|", "{key}");
            written.push((key, victim));
        }
        cluster.spawn(victim);
        cluster.wait_ready(victim);
    }
    for at in 0..3 {
        cluster.kill(at);
    }
    for at in 0..3 {
        cluster.spawn(at);
    }
    for at in 0..3 {
        cluster.wait_ready(at);
    }
    for at in 0..3 {
        let mut client = cluster.client(at);
        for (key, value) in &written {
            assert_eq!(client.ask(&format!("GET {key}")), format!("$1|{value}|"), "{key} through store {}", at + 1);
        }
    }
}

#[test]
fn a_store_that_lost_its_directory_rejoins_and_what_it_was_is_replaced() {
    let mut cluster = Cluster::prepare(&[]);
    let words = |cluster: &Cluster, more: &[&str]| {
        let more = more.iter().map(|word| (*word).to_owned());
        cluster.arguments(2).into_iter().chain(more).collect::<Vec<_>>()
    };
    for at in 0..3 {
        let arguments = [cluster.arguments(at), vec!["--bootstrap-regions".to_owned(), "1".to_owned()]].concat();
        cluster.spawn_with(at, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
    (0..3).for_each(|at| cluster.wait_ready(at));
    assert_eq!(cluster.client(0).ask("SET k v"), "+OK|");
    cluster.kill(2);

    let refused = |more: &[&str]| {
        let words = words(&cluster, more);
        failure(&run(&words.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    assert!(refused(&["--rejoin"]).contains("holds a store already"), "its directory is there");
    assert!(refused(&["--rejoin", "--bootstrap-regions", "1"]).contains("cannot be used with"));

    std::fs::remove_dir_all(cluster.data_dir(2)).unwrap();
    let begun = Instant::now();
    // The regions name it still.
    let arguments = words(&cluster, &["--rejoin"]);
    cluster.spawn_with(2, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    cluster.wait_ready(2);
    let status = |cluster: &Cluster| {
        let (_, body) = http(cluster.stores[2].admin, "GET /status", "");
        serde_json::from_str::<serde_json::Value>(&body).unwrap()
    };
    while status(&cluster)["rejoining"] == true {
        assert!(look_again(begun, Duration::from_secs(60)), "store 3 has no floor");
    }
    let told = status(&cluster);
    assert!(told["floor"].as_u64().unwrap() >= 1 << 24 && told["regions"] == serde_json::json!([]), "{told}");
    // Then its command line may be what it was at first.
    cluster.kill(2);
    let arguments = words(&cluster, &["--bootstrap-regions", "1"]);
    cluster.spawn_with(2, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    cluster.wait_ready(2);
    assert_eq!((&status(&cluster)["floor"], &status(&cluster)["regions"]), (&told["floor"], &told["regions"]));
    for command in ["remove 1 3", "remove 2 3", "add 1 3", "add 2 3"] {
        while !cluster.ctl(0, command).status.success() {
            assert!(look_again(begun, Duration::from_secs(60)), "{command}");
        }
    }
    // Now it counts: one of the others may die.
    cluster.kill(1);
    let mut told = cluster.client(2).ask("SET k w");
    while told != "+OK|" {
        assert!(look_again(begun, Duration::from_secs(60)), "{told}");
        told = cluster.client(2).ask("SET k w");
    }
}

/// What became of a numbered append.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Acknowledged,
    Refused,
    InDoubt,
}

/// Appends the numbers from 0 to its key, pipelined, moving on to the next store when a connection breaks; tells each
/// acknowledgement. For each number, the connection that it was sent over and what became of it.
fn append_numbers(stores: &[SocketAddr], key: &str, first: usize, acknowledged: &SyncSender<()>) -> Vec<(usize, Fate)> {
    const NUMBERS: usize = 400;
    const PIPELINED: usize = 8;
    let mut fates = Vec::new();
    for at in first.. {
        let Some(mut client) = Client::try_connect(stores[at % stores.len()]) else { continue };
        while fates.len() < NUMBERS {
            let numbers = fates.len()..fates.len() + PIPELINED;
            let append = |number: usize| request(&[b"APPEND", key.as_bytes(), format!("{number},").as_bytes()]);
            let replies = client.lines(&numbers.flat_map(append).collect::<Vec<_>>(), PIPELINED);
            let of_reply = |reply: &String| match reply.as_bytes()[0] {
                b':' => Fate::Acknowledged,
                _ if reply.starts_with("-UNCERTAIN") => Fate::InDoubt,
                _ => Fate::Refused,
            };
            let broken = replies.len() < PIPELINED;
            for fate in replies.iter().map(of_reply).chain(std::iter::repeat(Fate::InDoubt)).take(PIPELINED) {
                fates.push((at, fate));
                if fate == Fate::Acknowledged {
                    acknowledged.send(()).unwrap();
                }
            }
            if broken {
                break;
            }
        }
        if fates.len() >= NUMBERS {
            break;
        }
    }
    fates
}

#[test]
fn appends_of_a_connection_stay_in_order_and_single_while_stores_die() {
    const CLIENTS: usize = 6;
    let mut cluster = Cluster::start(&["--bootstrap-regions", "4", "--request-timeout", "2s"]);
    let stores: Vec<SocketAddr> = cluster.stores.iter().map(|store| store.resp).collect();
    let (sender, acknowledged) = sync_channel(1 << 16);
    let keys: Vec<String> = (0..CLIENTS).map(|number| format!("key:000000{:06}", number * 150_000)).collect();
    let clients = keys.iter().cloned().enumerate().map(|(number, key)| {
        let (stores, sender) = (stores.clone(), sender.clone());
        std::thread::spawn(move || append_numbers(&stores, &key, number, &sender))
    });
    let clients: Vec<_> = clients.collect();
    drop(sender);
    for victim in 0..3 {
        // Each store dies after some hundred acknowledgements, if so many still come, and returns after some more.
        acknowledged.iter().take(200).for_each(drop);
        cluster.kill(victim);
        acknowledged.iter().take(20).for_each(drop);
        cluster.spawn(victim);
        cluster.wait_ready(victim);
    }
    acknowledged.iter().for_each(drop);
    let fates: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    for at in 0..3 {
        let mut client = cluster.client(at);
        for (key, fates) in keys.iter().zip(&fates) {
            let value = ask_until_led(&mut client, &format!("GET {key}"));
            let found: Vec<usize> =
                value.split('|').nth(1).unwrap().split_terminator(',').map(|n| n.parse().unwrap()).collect();
            let once: std::collections::BTreeSet<_> = found.iter().collect();
            assert_eq!(once.len(), found.len(), "{key}: a number came twice: {found:?}");
            // What was in doubt when a connection broke may overtake what was sent over the next one.
            for connection in fates.iter().map(|(connection, _)| connection) {
                let of_it = found.iter().filter(|number| fates[**number].0 == *connection);
                assert!(of_it.is_sorted(), "{key} through store {}: {found:?}", at + 1);
            }
            for (number, (_, fate)) in fates.iter().enumerate() {
                match fate {
                    Fate::Acknowledged => assert!(found.contains(&number), "{key}: {number} is lost"),
                    Fate::Refused => assert!(!found.contains(&number), "{key}: {number} was refused, and is there"),
                    Fate::InDoubt => {}
                }
            }
        }
    }
}

#[test]
fn damage_in_the_log_is_named_and_nothing_acknowledged_is_lost_or_miscounted() {
    let mut cluster = Cluster::start(&["--bootstrap-regions", "4", "--request-timeout", "2s"]);
    let mut client = cluster.client(0);
    let keys: Vec<String> = (0..100).map(|number| format!("key:000000{:06}", number * 9_999)).collect();
    for key in &keys {
        assert_eq!(client.ask(&format!("SET {key} v")), "+OK|");
    }
    for at in 0..3 {
        cluster.kill(at);
    }
    damage_an_entry(&cluster.data_dir(0).join("log"));
    for at in 0..3 {
        cluster.spawn(at);
    }
    for at in 0..3 {
        cluster.wait_ready(at);
    }
    let (_, body) = http(cluster.stores[0].admin, "GET /status", "");
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(!status["damaged"].as_array().unwrap().is_empty(), "{body}");
    for at in 1..3 {
        let mut client = cluster.client(at);
        for key in &keys {
            let told = ask_until_led(&mut client, &format!("GET {key}"));
            assert_eq!(told, "$1|v|", "{key}");
        }
        assert_eq!(client.ask("DBSIZE"), ":100|");
    }
    // The damaged store does not make a region's keys disappear without a word.
    let told = ask_until_led(&mut cluster.client(0), "DBSIZE");
    assert!(told == ":100|" || told.starts_with("-CLUSTERDOWN "), "{told}");
}

#[test]
fn a_torn_end_of_the_log_is_cut_and_nothing_is_lost() {
    let mut cluster = Cluster::start(&["--bootstrap-regions", "4", "--request-timeout", "2s"]);
    let mut client = cluster.client(0);
    let keys: Vec<String> = (0..100).map(|number| format!("key:000000{:06}", number * 9_999)).collect();
    for key in &keys {
        assert_eq!(client.ask(&format!("SET {key} v")), "+OK|");
    }
    for at in 0..3 {
        cluster.kill(at);
        tear_the_end(&cluster.data_dir(at).join("log"), at);
    }
    for at in 0..3 {
        cluster.spawn(at);
    }
    for at in 0..3 {
        cluster.wait_ready(at);
    }
    for at in 0..3 {
        let mut client = cluster.client(at);
        for key in &keys {
            assert_eq!(ask_until_led(&mut client, &format!("GET {key}")), "$1|v|", "{key}");
        }
        let (_, body) = http(cluster.stores[at].admin, "GET /status", "");
        let status: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(status["damaged"].as_array().unwrap().is_empty(), "{body}");
    }
}

/// Writes behind the last whole batch what a crash leaves of the next: the front of one, or bytes that are none.
fn tear_the_end(log: &std::path::Path, kind: usize) {
    let segments = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    let segment =
        segments.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("seg-")).max().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let end = (bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1).next_multiple_of(8);
    let last = bytes[..end].windows(4).rposition(|window| window == b"MRFR").unwrap();
    let torn = match kind {
        0 => bytes[last..last + (end - last) / 2].to_vec(),
        1 => bytes[last..end].iter().rev().copied().collect(),
        _ => vec![0xff; 5000],
    };
    bytes[end..end + torn.len()].copy_from_slice(&torn);
    std::fs::write(&segment, bytes).unwrap();
}

/// Asks until a leader is there, a few seconds at most.
fn ask_until_led(client: &mut Client, line: &str) -> String {
    (0..5).map(|_| client.ask(line)).find(|told| !told.starts_with('-')).unwrap_or_else(|| client.ask(line))
}

/// Alters a byte in the middle of what the first segment holds.
fn damage_an_entry(log: &std::path::Path) {
    let segments = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    let segment =
        segments.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("seg-")).min().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    // Not a zero, which might be padding between records.
    let at = (end / 2..end).find(|at| bytes[*at] != 0).unwrap();
    bytes[at] ^= 0xff;
    std::fs::write(&segment, bytes).unwrap();
}

#[test]
fn a_store_that_is_asked_to_stop_hands_over_and_ends_in_order() {
    let mut cluster = Cluster::start(&["--bootstrap-regions", "8", "--state", "mem"]);
    let mut client = cluster.client(1);
    assert_eq!(client.ask("SET k v"), "+OK|");
    cluster.signal(0, "-TERM");
    assert_eq!(cluster.wait_end(0), Some(0));
    assert_eq!(client.ask("GET k"), "$1|v|");
    let (status, _) = http(cluster.stores[2].admin, "POST /stop", "");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert_eq!(cluster.wait_end(2), Some(0));
}

#[test]
fn the_admin_endpoint_tells_and_does_what_it_says() {
    let cluster = Cluster::start(&["--bootstrap-regions", "2", "--state", "mem"]);
    let mut client = cluster.client(0);
    assert_eq!(client.ask("SET k v"), "+OK|");
    let admin = cluster.stores[0].admin;
    let (_, body) = http(admin, "GET /status", "");
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["store"], 1);
    assert_eq!(status["wire_version"], 2);
    let peers = status["peers"].as_array().unwrap();
    assert_eq!(peers.len(), 2);
    let connected: Vec<_> = peers.iter().filter(|peer| peer["connected"] == true).collect();
    assert!(!connected.is_empty() && connected.iter().all(|peer| peer["wire_version"] == 2), "{peers:?}");
    let regions = status["regions"].as_array().unwrap();
    let region = regions.iter().filter(|region| region["end"] == "").find(|region| region["id"] != 1).unwrap();
    let target = if region["leader"] == 2 { 3 } else { 2 };
    hand_over(admin, region["id"].as_u64().unwrap(), target);
    // The write was applied where it was led; a linearizable read through this store makes sure that it is here as well.
    assert_eq!(client.ask("GET k"), "$1|v|");
    let (_, body) = http(admin, "POST /local", "{\"keys\":[\"6b\",\"6b6b\"]}");
    assert_eq!(body, "{\"values\":[\"76\",null]}");
    let (_, body) = http(admin, "POST /local", "{\"keys\":[\"6b\"],\"staleness_ms\":500}");
    assert_eq!(body, "{\"values\":[\"76\"]}");
    for (line, body, told) in [
        ("POST /local", "{\"keys\":[\"6\"]}", "HTTP/1.1 400 Bad Request"),
        ("POST /local", "{", "HTTP/1.1 400 Bad Request"),
        ("POST /transfer?region=x", "", "HTTP/1.1 400 Bad Request"),
        ("GET /", "", "HTTP/1.1 404 Not Found"),
    ] {
        assert_eq!(http(admin, line, body).0, told, "{line}");
    }
}

#[test]
fn the_metrics_endpoint_speaks_prometheus() {
    let cluster = Cluster::start(&["--bootstrap-regions", "2", "--state", "mem"]);
    let mut client = cluster.client(0);
    client.send(&request(&[b"SET", b"k", b"v"]).repeat(10));
    for _ in 0..10 {
        assert_eq!(client.reply(), "+OK|");
    }
    let (status, page) = http(cluster.stores[0].metrics, "GET /metrics", "");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(
        page.contains("# TYPE multiraft_resp_commands_total counter\nmultiraft_resp_commands_total 10\n"),
        "{page}"
    );
}

#[test]
fn settings_may_stand_in_a_file() {
    let mut cluster = Cluster::prepare(&["--bootstrap-regions", "1", "--state", "mem"]);
    for at in 0..3 {
        let arguments = cluster.arguments(at);
        let mut peers = Vec::new();
        let mut text = String::new();
        for pair in arguments[1..].chunks(2) {
            let (name, value) = (pair[0].trim_start_matches("--"), &pair[1]);
            match name {
                "peer" => peers.push(format!("{value:?}")),
                "store" | "bootstrap-regions" => text.push_str(&format!("{name} = {value}\n")),
                _ => text.push_str(&format!("{name} = {value:?}\n")),
            }
        }
        text.push_str(&format!("peer = [{}]\n", peers.join(", ")));
        let file = cluster.path().join(format!("{at}.toml"));
        std::fs::write(&file, text).unwrap();
        cluster.spawn_with(at, &["serve", "--config", file.to_str().unwrap()]);
    }
    for at in 0..3 {
        cluster.wait_ready(at);
    }
    assert_eq!(cluster.client(2).ask("SET k v"), "+OK|");
}

/// Runs the demo; the object in its last line.
fn demo(regions: u64, arguments: &[&str]) -> serde_json::Value {
    let count = regions.to_string();
    let shown = multiraft().args(["demo", "--regions", &count, "--json"]).args(arguments).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success(), "{text}\n{}", String::from_utf8_lossy(&shown.stderr));
    let json: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&json["ok"], &json["lost"], &json["regions"]), (&true.into(), &0.into(), &regions.into()));
    assert!(json["writes"].as_u64().unwrap() >= 34_924, "{json}");
    assert!(json["failover_ms"].as_f64().unwrap() > 0.0, "{json}");
    json
}

#[test]
fn the_demo_lives_and_holds_and_says_so() {
    let json = demo(24, &["--seconds", "6"]);
    assert_eq!((&json["stores"], &json["splits"]), (&4.into(), &23.into()));
    let count = |name: &str| json[name].as_u64().unwrap();
    assert!(count("moves") > 0 && count("merges") > 0, "{json}");
    assert_eq!(count("regions_end"), 24 - count("merges"));
}

#[test]
fn the_presplit_demo_holds_and_says_so() {
    let json = demo(8, &["--seconds", "2", "--presplit"]);
    assert_eq!((&json["stores"], &json["regions_end"]), (&3.into(), &8.into()));
    assert_eq!((&json["splits"], &json["moves"], &json["merges"]), (&0.into(), &0.into(), &0.into()));
}
