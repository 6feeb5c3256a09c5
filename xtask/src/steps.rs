//! The list of checks: what CI runs, in order, each with a name and a time limit.
//!
//! The limits hold for two cores and a cold build; together with what a bare machine has to install they stay below half
//! an hour.

use std::time::Duration;

use crate::process::Invocation;

/// One check.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) limit: Duration,
    /// Run one after the other; none means the checks of [`crate::style`].
    pub(crate) commands: &'static [Invocation],
}

const fn plain(words: &'static [&'static str]) -> Invocation {
    Invocation { environment: &[], words }
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// What `cargo xtask fix` runs.
pub(crate) const FIX: Invocation = plain(&["cargo", "fmt", "--all"]);

/// With what tests of clocks add, and the other libraries that are measured beside this one.
const FEATURES: &str = "multiraft-server/torture,multiraft-benches/peers";

/// The programs as they are used.
const RELEASE: Invocation = plain(&[
    "cargo",
    "build",
    "--release",
    "--locked",
    "-p",
    "multiraft-server",
    "-p",
    "multiraft-sim",
    "-p",
    "multiraft-benches",
]);

/// Everything that `cargo xtask check` runs.
pub(crate) const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        what: "the code is formatted",
        limit: seconds(60),
        commands: &[plain(&["cargo", "fmt", "--all", "--check"])],
    },
    Step { name: "style", what: "file sizes, layering, dependencies, words", limit: seconds(60), commands: &[] },
    Step {
        name: "deny",
        what: "licences, bans and sources of all dependencies",
        limit: seconds(60),
        commands: &[plain(&["cargo", "deny", "--offline", "check", "bans", "licenses", "sources"])],
    },
    Step {
        name: "clippy",
        what: "lints are errors",
        limit: seconds(480),
        // No other step would see what the features add.
        commands: &[plain(&[
            "cargo",
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--features",
            FEATURES,
            "--",
            "-D",
            "warnings",
        ])],
    },
    Step {
        name: "docs",
        what: "the documentation builds without a warning",
        limit: seconds(300),
        commands: &[Invocation {
            environment: &[("RUSTDOCFLAGS", "-D warnings")],
            // As for clippy: other features would have dependencies checked once more.
            words: &["cargo", "doc", "--workspace", "--no-deps", "--locked", "--features", FEATURES],
        }],
    },
    Step {
        name: "tests",
        what: "all tests of all crates",
        limit: seconds(900),
        // The second with stores whose clocks run wrong, which what ships cannot do.
        commands: &[
            plain(&["cargo", "test", "--workspace", "--locked"]),
            plain(&[
                "cargo",
                "test",
                "--package",
                "multiraft-server",
                "--locked",
                "--features",
                "torture",
                "--test",
                "fire",
            ]),
        ],
    },
    Step {
        name: "plants",
        what: "the bugs that can be planted for the self-test of the harness have an effect",
        limit: seconds(400),
        commands: &[plain(&[
            "cargo",
            "test",
            "--package",
            "multiraft",
            "--package",
            "multiraft-storage",
            "--locked",
            "--features",
            "multiraft/torture",
            "--test",
            "plant",
            "--test",
            "plants",
        ])],
    },
    Step {
        name: "torture",
        what: "short runs of real clusters under faults, histories judged, and a planted bug that has to be found",
        limit: seconds(600),
        commands: &[
            // As tests have built them: otherwise dependencies would have other features, and be built again.
            plain(&[
                "cargo",
                "test",
                "--no-run",
                "--locked",
                "--package",
                "multiraft-server",
                "--features",
                "torture",
                "--test",
                "fire",
            ]),
            plain(&["cargo", "test", "--no-run", "--locked", "--package", "multiraft-torture", "--test", "program"]),
            plain(&["sh", "-c", RUNS]),
        ],
    },
    Step {
        name: "loom",
        what: "every interleaving of the mailbox's admission",
        limit: seconds(240),
        commands: &[Invocation {
            // A folder of its own: other flags would rebuild everything, to and fro.
            environment: &[("RUSTFLAGS", "--cfg loom"), ("CARGO_TARGET_DIR", "target/loom")],
            words: &["cargo", "test", "--release", "--locked", "-p", "multiraft-router", "--test", "loom_*"],
        }],
    },
    Step {
        name: "fuzz",
        what: "decoders on mutated and random bytes",
        limit: seconds(240),
        commands: &[Invocation {
            environment: &[("FUZZ_ITERATIONS", "10000000")],
            words: &["cargo", "test", "--release", "--locked", "-p", "xtask", "--test", "fuzz_decoders"],
        }],
    },
    Step { name: "release", what: "the programs build, optimised", limit: seconds(480), commands: &[RELEASE] },
    Step {
        name: "sim",
        what: "simulated clusters under faults, from fixed seeds",
        limit: seconds(360),
        // Not `cargo run`: for one package alone, dependencies would have other features, and all of them be built again.
        commands: &[
            RELEASE,
            plain(&["sh", "-c", "exec \"${CARGO_TARGET_DIR:-target}/release/multiraft-sim\" run --seeds 0..300"]),
        ],
    },
    Step {
        name: "instructions",
        what: "hot paths take no more instructions than they did, but for 5 %",
        limit: seconds(240),
        commands: &[
            RELEASE,
            plain(&["sh", "-c", "exec \"${CARGO_TARGET_DIR:-target}/release/multiraft-benches\" micro --check"]),
        ],
    },
    Step {
        name: "demo",
        what: "a real cluster in one command",
        limit: seconds(120),
        commands: &[plain(&[
            "cargo",
            "run",
            "--release",
            "--locked",
            "--",
            "demo",
            "--presplit",
            "--regions",
            "50",
            "--json",
        ])],
    },
];

/// Short runs: together every workload, and every kind of fault. What they find is told by their exit codes.
const RUNS: &str = r#"
set -e
bin="${CARGO_TARGET_DIR:-target}/debug"
run() { "$bin/multiraft-torture" run --program "$bin/multiraft" "$@"; }
run --workload register,list-append --nemesis processes,partition,jump --stores 3 --seconds 12 --seed 1 --clients 5
run --workload sessions,bank,lock --nemesis kill,delay,duplicate,loss,drift --stores 3 --seconds 10 --seed 2 --clients 4
run --workload set,counter,scan,unique-ids,long-fork,bounded-staleness --nemesis split,merge,move,members,transfer,kill \
    --stores 5 --seconds 12 --seed 3 --clients 2
run --workload register,list-append --nemesis disks --stores 3 --seconds 25 --seed 4 --clients 4
exec "$bin/multiraft-torture" self-test --program "$bin/multiraft" --only ack-before-fsync
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_limits_leave_room_in_half_an_hour() {
        for (place, step) in STEPS.iter().enumerate() {
            assert!(STEPS[..place].iter().all(|other| other.name != step.name), "{} twice", step.name);
            assert!(!step.limit.is_zero() && step.limit <= seconds(900), "{}", step.name);
        }
    }
}
