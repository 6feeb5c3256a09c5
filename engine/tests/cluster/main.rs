//! Clusters of real stores in one process: real threads, clocks, sockets and disks.

#![allow(clippy::unwrap_used, reason = "a test")]

mod basics;
mod check;
mod check_own;
mod leases;
mod liveness;
mod local;
mod own_state;
mod placement;
mod placement_pace;
mod placement_renew;
mod placement_sizes;
mod planning;
mod recovery;
mod regions;
mod rejoin;
mod routing;
mod session_tokens;
mod snapshots;
#[path = "../support/mod.rs"]
mod support;
