//! A cluster of one store, for tests.

use bytes::Bytes;
use multiraft::{Bootstrap, Engine, LocalNetwork, StateKind, StoreId};
use tempfile::TempDir;

use super::machine::Texts;

/// Starts it, with the key space cut at `boundaries` and state in memory; it works as long as the folder is there.
pub(super) async fn start(boundaries: &[&'static str]) -> (TempDir, Engine) {
    let dir = tempfile::tempdir().unwrap();
    let boundaries = boundaries.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
    let store = Engine::builder()
        .store(StoreId(1))
        .data_dir(dir.path())
        .local_network(LocalNetwork::new())
        .state_machine(Texts)
        .state(StateKind::Memory)
        .bootstrap(Bootstrap { boundaries, stores: vec![StoreId(1)] });
    let engine = store.start().await.unwrap();
    (dir, engine)
}
