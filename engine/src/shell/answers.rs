//! How callers of a batch hear of its outcome.
//!
//! Whoever waits is woken by whoever completes, one after the other, and many that are woken from outside of their runtime take the
//! processor from the thread that wakes them, in the middle of its batch. So what many wait for is handed to one task of the runtime,
//! which completes them all before any of them runs: what they ask next comes together again.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc::{self, UnboundedSender};

use crate::logic::Outcome;
use crate::shell::Completion;

/// So many or fewer are completed at once: a hand-over would take longer.
const AT_ONCE: usize = 8;

type Batch = Vec<(Completion, Outcome)>;

/// Tells callers of one apply thread.
pub(super) struct Answers(Option<UnboundedSender<Batch>>);

impl Answers {
    /// By a task of the runtime that this is called in, if there is one whose threads run by themselves: one that only runs while
    /// somebody blocks on it could leave callers of another waiting.
    pub(super) fn new() -> Self {
        let runtime = Handle::try_current().ok();
        let runtime = runtime.filter(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
        Self(runtime.map(|runtime| {
            #[allow(clippy::disallowed_methods, reason = "holds answers to callers who wait: as many as were let in")]
            let (sender, mut batches) = mpsc::unbounded_channel::<Batch>();
            runtime.spawn(async move {
                while let Some(batch) = batches.recv().await {
                    complete(batch);
                }
            });
            sender
        }))
    }

    /// Tells each its outcome, soon. Should the runtime be gone, at once.
    pub(super) fn give(&self, batch: Batch) {
        match &self.0 {
            Some(task) if batch.len() > AT_ONCE => {
                if let Err(mpsc::error::SendError(batch)) = task.send(batch) {
                    complete(batch);
                }
            }
            _ => complete(batch),
        }
    }
}

fn complete(batch: Batch) {
    for (reply, outcome) in batch {
        reply.complete(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(count: usize) -> (Batch, Vec<tokio::sync::oneshot::Receiver<Outcome>>) {
        (0..count)
            .map(|_| {
                let (reply, answer) = Completion::new();
                ((reply, Outcome::Done), answer)
            })
            .unzip()
    }

    fn all_are_told(answers: &Answers, runtime: &tokio::runtime::Runtime) {
        for count in [1, AT_ONCE, AT_ONCE + 1, 1000] {
            let (batch, waiting) = ask(count);
            answers.give(batch);
            for answer in waiting {
                assert!(matches!(runtime.block_on(answer), Ok(Outcome::Done)));
            }
        }
    }

    #[test]
    fn all_are_told_whatever_becomes_of_the_runtime() {
        let other = tokio::runtime::Builder::new_current_thread().build().unwrap();
        all_are_told(&Answers::new(), &other);
        // Nobody drives this one any more.
        let idle = tokio::runtime::Builder::new_current_thread().build().unwrap();
        all_are_told(&idle.block_on(async { Answers::new() }), &other);
        let busy = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let answers = busy.block_on(async { Answers::new() });
        all_are_told(&answers, &other);
        all_are_told(&answers, &busy);
        drop(busy);
        all_are_told(&answers, &other);
    }
}
