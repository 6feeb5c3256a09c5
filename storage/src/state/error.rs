//! Why a state store could not do what was asked, and what to do then.

/// Why a state store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The disk is full. Nothing of the failed batch is visible; the store works again once there is space.
    #[error("no space left for the state store at {path}: free some, the store goes on by itself")]
    NoSpace {
        /// Where.
        path: String,
    },
    /// The files are damaged or of another format.
    #[error("the state store at {path} cannot be read ({reason}): restore it from a peer or a backup")]
    Damaged {
        /// Where.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The operating system refused. After a failed flush the store must not be used any more.
    #[error("the state store at {path} failed: {source}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// More was overwritten under an open snapshot than the store keeps old values for. The store itself is well.
    #[error(
        "the snapshot was given up after {kept} bytes had been overwritten under it: open another and read it faster"
    )]
    SnapshotLost {
        /// How many bytes of old values it had kept.
        kept: usize,
    },
}
