//! The replicas of one worker that are awake, side by side in memory that holds nothing else.
//!
//! Tens of thousands may be awake for a moment, when all come up or when a store dies, and next to none a moment later. Were each
//! allocated by itself, what others allocate in that moment would lie between them, and keep the pages of the allocator resident
//! when they are gone. So they fill large pieces without holes: the last one moves to where one leaves.

/// How many are in a piece (few in its own tests): large enough that an allocator takes it from the system for itself. What is not used
/// of it is not touched.
const PIECE: usize = if cfg!(test) { 4 } else { 1024 };

/// Values at the places 0 to `len`, without holes.
#[derive(Debug)]
pub(super) struct Awake<T> {
    /// All but the last are full. At most one behind another is empty, so that a place taken and left again and again costs no piece.
    pieces: Vec<Vec<T>>,
    len: u32,
}

/// Where a value is, until it or the last one is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    /// Where the first value is, if there is one.
    pub(super) const FIRST: Self = Self(0);

    fn parts(self) -> (usize, usize) {
        (self.0 as usize / PIECE, self.0 as usize % PIECE)
    }
}

impl<T> Awake<T> {
    pub(super) fn new() -> Self {
        Self { pieces: Vec::new(), len: 0 }
    }

    pub(super) fn push(&mut self, value: T) -> Place {
        let place = Place(self.len);
        let (piece, _) = place.parts();
        if piece == self.pieces.len() {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        self.pieces[piece].push(value);
        self.len += 1;
        place
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// The value at a place, if it is one.
    pub(super) fn at(&self, place: u32) -> Option<&T> {
        (place < self.len).then(|| self.get(Place(place)))
    }

    pub(super) fn get(&self, place: Place) -> &T {
        let (piece, at) = place.parts();
        &self.pieces[piece][at]
    }

    pub(super) fn get_mut(&mut self, place: Place) -> &mut T {
        let (piece, at) = place.parts();
        &mut self.pieces[piece][at]
    }

    /// Takes out the value at `place`; also tells which value is there now, if the last one has moved there.
    pub(super) fn swap_remove(&mut self, place: Place) -> (T, Option<&T>) {
        let (last_piece, _) = Place(self.len - 1).parts();
        let last = self.pieces[last_piece].pop().expect("invariant: it holds the last place");
        self.len -= 1;
        let kept = match (self.len, self.pieces[last_piece].is_empty()) {
            (0, _) => 0,
            (_, true) => last_piece + 1,
            (_, false) => last_piece + 2,
        };
        self.pieces.truncate(kept);
        if place.0 == self.len {
            return (last, None);
        }
        let moved = self.get_mut(place);
        let removed = std::mem::replace(moved, last);
        (removed, Some(moved))
    }

    /// Gives back the empty piece.
    pub(super) fn shrink(&mut self) {
        self.pieces.retain(|piece| !piece.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_fills_the_place_of_who_leaves() {
        let mut awake = Awake::new();
        let places: Vec<Place> = (0..10).map(|value| awake.push(value)).collect();
        assert_eq!((awake.len(), awake.pieces.len()), (10, 3));
        assert_eq!(awake.swap_remove(places[3]), (3, Some(&9)));
        assert_eq!((*awake.get(places[3]), awake.at(8), awake.at(9)), (9, Some(&8), None));
        assert_eq!(awake.swap_remove(places[8]), (8, None));
        *awake.get_mut(places[0]) = 70;
        assert_eq!((0..8).map(|place| *awake.at(place).expect("taken")).collect::<Vec<_>>(), [70, 1, 2, 9, 4, 5, 6, 7]);
    }

    #[test]
    fn of_the_pieces_that_are_empty_one_is_kept_for_the_next_and_given_back_later() {
        let mut awake = Awake::new();
        for value in 0..9 {
            awake.push(value);
        }
        awake.swap_remove(Place(0));
        assert_eq!(awake.pieces.len(), 3, "a spare one");
        assert_eq!(awake.push(20), Place(8));
        for _ in 0..5 {
            awake.swap_remove(Place(0));
        }
        assert_eq!((awake.len(), awake.pieces.len()), (4, 2));
        awake.shrink();
        assert_eq!(awake.pieces.len(), 1);
        for _ in 0..4 {
            awake.swap_remove(Place(0));
        }
        assert_eq!((awake.len(), awake.pieces.len()), (0, 0), "nobody is awake");
    }
}
