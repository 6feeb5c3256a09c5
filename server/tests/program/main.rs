//! The program itself: processes, command lines, sockets, files, signals.

#![allow(clippy::unwrap_used, reason = "a test")]

mod answers;
mod bad_input;
mod commands;
mod ctl;
mod ctl_check;
mod ctl_stores;
mod disk_full;
#[path = "../harness/mod.rs"]
mod harness;
mod lifecycle;
mod recover;
mod sessions;
mod transactions;
