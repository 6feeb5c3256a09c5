//! Three stores under far more load than they can take, one of them stopped and another with a slow disk: memory stays bounded, callers
//! are told `BUSY`, whoever wants little is served, and nothing is lost.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod programs;

use std::process::{Command, Stdio};

use programs::multiraft;
use serde_json::Value;

/// How long a lone client may be left without an acknowledgement, in milliseconds: as long as a store tries before it says that it does
/// not know. Where callers were held back by the bytes of queues alone, it was longer.
const SILENCE_MS: u64 = 3_000;

/// For how many seconds a store stands still: some until that is found out, and some that count.
const HURT_SECONDS: u64 = 8;

#[test]
fn a_crowd_is_told_busy_and_nobody_else_is_held_up() {
    // Ends by itself: nothing in it waits without a bound.
    let mut command = Command::new(env!("CARGO_BIN_EXE_multiraft-torture"));
    command.args(["overload", "--json", "--seed", "3", "--clients", "300", "--rate", "10"]);
    command.args(["--seconds", &HURT_SECONDS.to_string(), "--silence", &SILENCE_MS.to_string()]);
    let output = command.arg("--program").arg(multiraft()).stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    let told: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(told["ok"], true);
    assert!(output.status.success());
    // What was checked was there to be checked.
    assert!(told["crowd"]["outstanding_bytes"].as_u64().unwrap() > 64 << 20);
    assert!(told["lone"].as_array().unwrap().iter().all(|part| part["acknowledged"].as_u64().unwrap() > 0));
    assert!(told["resident_bytes"]["most"].as_array().unwrap().iter().all(|bytes| bytes.as_u64().unwrap() > 8 << 20));
}
