//! The directory of snapshot files: saving, finding, removing, receiving.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use multiraft_raft::RegionId;

use super::{
    catalog::{Catalog, ContainerId, Newest, Pin, Rewrite},
    container::{Container, SnapshotReader, Source, regions_in_ruins},
    error::SnapshotError,
    format::{EntryKind, IndexEntry, Section, SnapshotId},
    receive::{SnapshotWriter, parse_part_name, part_name},
    spool::Spool,
    writer::ContainerWriter,
};
use crate::disk::Disk;

/// A file below this counts as small.
const SMALL_BYTES: u64 = 1 << 20;

/// More small files than this are worth being put together.
const SMALL_FILES_MAX: usize = 64;

/// From this size on a file is synced before it waits for its turn to be published.
const PRESYNC_BYTES: u64 = 1 << 20;

/// A snapshot to be saved.
#[derive(Clone, Debug)]
pub struct SnapshotItem {
    /// Which snapshot it is.
    pub id: SnapshotId,
    /// Bytes that are handed back with it, a region's descriptor for instance. At most [`super::HEADER_BYTES_MAX`].
    pub header: Bytes,
    /// Its data, in pieces of at most [`super::CHUNK_BYTES_MAX`] each.
    pub chunks: Vec<Bytes>,
}

/// A snapshot that is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Which snapshot it is.
    pub id: SnapshotId,
    /// How many chunks it has.
    pub chunks: u64,
    /// How many bytes its chunks have in all.
    pub bytes: u64,
}

/// A file that does not hold what was written. It is left where it is and never used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedFile {
    /// The file, as an operator would look for it.
    pub file: String,
    /// Where it is damaged first.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
    /// The regions that can still be seen to have had something in it. There may be more: a region whose log begins after its
    /// newest snapshot has lost one.
    pub regions: Vec<RegionId>,
}

/// The snapshots of a store, in one directory that nothing else uses.
///
/// What [`Self::latest`] tells is durable. Clones share the store.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    /// For names and salts; above the number of every container.
    next_number: AtomicU64,
    catalog: Mutex<Catalog>,
    /// Held while a file gets its stamps, its name and its place in the catalog: so files come in the order of their stamps.
    publisher: Mutex<Publisher>,
    poisoned: OnceLock<String>,
}

#[derive(Debug)]
struct Publisher {
    next_stamp: u64,
}

impl SnapshotStore {
    /// Opens the directory. Files that were not finished are removed, but for those being received; damaged ones are answered.
    ///
    /// # Errors
    /// [`SnapshotError::Io`] if the system refuses.
    pub fn open(disk: Arc<dyn Disk>) -> Result<(Self, Vec<DamagedFile>), SnapshotError> {
        let (mut catalog, mut damaged, mut last) = (Catalog::default(), Vec::new(), 0);
        for name in disk.list().map_err(|source| SnapshotError::io("the snapshot directory", source))? {
            if let Some(id) = parse_container_name(&name) {
                last = last.max(id);
                match open_container(&*disk, &name)? {
                    Ok(container) => catalog.insert(id, container.len, container.entries),
                    Err(file) => damaged.push(file),
                }
            } else if name.starts_with(TEMP_PREFIX) {
                disk.remove(&name).map_err(|source| SnapshotError::io(disk.describe(&name), source))?;
            }
        }
        let publisher = Mutex::new(Publisher { next_stamp: catalog.next_stamp() });
        let (next_number, catalog) = (AtomicU64::new(last + 1), Mutex::new(catalog));
        let poisoned = OnceLock::new();
        let store = Self { shared: Arc::new(Shared { disk, next_number, catalog, publisher, poisoned }) };
        if last > 0 {
            // A file may have been renamed in front of the end of the process, and its name not be durable yet: whoever finds it
            // builds on it.
            store.shared.sync_dir()?;
        }
        store.shared.remove_dead();
        Ok((store, damaged))
    }

    /// The newest snapshot of a region.
    #[must_use]
    pub fn latest(&self, region: RegionId) -> Option<SnapshotInfo> {
        self.shared.catalog().newest(region).map(|newest| info(region, &newest))
    }

    /// The newest snapshots of all regions, in the order of their ids.
    #[must_use]
    pub fn list(&self) -> Vec<SnapshotInfo> {
        self.shared.catalog().all_newest().map(|(region, newest)| info(region, &newest)).collect()
    }

    /// Opens the newest snapshot of a region for reading.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`], [`SnapshotError::Io`].
    pub fn read(&self, region: RegionId) -> Result<Option<SnapshotReader>, SnapshotError> {
        let found = {
            let catalog = self.shared.catalog();
            catalog.newest(region).and_then(|newest| Some((newest, catalog.pin(newest.container)?)))
        };
        let read = |(newest, pin): (Newest, Pin)| self.shared.reader(region, newest.container, newest.section, pin);
        found.map(read).transpose()
    }

    /// Saves a snapshot; it is durable when this returns. Older ones of its region go.
    ///
    /// # Errors
    /// See [`Self::save_many`].
    pub fn save(&self, item: SnapshotItem) -> Result<(), SnapshotError> {
        self.save_many(vec![item])
    }

    /// Saves snapshots of many regions, with the same few syncs that one takes; all are durable when this returns, or none.
    ///
    /// # Errors
    /// [`SnapshotError::Older`] if a region has a snapshot of a later index; [`SnapshotError::TooLong`];
    /// [`SnapshotError::NoSpace`]; [`SnapshotError::Io`], after which the store may be poisoned.
    pub fn save_many(&self, items: Vec<SnapshotItem>) -> Result<(), SnapshotError> {
        if items.is_empty() {
            return Ok(());
        }
        items.iter().try_for_each(|item| self.check_newer(&item.id))?;
        self.shared.write_temp(|writer| {
            items.iter().try_for_each(|item| {
                writer.begin(item.id, &item.header)?;
                item.chunks.iter().try_for_each(|chunk| writer.append(chunk))?;
                writer.end()
            })?;
            self.shared.publish(writer, &[])
        })
    }

    /// Begins a snapshot that is made here, piece by piece. One that is not finished is gone at the next start.
    ///
    /// # Errors
    /// See [`Self::save_many`].
    pub fn begin(&self, id: SnapshotId, header: &[u8]) -> Result<SnapshotWriter, SnapshotError> {
        self.check_newer(&id)?;
        let mut writer = self.shared.temp_writer()?;
        match writer.begin(id, header) {
            Ok(()) => Ok(SnapshotWriter::new(self.clone(), writer, id, false)),
            Err(error) => {
                writer.discard();
                Err(error)
            }
        }
    }

    /// Begins to receive a snapshot, or takes up where an earlier attempt ended: [`SnapshotWriter::chunks`] tells how many
    /// chunks are there. What is left unfinished stays, over restarts too, until it is taken up or
    /// [`Self::discard_partials`] removes it. There may be one writer at a time for a snapshot.
    ///
    /// # Errors
    /// See [`Self::save_many`].
    pub fn receive(&self, id: SnapshotId, header: &[u8]) -> Result<SnapshotWriter, SnapshotError> {
        self.check_newer(&id)?;
        self.shared.check()?;
        let (disk, name) = (&self.shared.disk, part_name(&id));
        let writer = match ContainerWriter::resume(Arc::clone(disk), name.clone(), id, header)? {
            Some(writer) => writer,
            None => {
                let mut writer = ContainerWriter::create(Arc::clone(disk), name, self.shared.salt())?;
                if let Err(error) = writer.begin(id, header) {
                    writer.discard();
                    return Err(error);
                }
                writer
            }
        };
        Ok(SnapshotWriter::new(self.clone(), writer, id, true))
    }

    /// A place for a snapshot on its way out. Its first `memory_bytes` stay in memory.
    #[must_use]
    pub fn spool(&self, memory_bytes: u64) -> Spool {
        Spool::new(self.clone(), memory_bytes)
    }

    /// The name and salt of a file that is gone at the next start.
    pub(super) fn working_file(&self) -> Result<(Arc<dyn Disk>, String, u64), SnapshotError> {
        self.shared.check()?;
        Ok((Arc::clone(&self.shared.disk), self.shared.temp_name(), self.shared.salt()))
    }

    /// The snapshots that were received in part, ascending.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn partials(&self) -> Result<Vec<SnapshotId>, SnapshotError> {
        Ok(self.shared.names()?.iter().filter_map(|name| parse_part_name(name)).collect())
    }

    /// Removes what was received in part, but for what `keep` wants. None of it may be being written.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn discard_partials(&self, keep: impl Fn(&SnapshotId) -> bool) -> Result<(), SnapshotError> {
        for id in self.partials()?.iter().filter(|id| !keep(id)) {
            let name = part_name(id);
            self.shared.disk.remove(&name).map_err(|error| self.shared.io_error(&name, error))?;
        }
        Ok(())
    }

    /// Removes the snapshots of regions; they stay removed over a restart when this returns.
    ///
    /// # Errors
    /// [`SnapshotError::NoSpace`]; [`SnapshotError::Io`], after which the store may be poisoned.
    pub fn remove_many(&self, regions: &[RegionId]) -> Result<(), SnapshotError> {
        let known: Vec<RegionId> = {
            let catalog = self.shared.catalog();
            regions.iter().copied().filter(|region| catalog.knows(*region)).collect()
        };
        if known.is_empty() {
            return Ok(());
        }
        self.shared.write_temp(|writer| self.shared.publish(writer, &known))
    }

    /// Removes the snapshot of a region. See [`Self::remove_many`].
    ///
    /// # Errors
    /// See [`Self::remove_many`].
    pub fn remove(&self, region: RegionId) -> Result<(), SnapshotError> {
        self.remove_many(&[region])
    }

    /// Rewrites what still counts of files that are mostly superseded, or are many and small, into one; reads and writes at
    /// most about `bytes_max`. To be called now and then, where it may take time. Answers whether it found something to do.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] if a snapshot that still counts cannot be read; it stays where it is. Else see
    /// [`Self::save_many`].
    pub fn compact(&self, bytes_max: u64) -> Result<bool, SnapshotError> {
        // The pins inside keep the old files, and so the removals that stand against them, until the new one is in its place.
        let chosen = self.shared.catalog().worth_rewriting(bytes_max, SMALL_BYTES, SMALL_FILES_MAX);
        if chosen.is_empty() {
            return Ok(false);
        }
        self.shared.write_temp(|writer| {
            let kept = self.shared.copy_live(&chosen, writer)?;
            self.shared.publish_with(writer, |_| kept)
        })?;
        drop(chosen);
        self.shared.remove_dead();
        Ok(true)
    }

    /// Reads a region's newest snapshot to its end, to see that it is whole.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`], [`SnapshotError::Io`].
    pub fn verify(&self, region: RegionId) -> Result<(), SnapshotError> {
        let Some(mut reader) = self.read(region)? else { return Ok(()) };
        while reader.next_chunk()?.is_some() {}
        Ok(())
    }

    /// Publishes the file of a writer that has ended its section.
    pub(super) fn publish(&self, writer: &mut ContainerWriter, id: &SnapshotId) -> Result<SnapshotInfo, SnapshotError> {
        self.check_newer(id)?;
        let (_, section) = *writer.sections().last().expect("a finished writer has a section");
        self.shared.publish(writer, &[])?;
        Ok(SnapshotInfo { id: *id, chunks: section.chunks, bytes: section.bytes })
    }

    fn check_newer(&self, id: &SnapshotId) -> Result<(), SnapshotError> {
        match self.latest(id.region) {
            Some(saved) if saved.id.index > id.index => {
                Err(SnapshotError::Older { region: id.region, saved: saved.id.index, given: id.index })
            }
            _ => Ok(()),
        }
    }
}

impl Shared {
    /// Writes a file under a working name; it goes if that fails.
    fn write_temp(
        &self,
        write: impl FnOnce(&mut ContainerWriter) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let mut writer = self.temp_writer()?;
        let written = write(&mut writer);
        if written.is_err() {
            writer.discard();
        }
        written
    }

    /// Publishes the sections of a file, and removals. What they supersede goes.
    fn publish(&self, writer: &mut ContainerWriter, removed: &[RegionId]) -> Result<(), SnapshotError> {
        let sections = writer.sections().to_vec();
        self.publish_with(writer, |publisher| {
            let saved = sections.into_iter().map(|(id, section)| (id.region, EntryKind::Snapshot(section)));
            let removed = removed.iter().map(|region| (*region, EntryKind::Removed));
            saved.chain(removed).map(|(region, what)| IndexEntry { region, stamp: publisher.stamp(), what }).collect()
        })?;
        self.remove_dead();
        Ok(())
    }

    /// Gives a file its table, makes it durable, and gives it its name and its place.
    fn publish_with(
        &self,
        writer: &mut ContainerWriter,
        entries: impl FnOnce(&mut Publisher) -> Vec<IndexEntry>,
    ) -> Result<(), SnapshotError> {
        self.check()?;
        if writer.len() >= PRESYNC_BYTES {
            writer.write_out()?;
            self.or_poison(writer.sync())?;
        }
        let mut publisher = self.publisher.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = entries(&mut publisher);
        writer.seal(&entries)?;
        self.or_poison(writer.sync())?;
        let id = self.next_number();
        let name = container_name(id);
        self.or_poison(self.disk.rename(writer.name(), &name).map_err(|error| self.io_error(&name, error)))?;
        self.sync_dir()?;
        self.catalog().insert(id, writer.len(), entries);
        Ok(())
    }

    /// Copies what still counts of some files; answers their lines for the new table.
    fn copy_live(&self, files: &[Rewrite], writer: &mut ContainerWriter) -> Result<Vec<IndexEntry>, SnapshotError> {
        let mut kept = Vec::new();
        for (file, entry) in files.iter().flat_map(|file| file.live.iter().map(move |entry| (file, entry))) {
            let EntryKind::Snapshot(section) = entry.what else {
                kept.push(*entry);
                continue;
            };
            let mut reader = self.reader(entry.region, file.container, section, Arc::clone(&file.pin))?;
            writer.begin(reader.id(), reader.header())?;
            while let Some(chunk) = reader.next_chunk()? {
                writer.append(&chunk)?;
            }
            writer.end()?;
            let (_, section) = *writer.sections().last().expect("a section was just ended");
            kept.push(IndexEntry { what: EntryKind::Snapshot(section), ..*entry });
        }
        Ok(kept)
    }

    /// Removes the files that nobody needs, the superseded before what superseded them. One that cannot be removed is tried
    /// again after the next save.
    fn remove_dead(&self) {
        let _publisher = self.publisher.lock().unwrap_or_else(PoisonError::into_inner);
        while self.poisoned.get().is_none() {
            let dead = self.catalog().take_dead();
            if dead.is_empty() {
                return;
            }
            let (mut gone, mut failed) = (Vec::new(), Vec::new());
            for id in dead {
                match self.disk.remove(&container_name(id)) {
                    Ok(()) => gone.push(id),
                    Err(error) => {
                        tracing::warn!(file = self.disk.describe(&container_name(id)), %error, "cannot remove a snapshot file");
                        failed.push(id);
                    }
                }
            }
            // A removal may be forgotten only after what it removed is durably gone.
            let is_durable = gone.is_empty() || self.sync_dir().is_ok();
            let mut catalog = self.catalog();
            failed.iter().for_each(|id| catalog.suspect(*id));
            if !is_durable {
                return;
            }
            gone.into_iter().for_each(|id| catalog.forget(id));
            if !failed.is_empty() {
                return;
            }
        }
    }

    fn reader(
        &self,
        region: RegionId,
        container: ContainerId,
        section: Section,
        pin: Pin,
    ) -> Result<SnapshotReader, SnapshotError> {
        let name = container_name(container);
        let file = self.disk.open(&name).map_err(|error| self.io_error(&name, error))?;
        SnapshotReader::open(Source::open(file, self.disk.describe(&name))?, region, section, pin)
    }

    fn temp_writer(&self) -> Result<ContainerWriter, SnapshotError> {
        self.check()?;
        ContainerWriter::create(Arc::clone(&self.disk), self.temp_name(), self.salt())
    }

    fn temp_name(&self) -> String {
        format!("{TEMP_PREFIX}{:016x}", self.next_number())
    }

    /// Another one for each file.
    fn salt(&self) -> u64 {
        self.disk.nonce() ^ self.next_number().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    fn names(&self) -> Result<Vec<String>, SnapshotError> {
        self.disk.list().map_err(|source| SnapshotError::io("the snapshot directory", source))
    }

    fn sync_dir(&self) -> Result<(), SnapshotError> {
        self.or_poison(self.disk.sync_dir().map_err(|source| SnapshotError::io("the snapshot directory", source)))
    }

    /// After a failed sync nothing is known of the disk.
    fn or_poison<T>(&self, synced: Result<T, SnapshotError>) -> Result<T, SnapshotError> {
        synced.inspect_err(|error| {
            tracing::error!(%error, "a sync of the snapshot store failed: it is not used any more");
            let _ = self.poisoned.set(format!("a sync failed: {error}"));
        })
    }

    fn check(&self) -> Result<(), SnapshotError> {
        match self.poisoned.get() {
            None => Ok(()),
            Some(reason) => Err(SnapshotError::Poisoned { reason: reason.clone() }),
        }
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn io_error(&self, name: &str, error: std::io::Error) -> SnapshotError {
        SnapshotError::io(self.disk.describe(name), error)
    }
}

impl Publisher {
    fn stamp(&mut self) -> u64 {
        let stamp = self.next_stamp;
        self.next_stamp += 1;
        stamp
    }
}

/// Files that are being written, and gone at the next start.
const TEMP_PREFIX: &str = "temp-";

/// Files that are complete.
const CONTAINER_PREFIX: &str = "snap-";

fn container_name(id: ContainerId) -> String {
    format!("{CONTAINER_PREFIX}{id:016x}")
}

fn parse_container_name(name: &str) -> Option<ContainerId> {
    let id = ContainerId::from_str_radix(name.strip_prefix(CONTAINER_PREFIX)?, 16).ok()?;
    (container_name(id) == name).then_some(id)
}

fn open_container(disk: &dyn Disk, name: &str) -> Result<Result<Container, DamagedFile>, SnapshotError> {
    let file = disk.open(name).map_err(|source| SnapshotError::io(disk.describe(name), source))?;
    let mut regions = Vec::new();
    let opened = Source::open(file, disk.describe(name))
        .and_then(|source| Container::open(&source).inspect_err(|_| regions = regions_in_ruins(&source)));
    match opened {
        Ok(container) => Ok(Ok(container)),
        Err(SnapshotError::Damaged { file, offset, reason, .. }) => {
            Ok(Err(DamagedFile { file, offset, reason, regions }))
        }
        Err(error) => Err(error),
    }
}

fn info(region: RegionId, newest: &Newest) -> SnapshotInfo {
    let section = newest.section;
    let id = SnapshotId { region, index: section.index, term: section.term };
    SnapshotInfo { id, chunks: section.chunks, bytes: section.bytes }
}
