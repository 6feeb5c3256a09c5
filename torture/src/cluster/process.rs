//! A store's process: started, signalled, waited for, and never left behind.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process};

use crate::cleanup::{Guard, at_end, making};
use crate::ground::clean_up_after;
use crate::stop::look_again;
use crate::trouble::{Outcome, Trouble, While};

pub use rustix::process::Signal;

/// How many lines of its output wait to be looked at; a store prints one.
const LINES_MAX: usize = 16;

/// How long the kernel may take to end a process that was killed.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
}

/// A running process. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    _kill: Guard,
}

impl Process {
    /// Starts a program; what it says on stderr is added to a file.
    pub(super) fn spawn(mut command: Command, log: &Path) -> Outcome<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.trying(|| format!("opening {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let making = making();
        let mut child = command.spawn().trying(|| format!("starting {}", command.get_program().display()))?;
        let pid = pid_of(&child);
        let number = child.id();
        let kill = at_end(move || {
            // One that has ended, and was not waited for, takes it without harm.
            let _ = kill_process(pid, Signal::KILL);
            let begun = Instant::now();
            while state_of(number).is_ok_and(|state| state != 'Z') && look_again(begun, GONE_WITHIN) {}
            clean_up_after(number);
        });
        drop(making);
        let kill = match kill {
            Ok(kill) => kill,
            Err(trouble) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(trouble);
            }
        };
        let (sender, lines) = mpsc::sync_channel(LINES_MAX);
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let whole = BufReader::new(stdout).lines().map_while(Result::ok);
                for line in whole {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { child, lines, _kill: kill })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn wait_for_line(&mut self, wanted: &str, limit: Duration) -> Outcome<()> {
        match self.lines.recv_timeout(limit) {
            Ok(line) if line == wanted => Ok(()),
            Ok(line) => Err(Trouble::new(format!("it said `{line}`, where `{wanted}` was expected"))),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(Trouble::new(format!("it said nothing for {limit:?}"))),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let ended = self.wait_end(Duration::from_secs(1));
                Err(Trouble::new(format!("it has ended: {ended:?}")))
            }
        }
    }

    pub(super) fn signal(&self, signal: Signal) -> Outcome<()> {
        kill_process(pid_of(&self.child), signal).trying(|| format!("sending {signal:?} to process {}", self.pid()))
    }

    pub(super) fn kill(&mut self) {
        // Killed already, or never to be found again: both will do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(super) fn ended(&mut self) -> Option<Ended> {
        self.child.try_wait().ok().flatten().map(|status| Ended { code: status.code() })
    }

    pub(super) fn wait_end(&mut self, limit: Duration) -> Option<Ended> {
        let begun = Instant::now();
        loop {
            let ended = self.ended();
            if ended.is_some() || !look_again(begun, limit) {
                return ended;
            }
        }
    }

    pub(super) fn state(&self) -> Outcome<char> {
        state_of(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The state letter of a process, as the kernel tells it.
fn state_of(pid: u32) -> Outcome<char> {
    let file = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&file).trying(|| format!("reading {file}"))?;
    // After the name, which may hold anything, in brackets.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.ok_or_else(|| Trouble::new(format!("{file} holds no state")))
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}
