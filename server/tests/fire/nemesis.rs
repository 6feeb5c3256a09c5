//! The nemesis: kills stores, stops them in order, lets them stand still, never more than a minority at a time, and brings
//! them back; parts them, loses and delays what they say to each other; turns their clocks.
//!
//! Every fault has to leave a trace.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use multiraft_sim::random::Random;
use multiraft_torture::ground::{Fault, Faults, Met, Shape};
use multiraft_torture::random::Random as Draws;

use crate::admin::status;
use crate::clients::Trial;
use crate::clocks::Turns;
use crate::harness::Cluster;

/// Stores that lost each other dial again at least that often.
const SOON: Duration = Duration::from_secs(3);

/// What was done to stores.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Blows {
    pub(crate) kills: usize,
    pub(crate) pauses: usize,
    pub(crate) stops: usize,
    /// How often packets were dropped or late, and how many.
    pub(crate) partings: usize,
    pub(crate) packets: u64,
    pub(crate) turns: Turns,
}

/// What may befall a store while it is parted from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hit {
    Dies,
    StandsStill,
}

/// Whoever strikes.
pub(crate) struct Nemesis<'a> {
    trial: &'a Trial,
    cluster: &'a mut Cluster,
    random: Random,
    blows: Blows,
    /// What comes next between stores.
    shapes: Vec<Shape>,
}

impl<'a> Nemesis<'a> {
    pub(crate) fn new(trial: &'a Trial, cluster: &'a mut Cluster, random: Random) -> Self {
        Self { trial, cluster, random, blows: Blows::default(), shapes: Vec::new() }
    }

    /// Strikes until so much time of the trial is over; then all stores run and reach each other.
    pub(crate) fn strike_until(mut self, end: Duration) -> Blows {
        for round in 0_u64.. {
            let left = end.saturating_sub(self.trial.begun.elapsed());
            if left.is_zero() {
                break;
            }
            let pause = Duration::from_millis(self.random.between(500, 3_000));
            self.trial.stop.within(left.min(pause));
            for said in self.blows.turns.turn(self.cluster, &mut self.random) {
                self.say(&said);
            }
            if round % 2 == 0 {
                self.strike_stores();
            } else {
                self.part();
            }
            self.say("all run");
            for at in 0..self.cluster.stores.len() {
                assert_eq!(self.cluster.has_ended(at), None, "store {} has ended by itself", at + 1);
            }
        }
        self.blows
    }

    fn strike_stores(&mut self) {
        let stores = self.cluster.stores.len() as u64;
        let first = self.random.below(stores) as usize;
        let second = (first + 1 + self.random.below(stores - 1) as usize) % stores as usize;
        let length = Duration::from_millis(self.random.between(200, 4_000));
        // At least every other blow kills.
        let others = self.blows.pauses + self.blows.stops;
        match if self.blows.kills <= others { self.random.below(7) } else { self.random.below(10) } {
            0..5 => {
                self.kill(first);
                self.trial.stop.within(length);
                self.restart(first);
            }
            5..7 => {
                self.kill(first);
                self.kill(second);
                self.trial.stop.within(length);
                self.restart(first);
                self.restart(second);
            }
            7..9 => {
                self.pause(first);
                self.trial.stop.within(length * 2);
                self.bring_back(first, Hit::StandsStill);
            }
            _ => {
                self.say(&format!("stop {}", first + 1));
                self.cluster.signal(first, "-TERM");
                assert_eq!(self.cluster.wait_end(first), Some(0), "store {} was asked to stop", first + 1);
                self.restart(first);
                self.blows.stops += 1;
            }
        }
    }

    /// Something goes wrong between stores for a while; sometimes one dies or stands still meanwhile, and comes back before or
    /// after the end.
    fn part(&mut self) {
        if self.shapes.is_empty() {
            self.shapes = Shape::all(self.cluster.net.can_delay(), &mut Draws::new(self.random.number()));
        }
        let shape = self.shapes.pop().unwrap();
        let stores = self.cluster.stores.len() as u64;
        let leader = leader_of_most(&self.cluster.stores.iter().map(|store| store.admin).collect::<Vec<_>>());
        let faults = shape.draw(stores, leader, &mut Draws::new(self.random.number()));
        let length = Duration::from_millis(self.random.between(800, 6_000));
        let victim = self.random.below(stores) as usize;
        let hit = match self.random.below(4) {
            0 => Some((victim, Hit::Dies)),
            1 => Some((leader as usize - 1, Hit::StandsStill)),
            _ => None,
        };
        let comes_late = self.random.chance(500);
        self.say(&format!("{shape:?} for {length:?}: {}", told(&faults)));
        self.cluster.net.strike(&faults).unwrap();
        self.trial.stop.within(length / 3);
        if let Some((at, hit)) = hit {
            self.hit(at, hit);
        }
        self.trial.stop.within(length / 3);
        if let Some((at, hit)) = hit.filter(|_| !comes_late) {
            self.bring_back(at, hit);
        }
        self.trial.stop.within(length / 3);
        let met = self.cluster.net.heal().unwrap();
        let packets = met.values().sum::<u64>();
        self.say(&format!("{packets} packets met it"));
        // A fault that no packet met is none.
        assert!(packets > 0, "{shape:?} has left no trace");
        if length > SOON {
            let silent = silent(&faults, &met, hit.map(|(at, _)| at as u64 + 1));
            assert_eq!(silent, [], "{shape:?} has left no trace between these stores: {met:?}");
        }
        self.blows.partings += 1;
        self.blows.packets += packets;
        if let Some((at, hit)) = hit.filter(|_| comes_late) {
            self.bring_back(at, hit);
        }
    }

    fn hit(&mut self, at: usize, hit: Hit) {
        match hit {
            Hit::Dies => self.kill(at),
            Hit::StandsStill => self.pause(at),
        }
    }

    fn bring_back(&mut self, at: usize, hit: Hit) {
        match hit {
            Hit::Dies => self.restart(at),
            Hit::StandsStill => self.cluster.signal(at, "-CONT"),
        }
    }

    fn pause(&mut self, at: usize) {
        self.say(&format!("pause {}", at + 1));
        self.cluster.signal(at, "-STOP");
        self.blows.pauses += 1;
    }

    fn kill(&mut self, at: usize) {
        self.say(&format!("kill {}", at + 1));
        self.cluster.kill(at);
        self.blows.kills += 1;
    }

    fn restart(&mut self, at: usize) {
        let begun = Instant::now();
        self.cluster.spawn(at);
        self.cluster.wait_ready(at);
        self.say(&format!("store {} was ready after {:?}", at + 1, begun.elapsed()));
    }

    fn say(&self, what: &str) {
        println!("{:7.3} {what}", self.trial.begun.elapsed().as_secs_f64());
    }
}

/// The pairs of stores, both alive, that were cut off from each other and have not even tried.
fn silent(faults: &Faults, met: &Met, dead: Option<u64>) -> Vec<(u64, u64)> {
    let cut = faults.iter().filter(|(_, fault)| **fault == Fault::Cut).map(|(way, _)| *way);
    let living = cut.filter(|(from, to)| Some(*from) != dead && Some(*to) != dead);
    let tried = |way: (u64, u64)| met.get(&way).is_some_and(|packets| *packets > 0);
    living.filter(|(from, to)| !tried((*from, *to)) && !tried((*to, *from))).collect()
}

/// The store that leads the most regions, of those that answer.
pub(crate) fn leader_of_most(admins: &[SocketAddr]) -> u64 {
    let led = admins.iter().filter_map(|admin| status(*admin).ok()).map(|status| {
        let led = status.regions.iter().filter(|region| region.is_leader).count();
        (led, status.store)
    });
    led.max().map_or(1, |(_, store)| store)
}

/// Faults, short.
fn told(faults: &Faults) -> String {
    let ways: Vec<String> = faults
        .iter()
        .filter(|(_, fault)| **fault == Fault::Cut)
        .map(|((from, to), _)| format!("{from}>{to}"))
        .collect();
    match faults.values().next() {
        Some(Fault::Cut) => ways.join(" "),
        other => format!("{other:?} on all ways"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_that_were_cut_off_and_never_tried_are_found() {
        let faults: Faults = [(1, 2), (2, 1), (1, 3), (3, 1)].map(|way| (way, Fault::Cut)).into();
        let met = Met::from([((1, 2), 0), ((2, 1), 5), ((1, 3), 0), ((3, 1), 0)]);
        assert_eq!(silent(&faults, &met, None), [(1, 3), (3, 1)], "2 has tried");
        assert_eq!(silent(&faults, &met, Some(3)), [], "the dead need not try");
        assert_eq!(silent(&faults, &Met::new(), Some(3)), [(1, 2), (2, 1)]);
        let lossy: Faults = faults.keys().map(|way| (*way, Fault::Loss(5))).collect();
        assert_eq!(silent(&lossy, &Met::new(), None), [], "few packets need not be lost");
    }
}
