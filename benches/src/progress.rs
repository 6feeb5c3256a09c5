//! How far a benchmark is, for whoever watches: one line on the terminal, written anew while something is waited for. Where
//! standard error is no terminal nothing is written.

use std::io::{IsTerminal, Write, stderr};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the line is written.
const STEP: Duration = Duration::from_millis(200);
const WIDTH: usize = 30;

/// The line. Gone when it is dropped.
pub(crate) struct Progress {
    running: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Of something that takes so long.
    pub(crate) fn of(what: &'static str, time: Duration) -> Self {
        Self::start(move |since| line(what, since, Some(time)))
    }

    /// Of something that takes as long as it takes.
    pub(crate) fn until(what: &'static str) -> Self {
        Self::start(move |since| line(what, since, None))
    }

    fn start(line: impl Fn(Duration) -> String + Send + 'static) -> Self {
        if !stderr().is_terminal() {
            return Self { running: None };
        }
        let (stop, stopped) = sync_channel(0);
        let begin = Instant::now();
        let writing = std::thread::spawn(move || {
            while stopped.recv_timeout(STEP) == Err(RecvTimeoutError::Timeout) {
                let _ = write!(stderr(), "\r\x1b[K{}", line(begin.elapsed()));
            }
            let _ = write!(stderr(), "\r\x1b[K");
        });
        Self { running: Some((stop, writing)) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((stop, writing)) = self.running.take() {
            drop(stop);
            let _ = writing.join();
        }
    }
}

fn line(what: &str, since: Duration, time: Option<Duration>) -> String {
    let Some(time) = time.filter(|time| !time.is_zero()) else { return format!("{what}: {} s", since.as_secs()) };
    let done = (since.as_secs_f64() / time.as_secs_f64()).min(1.0);
    let full = (done * WIDTH as f64) as usize;
    let bar: String = "#".repeat(full) + &".".repeat(WIDTH - full);
    format!("{what} [{bar}] {} of {} s", since.as_secs().min(time.as_secs()), time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_and_never_overflows() {
        let at = |seconds| line("measuring", Duration::from_secs(seconds), Some(Duration::from_secs(10)));
        assert_eq!(at(0), format!("measuring [{}] 0 of 10 s", ".".repeat(30)));
        assert_eq!(at(5), format!("measuring [{}{}] 5 of 10 s", "#".repeat(15), ".".repeat(15)));
        assert_eq!(at(60), format!("measuring [{}] 10 of 10 s", "#".repeat(30)));
        assert_eq!(line("starting", Duration::from_secs(3), None), "starting: 3 s");
    }
}
