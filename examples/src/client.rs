//! What the clients of all examples share: finding the region of a key, and trying again without doing a thing twice.

use bytes::Bytes;
use multiraft::{Consistency, Engine, ProposeError, ReadError, RegionId, Session};

use crate::wire::{Reader, Writer};

/// An answer begins with a byte: these two mean the same everywhere, others are the state machine's.
const MALFORMED: u8 = 0;
const ELSEWHERE: u8 = 1;
/// How often a key is looked up again because its region no longer owned it when the command arrived.
const LOOKUPS: usize = 5;

/// What a state machine answers to what it cannot read.
#[must_use]
pub fn malformed() -> Bytes {
    Bytes::from_static(&[MALFORMED])
}

/// What a state machine answers to a key that the region does not own (any more).
#[must_use]
pub fn elsewhere() -> Bytes {
    Bytes::from_static(&[ELSEWHERE])
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The command was not, or may not have been, carried out.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The query was not answered.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Regions changed faster than they could be looked up.
    #[error("no region took the key: try again")]
    Unrouted,
    /// The state machine did not understand, or its answer was not understood.
    #[error("the stores run another version of this program")]
    Version,
    /// The caller asked for what cannot be.
    #[error("{0}")]
    Misuse(&'static str),
    /// The state machine of a replica has failed.
    #[error("the replica has failed: {0}")]
    Failed(String),
}

/// Sends commands and queries to where their key lives.
#[derive(Debug)]
pub struct Client {
    engine: Engine,
    session: Session,
}

impl Client {
    /// A client in a session of its own, on a store; any will do.
    #[must_use]
    pub fn new(engine: &Engine) -> Self {
        Self { engine: engine.clone(), session: engine.session() }
    }

    /// The engine it talks to.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Has a command carried out, exactly once although it may take several attempts.
    ///
    /// # Errors
    /// After [`ProposeError::Uncertain`] it may have been carried out; after any other error it was not.
    pub async fn propose(&self, key: &[u8], command: Bytes) -> Result<Bytes, ClientError> {
        for _ in 0..LOOKUPS {
            let answer = self.session.propose(self.region_of(key)?, command.clone()).await?;
            if let Some(answer) = settled(answer)? {
                return Ok(answer);
            }
        }
        Err(ClientError::Unrouted)
    }

    /// Asks for what all commands answered so far have made of the state.
    ///
    /// # Errors
    /// [`ClientError`]; a query may always be tried again.
    pub async fn read(&self, key: &[u8], query: Bytes) -> Result<Bytes, ClientError> {
        for _ in 0..LOOKUPS {
            let region = self.region_of(key)?;
            let answer = self.engine.read(region, query.clone(), Consistency::Linearizable).await?;
            if let Some(answer) = settled(answer)? {
                return Ok(answer);
            }
        }
        Err(ClientError::Unrouted)
    }

    fn region_of(&self, key: &[u8]) -> Result<RegionId, ClientError> {
        self.engine.region_for(key).map(|region| region.id).ok_or(ClientError::Unrouted)
    }
}

/// The answer, unless another region has to be asked.
fn settled(answer: Bytes) -> Result<Option<Bytes>, ClientError> {
    match answer.first() {
        Some(&ELSEWHERE) => Ok(None),
        Some(&MALFORMED) | None => Err(ClientError::Version),
        Some(_) => Ok(Some(answer)),
    }
}

/// An answer that says no more than that it is of some kind.
pub(crate) fn plain(kind: u8) -> Bytes {
    Writer::new(kind).finish()
}

/// The kind of an answer, and what follows.
pub(crate) fn open(answer: &[u8]) -> Result<(u8, Reader<'_>), ClientError> {
    let mut reader = Reader::new(answer);
    let kind = reader.kind().ok_or(ClientError::Version)?;
    Ok((kind, reader))
}
