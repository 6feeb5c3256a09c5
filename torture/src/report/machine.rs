//! The report for programs.

use serde_json::{Map, Value, json};

use super::Facts;
use super::account::{Account, Aftermath, Line, Verdict};
use super::answers::{Latency, length};
use super::faults::Fault;
use super::operations::Outcome;

pub(super) fn write(facts: &Facts<'_>, account: &Account<'_>) -> Value {
    let functions: Map<String, Value> =
        account.functions.iter().map(|function| (function.name.to_owned(), line(function))).collect();
    let checks = facts.checks.iter().map(|check| json!({ "name": check.name, "ok": check.ok, "line": check.line }));
    let notes = account.notes.iter().map(|notes| {
        json!({
            "process": notes.process,
            "function": notes.function,
            "count": notes.each.len(),
            "ok": notes.said(true),
            "failed": notes.said(false),
        })
    });
    json!({
        "verdict": match account.verdict {
            Verdict::Passed => "pass",
            Verdict::Failed(_) => "fail",
            Verdict::Nothing(_) => "nothing",
        },
        "ok": account.verdict == Verdict::Passed,
        "reasons": account.verdict.reasons(),
        "command": facts.command,
        "seed": facts.seed,
        "workload": facts.workload,
        "nemeses": facts.nemeses,
        "stores": facts.stores,
        "seconds": facts.seconds,
        "ground": facts.ground,
        "length_ns": account.length,
        "operations": line(&account.all),
        "functions": functions,
        "checks": checks.collect::<Vec<_>>(),
        "in_faults_ns": account.windows.total(),
        "faults": account.faults.iter().map(|(one, after)| fault(one, *after)).collect::<Vec<_>>(),
        "notes": notes.collect::<Vec<_>>(),
        "oddities": account.oddities,
        "artefacts": facts.artefacts,
    })
}

fn line(line: &Line<'_>) -> Value {
    let invoked = line.tally.invoked();
    json!({
        "invoked": invoked,
        "ok": line.tally.ok(),
        "fail": line.tally.of(Outcome::Fail),
        "info": line.tally.of(Outcome::Info),
        "never_ended": line.tally.open,
        "availability": (invoked > 0).then(|| line.tally.ok() as f64 / invoked as f64),
        "longest_stall_ns": length(line.stalls.longest),
        "longest_stall_outside_faults_ns": length(line.stalls.outside),
        "latency_outside_faults_ns": latency(line.calm),
        "latency_in_faults_ns": latency(line.struck),
    })
}

fn latency(latency: Option<Latency>) -> Value {
    latency.map_or(Value::Null, |Latency { p50, p99, max }| json!({ "p50": p50, "p99": p99, "max": max }))
}

fn fault(fault: &Fault, after: Aftermath) -> Value {
    json!({
        "id": fault.id,
        "name": fault.name,
        "stores": fault.stores,
        "about": fault.about,
        "begin_ns": fault.begin,
        "end_ns": fault.end,
        "answered": after.answered,
        "answered_again_after_ns": after.again,
        "others_under_way_at_its_end": after.others,
        "traces": fault.traces,
    })
}
