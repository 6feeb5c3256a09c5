//! What each path took when somebody last looked: a file in the repository.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::Problem;

/// How much more a path may take, in percent.
pub(super) const PERCENT_MAX: f64 = 5.0;

/// The file, as it was read.
pub(super) struct Baseline {
    file: Value,
}

/// How counts stand to the baseline.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Fine,
    /// These take so much less that the baseline lets a loss pass.
    Better(String),
    /// These take more than they may.
    Worse(String),
    /// It cannot be compared with.
    Unknown(String),
}

impl Baseline {
    /// An absent file holds nothing.
    pub(super) fn read(path: &Path) -> Result<Self, Problem> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "{}".to_owned(),
            Err(source) => return Err(Problem::Io { what: "the baseline cannot be read", source }),
        };
        let file = serde_json::from_str(&text);
        Ok(Self { file: file.map_err(|error| Problem::Micro(format!("{}: {error}", path.display())))? })
    }

    /// The same file with these counts. What it knows of other paths stays, if it was counted likewise.
    pub(super) fn renewed(&self, counts: &BTreeMap<&'static str, f64>, is_quick: bool) -> Self {
        let mut file = json!({ "of": kind(is_quick), "rustc": rustc(), "instructions": {} });
        if self.file["of"] == file["of"] {
            file["instructions"] = self.file["instructions"].clone();
        }
        counts.iter().for_each(|(name, count)| file["instructions"][*name] = count.round().into());
        Self { file }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), Problem> {
        let text = serde_json::to_string_pretty(&self.file)
            .expect("invariant: maps of strings to numbers have a form in JSON");
        let written = std::fs::write(path, text + "\n");
        written.map_err(|source| Problem::Io { what: "the baseline cannot be written", source })
    }

    /// What a path took.
    pub(super) fn of(&self, path: &str) -> Option<f64> {
        self.file["instructions"][path].as_f64()
    }

    pub(super) fn judge(&self, counts: &BTreeMap<&'static str, f64>, is_quick: bool) -> Verdict {
        let (then, now) = (self.file["of"].as_str().unwrap_or("nothing"), kind(is_quick));
        if then != now {
            return Verdict::Unknown(format!("the baseline is of {then}, and this is {now}"));
        }
        let (mut better, mut worse) = (Vec::new(), Vec::new());
        for (name, now) in counts {
            let Some(before) = self.of(name) else {
                return Verdict::Unknown(format!("the baseline does not know {name}"));
            };
            let change = change_percent(before, *now);
            if change > PERCENT_MAX {
                worse.push(format!("{name} takes {now:.0} instead of {before:.0} ({change:+.1} %)"));
            } else if change < -PERCENT_MAX {
                better.push((*name).to_owned());
            }
        }
        match (worse.is_empty(), better.is_empty()) {
            (false, _) => Verdict::Worse(worse.join(", ")),
            (true, false) => Verdict::Better(better.join(", ")),
            (true, true) => Verdict::Fine,
        }
    }

    /// What else may be the reason, if the compiler is another one.
    pub(super) fn made_elsewhere(&self) -> String {
        let (then, now) = (self.file["rustc"].as_str().unwrap_or("an unknown compiler"), rustc());
        if then == now { String::new() } else { format!(". The baseline is of {then}, and this is {now}") }
    }
}

/// What can be compared with each other.
fn kind(is_quick: bool) -> String {
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let run = if is_quick { "quick" } else { "whole" };
    let environment = environment();
    let flags = if environment.is_empty() { "as the manifest says" } else { environment.trim_end() };
    format!("a {run} run of a {build} build ({flags}) on {}", std::env::consts::ARCH)
}

/// What the environment of the build said of how to optimise: that changes what is inlined. Empty: it is as the manifest says.
fn environment() -> String {
    let set = [
        ("CARGO_PROFILE_RELEASE_LTO", option_env!("CARGO_PROFILE_RELEASE_LTO")),
        ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", option_env!("CARGO_PROFILE_RELEASE_CODEGEN_UNITS")),
    ];
    set.into_iter().filter_map(|(name, value)| Some(format!("{name}={} ", value?))).collect()
}

/// How to renew the baseline, as this program was built.
pub(super) fn renewing() -> String {
    format!("{}cargo run --release -p multiraft-benches -- micro --renew", environment())
}

pub(super) fn change_percent(before: f64, now: f64) -> f64 {
    if before > 0.0 { (now - before) / before * 100.0 } else { 0.0 }
}

fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output();
    output.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(step: f64, frame: f64) -> Verdict {
        let file = json!({ "of": kind(false), "instructions": { "step": 1000, "frame": 200 } });
        Baseline { file }.judge(&BTreeMap::from([("step", step), ("frame", frame)]), false)
    }

    #[test]
    fn five_percent_more_may_be_and_no_more() {
        assert_eq!(verdict(1000.0, 200.0), Verdict::Fine);
        assert_eq!(verdict(1050.0, 191.0), Verdict::Fine);
        assert_eq!(verdict(1051.0, 100.0), Verdict::Worse("step takes 1051 instead of 1000 (+5.1 %)".to_owned()));
        assert_eq!(verdict(1000.0, 189.0), Verdict::Better("frame".to_owned()));
    }

    #[test]
    fn renewing_some_paths_keeps_the_others_that_were_counted_likewise() {
        let renewed = |of: String| {
            let file = json!({ "of": of, "instructions": { "step": 1000, "frame": 200 } });
            let renewed = Baseline { file }.renewed(&BTreeMap::from([("frame", 150.4)]), false);
            (renewed.of("step"), renewed.of("frame"))
        };
        assert_eq!(renewed(kind(false)), (Some(1000.0), Some(150.0)));
        assert_eq!(renewed(kind(true)), (None, Some(150.0)));
    }

    #[test]
    fn what_cannot_be_compared_is_no_success() {
        let of = |file: Value| Baseline { file }.judge(&BTreeMap::from([("new", 1.0)]), false);
        assert!(matches!(of(json!({})), Verdict::Unknown(_)), "no baseline");
        assert!(matches!(of(json!({ "of": kind(false) })), Verdict::Unknown(_)), "a path that it does not know");
        let quick = json!({ "of": kind(true), "instructions": { "new": 1 } });
        assert!(matches!(of(quick), Verdict::Unknown(_)), "fewer operations");
    }
}
