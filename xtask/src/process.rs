//! Running a command under a time limit, so that a hang becomes a named failure.

use std::fmt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// A command as data: what the list of steps is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Invocation {
    pub(crate) environment: &'static [(&'static str, &'static str)],
    pub(crate) words: &'static [&'static str],
}

/// Why a step did not pass.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    Failed(Option<i32>),
    TimedOut,
    Interrupted,
    NotStarted(String),
    Problems(usize),
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(Some(code)) => write!(f, "exit code {code}"),
            Self::Failed(None) => f.write_str("ended by a signal"),
            Self::TimedOut => f.write_str("took longer than its time limit"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::NotStarted(why) => write!(f, "cannot start: {why}"),
            Self::Problems(count) => write!(f, "{count} problem(s)"),
        }
    }
}

impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.environment {
            write!(f, "{name}={value:?} ")?;
        }
        f.write_str(&self.words.join(" "))
    }
}

/// Runs `invocation` in `root` without a limit.
pub(crate) fn run(root: &Path, invocation: Invocation) -> Result<(), Stopped> {
    run_until(root, invocation, Instant::now() + Duration::from_secs(3_600))
}

/// Runs `invocation` in `root`; at `deadline`, or when this program is told to stop, it is killed with all its children.
pub(crate) fn run_until(root: &Path, invocation: Invocation, deadline: Instant) -> Result<(), Stopped> {
    println!("$ {invocation}");
    let (program, rest) = invocation.words.split_first().expect("an invocation names its program");
    let stop = stop_flag().map_err(|error| Stopped::NotStarted(error.to_string()))?;
    let mut child = Command::new(program)
        .args(rest)
        .envs(invocation.environment.iter().copied())
        .current_dir(root)
        // A group of its own: what hangs is most often a child of cargo's, not cargo.
        .process_group(0)
        .spawn()
        .map_err(|error| Stopped::NotStarted(format!("{program}: {error}")))?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return judge(status),
            Ok(None) if stop.load(Ordering::Relaxed) => return Err(kill(&mut child, Stopped::Interrupted)),
            Ok(None) if Instant::now() >= deadline => return Err(kill(&mut child, Stopped::TimedOut)),
            Ok(None) => pause(),
            Err(error) => return Err(kill(&mut child, Stopped::NotStarted(error.to_string()))),
        }
    }
}

fn judge(status: ExitStatus) -> Result<(), Stopped> {
    if status.success() { Ok(()) } else { Err(Stopped::Failed(status.code())) }
}

fn kill(child: &mut Child, why: Stopped) -> Stopped {
    if let Ok(id) = i32::try_from(child.id())
        && let Some(group) = Pid::from_raw(id)
        && let Err(error) = kill_process_group(group, Signal::KILL)
    {
        eprintln!("cannot kill process group {id}: {error}");
    }
    // Reaps it; the reason is known already.
    drop(child.wait());
    why
}

#[expect(clippy::disallowed_methods, reason = "the standard library has no wait with a time limit")]
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

/// Set once this program is told to stop; the second time it dies at once.
fn stop_flag() -> std::io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &'static [&'static str], limit: Duration) -> Result<(), Stopped> {
        run_until(
            Path::new("."),
            Invocation { environment: &[("ANSWER", "42")], words: script },
            Instant::now() + limit,
        )
    }

    #[test]
    fn exit_codes_and_environment_get_through() {
        let long = Duration::from_secs(60);
        assert_eq!(shell(&["sh", "-c", "test $ANSWER = 42"], long), Ok(()));
        assert_eq!(shell(&["sh", "-c", "exit 7"], long), Err(Stopped::Failed(Some(7))));
        assert!(matches!(shell(&["no-such-program-anywhere"], long), Err(Stopped::NotStarted(_))));
    }

    #[test]
    fn hanging_grandchild_is_killed_at_the_limit() {
        let started = Instant::now();
        let outcome = shell(&["sh", "-c", "sh -c 'sleep 600' ; true"], Duration::from_millis(100));
        assert_eq!(outcome, Err(Stopped::TimedOut));
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
