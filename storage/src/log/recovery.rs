//! Opening a log: which files there are, what they hold, where writing goes on.
//!
//! Changes nothing on disk before everything has been read, and then only: emptied files become spares, a half-opened
//! segment too, and a damaged last segment is sealed, so that what is damaged is never written to again. Before it
//! returns, what it found is written and synced once more where it may not be durable: the last process may have died, or
//! given up after a failed sync, with pages in the system's cache that never reached the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::sync::Arc;
use std::thread::{self, Scope};

use multiraft_raft::{LogTicket, RegionId};

use super::ahead::{Frames, Piece};
use super::batch::{FlushToken, RecoveredGroup};
use super::damage::{Affected, Damage, TornTail};
use super::error::{LogError, StepError};
use super::format::{self, BadHeader, Footer, SEGMENT_HEADER, Seed, SegmentHeader};
use super::index::Index;
use super::options::{LogOptions, OPENING_THREADS_MAX};
use super::reader::LogReader;
use super::region_list::RegionList;
use super::replay::{Replay, SegmentEnd, Source, limit_of};
use super::segment::{
    Active, META_NAME, Segment, SegmentTable, Segments, Spare, footer_regions, open_segment, parse_name, seal,
    segment_name, spare_name,
};
use super::window::Window;
use super::writer::LogWriter;
use crate::disk::Disk;

const META_NEW_NAME: &str = "LOG.new";
/// Up to so many bytes, further threads gain next to nothing, and lose some on a machine that is busy with other things.
const ALONE_BYTES_MAX: u64 = 32 << 20;

/// What a log held when it was opened.
#[derive(Debug)]
pub struct Recovered {
    /// Each group of which nothing can be missing.
    pub groups: BTreeMap<RegionId, RecoveredGroup>,
    /// Groups of which something may be missing because of damage. The log shows nothing of them and refuses reads. They
    /// stay suspect, through restarts too, until a [`LogChange::Remove`](super::LogChange::Remove) is durable. Their
    /// replicas must not vote or acknowledge anything: replace each by a new replica.
    pub suspects: BTreeSet<RegionId>,
    /// What is damaged, oldest first.
    pub damage: Vec<Damage>,
    /// The unfinished write that was cut off, if there was one. Nothing acknowledged is lost by that.
    pub torn: Option<TornTail>,
    /// Groups that are not known here may have been: see [`Recovered::is_suspect`].
    may_lack_groups: bool,
}

impl Recovered {
    /// The token that stands for what was durable at the opening: it covers ticket zero of a lane.
    #[must_use]
    pub fn token(&self, lane: u32) -> FlushToken {
        FlushToken::after_flush(LogTicket { lane, seq: 0 })
    }

    /// Whether damage may have hidden groups, so that a region which is not known here may have been.
    #[must_use]
    pub fn may_lack_groups(&self) -> bool {
        self.may_lack_groups
    }

    /// Whether records of this region may be lost. Ask it for every region that is known from elsewhere: one that the log
    /// does not know at all is suspect too, if damage may have hidden it.
    #[must_use]
    pub fn is_suspect(&self, region: RegionId) -> bool {
        self.suspects.contains(&region) || (self.may_lack_groups && !self.groups.contains_key(&region))
    }
}

/// The files of a log directory.
struct Inventory {
    segments: BTreeMap<u32, String>,
    spares: Vec<(u64, String)>,
    meta: Option<u64>,
    has_meta: bool,
}

/// An opened segment file.
struct Opened {
    segment: Arc<Segment>,
    /// `None` if it is damaged.
    header: Option<SegmentHeader>,
}

pub(super) fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<(LogWriter, LogReader, Recovered), LogError> {
    let inventory = take_inventory(&*disk)?;
    let mut opened = open_segments(&*disk, &inventory)?;
    let log_id = inventory
        .meta
        .or_else(|| opened.values().find_map(|opened| opened.header.map(|header| header.log_id)))
        .unwrap_or_else(|| disk.nonce());
    for opened in opened.values_mut() {
        let segment = Arc::get_mut(&mut opened.segment).expect("not shared yet");
        segment.seed = Seed::new(log_id, segment.number);
    }
    let is_fresh = opened.is_empty() && !inventory.has_meta;
    let mut setup = Setup { disk, options, log_id, opened, next_spare: 0, spares: Vec::new() };
    setup.collect_spares(&inventory)?;
    let read = setup.read_all(is_fresh)?;
    if inventory.meta.is_none() {
        setup.write_meta(&inventory)?;
    }
    setup.assemble(read)
}

fn take_inventory(disk: &dyn Disk) -> Result<Inventory, LogError> {
    let io = |name: &str| {
        let file = disk.describe(name);
        move |source| LogError::Io { file, source }
    };
    let names = disk.list().map_err(io(""))?;
    let mut inventory = Inventory { segments: BTreeMap::new(), spares: Vec::new(), meta: None, has_meta: false };
    for name in names {
        if let Some(number) = parse_name(&name, "seg").and_then(|number| u32::try_from(number).ok()) {
            inventory.segments.insert(number, name);
        } else if let Some(number) = parse_name(&name, "spare") {
            inventory.spares.push((number, name));
        } else if name == META_NAME {
            inventory.has_meta = true;
            let mut bytes = [0; format::META_LEN];
            let read = disk.open(&name).and_then(|file| file.read_at(&mut bytes, 0));
            inventory.meta = match (read, format::decode_meta(&bytes)) {
                (Ok(()), Err(BadHeader::Newer(found))) => return Err(newer(disk, &name, found)),
                (Ok(()), Ok(log_id)) => Some(log_id),
                // The segments' headers say the same.
                _ => None,
            };
        }
    }
    Ok(inventory)
}

fn open_segments(disk: &dyn Disk, inventory: &Inventory) -> Result<BTreeMap<u32, Opened>, LogError> {
    let mut all = BTreeMap::new();
    for (number, name) in &inventory.segments {
        let io = |source| LogError::Io { file: disk.describe(name), source };
        let file = disk.open(name).map_err(io)?;
        let capacity = u32::try_from(file.len().map_err(io)?).unwrap_or(u32::MAX);
        let mut bytes = [0; SEGMENT_HEADER];
        let header = match file.read_at(&mut bytes, 0).map(|()| SegmentHeader::decode(&bytes)) {
            Ok(Err(BadHeader::Newer(found))) => return Err(newer(disk, name, found)),
            Ok(Ok(header)) if header.segment == *number => Some(header),
            _ => None,
        };
        let seed = Seed::new(0, *number);
        let segment = Arc::new(Segment { number: *number, name: name.clone(), file, capacity, seed });
        all.insert(*number, Opened { segment, header });
    }
    Ok(all)
}

fn newer(disk: &dyn Disk, name: &str, found: u32) -> LogError {
    LogError::NewerFormat { file: disk.describe(name), found, supported: format::VERSION }
}

/// What reading all segments has given.
struct ReadLog {
    replay: Replay,
    suspects: BTreeSet<RegionId>,
    torn: Option<TornTail>,
    /// The segment to go on in and how it ended; `None` if there is none.
    last: Option<(Arc<Segment>, SegmentEnd)>,
    /// Sealed, damaged or lost: writing goes on in this, a new segment.
    next_number: Option<u32>,
}

struct Setup {
    disk: Arc<dyn Disk>,
    options: LogOptions,
    log_id: u64,
    opened: BTreeMap<u32, Opened>,
    next_spare: u64,
    spares: Vec<Spare>,
}

impl Setup {
    /// Takes over whole spares and removes others: half-made ones, or of another size.
    fn collect_spares(&mut self, inventory: &Inventory) -> Result<(), LogError> {
        for (number, name) in &inventory.spares {
            self.next_spare = self.next_spare.max(*number);
            let io = |source| LogError::Io { file: self.disk.describe(name), source };
            let file = self.disk.open(name).map_err(io)?;
            let keep = file.len().map_err(io)? == u64::from(self.options.segment_bytes)
                && self.spares.len() < self.options.spare_segments + self.options.recycled_segments;
            if keep {
                self.spares.push(Spare { name: name.clone(), file, capacity: self.options.segment_bytes });
            } else {
                self.disk.remove(name).map_err(io)?;
            }
        }
        Ok(())
    }

    fn read_all(&mut self, is_fresh: bool) -> Result<ReadLog, LogError> {
        let mut replay = Replay::new();
        if is_fresh {
            let suspects = BTreeSet::new();
            return Ok(ReadLog { replay, suspects, torn: None, last: None, next_number: Some(1) });
        }
        let mut window = Window::default();
        self.drop_half_opened(&mut window)?;
        self.find_floor(&mut replay, &mut window);
        let last = self.read_segments(&mut replay, window);
        Ok(self.conclude(replay, last))
    }

    /// Reads all segments from the floor on. Answers the last of them, how it ended, and whether its header is damaged.
    fn read_segments(&self, replay: &mut Replay, window: Window) -> Option<(Arc<Segment>, SegmentEnd, bool)> {
        let last_number = self.opened.keys().next_back().copied();
        let mut last = None;
        thread::scope(|scope| {
            let mut frames = Frames::new(window);
            self.check_ahead(scope, replay.floor, &mut frames);
            for number in replay.floor..=last_number.unwrap_or(replay.floor) {
                let Some(opened) = self.opened.get(&number) else {
                    replay.on_missing(number, self.disk.describe(&segment_name(number)));
                    continue;
                };
                let file = self.disk.describe(&opened.segment.name);
                if opened.header.is_none() {
                    replay.on_bad_header(number, file.clone());
                }
                let (is_last, end_hint) = (Some(number) == last_number, self.end_hint(number));
                let source = Source { segment: &opened.segment, file, is_last, end_hint };
                let end = replay.read_segment(&source, &mut frames);
                last = Some((Arc::clone(&opened.segment), end, opened.header.is_none()));
            }
        });
        last
    }

    /// Lets threads check the frames that are about to be read, if there are enough of them.
    fn check_ahead<'s>(&'s self, scope: &'s Scope<'s, '_>, floor: u32, frames: &mut Frames<'s>) {
        let chosen = self.options.opening_threads;
        let segments = || self.opened.range(floor..).map(|(number, opened)| (*number, &*opened.segment));
        let most: u64 = segments().map(|(_, segment)| u64::from(segment.capacity)).sum();
        if chosen == 1 || (chosen == 0 && most < ALONE_BYTES_MAX) {
            return;
        }
        let mut pieces = Vec::new();
        for (number, segment) in segments() {
            let expected = frames.window.footer(segment).map(|footer| footer.end).or_else(|| self.end_hint(number));
            let end = frames.window.end_of_frames(segment).min(expected.unwrap_or(u32::MAX));
            pieces.extend(Piece::all(segment, end, limit_of(segment, expected)));
        }
        let bytes: u64 = pieces.iter().map(Piece::length).sum();
        let threads = match chosen {
            0 if bytes < ALONE_BYTES_MAX => return,
            0 => thread::available_parallelism().map_or(1, NonZero::get),
            chosen => chosen,
        };
        if threads == 1 {
            return;
        }
        frames.check_ahead(scope, &pieces, threads.min(pieces.len()).min(OPENING_THREADS_MAX));
    }

    /// Where a segment's frames end, as the next one's header has it.
    fn end_hint(&self, number: u32) -> Option<u32> {
        let next = self.opened.get(&number.checked_add(1)?)?.header;
        next.map(|header| header.previous_end).filter(|end| *end != 0)
    }

    /// Decides where writing goes on, and who is suspect.
    fn conclude(&self, mut replay: Replay, last: Option<(Arc<Segment>, SegmentEnd, bool)>) -> ReadLog {
        let mut next_number = None;
        let mut torn = None;
        let mut last_file = String::new();
        match &last {
            // All segments are lost. The new one's number leaves a gap that tells the next start so as well.
            None => next_number = Some(replay.floor + 1),
            Some((segment, end, bad_header)) => {
                last_file = self.disk.describe(&segment.name);
                if end.sealed && !end.damaged {
                    // The next segment had its name before this one was sealed.
                    let lost = segment.number + 1;
                    replay.on_missing(lost, self.disk.describe(&segment_name(lost)));
                    next_number = Some(lost + 1);
                } else if end.damaged || *bad_header {
                    next_number = Some(segment.number + 1);
                }
                torn = end.torn.then(|| TornTail { file: last_file.clone(), offset: u64::from(end.end) });
            }
        }
        let suspects = replay.finish(&last_file);
        let last = last.map(|(segment, end, _)| (segment, end));
        ReadLog { replay, suspects, torn, last, next_number }
    }

    /// A segment that was named but never written, after one that was not sealed yet: the crash came in between. It
    /// becomes a spare again.
    fn drop_half_opened(&mut self, window: &mut Window) -> Result<(), LogError> {
        let mut numbers = self.opened.keys().rev().copied();
        let (Some(last), Some(before)) = (numbers.next(), numbers.next()) else { return Ok(()) };
        if before + 1 != last {
            return Ok(());
        }
        let opened = &self.opened[&last];
        let whole = opened.segment.capacity as usize;
        if window.find_frame(&opened.segment, SEGMENT_HEADER as u32, whole, whole).is_some() {
            return Ok(());
        }
        if window.footer(&self.opened[&before].segment).is_none() {
            self.retire(last)?;
        }
        Ok(())
    }

    /// Turns a segment file into a spare, or removes it.
    fn retire(&mut self, number: u32) -> Result<(), LogError> {
        let Some(opened) = self.opened.remove(&number) else { return Ok(()) };
        let segment = opened.segment;
        let io = |source| LogError::Io { file: self.disk.describe(&segment.name), source };
        if segment.capacity == self.options.segment_bytes
            && self.spares.len() < self.options.spare_segments + self.options.recycled_segments
        {
            self.next_spare += 1;
            let name = spare_name(self.next_spare);
            self.disk.rename(&segment.name, &name).map_err(io)?;
            self.spares.push(Spare { name, file: Arc::clone(&segment.file), capacity: segment.capacity });
        } else {
            self.disk.remove(&segment.name).map_err(io)?;
        }
        Ok(())
    }

    /// The newest segment knows which old ones are gone by intent: those must not be read, they may be in use as something
    /// else already, under their old name. If its header cannot tell, every mark that there is counts. Reading must learn
    /// of no higher mark afterwards: what it then had already taken for lost would be gone by intent to the next start,
    /// which would let regions serve again that this one has left out.
    fn find_floor(&self, replay: &mut Replay, window: &mut Window) {
        let Some(last) = self.opened.values().next_back() else { return };
        if last.header.is_some() {
            return note_marks_of(last, replay, window);
        }
        for opened in self.opened.values() {
            note_marks_of(opened, replay, window);
        }
    }

    /// Writes the file that says "here is a log", after the first segment and before the first record.
    fn write_meta(&mut self, inventory: &Inventory) -> Result<(), LogError> {
        if self.opened.is_empty() && !inventory.has_meta {
            // A new log: it is one only when its first segment is there. See `assemble`.
            return Ok(());
        }
        self.put_meta().map_err(LogError::from)
    }

    fn put_meta(&self) -> Result<(), StepError> {
        let disk = &self.disk;
        let failed = |source| StepError::new(disk.describe(META_NAME), source);
        let put = || -> std::io::Result<()> {
            if disk.list()?.iter().any(|name| name == META_NEW_NAME) {
                disk.remove(META_NEW_NAME)?;
            }
            let file = disk.create(META_NEW_NAME)?;
            file.write_at(&format::encode_meta(self.log_id), 0)?;
            file.sync_data()?;
            disk.rename(META_NEW_NAME, META_NAME)?;
            disk.sync_dir()
        };
        put().map_err(failed)
    }

    /// Makes the writer, and everything durable that was read.
    fn assemble(mut self, read: ReadLog) -> Result<(LogWriter, LogReader, Recovered), LogError> {
        let ReadLog { replay, suspects, torn, last, next_number } = read;
        let below: Vec<u32> = self.opened.range(..replay.floor).map(|(number, _)| *number).collect();
        for number in below {
            self.retire(number)?;
        }
        let table = Arc::new(SegmentTable::default());
        for opened in self.opened.values() {
            table.insert(Arc::clone(&opened.segment));
        }
        let may_lack_groups = replay.may_lack_groups();
        let active = match (&last, next_number) {
            (Some((segment, end)), None) => {
                self.rewrite_footer_before(segment.number)?;
                rewrite_tail(&*self.disk, segment, end)?;
                let (regions, removed) = replay.regions_of(segment.number);
                let regions = regions.into_iter().collect();
                Active { segment: Arc::clone(segment), end: end.end, regions, removed }
            }
            (_, number) => self.new_active(&replay, last.as_ref(), number.unwrap_or(1), &table)?,
        };
        self.disk.sync_dir().map_err(|source| LogError::Io { file: self.disk.describe(META_NAME), source })?;
        let Replay { index, ledger, damage, floor, settled, .. } = replay;
        let groups = sound_groups(&index);
        let index = Arc::new(index);
        let (disk, spares) = (Arc::clone(&self.disk), std::mem::take(&mut self.spares));
        let mut segments =
            Segments::new(disk, self.options, self.log_id, Arc::clone(&table), active, spares, self.next_spare);
        if segments.spares.is_empty()
            && let Err(StepError::Failed { file, source }) = segments.make_spare(self.options.segment_bytes)
        {
            return Err(LogError::Io { file, source });
        }
        let mut writer = LogWriter::assemble(segments, Arc::clone(&index), ledger, floor, settled);
        if may_lack_groups || damage.iter().any(|damage| !damage.settled && affects_any(damage)) {
            writer.sweep.pin();
        }
        let reader = LogReader::new(self.disk, index, table, Arc::clone(&writer.counters));
        Ok((writer, reader, Recovered { groups, suspects, damage, torn, may_lack_groups }))
    }

    /// Writes the footer of the segment before once more: its sync may have been what the last process did not live to see.
    fn rewrite_footer_before(&self, number: u32) -> Result<(), LogError> {
        let Some(before) = number.checked_sub(1).and_then(|before| self.opened.get(&before)) else { return Ok(()) };
        let segment = &before.segment;
        let mut window = Window::default();
        match window.footer(segment) {
            Some(footer) => Ok(seal(&*self.disk, segment, &footer)?),
            None => Ok(()),
        }
    }

    /// Begins a new segment: the first of all, or the one behind a last one that must not be written any more, which is
    /// sealed as far as it was understood.
    fn new_active(
        &mut self,
        replay: &Replay,
        last: Option<&(Arc<Segment>, SegmentEnd)>,
        number: u32,
        table: &Arc<SegmentTable>,
    ) -> Result<Active, LogError> {
        let capacity = self.options.segment_bytes;
        if self.spares.is_empty() {
            self.next_spare += 1;
            let name = spare_name(self.next_spare);
            let error = |source| StepError::new(self.disk.describe(&name), source);
            let file = self.disk.create(&name).map_err(error)?;
            file.preallocate(u64::from(capacity)).map_err(error)?;
            self.spares.push(Spare { name: name.clone(), file, capacity });
        }
        let spare = self.spares.pop().expect("just made if there was none");
        let previous_end = last.filter(|(segment, _)| segment.number + 1 == number).map_or(0, |(_, end)| end.end);
        let header = SegmentHeader {
            segment: number,
            log_id: self.log_id,
            capacity,
            previous_end,
            floor: replay.floor,
            settled: replay.settled,
        };
        let segment = open_segment(&*self.disk, &spare, header)?;
        if self.opened.is_empty() {
            self.put_meta()?;
        }
        if let Some((segment, end)) = last.filter(|(_, end)| !end.sealed) {
            rewrite_tail(&*self.disk, segment, end)?;
            let (regions, removed) = replay.regions_of(segment.number);
            let footer = Footer {
                segment: segment.number,
                end: end.end,
                over_damage: true,
                floor: replay.floor,
                settled: replay.settled,
                regions: footer_regions(&replay.index, segment.number, &regions, &removed),
            };
            seal(&*self.disk, segment, &footer)?;
        }
        table.insert(Arc::clone(&segment));
        Ok(Active { segment, end: SEGMENT_HEADER as u32, regions: RegionList::default(), removed: BTreeMap::new() })
    }
}

/// Takes over the marks in a segment's header, frames and footer.
fn note_marks_of(opened: &Opened, replay: &mut Replay, window: &mut Window) {
    if let Some(header) = opened.header {
        replay.note_marks(header.floor, header.settled);
    }
    let segment = &opened.segment;
    if let Some(footer) = window.footer(segment) {
        replay.note_marks(footer.floor, footer.settled);
    }
    let limit = segment.capacity as usize;
    let mut at = SEGMENT_HEADER as u32;
    loop {
        match window.frame(segment, at, limit) {
            Some(frame) => {
                replay.note_marks(frame.header.floor, frame.header.settled);
                at = frame.end();
            }
            None => match window.find_frame(segment, at + 1, limit, limit) {
                Some(next) => at = next,
                None => return,
            },
        }
    }
}

fn affects_any(damage: &Damage) -> bool {
    !matches!(&damage.affected, Affected::Regions(regions) if regions.is_empty())
}

fn sound_groups(index: &Index) -> BTreeMap<RegionId, RecoveredGroup> {
    let sound = |region: RegionId| {
        let group = index.look(region, |group| {
            (!group.head.suspect).then(|| RecoveredGroup { hard_state: group.head.hard_state, log: group.summary() })
        });
        Some((region, group??))
    };
    index.regions().into_iter().filter_map(sound).collect()
}

/// Writes the last frame once more and syncs: only one frame can be unsynced, and a page that the system believes clean
/// after a failed sync becomes dirty again by that.
fn rewrite_tail(disk: &dyn Disk, segment: &Segment, end: &SegmentEnd) -> Result<(), LogError> {
    let rewrite = || -> std::io::Result<()> {
        let mut header = [0; SEGMENT_HEADER];
        segment.file.read_at(&mut header, 0)?;
        segment.file.write_at(&header, 0)?;
        let mut frame = vec![0; (end.end - end.last_frame) as usize];
        segment.file.read_at(&mut frame, u64::from(end.last_frame))?;
        segment.file.write_at(&frame, u64::from(end.last_frame))?;
        segment.file.sync_data()
    };
    rewrite().map_err(|source| LogError::Io { file: disk.describe(&segment.name), source })
}
