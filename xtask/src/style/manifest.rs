//! Dependencies in Cargo manifests, as far as the rules need them.
//!
//! Not a TOML parser: it reads manifests as this project writes them, one dependency a line, and misses nothing there
//! because the rule for layers treats a dependency in any other form as a problem of its own.

/// Where the reason for each dependency is written down.
pub(super) const REASONS: &str = "docs/decisions/0001-dependencies.md";

/// Dependencies whose default features are taken, each with its reason.
const WITH_DEFAULTS: &[(&str, &str)] =
    &[("crc32c", "has no features"), ("loom", "builds for tests alone; its defaults are what its models need")];

/// One line of a table of dependencies.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dependency {
    pub(super) name: String,
    /// Linked only into tests and benchmarks.
    pub(super) is_dev: bool,
    /// The table is the workspace's.
    pub(super) is_shared: bool,
    /// What stands behind the name.
    pub(super) value: String,
}

pub(super) fn parse(text: &str) -> Vec<Dependency> {
    let mut dependencies = Vec::new();
    let mut section = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').replace(['"', '\''], "");
            // [dependencies.name] opens a table of its own.
            if let Some((table, name)) = section.rsplit_once("dependencies.") {
                let whole = format!("{table}dependencies");
                dependencies.push(dependency(&whole, name, ""));
            }
            continue;
        }
        if !section.ends_with("dependencies") || line.starts_with('#') {
            continue;
        }
        if let Some((name, value)) = line.split_once('=') {
            let value = value.trim();
            // `name.workspace = true` is short for a table with that key.
            dependencies.push(match name.trim().split_once('.') {
                Some((name, key)) => dependency(&section, name, &format!("{key} = {value}")),
                None => dependency(&section, name.trim(), value),
            });
        }
    }
    dependencies
}

fn dependency(section: &str, name: &str, value: &str) -> Dependency {
    Dependency {
        name: name.trim_matches('"').to_owned(),
        is_dev: section.ends_with("dev-dependencies"),
        is_shared: section == "workspace.dependencies",
        value: value.to_owned(),
    }
}

/// Each dependency of the workspace is taken without default features, and its reason stands in `reasons`.
pub(super) fn check_reasons(dependencies: &[Dependency], reasons: &str, problems: &mut Vec<String>) {
    for dependency in dependencies.iter().filter(|one| one.is_shared && !one.value.contains("path =")) {
        let name = &dependency.name;
        let may_default = WITH_DEFAULTS.iter().any(|(listed, _)| listed == name);
        if !may_default && !dependency.value.contains("default-features = false") {
            problems.push(format!(
                "Cargo.toml: {name}: say `default-features = false`, or list it in xtask/src/style/manifest.rs with the reason"
            ));
        }
        if !reasons.contains(&format!("`{name}`")) {
            problems.push(format!("{REASONS}: say why `{name}` is there"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
[package]
name = \"x\"

[dependencies]
one.workspace = true
two = { workspace = true, features = [\"a\"] }
# three = \"1\"

[dependencies.four]
version = \"1\"

[target.\"cfg(loom)\".dev-dependencies]
five.workspace = true

[lints]
workspace = true
";

    #[test]
    fn dependencies_of_all_tables_are_found() {
        let found: Vec<_> = parse(TEXT).into_iter().map(|one| (one.name, one.is_dev)).collect();
        let expected = [("one", false), ("two", false), ("four", false), ("five", true)];
        assert_eq!(found, expected.map(|(name, is_dev)| (name.to_owned(), is_dev)));
    }

    #[test]
    fn shared_dependency_needs_a_reason_and_no_defaults() {
        let text = "[workspace.dependencies]\nown = { path = \"own\" }\ngood = { version = \"1\", default-features = false }\nbad = \"1\"\n";
        let mut problems = Vec::new();
        check_reasons(&parse(text), "| `good` | because |", &mut problems);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.contains("bad")));
    }
}
