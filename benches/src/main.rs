//! Benchmarks on three real stores: processes of their own, QUIC on loopback with certificates, a log that is flushed before
//! anything is answered.
//!
//! ```text
//!   throughput   writes per second under clients that run inside the stores
//!   reads        reads per second, by what is promised of them
//!   sweep        the same over numbers of regions, clients and sizes of values, with medians
//!   idle         what regions cost that nobody uses: memory, processor time, messages
//!   density      what regions cost that were written to once: memory a replica, processor time, packets, turns
//!   split-merge  how long splits and merges take and stall writes, and how many there can be a second
//!   drain        how long it takes to empty a store, and what writes notice of it
//!   snapshot     how fast a replica is filled, and what writes notice of it
//!   failover     how long the regions of a killed store take no writes
//!   restart      how long the first write to a region that slept takes, and a store until it serves again
//!   recovery     how long a killed store takes to start, on a log of a given size
//!   peers        writes and idle groups beside other Raft libraries, each in a process; with the feature `peers` only
//!   limits       what the machine can do by the same means: its disk, one QUIC connection, ciphers, queues; runs no stores
//!   plots        draws what runs have given, or runs them all and draws that
//!   micro        instructions that the hot paths take, under callgrind, beside a baseline in the repository
//!   placement    what a round of the placement planner costs; runs no stores, but a model of them on virtual time
//! ```
//!
//! The parent ([`cluster`]) starts this program once more for each store, as [`store`], and talks to them in lines of text; when
//! it is done, or fails, it ends them by their process ids and removes their directories. If it is killed or interrupted, its
//! stores stop by themselves and a directory `multiraft-bench-*` stays behind.
//! Nothing but `micro` reaches behind the public API of `multiraft`: it drives the deterministic inside, as the simulator does.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool speaks to its terminal")]

mod args;
mod clients;
mod cluster;
mod density;
mod idle;
mod keyspace;
mod limits;
mod live;
mod micro;
mod pace;
#[cfg(feature = "peers")]
mod peers;
mod placement;
mod plots;
mod progress;
mod reads;
mod report;
mod store;
mod sweep;
mod throughput;
mod usage;

use std::process::ExitCode;

/// As in the `multiraft` program, so that its stores are measured as they run.
#[global_allocator]
static ALLOCATOR: multiraft_allocator::Allocator = multiraft_allocator::Allocator;

use clap::Parser;

fn main() -> ExitCode {
    multiraft_allocator::give_back_at_once();
    let outcome = match args::Args::parse().bench {
        args::Bench::Throughput(options) => throughput::run(&options),
        args::Bench::Sweep(options) => sweep::run(&options),
        args::Bench::Idle(options) => idle::run(&options),
        args::Bench::Density(options) => density::run(&options),
        args::Bench::Placement(options) => placement::run(&options),
        args::Bench::SplitMerge(options) => live::split_merge::run(&options),
        args::Bench::Drain(options) => live::drain::run(&options),
        args::Bench::Snapshot(options) => live::snapshot::run(&options),
        args::Bench::Failover(options) => live::failover::run(&options),
        args::Bench::Reads(options) => reads::run(&options),
        args::Bench::Plots(options) => plots::run(&options),
        args::Bench::Recovery(options) => live::recovery::run(&options),
        args::Bench::Restart(options) => live::restart::run(&options),
        #[cfg(feature = "peers")]
        args::Bench::Peers(options) => peers::run(&options),
        #[cfg(feature = "peers")]
        args::Bench::Peer(options) => peers::child::run(&options),
        args::Bench::Limits(options) => limits::run(&options),
        args::Bench::Micro(options) => micro::run(&options),
        args::Bench::MicroPath(options) => micro::run_path(&options),
        args::Bench::Store(options) => store::run(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}
