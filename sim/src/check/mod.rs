//! The judges of a run. None of them knows the simulator: each takes what happened, in order, and names the first thing
//! that must never happen.

pub mod consensus;
pub mod linearizable;
mod lives;
pub mod regions;
pub mod shadow;
pub mod state;
pub mod support;

/// Something happened that must never happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule was broken.
    pub rule: &'static str,
    /// What happened.
    pub detail: String,
}

impl Violation {
    /// A breach of `rule`.
    #[must_use]
    pub fn new(rule: &'static str, detail: impl Into<String>) -> Self {
        Self { rule, detail: detail.into() }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

/// What a check says.
pub type Verdict = Result<(), Violation>;
