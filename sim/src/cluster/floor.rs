//! Stores that begin anew take their floor from the root region, as the engine's shell does: they ask until they are answered, note it, and
//! tell their workers.

use std::collections::BTreeMap;

use multiraft::logic::{AdminCommand, AdminRequest, Floor, Input, Outcome};
use multiraft_raft::RegionId;

use super::{Cluster, Event, Waiter, id_of};
use crate::plant::Plant;
use crate::schedule::MILLI;

/// How long one is waited for that was asked.
const PATIENCE: u64 = 1_000 * MILLI;
/// How long the floor takes to be durable, at most.
const NOTED_WITHIN: u64 = 50 * MILLI;

/// The mean pause after an answer that tells nothing.
const PAUSE: u64 = 100 * MILLI;

/// Whose answer each store waits for that wants a floor.
pub(super) type Floors = BTreeMap<usize, Waiter>;

impl Cluster {
    /// A store has started: if it has no floor yet, it wants one.
    pub(super) fn want_floor(&mut self, store: usize) {
        self.floors.remove(&store);
        let node = &self.nodes[store];
        if node.floor == Floor::Unknown && self.plant != Some(Plant::IgnoredFloor) {
            let life = node.life;
            self.schedule.plan_in(MILLI, Event::AskFloor { store, life, again: None });
        }
    }

    /// It asks the root region, of which it has heard from others: `again`, if it still waits for that answer.
    pub(super) fn ask_for_floor(&mut self, store: usize, life: u64, again: Option<Waiter>) {
        let (node, now) = (&self.nodes[store], self.schedule.now());
        if !node.lives(life) || node.floor != Floor::Unknown || self.floors.get(&store).copied() != again {
            return;
        }
        let deadline = node.clock.read(now).plus(self.plan.request_timeout);
        let worker = self.worker_for(store, RegionId::ROOT);
        if let Some(root) = self.clients.routes.get(RegionId::ROOT) {
            self.input(store, worker, Input::Route(root));
        }
        let reply = self.clients.new_waiter();
        self.floors.insert(store, reply);
        let request = AdminRequest::Command(AdminCommand::AllocateIds { count: Floor::IDS });
        self.input(store, worker, Input::Admin { region: RegionId::ROOT, epoch: None, request, deadline, reply });
        self.schedule.plan_in(PATIENCE, Event::AskFloor { store, life, again: Some(reply) });
    }

    /// A store that wants a floor is answered; says whether the answer was for one.
    pub(super) fn on_floor_answer(&mut self, waiter: Waiter, outcome: &Outcome) -> bool {
        let Some(store) = self.floors.iter().find(|(_, asked)| **asked == waiter).map(|(store, _)| *store) else {
            return false;
        };
        self.say(|| format!("{} asked for a floor, and is told {outcome:?}", id_of(store)));
        self.floors.remove(&store);
        let life = self.nodes[store].life;
        if let Outcome::Applied { reply, .. } = outcome {
            let first = reply.as_ref().try_into().map_or(0, u64::from_be_bytes);
            let verdict = self.regions.on_ids(first..first + Floor::IDS);
            self.judge_that(verdict);
            let wait = self.random.below(NOTED_WITHIN);
            self.schedule.plan_in(wait, Event::Floor { store, life, floor: Floor::after(first) });
        } else {
            let wait = self.random.around(PAUSE);
            self.schedule.plan_in(wait, Event::AskFloor { store, life, again: None });
        }
        true
    }

    /// The floor is durable: replicas may come.
    pub(super) fn on_floor(&mut self, store: usize, life: u64, floor: Floor) {
        let node = &mut self.nodes[store];
        if !node.lives(life) || node.floor != Floor::Unknown {
            return;
        }
        node.floor = floor;
        self.counters.floors += 1;
        self.say(|| format!("{} has its floor: {floor:?}", id_of(store)));
        let verdict = self.regions.on_floor(id_of(store), floor.last());
        self.judge_that(verdict);
        for worker in 0..self.plan.workers[store] {
            self.input(store, worker, Input::Floor(floor));
        }
    }
}
