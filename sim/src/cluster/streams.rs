//! Snapshots on their way: each on a stream of its own, chunk by chunk, kept on the receiver's disk until it is whole.

use std::collections::BTreeMap;

use bytes::Bytes;
use multiraft::logic::{Input, RegionHandle};
use multiraft_raft::{RegionId, ReplicaId, StoreId};
use multiraft_transport::{
    Limits, SnapshotChunk, SnapshotHeader, decode_snapshot_chunk, decode_snapshot_header, encode_snapshot_chunk,
    encode_snapshot_header,
};

use super::faults::Point;
use super::{Cluster, Event, id_of, place_of};
use crate::plan::Fault;
use crate::plant::Plant;
use crate::schedule::MILLI;

/// What a store expects, and has received so far.
#[derive(Debug, Default)]
pub(super) struct Streams {
    expected: BTreeMap<(StoreId, u64), Incoming>,
}

#[derive(Debug)]
struct Incoming {
    region: RegionId,
    header: Option<SnapshotHeader>,
    chunks: Vec<SnapshotChunk>,
}

/// A piece of a snapshot on its way: the header first, then the chunks.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) from: usize,
    pub(super) to: usize,
    session: u64,
    transfer: u64,
    is_header: bool,
    body: Bytes,
}

impl Cluster {
    pub(super) fn expect_snapshot(&mut self, store: usize, from: StoreId, transfer: u64, region: RegionId) {
        let Some(process) = &mut self.nodes[store].process else { return };
        let incoming = Incoming { region, header: None, chunks: Vec::new() };
        process.streams.expected.insert((from, transfer), incoming);
    }

    /// Captures a region's state and puts it on its way to a peer.
    #[allow(clippy::too_many_arguments, reason = "the fields of the one task that it carries out")]
    pub(super) fn send_snapshot(
        &mut self,
        store: usize,
        worker: usize,
        handle: RegionHandle,
        transfer: u64,
        to: StoreId,
        replica: ReplicaId,
        first_chunk: u64,
    ) {
        let to = place_of(to);
        let life = self.nodes[store].life;
        let session = self.network.session(store, to);
        let Some(process) = &self.nodes[store].process else { return };
        let captured = process.workers[worker].applier.capture(handle.region).ok().flatten();
        let (Some(source), Some(session)) = (captured, session) else {
            let event = Event::StreamSent { store, life, transfer, sent: false };
            return self.schedule.plan_in(MILLI, event);
        };
        let mut header = SnapshotHeader {
            transfer,
            region: handle.region,
            to: replica,
            index: source.index,
            index_term: source.term,
            descriptor: source.descriptor.clone(),
            first_chunk,
        };
        self.plant_in_header(&mut header);
        let mut chunks = Vec::new();
        let streamed = source.stream(&mut |data| {
            chunks.push(data);
            Ok(())
        });
        if let Err(error) = streamed {
            return self.fail("a captured state can be written out", error.to_string());
        }
        self.send_chunks(store, to, session, &header, chunks);
    }

    fn send_chunks(&mut self, from: usize, to: usize, session: u64, header: &SnapshotHeader, chunks: Vec<Bytes>) {
        let transfer = header.transfer;
        let count = chunks.len().max(1);
        let mut head = Vec::new();
        encode_snapshot_header(header, &mut head);
        let mut pieces: Vec<(bool, Bytes)> = vec![(true, head.into())];
        for number in 0..count {
            let data = chunks.get(number).cloned().unwrap_or_default();
            let crc = crc32c::crc32c(&data);
            let chunk = SnapshotChunk { number: number as u64, last: number + 1 == count, data, crc };
            let mut piece = Vec::new();
            encode_snapshot_chunk(&chunk, &mut piece);
            pieces.push((false, piece.into()));
        }
        let is_broken = self.plan.interval(Fault::BreakSnapshots).is_some() && self.faults.breaks_snapshots(to);
        let mut at = self.usual_arrival();
        let arrives = if is_broken { self.random.below(pieces.len() as u64) as usize } else { pieces.len() };
        for (is_header, body) in pieces.into_iter().take(arrives) {
            at = at.plus(self.random.around(5 * self.plan.latencies.network));
            self.schedule.plan(at, Event::Chunk(Chunk { from, to, session, transfer, is_header, body }));
        }
        let (sender, receiver) = (self.nodes[from].life, self.nodes[to].life);
        if is_broken {
            self.counters.snapshots_broken += 1;
            let lost = Event::StreamLost { store: to, life: receiver, from: id_of(from), transfer };
            self.schedule.plan(at.plus(MILLI), lost);
        }
        let sent = Event::StreamSent { store: from, life: sender, transfer, sent: !is_broken };
        self.schedule.plan(at.plus(MILLI), sent);
    }

    /// A chunk arrives. With the last one the snapshot is whole, and is kept on disk before the worker hears of it.
    pub(super) fn on_chunk(&mut self, chunk: Chunk) {
        let Chunk { from, to, session, transfer, is_header, body } = chunk;
        if self.network.session(to, from) != Some(session) {
            return;
        }
        let name = (id_of(from), transfer);
        let limits = Limits::default();
        let Some(process) = &mut self.nodes[to].process else { return };
        let Some(incoming) = process.streams.expected.get_mut(&name) else { return };
        if is_header {
            match decode_snapshot_header(&body, &limits) {
                Ok(header) if header.region == incoming.region => incoming.header = Some(header),
                _ => self.fail("what was encoded can be decoded", "a snapshot header"),
            }
            return;
        }
        let Ok(chunk) = decode_snapshot_chunk(&body, &limits) else {
            return self.fail("what was encoded can be decoded", "a snapshot chunk");
        };
        let is_last = chunk.last;
        incoming.chunks.push(chunk);
        if !is_last {
            return;
        }
        let Some(Incoming { header: Some(header), chunks, region }) = process.streams.expected.remove(&name) else {
            return;
        };
        let kept = process.files.keep(id_of(from), &header, &chunks);
        let worker = self.worker_for(to, region);
        let input = match kept {
            Ok(()) => Input::SnapshotReceived { from: id_of(from), header },
            Err(_) => Input::SnapshotLost { from: id_of(from), transfer },
        };
        if !self.dies_at(to, Point::SnapshotReceived) {
            self.input(to, worker, input);
        }
    }

    pub(super) fn on_stream_lost(&mut self, store: usize, life: u64, from: StoreId, transfer: u64) {
        if !self.nodes[store].lives(life) {
            return;
        }
        let Some(process) = &mut self.nodes[store].process else { return };
        let Some(incoming) = process.streams.expected.remove(&(from, transfer)) else { return };
        let worker = self.worker_for(store, incoming.region);
        self.input(store, worker, Input::SnapshotLost { from, transfer });
    }

    pub(super) fn on_stream_sent(&mut self, store: usize, life: u64, transfer: u64, sent: bool) {
        if self.nodes[store].lives(life) {
            // The low byte of a transfer's name tells the worker that gave it.
            let worker = (transfer & 0xff) as usize;
            self.input(store, worker, Input::SnapshotSent { transfer, sent });
        }
    }

    /// The connection to a peer is gone, and with it what it was sending.
    pub(super) fn lose_streams(&mut self, store: usize, peer: usize) {
        let life = self.nodes[store].life;
        let Some(process) = &self.nodes[store].process else { return };
        let lost: Vec<(StoreId, u64)> =
            process.streams.expected.keys().filter(|(from, _)| *from == id_of(peer)).copied().collect();
        self.counters.snapshots_broken += lost.len() as u64;
        for (from, transfer) in lost {
            self.schedule.plan_in(MILLI, Event::StreamLost { store, life, from, transfer });
        }
    }

    fn plant_in_header(&self, header: &mut SnapshotHeader) {
        if self.plant == Some(Plant::BoastfulSnapshot) {
            header.index = header.index.plus(3);
        }
    }
}
