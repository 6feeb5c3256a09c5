//! Fields of commands, queries and answers: numbers in eight bytes, big-endian; byte strings behind their length.
//!
//! Reading never panics: what a state machine is asked to apply may have been written by a newer version of the program.

use bytes::{BufMut, Bytes, BytesMut};

/// Puts fields together.
#[derive(Debug, Default)]
pub struct Writer(BytesMut);

impl Writer {
    /// Starts with the byte that tells commands apart.
    #[must_use]
    pub fn new(kind: u8) -> Self {
        let mut writer = Self::default();
        writer.0.put_u8(kind);
        writer
    }

    /// Appends a number.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.0.put_u64(number);
        self
    }

    /// Appends bytes with their length.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self = self.number(bytes.len() as u64);
        self.0.put_slice(bytes);
        self
    }

    /// All of it.
    #[must_use]
    pub fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

/// Takes fields apart, in order; `None` where there is nothing of the kind.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the start.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The byte that tells commands apart.
    pub fn kind(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// A number.
    pub fn number(&mut self) -> Option<u64> {
        let bytes = self.take(8)?;
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    }

    /// Bytes behind their length.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_back_and_cut_ones_are_refused() {
        let written = Writer::new(7).number(300).bytes(b"abc").finish();
        let mut reader = Reader::new(&written);
        assert_eq!((reader.kind(), reader.number(), reader.bytes()), (Some(7), Some(300), Some(&b"abc"[..])));
        assert_eq!(reader.kind(), None);
        for cut in 0..written.len() {
            let mut reader = Reader::new(&written[..cut]);
            assert!(reader.kind().and_then(|_| reader.number()).and_then(|_| reader.bytes()).is_none());
        }
        let beyond = Writer::default().number(u64::MAX).finish();
        assert_eq!(Reader::new(&beyond).bytes(), None);
    }
}
