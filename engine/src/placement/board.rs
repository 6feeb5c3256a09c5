//! The stores as one round sees them: what each bears once all that runs has ended, and how much more it may take on.
//!
//! Made anew for each round from the view and what runs; costs O(stores + running operations).

use multiraft_raft::{Replica, ReplicaId, Role, StoreId, Time};

use super::cluster::{ClusterView, RegionInfo, StoreInfo, StoreState, Usage, add};
use super::domains::{Domains, Place, Spread};
use super::operation::{Obstacle, Operation, Reason, ReplicaChange, Step};
use super::options::{Kind, PlacementOptions};
use super::potential::Scale;

/// What a store is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Heard of; takes replicas.
    Live,
    /// Heard of; gives replicas away.
    Draining,
    /// Not heard of, but perhaps back soon; or unknown. Nothing moves to it or from it.
    Silent,
    /// Not heard of for so long that its replicas are replaced, or gone for good.
    Gone,
}

impl Class {
    pub(super) fn of(store: &StoreInfo, options: &PlacementOptions, now: Time) -> Self {
        let silent = now.since(store.last_heard);
        let silent = if let StoreState::Down { since } = store.state { silent.max(now.since(since)) } else { silent };
        if store.state == StoreState::Left || silent >= options.repair_after {
            Self::Gone
        } else if silent > options.silent_after || matches!(store.state, StoreState::Down { .. }) {
            Self::Silent
        } else if store.state == StoreState::Draining {
            Self::Draining
        } else {
            Self::Live
        }
    }

    /// Whether its replicas can vote.
    pub(super) fn is_heard(self) -> bool {
        matches!(self, Self::Live | Self::Draining)
    }
}

/// What runs on a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) snapshots_in: usize,
    pub(super) snapshots_out: usize,
    pub(super) transfers_in: usize,
    pub(super) transfers_out: usize,
}

/// A store.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) id: StoreId,
    pub(super) class: Class,
    pub(super) weight: f64,
    /// With everything that runs at its end.
    pub(super) usage: Usage,
    /// The same in fair shares.
    pub(super) shares: [f64; 4],
    pub(super) slots: Slots,
    pub(super) place: Place,
    /// It is slow, or nothing more than the reserve is free there, as far as it has told: it takes no leadership over.
    pub(super) leads_no_more: bool,
    /// How many more bytes fit; `None`: no limit is known.
    room: Option<i64>,
}

impl Seat {
    /// Whether its disk has anything left for data that comes, as far as is known.
    pub(super) fn has_room(&self) -> bool {
        self.room.is_none_or(|room| room > 0)
    }
}

/// All stores, ascending in id.
pub(super) struct Board<'a> {
    options: &'a PlacementOptions,
    pub(super) seats: Vec<Seat>,
    pub(super) domains: Domains,
    pub(super) scale: Scale,
}

impl<'a> Board<'a> {
    pub(super) fn new(view: &ClusterView, options: &'a PlacementOptions, now: Time) -> Self {
        let classes: Vec<_> = view.stores().map(|store| Class::of(store, options, now)).collect();
        let with_class = || view.stores().zip(&classes);
        let (domains, places) =
            Domains::new(&options.domains, with_class().map(|(store, class)| (store, *class == Class::Live)));
        let seat = |((store, class), place): ((&StoreInfo, &Class), Place)| {
            let reserve = u128::from(store.disk_bytes) * u128::from(options.disk_reserve_percent) / 100;
            let room = i128::from(store.disk_free_bytes) - i128::try_from(reserve).unwrap_or(i128::MAX);
            Seat {
                id: store.id,
                class: *class,
                weight: f64::from(store.weight.max(1)),
                usage: view.tally(store.id).map_or([0; 4], |tally| tally.usage),
                shares: [0.0; 4],
                slots: Slots::default(),
                place,
                leads_no_more: store.is_slow || (store.disk_bytes > 0 && room <= 0),
                room: (store.disk_bytes > 0).then(|| i64::try_from(room).unwrap_or(i64::MAX)),
            }
        };
        let mut seats: Vec<_> = with_class().zip(places).map(seat).collect();
        let scale = Scale::new(&options.balance, &seats);
        for seat in &mut seats {
            seat.shares = scale.shares_of(seat);
        }
        Self { options, seats, domains, scale }
    }

    pub(super) fn seat(&self, store: StoreId) -> Option<&Seat> {
        self.at(store).map(|at| &self.seats[at])
    }

    /// A store's class; an unknown store is silent.
    pub(super) fn class(&self, store: StoreId) -> Class {
        self.seat(store).map_or(Class::Silent, |seat| seat.class)
    }

    /// Whether a replica can vote.
    pub(super) fn can_vote(&self, region: &RegionInfo, replica: &Replica) -> bool {
        self.class(replica.store).is_heard() && region.is_sound(replica.id)
    }

    /// Whether a replica can vote and has what its group has.
    pub(super) fn is_live(&self, region: &RegionInfo, replica: &Replica) -> bool {
        self.can_vote(region, replica) && !region.is_behind(replica.id)
    }

    /// How far apart the voting replicas of a region are, without one of them.
    pub(super) fn places(&self, replicas: &[Replica], without: Option<ReplicaId>) -> Vec<Place> {
        let votes = |replica: &&Replica| replica.role != Role::Learner && Some(replica.id) != without;
        let seats = replicas.iter().filter(votes).filter_map(|replica| self.seat(replica.store));
        seats.map(|seat| seat.place).collect()
    }

    /// `places` and one more store.
    pub(super) fn spread_with(&self, places: &mut Vec<Place>, seat: &Seat) -> Spread {
        places.push(seat.place);
        let spread = Spread::of(places);
        places.pop();
        spread
    }

    /// The best store for a new replica of `region` that takes the place of `without`: no other would spread the replicas
    /// further, and of those that do as well none bears less for its weight.
    ///
    /// A store that is busy is waited for rather than replaced by one that spreads less.
    pub(super) fn best_store(
        &self,
        region: &RegionInfo,
        without: Option<ReplicaId>,
        kind: Kind,
        votes: bool,
    ) -> Result<(StoreId, Spread), Obstacle> {
        let mut places = if votes { self.places(region.replicas(), without) } else { Vec::new() };
        let mut best: Option<(&Seat, Spread, f64)> = None;
        let mut widest = Spread::default();
        let mut any = false;
        for seat in &self.seats {
            if !self.fits(seat, region) {
                continue;
            }
            any = true;
            let spread = self.spread_with(&mut places, seat);
            widest = widest.max(spread);
            if seat.slots.snapshots_in >= self.share(self.options.limits.snapshots_in, kind) {
                continue;
            }
            let rise = self.scale.rise(seat, region.replica_weight());
            let is_better =
                |(_, other, least): &(_, Spread, f64)| spread > *other || (spread == *other && rise < *least);
            if best.as_ref().is_none_or(is_better) {
                best = Some((seat, spread, rise));
            }
        }
        match best {
            Some((seat, spread, _)) if spread == widest => Ok((seat.id, spread)),
            _ if any => Err(Obstacle::Limit),
            _ => Err(Obstacle::NoStore),
        }
    }

    /// Whether a store takes a new replica of `region` as far as its state, its disk and its other replicas go.
    pub(super) fn fits(&self, seat: &Seat, region: &RegionInfo) -> bool {
        let needs = region.replica_weight()[1];
        seat.class == Class::Live
            && seat.room.is_none_or(|room| room >= needs)
            && region.descriptor.replica_on(seat.id).is_none()
    }

    /// What of a limit a kind may use: what can wait leaves a quarter to what cannot.
    pub(super) fn share(&self, limit: usize, kind: Kind) -> usize {
        if kind.can_wait() { limit - limit / 4 } else { limit }
    }

    /// Whether `leader` may fill another replica.
    pub(super) fn can_send(&self, leader: StoreId, kind: Kind) -> bool {
        let limit = self.share(self.options.limits.snapshots_out, kind);
        self.seat(leader).is_some_and(|seat| seat.slots.snapshots_out < limit)
    }

    /// Whether `to` may receive another replica.
    pub(super) fn can_receive(&self, to: StoreId, kind: Kind) -> bool {
        let limit = self.share(self.options.limits.snapshots_in, kind);
        self.seat(to).is_some_and(|seat| seat.slots.snapshots_in < limit)
    }

    /// Whether leadership may pass from one to the other.
    pub(super) fn can_transfer(&self, from: StoreId, to: StoreId, kind: Kind) -> bool {
        let limit = self.share(self.options.limits.transfers, kind);
        self.seat(from).is_some_and(|seat| seat.slots.transfers_out < limit)
            && self.seat(to).is_some_and(|seat| seat.slots.transfers_in < limit)
    }

    /// Counts what `operation` will have changed once it has ended, as far as the view does not show it yet. The slots that
    /// it takes count only while it runs; those of what has to follow it, until the view shows that it has ended.
    pub(super) fn count(&mut self, view: &ClusterView, operation: &Operation, is_running: bool) {
        let Some(region) = view.region(operation.region) else { return };
        let has = |store| region.descriptor.replica_on(store).is_some_and(|replica| replica.role != Role::Learner);
        if let Reason::OutOfService { to, .. } = operation.reason {
            // What goes is followed by one that has to be filled.
            self.slots(to, |slots| slots.snapshots_in += 1);
            self.slots(operation.leader, |slots| slots.snapshots_out += 1);
        }
        match &operation.step {
            Step::Change(change) => {
                if let Some((store, has_data)) = added(*change) {
                    let is_new = region.descriptor.replica_on(store).is_none();
                    self.arrive(store, operation.leader, region, is_running && !has(store), is_new && has_data);
                }
                if let Some(gone) = removed(*change).and_then(|id| region.descriptor.replica(id))
                    && gone.role != Role::Witness
                {
                    self.usage(gone.store, region.replica_weight(), -1);
                }
            }
            Step::TransferLeader { to } => {
                if region.leader == Some(operation.leader) {
                    self.usage(operation.leader, region.leader_weight(), -1);
                    self.usage(*to, region.leader_weight(), 1);
                }
                if is_running {
                    self.slots(operation.leader, |slots| slots.transfers_out += 1);
                    self.slots(*to, |slots| slots.transfers_in += 1);
                }
            }
            Step::Split { .. } => {}
            Step::Merge { moves, .. } => {
                for store in moves {
                    let is_new = region.descriptor.replica_on(*store).is_none();
                    self.arrive(*store, operation.leader, region, is_running, is_new);
                }
                if is_running && !moves.is_empty() {
                    // They are made one after the other, and so need one slot where they come from.
                    self.slots(operation.leader, |slots| slots.snapshots_out -= moves.len() - 1);
                }
            }
        }
    }

    fn arrive(&mut self, store: StoreId, leader: StoreId, region: &RegionInfo, is_running: bool, brings_data: bool) {
        if is_running {
            self.slots(store, |slots| slots.snapshots_in += 1);
            self.slots(leader, |slots| slots.snapshots_out += 1);
        }
        if brings_data {
            self.usage(store, region.replica_weight(), 1);
        }
    }

    fn usage(&mut self, store: StoreId, what: Usage, sign: i64) {
        if let Some(at) = self.at(store) {
            let seat = &mut self.seats[at];
            add(&mut seat.usage, what, sign);
            seat.shares = self.scale.shares_of(seat);
            // What leaves frees the disk only once it is gone.
            if sign > 0 {
                seat.room = seat.room.map(|room| room - what[1]);
            }
        }
    }

    fn slots(&mut self, store: StoreId, change: impl Fn(&mut Slots)) {
        if let Some(at) = self.at(store) {
            change(&mut self.seats[at].slots);
        }
    }

    fn at(&self, store: StoreId) -> Option<usize> {
        self.seats.binary_search_by_key(&store, |seat| seat.id).ok()
    }
}

/// Where a change puts a replica, and whether it holds data.
fn added(change: ReplicaChange) -> Option<(StoreId, bool)> {
    match change {
        ReplicaChange::AddVoter { store }
        | ReplicaChange::AddLearner { store }
        | ReplicaChange::Replace { add: store, .. } => Some((store, true)),
        ReplicaChange::AddWitness { store } => Some((store, false)),
        ReplicaChange::Promote { .. } | ReplicaChange::Remove { .. } => None,
    }
}

fn removed(change: ReplicaChange) -> Option<ReplicaId> {
    match change {
        ReplicaChange::Remove { replica } | ReplicaChange::Replace { remove: replica, .. } => Some(replica),
        _ => None,
    }
}
