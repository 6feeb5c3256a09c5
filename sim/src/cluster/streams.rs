//! Snapshots on their way: each on a stream of its own, chunk by chunk, kept on the receiver's disk until it is whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::logic::{Input, KeptSnapshot, SnapshotTask};
use multiraft::snapshots::{Captured, Reception};
use multiraft_raft::{RegionId, StoreId};
use multiraft_transport::{
    CaptureId, Limits, SnapshotChunk, SnapshotHeader, decode_snapshot_chunk, decode_snapshot_header,
    encode_snapshot_chunk, encode_snapshot_header,
};

use super::faults::Point;
use super::{Cluster, Event, Waiter, id_of, place_of};
use crate::plan::Fault;
use crate::plant::Plant;
use crate::schedule::MILLI;

/// What a store sends; what it expects, and has received so far.
#[derive(Debug, Default)]
pub(super) struct Streams {
    sending: BTreeMap<u64, CaptureId>,
    expected: BTreeMap<(StoreId, u64), Incoming>,
}

#[derive(Debug)]
struct Incoming {
    region: RegionId,
    header: Option<SnapshotHeader>,
    writer: Option<Reception>,
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
        let incoming = Incoming { region, header: None, writer: None };
        process.streams.expected.insert((from, transfer), incoming);
    }

    /// Begins to send a snapshot.
    pub(super) fn begin_snapshot(&mut self, store: usize, life: u64, task: SnapshotTask) {
        let SnapshotTask::Send { transfer, capture, .. } = &task else { return };
        let Some(process) = &mut self.nodes[store].process else { return };
        process.streams.sending.insert(*transfer, *capture);
        self.send_snapshot(store, life, task);
    }

    /// Takes what is kept of a capture, or captures a region's state, and puts it on its way to a peer.
    pub(super) fn send_snapshot(&mut self, store: usize, life: u64, task: SnapshotTask) {
        let SnapshotTask::Send { handle, transfer, to, replica, first_chunk, capture } = task else { return };
        let Some(process) = self.nodes[store].process.as_ref().filter(|_| self.nodes[store].lives(life)) else {
            return;
        };
        if !process.streams.sending.contains_key(&transfer) {
            return;
        }
        let to = place_of(to);
        let session = self.network.session(store, to);
        let host = &process.workers[self.worker_for(store, handle.region)];
        let captured = match process.captures.get(capture) {
            Some(captured) => Some(captured),
            None if host.stalled.is_some() => {
                // What waits for room is not in the state store: a snapshot of now would say more than it holds.
                return self.schedule.plan_in(50 * MILLI, Event::SendSnapshot { store, life, task });
            }
            None if first_chunk > 0 => None,
            None => {
                let source = host.applier.capture_for(handle.region, replica).ok().flatten();
                source.map(|source| {
                    let captured = process.captures.insert(capture, &source);
                    Captured::fill_by(&Arc::downgrade(&captured), source, self.plan.chunk_bytes, &|| false);
                    captured
                })
            }
        };
        let chunks = captured.as_ref().and_then(|captured| chunks_from(captured, first_chunk));
        let (Some(captured), Some(chunks), Some(session)) = (captured, chunks, session) else {
            let event = Event::StreamSent { store, life, transfer, sent: false };
            return self.schedule.plan_in(MILLI, event);
        };
        let KeptSnapshot { region, index, index_term, descriptor, .. } = captured.describe();
        let absorbed = captured.absorbed();
        let mut header = SnapshotHeader {
            transfer,
            region,
            to: replica,
            index,
            index_term,
            descriptor,
            absorbed,
            first_chunk,
            capture,
        };
        self.plant_in_header(&mut header);
        self.send_chunks(store, to, session, &header, chunks);
    }

    fn send_chunks(
        &mut self,
        from: usize,
        to: usize,
        session: u64,
        header: &SnapshotHeader,
        chunks: Vec<SnapshotChunk>,
    ) {
        let transfer = header.transfer;
        let mut head = Vec::new();
        encode_snapshot_header(header, &mut head);
        let mut pieces: Vec<(bool, Bytes)> = vec![(true, head.into())];
        for chunk in chunks {
            let mut piece = Vec::new();
            encode_snapshot_chunk(&chunk, &mut piece);
            pieces.push((false, piece.into()));
        }
        let is_broken = self.plan.interval(Fault::BreakSnapshots).is_some()
            && self.faults.breaks_snapshots(to, self.schedule.now());
        let mut at = self.usual_arrival();
        let arrives = if is_broken { self.random.below(pieces.len() as u64) as usize } else { pieces.len() };
        for (is_header, body) in pieces.into_iter().take(arrives) {
            at = at.plus(self.random.around(2 * self.plan.latencies.network));
            self.schedule.plan(at, Event::Chunk(Chunk { from, to, session, transfer, is_header, body }));
        }
        let (sender, receiver) = (self.nodes[from].life, self.nodes[to].life);
        if is_broken {
            self.counters.snapshots_broken += 1;
        }
        // Nobody misses a stream that never began.
        if is_broken && arrives > 0 {
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
        let taken = if is_header { self.take_header(to, name, &body) } else { self.take_chunk(to, name, &body) };
        let Some(input) = taken else { return };
        let Some(region) = self.forget_stream(to, name) else { return };
        if !self.dies_at(to, Point::SnapshotReceived) {
            let worker = self.worker_for(to, region);
            self.input(to, worker, input);
        }
    }

    /// Begins to receive; returns what to tell the worker if that was the end of it.
    fn take_header(&mut self, to: usize, name: (StoreId, u64), body: &Bytes) -> Option<Input<Waiter>> {
        let process = self.nodes[to].process.as_mut()?;
        let incoming = process.streams.expected.get_mut(&name)?;
        let Ok(header) = decode_snapshot_header(body, &Limits::default()) else {
            self.fail("what was encoded can be decoded", "a snapshot header");
            return None;
        };
        match process.received.begin(&header) {
            Ok(writer) => {
                self.counters.snapshots_resumed += u64::from(header.first_chunk > 0);
                (incoming.header, incoming.writer) = (Some(header), Some(writer));
                None
            }
            Err(_) => Some(Input::SnapshotLost { from: name.0, transfer: name.1, kept: None }),
        }
    }

    /// Keeps a chunk; returns what to tell the worker if it was the last one, or could not be kept.
    fn take_chunk(&mut self, to: usize, name: (StoreId, u64), body: &Bytes) -> Option<Input<Waiter>> {
        let (from, transfer) = name;
        let process = self.nodes[to].process.as_mut()?;
        let incoming = process.streams.expected.get_mut(&name)?;
        let Ok(chunk) = decode_snapshot_chunk(body, &Limits::default()) else {
            self.fail("what was encoded can be decoded", "a snapshot chunk");
            return None;
        };
        let writer = incoming.writer.as_mut()?;
        if writer.take(&chunk).is_err() {
            let kept = incoming.writer.take().and_then(|writer| process.received.keep(writer));
            return Some(Input::SnapshotLost { from, transfer, kept });
        }
        if !chunk.last {
            let region = incoming.region;
            let worker = self.worker_for(to, region);
            self.input(to, worker, Input::SnapshotMoving { from: Some(from), transfer });
            return None;
        }
        let (header, writer) = (incoming.header.take()?, incoming.writer.take()?);
        process.received.on_whole(from, &header, writer);
        Some(Input::SnapshotReceived { from, header })
    }

    fn forget_stream(&mut self, store: usize, name: (StoreId, u64)) -> Option<RegionId> {
        let process = self.nodes[store].process.as_mut()?;
        process.streams.expected.remove(&name).map(|incoming| incoming.region)
    }

    /// A stream to this store has ended before its last chunk, or is given up: what came of it is kept.
    pub(super) fn on_stream_lost(&mut self, store: usize, life: u64, from: StoreId, transfer: u64) {
        if !self.nodes[store].lives(life) {
            return;
        }
        let Some(process) = &mut self.nodes[store].process else { return };
        let Some(incoming) = process.streams.expected.remove(&(from, transfer)) else { return };
        let region = incoming.region;
        let kept = match incoming.writer {
            Some(writer) => process.received.keep(writer),
            None => process.received.kept(region),
        };
        let worker = self.worker_for(store, region);
        self.input(store, worker, Input::SnapshotLost { from, transfer, kept });
    }

    /// A worker has given a transfer up.
    pub(super) fn cancel_stream(&mut self, store: usize, from: Option<StoreId>, transfer: u64) {
        let life = self.nodes[store].life;
        let event = match from {
            Some(from) => Event::StreamLost { store, life, from, transfer },
            None => Event::StreamSent { store, life, transfer, sent: false },
        };
        self.schedule.plan_in(MILLI, event);
    }

    pub(super) fn on_stream_sent(&mut self, store: usize, life: u64, transfer: u64, sent: bool) {
        if !self.nodes[store].lives(life) {
            return;
        }
        let Some(process) = &mut self.nodes[store].process else { return };
        // Else it has ended before, and that was told.
        let Some(capture) = process.streams.sending.remove(&transfer) else { return };
        let kept = process.captures.kept(capture);
        // The low byte of a transfer's name tells the worker that gave it.
        let worker = (transfer & 0xff) as usize;
        self.input(store, worker, Input::SnapshotSent { transfer, sent, kept });
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
        if self.plant == Some(Plant::ForgottenAbsorption) {
            header.absorbed = Bytes::from_static(&[1, 0]);
        }
    }
}

/// All chunks of a capture from one on, if it could be written out.
fn chunks_from(captured: &Captured, first: u64) -> Option<Vec<SnapshotChunk>> {
    let mut chunks = Vec::new();
    loop {
        let chunk = captured.chunk(first + chunks.len() as u64, Duration::ZERO).ok()??;
        let is_last = chunk.last;
        chunks.push(chunk);
        if is_last {
            return Some(chunks);
        }
    }
}
