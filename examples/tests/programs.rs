//! Each program runs to its end on three real stores and says what it should.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::process::Command;

fn output(program: &str) -> String {
    let output = Command::new(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn the_lock_service_keeps_the_owner_of_the_past_out() {
    let text = output(env!("CARGO_BIN_EXE_lock-service"));
    assert!(text.contains("bob asks: Held("), "{text}");
    assert!(text.contains("bob has the printer, token 2; his page is printed: true"), "{text}");
    assert!(text.contains("a page with token 1; it is printed: false"), "{text}");
    assert!(text.contains("store 3 is back and knows: Some(2)"), "{text}");
    assert!(text.contains("bob releases: true"), "{text}");
}

#[test]
fn the_queue_hands_out_every_item_once_and_in_order() {
    let text = output(env!("CARGO_BIN_EXE_queue"));
    let taken: Vec<&str> = text.lines().filter(|line| line.starts_with("consumer")).collect();
    let expected: Vec<String> =
        (0..30).map(|item| format!("consumer {} took number {item}: letter {item}", item % 2 + 1)).collect();
    assert_eq!(taken, expected);
    assert!(text.ends_with("what is left for it: None\n"), "{text}");
}

#[test]
fn the_database_is_whole_on_a_store_that_was_away() {
    let text = output(env!("CARGO_BIN_EXE_redb-tables"));
    let pairs: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    assert_eq!(pairs, ["amazon: 6400 km", "danube: 2850 km", "lena: 4294 km", "nile: 6650 km", "yukon: 3190 km"]);
}

#[test]
fn the_block_device_reads_what_was_written() {
    let text = output(env!("CARGO_BIN_EXE_block-device"));
    assert_eq!(text.matches(": true").count(), 3, "{text}");
}

#[test]
fn a_region_is_split_moved_checked_and_merged_back_under_its_data() {
    let text = output(env!("CARGO_BIN_EXE_living-regions"));
    let all = |count: u32| {
        ["aarau", "basel", "chur", "davos", "egg", "flims"].map(|station| format!("{station} {count}")).join(", ")
    };
    assert!(text.contains("one region became 3\n"), "{text}");
    assert!(text.contains(&format!("across all of them: {}\n", all(2))), "{text}");
    assert!(
        text.contains("the middle one is on 2 stores\nand on 3 again\n3 of its replicas have the same state"),
        "{text}"
    );
    assert!(text.contains(&format!("owned by one: {}\n", all(3))), "{text}");
    assert!(text.contains("store 1 saw 2 regions come and 2 go\n"), "{text}");
}
