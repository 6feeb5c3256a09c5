//! `SESSION OPEN` and `SESSION DO`, as bytes on the wire.

use crate::harness::{Client, Cluster};

/// Regions: up to `key:000000500000`, and the rest.
fn cluster() -> Cluster {
    Cluster::start(&["--bootstrap-regions", "2", "--state", "mem"])
}

fn open(client: &mut Client, key: &str) -> String {
    let reply = client.ask(&format!("SESSION OPEN {key}"));
    let token = reply.split('|').nth(1).unwrap_or_else(|| panic!("{reply}")).to_owned();
    assert!(reply.starts_with('$') && token.contains('-'), "{reply}");
    token
}

#[test]
fn a_command_that_is_sent_again_through_another_store_takes_effect_once() {
    let mut cluster = cluster();
    let mut clients: Vec<_> = (0..3).map(|at| cluster.client(at)).collect();
    let token = open(&mut clients[0], "key:000000000001");
    let steps = [
        (1, "INCR key:000000000001", ":1|"),
        (2, "APPEND key:000000000002 ab", ":2|"),
        (3, "SETNX key:000000000003 x", ":1|"),
        (4, "SET key:000000000003 y GET", "$1|x|"),
        (5, "INCR key:000000000003", "-ERR value is not an integer or out of range|"),
        (6, "DEL key:000000000002 key:000000000003", ":2|"),
    ];
    for (number, command, answer) in steps {
        assert_eq!(clients[0].ask(&format!("SESSION DO {token} {number} 0 {command}")), answer, "{command}");
    }
    for client in &mut clients {
        for (number, command, answer) in steps {
            assert_eq!(client.ask(&format!("SESSION DO {token} {number} 0 {command}")), answer, "{command} again");
        }
    }
    assert_eq!(clients[1].ask("MGET key:000000000001 key:000000000002"), "*2|$1|1|$-1|");
    // A store that has started anew, on both sides of a split, and of a command whose keys it has parted.
    cluster.kill(2);
    let split = cluster.ctl(0, "split 2 key:000000000002 key:000000000003");
    assert!(split.status.success(), "{split:?}");
    cluster.spawn(2);
    cluster.wait_ready(2);
    let mut client = cluster.client(2);
    assert_eq!(client.ask(&format!("SESSION DO {token} 1 0 INCR key:000000000001")), ":1|");
    assert_eq!(client.ask(&format!("SESSION DO {token} 2 0 APPEND key:000000000002 ab")), ":2|");
    assert_eq!(client.ask(&format!("SESSION DO {token} 6 0 DEL key:000000000002 key:000000000003")), ":2|");
    assert_eq!(client.ask(&format!("SESSION DO {token} 7 5 INCR key:000000000001")), ":2|");
    let late = clients[0].ask(&format!("SESSION DO {token} 1 0 INCR key:000000000001"));
    assert!(late.starts_with("-SESSIONEXPIRED region 2 "), "{late}");
    assert_eq!(client.ask("GET key:000000000001"), "$1|2|");
}

#[test]
fn what_a_session_does_not_take_is_refused_and_has_no_effect() {
    let cluster = cluster();
    let mut client = cluster.client(1);
    let token = open(&mut client, "key:000000000001");
    let refused = [
        ("1 0 GET key:000000000001", "-ERR only a command that writes keys can be sent in a session"),
        ("1 0 PING", "-ERR only a command that writes keys can be sent in a session"),
        ("1 0 NOSUCH x", "-ERR unknown command 'NOSUCH'"),
        ("0 0 INCR key:000000000001", "-ERR the commands of a session are numbered from 1"),
        ("2 2 INCR key:000000000001", "-ERR the commands of a session are numbered from 1"),
        ("1 0 INCR key:000000999999", "-SESSIONEXPIRED region "),
        ("1 0 DEL key:000000000001 key:000000999999", "-CROSSSLOT the keys of this command"),
    ];
    for (call, start) in refused {
        let told = client.ask(&format!("SESSION DO {token} {call}"));
        assert!(told.starts_with(start), "{call}: {told}");
    }
    let told = client.ask("SESSION DO 1-1 1 0 INCR key:000000000001");
    assert!(told.starts_with("-ERR not a session token: "), "{told}");
    let unknown = format!("{:032x}-1", 7);
    let told = client.ask(&format!("SESSION DO {unknown} 1 0 INCR key:000000000001"));
    assert!(told.starts_with("-SESSIONEXPIRED region "), "{told}");
    assert_eq!(client.ask("DBSIZE"), ":0|");
    assert_eq!(client.ask("MULTI"), "+OK|");
    let told = client.ask(&format!("SESSION DO {token} 1 0 INCR key:000000000001"));
    assert!(told.starts_with("-ERR this command cannot be queued"), "{told}");
    assert!(client.ask("EXEC").starts_with("-EXECABORT "));
    // The refusal of a command whose keys lie apart is its number's answer.
    let told = client.ask(&format!("SESSION DO {token} 1 0 INCR key:000000000001"));
    assert!(told.starts_with("-CROSSSLOT "), "{told}");
    assert_eq!(client.ask(&format!("SESSION DO {token} 2 0 INCR key:000000000001")), ":1|");
}
