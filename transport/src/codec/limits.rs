//! How much one frame may hold.

/// What a decoder lets pass. Both ends of a link must have the same limits, or the smaller ones refuse frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest frame, in bytes. A command larger than this, less a few hundred bytes, cannot be replicated.
    pub frame_bytes_max: usize,
    /// The most messages in one frame.
    pub messages_max: usize,
    /// The most list elements in one frame, all lists of all its messages together: entries, beats, replies, replicas.
    pub items_max: usize,
    /// The longest snapshot chunk, in bytes.
    pub chunk_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { frame_bytes_max: 16 << 20, messages_max: 1 << 16, items_max: 1 << 18, chunk_bytes_max: 4 << 20 }
    }
}

/// A message that fits into no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a message of about {bytes} bytes with {items} elements fits into no frame ({bytes_max} bytes, {items_max} elements): split it"
)]
pub struct TooLarge {
    /// The length it could take.
    pub bytes: usize,
    /// The most that a frame takes.
    pub bytes_max: usize,
    /// Its list elements.
    pub items: usize,
    /// The most that a frame takes.
    pub items_max: usize,
}
