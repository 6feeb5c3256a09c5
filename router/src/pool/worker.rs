//! One worker: its thread's loop of gathering inputs and running turns.
//!
//! It blocks in one place only, on its channel, no longer than until the driver's next deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use multiraft_raft::Time;

use super::{Driver, PoolConfig, Progress};
use crate::Clock;
use crate::mailbox::{Account, Accounts, Envelope, Parcel};

/// How often a worker that is stopping looks again for inputs which were admitted but turned back at the full channel.
const DRAIN_CHECK: Duration = Duration::from_millis(1);

pub(super) struct Worker<I, D> {
    driver: D,
    receiver: Receiver<Parcel<I>>,
    accounts: Arc<Accounts>,
    progress: Arc<Progress>,
    clock: Clock,
    limits: TurnLimits,
    meters: Meters,
    stopping: bool,
}

/// How much one turn may take out of the queue.
#[derive(Clone, Copy)]
struct TurnLimits {
    inputs: usize,
    bytes: u64,
}

/// What a turn took from one account.
#[derive(Clone, Copy, Default)]
struct Taken {
    count: u64,
    bytes: u64,
}

/// What a turn took out of the queue, released to the accounts in one go.
#[derive(Default)]
struct Batch {
    callers: Taken,
    peers: Taken,
    reserved: Taken,
}

impl<I, D: Driver<I>> Worker<I, D> {
    pub(super) fn new(
        index: u32,
        driver: D,
        seat: (Receiver<Parcel<I>>, Arc<Accounts>, Arc<Progress>),
        clock: Clock,
        config: &PoolConfig,
    ) -> Self {
        let (receiver, accounts, progress) = seat;
        let limits = TurnLimits { inputs: config.turn_inputs.max(1), bytes: config.turn_bytes };
        Self { driver, receiver, accounts, progress, clock, limits, meters: Meters::new(index), stopping: false }
    }

    /// Runs until told to stop and everything that was admitted has been through a turn.
    pub(super) fn run(mut self) {
        let mut inputs = Vec::with_capacity(self.limits.inputs);
        // The first turn comes at once: the driver may have deadlines to name.
        let mut wake = Time::ZERO;
        loop {
            let taken = self.gather(&mut inputs, wake);
            wake = self.turn(&mut inputs, taken);
            if self.stopping && inputs.is_empty() && self.accounts.is_drained() {
                self.driver.stopped();
                return;
            }
        }
    }

    fn turn(&mut self, inputs: &mut Vec<I>, taken: u64) -> Time {
        let started = self.clock.now();
        self.progress.on_turn_start(taken);
        self.meters.batch_inputs.record(inputs.len() as f64);
        let wake = self.driver.turn(started, inputs);
        let ended = self.clock.now();
        self.progress.on_turn_end(ended);
        self.meters.turn_seconds.record(ended.since(started).as_secs_f64());
        self.meters.queue_len.set(self.receiver.len() as f64);
        wake
    }

    /// Waits for an input or until `wake`, then takes what else is there, up to a turn's limits; returns how many.
    /// Inputs that the driver left over stand in front, and are not waited upon.
    fn gather(&mut self, inputs: &mut Vec<I>, wake: Time) -> u64 {
        let mut batch = Batch::default();
        if inputs.is_empty()
            && let Some(envelope) = self.wait(wake)
        {
            self.open(*envelope, inputs, &mut batch);
        }
        while inputs.len() < self.limits.inputs && batch.bytes() < self.limits.bytes {
            match self.receiver.try_recv() {
                Ok(envelope) => self.open(*envelope, inputs, &mut batch),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.on_disconnected();
                    break;
                }
            }
        }
        batch.release_to(&self.accounts)
    }

    fn wait(&mut self, wake: Time) -> Option<Parcel<I>> {
        if wake <= self.clock.now() {
            return None;
        }
        let mut until = self.clock.instant(wake);
        if self.stopping {
            let soon = Instant::now() + DRAIN_CHECK;
            until = Some(until.map_or(soon, |until| until.min(soon)));
        }
        let received = match until {
            Some(until) => self.receiver.recv_deadline(until).map_err(|error| error.is_disconnected()),
            None => self.receiver.recv().map_err(|_| true),
        };
        match received {
            Ok(envelope) => Some(envelope),
            Err(disconnected) => {
                if disconnected {
                    self.on_disconnected();
                }
                None
            }
        }
    }

    fn open(&mut self, envelope: Envelope<I>, inputs: &mut Vec<I>, batch: &mut Batch) {
        match envelope {
            Envelope::Work { input, account, bytes } => {
                batch.add(account, bytes);
                inputs.push(input);
            }
            Envelope::Stop => self.stopping = true,
        }
    }

    /// The last mailbox is gone without an order to stop: nothing can come any more.
    fn on_disconnected(&mut self) {
        self.accounts.close();
        self.stopping = true;
    }
}

impl Batch {
    fn add(&mut self, account: Account, bytes: u64) {
        let taken = match account {
            Account::Callers => &mut self.callers,
            Account::Peers => &mut self.peers,
            Account::Reserved => &mut self.reserved,
        };
        taken.count += 1;
        taken.bytes += bytes;
    }

    fn bytes(&self) -> u64 {
        self.callers.bytes + self.peers.bytes
    }

    fn release_to(self, accounts: &Accounts) -> u64 {
        let all = [(Account::Callers, self.callers), (Account::Peers, self.peers), (Account::Reserved, self.reserved)];
        let mut count = 0;
        for (account, taken) in all {
            if taken.count > 0 {
                accounts.get(account).release(taken.count, taken.bytes);
                count += taken.count;
            }
        }
        count
    }
}

struct Meters {
    turn_seconds: metrics::Histogram,
    batch_inputs: metrics::Histogram,
    queue_len: metrics::Gauge,
}

impl Meters {
    fn new(index: u32) -> Self {
        let worker = index.to_string();
        Self {
            turn_seconds: metrics::histogram!("worker_turn_seconds", "worker" => worker.clone()),
            batch_inputs: metrics::histogram!("worker_batch_inputs", "worker" => worker.clone()),
            queue_len: metrics::gauge!("worker_queue_len", "worker" => worker),
        }
    }
}
