//! The thread that takes digests of regions' states for consistency checks, one after the other, beside everything else.

use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use multiraft_router::Mailbox;

use crate::apply::DigestTask;
use crate::logic::{DigestAnswer, Input};
use crate::shell::fault::{Fault, PanicGuard};
use crate::shell::worker::Work;

/// How many captured states may wait. Each costs memory for what is overwritten meanwhile.
const WAITING_MAX: usize = 16;

/// The way to the thread.
#[derive(Clone)]
pub(super) struct Digests(Sender<(DigestTask, Mailbox<Work>)>);

impl Digests {
    /// Starts it. It ends when all senders of work are gone.
    pub(super) fn start(fault: Fault) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (sender, receiver) = bounded(WAITING_MAX);
        let thread = std::thread::Builder::new().name("multiraft-check".to_owned()).spawn(move || {
            let _guard = PanicGuard { fault: fault.clone(), thread: "check" };
            take_all(&receiver, &fault);
        })?;
        Ok((Self(sender), thread))
    }

    /// Has a digest taken; the worker is told. If too many wait already, it is told that there is none.
    pub(super) fn take(&self, task: DigestTask, worker: &Mailbox<Work>) {
        if let Err(TrySendError::Full((task, worker))) = self.0.try_send((task, worker.clone())) {
            let DigestTask { handle, index, .. } = task;
            tracing::warn!(region = %handle.region, %index, "too many states wait to be checked: this one is left out");
            tell(&worker, Input::Digest { handle, index, answer: DigestAnswer::Missing });
        }
    }
}

fn take_all(tasks: &Receiver<(DigestTask, Mailbox<Work>)>, fault: &Fault) {
    let seconds = metrics::histogram!("consistency_digest_seconds");
    for (task, worker) in tasks {
        let (handle, index, started) = (task.handle, task.index, std::time::Instant::now());
        // What the embedder's machine makes of being asked must not take the others' checks with it.
        let run = std::panic::AssertUnwindSafe(|| task.run(&|| fault.ends_waiting()));
        let answer = std::panic::catch_unwind(run).unwrap_or_else(|_| {
            tracing::error!(region = %handle.region, %index, "the state machine panicked over its digest");
            DigestAnswer::Missing
        });
        seconds.record(started.elapsed().as_secs_f64());
        tell(&worker, Input::Digest { handle, index, answer });
    }
}

fn tell(worker: &Mailbox<Work>, input: Input<crate::shell::Completion>) {
    // Refused only when the workers have ended.
    let _ = worker.send_reserved(Work::Input(input));
}
