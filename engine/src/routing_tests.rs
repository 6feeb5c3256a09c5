//! A request that was routed to a region which its neighbour absorbs meanwhile.

use std::time::Instant;

use multiraft_storage::StateError;

use super::*;
use crate::lone_store;
use crate::machine::{ApplyContext, RegionView, StateMachine, StateTxn};

/// Sets the key that the command is to it.
struct Echo;

impl StateMachine for Echo {
    fn apply(&self, _: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let is_outside = state.put(command, command.to_vec()).is_err();
        Ok(Bytes::from_static(if is_outside { b"outside" } else { b"ok" }))
    }

    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError> {
        Ok(view.get(query)?.unwrap_or_default())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_routed_by_key_to_an_absorbed_region_is_routed_anew_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let engine = lone_store::start(dir.path(), vec!["k".into()], Echo).await;
    let deadline = engine.deadline(Some(Duration::from_secs(120)));
    let (left, right) = (engine.region_for(b"a").unwrap(), engine.region_for(b"m").unwrap());
    engine.merge(right.id, left.id).await.unwrap();
    // As if these had been routed before the merge, with a patience that nobody would wait for.
    let begin = Instant::now();
    let patience = engine.deadline(Some(Duration::from_secs(60)));
    let write = engine.propose_until(right.id, Some(right.epoch), None, "m".into(), deadline, patience).await;
    assert_eq!(write, Err(ProposeError::NotLeader { region: right.id, hint: None }));
    let name = (right.id, Some(right.epoch));
    let read = engine.read_until(name, "m".into(), Consistency::Linearizable, deadline, patience).await;
    assert_eq!(read, Err(ReadError::NotLeader { region: right.id, hint: None }));
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert_eq!(engine.propose_key("m", "m").await.unwrap(), "ok");
    assert_eq!(engine.read_key("m", "m", Consistency::Linearizable).await.unwrap(), "m");
    engine.shutdown().await;
}
