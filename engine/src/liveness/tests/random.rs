//! Three cores with clocks that drift, on a network that loses, doubles, reorders, delays and cuts one way, with stores that
//! stand still and restart; and judges that look after every single step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use multiraft_raft::{Incarnation, StoreId, Time};
use multiraft_transport::SupportMessage;

use super::options;
use crate::liveness::{Held, Liveness, LivenessConfig, LivenessOutput, SupportEpoch, SupportNews, confirms};

const STORES: usize = 3;
const SECOND: u64 = 1_000_000_000;
const MILLI: u64 = 1_000_000;
/// How long faults happen, in true nanoseconds.
const FAULTS: u64 = 20 * SECOND;
/// All support must be held so long after the faults, and then stay.
const BOUND: u64 = SECOND;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, in_thousand: u64) -> bool {
        self.below(1000) < in_thousand
    }
}

/// A clock that runs within one per cent of true time, now faster, now slower.
struct DriftingClock {
    set_at: u64,
    reading: u64,
    /// In parts per million of true time.
    rate: u64,
}

impl DriftingClock {
    fn read(&self, now: u64) -> Time {
        Time(self.reading + (now - self.set_at) * self.rate / 1_000_000)
    }

    fn drift(&mut self, now: u64, rate: u64) {
        (self.reading, self.set_at, self.rate) = (self.read(now).0, now, rate);
    }

    /// A true moment at which it reads at least `time`.
    fn moment(&self, time: Time) -> u64 {
        let wait = time.0.saturating_sub(self.reading);
        self.set_at
            + (u128::from(wait) * 1_000_000).div_ceil(u128::from(self.rate)).min(u128::from(u64::MAX / 2)) as u64
    }
}

struct Store {
    clock: DriftingClock,
    incarnation: u64,
    core: Option<Liveness>,
    /// True moment until which it stands still, or is dead if it has no core.
    away_until: u64,
    inbox: Vec<(StoreId, SupportMessage)>,
    /// All that this life's workers were ever given to hold.
    handed_out: Vec<(StoreId, Held)>,
    given: BTreeMap<StoreId, SupportEpoch>,
    withdrawn: BTreeSet<(StoreId, SupportEpoch)>,
}

struct World {
    random: Random,
    now: u64,
    stores: Vec<Store>,
    /// By arrival.
    packets: BTreeMap<(u64, u64), (usize, usize, SupportMessage)>,
    sent: u64,
    cut_until: [[u64; STORES]; STORES],
    /// Who supported an epoch of a store towards another: one incarnation at most.
    supporters: BTreeMap<(usize, usize, SupportEpoch), u64>,
    calm: bool,
    withdrawals: u64,
    losses: u64,
}

fn id(store: usize) -> StoreId {
    StoreId(store as u64 + 1)
}

fn place(store: StoreId) -> usize {
    store.0 as usize - 1
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let stores = (0..STORES)
            .map(|_| Store {
                clock: DriftingClock {
                    set_at: 0,
                    reading: random.below(1000 * SECOND),
                    rate: 990_000 + random.below(20_001),
                },
                incarnation: 0,
                core: None,
                away_until: 0,
                inbox: Vec::new(),
                handed_out: Vec::new(),
                given: BTreeMap::new(),
                withdrawn: BTreeSet::new(),
            })
            .collect();
        Self {
            random,
            now: 0,
            stores,
            packets: BTreeMap::new(),
            sent: 0,
            cut_until: [[0; STORES]; STORES],
            supporters: BTreeMap::new(),
            calm: false,
            withdrawals: 0,
            losses: 0,
        }
    }

    fn start(&mut self, store: usize) {
        let state = &mut self.stores[store];
        state.incarnation += 1;
        let options = options();
        let promised_before = if state.incarnation == 1 { Duration::ZERO } else { options.support_duration };
        let incarnation = Incarnation(state.incarnation);
        let config = LivenessConfig { store: id(store), incarnation, options, promised_before };
        let now = state.clock.read(self.now);
        let mut core = Liveness::new(config, now);
        (0..STORES).for_each(|peer| core.add_peer(now, id(peer)));
        state.core = Some(core);
        state.inbox.clear();
        state.handed_out.clear();
        state.given.clear();
        state.withdrawn.clear();
    }

    /// Runs until `end`, one step after the other.
    fn run(&mut self, end: u64) {
        loop {
            let next_packet = self.packets.keys().next().map_or(u64::MAX, |(at, _)| *at);
            let next_turn = (0..STORES).map(|store| self.turn_at(store)).min().unwrap_or(u64::MAX);
            let next = next_packet.min(next_turn).max(self.now);
            if next > end {
                break;
            }
            self.now = next;
            if next_packet <= next_turn {
                self.arrive();
            } else {
                let due = (0..STORES).find(|store| self.turn_at(*store) <= next).expect("one is due");
                self.turn(due);
            }
            if !self.calm {
                self.maybe_break();
            }
            self.judge();
        }
        self.now = end;
    }

    fn turn_at(&self, store: usize) -> u64 {
        let state = &self.stores[store];
        let due = match &state.core {
            None => 0,
            Some(_) if !state.inbox.is_empty() => 0,
            Some(core) => state.clock.moment(core.next_deadline()),
        };
        due.max(state.away_until)
    }

    /// All that waits is taken; then the clock is read; then it is handled; then time does its part.
    fn turn(&mut self, store: usize) {
        if self.stores[store].core.is_none() {
            return self.start(store);
        }
        let progress = self.calm || !self.random.chance(20);
        let state = &mut self.stores[store];
        let inbox = std::mem::take(&mut state.inbox);
        let now = state.clock.read(self.now);
        for (from, message) in inbox {
            self.call(store, |core, out| core.handle(now, from, &message, out));
        }
        self.call(store, |core, out| core.tick(now, progress, out));
    }

    fn call(&mut self, store: usize, act: impl FnOnce(&mut Liveness, &mut LivenessOutput)) {
        let mut out = LivenessOutput::default();
        let Some(core) = &mut self.stores[store].core else { return };
        act(core, &mut out);
        for news in out.news {
            self.on_news(store, news);
        }
        for (to, message) in out.sends {
            if let Some(epoch) = confirms(&message) {
                let state = &self.stores[store];
                assert!(!state.withdrawn.contains(&(to, epoch)), "{epoch:?} of {to} is confirmed after its withdrawal");
                assert_eq!(state.given.get(&to), Some(&epoch), "{epoch:?} of {to} is confirmed and not supported");
            }
            self.send(store, place(to), message);
        }
    }

    fn on_news(&mut self, store: usize, news: SupportNews) {
        let state = &mut self.stores[store];
        match news {
            SupportNews::Given { peer, epoch } => {
                assert_eq!(state.given.insert(peer, epoch), None, "given twice");
                assert!(!state.withdrawn.contains(&(peer, epoch)), "{epoch:?} is supported again");
                let by = *self.supporters.entry((place(peer), store, epoch)).or_insert(state.incarnation);
                assert_eq!(by, state.incarnation, "two incarnations support {epoch:?}");
            }
            SupportNews::Withdrawn { peer, epoch } => {
                assert_eq!(state.given.remove(&peer), Some(epoch), "withdrawn and not given");
                assert!(state.withdrawn.insert((peer, epoch)));
                self.withdrawals += 1;
            }
            SupportNews::Held { peer, support } => state.handed_out.push((peer, support)),
            SupportNews::Lost { .. } => self.losses += 1,
            SupportNews::MayVote | SupportNews::RoundAnswered { .. } => {}
        }
    }

    fn send(&mut self, from: usize, to: usize, message: SupportMessage) {
        let is_lost = !self.calm && self.random.chance(50);
        if is_lost || self.cut_until[from][to] > self.now {
            return;
        }
        let copies = if !self.calm && self.random.chance(50) { 2 } else { 1 };
        for _ in 0..copies {
            let latency = match self.random.below(100) {
                _ if self.calm => self.random.below(5 * MILLI),
                0..2 => self.random.below(4 * SECOND),
                2..10 => self.random.below(300 * MILLI),
                _ => self.random.below(10 * MILLI),
            };
            self.sent += 1;
            self.packets.insert((self.now + latency + 1, self.sent), (from, to, message));
        }
    }

    fn arrive(&mut self) {
        let ((_, _), (from, to, message)) = self.packets.pop_first().expect("one is due");
        let state = &mut self.stores[to];
        if state.core.is_some() {
            state.inbox.push((id(from), message));
        }
    }

    fn maybe_break(&mut self) {
        let store = self.random.below(STORES as u64) as usize;
        let other = (store + 1 + self.random.below(STORES as u64 - 1) as usize) % STORES;
        match self.random.below(2000) {
            0..6 => {
                // It dies.
                self.stores[store].core = None;
                self.stores[store].away_until = self.now + self.random.below(2 * SECOND);
            }
            6..16 => self.stores[store].away_until = self.now + self.random.below(2 * SECOND),
            16..36 => self.cut_until[store][other] = self.now + self.random.below(3 * SECOND),
            36..60 => {
                let rate = 990_000 + self.random.below(20_001);
                self.stores[store].clock.drift(self.now, rate);
            }
            60..80 => self.call_by_clock(store, |core, now, out| core.give_up(now, id(other), out)),
            80..100 => {
                let Some(core) = &self.stores[store].core else { return };
                let Some(number) = core.asks_at(id(other)) else { return };
                let incarnation = Incarnation(self.stores[store].incarnation);
                let round = multiraft_transport::SupportRound { incarnation, round: self.now, number };
                self.send(store, other, SupportMessage::Round(round));
            }
            _ => {}
        }
    }

    fn call_by_clock(&mut self, store: usize, act: impl FnOnce(&mut Liveness, Time, &mut LivenessOutput)) {
        if self.stores[store].away_until > self.now {
            return;
        }
        let now = self.stores[store].clock.read(self.now);
        self.call(store, |core, out| act(core, now, out));
    }

    /// Whatever any thread of a store may count on as a lease is supported over there, or nobody votes there yet.
    fn judge(&self) {
        for (asker, state) in self.stores.iter().enumerate().filter(|(_, state)| state.core.is_some()) {
            let now = state.clock.read(self.now);
            for (peer, held) in state.handed_out.iter().filter(|(_, held)| now < held.until()) {
                let other = &self.stores[place(*peer)];
                let Some(core) = &other.core else { continue };
                if other.incarnation > held.by.0 {
                    assert!(!core.may_vote(), "{peer} may vote again while {} has a lease", id(asker));
                    continue;
                }
                let epoch = SupportEpoch { incarnation: Incarnation(state.incarnation), number: held.number };
                assert_eq!(core.given(id(asker)), Some(epoch), "{} believes in the support of {peer}", id(asker));
            }
        }
    }

    /// Everything is repaired at once.
    fn heal(&mut self) {
        self.calm = true;
        self.cut_until = [[0; STORES]; STORES];
        self.stores.iter_mut().for_each(|store| store.away_until = 0);
    }

    fn unheld(&self) -> Vec<(usize, usize)> {
        let pairs = (0..STORES).flat_map(|one| (0..STORES).map(move |other| (one, other)));
        let is_held = |one: usize, other: usize| {
            self.stores[one].core.as_ref().is_some_and(|core| core.held(id(other)).is_some())
        };
        pairs.filter(|(one, other)| one != other && !is_held(*one, *other)).collect()
    }
}

#[test]
fn leases_are_supported_epochs_are_used_once_and_all_is_held_again_after_faults() {
    let (mut withdrawals, mut restarts) = (0, 0);
    for seed in 0..150 {
        let mut world = World::new(seed);
        world.run(FAULTS);
        world.heal();
        world.run(FAULTS + BOUND);
        assert_eq!(world.unheld(), [], "seed {seed}: not held a second after the faults");
        let losses = world.losses;
        // What is still on its way from before changes nothing.
        world.run(FAULTS + BOUND + 5 * SECOND);
        assert_eq!((world.unheld(), world.losses), (vec![], losses), "seed {seed}: support does not last");
        withdrawals += world.withdrawals;
        restarts += world.stores.iter().map(|store| store.incarnation - 1).sum::<u64>();
    }
    assert!(withdrawals > 1000 && restarts > 250, "{withdrawals} withdrawals, {restarts} restarts: too little happens");
}
