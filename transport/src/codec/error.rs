//! Why bytes were refused.

/// Bytes that are no message of this format. They come from a peer (or a disk) that is broken, hostile or of another
/// version: the link they came over is to be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: {fault}")]
pub struct WireError {
    /// Where, counted from the first byte handed to the decoder.
    pub offset: usize,
    /// What is wrong there.
    pub fault: WireFault,
}

/// What is wrong with the bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireFault {
    /// They end too early.
    #[error("{missing} more bytes are needed for {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// At least how many bytes are missing.
        missing: u64,
    },
    /// A number is longer than it needs to be, or does not fit into 64 bits.
    #[error("the number is malformed")]
    BadNumber,
    /// No such kind of message, role, outcome or flag.
    #[error("{value:#04x} is no known {what}")]
    Unknown {
        /// What was being read.
        what: &'static str,
        /// What was found.
        value: u8,
    },
    /// More than the limits allow.
    #[error("{found} {what} where at most {limit} are allowed")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much was announced.
        found: u64,
        /// How much is allowed.
        limit: u64,
    },
    /// The parts are well formed, the whole is not.
    #[error("{0}")]
    Invalid(&'static str),
}
