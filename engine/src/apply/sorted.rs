//! A sorted list of many small items that takes little more memory than they do.
//!
//! ```text
//!   chunks   [ 1 3 4 7 ]  [ 8 9 ]  [ 12 13 20 ]        none is empty, none holds more than CHUNK
//! ```
//!
//! A tree that is filled in ascending order, as ids are given away, is left half empty; here only what is put between others
//! cuts a full chunk in two. An insertion or removal moves a chunk's items, and at worst one word for each chunk.

/// The most items of a chunk.
const CHUNK: usize = 64;

/// See the module. In which order items stand is whoever's that asks for a place.
#[derive(Clone, Debug)]
pub(super) struct Sorted<T> {
    chunks: Vec<Vec<T>>,
}

/// A place in a list, good until the list changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    chunk: usize,
    at: usize,
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T> Sorted<T> {
    /// A list of these, which are in order.
    pub(super) fn of(items: Vec<T>) -> Self {
        let mut chunks = Vec::with_capacity(items.len().div_ceil(CHUNK));
        let mut items = items.into_iter();
        loop {
            let chunk: Vec<T> = items.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return Self { chunks };
            }
            chunks.push(chunk);
        }
    }

    /// The place of the first item that does not stand before what is looked for, or the end. Items that do all come first.
    pub(super) fn place(&self, mut is_before: impl FnMut(&T) -> bool) -> Place {
        let chunk = self.chunks.partition_point(|chunk| chunk.last().is_some_and(&mut is_before));
        let at = self.chunks.get(chunk).map_or(0, |chunk| chunk.partition_point(is_before));
        Place { chunk, at }
    }

    pub(super) fn get(&self, place: Place) -> Option<&T> {
        self.chunks.get(place.chunk)?.get(place.at)
    }

    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut T> {
        self.chunks.get_mut(place.chunk)?.get_mut(place.at)
    }

    /// The item in front of a place.
    pub(super) fn before(&self, place: Place) -> Option<&T> {
        match place.at.checked_sub(1) {
            Some(at) => self.chunks.get(place.chunk)?.get(at),
            None => self.chunks.get(place.chunk.checked_sub(1)?)?.last(),
        }
    }

    /// The items from a place on.
    pub(super) fn from(&self, place: Place) -> impl Iterator<Item = &T> {
        let rest = self.chunks.get(place.chunk + 1..).into_iter().flatten().flatten();
        self.chunks.get(place.chunk).map(|chunk| &chunk[place.at..]).into_iter().flatten().chain(rest)
    }

    /// Puts an item in front of what stands at a place.
    pub(super) fn insert(&mut self, mut place: Place, item: T) {
        // At the end of the chunk in front, rather than in the next or at its beginning.
        if place.at == 0 && place.chunk > 0 && self.chunks[place.chunk - 1].len() < CHUNK {
            place.chunk -= 1;
            place.at = self.chunks[place.chunk].len();
        }
        let Some(chunk) = self.chunks.get_mut(place.chunk) else {
            self.chunks.push(vec![item]);
            return;
        };
        if chunk.len() < CHUNK {
            chunk.insert(place.at, item);
            return;
        }
        let behind = chunk.split_off(CHUNK / 2);
        match place.at.checked_sub(CHUNK / 2) {
            Some(at) => {
                chunk.shrink_to_fit();
                self.chunks.insert(place.chunk + 1, behind);
                self.chunks[place.chunk + 1].insert(at, item);
            }
            None => {
                chunk.insert(place.at, item);
                self.chunks.insert(place.chunk + 1, behind);
            }
        }
    }

    /// Takes out what stands at a place.
    pub(super) fn remove(&mut self, place: Place) -> Option<T> {
        let chunk = self.chunks.get_mut(place.chunk)?;
        if place.at >= chunk.len() {
            return None;
        }
        let item = chunk.remove(place.at);
        let len = chunk.len();
        if len == 0 {
            self.chunks.remove(place.chunk);
        } else if len < CHUNK / 4 {
            self.unite(place.chunk);
        }
        Some(item)
    }

    /// Puts a chunk that has become small together with the next, or the one before, if that leaves room.
    fn unite(&mut self, chunk: usize) {
        let fits = |first: usize| {
            let len = |chunk: usize| self.chunks.get(chunk).map(Vec::len);
            len(first).zip(len(first + 1)).is_some_and(|(one, other)| one + other <= CHUNK * 3 / 4)
        };
        let first = [Some(chunk), chunk.checked_sub(1)].into_iter().flatten().find(|first| fits(*first));
        if let Some(first) = first {
            let behind = self.chunks.remove(first + 1);
            self.chunks[first].extend(behind);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all(list: &Sorted<u32>) -> Vec<u32> {
        list.from(list.place(|_| false)).copied().collect()
    }

    #[test]
    fn it_holds_what_a_tree_would_hold() {
        let mut seed = 7_u64;
        let mut draw = |below: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from((seed >> 33) % u64::from(below)).unwrap_or(0)
        };
        let mut tree: BTreeSet<u32> = (0..500).map(|item| item * 3).collect();
        let mut list = Sorted::of(tree.iter().copied().collect());
        // First more and more, then fewer and fewer.
        for step in 0..40_000_u32 {
            let (item, adds) = (draw(3_000), draw(3_000) > step * 3 / 40);
            let place = list.place(|other| *other < item);
            let is_there = list.get(place) == Some(&item);
            assert_eq!(is_there, tree.contains(&item));
            assert_eq!(list.before(place), tree.range(..item).next_back());
            match (adds, is_there) {
                (true, false) => {
                    tree.insert(item);
                    list.insert(place, item);
                }
                (false, true) => {
                    tree.remove(&item);
                    assert_eq!(list.remove(place), Some(item));
                }
                _ => {}
            }
            if step % 500 == 0 {
                assert_eq!(all(&list), tree.iter().copied().collect::<Vec<_>>());
                assert!(list.from(list.place(|other| *other < item)).eq(tree.range(item..)));
                assert!(list.chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len())));
            }
        }
        for item in tree {
            let place = list.place(|other| *other < item);
            assert_eq!(list.remove(place), Some(item));
            assert_eq!(list.remove(list.place(|_| true)), None);
        }
        assert!(list.chunks.is_empty());
    }

    #[test]
    fn what_comes_in_order_leaves_no_gaps() {
        let mut list = Sorted::default();
        for item in 0..10_000_u32 {
            list.insert(list.place(|other| *other < item), item);
        }
        let capacity: usize = list.chunks.iter().map(Vec::capacity).sum();
        assert!(capacity < 10_100, "{capacity}");
        assert_eq!(list.chunks.len(), 10_000_usize.div_ceil(CHUNK));
    }
}
