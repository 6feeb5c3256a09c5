//! The command line, taken apart.

use crate::steps::Step;

pub(crate) const USAGE: &str = "\
cargo xtask check [--only STEP,..] [--skip STEP,..]   run what CI runs
cargo xtask list                                      name the steps, with their time limits
cargo xtask fix                                       format the code";

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Help,
    List,
    Fix,
    Check(Selection),
}

/// Which steps to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Empty means all.
    only: Vec<String>,
    skip: Vec<String>,
}

impl Selection {
    pub(crate) fn takes(&self, step: &str) -> bool {
        let named = |list: &[String]| list.iter().any(|name| name == step);
        (self.only.is_empty() || named(&self.only)) && !named(&self.skip)
    }
}

/// Reads the arguments; a step that does not exist is an error, so that a renamed step is not skipped in silence.
pub(crate) fn parse(arguments: &[String], steps: &[Step]) -> Result<Request, String> {
    let mut words = arguments.iter().map(String::as_str);
    match words.next() {
        None | Some("help" | "--help" | "-h") => return Ok(Request::Help),
        Some("list") => return Ok(Request::List),
        Some("fix") => return Ok(Request::Fix),
        Some("check") => {}
        Some(other) => return Err(format!("unknown command {other:?}")),
    }
    let mut selection = Selection::default();
    while let Some(word) = words.next() {
        let list = match word {
            "--only" => &mut selection.only,
            "--skip" => &mut selection.skip,
            other => return Err(format!("unknown option {other:?}")),
        };
        let names = words.next().ok_or_else(|| format!("{word} wants the names of steps"))?;
        for name in names.split(',') {
            if !steps.iter().any(|step| step.name == name) {
                return Err(format!("no step is called {name:?}; `cargo xtask list` names them"));
            }
            list.push(name.to_owned());
        }
    }
    Ok(Request::Check(selection))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::STEPS;

    fn parsed(line: &str) -> Result<Request, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words, STEPS)
    }

    #[test]
    fn only_and_skip_select_steps() {
        let Ok(Request::Check(selection)) = parsed("check --only fmt,tests --skip tests") else { panic!("valid") };
        assert!(selection.takes("fmt"));
        assert!(!selection.takes("tests"));
        assert!(!selection.takes("docs"));
    }

    #[test]
    fn unknown_words_are_refused() {
        for line in ["chekc", "check --only nothing", "check --only", "check --fast"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
