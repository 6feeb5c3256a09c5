//! A link while it is up: its lanes' tasks, the streams that the peer opens, and its end.

use std::sync::{Arc, atomic::AtomicU32};

use quinn::{Connection, RecvStream, SendStream};
use tokio::task::{JoinError, JoinSet};

use super::{
    close::down_reason,
    hello::Hello,
    lanes::{LaneEnd, read_lane, write_lane},
};
use crate::{DownReason, peer::Peer, shared::Shared, snapshot};

/// Runs the link until it ends, then retires it.
pub(crate) async fn tend(shared: Arc<Shared>, peer: Arc<Peer>, connection: Connection, session: u64, theirs: Hello) {
    let reason = run(&shared, &peer, &connection, session, theirs).await;
    shared.retire(&peer, session, reason);
}

/// The tasks end with the set, at the latest when this returns.
async fn run(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    connection: &Connection,
    session: u64,
    theirs: Hello,
) -> DownReason {
    let mut tasks = JoinSet::new();
    for lane in peer.lanes() {
        let (shared, peer, connection) = (Arc::clone(shared), Arc::clone(peer), connection.clone());
        tasks.spawn(write_lane(shared, peer, connection, session, lane.lane));
    }
    let seen = Arc::new(AtomicU32::new(0));
    loop {
        tokio::select! {
            error = connection.closed() => return down_reason(&error),
            Ok(stream) = connection.accept_uni() => {
                let (shared, peer, seen) = (Arc::clone(shared), Arc::clone(peer), Arc::clone(&seen));
                tasks.spawn(read_lane(shared, peer, stream, session, theirs, seen));
            }
            Ok((send, recv)) = connection.accept_bi() => {
                tasks.spawn(receive_snapshot(Arc::clone(shared), Arc::clone(peer), session, send, recv));
            }
            Some(ended) = tasks.join_next() => {
                if let Some(reason) = consequence(ended) {
                    return reason;
                }
            }
        }
    }
}

async fn receive_snapshot(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    session: u64,
    send: SendStream,
    recv: RecvStream,
) -> LaneEnd {
    match snapshot::receive(&shared, &peer, session, send, recv).await {
        Ok(()) => LaneEnd::Over,
        Err(violation) => LaneEnd::Violation(format!("snapshot stream: {violation}")),
    }
}

/// What the end of a task means for the link: nothing, if the connection will tell itself.
fn consequence(ended: Result<LaneEnd, JoinError>) -> Option<DownReason> {
    match ended {
        Ok(LaneEnd::Over) => None,
        Ok(LaneEnd::Violation(what)) => Some(DownReason::Violation(what)),
        Err(error) if error.is_cancelled() => None,
        Err(error) => Some(DownReason::Internal(error.to_string())),
    }
}
