//! The fixed pool of workers: a thread for each, which owns its driver and runs it turn by turn.
//!
//! ```text
//!   Pool::prepare ──▶ Prepared ──start(driver for each)──▶ Pool ──stop──▶ all admitted inputs
//!                     mailboxes()                                         have had their turn
//! ```
//!
//! The pool decides nothing: what a turn does is the [`Driver`]'s affair. A driver that panics takes its worker down, which
//! is reported; its mailbox is closed, the other workers go on.

mod progress;
#[cfg(all(test, not(loom)))]
mod tests;
mod worker;

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Receiver;
use multiraft_raft::Time;

pub use self::progress::{Progress, Reading, StallWatch};
use self::worker::Worker;
use crate::Clock;
use crate::mailbox::{Accounts, Limit, Mailbox, Parcel, Room};

/// What a worker runs: all of its groups, behind one face.
pub trait Driver<I>: Send + 'static {
    /// Handles `inputs`, and whatever else is due at `now`; returns when it wants to run again at the latest
    /// ([`Time::NEVER`]: when there is input). A moment that is not later than `now` means at once, after looking for input.
    ///
    /// Inputs that it leaves in the vector come again in the next turn, which then comes at once, in front of newer ones.
    /// A pool that stops waits until none are left. It should not block: nothing else of this worker runs meanwhile.
    fn turn(&mut self, now: Time, inputs: &mut Vec<I>) -> Time;

    /// Called once, after the last turn, when the pool stops. Not called after a panic.
    fn stopped(&mut self);
}

/// How a pool is laid out.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Worker threads. Default: one for each core that the process may use.
    pub workers: usize,
    /// What callers may have waiting at one worker.
    pub callers: Limit,
    /// What peer stores may have waiting at one worker.
    pub peers: Limit,
    /// Completions that may wait at one worker: see [`Mailbox::send_reserved`].
    pub reserved: usize,
    /// Inputs that one turn takes at most.
    pub turn_inputs: usize,
    /// Bytes after which one turn takes no further input.
    pub turn_bytes: u64,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            callers: Limit { count: 16_384, bytes: 64 << 20 },
            peers: Limit { count: 16_384, bytes: 64 << 20 },
            reserved: 16_384,
            turn_inputs: 1_024,
            turn_bytes: 8 << 20,
        }
    }
}

/// A worker's driver has panicked; the worker is gone and its groups stand still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerPanic {
    /// The worker.
    pub worker: u32,
    /// What the panic said.
    pub message: String,
}

impl fmt::Display for WorkerPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} panicked: {}", self.worker, self.message)
    }
}

/// Workers that were found dead when the pool was stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} worker(s) panicked, first: {}", .0.len(), .0[0])]
pub struct WorkersPanicked(pub Vec<WorkerPanic>);

/// The operating system gave no thread for a worker; those that had started were stopped.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the thread of worker {worker}: {source}; lower the number of workers or raise the thread limit")]
pub struct StartError {
    worker: u32,
    source: std::io::Error,
}

/// The receiving end of one worker.
type Seat<I> = (Receiver<Parcel<I>>, Arc<Progress>);

/// A pool whose mailboxes exist, so that drivers can be built with them, but whose threads do not run yet.
#[derive(Debug)]
pub struct Prepared<I> {
    config: PoolConfig,
    mailboxes: Vec<Mailbox<I>>,
    seats: Vec<Seat<I>>,
}

/// Running workers.
#[derive(Debug)]
pub struct Pool<I> {
    mailboxes: Vec<Mailbox<I>>,
    progress: Vec<Arc<Progress>>,
    threads: Vec<JoinHandle<Result<(), WorkerPanic>>>,
}

type PanicHook = Arc<dyn Fn(&WorkerPanic) + Send + Sync>;

impl<I: Send + 'static> Pool<I> {
    /// Makes the mailboxes. Metrics go to the recorder that is installed now.
    #[must_use]
    pub fn prepare(mut config: PoolConfig) -> Prepared<I> {
        config.workers = config.workers.max(1);
        let count = u32::try_from(config.workers).expect("fewer than 2^32 workers");
        let room = Room { callers: config.callers, peers: config.peers, reserved: config.reserved };
        let (mailboxes, seats) = (0..count)
            .map(|worker| {
                let (mailbox, receiver) = Mailbox::new(worker, room);
                (mailbox, (receiver, Arc::new(Progress::new())))
            })
            .unzip();
        Prepared { config, mailboxes, seats }
    }
}

impl<I: Send + 'static> Prepared<I> {
    /// One mailbox for each worker, in worker order.
    #[must_use]
    pub fn mailboxes(&self) -> &[Mailbox<I>] {
        &self.mailboxes
    }

    /// The counters of each worker, in worker order.
    pub fn progress(&self) -> impl ExactSizeIterator<Item = &Arc<Progress>> {
        self.seats.iter().map(|(_, progress)| progress)
    }

    /// Starts a thread for each worker with the driver that `driver` makes for it. `on_panic` is called on a worker's own
    /// thread when its driver panics, after its mailbox is closed.
    ///
    /// # Errors
    /// When the system gives no thread; nothing runs then.
    pub fn start<D: Driver<I>>(
        self,
        clock: Clock,
        on_panic: impl Fn(&WorkerPanic) + Send + Sync + 'static,
        mut driver: impl FnMut(u32) -> D,
    ) -> Result<Pool<I>, StartError> {
        let Self { config, mailboxes, seats } = self;
        let on_panic: PanicHook = Arc::new(on_panic);
        let mut pool = Pool { mailboxes, progress: Vec::new(), threads: Vec::new() };
        for (index, (receiver, progress)) in (0..).zip(seats) {
            let accounts = Arc::clone(pool.mailboxes[index as usize].accounts());
            let seat = (receiver, Arc::clone(&accounts), Arc::clone(&progress));
            let worker = Worker::new(index, driver(index), seat, clock, &config);
            let on_panic = Arc::clone(&on_panic);
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || run_guarded(index, worker, &accounts, &on_panic))
                // Dropping the pool stops the workers that run.
                .map_err(|source| StartError { worker: index, source })?;
            pool.progress.push(progress);
            pool.threads.push(thread);
        }
        Ok(pool)
    }
}

impl<I> Pool<I> {
    /// One mailbox for each worker, in worker order.
    #[must_use]
    pub fn mailboxes(&self) -> &[Mailbox<I>] {
        &self.mailboxes
    }

    /// The counters of each worker, in worker order.
    #[must_use]
    pub fn progress(&self) -> &[Arc<Progress>] {
        &self.progress
    }

    /// Accepts nothing more from callers and peers; completions still get in. The first half of a stop, for a store that
    /// wants to finish what is under way.
    pub fn close_outside(&self) {
        for mailbox in &self.mailboxes {
            mailbox.accounts().close_outside();
        }
    }

    /// Closes all mailboxes, lets each worker run turns until everything that was accepted has had its turn, and waits for
    /// the threads to end. Must not be called on a worker's thread.
    ///
    /// # Errors
    /// The workers that had panicked.
    pub fn stop(mut self) -> Result<(), WorkersPanicked> {
        let dead = self.shut_down();
        if dead.is_empty() { Ok(()) } else { Err(WorkersPanicked(dead)) }
    }

    fn shut_down(&mut self) -> Vec<WorkerPanic> {
        if self.threads.is_empty() {
            return Vec::new();
        }
        for mailbox in &self.mailboxes {
            mailbox.accounts().close();
            mailbox.send_stop();
        }
        let own = std::thread::current().id();
        let mut dead = Vec::new();
        for (worker, thread) in (0..).zip(self.threads.drain(..)) {
            // The last owner may be dropped by a driver: a thread cannot wait for itself.
            if thread.thread().id() == own {
                continue;
            }
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(panic)) => dead.push(panic),
                Err(payload) => dead.push(WorkerPanic { worker, message: panic_message(&*payload) }),
            }
        }
        dead
    }
}

impl<I> Drop for Pool<I> {
    fn drop(&mut self) {
        for panic in self.shut_down() {
            tracing::error!(%panic, "pool dropped");
        }
    }
}

/// Runs a worker to its end; a panic closes its mailbox and is reported.
fn run_guarded<I, D: Driver<I>>(
    index: u32,
    worker: Worker<I, D>,
    accounts: &Accounts,
    on_panic: &PanicHook,
) -> Result<(), WorkerPanic> {
    // What the driver was in the middle of is dropped with it, and never looked at again.
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| worker.run()));
    let Err(payload) = outcome else { return Ok(()) };
    accounts.close();
    let panic = WorkerPanic { worker: index, message: panic_message(&*payload) };
    tracing::error!(%panic, "worker lost");
    on_panic(&panic);
    Err(panic)
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "no message".to_owned(),
    }
}
