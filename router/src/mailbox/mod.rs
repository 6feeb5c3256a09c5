//! The way into a worker: one channel, and the accounts of who may use how much of it.
//!
//! Three kinds of input share the channel, each with room of its own, so that none can starve another:
//!
//! | sent with | what | when its room is used up |
//! |---|---|---|
//! | [`Mailbox::try_send`] | callers' work | [`SendError::Busy`], the input comes back |
//! | [`Mailbox::try_send_from_peer`] | what peer stores sent | [`SendError::Busy`], the input comes back |
//! | [`Mailbox::send_reserved`] | completions of what the worker started | cannot be; see there |
//!
//! An input's room is given back when the worker takes it out, so what the queue holds is bounded by these accounts, and
//! what a turn holds by the turn's own limits.

mod admission;
#[cfg(all(test, not(loom)))]
mod tests;

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

pub use self::admission::{Admission, Limit, Refusal};

/// A refused input, given back with the reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError<I> {
    /// The worker's queue holds as much as it may: try again after a pause, or drop it if it can be sent again.
    #[error("the worker's queue is full: try again after a pause")]
    Busy(I),
    /// The input alone is larger than the limit on bytes: send it in parts, or raise the limit.
    #[error("the input is larger than the whole queue may be: send it in parts or raise the limit")]
    TooLarge(I),
    /// The worker has stopped, or is about to.
    #[error("the worker has stopped")]
    Closed(I),
}

impl<I> SendError<I> {
    /// The input that was refused.
    pub fn into_input(self) -> I {
        match self {
            Self::Busy(input) | Self::TooLarge(input) | Self::Closed(input) => input,
        }
    }
}

/// Whose account an input is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    Callers,
    Peers,
    Reserved,
}

/// What travels through the channel.
#[derive(Debug)]
pub(crate) enum Envelope<I> {
    Work {
        input: I,
        account: Account,
        bytes: u64,
    },
    /// All accounts are closed: finish what was admitted, then stop.
    Stop,
}

/// What the channel's places hold: they are small, as it takes some dozens of them at a time.
pub(crate) type Parcel<I> = Box<Envelope<I>>;

/// The accounts of one worker.
#[derive(Debug)]
pub(crate) struct Accounts {
    callers: Admission,
    peers: Admission,
    reserved: Admission,
}

impl Accounts {
    pub(crate) fn get(&self, account: Account) -> &Admission {
        match account {
            Account::Callers => &self.callers,
            Account::Peers => &self.peers,
            Account::Reserved => &self.reserved,
        }
    }

    pub(crate) fn close(&self) {
        self.close_outside();
        self.reserved.close();
    }

    pub(crate) fn close_outside(&self) {
        self.callers.close();
        self.peers.close();
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.callers.is_drained() && self.peers.is_drained() && self.reserved.is_drained()
    }
}

/// Limits of a mailbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) callers: Limit,
    pub(crate) peers: Limit,
    pub(crate) reserved: usize,
}

/// A sender to one worker. Cheap to clone; any thread may use it.
#[derive(Debug)]
pub struct Mailbox<I> {
    sender: Sender<Parcel<I>>,
    accounts: Arc<Accounts>,
    /// How many completions may wait.
    reserved: u64,
    busy_total: metrics::Counter,
}

impl<I> Clone for Mailbox<I> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            accounts: Arc::clone(&self.accounts),
            reserved: self.reserved,
            busy_total: self.busy_total.clone(),
        }
    }
}

impl<I> Mailbox<I> {
    pub(crate) fn new(worker: u32, room: Room) -> (Self, Receiver<Parcel<I>>) {
        // A bounded channel would have all its places from the start, for the largest burst that is allowed.
        #[allow(
            clippy::disallowed_methods,
            reason = "bounded by the accounts, which answer Busy, and by who starts work"
        )]
        let (sender, receiver) = crossbeam_channel::unbounded();
        let accounts = Arc::new(Accounts {
            callers: Admission::new(room.callers),
            peers: Admission::new(room.peers),
            // Who starts the work bounds it; the account only counts.
            reserved: Admission::new(Limit { count: usize::MAX, bytes: u64::MAX }),
        });
        let busy_total = metrics::counter!("worker_busy_total", "worker" => worker.to_string());
        (Self { sender, accounts, reserved: room.reserved as u64, busy_total }, receiver)
    }

    /// Hands callers' work of about `bytes` to the worker, without waiting.
    ///
    /// Once accepted, the input is given to a turn of the driver, also when the pool is stopped meanwhile (unless the worker
    /// panics). Nothing is durable.
    ///
    /// # Errors
    /// The input comes back: see [`SendError`].
    pub fn try_send(&self, input: I, bytes: u64) -> Result<(), SendError<I>> {
        self.try_send_on(Account::Callers, input, bytes)
    }

    /// Like [`Mailbox::try_send`] for what peer stores sent, which has room of its own: callers cannot crowd out votes and
    /// acknowledgements, nor a peer the callers.
    ///
    /// # Errors
    /// The input comes back: see [`SendError`].
    pub fn try_send_from_peer(&self, input: I, bytes: u64) -> Result<(), SendError<I>> {
        self.try_send_on(Account::Peers, input, bytes)
    }

    /// Hands a completion to the worker: of a flush, an apply, a link that went up or down.
    ///
    /// These are never refused. Who starts the work bounds it: the worker has at most so many flushes, applies and snapshots under
    /// way, and links are as many as peers; together they are to stay below the pool's `reserved` limit. Should that be broken, they
    /// are taken all the same, and an error is logged.
    ///
    /// # Errors
    /// Only [`SendError::Closed`]: the worker has stopped and nobody waits for the completion.
    pub fn send_reserved(&self, input: I) -> Result<(), SendError<I>> {
        match self.accounts.get(Account::Reserved).try_admit(0) {
            Ok(()) => {}
            Err(Refusal::Closed) => return Err(SendError::Closed(input)),
            // Eight million at once: no such program runs.
            Err(Refusal::Busy | Refusal::TooLarge) => return Err(SendError::Busy(input)),
        }
        // Once for each time that it happens, not for each completion.
        if self.accounts.get(Account::Reserved).count() == self.reserved + 1 {
            tracing::error!("more completions are under way than the pool reserves room for: raise `reserved`");
        }
        self.send(Envelope::Work { input, account: Account::Reserved, bytes: 0 })
    }

    /// Inputs that wait in the channel.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.sender.len()
    }

    /// Bytes of callers' and peers' inputs that wait in the channel.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.accounts.callers.bytes() + self.accounts.peers.bytes()
    }

    pub(crate) fn accounts(&self) -> &Arc<Accounts> {
        &self.accounts
    }

    /// Tells the worker to finish; the accounts must be closed. A worker that is gone already does not mind.
    pub(crate) fn send_stop(&self) {
        drop(self.sender.send(Box::new(Envelope::Stop)));
    }

    fn try_send_on(&self, account: Account, input: I, bytes: u64) -> Result<(), SendError<I>> {
        match self.accounts.get(account).try_admit(bytes) {
            Ok(()) => {}
            Err(Refusal::Busy) => {
                self.busy_total.increment(1);
                return Err(SendError::Busy(input));
            }
            Err(Refusal::TooLarge) => return Err(SendError::TooLarge(input)),
            Err(Refusal::Closed) => return Err(SendError::Closed(input)),
        }
        self.send(Envelope::Work { input, account, bytes })
    }

    /// Sends what was admitted; that is undone if the worker is gone.
    fn send(&self, envelope: Envelope<I>) -> Result<(), SendError<I>> {
        self.sender.send(Box::new(envelope)).map_err(|refused| match *refused.into_inner() {
            Envelope::Work { input, account, bytes } => {
                self.accounts.get(account).release(1, bytes);
                SendError::Closed(input)
            }
            Envelope::Stop => unreachable!("only work is sent here"),
        })
    }
}
