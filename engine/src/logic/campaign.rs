//! Groups whose time has come: leaders beat, followers campaign, so many of them at once.
//!
//! A campaign costs this store and others a dozen messages and some flushes. If all the groups of a store that has died
//! campaigned at the same time, the answers to the first would wait behind the requests of the last, until they came too late:
//! then these campaign again, and no end is to be seen. So a worker has only so many campaigns under way that answers come
//! well within an election timeout; whose time comes then stands in line.
//!
//! ```text
//!   time has come --> in line --> under way --> leads, or follows a leader
//!        ^                            |
//!        +------ no answer came ------+
//! ```
//!
//! Who could not win anyway, because too few of the stores of its region are heard of, costs nobody anything, and takes nobody's
//! place: it does not stand in line. So the line moves on by the answers, or an election timeout, of those who may win.

use std::collections::VecDeque;

use multiraft_raft::{RoleKind, Time};
use multiraft_router::SlotKey;

use crate::logic::worker::Worker;

/// How many due groups one turn takes: a bound on a turn's length, also when a hundred thousand groups are due at once.
const DUE_PER_TURN: usize = 4096;
/// How many campaigns of one worker may be under way.
const CAMPAIGNS_AT_ONCE: usize = 512;
/// How many of those in line one turn looks at: many have got a leader meanwhile.
const LOOKED_AT_PER_TURN: usize = 4096;

/// Who stands in line.
#[derive(Debug, Default)]
pub(super) struct Campaigns {
    line: VecDeque<SlotKey>,
    /// Invariant: as many regions stand at [`Attempt::UnderWay`].
    under_way: usize,
    due: Vec<SlotKey>,
}

/// Where a region stands that is to have a leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It has one, or waits for one.
    #[default]
    None,
    /// It is to campaign, if nobody leads when its turn comes. Invariant: it is in the line once.
    InLine,
    /// It campaigns.
    UnderWay,
}

impl Campaigns {
    /// Gives memory back that only many due groups need.
    pub(super) fn shrink(&mut self, kept: usize) {
        self.due.shrink_to(kept);
        self.line.shrink_to(kept);
    }

    /// Whether the line could move on at once.
    pub(super) fn moves_on(&self) -> bool {
        self.under_way < CAMPAIGNS_AT_ONCE && !self.line.is_empty()
    }
}

impl<R> Worker<R> {
    pub(super) fn handle_due(&mut self, now: Time) {
        let mut due = std::mem::take(&mut self.campaigns.due);
        self.deadlines.pop_due(now, DUE_PER_TURN, &mut due);
        for key in due.drain(..) {
            let Some(region) = self.regions.get_mut(key) else { continue };
            if region.group.is_leader() {
                self.brief(key);
            } else if !self.supports.may_vote() {
                // Its wait for a leader begins anew.
                region.group.wake(now);
            } else if region.group.wants_to_campaign(now) && self.has_quorum_in_reach(now, key) {
                self.stand_in_line(key);
                continue;
            }
            self.serve_due(now, key);
        }
        self.campaigns.due = due;
        self.move_line(now);
    }

    fn serve_due(&mut self, now: Time, key: SlotKey) {
        let region = self.region_mut(key);
        let rested = region.group.is_resting();
        region.group.handle_deadline(now);
        if !rested && region.group.is_resting() {
            self.on_rest(key);
        }
        self.touch(key);
    }

    /// Whether enough stores of a region are heard of that its replica here could be elected.
    fn has_quorum_in_reach(&self, now: Time, key: SlotKey) -> bool {
        let (region, own, silence) = (self.region(key), self.config.store, self.config.raft.election_timeout_min);
        let is_heard = |store| store == own || self.peers.is_heard(store, now, silence);
        region.group.membership().is_quorum(|replica| region.store_of(replica).is_some_and(is_heard))
    }

    fn stand_in_line(&mut self, key: SlotKey) {
        // Its last attempt, if it is that which it was about, has come to nothing.
        self.end_attempt(key);
        let region = self.region_mut(key);
        if region.attempt == Attempt::None {
            region.attempt = Attempt::InLine;
            self.campaigns.line.push_back(key);
        }
    }

    /// Those whose turn has come campaign, unless somebody leads by now.
    fn move_line(&mut self, now: Time) {
        for _ in 0..LOOKED_AT_PER_TURN {
            if !self.campaigns.moves_on() {
                return;
            }
            let Some(key) = self.campaigns.line.pop_front() else { return };
            let Some(region) = self.regions.get_mut(key) else { continue };
            region.attempt = Attempt::None;
            if !region.group.wants_to_campaign(now) {
                continue;
            }
            self.serve_due(now, key);
            let region = self.region_mut(key);
            if is_campaign(region.group.role()) {
                region.attempt = Attempt::UnderWay;
                self.campaigns.under_way += 1;
            }
        }
    }

    /// A group has taken another role: whoever campaigns no more makes room for the next.
    pub(super) fn on_role(&mut self, key: SlotKey, role: RoleKind) {
        if !is_campaign(role) {
            self.end_attempt(key);
        }
    }

    /// A campaign under way is over, or of no more account.
    pub(super) fn end_attempt(&mut self, key: SlotKey) {
        let region = self.region_mut(key);
        if region.attempt == Attempt::UnderWay {
            region.attempt = Attempt::None;
            self.campaigns.under_way -= 1;
        }
    }
}

fn is_campaign(role: RoleKind) -> bool {
    matches!(role, RoleKind::PreCandidate | RoleKind::Candidate)
}
