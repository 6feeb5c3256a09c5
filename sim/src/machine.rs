//! The state machine under test, in both forms: registers and lists by key, from one set of rules.
//!
//! ```text
//! command: tag (1) | key length (1) | key | first u64 | second u64 | padding
//! tag 1 put(value)   tag 2 append(value)   tag 3 compare-and-set(expected, new)
//! stored:  register: value u64 | padding       list: element u64 ...
//! query:   a key; empty: all keys of the region
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use bytes::{BufMut, Bytes, BytesMut};
use multiraft::machine::{ApplyContext, OwnState, RegionView, SnapshotWrite, StateMachine, StateTxn};
use multiraft_raft::RegionDescriptor;
use multiraft_storage::StateError;

use crate::history::{Action, Answer, Key};

const PUT: u8 = 1;
const APPEND: u8 = 2;
const CAS: u8 = 3;

/// What tells a machine that a command makes no sense; no command of the simulator gets it.
const NONSENSE: &[u8] = b"nonsense";

/// The stored form of a key: regions are ranges of it.
#[must_use]
pub fn key_bytes(key: Key) -> Bytes {
    Bytes::from(format!("k{:04}/{:04}", key.region, key.number))
}

/// Where the range of a region begins.
#[must_use]
pub fn boundary(region: u64) -> Bytes {
    Bytes::from(format!("k{region:04}"))
}

/// The command that carries `action` out; `None` for a read. `padding` bytes make it, and what it stores, larger.
#[must_use]
pub fn encode(key: Key, action: Action, padding: usize) -> Option<Bytes> {
    let (tag, first, second) = match action {
        Action::Put(value) => (PUT, value, 0),
        Action::Append(value) => (APPEND, value, 0),
        Action::Cas(expected, new) => (CAS, expected, new),
        Action::Read => return None,
    };
    let key = key_bytes(key);
    let mut out = BytesMut::with_capacity(18 + key.len() + padding);
    out.put_u8(tag);
    out.put_u8(key.len() as u8);
    out.put_slice(&key);
    out.put_u64(first);
    out.put_u64(second);
    out.put_bytes(b'.', padding);
    Some(out.freeze())
}

/// What a reply to `action` says.
#[must_use]
pub fn decode_reply(action: Action, reply: &[u8]) -> Option<Answer> {
    let number = u64::from_be_bytes(reply.try_into().ok()?);
    Some(match action {
        Action::Put(_) => Answer::Previous(number),
        Action::Append(_) => Answer::Length(number),
        Action::Cas(..) => Answer::Found(number),
        Action::Read => return None,
    })
}

/// What the answer to a lookup of `key` says.
#[must_use]
pub fn decode_value(key: Key, stored: &[u8]) -> Answer {
    if key.is_list() { Answer::List(numbers(stored)) } else { Answer::Value(first_number(stored)) }
}

/// The pairs in the answer to a lookup of everything.
#[must_use]
pub fn decode_all(answer: &Bytes) -> BTreeMap<Bytes, Bytes> {
    let mut rest = answer.clone();
    let mut pairs = BTreeMap::new();
    while let Some(lengths) = rest.get(..8) {
        let length = |at: usize| lengths[at..at + 4].iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
        let (key, value) = (length(0), length(4));
        if rest.len() < 8 + key + value {
            break;
        }
        let _ = rest.split_to(8);
        let key = rest.split_to(key);
        let value = rest.split_to(value);
        pairs.insert(key, value);
    }
    pairs
}

fn encode_all<'a>(pairs: impl Iterator<Item = (&'a Bytes, &'a Bytes)>) -> Bytes {
    let mut out = BytesMut::new();
    for (key, value) in pairs {
        out.put_u32(key.len() as u32);
        out.put_u32(value.len() as u32);
        out.put_slice(key);
        out.put_slice(value);
    }
    out.freeze()
}

fn first_number(stored: &[u8]) -> u64 {
    stored.get(..8).and_then(|first| first.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// The elements of a stored list.
#[must_use]
pub fn numbers(stored: &[u8]) -> Vec<u64> {
    stored.chunks_exact(8).map(first_number).collect()
}

fn answer(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

/// What a command does to the value of its key.
struct Effect {
    key: Bytes,
    /// `None`: it stays as it is.
    value: Option<Bytes>,
    reply: Bytes,
}

/// The rules, given the command and a look at the present value of its key.
fn decide<E>(command: &[u8], get: impl FnOnce(&[u8]) -> Result<Option<Bytes>, E>) -> Result<Option<Effect>, E> {
    let Some(Parsed { tag, key, first, second, padding }) = parse(command) else {
        return Ok(None);
    };
    let stored = get(key)?.unwrap_or_default();
    let (value, reply) = match tag {
        PUT => (Some(register(first, padding)), first_number(&stored)),
        CAS => {
            let found = first_number(&stored);
            ((found == first).then(|| register(second, padding)), found)
        }
        _ => {
            let mut list = BytesMut::with_capacity(stored.len() + 8);
            list.put_slice(&stored);
            list.put_u64(first);
            let length = list.len() as u64 / 8;
            (Some(list.freeze()), length)
        }
    };
    Ok(Some(Effect { key: Bytes::copy_from_slice(key), value, reply: answer(reply) }))
}

fn register(value: u64, padding: &[u8]) -> Bytes {
    let mut stored = BytesMut::with_capacity(8 + padding.len());
    stored.put_u64(value);
    stored.put_slice(padding);
    stored.freeze()
}

/// A command, taken apart.
struct Parsed<'a> {
    tag: u8,
    key: &'a [u8],
    first: u64,
    second: u64,
    padding: &'a [u8],
}

fn parse(command: &[u8]) -> Option<Parsed<'_>> {
    let (tag, length) = (*command.first()?, usize::from(*command.get(1)?));
    let key = command.get(2..2 + length)?;
    let rest = command.get(2 + length..)?;
    let (first, second) = (rest.get(..8)?, rest.get(8..16)?);
    let is_known = matches!(tag, PUT | APPEND | CAS);
    let (first, second) = (first_number(first), first_number(second));
    is_known.then(|| Parsed { tag, key, first, second, padding: &rest[16..] })
}

/// The form on the shared state store.
#[derive(Clone, Copy, Debug, Default)]
pub struct SharedMachine;

impl StateMachine for SharedMachine {
    fn apply(&self, _: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let Some(effect) = decide(command, |key| state.get(key))? else {
            return Ok(Bytes::from_static(NONSENSE));
        };
        if let Some(value) = effect.value
            && state.put(&effect.key, value).is_err()
        {
            return Ok(Bytes::from_static(NONSENSE));
        }
        Ok(effect.reply)
    }

    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError> {
        if query.is_empty() {
            let pairs = view.scan(b"", b"", usize::MAX)?;
            return Ok(encode_all(pairs.iter().map(|(key, value)| (key, value))));
        }
        Ok(view.get(query)?.unwrap_or_default())
    }
}

/// The form that holds its state itself.
#[derive(Clone, Debug, Default)]
pub struct OwnMachine {
    pairs: BTreeMap<Bytes, Bytes>,
}

impl OwnMachine {
    /// Makes the empty machine of a region.
    #[must_use]
    pub fn create(_: &RegionDescriptor) -> Box<dyn OwnState> {
        Box::new(Self::default())
    }
}

impl OwnState for OwnMachine {
    fn apply(&mut self, _: ApplyContext<'_>, command: &[u8]) -> Bytes {
        let get = |key: &[u8]| Ok::<_, std::convert::Infallible>(self.pairs.get(key).cloned());
        let Ok(Some(effect)) = decide(command, get) else {
            return Bytes::from_static(NONSENSE);
        };
        if let Some(value) = effect.value {
            self.pairs.insert(effect.key, value);
        }
        effect.reply
    }

    fn lookup(&self, _: &RegionDescriptor, query: &[u8]) -> Bytes {
        if query.is_empty() {
            return encode_all(self.pairs.iter());
        }
        self.pairs.get(query).cloned().unwrap_or_default()
    }

    fn snapshot(&self) -> SnapshotWrite {
        let pairs = self.pairs.clone();
        Box::new(move |out: &mut dyn Write| out.write_all(&encode_all(pairs.iter())))
    }

    fn digest(&self) -> Option<SnapshotWrite> {
        Some(self.snapshot())
    }

    fn restore(&mut self, snapshot: &mut dyn Read) -> io::Result<()> {
        let mut all = Vec::new();
        snapshot.read_to_end(&mut all)?;
        self.pairs = decode_all(&Bytes::from(all));
        Ok(())
    }

    fn split_off(&mut self, key: &[u8]) -> Box<dyn OwnState> {
        Box::new(Self { pairs: self.pairs.split_off(key) })
    }

    fn absorb(&mut self, neighbour: Box<dyn OwnState>) {
        if let Ok(other) = neighbour.as_any().downcast::<Self>() {
            self.pairs.extend(other.pairs);
        }
    }

    fn as_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use multiraft_raft::{KeyRange, LogIndex, RegionEpoch, RegionId};

    use super::*;

    fn run(machine: &mut dyn OwnState, key: Key, action: Action) -> Option<Answer> {
        let range = KeyRange::full();
        let region = RegionDescriptor { id: RegionId(2), range, epoch: RegionEpoch::FIRST, replicas: vec![] };
        let context = ApplyContext { region: &region, index: LogIndex(1) };
        let reply = machine.apply(context, &encode(key, action, 3).expect("a write"));
        decode_reply(action, &reply)
    }

    #[test]
    fn registers_and_lists_do_what_they_say() {
        let (register, list) = (Key { region: 2, number: 0 }, Key { region: 2, number: 1 });
        let mut machine = OwnMachine::default();
        assert_eq!(run(&mut machine, register, Action::Put(7)), Some(Answer::Previous(0)));
        assert_eq!(run(&mut machine, register, Action::Cas(8, 9)), Some(Answer::Found(7)));
        assert_eq!(run(&mut machine, register, Action::Cas(7, 9)), Some(Answer::Found(7)));
        assert_eq!(run(&mut machine, register, Action::Put(10)), Some(Answer::Previous(9)));
        assert_eq!(run(&mut machine, list, Action::Append(4)), Some(Answer::Length(1)));
        assert_eq!(run(&mut machine, list, Action::Append(5)), Some(Answer::Length(2)));
        let stored = machine.pairs[&key_bytes(list)].clone();
        assert_eq!(decode_value(list, &stored), Answer::List(vec![4, 5]));
    }

    #[test]
    fn a_machine_restores_what_it_has_written() {
        let mut machine = OwnMachine::default();
        for number in 0..20 {
            run(
                &mut machine,
                Key { region: 2, number },
                if number % 2 == 1 { Action::Append(1) } else { Action::Put(2) },
            );
        }
        let mut file = Vec::new();
        machine.snapshot()(&mut file).expect("memory");
        let mut copy = OwnMachine::default();
        copy.restore(&mut &file[..]).expect("just written");
        assert_eq!(copy.pairs, machine.pairs);
    }
}
