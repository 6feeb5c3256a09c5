//! The program under test: given, or built from this workspace with what tests of clocks and planted bugs need.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::trouble::{Outcome, Trouble, While};

/// What a program that can be given a clock has in it: the name of the variable by which it is told.
const CLOCK: &[u8] = b"MULTIRAFT_TORTURE_CLOCK";

/// An executable `multiraft`.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    can_drift: bool,
    /// What stores run instead, with its first word.
    embedding: Option<PathBuf>,
}

/// What a program that embeds the engine is told to be a store.
pub const EMBEDDED: &str = "embedded-store";

impl Program {
    /// The program at a path.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn at(path: &Path) -> Outcome<Self> {
        let bytes = std::fs::read(path).trying(|| format!("reading the program {}", path.display()))?;
        let can_drift = bytes.windows(CLOCK.len()).any(|window| window == CLOCK);
        Ok(Self { path: path.to_owned(), can_drift, embedding: None })
    }

    /// Builds it, if this is run by cargo: optimized, with the feature `torture`, in a target folder of its own.
    ///
    /// # Errors
    /// This is not run by cargo, or it does not build.
    pub fn build() -> Outcome<Self> {
        let hint =
            "give the program by --program, built with `cargo build --release -p multiraft-server --features torture`";
        let (Some(cargo), Some(manifest)) = (env::var_os("CARGO"), env::var_os("CARGO_MANIFEST_DIR")) else {
            return Err(Trouble::new(format!("this is not run by cargo, so there is nothing to build: {hint}")));
        };
        let manifest = PathBuf::from(manifest);
        let workspace = manifest.parent().ok_or_else(|| Trouble::new("the workspace is not where it was"))?;
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
        let target = target.join("torture");
        let mut build = Command::new(cargo);
        build.current_dir(workspace).stdin(Stdio::null());
        build.args(["build", "--release", "--locked", "--package", "multiraft-server", "--features", "torture"]);
        build.arg("--target-dir").arg(&target);
        let built = build.status().trying(|| "running cargo".to_owned())?;
        if !built.success() {
            return Err(Trouble::new(format!("cargo could not build the program: {hint}")));
        }
        Self::at(&target.join("release").join("multiraft"))
    }

    /// The same, for operators; stores run a program that embeds the engine and takes the same flags behind [`EMBEDDED`].
    #[must_use]
    pub fn with_embedding(self, path: PathBuf) -> Self {
        Self { can_drift: false, embedding: Some(path), ..self }
    }

    /// What a store runs, and its first word.
    pub(super) fn of_stores(&self) -> (&Path, &'static str) {
        self.embedding.as_deref().map_or((&self.path, "serve"), |path| (path, EMBEDDED))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its clock can be made to run fast and slow.
    #[must_use]
    pub fn can_drift(&self) -> bool {
        self.can_drift
    }

    /// A command that runs it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.env("RUST_LOG", "warn").stdin(Stdio::null());
        command
    }
}
