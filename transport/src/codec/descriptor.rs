//! Region descriptors as bytes: inside messages, and on the engine's disk.

use bytes::Bytes;
use multiraft_raft::{KeyRange, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId};

use super::{
    Limits, WireError, WireFault,
    reader::Reader,
    varint::{put_bytes, put_delta, put_varint},
};

/// Stands first in every encoded descriptor, because it outlives the link: it is also on disk.
const DESCRIPTOR_FORMAT: u8 = 1;

/// A replica takes at least its id, its store and its role.
const REPLICA_MIN: usize = 3;

/// Appends `descriptor` to `out`. It says itself where it ends.
pub fn encode_descriptor(descriptor: &RegionDescriptor, out: &mut Vec<u8>) {
    out.push(DESCRIPTOR_FORMAT);
    put_varint(out, descriptor.id.0);
    put_bytes(out, &descriptor.range.start);
    put_bytes(out, &descriptor.range.end);
    put_varint(out, descriptor.epoch.conf_version);
    put_varint(out, descriptor.epoch.version);
    put_varint(out, descriptor.replicas.len() as u64);
    let mut id = 0;
    for replica in &descriptor.replicas {
        put_delta(out, id, replica.id.0);
        put_varint(out, replica.store.0);
        out.push(replica.role as u8);
        id = replica.id.0;
    }
}

/// Reads what [`encode_descriptor`] wrote; nothing may follow it.
///
/// # Errors
/// The bytes are no descriptor, or one that breaks the invariant of [`RegionDescriptor`].
pub fn decode_descriptor(bytes: &Bytes) -> Result<RegionDescriptor, WireError> {
    let mut reader = Reader::new(bytes, Limits::default().items_max);
    let descriptor = read_descriptor(&mut reader)?;
    reader.finish()?;
    Ok(descriptor)
}

pub(crate) fn read_descriptor(reader: &mut Reader<'_>) -> Result<RegionDescriptor, WireError> {
    let format = reader.byte("a descriptor")?;
    if format != DESCRIPTOR_FORMAT {
        return reader.fail(WireFault::Unknown { what: "descriptor format", value: format });
    }
    let id = RegionId(reader.varint()?);
    let range = KeyRange { start: reader.payload("a start key")?, end: reader.payload("an end key")? };
    let epoch = RegionEpoch { conf_version: reader.varint()?, version: reader.varint()? };
    let count = reader.count("replicas", REPLICA_MIN)?;
    let mut replicas: Vec<Replica> = Vec::with_capacity(count);
    for _ in 0..count {
        let before = replicas.last().map_or(0, |replica| replica.id.0);
        let replica = Replica {
            id: ReplicaId(reader.delta(before)?),
            store: StoreId(reader.varint()?),
            role: read_role(reader)?,
        };
        if !replicas.is_empty() && replica.id.0 <= before {
            return reader.fail(WireFault::Invalid("replicas do not ascend in id"));
        }
        replicas.push(replica);
    }
    if shares_a_store(&replicas) {
        return reader.fail(WireFault::Invalid("two replicas share a store"));
    }
    Ok(RegionDescriptor { id, range, epoch, replicas })
}

fn read_role(reader: &mut Reader<'_>) -> Result<Role, WireError> {
    Ok(match reader.byte("a role")? {
        0 => Role::Voter,
        1 => Role::Learner,
        2 => Role::Witness,
        3 => Role::IncomingVoter,
        4 => Role::OutgoingVoter,
        5 => Role::DemotingVoter,
        value => return reader.fail(WireFault::Unknown { what: "role", value }),
    })
}

/// Sorts a copy when there are many: the count comes from outside, so no quadratic search.
fn shares_a_store(replicas: &[Replica]) -> bool {
    if replicas.len() <= 8 {
        return replicas.iter().enumerate().any(|(at, a)| replicas[..at].iter().any(|b| a.store == b.store));
    }
    let mut stores: Vec<StoreId> = replicas.iter().map(|replica| replica.store).collect();
    stores.sort_unstable();
    stores.windows(2).any(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> RegionDescriptor {
        let replica = |id, store, role| Replica { id: ReplicaId(id), store: StoreId(store), role };
        RegionDescriptor {
            id: RegionId(7),
            range: KeyRange { start: Bytes::from_static(b"g"), end: Bytes::from_static(b"p") },
            epoch: RegionEpoch { conf_version: 3, version: 300 },
            replicas: vec![replica(21, 1, Role::Voter), replica(22, 3, Role::Learner), replica(30, 2, Role::Witness)],
        }
    }

    fn encoded(descriptor: &RegionDescriptor) -> Bytes {
        let mut out = Vec::new();
        encode_descriptor(descriptor, &mut out);
        out.into()
    }

    #[test]
    fn a_descriptor_has_the_documented_bytes_and_comes_back() {
        let bytes = encoded(&descriptor());
        let documented = [
            1, // format
            7, // region
            1, b'g', 1, b'p', // key range
            3, 0xac, 0x02, // epoch 3.300
            3,    // replicas
            42, 1, 0, // +21 on store 1, a voter
            2, 3, 1, // +1 on store 3, a learner
            16, 2, 2, // +8 on store 2, a witness
        ];
        assert_eq!(bytes.as_ref(), documented);
        assert_eq!(decode_descriptor(&bytes), Ok(descriptor()));
    }

    #[test]
    fn a_descriptor_that_breaks_its_invariant_is_refused() {
        let mut descending = descriptor();
        descending.replicas.swap(0, 1);
        let error = decode_descriptor(&encoded(&descending)).expect_err("refused");
        assert_eq!(error.fault, WireFault::Invalid("replicas do not ascend in id"));
        let mut shared = descriptor();
        shared.replicas[2].store = StoreId(1);
        let error = decode_descriptor(&encoded(&shared)).expect_err("refused");
        assert_eq!(error.fault, WireFault::Invalid("two replicas share a store"));
    }

    #[test]
    fn bytes_after_a_descriptor_and_other_formats_are_refused() {
        let mut bytes = encoded(&descriptor()).to_vec();
        bytes.push(0);
        assert!(decode_descriptor(&bytes.clone().into()).is_err());
        bytes.pop();
        bytes[0] = 2;
        let error = decode_descriptor(&bytes.into()).expect_err("refused");
        assert_eq!(error.fault, WireFault::Unknown { what: "descriptor format", value: 2 });
    }
}
