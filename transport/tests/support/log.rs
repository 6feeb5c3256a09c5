//! Reads what is logged, so that tests can wait for it.

use std::{
    io,
    sync::{Condvar, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use super::PATIENCE;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
static MORE: Condvar = Condvar::new();
static INSTALLED: OnceLock<()> = OnceLock::new();

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line).into_owned();
        LINES.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        MORE.notify_all();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects warnings and errors of this process from now on.
pub(crate) fn capture() {
    INSTALLED.get_or_init(|| {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
            .with_ansi(false)
            .with_writer(|| Writer)
            .init();
    });
}

/// Waits for a line that contains all of `parts`.
pub(crate) fn wait(parts: &[&str]) -> String {
    let deadline = Instant::now() + PATIENCE;
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(line) = lines.iter().find(|line| parts.iter().all(|part| line.contains(part))) {
            return line.clone();
        }
        let left = deadline.checked_duration_since(Instant::now());
        let left = left.unwrap_or_else(|| panic!("no line with {parts:?} in {lines:#?}"));
        lines = MORE.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}
