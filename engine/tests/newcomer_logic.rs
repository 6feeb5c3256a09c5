//! A replica that has just come to be by a message, and its first snapshot, as its worker sees them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod worker_config;

use std::sync::Arc;

use bytes::Bytes;
use multiraft::assembly::bootstrap_regions;
use multiraft::logic::{ApplyTask, Input, TurnOutput, Worker};
use multiraft::{Incarnation, LogIndex, RegionDescriptor, RegionId, StoreId};
use multiraft_raft::{Body, Message, RegionEpoch, ReplicaId, Term, Time};
use multiraft_storage::{LogOptions, LogWriter, SimDisk};
use multiraft_transport::{CaptureId, PeerMessage, RaftMessage, SnapshotHeader, SnapshotMessage, SnapshotStep};
use worker_config::worker_config;

const REGION: RegionId = RegionId(2);
const LEADER: StoreId = StoreId(2);

fn turn(worker: &mut Worker<u32>, input: Input<u32>) -> TurnOutput<u32> {
    let mut out = TurnOutput::default();
    worker.turn(Time::ZERO, &mut vec![input], &mut out);
    out
}

fn said(message: PeerMessage) -> Input<u32> {
    Input::Messages { from: LEADER, messages: vec![message] }
}

#[test]
fn a_newcomers_first_snapshot_may_be_older_than_what_it_was_told_of_its_region() {
    let (_, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
    let stores: Vec<StoreId> = (1..=3).map(StoreId).collect();
    let mut worker = Worker::new(worker_config(&stores[1..]), recovered.token(0), &[], Time::ZERO);
    turn(&mut worker, Input::Link { peer: LEADER, up: Some(Incarnation(1)) });
    let at = |conf_version| {
        let epoch = RegionEpoch { conf_version, version: 1 };
        Arc::new(RegionDescriptor { epoch, ..(*bootstrap_regions(&[], &stores)[1]).clone() })
    };
    let (index, index_term) = (LogIndex(9), Term(1));
    let body = Body::Append { prev_index: index, prev_term: index_term, commit: index, entries: Vec::new() };
    let message = Message { from: ReplicaId(2), to: ReplicaId(1), term: Term(1), body };
    turn(&mut worker, said(PeerMessage::Raft(RaftMessage { region: REGION, message, descriptor: Some(at(5)) })));
    turn(&mut worker, Input::Created { region: REGION, replica: ReplicaId(1), allowed: true });
    // Captured while the configuration that has brought it was still joint.
    let step = SnapshotStep::Offer { index, index_term, descriptor: at(4), size_hint: 0, capture: None };
    let (from, to, term) = (ReplicaId(2), ReplicaId(1), Term(1));
    turn(
        &mut worker,
        said(PeerMessage::Snapshot(SnapshotMessage { transfer: 1, region: REGION, from, to, term, step })),
    );
    let header = SnapshotHeader {
        absorbed: Bytes::from_static(&[1, 0]),
        transfer: 1,
        region: REGION,
        to,
        index,
        index_term,
        descriptor: at(4),
        first_chunk: 0,
        capture: CaptureId { store: LEADER, incarnation: Incarnation(1), number: 1 },
    };
    let out = turn(&mut worker, Input::SnapshotReceived { from: LEADER, header });
    let is_installed = out.apply.iter().any(|task| matches!(task, ApplyTask::Install { .. }));
    assert!(is_installed, "{:?}", out.sends);
}
