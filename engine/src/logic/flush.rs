//! What waits for the log: groups that want to know that their append is durable, and messages that say so.
//!
//! Messages that assert durability stay inside their [`Gated`] until the log's token opens it; a queue in ticket order
//! makes that a matter of looking at its front.

use std::collections::VecDeque;

use multiraft_raft::{Gated, LogStep, LogTicket, Message, Output, RegionId, Time};
use multiraft_router::SlotKey;
use multiraft_storage::{FlushToken, GroupRecord, LogChange};

use crate::logic::ahead::AHEAD;
use crate::logic::worker::Worker;

/// One worker's appends that are under way.
pub(super) struct FlushQueue {
    /// The newest evidence.
    token: FlushToken,
    /// The ticket of the last append.
    last: LogTicket,
    /// Appends that are not durable yet, oldest first, with the groups that they are for.
    appends: VecDeque<(LogTicket, Vec<SlotKey>)>,
    /// Messages that wait, oldest ticket first.
    gated: VecDeque<(SlotKey, Gated<Message, FlushToken>)>,
    /// Messages whose ticket is older than the newest one waiting: released out of order, kept apart so that `gated` stays
    /// sorted.
    early: Vec<(SlotKey, Gated<Message, FlushToken>)>,
}

impl FlushQueue {
    pub(super) fn new(token: FlushToken) -> Self {
        Self { token, last: token.upto(), appends: VecDeque::new(), gated: VecDeque::new(), early: Vec::new() }
    }

    /// The ticket that the next append will have.
    pub(super) fn next_ticket(&self) -> LogTicket {
        LogTicket { lane: self.last.lane, seq: self.last.seq + 1 }
    }

    /// Notes that this turn appends under `ticket`.
    pub(super) fn on_appended(&mut self, ticket: LogTicket, groups: Vec<SlotKey>) {
        debug_assert_eq!(ticket, self.next_ticket());
        self.last = ticket;
        self.appends.push_back((ticket, groups));
    }

    /// Keeps a message until its ticket is durable.
    pub(super) fn gate(&mut self, key: SlotKey, gated: Gated<Message, FlushToken>) {
        let newest = self.gated.back().map_or(0, |(_, last)| last.ticket().seq);
        if gated.ticket().seq >= newest {
            self.gated.push_back((key, gated));
        } else {
            self.early.push((key, gated));
        }
    }

    /// Gives back room beyond this for what waits no longer.
    pub(super) fn shrink_to(&mut self, kept: usize) {
        self.appends.shrink_to(kept);
        self.gated.shrink_to(kept);
        self.early.shrink_to(kept);
    }

    /// Appends and messages that wait.
    pub(super) fn waiting(&self) -> usize {
        self.appends.len() + self.gated.len() + self.early.len()
    }
}

impl<R> Worker<R> {
    /// Tells the groups that their appends are durable.
    pub(super) fn on_flushed(&mut self, now: Time, token: FlushToken) {
        if token.upto().lane != self.flush.last.lane || token.upto().seq < self.flush.token.upto().seq {
            return;
        }
        self.flush.token = token;
        self.on_removals_durable(token.upto().seq);
        let reads_ahead = self.reads_ahead();
        while let Some((ticket, _)) = self.flush.appends.front() {
            if ticket.seq > token.upto().seq {
                break;
            }
            let Some((_, groups)) = self.flush.appends.pop_front() else { break };
            for some in groups.chunks(AHEAD) {
                if reads_ahead {
                    self.read_ahead(some.iter());
                }
                for &key in some {
                    // What is gated goes by the token alone, at the end of the turn.
                    if self.regions.get_mut(key).is_some_and(|region| region.group.on_flushed(now, &token)) {
                        self.touch(key);
                    }
                }
            }
        }
    }

    /// Sends the messages whose append is durable. Those of a group that is gone are dropped.
    pub(super) fn release_gated(&mut self) {
        let token = self.flush.token;
        let early = std::mem::take(&mut self.flush.early);
        for (key, gated) in early {
            self.try_release(key, gated, &token);
        }
        while let Some((key, gated)) = self.flush.gated.pop_front() {
            match gated.release(&token) {
                Ok(message) if self.regions.wake(key) => self.send_raft(key, message),
                Ok(_) => {}
                Err(gated) => {
                    self.flush.gated.push_front((key, gated));
                    break;
                }
            }
        }
    }

    fn try_release(&mut self, key: SlotKey, gated: Gated<Message, FlushToken>, token: &FlushToken) {
        match gated.release(token) {
            Ok(message) if self.regions.wake(key) => self.send_raft(key, message),
            Ok(_) => {}
            Err(gated) => self.flush.early.push((key, gated)),
        }
    }

    /// Appends that are not durable yet, and messages that wait for them.
    #[must_use]
    pub fn waiting_for_flush(&self) -> usize {
        self.flush.waiting()
    }
}

/// Moves what a group wants logged into the batch; returns whether that was anything.
pub(super) fn sort_records(id: RegionId, output: &mut Output<FlushToken>, log: &mut Vec<GroupRecord>) -> bool {
    let before = log.len();
    for step in output.log.drain(..) {
        let change = match step {
            LogStep::Append(entries) => LogChange::Append(entries),
            LogStep::Truncate { index, term } => LogChange::Truncate { index, term },
            LogStep::Reset { index, term } => LogChange::Reset { index, term },
        };
        log.push(GroupRecord { region: id, log: change, hard_state: None });
    }
    if let Some(hard_state) = output.hard_state.take() {
        if log.len() == before {
            log.push(GroupRecord { region: id, log: LogChange::None, hard_state: None });
        }
        log.last_mut().expect("invariant: a record was just pushed").hard_state = Some(hard_state);
    }
    log.len() > before
}
