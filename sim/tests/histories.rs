//! The linearizability check against histories made by hand: it must refuse every bad one, and no good one.

use multiraft_sim::check::linearizable::{Refused, check};
use multiraft_sim::history::{Action, Answer, History, Key, Operation};
use multiraft_sim::schedule::Moment;

const REGISTER: Key = Key { region: 2, number: 0 };
const LIST: Key = Key { region: 2, number: 1 };

/// (asked, answered, action, answer); `None`: no answer came.
type Line = (u64, u64, Action, Option<Answer>);

fn verdict(key: Key, lines: &[Line]) -> Result<(), Refused> {
    let mut history = History::default();
    for (client, (asked, answered, action, answer)) in lines.iter().enumerate() {
        history.add(Operation {
            client: client as u64,
            key,
            action: *action,
            invoked: Moment(*asked),
            returned: answer.clone().map(|answer| (Moment(*answered), answer)),
        });
    }
    check(&history)
}

fn accepts(key: Key, lines: &[Line]) {
    assert_eq!(verdict(key, lines), Ok(()), "{lines:?}");
}

fn refuses(key: Key, lines: &[Line]) {
    assert!(matches!(verdict(key, lines), Err(Refused::NotLinearizable { .. })), "{lines:?}");
}

fn put(asked: u64, answered: u64, value: u64, previous: u64) -> Line {
    (asked, answered, Action::Put(value), Some(Answer::Previous(previous)))
}

fn lost_put(asked: u64, value: u64) -> Line {
    (asked, 0, Action::Put(value), None)
}

fn cas(asked: u64, answered: u64, expected: u64, new: u64, found: u64) -> Line {
    (asked, answered, Action::Cas(expected, new), Some(Answer::Found(found)))
}

fn read(asked: u64, answered: u64, value: u64) -> Line {
    (asked, answered, Action::Read, Some(Answer::Value(value)))
}

fn append(asked: u64, answered: u64, value: u64, length: u64) -> Line {
    (asked, answered, Action::Append(value), Some(Answer::Length(length)))
}

fn lost_append(asked: u64, value: u64) -> Line {
    (asked, 0, Action::Append(value), None)
}

fn list(asked: u64, answered: u64, elements: &[u64]) -> Line {
    (asked, answered, Action::Read, Some(Answer::List(elements.to_vec())))
}

#[test]
fn overlapping_operations_may_take_effect_in_any_order() {
    accepts(REGISTER, &[]);
    accepts(REGISTER, &[put(1, 9, 7, 0), read(2, 3, 0), read(4, 5, 7), read(6, 7, 7)]);
    accepts(REGISTER, &[put(1, 9, 7, 8), put(1, 9, 8, 0), read(10, 11, 7)]);
    accepts(LIST, &[append(1, 9, 7, 2), append(1, 9, 8, 1), list(10, 11, &[8, 7])]);
}

#[test]
fn a_read_of_an_overwritten_value_is_refused() {
    refuses(REGISTER, &[put(1, 2, 7, 0), put(3, 4, 8, 7), read(5, 6, 7)]);
    refuses(LIST, &[append(1, 2, 7, 1), append(3, 4, 8, 2), list(5, 6, &[7])]);
}

#[test]
fn a_value_that_was_seen_and_is_gone_is_refused() {
    refuses(REGISTER, &[put(1, 9, 7, 0), read(2, 3, 7), read(4, 5, 0)]);
    refuses(LIST, &[append(1, 9, 7, 1), list(2, 3, &[7]), list(4, 5, &[])]);
}

#[test]
fn a_lost_acknowledged_write_is_refused() {
    refuses(REGISTER, &[put(1, 2, 7, 0), read(3, 4, 0)]);
    refuses(REGISTER, &[put(1, 2, 7, 0), put(3, 4, 8, 0)]);
    refuses(LIST, &[append(1, 2, 7, 1), append(3, 4, 8, 1)]);
}

#[test]
fn a_value_that_nobody_wrote_is_refused() {
    refuses(REGISTER, &[put(1, 2, 7, 0), read(3, 4, 9)]);
    refuses(LIST, &[append(1, 2, 7, 1), list(3, 4, &[7, 9])]);
}

#[test]
fn a_read_of_the_future_is_refused() {
    refuses(REGISTER, &[read(1, 2, 7), put(3, 4, 7, 0)]);
}

#[test]
fn a_list_whose_order_contradicts_time_is_refused() {
    refuses(LIST, &[append(1, 2, 7, 1), append(3, 4, 8, 2), list(5, 6, &[8, 7])]);
    refuses(LIST, &[append(1, 2, 7, 1), list(3, 4, &[7, 7])]);
}

#[test]
fn compare_and_set_swaps_at_most_once_per_value() {
    accepts(REGISTER, &[put(1, 2, 7, 0), cas(3, 9, 7, 8, 7), cas(3, 9, 7, 9, 8), read(10, 11, 8)]);
    refuses(REGISTER, &[put(1, 2, 7, 0), cas(3, 9, 7, 8, 7), cas(3, 9, 7, 9, 7)]);
    refuses(REGISTER, &[put(1, 2, 7, 0), cas(3, 4, 8, 9, 7), read(5, 6, 9)]);
}

#[test]
fn an_operation_of_unknown_outcome_may_take_effect_late_or_never() {
    accepts(REGISTER, &[lost_put(1, 7), read(2, 3, 0), read(4, 5, 7)]);
    accepts(REGISTER, &[lost_put(1, 7), read(2, 3, 0)]);
    accepts(LIST, &[lost_append(1, 7), append(2, 3, 8, 1), list(4, 5, &[8, 7])]);
    accepts(LIST, &[lost_append(1, 7), append(2, 3, 8, 2)]);
}

#[test]
fn an_operation_of_unknown_outcome_takes_effect_once() {
    refuses(REGISTER, &[lost_put(1, 7), read(2, 3, 7), put(4, 5, 8, 7), read(6, 7, 7)]);
    refuses(LIST, &[lost_append(1, 7), list(2, 3, &[7]), list(4, 5, &[7, 7])]);
}

#[test]
fn an_operation_of_unknown_outcome_takes_no_effect_before_it_was_asked() {
    refuses(REGISTER, &[read(1, 2, 7), lost_put(3, 7)]);
}

#[test]
fn what_nobody_heard_of_may_stand_before_what_somebody_did() {
    // All asked for before, and none was read; how many took effect is told by the appends that were answered.
    let mut lines: Vec<Line> = (0..200).map(|n| lost_append(1 + n, 1_000 + n)).collect();
    lines.extend([append(300, 310, 7, 90), append(320, 330, 8, 201), list(2, 3, &[])]);
    accepts(LIST, &lines);
    lines.push(append(340, 350, 9, 204));
    refuses(LIST, &lines);
    // One more asked for in time would do, and one that comes too late does not.
    lines.push(lost_append(345, 2_000));
    accepts(LIST, &lines);
    lines.pop();
    lines.push(lost_append(351, 2_000));
    refuses(LIST, &lines);
}

#[test]
fn many_overlapping_operations_of_unknown_outcome_are_decided() {
    let mut lines: Vec<Line> = (1..=40).map(|value| lost_append(1, value)).collect();
    lines.push(list(100, 101, &(1..=40).rev().collect::<Vec<_>>()));
    accepts(LIST, &lines);
    let seen: Vec<u64> = (1..=20).chain(1..=20).collect();
    lines.push(list(102, 103, &seen));
    refuses(LIST, &lines);
}
