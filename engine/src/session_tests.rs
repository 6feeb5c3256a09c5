//! An attempt whose answer was lost, made again after its key has come to another region.

use multiraft_storage::StateError;

use super::*;
use crate::Consistency;
use crate::lone_store;
use crate::machine::{ApplyContext, RegionView, StateMachine, StateTxn};

/// Appends the command to the key `m`, and answers what stands there then.
struct Append;

impl StateMachine for Append {
    fn apply(&self, _: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let mut value = state.get(b"m")?.unwrap_or_default().to_vec();
        value.extend_from_slice(command);
        let outside = state.put(b"m", value.clone()).is_err();
        Ok(if outside { Bytes::from_static(b"outside") } else { value.into() })
    }

    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError> {
        Ok(view.get(query)?.unwrap_or_default())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_without_answer_is_repeated_in_the_region_that_took_its_key_over() {
    let dir = tempfile::tempdir().unwrap();
    let engine = lone_store::start(dir.path(), Vec::new(), Append).await;
    let session = engine.session();
    let deadline = engine.deadline(Some(Duration::from_secs(20)));
    let parent = engine.route(b"m", deadline).await.unwrap();
    let opened = session.opened(parent.id, deadline).await.unwrap();
    let ticket = session.begin();
    // Two attempts: the first takes effect, the second was not made yet when the region splits.
    let first = session.attempt_routed(b"m", &ticket, None, "x".into(), deadline).await.unwrap();
    assert_eq!(first, "x");
    let never = session.begin();
    let parts = engine.split(parent.id, ["k"]).await.unwrap();
    // As if the answer to the first had been lost: the same number, under the name that the parent knew.
    let again = session.attempt_routed(b"m", &ticket, Some(opened), "x".into(), deadline).await.unwrap();
    assert_eq!(again, "x", "the answer of the first attempt");
    let other = session.attempt_routed(b"m", &never, Some(opened), "y".into(), deadline).await.unwrap();
    assert_eq!(other, "xy");
    assert_eq!(engine.read(parts[1].id, "m", Consistency::Linearizable).await.unwrap(), "xy");
    // What was routed to the parent before has no effect there.
    let seq = SessionSeq { session: session.id, opened, sequence: 99, acknowledged: 0 };
    let late = engine.propose_until(parent.id, Some(parent.epoch), Some(seq), "z".into(), deadline, deadline).await;
    assert_eq!(late, Err(ProposeError::EpochMismatch { current: parts[0].clone() }));
    // A region that knows the session by another name, or not at all, does not guess.
    let lost = session.attempt_routed(b"m", &never, Some(LogIndex(opened.get() + 1)), "y".into(), deadline).await;
    assert_eq!(lost.unwrap_err().1, ProposeError::SessionExpired { region: parts[1].id });
    assert_eq!(session.propose_key("m", "z").await.unwrap(), "xyz");
    drop((ticket, never));
    engine.shutdown().await;
}
