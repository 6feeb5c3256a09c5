//! `multiraft serve`: one store, until it is told to stop.

mod boundaries;
mod config;
