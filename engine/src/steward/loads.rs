//! What lies on each store, in the form in which whoever plans tells it to the others.
//!
//! ```text
//! format (1) | varint count | count x ( varint store, replicas, leaders, bytes, load a second )
//! ```

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::StoreId;

use crate::placement::StoreLoad;
use crate::region::command::{get_varint, put_varint};

const FORMAT: u8 = 1;

pub(super) fn encode_loads(loads: &BTreeMap<StoreId, StoreLoad>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(FORMAT);
    put_varint(&mut out, loads.len() as u64);
    for (store, load) in loads {
        let StoreLoad { replicas, leaders, bytes, load_per_s } = *load;
        for value in [store.get(), replicas as u64, leaders as u64, bytes, load_per_s] {
            put_varint(&mut out, value);
        }
    }
    out.freeze()
}

/// `None` if it is none of this version.
pub(crate) fn decode_loads(bytes: &Bytes) -> Option<BTreeMap<StoreId, StoreLoad>> {
    let mut at = 1;
    if *bytes.first()? != FORMAT {
        return None;
    }
    let mut loads = BTreeMap::new();
    for _ in 0..get_varint(bytes, &mut at)? {
        let mut next = || get_varint(bytes, &mut at);
        let store = StoreId(next()?);
        let (replicas, leaders) = (usize::try_from(next()?).ok()?, usize::try_from(next()?).ok()?);
        loads.insert(store, StoreLoad { replicas, leaders, bytes: next()?, load_per_s: next()? });
    }
    (at == bytes.len()).then_some(loads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_survive_a_round_trip_and_cut_ones_are_refused() {
        let load = |replicas| StoreLoad { replicas, leaders: 2, bytes: 1 << 40, load_per_s: 300 };
        let loads: BTreeMap<_, _> = [(StoreId(1), load(300)), (StoreId(900), load(0))].into();
        let bytes = encode_loads(&loads);
        assert_eq!(decode_loads(&bytes), Some(loads));
        for len in 0..bytes.len() {
            assert_eq!(decode_loads(&bytes.slice(..len)), None, "cut at {len}");
        }
    }
}
