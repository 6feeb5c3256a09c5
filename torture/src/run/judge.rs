//! What is held against a run, each with its verdict.

use super::{Fired, Plan};
use crate::check::{Workload, judge};
use crate::nemesis::{Changed, Kind};
use crate::report::Check;
use crate::trouble::{Outcome, Trouble};
use crate::workload::Load;

/// At least so many operations a second have to be answered, over the whole run: fewer show too little.
const ANSWERED_PER_SECOND: u64 = 5;

/// How many voters a region has.
const REPLICAS: u64 = 3;
/// In so many seconds a store has been drained, whatever else goes on.
const DRAINED_IN: u64 = 40;

/// A check that holds if there was no trouble.
pub(super) fn of(name: &str, outcome: Outcome<String>) -> Check {
    let (ok, line) = match outcome {
        Ok(line) => (true, line),
        Err(trouble) => (false, trouble.to_string()),
    };
    Check { name: name.to_owned(), ok, line, details: Vec::new() }
}

/// Faults that came about, and clients that understood what they were told.
pub(super) fn of_fire(fired: &Fired) -> Vec<Check> {
    let struck = fired.struck.as_ref().map_err(Clone::clone);
    let struck = struck.map(|tally| {
        let times: Vec<String> = tally.iter().map(|(kind, (times, _))| format!("{} {times}", kind.name())).collect();
        if times.is_empty() { "none were asked for".to_owned() } else { times.join(", ") }
    });
    let clients = fired.clients.iter().find_map(|client| client.as_ref().err());
    let clients = clients.map_or_else(|| Ok("every answer made sense".to_owned()), |trouble| Err(trouble.clone()));
    vec![of("faults came about and left traces", struck), of("clients and stores understand each other", clients)]
}

/// Stores were emptied, if that was asked for, there was time for it, and somebody could take what they had.
pub(super) fn of_drains(plan: &Plan, changed: &Changed) -> Option<Check> {
    let may_fail = plan.stores <= REPLICAS || plan.seconds < DRAINED_IN;
    let drained = changed.done.get(&Kind::Drain).copied().unwrap_or(0);
    let emptied = match &changed.left {
        Some(left) => Err(left.clone()),
        None if drained > 0 || may_fail => Ok(format!("{drained} times, and others saw it empty")),
        None => Err(Trouble::new(format!("not once in {} s", plan.seconds))),
    };
    plan.kinds.contains(&Kind::Drain).then(|| of("stores were drained", emptied))
}

/// The history of a workload; and whether there is an explanation for it.
pub(super) fn of_history(load: &Load, workload: Workload, seconds: u64) -> (Check, bool) {
    let name = workload.name().to_owned();
    let history = load.recorder().history();
    let verdict = match judge(&history, None) {
        Ok(verdict) => verdict,
        Err(malformed) => {
            let line = format!("the harness has written a history that cannot be judged: {malformed}");
            return (Check { name, ok: false, line, details: Vec::new() }, true);
        }
    };
    let (answered, wanted) = (load.answered(), ANSWERED_PER_SECOND * seconds);
    let holds = verdict.judgement().holds();
    let is_enough = answered >= wanted;
    let line = match (holds, is_enough) {
        (true, true) => {
            format!("{answered} answered, {} unknown, {} refused: no anomaly", load.unknown(), load.refused())
        }
        (true, false) => {
            format!("only {answered} operations were answered; {wanted} are wanted, or the run shows too little")
        }
        (false, _) => "there is no explanation for what clients were told".to_owned(),
    };
    let details = verdict.table().lines().map(str::to_owned).collect();
    (Check { name, ok: holds && is_enough, line, details }, holds)
}
