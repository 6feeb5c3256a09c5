//! How much work from outside a worker's queue may hold: a bound on inputs and bytes, in one atomic word.
//!
//! One word, so that a refusal never has to take back half an admission, and so that closing is ordered against admitting:
//! after [`Admission::close`] nothing is admitted, and once what was admitted before it is released, nothing is in the
//! queue or on its way to it.
//!
//! ```text
//!   63      62 ............ 40  39 .................. 0
//!   closed  inputs (23 bits)    bytes (40 bits)
//! ```

use crate::sync::{AtomicU64, Ordering};

const BYTES_BITS: u32 = 40;
const BYTES_MAX: u64 = (1 << BYTES_BITS) - 1;
const COUNT_MAX: u64 = (1 << 23) - 1;
const CLOSED: u64 = 1 << 63;

/// A bound on what is admitted and not yet released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Inputs. At most 2^23 - 1 are ever admitted.
    pub count: usize,
    /// Bytes, as declared by the senders. At most 2^40 - 1 are ever admitted.
    pub bytes: u64,
}

/// Why something was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The limit is reached; room comes back as the worker takes inputs.
    Busy,
    /// It alone is larger than the limit on bytes, which it would never pass.
    TooLarge,
    /// Closed for good.
    Closed,
}

/// The account of one kind of work at one worker.
#[derive(Debug)]
pub struct Admission {
    word: AtomicU64,
    count_max: u64,
    bytes_max: u64,
}

impl Admission {
    /// An open account. A limit on the count of zero is taken as one.
    #[must_use]
    pub fn new(limit: Limit) -> Self {
        let count_max = u64::try_from(limit.count).unwrap_or(COUNT_MAX).clamp(1, COUNT_MAX);
        Self { word: AtomicU64::new(0), count_max, bytes_max: limit.bytes.min(BYTES_MAX) }
    }

    /// Takes room for one input of `bytes`. Whoever gets it must bring the input into the queue or
    /// [`Admission::release`] it.
    ///
    /// # Errors
    /// See [`Refusal`]. Nothing was taken.
    pub fn try_admit(&self, bytes: u64) -> Result<(), Refusal> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & CLOSED != 0 {
                return Err(Refusal::Closed);
            }
            if bytes > self.bytes_max {
                return Err(Refusal::TooLarge);
            }
            if count_of(word) >= self.count_max || bytes_of(word) + bytes > self.bytes_max {
                return Err(Refusal::Busy);
            }
            // Within the limits neither field can run over into its neighbour.
            let taken = word + (1 << BYTES_BITS) + bytes;
            match self.word.compare_exchange_weak(word, taken, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(seen) => word = seen,
            }
        }
    }

    /// Gives back the room of `count` inputs with `bytes` in all, which were admitted before.
    ///
    /// # Panics
    /// When more is given back than was taken: the account would be wrong from then on.
    pub fn release(&self, count: u64, bytes: u64) {
        let before = self.word.fetch_sub((count << BYTES_BITS) + bytes, Ordering::AcqRel);
        assert!(count_of(before) >= count && bytes_of(before) >= bytes, "released more than was admitted");
    }

    /// Admits nothing more, for good.
    pub fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Inputs admitted and not yet released.
    #[must_use]
    pub fn count(&self) -> u64 {
        count_of(self.word.load(Ordering::Acquire))
    }

    /// Bytes admitted and not yet released.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        bytes_of(self.word.load(Ordering::Acquire))
    }

    /// Whether it is closed and all that was admitted is released. Once true, true for ever.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let word = self.word.load(Ordering::Acquire);
        word & CLOSED != 0 && count_of(word) == 0
    }
}

const fn count_of(word: u64) -> u64 {
    (word & !CLOSED) >> BYTES_BITS
}

const fn bytes_of(word: u64) -> u64 {
    word & BYTES_MAX
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn count_limit_refuses_until_release() {
        let admission = Admission::new(Limit { count: 2, bytes: 100 });
        assert_eq!(admission.try_admit(1), Ok(()));
        assert_eq!(admission.try_admit(1), Ok(()));
        assert_eq!(admission.try_admit(1), Err(Refusal::Busy));
        admission.release(1, 1);
        assert_eq!(admission.try_admit(1), Ok(()));
    }

    #[test]
    fn byte_limit_refuses_and_tells_busy_from_hopeless() {
        let admission = Admission::new(Limit { count: 10, bytes: 100 });
        assert_eq!(admission.try_admit(101), Err(Refusal::TooLarge));
        assert_eq!(admission.try_admit(100), Ok(()));
        assert_eq!(admission.try_admit(0), Ok(()));
        assert_eq!(admission.try_admit(1), Err(Refusal::Busy));
        assert_eq!((admission.count(), admission.bytes()), (2, 100));
    }

    #[test]
    fn limits_beyond_the_word_are_cut_not_overflowed() {
        let admission = Admission::new(Limit { count: usize::MAX, bytes: u64::MAX });
        assert_eq!(admission.try_admit(BYTES_MAX), Ok(()));
        assert_eq!(admission.try_admit(1), Err(Refusal::Busy));
        assert_eq!(admission.try_admit(u64::MAX), Err(Refusal::TooLarge));
        assert_eq!((admission.count(), admission.bytes()), (1, BYTES_MAX));
    }

    #[test]
    fn closed_account_is_drained_once_all_is_released() {
        let admission = Admission::new(Limit { count: 10, bytes: 100 });
        assert_eq!(admission.try_admit(5), Ok(()));
        assert!(!admission.is_drained());
        admission.close();
        assert_eq!(admission.try_admit(5), Err(Refusal::Closed));
        assert!(!admission.is_drained());
        admission.release(1, 5);
        assert!(admission.is_drained());
    }

    #[test]
    #[should_panic(expected = "released more than was admitted")]
    fn releasing_more_than_admitted_is_caught() {
        Admission::new(Limit { count: 10, bytes: 100 }).release(1, 0);
    }
}
