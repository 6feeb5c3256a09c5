//! Which hot paths there are.

use std::path::Path as FilePath;

use super::stores::{Part, Stores};
use super::{MicroPath, step};
use crate::cluster::Problem;

/// One hot path.
pub(super) struct Path {
    pub(super) name: &'static str,
    /// What its count is of.
    pub(super) each: &'static str,
    run: Run,
}

/// How it is run.
enum Run {
    /// A leader's write, in one group.
    LeaderStep,
    /// A follower's append, in one group.
    FollowerStep,
    /// A part of what three stores do to write once to each of so many groups, so many times.
    Stores { groups: u64, payload: u64, rounds: u64, part: Part },
}

const fn stores(name: &'static str, groups: u64, rounds: u64, part: Part) -> Path {
    Path { name, each: "write", run: Run::Stores { groups, payload: 16, rounds, part } }
}

const fn large(name: &'static str, part: Part) -> Path {
    Path { name, each: "write of 1 KiB", run: Run::Stores { groups: 64, payload: 1024, rounds: 20, part } }
}

/// Steps that one group takes while they are counted.
const STEPS: u64 = 2_000;
/// Rounds of writes before it is counted: buffers have their size, caches of entries are filled.
const WARM_UP: u64 = 4;

/// All of them.
pub(super) const ALL: &[Path] = &[
    Path { name: "raft-step-leader", each: "write", run: Run::LeaderStep },
    Path { name: "raft-step-follower", each: "append", run: Run::FollowerStep },
    stores("turns-leader-1", 1, 200, Part::LeaderTurns),
    stores("turns-leader-64", 64, 20, Part::LeaderTurns),
    stores("turns-leader-1024", 1024, 4, Part::LeaderTurns),
    stores("turns-follower-64", 64, 20, Part::FollowerTurns),
    stores("frame-encode-64", 64, 20, Part::Encode),
    stores("frame-decode-64", 64, 20, Part::Decode),
    large("frame-decode-64-1k", Part::Decode),
    stores("log-append-1", 1, 200, Part::Log),
    stores("log-append-64", 64, 20, Part::Log),
    large("log-append-64-1k", Part::Log),
    stores("apply-1", 1, 200, Part::Apply),
    stores("apply-64", 64, 20, Part::Apply),
];

/// Runs the path of that name, in `options.dir`; gives how many operations were counted.
pub(super) fn run(options: &MicroPath) -> Result<u64, Problem> {
    let path = ALL.iter().find(|path| path.name == options.path);
    let Some(path) = path else { return Err(Problem::Micro(format!("{} is no path", options.path))) };
    path.run(options.seed, options.quick, &options.dir)
}

impl Path {
    fn run(&self, seed: u64, quick: bool, dir: &FilePath) -> Result<u64, Problem> {
        match self.run {
            Run::LeaderStep => Ok(step::lead(if quick { 10 } else { STEPS }, seed)),
            Run::FollowerStep => Ok(step::follow(if quick { 10 } else { STEPS }, seed)),
            Run::Stores { groups, payload, rounds, part } => {
                let (groups, rounds) = if quick { (groups.min(16), 2) } else { (groups, rounds) };
                let mut stores = Stores::new(groups, payload, seed, dir)?;
                stores.lead_all()?;
                for _ in 0..WARM_UP {
                    stores.write_to_all(None)?;
                }
                for _ in 0..rounds {
                    stores.write_to_all(Some(part))?;
                }
                Ok(groups * rounds)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn every_path_carries_its_writes_out() {
        for path in ALL {
            let dir = tempfile::tempdir().unwrap();
            assert!(path.run(3, true, dir.path()).unwrap() > 1, "{}", path.name);
        }
    }
}
