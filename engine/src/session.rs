//! Commands that take effect exactly once (Ongaro's dissertation, section 6.3).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, Time};
use multiraft_transport::{SessionId, SessionSeq};

use crate::engine::Engine;
use crate::error::ProposeError;

/// Tells this process's sessions from all others, of other stores and of other lives of this one: a counter on disk would
/// begin again in a new data directory.
static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));

/// Numbers the sessions that this process has opened.
static OPENED: AtomicU64 = AtomicU64::new(0);

pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// A session: what is proposed through it takes effect at most once, however often it has to be tried.
///
/// Commands of one session may run beside each other, up to some hundred at a time and region. A region remembers a few
/// thousand sessions; one that has been forgotten is told so by [`ProposeError::SessionExpired`], and nothing is done.
#[derive(Debug)]
pub struct Session {
    engine: Engine,
    id: SessionId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// Sequences whose callers still wait.
    outstanding: BTreeSet<u64>,
    /// Where the session was opened, by region.
    opened: BTreeMap<RegionId, LogIndex>,
}

impl Session {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine, id: fresh_id(), state: Mutex::default() }
    }

    /// The name of the session, unique for ever.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Like [`Engine::propose`], but an attempt of unknown outcome is made again, under the same number, until there is an
    /// answer or [`Config::request_timeout`](crate::Config::request_timeout) is over.
    ///
    /// # Errors
    /// As [`Engine::propose`]; and [`ProposeError::SessionExpired`]. After [`ProposeError::Uncertain`] the command may
    /// still take effect, once.
    pub async fn propose(&self, region: RegionId, command: impl Into<Bytes>) -> Result<Bytes, ProposeError> {
        let deadline = self.engine.deadline(None);
        let opened = self.opened(region, deadline).await?;
        let ticket = self.begin();
        let seq = SessionSeq { session: self.id, opened, sequence: ticket.sequence, acknowledged: ticket.acknowledged };
        self.attempt(region, seq, command.into(), deadline).await
    }

    /// Like [`Session::propose`], in the region that owns `key`, whichever that is by then. All keys that the command touches
    /// must belong to that region.
    ///
    /// An attempt of unknown outcome is made again under the same number, also when the key has come to another region by a
    /// split meanwhile: the new region has taken over what its parent remembers of the session, and the parent no longer
    /// carries out what was routed to it before. So the command takes effect once, wherever.
    ///
    /// # Errors
    /// As [`Session::propose`].
    pub async fn propose_key(&self, key: impl AsRef<[u8]>, command: impl Into<Bytes>) -> Result<Bytes, ProposeError> {
        let (key, command) = (key.as_ref(), command.into());
        let deadline = self.engine.deadline(None);
        let ticket = self.begin();
        let mut pause = PAUSE;
        // Under which name the session is known to the region that may have carried an attempt out. Whoever takes the key
        // over knows it by the same; one that has opened it anew would carry the command out again.
        let mut uncertain: Option<LogIndex> = None;
        loop {
            let error = match self.attempt_routed(key, &ticket, uncertain, command.clone(), deadline).await {
                Ok(reply) => return Ok(reply),
                Err((opened, error)) => {
                    if error == ProposeError::Uncertain {
                        uncertain = uncertain.or(opened);
                    }
                    error
                }
            };
            let again = error == ProposeError::Uncertain || error.may_heal();
            if !again || !self.engine.pause(&mut pause, deadline).await {
                return Err(if uncertain.is_some() { ProposeError::Uncertain } else { error });
            }
        }
    }

    /// One attempt in the region that owns the key; with an error, under which name of the session it was made.
    async fn attempt_routed(
        &self,
        key: &[u8],
        ticket: &Ticket<'_>,
        uncertain: Option<LogIndex>,
        command: Bytes,
        deadline: Time,
    ) -> Result<Bytes, (Option<LogIndex>, ProposeError)> {
        let region = self.engine.route(key, deadline).await.ok_or_else(|| (None, self.engine.unrouted()))?;
        let opened = match uncertain {
            Some(opened) => opened,
            // Opening it has no effect that matters, whatever becomes of it.
            None => self.opened(region.id, self.engine.slice(deadline)).await.map_err(|error| match error {
                ProposeError::Uncertain => (None, ProposeError::NotLeader { region: region.id, hint: None }),
                error => (None, error),
            })?,
        };
        let seq = SessionSeq { session: self.id, opened, sequence: ticket.sequence, acknowledged: ticket.acknowledged };
        let proposed = self.engine.propose_in(&region, key, seq, command, deadline).await;
        proposed.map_err(|error| (Some(opened), error))
    }

    async fn opened(&self, region: RegionId, deadline: Time) -> Result<LogIndex, ProposeError> {
        if let Some(opened) = self.lock().opened.get(&region) {
            return Ok(*opened);
        }
        let reply = self.attempt(region, opening(self.id), Bytes::new(), deadline).await?;
        let index = read_opening(&reply)?;
        Ok(*self.lock().opened.entry(region).or_insert(index))
    }

    async fn attempt(
        &self,
        region: RegionId,
        seq: SessionSeq,
        command: Bytes,
        deadline: Time,
    ) -> Result<Bytes, ProposeError> {
        let mut pause = PAUSE;
        // Once the outcome of an attempt is unknown, only an answer of the region settles it.
        let mut unknown = false;
        loop {
            let until = self.engine.slice(deadline);
            let error = match self.engine.propose_until(region, None, Some(seq), command.clone(), until, until).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            unknown |= error == ProposeError::Uncertain;
            let again =
                matches!(error, ProposeError::Uncertain | ProposeError::Busy { .. } | ProposeError::NotLeader { .. });
            if !again || !self.engine.pause(&mut pause, deadline).await {
                return Err(if unknown { ProposeError::Uncertain } else { error });
            }
        }
    }

    fn begin(&self) -> Ticket<'_> {
        let mut state = self.lock();
        state.last += 1;
        let sequence = state.last;
        state.outstanding.insert(sequence);
        let acknowledged = state.outstanding.first().map_or(sequence, |first| *first) - 1;
        Ticket { session: self, sequence, acknowledged }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name that no other session has or will have.
pub(crate) fn fresh_id() -> SessionId {
    let counter = OPENED.fetch_add(1, Ordering::Relaxed);
    SessionId((u128::from(*PROCESS) << 64) | u128::from(counter))
}

/// The command that opens a session.
pub(crate) fn opening(session: SessionId) -> SessionSeq {
    SessionSeq { session, opened: LogIndex::ZERO, sequence: 0, acknowledged: 0 }
}

/// As what the region that answers so has opened a session.
pub(crate) fn read_opening(reply: &Bytes) -> Result<LogIndex, ProposeError> {
    let index = reply.as_ref().try_into().map(u64::from_be_bytes).map_err(|_| ProposeError::Refused {
        reason: "the region answered the opening of a session with something else: run the same version everywhere"
            .to_owned(),
    })?;
    Ok(LogIndex(index))
}

impl Engine {
    /// One attempt at a session's command in the region that owns `key`.
    pub(crate) async fn propose_routed(
        &self,
        key: &[u8],
        seq: SessionSeq,
        command: Bytes,
        deadline: Time,
    ) -> Result<Bytes, ProposeError> {
        let region = self.route(key, deadline).await.ok_or_else(|| self.unrouted())?;
        self.propose_in(&region, key, seq, command, deadline).await
    }

    /// One attempt at a session's command in a region that is believed to own `key`.
    async fn propose_in(
        &self,
        region: &RegionDescriptor,
        key: &[u8],
        seq: SessionSeq,
        command: Bytes,
        deadline: Time,
    ) -> Result<Bytes, ProposeError> {
        let until = self.slice(deadline);
        let proposed = self.propose_until(region.id, Some(region.epoch), Some(seq), command, until, until).await;
        if let Err(ProposeError::UnknownRegion { .. } | ProposeError::NotLeader { .. }) = &proposed {
            self.ask_if_unchanged(key, region, deadline).await;
        }
        proposed
    }
}

/// A sequence whose caller waits; given back when it no longer does.
struct Ticket<'a> {
    session: &'a Session,
    sequence: u64,
    acknowledged: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.session.lock().outstanding.remove(&self.sequence);
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
