//! The state machine that the engine runs: decodes a batch, carries it out on the shared state store, encodes the answers.

use bytes::Bytes;
use multiraft::{ApplyContext, RegionView, StateError, StateMachine, StateTxn};

use super::answer::{Answer, Refusal, encode_answers};
use super::carry_out::{Pairs, PairsMut, read_batch, write_batch};
use super::op::Batch;
use super::whole::{read_whole, write_whole};

/// Pairs under their raw keys.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyValue;

impl StateMachine for KeyValue {
    fn apply(&self, _: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let answers = match Batch::decode(command) {
            Ok(Batch { ops, is_whole: false }) => write_batch(&mut Written(state), &ops)?,
            Ok(Batch { ops, is_whole: true }) => write_whole(&mut Written(state), &ops)?,
            Err(_) => vec![Answer::Refused(Refusal::Malformed)],
        };
        Ok(encode_answers(&answers))
    }

    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError> {
        let answers = match Batch::decode(query) {
            Ok(Batch { ops, is_whole: false }) => read_batch(&Seen(view), &ops)?,
            Ok(Batch { ops, is_whole: true }) => read_whole(&Seen(view), &ops)?,
            Err(_) => vec![Answer::Refused(Refusal::Malformed)],
        };
        Ok(encode_answers(&answers))
    }
}

struct Written<'a, 'b>(&'a mut StateTxn<'b>);

impl Pairs for Written<'_, '_> {
    type Error = StateError;

    fn owns(&self, key: &[u8]) -> bool {
        self.0.region().owns(key)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.0.get(key)
    }

    fn scan(&self, start: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        self.0.scan(start, &[], limit)
    }
}

impl PairsMut for Written<'_, '_> {
    fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), Refusal> {
        self.0.put(key, value).map_err(|_| Refusal::WrongRegion)
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), Refusal> {
        self.0.delete(key).map_err(|_| Refusal::WrongRegion)
    }
}

struct Seen<'a, 'b>(&'a RegionView<'b>);

impl Pairs for Seen<'_, '_> {
    type Error = StateError;

    fn owns(&self, key: &[u8]) -> bool {
        self.0.region().owns(key)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.0.get(key)
    }

    fn scan(&self, start: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        self.0.scan(start, &[], limit)
    }
}
