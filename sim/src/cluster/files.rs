//! Snapshot files on a simulated disk: the durable base of regions whose state does not keep itself, and snapshots that
//! arrive from peers.
//!
//! ```text
//! file: ( length u32 | record )*     the first record is a snapshot header, the others are chunks, the last is marked
//! ```
//!
//! A file is written under another name, synced, renamed, and the directory synced: after a crash there is the old one or
//! the new one.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use multiraft::apply::{AppliedRegion, Backend, Chunks, ReceivedSnapshots, SnapshotSource};
use multiraft_raft::{RegionId, ReplicaId, StoreId};
use multiraft_storage::{Disk, SimDisk};
use multiraft_transport::{Limits, SnapshotChunk, SnapshotHeader, decode_snapshot_header, encode_snapshot_header};

/// The snapshot files of one store.
#[derive(Debug)]
pub(super) struct SnapshotFiles {
    disk: SimDisk,
}

fn region_name(region: RegionId) -> String {
    format!("region-{region}")
}

fn received_name(from: StoreId, transfer: u64) -> String {
    format!("received-{from}-{transfer}")
}

impl SnapshotFiles {
    /// The files as a crash has left them; what was unfinished goes.
    pub(super) fn open(disk: SimDisk) -> io::Result<Self> {
        for name in disk.list()? {
            if !name.starts_with("region-") || name.ends_with(".new") {
                disk.remove(&name)?;
            }
        }
        disk.sync_dir()?;
        Ok(Self { disk })
    }

    /// Makes a region's state of one instant its durable base.
    pub(super) fn write(&self, source: SnapshotSource) -> io::Result<()> {
        let header = SnapshotHeader {
            transfer: 0,
            region: source.descriptor.id,
            to: ReplicaId::ZERO,
            index: source.index,
            index_term: source.term,
            descriptor: source.descriptor.clone(),
            first_chunk: 0,
        };
        let mut content = BytesMut::new();
        put_record(&mut content, &encoded(&header));
        source.stream(&mut |chunk| {
            put_record(&mut content, &chunk);
            Ok(())
        })?;
        self.replace(&region_name(header.region), &content)
    }

    /// Keeps a snapshot that has arrived whole until it is installed.
    pub(super) fn keep(&self, from: StoreId, header: &SnapshotHeader, chunks: &[SnapshotChunk]) -> io::Result<()> {
        let mut content = BytesMut::new();
        put_record(&mut content, &encoded(header));
        for chunk in chunks {
            put_record(&mut content, &chunk.data);
        }
        self.replace(&received_name(from, header.transfer), &content)
    }

    /// Puts every region back to its file, and tells what they then have applied.
    pub(super) fn restore_all(&self, backend: &Backend) -> io::Result<Vec<AppliedRegion>> {
        let mut regions = BTreeMap::new();
        for name in self.disk.list()?.into_iter().filter(|name| name.starts_with("region-")) {
            let (header, chunks) = self.read(&name)?;
            backend.restore(&header.descriptor, header.index, header.index_term, chunks)?;
            regions.insert(header.region, (Arc::clone(&header.descriptor), header.index, header.index_term));
        }
        Ok(regions.into_values().collect())
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.new");
        if self.disk.list()?.contains(&temporary) {
            self.disk.remove(&temporary)?;
        }
        let file = self.disk.create(&temporary)?;
        file.write_at(content, 0)?;
        file.sync_data()?;
        self.disk.rename(&temporary, name)?;
        self.disk.sync_dir()
    }

    fn read(&self, name: &str) -> io::Result<(SnapshotHeader, Chunks<'static>)> {
        let file = self.disk.open(name)?;
        let mut content = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        file.read_at(&mut content, 0)?;
        let mut records = records(&Bytes::from(content))?.into_iter();
        let first = records.next().ok_or(io::ErrorKind::UnexpectedEof)?;
        let header = decode_snapshot_header(&first, &Limits::default()).map_err(io::Error::other)?;
        Ok((header, Box::new(records.map(Ok))))
    }
}

fn encoded(header: &SnapshotHeader) -> Vec<u8> {
    let mut record = Vec::new();
    encode_snapshot_header(header, &mut record);
    record
}

fn put_record(content: &mut BytesMut, record: &[u8]) {
    content.put_u32(record.len() as u32);
    content.put_slice(record);
}

fn records(content: &Bytes) -> io::Result<Vec<Bytes>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < content.len() {
        let length = content.get(at..at + 4).ok_or(io::ErrorKind::UnexpectedEof)?;
        let length = length.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
        if content.len() < at + 4 + length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        found.push(content.slice(at + 4..at + 4 + length));
        at += 4 + length;
    }
    Ok(found)
}

impl ReceivedSnapshots for SnapshotFiles {
    fn open(&self, from: StoreId, header: &SnapshotHeader) -> io::Result<Chunks<'_>> {
        let (_, chunks) = self.read(&received_name(from, header.transfer))?;
        Ok(chunks)
    }

    fn adopt(&self, from: StoreId, header: &SnapshotHeader) -> io::Result<()> {
        let (_, chunks) = self.read(&received_name(from, header.transfer))?;
        let mut content = BytesMut::new();
        put_record(&mut content, &encoded(header));
        for chunk in chunks {
            put_record(&mut content, &chunk?);
        }
        self.replace(&region_name(header.region), &content)
    }

    fn discard(&self, from: StoreId, header: &SnapshotHeader) {
        // Gone already, or the disk fails: what is left over goes at the next start.
        let _ = self.disk.remove(&received_name(from, header.transfer));
    }
}
