//! What is told of a region's size against what there is, under random writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{KeyRange, RegionDescriptor, RegionEpoch, RegionId, Term, Time};
use multiraft_storage::{MemStore, StateBatch, StateError, StateStore};
use proptest::prelude::*;

use super::{Gauges, Tally, Touches};
use crate::apply::Backend;
use crate::logic::LedRegion;
use crate::machine::overlay::Overlay;
use crate::machine::{ApplyContext, RegionView, StateMachine, StateTxn};
use crate::placement::Sizes;

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&self, _: ApplyContext<'_>, _: &[u8], _: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        Ok(Bytes::new())
    }

    fn lookup(&self, _: &RegionView<'_>, _: &[u8]) -> Result<Bytes, StateError> {
        Ok(Bytes::new())
    }
}

/// A key to be removed, or set to a value of so many bytes.
type Write = (u16, Option<usize>);

/// Rounds of writes: few and many, of small and of large values, also the same keys again and again.
fn rounds() -> impl Strategy<Value = Vec<Vec<Write>>> {
    let key = prop_oneof![3 => 0u16..400, 1 => Just(7u16)];
    let value = prop_oneof![2 => (0usize..200).prop_map(Some), 1 => (0usize..3_000).prop_map(Some), 1 => Just(None)];
    prop::collection::vec(prop::collection::vec((key, value), 0..60), 1..40)
}

struct Case {
    store: Arc<MemStore>,
    backend: Backend,
    gauges: Gauges,
    led: Vec<LedRegion>,
    truth: BTreeMap<Bytes, usize>,
    now: Time,
}

impl Case {
    fn new(sizes: Sizes) -> Self {
        let store = Arc::new(MemStore::new());
        let backend = Backend::shared(Arc::new(Nothing), store.clone());
        let range = KeyRange { start: Bytes::from_static(b"k"), end: Bytes::from_static(b"l") };
        let epoch = RegionEpoch { conf_version: 1, version: 1 };
        let descriptor = Arc::new(RegionDescriptor { id: RegionId(2), range, epoch, replicas: Vec::new() });
        let led = vec![LedRegion { descriptor, term: Term(1), behind: Vec::new(), fenced: Vec::new(), pending: false }];
        let (gauges, truth, now) = (Gauges::new(sizes), BTreeMap::new(), Time::ZERO);
        Self { store, backend, gauges, led, truth, now }
    }

    /// A round with these writes; what they may change at most, in bytes.
    fn round(&mut self, writes: &[Write], budget: usize) -> u64 {
        self.now = self.now.plus(Duration::from_secs(1));
        self.gauges.begin(self.now, &self.led);
        let (mut touches, mut overlay, mut batch) = (Touches::default(), Overlay::default(), StateBatch::new());
        let mut may_change = 0;
        let view = self.store.view();
        let mut txn = StateTxn::new(&*view, &mut overlay, &self.led[0].descriptor, Some(&mut touches));
        for (key, value) in writes {
            let key = Bytes::from(format!("k{key:04}"));
            let before = self.truth.remove(&key);
            may_change += before.unwrap_or(0) as u64;
            match value {
                Some(length) => {
                    txn.put(&key, vec![1; *length]).expect("it is inside");
                    may_change += (key.len() + length) as u64;
                    self.truth.insert(key.clone(), key.len() + length);
                }
                None => txn.delete(&key).expect("it is inside"),
            }
        }
        drop(view);
        overlay.drain_into(&mut batch);
        self.store.write(batch).expect("memory does not fail");
        let tally = Tally { writes: touches, reads: Touches::default() };
        self.gauges.take(BTreeMap::from([(RegionId(2), tally)]), |_| None);
        for mut survey in self.gauges.take_due(1) {
            while !self.backend.survey(&mut survey, budget).expect("memory does not fail") {}
            self.gauges.on_surveyed(survey);
        }
        may_change
    }

    fn told(&self) -> Option<(u64, u64)> {
        self.gauges.figures().next().map(|figures| (figures.bytes, figures.keys))
    }

    fn bytes(&self) -> u64 {
        self.truth.values().map(|size| *size as u64).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_size_that_is_told_is_never_further_off_than_what_was_written_since_and_right_after_a_while(
        rounds in rounds(), budget in 1usize..5_000,
    ) {
        let sizes = Sizes { split_bytes: 64 << 10, merge_bytes: 4 << 10, ..Sizes::default() };
        let mut case = Case::new(sizes);
        // What was written since each survey may have begun; the first one comes in the first round.
        let mut recent = Vec::new();
        for writes in &rounds {
            recent.push(case.round(writes, budget));
            if let Some((bytes, _)) = case.told() {
                let slack: u64 = recent.iter().sum();
                prop_assert!(bytes.abs_diff(case.bytes()) <= slack, "{} is told of {}", bytes, case.bytes());
            }
        }
        for _ in 0..30 {
            case.round(&[], budget);
        }
        let (bytes, _) = case.told().expect("some rounds have gone by");
        // Put bytes count in full; a removal as much as a pair has on the average, and so some may be overlooked.
        let removed: u64 = rounds.iter().flatten().filter(|(_, value)| value.is_none()).count() as u64;
        let off = case.bytes().max(bytes) / 8 + sizes.pittance_bytes() + removed * 3_005;
        prop_assert!(bytes.abs_diff(case.bytes()) <= off, "{} is told of {}", bytes, case.bytes());
    }
}

#[test]
fn a_survey_counts_the_region_and_nothing_beside_it_however_it_is_cut_into_pieces() {
    for budget in [1, 1_000, 1 << 20] {
        let mut case = Case::new(Sizes::default());
        let writes: Vec<Write> = (0..1_000).map(|n| (n, Some(100))).collect();
        // What lies beside its range, and records of the engine, are not its.
        let mut others = StateBatch::new();
        for key in [&b"\x01other"[..], b"\x10a", b"\x10jzzz", b"\x10l", b"\x10z"] {
            others.put(Bytes::copy_from_slice(key), Bytes::from(vec![9; 5_000]));
        }
        case.store.write(others).unwrap();
        case.round(&writes, budget);
        for _ in 0..5 {
            case.round(&[], budget);
        }
        assert_eq!(case.told(), Some((105_000, 1_000)));
    }
}
