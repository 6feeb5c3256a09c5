//! A connection that speaks RESP2 (<https://redis.io/docs/latest/develop/reference/protocol-spec/>) to a store which may die at
//! any moment: whatever goes wrong is an error, never a panic, and comes within the time-out.
//!
//! Lengths that a peer names are bounded before anything is kept for them, and memory grows only with what has come in.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The longest line, in bytes.
const LINE_BYTES_MAX: usize = 64 << 10;
/// The longest string, in bytes.
const STRING_BYTES_MAX: usize = 64 << 20;
/// How many parts all arrays of a reply may have.
const PARTS_MAX: usize = 1 << 20;
/// How deep arrays may lie in one another.
const DEPTH_MAX: usize = 8;
/// What is read at once, in bytes.
const READ_BYTES: usize = 16 << 10;

/// The words of a command.
pub type Words = Vec<String>;

/// A command in these words.
#[must_use]
pub fn words(words: &[&str]) -> Words {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// What a store said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A short text, such as OK.
    Simple(String),
    /// An error, which begins with a word for its kind.
    Error(String),
    /// A number.
    Number(i64),
    /// A value, or none.
    Value(Option<Vec<u8>>),
    /// Several.
    Array(Vec<Reply>),
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The connection ended, or the time was up: the peer died, or stands still.
    #[error("no answer: {0}")]
    Lost(String),
    /// What came is no reply: the peer does not speak the protocol.
    #[error("this is no reply: {0}")]
    Nonsense(String),
}

/// An open connection. After an error it is of no use any more.
#[derive(Debug)]
pub struct Line {
    output: TcpStream,
    input: Input<Timed>,
    timeout: Duration,
}

impl Line {
    /// Connects, within a time-out. The other bounds each exchange as a whole.
    ///
    /// # Errors
    /// Nobody takes the connection in time.
    pub fn open(address: SocketAddr, connect_timeout: Duration, timeout: Duration) -> io::Result<Self> {
        // The system takes zero for none.
        const LEAST: Duration = Duration::from_millis(1);
        let timeout = timeout.max(LEAST);
        let output = TcpStream::connect_timeout(&address, connect_timeout.max(LEAST))?;
        // On loopback, a port that nobody listens on may be this very socket's own.
        if output.local_addr()? == address {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        output.set_write_timeout(Some(timeout))?;
        output.set_nodelay(true)?;
        let source = Timed { socket: output.try_clone()?, deadline: Instant::now() };
        Ok(Self { output, input: Input::new(source), timeout })
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    /// There is no reply; see [`Broken`].
    pub fn ask(&mut self, command: &[String]) -> Result<Reply, Broken> {
        self.send(&request(command))?;
        self.input.reply()
    }

    /// Sends commands at once and waits for the replies to all.
    ///
    /// # Errors
    /// A reply is missing; see [`Broken`].
    pub fn ask_all(&mut self, commands: &[Words]) -> Result<Vec<Reply>, Broken> {
        let requests: Vec<Vec<u8>> = commands.iter().map(|command| request(command)).collect();
        self.send(&requests.concat())?;
        commands.iter().map(|_| self.input.reply()).collect()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        self.input.source.deadline = Instant::now() + self.timeout;
        self.output.write_all(bytes).map_err(lost)
    }
}

/// A command as clients send it.
fn request(command: &[String]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        out.extend(format!("${}\r\n", word.len()).bytes());
        out.extend(word.bytes());
        out.extend(b"\r\n");
    }
    out
}

/// A socket that is read until a moment, however little comes at a time.
#[derive(Debug)]
pub(super) struct Timed {
    pub(super) socket: TcpStream,
    pub(super) deadline: Instant,
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(ErrorKind::TimedOut, "the time is up"));
        }
        self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match self.socket.read(into) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(io::Error::new(ErrorKind::TimedOut, "the time is up"))
            }
            read => read,
        }
    }
}

/// Replies out of bytes.
#[derive(Debug)]
struct Input<R> {
    source: R,
    bytes: Vec<u8>,
    /// What was taken of `bytes`.
    at: usize,
}

impl<R: Read> Input<R> {
    fn new(source: R) -> Self {
        Self { source, bytes: Vec::new(), at: 0 }
    }

    fn reply(&mut self) -> Result<Reply, Broken> {
        let mut parts_left = PARTS_MAX;
        self.reply_within(0, &mut parts_left)
    }

    fn reply_within(&mut self, depth: usize, parts_left: &mut usize) -> Result<Reply, Broken> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| nonsense("an empty line"))?;
        match kind {
            "+" => Ok(Reply::Simple(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => rest.parse().map(Reply::Number).map_err(|_| nonsense(format_args!("{line:?} is no number"))),
            "$" | "*" if rest == "-1" => Ok(Reply::Value(None)),
            "$" => {
                let length = length(&line, rest, STRING_BYTES_MAX)?;
                self.string(length).map(|value| Reply::Value(Some(value)))
            }
            "*" => {
                let count = length(&line, rest, *parts_left)?;
                if depth == DEPTH_MAX {
                    return Err(nonsense(format_args!("arrays lie more than {DEPTH_MAX} deep in one another")));
                }
                *parts_left -= count;
                (0..count).map(|_| self.reply_within(depth + 1, parts_left)).collect::<Result<_, _>>().map(Reply::Array)
            }
            _ => Err(nonsense(format_args!("{line:?}"))),
        }
    }

    /// A line without its end.
    fn line(&mut self) -> Result<String, Broken> {
        let mut looked = 0;
        let length = loop {
            let waiting = &self.bytes[self.at..];
            if let Some(found) = waiting[looked..].iter().position(|byte| *byte == b'\n') {
                break looked + found;
            }
            looked = waiting.len();
            if looked > LINE_BYTES_MAX {
                return Err(nonsense(format_args!("a line of more than {LINE_BYTES_MAX} bytes")));
            }
            self.fill()?;
        };
        let line = &self.bytes[self.at..self.at + length];
        let text = line.strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
        let text = text.map(str::to_owned).ok_or_else(|| nonsense(format_args!("`{}`", shown(line))))?;
        self.at += length + 1;
        Ok(text)
    }

    /// A string of that length, without its end.
    fn string(&mut self, length: usize) -> Result<Vec<u8>, Broken> {
        while self.bytes.len() - self.at < length + 2 {
            self.fill()?;
        }
        let (value, end) = self.bytes[self.at..self.at + length + 2].split_at(length);
        if end != b"\r\n" {
            return Err(nonsense(format_args!("a string of {length} bytes does not end behind them")));
        }
        let value = value.to_vec();
        self.at += length + 2;
        Ok(value)
    }

    /// Waits for more bytes.
    fn fill(&mut self) -> Result<(), Broken> {
        self.bytes.drain(..self.at);
        self.at = 0;
        let before = self.bytes.len();
        self.bytes.resize(before + READ_BYTES, 0);
        let read = loop {
            match self.source.read(&mut self.bytes[before..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.bytes.truncate(before + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(0) => Err(Broken::Lost("the connection has ended".to_owned())),
            Ok(_) => Ok(()),
            Err(error) => Err(lost(error)),
        }
    }
}

fn length(line: &str, digits: &str, most: usize) -> Result<usize, Broken> {
    let length: usize = digits.parse().map_err(|_| nonsense(format_args!("{line:?} has no length")))?;
    if length > most {
        return Err(nonsense(format_args!("{line:?} is longer than {most}")));
    }
    Ok(length)
}

fn lost(error: io::Error) -> Broken {
    Broken::Lost(error.to_string())
}

fn nonsense(what: impl fmt::Display) -> Broken {
    Broken::Nonsense(what.to_string())
}

fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(80)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that come a few at a time.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(self.0.len()).min(into.len());
            let (now, later) = self.0.split_at(length);
            into[..length].copy_from_slice(now);
            self.0 = later;
            Ok(length)
        }
    }

    fn all(bytes: &[u8], step: usize) -> (Vec<Reply>, Broken) {
        let mut input = Input::new(Pieces(bytes, step));
        let mut replies = Vec::new();
        loop {
            match input.reply() {
                Ok(reply) => replies.push(reply),
                Err(broken) => return (replies, broken),
            }
        }
    }

    #[test]
    fn replies_are_the_same_however_they_are_cut() {
        let bytes = b"+OK\r\n-ERR no\r\n:-7\r\n$-1\r\n$4\r\na\r\nb\r\n*-1\r\n*3\r\n$0\r\n\r\n*1\r\n:1\r\n*0\r\n";
        let value = |text: &str| Reply::Value(Some(text.as_bytes().to_vec()));
        let inner = Reply::Array(vec![Reply::Number(1)]);
        let expected = vec![
            Reply::Simple("OK".to_owned()),
            Reply::Error("ERR no".to_owned()),
            Reply::Number(-7),
            Reply::Value(None),
            value("a\r\nb"),
            Reply::Value(None),
            Reply::Array(vec![value(""), inner, Reply::Array(Vec::new())]),
        ];
        for step in 1..=bytes.len() {
            let (replies, broken) = all(bytes, step);
            assert_eq!(replies, expected, "{step} bytes at a time");
            assert!(matches!(broken, Broken::Lost(_)));
        }
    }

    #[test]
    fn a_torn_reply_is_lost_and_not_nonsense() {
        let bytes = b"*2\r\n$3\r\nabc\r\n:12\r\n";
        for length in 0..bytes.len() {
            let (replies, broken) = all(&bytes[..length], 3);
            assert_eq!(replies, []);
            assert!(matches!(broken, Broken::Lost(_)), "{length}: {broken:?}");
        }
    }

    #[test]
    fn nonsense_and_huge_lengths_are_refused_at_once() {
        let refusals: [&[u8]; 14] = [
            b"\r\n",
            b"OK\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"+OK\n",
            b"+\xff\r\n",
            b":x\r\n",
            b":99999999999999999999\r\n",
            b"$-2\r\n",
            b"$99999999999999999999\r\n",
            b"$67108865\r\n",
            b"*1048577\r\n",
            b"*-2\r\n",
            b"$1\r\nabc\r\n",
            b"%1\r\n+a\r\n+b\r\n",
        ];
        for bytes in refusals {
            let (replies, broken) = all(bytes, 4096);
            assert_eq!(replies, []);
            assert!(matches!(broken, Broken::Nonsense(_)), "{}: {broken:?}", bytes.escape_ascii());
        }
        let deep = b"*1\r\n".repeat(DEPTH_MAX + 1);
        assert!(matches!(all(&deep, 4096).1, Broken::Nonsense(_)));
        let wide = b"*1024\r\n".iter().copied().chain(b"*1048576\r\n".iter().copied()).collect::<Vec<_>>();
        assert!(matches!(all(&wide, 4096).1, Broken::Nonsense(_)));
        let endless = vec![b'+'; LINE_BYTES_MAX + READ_BYTES + 1];
        assert!(matches!(all(&endless, 4096).1, Broken::Nonsense(_)));
    }

    #[test]
    fn a_peer_that_trickles_is_given_up_in_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let peer = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            // Until the other end has left: a read timeout that each byte renews would keep it for ever.
            while socket.write_all(b"+").is_ok() {
                crate::stop::Stop::default().within(Duration::from_millis(5));
            }
        });
        let mut line = Line::open(address, Duration::from_secs(10), Duration::from_millis(100)).unwrap();
        let broken = line.ask(&words(&["PING"])).unwrap_err();
        assert_eq!(broken, Broken::Lost("the time is up".to_owned()));
        drop(line);
        peer.join().unwrap();
    }
}
