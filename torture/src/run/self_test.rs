//! The harness held against itself: with each bug planted in the stores, a run has to find it.

#![allow(clippy::print_stdout, reason = "a run goes on for long: whoever waits sees what it does")]

use std::path::{Path, PathBuf};

use super::{Ground, Plan, run};
use crate::check::Workload;
use crate::cluster::Program;
use crate::nemesis::Kind;
use crate::trouble::{Outcome, Trouble};

/// How a planted bug is brought to light.
struct Bait {
    /// Its name in the stores.
    plant: &'static str,
    workload: Workload,
    kinds: &'static [Kind],
    regions: u64,
    seconds: u64,
    clients: u64,
    state: &'static str,
    reads: &'static str,
    ground: Ground,
}

/// All bugs that can be planted.
const BAITS: &[Bait] = &[
    Bait {
        plant: "ack-before-fsync",
        workload: Workload::ListAppend,
        kinds: &[Kind::KillAll],
        regions: 8,
        seconds: 20,
        clients: 20,
        state: "mem",
        reads: "linearizable",
        ground: Ground::Any,
    },
    Bait {
        plant: "lease-after-pause",
        workload: Workload::Register,
        kinds: &[Kind::Pause],
        regions: 8,
        seconds: 40,
        clients: 30,
        state: "mem",
        reads: "lease",
        ground: Ground::Any,
    },
    Bait {
        plant: "stale-read",
        workload: Workload::Register,
        kinds: &[Kind::Partition],
        regions: 8,
        seconds: 20,
        clients: 20,
        state: "mem",
        reads: "linearizable",
        ground: Ground::Any,
    },
    Bait {
        plant: "lost-split-writes",
        workload: Workload::ListAppend,
        kinds: &[Kind::Split, Kind::Merge],
        regions: 8,
        seconds: 20,
        clients: 20,
        state: "sled",
        reads: "linearizable",
        ground: Ground::Any,
    },
    Bait {
        plant: "vote-not-persisted",
        workload: Workload::ListAppend,
        kinds: &[Kind::KillVoter],
        regions: 24,
        seconds: 60,
        clients: 100,
        state: "mem",
        reads: "linearizable",
        // Late packets leave time between a vote and what its winner does with it.
        ground: Ground::Proxy,
    },
    Bait {
        plant: "double-apply",
        workload: Workload::Sessions,
        kinds: &[Kind::Kill, Kind::Transfer],
        regions: 8,
        seconds: 30,
        clients: 20,
        state: "mem",
        reads: "linearizable",
        ground: Ground::Any,
    },
];

/// Plants each bug (or those of these names) and says whether all were found: in the program, or in one that embeds the engine. A run
/// that fails for another reason than what clients were told has found nothing.
///
/// # Errors
/// A run could not be made, or a name is none.
pub fn self_test(
    program: Option<PathBuf>,
    embedding: Option<&Path>,
    only: &[String],
    tries: u64,
    seed: u64,
) -> Outcome<bool> {
    if let Some(unknown) = only.iter().find(|name| BAITS.iter().all(|bait| bait.plant != **name)) {
        let names: Vec<&str> = BAITS.iter().map(|bait| bait.plant).collect();
        return Err(Trouble::new(format!("no bug `{unknown}` can be planted; there are {}", names.join(", "))));
    }
    let program = program.map_or_else(|| Program::build().map(|program| program.path().to_owned()), Ok)?;
    let mut missed = Vec::new();
    for bait in BAITS.iter().filter(|bait| only.is_empty() || only.iter().any(|name| name == bait.plant)) {
        let mut found = None;
        for seed in seed..seed + tries.max(1) {
            println!("--- {}: seed {seed}", bait.plant);
            let summary = run(&plan(bait, program.clone(), embedding, seed))?;
            let by: Vec<&str> = summary.refuted.iter().map(String::as_str).collect();
            println!("--- {}: refuted by {by:?}", bait.plant);
            if by.contains(&bait.workload.name()) {
                found = Some((seed, summary));
                break;
            }
        }
        match found {
            Some((seed, summary)) => println!("{}\n--- {}: found with seed {seed}", summary.text, bait.plant),
            None => missed.push(bait.plant),
        }
    }
    if missed.is_empty() {
        println!("every planted bug was found");
    } else {
        println!("NOT FOUND: {}", missed.join(", "));
    }
    Ok(missed.is_empty())
}

fn plan(bait: &Bait, program: PathBuf, embedding: Option<&Path>, seed: u64) -> Plan {
    let client = if embedding.is_some() { " --client embed" } else { "" };
    Plan {
        workloads: vec![bait.workload],
        kinds: bait.kinds.to_vec(),
        stores: 3,
        regions: bait.regions,
        seconds: bait.seconds,
        seed,
        clients: bait.clients,
        rate: None,
        program: Some(program),
        embedding: embedding.map(Path::to_owned),
        ground: bait.ground,
        state: Some(bait.state.to_owned()),
        reads: Some(bait.reads.to_owned()),
        plant: Some(bait.plant.to_owned()),
        history: None,
        out: None,
        command: format!(
            "cargo run --release -p multiraft-torture -- self-test --only {} --seed {seed}{client}",
            bait.plant
        ),
    }
}
