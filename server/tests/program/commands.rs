//! Every command, through real stores, as bytes on the wire.

use crate::harness::{Client, Cluster, request};

/// Regions: up to `key:000000250000`, `...500000`, `...750000`, and the rest.
fn cluster() -> Cluster {
    Cluster::start(&["--bootstrap-regions", "4", "--state", "mem"])
}

/// Asks each question and compares each answer.
fn transcript(client: &mut Client, steps: &[(&str, &str)]) {
    for (question, answer) in steps {
        assert_eq!(client.ask(question), *answer, "{question}");
    }
}

const STRINGS: &[(&str, &str)] = &[
    ("GET a", "$-1|"),
    ("SET a 1", "+OK|"),
    ("GET a", "$1|1|"),
    ("SET a 2 NX", "$-1|"),
    ("SET a 2 XX", "+OK|"),
    ("SET b 2 XX", "$-1|"),
    ("SET b 2 NX", "+OK|"),
    ("SET a 3 GET", "$1|2|"),
    ("SET c 3 GET", "$-1|"),
    ("SET c 4 NX GET", "$1|3|"),
    ("SET a 4 IFEQ 3", "+OK|"),
    ("SET a 5 IFEQ 3", "$-1|"),
    ("SET absent 5 IFEQ 3", "$-1|"),
    ("SET a 6 IFEQ 4 GET", "$1|4|"),
    ("SET a 6 IFEQ 6 NX", "-ERR syntax error|"),
    ("SET a 6 XX IFEQ 6", "-ERR syntax error|"),
    ("SET a 6 NX XX", "-ERR syntax error|"),
    ("SET a 6 EX 10", "-ERR SET option 'EX' is not supported: keys do not expire here|"),
    ("SET a 6 KEEPTTL", "-ERR SET option 'KEEPTTL' is not supported: keys do not expire here|"),
    ("GETSET a 7", "$1|6|"),
    ("SETNX a 8", ":0|"),
    ("SETNX d 8", ":1|"),
    ("APPEND a xyz", ":4|"),
    ("GET a", "$4|7xyz|"),
    ("STRLEN a", ":4|"),
    ("STRLEN absent", ":0|"),
    ("EXISTS a a absent d", ":3|"),
    ("DEL a d absent", ":2|"),
    ("EXISTS a d", ":0|"),
];

const NUMBERS: &[(&str, &str)] = &[
    ("INCR n", ":1|"),
    ("INCRBY n 41", ":42|"),
    ("DECR n", ":41|"),
    ("DECRBY n 1", ":40|"),
    ("INCRBY n x", "-ERR value is not an integer or out of range|"),
    ("SET n 9223372036854775807", "+OK|"),
    ("INCR n", "-ERR increment or decrement would overflow|"),
    ("GET n", "$19|9223372036854775807|"),
    ("SET n ten", "+OK|"),
    ("INCR n", "-ERR value is not an integer or out of range|"),
    ("DEL n", ":1|"),
];

const MANY: &[(&str, &str)] = &[
    ("MSET key:000000000001 1 key:000000000002 2", "+OK|"),
    ("MGET key:000000000001 key:000000000002 key:000000000003", "*3|$1|1|$1|2|$-1|"),
    (
        "MSET key:000000000001 9 key:000000999999 9",
        "-CROSSSLOT the keys of this command lie in more than one region: send a command for each of them|",
    ),
    ("GET key:000000000001", "$1|1|"),
    (
        "DEL key:000000000001 key:000000999999",
        "-CROSSSLOT the keys of this command lie in more than one region: send a command for each of them|",
    ),
    ("DEL key:000000000001 key:000000000002", ":2|"),
];

const CONNECTION: &[(&str, &str)] = &[
    ("PING", "+PONG|"),
    ("ping hello", "$5|hello|"),
    ("ECHO hello", "$5|hello|"),
    ("SELECT 0", "+OK|"),
    ("SELECT 1", "-ERR DB index is out of range: there is one database, 0|"),
    ("CLIENT SETNAME me", "+OK|"),
    ("CLIENT GETNAME", "$2|me|"),
    ("CLIENT SETINFO LIB-NAME tests", "+OK|"),
    ("CONFIG GET save", "*2|$4|save|$0||"),
    ("CONFIG SET save x", "-ERR only CONFIG GET is supported: settings are flags of `multiraft serve`|"),
    ("COMMAND COUNT", ":29|"),
    ("COMMAND INFO get nothing", "*2|*7|$3|get|:2|*1|+readonly|:1|:1|:1|*0|$-1|"),
    ("FLUSHALL", "-ERR unknown command 'FLUSHALL', with args beginning with: |"),
    ("GET", "-ERR wrong number of arguments for 'get' command|"),
];

#[test]
fn every_command_does_what_redis_does_through_every_store() {
    let cluster = cluster();
    for at in 0..3 {
        let mut client = cluster.client(at);
        for steps in [STRINGS, NUMBERS, MANY, CONNECTION] {
            transcript(&mut client, steps);
        }
        assert_eq!(client.ask("DEL b c"), ":2|");
        assert!(client.ask("INFO").contains("multiraft_version:"));
        assert!(client.ask("COMMAND DOCS get").contains("The value of a key."));
        assert_eq!(client.ask("QUIT"), "+OK|");
        assert!(client.is_closed());
    }
}

#[test]
fn the_newer_protocol_says_maps_and_nulls() {
    let cluster = cluster();
    let mut client = cluster.client(0);
    assert!(client.ask("HELLO").starts_with("*16|"), "RESP2 until told otherwise");
    assert_eq!(client.ask("HELLO 4"), "-NOPROTO unsupported protocol version: there are 2 and 3|");
    let hello = client.ask("HELLO 3 SETNAME me");
    assert!(hello.starts_with("%8|") && hello.contains("$6|server|$9|multiraft|"), "{hello}");
    assert_eq!(client.ask("CLIENT GETNAME"), "$2|me|");
    assert_eq!(client.ask("GET absent"), "_|");
    assert!(client.ask("CONFIG GET max*").starts_with("%3|"));
    assert!(client.ask("INFO server").starts_with('='));
    assert!(client.ask("HELLO 2").starts_with("*16|"));
    assert_eq!(client.ask("GET absent"), "$-1|");
}

#[test]
fn what_one_store_acknowledged_every_store_reads() {
    let cluster = cluster();
    let mut clients: Vec<_> = (0..3).map(|at| cluster.client(at)).collect();
    for round in 0..60 {
        let key = format!("key:000000{:06}", round * 16_000);
        assert_eq!(clients[round % 3].ask(&format!("SET {key} {round}")), "+OK|");
        let value = format!("${}|{round}|", round.to_string().len());
        for client in &mut clients {
            assert_eq!(client.ask(&format!("GET {key}")), value);
        }
    }
    for client in &mut clients {
        assert_eq!(client.ask("DBSIZE"), ":60|");
    }
}

#[test]
fn a_scan_walks_all_regions_in_key_order() {
    let cluster = cluster();
    let mut client = cluster.client(1);
    let keys: Vec<String> = (0..100).map(|i| format!("key:000000{:06}", i * 9_999)).collect();
    let pipeline: Vec<u8> = keys.iter().flat_map(|key| request(&[b"SET", key.as_bytes(), b"v"])).collect();
    client.send(&pipeline);
    for _ in &keys {
        assert_eq!(client.reply(), "+OK|");
    }
    for (options, expected) in [
        ("", keys.clone()),
        (" COUNT 7", keys.clone()),
        (" COUNT 1000", keys.clone()),
        (
            " MATCH *00000?99* COUNT 3",
            keys.iter().filter(|key| &key[9..10] == "0" && &key[11..13] == "99").cloned().collect(),
        ),
    ] {
        let mut found = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let page = client.ask(&format!("SCAN {cursor}{options}"));
            let parts: Vec<_> = page.split('|').collect();
            found.extend(parts[4..].iter().filter(|part| part.starts_with("key:")).map(|part| (*part).to_owned()));
            cursor = parts[2].to_owned();
            if cursor == "0" {
                break;
            }
        }
        if options.contains("MATCH") {
            assert!(found.iter().all(|key| keys.contains(key)) && found.is_sorted());
        } else {
            assert_eq!(found, expected, "{options}");
        }
    }
    assert!(client.ask("SCAN 12345").starts_with("-ERR unknown cursor 12345: "));
}

#[test]
fn a_pipeline_is_answered_in_order_and_takes_effect_in_order() {
    let cluster = cluster();
    for at in 0..3 {
        let mut client = cluster.client(at);
        let mut pipeline = Vec::new();
        let mut expected = Vec::new();
        // Four counters in four regions, with reads and whole-space commands in between.
        for turn in 1..=50 {
            for region in 0..4 {
                let key = format!("key:000000{}90000", region * 3).replace("000000990000", "000000900000");
                pipeline.extend(request(&[b"INCR", key.as_bytes()]));
                expected.push(format!(":{turn}|"));
                pipeline.extend(request(&[b"GET", key.as_bytes()]));
                expected.push(format!("${}|{turn}|", turn.to_string().len()));
            }
            pipeline.extend(b"PING\r\n");
            expected.push("+PONG|".to_owned());
            if turn % 10 == 0 {
                pipeline.extend(b"DBSIZE\r\n");
                expected.push(":4|".to_owned());
            }
        }
        client.send(&pipeline);
        for (number, expected) in expected.iter().enumerate() {
            assert_eq!(client.reply(), *expected, "reply {number}");
        }
        for region in 0..4 {
            let key = format!("key:000000{}90000", region * 3).replace("000000990000", "000000900000");
            assert_eq!(client.ask(&format!("DEL {key}")), ":1|");
        }
    }
}

#[test]
fn large_values_travel_and_larger_ones_are_refused_on_a_connection_that_goes_on() {
    let cluster = cluster();
    let mut client = cluster.client(2);
    let large = vec![b'x'; (8 << 20) - 4096];
    assert_eq!(client.ask_bytes(&[b"SET", b"large", &large]), "+OK|");
    assert_eq!(client.ask("STRLEN large"), format!(":{}|", large.len()));
    let mut other = cluster.client(0);
    assert_eq!(other.ask("GET large").len(), large.len() + "$8384512||".len());
    let refused = client.ask_bytes(&[b"SET", b"larger", &vec![b'x'; 9 << 20]]);
    assert!(refused.starts_with("-ERR the command has 9437") && refused.contains("--max-command-bytes"), "{refused}");
    assert!(client.ask_bytes(&[b"APPEND", b"large", &vec![b'x'; 8192]]).starts_with("-ERR string exceeds maximum"));
    assert_eq!(client.ask("EXISTS larger"), ":0|");
    assert_eq!(client.ask("DEL large"), ":1|");
}
