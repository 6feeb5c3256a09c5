//! What ends the program: one line for a person, that says what to do.

use std::fmt::Display;
use std::io;
use std::path::Path;

/// Why a subcommand gave up.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    text: String,
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    /// A file or directory that could not be worked with.
    pub(crate) fn file(what: &str, path: &Path, error: io::Error) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => ": check the path",
            io::ErrorKind::PermissionDenied => ": check its owner and permissions",
            io::ErrorKind::StorageFull => ": free some space",
            _ => "",
        };
        Self::new(format!("cannot {what} {}: {error}{advice}", path.display()))
    }

    /// The same failure, with what was going on in front.
    pub(crate) fn during(what: &str, error: impl Display) -> Self {
        Self::new(format!("{what}: {error}"))
    }
}
