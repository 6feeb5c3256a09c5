//! `MULTI`, `EXEC` and `DISCARD`, as bytes on the wire.

use crate::harness::{Client, Cluster, hand_over, request};

/// Regions: up to `key:000000500000`, and the rest.
fn cluster() -> Cluster {
    Cluster::start(&["--bootstrap-regions", "2", "--state", "mem"])
}

fn transcript(client: &mut Client, steps: &[(&str, &str)]) {
    for (question, answer) in steps {
        assert_eq!(client.ask(question), *answer, "{question}");
    }
}

const QUEUED: &str = "+QUEUED|";
const ABORTED: &str = "-EXECABORT Transaction discarded because of previous errors.|";
const NOT_ON_KEYS: &str = "-ERR this command cannot be queued: between MULTI and EXEC there are only commands on keys|";
const NO_WATCH: &str =
    "-ERR WATCH is not offered: let a command itself look at what it changes, as SET key value IFEQ old does|";

const CARRIED_OUT: &[(&str, &str)] = &[
    ("MULTI", "+OK|"),
    ("SET a 1", QUEUED),
    ("INCR a", QUEUED),
    ("SETNX a 9", QUEUED),
    ("SETNX b text", QUEUED),
    ("INCR b", QUEUED),
    ("GET b", QUEUED),
    ("SET b 2 IFEQ other", QUEUED),
    ("MGET a b c", QUEUED),
    ("DEL a b", QUEUED),
    ("EXEC", "*9|+OK|:2|:0|:1|-ERR value is not an integer or out of range|$4|text|$-1|*3|$1|2|$4|text|$-1|:2|"),
    ("EXISTS a b", ":0|"),
    ("MULTI", "+OK|"),
    ("EXEC", "*0|"),
    ("multi", "+OK|"),
    ("STRLEN a", QUEUED),
    ("exec", "*1|:0|"),
];

const DROPPED: &[(&str, &str)] = &[
    ("EXEC", "-ERR EXEC without MULTI|"),
    ("DISCARD", "-ERR DISCARD without MULTI|"),
    ("MULTI", "+OK|"),
    ("SET a dropped", QUEUED),
    ("DISCARD", "+OK|"),
    ("EXEC", "-ERR EXEC without MULTI|"),
    ("MULTI", "+OK|"),
    ("SET a kept", QUEUED),
    ("MULTI", "-ERR MULTI calls can not be nested|"),
    ("EXEC", "*1|+OK|"),
    ("MULTI", "+OK|"),
    ("SET a lost", QUEUED),
    ("GET", "-ERR wrong number of arguments for 'get' command|"),
    ("SET a lost", QUEUED),
    ("EXEC", ABORTED),
    ("MULTI", "+OK|"),
    ("SET a lost", QUEUED),
    ("NOSUCH x", "-ERR unknown command 'NOSUCH', with args beginning with: 'x' |"),
    ("EXEC", ABORTED),
    ("MULTI", "+OK|"),
    ("PING", NOT_ON_KEYS),
    ("EXEC", ABORTED),
    ("MULTI", "+OK|"),
    ("DBSIZE", NOT_ON_KEYS),
    ("DISCARD", "+OK|"),
    ("WATCH a", NO_WATCH),
    ("MULTI", "+OK|"),
    ("WATCH a", NO_WATCH),
    ("SET a lost", QUEUED),
    ("EXEC", ABORTED),
    ("GET a", "$4|kept|"),
    ("DEL a", ":1|"),
];

const IN_TWO_REGIONS: &[(&str, &str)] = &[
    ("MULTI", "+OK|"),
    ("SET key:000000000001 1", QUEUED),
    ("SET key:000000999999 1", QUEUED),
    (
        "EXEC",
        "-CROSSSLOT the keys of this transaction lie in more than one region; nothing was done: send one for each of them|",
    ),
    ("EXISTS key:000000000001", ":0|"),
    ("EXISTS key:000000999999", ":0|"),
];

#[test]
fn a_transaction_is_carried_out_or_dropped_as_redis_does_through_every_store() {
    let cluster = cluster();
    for at in 0..3 {
        let mut client = cluster.client(at);
        for steps in [CARRIED_OUT, DROPPED, IN_TWO_REGIONS] {
            transcript(&mut client, steps);
        }
    }
    // What was queued goes with the connection.
    let mut client = cluster.client(0);
    transcript(&mut client, &[("MULTI", "+OK|"), ("SET a lost", QUEUED)]);
    assert_eq!(client.ask("QUIT"), "+OK|");
    assert!(client.is_closed());
    assert_eq!(cluster.client(0).ask("EXISTS a"), ":0|");
}

#[test]
fn limits_end_a_transaction_and_not_the_connection() {
    let cluster = cluster();
    let mut client = cluster.client(1);
    assert_eq!(client.ask("MULTI"), "+OK|");
    for _ in 0..512 {
        client.send(&request(&[b"INCR", b"n"]));
    }
    (0..512).for_each(|_| assert_eq!(client.reply(), QUEUED));
    assert!(client.ask("INCR n").starts_with("-ERR the transaction has more than 512 commands"));
    assert_eq!(client.ask("EXEC"), ABORTED);
    let large = vec![b'x'; 5 << 20];
    assert_eq!(client.ask("MULTI"), "+OK|");
    assert_eq!(client.ask_bytes(&[b"SET", b"large", &large]), QUEUED);
    assert!(client.ask_bytes(&[b"SET", b"large", &large]).contains("more than 8388608 bytes"));
    assert_eq!(client.ask("EXEC"), ABORTED);
    assert_eq!(client.ask("MULTI"), "+OK|");
    assert!(client.ask_bytes(&[b"SET", b"large", &vec![b'x'; 9 << 20]]).starts_with("-ERR the command has 9437"));
    assert_eq!(client.ask("EXEC"), ABORTED);
    assert_eq!(client.ask("EXISTS n large"), ":0|");
    // Replies that are too long together: nothing is done, not even the write among them.
    assert_eq!(client.ask_bytes(&[b"SET", b"large", &large]), "+OK|");
    let steps = [("MULTI", "+OK|"), ("INCR n", QUEUED), ("GET large", QUEUED), ("GET large", QUEUED)];
    transcript(&mut client, &steps);
    assert!(client.ask("EXEC").contains("; nothing was done: read in smaller ones"));
    transcript(&mut client, &[("EXISTS n", ":0|"), ("DEL large", ":1|")]);
}

#[test]
fn nobody_sees_half_of_a_transaction() {
    let cluster = cluster();
    let writer = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = cluster.client(0);
            for round in 1..=200 {
                // As `redis-cli` sends it from a file: all in one go.
                client.send(format!("MULTI\r\nSET a {round}\r\nINCR b\r\nEXEC\r\n").as_bytes());
                let replies: String = (0..4).map(|_| client.reply()).collect();
                assert_eq!(replies, format!("+OK|+QUEUED|+QUEUED|*2|+OK|:{round}|"));
            }
        });
        let mut client = cluster.client(1);
        let mut seen = 0;
        while seen < 200 {
            client.send(b"MULTI\r\nGET a\r\nGET b\r\nEXEC\r\n");
            let replies: Vec<String> = (0..4).map(|_| client.reply()).collect();
            let parts: Vec<&str> = replies[3].split('|').filter(|part| !part.starts_with(['$', '*'])).collect();
            let (one, other) = match parts[..] {
                [""] => continue,
                [one, other, ""] => (one.parse::<u32>().unwrap(), other.parse::<u32>().unwrap()),
                _ => panic!("{replies:?}"),
            };
            assert_eq!(one, other, "half of a transaction");
            assert!(one >= seen, "older than what was read before: {one} after {seen}");
            seen = one;
        }
        writer.join()
    });
    writer.unwrap();
}

#[test]
fn commands_before_and_behind_a_transaction_in_one_pipeline_keep_their_order() {
    let cluster = cluster();
    let mut client = cluster.client(2);
    client.send(b"INCR n\r\nMULTI\r\nINCR n\r\nGET n\r\nEXEC\r\nINCR n\r\nMULTI\r\nGET n\r\nEXEC\r\nDEL n\r\n");
    let replies: Vec<String> = (0..10).map(|_| client.reply()).collect();
    assert_eq!(replies.concat(), ":1|+OK|+QUEUED|+QUEUED|*2|:2|$1|2|:3|+OK|+QUEUED|*1|$1|3|:1|");
}

#[test]
fn without_a_quorum_the_outcome_of_a_transaction_is_unknown() {
    let cluster = Cluster::start(&["--bootstrap-regions", "1", "--state", "mem", "--request-timeout", "400ms"]);
    let mut client = cluster.client(0);
    while client.ask("SET a 1") != "+OK|" {}
    hand_over(cluster.stores[0].admin, 2, 1);
    while client.ask("SET a 1") != "+OK|" {}
    [1, 2].into_iter().for_each(|at| cluster.signal(at, "-STOP"));
    transcript(&mut client, &[("MULTI", "+OK|"), ("INCR a", QUEUED), ("INCR a", QUEUED)]);
    let told = client.ask("EXEC");
    [1, 2].into_iter().for_each(|at| cluster.signal(at, "-CONT"));
    assert!(told.starts_with("-UNCERTAIN the outcome is unknown: the transaction"), "{told}");
    // It took effect whole, or not at all.
    let found = loop {
        let found = client.ask("GET a");
        if found.starts_with('$') {
            break found;
        }
    };
    assert!(found == "$1|1|" || found == "$1|3|", "{found}");
}
