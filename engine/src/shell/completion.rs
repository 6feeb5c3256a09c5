//! Who waits for an answer.

use tokio::sync::oneshot;

use crate::logic::Outcome;

/// The worker's side of a caller's wait. Dropped without an answer, the caller learns that the outcome is unknown.
#[derive(Debug)]
pub(crate) struct Completion(oneshot::Sender<Outcome>);

impl Completion {
    /// A completion and what its caller waits on.
    pub(crate) fn new() -> (Self, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Answers. A caller that no longer waits does not mind.
    pub(crate) fn complete(self, outcome: Outcome) {
        let _ = self.0.send(outcome);
    }
}
