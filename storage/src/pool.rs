//! Places of one size for packed groups, or for whatever else there is a hundred thousand of.
//!
//! Dense: the last place moves into one that becomes free, so a pool takes what its groups take and a piece of a chunk.
//! Chunks have one size in all pools, and nothing is ever grown by moving it: the allocator is left without holes.

/// What is taken from the allocator at once.
const CHUNK: usize = 1024;

/// Byte strings of up to one size, each in a place of that size, side by side: they take what they need and a piece of a chunk of
/// 1 KiB, whatever has come and gone meanwhile, and the allocator keeps no holes for them.
#[derive(Debug)]
pub struct BytePool {
    size: u32,
    /// How many places a chunk has. In 32 bits, as all that is divided by it: with more, that is slow.
    each: u32,
    #[allow(clippy::vec_box, reason = "chunks stay where they are when there is one more")]
    chunks: Vec<Box<[u8; CHUNK]>>,
    /// How many places are taken: the first so many.
    taken: u32,
}

impl BytePool {
    /// The largest size of a place, in bytes.
    pub const SIZE_MAX: u16 = CHUNK as u16;

    /// An empty pool.
    ///
    /// # Panics
    /// If `size` is zero or above [`SIZE_MAX`](Self::SIZE_MAX).
    #[must_use]
    pub fn new(size: u16) -> Self {
        assert!(size > 0 && size <= Self::SIZE_MAX, "a place of {size} bytes");
        let size = u32::from(size);
        Self { size, each: CHUNK as u32 / size, chunks: Vec::new(), taken: 0 }
    }

    /// How many places are taken: the first so many.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.taken
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// What lies there, and what lies behind it up to the end of its place. Of a place that is not taken, anything.
    ///
    /// # Panics
    /// If there never was such a place.
    #[must_use]
    pub fn get(&self, at: u32) -> &[u8] {
        let (chunk, range) = self.place(at);
        &self.chunks[chunk][range]
    }

    /// Replaces what lies there.
    ///
    /// # Panics
    /// If it is longer than a place.
    pub fn set(&mut self, at: u32, packed: &[u8]) {
        let (chunk, range) = self.place(at);
        self.chunks[chunk][range][..packed.len()].copy_from_slice(packed);
    }

    /// Takes the next place; answers which it is.
    ///
    /// # Panics
    /// If it is longer than a place.
    pub fn push(&mut self, packed: &[u8]) -> u32 {
        let at = self.taken;
        self.taken += 1;
        if self.place(at).0 == self.chunks.len() {
            self.chunks.push(Box::new([0; CHUNK]));
        }
        self.set(at, packed);
        at
    }

    /// Frees a place; the last one moves there, if it is not the last itself.
    ///
    /// # Panics
    /// If none is taken.
    pub fn swap_remove(&mut self, at: u32) {
        let last = self.taken - 1;
        let ((from, range), (to, hole)) = (self.place(last), self.place(at));
        if from == to {
            self.chunks[to].copy_within(range, hole.start);
        } else {
            let (before, behind) = self.chunks.split_at_mut(from);
            before[to][hole].copy_from_slice(&behind[0][range]);
        }
        self.taken = last;
        if from == self.chunks_needed() {
            self.chunks.pop();
            if self.chunks.capacity() >= self.chunks.len() * 4 {
                self.chunks.shrink_to(self.chunks.len() * 2);
            }
        }
    }

    /// What it has allocated, in bytes.
    #[must_use]
    pub fn heap(&self) -> usize {
        self.chunks.len() * CHUNK + self.chunks.capacity() * size_of::<Box<[u8; CHUNK]>>()
    }

    fn chunks_needed(&self) -> usize {
        self.taken.div_ceil(self.each) as usize
    }

    /// The chunk that a place lies in, and where.
    fn place(&self, at: u32) -> (usize, std::ops::Range<usize>) {
        let start = at % self.each * self.size;
        ((at / self.each) as usize, start as usize..(start + self.size) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_dense_and_gives_back_what_it_does_not_need() {
        let mut pool = BytePool::new(24);
        let packed = |number: u8| [number; 24];
        for number in 0..200 {
            assert_eq!(pool.push(&packed(number)[..20]), u32::from(number));
        }
        assert_eq!((pool.len(), pool.chunks.len()), (200, 5));
        pool.swap_remove(3);
        pool.swap_remove(198);
        assert_eq!(pool.get(3)[..20], packed(199)[..20]);
        pool.set(4, &packed(77));
        assert_eq!((pool.get(4), pool.len()), (&packed(77)[..], 198));
        for at in (0..198).rev() {
            pool.swap_remove(at);
        }
        assert_eq!(pool.heap(), 0);
    }
}
