//! Every interleaving of the admission protocol, under loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p multiraft-router --release --target-dir target/loom --test 'loom_*'`.
//!
//! The channel itself is not ours and not known to loom; a counter of delivered inputs stands in for it where it matters.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use multiraft_raft::Time;
use multiraft_router::{Admission, Limit, Progress, Refusal};

#[test]
fn limit_is_never_overrun_and_all_room_comes_back() {
    loom::model(|| {
        let admission = Arc::new(Admission::new(Limit { count: 1, bytes: 10 }));
        let inside = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (admission, inside) = (Arc::clone(&admission), Arc::clone(&inside));
                thread::spawn(move || {
                    if admission.try_admit(6).is_ok() {
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two inside a limit of one");
                        inside.fetch_sub(1, Ordering::SeqCst);
                        admission.release(1, 6);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!((admission.count(), admission.bytes()), (0, 0));
        assert_eq!(admission.try_admit(10), Ok(()));
    });
}

#[test]
fn one_of_two_that_do_not_fit_together_gets_in() {
    loom::model(|| {
        let admission = Arc::new(Admission::new(Limit { count: 8, bytes: 10 }));
        let other = {
            let admission = Arc::clone(&admission);
            thread::spawn(move || admission.try_admit(6).is_ok())
        };
        let mine = admission.try_admit(7).is_ok();
        let theirs = other.join().unwrap();
        assert!(mine ^ theirs, "a refusal must not come from a half-made admission");
        assert_eq!(admission.count(), 1);
    });
}

#[test]
fn what_is_admitted_is_delivered_before_drained_shows() {
    loom::model(|| {
        let admission = Arc::new(Admission::new(Limit { count: 8, bytes: 10 }));
        let delivered = Arc::new(AtomicU64::new(0));
        let sender = {
            let (admission, delivered) = (Arc::clone(&admission), Arc::clone(&delivered));
            thread::spawn(move || {
                let admitted = admission.try_admit(1);
                if admitted.is_ok() {
                    // The input is taken by the worker, which then releases its room.
                    delivered.fetch_add(1, Ordering::Relaxed);
                    admission.release(1, 1);
                }
                admitted
            })
        };
        admission.close();
        let drained_with = admission.is_drained().then(|| delivered.load(Ordering::Relaxed));
        let admitted = sender.join().unwrap();
        assert!(matches!(admitted, Ok(()) | Err(Refusal::Closed)));
        if let Some(seen) = drained_with {
            assert_eq!(seen, u64::from(admitted.is_ok()), "drained, yet an admitted input was still to come");
        }
        assert!(admission.is_drained());
    });
}

#[test]
fn reader_never_sees_a_turn_finish_before_it_began() {
    loom::model(|| {
        let progress = Arc::new(Progress::new());
        let worker = {
            let progress = Arc::clone(&progress);
            thread::spawn(move || {
                for turn in 1..=2 {
                    progress.on_turn_start(1);
                    progress.on_turn_end(Time(turn));
                }
            })
        };
        let reading = progress.read();
        assert!(reading.last_turn.0 >= reading.turns, "the end of a turn is known when the turn is counted");
        assert!(reading.inputs >= reading.turns);
        assert!(reading.turns < 2 || !reading.in_turn);
        worker.join().unwrap();
        assert_eq!(progress.read().turns, 2);
    });
}
