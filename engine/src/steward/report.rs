//! What a store tells whoever plans: how many replicas it holds, and the regions that it leads, changes only.
//!
//! ```text
//! report:  format (1) | varint replicas held | varint count | count x region
//! region:  varint term | flags (1): bit 0 pending | varint count of replicas behind, so many varint ids |
//!          varint length | descriptor
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{RegionEpoch, RegionId, ReplicaId, Term};
use multiraft_transport::{decode_descriptor, encode_descriptor};

use crate::logic::LedRegion;
use crate::region::command::{get_varint, put_varint};

const FORMAT: u8 = 1;
const PENDING: u8 = 1;

/// How large a report becomes, about, before the rest goes into another.
const REPORT_BYTES: usize = 256 << 10;

/// Everything is told again after this many rounds, whether it has changed or not: whatever was lost on the way heals.
const ROUNDS_TO_REPEAT: u32 = 60;

/// A report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Replicas that the store holds, of any kind, those that are about to go included.
    pub(super) held: u64,
    /// Regions that it leads and that have changed since they were last told.
    pub(super) led: Vec<LedRegion>,
}

impl Report {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        put_varint(&mut out, self.held);
        put_varint(&mut out, self.led.len() as u64);
        let mut descriptor = Vec::new();
        for region in &self.led {
            put_varint(&mut out, region.term.get());
            out.put_u8(if region.pending { PENDING } else { 0 });
            put_varint(&mut out, region.behind.len() as u64);
            region.behind.iter().for_each(|replica| put_varint(&mut out, replica.get()));
            descriptor.clear();
            encode_descriptor(&region.descriptor, &mut descriptor);
            put_varint(&mut out, descriptor.len() as u64);
            out.put_slice(&descriptor);
        }
        out.freeze()
    }

    /// Reads the wire form; `None` if it is none of this version.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut at = 1;
        if *bytes.first()? != FORMAT {
            return None;
        }
        let held = get_varint(bytes, &mut at)?;
        let count = usize::try_from(get_varint(bytes, &mut at)?).ok().filter(|count| *count <= bytes.len())?;
        let led = (0..count).map(|_| read_region(bytes, &mut at)).collect::<Option<Vec<_>>>()?;
        (at == bytes.len()).then_some(Self { held, led })
    }
}

fn read_region(bytes: &Bytes, at: &mut usize) -> Option<LedRegion> {
    let term = Term(get_varint(bytes, at)?);
    let flags = *bytes.get(*at)?;
    *at += 1;
    let count = usize::try_from(get_varint(bytes, at)?).ok().filter(|count| *count <= bytes.len())?;
    let behind = (0..count).map(|_| get_varint(bytes, at).map(ReplicaId)).collect::<Option<Vec<_>>>()?;
    let length = usize::try_from(get_varint(bytes, at)?).ok()?;
    let end = at.checked_add(length).filter(|end| *end <= bytes.len())?;
    let descriptor = decode_descriptor(&bytes.slice(*at..end)).ok().map(Arc::new)?;
    *at = end;
    (flags <= PENDING).then_some(LedRegion { descriptor, term, behind, pending: flags == PENDING })
}

/// What makes two states of a led region equal for whoever plans.
type Told = (Term, RegionEpoch, Vec<ReplicaId>, bool);

fn told_of(region: &LedRegion) -> Told {
    (region.term, region.descriptor.epoch, region.behind.clone(), region.pending)
}

/// Remembers what the root region's leader has taken, so that only changes are told.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    /// The term of the leader that has taken it.
    term: Term,
    told: BTreeMap<RegionId, Told>,
    rounds: u32,
}

impl Reporter {
    /// What is to be told now; one report at least, as a sign of life.
    pub(super) fn reports(&mut self, held: usize, led: Vec<LedRegion>) -> Vec<Report> {
        self.rounds += 1;
        if self.rounds >= ROUNDS_TO_REPEAT {
            self.rounds = 0;
            self.told.clear();
        }
        let still: BTreeSet<RegionId> = led.iter().map(|region| region.descriptor.id).collect();
        self.told.retain(|region, _| still.contains(region));
        let held = held as u64;
        let mut reports = vec![Report { held, led: Vec::new() }];
        let mut bytes = 0;
        for region in led {
            if self.told.get(&region.descriptor.id).is_some_and(|told| *told == told_of(&region)) {
                continue;
            }
            let range = &region.descriptor.range;
            bytes += 64 + 24 * region.descriptor.replicas.len() + range.start.len() + range.end.len();
            if bytes > REPORT_BYTES {
                bytes = 0;
                reports.push(Report { held, led: Vec::new() });
            }
            if let Some(report) = reports.last_mut() {
                report.led.push(region);
            }
        }
        reports
    }

    /// The root region's leader of `term` has taken a report. What earlier ones have taken it does not know; false if that is
    /// so, and more is to be told.
    pub(super) fn on_taken(&mut self, term: Term, report: &Report) -> bool {
        let is_same = self.term == term;
        if !is_same {
            self.term = term;
            self.told.clear();
        }
        self.told.extend(report.led.iter().map(|region| (region.descriptor.id, told_of(region))));
        is_same
    }
}

#[cfg(test)]
mod tests {
    use multiraft_raft::{KeyRange, RegionDescriptor, Replica, Role, StoreId};

    use super::*;

    fn led(id: u64, term: u64, conf_version: u64) -> LedRegion {
        let replicas = vec![Replica { id: ReplicaId(id), store: StoreId(1), role: Role::Voter }];
        let epoch = RegionEpoch { conf_version, version: 1 };
        let range = KeyRange { start: Bytes::from(format!("{id}")), end: Bytes::new() };
        let descriptor = Arc::new(RegionDescriptor { id: RegionId(id), range, epoch, replicas });
        LedRegion { descriptor, term: Term(term), behind: vec![ReplicaId(300)], pending: id == 2 }
    }

    #[test]
    fn reports_survive_a_round_trip_and_cut_ones_are_refused() {
        let report = Report { held: 300, led: vec![led(2, 1, 1), led(3, 400, 5)] };
        let bytes = report.encode();
        assert_eq!(Report::decode(&bytes), Some(report));
        for len in 0..bytes.len() {
            assert_eq!(Report::decode(&bytes.slice(..len)), None, "cut at {len}");
        }
    }

    #[test]
    fn only_changes_are_told_and_a_new_leader_hears_everything() {
        let mut reporter = Reporter::default();
        let both = || vec![led(2, 1, 1), led(3, 1, 1)];
        let first = reporter.reports(2, both());
        assert_eq!(first, [Report { held: 2, led: both() }]);
        assert!(!reporter.on_taken(Term(7), &first[0]), "a leader that has heard nothing yet");
        let nothing = Report { held: 2, led: Vec::new() };
        assert_eq!(reporter.reports(2, both()), std::slice::from_ref(&nothing));
        assert!(reporter.on_taken(Term(7), &nothing));
        let changed = vec![led(2, 1, 1), led(3, 1, 2)];
        let second = reporter.reports(2, changed.clone());
        assert_eq!(second, [Report { held: 2, led: vec![led(3, 1, 2)] }]);
        assert_eq!(reporter.reports(2, changed.clone()), second, "what was not taken is told again");
        assert!(!reporter.on_taken(Term(8), &second[0]));
        assert_eq!(reporter.reports(2, changed), [Report { held: 2, led: vec![led(2, 1, 1)] }]);
    }

    #[test]
    fn a_region_that_is_led_here_again_is_told_again() {
        let mut reporter = Reporter::default();
        let first = reporter.reports(1, vec![led(2, 1, 1)]);
        reporter.on_taken(Term(1), &first[0]);
        let lost = reporter.reports(1, Vec::new());
        reporter.on_taken(Term(1), &lost[0]);
        assert_eq!(reporter.reports(1, vec![led(2, 1, 1)])[0].led.len(), 1);
    }

    #[test]
    fn everything_is_repeated_now_and_then_and_much_is_cut_into_several_reports() {
        let mut reporter = Reporter::default();
        let many: Vec<_> = (2..8_000).map(|id| led(id, 1, 1)).collect();
        let reports = reporter.reports(many.len(), many.clone());
        assert!(reports.len() > 2);
        assert_eq!(reports.iter().map(|report| report.led.len()).sum::<usize>(), many.len());
        for report in &reports {
            reporter.on_taken(Term(1), report);
            assert!(report.encode().len() < 2 * REPORT_BYTES);
        }
        let repeats = |reporter: &mut Reporter| reporter.reports(1, many.clone()).len() > 1;
        let quiet = (1..ROUNDS_TO_REPEAT).position(|_| repeats(&mut reporter));
        assert_eq!(quiet, Some(ROUNDS_TO_REPEAT as usize - 2), "the first round was counted before");
    }
}
