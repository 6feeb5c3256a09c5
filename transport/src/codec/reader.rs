//! Reading untrusted bytes: every step is checked, every count is held against the bytes that are left.

use std::ops::Range;

use bytes::Bytes;
use multiraft_raft::Payload;

use super::{WireError, WireFault, varint::unzigzag};

/// Payloads up to this length are copied out of the frame, longer ones share its memory: a tiny entry that lives on in
/// a cache must not keep a frame of megabytes alive.
const COPY_MAX: usize = 4096;

/// A cursor over bytes from outside.
///
/// Invariant: `at <= bytes.len()`, and `bytes` is all of `source`.
pub(crate) struct Reader<'a> {
    source: &'a Bytes,
    bytes: &'a [u8],
    at: usize,
    items_left: usize,
    items_max: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `source`, and lets at most `items_max` list elements be announced.
    pub(crate) fn new(source: &'a Bytes, items_max: usize) -> Self {
        Self { source, bytes: source, at: 0, items_left: items_max, items_max }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// An error at the present place.
    #[cold]
    pub(crate) fn fail<T>(&self, fault: WireFault) -> Result<T, WireError> {
        Err(WireError { offset: self.at, fault })
    }

    #[cold]
    fn truncated<T>(&self, what: &'static str, wanted: u64) -> Result<T, WireError> {
        self.fail(WireFault::Truncated { what, missing: wanted.saturating_sub(self.remaining() as u64).max(1) })
    }

    #[inline]
    pub(crate) fn byte(&mut self, what: &'static str) -> Result<u8, WireError> {
        match self.bytes.get(self.at) {
            Some(&byte) => {
                self.at += 1;
                Ok(byte)
            }
            None => self.truncated(what, 1),
        }
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.varint_long(),
        }
    }

    fn varint_long(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for (place, &byte) in self.bytes[self.at..].iter().take(super::varint::VARINT_MAX).enumerate() {
            let low = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit only.
            if place == 9 && low > 1 {
                return self.fail(WireFault::BadNumber);
            }
            value |= low << (7 * place);
            if byte < 0x80 {
                // A last byte of zero adds nothing: one number has one form.
                if byte == 0 && place > 0 {
                    return self.fail(WireFault::BadNumber);
                }
                self.at += place + 1;
                return Ok(value);
            }
        }
        if self.remaining() >= super::varint::VARINT_MAX {
            return self.fail(WireFault::BadNumber);
        }
        self.truncated("a number", self.remaining() as u64 + 1)
    }

    /// A number written as the difference to `base`.
    #[inline]
    pub(crate) fn delta(&mut self, base: u64) -> Result<u64, WireError> {
        Ok(base.wrapping_add(unzigzag(self.varint()?)))
    }

    /// A number that must fit into 32 bits.
    pub(crate) fn varint_u32(&mut self) -> Result<u32, WireError> {
        let offset = self.at;
        u32::try_from(self.varint()?).map_err(|_| WireError { offset, fault: WireFault::BadNumber })
    }

    /// A fixed number of raw bytes.
    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        match self.bytes[self.at..].first_chunk::<N>() {
            Some(array) => {
                self.at += N;
                Ok(*array)
            }
            None => self.truncated(what, N as u64),
        }
    }

    /// The count of a list whose elements take at least `element_min` bytes each. Whoever gets it may reserve room.
    pub(crate) fn count(&mut self, what: &'static str, element_min: usize) -> Result<usize, WireError> {
        let offset = self.at;
        let found = self.varint()?;
        if found > self.items_left as u64 {
            let limit = self.items_max as u64;
            return Err(WireError { offset, fault: WireFault::Limit { what, found, limit } });
        }
        let count = found as usize;
        let wanted = count.saturating_mul(element_min);
        if wanted > self.remaining() {
            return self.truncated(what, wanted as u64);
        }
        self.items_left -= count;
        Ok(count)
    }

    /// A byte string behind its length.
    pub(crate) fn payload(&mut self, what: &'static str) -> Result<Bytes, WireError> {
        let length = self.varint()?;
        self.payload_of(length, what)
    }

    /// The next `length` bytes.
    pub(crate) fn payload_of(&mut self, length: u64, what: &'static str) -> Result<Bytes, WireError> {
        let range = self.range_of(length, what)?;
        let is_short = range.len() <= COPY_MAX;
        Ok(if is_short { Bytes::copy_from_slice(&self.bytes[range]) } else { self.source.slice(range) })
    }

    /// The data of an entry or a proposal behind its length.
    pub(crate) fn data(&mut self, what: &'static str) -> Result<Payload, WireError> {
        let length = self.varint()?;
        self.data_of(length, what)
    }

    /// As [`Self::payload_of`].
    pub(crate) fn data_of(&mut self, length: u64, what: &'static str) -> Result<Payload, WireError> {
        let range = self.range_of(length, what)?;
        let is_short = range.len() <= COPY_MAX;
        Ok(if is_short { Payload::copy_from_slice(&self.bytes[range]) } else { self.source.slice(range).into() })
    }

    /// Where the next `length` bytes are; goes on behind them.
    fn range_of(&mut self, length: u64, what: &'static str) -> Result<Range<usize>, WireError> {
        if length > self.remaining() as u64 {
            return self.truncated(what, length);
        }
        let start = self.at;
        self.at += length as usize;
        Ok(start..self.at)
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> Bytes {
        let rest = self.source.slice(self.at..);
        self.at = self.bytes.len();
        rest
    }

    /// Fails if anything is left.
    pub(crate) fn finish(&self) -> Result<(), WireError> {
        if self.is_at_end() { Ok(()) } else { self.fail(WireFault::Invalid("there are bytes after the end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::varint::put_varint;

    fn read(bytes: &[u8]) -> Result<u64, WireError> {
        let source = Bytes::copy_from_slice(bytes);
        let mut reader = Reader::new(&source, 0);
        let value = reader.varint()?;
        reader.finish()?;
        Ok(value)
    }

    #[test]
    fn every_power_of_two_comes_back() {
        for shift in 0..64 {
            for value in [1_u64 << shift, (1_u64 << shift) - 1, (1_u64 << shift).wrapping_neg()] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(read(&out), Ok(value));
            }
        }
    }

    #[test]
    fn overlong_and_overflowing_numbers_are_refused() {
        for bytes in [&[0x80, 0x00][..], &[0xff, 0x80, 0x00], &[0xff; 10], &[0x80; 11]] {
            assert_eq!(read(bytes), Err(WireError { offset: 0, fault: WireFault::BadNumber }), "{bytes:x?}");
        }
        let too_big = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(read(&too_big), Err(WireError { offset: 0, fault: WireFault::BadNumber }));
    }

    #[test]
    fn a_count_beyond_the_bytes_is_refused_before_anything_is_reserved() {
        let mut out = Vec::new();
        put_varint(&mut out, 1000);
        let source = Bytes::from(out);
        let error = Reader::new(&source, 10_000).count("entries", 1).expect_err("no bytes follow");
        assert_eq!(error.fault, WireFault::Truncated { what: "entries", missing: 1000 });
        let error = Reader::new(&source, 999).count("entries", 0).expect_err("over the limit");
        assert_eq!(error.fault, WireFault::Limit { what: "entries", found: 1000, limit: 999 });
    }

    #[test]
    fn only_long_payloads_share_the_memory_of_the_frame() {
        let source = Bytes::from(vec![7_u8; COPY_MAX * 2 + 1]);
        let mut reader = Reader::new(&source, 0);
        let short = reader.payload_of(COPY_MAX as u64, "data").expect("enough bytes");
        let long = reader.payload_of(COPY_MAX as u64 + 1, "data").expect("enough bytes");
        let frame = source.as_ptr_range();
        assert!(!frame.contains(&short.as_ptr()));
        assert!(frame.contains(&long.as_ptr()));
    }
}
