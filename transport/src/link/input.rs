//! Reading a stream in pieces of known length, without copying what arrived in one piece.

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream};

/// A stream, and what of it was received but not yet asked for.
pub(crate) struct Input {
    stream: RecvStream,
    pending: Bytes,
}

/// Why a piece cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("the stream ended in the middle")]
    Ended,
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl InputError {
    /// Whether the other side ended the stream early, on an open connection.
    pub(crate) fn is_reset(&self) -> bool {
        matches!(self, Self::Ended | Self::Read(ReadError::Reset(_)))
    }
}

impl Input {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, pending: Bytes::new() }
    }

    /// The next `length` bytes.
    pub(crate) async fn exact(&mut self, length: usize) -> Result<Bytes, InputError> {
        let mut whole = BytesMut::new();
        while whole.len() < length {
            let missing = length - whole.len();
            let piece = self.some(missing).await?.ok_or(InputError::Ended)?;
            if whole.is_empty() && piece.len() == length {
                return Ok(piece);
            }
            whole.reserve(missing);
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// The next `N` bytes as an array; `None` if the stream ends before the first.
    pub(crate) async fn array<const N: usize>(&mut self) -> Result<Option<[u8; N]>, InputError> {
        let mut array = [0; N];
        let mut at = 0;
        while at < N {
            match self.some(N - at).await? {
                Some(piece) => {
                    array[at..at + piece.len()].copy_from_slice(&piece);
                    at += piece.len();
                }
                None if at == 0 => return Ok(None),
                None => return Err(InputError::Ended),
            }
        }
        Ok(Some(array))
    }

    /// What is there, up to `length_max` bytes, at least one; `None` at the end of the stream.
    pub(crate) async fn some(&mut self, length_max: usize) -> Result<Option<Bytes>, ReadError> {
        if self.pending.is_empty() {
            match self.stream.read_chunk(usize::MAX, true).await? {
                Some(chunk) => self.pending = chunk.bytes,
                None => return Ok(None),
            }
        }
        Ok(Some(self.pending.split_to(length_max.min(self.pending.len()))))
    }

    /// Tells the sender that nobody reads on.
    pub(crate) fn stop(mut self, code: super::CloseCode) {
        // An error means that the stream is over anyway.
        let _ = self.stream.stop(code.number());
    }
}
