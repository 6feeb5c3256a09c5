//! The bytes of a membership change inside a log entry.
//!
//! ```text
//! version: 1 byte (1) | kind: 1 byte | [joint: auto_leave: 1 byte, count: varint] | steps | context: the rest
//! step:    tag: 1 byte | replica id: varint | [additions: store id: varint]
//! varint:  LEB128, at most ten bytes, shortest form only
//! ```
//!
//! Decoding never panics and takes memory only in proportion to the input.

use bytes::Bytes;
use thiserror::Error;

use super::{ChangeOp, MembershipChange};
use crate::{ReplicaId, StoreId};

const VERSION: u8 = 1;

const SIMPLE: u8 = 0;
const JOINT: u8 = 1;
const LEAVE_JOINT: u8 = 2;

const ADD_VOTER: u8 = 0;
const ADD_LEARNER: u8 = 1;
const ADD_WITNESS: u8 = 2;
const PROMOTE: u8 = 3;
const DEMOTE: u8 = 4;
const REMOVE: u8 = 5;

/// Why bytes are no membership change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChangeDecodeError {
    /// They end too early.
    #[error("the membership change ends too early; the entry is damaged")]
    Short,
    /// They were written by a newer program.
    #[error("the membership change has format version {0}, this program knows 1; upgrade this store")]
    Version(u8),
    /// No such kind, step or flag.
    #[error("the membership change holds the unknown tag {0}; the entry is damaged")]
    Tag(u8),
    /// A number that is too long.
    #[error("the membership change holds a malformed number; the entry is damaged")]
    Number,
}

impl MembershipChange {
    /// The change as bytes, with `context` behind it.
    #[must_use]
    pub fn encode(&self, context: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(16 + 20 * self.ops().len() + context.len());
        out.push(VERSION);
        match self {
            Self::Simple(op) => {
                out.push(SIMPLE);
                put_op(&mut out, *op);
            }
            Self::Joint { ops, auto_leave } => {
                out.push(JOINT);
                out.push(u8::from(*auto_leave));
                put_varint(&mut out, ops.len() as u64);
                for op in ops {
                    put_op(&mut out, *op);
                }
            }
            Self::LeaveJoint => out.push(LEAVE_JOINT),
        }
        out.extend_from_slice(context);
        Bytes::from(out)
    }

    /// The change at the start of a membership entry's data, and the context that follows it.
    ///
    /// # Errors
    /// If the bytes are no change.
    pub fn decode(data: &[u8]) -> Result<(Self, Bytes), ChangeDecodeError> {
        let mut input = Input { data, at: 0 };
        match input.byte()? {
            VERSION => {}
            other => return Err(ChangeDecodeError::Version(other)),
        }
        let change = match input.byte()? {
            SIMPLE => Self::Simple(input.op()?),
            JOINT => {
                let auto_leave = match input.byte()? {
                    0 => false,
                    1 => true,
                    other => return Err(ChangeDecodeError::Tag(other)),
                };
                let count = input.varint()?;
                // No capacity from the wire: a count that lies fails at the end of the input.
                let mut ops = Vec::new();
                for _ in 0..count {
                    ops.push(input.op()?);
                }
                Self::Joint { ops, auto_leave }
            }
            LEAVE_JOINT => Self::LeaveJoint,
            other => return Err(ChangeDecodeError::Tag(other)),
        };
        Ok((change, Bytes::copy_from_slice(&data[input.at..])))
    }
}

fn put_op(out: &mut Vec<u8>, op: ChangeOp) {
    let (tag, store) = match op {
        ChangeOp::AddVoter { store, .. } => (ADD_VOTER, Some(store)),
        ChangeOp::AddLearner { store, .. } => (ADD_LEARNER, Some(store)),
        ChangeOp::AddWitness { store, .. } => (ADD_WITNESS, Some(store)),
        ChangeOp::Promote { .. } => (PROMOTE, None),
        ChangeOp::Demote { .. } => (DEMOTE, None),
        ChangeOp::Remove { .. } => (REMOVE, None),
    };
    out.push(tag);
    put_varint(out, op.id().get());
    if let Some(store) = store {
        put_varint(out, store.get());
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Input<'a> {
    data: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, ChangeDecodeError> {
        let byte = *self.data.get(self.at).ok_or(ChangeDecodeError::Short)?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, ChangeDecodeError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit, and a last byte of zero would be a longer form of the same number.
            if (shift == 63 && bits > 1) || (shift > 0 && byte == 0) {
                return Err(ChangeDecodeError::Number);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ChangeDecodeError::Number)
    }

    fn op(&mut self) -> Result<ChangeOp, ChangeDecodeError> {
        let tag = self.byte()?;
        if tag > REMOVE {
            return Err(ChangeDecodeError::Tag(tag));
        }
        let id = ReplicaId(self.varint()?);
        Ok(match tag {
            ADD_VOTER => ChangeOp::AddVoter { id, store: StoreId(self.varint()?) },
            ADD_LEARNER => ChangeOp::AddLearner { id, store: StoreId(self.varint()?) },
            ADD_WITNESS => ChangeOp::AddWitness { id, store: StoreId(self.varint()?) },
            PROMOTE => ChangeOp::Promote { id },
            DEMOTE => ChangeOp::Demote { id },
            _ => ChangeOp::Remove { id },
        })
    }
}
