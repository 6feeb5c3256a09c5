//! Words that never belong in the project: paths of the machine that it was written on.

/// Each in two halves, so that this list is not itself a finding.
const FORBIDDEN: &[(&str, &str)] = &[("/wo", "rk/"), ("/ro", "ot/"), ("/ho", "me/"), ("/Us", "ers/")];

pub(super) fn check(name: &str, text: &str, problems: &mut Vec<String>) {
    for (number, line) in (1..).zip(text.lines()) {
        for (head, tail) in FORBIDDEN {
            let word = format!("{head}{tail}");
            if starts_a_path(line, &word) {
                problems
                    .push(format!("{name}:{number}: {word} is a path of one machine; name the place by what it is"));
            }
        }
    }
}

/// Whether `word` stands in `line` as the beginning of an absolute path, not inside a longer relative one or an address.
fn starts_a_path(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|letter| !letter.is_alphanumeric() && !"_-./~}".contains(letter))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> usize {
        let mut problems = Vec::new();
        check("x.md", line, &mut problems);
        problems.len()
    }

    #[test]
    fn absolute_paths_are_found_and_others_are_not() {
        let home = ["/ho", "me/"].concat();
        assert_eq!(found(&format!("see {home}someone/file")), 1);
        assert_eq!(found(&format!("\"{home}someone\"")), 1);
        assert_eq!(found(&format!("https://example.org{home}page")), 0);
        assert_eq!(found("data/1 and docs/decisions/"), 0);
    }
}
