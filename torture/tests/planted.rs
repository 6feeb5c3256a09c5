//! For each anomaly that a checker names, a shortest history that has it, and must be refused by that name; and histories that
//! come close to it and must pass.
//!
//! A line is `process type f value`; its number is its index, ten times that its time.

mod support;

use multiraft_torture::check::Workload::{self, *};
use support::{anomalies, problem};

#[track_caller]
fn passes(workload: Workload, text: &str) {
    assert_eq!(anomalies(workload, text), [""; 0]);
}

#[track_caller]
fn refused(workload: Workload, text: &str, expected: &[&str]) {
    assert_eq!(anomalies(workload, text), expected);
}

#[test]
fn registers_that_are_linearizable_pass() {
    passes(
        Register,
        "0 invoke write [1 10]
         1 invoke read [1 nil]
         0 ok write [1 10]
         1 ok read [1 nil]
         1 invoke cas [1 [10 20]]
         0 invoke read [1 nil]
         0 ok read [1 20]
         1 ok cas [1 [10 20]]
         0 invoke read [2 nil]
         0 ok read [2 nil]",
    );
}

#[test]
fn one_register_may_go_without_a_key() {
    let history = |read| {
        format!(
            "0 invoke write 10
             0 ok write 10
             0 invoke cas [10 20]
             0 ok cas [10 20]
             1 invoke read nil
             1 ok read {read}"
        )
    };
    passes(Register, &history("20"));
    refused(Register, &history("10"), &["nonlinearizable"]);
}

#[test]
fn a_write_of_unknown_outcome_may_take_effect_at_any_later_time_or_never() {
    let late = "0 invoke write [1 10]
        0 info write [1 10]
        1 invoke read [1 nil]
        1 ok read [1 nil]
        1 invoke write [1 20]
        1 ok write [1 20]
        1 invoke read [1 nil]";
    passes(Register, &format!("{late}\n 1 ok read [1 20]"));
    passes(Register, &format!("{late}\n 1 ok read [1 10]"));
    // Once only: it cannot come back.
    let back = "1 ok read [1 10]
        1 invoke write [1 20]
        1 ok write [1 20]
        1 invoke read [1 nil]
        1 ok read [1 10]";
    refused(Register, &format!("{late}\n{back}"), &["nonlinearizable"]);
}

#[test]
fn a_compare_and_set_of_unknown_outcome_explains_what_it_may_have_left() {
    let history = |read| {
        format!(
            "0 invoke write [1 10]
             0 ok write [1 10]
             1 invoke cas [1 [10 20]]
             2 invoke cas [1 [20 30]]
             0 invoke read [1 nil]
             0 ok read [1 {read}]"
        )
    };
    passes(Register, &history("30"));
    passes(Register, &history("10"));
    refused(Register, &history("nil"), &["nonlinearizable"]);
}

#[test]
fn a_stale_read_is_refused() {
    refused(
        Register,
        "0 invoke write [1 10]
         0 ok write [1 10]
         0 invoke write [1 20]
         0 ok write [1 20]
         1 invoke read [1 nil]
         1 ok read [1 10]",
        &["nonlinearizable"],
    );
}

#[test]
fn a_register_that_forgets_is_refused_since_nil_is_not_anything() {
    refused(
        Register,
        "0 invoke write [1 10]
         0 ok write [1 10]
         1 invoke read [1 nil]
         1 ok read [1 nil]",
        &["nonlinearizable"],
    );
    // A compare-and-set that expects nothing is as strict.
    refused(
        Register,
        "0 invoke write [1 10]
         0 ok write [1 10]
         1 invoke cas [1 [nil 20]]
         1 ok cas [1 [nil 20]]",
        &["nonlinearizable"],
    );
}

#[test]
fn reads_that_go_back_in_time_are_refused() {
    refused(
        Register,
        "0 invoke write [1 10]
         1 invoke read [1 nil]
         1 ok read [1 10]
         1 invoke read [1 nil]
         1 ok read [1 nil]
         0 ok write [1 10]",
        &["nonlinearizable"],
    );
}

#[test]
fn two_compare_and_sets_cannot_both_win() {
    refused(
        Register,
        "0 invoke write [1 10]
         0 ok write [1 10]
         0 invoke cas [1 [10 20]]
         1 invoke cas [1 [10 30]]
         0 ok cas [1 [10 20]]
         1 ok cas [1 [10 30]]",
        &["nonlinearizable"],
    );
}

#[test]
fn a_read_of_what_nobody_wrote_is_refused() {
    refused(Register, "0 invoke read [1 nil]\n 0 ok read [1 10]", &["phantom-value"]);
    refused(
        Register,
        "0 invoke write [1 10]
         0 fail write [1 10]
         0 invoke read [1 nil]
         0 ok read [1 10]",
        &["phantom-value"],
    );
    refused(
        Register,
        "0 invoke read [1 nil]
         0 ok read [1 10]
         0 invoke write [1 10]
         0 ok write [1 10]",
        &["nonlinearizable"],
    );
}

#[test]
fn a_refusal_names_the_answer_and_what_is_around_it() {
    let text = "0 invoke write [1 10]
        0 ok write [1 10]
        0 invoke write [1 20]
        2 invoke write [1 30]
        0 ok write [1 20]
        1 invoke read [1 nil]
        1 ok read [1 10]
        1 invoke read [1 nil]
        1 ok read [1 20]";
    let verdict = multiraft_torture::check::judge(&support::history(Register, text), None).unwrap();
    let finding = verdict.judgement().rows().iter().flat_map(|row| &row.examples).next().unwrap();
    assert!(finding.what.contains("client 1 read [1 nil] -> [1 10] [6, 7]"), "{}", finding.what);
    assert!(finding.what.contains("could hold 20"), "{}", finding.what);
    assert_eq!(finding.records, [1, 2, 3, 5, 6, 7]);
}

#[test]
fn lists_that_are_serializable_pass() {
    passes(
        ListAppend,
        "0 invoke txn [[:append 1 10] [:r 2 nil]]
         1 invoke append [1 11]
         0 ok txn [[:append 1 10] [:r 2 []]]
         1 info append [1 11]
         2 invoke txn [[:append 1 12] [:append 1 13]]
         2 fail txn [[:append 1 12] [:append 1 13]]
         0 invoke read [1 nil]
         0 ok read [1 [10 11]]
         2 invoke txn [[:r 2 nil] [:append 2 20] [:r 2 nil] [:append 2 21]]
         2 ok txn [[:r 2 nil] [:append 2 20] [:r 2 [20]] [:append 2 21]]
         0 invoke read [2 nil]
         0 ok read [2 [20 21]]",
    );
}

#[test]
fn anomalies_of_single_lists_are_refused() {
    refused(
        ListAppend,
        "0 invoke append [1 10]
         0 ok append [1 10]
         0 invoke read [1 nil]
         0 ok read [1 [10 10]]",
        &["duplicate-element"],
    );
    refused(ListAppend, "0 invoke read [1 nil]\n 0 ok read [1 [10]]", &["phantom-element"]);
    refused(
        ListAppend,
        "0 invoke append [1 10]
         0 fail append [1 10]
         0 invoke read [1 nil]
         0 ok read [1 [10]]",
        &["G1a"],
    );
    refused(
        ListAppend,
        "0 invoke append [1 10]
         1 invoke append [1 11]
         2 invoke read [1 nil]
         3 invoke read [1 nil]
         2 ok read [1 [10 11]]
         3 ok read [1 [11]]
         0 ok append [1 10]
         1 ok append [1 11]",
        &["incompatible-order"],
    );
}

#[test]
fn a_lost_append_is_refused() {
    refused(
        ListAppend,
        "0 invoke append [1 10]
         0 ok append [1 10]
         0 invoke read [1 nil]
         0 ok read [1 nil]",
        &["lost-append", "G-single-realtime"],
    );
    // Nobody read it: nothing is known.
    passes(
        ListAppend,
        "0 invoke append [1 10]
         1 invoke read [1 nil]
         0 ok append [1 10]
         1 ok read [1 nil]",
    );
}

#[test]
fn a_stale_read_of_a_list_is_refused() {
    refused(
        ListAppend,
        "0 invoke append [1 10]
         0 ok append [1 10]
         0 invoke read [1 nil]
         0 ok read [1 nil]
         0 invoke read [1 nil]
         0 ok read [1 [10]]",
        &["stale-read", "G-single-realtime"],
    );
}

#[test]
fn parts_of_transactions_do_not_show() {
    refused(
        ListAppend,
        "0 invoke txn [[:append 1 10] [:append 1 11]]
         1 invoke read [1 nil]
         1 ok read [1 [10]]
         1 invoke read [1 nil]
         1 ok read [1 [10 11]]
         0 ok txn [[:append 1 10] [:append 1 11]]",
        &["G1b", "G-single"],
    );
    refused(
        ListAppend,
        "0 invoke txn [[:append 1 10] [:append 1 11]]
         0 ok txn [[:append 1 10] [:append 1 11]]
         1 invoke read [1 nil]
         1 ok read [1 [11 10]]",
        &["G1b", "torn-append"],
    );
}

#[test]
fn a_transaction_that_contradicts_itself_is_refused() {
    refused(
        ListAppend,
        "0 invoke txn [[:append 1 10] [:r 1 nil]]
         0 ok txn [[:append 1 10] [:r 1 nil]]",
        &["internal"],
    );
    refused(
        ListAppend,
        "1 invoke append [1 11]
         0 invoke txn [[:r 1 nil] [:r 1 nil]]
         0 ok txn [[:r 1 nil] [:r 1 [11]]]",
        &["internal"],
    );
    refused(
        ListAppend,
        "0 invoke txn [[:r 1 nil] [:append 1 10]]
         0 ok txn [[:r 1 [10]] [:append 1 10]]",
        &["internal"],
    );
}

/// Four clients whose operations all overlap.
fn at_once(transactions: &[(&str, &str)]) -> String {
    let line = |kind, (process, value): (usize, &str)| format!("{process} {kind} txn {value}\n");
    let begin: String =
        transactions.iter().map(|(asked, _)| *asked).enumerate().map(|one| line("invoke", one)).collect();
    let end: String = transactions.iter().map(|(_, told)| *told).enumerate().map(|one| line("ok", one)).collect();
    begin + &end
}

#[test]
fn cycles_of_writes_are_refused() {
    let both = |one, other| format!("[[:append 1 {one}] [:append 2 {other}]]");
    let writers = [(both(10, 20), both(10, 20)), (both(11, 21), both(11, 21))];
    let read = ("[[:r 1 nil] [:r 2 nil]]", "[[:r 1 [10 11]] [:r 2 [21 20]]]");
    let history: Vec<(&str, &str)> = writers.iter().map(|(asked, told)| (&**asked, &**told)).chain([read]).collect();
    refused(ListAppend, &at_once(&history), &["G0"]);
}

#[test]
fn cycles_of_writes_and_reads_are_refused() {
    refused(
        ListAppend,
        &at_once(&[
            ("[[:append 1 10] [:r 2 nil]]", "[[:append 1 10] [:r 2 [20]]]"),
            ("[[:append 2 20] [:r 1 nil]]", "[[:append 2 20] [:r 1 [10]]]"),
        ]),
        &["G1c"],
    );
}

#[test]
fn a_read_that_sees_half_of_a_transaction_is_refused() {
    refused(
        ListAppend,
        &at_once(&[
            ("[[:append 1 10] [:append 2 20]]", "[[:append 1 10] [:append 2 20]]"),
            ("[[:r 1 nil] [:r 2 nil]]", "[[:r 1 [10]] [:r 2 nil]]"),
        ]),
        &["G-single"],
    );
    // The outcome of the writer is unknown, but half of it was seen.
    refused(
        ListAppend,
        "0 invoke txn [[:append 1 10] [:append 2 20]]
         1 invoke txn [[:r 1 nil] [:r 2 nil]]
         1 ok txn [[:r 1 [10]] [:r 2 nil]]",
        &["G-single"],
    );
}

#[test]
fn write_skew_is_refused() {
    refused(
        ListAppend,
        &at_once(&[
            ("[[:r 1 nil] [:append 2 20]]", "[[:r 1 nil] [:append 2 20]]"),
            ("[[:r 2 nil] [:append 1 10]]", "[[:r 2 nil] [:append 1 10]]"),
        ]),
        &["G2-item"],
    );
}

#[test]
fn orders_that_contradict_real_time_are_refused() {
    refused(
        ListAppend,
        "0 invoke append [1 10]
         0 ok append [1 10]
         0 invoke append [1 11]
         1 invoke read [1 nil]
         1 ok read [1 [11 10]]
         0 ok append [1 11]",
        &["G0-realtime"],
    );
    refused(
        ListAppend,
        "0 invoke read [1 nil]
         0 ok read [1 [10]]
         0 invoke append [1 10]
         0 ok append [1 10]",
        &["G1c-realtime"],
    );
    // Each list by itself is in order; the two together are not.
    refused(
        ListAppend,
        "0 invoke append [1 10]
         1 invoke append [2 20]
         2 invoke txn [[:r 1 nil] [:r 2 nil]]
         2 ok txn [[:r 1 nil] [:r 2 [20]]]
         3 invoke txn [[:r 1 nil] [:r 2 nil]]
         3 ok txn [[:r 1 [10]] [:r 2 nil]]",
        &["G2-item"],
    );
    refused(
        ListAppend,
        "0 invoke txn [[:r 1 nil] [:r 2 nil]]
         1 invoke append [1 10]
         1 ok append [1 10]
         2 invoke append [2 20]
         2 ok append [2 20]
         0 ok txn [[:r 1 nil] [:r 2 [20]]]",
        &["G-single-realtime"],
    );
    refused(
        ListAppend,
        "0 invoke txn [[:r 1 nil] [:r 2 nil]]
         1 invoke append [1 10]
         1 ok append [1 10]
         2 invoke append [3 30]
         2 ok append [3 30]
         3 invoke txn [[:r 3 nil] [:r 4 nil]]
         4 invoke append [4 40]
         4 ok append [4 40]
         3 ok txn [[:r 3 [30]] [:r 4 nil]]
         5 invoke append [2 20]
         5 ok append [2 20]
         0 ok txn [[:r 1 nil] [:r 2 [20]]]",
        &["G-single-realtime"],
    );
    refused(
        ListAppend,
        "0 invoke txn [[:r 1 nil] [:append 2 20]]
         1 invoke append [1 10]
         1 ok append [1 10]
         2 invoke txn [[:r 3 nil] [:append 4 40]]
         3 invoke append [3 30]
         3 ok append [3 30]
         4 invoke read [2 nil]
         4 ok read [2 nil]
         5 invoke read [4 nil]
         5 ok read [4 nil]
         0 ok txn [[:r 1 nil] [:append 2 20]]
         2 ok txn [[:r 3 nil] [:append 4 40]]",
        &["G2-item-realtime"],
    );
}

#[test]
fn sets_that_keep_what_they_have_pass() {
    passes(
        Set,
        "0 invoke add 1
         1 invoke add 2
         1 info add 2
         0 ok add 1
         0 invoke read nil
         0 ok read [1]
         0 invoke read nil
         0 ok read #{2 1}
         0 invoke add [7 1]
         0 ok add [7 1]
         0 invoke read [7 nil]
         0 ok read [7 [1]]",
    );
}

#[test]
fn anomalies_of_sets_are_refused() {
    let added = "0 invoke add 1\n 0 ok add 1\n 0 invoke read nil\n";
    refused(Set, &format!("{added} 0 ok read []"), &["lost-element"]);
    refused(Set, &format!("{added} 0 ok read []\n 0 invoke read nil\n 0 ok read [1]"), &["stale-read"]);
    refused(Set, &format!("{added} 0 ok read [1 1]"), &["duplicate-element"]);
    refused(Set, &format!("{added} 0 ok read [1 2]"), &["phantom-element"]);
    refused(Set, "0 invoke add 1\n 0 fail add 1\n 0 invoke read nil\n 0 ok read [1]", &["phantom-element"]);
    refused(Set, "0 invoke read nil\n 0 ok read [1]\n 0 invoke add 1\n 0 ok add 1", &["phantom-element"]);
    // Seen once, it is known, although its add was not answered.
    let seen = "1 invoke add 1\n 0 invoke read nil\n 0 ok read [1]\n 0 invoke read nil\n 0 ok read []";
    refused(Set, seen, &["lost-element"]);
}

#[test]
fn counters_within_their_bounds_pass() {
    passes(
        Counter,
        "0 invoke add 2
         1 invoke add 3
         2 invoke read nil
         2 ok read 3
         0 ok add 2
         1 info add 3
         2 invoke read nil
         2 ok read 5
         2 invoke add -1
         0 invoke read nil
         0 ok read 4
         2 ok add -1",
    );
}

#[test]
fn anomalies_of_counters_are_refused() {
    refused(Counter, "0 invoke add 2\n 0 ok add 2\n 0 invoke read nil\n 0 ok read 1", &["too-low"]);
    refused(Counter, "0 invoke add 2\n 0 ok add 2\n 0 invoke read nil\n 0 ok read 3", &["too-high"]);
    refused(Counter, "0 invoke add 2\n 0 fail add 2\n 0 invoke read nil\n 0 ok read 2", &["too-high"]);
    refused(Counter, "0 invoke add -2\n 0 ok add -2\n 0 invoke read nil\n 0 ok read 0", &["too-high"]);
    refused(Counter, "0 invoke add -2\n 1 invoke read nil\n 1 ok read -3\n 0 ok add -2", &["too-low"]);
    refused(
        Counter,
        "0 invoke add 2
         1 invoke read nil
         1 ok read 2
         1 invoke read nil
         1 ok read 0
         0 ok add 2",
        &["went-back"],
    );
    refused(Counter, "0 invoke add [7 2]\n 0 ok add [7 2]\n 0 invoke read [7 nil]\n 0 ok read [7 0]", &["too-low"]);
}

#[test]
fn banks_that_keep_their_total_pass() {
    passes(
        Bank,
        "{:total 10}
         0 invoke read nil
         0 ok read {1 10, 2 0}
         0 invoke transfer {:from 1, :to 2, :amount 4}
         1 invoke read nil
         1 ok read {1 6, 2 4}
         0 info transfer {:from 1, :to 2, :amount 4}",
    );
    passes(Bank, "{:total 10, :negative true}\n 0 invoke read nil\n 0 ok read {1 11, 2 -1}");
    passes(Bank, "0 invoke read [7 nil]\n 0 ok read [7 {1 10}]\n 0 invoke read [8 nil]\n 0 ok read [8 {1 5}]");
}

#[test]
fn anomalies_of_banks_are_refused() {
    refused(Bank, "{:total 10}\n 0 invoke read nil\n 0 ok read {1 5, 2 4}", &["wrong-total"]);
    refused(Bank, "{:total 10}\n 0 invoke read nil\n 0 ok read {1 11, 2 -1}", &["negative-balance"]);
    let read = |answer| format!("0 invoke read nil\n 0 ok read {answer}\n");
    refused(Bank, &(read("{1 5, 2 5}") + &read("{1 5, 2 6}")), &["wrong-total"]);
    refused(Bank, &(read("{1 5, 2 5}") + &read("{1 10}")), &["other-accounts"]);
}

#[test]
fn an_id_that_two_clients_get_is_refused() {
    let get = |process, id| format!("{process} invoke generate nil\n {process} ok generate {id}\n");
    passes(UniqueIds, &(get(0, 1) + &get(1, 2) + "0 invoke generate nil\n"));
    refused(UniqueIds, &(get(0, 1) + &get(1, 1)), &["duplicate-id"]);
    let keyed = |key, id| format!("0 invoke generate [{key} nil]\n 0 ok generate [{key} {id}]\n");
    passes(UniqueIds, &(keyed(1, 5) + &keyed(2, 5)));
    refused(UniqueIds, &(keyed(1, 5) + &keyed(1, 5)), &["duplicate-id"]);
}

#[test]
fn commands_that_take_effect_once_pass() {
    passes(
        Sessions,
        "0 invoke command [\"a\" 1]
         0 info command [\"a\" 1]
         1 invoke command [\"b\" 1]
         1 ok command [\"b\" 1 2]
         2 invoke command [\"a\" 1]
         2 ok command [\"a\" 1 1]
         1 invoke read nil
         1 ok read [[\"a\" 1] [\"b\" 1]]
         1 invoke command [7 \"a\" 1]
         1 ok command [7 \"a\" 1 1]",
    );
}

#[test]
fn anomalies_of_sessions_are_refused() {
    let send =
        |sequence: u64, told: &str| format!("0 invoke command [1 {sequence}]\n 0 ok command [1 {sequence} {told}]\n");
    let read = |log| format!("0 invoke read nil\n 0 ok read {log}\n");
    refused(Sessions, &(send(1, "1") + &send(2, "2") + &send(1, "3")), &["applied-twice"]);
    refused(Sessions, &(send(1, "1") + &read("[[1 1] [1 1]]")), &["applied-twice"]);
    refused(Sessions, &(send(1, "1") + &read("[]")), &["lost-command"]);
    refused(Sessions, &read("[[1 1]]"), &["phantom-command"]);
    refused(Sessions, &(read("[[1 1]]") + &send(1, "1")), &["phantom-command"]);
    refused(
        Sessions,
        &("0 invoke command [1 1]\n 0 fail command [1 1]\n".to_owned() + &read("[[1 1]]")),
        &["phantom-command"],
    );
    refused(Sessions, &(send(1, "1") + &send(2, "1")), &["shared-place"]);
    refused(Sessions, &send(1, "2"), &["wrong-place"]);
    let swapped =
        "1 invoke command [1 2]\n".to_owned() + &send(1, "1") + "1 ok command [1 2 2]\n" + &read("[[1 2] [1 1]]");
    refused(Sessions, &swapped, &["shared-place", "wrong-place"]);
    let early = "1 invoke command [1 9]\n".to_owned() + &send(1, "2") + &send(2, "1") + "1 ok command [1 9 3]";
    refused(Sessions, &early, &["out-of-order"]);
}

#[test]
fn scans_of_what_is_there_pass() {
    passes(
        Scan,
        "0 invoke put \"a\"
         0 ok put \"a\"
         0 invoke put [\"b\" 7]
         1 invoke scan [\"a\" \"c\"]
         1 ok scan [\"a\"]
         1 invoke scan nil
         1 ok scan [\"a\" \"b\"]
         0 ok put [\"b\" 7]
         2 invoke delete \"a\"
         1 invoke scan [nil \"b\"]
         1 ok scan [\"a\"]
         1 invoke scan [\"a\" nil]
         1 ok scan [\"b\"]
         2 info delete \"a\"",
    );
}

#[test]
fn anomalies_of_scans_are_refused() {
    let put = |key| format!("0 invoke put {key}\n 0 ok put {key}\n");
    let delete = |key| format!("0 invoke delete {key}\n 0 ok delete {key}\n");
    let scan = |range, keys| format!("0 invoke scan {range}\n 0 ok scan {keys}\n");
    refused(Scan, &(put(1) + &put(2) + &scan("nil", "[2 1]")), &["unordered"]);
    refused(Scan, &(put(1) + &scan("nil", "[1 1]")), &["duplicate-key"]);
    refused(Scan, &(put(1) + &scan("nil", "[]")), &["missing-key"]);
    refused(Scan, &scan("nil", "[1]"), &["phantom-key"]);
    refused(Scan, &(put(1) + &delete(1) + &scan("nil", "[1]")), &["phantom-key"]);
    refused(Scan, &(scan("nil", "[1]") + &put(1)), &["phantom-key"]);
    refused(Scan, &(put(1) + &put(5) + &scan("[0 5]", "[1 5]")), &["outside-range"]);
    // A failed delete deletes nothing, a put after a delete is there, and what was seen is there.
    refused(Scan, &(put(1) + "0 invoke delete 1\n 0 fail delete 1\n" + &scan("nil", "[]")), &["missing-key"]);
    refused(Scan, &(put(1) + &delete(1) + &put(1) + &scan("nil", "[]")), &["missing-key"]);
    refused(Scan, &("1 invoke put 1\n".to_owned() + &scan("nil", "[1]") + &scan("nil", "[]")), &["missing-key"]);
}

#[test]
fn a_delete_that_may_still_come_excuses_a_scan() {
    let begun = "1 invoke delete 1\n 1 info delete 1\n 0 invoke put 1\n 0 ok put 1\n 0 invoke scan nil\n";
    passes(Scan, &format!("{begun} 0 ok scan []"));
    passes(Scan, &format!("{begun} 0 ok scan [1]"));
}

#[test]
fn locks_with_rising_tokens_pass() {
    passes(
        Lock,
        "0 invoke acquire nil
         0 ok acquire 1
         1 invoke acquire nil
         0 invoke release 1
         1 ok acquire 5
         0 ok release 1
         2 invoke acquire [7 nil]
         2 ok acquire [7 1]",
    );
    // Its holder is not sure of it any longer.
    let expired = "0 invoke acquire nil\n 0 ok acquire 1\n 1 invoke acquire nil\n 1 ok acquire 2";
    passes(Lock, &format!("{{:expires 20}}\n{expired}"));
    refused(Lock, &format!("{{:expires 31}}\n{expired}"), &["two-holders"]);
}

#[test]
fn anomalies_of_locks_are_refused() {
    let acquire = |process, token| format!("{process} invoke acquire nil\n {process} ok acquire {token}\n");
    let release = |process, token| format!("{process} invoke release {token}\n {process} ok release {token}\n");
    refused(Lock, &(acquire(0, 1) + &acquire(1, 2)), &["two-holders"]);
    refused(Lock, &(acquire(0, 1) + "0 invoke release 1\n 0 fail release 1\n" + &acquire(1, 2)), &["two-holders"]);
    refused(Lock, &(acquire(0, 2) + &release(0, 2) + &acquire(1, 1)), &["token-order"]);
    refused(Lock, &(acquire(0, 1) + &release(0, 1) + &acquire(1, 1)), &["duplicate-token"]);
}

/// A write ends at 20 ns, another at 40; then something is read at 50 ns.
fn bounded(read: &str, told: &str) -> String {
    format!(
        "0 invoke write [1 10]
         0 ok write [1 10]
         0 invoke write [1 20]
         0 ok write [1 20]
         1 invoke {read}
         1 ok {told}"
    )
}

#[test]
fn bounded_reads_may_miss_what_is_younger_than_their_bound() {
    passes(BoundedStaleness, &bounded("read-bounded [1 10]", "read-bounded [1 10]"));
    refused(BoundedStaleness, &bounded("read-bounded [1 9]", "read-bounded [1 10]"), &["outside-bound"]);
    passes(
        BoundedStaleness,
        &format!("{{:drift-permille 200}}\n{}", bounded("read-bounded [1 9]", "read-bounded [1 10]")),
    );
    passes(BoundedStaleness, &bounded("read-bounded [1 30]", "read-bounded [1 nil]"));
    refused(BoundedStaleness, &bounded("read-bounded [1 29]", "read-bounded [1 nil]"), &["outside-bound"]);
    passes(BoundedStaleness, &bounded("read-bounded [1 0]", "read-bounded [1 20]"));
}

#[test]
fn other_anomalies_of_bounded_reads_are_refused() {
    refused(BoundedStaleness, &bounded("read-bounded [1 10]", "read-bounded [1 30]"), &["phantom-value"]);
    refused(BoundedStaleness, &bounded("read [1 nil]", "read [1 10]"), &["nonlinearizable"]);
    // From the future.
    refused(
        BoundedStaleness,
        "0 invoke read-bounded [1 1000]
         0 ok read-bounded [1 10]
         0 invoke write [1 10]
         0 ok write [1 10]",
        &["outside-bound"],
    );
}

/// Two writes, and two reads at once.
fn forks(one: (&str, &str), other: (&str, &str)) -> String {
    let writes =
        "0 invoke txn [[:w 1 10]]\n 1 invoke txn [[:w 2 20]]\n 2 invoke txn [[:w 3 30]]\n 2 fail txn [[:w 3 30]]\n";
    format!("{writes} 2 invoke txn {}\n 3 invoke txn {}\n 2 ok txn {}\n 3 ok txn {}", one.0, other.0, one.1, other.1)
}

#[test]
fn reads_that_see_writes_in_contrary_orders_are_refused() {
    let ask = "[[:r 1 nil] [:r 2 nil]]";
    let (first, second) = ("[[:r 1 10] [:r 2 nil]]", "[[:r 1 nil] [:r 2 20]]");
    refused(LongFork, &forks((ask, first), (ask, second)), &["long-fork"]);
    passes(LongFork, &forks((ask, first), (ask, first)));
    passes(LongFork, &forks((ask, first), (ask, "[[:r 1 10] [:r 2 20]]")));
    // Read one after the other: both keys changed meanwhile. Only what was seen before something was missed counts.
    let reversed = ("[[:r 2 nil] [:r 1 nil]]", "[[:r 2 20] [:r 1 nil]]");
    passes(LongFork, &format!("{{:atomic false}}\n{}", forks((ask, first), (ask, second))));
    refused(LongFork, &format!("{{:atomic false}}\n{}", forks((ask, first), reversed)), &["long-fork"]);
}

#[test]
fn other_anomalies_of_forks_are_refused() {
    let ask = "[[:r 1 nil] [:r 3 nil]]";
    let nothing = "[[:r 1 nil] [:r 3 nil]]";
    refused(LongFork, &forks((ask, "[[:r 1 11] [:r 3 nil]]"), (ask, nothing)), &["phantom-value"]);
    refused(LongFork, &forks((ask, "[[:r 1 nil] [:r 3 30]]"), (ask, nothing)), &["phantom-value"]);
    let late = "0 invoke txn [[:w 1 10]]\n 0 ok txn [[:w 1 10]]\n 0 invoke txn [[:r 1 nil]]\n 0 ok txn [[:r 1 nil]]";
    refused(LongFork, late, &["stale-read"]);
    passes(LongFork, &format!("{{:stale true}}\n{late}"));
}

#[test]
fn operations_of_other_workloads_are_unusable() {
    let cases: &[(Workload, &str, &str)] = &[
        (Register, "0 invoke pop [1 nil]", "`pop` is none of read, write, cas"),
        (Register, "0 invoke read 5", "[key nil], or nil"),
        (Register, "0 invoke write [1 nil]", "nil means never written"),
        (Register, "0 invoke cas 5", "[key [old new]]"),
        (Register, "0 invoke cas [1 nil]", "new is not nil"),
        (Register, "0 invoke read [1 nil]\n 0 ok read [2 nil]", "the same key"),
        (Register, "0 invoke write [1 2]\n 0 ok write [1 3]", "repeats the question"),
        (ListAppend, "0 invoke txn [[:pop 1 nil]]", "list of [:append key element]"),
        (ListAppend, "0 invoke txn 5", "list of [:append key element]"),
        (ListAppend, "0 invoke append [1 2]\n 1 invoke append [1 2]", "a second time"),
        (ListAppend, "0 invoke read [1 nil]\n 0 ok read [1 2]", "a read answers a list"),
        (ListAppend, "0 invoke txn [[:r 1 nil]]\n 0 ok txn []", "as many parts"),
        (ListAppend, "0 invoke txn [[:r 1 nil]]\n 0 ok txn [[:r 2 nil]]", "not those that were asked for"),
        (Set, "0 invoke add nil", "an element is"),
        (Set, "0 invoke read nil\n 0 ok read 5", "answers a list"),
        (Counter, "0 invoke add \"x\"", "a whole number"),
        (Bank, "{:total \"x\"}\n 0 invoke read nil", "`total`"),
        (Bank, "0 invoke transfer {:from 1}", "from, to and amount"),
        (Bank, "0 invoke read nil\n 0 ok read {1 nil}", "a map from accounts to balances"),
        (UniqueIds, "0 invoke generate nil\n 0 ok generate nil", "nil is no id"),
        (Sessions, "0 invoke command 1", "[session sequence]"),
        (Sessions, "0 invoke command [1 1]\n 0 ok command [1 2 1]", "what was sent"),
        (Sessions, "0 invoke command [1 1]\n 0 ok command [1 1 0]", "from 1 on"),
        (Scan, "0 invoke scan 5", "nil or [from to]"),
        (Lock, "0 invoke acquire nil\n 0 ok acquire nil", "a token is"),
        (BoundedStaleness, "0 invoke read-bounded [1 nil]", "in nanoseconds"),
        (LongFork, "0 invoke txn [[:w 1 1]]\n 1 invoke txn [[:w 1 2]]", "a second time"),
    ];
    for (workload, text, expected) in cases {
        let problem = problem(*workload, text);
        assert!(problem.contains(expected) && problem.contains("line "), "{workload:?} {text}: {problem}");
    }
}
