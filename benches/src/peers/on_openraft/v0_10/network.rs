//! How instances reach each other: by calls, each of which puts a request into the other's channel. Appends go there as a stream,
//! as openraft recommends: more of them follow before the first is answered.

use std::error::Error;
use std::io;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft_next::OptionalSend;
use openraft_next::base::{BoxFuture, BoxStream};
use openraft_next::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft_next::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft_next::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest, VoteResponse,
};

use super::{Raft, Snapshot, Types, Vote};
use crate::peers::on_openraft::Instances;

/// The ways of one group.
pub(super) struct Links {
    group: usize,
    rafts: Arc<Instances<Raft>>,
}

impl Links {
    pub(super) fn new(group: usize, rafts: Arc<Instances<Raft>>) -> Self {
        Self { group, rafts }
    }
}

impl RaftNetworkFactory<Types> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: u64, (): &()) -> Link {
        Link { target, group: self.group, rafts: Arc::clone(&self.rafts) }
    }
}

/// The way to one other instance.
pub(super) struct Link {
    target: u64,
    group: usize,
    rafts: Arc<Instances<Raft>>,
}

impl Link {
    fn raft(&self) -> Result<&Raft, Unreachable<Types>> {
        let raft = self.rafts[self.target as usize - 1][self.group].get();
        raft.ok_or_else(|| Unreachable::new(&io::Error::from(io::ErrorKind::NotConnected)))
    }
}

/// An instance that answers with an error has ended.
fn ended(error: impl Error + 'static) -> Unreachable<Types> {
    Unreachable::new(&error)
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Ok(self.raft()?.append_entries(request).await.map_err(ended)?)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let answers = self.raft()?.stream_append(requests);
            let answers = answers.map(|answer| answer.map_err(|error| ended(error).into()));
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Ok(self.raft()?.vote(request).await.map_err(ended)?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Ok(self.raft()?.install_full_snapshot(vote, snapshot).await.map_err(ended)?)
    }
}
