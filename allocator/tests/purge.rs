//! Memory that is free goes back to the system, as seen from outside.

use std::hint::black_box;

use multiraft_allocator::{Allocator, give_back_at_once};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

const MIB: usize = 1 << 20;

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second number of statm") * 4096
}

#[test]
fn what_was_needed_for_a_moment_goes_back_at_once() {
    give_back_at_once();
    let before = resident();
    let mut pieces: Vec<Vec<u8>> = (0..64 * MIB / 512).map(|_| vec![7; 512]).collect();
    let full = resident();
    assert!(full > before + 60 * MIB, "{before} -> {full} bytes");
    // Not in the order in which they were taken, as in a program that has done something else meanwhile.
    for at in (0..pieces.len()).map(|at| at * 7919 % pieces.len()).collect::<Vec<_>>() {
        pieces[at] = Vec::new();
    }
    black_box(pieces);
    let after = resident();
    assert!(after < before + 12 * MIB, "{before} -> {full} -> {after} bytes");
}
