//! The directory that a store keeps its files in.

use std::io::ErrorKind;
use std::path::Path;

use crate::error::StartError;
use crate::shell::StoreFile;

/// Makes a directory and whatever is missing above it, so that all of it outlives a power failure.
pub(super) fn make_durably(dir: &Path) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_durably(parent)?;
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made?,
    }
    std::fs::File::open(parent)?.sync_all()
}

/// A store that has run before must not start on an empty log: it would vote as if it had promised nothing.
pub(crate) fn check_log_is_there(dir: &Path) -> Result<(), StartError> {
    let log = dir.join("log");
    let is_empty = std::fs::read_dir(&log)
        .map_or(true, |mut files| files.all(|file| file.is_ok_and(|file| file.file_name() == "LOCK")));
    if StoreFile::exists(dir) && is_empty {
        return Err(StartError::DataDir(format!(
            "{} is gone, and with it what this store has promised: put it back, or set {} aside and let the store rejoin under a new store id",
            log.display(),
            dir.display()
        )));
    }
    Ok(())
}
