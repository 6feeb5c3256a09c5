//! The snapshot conversation inside frames, and the header and chunks on streams of their own.

use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{Incarnation, LogIndex, RegionId, ReplicaId, StoreId, Term};

use super::{
    Limits, WireError, WireFault,
    descriptor::{encode_descriptor, read_descriptor},
    frame::{Context, kind},
    reader::Reader,
    varint::{VARINT_MAX, put_bytes, put_delta, put_varint},
};
use crate::{CaptureId, SnapshotChunk, SnapshotHeader, SnapshotMessage, SnapshotStep};

const OFFER: u8 = 0;
const ACCEPT: u8 = 1;
const REFUSE: u8 = 2;
const FINISHED: u8 = 3;
const FAILED: u8 = 4;

const NO_CAPTURE: u8 = 0;
const CAPTURE: u8 = 1;

const CHUNK: u8 = 0;
const LAST_CHUNK: u8 = 1;

/// The most bytes that stand before a chunk's data.
pub(crate) const CHUNK_PREFIX_MAX: usize = 1 + VARINT_MAX + 4 + 4;

impl Context {
    pub(super) fn put_snapshot(&mut self, out: &mut Vec<u8>, message: &SnapshotMessage) {
        out.push(kind::SNAPSHOT);
        put_varint(out, message.transfer);
        put_delta(out, self.region, message.region.0);
        put_delta(out, self.from, message.from.0);
        put_delta(out, message.from.0, message.to.0);
        put_delta(out, self.term, message.term.0);
        (self.region, self.from, self.to) = (message.region.0, message.from.0, message.to.0);
        self.term = message.term.0;
        match &message.step {
            SnapshotStep::Offer { index, index_term, descriptor, size_hint, capture } => {
                out.push(OFFER);
                put_varint(out, index.0);
                put_delta(out, self.term, index_term.0);
                encode_descriptor(descriptor, out);
                put_varint(out, *size_hint);
                match capture {
                    Some(capture) => {
                        out.push(CAPTURE);
                        put_capture(out, capture);
                    }
                    None => out.push(NO_CAPTURE),
                }
            }
            SnapshotStep::Accept { first_chunk } => {
                out.push(ACCEPT);
                put_varint(out, *first_chunk);
            }
            SnapshotStep::Refuse { retry_after_ms } => {
                out.push(REFUSE);
                put_varint(out, u64::from(*retry_after_ms));
            }
            SnapshotStep::Finished { installed } => out.push(if *installed { FINISHED } else { FAILED }),
        }
    }

    pub(super) fn read_snapshot(&mut self, reader: &mut Reader<'_>) -> Result<SnapshotMessage, WireError> {
        let transfer = reader.varint()?;
        self.region = reader.delta(self.region)?;
        self.from = reader.delta(self.from)?;
        self.to = reader.delta(self.from)?;
        self.term = reader.delta(self.term)?;
        let step = match reader.byte("a snapshot step")? {
            OFFER => SnapshotStep::Offer {
                index: LogIndex(reader.varint()?),
                index_term: Term(reader.delta(self.term)?),
                descriptor: Arc::new(read_descriptor(reader)?),
                size_hint: reader.varint()?,
                capture: match reader.byte("whether there is a capture")? {
                    NO_CAPTURE => None,
                    CAPTURE => Some(read_capture(reader)?),
                    value => return reader.fail(WireFault::Unknown { what: "capture flag", value }),
                },
            },
            ACCEPT => SnapshotStep::Accept { first_chunk: reader.varint()? },
            REFUSE => SnapshotStep::Refuse { retry_after_ms: reader.varint_u32()? },
            FINISHED => SnapshotStep::Finished { installed: true },
            FAILED => SnapshotStep::Finished { installed: false },
            value => return reader.fail(WireFault::Unknown { what: "snapshot step", value }),
        };
        Ok(SnapshotMessage {
            transfer,
            region: RegionId(self.region),
            from: ReplicaId(self.from),
            to: ReplicaId(self.to),
            term: Term(self.term),
            step,
        })
    }
}

fn put_capture(out: &mut Vec<u8>, capture: &CaptureId) {
    put_varint(out, capture.store.0);
    put_varint(out, capture.incarnation.0);
    put_varint(out, capture.number);
}

fn read_capture(reader: &mut Reader<'_>) -> Result<CaptureId, WireError> {
    let store = StoreId(reader.varint()?);
    let incarnation = Incarnation(reader.varint()?);
    Ok(CaptureId { store, incarnation, number: reader.varint()? })
}

/// Appends a snapshot's header.
pub fn encode_snapshot_header(header: &SnapshotHeader, out: &mut Vec<u8>) {
    put_varint(out, header.transfer);
    put_varint(out, header.region.0);
    put_varint(out, header.to.0);
    put_varint(out, header.index.0);
    put_varint(out, header.index_term.0);
    put_varint(out, header.first_chunk);
    put_capture(out, &header.capture);
    put_bytes(out, &header.absorbed);
    encode_descriptor(&header.descriptor, out);
}

/// Reads what [`encode_snapshot_header`] wrote; nothing may follow it.
///
/// # Errors
/// The bytes are no header.
pub fn decode_snapshot_header(bytes: &Bytes, limits: &Limits) -> Result<SnapshotHeader, WireError> {
    let mut reader = Reader::new(bytes, limits.items_max);
    let transfer = reader.varint()?;
    let region = RegionId(reader.varint()?);
    let to = ReplicaId(reader.varint()?);
    let index = LogIndex(reader.varint()?);
    let index_term = Term(reader.varint()?);
    let first_chunk = reader.varint()?;
    let capture = read_capture(&mut reader)?;
    let absorbed = reader.payload("a list")?;
    let descriptor = Arc::new(read_descriptor(&mut reader)?);
    reader.finish()?;
    Ok(SnapshotHeader { transfer, region, to, index, index_term, descriptor, absorbed, first_chunk, capture })
}

/// Appends a chunk.
pub fn encode_snapshot_chunk(chunk: &SnapshotChunk, out: &mut Vec<u8>) {
    encode_chunk_prefix(chunk, out);
    out.extend_from_slice(&chunk.data);
}

/// Appends what stands before a chunk's data, for who sends the data without copying it.
pub(crate) fn encode_chunk_prefix(chunk: &SnapshotChunk, out: &mut Vec<u8>) {
    out.push(if chunk.last { LAST_CHUNK } else { CHUNK });
    put_varint(out, chunk.number);
    out.extend_from_slice(&chunk.crc.to_le_bytes());
    if chunk.last {
        out.extend_from_slice(&chunk.whole_crc.to_le_bytes());
    }
}

/// Reads what [`encode_snapshot_chunk`] wrote. The data shares the memory of `bytes`; its checksum is the reader's
/// business, it is kept from the sender's state store to the receiver's.
///
/// # Errors
/// The bytes are no chunk, or one beyond `limits`.
pub fn decode_snapshot_chunk(bytes: &Bytes, limits: &Limits) -> Result<SnapshotChunk, WireError> {
    let mut reader = Reader::new(bytes, 0);
    let last = match reader.byte("a chunk")? {
        CHUNK => false,
        LAST_CHUNK => true,
        value => return Err(WireError { offset: 0, fault: WireFault::Unknown { what: "chunk flag", value } }),
    };
    let number = reader.varint()?;
    let crc = u32::from_le_bytes(reader.array("a checksum")?);
    let whole_crc = if last { u32::from_le_bytes(reader.array("a checksum")?) } else { 0 };
    let data = reader.rest();
    if data.len() > limits.chunk_bytes_max {
        let (found, limit) = (data.len() as u64, limits.chunk_bytes_max as u64);
        return reader.fail(WireFault::Limit { what: "bytes of chunk", found, limit });
    }
    Ok(SnapshotChunk { number, last, data, crc, whole_crc })
}
