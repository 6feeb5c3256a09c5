//! Nothing that asserts durability leaves before the flush that makes it true, and the types say so.
//!
//! Each turn of a worker has a [`LogTicket`]. What a group wants to say after a flush comes out of the core inside a
//! [`Gated`], which carries the ticket of the append it waits for and opens only against a [`FlushProof`] that covers that
//! ticket. The core is generic over the proof; the shipped log's proof can be made only by the log's writer, after a
//! successful fdatasync.

use std::fmt;
use std::marker::PhantomData;

/// The place of one append in the stream of appends of one worker (a *lane* of the log).
///
/// Tickets of one lane are issued in order and become durable in order. Tickets of different lanes are not comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogTicket {
    /// Which worker's stream.
    pub lane: u32,
    /// The place in it; grows by one each append. Zero is what was durable when the log was opened.
    pub seq: u64,
}

/// Evidence that every append of a lane up to some ticket is durable.
///
/// Implementors must make such a value only after the flush has succeeded.
pub trait FlushProof: Clone + fmt::Debug {
    /// Whether the append with this ticket, and every earlier one of its lane, is durable.
    fn covers(&self, ticket: LogTicket) -> bool;
}

/// A value that must not be seen by anyone else before a flush.
///
/// There is no way to read it, and no way out of it but [`Gated::release`]:
///
/// ```
/// use multiraft_raft::{FlushProof, Gated, LogTicket};
///
/// #[derive(Clone, Debug)]
/// struct Proof(u64);
/// impl FlushProof for Proof {
///     fn covers(&self, ticket: LogTicket) -> bool {
///         ticket.seq <= self.0
///     }
/// }
/// let vote: Gated<&str, Proof> = Gated::new(LogTicket { lane: 0, seq: 7 }, "yes");
/// let still_gated = vote.release(&Proof(6)).expect_err("not yet durable");
/// assert_eq!(still_gated.release(&Proof(7)).ok(), Some("yes"));
/// ```
///
/// Neither without a proof, nor by its fields:
///
/// ```compile_fail,E0061
/// # use multiraft_raft::{FlushProof, Gated, LogTicket};
/// # #[derive(Clone, Debug)]
/// # struct Proof(u64);
/// # impl FlushProof for Proof { fn covers(&self, ticket: LogTicket) -> bool { ticket.seq <= self.0 } }
/// let vote: Gated<&str, Proof> = Gated::new(LogTicket { lane: 0, seq: 7 }, "yes");
/// let said = vote.release();
/// ```
///
/// ```compile_fail,E0616
/// # use multiraft_raft::{FlushProof, Gated, LogTicket};
/// # #[derive(Clone, Debug)]
/// # struct Proof(u64);
/// # impl FlushProof for Proof { fn covers(&self, ticket: LogTicket) -> bool { ticket.seq <= self.0 } }
/// let vote: Gated<&str, Proof> = Gated::new(LogTicket { lane: 0, seq: 7 }, "yes");
/// let said = vote.value;
/// ```
pub struct Gated<T, P> {
    ticket: LogTicket,
    value: T,
    proof: PhantomData<fn(&P)>,
}

impl<T, P: FlushProof> Gated<T, P> {
    /// Puts `value` behind the flush of `ticket`.
    #[must_use]
    pub fn new(ticket: LogTicket, value: T) -> Self {
        Self { ticket, value, proof: PhantomData }
    }

    /// What it waits for.
    #[must_use]
    pub fn ticket(&self) -> LogTicket {
        self.ticket
    }

    /// Opens it, if `proof` covers what it waits for; otherwise gives it back.
    ///
    /// # Errors
    /// The gated value itself, unopened, if the proof does not cover its ticket.
    pub fn release(self, proof: &P) -> Result<T, Self> {
        if proof.covers(self.ticket) { Ok(self.value) } else { Err(self) }
    }
}

impl<T: fmt::Debug, P> fmt::Debug for Gated<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gated({:?} until {:?})", self.value, self.ticket)
    }
}

impl<T: PartialEq, P> PartialEq for Gated<T, P> {
    fn eq(&self, other: &Self) -> bool {
        self.ticket == other.ticket && self.value == other.value
    }
}
