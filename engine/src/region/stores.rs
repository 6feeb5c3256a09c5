//! The stores of the cluster, as the root region keeps them: who they are, where they stand, what is wanted of them.
//!
//! ```text
//! record:  format (1) | varint count | count x store, ascending
//! store:   varint id | bytes address | varint weight | state (1) | varint count of labels | so many x ( bytes name | bytes value )
//! answer:  0 | record          done; the stores as they are then
//!          code (1)            refused, see `StoreFault`
//! bytes:   varint length | so many
//! ```
//!
//! ```text
//!           join            drain              verified empty          leave
//!  unknown ------> Up <------------> Draining ----------------> Drained ------> Left ---forget---> unknown
//!                      cancel_drain                cancel_drain: back to Up
//! ```
//!
//! Every command is carried out by every replica of the root region alike, and has the same effect once or several times.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::StoreId;

use crate::region::command::{get_varint, put_varint};

/// Where the root region notes them.
pub(crate) const STORES: &[u8] = b"stores";

const FORMAT: u8 = 1;

/// The most stores that a cluster knows.
const STORES_MAX: usize = 4096;
/// The most labels of one store, and the longest text of its record, in bytes.
const LABELS_MAX: usize = 32;
const TEXT_MAX: usize = 1024;

/// What is wanted of a store, and how far that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreStanding {
    /// It takes part.
    Up,
    /// It is to be emptied.
    Draining,
    /// It was to be emptied and is: it may leave.
    Drained,
    /// It is gone for good. Its id is not used again.
    Left,
}

/// A store, as the root region keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRecord {
    /// Its name.
    pub id: StoreId,
    /// Where other stores reach it.
    pub address: String,
    /// How much it can bear compared with the others; zero counts as one.
    pub weight: u32,
    /// Where it stands: `zone`, `rack` and the like. At most 32.
    pub labels: BTreeMap<String, String>,
    /// What is wanted of it.
    pub standing: StoreStanding,
}

/// A change of one store, or a look at all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreCommand {
    /// The store is here, with this address, weight and these labels. What is wanted of it stays as it is.
    Join(Arc<StoreRecord>),
    /// It is to be emptied.
    Drain(StoreId),
    /// It is to take part again.
    CancelDrain(StoreId),
    /// It was to be emptied, and is.
    Drained(StoreId),
    /// It is gone for good.
    Leave(StoreId),
    /// Nothing need be known of it any more.
    Forget(StoreId),
    /// No change.
    List,
}

/// Why the root region does not take a change of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreFault {
    /// Nobody of that id has joined.
    #[error("no store of that id has joined: look at the list of stores")]
    Unknown,
    /// The store has left.
    #[error("the store has left for good: start it with a new id and an empty data directory")]
    Left,
    /// The store has not been emptied yet.
    #[error("the store still holds replicas: drain it and wait until it is reported as drained")]
    NotDrained,
    /// The store has not left yet.
    #[error("the store has not left: let it leave before it is forgotten")]
    NotLeft,
    /// The record is too large, or there are too many.
    #[error("at most {STORES_MAX} stores, {LABELS_MAX} labels a store and {TEXT_MAX} bytes a text")]
    TooLarge,
}

const FAULTS: [StoreFault; 5] =
    [StoreFault::Unknown, StoreFault::Left, StoreFault::NotDrained, StoreFault::NotLeft, StoreFault::TooLarge];

const JOIN: u8 = 0;
const LIST: u8 = 6;

impl StoreCommand {
    /// Reads the answer to a command: the stores as they are then, by id, or why nothing was changed. `None` if it is none of this
    /// version.
    #[must_use]
    pub fn read_answer(answer: &Bytes) -> Option<Result<BTreeMap<StoreId, StoreRecord>, StoreFault>> {
        match usize::from(*answer.first()?) {
            0 => decode_stores(&answer.slice(1..)).map(Ok),
            code => FAULTS.get(code - 1).map(|fault| Err(*fault)),
        }
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let (code, store) = match self {
            Self::Join(record) => {
                out.put_u8(JOIN);
                return put_store(out, record);
            }
            Self::Drain(store) => (1, store),
            Self::CancelDrain(store) => (2, store),
            Self::Drained(store) => (3, store),
            Self::Leave(store) => (4, store),
            Self::Forget(store) => (5, store),
            Self::List => return out.put_u8(LIST),
        };
        out.put_u8(code);
        put_varint(out, store.get());
    }

    pub(crate) fn decode(bytes: &Bytes, at: &mut usize) -> Option<Self> {
        let code = *bytes.get(*at)?;
        *at += 1;
        if code == JOIN {
            return read_store(bytes, at).map(|record| Self::Join(Arc::new(record)));
        }
        if code == LIST {
            return Some(Self::List);
        }
        let store = StoreId(get_varint(bytes, at)?);
        Some(match code {
            1 => Self::Drain(store),
            2 => Self::CancelDrain(store),
            3 => Self::Drained(store),
            4 => Self::Leave(store),
            5 => Self::Forget(store),
            _ => return None,
        })
    }
}

/// All stores, by id.
pub(crate) type Stores = BTreeMap<StoreId, StoreRecord>;

/// Carries a command out; gives whether it has changed anything.
pub(crate) fn carry_out(stores: &mut Stores, command: &StoreCommand) -> Result<bool, StoreFault> {
    let standing = |stores: &mut Stores, store: &StoreId, to: StoreStanding| {
        let known = stores.get_mut(store).ok_or(StoreFault::Unknown)?;
        if known.standing == StoreStanding::Left && to != StoreStanding::Left {
            return Err(StoreFault::Left);
        }
        Ok(std::mem::replace(&mut known.standing, to) != to)
    };
    let now = |stores: &Stores, store: &StoreId| stores.get(store).map(|known| known.standing);
    match command {
        StoreCommand::Join(record) => join(stores, record),
        // One that is empty already stays so.
        StoreCommand::Drain(store) if now(stores, store) == Some(StoreStanding::Drained) => Ok(false),
        StoreCommand::Drain(store) => standing(stores, store, StoreStanding::Draining),
        StoreCommand::CancelDrain(store) => standing(stores, store, StoreStanding::Up),
        // Somebody wants to keep it after all.
        StoreCommand::Drained(store) if now(stores, store) == Some(StoreStanding::Up) => Ok(false),
        StoreCommand::Drained(store) => standing(stores, store, StoreStanding::Drained),
        StoreCommand::Leave(store) => match now(stores, store) {
            Some(StoreStanding::Drained | StoreStanding::Left) => standing(stores, store, StoreStanding::Left),
            Some(_) => Err(StoreFault::NotDrained),
            None => Err(StoreFault::Unknown),
        },
        StoreCommand::Forget(store) => match now(stores, store) {
            Some(StoreStanding::Left) => Ok(stores.remove(store).is_some()),
            Some(_) => Err(StoreFault::NotLeft),
            None => Ok(false),
        },
        StoreCommand::List => Ok(false),
    }
}

fn join(stores: &mut Stores, record: &StoreRecord) -> Result<bool, StoreFault> {
    let mut texts = record.labels.iter().flat_map(|(name, value)| [name, value]).chain([&record.address]);
    let is_full = stores.len() >= STORES_MAX && !stores.contains_key(&record.id);
    if is_full || record.labels.len() > LABELS_MAX || texts.any(|text| text.len() > TEXT_MAX) {
        return Err(StoreFault::TooLarge);
    }
    let standing = stores.get(&record.id).map_or(StoreStanding::Up, |known| known.standing);
    if standing == StoreStanding::Left {
        return Err(StoreFault::Left);
    }
    let record = StoreRecord { standing, ..record.clone() };
    let known = stores.insert(record.id, record.clone());
    Ok(known.is_none_or(|known| known != record))
}

/// The record of all stores.
pub(crate) fn encode_stores(stores: &Stores) -> Bytes {
    let mut out = BytesMut::new();
    put_stores(&mut out, stores);
    out.freeze()
}

fn put_stores(out: &mut BytesMut, stores: &Stores) {
    out.put_u8(FORMAT);
    put_varint(out, stores.len() as u64);
    stores.values().for_each(|store| put_store(out, store));
}

/// Reads the record; `None` if it is none of this version.
pub(crate) fn decode_stores(bytes: &Bytes) -> Option<Stores> {
    let mut at = 1;
    if *bytes.first()? != FORMAT {
        return None;
    }
    let count = usize::try_from(get_varint(bytes, &mut at)?).ok().filter(|count| *count <= STORES_MAX)?;
    let stores = (0..count).map(|_| read_store(bytes, &mut at).map(|store| (store.id, store)));
    let stores = stores.collect::<Option<Stores>>()?;
    (at == bytes.len() && stores.len() == count).then_some(stores)
}

/// The answer to a command.
pub(crate) fn encode_answer(answer: Result<&Stores, StoreFault>) -> Bytes {
    let mut out = BytesMut::new();
    match answer {
        Ok(stores) => {
            out.put_u8(0);
            put_stores(&mut out, stores);
        }
        Err(fault) => {
            let code = FAULTS.iter().position(|known| *known == fault).unwrap_or(0);
            out.put_u8(u8::try_from(code + 1).unwrap_or(1));
        }
    }
    out.freeze()
}

fn put_store(out: &mut BytesMut, store: &StoreRecord) {
    put_varint(out, store.id.get());
    put_text(out, &store.address);
    put_varint(out, u64::from(store.weight));
    out.put_u8(match store.standing {
        StoreStanding::Up => 0,
        StoreStanding::Draining => 1,
        StoreStanding::Drained => 2,
        StoreStanding::Left => 3,
    });
    put_varint(out, store.labels.len() as u64);
    for (name, value) in &store.labels {
        put_text(out, name);
        put_text(out, value);
    }
}

fn read_store(bytes: &Bytes, at: &mut usize) -> Option<StoreRecord> {
    let id = StoreId(get_varint(bytes, at)?);
    let address = read_text(bytes, at)?;
    let weight = u32::try_from(get_varint(bytes, at)?).ok()?;
    let standing = match *bytes.get(*at)? {
        0 => StoreStanding::Up,
        1 => StoreStanding::Draining,
        2 => StoreStanding::Drained,
        3 => StoreStanding::Left,
        _ => return None,
    };
    *at += 1;
    let count = usize::try_from(get_varint(bytes, at)?).ok().filter(|count| *count <= bytes.len())?;
    let label = |_| Some((read_text(bytes, at)?, read_text(bytes, at)?));
    let labels = (0..count).map(label).collect::<Option<BTreeMap<_, _>>>()?;
    (labels.len() == count && id != StoreId::ZERO).then_some(StoreRecord { id, address, weight, labels, standing })
}

fn put_text(out: &mut BytesMut, text: &str) {
    put_varint(out, text.len() as u64);
    out.put_slice(text.as_bytes());
}

fn read_text(bytes: &Bytes, at: &mut usize) -> Option<String> {
    let length = usize::try_from(get_varint(bytes, at)?).ok()?;
    let end = at.checked_add(length).filter(|end| *end <= bytes.len())?;
    let text = std::str::from_utf8(&bytes[*at..end]).ok()?.to_owned();
    *at = end;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: StoreId = StoreId(1);

    fn record(id: u64, zone: &str) -> StoreRecord {
        let labels = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        let (id, address) = (StoreId(id), format!("10.0.0.{id}:7101"));
        StoreRecord { id, address, weight: 300, labels, standing: StoreStanding::Up }
    }

    fn join(id: u64, zone: &str) -> StoreCommand {
        StoreCommand::Join(Arc::new(record(id, zone)))
    }

    #[test]
    fn records_and_answers_survive_a_round_trip_and_cut_ones_are_refused() {
        let mut stores = Stores::new();
        for (id, zone) in [(1, "a"), (2, "b"), (300, "")] {
            assert_eq!(carry_out(&mut stores, &join(id, zone)), Ok(true));
        }
        stores.get_mut(&StoreId(2)).unwrap().standing = StoreStanding::Drained;
        let bytes = encode_stores(&stores);
        assert_eq!(decode_stores(&bytes), Some(stores.clone()));
        for len in 0..bytes.len() {
            assert_eq!(decode_stores(&bytes.slice(..len)), None, "cut at {len}");
        }
        assert_eq!(StoreCommand::read_answer(&encode_answer(Ok(&stores))), Some(Ok(stores)));
        for fault in FAULTS {
            assert_eq!(StoreCommand::read_answer(&encode_answer(Err(fault))), Some(Err(fault)));
        }
        assert_eq!(StoreCommand::read_answer(&Bytes::from_static(&[99])), None);
    }

    #[test]
    fn a_store_joins_drains_leaves_and_is_forgotten() {
        let mut stores = Stores::new();
        let mut steps = |command| carry_out(&mut stores, &command);
        assert_eq!(steps(StoreCommand::Drain(ONE)), Err(StoreFault::Unknown));
        assert_eq!(steps(StoreCommand::Leave(ONE)), Err(StoreFault::Unknown));
        assert_eq!(steps(join(1, "a")), Ok(true));
        assert_eq!(steps(join(1, "a")), Ok(false), "joining again changes nothing");
        assert_eq!(steps(StoreCommand::Leave(ONE)), Err(StoreFault::NotDrained));
        assert_eq!(steps(StoreCommand::Drain(ONE)), Ok(true));
        assert_eq!(steps(join(1, "b")), Ok(true), "a store that is being emptied may restart elsewhere");
        assert_eq!(steps(StoreCommand::Leave(ONE)), Err(StoreFault::NotDrained));
        assert_eq!(steps(StoreCommand::Forget(ONE)), Err(StoreFault::NotLeft));
        assert_eq!(steps(StoreCommand::Drained(ONE)), Ok(true));
        assert_eq!(steps(StoreCommand::Drain(ONE)), Ok(false), "it is empty already");
        assert_eq!(steps(StoreCommand::Leave(ONE)), Ok(true));
        assert_eq!(steps(StoreCommand::Leave(ONE)), Ok(false));
        assert_eq!(steps(join(1, "a")), Err(StoreFault::Left));
        assert_eq!(steps(StoreCommand::CancelDrain(ONE)), Err(StoreFault::Left));
        assert_eq!(steps(StoreCommand::Forget(ONE)), Ok(true));
        assert_eq!(steps(StoreCommand::Forget(ONE)), Ok(false));
    }

    #[test]
    fn a_drain_that_is_cancelled_is_not_reported_as_finished() {
        let mut stores = Stores::new();
        for command in [join(1, "a"), StoreCommand::Drain(ONE), StoreCommand::CancelDrain(ONE)] {
            assert_eq!(carry_out(&mut stores, &command), Ok(true));
        }
        assert_eq!(carry_out(&mut stores, &StoreCommand::Drained(ONE)), Ok(false));
        assert_eq!(stores[&ONE].standing, StoreStanding::Up);
    }

    #[test]
    fn a_record_that_is_too_large_is_refused() {
        let mut stores = Stores::new();
        let long = record(1, &"x".repeat(TEXT_MAX + 1));
        assert_eq!(carry_out(&mut stores, &StoreCommand::Join(Arc::new(long))), Err(StoreFault::TooLarge));
    }
}
