//! The segment files of a log: which there are, how the next one comes, where an emptied one goes.
//!
//! Invariants:
//! - A file has a segment's name only after its header is durable, and the name is durable before anything is written
//!   behind the header.
//! - Segments are numbered without gaps, and only the oldest ever goes.
//! - A segment's footer is durable before the first frame of the next; so at most the last two can lack one.
//! - A segment that a reader still holds is not written again.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use multiraft_raft::RegionId;

use super::error::StepError;
use super::format::{Footer, SEGMENT_HEADER, Seed, SegmentHeader};
use super::index::Index;
use super::options::LogOptions;
use super::region_list::RegionList;
use crate::disk::{Disk, DiskFile};

pub(crate) const META_NAME: &str = "LOG";

pub(crate) fn segment_name(number: u32) -> String {
    format!("seg-{number:010}")
}

pub(crate) fn spare_name(number: u64) -> String {
    format!("spare-{number:010}")
}

/// The number in a name of one of the two forms above.
pub(crate) fn parse_name(name: &str, prefix: &str) -> Option<u64> {
    name.strip_prefix(prefix)?.strip_prefix('-')?.parse().ok()
}

/// One segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) capacity: u32,
    pub(crate) seed: Seed,
}

/// A preallocated file that waits to become a segment.
#[derive(Debug)]
pub struct Spare {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) capacity: u32,
}

/// The work of making a spare: slow, and to be done beside the writer. See
/// [`LogWriter::spare_job`](super::LogWriter::spare_job).
#[derive(Debug)]
pub struct SpareJob {
    disk: Arc<dyn Disk>,
    name: String,
    capacity: u32,
}

impl SpareJob {
    /// Makes the file, with real blocks, and makes it durable.
    ///
    /// # Errors
    /// What the system says; then no file is left.
    pub fn run(self) -> std::io::Result<Spare> {
        self.run_with(|file, capacity| file.preallocate(capacity))
    }

    fn run_with(self, lengthen: impl FnOnce(&dyn DiskFile, u64) -> std::io::Result<()>) -> std::io::Result<Spare> {
        let file = self.disk.create(&self.name)?;
        if let Err(error) = lengthen(&*file, u64::from(self.capacity)) {
            drop(file);
            let _ = self.disk.remove(&self.name);
            return Err(error);
        }
        Ok(Spare { name: self.name, file, capacity: self.capacity })
    }
}

/// Segments by number, shared with readers.
#[derive(Debug, Default)]
pub(crate) struct SegmentTable {
    segments: RwLock<BTreeMap<u32, Arc<Segment>>>,
}

impl SegmentTable {
    pub(crate) fn get(&self, number: u32) -> Option<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    pub(crate) fn insert(&self, segment: Arc<Segment>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(segment.number, segment);
    }

    fn remove(&self, number: u32) -> Option<Arc<Segment>> {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }

    pub(crate) fn first(&self) -> Option<u32> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).keys().next().copied()
    }
}

/// The segment being written.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    /// Where the next frame goes.
    pub(crate) end: u32,
    /// Regions with a record in it, perhaps more than once: for the footer.
    pub(crate) regions: RegionList,
    /// The last record in it of regions that were removed.
    pub(crate) removed: BTreeMap<RegionId, u32>,
}

impl Active {
    /// How many bytes are left for frames and for the footer's share of regions to come.
    pub(crate) fn room(&self) -> usize {
        let footer = Footer::length(self.regions.len() + self.removed.len());
        (self.segment.capacity as usize).saturating_sub(self.end as usize + footer)
    }
}

/// All files of a log.
#[derive(Debug)]
pub(crate) struct Segments {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: LogOptions,
    pub(crate) log_id: u64,
    pub(crate) table: Arc<SegmentTable>,
    pub(crate) active: Active,
    pub(crate) spares: Vec<Spare>,
    /// Emptied, but perhaps still being read.
    released: Vec<Arc<Segment>>,
    next_spare: u64,
    job_running: bool,
    /// The bytes of all sealed segments, and of the active one.
    bytes: u64,
}

impl Segments {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        log_id: u64,
        table: Arc<SegmentTable>,
        active: Active,
        spares: Vec<Spare>,
        next_spare: u64,
    ) -> Self {
        let bytes = {
            let segments = table.segments.read().unwrap_or_else(PoisonError::into_inner);
            segments.values().map(|segment| u64::from(segment.capacity)).sum()
        };
        Self {
            disk,
            options,
            log_id,
            table,
            active,
            spares,
            released: Vec::new(),
            next_spare,
            job_running: false,
            bytes,
        }
    }

    /// The bytes of the segments in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What of them has been written to so far.
    pub(crate) fn filled_bytes(&self) -> u64 {
        self.bytes.saturating_sub(u64::from(self.active.segment.capacity.saturating_sub(self.active.end)))
    }

    pub(crate) fn spare_bytes(&self) -> u64 {
        let released: u64 = self.released.iter().map(|segment| u64::from(segment.capacity)).sum();
        released + self.spares.iter().map(|spare| u64::from(spare.capacity)).sum::<u64>()
    }

    /// How many segments are in use.
    pub(crate) fn count(&self) -> usize {
        let first = self.table.first().unwrap_or(self.active.segment.number);
        (self.active.segment.number - first) as usize + 1
    }

    /// What to do so that the wanted number of spares is there, if one is missing and nobody is at it.
    pub(crate) fn spare_job(&mut self) -> Option<SpareJob> {
        if self.job_running || self.spares.len() + self.released.len() >= self.options.spare_segments {
            return None;
        }
        self.job_running = true;
        Some(self.new_job(self.options.segment_bytes))
    }

    pub(crate) fn on_spare_job(&mut self, spare: Option<Spare>) {
        self.job_running = false;
        self.spares.extend(spare);
    }

    fn new_job(&mut self, capacity: u32) -> SpareJob {
        self.next_spare += 1;
        SpareJob { disk: Arc::clone(&self.disk), name: spare_name(self.next_spare), capacity }
    }

    /// Makes a spare before there is any work.
    pub(crate) fn make_spare(&mut self, capacity: u32) -> Result<(), StepError> {
        self.make_spare_with(capacity, SpareJob::run)
    }

    /// Makes a spare on the spot, while all groups wait: zeros for a whole segment would take a busy disk seconds.
    fn make_spare_at_once(&mut self, capacity: u32) -> Result<(), StepError> {
        self.make_spare_with(capacity, |job| job.run_with(|file, capacity| file.reserve(capacity)))
    }

    fn make_spare_with(
        &mut self,
        capacity: u32,
        run: impl FnOnce(SpareJob) -> std::io::Result<Spare>,
    ) -> Result<(), StepError> {
        let job = self.new_job(capacity);
        let file = self.disk.describe(&job.name);
        let spare = run(job).map_err(|source| StepError::new(file, source))?;
        self.spares.push(spare);
        Ok(())
    }

    /// Seals the active segment and goes on in the next, which is at least `capacity` bytes long. The last spare is
    /// touched only if `may_use_reserve`.
    ///
    /// On [`StepError::NoSpace`] nothing has changed.
    pub(crate) fn roll(
        &mut self,
        capacity: u32,
        may_use_reserve: bool,
        footer: &Footer,
        header: SegmentHeader,
    ) -> Result<(), StepError> {
        let spare = self.take_spare(capacity, may_use_reserve)?;
        let header = SegmentHeader { capacity: spare.capacity, ..header };
        let next = match open_segment(&*self.disk, &spare, header) {
            Ok(next) => next,
            Err(error) => {
                self.spares.push(spare);
                return Err(error);
            }
        };
        seal(&*self.disk, &self.active.segment, footer)?;
        self.bytes += u64::from(next.capacity);
        self.table.insert(Arc::clone(&next));
        self.active = Active {
            segment: next,
            end: SEGMENT_HEADER as u32,
            regions: RegionList::default(),
            removed: BTreeMap::new(),
        };
        Ok(())
    }

    fn take_spare(&mut self, capacity: u32, may_use_reserve: bool) -> Result<Spare, StepError> {
        self.recycle();
        let fits = |spares: &[Spare]| spares.iter().position(|spare| spare.capacity >= capacity);
        let enough = |spares: &[Spare]| spares.len() > 1 && fits(spares).is_some();
        let reserve_will_do = |spares: &[Spare]| may_use_reserve && fits(spares).is_some();
        // Made twice if need be: once for the file itself, once so that a reserve stays.
        for capacity in [capacity, self.options.segment_bytes] {
            if !enough(&self.spares) && !reserve_will_do(&self.spares) {
                self.make_spare_at_once(capacity)?;
            }
        }
        let at = fits(&self.spares).expect("made if there was none");
        Ok(self.spares.remove(at))
    }

    /// Lets the segments below `floor` go. A frame that carries this floor is durable.
    pub(crate) fn release_below(&mut self, floor: u32) {
        while let Some(first) = self.table.first().filter(|first| *first < floor) {
            let segment = self.table.remove(first).expect("just seen");
            self.bytes -= u64::from(segment.capacity);
            self.released.push(segment);
        }
        self.recycle();
    }

    /// Turns emptied segments that nobody reads any more into spares, or removes them if there are enough.
    ///
    /// None of this needs to be durable here: the floor that is says that these files hold nothing, whatever their name.
    fn recycle(&mut self) {
        for segment in std::mem::take(&mut self.released) {
            if Arc::strong_count(&segment) > 1 {
                self.released.push(segment);
                continue;
            }
            let keep = segment.capacity == self.options.segment_bytes
                && self.spares.len() < self.options.spare_segments + self.options.recycled_segments;
            self.next_spare += 1;
            let name = spare_name(self.next_spare);
            let done = if keep { self.disk.rename(&segment.name, &name) } else { self.disk.remove(&segment.name) };
            match done {
                Ok(()) if keep => {
                    self.spares.push(Spare { name, file: Arc::clone(&segment.file), capacity: segment.capacity });
                }
                Ok(()) => {}
                // The next start finds the file below the floor and clears it away.
                Err(error) => tracing::warn!(file = segment.name, %error, "an emptied log segment was left in place"),
            }
        }
    }
}

/// Gives a spare a segment's header and name, both durable.
pub(crate) fn open_segment(disk: &dyn Disk, spare: &Spare, header: SegmentHeader) -> Result<Arc<Segment>, StepError> {
    let describe = || disk.describe(&spare.name);
    spare.file.write_at(&header.encode(), 0).map_err(|source| StepError::new(describe(), source))?;
    spare.file.sync_data().map_err(|source| StepError::failed(describe(), source))?;
    let name = segment_name(header.segment);
    disk.rename(&spare.name, &name).map_err(|source| StepError::new(describe(), source))?;
    disk.sync_dir().map_err(|source| StepError::failed(describe(), source))?;
    Ok(Arc::new(Segment {
        number: header.segment,
        name,
        file: Arc::clone(&spare.file),
        capacity: spare.capacity,
        seed: Seed::new(header.log_id, header.segment),
    }))
}

/// Writes a segment's footer, durably.
pub(crate) fn seal(disk: &dyn Disk, segment: &Segment, footer: &Footer) -> Result<(), StepError> {
    let describe = || disk.describe(&segment.name);
    let bytes = footer.encode(segment.seed);
    let at = u64::from(segment.capacity).checked_sub(bytes.len() as u64);
    // Room for it was kept, unless the file was cut short from outside; then the next start finds it without one.
    if let Some(at) = at.filter(|at| *at >= u64::from(footer.end)) {
        segment.file.write_at(&bytes, at).map_err(|source| StepError::failed(describe(), source))?;
        segment.file.sync_data().map_err(|source| StepError::failed(describe(), source))?;
    }
    Ok(())
}

/// What a segment's footer lists: the last record in it of each region, of removed ones too.
pub(crate) fn footer_regions(
    index: &Index,
    segment: u32,
    regions: &[RegionId],
    removed: &BTreeMap<RegionId, u32>,
) -> Vec<(RegionId, u32)> {
    let last = |region: &RegionId| {
        let last = index.tip(*region)?.last_record;
        (last.segment == segment).then_some((*region, last.offset))
    };
    let mut listed: Vec<(RegionId, u32)> = regions.iter().filter_map(last).collect();
    let gone = removed.iter().filter(|(region, _)| index.tip(**region).is_none());
    listed.extend(gone.map(|(region, offset)| (*region, *offset)));
    listed.sort_unstable();
    listed
}
