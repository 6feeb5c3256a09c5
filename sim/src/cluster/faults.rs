//! What goes wrong, when, and for how long.
//!
//! Every fault that is on comes again and again until the cluster is left in peace; then everything that is still wrong is
//! put right.

use std::collections::BTreeSet;

use multiraft_storage::disk::CrashStyle;

use super::{Cluster, Event, id_of};
use crate::plan::Fault;
use crate::random::Random;
use crate::schedule::{MILLI, Moment};

/// A place in a store's work at which it can die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// The log has a turn's batch, nothing was sent yet.
    LogSubmitted,
    /// Between two of a turn's sends.
    Sending,
    /// Between two answers.
    Answering,
    /// The flush was asked for and has not happened.
    BeforeFlush,
    /// The flush has happened and nobody knows.
    AfterFlush,
    /// Entries were handed out to be applied.
    BeforeApply,
    /// They are applied and nobody knows; of an installed snapshot: the state is replaced, the log is not reset.
    AfterApply,
    /// A checkpoint is about to be made.
    BeforeCheckpoint,
    /// It is made, and the log is not cut.
    AfterCheckpoint,
    /// A snapshot has arrived whole, and is not installed.
    SnapshotReceived,
    /// A split is durable, and a child has not gone to its worker.
    Adopting,
}

const POINTS: [Point; 11] = [
    Point::LogSubmitted,
    Point::Sending,
    Point::Answering,
    Point::BeforeFlush,
    Point::AfterFlush,
    Point::BeforeApply,
    Point::AfterApply,
    Point::BeforeCheckpoint,
    Point::AfterCheckpoint,
    Point::SnapshotReceived,
    Point::Adopting,
];

/// What puts a fault right again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Undo {
    Unblock { from: usize, to: usize },
    Speed { from: usize, to: usize },
    Room { store: usize },
}

/// The state of the faults.
#[derive(Debug)]
pub(super) struct Faults {
    random: Random,
    /// The cluster is left in peace.
    pub(super) over: bool,
    /// Ways that are blocked now, with how often.
    blocked: Vec<(usize, usize)>,
    slow: BTreeSet<(usize, usize)>,
    pub(super) full: BTreeSet<usize>,
    /// Stores to which snapshots break off, and until when.
    broken_streams: Vec<(usize, Moment)>,
}

impl Faults {
    pub(super) fn new(random: Random) -> Self {
        Self {
            random,
            over: false,
            blocked: Vec::new(),
            slow: BTreeSet::new(),
            full: BTreeSet::new(),
            broken_streams: Vec::new(),
        }
    }

    /// Whether a snapshot that is sent to `store` now will break off.
    pub(super) fn breaks_snapshots(&self, store: usize, now: Moment) -> bool {
        !self.over && self.broken_streams.iter().any(|(to, until)| *to == store && *until > now)
    }
}

impl Cluster {
    pub(super) fn plan_faults(&mut self) {
        for (fault, _) in self.plan.faults.clone() {
            self.plan_fault(fault);
        }
    }

    fn plan_fault(&mut self, fault: Fault) {
        let Some(interval) = self.plan.interval(fault) else { return };
        let wait = self.faults.random.around(interval);
        if self.schedule.now().plus(wait) < Moment(self.plan.chaos) {
            self.schedule.plan_in(wait, Event::Fault(fault));
        }
    }

    pub(super) fn on_fault(&mut self, fault: Fault) {
        self.plan_fault(fault);
        let store = self.faults.random.below(self.nodes.len() as u64) as usize;
        let other = (store + 1 + self.faults.random.below(self.nodes.len() as u64 - 1) as usize) % self.nodes.len();
        let length = self.faults.random.around(2_000 * MILLI);
        self.record(5, fault as u64);
        self.say(|| format!("FAULT {fault:?} at {} (and {})", id_of(store), id_of(other)));
        match fault {
            Fault::Crash => self.crash_somewhere(store),
            Fault::CrashMany => self.crash_many(),
            Fault::Restart => {
                let life = self.nodes[store].life;
                self.stop(store, life);
            }
            Fault::Cut => {
                self.counters.cuts += 1;
                self.cut(&[(store, other), (other, store)], length);
            }
            Fault::CutOneWay => {
                self.counters.one_way_cuts += 1;
                self.cut(&[(store, other)], length);
            }
            Fault::Isolate => {
                self.counters.isolations += 1;
                let others = (0..self.nodes.len()).filter(|other| *other != store);
                let ways: Vec<_> = others.flat_map(|other| [(store, other), (other, store)]).collect();
                self.cut(&ways, length);
            }
            Fault::Reset => {
                let (link, _) = self.network.between(store, other);
                self.counters.resets += u64::from(self.network.link(link).up);
                self.break_link(link, 100 * MILLI);
            }
            Fault::SlowLink => self.slow_link(store, other, length),
            Fault::DiskStall => {
                self.counters.disk_stalls += 1;
                self.nodes[store].disk_stalled_until = self.schedule.now().plus(length);
            }
            Fault::SyncFails => self.fail_sync(store),
            Fault::DamageLog => {
                self.crash(store);
                self.damage_log(store);
            }
            Fault::Wipe => self.foretell_doom(store, other),
            Fault::NoSpace => self.fill_disk(store, length),
            Fault::SlowState => {
                self.counters.slow_states += 1;
                self.nodes[store].state_slow_until = self.schedule.now().plus(length);
            }
            Fault::Pause => self.pause(store, length),
            Fault::BreakSnapshots => {
                let until = self.schedule.now().plus(length);
                self.faults.broken_streams.retain(|(to, _)| *to != store);
                self.faults.broken_streams.push((store, until));
            }
        }
    }

    /// Lets a store die: at once, or at some point of its work soon.
    pub(super) fn crash_somewhere(&mut self, store: usize) {
        if self.faults.random.chance(250) {
            return self.crash(store);
        }
        let point = self.faults.random.pick(&POINTS);
        let skip = self.faults.random.below(12) as u32;
        self.nodes[store].armed = Some((point, skip));
    }

    fn crash_many(&mut self) {
        let count = self.nodes.len() as u64;
        let dead = self.faults.random.between(2, count);
        let first = self.faults.random.below(count);
        for number in 0..dead {
            self.crash(((first + number) % count) as usize);
        }
    }

    /// A store dies now, and starts again later.
    pub(super) fn crash(&mut self, store: usize) {
        if self.nodes[store].process.is_none() {
            return;
        }
        self.counters.crashes += 1;
        let style =
            self.faults.random.pick(&[CrashStyle::Mix, CrashStyle::Mix, CrashStyle::LoseAll, CrashStyle::KeepAll]);
        self.say(|| format!("{} dies ({style:?})", id_of(store)));
        self.kill(store, style);
        let wait = self.faults.random.around(1_500 * MILLI);
        self.schedule.plan_in(wait, Event::Start { store });
    }

    /// Whether the store was to die at this point, and now has.
    pub(super) fn dies_at(&mut self, store: usize, point: Point) -> bool {
        if self.is_struck(store, point) {
            return true;
        }
        let Some((armed, skip)) = &mut self.nodes[store].armed else { return false };
        if *armed != point {
            return false;
        }
        if *skip > 0 {
            *skip -= 1;
            return false;
        }
        self.counters.crashes_inside += 1;
        self.say(|| format!("{} dies at {point:?}", id_of(store)));
        self.crash(store);
        true
    }

    pub(super) fn cut(&mut self, ways: &[(usize, usize)], length: u64) {
        for &(from, to) in ways {
            self.block(from, to);
            self.faults.blocked.push((from, to));
            self.schedule.plan_in(length, Event::Undo(Undo::Unblock { from, to }));
        }
    }

    fn slow_link(&mut self, from: usize, to: usize, length: u64) {
        self.counters.slow_links += 1;
        let slowness = self.faults.random.between(10, 200);
        let (link, side) = self.network.between(from, to);
        self.network.link(link).directions[side].slowness = slowness;
        self.faults.slow.insert((from, to));
        self.schedule.plan_in(length, Event::Undo(Undo::Speed { from, to }));
    }

    fn fill_disk(&mut self, store: usize, length: u64) {
        let node = &self.nodes[store];
        node.disk.set_capacity(Some(node.disk.used()));
        node.files_disk.set_capacity(Some(node.files_disk.used()));
        node.state.set_disk_full(true);
        self.faults.full.insert(store);
        self.schedule.plan_in(length, Event::Undo(Undo::Room { store }));
    }

    pub(super) fn pause(&mut self, store: usize, length: u64) {
        if self.nodes[store].process.is_none() {
            return;
        }
        self.counters.pauses += 1;
        self.nodes[store].paused_until = self.schedule.now().plus(length);
        for peer in (0..self.nodes.len()).filter(|peer| *peer != store) {
            let (link, _) = self.network.between(store, peer);
            let session = self.network.link(link).session;
            self.watch_link(link, session);
        }
    }

    pub(super) fn on_undo(&mut self, undo: Undo) {
        match undo {
            Undo::Unblock { from, to } => {
                if let Some(at) = self.faults.blocked.iter().position(|way| *way == (from, to)) {
                    self.faults.blocked.swap_remove(at);
                    self.unblock(from, to);
                }
            }
            Undo::Speed { from, to } => {
                self.faults.slow.remove(&(from, to));
                let (link, side) = self.network.between(from, to);
                self.network.link(link).directions[side].slowness = 1;
            }
            Undo::Room { store } => {
                self.faults.full.remove(&store);
                let node = &self.nodes[store];
                node.disk.set_capacity(None);
                node.files_disk.set_capacity(None);
                node.state.set_disk_full(false);
            }
        }
    }

    /// The faults are over: what is still wrong is put right, and every store runs.
    pub(super) fn on_heal(&mut self) {
        self.say(|| "the faults are over".to_owned());
        self.faults.over = true;
        for (from, to) in std::mem::take(&mut self.faults.blocked) {
            self.unblock(from, to);
        }
        for (from, to) in std::mem::take(&mut self.faults.slow) {
            self.on_undo(Undo::Speed { from, to });
        }
        for store in std::mem::take(&mut self.faults.full) {
            self.on_undo(Undo::Room { store });
        }
        let now = self.schedule.now();
        self.spare_doomed();
        for store in 0..self.nodes.len() {
            let node = &mut self.nodes[store];
            node.armed = None;
            node.disk.fail_sync_after(u64::MAX);
            node.disk_stalled_until = now;
            node.state_slow_until = now;
            node.paused_until = node.paused_until.min(now);
            self.schedule.plan(now, Event::Resume { store });
            self.begin_health_anew(store);
            if self.nodes[store].process.is_none() {
                self.schedule.plan(now, Event::Start { store });
            }
        }
        self.plan_second_look();
        self.begin_recovery();
    }
}
