//! Why a connection is closed: a number and a sentence, so that both sides' logs tell the same story.

use quinn::{Connection, ConnectionError, VarInt};

use crate::DownReason;

/// The code of a close; part of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CloseCode {
    // Zero is what QUIC sends when a connection is dropped without a word.
    Shutdown = 1,
    Requested = 2,
    Replaced = 3,
    Duplicate = 4,
    WrongVersion = 5,
    WrongCluster = 6,
    WrongStore = 7,
    StaleIncarnation = 8,
    Malformed = 9,
    HandshakeTimeout = 10,
    TooManyPeers = 11,
    Internal = 12,
    Fenced = 13,
    OtherBirth = 14,
}

/// The longest reason that is put on the wire: it must fit into one packet with room to spare.
const REASON_BYTES_MAX: usize = 512;

impl CloseCode {
    pub(crate) fn close(self, connection: &Connection, reason: &str) {
        let mut end = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        connection.close(self.number(), &reason.as_bytes()[..end]);
    }

    /// The code as it goes over the wire.
    pub(crate) fn number(self) -> VarInt {
        VarInt::from_u32(u32::from(self as u8))
    }

    /// Whether the peer closed with this code.
    pub(crate) fn is_of(self, error: &ConnectionError) -> bool {
        matches!(error, ConnectionError::ApplicationClosed(close) if close.error_code == self.number())
    }
}

/// What the owner is told when the QUIC layer says that a connection is over.
pub(crate) fn down_reason(error: &ConnectionError) -> DownReason {
    match error {
        _ if CloseCode::Replaced.is_of(error) => DownReason::Replaced,
        ConnectionError::ApplicationClosed(close) => DownReason::ClosedByPeer(printable(&close.reason)),
        ConnectionError::TimedOut => DownReason::TimedOut,
        ConnectionError::LocallyClosed => DownReason::Requested,
        ConnectionError::Reset => {
            DownReason::Lost("the peer has restarted and does not know the connection".to_owned())
        }
        other => DownReason::Lost(other.to_string()),
    }
}

/// A reason from the wire, safe to log: bounded, without control characters.
fn printable(reason: &[u8]) -> String {
    let reason = &reason[..reason.len().min(REASON_BYTES_MAX)];
    String::from_utf8_lossy(reason).chars().map(|c| if c.is_control() { '.' } else { c }).collect()
}
