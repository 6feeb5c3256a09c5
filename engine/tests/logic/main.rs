//! What needs no thread, clock or socket: workers driven turn by turn, the planner of placement, the planner of recoveries.

#![allow(clippy::unwrap_used, reason = "a test")]

mod asleep;
mod campaign;
mod check;
mod floor;
mod leases;
mod merge;
mod merge_pace;
mod newcomer;
mod nothing;
mod pace;
mod park;
mod placement;
mod placement_model;
mod placement_properties;
mod placement_sim;
mod received;
mod recovery_model;
mod recovery_plan;
mod routes;
mod snapshots;
mod split;
mod stores;
mod support;
mod turns;
mod worker;
mod worker_config;
