//! Rules on the text of the project that no other tool checks.
//!
//! Each rule is a function from text to problems; this file walks the tree and asks them. A problem reads `file: what is
//! wrong and what to do`.

mod layers;
mod manifest;
mod pure;
mod words;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Lines above which a file wants splitting; test files may be longer.
const LINES_MAX: usize = 600;

/// Files that may be longer all the same, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Folders without sources of ours.
const SKIPPED: &[&str] = &["target", ".git", "node_modules"];

/// All problems in the tree under `root`, in a fixed order.
pub(crate) fn check(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    let files = match files_below(root) {
        Ok(files) => files,
        Err(error) => return vec![format!("{}: cannot be walked: {error}", root.display())],
    };
    for path in &files {
        let name = path.strip_prefix(root).expect("walked from the root").to_string_lossy().into_owned();
        if !is_text(&name) {
            continue;
        }
        match fs::read_to_string(path) {
            Ok(text) => check_file(&name, &text, &mut problems),
            Err(error) => problems.push(format!("{name}: cannot be read as text: {error}")),
        }
    }
    check_dependencies(root, &mut problems);
    problems
}

fn check_file(name: &str, text: &str, problems: &mut Vec<String>) {
    words::check(name, text, problems);
    if name.ends_with(".rs") {
        check_length(name, text, problems);
        check_opening(name, text, problems);
        pure::check(name, text, problems);
    }
    if let Some(krate) = name.strip_suffix("/Cargo.toml") {
        layers::check(krate, &manifest::parse(text), problems);
    }
}

/// Each dependency must be taken without its default features and have its reason written down.
fn check_dependencies(root: &Path, problems: &mut Vec<String>) {
    let read = |name: &str| fs::read_to_string(root.join(name)).map_err(|error| format!("{name}: {error}"));
    match (read("Cargo.toml"), read(manifest::REASONS)) {
        (Ok(text), Ok(reasons)) => manifest::check_reasons(&manifest::parse(&text), &reasons, problems),
        (Err(problem), _) | (_, Err(problem)) => problems.push(problem),
    }
}

fn check_length(name: &str, text: &str, problems: &mut Vec<String>) {
    let lines = text.lines().count();
    let is_listed = LONG_FILES.iter().any(|(listed, _)| *listed == name);
    if lines > LINES_MAX && !is_test(name) && !is_listed {
        problems.push(format!(
            "{name}: {lines} lines; split it at its seam, or list it in xtask/src/style/mod.rs with the reason"
        ));
    }
    if is_listed && lines <= LINES_MAX {
        problems.push(format!("{name}: no longer long; take it off the list in xtask/src/style/mod.rs"));
    }
}

fn check_opening(name: &str, text: &str, problems: &mut Vec<String>) {
    if !text.starts_with("//!") {
        problems.push(format!("{name}: open it with `//!`: what it owns, what it never does, its invariants"));
    }
}

fn is_test(name: &str) -> bool {
    name.contains("/tests/") || name.ends_with("/tests.rs") || name.ends_with("_tests.rs")
}

fn is_text(name: &str) -> bool {
    let endings = ["rs", "toml", "md", "sh", "yml", "yaml", "json", "txt", "lock"];
    name == ".ci/run" || name.rsplit_once('.').is_some_and(|(_, ending)| endings.contains(&ending))
}

fn files_below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let is_skipped = SKIPPED.iter().any(|name| entry.file_name() == *name);
            let kind = entry.file_type()?;
            if kind.is_dir() && !is_skipped {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(name: &str, text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        check_file(name, text, &mut problems);
        problems
    }

    #[test]
    fn long_file_is_a_problem_unless_it_is_a_test() {
        let text = "//! Long.\n".repeat(LINES_MAX + 1);
        assert_eq!(problems("raft/src/group.rs", &text).len(), 1);
        assert_eq!(problems("raft/src/group/tests.rs", &text), [""; 0]);
        assert_eq!(problems("raft/tests/group.rs", &text), [""; 0]);
        assert_eq!(problems("raft/src/group.rs", &"//! Fits.\n".repeat(LINES_MAX)), [""; 0]);
    }

    #[test]
    fn file_without_an_opening_is_a_problem() {
        assert_eq!(problems("raft/src/group.rs", "use std::fmt;\n").len(), 1);
        assert_eq!(problems("docs/guide.md", "# Guide\n"), [""; 0]);
    }

    #[test]
    fn this_tree_is_walked_and_its_sources_found() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = files_below(root).unwrap();
        assert!(files.iter().any(|path| path.ends_with("src/style/words.rs")));
        assert!(files.iter().all(|path| !path.components().any(|part| part.as_os_str() == "target")));
    }
}
