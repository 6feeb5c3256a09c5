//! A connection on which commands are sent without waiting for the replies to those before.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// The longest line of a reply, in bytes.
const LINE_BYTES_MAX: usize = 64 << 10;
/// How many digits of a value are its number; the rest is filling.
const DIGITS: usize = 16;

/// What a store said to a `SET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It is done.
    Done,
    /// There was more work than room: it had no effect.
    Busy,
    /// It had no effect for another reason.
    Refused,
    /// It may have had an effect.
    Uncertain,
}

impl Said {
    /// What a reply means.
    fn of(line: &str) -> io::Result<Self> {
        const REFUSALS: [&str; 3] = ["-CLUSTERDOWN ", "-TRYAGAIN ", "-ERR the disk of store "];
        match line {
            "+OK" => Ok(Self::Done),
            line if line.starts_with("-BUSY ") => Ok(Self::Busy),
            line if line.starts_with("-UNCERTAIN ") => Ok(Self::Uncertain),
            line if REFUSALS.iter().any(|start| line.starts_with(start)) => Ok(Self::Refused),
            other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("SET is answered by `{other}`"))),
        }
    }
}

/// Opens both directions of a connection.
pub(super) async fn open(address: SocketAddr) -> io::Result<(OwnedWriteHalf, Replies)> {
    let socket = timeout(CONNECT_WITHIN, TcpStream::connect(address)).await??;
    // On loopback, a port that nobody listens on may be this very socket's own.
    if socket.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    socket.set_nodelay(true)?;
    let (input, output) = socket.into_split();
    Ok((output, Replies { input: BufReader::new(input), line: Vec::new() }))
}

/// The replies that come.
pub(super) struct Replies {
    input: BufReader<OwnedReadHalf>,
    line: Vec<u8>,
}

impl Replies {
    /// The next one, without a bound on how long it takes.
    pub(super) async fn next(&mut self) -> io::Result<Said> {
        self.line.clear();
        loop {
            let come = self.input.fill_buf().await?;
            if come.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = come.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(come.len(), |at| at + 1);
            self.line.extend_from_slice(&come[..taken]);
            self.input.consume(taken);
            if end.is_some() {
                break;
            }
            if self.line.len() > LINE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
            }
        }
        Said::of(String::from_utf8_lossy(&self.line).trim_end())
    }
}

/// Sends a `SET` of a value that begins with a number and is as long as the filling.
pub(super) async fn set(output: &mut OwnedWriteHalf, key: &str, number: u64, filling: &[u8]) -> io::Result<()> {
    let length = filling.len().max(DIGITS);
    let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${length}\r\n{number:0DIGITS$}", key.len());
    let mut command = head.into_bytes();
    command.extend_from_slice(filling.get(DIGITS..).unwrap_or_default());
    command.extend_from_slice(b"\r\n");
    output.write_all(&command).await
}

/// The number at the beginning of a value.
pub(super) fn number_of(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value.get(..DIGITS)?).ok()?.parse().ok()
}

/// What was sent and not answered yet, oldest first.
#[derive(Debug)]
pub(super) struct Waiting<T>(Mutex<VecDeque<T>>);

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Waiting<T> {
    pub(super) fn push(&self, sent: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(sent);
    }

    pub(super) fn pop(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// A key of one client, in which numbers are written that rise. After a connection has broken another one is used: what was under
/// way on it may yet take effect, at any later moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// The key.
    pub(super) key: String,
    /// The largest number that was acknowledged; zero for none.
    pub(super) acknowledged: u64,
    /// The largest that was sent.
    pub(super) tried: u64,
}

impl Written {
    pub(super) fn new(base: &str, connection: u64) -> Self {
        Self { key: format!("{base}:{connection}"), acknowledged: 0, tried: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reply_to_a_set_is_known_for_what_it_means() {
        let of = |line: &str| Said::of(line).ok();
        assert_eq!(of("+OK"), Some(Said::Done));
        assert_eq!(of("-BUSY too much to do: try again in 20ms"), Some(Said::Busy));
        assert_eq!(of("-UNCERTAIN the outcome is unknown"), Some(Said::Uncertain));
        assert_eq!(of("-TRYAGAIN the regions are changing: try again"), Some(Said::Refused));
        for line in ["", "+PONG", "-ERR syntax error", ":1", "BUSY"] {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn numbers_are_found_again_in_values() {
        assert_eq!(number_of(b"0000000000000042xxxx"), Some(42));
        assert_eq!(number_of(b"42"), None);
        assert_eq!(number_of(b"x000000000000042"), None);
    }
}
