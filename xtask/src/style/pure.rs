//! The deterministic core: the folders in which every decision is a function of its inputs.
//!
//! The simulator replays a failure from its seed only as long as nothing here asks for the time, starts a thread, does I/O or
//! hashes with a random key. Clippy holds the same line for the whole crate `raft`; the engine has both core and shell,
//! which only their folders tell apart.

/// Where the core lives.
const CORE: &[&str] = &[
    "raft/src/",
    "engine/src/logic/",
    "engine/src/apply/",
    "engine/src/placement/",
    "engine/src/region/",
    "engine/src/assembly.rs",
];

/// What it may not name, and what to do instead.
const FOREIGN: &[(&str, &str)] = &[
    ("Instant::now", "take a Time as an argument"),
    ("SystemTime", "take a Time as an argument"),
    ("std::thread", "leave threads to the shell"),
    ("thread::spawn", "leave threads to the shell"),
    ("tokio::", "leave tasks to the shell"),
    ("crossbeam_channel", "return an output; leave channels to the shell"),
    ("std::sync::mpsc", "return an output; leave channels to the shell"),
    ("std::fs", "return an output; leave files to the shell"),
    ("std::net", "return an output; leave sockets to the shell"),
    ("std::env", "take it as an argument"),
    ("collections::HashMap", "its order differs from run to run: use BTreeMap, or FxHashMap for look-ups alone"),
    ("collections::HashSet", "its order differs from run to run: use BTreeSet, or FxHashSet for look-ups alone"),
    ("RandomState", "its order differs from run to run"),
];

pub(super) fn check(name: &str, text: &str, problems: &mut Vec<String>) {
    if !CORE.iter().any(|place| name.starts_with(place)) || super::is_test(name) {
        return;
    }
    for (number, line) in (1..).zip(text.lines()) {
        // Comments may speak of the shell.
        let code = line.split("//").next().unwrap_or(line);
        for (word, instead) in FOREIGN.iter().filter(|(word, _)| code.contains(word)) {
            problems.push(format!("{name}:{number}: {word} in the deterministic core: {instead}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> usize {
        let mut problems = Vec::new();
        check(name, text, &mut problems);
        problems.len()
    }

    #[test]
    fn core_may_not_ask_for_the_time_but_may_speak_of_it() {
        assert_eq!(found("raft/src/log.rs", "let now = std::time::Instant::now();"), 1);
        assert_eq!(found("raft/src/log.rs", "// Instant::now is the shell's"), 0);
        assert_eq!(found("engine/src/store/clock.rs", "let now = Instant::now();"), 0);
        assert_eq!(found("engine/src/logic/tests.rs", "let now = Instant::now();"), 0);
    }
}
