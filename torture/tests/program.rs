//! The program: what it prints and how it ends.

use std::path::PathBuf;
use std::process::{Command, Output};

const GOOD: &str = "{:index 0, :process :torture, :type :info, :f :workload, :value {:name \"register\"}, :time 0}
{:index 1, :process 0, :type :invoke, :f :write, :value [1 10], :time 10}
{:index 2, :process 0, :type :ok, :f :write, :value [1 10], :time 20}
{:index 3, :process 1, :type :invoke, :f :read, :value [1 nil], :time 30}
{:index 4, :process 1, :type :ok, :f :read, :value [1 10], :time 40}
";

/// A file of its own for each test; gone with it.
struct Written(PathBuf);

impl Written {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("multiraft-torture-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("the file can be written");
        Self(path)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn check(file: &Written, flags: &[&str]) -> (i32, String, String) {
    let program = env!("CARGO_BIN_EXE_multiraft-torture");
    let Output { status, stdout, stderr } =
        Command::new(program).arg("check").arg(&file.0).args(flags).output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    (status.code().expect("no signal ends it"), text(stdout), text(stderr))
}

#[test]
fn a_good_history_ends_with_0_and_a_table() {
    let (code, out, _) = check(&Written::new("good.edn", GOOD), &[]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("workload register") && out.contains("nonlinearizable"), "{out}");
    assert!(out.ends_with("holds, over 2 answered operations\n"), "{out}");
}

#[test]
fn a_bad_history_ends_with_1_and_says_what_is_wrong() {
    let text = GOOD.replace("[1 10], :time 40", "[1 nil], :time 40");
    let file = Written::new("bad.edn", &text);
    let (code, out, _) = check(&file, &[]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("client 1 read [1 nil] ok [3, 4]") && out.ends_with("REFUSED: 1 anomalies\n"), "{out}");
    let (code, out, _) = check(&file, &["--json"]);
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 1);
    assert_eq!(told["ok"], false);
    assert_eq!(told["operations"]["read"]["ok"], 1);
    assert_eq!(told["checks"][1]["anomaly"], "nonlinearizable");
    assert_eq!(told["checks"][1]["examples"][0]["records"], serde_json::json!([1, 2, 3, 4]));
}

#[test]
fn json_lines_are_judged_as_the_workload_that_is_asked_for() {
    let text = "{\"index\":0,\"process\":0,\"type\":\"invoke\",\"f\":\"generate\",\"value\":null,\"time\":1}
{\"index\":1,\"process\":0,\"type\":\"ok\",\"f\":\"generate\",\"value\":7,\"time\":2}
";
    let file = Written::new("ids.jsonl", text);
    let (code, out, _) = check(&file, &["--workload", "unique-ids", "--json"]);
    assert_eq!(code, 0, "{out}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["ok"], true);
    let (code, _, error) = check(&file, &[]);
    assert_eq!(code, 2);
    assert!(error.contains("does not begin by naming its workload"), "{error}");
}

#[test]
fn what_cannot_be_judged_ends_with_2_and_says_why() {
    let answered = GOOD.replace(":type :ok", ":type :info");
    let cases = [
        ("broken.edn", GOOD.replace(":time 40}", ":time 40"), "line 5"),
        ("empty.edn", String::new(), "naming its workload"),
        ("unanswered.edn", answered, "nothing was answered"),
        ("other.edn", GOOD.replace(":f :read", ":f :pop"), "line 4 (record 3): `pop`"),
        ("unknown.edn", GOOD.replace("\"register\"", "\"stack\""), "`stack` is none of"),
        ("nameless.edn", GOOD.replace(":name", ":nom"), "a map with a `name`"),
        ("history.txt", GOOD.to_owned(), ".edn or .jsonl"),
    ];
    for (name, text, expected) in cases {
        let file = Written::new(name, &text);
        let (code, _, error) = check(&file, &[]);
        assert_eq!(code, 2, "{name}: {error}");
        assert!(error.contains(expected), "{name}: {error}");
        let (code, out, _) = check(&file, &["--json"]);
        assert_eq!(code, 2);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["ok"], false, "{name}");
    }
    let (code, _, error) = check(&Written(PathBuf::from("no/such/history.edn")), &[]);
    assert_eq!(code, 2, "{error}");
    let (code, _, error) = check(&Written::new("flag.edn", GOOD), &["--workload", "stack"]);
    assert_eq!(code, 2);
    assert!(error.contains("one of register"), "{error}");
}

#[test]
fn what_could_not_be_decided_does_not_pass() {
    use multiraft_torture::check::register::UNDER_WAY_MAX;
    let mut text = GOOD.lines().next().expect("the header").to_owned() + "\n";
    let clients = UNDER_WAY_MAX + 1;
    for (kind, value, first) in [("invoke", "[1 nil]", 1), ("ok", "[1 nil]", clients + 1)] {
        for client in 0..clients {
            let index = first + client;
            text +=
                &format!("{{:index {index} :process {client} :type :{kind} :f :read :value {value} :time {index}}}\n");
        }
    }
    let (code, out, _) = check(&Written::new("crowded.edn", &text), &[]);
    assert_eq!(code, 1, "{out}");
    assert!(out.ends_with("NOT DECIDED: 1\n"), "{out}");
}
