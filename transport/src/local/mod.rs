//! Links between stores of one process: queues instead of QUIC.
//!
//! [`network`] knows who is there, and decides which two stores have a link ([`wire`]); `links` is one store's end of it all. A
//! sender puts messages on a lane's [`queue`], and the link thread of the receiving store takes out what has come together, as one
//! frame, as fast as its handler gives memory back. [`snapshot`] carries chunks of snapshots.
//!
//! The promises are those of QUIC links: see [`Handler`](crate::Handler) and [`Transport`](crate::Transport).

mod links;
mod network;
mod queue;
mod snapshot;
mod wire;

pub use network::LocalNetwork;

pub(crate) use links::LocalLinks;
