//! How long judging takes. For optimised builds: `cargo test --release -p multiraft-torture --test speed -- --nocapture`.

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use multiraft_torture::check::{Verdict, Workload, judge};
use multiraft_torture::history::{Format, History, Kind, Value};
use support::random::Random;
use support::simulated::{Ask, Lists, Object, Registers, Weather, simulate};

const OPERATIONS: usize = 100_000;

/// Reads, writes and compare-and-sets over `keys` keys, of `values` values each.
fn registers(object: impl Object, keys: u64, clients: usize, values: u64, seed: u64) -> History {
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
    run(object, clients, seed, &mut ask)
}

fn run(object: impl Object, clients: usize, seed: u64, ask: Ask<'_>) -> History {
    simulate(&mut Random::new(seed), object, (clients, OPERATIONS), Weather { unknown: 3, failed: 2 }, ask)
}

/// Reads and judges a history, and says how long that took.
fn judged(name: &str, workload: Workload, history: &History) -> Verdict {
    let text = history.write(Format::Edn);
    let start = Instant::now();
    let history = History::read(text.as_bytes(), Format::Edn).expect("what is written is read");
    let read = start.elapsed();
    let verdict = judge(&history, Some(workload)).expect("it is of this workload");
    let all = start.elapsed();
    let _ = writeln!(std::io::stdout(), "{name}: {read:.2?} to read, {:.2?} to judge", all - read);
    assert!(all < Duration::from_secs(60), "{name}: {all:?}");
    verdict
}

fn passes(name: &str, workload: Workload, history: &History) {
    let verdict = judged(name, workload, history);
    assert!(verdict.judgement().holds(), "{}", verdict.table());
}

/// Each of many keys has a stale read: all are named.
fn each_stale_read_is_named(name: &str, keys: u64, history: &History) {
    let (mut records, mut changed) = (history.records().to_vec(), BTreeMap::new());
    for place in (0..records.len()).rev() {
        let Some((key, value)) = records[place].value.as_pair().map(|(key, value)| (key.clone(), value.clone())) else {
            continue;
        };
        let is_read = records[place].f == "read" && records[place].kind == Kind::Ok;
        if is_read && !changed.contains_key(&key) && changed.len() < 20 {
            changed.insert(key.clone(), value);
            records[place].value = Value::keyed(key, Value::Nil);
        }
    }
    let history = History::new(records).expect("indexes are as they were");
    let verdict = judged(name, Workload::Register, &history);
    assert_eq!(verdict.judgement().undecided(), [""; 0]);
    assert_eq!(verdict.judgement().rows()[1].found, keys.min(20), "{}", verdict.table());
}

#[test]
#[cfg_attr(debug_assertions, ignore = "only an optimised build says how long it takes")]
fn a_hundred_thousand_operations_are_judged_within_a_minute() {
    passes("300 registers, 5 values, 30 clients", Workload::Register, &registers(Registers::default(), 300, 30, 5, 1));
    passes(
        "300 registers, 5 values, 300 clients",
        Workload::Register,
        &registers(Registers::default(), 300, 300, 5, 2),
    );
    passes(
        "100 registers, 5 values, 500 clients",
        Workload::Register,
        &registers(Registers::default(), 100, 500, 5, 3),
    );
    passes(
        "300 registers, unique values, 300 clients",
        Workload::Register,
        &registers(Registers::default(), 300, 300, 0, 4),
    );
    passes("1 register, 5 values, 5 clients", Workload::Register, &registers(Registers::default(), 1, 5, 5, 6));
    passes("10 registers, 5 values, 30 clients", Workload::Register, &registers(Registers::default(), 10, 30, 5, 5));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "only an optimised build says how long it takes")]
fn stale_reads_among_a_hundred_thousand_operations_are_named_within_a_minute() {
    each_stale_read_is_named(
        "300 registers, stale reads, 30 clients",
        300,
        &registers(Registers::default(), 300, 30, 5, 1),
    );
    each_stale_read_is_named(
        "300 registers, stale reads, 300 clients",
        300,
        &registers(Registers::default(), 300, 300, 5, 2),
    );
    for (keys, clients, values) in [(300, 30, 5), (300, 300, 5), (100, 500, 5), (300, 300, 0)] {
        let name = format!("{keys} forgetful registers, {values} values, {clients} clients");
        let history = registers(Forgetful::<Registers>::default(), keys, clients, values, 7);
        let verdict = judged(&name, Workload::Register, &history);
        let found = verdict.judgement().rows()[1].found;
        let _ = writeln!(std::io::stdout(), "  {found} keys refused, {:?}", verdict.judgement().undecided());
        assert!(found > 0, "{}", verdict.table());
    }
    each_stale_read_is_named(
        "300 registers, unique values, stale reads",
        300,
        &registers(Registers::default(), 300, 300, 0, 4),
    );
}

/// Transactions over lists of some hundred elements, and then others, as generators of such workloads make them.
fn transactions() -> impl FnMut(&mut Random, Option<&(String, Value)>) -> (String, Value) {
    let mut fresh = 0_i64;
    move |random, _| {
        let parts = random.below(4) + 1;
        let mut part = || {
            fresh += 1;
            let key = Value::Int(fresh / 8_000 * 20 + random.below(20) as i64);
            let (f, value) = if random.chance(50) { ("append", Value::Int(fresh)) } else { ("r", Value::Nil) };
            Value::list([Value::keyword(f), key, value])
        };
        ("txn".to_owned(), Value::List((0..parts).map(|_| part()).collect()))
    }
}

/// An object that forgets what was done last, every so often.
#[derive(Clone, Default)]
struct Forgetful<O> {
    now: O,
    kept: O,
    count: usize,
}

impl<O: Object> Object for Forgetful<O> {
    fn apply(&mut self, f: &str, input: &Value) -> Option<Value> {
        self.count += 1;
        if self.count.is_multiple_of(1_000) {
            self.now = self.kept.clone();
        } else if self.count % 1_000 == 990 {
            self.kept = self.now.clone();
        }
        self.now.apply(f, input)
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "only an optimised build says how long it takes")]
fn a_hundred_thousand_transactions_are_judged_within_a_minute() {
    let history = run(Lists::default(), 30, 1, &mut transactions());
    passes("transactions over lists, 30 clients", Workload::ListAppend, &history);
    let history = run(Forgetful::<Lists>::default(), 30, 1, &mut transactions());
    let verdict = judged("the same, forgotten a hundred times", Workload::ListAppend, &history);
    let anomalies = verdict.judgement().anomalies();
    assert!(anomalies.contains(&"lost-append") && anomalies.contains(&"incompatible-order"), "{}", verdict.table());
    let mut stale = Vec::new();
    for (place, record) in history.records().iter().enumerate() {
        let mut record = record.clone();
        // From the middle on every read misses all.
        if place > 100_000
            && record.kind == Kind::Ok
            && let Value::List(parts) = &mut record.value
        {
            for part in parts {
                if let Value::List(words) = part
                    && words[0] == Value::keyword("r")
                {
                    words[2] = Value::Nil;
                }
            }
        }
        stale.push(record);
    }
    let history = History::new(stale).expect("indexes are as they were");
    judged("the same, and nothing is read from the middle on", Workload::ListAppend, &history);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "only an optimised build says how long it takes")]
fn a_hundred_thousand_operations_with_bounded_reads_are_judged_within_a_minute() {
    // A request takes some hundred nanoseconds: dozens or hundreds of reads of a key count as under way at a time.
    for (keys, values, bound) in [(300, 5, 5_000), (300, 0, 5_000), (100, 5, 20_000), (100, 0, 20_000)] {
        let mut fresh = 0;
        let mut ask = |random: &mut Random, _: Option<&(String, Value)>| {
            fresh += 1;
            let key = Value::Int(random.below(keys) as i64);
            let value = Value::Int(if values == 0 { fresh } else { random.below(values) as i64 });
            let (f, value) = match random.below(4) {
                0 => ("read", Value::Nil),
                1 => ("write", value),
                _ => ("read-bounded", Value::Int(bound)),
            };
            (f.to_owned(), Value::keyed(key, value))
        };
        let history = run(Registers::default(), 100, 1, &mut ask);
        let name = format!("{keys} registers, {values} values, bounds of {bound}");
        passes(&name, Workload::BoundedStaleness, &history);
    }
}
