//! Histories of runs that reports are made of.

use multiraft_torture::history::{Format, History, Kind, Process, Record, Value};
use multiraft_torture::random::Random;
use multiraft_torture::report::{Check, Facts};

/// A run of six seconds with a stale read: two clients, a partition that ends, a kill that does not, and an operator.
pub(crate) fn small() -> History {
    const SMALL: &str = r#"
        0.0 torture  info   workload  {:name "register"}
        0.1 0        invoke write     [1 1]
        0.2 0        ok     write     [1 1]
        0.2 1        invoke read      [1 nil]
        0.4 1        ok     read      [1 1]
        0.5 0        invoke write     [1 2]
        0.9 operator info   split     {:ok true}
        1.0 nemesis  info   partition {:phase :begin, :id 1, :stores [1 3], :trace "nft: 1 and 3 hear nobody else"}
        1.1 1        invoke cas       [1 [1 5]]
        2.6 0        info   write     [1 2]
        2.7 1        fail   cas       [1 [1 5]]
        2.8 2        invoke read      [1 nil]
        3.0 nemesis  info   partition {:phase :end, :id 1, :stores [1 3], :trace "nft: flushed"}
        3.5 2        ok     read      [1 2]
        3.6 operator info   move      {:ok false}
        3.7 1        invoke read      [1 nil]
        3.702 1      ok     read      [1 1]
        4.0 2        invoke write     [1 3]
        4.03 2       ok     write     [1 3]
        4.1 operator info   split     {:ok true}
        5.0 nemesis  info   kill      {:phase :begin, :id 2, :stores [2], :signal 9, :how "kill -9 store 2"}
        5.1 2        invoke read      [1 nil]
        5.105 2      ok     read      [1 3]
        5.2 2        invoke read      [1 nil]
        6.0 stores   info   versions  {:a "<b>&"}
    "#;
    let mut edn = String::new();
    for (index, line) in SMALL.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        let mut words = line.split_whitespace();
        let mut word = || words.next().expect("a record has five words");
        let (time, process, kind, f) = (word().parse::<f64>().expect("a time in seconds"), word(), word(), word());
        let value: Vec<&str> = words.collect();
        let time = (time * 1e9).round() as u64;
        let process = if process.parse::<u64>().is_ok() { process.to_owned() } else { format!(":{process}") };
        edn += &format!(
            "{{:index {index}, :process {process}, :type :{kind}, :f :{f}, :value {}, :time {time}}}\n",
            value.join(" ")
        );
    }
    History::read(edn.as_bytes(), Format::Edn).expect("the lines are records")
}

/// What is known of a run besides its history.
pub(crate) fn facts(history: &History) -> Facts<'_> {
    let check =
        |name: &str, line: &str| Check { name: name.to_owned(), ok: true, line: line.to_owned(), details: Vec::new() };
    Facts {
        command: "multiraft-torture run --seed 7 --workload register --nemesis partition,kill --seconds 6".to_owned(),
        seed: 7,
        workload: "register".to_owned(),
        nemeses: vec!["partition".to_owned(), "kill".to_owned()],
        stores: 3,
        seconds: 6,
        ground: vec!["network namespaces".to_owned(), "no /dev/fuse: disks do not fail".to_owned()],
        history,
        checks: vec![
            check("consistency", "the replicas of 12 regions hold the same"),
            check("panics", "no store has panicked"),
        ],
        artefacts: vec!["/tmp/torture/7/history.edn".to_owned(), "/tmp/torture/7/store-2.log".to_owned()],
    }
}

/// A run with the shape of a real one: answers slow down and stop when faults strike.
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) operations: u64,
    pub(crate) seconds: u64,
    pub(crate) faults: u64,
}

impl Run {
    pub(crate) fn history(&self) -> History {
        let mut random = Random::new(self.seed);
        let run = self.seconds * 1_000_000_000;
        let mut records: Vec<(u64, Process, Kind, &str, Value)> = Vec::new();
        let slot = run / (self.faults + 1);
        let faults: Vec<(u64, u64, &str)> = (0..self.faults)
            .map(|number| {
                let begin = slot / 2 + number * slot + random.below(slot / 4 + 1);
                let name = *random.pick(&["kill", "partition", "pause", "loss", "clock skew"]);
                (begin, begin + slot / 5 + random.below(slot / 2 + 1), name)
            })
            .collect();
        for ((begin, end, name), id) in faults.iter().zip(1_i64..) {
            let stores = Value::list([Value::Int(id % 5 + 1), Value::Int((id + 2) % 5 + 1)]);
            let note = |phase: &str, trace: String| {
                let said = [("phase", Value::keyword(phase)), ("id", Value::Int(id)), ("stores", stores.clone())];
                Value::map(said.into_iter().chain([("trace", Value::Text(trace))]))
            };
            let nemesis = || Process::Named("nemesis".to_owned());
            records.push((
                *begin,
                nemesis(),
                Kind::Info,
                name,
                note("begin", format!("{name}: stores {stores} are struck")),
            ));
            records.push((*end, nemesis(), Kind::Info, name, note("end", format!("{name}: undone"))));
        }
        for _ in 0..self.faults * 2 {
            let f = *random.pick(&["split", "merge", "move", "transfer"]);
            let ok = Value::map([("ok", Value::Bool(random.chance(850)))]);
            records.push((random.below(run), Process::Named("operator".to_owned()), Kind::Info, f, ok));
        }
        let mut next = 0;
        for client in 0..self.operations {
            let mut begin = run / self.operations * client;
            while faults.get(next).is_some_and(|fault| fault.1 < begin) {
                next += 1;
            }
            let struck = faults.get(next).filter(|fault| fault.0 <= begin);
            // Under a partition and after a kill nothing is answered for a while.
            let stalled = struck.filter(|fault| fault.2 == "partition" || fault.2 == "kill");
            let until = stalled.map_or(0, |fault| fault.0 + (fault.1 - fault.0) / 3);
            begin += random.below(run / self.operations + 1);
            let base = 400_000 + random.below(400_000);
            let tail = if random.chance(20) { random.below(60_000_000) } else { random.below(1_500_000) };
            let slow = if struck.is_some() { 1 + random.below(8) } else { 1 };
            let mut latency = (base + tail) * slow;
            let mut kind = if random.chance(985) { Kind::Ok } else { Kind::Fail };
            if begin < until {
                (latency, kind) = if random.chance(700) {
                    (until - begin + random.below(20_000_000), Kind::Ok)
                } else {
                    (1_000_000_000 + random.below(3_000_000), Kind::Info)
                };
            }
            let f = *random.pick(&["read", "read", "write", "cas"]);
            let value = Value::keyed(Value::Int(client as i64 % 7), Value::Int(client as i64));
            records.push((begin, Process::Client(client), Kind::Invoke, f, value.clone()));
            if begin + latency <= run {
                records.push((begin + latency, Process::Client(client), kind, f, value));
            }
        }
        records.sort_by_key(|record| record.0);
        let mut history = Vec::new();
        for (index, (time, process, kind, f, value)) in (0..).zip(records) {
            history.push(Record { index, process, kind, f: f.to_owned(), value, time, extra: Default::default() });
        }
        History::new(history).expect("indexes rise")
    }
}

/// A run that leaves no cell of a drawing alike to the next: latencies of all sizes, all outcomes, many short faults with
/// these words.
pub(crate) fn noise(operations: u64, faults: u64, words: &str) -> History {
    let mut random = Random::new(1);
    let mut records = Vec::new();
    let mut add = |time, process, kind, value| {
        records.push(Record { index: 0, process, kind, f: "read".to_owned(), value, time, extra: Default::default() });
    };
    const RUN: u64 = 100_000_000_000;
    for client in 0..operations {
        let begin = random.below(RUN);
        let power = random.below(8) as u32;
        let latency = random.between(1, 9) * 10_u64.pow(power + 2) + random.below(10_u64.pow(power + 2));
        let kind = *random.pick(&[Kind::Ok, Kind::Fail, Kind::Info]);
        add(begin, Process::Client(client), Kind::Invoke, Value::Nil);
        add(begin + latency, Process::Client(client), kind, Value::Nil);
    }
    for (id, begin) in (0..faults).map(|number| (number as i64, number * (RUN / faults.max(1)))) {
        for (phase, time) in [("begin", begin), ("end", begin + RUN / faults / 2)] {
            let words = || Value::from(words);
            let said =
                [("phase", Value::keyword(phase)), ("id", Value::Int(id)), ("trace", words()), ("stores", words())];
            add(time, Process::Named("nemesis".to_owned()), Kind::Info, Value::map(said));
        }
    }
    records.sort_by_key(|record| record.time);
    (0..).zip(&mut records).for_each(|(index, record)| record.index = index);
    History::new(records).expect("indexes rise")
}
