//! Runs in which one thing goes wrong, at a chosen place.

use multiraft_raft::RegionId;
use multiraft_storage::disk::CrashStyle;

use super::faults::Point;
use super::network::LIVENESS;
use super::{Cluster, Event, Report};
use crate::enumerate::{BEGIN, END, Scenario, Script, StoreDisk, Strike};
use crate::schedule::{MILLI, Moment};

/// How long a store that was struck is down.
const DOWN: u64 = 300 * MILLI;

impl Cluster {
    /// Lets everything happen with this script, and judges it.
    #[must_use]
    pub fn run_script(mut self, script: Script) -> (Report, Script) {
        self.script = Some(script.clone());
        self.schedule.plan(Moment(BEGIN), Event::Begin);
        self.schedule.plan(Moment(END), Event::End);
        let (report, counted) = self.run_to_end();
        (report, counted.unwrap_or(script))
    }

    /// Whether what the script asks for has happened.
    pub(super) fn is_scripted_and_done(&self) -> bool {
        let Some(script) = &self.script else { return false };
        let mut owners = self.regions.newest().filter(|descriptor| descriptor.id != RegionId::ROOT);
        match script.scenario {
            Scenario::Split => owners.count() > 1,
            Scenario::Merge => owners.count() == 1,
            Scenario::Replicas => owners.any(|descriptor| descriptor.epoch.conf_version > 1),
        }
    }

    /// The operation is asked for; from here on everything is counted.
    pub(super) fn on_script_begins(&mut self) {
        for store in 0..self.nodes.len() {
            let used = self.disk_operations(store);
            let Some(script) = &mut self.script else { return };
            script.operations[store] = used;
        }
        if let Some(Strike::Power { store, disk, operation }) = self.script.as_ref().and_then(|script| script.strike) {
            let node = &self.nodes[store];
            match disk {
                StoreDisk::Log => node.disk.cut_power_after(operation),
                StoreDisk::Files => node.files_disk.cut_power_after(operation),
            }
        }
        self.schedule.plan_in(0, Event::Operate { operator: 0 });
    }

    /// Counting ends.
    pub(super) fn on_script_ends(&mut self) {
        // Not every failed write is told on: at the latest now the store dies of the power that it has not had for a while.
        if let Some(Strike::Power { store, .. }) = self.script.as_ref().and_then(|script| script.strike) {
            self.dies_without_power(store);
        }
        for store in 0..self.nodes.len() {
            let now = self.disk_operations(store);
            let Some(script) = &mut self.script else { return };
            let before = script.operations[store];
            script.operations[store] = [now[0] - before[0], now[1] - before[1]];
        }
    }

    fn disk_operations(&self, store: usize) -> [u64; 2] {
        [self.nodes[store].disk.operations(), self.nodes[store].files_disk.operations()]
    }

    fn counts(&self) -> bool {
        let now = self.schedule.now();
        self.script.is_some() && now >= Moment(BEGIN) && now < Moment(END)
    }

    /// Whether the script lets the store die at this point.
    pub(super) fn is_struck(&mut self, store: usize, point: Point) -> bool {
        let is_durable = !matches!(point, Point::LogSubmitted | Point::Sending | Point::Answering);
        if !is_durable || !self.counts() {
            return false;
        }
        let Some(script) = &mut self.script else { return false };
        let passed = script.points[store];
        script.points[store] += 1;
        match script.strike {
            Some(Strike::Crash { store: struck, point, keeps }) if struck == store && point == passed => {
                self.strike(store, if keeps { CrashStyle::KeepAll } else { CrashStyle::LoseAll });
                true
            }
            _ => false,
        }
    }

    /// A disk has failed under a store: whether that is the script's doing, and the store has died of it.
    pub(super) fn dies_without_power(&mut self, store: usize) -> bool {
        match self.script.as_ref().and_then(|script| script.strike) {
            Some(Strike::Power { store: struck, .. }) if struck == store => {
                self.strike(store, CrashStyle::Mix);
                true
            }
            _ => false,
        }
    }

    fn strike(&mut self, store: usize, style: CrashStyle) {
        self.counters.crashes += 1;
        self.kill(store, style);
        self.schedule.plan_in(DOWN, Event::Start { store });
    }

    /// Whether the script loses this frame, and with it the connection.
    pub(super) fn loses_frame(&mut self, from: usize, to: usize, lane: usize) -> bool {
        if lane == LIVENESS || !self.counts() {
            return false;
        }
        let Some(script) = &mut self.script else { return false };
        let frame = script.frames;
        script.frames += 1;
        if script.strike != Some(Strike::Lose { frame }) {
            return false;
        }
        let (link, _) = self.network.between(from, to);
        self.break_link(link, 10 * MILLI);
        true
    }
}
