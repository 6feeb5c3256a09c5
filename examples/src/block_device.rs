//! A disk of 4-KiB blocks, in memory on every store.
//!
//! Its state is its own: a map from block numbers to blocks, of which those never written are not there and read as zeroes.
//! A region owns a range of blocks (a key is a block number in eight bytes, big-endian). What a write call returned for is
//! on a quorum of disks, in the engine's log; there is nothing left for a flush to do. A write within one region is atomic;
//! one that spans regions, or more than [`BLOCKS_PER_COMMAND`], is atomic in each part, as disks are in each sector.

use std::collections::BTreeMap;
use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use multiraft::{ApplyContext, Engine, OwnState, RegionDescriptor, SnapshotWrite};

use crate::client::{Client, ClientError, elsewhere, malformed, open, plain};
use crate::wire::{Reader, Writer};

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;
/// How much one command writes at most: a mebibyte.
pub const BLOCKS_PER_COMMAND: u64 = 256;

const WRITE: u8 = 1;
const DISCARD: u8 = 2;

const DONE: u8 = 2;
const BLOCKS: u8 = 3;

/// The key of a block.
#[must_use]
pub fn block_key(block: u64) -> Bytes {
    Bytes::copy_from_slice(&block.to_be_bytes())
}

/// The first block whose key is not below `key`; `None` if there is none.
fn first_block_from(key: &[u8]) -> Option<u64> {
    let mut padded = [0; 8];
    let length = key.len().min(8);
    padded[..length].copy_from_slice(&key[..length]);
    let block = u64::from_be_bytes(padded);
    // A longer key lies behind the block that it begins with.
    if key.len() > 8 { block.checked_add(1) } else { Some(block) }
}

/// The blocks of one region.
#[derive(Debug, Default)]
pub struct Blocks {
    /// Invariant: each has [`BLOCK_BYTES`].
    written: BTreeMap<u64, Bytes>,
}

impl Blocks {
    /// The machine of a new region.
    #[must_use]
    pub fn create(_: &RegionDescriptor) -> Box<dyn OwnState> {
        Box::<Self>::default()
    }

    fn write(&mut self, first: u64, data: &[u8]) {
        for (block, content) in (first..).zip(data.chunks_exact(BLOCK_BYTES)) {
            self.written.insert(block, Bytes::copy_from_slice(content));
        }
    }
}

/// Whether a region owns `count` blocks from `first` on, at least one and not more than a command may name.
fn is_owned(region: &RegionDescriptor, first: u64, count: u64) -> bool {
    let last = count.checked_sub(1).and_then(|more| first.checked_add(more));
    last.is_some_and(|last| region.owns(&block_key(first)) && region.owns(&block_key(last)))
}

impl OwnState for Blocks {
    fn apply(&mut self, context: ApplyContext<'_>, command: &[u8]) -> Bytes {
        let mut fields = Reader::new(command);
        let Some((kind, first)) = fields.kind().zip(fields.number()) else { return malformed() };
        match kind {
            WRITE => match fields.bytes() {
                Some(data) if data.len().is_multiple_of(BLOCK_BYTES) => {
                    if !is_owned(context.region, first, (data.len() / BLOCK_BYTES) as u64) {
                        return elsewhere();
                    }
                    self.write(first, data);
                    plain(DONE)
                }
                _ => malformed(),
            },
            DISCARD => match fields.number() {
                Some(count) if is_owned(context.region, first, count) => {
                    // Bounded by what is there, not by what was asked for.
                    let gone: Vec<u64> =
                        self.written.range(first..=first + (count - 1)).map(|(block, _)| *block).collect();
                    gone.iter().for_each(|block| drop(self.written.remove(block)));
                    plain(DONE)
                }
                Some(_) => elsewhere(),
                None => malformed(),
            },
            _ => malformed(),
        }
    }

    fn lookup(&self, region: &RegionDescriptor, query: &[u8]) -> Bytes {
        let mut fields = Reader::new(query);
        let Some((first, count)) =
            fields.number().zip(fields.number()).filter(|(_, count)| *count <= BLOCKS_PER_COMMAND)
        else {
            return malformed();
        };
        if !is_owned(region, first, count) {
            return elsewhere();
        }
        let mut data = BytesMut::zeroed(count as usize * BLOCK_BYTES);
        for (block, content) in self.written.range(first..=first + (count - 1)) {
            let start = (block - first) as usize * BLOCK_BYTES;
            data[start..start + BLOCK_BYTES].copy_from_slice(content);
        }
        Writer::new(BLOCKS).bytes(&data).finish()
    }

    fn snapshot(&self) -> SnapshotWrite {
        // Copies the map, not the blocks: they are shared until they are overwritten.
        let written = self.written.clone();
        Box::new(move |out| {
            out.write_all(&(written.len() as u64).to_be_bytes())?;
            for (block, content) in written {
                out.write_all(&block.to_be_bytes())?;
                out.write_all(&content)?;
            }
            Ok(())
        })
    }

    fn restore(&mut self, snapshot: &mut dyn Read) -> io::Result<()> {
        let mut number = [0; 8];
        snapshot.read_exact(&mut number)?;
        let mut written = BTreeMap::new();
        for _ in 0..u64::from_be_bytes(number) {
            snapshot.read_exact(&mut number)?;
            let mut content = vec![0; BLOCK_BYTES];
            snapshot.read_exact(&mut content)?;
            written.insert(u64::from_be_bytes(number), Bytes::from(content));
        }
        self.written = written;
        Ok(())
    }

    fn split_off(&mut self, key: &[u8]) -> Box<dyn OwnState> {
        let upper = first_block_from(key).map(|first| self.written.split_off(&first)).unwrap_or_default();
        Box::new(Self { written: upper })
    }

    fn absorb(&mut self, neighbour: Box<dyn OwnState>) {
        let neighbour =
            neighbour.as_any().downcast::<Self>().expect("all regions of a store have machines of one factory");
        self.written.extend(neighbour.written);
    }

    fn as_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

/// The disk, as one user sees it.
#[derive(Debug)]
pub struct BlockDevice {
    client: Client,
    blocks: u64,
}

impl BlockDevice {
    /// A disk of so many blocks, on any store.
    #[must_use]
    pub fn new(engine: &Engine, blocks: u64) -> Self {
        Self { client: Client::new(engine), blocks }
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks * BLOCK_BYTES as u64
    }

    /// Writes at a byte offset; offset and length are multiples of [`BLOCK_BYTES`].
    ///
    /// # Errors
    /// [`ClientError::Misuse`]: nothing was written. Others: parts may have been.
    pub async fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        let (mut block, mut left) = self.blocks_of(offset, data.len() as u64)?;
        let mut data = data;
        while left > 0 {
            let count = self.together(block, left)?;
            let (part, rest) = data.split_at(count as usize * BLOCK_BYTES);
            self.send(block, Writer::new(WRITE).number(block).bytes(part).finish()).await?;
            (block, left, data) = (block + count, left - count, rest);
        }
        Ok(())
    }

    /// Reads at a byte offset; offset and length are multiples of [`BLOCK_BYTES`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, ClientError> {
        let (mut block, mut left) = self.blocks_of(offset, length as u64)?;
        let mut data = Vec::with_capacity(length);
        while left > 0 {
            let count = self.together(block, left)?;
            let query = Writer::default().number(block).number(count).finish();
            let answer = self.client.read(&block_key(block), query).await?;
            let (BLOCKS, mut fields) = open(&answer)? else { return Err(ClientError::Version) };
            data.extend_from_slice(fields.bytes().ok_or(ClientError::Version)?);
            (block, left) = (block + count, left - count);
        }
        Ok(data)
    }

    /// Forgets what lies there: it reads as zeroes, and takes no memory.
    ///
    /// # Errors
    /// As [`BlockDevice::write_at`].
    pub async fn discard(&self, offset: u64, length: u64) -> Result<(), ClientError> {
        let (mut block, mut left) = self.blocks_of(offset, length)?;
        while left > 0 {
            let count = self.together(block, left)?;
            self.send(block, Writer::new(DISCARD).number(block).number(count).finish()).await?;
            (block, left) = (block + count, left - count);
        }
        Ok(())
    }

    async fn send(&self, block: u64, command: Bytes) -> Result<(), ClientError> {
        let answer = self.client.propose(&block_key(block), command).await?;
        if open(&answer)?.0 == DONE { Ok(()) } else { Err(ClientError::Version) }
    }

    fn blocks_of(&self, offset: u64, length: u64) -> Result<(u64, u64), ClientError> {
        let block_bytes = BLOCK_BYTES as u64;
        if !offset.is_multiple_of(block_bytes) || !length.is_multiple_of(block_bytes) {
            return Err(ClientError::Misuse("offset and length must be multiples of 4096"));
        }
        if offset.checked_add(length).is_none_or(|end| end > self.bytes()) {
            return Err(ClientError::Misuse("the disk ends before that"));
        }
        Ok((offset / block_bytes, length / block_bytes))
    }

    /// How many of `left` blocks from `block` on one region owns and one command may name.
    fn together(&self, block: u64, left: u64) -> Result<u64, ClientError> {
        let region = self.client.engine().region_for(&block_key(block)).ok_or(ClientError::Unrouted)?;
        let end = &region.range.end;
        let owned = if end.is_empty() { None } else { first_block_from(end) }.map_or(left, |end| end - block);
        Ok(left.min(owned).min(BLOCKS_PER_COMMAND))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(blocks: std::ops::Range<u64>) -> Blocks {
        let mut machine = Blocks::default();
        for block in blocks {
            machine.write(block, &[block as u8; BLOCK_BYTES]);
        }
        machine
    }

    #[test]
    fn a_snapshot_shows_its_instant_and_restores_it() {
        let mut machine = filled(3..9);
        let write = machine.snapshot();
        machine.write(4, &[0xff; BLOCK_BYTES]);
        let mut snapshot = Vec::new();
        write(&mut snapshot).unwrap();
        let mut other = filled(100..101);
        other.restore(&mut snapshot.as_slice()).unwrap();
        assert_eq!(other.written, filled(3..9).written);
        for cut in [0, 7, 12, snapshot.len() - 1] {
            other.restore(&mut &snapshot[..cut]).unwrap_err();
            assert_eq!(other.written, filled(3..9).written, "cut at {cut}");
        }
    }

    #[test]
    fn two_halves_put_together_are_the_whole() {
        for (key, lower, upper) in [
            (block_key(5).to_vec(), 0..5, 5..8),
            ([block_key(5).as_ref(), &[0]].concat(), 0..6, 6..8),
            (block_key(5)[..7].to_vec(), 0..0, 0..8),
            (vec![0xff; 9], 0..8, 0..0),
        ] {
            let mut machine = filled(0..8);
            let other = machine.split_off(&key).as_any().downcast::<Blocks>().unwrap();
            assert_eq!((&machine.written, &other.written), (&filled(lower).written, &filled(upper).written), "{key:?}");
            machine.absorb(other);
            assert_eq!(machine.written, filled(0..8).written);
        }
    }
}
