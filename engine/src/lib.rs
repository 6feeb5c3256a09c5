//! draft
mod config;

pub mod assembly; 
pub mod error; 
pub mod logic; 
pub mod apply; 
pub mod machine;
mod region; 
pub mod status;
