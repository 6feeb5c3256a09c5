//! The wire format of everything two stores say to each other, up to version [`WIRE_VERSION`].
//!
//! Owns: bytes for frames of [`PeerMessage`](crate::PeerMessage), for snapshot headers and chunks, and for region
//! descriptors (the engine keeps those on disk in this form too). Never touches a socket: the simulator uses it as it
//! stands. `docs/wire-format.md` gives the layout to the byte.
//!
//! What decoding promises, whatever the bytes: no panic; an error names the offset and the reason; nothing is allocated
//! for a count before the bytes for it are known to be there; what a decoded frame takes in memory is bounded by
//! [`Limits`].

mod beats;
mod descriptor;
mod error;
mod forward;
mod frame;
mod fuzz;
mod limits;
mod raft;
mod reader;
mod region;
mod size;
mod snapshot;
mod support;
mod varint;
mod version;

pub use descriptor::{decode_descriptor, encode_descriptor};
pub use error::{WireError, WireFault};
pub use frame::{FRAME_PREFIX, Frame, FrameBuilder, decode_frame};
pub use fuzz::fuzz_decode;
pub use limits::{Limits, TooLarge};
pub use size::footprint;
pub use snapshot::{decode_snapshot_chunk, decode_snapshot_header, encode_snapshot_chunk, encode_snapshot_header};
pub use version::WIRE_VERSION;

pub(crate) use snapshot::{CHUNK_PREFIX_MAX, encode_chunk_prefix};
pub(crate) use version::{WIRE_VERSION_MIN, version_of};
