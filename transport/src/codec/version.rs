//! The versions of the wire format, and what an older one lacks.

use crate::{PeerMessage, RegionMessage, RegionStep};

/// The newest version of this format. Two stores talk in the newest that both speak.
pub const WIRE_VERSION: u16 = 2;

/// The oldest version that is still spoken.
pub(crate) const WIRE_VERSION_MIN: u16 = 1;

/// The version that a message came with. Over a link of an older one it is not sent: whatever came after version 1 has to do without
/// being heard.
pub(crate) fn version_of(message: &PeerMessage) -> u16 {
    match message {
        PeerMessage::Region(RegionMessage { step: RegionStep::BegunAnew { .. }, .. }) => 2,
        _ => WIRE_VERSION_MIN,
    }
}
