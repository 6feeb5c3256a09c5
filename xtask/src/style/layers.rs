//! Which crate may use which: arrows point down only, and what users see is built on what users get.

use super::manifest::Dependency;

/// Each crate's folder, its own crates that it may link, and those that only its tests may. A folder that is not listed may
/// link none.
const LAYERS: &[(&str, &[&str], &[&str])] = &[
    // Of programs only: which allocator an embedding program has is that program's choice.
    ("allocator", &[], &[]),
    ("raft", &[], &[]),
    ("storage", &["multiraft-raft"], &[]),
    ("transport", &["multiraft-raft"], &[]),
    ("router", &["multiraft-raft"], &[]),
    ("engine", &["multiraft-raft", "multiraft-storage", "multiraft-transport", "multiraft-router"], &[]),
    // On the public interface alone, like any program of a user. Histories of its processes are judged as simulated ones are.
    ("server", &["multiraft", "multiraft-allocator"], &["multiraft-sim", "multiraft-torture"]),
    ("examples", &["multiraft"], &[]),
    // What counts instructions drives the engine's deterministic core, as the simulator does.
    (
        "benches",
        &["multiraft", "multiraft-allocator", "multiraft-raft", "multiraft-storage", "multiraft-transport"],
        &[],
    ),
    ("torture", &["multiraft"], &[]),
    // It drives the engine's deterministic core; nothing that is shipped depends on it.
    ("sim", &["multiraft", "multiraft-raft", "multiraft-storage", "multiraft-transport", "multiraft-router"], &[]),
    // Its fuzz test feeds the decoders.
    ("xtask", &[], &["multiraft-raft", "multiraft-transport"]),
];

/// Checks the dependencies of the crate in the folder `krate`.
pub(super) fn check(krate: &str, dependencies: &[Dependency], problems: &mut Vec<String>) {
    let (linked, tested) = LAYERS
        .iter()
        .find(|(name, ..)| *name == krate)
        .map_or((&[][..], &[][..]), |(_, linked, tested)| (*linked, *tested));
    for dependency in dependencies {
        let name = dependency.name.as_str();
        if !dependency.value.contains("workspace = true") {
            problems.push(format!("{krate}/Cargo.toml: {name}: take it from [workspace.dependencies], on one line"));
        }
        let is_ours = name == "multiraft" || name.starts_with("multiraft-");
        let may_use = linked.contains(&name) || (dependency.is_dev && tested.contains(&name));
        if is_ours && !may_use {
            problems.push(format!("{krate}/Cargo.toml: may not depend on {name}: see xtask/src/style/layers.rs"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::parse;
    use super::*;

    fn problems(krate: &str, text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        check(krate, &parse(text), &mut problems);
        problems
    }

    #[test]
    fn arrows_point_down_only() {
        assert_eq!(problems("engine", "[dependencies]\nmultiraft-raft.workspace = true\n"), [""; 0]);
        assert_eq!(problems("raft", "[dependencies]\nmultiraft-storage.workspace = true\n").len(), 1);
        assert_eq!(problems("server", "[dependencies]\nmultiraft = { workspace = true }\n"), [""; 0]);
        assert_eq!(problems("server", "[dev-dependencies]\nmultiraft-raft = { workspace = true }\n").len(), 1);
        assert_eq!(problems("new", "[dependencies]\nmultiraft.workspace = true\n").len(), 1);
    }

    #[test]
    fn dependency_outside_the_workspace_table_is_a_problem() {
        assert_eq!(problems("raft", "[dependencies]\nrand = \"0.9\"\n").len(), 1);
        assert_eq!(problems("raft", "[dependencies.rand]\nversion = \"0.9\"\n").len(), 1);
    }
}
