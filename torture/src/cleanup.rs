//! What the harness has made on this machine and must not leave behind: processes, namespaces, mounts, folders.
//!
//! Each is registered with what undoes it. That happens when its [`Guard`] is dropped, so also in a panic, or on SIGINT and
//! SIGTERM, then for all, the youngest first, before the signal ends the process as it does. SIGKILL leaves everything behind.
//!
//! A signal waits for whoever [makes](making) something, and whoever comes later makes nothing any more. What goes on meanwhile finds
//! its stores gone; [`wait_if_ending`] keeps it from ending the process in its own way.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use crate::trouble::{Outcome, While};

type Undo = Box<dyn FnOnce() + Send>;

static MADE: Mutex<Made> = Mutex::new(Made { undo: BTreeMap::new(), is_ending: false });
static MAKING: Mutex<()> = Mutex::new(());

struct Made {
    undo: BTreeMap<u64, Undo>,
    /// A signal has come. Invariant: nothing is added from then on.
    is_ending: bool,
}

/// Undoes something when it is dropped, unless a signal was faster.
#[derive(Debug)]
#[must_use = "dropped at once, it undoes at once"]
pub struct Guard(u64);

/// As long as this is held no signal ends the process: hold it from before something is made until it is registered, and for a moment
/// only. After a signal it is never given out.
#[must_use = "dropped at once, it keeps no signal off"]
pub fn making() -> MutexGuard<'static, ()> {
    MAKING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on `undo` is done at the end, once. Register before making, or within [`making`]: a signal may come in between.
///
/// # Errors
/// Signals cannot be caught on this machine.
pub fn at_end(undo: impl FnOnce() + Send + 'static) -> Outcome<Guard> {
    catch_signals()?;
    let mut made = lock();
    if made.is_ending {
        drop(made);
        undo();
        rest();
    }
    let number = made.undo.last_key_value().map_or(0, |(last, _)| last + 1);
    made.undo.insert(number, Box::new(undo));
    Ok(Guard(number))
}

impl Guard {
    /// What was made stays.
    pub fn keep(self) {
        lock().undo.remove(&self.0);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let undo = lock().undo.remove(&self.0);
        if let Some(undo) = undo {
            undo();
        }
    }
}

/// Undoes everything, the youngest first.
pub fn undo_all() {
    loop {
        let last = lock().undo.pop_last();
        match last {
            Some((_, undo)) => undo(),
            None => return,
        }
    }
}

/// Does not return if a signal is about to end the process: to be asked before it ends in another way.
pub fn wait_if_ending() {
    let is_ending = lock().is_ending;
    if is_ending {
        rest();
    }
}

/// Until the process ends.
fn rest() -> ! {
    loop {
        thread::park();
    }
}

fn lock() -> MutexGuard<'static, Made> {
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
        // Held until the end.
        let _making = making();
        lock().is_ending = true;
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
