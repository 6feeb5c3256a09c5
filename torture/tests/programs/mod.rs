//! The program that is tested by others, for tests that start whole runs.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The program beside the harness, built if nobody has.
pub(crate) fn multiraft() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_multiraft-torture")).with_file_name("multiraft");
    if !path.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "--package", "multiraft-server"]);
        assert!(build.status().unwrap().success());
    }
    path
}
