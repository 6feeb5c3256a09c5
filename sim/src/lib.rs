//! Whole multiraft clusters in one thread on virtual time, with faults, from a seed.
//!
//! [`cluster`] runs them, [`check`] judges them, [`run`] does so for many seeds. What runs inside is what ships; see
//! `docs/testing.md`.

pub mod check;
pub mod cluster;
pub mod counters;
pub mod disaster;
pub mod enumerate;
pub mod history;
pub mod life;
pub mod machine;
pub mod plan;
pub mod plant;
pub mod random;
pub mod run;
pub mod schedule;
pub mod trace;
