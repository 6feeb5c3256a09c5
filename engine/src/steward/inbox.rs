//! What stores have reported to this one and the planning has not taken yet.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use multiraft_raft::{StoreId, Term};

/// How many bytes may wait. What is dropped beyond is told again: every store repeats everything now and then.
const BYTES_MAX: usize = 64 << 20;

/// A report: who sent it, in which term of the root region it was taken, what it says.
pub(crate) type Posted = (StoreId, Term, Bytes);

/// Shared by the workers, which fill it, and the steward.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inbox(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    reports: VecDeque<Posted>,
    bytes: usize,
}

impl Inbox {
    /// Takes a report; the oldest go if there is no room.
    pub(crate) fn push(&self, posted: Posted) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.bytes += cost(&posted);
        waiting.reports.push_back(posted);
        while waiting.bytes > BYTES_MAX {
            let Some(dropped) = waiting.reports.pop_front() else { break };
            waiting.bytes -= cost(&dropped);
        }
    }

    /// All that wait, oldest first.
    pub(crate) fn take(&self) -> VecDeque<Posted> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).reports
    }
}

fn cost((_, _, report): &Posted) -> usize {
    report.len() + 64
}
