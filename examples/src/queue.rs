//! Queues: first in, first out, each item handed to one consumer exactly once.
//!
//! Taking an item removes it, so a consumer that asked, got no answer and asks again must not be given the next one. The
//! client's session sees to that: the region remembers what it answered, and gives the same answer to the same request
//! although that is tried again, even by another leader. A consumer that dies with an item in its hands loses it; a queue
//! that hands it out again would add a lease as [`crate::lock_service`] has.
//!
//! State, on the shared state store:
//!
//! ```text
//!   name 00                 -> head, tail: the numbers of the first item and of the next one to come
//!   name 00 number (8)      -> item
//! ```
//!
//! A queue lives in one region as long as regions are cut at names: names hold no zero byte.

use bytes::Bytes;
use multiraft::{ApplyContext, Engine, KeyOutsideRegion, RegionView, StateError, StateMachine, StateTxn};

use crate::client::{Client, ClientError, elsewhere, malformed, open, plain};
use crate::wire::{Reader, Writer};

const PUSH: u8 = 1;
const POP: u8 = 2;

const PUSHED: u8 = 2;
const POPPED: u8 = 3;
const EMPTY: u8 = 4;
const LENGTH: u8 = 5;

/// The state machine of all queues.
#[derive(Debug, Default)]
pub struct Queues;

/// Invariant: `head <= tail`; exactly the items from `head` to `tail` (excluded) are stored.
#[derive(Clone, Copy, Default)]
struct Bounds {
    head: u64,
    tail: u64,
}

impl Bounds {
    fn parse(bytes: Option<Bytes>) -> Self {
        let parse = |bytes: Bytes| {
            let mut reader = Reader::new(&bytes);
            Some(Self { head: reader.number()?, tail: reader.number()? })
        };
        bytes.and_then(parse).unwrap_or_default()
    }

    fn encode(self) -> Bytes {
        Writer::default().number(self.head).number(self.tail).finish()
    }
}

fn bounds_key(name: &[u8]) -> Vec<u8> {
    [name, &[0]].concat()
}

fn item_key(name: &[u8], number: u64) -> Vec<u8> {
    [name, &[0], &number.to_be_bytes()].concat()
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.contains(&0)
}

impl StateMachine for Queues {
    fn apply(&self, context: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let mut fields = Reader::new(command);
        let Some((kind, name)) = fields.kind().zip(fields.bytes()).filter(|(_, name)| is_name(name)) else {
            return Ok(malformed());
        };
        if !context.region.owns(&bounds_key(name)) {
            return Ok(elsewhere());
        }
        let bounds = Bounds::parse(state.get(&bounds_key(name))?);
        let answer = match (kind, fields.bytes()) {
            (PUSH, Some(item)) => push(state, name, bounds, item),
            (POP, None) if bounds.head == bounds.tail => Ok(plain(EMPTY)),
            (POP, None) => match state.get(&item_key(name, bounds.head))? {
                Some(item) => pop(state, name, bounds, &item),
                None => Ok(elsewhere()),
            },
            _ => Ok(malformed()),
        };
        Ok(answer.unwrap_or_else(|_| elsewhere()))
    }

    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError> {
        if !is_name(query) {
            return Ok(malformed());
        }
        if !view.region().owns(&bounds_key(query)) {
            return Ok(elsewhere());
        }
        let bounds = Bounds::parse(view.get(&bounds_key(query))?);
        Ok(Writer::new(LENGTH).number(bounds.tail - bounds.head).finish())
    }
}

fn push(state: &mut StateTxn<'_>, name: &[u8], bounds: Bounds, item: &[u8]) -> Result<Bytes, KeyOutsideRegion> {
    // The item first: if its key lies outside, nothing has been written.
    state.put(&item_key(name, bounds.tail), Bytes::copy_from_slice(item))?;
    state.put(&bounds_key(name), Bounds { tail: bounds.tail + 1, ..bounds }.encode())?;
    Ok(Writer::new(PUSHED).number(bounds.tail).finish())
}

fn pop(state: &mut StateTxn<'_>, name: &[u8], bounds: Bounds, item: &[u8]) -> Result<Bytes, KeyOutsideRegion> {
    state.delete(&item_key(name, bounds.head))?;
    state.put(&bounds_key(name), Bounds { head: bounds.head + 1, ..bounds }.encode())?;
    Ok(Writer::new(POPPED).number(bounds.head).bytes(item).finish())
}

/// An item, with its number in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// How many items came before it.
    pub number: u64,
    /// What was pushed.
    pub content: Vec<u8>,
}

/// A producer or consumer of one queue.
#[derive(Debug)]
pub struct Queue {
    client: Client,
    name: Vec<u8>,
}

impl Queue {
    /// On any store. A queue comes into being with its first item.
    ///
    /// # Errors
    /// The name is empty or holds a zero byte.
    pub fn new(engine: &Engine, name: impl Into<Vec<u8>>) -> Result<Self, ClientError> {
        let name = name.into();
        if !is_name(&name) {
            return Err(ClientError::Misuse("a queue's name is not empty and holds no zero byte"));
        }
        Ok(Self { client: Client::new(engine), name })
    }

    /// Appends an item; gives its number.
    ///
    /// # Errors
    /// [`ClientError`]; after an unknown outcome the item may be in the queue, once.
    pub async fn push(&self, item: &[u8]) -> Result<u64, ClientError> {
        let command = Writer::new(PUSH).bytes(&self.name).bytes(item).finish();
        let answer = self.client.propose(&bounds_key(&self.name), command).await?;
        match open(&answer)? {
            (PUSHED, mut fields) => fields.number().ok_or(ClientError::Version),
            _ => Err(ClientError::Version),
        }
    }

    /// Takes the first item, if there is one.
    ///
    /// # Errors
    /// [`ClientError`]; after an unknown outcome an item may have been taken.
    pub async fn pop(&self) -> Result<Option<Item>, ClientError> {
        let command = Writer::new(POP).bytes(&self.name).finish();
        let answer = self.client.propose(&bounds_key(&self.name), command).await?;
        match open(&answer)? {
            (EMPTY, _) => Ok(None),
            (POPPED, mut fields) => {
                let (number, content) = fields.number().zip(fields.bytes()).ok_or(ClientError::Version)?;
                Ok(Some(Item { number, content: content.to_vec() }))
            }
            _ => Err(ClientError::Version),
        }
    }

    /// How many items it holds.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn length(&self) -> Result<u64, ClientError> {
        let answer = self.client.read(&bounds_key(&self.name), Bytes::copy_from_slice(&self.name)).await?;
        match open(&answer)? {
            (LENGTH, mut fields) => fields.number().ok_or(ClientError::Version),
            _ => Err(ClientError::Version),
        }
    }
}
