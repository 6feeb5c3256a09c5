//! Faults of processes: killed, stopped in order, or standing still.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Signal};
use crate::stop::look_again;
use crate::trouble::{Outcome, Trouble, While};

/// How long a store that is asked to stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// How long the kernel may take to stop a process.
const STILL_WITHIN: Duration = Duration::from_secs(5);

/// Stores that do not run.
pub(super) struct Dead {
    at: Vec<usize>,
    /// What shows that they do not run.
    gone: Vec<String>,
}

/// Kills stores, all in one moment as far as that goes.
pub(super) fn kill(cluster: &mut Cluster, at: &[usize]) -> Outcome<(Dead, String)> {
    let mut gone = Vec::new();
    for at in at {
        let pid = cluster.pid(*at)?;
        cluster.kill(*at)?;
        if is_there(pid) {
            return Err(Trouble::new(format!("process {pid} was killed and is still there")));
        }
        gone.push(format!("process {pid} of store {} is gone", at + 1));
    }
    let how = format!("stores {}", list(at));
    Ok((Dead { at: at.to_vec(), gone }, how))
}

/// Stops stores in order.
pub(super) fn stop(cluster: &mut Cluster, at: &[usize]) -> Outcome<(Dead, String)> {
    let mut gone = Vec::new();
    for at in at {
        cluster.stop(*at, STOP_WITHIN)?;
        gone.push(format!("store {} has ended with 0", at + 1));
    }
    Ok((Dead { at: at.to_vec(), gone }, format!("stores {}", list(at))))
}

impl Dead {
    /// The same, with one more thing to be told of.
    pub(super) fn with_trace(mut self, trace: String) -> Self {
        self.gone.push(trace);
        self
    }

    /// Starts them again, all before the first is waited for: they may need each other.
    pub(super) fn start(self, cluster: &mut Cluster) -> Outcome<String> {
        let begun = Instant::now();
        self.at.iter().try_for_each(|at| cluster.begin_start(*at))?;
        self.at.iter().try_for_each(|at| cluster.wait_ready(*at))?;
        Ok(format!("{}; ready again {:.1?} after the start", self.gone.join(", "), begun.elapsed()))
    }
}

/// A store that stands still.
pub(super) struct Still {
    at: usize,
    since: Instant,
}

/// Lets a store stand still.
pub(super) fn pause(cluster: &Cluster, at: usize) -> Outcome<(Still, String)> {
    cluster.signal(at, Signal::STOP)?;
    let since = Instant::now();
    while cluster.state_of(at)? != 'T' {
        if !look_again(since, STILL_WITHIN) {
            return Err(Trouble::new(format!("store {} was sent SIGSTOP and goes on", at + 1)));
        }
    }
    Ok((Still { at, since }, format!("store {}", at + 1)))
}

impl Still {
    pub(super) fn go_on(self, cluster: &Cluster) -> Outcome<String> {
        let state = cluster.state_of(self.at)?;
        if state != 'T' {
            return Err(Trouble::new(format!("store {} went on by itself: state {state}", self.at + 1)));
        }
        let lasted = self.since.elapsed();
        cluster.signal(self.at, Signal::CONT).trying(|| format!("letting store {} go on", self.at + 1))?;
        Ok(format!("store {} was in state T for {lasted:.1?}", self.at + 1))
    }
}

fn is_there(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn list(at: &[usize]) -> String {
    at.iter().map(|at| (at + 1).to_string()).collect::<Vec<_>>().join(", ")
}
