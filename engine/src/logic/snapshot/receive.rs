//! The follower's side: what is accepted, what of a broken transfer is still there, and what is installed.
//!
//! Invariant: every `SnapshotTask::Expect` is answered by one `Input::SnapshotReceived` or `Input::SnapshotLost`, after a
//! `SnapshotTask::Cancel` at once; until then it counts against the limit, and its region takes no other snapshot.

use std::collections::BTreeMap;
use std::time::Duration;

use multiraft_raft::{LogIndex, Membership, RegionId, StoreId, Term, Time};
use multiraft_router::SlotKey;
use multiraft_transport::{CaptureId, PeerMessage, SnapshotHeader, SnapshotMessage, SnapshotStep};

use super::kept::Kept;
use crate::logic::input::KeptSnapshot;
use crate::logic::worker::Worker;
use crate::logic::{LaneKind, Notice, Outcome, RegionHandle, SnapshotInstalled, SnapshotTask};

/// How long a refused offer waits.
const RETRY_AFTER_MS: u32 = 200;

/// How often it is tried to install one that waits for another region: a parent that has not split here yet, a region that
/// has not heard of its end. That is a matter of a moment as a rule, while another transfer would take its time.
const INSTALL_RETRY: Duration = Duration::from_millis(20);
/// How long it is tried. Then the sender has to come again.
const INSTALL_PATIENCE: Duration = Duration::from_secs(5);

/// Snapshots on their way into one worker's regions.
#[derive(Debug)]
pub(super) struct Receiving {
    active: BTreeMap<(StoreId, u64), Incoming>,
    /// What broken transfers have left in the driver's hands.
    partial: Kept<RegionId, Partial>,
    pub(super) installs: Vec<(RegionHandle, StoreId, SnapshotHeader)>,
}

/// A snapshot that is here as a whole and waits for another region. It takes nobody's place: those of the region that it waits
/// for come beside it.
#[derive(Debug)]
struct Waiting {
    handle: RegionHandle,
    header: SnapshotHeader,
    /// When it is tried again.
    next: Time,
    /// When it is given up.
    until: Time,
}

#[derive(Debug)]
struct Incoming {
    key: SlotKey,
    stage: Stage,
    /// It had to wait, and perhaps has to.
    waiting: Option<Box<Waiting>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has to come later than this.
    Expected(Time),
    /// Given up; its end is waited for.
    Cancelled,
    /// Whole. That ends by itself.
    Installing,
    /// Whole, and to be installed later.
    Waiting,
}

/// The first chunks of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Partial {
    capture: CaptureId,
    chunks: u64,
}

/// What is to be done with a snapshot that is here as a whole.
enum Verdict {
    Install,
    Discard,
}

impl Receiving {
    pub(super) fn new() -> Self {
        Self { active: BTreeMap::new(), partial: Kept::new(), installs: Vec::new() }
    }

    fn count(&self, is_meant: impl Fn(Stage) -> bool) -> usize {
        self.active.values().filter(|incoming| is_meant(incoming.stage)).count()
    }

    fn names(&self, is_meant: impl Fn(StoreId, &Incoming) -> bool) -> Vec<(StoreId, u64)> {
        self.active.iter().filter(|((from, _), incoming)| is_meant(*from, incoming)).map(|(name, _)| *name).collect()
    }
}

impl<R> Worker<R> {
    /// Whether an offered snapshot is wanted, and from which chunk on.
    pub(super) fn consider(
        &mut self,
        now: Time,
        key: SlotKey,
        (from, leads): (StoreId, bool),
        transfer: u64,
        (index, term): (LogIndex, Term),
        capture: Option<CaptureId>,
    ) -> SnapshotStep {
        let region = self.region(key);
        if !region.group.would_install(index, term) {
            return SnapshotStep::Refuse { retry_after_ms: 0 };
        }
        let region = region.id();
        // A new offer of the same leader tells that its earlier one came to nothing, and the present leader's that nobody
        // needs to wait for an earlier leader's; unless that is being installed.
        let is_void = |store, incoming: &Incoming| incoming.key == key && (leads || store == from);
        for name in self.transfers.receiving.names(is_void) {
            self.cancel_incoming(name);
        }
        let receiving = &self.transfers.receiving;
        let is_busy = receiving.active.values().any(|incoming| incoming.key == key);
        if is_busy || receiving.count(|stage| stage != Stage::Waiting) >= self.config.snapshots_at_once {
            return SnapshotStep::Refuse { retry_after_ms: RETRY_AFTER_MS };
        }
        let first_chunk = match self.transfers.receiving.partial.remove(region) {
            Some(partial) if capture == Some(partial.capture) => partial.chunks,
            Some(partial) => {
                self.transfers.tasks.push(SnapshotTask::Forget { region, capture: partial.capture });
                0
            }
            None => 0,
        };
        self.counters.snapshots_taken_up += u64::from(first_chunk > 0);
        let stage = Stage::Expected(now.plus(self.config.snapshots.step_timeout));
        self.transfers.receiving.active.insert((from, transfer), Incoming { key, stage, waiting: None });
        self.transfers.tasks.push(SnapshotTask::Expect { from, transfer, region });
        SnapshotStep::Accept { first_chunk }
    }

    /// Gives up what is still expected; that it has ended is told later. What waits is dropped.
    fn cancel_incoming(&mut self, name: (StoreId, u64)) {
        let active = &mut self.transfers.receiving.active;
        if active.get(&name).is_some_and(|incoming| incoming.stage == Stage::Waiting) {
            if let Some(Waiting { header, .. }) = active.remove(&name).and_then(|gone| gone.waiting).map(|gone| *gone) {
                self.transfers.tasks.push(SnapshotTask::Discard { from: name.0, header });
            }
            return;
        }
        let incoming = active.get_mut(&name);
        if let Some(incoming) = incoming.filter(|incoming| matches!(incoming.stage, Stage::Expected(_))) {
            incoming.stage = Stage::Cancelled;
            self.transfers.tasks.push(SnapshotTask::Cancel { from: Some(name.0), transfer: name.1 });
        }
    }

    pub(super) fn on_incoming_moving(&mut self, now: Time, name: (StoreId, u64)) {
        let deadline = now.plus(self.config.snapshots.step_timeout);
        if let Some(Incoming { stage: Stage::Expected(until), .. }) = self.transfers.receiving.active.get_mut(&name) {
            *until = deadline;
        }
    }

    /// A whole snapshot is here: it is installed if it still helps.
    pub(in crate::logic) fn on_snapshot_received(&mut self, from: StoreId, header: SnapshotHeader) {
        let name = (from, header.transfer);
        let incoming = self.transfers.receiving.active.get_mut(&name);
        let Some(incoming) = incoming.filter(|incoming| matches!(incoming.stage, Stage::Expected(_))) else {
            // Given up meanwhile.
            self.transfers.receiving.active.remove(&name);
            self.refuse_received(from, &header);
            self.transfers.tasks.push(SnapshotTask::Discard { from, header });
            return;
        };
        let key = incoming.key;
        incoming.stage = Stage::Installing;
        match self.judge_received(key, &header) {
            Verdict::Install => {
                let handle = self.region(key).handle();
                self.transfers.receiving.installs.push((handle, from, header));
            }
            Verdict::Discard => {
                self.transfers.receiving.active.remove(&name);
                self.tell_finished(key, from, header.transfer, false);
                self.transfers.tasks.push(SnapshotTask::Discard { from, header });
            }
        }
    }

    /// A snapshot came that nobody waits for any more: its sender is told, whose place for another it takes.
    fn refuse_received(&mut self, from: StoreId, header: &SnapshotHeader) {
        let Some(sender) = header.descriptor.replica_on(from) else { return };
        let message = SnapshotMessage {
            transfer: header.transfer,
            region: header.region,
            from: header.to,
            to: sender.id,
            term: Term::ZERO,
            step: SnapshotStep::Finished { installed: false },
        };
        self.peers.entry(from).push(LaneKind::Control, PeerMessage::Snapshot(message));
    }

    /// What a peer says is checked: it must be this replica's region, with this replica in it, and still help.
    fn judge_received(&mut self, key: SlotKey, header: &SnapshotHeader) -> Verdict {
        let own = self.config.store;
        let is_useful = self.regions.get_mut(key).is_some_and(|region| {
            let descriptor = &header.descriptor;
            // One without a state goes by what it was told when it came to be, which may be newer than any state on its way here.
            let is_of_the_past = region.initialised && descriptor.epoch.is_behind(region.descriptor().epoch);
            region.id() == header.region
                && descriptor.id == header.region
                && header.to == region.group.id()
                && descriptor.replica_on(own).is_some_and(|replica| replica.id == header.to)
                && !is_of_the_past
                && region.group.would_install(header.index, header.index_term)
        });
        if is_useful { Verdict::Install } else { Verdict::Discard }
    }

    /// A snapshot that was expected will not come, as a whole. What is there of it is kept.
    pub(in crate::logic) fn on_snapshot_lost(
        &mut self,
        now: Time,
        from: StoreId,
        transfer: u64,
        kept: Option<KeptSnapshot>,
    ) {
        let incoming = self.transfers.receiving.active.remove(&(from, transfer));
        if let Some(KeptSnapshot { region, capture, chunks, bytes, .. }) = kept {
            let is_here = incoming.as_ref().is_some_and(|incoming| self.regions.contains(incoming.key));
            if is_here {
                let partial = Partial { capture, chunks };
                let gone = self.transfers.receiving.partial.insert(now, &self.config.snapshots, region, bytes, partial);
                self.forget_partials(gone);
            } else {
                self.transfers.tasks.push(SnapshotTask::Forget { region, capture });
            }
        }
        if let Some(incoming) = incoming {
            self.tell_finished(incoming.key, from, transfer, false);
        }
    }

    fn forget_partials(&mut self, gone: Vec<(RegionId, Partial)>) {
        let forget = |(region, partial): (RegionId, Partial)| SnapshotTask::Forget { region, capture: partial.capture };
        self.transfers.tasks.extend(gone.into_iter().map(forget));
    }

    /// Tells the sender how a transfer ended, so that it can use the place for another.
    fn tell_finished(&mut self, key: SlotKey, from: StoreId, transfer: u64, installed: bool) {
        let Some(region) = self.regions.get_mut(key) else { return };
        let Some(leader) = region.descriptor().replica_on(from).map(|replica| replica.id) else { return };
        let message = SnapshotMessage {
            transfer,
            region: region.id(),
            from: region.group.id(),
            to: leader,
            term: region.group.term(),
            step: SnapshotStep::Finished { installed },
        };
        self.peers.entry(from).push(LaneKind::Control, PeerMessage::Snapshot(message));
    }

    /// The state was replaced, durably; now the group's log begins after it.
    pub(in crate::logic) fn on_snapshot_installed(&mut self, now: Time, done: SnapshotInstalled) {
        if done.waits && self.put_off(now, &done) {
            return;
        }
        let SnapshotInstalled { handle, from, header, installed, waits, merge, covered } = done;
        self.pass_on_absorbed(covered);
        if waits {
            tracing::info!(region = %header.region, "a received snapshot could not be installed in time");
            self.transfers.tasks.push(SnapshotTask::Discard { from, header: header.clone() });
        }
        self.transfers.receiving.active.remove(&(from, header.transfer));
        let Some(key) = self.live(handle) else { return };
        if installed {
            let region = self.region_mut(key);
            let membership = Membership::from_replicas(&header.descriptor.replicas);
            // False: the log reached the index by itself meanwhile. The applier has skipped ahead: what the entries in between
            // have made of the region it does not tell any more, the snapshot does.
            let restored = region.group.restore(now, header.index, header.index_term, membership);
            let is_news = !header.descriptor.epoch.is_behind(region.descriptor().epoch);
            if restored || is_news {
                let was_known = region.initialised && **region.descriptor() == *header.descriptor;
                region.initialised = true;
                region.set_descriptor(header.descriptor.clone());
                self.set_merge_state(key, merge);
                if !was_known {
                    self.notices.push(Notice::Descriptor(header.descriptor.clone()));
                }
            }
            let region = self.region_mut(key);
            region.durable = region.durable.max(header.index);
            self.counters.snapshots_installed += 1;
            self.notices.push(Notice::SnapshotInstalled { region: handle.region, index: header.index });
            self.forget_covered(key, header.index);
            self.release_confirmed(key);
            self.touch(key);
        }
        self.tell_finished(key, from, header.transfer, installed);
    }

    /// A snapshot has to wait for another region; says whether it may.
    fn put_off(&mut self, now: Time, done: &SnapshotInstalled) -> bool {
        let is_full = self.transfers.receiving.count(|stage| stage == Stage::Waiting) >= self.config.snapshots_at_once;
        let is_live = self.live(done.handle).is_some();
        let Some(incoming) = self.transfers.receiving.active.get_mut(&(done.from, done.header.transfer)) else {
            return false;
        };
        let until = incoming.waiting.as_ref().map_or(now.plus(INSTALL_PATIENCE), |waiting| waiting.until);
        if is_full || !is_live || now >= until {
            return false;
        }
        incoming.stage = Stage::Waiting;
        let (handle, header, next) = (done.handle, done.header.clone(), now.plus(INSTALL_RETRY));
        incoming.waiting = Some(Box::new(Waiting { handle, header, next, until }));
        true
    }

    /// Tries again to install what waits.
    fn resume_waiting(&mut self, now: Time) {
        let Receiving { active, installs, .. } = &mut self.transfers.receiving;
        for ((from, _), incoming) in active.iter_mut().filter(|(_, incoming)| incoming.stage == Stage::Waiting) {
            if let Some(waiting) = incoming.waiting.as_ref().filter(|waiting| waiting.next <= now) {
                incoming.stage = Stage::Installing;
                installs.push((waiting.handle, *from, waiting.header.clone()));
            }
        }
    }

    /// Commands proposed here that a snapshot covers: whether they are in it cannot be told.
    fn forget_covered(&mut self, key: SlotKey, index: LogIndex) {
        let Some(waiting) = self.region_mut(key).busy.as_mut() else { return };
        let covered = waiting.proposed.partition_point(|proposed| proposed.index <= index);
        let unknown: Vec<_> = waiting.proposed.drain(..covered).collect();
        for proposed in unknown {
            self.answer(proposed.reply, Outcome::Uncertain);
        }
    }

    /// The link to a peer changed: what was to come over the old one will not.
    pub(super) fn on_link_incoming(&mut self, peer: StoreId) {
        // What is here as a whole is of use without a link as well.
        for name in self.transfers.receiving.names(|from, incoming| from == peer && incoming.stage != Stage::Waiting) {
            self.cancel_incoming(name);
        }
    }

    /// Goes on with what waits, gives up what takes too long, and what was kept for too long.
    pub(super) fn expire_incoming(&mut self, now: Time) {
        self.resume_waiting(now);
        let is_late = |incoming: &Incoming| matches!(incoming.stage, Stage::Expected(until) if until <= now);
        for name in self.transfers.receiving.names(|_, incoming| is_late(incoming)) {
            self.cancel_incoming(name);
        }
        let old = self.transfers.receiving.partial.expire(now);
        self.forget_partials(old);
    }

    /// A region is not here any more.
    pub(super) fn on_region_gone_incoming(&mut self, region: RegionId, key: SlotKey) {
        for name in self.transfers.receiving.names(|_, incoming| incoming.key == key) {
            self.cancel_incoming(name);
        }
        let partial = self.transfers.receiving.partial.remove(region);
        self.forget_partials(partial.map(|partial| (region, partial)).into_iter().collect());
    }
}
