//! How instances reach each other: by calls, each of which puts a request into the other's channel.

use std::io;
use std::sync::Arc;

use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};

use super::{Raft, Types};
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

type Failed<E = openraft::error::Infallible> = RPCError<u64, (), RaftError<u64, E>>;

#[expect(clippy::result_large_err, reason = "openraft's own error")]
impl Link {
    fn raft<E: std::error::Error>(&self) -> Result<&Raft, RPCError<u64, (), E>> {
        let raft = self.rafts[self.target as usize - 1][self.group].get();
        raft.ok_or_else(|| RPCError::Unreachable(Unreachable::new(&io::Error::from(io::ErrorKind::NotConnected))))
    }

    fn remote<E: std::error::Error>(&self) -> impl FnOnce(E) -> RPCError<u64, (), E> {
        let target = self.target;
        move |error| RPCError::RemoteError(RemoteError::new(target, error))
    }
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed> {
        self.raft()?.append_entries(request).await.map_err(self.remote())
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failed<InstallSnapshotError>> {
        self.raft()?.install_snapshot(request).await.map_err(self.remote())
    }

    async fn vote(&mut self, request: VoteRequest<u64>, _: RPCOption) -> Result<VoteResponse<u64>, Failed> {
        self.raft()?.vote(request).await.map_err(self.remote())
    }
}
