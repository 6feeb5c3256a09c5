//! How long judging takes. For optimised builds: `cargo test --release -p multiraft-torture --test speed -- --nocapture`.

mod support;

use std::time::{Duration, Instant};

use multiraft_torture::check::{Workload, judge};
use multiraft_torture::history::{Format, History, Value};
use support::random::Random;
use support::simulated::{Lists, Object, Registers, Weather, simulate};

const OPERATIONS: usize = 100_000;

/// Reads, writes and compare-and-sets over `keys` keys, of `values` values each.
fn registers(keys: u64, clients: usize, values: u64, seed: u64) -> History {
    let mut fresh = 0;
    let mut ask = |random: &mut Random, _: Option<&(String, Value)>| {
        fresh += 1;
        let key = Value::Int(random.below(keys) as i64);
        let value = |random: &mut Random| Value::Int(if values == 0 { fresh } else { random.below(values) as i64 });
        let (f, value) = match random.below(3) {
            0 => ("read", Value::Nil),
            1 => ("write", value(random)),
            _ => ("cas", Value::list([value(random), Value::Int(random.below(values.max(1)) as i64)])),
        };
        (f.to_owned(), Value::keyed(key, value))
    };
    run(Registers::default(), clients, seed, &mut ask)
}

fn run(
    object: impl Object,
    clients: usize,
    seed: u64,
    ask: &mut dyn FnMut(&mut Random, Option<&(String, Value)>) -> (String, Value),
) -> History {
    simulate(&mut Random::new(seed), object, (clients, OPERATIONS), Weather { unknown: 3, failed: 2 }, ask)
}

fn time(name: &str, workload: Workload, history: &History) {
    let text = history.write(Format::Edn);
    let start = Instant::now();
    let history = History::read(text.as_bytes(), Format::Edn).unwrap();
    let read = start.elapsed();
    let verdict = judge(&history, Some(workload)).unwrap();
    let all = start.elapsed();
    println!("{name}: {:.2} s to read, {:.2} s to judge", read.as_secs_f64(), (all - read).as_secs_f64());
    assert!(verdict.judgement().holds(), "{}", verdict.table());
    assert!(all < Duration::from_secs(60), "{name}: {all:?}");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "only an optimised build says how long it takes")]
fn a_hundred_thousand_operations_are_judged_within_a_minute() {
    time("300 registers, 5 values, 30 clients", Workload::Register, &registers(300, 30, 5, 1));
    time("300 registers, 5 values, 300 clients", Workload::Register, &registers(300, 300, 5, 2));
    time("100 registers, 5 values, 500 clients", Workload::Register, &registers(100, 500, 5, 3));
    time("300 registers, unique values, 300 clients", Workload::Register, &registers(300, 300, 0, 4));
    time("10 registers, 5 values, 30 clients", Workload::Register, &registers(10, 30, 5, 5));
    time("1 register, 5 values, 5 clients", Workload::Register, &registers(1, 5, 5, 6));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "only an optimised build says how long it takes")]
fn a_hundred_thousand_transactions_are_judged_within_a_minute() {
    let mut fresh = 0_i64;
    let mut ask = |random: &mut Random, _: Option<&(String, Value)>| {
        let mut part = |random: &mut Random| {
            fresh += 1;
            // Lists of some hundred elements, and then others, as generators of such workloads make them.
            let key = Value::Int(fresh / 8_000 * 20 + random.below(20) as i64);
            let (f, value) = if random.chance(50) { ("append", Value::Int(fresh)) } else { ("r", Value::Nil) };
            Value::list([Value::keyword(f), key, value])
        };
        let parts = 1 + random.below(4);
        ("txn".to_owned(), Value::List((0..parts).map(|_| part(random)).collect()))
    };
    time("transactions over lists, 30 clients", Workload::ListAppend, &run(Lists::default(), 30, 1, &mut ask));
}
