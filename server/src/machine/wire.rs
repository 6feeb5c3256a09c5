//! Reading and writing the fields that commands, queries and their answers are made of.
//!
//! Integers are LEB128 varints, signed ones zigzag-coded first; byte strings have their length in front. Reading never
//! panics and never allocates more than what is there to read: a length is checked against the rest of the input first.

use bytes::{BufMut, Bytes, BytesMut};

/// The input ends early, or says something that no writer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed at byte {at}: written by another version, or damaged")]
pub(crate) struct Malformed {
    at: usize,
}

/// Walks through an encoded command, query or answer.
pub(crate) struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0 }
    }

    pub(crate) fn malformed(&self) -> Malformed {
        Malformed { at: self.at }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        let byte = *self.input.get(self.at).ok_or(Malformed { at: self.at })?;
        self.at += 1;
        Ok(byte)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(self.malformed());
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed())
    }

    pub(crate) fn signed(&mut self) -> Result<i64, Malformed> {
        let raw = self.varint()?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// A count of things of which each takes at least one byte.
    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        let count = usize::try_from(self.varint()?).map_err(|_| self.malformed())?;
        if count > self.input.len() - self.at {
            return Err(self.malformed());
        }
        Ok(count)
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.count()?;
        let found = &self.input[self.at..self.at + length];
        self.at += length;
        Ok(Bytes::copy_from_slice(found))
    }

    pub(crate) fn list(&mut self) -> Result<Vec<Bytes>, Malformed> {
        let count = self.count()?;
        (0..count).map(|_| self.bytes()).collect()
    }

    pub(crate) fn optional(&mut self) -> Result<Option<Bytes>, Malformed> {
        match self.u8()? {
            0 => Ok(None),
            1 => self.bytes().map(Some),
            _ => Err(self.malformed()),
        }
    }

    /// Holds if everything was read.
    pub(crate) fn finish(&self) -> Result<(), Malformed> {
        if self.at == self.input.len() { Ok(()) } else { Err(self.malformed()) }
    }
}

/// Writes what [`Reader`] reads.
pub(crate) trait Writer {
    fn varint(&mut self, value: u64);
    fn signed(&mut self, value: i64);
    fn bytes(&mut self, value: &[u8]);
    fn list(&mut self, values: &[Bytes]);
    fn optional(&mut self, value: Option<&[u8]>);
}

impl Writer for BytesMut {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.put_u8(value as u8);
    }

    fn signed(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    fn bytes(&mut self, value: &[u8]) {
        self.varint(value.len() as u64);
        self.put_slice(value);
    }

    fn list(&mut self, values: &[Bytes]) {
        self.varint(values.len() as u64);
        for value in values {
            self.bytes(value);
        }
    }

    fn optional(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.put_u8(0),
            Some(value) => {
                self.put_u8(1);
                self.bytes(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for value in [0, 1, -1, 63, -64, 64, i64::MAX, i64::MIN] {
            let mut out = BytesMut::new();
            out.signed(value);
            out.varint(value.cast_unsigned());
            let mut reader = Reader::new(&out);
            assert_eq!(reader.signed(), Ok(value));
            assert_eq!(reader.varint(), Ok(value.cast_unsigned()));
            assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn a_length_beyond_the_input_is_malformed() {
        let mut out = BytesMut::new();
        out.varint(u64::MAX);
        assert!(Reader::new(&out).bytes().is_err());
        assert!(Reader::new(&out).list().is_err());
        assert!(Reader::new(&[0xff; 11]).varint().is_err());
        assert!(Reader::new(&[]).u8().is_err());
    }
}
