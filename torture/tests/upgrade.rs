//! A run in which stores come to speak another version of the wire format, one after the other, and back.

#![allow(clippy::print_stdout, reason = "whoever runs the tests wants to know what was left out")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod programs;

use std::process::Command;

use multiraft_torture::cluster::Program;
use programs::multiraft;

#[test]
fn stores_go_to_another_wire_version_and_back_one_after_the_other_and_clients_notice_nothing_wrong() {
    let program = multiraft();
    if !Program::at(&program).unwrap().can_drift() {
        return println!("SKIPPED: the program is not built with --features torture");
    }
    let mut command = Command::new("timeout");
    command.args(["300", env!("CARGO_BIN_EXE_multiraft-torture"), "run", "--seed", "5", "--net", "proxy"]);
    command.args(["--workload", "register", "--nemesis", "upgrade", "--seconds", "25", "--clients", "3"]);
    let output = command.arg("--program").arg(program).output().unwrap();
    let [told, problem] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert_eq!(output.status.code(), Some(0), "{told}{problem}");
    let seen = |part: &str| told.lines().chain(problem.lines()).any(|line| line.contains(part));
    assert!(seen("links in the cluster: 2 of version 1, 1 of version 2"), "{told}{problem}");
    assert!(seen("to version 2"), "{told}{problem}");
}
