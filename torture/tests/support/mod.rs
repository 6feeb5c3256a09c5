//! What tests of histories and checkers share: short histories by hand, a source of chance, simulated objects, and a judge that
//! tries everything.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod brute;
pub(crate) mod random;
pub(crate) mod simulated;

use multiraft_torture::check::{Workload, judge};
use multiraft_torture::history::{Format, History, Operation};

/// A history from lines of `process type f value`, for example `0 invoke read [1 nil]`. Index and time (in nanoseconds, ten
/// times the index) are the line's number. The first line may be the options of the workload: `{:total 10}`.
pub(crate) fn history(workload: Workload, text: &str) -> History {
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let options = match lines.first() {
        Some(line) if line.starts_with('{') => lines.remove(0).trim_matches(|letter| "{}".contains(letter)),
        _ => "",
    };
    let name = workload.name();
    let header = format!("{{:name \"{name}\", {options}}}");
    let mut edn = format!("{{:index 0, :process :torture, :type :info, :f :workload, :value {header}, :time 0}}\n");
    for (index, line) in (1..).zip(lines) {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let [process, kind, f, value] = words[..] else { panic!("{line}: four words") };
        let time = index * 10;
        edn +=
            &format!("{{:index {index}, :process {process}, :type :{kind}, :f :{f}, :value {value}, :time {time}}}\n");
    }
    History::read(edn.as_bytes(), Format::Edn).expect("the lines are records")
}

/// The names of the anomalies that are found.
#[track_caller]
pub(crate) fn anomalies(workload: Workload, text: &str) -> Vec<&'static str> {
    let verdict = judge(&history(workload, text), None).expect("the history can be judged");
    assert_eq!(verdict.judgement().undecided(), [""; 0]);
    assert_eq!(verdict.judgement().holds(), verdict.judgement().anomalies().is_empty());
    verdict.judgement().anomalies()
}

/// Why it cannot be judged.
#[track_caller]
pub(crate) fn problem(workload: Workload, text: &str) -> String {
    judge(&history(workload, text), None).expect_err("the history cannot be judged").to_string()
}

pub(crate) fn operations(workload: Workload, text: &str) -> Vec<Operation> {
    history(workload, text).operations().expect("operations pair")
}
