//! What was written and acknowledged: against this the replicas are checked.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;

use super::dataset::DataSet;

/// The pairs of a run. In pass 0 each pair gets its own value, in later passes one that names the pass.
pub(crate) struct Ledger {
    pub(crate) pairs: Vec<(Bytes, Bytes)>,
    marks: Vec<Mark>,
    /// Acknowledged pairs that are not part of the data set.
    extra: Mutex<Vec<(Bytes, Bytes)>>,
}

/// How often a pair was written: passes tried and passes acknowledged. A pair is written by one writer, which goes on only
/// after an acknowledgement, so that at most the last pass tried is in doubt.
#[derive(Default)]
struct Mark {
    tried: AtomicU32,
    acknowledged: AtomicU32,
    /// Whether it was deleted after all that, which was acknowledged, too.
    deleted: AtomicBool,
}

impl Ledger {
    pub(crate) fn new(data: DataSet) -> Self {
        let marks = data.pairs.iter().map(|_| Mark::default()).collect();
        Self { pairs: data.pairs, marks, extra: Mutex::new(Vec::new()) }
    }

    /// What pair `at` gets in a pass.
    pub(crate) fn value(&self, at: usize, pass: u32) -> Bytes {
        let value = &self.pairs[at].1;
        if pass == 0 {
            return value.clone();
        }
        Bytes::from([value.as_ref(), format!(" (pass {})", pass + 1).as_bytes()].concat())
    }

    pub(crate) fn note_tried(&self, at: usize, pass: u32) {
        self.marks[at].tried.store(pass + 1, Ordering::Release);
    }

    pub(crate) fn note_acknowledged(&self, at: usize, pass: u32) {
        self.marks[at].acknowledged.store(pass + 1, Ordering::Release);
    }

    /// The pair was deleted, and is written no more.
    pub(crate) fn note_deleted(&self, at: usize) {
        self.marks[at].deleted.store(true, Ordering::Release);
    }

    /// Whether the stores hold the pair, in whatever pass.
    pub(crate) fn is_held(&self, at: usize) -> bool {
        let mark = &self.marks[at];
        mark.acknowledged.load(Ordering::Acquire) > 0 && !mark.deleted.load(Ordering::Acquire)
    }

    /// An acknowledged pair beside the data set.
    pub(crate) fn note_extra(&self, key: Bytes, value: Bytes) {
        self.extra.lock().unwrap_or_else(PoisonError::into_inner).push((key, value));
    }

    /// How many pairs were acknowledged at least once.
    pub(crate) fn acknowledged(&self) -> usize {
        self.marks.iter().filter(|mark| mark.acknowledged.load(Ordering::Acquire) > 0).count()
    }

    /// Every key to look at, ascending, with what it may hold.
    pub(crate) fn expectations(&self) -> Vec<Expectation> {
        let mut all: Vec<_> = (0..self.pairs.len()).filter_map(|at| self.expectation(at)).collect();
        let extra = self.extra.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(extra.iter().map(|(key, value)| Expectation { key: key.clone(), values: vec![value.clone()] }));
        all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// `None` if nothing of the pair was ever acknowledged.
    fn expectation(&self, at: usize) -> Option<Expectation> {
        let mark = &self.marks[at];
        let (acknowledged, tried) = (mark.acknowledged.load(Ordering::Acquire), mark.tried.load(Ordering::Acquire));
        let key = self.pairs[at].0.clone();
        if mark.deleted.load(Ordering::Acquire) {
            return Some(Expectation { key, values: Vec::new() });
        }
        let first = acknowledged.checked_sub(1)?;
        Some(Expectation { key, values: (first..tried).map(|pass| self.value(at, pass)).collect() })
    }
}

/// An acknowledged pair: the value of the last acknowledged write, or of one tried after it; none if it was deleted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expectation {
    pub(crate) key: Bytes,
    pub(crate) values: Vec<Bytes>,
}

impl Expectation {
    pub(crate) fn holds(&self, found: Option<&Bytes>) -> bool {
        found.map_or(self.values.is_empty(), |found| self.values.contains(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_acknowledged_value_or_a_later_try_will_do() {
        let b = Bytes::from_static;
        let ledger = Ledger::new(DataSet { name: String::new(), pairs: vec![(b(b"a"), b(b"1")), (b(b"c"), b(b"2"))] });
        assert!(ledger.expectations().is_empty());
        ledger.note_tried(0, 0);
        ledger.note_acknowledged(0, 0);
        ledger.note_tried(0, 1);
        ledger.note_acknowledged(0, 1);
        ledger.note_tried(0, 2);
        ledger.note_tried(1, 0);
        ledger.note_extra(b(b"b"), b(b"x"));
        let expected = ledger.expectations();
        assert_eq!(expected.iter().map(|e| e.key.as_ref()).collect::<Vec<_>>(), [b"a", b"b"]);
        assert!(expected[0].holds(Some(&b(b"1 (pass 2)"))));
        assert!(expected[0].holds(Some(&b(b"1 (pass 3)"))));
        assert!(!expected[0].holds(Some(&b(b"1"))), "an older value is a lost write");
        assert!(!expected[0].holds(None));
        assert_eq!(ledger.acknowledged(), 1);
        assert!(ledger.is_held(0) && !ledger.is_held(1));
        ledger.note_deleted(0);
        assert!(!ledger.is_held(0));
        let deleted = &ledger.expectations()[0];
        assert!(deleted.holds(None) && !deleted.holds(Some(&b(b"1"))), "what was deleted must not come back");
    }
}
