//! Reports: of a small run word for word (`../reports/small.*`; `UPDATE_REPORTS=1 cargo test -p multiraft-torture --test report`
//! writes what is printed now, and a person reads the difference), and for any run that the page is sound, that nothing
//! foreign becomes markup, and that sums agree.

mod markup;
mod runs;

use std::fs;
use std::path::Path;

use multiraft_torture::check::{Workload, judge};
use multiraft_torture::history::{History, Kind, Process, Record, Value};
use multiraft_torture::report::{Check, Facts, html, json, text};
use proptest::prelude::*;
use runs::{Run, facts};

/// What an attacker would have in a value.
const ATTACK: &str = "</title></text></pre><script>alert(1)</script>\" onload='x' <!-- ]]> &amp; \u{1b}[31m\u{202e}\0";

#[track_caller]
fn compare(name: &str, now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reports").join(name);
    if std::env::var_os("UPDATE_REPORTS").is_some() {
        fs::write(&path, now).expect("the report can be written");
        return;
    }
    let kept = fs::read_to_string(&path).expect("the report is there");
    let differs = kept.lines().zip(now.lines()).position(|(kept, now)| kept != now);
    let at = differs.unwrap_or_else(|| kept.lines().count().min(now.lines().count()));
    assert!(
        kept == now,
        "{name} differs from line {}:\n  kept: {}\n  now:  {}",
        at + 1,
        kept.lines().nth(at).unwrap_or("(end)"),
        now.lines().nth(at).unwrap_or("(end)"),
    );
}

#[test]
fn the_report_of_a_small_run_is_as_kept() {
    let history = runs::small();
    let verdict = judge(&history, Some(Workload::Register)).unwrap();
    let mut facts = facts(&history);
    facts.checks.push(Check::of_verdict(&verdict, &history));
    compare("small.txt", &text(&facts));
    compare("small.html", &html(&facts));
    compare("small.json", &format!("{:#}\n", json(&facts)));
}

#[test]
fn a_verdict_becomes_a_check_with_the_operations_that_show_it() {
    let history = runs::small();
    let check = Check::of_verdict(&judge(&history, Some(Workload::Register)).unwrap(), &history);
    assert!(!check.ok);
    assert_eq!(check.name, "register");
    assert!(check.details.iter().any(|line| line.contains("client 1 read")), "{:#?}", check.details);
    let nothing = History::default();
    let check = Check::of_verdict(&judge(&nothing, Some(Workload::Register)).unwrap(), &nothing);
    assert_eq!((check.ok, check.details.len()), (true, 0));
}

#[test]
fn a_run_passes_only_if_something_was_checked_and_answered() {
    let (history, empty) = (runs::small(), History::default());
    let holds = Check { name: "a".to_owned(), ok: true, line: "fine".to_owned(), details: Vec::new() };
    let broken = Check { name: "b".to_owned(), ok: false, line: "not so".to_owned(), details: Vec::new() };
    let verdict = |history, checks: &[&Check]| {
        let facts = Facts { checks: checks.iter().copied().cloned().collect(), ..facts(history) };
        let (text, json) = (text(&facts), json(&facts));
        let word = text.split("  ").next().unwrap().lines().next().unwrap().to_owned();
        (word, json["verdict"].as_str().unwrap().to_owned(), json["reasons"][0].as_str().map(str::to_owned))
    };
    let told = |word: &str, verdict: &str, reason: &str| {
        (word.to_owned(), verdict.to_owned(), Some(reason.to_owned()).filter(|reason| !reason.is_empty()))
    };
    assert_eq!(verdict(&history, &[&holds]), told("PASS", "pass", ""));
    assert_eq!(verdict(&history, &[&holds, &broken]), told("FAIL", "fail", "b: not so"));
    assert_eq!(verdict(&empty, &[&broken]), told("FAIL", "fail", "b: not so"));
    let nothing = "nothing was answered, so it shows nothing";
    assert_eq!(verdict(&empty, &[&holds]), told("SHOWS NOTHING", "nothing", nothing));
    assert_eq!(verdict(&history, &[]), told("SHOWS NOTHING", "nothing", "nothing was checked"));
}

#[test]
fn availability_is_told_in_all_and_outside_of_faults() {
    let report = json(&facts(&runs::small()));
    let all = &report["operations"];
    assert_eq!(
        [&all["invoked"], &all["ok"], &all["fail"], &all["info"]].map(|one| one.as_u64().unwrap()),
        [9, 6, 1, 2]
    );
    assert_eq!(all["never_ended"], 1);
    // From the answer at 0.4 s to that at 3.5 s; the partition lasts from 1 s to 3 s.
    assert_eq!(all["longest_stall_ns"], 3_100_000_000_u64);
    assert_eq!(all["longest_stall_outside_faults_ns"], 600_000_000);
    let [cut, kill] = [&report["faults"][0], &report["faults"][1]];
    assert_eq!([&cut["name"], &cut["stores"]], ["partition", "1, 3"]);
    assert_eq!(cut["answered_again_after_ns"], 500_000_000);
    assert_eq!(cut["traces"], serde_json::json!(["nft: 1 and 3 hear nobody else", "nft: flushed"]));
    assert!(kill["end_ns"].is_null() && kill["answered_again_after_ns"].is_null());
    assert_eq!(report["in_faults_ns"], 2_000_000_000_u64 + 1_000_000_000);
}

#[test]
fn a_history_that_is_not_well_formed_is_reported_all_the_same() {
    let record = |index, kind, f: &str| Record {
        index,
        process: Process::Client(0),
        kind,
        f: f.to_owned(),
        value: Value::Nil,
        time: 100 - index,
        extra: Default::default(),
    };
    let kinds = [(Kind::Ok, "read"), (Kind::Invoke, "read"), (Kind::Invoke, "write"), (Kind::Fail, "read")];
    let records = (0..).zip(kinds).map(|(index, (kind, f))| record(index, kind, f)).collect();
    let history = History::new(records).unwrap();
    let report = json(&facts(&history));
    assert_eq!(report["operations"]["never_ended"], 2);
    let oddities = report["oddities"].as_array().unwrap();
    assert!(oddities[0].as_str().unwrap().contains("has nothing under way"), "{oddities:?}");
    assert!(oddities[1].as_str().unwrap().contains("2 records end nothing"), "{oddities:?}");
}

#[test]
fn many_operations_take_little_space() {
    let history = Run { seed: 3, operations: 30_000, seconds: 60, faults: 40 }.history();
    let page = html(&facts(&history));
    markup::check(&page);
    assert!(page.len() < 1_000_000, "{}", page.len());
    assert!(text(&facts(&history)).len() < 100_000);
}

#[test]
fn endless_foreign_texts_are_cut() {
    let history = Run { seed: 3, operations: 5_000, seconds: 60, faults: 5_000 }.history();
    let long = ATTACK.repeat(1_000);
    let many = vec![long.clone(); 1_000];
    let check = Check { name: long.clone(), ok: false, line: long.clone(), details: many.clone() };
    let facts = Facts {
        command: long.clone(),
        workload: long,
        nemeses: many.clone(),
        ground: many.clone(),
        checks: vec![check; 100],
        artefacts: many,
        ..facts(&history)
    };
    let page = html(&facts);
    markup::check(&page);
    assert!(page.len() < 2_000_000, "{}", page.len());
}

/// For optimised builds.
#[test]
#[cfg_attr(debug_assertions, ignore = "only an optimised build says how long it takes")]
fn a_million_operations_are_reported_within_seconds_and_below_two_megabytes() {
    let history = Run { seed: 9, operations: 1_000_000, seconds: 600, faults: 120 }.history();
    let facts = facts(&history);
    let start = std::time::Instant::now();
    let (page, lines, line) = (html(&facts), text(&facts), json(&facts));
    let took = start.elapsed();
    println!("{} bytes of HTML, {} of text, {} of JSON in {took:.2?}", page.len(), lines.len(), line.to_string().len());
    assert_eq!(line["operations"]["invoked"], 1_000_000);
    assert!(page.len() < 2_000_000);
    assert!(took < std::time::Duration::from_secs(10), "{took:.2?}");
}

/// Records of a few clients, of faults and of an operator, in any order, with whatever they may say.
fn any_history() -> impl Strategy<Value = History> {
    let name = || prop::sample::select(vec!["read", "write", "kill", "a&b<c>", "<<<>>>&"]);
    let client =
        (0..3_u64, prop::sample::select(Kind::ALL.to_vec())).prop_map(|(client, kind)| (Process::Client(client), kind));
    let named = prop::sample::select(vec!["nemesis", "nemesis", "operator", "<i>"]);
    let process = prop_oneof![3 => client, 1 => named.prop_map(|name| (Process::Named(name.to_owned()), Kind::Info))];
    let text = prop_oneof![Just(ATTACK.to_owned()), any::<String>()];
    let note = (prop::sample::select(vec!["begin", "end", "<x>"]), 0..3_i64, text).prop_map(|(phase, id, text)| {
        let said = [
            ("phase", Value::keyword(phase)),
            ("id", Value::Int(id)),
            ("trace", Value::Text(text.clone())),
            ("stores", Value::list([Value::Int(id), Value::Text(text.clone())])),
            ("ok", Value::Bool(id > 0)),
            ("other", Value::Text(text)),
        ];
        Value::map(said)
    });
    let value = prop_oneof![note, any::<String>().prop_map(Value::Text), Just(Value::Nil)];
    let time = prop_oneof![0..1_000_u64, any::<u64>()];
    prop::collection::vec((process, name(), value, time), 0..40).prop_map(|records| {
        let record = |(index, ((process, kind), f, value, time)): (u64, ((Process, Kind), &str, Value, u64))| Record {
            index,
            process,
            kind,
            f: f.to_owned(),
            value,
            time,
            extra: Default::default(),
        };
        History::new((0..).zip(records).map(record).collect()).expect("indexes rise")
    })
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![Just(ATTACK.to_owned()), any::<String>(), "[<>&\"' a-z\n]{0,200}"]
}

fn sum(report: &serde_json::Value, field: &str) -> u64 {
    report["functions"].as_object().unwrap().values().map(|one| one[field].as_u64().unwrap()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_run_makes_a_sound_page_and_sums_agree(
        history in any_history(), texts in prop::collection::vec(any_text(), 1..4), ok in any::<bool>(), seed in any::<u64>(),
    ) {
        let check = Check { name: texts[0].clone(), ok, line: texts[0].clone(), details: texts.clone() };
        let facts = Facts {
            command: texts[0].clone(),
            seed,
            workload: texts[0].clone(),
            nemeses: texts.clone(),
            stores: seed,
            seconds: seed,
            ground: texts.clone(),
            history: &history,
            checks: vec![check],
            artefacts: texts.clone(),
        };
        let page = html(&facts);
        let told = markup::check(&page);
        prop_assert!(!told.contains(['\u{1b}', '\u{202e}', '\0']), "{:?}", told);
        let lines = text(&facts);
        prop_assert!(!lines.chars().any(|letter| letter.is_control() && letter != '\n'), "{lines:?}");

        let report = json(&facts);
        let records = history.records();
        let asked = records.iter().filter(|one| one.kind == Kind::Invoke).count() as u64;
        let all = &report["operations"];
        let number = |field: &str| all[field].as_u64().unwrap();
        prop_assert_eq!(number("invoked"), asked);
        prop_assert_eq!(number("ok") + number("fail") + number("info"), asked);
        for field in ["invoked", "ok", "fail", "info", "never_ended"] {
            prop_assert_eq!(sum(&report, field), number(field));
        }
        let length = report["length_ns"].as_u64().unwrap();
        prop_assert!(number("longest_stall_outside_faults_ns") <= number("longest_stall_ns"));
        prop_assert!(number("longest_stall_ns") <= length);
        prop_assert!(report["in_faults_ns"].as_u64().unwrap() <= length);
        let begins = records.iter().filter(|one| {
            let begin = Value::map([("phase", Value::keyword("begin"))]);
            let (Value::Map(fields), Value::Map(begin)) = (&one.value, &begin) else { return false };
            one.process == Process::Named("nemesis".to_owned()) && begin.iter().all(|(key, value)| fields.get(key) == Some(value))
        });
        prop_assert_eq!(report["faults"].as_array().unwrap().len(), begins.count());
    }

    #[test]
    fn what_is_told_for_a_terminal_keeps_to_its_columns(history in any_history(), words in "[a-z <>]{0,400}") {
        let facts = Facts { checks: vec![Check { name: words.clone(), ok: false, line: words.clone(), details: vec![words] }], ..facts(&history) };
        for line in text(&facts).lines() {
            prop_assert!(line.chars().count() <= 100, "{line}");
        }
    }
}
