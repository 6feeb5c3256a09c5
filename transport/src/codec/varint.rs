//! Numbers on the wire: LEB128 varints, and signed differences in zig-zag form.
//!
//! Differences wrap, so that every pair of numbers has one and adding it back gives the same number: a peer cannot cause
//! an overflow.

/// The most bytes that a varint takes.
pub(crate) const VARINT_MAX: usize = 10;

/// Appends `value`, seven bits a byte, the low ones first.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `to - from`, wrapping, in zig-zag form: differences near zero of either sign take one byte.
#[inline]
pub(crate) fn put_delta(out: &mut Vec<u8>, from: u64, to: u64) {
    put_varint(out, zigzag(to.wrapping_sub(from)));
}

/// Appends a byte string behind its length.
#[inline]
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Folds the sign of a wrapped difference into the lowest bit.
#[inline]
pub(crate) const fn zigzag(difference: u64) -> u64 {
    let signed = difference as i64;
    ((signed << 1) ^ (signed >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[inline]
pub(crate) const fn unzigzag(folded: u64) -> u64 {
    (folded >> 1) ^ (folded & 1).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zigzag_is_inverted_and_keeps_small_differences_small() {
        for value in [0, 1, 2, u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
        assert_eq!((zigzag(0), zigzag(u64::MAX), zigzag(1), zigzag(2)), (0, 1, 2, 4));
    }

    #[test]
    fn a_varint_takes_one_byte_for_each_seven_bits() {
        for (value, length) in [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u64::MAX, VARINT_MAX)] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), length, "{value}");
        }
    }
}
