//! The Redis protocol, from a socket to the engine and back.

mod command;
mod glob;
mod reply;
mod request;
mod table;
