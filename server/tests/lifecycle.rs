//! Stores that stop, die and come back.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Cluster, http, multiraft, request};

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
    assert_eq!(status["peers"].as_array().unwrap().len(), 2);
    let regions = status["regions"].as_array().unwrap();
    let region = regions.iter().filter(|region| region["end"] == "").find(|region| region["id"] != 1).unwrap();
    let target = if region["leader"] == 2 { 3 } else { 2 };
    let (told, body) = http(admin, &format!("POST /transfer?region={}&store={target}", region["id"]), "");
    assert_eq!(told, "HTTP/1.1 200 OK", "{body}");
    // The write was applied where it was led; a linearizable read through this store makes sure that it is here as well.
    assert_eq!(client.ask("GET k"), "$1|v|");
    let (_, body) = http(admin, "POST /local", "{\"keys\":[\"6b\",\"6b6b\"]}");
    assert_eq!(body, "{\"values\":[\"76\",null]}");
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

#[test]
fn the_demo_holds_and_says_so() {
    let shown = multiraft().args(["demo", "--regions", "24", "--seconds", "6", "--json"]).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success(), "{text}\n{}", String::from_utf8_lossy(&shown.stderr));
    let json: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&json["ok"], &json["lost"], &json["regions"]), (&true.into(), &0.into(), &24.into()));
    assert!(json["writes"].as_u64().unwrap() >= 34_924, "{json}");
    assert!(json["failover_ms"].as_f64().unwrap() > 0.0, "{json}");
}
