//! The pool as its users see it, with real threads; every wait is for an event.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::*;
use crate::SendError;

const PATIENCE: Duration = Duration::from_secs(30);

/// What a test's driver tells the test.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Turn(Vec<u32>),
    Stopped,
}

/// A driver that tells each turn with input, and waits for leave where asked.
struct Teller {
    told: Sender<Told>,
    /// One token is taken for each turn with input, if there is a gate.
    gate: Option<Receiver<()>>,
    wake: Time,
}

impl Driver<u32> for Teller {
    fn turn(&mut self, _: Time, inputs: &mut Vec<u32>) -> Time {
        if inputs.is_empty() {
            return self.wake;
        }
        assert!(!inputs.contains(&666), "poisoned input");
        if let Some(gate) = &self.gate {
            // A closed gate stands open.
            let _ = gate.recv();
        }
        self.told.send(Told::Turn(std::mem::take(inputs))).expect("the test listens");
        self.wake
    }

    fn stopped(&mut self) {
        self.told.send(Told::Stopped).expect("the test listens");
    }
}

fn config() -> PoolConfig {
    let limit = Limit { count: 8, bytes: 1_000 };
    PoolConfig { workers: 1, callers: limit, peers: limit, reserved: 8, turn_inputs: 4, turn_bytes: 1_000 }
}

fn start(config: PoolConfig, gate: Option<Receiver<()>>) -> (Pool<u32>, Receiver<Told>, Receiver<WorkerPanic>) {
    let (told, hear) = bounded(1_000);
    let (panics, panicked) = bounded(10);
    let pool = Pool::prepare(config)
        .start(
            Clock::start(),
            move |panic| panics.send(panic.clone()).expect("the test listens"),
            |_| Teller { told: told.clone(), gate: gate.clone(), wake: Time::NEVER },
        )
        .expect("the system gives a thread");
    (pool, hear, panicked)
}

/// A pool whose worker has taken the input 0 and stands in that turn until the returned gate is dropped or gives leave.
fn start_gated(config: PoolConfig) -> (Pool<u32>, Receiver<Told>, Sender<()>) {
    let (open, gate) = bounded(100);
    let (pool, hear, _) = start(config, Some(gate));
    pool.mailboxes()[0].try_send(0, 1).expect("there is room");
    // The counters are written when the worker has taken all that it will take for its turn.
    while !matches!(pool.progress()[0].read(), Reading { inputs: 1, in_turn: true, .. }) {
        std::thread::yield_now();
    }
    // The gate is the caller's youngest value, so a failed assertion drops it before the pool, which waits for the worker.
    (pool, hear, open)
}

#[test]
fn inputs_of_one_sender_arrive_in_order_and_in_bounded_batches() {
    let (pool, hear, open) = start_gated(config());
    let mailbox = &pool.mailboxes()[0];
    for n in 1..=8 {
        mailbox.try_send(n, 1).unwrap();
    }
    assert!(matches!(mailbox.try_send(9, 1), Err(SendError::Busy(9))));
    drop(open);
    assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), Told::Turn(vec![0]));
    assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), Told::Turn(vec![1, 2, 3, 4]));
    assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), Told::Turn(vec![5, 6, 7, 8]));
    pool.stop().unwrap();
}

#[test]
fn turn_takes_no_more_once_its_bytes_are_reached() {
    let (pool, hear, open) = start_gated(PoolConfig { turn_bytes: 150, ..config() });
    let mailbox = &pool.mailboxes()[0];
    for n in 1..=3 {
        mailbox.try_send(n, 100).unwrap();
    }
    drop(open);
    assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), Told::Turn(vec![0]));
    assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), Told::Turn(vec![1, 2]));
    assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), Told::Turn(vec![3]));
    assert_eq!(mailbox.queued_bytes(), 0);
    pool.stop().unwrap();
}

#[test]
fn stop_gives_everything_accepted_its_turn() {
    let (pool, hear, open) = start_gated(config());
    let mailbox = pool.mailboxes()[0].clone();
    for n in 1..6 {
        mailbox.try_send(n, 1).unwrap();
    }
    mailbox.send_reserved(6).unwrap();
    mailbox.try_send_from_peer(7, 1).unwrap();
    let stopper = std::thread::spawn(move || pool.stop());
    // An input that could never get in shows when the mailbox is closed, while the worker still stands in its turn.
    while !matches!(mailbox.try_send(8, u64::MAX), Err(SendError::Closed(8))) {
        std::thread::yield_now();
    }
    drop(open);
    stopper.join().unwrap().unwrap();
    let mut all = Vec::new();
    let mut ends = 0;
    for told in hear.try_iter() {
        match told {
            Told::Turn(mut inputs) => all.append(&mut inputs),
            Told::Stopped => ends += 1,
        }
    }
    assert_eq!((all, ends), ((0..8).collect(), 1));
}

#[test]
fn concurrent_senders_lose_nothing_that_was_accepted_when_the_pool_stops() {
    for _ in 0..20 {
        let (pool, hear, _) = start(config(), None);
        let mailbox = pool.mailboxes()[0].clone();
        let mut accepted: Vec<u32> = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..4_u32)
                .map(|sender| {
                    let mailbox = mailbox.clone();
                    scope.spawn(move || {
                        let mut accepted = Vec::new();
                        for n in 0..100 {
                            let input = sender * 1_000 + n;
                            match mailbox.try_send(input, 1) {
                                Ok(()) => accepted.push(input),
                                Err(SendError::Busy(_)) => std::thread::yield_now(),
                                Err(_) => break,
                            }
                        }
                        accepted
                    })
                })
                .collect();
            // In the middle of it all.
            while mailbox.queued() == 0 && pool.progress()[0].read().inputs == 0 {
                std::thread::yield_now();
            }
            pool.stop().unwrap();
            senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
        });
        let mut handled: Vec<u32> = hear
            .try_iter()
            .flat_map(|told| match told {
                Told::Turn(inputs) => inputs,
                Told::Stopped => Vec::new(),
            })
            .collect();
        accepted.sort_unstable();
        handled.sort_unstable();
        assert_eq!(handled, accepted);
    }
}

#[test]
fn panic_is_reported_and_closes_the_mailbox() {
    let (pool, _hear, panicked) = start(config(), None);
    let mailbox = pool.mailboxes()[0].clone();
    mailbox.try_send(666, 1).unwrap();
    let panic = panicked.recv_timeout(PATIENCE).unwrap();
    assert_eq!(panic, WorkerPanic { worker: 0, message: "poisoned input".to_owned() });
    assert!(matches!(mailbox.try_send(1, 1), Err(SendError::Closed(1))));
    assert!(matches!(mailbox.send_reserved(2), Err(SendError::Closed(2))));
    assert_eq!(pool.stop(), Err(WorkersPanicked(vec![panic])));
}

#[test]
fn other_workers_outlive_a_panic() {
    let (pool, hear, panicked) = start(PoolConfig { workers: 2, ..config() }, None);
    pool.mailboxes()[0].try_send(666, 1).unwrap();
    panicked.recv_timeout(PATIENCE).unwrap();
    pool.mailboxes()[1].try_send(5, 1).unwrap();
    assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), Told::Turn(vec![5]));
    assert_eq!(pool.stop().unwrap_err().0.len(), 1);
}

/// Wakes itself a few times without any input, and leaves inputs over to see them again.
struct Sleeper {
    told: Sender<(Time, Vec<u32>)>,
    wakes: u32,
}

impl Driver<u32> for Sleeper {
    fn turn(&mut self, now: Time, inputs: &mut Vec<u32>) -> Time {
        self.told.send((now, inputs.clone())).expect("the test listens");
        if inputs.len() > 1 {
            inputs.truncate(1);
        } else {
            inputs.clear();
        }
        if self.wakes == 0 {
            return Time::NEVER;
        }
        self.wakes -= 1;
        now.plus(Duration::from_millis(1))
    }

    fn stopped(&mut self) {}
}

fn start_sleeper(wakes: u32) -> (Pool<u32>, Receiver<(Time, Vec<u32>)>) {
    let (told, hear) = bounded(1_000);
    let pool = Pool::prepare(config())
        .start(Clock::start(), |panic| panic!("{panic}"), |_| Sleeper { told: told.clone(), wakes })
        .expect("the system gives a thread");
    (pool, hear)
}

#[test]
fn worker_runs_at_its_deadlines_without_input() {
    let (pool, hear) = start_sleeper(3);
    let turns: Vec<_> = (0..4).map(|_| hear.recv_timeout(PATIENCE).unwrap()).collect();
    for pair in turns.windows(2) {
        assert!(pair[1].0.since(pair[0].0) >= Duration::from_millis(1), "woke before its deadline: {turns:?}");
    }
    assert!(turns.iter().all(|(_, inputs)| inputs.is_empty()));
    pool.stop().unwrap();
}

#[test]
fn inputs_left_over_come_again_at_once_and_in_front() {
    let (pool, hear) = start_sleeper(0);
    assert_eq!(hear.recv_timeout(PATIENCE).unwrap().1, [0; 0]);
    pool.mailboxes()[0].send_reserved(1).unwrap();
    pool.mailboxes()[0].send_reserved(2).unwrap();
    pool.mailboxes()[0].send_reserved(3).unwrap();
    pool.stop().unwrap();
    let turns: Vec<Vec<u32>> = hear.try_iter().map(|(_, inputs)| inputs).filter(|inputs| !inputs.is_empty()).collect();
    let mut left: Option<u32> = None;
    for inputs in &turns {
        if let Some(left) = left {
            assert_eq!(inputs[0], left, "what was left over stands in front: {turns:?}");
        }
        left = (inputs.len() > 1).then_some(inputs[0]);
    }
    assert_eq!(left, None, "nothing is left over at the end: {turns:?}");
    assert!((1..=3).all(|n| turns.iter().any(|inputs| inputs.contains(&n))));
}

#[test]
fn progress_counts_turns_and_inputs() {
    let (pool, hear, _) = start(config(), None);
    pool.mailboxes()[0].try_send(1, 1).unwrap();
    hear.recv_timeout(PATIENCE).unwrap();
    let progress = Arc::clone(&pool.progress()[0]);
    pool.stop().unwrap();
    let reading = progress.read();
    assert!(reading.turns >= 2 && !reading.in_turn);
    assert_eq!(reading.inputs, 1);
}

#[test]
fn dropping_the_pool_stops_it() {
    let (pool, hear, _) = start(config(), None);
    drop(pool);
    assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), Told::Stopped);
}
