//! draft
mod config;

pub mod apply;
pub mod assembly;
pub mod error;
pub mod logic;
pub mod machine;
mod region;
pub mod status;
