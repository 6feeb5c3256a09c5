//! Which lines of JSON make which picture. What a run is not of, it is left out of.

use std::collections::BTreeMap;

use serde_json::Value;

use super::chart::{Axis, Chart, Line};

/// The clients, groups and bytes of a value that stay the same while something else changes.
const CLIENTS: u64 = 256;
const PAYLOAD: u64 = 16;

/// Every picture, by its name.
pub(super) fn of(runs: &[Value]) -> Vec<(&'static str, Chart)> {
    vec![
        ("writes-by-groups", by_groups(runs)),
        ("writes-by-clients", by_clients(runs)),
        ("writes-by-payload", by_payload(runs)),
        ("cpu-by-groups", cpu_by_groups(runs)),
        ("latency-by-rate", latency_by_rate(runs)),
        ("reads-by-clients", reads(runs)),
        ("recovery", recovery(runs)),
        ("disk-limit", disk(runs)),
    ]
}

fn by_groups(runs: &[Value]) -> Chart {
    let of = closed(runs).filter(|run| run["clients"] == CLIENTS);
    let lines = lines(of, |run| format!("{} B", run["payload"]), "groups", "writes_per_s");
    chart(&format!("Writes a second, {CLIENTS} clients"), ("regions", true), ("writes/s", false), lines)
}

fn cpu_by_groups(runs: &[Value]) -> Chart {
    let of = closed(runs).filter(|run| run["clients"] == CLIENTS);
    let lines = lines(of, |run| format!("{} B", run["payload"]), "groups", "cpu_us_per_write");
    let title = format!("Processor time of a write on three stores, {CLIENTS} clients");
    chart(&title, ("regions", true), ("microseconds", false), lines)
}

fn by_clients(runs: &[Value]) -> Chart {
    let of = closed(runs).filter(|run| run["payload"] == PAYLOAD);
    let lines = lines(of, |run| format!("{} regions", run["groups"]), "clients", "writes_per_s");
    chart(&format!("Writes a second of {PAYLOAD} bytes"), ("clients", true), ("writes/s", false), lines)
}

fn by_payload(runs: &[Value]) -> Chart {
    let of = closed(runs).filter(|run| run["clients"] == CLIENTS);
    let lines = lines(of, |run| format!("{} regions", run["groups"]), "payload", "writes_per_s");
    chart(&format!("Writes a second, {CLIENTS} clients"), ("bytes of a value", true), ("writes/s", true), lines)
}

fn latency_by_rate(runs: &[Value]) -> Chart {
    let open: Vec<&Value> = runs.iter().filter(|run| run["bench"] == "throughput" && run["rate"].is_u64()).collect();
    let line = |(name, figure): (&str, &str)| {
        lines(open.iter().copied(), |run| format!("{name}, {} regions", run["groups"]), "rate", figure)
    };
    let lines = [("p50", "p50_us"), ("p99", "p99_us"), ("p99.9", "p999_us")].into_iter().flat_map(line).collect();
    let title = "Time of a write that is due at a fixed instant";
    chart(title, ("writes due a second", false), ("microseconds", true), lines)
}

fn reads(runs: &[Value]) -> Chart {
    let of = runs.iter().filter(|run| run["bench"] == "reads" && run["rate"].is_null());
    let name = |run: &Value| run["operation"].as_str().unwrap_or_default().to_owned();
    let lines = lines(of, name, "clients", "reads_per_s");
    chart("Reads a second, of random regions", ("clients", true), ("reads/s", false), lines)
}

fn recovery(runs: &[Value]) -> Chart {
    let of = || runs.iter().filter(|run| run["bench"] == "recovery");
    let line =
        |name: &str, figure| lines(of(), |run| format!("{name}, {} regions", run["groups"]), "written_mib", figure);
    let all = [("log is open", "log_opens_ms"), ("it listens", "listens_ms"), ("serves all", "serves_ms")];
    let lines = all.into_iter().flat_map(|(name, figure)| line(name, figure)).collect();
    chart("Start of a store that was killed", ("MiB written before", true), ("milliseconds", true), lines)
}

fn disk(runs: &[Value]) -> Chart {
    let of = runs.iter().filter(|run| run["bench"] == "limits");
    let disks: Vec<&Value> = of.flat_map(|run| run["disk"].as_array().into_iter().flatten()).collect();
    let name = |run: &Value| if run["files"] == 1 { "1 file".to_owned() } else { format!("{} files", run["files"]) };
    let lines = lines(disks.into_iter(), name, "batch", "fsyncs_per_s");
    chart("What the disk flushes", ("bytes at once", true), ("fdatasync/s", true), lines)
}

/// Runs of clients that wait for their answers, in three processes.
fn closed(runs: &[Value]) -> impl Iterator<Item = &Value> {
    runs.iter().filter(|run| {
        run["bench"] == "throughput" && run["operation"] == "write" && run["rate"].is_null() && run["processes"] == 3
    })
}

/// One line for each name; of runs with equal `x` the last counts.
fn lines<'a>(runs: impl Iterator<Item = &'a Value>, name: impl Fn(&Value) -> String, x: &str, y: &str) -> Vec<Line> {
    let mut found: Vec<(String, BTreeMap<u64, f64>)> = Vec::new();
    for run in runs {
        let (Some(x), Some(y)) = (run[x].as_u64(), run[y].as_f64()) else { continue };
        let name = name(run);
        match found.iter_mut().find(|(known, _)| *known == name) {
            Some((_, points)) => drop(points.insert(x, y)),
            None => found.push((name, BTreeMap::from([(x, y)]))),
        }
    }
    let line = |(name, points): (String, BTreeMap<u64, f64>)| Line {
        name,
        points: points.into_iter().map(|(x, y)| (x as f64, y)).collect(),
    };
    found.into_iter().map(line).collect()
}

fn chart(title: &str, x: (&'static str, bool), y: (&'static str, bool), lines: Vec<Line>) -> Chart {
    let axis = |(name, is_log)| Axis { name, is_log };
    Chart { title: title.to_owned(), x: axis(x), y: axis(y), lines }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn runs_become_lines_in_order_and_others_are_left_out() {
        let run = |groups: u64, writes: u64, rate: Value| {
            json!({
                "bench": "throughput", "operation": "write", "processes": 3, "clients": 256, "payload": 16,
                "groups": groups, "writes_per_s": writes, "rate": rate, "p50_us": 5,
            })
        };
        let runs = [run(48, 9, Value::Null), run(1, 7, Value::Null), run(48, 8, Value::Null), run(5, 1, json!(100))];
        let chart = by_groups(&runs);
        assert_eq!((chart.lines.len(), chart.lines[0].name.as_str()), (1, "16 B"));
        assert_eq!(chart.lines[0].points, [(1.0, 7.0), (48.0, 8.0)]);
        let open = latency_by_rate(&runs);
        assert_eq!((open.lines.len(), open.lines[0].name.as_str()), (1, "p50, 5 regions"));
        assert_eq!(open.lines[0].points, [(100.0, 5.0)]);
    }
}
