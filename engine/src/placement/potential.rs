//! What "balanced" means, as one number that every balancing move lowers.
//!
//! For each of four dimensions `d` (replicas with data, bytes, leaders, load) let `x(s,d)` be what live store `s` bears, `w(s)`
//! its weight, and `F(d)` the fair share of one unit of weight: all of `d` divided by all weight, or the floor if that is
//! more. `u(s,d) = x(s,d) / (w(s) F(d))` is what the store bears in fair shares. The potential is
//!
//! ```text
//!   P = sum over d of k(d) * sum over s of w(s) * u(s,d)^2 / 2
//! ```
//!
//! Moving something of size `c(d)` from `a` to `b` leaves every `F(d)` as it is and changes `P` by
//!
//! ```text
//!   sum over d of k(d) * c(d)/F(d) * ( u(b,d) - u(a,d) + c(d)/F(d)/2 * (1/w(a) + 1/w(b)) )
//! ```
//!
//! The *gain* of a move is what `P` falls by, divided by the move's size `m = sum over d of k(d) c(d)/F(d)`: the distance in
//! fair shares that the move makes up for, its own weight deducted. A move is planned only if its gain is at least the
//! tolerance, so `P` falls by at least `tolerance * m`, where `m` is never less than `k(replicas)/F(replicas)` for a replica
//! and `k(leaders)/F(leaders)` for a leader. `P` is never below zero: under steady load there are finitely many moves, and no
//! sequence of them leads back.

use super::board::{Class, Seat};
use super::cluster::Usage;
use super::options::Balance;

/// The prefix sums and factors of one round: `k(d)` and `1/F(d)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    factors: [f64; 4],
    shares: [f64; 4],
}

impl Scale {
    pub(super) fn new(options: &Balance, seats: &[Seat]) -> Self {
        let live = || seats.iter().filter(|seat| seat.class == Class::Live);
        let weight: f64 = live().map(|seat| seat.weight).sum();
        let count = live().count() as f64;
        let floors = [1.0, options.bytes_floor as f64, 1.0, options.load_floor_per_s as f64];
        let factors = [options.replicas, options.bytes, options.leaders, options.load].map(f64::from);
        let mut shares = [1.0; 4];
        for (d, share) in shares.iter_mut().enumerate() {
            let all: i64 = live().map(|seat| seat.usage[d]).sum();
            let fair = (all as f64).max(floors[d].max(1.0) * count) / weight.max(1.0);
            *share = 1.0 / fair.max(f64::MIN_POSITIVE);
        }
        Self { factors, shares }
    }

    /// What a store bears in fair shares, one number a dimension.
    pub(super) fn shares_of(&self, seat: &Seat) -> [f64; 4] {
        let mut shares = [0.0; 4];
        for (d, share) in shares.iter_mut().enumerate() {
            *share = seat.usage[d] as f64 * self.shares[d] / seat.weight;
        }
        shares
    }

    /// What moving `what` from one store to another gains, in fair shares.
    pub(super) fn gain(&self, from: &Seat, to: &Seat, what: Usage) -> f64 {
        let (shares_from, shares_to) = (&from.shares, &to.shares);
        let both = (1.0 / from.weight + 1.0 / to.weight) / 2.0;
        let mut fall = 0.0;
        let mut size = 0.0;
        for d in 0..4 {
            let part = what[d] as f64 * self.shares[d];
            fall += self.factors[d] * part * (shares_from[d] - shares_to[d] - part * both);
            size += self.factors[d] * part;
        }
        if size > 0.0 { fall / size } else { 0.0 }
    }

    /// No move of anything from one store to another gains more: the gain is a mean of what it is in each dimension.
    pub(super) fn gain_bound(&self, from: &Seat, to: &Seat, dimensions: &[usize]) -> f64 {
        let (shares_from, shares_to) = (&from.shares, &to.shares);
        let gaps = dimensions.iter().filter(|d| self.factors[**d] > 0.0).map(|d| shares_from[*d] - shares_to[*d]);
        gaps.fold(0.0, f64::max)
    }

    /// How much the potential rises if `what` comes onto a store, for comparisons between stores.
    pub(super) fn rise(&self, seat: &Seat, what: Usage) -> f64 {
        let shares = &seat.shares;
        let part = |d: usize| what[d] as f64 * self.shares[d];
        (0..4).map(|d| self.factors[d] * part(d) * (shares[d] + part(d) / seat.weight / 2.0)).sum()
    }

    /// How far above its fair share a store is where it is furthest above.
    pub(super) fn pressure(seat: &Seat) -> f64 {
        seat.shares.into_iter().fold(0.0, f64::max)
    }

    /// The potential of all live stores.
    pub(super) fn potential(&self, seats: &[Seat]) -> f64 {
        let of = |seat: &Seat| {
            let shares = &seat.shares;
            (0..4).map(|d| self.factors[d] * seat.weight * shares[d] * shares[d] / 2.0).sum::<f64>()
        };
        seats.iter().filter(|seat| seat.class == Class::Live).map(of).sum()
    }
}
