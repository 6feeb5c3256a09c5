//! An open loop: each write, or read, is due at an instant that is fixed beforehand. It begins then, whatever has become of
//! those before it, and its time counts from then, so that a stall is seen by all that fall into it (no coordinated omission).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::clients::{Draws, Failed, Load, operate};

/// So many may be under way. What falls due beyond is told as failed: then the rate is more than the stores can take.
const UNDER_WAY_MAX: usize = 20_000;

/// The pace of one store. Dropped, it ends.
pub(crate) struct Pace {
    running: Option<(SyncSender<()>, JoinHandle<()>)>,
}

/// When things are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beat {
    /// So many a second over all stores.
    pub(crate) rate: u64,
    /// Of all of them, counted from zero, every `stores`th from this on is this store's.
    pub(crate) first: u64,
    pub(crate) stores: u64,
}

impl Beat {
    /// When the `number`th of this store is due.
    fn due(self, number: u64) -> Duration {
        let place = u128::from(self.first + number * self.stores);
        let nanos = place * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl Pace {
    /// A thread of its own keeps the time: timers of a runtime are coarser, and late when it is busy.
    pub(crate) fn start(load: &Arc<Load>, beat: Beat, seed: u64) -> Self {
        let (stop, stopped) = sync_channel(0);
        let (load, runtime) = (Arc::clone(load), Handle::current());
        let thread = std::thread::spawn(move || keep(&load, beat, Draws::new(seed), &stopped, &runtime));
        Self { running: Some((stop, thread)) }
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

fn keep(load: &Arc<Load>, beat: Beat, mut draws: Draws, stopped: &Receiver<()>, runtime: &Handle) {
    let begin = Instant::now();
    let under_way = Arc::new(AtomicUsize::new(0));
    let mut number = 0;
    loop {
        let due = begin + beat.due(number);
        if stopped.recv_timeout(due.saturating_duration_since(Instant::now())) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        number += 1;
        let (place, draw) = (load.places.draw(&mut draws), draws.next());
        if under_way.load(Ordering::Relaxed) >= UNDER_WAY_MAX {
            let why = format!("{UNDER_WAY_MAX} are under way: try a lower --rate");
            load.tally.note(Err(Failed::Otherwise(why)));
            continue;
        }
        under_way.fetch_add(1, Ordering::Relaxed);
        let (load, under_way) = (Arc::clone(load), Arc::clone(&under_way));
        runtime.spawn(async move {
            operate(&load, place, draw, due).await;
            under_way.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_stores_share_a_rate_without_two_at_once() {
        let due = |first| (0..4).map(move |number| Beat { rate: 1000, first, stores: 3 }.due(number).as_micros());
        let mut all: Vec<u128> = (0..3).flat_map(due).collect();
        all.sort_unstable();
        assert_eq!(all, (0..12).map(|place| place * 1000).collect::<Vec<_>>());
    }
}
