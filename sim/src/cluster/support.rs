//! A store's liveness thread: the core that owns its support, on the store's clock and links.

use std::time::Duration;

use multiraft::liveness::{
    Health, Liveness, LivenessConfig, LivenessOptions, LivenessOutput, Standstills, SupportNews, round_answered,
};
use multiraft::logic::{Input, LaneKind, worker_of_request};
use multiraft_raft::{StoreId, Time};
use multiraft_transport::{Lane, PeerMessage, SupportMessage};

use super::{Cluster, Event, id_of};
use crate::plant::Plant;
use crate::schedule::{MICRO, MILLI, Moment};

/// A store's core, and what waits for it.
pub(super) struct SupportHost {
    core: Liveness,
    health: Health,
    inbox: Vec<(StoreId, SupportMessage)>,
    /// When its next turn is planned.
    wake_at: Moment,
}

impl Cluster {
    /// All clocks are as exact as the simulator's are.
    fn support_options(&self) -> LivenessOptions {
        LivenessOptions { drift_ppm: 20_000, sheds_leaders: self.plan.sheds_leaders, ..LivenessOptions::default() }
    }

    /// What any store may have promised to another, at the most.
    pub(super) fn longest_support(&self) -> Duration {
        self.support_options().support_duration
    }

    /// The core of a store that starts.
    pub(super) fn make_support(&mut self, store: usize) -> SupportHost {
        let now = self.nodes[store].clock.read(self.schedule.now());
        let options = self.support_options();
        let node = &mut self.nodes[store];
        let promised_before = match self.plant {
            Some(Plant::ForgottenPromise) => Duration::ZERO,
            _ => node.promised,
        };
        // Durable before anything is promised.
        node.promised = node.promised.max(options.support_duration);
        let config = LivenessConfig { store: id_of(store), incarnation: node.incarnation, options, promised_before };
        let mut core = Liveness::new(config, now);
        for peer in (0..self.nodes.len()).filter(|peer| *peer != store && !self.is_refused(*peer)) {
            core.add_peer(now, id_of(peer));
        }
        SupportHost { core, health: Health::new(options, now), inbox: Vec::new(), wake_at: Moment::NEVER }
    }

    /// Takes out what a peer says of support: for the core, and for the worker that has begun a round.
    pub(super) fn take_support(&mut self, store: usize, from: StoreId, messages: &mut Vec<PeerMessage>) {
        let mut support = Vec::new();
        messages.retain(|message| {
            let PeerMessage::Support(message) = message else { return true };
            support.push(*message);
            false
        });
        for message in support {
            let SupportMessage::RoundAnswer(answer) = message else {
                let soon = self.schedule.now().plus(self.random.below(100 * MICRO));
                let Some(process) = &mut self.nodes[store].process else { return };
                process.support.inbox.push((from, message));
                self.wake_support(store, soon);
                continue;
            };
            let news = round_answered(self.nodes[store].incarnation, from, &answer);
            let worker = worker_of_request(answer.round);
            if let Some(news) = news.filter(|_| worker < self.plan.workers[store]) {
                self.input(store, worker, Input::Support(news));
            }
        }
    }

    /// Plans the core's turn no later than `at`.
    pub(super) fn wake_support(&mut self, store: usize, at: Moment) {
        let node = &mut self.nodes[store];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        if at < process.support.wake_at {
            process.support.wake_at = at;
            self.schedule.plan(at, Event::Support { store, life });
        }
    }

    /// All that waits is taken, then the clock is read, then it is handled, then time does its part.
    pub(super) fn on_support(&mut self, store: usize, life: u64) {
        let now = self.schedule.now();
        let standstills = self.standstills(store);
        let progress = standstills.worst() <= self.support_options().progress_bound();
        let node = &mut self.nodes[store];
        if !node.lives(life) {
            return;
        }
        let local = node.clock.read(now);
        let Some(process) = &mut node.process else { return };
        let host = &mut process.support;
        if host.wake_at > now {
            return;
        }
        host.wake_at = Moment::NEVER;
        let (before, inbox) = (host.core.counters(), std::mem::take(&mut host.inbox));
        let taken_at = match self.plant {
            // As if the clock had been read before the messages came.
            Some(Plant::StaleClock) => Time(local.0.saturating_sub(200 * MILLI)),
            _ => local,
        };
        for (from, message) in inbox {
            self.call_support(store, |core, out| core.handle(taken_at, from, &message, out));
        }
        self.call_support(store, |core, out| core.tick(local, progress, out));
        self.judge_health(store, local, standstills);
        self.judge_leases();
        let node = &self.nodes[store];
        let Some(process) = &node.process else { return };
        let after = process.support.core.counters();
        let next = node.clock.moment_of(process.support.core.next_deadline()).max(now.plus(MICRO));
        self.counters.support_withdrawn += after.withdrawals - before.withdrawals;
        self.counters.heartbeats_withheld += after.withheld - before.withheld;
        self.wake_support(store, next);
    }

    /// A store that stops tells its peers.
    pub(super) fn say_farewell(&mut self, store: usize) {
        let local = self.nodes[store].clock.read(self.schedule.now());
        self.call_support(store, |core, out| core.farewell(local, out));
    }

    /// Calls the core, and carries out what it wants: the news first, to every worker, in order; then the messages.
    fn call_support(&mut self, store: usize, act: impl FnOnce(&mut Liveness, &mut LivenessOutput)) {
        let Some(process) = &mut self.nodes[store].process else { return };
        let mut out = LivenessOutput::default();
        act(&mut process.support.core, &mut out);
        let LivenessOutput { news, sends } = out;
        let id = id_of(store);
        for news in news {
            self.say(|| format!("{id} tells its workers {news:?}"));
            self.counters.support_given += u64::from(matches!(news, SupportNews::Given { .. }));
            let verdict = self.supports.on_news(id, &news);
            self.judge_that(verdict);
            for worker in 0..self.plan.workers[store] {
                self.input(store, worker, Input::Support(news.clone()));
            }
        }
        for (to, message) in sends {
            let verdict = self.supports.on_said(id, to, &message);
            self.judge_that(verdict);
            let lane = if message.lane() == Lane::Liveness { LaneKind::Liveness } else { LaneKind::Control };
            self.send(store, to, lane, 0, vec![PeerMessage::Support(message)]);
        }
    }

    /// No store may count on what is not there.
    fn judge_leases(&mut self) {
        for store in 0..self.nodes.len() {
            let local = self.nodes[store].clock.read(self.schedule.now());
            match self.supports.on_clock(id_of(store), local) {
                Ok(leases) => self.counters.leases_judged += leases,
                Err(violation) => self.judge_that(Err(violation)),
            }
        }
    }

    /// For how long the log and the appliers have stood still with something to do. Workers never do here.
    fn standstills(&self, store: usize) -> Standstills {
        let now = self.schedule.now();
        let Some(process) = &self.nodes[store].process else { return Standstills::default() };
        let since = |moment: Moment| Duration::from_nanos(now.since(moment));
        let applying = process.workers.iter().filter(|host| host.applying.is_some());
        let is_flushing = process.flushing.is_some() && !process.log_is_full;
        Standstills {
            workers: Duration::ZERO,
            appliers: applying.map(|host| since(host.applying_since)).max().unwrap_or_default(),
            log: if is_flushing { since(process.flushing_since) } else { Duration::ZERO },
        }
    }

    /// A store that the faults have made slow is well at once: it may stay slow for minutes, and leaders that go home then would
    /// be in the way of who waits for quiet.
    pub(super) fn begin_health_anew(&mut self, store: usize) {
        let now = self.nodes[store].clock.read(self.schedule.now());
        let options = self.support_options();
        let Some(process) = &mut self.nodes[store].process else { return };
        process.support.health = Health::new(options, now);
        self.tell_health(store, false);
    }

    fn tell_health(&mut self, store: usize, is_slow: bool) {
        self.say(|| format!("{} is {}", id_of(store), if is_slow { "slow" } else { "well" }));
        for worker in 0..self.plan.workers[store] {
            self.input(store, worker, Input::Slow { is_slow });
        }
    }

    /// Tells the workers when the store has become slow, or well again.
    fn judge_health(&mut self, store: usize, local: Time, standstills: Standstills) {
        let Some(process) = &mut self.nodes[store].process else { return };
        let Some(is_slow) = process.support.health.observe(local, standstills) else { return };
        self.counters.stores_slow += u64::from(is_slow);
        self.tell_health(store, is_slow);
    }

    /// After the faults every two stores that run and are connected support each other.
    pub(super) fn judge_support(&mut self) {
        let runs = |store: usize| self.nodes[store].process.as_ref().filter(|process| !process.failed);
        let mut missing = Vec::new();
        for one in 0..self.nodes.len() {
            for other in (0..self.nodes.len()).filter(|other| *other != one) {
                let (Some(process), Some(_)) = (runs(one), runs(other)) else { continue };
                let is_asked = process.support.core.asks_at(id_of(other)).is_some();
                if is_asked && self.network.session(one, other).is_some() {
                    let is_held = process.support.core.held(id_of(other)).is_some();
                    let is_given = process.support.core.given(id_of(other)).is_some();
                    if !is_held || !is_given {
                        missing.push((id_of(one), id_of(other), is_held, is_given));
                    }
                }
            }
        }
        if !missing.is_empty() {
            self.fail("a healed cluster supports itself", format!("(store, peer, held, given): {missing:?}"));
        }
    }
}
