//! A replica that has just come to be by a message, and its first snapshot, as its worker sees them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::assembly::bootstrap_regions;
use multiraft::logic::{ApplyTask, Input, TurnOutput, Worker};
use multiraft::{Incarnation, LogIndex, RegionDescriptor, RegionId, StoreId};
use multiraft_raft::{Body, Message, RegionEpoch, ReplicaId, Term, Time};
use multiraft_storage::{LogOptions, LogWriter, SimDisk};
use multiraft_transport::{
    CaptureId, PeerMessage, RaftMessage, RegionMessage, RegionStep, SnapshotHeader, SnapshotMessage, SnapshotStep,
};

use crate::worker_config::worker_config;

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

#[test]
fn a_later_replica_that_is_on_its_way_takes_the_place_of_an_earlier_one_and_is_not_removed_with_it() {
    let (_, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
    let stores: Vec<StoreId> = (1..=3).map(StoreId).collect();
    let mut worker = Worker::new(worker_config(&stores[1..]), recovered.token(0), &[], Time::ZERO);
    turn(&mut worker, Input::Link { peer: LEADER, up: Some(Incarnation(1)) });
    // The replica here is added, removed, and added again under a new id.
    let with = |conf_version, own: Option<u64>| {
        let mut region = (*bootstrap_regions(&[], &stores)[1]).clone();
        region.epoch = RegionEpoch { conf_version, version: 1 };
        match own {
            Some(id) => region.replicas[0].id = ReplicaId(id),
            None => drop(region.replicas.remove(0)),
        }
        Arc::new(region)
    };
    let append = |conf_version, own| {
        let body =
            Body::Append { prev_index: LogIndex(9), prev_term: Term(1), commit: LogIndex(0), entries: Vec::new() };
        let message = Message { from: ReplicaId(2), to: ReplicaId(own), term: Term(1), body };
        let descriptor = Some(with(conf_version, Some(own)));
        said(PeerMessage::Raft(RaftMessage { region: REGION, message, descriptor }))
    };
    let created = |own| Input::Created { region: REGION, replica: ReplicaId(own), allowed: true };
    turn(&mut worker, append(5, 1));
    turn(&mut worker, created(1));
    let step = RegionStep::Tell { descriptor: with(6, None), merged: false, committed: (LogIndex(9), Term(1)) };
    turn(&mut worker, said(PeerMessage::Region(RegionMessage { region: REGION, step })));
    let out = turn(&mut worker, append(7, 11));
    let asks = |task: &ApplyTask<u32>| matches!(task, ApplyTask::Create { replica: ReplicaId(11), .. });
    assert!(out.apply.iter().any(asks), "{:?}", out.apply);
    // Whatever the applier removed now would leave a tombstone for the replica that it has just been asked for.
    let mut later = TurnOutput::default();
    worker.turn(Time::ZERO.plus(Duration::from_secs(1)), &mut Vec::new(), &mut later);
    let removes = |task: &ApplyTask<u32>| matches!(task, ApplyTask::Destroy { .. });
    assert!(!later.apply.iter().any(removes), "{:?}", later.apply);
    let mut out = TurnOutput::default();
    worker.turn(Time::ZERO.plus(Duration::from_secs(1)), &mut vec![created(11)], &mut out);
    worker.turn(Time::ZERO.plus(Duration::from_secs(2)), &mut Vec::new(), &mut later);
    assert!(![out, later].iter().any(|out| out.apply.iter().any(removes)), "the earlier one went with its place");
    assert_eq!(worker.handles().count(), 1);
}
