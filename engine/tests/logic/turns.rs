//! Turns of a lone worker over a real log, as tests take them.

use multiraft::logic::{Input, TurnOutput, Worker};
use multiraft::{RegionId, StoreId};
use multiraft_raft::{Body, Message, ReplicaId, Term, Time};
use multiraft_storage::{LogBatch, LogWriter};
use multiraft_transport::{PeerMessage, RaftMessage};

/// Takes turns until nothing is left to do at this moment. What is appended is flushed at once; `sort` takes what it wants from each
/// turn's output, and may add what follows from it.
pub(crate) fn take_turns(
    (worker, log): (&mut Worker<u32>, &mut LogWriter),
    now: Time,
    mut inputs: Vec<Input<u32>>,
    mut sort: impl FnMut(&mut TurnOutput<u32>, &mut Vec<Input<u32>>),
) {
    loop {
        let mut out = TurnOutput::default();
        let next = worker.turn(now, &mut inputs, &mut out);
        sort(&mut out, &mut inputs);
        if !out.log.is_empty() {
            let tokens = log.commit(vec![LogBatch { ticket: out.ticket, records: out.log }]).expect("the log takes it");
            inputs.extend(tokens.into_iter().map(|token| Input::Flushed { token }));
        }
        if inputs.is_empty() && next > now {
            return;
        }
    }
}

/// What a turn tells other stores, each message with its store.
pub(crate) fn said(out: &mut TurnOutput<u32>) -> impl Iterator<Item = (StoreId, PeerMessage)> {
    out.sends.drain(..).flat_map(|sent| sent.messages.into_iter().map(move |message| (sent.to, message)))
}

/// What replica `from` of store `from` says to replica `to` of a region.
pub(crate) fn heard(region: RegionId, (from, to): (u64, u64), term: u64, body: Body) -> Input<u32> {
    let message = Message { from: ReplicaId(from), to: ReplicaId(to), term: Term(term), body };
    let raft = PeerMessage::Raft(RaftMessage { region, message, descriptor: None });
    Input::Messages { from: StoreId(from), messages: vec![raft] }
}
