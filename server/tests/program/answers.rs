//! Long answers that a client does not read: they are asked for as it reads, and not held before.

use std::fs;

use crate::harness::{Client, Cluster, request};

const REGIONS: usize = 4;
const VALUE_BYTES: usize = 1 << 20;
const READS: usize = 600;
/// What the store may have resident, against 600 MiB of answers: three stores' pairs are 4 MiB each.
const RESIDENT_MAX: u64 = 200 << 20;

/// The key of a region, of a million that are cut evenly.
fn key(region: usize) -> String {
    format!("key:{:012}", region * (1_000_000 / REGIONS) + 7)
}

fn value(region: usize) -> Vec<u8> {
    vec![b'a' + region as u8; VALUE_BYTES]
}

/// The most that a process ever had resident, in bytes.
fn most_resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn region_of(read: usize) -> usize {
    // Neither in turn nor all of one first.
    (read * read / 7 + read / 40) % REGIONS
}

#[test]
fn answers_that_nobody_reads_are_not_held_and_come_in_order() {
    let cluster = Cluster::start(&["--bootstrap-regions", &REGIONS.to_string(), "--state", "mem"]);
    let mut client = cluster.client(0);
    for region in 0..REGIONS {
        assert_eq!(client.ask_bytes(&[b"SET", key(region).as_bytes(), &value(region)]), "+OK|");
    }
    let mut reader = cluster.client(0);
    let asked: Vec<u8> = (0..READS).flat_map(|read| request(&[b"GET", key(region_of(read)).as_bytes()])).collect();
    reader.send(&asked);
    read_all(&mut reader);
    for at in 0..3 {
        let most = most_resident(cluster.pid(at));
        assert!(most < RESIDENT_MAX, "store {} had {} MiB resident", at + 1, most >> 20);
    }
}

fn read_all(reader: &mut Client) {
    for read in 0..READS {
        let reply = reader.reply();
        let (length, content) = reply.trim_end_matches('|').split_once('|').unwrap();
        assert_eq!(length, format!("${VALUE_BYTES}"), "read {read}");
        assert!(content.bytes().eq(value(region_of(read))), "read {read}");
    }
}
