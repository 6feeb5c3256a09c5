//! What a store tells whoever plans: how many replicas it holds, the regions that it leads, and how large and busy they are;
//! changes only.
//!
//! ```text
//! report:  format (1) | varint replicas held | store | varint count | count x region | varint count | count x figures
//! store:   0: not told in this report; else 1, or 2 if it is slow | varint bytes of its disk, free ones |
//!          varint count of replicas that are out of service, so many of: varint region | varint replica
//! region:  varint term | flags (1): bit 0 pending | varint count of replicas behind, so many varint ids |
//!          varint count of those fenced, so many varint ids | varint length | descriptor
//! figures: varint region | flags (1): bit 0 leads | varint version, bytes, keys, writes a second, reads a second |
//!          varint count of samples, so many of: varint length | key | varint bytes, writes, reads
//! ```
//!
//! That a store is slow came later than the rest of format 3: who does not know of it drops a report that says so.
//!
//! Format 2 has neither the store nor what is fenced; format 1 ends behind the regions as well.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{RegionId, ReplicaId, Term};
use multiraft_storage::DiskSpace;
use multiraft_transport::{decode_descriptor, encode_descriptor};

use crate::logic::LedRegion;
use crate::measure::Figures;
use crate::placement::KeySample;
use crate::region::command::{get_varint, put_varint};

const FORMAT: u8 = 3;
/// It tells neither of disks nor of replicas that are out of service.
const FORMAT_OF_SOUND: u8 = 2;
const FORMAT_WITHOUT_FIGURES: u8 = 1;
/// Whether a report says how its store stands, and whether the store is slow.
const UNTOLD: u8 = 0;
const WELL: u8 = 1;
const SLOW: u8 = 2;
const PENDING: u8 = 1;
const LEADS: u8 = 1;

/// A report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Replicas that the store holds, of any kind, those that are about to go included.
    pub(super) held: u64,
    /// How the store stands; `None`: this report does not say.
    pub(super) store: Option<StoreNews>,
    /// Regions that it leads and that have changed since they were last told.
    pub(super) led: Vec<LedRegion>,
    /// Figures that have changed since they were last told.
    pub(super) figures: Vec<Figures>,
}

/// How a store stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StoreNews {
    /// Its disk; of size zero if it is not known.
    pub(super) disk: DiskSpace,
    /// It works, but not well: it takes no leadership over.
    pub(super) is_slow: bool,
    /// All replicas that are out of service there, by region.
    pub(super) aside: BTreeMap<RegionId, ReplicaId>,
}

impl Report {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        put_varint(&mut out, self.held);
        out.put_u8(self.store.as_ref().map_or(UNTOLD, |store| if store.is_slow { SLOW } else { WELL }));
        if let Some(StoreNews { disk, is_slow: _, aside }) = &self.store {
            [disk.bytes, disk.free_bytes, aside.len() as u64].into_iter().for_each(|value| put_varint(&mut out, value));
            for (region, replica) in aside {
                put_varint(&mut out, region.get());
                put_varint(&mut out, replica.get());
            }
        }
        put_varint(&mut out, self.led.len() as u64);
        let mut descriptor = Vec::new();
        for region in &self.led {
            put_varint(&mut out, region.term.get());
            out.put_u8(if region.pending { PENDING } else { 0 });
            put_replicas(&mut out, &region.behind);
            put_replicas(&mut out, &region.fenced);
            descriptor.clear();
            encode_descriptor(&region.descriptor, &mut descriptor);
            put_varint(&mut out, descriptor.len() as u64);
            out.put_slice(&descriptor);
        }
        put_varint(&mut out, self.figures.len() as u64);
        self.figures.iter().for_each(|figures| put_figures(&mut out, figures));
        out.freeze()
    }

    /// Reads the wire form; `None` if it is none of this version.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut at = 1;
        let format = *bytes.first()?;
        if !(FORMAT_WITHOUT_FIGURES..=FORMAT).contains(&format) {
            return None;
        }
        let held = get_varint(bytes, &mut at)?;
        let is_told = if format > FORMAT_OF_SOUND { get_varint(bytes, &mut at)? } else { 0 };
        let store = match u8::try_from(is_told).ok()? {
            UNTOLD => None,
            told @ (WELL | SLOW) => Some(read_store(bytes, &mut at, told == SLOW)?),
            _ => return None,
        };
        let count = usize::try_from(get_varint(bytes, &mut at)?).ok().filter(|count| *count <= bytes.len())?;
        let led = (0..count).map(|_| read_region(bytes, &mut at, format)).collect::<Option<Vec<_>>>()?;
        let mut figures = Vec::new();
        if format != FORMAT_WITHOUT_FIGURES {
            let count = get_varint(bytes, &mut at)?;
            for _ in 0..count {
                figures.push(read_figures(bytes, &mut at)?);
            }
        }
        (at == bytes.len()).then_some(Self { held, store, led, figures })
    }
}

fn put_replicas(out: &mut BytesMut, replicas: &[ReplicaId]) {
    put_varint(out, replicas.len() as u64);
    replicas.iter().for_each(|replica| put_varint(out, replica.get()));
}

fn read_replicas(bytes: &Bytes, at: &mut usize) -> Option<Vec<ReplicaId>> {
    let count = usize::try_from(get_varint(bytes, at)?).ok().filter(|count| *count <= bytes.len())?;
    (0..count).map(|_| get_varint(bytes, at).map(ReplicaId)).collect()
}

fn read_store(bytes: &Bytes, at: &mut usize, is_slow: bool) -> Option<StoreNews> {
    let disk = DiskSpace { bytes: get_varint(bytes, at)?, free_bytes: get_varint(bytes, at)? };
    let mut aside = BTreeMap::new();
    for _ in 0..get_varint(bytes, at)? {
        aside.insert(RegionId(get_varint(bytes, at)?), ReplicaId(get_varint(bytes, at)?));
    }
    Some(StoreNews { disk, is_slow, aside })
}

fn read_region(bytes: &Bytes, at: &mut usize, format: u8) -> Option<LedRegion> {
    let term = Term(get_varint(bytes, at)?);
    let flags = *bytes.get(*at)?;
    *at += 1;
    let behind = read_replicas(bytes, at)?;
    let fenced = if format > FORMAT_OF_SOUND { read_replicas(bytes, at)? } else { Vec::new() };
    let length = usize::try_from(get_varint(bytes, at)?).ok()?;
    let end = at.checked_add(length).filter(|end| *end <= bytes.len())?;
    let descriptor = decode_descriptor(&bytes.slice(*at..end)).ok().map(Arc::new)?;
    *at = end;
    (flags <= PENDING).then_some(LedRegion { descriptor, term, behind, fenced, pending: flags == PENDING })
}

fn put_figures(out: &mut BytesMut, figures: &Figures) {
    put_varint(out, figures.region.get());
    out.put_u8(if figures.leads { LEADS } else { 0 });
    for value in [figures.version, figures.bytes, figures.keys, figures.writes_per_s, figures.reads_per_s] {
        put_varint(out, value);
    }
    put_varint(out, figures.samples.len() as u64);
    for sample in figures.samples.iter() {
        put_varint(out, sample.key.len() as u64);
        out.put_slice(&sample.key);
        [sample.bytes, sample.writes, sample.reads].into_iter().for_each(|value| put_varint(out, value));
    }
}

fn read_figures(bytes: &Bytes, at: &mut usize) -> Option<Figures> {
    let region = RegionId(get_varint(bytes, at)?);
    let flags = *bytes.get(*at)?;
    *at += 1;
    let mut next = || get_varint(bytes, at);
    let (version, size, keys, writes_per_s, reads_per_s) = (next()?, next()?, next()?, next()?, next()?);
    let count = next()?;
    let mut samples = Vec::new();
    for _ in 0..count {
        let length = usize::try_from(get_varint(bytes, at)?).ok()?;
        let end = at.checked_add(length).filter(|end| *end <= bytes.len())?;
        // A copy: a slice would keep the whole report in memory for as long as the sample is kept.
        let key = Bytes::copy_from_slice(&bytes[*at..end]);
        *at = end;
        let mut next = || get_varint(bytes, at);
        samples.push(KeySample { key, bytes: next()?, writes: next()?, reads: next()? });
    }
    let (leads, samples) = (flags == LEADS, samples.into());
    (flags <= LEADS).then_some(Figures {
        region,
        leads,
        version,
        bytes: size,
        keys,
        writes_per_s,
        reads_per_s,
        samples,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use multiraft_raft::{KeyRange, RegionDescriptor, RegionEpoch, Replica, Role, StoreId};

    use super::*;

    /// A region that is led.
    pub(crate) fn led(id: u64, term: u64, conf_version: u64) -> LedRegion {
        let replicas = vec![Replica { id: ReplicaId(id), store: StoreId(1), role: Role::Voter }];
        let epoch = RegionEpoch { conf_version, version: 1 };
        let range = KeyRange { start: Bytes::from(format!("{id}")), end: Bytes::new() };
        let descriptor = Arc::new(RegionDescriptor { id: RegionId(id), range, epoch, replicas });
        LedRegion { descriptor, term: Term(term), behind: vec![ReplicaId(300)], fenced: Vec::new(), pending: id == 2 }
    }

    fn figures() -> Figures {
        let sample = |key: &'static [u8], weight| KeySample {
            key: Bytes::from_static(key),
            bytes: weight,
            writes: 1,
            reads: u64::MAX,
        };
        Figures {
            region: RegionId(3),
            leads: true,
            version: 7,
            bytes: 1 << 40,
            keys: 12_345,
            writes_per_s: 300,
            reads_per_s: 0,
            samples: [sample(b"", 1), sample(b"k\0\xff", 1 << 33)].into(),
        }
    }

    #[test]
    fn reports_survive_a_round_trip_and_cut_ones_are_refused() {
        let other = Figures { leads: false, samples: Arc::default(), ..figures() };
        let led = vec![led(2, 1, 1), LedRegion { fenced: vec![ReplicaId(3), ReplicaId(300)], ..led(3, 400, 5) }];
        let aside = [(RegionId(7), ReplicaId(700)), (RegionId(9), ReplicaId(1))].into();
        let disk = DiskSpace { bytes: 1 << 40, free_bytes: 1 << 20 };
        for store in [None, Some(StoreNews::default()), Some(StoreNews { disk, is_slow: true, aside })] {
            let report = Report { held: 300, store, led: led.clone(), figures: vec![figures(), other.clone()] };
            let bytes = report.encode();
            assert_eq!(Report::decode(&bytes), Some(report));
            for len in 0..bytes.len() {
                assert_eq!(Report::decode(&bytes.slice(..len)), None, "cut at {len}");
            }
        }
    }

    #[test]
    fn reports_of_earlier_formats_tell_of_nothing_that_is_out_of_service_and_the_first_has_no_figures() {
        let report = Report { held: 9, led: vec![led(2, 1, 1)], ..Report::default() };
        let mut old = report.encode().to_vec();
        // Held; the store; one region; its term and flags, one replica behind; those fenced.
        assert_eq!(old[..10], [FORMAT, 9, 0, 1, 1, PENDING, 1, 0xac, 0x02, 0]);
        old[0] = FORMAT + 1;
        assert_eq!(Report::decode(&old.clone().into()), None, "a later one");
        old.remove(9);
        old.remove(2);
        old[0] = 2;
        assert_eq!(Report::decode(&old.clone().into()), Some(report.clone()));
        assert_eq!(old.pop(), Some(0), "no figures");
        assert_eq!(Report::decode(&old.clone().into()), None, "their number is missing");
        old[0] = 1;
        assert_eq!(Report::decode(&old.into()), Some(report));
    }

    #[test]
    fn a_number_of_samples_that_cannot_be_is_refused() {
        let mut out = BytesMut::new();
        put_figures(&mut out, &Figures { samples: Arc::default(), ..figures() });
        out.truncate(out.len() - 1);
        put_varint(&mut out, u64::MAX);
        assert_eq!(read_figures(&out.freeze(), &mut 0), None);
    }
}
