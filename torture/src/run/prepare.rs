//! What a run is made on: a folder, a net, a cluster.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Ground, Plan};
use crate::cleanup::{Guard, at_end, making};
use crate::cluster::{Cluster, Place, Program, Setup};
use crate::ground::{Net, Proxy, Spaces};
use crate::nemesis::{Disks, Kind};
use crate::random::Random;
use crate::stop::look_again;
use crate::trouble::{Outcome, Trouble, While};
use crate::workload;

/// How long a store tries before it says that it does not know.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a client waits for an answer: longer than that, and not for ever if the store stands still.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);
/// How long removing the folder of a run may be tried.
const REMOVED_WITHIN: Duration = Duration::from_secs(5);
/// How many stores begin a cluster; the others join.
const FOUNDERS: usize = 3;

/// A run's folder, which goes at the end unless it is kept.
pub(crate) struct Folder {
    path: PathBuf,
    /// Removes it.
    own: Option<Guard>,
}

impl Folder {
    pub(crate) fn as_path(&self) -> &Path {
        &self.path
    }

    /// It stays.
    pub(crate) fn keep(self) {
        if let Some(own) = self.own {
            own.keep();
        }
    }
}

/// The folder, and whether it is the user's.
pub(crate) fn directory(wanted: Option<&Path>) -> Outcome<(Folder, bool)> {
    let Some(path) = wanted else {
        let _making = making();
        let dir = tempfile::Builder::new().prefix("multiraft-torture-").tempdir();
        let path = dir.trying(|| "making a folder to work in".to_owned())?.keep();
        let removed = path.clone();
        let own = at_end(move || remove(&removed))?;
        return Ok((Folder { path, own: Some(own) }, false));
    };
    std::fs::create_dir_all(path).trying(|| format!("making {}", path.display()))?;
    let is_empty = std::fs::read_dir(path).trying(|| format!("reading {}", path.display()))?.next().is_none();
    if !is_empty {
        return Err(Trouble::new(format!(
            "{} is not empty: name a folder that is, or that is not there",
            path.display()
        )));
    }
    Ok((Folder { path: path.to_owned(), own: None }, true))
}

/// Removes a folder, into which somebody may write to the last.
fn remove(path: &Path) {
    let begun = Instant::now();
    while std::fs::remove_dir_all(path).is_err() && path.exists() && look_again(begun, REMOVED_WITHIN) {}
}

/// The cluster, not started yet, and how it is made, for people.
pub(super) fn cluster(plan: &Plan, dir: &Path) -> Outcome<(Cluster, Disks, Vec<String>)> {
    let mut program = plan.program.as_deref().map_or_else(Program::build, Program::at)?;
    if let Some(embedding) = &plan.embedding {
        check_embedding(plan)?;
        program = program.with_embedding(embedding.clone());
    }
    let mut random = Random::of_part(plan.seed, "cluster", 0);
    // Drawn whether they are used or not: what else is drawn must not depend on it.
    let drawn = (*random.pick(&["sled", "mem"]), *random.pick(&["linearizable", "lease"]));
    let state = plan.state.clone().unwrap_or_else(|| drawn.0.to_owned());
    let reads = plan.reads.clone().unwrap_or_else(|| drawn.1.to_owned());
    let mut notes = vec![format!("state {state}, reads {reads}, fsync on")];
    notes.extend(plan.embedding.as_ref().map(|_| "clients in the stores' processes, on the embedding API".to_owned()));
    let spaces = spaces(plan, &mut notes)?;
    let places = Place::of_stores(plan.stores, |store| spaces.as_ref().map(|spaces| spaces.address(store)));
    let net = match spaces {
        Some(spaces) => Net::Spaces(spaces),
        None => {
            let listens: Vec<_> = places.iter().map(|place| (place.store, place.listen)).collect();
            Net::Proxy(Proxy::start(&listens, plan.seed)?)
        }
    };
    notes.push(format!("between stores: {}", net.describe()));
    let timeout = format!("{}s", REQUEST_TIMEOUT.as_secs());
    let mut flags: Vec<String> =
        ["--state", &state, "--reads", &reads, "--request-timeout", &timeout, "--workers", "2"]
            .map(str::to_owned)
            .into();
    if plan.kinds.contains(&Kind::Drain) {
        // Who drains a store plans where its regions go.
        flags.extend(["--placement", "--placement-interval", "500ms", "--repair-after", "20s"].map(str::to_owned));
        flags.extend(["--merge-bytes", "0"].map(str::to_owned));
        notes.push("placement is on".to_owned());
    }
    let founding = founding(dir, plan.regions)?;
    let founders = FOUNDERS.min(places.len());
    let mut cluster = Cluster::prepare(Setup { program, dir: dir.to_owned(), net, places, founders, founding, flags })?;
    if !cluster.clocks.can_drift() {
        notes.push("clocks do not drift: the program is not built with the feature `torture`".to_owned());
    }
    if !cluster.clocks.can_jump() {
        notes.push("the time of day does not jump: libfaketime is not installed".to_owned());
    }
    if let Some(plant) = &plan.plant {
        notes.push(format!("planted in every store: {plant}"));
        for store in &mut cluster.stores {
            store.environment.insert("MULTIRAFT_TORTURE_PLANT".into(), plant.into());
        }
    }
    let disks = Disks::prepare(&mut cluster, &plan.kinds, &mut notes)?;
    Ok((cluster, disks, notes))
}

/// Stores that embed the engine can do what is asked of them.
fn check_embedding(plan: &Plan) -> Outcome<()> {
    if let Some(kind) = plan.kinds.iter().find(|kind| kind.needs_the_whole_program()) {
        let name = kind.name();
        return Err(Trouble::new(format!("a store that embeds the engine has no part in `{name}`: leave it out")));
    }
    Ok(())
}

/// What the founders are told: where the first regions are cut, evenly among the keys that clients use.
pub(crate) fn founding(dir: &Path, regions: u64) -> Outcome<Vec<String>> {
    let file = dir.join("bootstrap-keys");
    let keys: String = (0..regions * 10).map(|at| format!("key:{:06}\n", at * 1_000_000 / (regions * 10))).collect();
    std::fs::write(&file, keys).trying(|| format!("writing {}", file.display()))?;
    let words = ["--bootstrap-regions", &regions.to_string(), "--bootstrap-keys", &file.display().to_string()];
    Ok(words.map(str::to_owned).into())
}

/// Namespaces, if they are wanted and can be had.
fn spaces(plan: &Plan, notes: &mut Vec<String>) -> Outcome<Option<Spaces>> {
    let proxied: Vec<&str> = plan.kinds.iter().filter(|kind| kind.needs_a_proxy()).map(|kind| kind.name()).collect();
    match plan.ground {
        Ground::Proxy => Ok(None),
        Ground::Namespaces if !proxied.is_empty() => {
            let kinds = proxied.join(", ");
            Err(Trouble::new(format!(
                "in namespaces packets can only be dropped: leave out {kinds}, or run on the proxy"
            )))
        }
        Ground::Namespaces => Spaces::make(plan.stores).map(Some),
        Ground::Any if !proxied.is_empty() => {
            notes.push(format!("a proxy, not namespaces, for the sake of {}", proxied.join(", ")));
            Ok(None)
        }
        Ground::Any => match Spaces::make(plan.stores) {
            Ok(spaces) => Ok(Some(spaces)),
            Err(trouble) => {
                notes.push(format!("no namespaces, a proxy instead: {trouble}"));
                Ok(None)
            }
        },
    }
}

/// Where clients find a store.
pub(super) fn place(place: &Place) -> workload::Place {
    workload::Place { store: place.store, resp: place.resp, admin: place.admin }
}
