//! Counters: each read lies between what was surely added before it began and what may have been added before it ended.
//! (Jepsen's `counter` checker, for steps in both directions.)
//!
//! `add n` and `read nil`, which answers a number; with a key, `add [k n]` and `read [k nil]`, which answers `[k n]`. A counter
//! begins at zero. One that only grows must also not be seen to shrink from one read to a later one.
//!
//! Cost: sorting. The bounds are necessary, not sufficient: for a proof, use a workload that a search judges.

use super::input::{Unusable, answered, asked, by_key, of_key, repeated, split_answer, split_key, unknown};
use super::verdict::{Judgement, Kind};
use crate::history::{Operation, Value};

const LOW: &str = "too-low";
const HIGH: &str = "too-high";
const BACK: &str = "went-back";

/// What is looked for.
pub const KINDS: [Kind; 3] = [
    Kind { name: LOW, about: "a read below what was surely added" },
    Kind { name: HIGH, about: "a read above what may have been added" },
    Kind { name: BACK, about: "a counter that only grows is read lower than before" },
];

/// Judges a history of counters.
///
/// # Errors
/// An operation is not of this workload.
pub fn check(operations: &[Operation]) -> Result<Judgement, Unusable> {
    let mut judgement = Judgement::new(&KINDS);
    for (key, operations) in by_key(operations) {
        check_counter(&key, &operations, &mut judgement)?;
    }
    Ok(judgement)
}

/// An addition may count from the beginning of its operation and must count from its end.
fn check_counter(key: &Value, operations: &[&Operation], judgement: &mut Judgement) -> Result<(), Unusable> {
    let mut may: Vec<(u64, i128)> = Vec::new();
    let mut must: Vec<(u64, i128)> = Vec::new();
    let mut reads: Vec<(&Operation, i128)> = Vec::new();
    for operation in operations {
        let (_, input) = split_key(operation);
        match operation.f.as_str() {
            "add" => {
                repeated(operation)?;
                let step = input.as_int().ok_or_else(|| asked(operation, "an addition is a whole number"))?;
                if !operation.has_failed() {
                    may.push((operation.begin.index, i128::from(step)));
                }
                if operation.is_ok() {
                    must.push((operation.end.index, i128::from(step)));
                }
            }
            "read" if *input != Value::Nil => return Err(asked(operation, "a read asks for nil")),
            "read" => {
                if let Some(answer) = split_answer(operation)? {
                    let value = answer.as_int().ok_or_else(|| answered(operation, "a read answers a whole number"))?;
                    reads.push((operation, i128::from(value)));
                }
            }
            _ => return Err(unknown(operation, "add, read")),
        }
    }
    let only_grows = may.iter().all(|(_, step)| *step >= 0);
    let (may_up, may_down) = split(&may);
    let (must_up, must_down) = split(&must);
    for &(read, value) in &reads {
        let low = sum_before(&must_up, read.begin.index) + sum_before(&may_down, read.end.index);
        let high = sum_before(&may_up, read.end.index) + sum_before(&must_down, read.begin.index);
        let kind = match value {
            _ if value < low => LOW,
            _ if value > high => HIGH,
            _ => continue,
        };
        judgement.found(kind, format!("{}not within {low} to {high}:\n    {read}", of_key(key)), read.records());
    }
    if only_grows {
        find_going_back(key, &mut reads, judgement);
    }
    Ok(())
}

/// Places, and what all steps up to each add up to.
type Sums = Vec<(u64, i128)>;

/// Running sums of what goes up and of what goes down, by place.
fn split(steps: &[(u64, i128)]) -> (Sums, Sums) {
    let running = |wanted: fn(i128) -> bool| {
        let mut chosen: Vec<(u64, i128)> = steps.iter().copied().filter(|(_, step)| wanted(*step)).collect();
        chosen.sort_unstable();
        let mut sum = 0;
        for (_, step) in &mut chosen {
            sum += *step;
            *step = sum;
        }
        chosen
    };
    (running(|step| step > 0), running(|step| step < 0))
}

fn sum_before(sums: &[(u64, i128)], place: u64) -> i128 {
    let count = sums.partition_point(|(at, _)| *at < place);
    count.checked_sub(1).map_or(0, |last| sums[last].1)
}

fn find_going_back(key: &Value, reads: &mut [(&Operation, i128)], judgement: &mut Judgement) {
    reads.sort_unstable_by_key(|(read, _)| read.end);
    // Of the reads up to each, the highest.
    let mut highest: Vec<(&Operation, i128)> = Vec::new();
    for read in reads.iter() {
        let before = highest.last().filter(|(_, value)| *value >= read.1);
        highest.push(before.copied().unwrap_or(*read));
    }
    for (read, value) in reads.iter() {
        let ended = reads.partition_point(|(other, _)| other.end < read.begin);
        let Some((before, higher)) = ended.checked_sub(1).map(|last| highest[last]) else { continue };
        if higher > *value {
            let what = format!("{}from {higher} to {value}:\n    {before}\n    {read}", of_key(key));
            judgement.found(BACK, what, [before.records(), read.records()].concat());
        }
    }
}
