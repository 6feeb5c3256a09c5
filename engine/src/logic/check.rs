//! Consistency checks: what each replica's state was at one index, gathered and compared by the region's leader. The protocol
//! is that of `docs/consistency-check.md`.
//!
//! ```text
//!              applied check
//!   (none) ------------------> asking every replica that holds data "your digest?" --all, or too long--> compared
//!                                                                                                         |   |
//!               handing over <-- the leader's own state is the wrong one, and a quorum agrees -------------+   | others'
//!                    |                                                                                         v
//!                    v                                                                     the fencing proposed here
//!               the next leader begins anew                                                         | applied
//!                                                                                                   v
//!                                                                               findings, for whoever asks for them
//! ```
//!
//! Every replica that applies a check keeps its own digest for a while, so any leader can gather: it asks, nobody is told
//! unasked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use multiraft_raft::{EntryKind, LogIndex, Proposal, RegionDescriptor, RegionId, ReplicaId, Role, StoreId, Term, Time};
use multiraft_router::SlotKey;
use multiraft_transport::RegionStep;

use crate::logic::forward::RETRY;
use crate::logic::worker::Worker;
use crate::logic::{AdminCommand, Notice, Outcome, RegionHandle, ReplyTo};
use crate::region::check::{CheckReport, DigestAnswer, FencedReplica, FencedReplicas, judge};
use crate::region::command::Command;

/// How often the leader asks those that have not answered.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// How long a replica's digest is waited for: a large state takes its time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long that of a replica whose store is not linked.
const ABSENT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a leader tries to fence what it has found, or to hand over.
const FENCE_INTERVAL: Duration = Duration::from_secs(1);

/// For how long.
const FENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a digest and findings are kept.
const KEPT_FOR: Duration = Duration::from_secs(120);

/// Of how many regions of one worker.
const KEPT_MAX: usize = 4096;

/// The last check of each region that has had one lately.
#[derive(Debug, Default)]
pub(super) struct Checks {
    known: BTreeMap<RegionId, Check>,
}

/// A check that a replica here has applied.
#[derive(Debug)]
struct Check {
    index: LogIndex,
    /// When it was applied.
    since: Time,
    /// What is said of the replica here; `None` while its digest is being taken.
    own: Option<DigestAnswer>,
    /// By this leader.
    gathering: Option<Box<Gathering>>,
    findings: Option<Arc<CheckReport>>,
}

/// What a leader has heard.
#[derive(Debug)]
struct Gathering {
    term: Term,
    started: Time,
    /// When to ask next.
    next: Time,
    answers: BTreeMap<ReplicaId, DigestAnswer>,
    /// Since when the answers are complete; those who watch have been told.
    complete: Option<Time>,
    /// When to try next to fence what differs.
    fence_next: Time,
}

impl Gathering {
    fn new(term: Term, now: Time) -> Self {
        Self { term, started: now, next: now, answers: BTreeMap::new(), complete: None, fence_next: now }
    }
}

impl Check {
    fn new(index: LogIndex, now: Time) -> Self {
        Self { index, since: now, own: None, gathering: None, findings: None }
    }

    /// A leader still works on it.
    fn is_open(&self) -> bool {
        self.gathering.is_some() && self.findings.is_none()
    }
}

impl Checks {
    fn at(&mut self, region: RegionId, index: LogIndex) -> Option<&mut Check> {
        self.known.get_mut(&region).filter(|check| check.index == index)
    }

    fn insert(&mut self, region: RegionId, check: Check) -> bool {
        let has_room = self.known.len() < KEPT_MAX || self.known.contains_key(&region);
        if has_room {
            self.known.insert(region, check);
        }
        has_room
    }
}

impl<R> Worker<R> {
    /// A check was applied here.
    pub(super) fn on_checked(&mut self, now: Time, handle: RegionHandle, index: LogIndex) {
        if self.live(handle).is_none() {
            return;
        }
        let is_newer = self.checks.known.get(&handle.region).is_none_or(|check| check.index < index);
        if is_newer {
            self.checks.insert(handle.region, Check::new(index, now));
        }
    }

    /// The digest of a replica here was taken, or never will be.
    pub(super) fn on_digest(&mut self, handle: RegionHandle, index: LogIndex, answer: DigestAnswer) {
        if self.live(handle).is_some()
            && let Some(check) = self.checks.at(handle.region, index)
        {
            check.own = Some(answer);
        }
    }

    /// The region's replica here is gone.
    pub(super) fn forget_check(&mut self, region: RegionId) {
        self.checks.known.remove(&region);
    }

    /// The leader of a region asks for the digest of its replica here.
    pub(super) fn handle_ask_digest(&mut self, from: StoreId, region: RegionId, index: LogIndex) {
        let Some(key) = self.slot_of(region) else { return };
        let group = &self.region(key).group;
        let (replica, applied) = (group.id(), group.applied_index());
        let answer = match self.checks.at(region, index) {
            Some(check) => check.own,
            None => (applied >= index).then_some(DigestAnswer::Missing),
        };
        // One that is being taken is asked for again.
        if let Some(answer) = answer {
            self.say_of_region(from, region, RegionStep::Digest { replica, index, answer: answer.encode() });
        }
    }

    /// A replica's digest.
    pub(super) fn handle_digest(
        &mut self,
        from: StoreId,
        region: RegionId,
        (replica, index): (ReplicaId, LogIndex),
        answer: &[u8],
    ) {
        let Some(key) = self.slot_of(region) else { return };
        if self.region(key).store_of(replica) != Some(from) {
            return;
        }
        let Some(answer) = DigestAnswer::decode(answer) else { return };
        if let Some(gathering) = self.checks.at(region, index).and_then(|check| check.gathering.as_mut()) {
            gathering.answers.insert(replica, answer);
        }
    }

    /// Whether a check of the region has not come to its end.
    pub(super) fn is_checking(&self, region: RegionId) -> bool {
        self.checks.known.get(&region).is_some_and(Check::is_open)
    }

    /// What came of the check at an entry, or of a later one, as far as this leader knows.
    pub(super) fn tell_findings(&mut self, now: Time, key: SlotKey, index: LogIndex, to: ReplyTo<R>) {
        let (id, applied) = (self.region(key).id(), self.region(key).group.applied_index());
        let busy = Outcome::Busy { retry_after: RETRY };
        let outcome = match self.checks.known.get(&id).filter(|check| check.index >= index) {
            Some(check) => check
                .findings
                .as_ref()
                .map_or(busy, |findings| Outcome::Applied { reply: findings.encode(), index: check.index }),
            None if applied < index => busy,
            None => {
                // Applied before this replica started, or came here by a snapshot: others may still know.
                let check = Check { own: Some(DigestAnswer::Missing), ..Check::new(index, now) };
                self.checks.insert(id, check);
                busy
            }
        };
        self.answer(to, outcome);
    }

    /// Takes the next step of every check that is led here; once a round.
    pub(super) fn drive_checks(&mut self, now: Time) {
        if self.checks.known.is_empty() {
            return;
        }
        self.checks.known.retain(|_, check| now.since(check.since) < KEPT_FOR);
        let open = self.checks.known.iter().filter(|(_, check)| check.findings.is_none());
        for region in open.map(|(region, _)| *region).collect::<Vec<_>>() {
            if let Some(key) = self.slot_of(region) {
                self.drive_check(now, key);
            }
        }
    }

    fn drive_check(&mut self, now: Time, key: SlotKey) {
        let group = &self.region(key).group;
        let (id, own, term, leads) = (self.region(key).id(), group.id(), group.term(), group.is_leader());
        let Some(check) = self.checks.known.get_mut(&id) else { return };
        if !leads {
            check.gathering = None;
            return;
        }
        let index = check.index;
        let gathering = match check.gathering.as_mut().filter(|gathering| gathering.term == term) {
            Some(gathering) => gathering,
            None => check.gathering.insert(Box::new(Gathering::new(term, now))),
        };
        if let Some(answer) = check.own {
            gathering.answers.insert(own, answer);
        }
        let waited = now.since(gathering.started);
        let region = self.regions.get(key).expect("invariant: looked up in this turn");
        let fenced = &region.merge.fenced;
        let missing: Vec<(ReplicaId, StoreId)> = region
            .descriptor()
            .replicas
            .iter()
            .filter(|replica| replica.role != Role::Witness && !fenced.contains(replica.id))
            .filter(|replica| !gathering.answers.contains_key(&replica.id))
            .map(|replica| (replica.id, replica.store))
            .collect();
        let is_present = |(id, store): &(ReplicaId, StoreId)| *id == own || self.peers.is_up(*store);
        let patience = if missing.iter().any(is_present) { ANSWER_TIMEOUT } else { ABSENT_TIMEOUT };
        if !missing.is_empty() && waited < patience {
            if now >= gathering.next {
                gathering.next = now.plus(ASK_INTERVAL);
                for (_, store) in missing.into_iter().filter(|(id, _)| *id != own) {
                    self.say_of_region(store, id, RegionStep::AskDigest { index });
                }
            }
            return;
        }
        // What is compared is compared among those that decide; a joint configuration is left by itself.
        if region.group.membership().is_joint() && waited < ANSWER_TIMEOUT {
            return;
        }
        self.conclude(now, key, index);
    }

    /// All answers are there that will be.
    fn conclude(&mut self, now: Time, key: SlotKey, index: LogIndex) {
        let region = self.region(key);
        let (id, own) = (region.id(), region.group.id());
        let (descriptor, fenced) = (Arc::clone(region.descriptor()), Arc::clone(&region.merge.fenced));
        let is_joint = region.group.membership().is_joint();
        let Some(gathering) = self.checks.at(id, index).and_then(|check| check.gathering.as_mut()) else { return };
        let (report, to_fence) = judge(&descriptor, index, &fenced, &gathering.answers);
        let (report, is_told) = (Arc::new(report), gathering.complete.is_some());
        let since = *gathering.complete.get_or_insert(now);
        let is_due = now >= gathering.fence_next;
        // Those that are fenced already were told of before.
        if !is_told && report.differing().any(|replica| !replica.fenced) {
            self.notices.push(Notice::ReplicasDiffer(Arc::clone(&report)));
        }
        let wants_fencing = !to_fence.is_empty() && !is_joint && now.since(since) < FENCE_TIMEOUT;
        if wants_fencing && !is_due {
            return;
        }
        if wants_fencing {
            if let Some(gathering) = self.checks.at(id, index).and_then(|check| check.gathering.as_mut()) {
                gathering.fence_next = now.plus(FENCE_INTERVAL);
            }
            if to_fence.iter().any(|fence| fence.replica == own) {
                return self.hand_over_to_equal(now, key, &report);
            }
            return self.propose_fencing(now, key, index, &to_fence);
        }
        self.notices.push(Notice::Checked { region: id, is_consistent: report.is_consistent() });
        if let Some(check) = self.checks.at(id, index) {
            check.findings = Some(report);
        }
    }

    /// This leader's own state is the wrong one: a voter whose state is right takes over, and fences it.
    fn hand_over_to_equal(&mut self, now: Time, key: SlotKey, report: &CheckReport) {
        let expected = report.expected;
        let is_right = |id| report.replicas.iter().any(|check| check.replica == id && check.digest == expected);
        let group = &self.region(key).group;
        let others = self.successors(now, key).filter(|replica| is_right(replica.id));
        let Some(target) = others.max_by_key(|replica| group.match_index(replica.id)).copied() else { return };
        // One that is under way already is left to itself.
        if self.region_mut(key).group.transfer_leader(now, target.id).is_ok() {
            self.touch(key);
        }
    }

    /// Replicas of a region were fenced: those that had not been before are told of.
    pub(super) fn tell_fenced(&mut self, region: &RegionDescriptor, before: &FencedReplicas, after: &FencedReplicas) {
        for fenced in after.0.iter().filter(|fenced| !before.contains(fenced.replica)) {
            let Some(replica) = region.replica(fenced.replica) else { continue };
            let (region, fenced, store) = (region.id, *fenced, replica.store);
            self.notices.push(Notice::ReplicaFenced { region, fenced, store });
        }
    }

    fn propose_fencing(&mut self, now: Time, key: SlotKey, index: LogIndex, to_fence: &[FencedReplica]) {
        let region = self.region(key);
        let Some(expected) = to_fence.first().map(|fence| fence.expected) else { return };
        // One change at a time; and a frozen region takes none.
        if region.group.applied_index() < region.admin_barrier || region.merge.frozen.is_some() {
            return;
        }
        let replicas = to_fence.iter().map(|fence| fence.replica).collect();
        let command = AdminCommand::FenceReplicas { index, expected, replicas }.encode();
        let data = Command::encode_admin(region.descriptor().epoch, &command);
        let region = self.region_mut(key);
        if let Ok(index) = region.group.propose(now, &mut vec![Proposal { kind: EntryKind::Command, data }]) {
            region.group.hurry_commit(index);
            region.admin_barrier = index;
            self.touch(key);
        }
    }
}
