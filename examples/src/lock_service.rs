//! Locks that expire, with fencing tokens.
//!
//! A lock is held until it is released or its time is over. Time is what its callers say it is: a state machine has no clock,
//! since every replica must come to the same answer. A caller whose clock is fast can therefore end another's lease early;
//! and any caller may pause beyond its own. Hence the **fencing token**: each grant of a lock has a greater one than all
//! grants before it, and what the lock protects refuses a request that carries a smaller token than it has seen
//! ([`Fence`]). However clocks err, an owner of the past can no longer do harm.
//!
//! State, on the shared state store: lock name -> token, end of the lease, owner. A lock that was released keeps its token.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use multiraft::{ApplyContext, Engine, RegionView, StateError, StateMachine, StateTxn};

use crate::client::{Client, ClientError, elsewhere, malformed, open, plain};
use crate::wire::{Reader, Writer};

const ACQUIRE: u8 = 1;
const RENEW: u8 = 2;
const RELEASE: u8 = 3;

const GRANTED: u8 = 2;
const HELD: u8 = 3;
const DONE: u8 = 4;
const LOST: u8 = 5;
const FREE: u8 = 6;

/// The state machine.
#[derive(Debug, Default)]
pub struct LockService;

/// What is stored of a lock.
struct Record {
    token: u64,
    /// In milliseconds since 1970; zero: released.
    until_ms: u64,
    owner: Vec<u8>,
}

impl Record {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        Some(Self { token: reader.number()?, until_ms: reader.number()?, owner: reader.bytes()?.to_vec() })
    }

    fn encode(&self) -> Bytes {
        Writer::default().number(self.token).number(self.until_ms).bytes(&self.owner).finish()
    }

    fn is_held_at(&self, now_ms: u64) -> bool {
        self.until_ms > now_ms
    }

    fn held(&self) -> Bytes {
        Writer::new(HELD).number(self.token).number(self.until_ms).bytes(&self.owner).finish()
    }
}

impl StateMachine for LockService {
    fn apply(&self, context: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let Some(command) = Command::parse(command) else { return Ok(malformed()) };
        if !context.region.owns(command.name()) {
            return Ok(elsewhere());
        }
        let record = state.get(command.name())?.and_then(|bytes| Record::parse(&bytes));
        let (changed, answer) = decide(&command, record);
        Ok(match changed.map(|record| state.put(command.name(), record.encode())) {
            None | Some(Ok(())) => answer,
            Some(Err(_)) => elsewhere(),
        })
    }

    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError> {
        let mut reader = Reader::new(query);
        let Some((name, now_ms)) = reader.bytes().zip(reader.number()) else { return Ok(malformed()) };
        if !view.region().owns(name) {
            return Ok(elsewhere());
        }
        let record = view.get(name)?.and_then(|bytes| Record::parse(&bytes));
        Ok(record.filter(|record| record.is_held_at(now_ms)).map_or_else(|| plain(FREE), |record| record.held()))
    }
}

enum Command<'a> {
    Acquire { name: &'a [u8], now_ms: u64, until_ms: u64, owner: &'a [u8] },
    Renew { name: &'a [u8], now_ms: u64, until_ms: u64, token: u64 },
    Release { name: &'a [u8], token: u64 },
}

impl<'a> Command<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Reader::new(bytes);
        let kind = fields.kind()?;
        let name = fields.bytes()?;
        Some(match kind {
            ACQUIRE => {
                Self::Acquire { name, now_ms: fields.number()?, until_ms: fields.number()?, owner: fields.bytes()? }
            }
            RENEW => {
                Self::Renew { name, now_ms: fields.number()?, until_ms: fields.number()?, token: fields.number()? }
            }
            RELEASE => Self::Release { name, token: fields.number()? },
            _ => return None,
        })
    }

    fn name(&self) -> &'a [u8] {
        match self {
            Self::Acquire { name, .. } | Self::Renew { name, .. } | Self::Release { name, .. } => name,
        }
    }
}

/// What a command makes of a lock, if anything, and the answer.
fn decide(command: &Command<'_>, record: Option<Record>) -> (Option<Record>, Bytes) {
    match (command, record) {
        (Command::Acquire { now_ms, .. }, Some(record)) if record.is_held_at(*now_ms) => (None, record.held()),
        (Command::Acquire { until_ms, owner, .. }, record) => {
            // Never a token twice: not after a release, not after an expiry.
            let token = record.map_or(0, |record| record.token) + 1;
            let granted = Record { token, until_ms: *until_ms, owner: owner.to_vec() };
            (Some(granted), Writer::new(GRANTED).number(token).finish())
        }
        (Command::Renew { now_ms, until_ms, token, .. }, Some(mut record))
            if record.token == *token && record.is_held_at(*now_ms) =>
        {
            // A renewal that arrives late, or from a slower clock, does not shorten the lease.
            record.until_ms = record.until_ms.max(*until_ms);
            (Some(record), plain(DONE))
        }
        (Command::Release { token, .. }, Some(record)) if record.token == *token && record.until_ms > 0 => {
            (Some(Record { until_ms: 0, owner: Vec::new(), ..record }), plain(DONE))
        }
        _ => (None, plain(LOST)),
    }
}

/// The answer to a wish for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It is the caller's; every request to what it protects carries the token.
    Granted {
        /// Greater than that of any grant of this lock before.
        token: u64,
    },
    /// It is somebody's already.
    Held(Holder),
}

/// Who has a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The owner's name.
    pub owner: Vec<u8>,
    /// The token of the grant.
    pub token: u64,
    /// When it ends, unless it is renewed.
    pub until: SystemTime,
}

/// A client of the service.
#[derive(Debug)]
pub struct Locks {
    client: Client,
}

impl Locks {
    /// On any store.
    #[must_use]
    pub fn new(engine: &Engine) -> Self {
        Self { client: Client::new(engine) }
    }

    /// Takes a lock for `lease` from `now`, if it is free.
    ///
    /// # Errors
    /// [`ClientError`]. After an unknown outcome the lock may be the caller's until the lease is over.
    pub async fn acquire(
        &self,
        name: &[u8],
        owner: &[u8],
        now: SystemTime,
        lease: Duration,
    ) -> Result<Acquired, ClientError> {
        let command = Writer::new(ACQUIRE).bytes(name).number(millis(now)).number(millis(now + lease)).bytes(owner);
        let answer = self.client.propose(name, command.finish()).await?;
        match open(&answer)? {
            (GRANTED, mut fields) => Ok(Acquired::Granted { token: fields.number().ok_or(ClientError::Version)? }),
            (HELD, fields) => holder(fields).map(Acquired::Held),
            _ => Err(ClientError::Version),
        }
    }

    /// Prolongs a grant; false if it is no longer the current one or is over.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn renew(&self, name: &[u8], token: u64, now: SystemTime, lease: Duration) -> Result<bool, ClientError> {
        let command = Writer::new(RENEW).bytes(name).number(millis(now)).number(millis(now + lease)).number(token);
        self.settle(name, command.finish()).await
    }

    /// Gives a grant back; false if it was no longer the current one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn release(&self, name: &[u8], token: u64) -> Result<bool, ClientError> {
        self.settle(name, Writer::new(RELEASE).bytes(name).number(token).finish()).await
    }

    /// Who has a lock.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn holder(&self, name: &[u8], now: SystemTime) -> Result<Option<Holder>, ClientError> {
        let query = Writer::default().bytes(name).number(millis(now)).finish();
        let answer = self.client.read(name, query).await?;
        match open(&answer)? {
            (FREE, _) => Ok(None),
            (HELD, fields) => holder(fields).map(Some),
            _ => Err(ClientError::Version),
        }
    }

    async fn settle(&self, name: &[u8], command: Bytes) -> Result<bool, ClientError> {
        let answer = self.client.propose(name, command).await?;
        match open(&answer)?.0 {
            DONE => Ok(true),
            LOST => Ok(false),
            _ => Err(ClientError::Version),
        }
    }
}

fn holder(mut fields: Reader<'_>) -> Result<Holder, ClientError> {
    let mut parse = || {
        let (token, until_ms) = (fields.number()?, fields.number()?);
        let until = UNIX_EPOCH.checked_add(Duration::from_millis(until_ms))?;
        Some(Holder { token, until, owner: fields.bytes()?.to_vec() })
    };
    parse().ok_or(ClientError::Version)
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What a resource that a lock protects has to do: refuse who comes with a token of the past.
#[derive(Debug, Default)]
pub struct Fence {
    greatest: u64,
}

impl Fence {
    /// Whether a request with this token may go on.
    pub fn admit(&mut self, token: u64) -> bool {
        let is_current = token >= self.greatest;
        self.greatest = self.greatest.max(token);
        is_current
    }
}
