//! The checkpoint thread: makes applied state durable beside everything else, so that the log can be cut.
//!
//! A durable state store is flushed as a whole. For state that is not durable by itself, the regions whose entries make up
//! most of the log are written to snapshot files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use multiraft_raft::{LogIndex, RegionId};
use multiraft_router::Mailbox;

use crate::apply::{Backend, Dirty};
use crate::logic::{Input, worker_of};
use crate::shell::apply::ApplyWork;
use crate::shell::fault::{Fault, PanicGuard};
use crate::shell::worker::Work;
use crate::snapshots::SnapshotFiles;

/// How many regions are captured and written at a time: a bound on what captured state costs in memory.
const REGIONS_AT_ONCE: usize = 64;
/// How many inputs one worker is told at a time.
const REGIONS_PER_INPUT: usize = 1024;

/// The checkpoint thread.
pub(super) struct Checkpoints {
    pub(super) backend: Backend,
    pub(super) files: Arc<SnapshotFiles>,
    pub(super) appliers: Vec<Sender<ApplyWork>>,
    pub(super) mailboxes: Vec<Mailbox<Work>>,
    pub(super) fault: Fault,
    pub(super) interval: Duration,
    /// Regions of volatile state are written to files when their entries add up to this many bytes.
    pub(super) log_bytes: usize,
    /// Entries applied since each region's last snapshot file.
    pub(super) pending: BTreeMap<RegionId, Dirty>,
    /// Closed when the store stops.
    pub(super) stop: Receiver<()>,
}

impl Checkpoints {
    pub(super) fn start(mut self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("multiraft-checkpoint".to_owned()).spawn(move || {
            let _guard = PanicGuard { fault: self.fault.clone(), thread: "checkpoint" };
            while let Err(RecvTimeoutError::Timeout) = self.stop.recv_timeout(self.interval) {
                if self.fault.is_set() {
                    return;
                }
                self.round();
            }
        })
    }

    fn round(&mut self) {
        let Some(dirty) = self.collect() else { return };
        if self.backend.is_durable() {
            if dirty.is_empty() {
                return;
            }
            match self.backend.flush() {
                Ok(()) => self.tell(dirty.into_iter().map(|(region, dirty)| (region, dirty.applied))),
                Err(error) => self.fault.set(format!("the state store could not be made durable: {error}")),
            }
            return;
        }
        for (region, dirty) in dirty {
            let pending = self.pending.entry(region).or_default();
            pending.applied = dirty.applied;
            pending.bytes += dirty.bytes;
        }
        // Of one that is out of service nothing is written any more.
        self.pending.retain(|region, _| !self.backend.is_barred(*region));
        self.write_files();
    }

    /// Asks all appliers which regions have applied; `None` if the store is stopping.
    fn collect(&self) -> Option<BTreeMap<RegionId, Dirty>> {
        let mut all = BTreeMap::new();
        for applier in &self.appliers {
            let (sender, receiver) = bounded(1);
            applier.send(ApplyWork::Dirty(sender)).ok()?;
            all.extend(receiver.recv().ok()?);
        }
        Some(all)
    }

    /// Writes the regions with the most entries to snapshot files until what is left is little enough.
    fn write_files(&mut self) {
        let mut total: usize = self.pending.values().map(|dirty| dirty.bytes).sum();
        if total <= self.log_bytes {
            return;
        }
        let mut by_size: Vec<(usize, RegionId)> = self.pending.iter().map(|(id, dirty)| (dirty.bytes, *id)).collect();
        by_size.sort_unstable_by(|a, b| b.cmp(a));
        let mut chosen = Vec::new();
        for (bytes, region) in by_size {
            if total <= self.log_bytes / 2 {
                break;
            }
            total -= bytes;
            chosen.push(region);
        }
        for regions in chosen.chunks(REGIONS_AT_ONCE) {
            if self.fault.is_set() || !self.write_some(regions) {
                return;
            }
        }
        if let Err(error) = self.files.tidy() {
            tracing::warn!(%error, "snapshot files could not be tidied up");
        }
    }

    fn write_some(&mut self, regions: &[RegionId]) -> bool {
        let mut sources = Vec::new();
        for (worker, applier) in self.appliers.iter().enumerate() {
            let own: Vec<RegionId> =
                regions.iter().copied().filter(|region| worker_of(*region, self.appliers.len()) == worker).collect();
            let (sender, receiver) = bounded(1);
            if own.is_empty() {
                continue;
            }
            if applier.send(ApplyWork::Capture(own, sender)).is_err() {
                return false;
            }
            match receiver.recv() {
                Ok(captured) => sources.extend(captured),
                Err(_) => return false,
            }
        }
        let done: Vec<(RegionId, LogIndex)> =
            sources.iter().map(|source| (source.descriptor.id, source.index)).collect();
        match self.files.save(sources) {
            Ok(()) => {
                for (region, _) in &done {
                    self.pending.remove(region);
                }
                self.tell(done.into_iter());
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                tracing::error!(%error, "no space for snapshot files: the log grows until there is some");
                false
            }
            Err(error) => {
                self.fault.set(format!("a snapshot file could not be written: {error}"));
                false
            }
        }
    }

    fn tell(&self, durable: impl Iterator<Item = (RegionId, LogIndex)>) {
        let mut by_worker: Vec<Vec<(RegionId, LogIndex)>> = vec![Vec::new(); self.mailboxes.len()];
        for (region, index) in durable {
            by_worker[worker_of(region, self.mailboxes.len())].push((region, index));
        }
        for (mailbox, regions) in self.mailboxes.iter().zip(by_worker) {
            for some in regions.chunks(REGIONS_PER_INPUT) {
                let _ = mailbox.send_reserved(Work::Input(Input::Checkpointed(some.to_vec())));
            }
        }
    }
}
