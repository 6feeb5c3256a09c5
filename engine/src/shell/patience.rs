//! Waits with a deadline that cost little where the answer comes soon, as nearly all do.
//!
//! A timer of the runtime is put into its wheel and taken out again, each time under a lock that all its threads share, and reads the
//! clock: with many callers that is a twentieth of all processor time. So a wait whose deadline is far off is woken by a common chime,
//! looks at the clock, and has a timer of its own only for the last of its time. While nobody waits nothing chimes.
//!
//! Invariant: who stands in line is woken once [`CHIME`] has passed, and nothing but the thread here is needed for that: it forgets
//! that it was asked for a chime before it wakes who stands in line, and who comes later asks again.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use multiraft_raft::Time;
use multiraft_router::Clock;
use tokio::sync::Notify;
use tokio::sync::oneshot;

use crate::logic::Outcome;

/// How long after somebody has asked for a chime it comes.
const CHIME: Duration = Duration::from_millis(250);
/// With more left than this a wait stands in line: one chime may pass before it does, and the next must come in time.
const FAR_OFF: Duration = Duration::from_millis(600);
/// So many lines, each with its own lock.
const LINES: usize = 8;

/// Who waits, and the thread that chimes. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Patience {
    lines: Arc<Lines>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Lines {
    lines: [Notify; LINES],
    is_asked: AtomicBool,
    is_stopping: AtomicBool,
}

impl Patience {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn start() -> io::Result<Self> {
        let lines = Arc::<Lines>::default();
        let own = Arc::clone(&lines);
        let thread = thread::Builder::new().name("multiraft-chime".to_owned()).spawn(move || own.run())?;
        Ok(Self { lines, thread: Some(thread) })
    }

    /// Waits for an answer; `None` if none came by the deadline, or never will.
    pub(crate) async fn wait(
        &self,
        clock: Clock,
        mut answer: oneshot::Receiver<Outcome>,
        deadline: Time,
    ) -> Option<Outcome> {
        let mut left = deadline.since(clock.now());
        while left > FAR_OFF {
            // Deadlines differ in their nanoseconds: they spread those who wait.
            let line = &self.lines.lines[(deadline.0 >> 4) as usize % LINES];
            let mut chime = pin!(line.notified());
            let mut stands_in_line = false;
            let answered = poll_fn(|context| {
                if let Poll::Ready(answered) = Pin::new(&mut answer).poll(context) {
                    return Poll::Ready(Some(answered));
                }
                let rung = chime.as_mut().poll(context);
                if !stands_in_line {
                    stands_in_line = true;
                    self.ask();
                }
                rung.map(|()| None)
            });
            if let Some(answered) = answered.await {
                return answered.ok();
            }
            left = deadline.since(clock.now());
        }
        tokio::time::timeout(left, answer).await.ok()?.ok()
    }

    fn ask(&self) {
        if !self.lines.is_asked.load(Ordering::SeqCst) && !self.lines.is_asked.swap(true, Ordering::SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.lines.is_stopping.store(true, Ordering::SeqCst);
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Lines {
    fn run(&self) {
        while !self.is_stopping.load(Ordering::SeqCst) {
            if !self.is_asked.load(Ordering::SeqCst) {
                thread::park();
                continue;
            }
            let due = Instant::now() + CHIME;
            while Instant::now() < due && !self.is_stopping.load(Ordering::SeqCst) {
                thread::park_timeout(due.saturating_duration_since(Instant::now()));
            }
            // In this order: whoever comes to a line after its chime finds that nobody has asked for the next.
            self.is_asked.store(false, Ordering::SeqCst);
            self.lines.iter().for_each(Notify::notify_waiters);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn an_answer_comes_through_and_so_does_that_there_will_be_none() {
        let (patience, clock) = (Patience::start().unwrap(), Clock::start());
        let deadline = clock.now().plus(Duration::from_secs(60));
        runtime().block_on(async {
            let (reply, answer) = oneshot::channel();
            let waits = patience.wait(clock, answer, deadline);
            let answers = async {
                // Long enough for chimes between.
                tokio::time::sleep(3 * CHIME).await;
                reply.send(Outcome::Done).unwrap();
            };
            let (answered, ()) = tokio::join!(waits, answers);
            assert!(matches!(answered, Some(Outcome::Done)));
            let (reply, answer) = oneshot::channel();
            drop(reply);
            assert!(patience.wait(clock, answer, deadline).await.is_none());
        });
    }

    #[test]
    fn whoever_is_not_answered_waits_until_the_deadline_and_hardly_longer() {
        let (patience, clock) = (Patience::start().unwrap(), Clock::start());
        runtime().block_on(async {
            let mut waits = tokio::task::JoinSet::new();
            let patience = Arc::new(patience);
            for ms in [0, 1, 100, 590, 610, 700, 1_000, 1_250, 1_600] {
                let patience = Arc::clone(&patience);
                waits.spawn(async move {
                    // Others come while the thread chimes, and after it has.
                    tokio::time::sleep(Duration::from_millis(ms / 3)).await;
                    let deadline = clock.now().plus(Duration::from_millis(ms));
                    let (_reply, answer) = oneshot::channel();
                    assert!(patience.wait(clock, answer, deadline).await.is_none());
                    let late = clock.now().since(deadline);
                    assert!(clock.now() >= deadline && late < 4 * CHIME, "{ms} ms: {late:?} late");
                });
            }
            while let Some(done) = waits.join_next().await {
                done.unwrap();
            }
        });
    }

    #[test]
    fn nothing_chimes_while_nobody_waits() {
        let (patience, clock) = (Patience::start().unwrap(), Clock::start());
        let (reply, answer) = oneshot::channel();
        reply.send(Outcome::Done).unwrap();
        let deadline = clock.now().plus(Duration::from_secs(60));
        assert!(runtime().block_on(patience.wait(clock, answer, deadline)).is_some());
        assert!(!patience.lines.is_asked.load(Ordering::SeqCst), "who is answered at once stands in no line");
        // It ends although it sleeps without an end.
        drop(patience);
    }
}
