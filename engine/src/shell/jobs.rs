//! Threads that move snapshots: each can be told to end, whatever it waits for, and all are joined when the store stops.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use multiraft_router::Mailbox;
use multiraft_transport::SnapshotCanceller;

use crate::logic::Input;
use crate::shell::Completion;
use crate::shell::worker::Work;

/// One thread's way to hear that it is not wanted any more.
#[derive(Default)]
pub(super) struct Job {
    is_cancelled: AtomicBool,
    canceller: Mutex<Option<SnapshotCanceller>>,
}

impl Job {
    pub(super) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    /// From now on the job waits for this stream.
    pub(super) fn waits_for(&self, canceller: SnapshotCanceller) {
        let mut held = self.canceller.lock().unwrap_or_else(PoisonError::into_inner);
        // Both under the lock, or at least one of the two sees the other.
        if self.is_cancelled() {
            canceller.cancel();
        }
        *held = Some(canceller);
    }

    fn cancel(&self) {
        let held = self.canceller.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_cancelled.store(true, Ordering::Release);
        if let Some(canceller) = &*held {
            canceller.cancel();
        }
    }
}

/// Threads of one kind, by what they are about.
pub(super) struct Jobs<K> {
    name: &'static str,
    state: Mutex<State<K>>,
    active: metrics::Gauge,
}

struct State<K> {
    running: BTreeMap<K, Arc<Job>>,
    threads: Vec<JoinHandle<()>>,
    is_stopped: bool,
}

impl<K: Ord + Copy + Send + 'static> Jobs<K> {
    /// `direction` is the label of the gauge `snapshots_active`.
    pub(super) fn new(name: &'static str, direction: &'static str) -> Arc<Self> {
        let state = State { running: BTreeMap::new(), threads: Vec::new(), is_stopped: false };
        let active = metrics::gauge!("snapshots_active", "direction" => direction);
        Arc::new(Self { name, state: Mutex::new(state), active })
    }

    /// Starts a thread. What it has to report it reports before it ends.
    ///
    /// # Errors
    /// The store has stopped, or the system has no thread.
    pub(super) fn start(self: &Arc<Self>, key: K, work: impl FnOnce(&Job) + Send + 'static) -> io::Result<()> {
        let mut state = self.lock();
        if state.is_stopped {
            return Err(io::Error::other("the store has stopped"));
        }
        let job = Arc::new(Job::default());
        let (jobs, own) = (Arc::clone(self), Arc::clone(&job));
        // Before it can end.
        state.running.insert(key, job);
        self.active.increment(1.0);
        let thread = std::thread::Builder::new().name(self.name.to_owned()).spawn(move || {
            let _running = Running { jobs, key };
            work(&own);
        });
        match thread {
            Ok(thread) => {
                state.threads.retain(|thread| !thread.is_finished());
                state.threads.push(thread);
                Ok(())
            }
            Err(error) => {
                state.running.remove(&key);
                self.active.decrement(1.0);
                Err(error)
            }
        }
    }

    /// Tells a job to end; false if there is none of this name any more.
    pub(super) fn cancel(&self, key: K) -> bool {
        let job = self.lock().running.get(&key).cloned();
        job.inspect(|job| job.cancel()).is_some()
    }

    /// Ends all jobs and waits for their threads; none starts any more.
    pub(super) fn stop(&self) {
        let (jobs, threads) = {
            let mut state = self.lock();
            state.is_stopped = true;
            (state.running.values().cloned().collect::<Vec<_>>(), std::mem::take(&mut state.threads))
        };
        jobs.iter().for_each(|job| job.cancel());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!(thread = self.name, "a thread had panicked");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a job off the list when it ends, also by a panic.
struct Running<K: Ord + Copy + Send + 'static> {
    jobs: Arc<Jobs<K>>,
    key: K,
}

impl<K: Ord + Copy + Send + 'static> Drop for Running<K> {
    fn drop(&mut self) {
        self.jobs.lock().running.remove(&self.key);
        self.jobs.active.decrement(1.0);
    }
}

/// What a worker is told when a job ends, also by a panic.
pub(super) struct Report {
    mailbox: Mailbox<Work>,
    /// Invariant: there until it is told.
    input: Option<Input<Completion>>,
}

impl Report {
    /// What is told if nothing else is set.
    pub(super) fn new(mailbox: Mailbox<Work>, otherwise: Input<Completion>) -> Self {
        Self { mailbox, input: Some(otherwise) }
    }

    pub(super) fn set(&mut self, input: Input<Completion>) {
        self.input = Some(input);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(input) = self.input.take() {
            // Refused only when the workers have ended.
            let _ = self.mailbox.send_reserved(Work::Input(input));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_cancelled_by_name_and_joined_at_the_stop() {
        let jobs: Arc<Jobs<u64>> = Jobs::new("test-job", "test");
        let (ended, ends) = crossbeam_channel::bounded(3);
        for key in 0..3 {
            let ended = ended.clone();
            let work = move |job: &Job| {
                while !job.is_cancelled() {
                    std::thread::yield_now();
                }
                ended.send(key).expect("the test waits");
            };
            jobs.start(key, work).expect("a thread");
        }
        assert!(jobs.cancel(1));
        assert_eq!(ends.recv(), Ok(1));
        jobs.stop();
        let mut rest: Vec<u64> = ends.try_iter().collect();
        rest.sort_unstable();
        assert_eq!(rest, [0, 2], "both have ended before the stop returned");
        assert!(!jobs.cancel(0));
        assert!(jobs.start(9, |_| ()).is_err());
    }
}
