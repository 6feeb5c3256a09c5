//! Runs whose clients are in the stores' processes.

#![allow(clippy::unwrap_used, reason = "a test")]

mod programs;

use std::process::{Command, Output};

use multiraft_torture::check::Workload;
use programs::multiraft;

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new("timeout");
    command.args(["300", env!("CARGO_BIN_EXE_multiraft-torture"), "run", "--client", "embed", "--seed", "3"]);
    let Output { status, stdout, stderr } = command.args(arguments).arg("--program").arg(multiraft()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn clients_on_the_embedding_api_are_told_nothing_wrong_while_stores_die_and_are_cut_off() {
    let workloads = Workload::ALL.map(Workload::name).join(",");
    let arguments = [
        "--workload",
        &workloads,
        "--nemesis",
        "kill,pause,partition,restart,split,merge,transfer",
        "--seconds",
        "20",
        "--clients",
        "5",
    ];
    let (code, told, problem) = run(&arguments);
    assert_eq!(code, Some(0), "{told}{problem}");
    assert!(told.contains("clients in the stores' processes, on the embedding API"), "{told}");
}

#[test]
fn what_stores_that_embed_the_engine_cannot_do_is_refused() {
    let (code, _, problem) = run(&["--workload", "register", "--nemesis", "kill,drain"]);
    assert!(code == Some(2) && problem.contains("no part in `drain`"), "{code:?}: {problem}");
}
