//! The key-value state machine: what Redis commands do to the pairs of a region.
//!
//! A command is a batch of operations ([`op`]), its reply a list of answers ([`answer`]); what an operation does is a pure
//! function over pairs ([`carry_out`]). On the state store a pair is what it is: the raw value under the raw key.

mod answer;
mod carry_out;
mod kv;
mod op;
mod whole;
mod wire;

pub(crate) use answer::{Answer, Refusal, decode_answers};
pub(crate) use carry_out::{MAX_VALUE_BYTES, decimal, successor};
pub(crate) use kv::KeyValue;
pub(crate) use op::{Batch, Condition, Op, encode_batch, encode_whole};
