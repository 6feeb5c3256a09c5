//! The state of a group of a peer that brings none: a map in memory, and a copy of it as bytes.

use rustc_hash::FxHashMap;

/// A map that costs little: it is the peer that is measured.
pub(crate) type State = FxHashMap<u64, Vec<u8>>;

/// Carries out a command that [`KeySpace::put`](crate::keyspace::KeySpace::put) makes; others do nothing.
pub(crate) fn put(state: &mut State, command: &[u8]) {
    if let Some((key, value)) = command.split_first_chunk() {
        let kept = state.entry(u64::from_be_bytes(*key)).or_default();
        kept.clear();
        kept.extend_from_slice(value);
    }
}

/// All pairs: key, length of the value, value.
pub(crate) fn encoded(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in state {
        bytes.extend_from_slice(&key.to_be_bytes());
        bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(value);
    }
    bytes
}

/// The reverse; nothing if the bytes are none that [`encoded`] makes.
pub(crate) fn decoded(mut bytes: &[u8]) -> Option<State> {
    let mut state = State::default();
    while !bytes.is_empty() {
        let (key, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        state.insert(u64::from_be_bytes(*key), value.to_vec());
        bytes = rest;
    }
    Some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_read_as_it_was_written_and_refused_when_cut_short() {
        let state = State::from_iter([(7, b"value".to_vec()), (u64::MAX, Vec::new())]);
        let bytes = encoded(&state);
        assert_eq!(decoded(&bytes), Some(state));
        assert_eq!(decoded(&bytes[..bytes.len() - 1]), None);
    }
}
