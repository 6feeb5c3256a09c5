//! A state store for the simulator: the durability of a disk store, in memory, under the test's control.
//!
//! It keeps two images: what readers see, and what a power cut would leave. [`StateStore::flush`] moves the first to the second;
//! [`SimStore::crash`] falls back to the second, plus some of the batches written since, as a real store may have persisted
//! more than it was asked to: always a prefix of them, and each as a whole.
//!
//! It has no clock, thread or randomness of its own, so a run replays from its seed. Clones are handles on the same store: the
//! test keeps one across a crash and hands another to the restarted program.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    StateBatch, StateError, StateSnapshot, StateStore, StateView,
    cow_map::CowMap,
    mem::{MapSnapshot, apply},
};

/// The simulated store. See the module's documentation.
#[derive(Clone, Default)]
pub struct SimStore {
    state: Arc<Mutex<SimState>>,
}

#[derive(Default)]
struct SimState {
    current: CowMap,
    durable: CowMap,
    /// Invariant: `durable` with these applied in order is `current`.
    unflushed: Vec<StateBatch>,
    disk_is_full: bool,
    flush_fails: bool,
    /// A flush has failed: nothing works until the restart.
    failed: bool,
    /// How many more writes and flushes succeed before the power is cut.
    power_ops: Option<u64>,
    ops: u64,
}

impl SimStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A power cut and a restart: falls back to what was flushed, plus the first `seed % (unflushed batches + 1)` batches
    /// written since. A failed flush is forgotten, and so is a power cut; a full disk stays full.
    pub fn crash(&self, seed: u64) {
        let mut state = self.state();
        let unflushed = std::mem::take(&mut state.unflushed);
        let kept = usize::try_from(seed % (unflushed.len() as u64 + 1)).expect("it is at most the number of batches");
        for batch in unflushed.into_iter().take(kept) {
            apply(&mut state.durable, batch, &[]);
        }
        state.current = state.durable.clone();
        state.flush_fails = false;
        state.failed = false;
        state.power_ops = None;
    }

    /// Lets `count` more writes and flushes succeed; then the power is cut: every later one fails until [`SimStore::crash`].
    pub fn cut_power_after(&self, count: u64) {
        self.state().power_ops = Some(count);
    }

    /// How many writes and flushes there were since the store was made.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().ops
    }

    /// How many batches a crash could lose.
    #[must_use]
    pub fn unflushed_batches(&self) -> usize {
        self.state().unflushed.len()
    }

    /// While the disk is full every write is refused with [`StateError::NoSpace`].
    pub fn set_disk_full(&self, is_full: bool) {
        self.state().disk_is_full = is_full;
    }

    /// The next flush fails, and with it the store, until [`SimStore::crash`].
    pub fn fail_next_flush(&self) {
        self.state().flush_fails = true;
    }

    fn state(&self) -> MutexGuard<'_, SimState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimState {
    fn check(&self) -> Result<(), StateError> {
        if self.failed { Err(io_error("it has failed before (a flush failed)")) } else { Ok(()) }
    }

    /// As [`SimState::check`], in front of what changes something.
    fn mutate(&mut self) -> Result<(), StateError> {
        self.check()?;
        match &mut self.power_ops {
            Some(0) => return Err(io_error("the power is cut")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.ops += 1;
        Ok(())
    }
}

fn io_error(reason: &str) -> StateError {
    StateError::Io { path: "sim".into(), source: std::io::Error::other(reason) }
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimStore").field("unflushed", &self.unflushed_batches()).finish_non_exhaustive()
    }
}

impl StateStore for SimStore {
    fn write(&self, batch: StateBatch) -> Result<(), StateError> {
        let mut state = self.state();
        state.mutate()?;
        if state.disk_is_full {
            return Err(StateError::NoSpace { path: "sim".into() });
        }
        state.unflushed.push(batch.clone());
        apply(&mut state.current, batch, &[]);
        Ok(())
    }

    fn view(&self) -> Box<dyn StateView + '_> {
        Box::new(self.state().current.clone())
    }

    fn snapshot(&self, start: &[u8], end: &[u8]) -> Result<Box<dyn StateSnapshot>, StateError> {
        let state = self.state();
        state.check()?;
        Ok(Box::new(MapSnapshot::new(state.current.clone(), start, end)))
    }

    fn flush(&self) -> Result<(), StateError> {
        let mut state = self.state();
        state.mutate()?;
        if state.flush_fails {
            state.failed = true;
            return Err(io_error("the flush failed, as it was told to"));
        }
        state.durable = state.current.clone();
        state.unflushed.clear();
        Ok(())
    }

    fn is_durable(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn put(store: &SimStore, key: &'static str, value: &'static str) {
        let mut batch = StateBatch::new();
        batch.put(key, value);
        batch.put(format!("{key} again"), value);
        store.write(batch).expect("the disk has room");
    }

    fn keys(store: &SimStore) -> Vec<Bytes> {
        store.view().scan(b"", b"", 100).expect("memory").into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn a_crash_keeps_what_was_flushed_and_a_prefix_of_the_rest() {
        for seed in 0..8 {
            let store = SimStore::new();
            put(&store, "a", "1");
            store.flush().expect("memory");
            put(&store, "b", "2");
            put(&store, "c", "3");
            assert_eq!(store.unflushed_batches(), 2);
            store.crash(seed);
            let all = ["a", "a again", "b", "b again", "c", "c again"];
            assert_eq!(keys(&store), all[..2 + 2 * (seed % 3) as usize]);
            assert_eq!(store.unflushed_batches(), 0);
            put(&store, "d", "4");
            store.crash(0);
            assert_eq!(keys(&store), all[..2 + 2 * (seed % 3) as usize]);
        }
    }

    #[test]
    fn a_full_disk_refuses_writes_until_there_is_room() {
        let store = SimStore::new();
        store.set_disk_full(true);
        let mut batch = StateBatch::new();
        batch.put("a", "1");
        assert!(matches!(store.write(batch), Err(StateError::NoSpace { .. })));
        assert!(keys(&store).is_empty());
        store.set_disk_full(false);
        put(&store, "b", "2");
        assert_eq!(keys(&store), ["b", "b again"]);
    }

    #[test]
    fn after_a_failed_flush_nothing_works_until_the_restart() {
        let store = SimStore::new();
        put(&store, "a", "1");
        store.fail_next_flush();
        assert!(store.flush().is_err());
        assert!(store.flush().is_err());
        assert!(store.write(StateBatch::new()).is_err());
        store.crash(0);
        assert!(keys(&store).is_empty());
        put(&store, "b", "2");
        store.flush().expect("memory");
    }
}
