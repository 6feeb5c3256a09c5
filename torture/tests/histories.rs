//! Histories in files: both formats hold the same, what is wrong is told with its line, and nothing makes the readers panic.

mod support;

use std::collections::BTreeMap;

use multiraft_torture::history::{Format, History, Kind, Outcome, Process, Record, Recorder, Value};
use proptest::prelude::*;

const JSON: &str = r#"{"index":0,"process":"torture","type":"info","f":"workload","value":{"name":"register"},"time":0}
{"index":1,"process":0,"type":"invoke","f":"write","value":["k",1],"time":10}
{"index":2,"process":1,"type":"invoke","f":"txn","value":[["append",1,2],["r",1,null]],"time":20}
{"index":3,"process":0,"type":"ok","f":"write","value":["k",1],"time":30}
{"index":4,"process":1,"type":"info","f":"txn","value":[["append",1,2],["r",1,null]],"time":40,"error":"timeout"}
{"index":5,"process":"nemesis","type":"info","f":"kill","value":{"1":":cut","node":"::a \"b\"","all":true},"time":50}
"#;

const EDN: &str = r#"{:index 0, :process :torture, :type :info, :f :workload, :value {:name "register"}, :time 0}
{:index 1, :process 0, :type :invoke, :f :write, :value ["k" 1], :time 10}
{:index 2, :process 1, :type :invoke, :f :txn, :value [[:append 1 2] [:r 1 nil]], :time 20}
{:index 3, :process 0, :type :ok, :f :write, :value ["k" 1], :time 30}
{:index 4, :process 1, :type :info, :f :txn, :value [[:append 1 2] [:r 1 nil]], :time 40, :error "timeout"}
{:index 5, :process :nemesis, :type :info, :f :kill, :value {1 :cut, :all true, :node ":a \"b\""}, :time 50}
"#;

fn read(text: &str, format: Format) -> Result<History, String> {
    History::read(text.as_bytes(), format).map_err(|error| error.to_string())
}

#[test]
fn both_formats_hold_the_same() {
    let json = read(JSON, Format::JsonLines).unwrap();
    let edn = read(EDN, Format::Edn).unwrap();
    assert_eq!(json, edn);
    assert_eq!(json.write(Format::Edn), EDN);
    assert_eq!(read(&json.write(Format::JsonLines), Format::JsonLines).unwrap(), json);
    assert_eq!(json.header().unwrap().unwrap().name, "register");
    let operations = json.operations().unwrap();
    assert_eq!(operations.len(), 2);
    assert_eq!(operations[0].outcome, Outcome::Ok(Value::keyed(Value::from("k"), Value::from(1))));
    assert_eq!(operations[1].outcome, Outcome::Info);
}

#[test]
fn what_jepsen_writes_is_read() {
    let text = "; a comment\n[#jepsen.history.Op{:index 0, :time 5, :type :invoke, :process 0,\n :f :read, :value #{1 2}, \
        :clock (1 2)} #_{:not 1}\n {:index 1 :time 6 :type :ok :process 0 :f :read :value [-1 +2 \"\\u00e9\\n\"] :x nil}]\n";
    let history = read(text, Format::Edn).unwrap();
    assert_eq!(history.records().len(), 2);
    assert_eq!(history.records()[0].value, Value::list([Value::from(1), Value::from(2)]));
    assert_eq!(history.records()[1].value, Value::list([Value::from(-1), Value::from(2), Value::from("\u{e9}\n")]));
}

/// A record with one field replaced, on line 3 behind two good ones.
fn third(fields: &str) -> String {
    let good = |index| format!("{{:index {index} :process {index} :type :invoke :f :read :value nil :time 1}}\n");
    format!("{}{}{fields}\n", good(0), good(1))
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let cases = [
        (third("{:index 2 :process 2 :type :invoke :f :read :time 1}"), "line 3: the field `value` is missing"),
        (third("{:index 1 :process 2 :type :invoke :f :read :value nil :time 1}"), "the index does not rise"),
        (third("{:index 2 :process -2 :type :invoke :f :read :value nil :time 1}"), "`process` is -2"),
        (third("{:index 2 :process 2 :type :begin :f :read :value nil :time 1}"), "`type` is :begin"),
        (third("{:index 2 :process 2 :type :ok :f \"read\" :value nil :time 1}"), "`f` is \"read\""),
        (third("{:index 2 :process :x :type :ok :f :read :value nil :time 1}"), "leaves only info"),
        (third("{:index 2 :index 3}"), "the key :index stands twice"),
        (third("{:index 2.5}"), "`2.5` is not a whole number"),
        (third("{:index 99999999999999999999}"), "not a whole number"),
        (third("{:index}"), "has no value"),
        (third("{:index 2"), "the file ends before the `}` of the map of line 3"),
        (third("[1 2]"), "[1 2] is no record"),
        (third("{:index foo}"), "the symbol `foo`"),
        (third("{:index #inst \"2026\"}"), "the tag `#inst`"),
        (third("{:index \\a}"), "characters"),
        (third("{:index \"abc"), "the file ends inside the string of line 3"),
        (third("{:index \"\\q\"}"), "`\\q` is no escape"),
        (third("{:index \"\\u12\"}"), "four digits"),
        (third("{[1] 2}"), "none of number, keyword and string"),
        (third("{\"index\" 2}"), "the field `index` is missing"),
        (third("}"), "`}` closes nothing"),
        (third("{:index : }"), "`:` is no keyword"),
    ];
    for (text, expected) in cases {
        let problem = read(&text, Format::Edn).unwrap_err();
        assert!(problem.contains("line 3") || problem.contains("line 4"), "{text}: {problem}");
        assert!(problem.contains(expected), "{text}: {problem}");
    }
    assert!(read("[{:index 0}", Format::Edn).unwrap_err().contains("line 1: the field"));
    assert!(read("[", Format::Edn).unwrap_err().contains("before the `]`"));
    assert!(read("[] 5", Format::Edn).unwrap_err().contains("behind the end"));
}

#[test]
fn times_that_go_back_are_refused_where_something_rests_on_them() {
    use multiraft_torture::check::{Workload, judge};
    let text = "{:index 0 :process 0 :type :invoke :f :read :value nil :time 5}\n\n\
        {:index 1 :process 0 :type :ok :f :read :value nil :time 4}\n";
    let history = read(text, Format::Edn).unwrap();
    assert!(judge(&history, Some(Workload::Register)).unwrap().judgement().holds());
    let problem = judge(&history, Some(Workload::BoundedStaleness)).unwrap_err().to_string();
    assert_eq!(problem, "line 3 (record 1): time goes back: before it 5 ns");
}

#[test]
fn what_is_wrong_in_json_is_told_with_its_line() {
    let good = "{\"index\":0,\"process\":0,\"type\":\"invoke\",\"f\":\"read\",\"value\":null,\"time\":1}";
    let cases = [
        (good.replace("null", "1.5"), "not a whole one"),
        (good.replace("null", "9223372036854775808"), "63 bits"),
        (good.replace("null", "{\"a b\":1}"), "neither a number nor a word"),
        (good.replace("null", "{\"a\":1,\"a\":2}"), "stands twice"),
        (good.replace("null", "\":a b\""), "is no keyword"),
        (good.replace("\"value\":null,", ""), "`value` is missing"),
        (good.replace("invoke", "begin"), "`type` is :begin"),
        (good.replace("read", "re ad"), "`f` is \"re ad\""),
        ("[1]".to_owned(), "a record is an object"),
        ("{\"index\":".to_owned(), "column 9"),
        (format!("{good}{good}"), "trailing"),
    ];
    for (line, expected) in cases {
        let problem = read(&format!("\n{line}\n"), Format::JsonLines).unwrap_err();
        assert!(problem.starts_with("line 2: ") && problem.contains(expected), "{line}: {problem}");
    }
    assert_eq!(History::read(b"\n\xff", Format::Edn).unwrap_err().to_string(), "line 2: byte 1 is not UTF-8");
}

#[test]
fn deep_values_are_refused_not_followed() {
    let deep = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
    assert!(read(&format!("{{:index {}}}", deep("[", "]")), Format::Edn).unwrap_err().contains("deep"));
    assert!(read(&deep("{1 ", "}"), Format::Edn).unwrap_err().contains("deep"));
    assert!(read(&deep("#_ ", "1"), Format::Edn).unwrap_err().contains("deep"));
    assert!(read(&format!("{{\"index\":{}}}", deep("[", "]")), Format::JsonLines).unwrap_err().contains("recursion"));
}

#[test]
fn operations_that_do_not_pair_are_refused() {
    let problem = |text: &str| {
        let good = support::history(multiraft_torture::check::Workload::Register, text);
        good.operations().unwrap_err().to_string()
    };
    let twice = problem("0 invoke read nil\n 0 invoke read nil");
    assert_eq!(twice, "line 3 (record 2): client 0 asks while its operation of record 1 is under way");
    let reused = problem("0 invoke read nil\n 0 info read nil\n 0 invoke read nil");
    assert!(
        reused.starts_with("line 4 (record 3): client 0 goes on after an operation of unknown outcome"),
        "{reused}"
    );
    assert!(problem("0 invoke read nil\n 0 info read nil\n 0 ok read nil").contains("goes on after"));
    assert!(problem("0 ok read nil").contains("client 0 is told `ok` and has nothing under way"));
    assert!(problem("0 invoke read nil\n 0 ok write nil").contains("this ends `write`, and record 1 has begun `read`"));
}

#[test]
fn a_recorder_gives_what_checkers_take() {
    let recorder = Recorder::new("register", [("total", Value::from(3))]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..50 {
                    let client = recorder.new_client();
                    let value = Value::keyed(Value::from(1), Value::from(round));
                    let ticket = recorder.invoke(client, "write", value.clone());
                    match round % 3 {
                        0 => recorder.ok(ticket, value),
                        1 => recorder.fail(ticket, "busy"),
                        _ => recorder.info(ticket, "timeout"),
                    }
                }
            });
        }
    });
    recorder.note("nemesis", "heal", Value::Nil);
    let history = recorder.history();
    assert_eq!(history.records().len(), 1 + 400 + 1);
    let again = read(&history.write(Format::Edn), Format::Edn).unwrap();
    assert_eq!(again.records(), history.records());
    assert_eq!(again.header().unwrap().unwrap().options.len(), 2);
    let operations = again.operations().unwrap();
    assert_eq!(operations.len(), 200);
    assert_eq!(operations.iter().filter(|operation| operation.has_failed()).count(), 4 * 17);
    // Elle looks for what failed in the completion.
    let failed = history.records().iter().find(|record| record.kind == Kind::Fail).unwrap();
    assert!(failed.value.as_pair().is_some());
}

fn any_word() -> impl Strategy<Value = String> {
    "[a-z_*!?=<>.&$%][a-z0-9._*+!?=<>&$%/#-]{0,8}"
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<String>().prop_map(Value::Text),
        "[:\\\\\"]{0,3}[a-z\\PC]{0,3}".prop_map(Value::Text),
        any_word().prop_map(Value::Keyword),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        let key = prop_oneof![
            any::<i64>().prop_map(Value::Int),
            any_word().prop_map(Value::Keyword),
            "[\":]{0,2}\\PC{0,3}".prop_map(Value::Text),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::btree_map(key, inner, 0..4).prop_map(Value::Map),
        ]
    })
}

fn any_record() -> impl Strategy<Value = Record> {
    let process = prop_oneof![
        (0_u64..9).prop_map(|client| (Process::Client(client), None)),
        any_word().prop_map(|name| (Process::Named(name), Some(Kind::Info))),
    ];
    let extra = prop::collection::btree_map("x[a-z]{1,5}".prop_map(Value::Keyword), any_value(), 0..2);
    (process, prop::sample::select(Kind::ALL.to_vec()), any_word(), any_value(), extra).prop_map(
        |((process, forced), kind, f, value, extra)| Record {
            index: 0,
            process,
            kind: forced.unwrap_or(kind),
            // Parts of transactions have keywords of their own; see below.
            f: if f == "txn" { "other".to_owned() } else { f },
            value,
            time: 0,
            extra,
        },
    )
}

fn any_history() -> impl Strategy<Value = History> {
    prop::collection::vec((any_record(), 1_u64..5, 0_u64..5), 0..6).prop_map(|records| {
        let (mut index, mut time) = (0, 0);
        let number = |(mut record, more, later): (Record, u64, u64)| {
            (index, time) = (index + more, time + later);
            (record.index, record.time) = (index, time);
            record
        };
        History::new(records.into_iter().map(number).collect()).expect("indexes rise")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_again(history in any_history()) {
        for format in [Format::Edn, Format::JsonLines] {
            let text = history.write(format);
            prop_assert_eq!(text.lines().count(), history.records().len());
            let again = read(&text, format).unwrap();
            prop_assert_eq!(again.records(), history.records());
        }
    }

    #[test]
    fn broken_files_are_refused_or_read_and_never_panic(
        history in any_history(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 1..6),
    ) {
        for format in [Format::Edn, Format::JsonLines] {
            let mut bytes = history.write(format).into_bytes();
            for (place, byte, how) in &changes {
                if bytes.is_empty() {
                    break;
                }
                let place = place.index(bytes.len());
                match how {
                    0 => bytes[place] = *byte,
                    1 => bytes.truncate(place),
                    _ => bytes.insert(place, b"{}[]()\":#;\\ "[usize::from(*byte) % 12]),
                }
            }
            if let Ok(history) = History::read(&bytes, format) {
                let _ = multiraft_torture::check::judge(&history, None);
                for workload in multiraft_torture::check::Workload::ALL {
                    let _ = multiraft_torture::check::judge(&history, Some(workload));
                }
            }
        }
    }

    #[test]
    fn any_text_is_refused_or_read_and_never_panics(text in "[\\[\\]{}()\":#;_\\\\ a-z0-9\n,-]{0,60}", any in any::<String>()) {
        for text in [text, any] {
            let _ = read(&text, Format::Edn);
            let _ = read(&text, Format::JsonLines);
        }
    }
}

#[test]
fn fields_beyond_the_known_ones_are_kept() {
    let history = read(JSON, Format::JsonLines).unwrap();
    let expected = BTreeMap::from([(Value::keyword("error"), Value::from("timeout"))]);
    assert_eq!(history.records()[4].extra, expected);
}
