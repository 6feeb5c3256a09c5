//! A connection to a store that may die at any moment: whatever goes wrong on it is an error, never a panic.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::harness::request;

/// How long an answer is waited for: longer than any store may take for one, and not for ever if it stands still.
const PATIENCE: Duration = Duration::from_secs(8);

/// What a store said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Simple(String),
    Error(String),
    Number(u64),
    Value(Option<Vec<u8>>),
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Line {
    socket: TcpStream,
    input: BufReader<TcpStream>,
}

impl Line {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let input = BufReader::new(socket.try_clone()?);
        Ok(Self { socket, input })
    }

    /// Sends a command and waits for its answer. After an error the connection is of no use any more.
    pub(crate) fn ask(&mut self, words: &[&str]) -> Result<Reply> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.socket.write_all(&request(&words))?;
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(nonsense)?;
        match kind {
            "+" => Ok(Reply::Simple(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => rest.parse().map(Reply::Number).map_err(|_| nonsense()),
            "$" if rest == "-1" => Ok(Reply::Value(None)),
            "$" => {
                let length: usize = rest.parse().map_err(|_| nonsense())?;
                let mut value = vec![0; length + 2];
                self.input.read_exact(&mut value)?;
                value.truncate(length);
                Ok(Reply::Value(Some(value)))
            }
            _ => Err(nonsense()),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.input.read_line(&mut line)?;
        line.strip_suffix("\r\n").map(str::to_owned).ok_or_else(|| Error::from(ErrorKind::UnexpectedEof))
    }
}

fn nonsense() -> Error {
    Error::from(ErrorKind::InvalidData)
}
