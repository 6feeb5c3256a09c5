//! Commands that take effect exactly once (Ongaro's dissertation, section 6.3).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{LogIndex, RegionId, Time};
use multiraft_transport::{SessionId, SessionSeq};

use crate::engine::Engine;
use crate::error::ProposeError;

/// Tells this process's sessions from all others, of other stores and of other lives of this one: a counter on disk would
/// begin again in a new data directory.
static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));

/// Numbers the sessions that this process has opened.
static OPENED: AtomicU64 = AtomicU64::new(0);

const PAUSE: Duration = Duration::from_millis(10);

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
        let counter = OPENED.fetch_add(1, Ordering::Relaxed);
        let id = (u128::from(*PROCESS) << 64) | u128::from(counter);
        Self { engine, id: SessionId(id), state: Mutex::default() }
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

    async fn opened(&self, region: RegionId, deadline: Time) -> Result<LogIndex, ProposeError> {
        if let Some(opened) = self.lock().opened.get(&region) {
            return Ok(*opened);
        }
        let seq = SessionSeq { session: self.id, opened: LogIndex::ZERO, sequence: 0, acknowledged: 0 };
        let reply = self.attempt(region, seq, Bytes::new(), deadline).await?;
        let index = reply.as_ref().try_into().map(u64::from_be_bytes).map_err(|_| ProposeError::Refused {
            reason: "the region answered the opening of a session with something else: run the same version everywhere"
                .to_owned(),
        })?;
        Ok(*self.lock().opened.entry(region).or_insert(LogIndex(index)))
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
            // A part of the time each, so that an answer which was lost is asked for again.
            let left = deadline.since(self.engine.now());
            let until = self.engine.now().plus((left / 2).max(Duration::from_millis(100).min(left)));
            let error = match self.engine.propose_until(region, None, Some(seq), command.clone(), until).await {
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
