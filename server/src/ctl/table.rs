//! Answers as tables for people.

use crate::hex;
use crate::serve::{CheckView, Measured, RecoveredView, RegionView, ReplicaReport, StoresAnswer};

/// The regions, a line each.
pub(crate) fn regions(regions: &[RegionView]) -> String {
    let mut rows = vec![row(["region", "range", "epoch", "replicas", "leader", "applied"])];
    // What nobody measures takes no place.
    let is_measured = regions.iter().any(|region| region.measured.is_some());
    if is_measured {
        rows[0].extend(row(["bytes", "keys", "writes/s", "reads/s"]));
    }
    for region in regions {
        let mut cells = vec![
            region.id.to_string(),
            range(region),
            format!("{}.{}", region.conf_version, region.version),
            region.replicas.iter().map(replica).collect::<Vec<_>>().join(" "),
            or_dash(region.leader),
            or_dash(region.applied),
        ];
        if is_measured {
            cells.extend(figures(region.measured).map(or_dash));
        }
        rows.push(cells);
    }
    columns(&rows)
}

/// Bytes, keys, writes and reads a second.
fn figures(measured: Option<Measured>) -> [Option<u64>; 4] {
    let Some(measured) = measured else { return [None; 4] };
    [measured.bytes, measured.keys, measured.writes_per_s, measured.reads_per_s].map(Some)
}

/// One region, a line for each thing that is to say.
pub(crate) fn region(region: &RegionView, recovered: Option<&RecoveredView>) -> String {
    let mut rows = vec![
        row(["region", &region.id.to_string()]),
        row(["range", &range(region)]),
        row(["epoch", &format!("conf_version {}, version {}", region.conf_version, region.version)]),
        row(["leader", &region.leader.map_or_else(|| "-".to_owned(), |leader| format!("store {leader}"))]),
        row(["applied", &or_dash(region.applied)]),
    ];
    if let Some(Measured { bytes, keys, writes_per_s, reads_per_s }) = region.measured {
        rows.push(row(["size", &format!("{bytes} bytes, {keys} keys")]));
        rows.push(row(["load", &format!("{writes_per_s} keys written, {reads_per_s} read a second")]));
    }
    for replica in &region.replicas {
        rows.push(row(["replica", &format!("{} on store {}: {}", replica.id, replica.store, replica.role)]));
    }
    if let Some(RecoveredView { plan, note, dead, kept, last, .. }) = recovered {
        let dead = dead.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        rows.push(row([
            "recovered",
            &format!("from entry {last} of store {kept} by plan {plan}, without store {dead}"),
        ]));
        if !note.is_empty() {
            rows.push(row(["", note]));
        }
    }
    columns(&rows)
}

/// The stores, a line each.
pub(crate) fn stores(answer: &StoresAnswer) -> String {
    let mut rows = vec![row(["store", "connected", "incarnation", "regions", "leaders"])];
    // What nobody knows takes no place.
    let has_joined = answer.stores.iter().any(|store| store.standing.is_some());
    let is_measured = answer.stores.iter().any(|store| store.bytes.is_some());
    if is_measured {
        rows[0].extend(row(["bytes", "keys/s"]));
    }
    if has_joined {
        rows[0].extend(row(["standing", "weight", "labels"]));
    }
    for store in &answer.stores {
        let connected = match (store.store == answer.store, store.connected) {
            (true, _) => "asked",
            (false, true) => "yes",
            (false, false) => "no",
        };
        let mut cells = vec![
            store.store.to_string(),
            connected.to_owned(),
            or_dash(store.incarnation),
            store.regions.to_string(),
            store.leaders.to_string(),
        ];
        if is_measured {
            cells.extend([or_dash(store.bytes), or_dash(store.load_per_s)]);
        }
        if has_joined {
            let labels: Vec<_> = store.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let standing = store.standing.clone().unwrap_or_else(|| "-".to_owned());
            cells.extend([standing, or_dash(store.weight.map(u64::from)), labels.join(" ")]);
        }
        rows.push(cells);
    }
    let table = columns(&rows);
    match &answer.loads_missing {
        None => table,
        Some(why) => format!(
            "{table}\nregions and leaders are what store {} knows, bytes and keys/s are not known: {why}",
            answer.store
        ),
    }
}

/// What checks have found, a line for each replica.
pub(crate) fn checks(checks: &[CheckView]) -> String {
    let mut rows = vec![row(["region", "index", "replica", "store", "state", "digest"])];
    for check in checks {
        for replica in &check.replicas {
            let fenced = if replica.fenced { ", fenced" } else { "" };
            rows.push(vec![
                check.region.to_string(),
                check.index.to_string(),
                replica.id.to_string(),
                replica.store.to_string(),
                format!("{}{fenced}", replica.outcome),
                replica.digest.as_ref().map_or_else(|| "-".to_owned(), |digest| digest.chars().take(16).collect()),
            ]);
        }
    }
    columns(&rows)
}

/// `from..to`, without the end that is open; `-` for the root region, which owns no keys.
fn range(region: &RegionView) -> String {
    if region.id == multiraft::RegionId::ROOT.get() {
        return "-".to_owned();
    }
    format!("{}..{}", key(&region.start), key(&region.end))
}

/// A key as the command line takes it: text if it reads as text, else hexadecimal.
pub(super) fn key(digits: &str) -> String {
    if digits.is_empty() {
        return String::new();
    }
    let text = hex::decode(digits).and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
    let is_plain = |text: &String| !text.starts_with("0x") && text.chars().all(|c| c.is_ascii_graphic());
    text.filter(is_plain).unwrap_or_else(|| format!("0x{digits}"))
}

fn replica(replica: &ReplicaReport) -> String {
    match replica.role.as_str() {
        "voter" => replica.store.to_string(),
        role => format!("{}({role})", replica.store),
    }
}

fn or_dash(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.into_iter().map(str::to_owned).collect()
}

/// Lines up columns; no blank is left at the end of a line.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell_len = |row: &Vec<String>, at: usize| row.get(at).map_or(0, |cell| cell.chars().count());
    let widths: Vec<usize> = (0..count).map(|at| rows.iter().map(|row| cell_len(row, at)).max().unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_whoever_plans_cannot_be_asked_the_table_of_stores_says_so() {
        let mut answer = StoresAnswer { store: 3, planned: true, loads_missing: None, stores: Vec::new() };
        assert_eq!(stores(&answer), "store  connected  incarnation  regions  leaders");
        answer.loads_missing = Some("nobody leads".to_owned());
        assert_eq!(
            stores(&answer).lines().last(),
            Some("regions and leaders are what store 3 knows, bytes and keys/s are not known: nobody leads")
        );
    }

    #[test]
    fn each_replica_of_a_check_has_a_line() {
        let replica = |store: u64, outcome: &str, digest: Option<&str>| crate::serve::ReplicaCheckView {
            id: store * 10,
            store,
            outcome: outcome.to_owned(),
            fenced: outcome != "same",
            digest: digest.map(|digest| digest.repeat(32)),
        };
        let replicas =
            vec![replica(1, "same", Some("ab")), replica(2, "different", Some("cd")), replica(3, "no-answer", None)];
        let check = CheckView { region: 7, index: 300, consistent: false, expected: Some("ab".repeat(32)), replicas };
        let expected = [
            "region  index  replica  store  state              digest",
            "7       300    10       1      same               abababababababab",
            "7       300    20       2      different, fenced  cdcdcdcdcdcdcdcd",
            "7       300    30       3      no-answer, fenced  -",
        ];
        assert_eq!(checks(&[check]), expected.join("\n"));
    }

    fn view(id: u64, start: &[u8], end: &[u8]) -> RegionView {
        let replica = |store, role: &str| ReplicaReport { id: store, store, role: role.to_owned() };
        RegionView {
            id,
            start: hex::encode(start),
            end: hex::encode(end),
            conf_version: 2,
            version: 3,
            replicas: vec![replica(1, "voter"), replica(4, "learner")],
            leader: (id != 3).then_some(1),
            applied: (id != 3).then_some(17),
            measured: None,
        }
    }

    #[test]
    fn regions_are_lined_up_and_keys_written_as_they_are_typed() {
        let text =
            regions(&[view(1, b"", b""), view(2, b"", b"key:5"), view(3, b"key:5", b"\x00\xff"), view(4, b"0x", b"")]);
        let expected = [
            "region  range          epoch  replicas      leader  applied",
            "1       -              2.3    1 4(learner)  1       17",
            "2       ..key:5        2.3    1 4(learner)  1       17",
            "3       key:5..0x00ff  2.3    1 4(learner)  -       -",
            "4       0x3078..       2.3    1 4(learner)  1       17",
        ];
        assert_eq!(text, expected.join("\n"));
    }
}
