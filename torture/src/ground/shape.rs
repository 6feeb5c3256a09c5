//! What may go wrong between stores, drawn: who is cut off from whom, whose packets are lost or late.

use super::{Fault, Faults};
use crate::random::Random;

/// A way to part stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Two groups that hear nothing of each other.
    Halves,
    /// One store, which leads the most, and all others.
    Leader,
    /// One store is heard and hears nothing, or the other way round; or only one other store is not heard by it.
    OneWay,
    /// Every store reaches its two neighbours in a ring.
    Ring,
    /// Two groups that reach only one store in common.
    Bridge,
    /// Packets are lost, everywhere.
    Loss,
    /// Packets are late and out of turn, everywhere.
    Late,
    /// Packets come twice, everywhere.
    Twice,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Halves, Self::Leader, Self::OneWay, Self::Ring, Self::Bridge, Self::Loss, Self::Late, Self::Twice];

    /// Whether the kernel's filter cannot do it.
    #[must_use]
    pub const fn needs_a_proxy(self) -> bool {
        matches!(self, Self::Late | Self::Twice)
    }

    /// All shapes in a drawn order. Where packets cannot be late, they are at least lost.
    #[must_use]
    pub fn all(can_delay: bool, random: &mut Random) -> Vec<Self> {
        let mut shapes: Vec<Self> = Self::ALL.into_iter().filter(|shape| can_delay || !shape.needs_a_proxy()).collect();
        random.shuffle(&mut shapes);
        shapes
    }

    /// Which packets this is about, with so many stores, of which `leader` leads the most.
    #[must_use]
    pub fn draw(self, stores: u64, leader: u64, random: &mut Random) -> Faults {
        let mut order: Vec<u64> = (1..=stores).collect();
        random.shuffle(&mut order);
        let place = |store| order.iter().position(|other| *other == store).unwrap_or_default();
        let half = order.len() / 2;
        let cut_if =
            |is_cut: &dyn Fn(u64, u64) -> bool| pairs(stores, |from, to| is_cut(from, to).then_some(Fault::Cut));
        match self {
            Self::Halves => cut_if(&|from, to| (place(from) < half) != (place(to) < half)),
            Self::Leader => cut_if(&|from, to| from == leader || to == leader),
            Self::OneWay => {
                let (one, other) = (order[0], order[1]);
                match random.below(3) {
                    0 => cut_if(&|from, _| from == one),
                    1 => cut_if(&|_, to| to == one),
                    _ => cut_if(&|from, to| from == one && to == other),
                }
            }
            Self::Ring => cut_if(&|from, to| {
                let apart = place(from).abs_diff(place(to));
                apart != 1 && apart != order.len() - 1
            }),
            Self::Bridge => {
                cut_if(&|from, to| (place(from) < half && place(to) > half) || (place(from) > half && place(to) < half))
            }
            Self::Loss => {
                let percent = random.between(5, 30);
                pairs(stores, |_, _| Some(Fault::Loss(percent)))
            }
            Self::Late => {
                let ms = random.between(20, 150);
                pairs(stores, |_, _| Some(Fault::Late(ms)))
            }
            Self::Twice => {
                let percent = random.between(10, 60);
                pairs(stores, |_, _| Some(Fault::Twice(percent)))
            }
        }
    }
}

/// What is said of each ordered pair of stores.
fn pairs(stores: u64, fault: impl Fn(u64, u64) -> Option<Fault>) -> Faults {
    let pairs = (1..=stores).flat_map(|from| (1..=stores).map(move |to| (from, to)));
    pairs.filter(|(from, to)| from != to).filter_map(|(from, to)| Some(((from, to), fault(from, to)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shape_cuts_what_it_says() {
        let mut random = Random::new(1);
        for _ in 0..50 {
            let mut drawn = |shape: Shape| shape.draw(5, 3, &mut random);
            let is_mutual = |faults: &Faults| faults.keys().all(|(from, to)| faults.contains_key(&(*to, *from)));
            let halves = drawn(Shape::Halves);
            assert!(halves.len() == 12 && is_mutual(&halves), "two and three: {halves:?}");
            let leader = drawn(Shape::Leader);
            assert!(leader.len() == 8 && leader.keys().all(|(from, to)| *from == 3 || *to == 3), "{leader:?}");
            let one_way = drawn(Shape::OneWay);
            assert!([1, 4].contains(&one_way.len()) && !is_mutual(&one_way), "{one_way:?}");
            let ring = drawn(Shape::Ring);
            let reached = |from| (1..=5).filter(|to| *to != from && !ring.contains_key(&(from, *to))).count();
            assert!((1..=5).all(|store| reached(store) == 2) && is_mutual(&ring), "{ring:?}");
            let bridge = drawn(Shape::Bridge);
            assert!(bridge.len() == 8 && is_mutual(&bridge), "two, one and two: {bridge:?}");
            assert_eq!(drawn(Shape::Loss).len(), 20);
            assert_eq!(drawn(Shape::Late).len(), 20);
            assert_eq!(drawn(Shape::Twice).len(), 20);
        }
        assert_eq!(Shape::all(true, &mut random).len(), 8);
        assert!(!Shape::all(false, &mut random).iter().any(|shape| shape.needs_a_proxy()));
    }
}
