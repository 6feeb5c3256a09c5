//! The log against a naive model: a plain list of entries.

use proptest::prelude::*;

use super::GroupLog;
use crate::{Entry, EntryKind, LogIndex, LogStep, LogSummary, Payload, Term};

fn entry(index: u64, term: u64, size: usize) -> Entry {
    Entry { term: Term(term), index: LogIndex(index), kind: EntryKind::Command, data: Payload::from(vec![0; size]) }
}

/// The model: every entry that there is, and what was handed to the disk.
#[derive(Default)]
struct Naive {
    truncated: (u64, u64),
    entries: Vec<Entry>,
    disk: (u64, Vec<Entry>),
    stable: u64,
}

impl Naive {
    fn last(&self) -> u64 {
        self.truncated.0 + self.entries.len() as u64
    }

    fn term(&self, index: u64) -> Option<u64> {
        if index == self.truncated.0 {
            return Some(self.truncated.1);
        }
        let at = index.checked_sub(self.truncated.0 + 1)?;
        self.entries.get(at as usize).map(|entry| entry.term.get())
    }

    fn last_at_most(&self, index: u64, term: u64) -> u64 {
        let mut at = index.min(self.last());
        while at >= self.truncated.0 && at > 0 && self.term(at).is_some_and(|found| found > term) {
            at -= 1;
        }
        at
    }

    fn write(&mut self, steps: &[LogStep]) {
        for step in steps {
            match step {
                LogStep::Append(entries) => {
                    let from = entries[0].index.get();
                    assert!(from > self.disk.0 && from <= self.disk.0 + self.disk.1.len() as u64 + 1, "no gap on disk");
                    self.disk.1.truncate((from - self.disk.0 - 1) as usize);
                    self.disk.1.extend(entries.iter().cloned());
                }
                LogStep::Truncate { index, .. } => {
                    self.disk.1.drain(..(index.get() - self.disk.0) as usize);
                    self.disk.0 = index.get();
                }
                LogStep::Reset { index, .. } => self.disk = (index.get(), Vec::new()),
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Push { rise: u64, size: usize },
    Cut { back: u64 },
    Compact { upto: u64 },
    Reset { ahead: u64 },
    Poll,
    Flush { upto: u64 },
    Evict { delivered: u64, keep: usize },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (prop_oneof![4 => Just(0u64), 1 => 1..3u64], 0..60usize).prop_map(|(rise, size)| Op::Push { rise, size }),
        1 => (0..6u64).prop_map(|back| Op::Cut { back }),
        1 => (0..8u64).prop_map(|upto| Op::Compact { upto }),
        1 => (0..4u64).prop_map(|ahead| Op::Reset { ahead }),
        3 => Just(Op::Poll),
        3 => (0..9u64).prop_map(|upto| Op::Flush { upto }),
        2 => (0..9u64, 0..300usize).prop_map(|(delivered, keep)| Op::Evict { delivered, keep }),
    ];
    prop::collection::vec(op, 0..80)
}

fn step(log: &mut GroupLog, naive: &mut Naive, term: &mut u64, op: &Op) {
    match *op {
        Op::Push { rise, size } => {
            *term += rise;
            let new = entry(naive.last() + 1, *term, size);
            naive.entries.push(new.clone());
            log.push(new);
        }
        Op::Cut { back } => {
            let from = naive.last().saturating_sub(back).max(naive.truncated.0 + 1);
            if from <= naive.last() {
                naive.entries.truncate((from - naive.truncated.0 - 1) as usize);
                naive.stable = naive.stable.min(from - 1);
                log.cut(LogIndex(from));
                // The entry that takes the place follows at once.
                step(log, naive, term, &Op::Push { rise: 1, size: 9 });
            }
        }
        Op::Compact { upto } => {
            let upto = (naive.truncated.0 + upto).min(naive.stable);
            if upto > naive.truncated.0 {
                let term = naive.term(upto).expect("it is there");
                naive.entries.drain(..(upto - naive.truncated.0) as usize);
                naive.truncated = (upto, term);
            }
            log.compact(LogIndex(upto));
        }
        Op::Reset { ahead } => {
            *term += 1;
            naive.truncated = (naive.last() + ahead, *term);
            naive.entries.clear();
            naive.stable = naive.truncated.0;
            log.reset(LogIndex(naive.truncated.0), Term(*term));
        }
        Op::Poll => {
            let mut steps = Vec::new();
            log.poll_steps(&mut steps);
            naive.write(&steps);
            assert!(!log.has_unlogged());
        }
        Op::Flush { upto } => {
            // Only what was handed out can become durable; after a poll that is everything.
            if !log.has_unlogged() {
                let upto = (naive.stable + upto).min(naive.last());
                naive.stable = naive.stable.max(upto);
                log.note_stable(LogIndex(upto));
            }
        }
        Op::Evict { delivered, keep } => {
            log.evict(LogIndex((naive.truncated.0 + delivered).min(naive.stable)), keep);
            log.evict(log.stable(), keep * 2);
        }
    }
}

fn agree(log: &GroupLog, naive: &Naive) {
    assert_eq!(log.last_index().get(), naive.last());
    assert_eq!(log.stable().get(), naive.stable);
    assert_eq!(Some(log.last_term().get()), naive.term(naive.last()));
    for index in naive.truncated.0.saturating_sub(2)..naive.last() + 3 {
        assert_eq!(log.term(LogIndex(index)).map(Term::get), naive.term(index), "term at {index}");
        for term in 0..=naive.term(naive.last()).unwrap_or(0) {
            let hint = log.last_at_most(LogIndex(index), Term(term)).get();
            assert_eq!(hint, naive.last_at_most(index, term), "last at most {term} from {index}");
        }
    }
    let start = log.cache_start();
    assert!(start.get() <= naive.stable + 1, "what is not durable is in memory");
    let cached = log.cached(start, log.last_index(), usize::MAX);
    let skip = (start.get() - naive.truncated.0 - 1) as usize;
    assert_eq!(cached, naive.entries[skip..], "the cache is the end of the log");
    assert_eq!(log.cached_cost(LogIndex(0), log.last_index()), cached.iter().map(Entry::cost).sum::<usize>());
    let summary = log.summary();
    for index in naive.truncated.0..=naive.last() {
        assert_eq!(summary.term(LogIndex(index)).map(Term::get), naive.term(index));
    }
}

proptest! {
    #[test]
    fn log_equals_a_plain_list(ops in ops()) {
        let mut log = GroupLog::new(LogSummary::default());
        let (mut naive, mut term) = (Naive::default(), 1);
        for op in &ops {
            step(&mut log, &mut naive, &mut term, op);
            agree(&log, &naive);
        }
        step(&mut log, &mut naive, &mut term, &Op::Poll);
        prop_assert_eq!(naive.disk, (naive.truncated.0, naive.entries));
    }
}

#[test]
fn batch_is_cut_by_size_and_a_single_large_entry_goes_alone() {
    let mut log = GroupLog::new(LogSummary::default());
    for (index, size) in [(1, 10), (2, 10), (3, 500), (4, 10)] {
        log.push(entry(index, 1, size));
    }
    let indexes = |from, max_bytes| -> Vec<_> {
        log.cached(LogIndex(from), LogIndex(4), max_bytes).iter().map(|entry| entry.index.get()).collect()
    };
    assert_eq!(indexes(1, 2 * (Entry::OVERHEAD + 10)), [1, 2]);
    assert_eq!(indexes(3, 100), [3]);
    assert_eq!(indexes(4, usize::MAX), [4]);
}

#[test]
fn evicted_entries_give_their_memory_back() {
    let mut log = GroupLog::new(LogSummary::default());
    for index in 1..=1000 {
        log.push(entry(index, 1, 1000));
    }
    log.poll_steps(&mut Vec::new());
    log.evict(LogIndex(1000), 0);
    assert_eq!(log.cache_start(), LogIndex(1), "nothing is durable yet");
    log.note_stable(LogIndex(900));
    log.evict(LogIndex(800), 0);
    assert_eq!(log.cache_start(), LogIndex(801), "what is not handed out stays");
    log.evict(LogIndex(1000), 0);
    assert_eq!(log.cache_start(), LogIndex(901), "what is not durable stays");
    log.note_stable(LogIndex(1000));
    log.evict(LogIndex(1000), 0);
    log.shrink();
    assert!(log.heap_bytes() < 100, "{}", log.heap_bytes());
}
