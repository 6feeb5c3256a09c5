//! What the workers are told of support.
//!
//! The core tells every worker, in the order in which things came about, through a queue that never drops. A promise that a
//! worker notes rests on the [`SupportNews::Given`] that it has taken in, and is let go of no earlier than the
//! [`SupportNews::Withdrawn`] that follows: since the core sends that after it has withdrawn, nothing that any store was told
//! of the support is younger than the promise's end (`docs/liveness.md`, S5 and claim 2).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use multiraft_raft::{Incarnation, StoreId, Time};

/// A period of support that a store asks for; ordered, and used once only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SupportEpoch {
    /// The asker's incarnation.
    pub incarnation: Incarnation,
    /// Which of that incarnation's, from one.
    pub number: u64,
}

impl SupportEpoch {
    /// The epoch as one number, as groups and their messages name it: never zero, and the same for no other of an asker's epochs.
    ///
    /// An incarnation has fewer than 2^32 epochs, for each lasts for a heartbeat at the least; so does a store incarnations.
    #[must_use]
    pub const fn code(self) -> u64 {
        (self.incarnation.get() << 32) | (self.number & 0xffff_ffff)
    }
}

/// Support that this store holds of a peer: what it has been told, and until when it may count on it.
#[derive(Clone, Debug)]
pub struct Held {
    /// Which of this store's epochs towards that peer.
    pub number: u64,
    /// The peer's incarnation that gives it.
    pub by: Incarnation,
    until: Arc<AtomicU64>,
}

impl Held {
    /// Support that holds until a first moment.
    #[must_use]
    pub fn new(number: u64, by: Incarnation, until: Time) -> Self {
        Self { number, by, until: Arc::new(AtomicU64::new(until.0)) }
    }

    /// Until when this store may count on it as a lease, on its own clock (R4); seen to grow while it is renewed.
    #[must_use]
    pub fn until(&self) -> Time {
        Time(self.until.load(Ordering::SeqCst))
    }

    /// Renews it.
    pub(crate) fn extend(&self, until: Time) {
        self.until.fetch_max(until.0, Ordering::SeqCst);
    }

    /// Ends it for whoever still has a copy: this store is about to ask at another epoch, or not at all any more.
    pub(crate) fn end(&self) {
        self.until.store(0, Ordering::SeqCst);
    }
}

/// As they are at this moment: for tests, which compare lists of news.
impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        (self.number, self.by, self.until()) == (other.number, other.by, other.until())
    }
}

impl Eq for Held {}

/// Something that the liveness core tells every worker of its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SupportNews {
    /// This store supports a peer.
    Given {
        /// The peer.
        peer: StoreId,
        /// At which of its epochs.
        epoch: SupportEpoch,
    },
    /// This store supports a peer no more at that epoch, and never will again (L7).
    Withdrawn {
        /// The peer.
        peer: StoreId,
        /// At which of its epochs.
        epoch: SupportEpoch,
    },
    /// This store holds a peer's support; told again when number or incarnation change, and after a loss.
    Held {
        /// The peer.
        peer: StoreId,
        /// What is held.
        support: Held,
    },
    /// What this store held of a peer has ended (L11).
    Lost {
        /// The peer.
        peer: StoreId,
    },
    /// What this store may have promised before its start has run out: its replicas may vote and campaign (L10).
    MayVote,
    /// A peer's answer to a round that this worker began (R1).
    RoundAnswered {
        /// The peer.
        peer: StoreId,
        /// Which round.
        round: u64,
        /// The peer's incarnation.
        by: Incarnation,
        /// At which of this store's epochs the peer supported it when it answered; `None`: it did not.
        number: Option<u64>,
    },
}
