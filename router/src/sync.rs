//! The atomics that our own protocols are built on, swapped for loom's when the crate is built with `--cfg loom`.
//!
//! Only protocols of this crate use it: crossbeam's channel and dashmap are not known to loom and stay outside its models.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
