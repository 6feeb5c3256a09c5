//! What the harness has made on this machine and must not leave behind: processes, namespaces, mounts.
//!
//! Each is registered with what undoes it. That happens when its [`Guard`] is dropped, so also in a panic, or on SIGINT and
//! SIGTERM, then for all, the youngest first, before the signal ends the process as it does. SIGKILL leaves everything behind.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use crate::trouble::{Outcome, While};

type Undo = Box<dyn FnOnce() + Send>;

static MADE: Mutex<BTreeMap<u64, Undo>> = Mutex::new(BTreeMap::new());

/// Undoes something when it is dropped, unless a signal was faster.
#[derive(Debug)]
#[must_use = "dropped at once, it undoes at once"]
pub struct Guard(u64);

/// From now on `undo` is done at the end, once. Register before making: a signal may come in between.
///
/// # Errors
/// Signals cannot be caught on this machine.
pub fn at_end(undo: impl FnOnce() + Send + 'static) -> Outcome<Guard> {
    catch_signals()?;
    let mut made = lock();
    let number = made.last_key_value().map_or(0, |(last, _)| last + 1);
    made.insert(number, Box::new(undo));
    Ok(Guard(number))
}

impl Drop for Guard {
    fn drop(&mut self) {
        let undo = lock().remove(&self.0);
        if let Some(undo) = undo {
            undo();
        }
    }
}

/// Undoes everything, the youngest first.
pub fn undo_all() {
    loop {
        let last = lock().pop_last();
        match last {
            Some((_, undo)) => undo(),
            None => return,
        }
    }
}

fn lock() -> MutexGuard<'static, BTreeMap<u64, Undo>> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn catch_signals() -> Outcome<()> {
    static ONCE: Once = Once::new();
    let mut caught = Ok(());
    ONCE.call_once(|| {
        let signals = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
        caught = signals.into_iter().try_for_each(catch);
    });
    caught
}

fn catch(signal: i32) -> Outcome<()> {
    let trying = || format!("catching signal {signal}");
    let (mut told, teller) = UnixStream::pair().trying(trying)?;
    signal_hook::low_level::pipe::register(signal, teller).trying(trying)?;
    thread::spawn(move || {
        let _ = told.read(&mut [0]);
        undo_all();
        // Ends the process, as if nobody had caught it.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn each_is_undone_once() {
        let undone = Arc::new(Mutex::new(Vec::new()));
        let undo = |name: &'static str| {
            let undone = Arc::clone(&undone);
            at_end(move || undone.lock().unwrap().push(name)).unwrap()
        };
        let (one, two) = (undo("one"), undo("two"));
        drop(one);
        assert_eq!(*undone.lock().unwrap(), ["one"]);
        let panicked = thread::spawn(move || {
            let _two = two;
            panic!("on purpose");
        });
        panicked.join().unwrap_err();
        assert_eq!(*undone.lock().unwrap(), ["one", "two"]);
    }
}
