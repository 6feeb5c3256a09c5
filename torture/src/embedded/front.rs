//! Clients within the store's process. Somebody tells them over a socket what to ask, as a Redis client would write it.
//!
//! Connections take turns: those of one do their writes by `propose_key`, of the next in a session that the engine holds, of the next in
//! one that it holds itself. What a call returns is passed on as it is: only "uncertain" is no refusal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use multiraft::{Consistency, Engine, ProposeError, ReadError, RegionId, Session, SessionToken};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};

use super::machine::{Answer, Done, Op, bytes};

/// The most words of a command, and the most bytes of one.
const WORDS_MAX: usize = 64;
const BYTES_MAX: usize = 1 << 20;

pub(super) struct Front {
    engine: Engine,
    reads: Consistency,
    connections: AtomicU64,
}

impl Front {
    pub(super) fn new(engine: Engine, reads: Consistency) -> Self {
        Self { engine, reads, connections: AtomicU64::new(0) }
    }
}

pub(super) async fn serve(front: Arc<Front>, listener: TcpListener) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let front = Arc::clone(&front);
        // One that breaks off has nobody to be told.
        tokio::spawn(async move { talk(&front, socket).await });
    }
}

/// How a client has its writes carried out.
enum Way {
    Plain,
    Session(Session),
    /// A token and the last number, by region.
    Tokens(BTreeMap<RegionId, (SessionToken, u64)>),
}

struct Client<'a> {
    front: &'a Front,
    way: Way,
    /// What was queued since `MULTI`.
    queued: Option<Vec<Op>>,
}

async fn talk(front: &Front, socket: TcpStream) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    let (input, mut output) = socket.into_split();
    let mut input = BufReader::new(input);
    let way = match front.connections.fetch_add(1, Ordering::Relaxed) % 3 {
        0 => Way::Plain,
        1 => Way::Session(front.engine.session()),
        _ => Way::Tokens(BTreeMap::new()),
    };
    let mut client = Client { front, way, queued: None };
    loop {
        let words = command(&mut input).await?;
        let reply = client.answer(&words).await;
        output.write_all(reply.as_bytes()).await.ok()?;
    }
}

/// A command; none at the end of the connection, or if it is no command.
async fn command(input: &mut BufReader<OwnedReadHalf>) -> Option<Vec<String>> {
    let count = length(input, '*').await.filter(|count| *count <= WORDS_MAX)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = length(input, '$').await.filter(|length| *length <= BYTES_MAX)?;
        let mut word = vec![0; length + 2];
        input.read_exact(&mut word).await.ok()?;
        word.truncate(length);
        words.push(String::from_utf8(word).ok()?);
    }
    Some(words)
}

async fn length(input: &mut BufReader<OwnedReadHalf>, kind: char) -> Option<usize> {
    let mut line = String::new();
    input.read_line(&mut line).await.ok()?;
    line.strip_prefix(kind)?.trim_end().parse().ok()
}

impl Client<'_> {
    async fn answer(&mut self, words: &[String]) -> String {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let op = match words[..] {
            ["MULTI"] => {
                self.queued = Some(Vec::new());
                return "+OK\r\n".to_owned();
            }
            ["EXEC"] => {
                let Some(ops) = self.queued.take() else { return error("ERR EXEC without MULTI") };
                return match self.carry_out(ops).await {
                    Ok(done) => format!("*{}\r\n{}", done.len(), done.iter().map(written).collect::<String>()),
                    Err(text) => error(&text),
                };
            }
            ["GET", key] => Op::Get(key.to_owned()),
            ["SET", key, value] => Op::Set { key: key.to_owned(), value: value.to_owned(), if_equal: None },
            ["SET", key, value, "IFEQ", wanted] => {
                Op::Set { key: key.to_owned(), value: value.to_owned(), if_equal: Some(wanted.to_owned()) }
            }
            ["APPEND", key, more] => Op::Append(key.to_owned(), more.to_owned()),
            _ => return error("ERR unknown command"),
        };
        if let Some(queued) = &mut self.queued {
            queued.push(op);
            return "+QUEUED\r\n".to_owned();
        }
        match self.carry_out(vec![op]).await {
            Ok(done) => done.iter().map(written).collect(),
            Err(text) => error(&text),
        }
    }

    async fn carry_out(&mut self, ops: Vec<Op>) -> Result<Vec<Done>, String> {
        let Some(key) = ops.first().map(|op| op.key().to_owned()) else { return Ok(Vec::new()) };
        let command = bytes(&ops);
        let answer = if ops.iter().all(Op::is_read) {
            self.front.engine.read_key(&key, command, self.front.reads).await.map_err(|error| of_read(&error))?
        } else {
            self.write(&key, command).await.map_err(|error| of_write(&error))?
        };
        match serde_json::from_slice(&answer) {
            Ok(Answer::Done(done)) => Ok(done),
            Ok(Answer::Outside) => Err("CROSSREGION the keys lie in more than one region".to_owned()),
            Ok(Answer::Nonsense) | Err(_) => Err("ERR the machine does not understand what it was asked".to_owned()),
        }
    }

    async fn write(&mut self, key: &str, command: Bytes) -> Result<Bytes, ProposeError> {
        let engine = &self.front.engine;
        match &mut self.way {
            Way::Plain => engine.propose_key(key, command).await,
            Way::Session(session) => session.propose_key(key, command).await,
            Way::Tokens(tokens) => {
                let region = engine.locate(key, None).await.ok_or(ProposeError::Unrouted)?.id;
                let (token, last) = match tokens.get(&region) {
                    Some(known) => *known,
                    // Whatever has become of it, nobody will use it.
                    None => (engine.open_session(key).await.map_err(|_| ProposeError::Unrouted)?, 0),
                };
                // What was asked before was answered, or is not wanted any more.
                tokens.insert(region, (token, last + 1));
                let proposed = engine.propose_once(&token, last + 1, last, key, command).await;
                if matches!(proposed, Err(ProposeError::SessionExpired { .. })) {
                    tokens.remove(&region);
                }
                proposed
            }
        }
    }
}

/// What an error means to whoever asked: the word in front tells.
fn of_write(error: &ProposeError) -> String {
    let word = match error {
        ProposeError::Uncertain => "UNCERTAIN",
        ProposeError::Busy { .. } => "BUSY",
        ProposeError::SessionExpired { .. } => "SESSIONEXPIRED",
        ProposeError::NoSpace { .. } | ProposeError::Stopped { .. } => "ERR",
        ProposeError::NotLeader { .. } | ProposeError::Unrouted | ProposeError::UnknownRegion { .. } => "CLUSTERDOWN",
        ProposeError::EpochMismatch { .. } => "TRYAGAIN",
        _ => "ERR",
    };
    format!("{word} {error}")
}

fn of_read(error: &ReadError) -> String {
    let word = match error {
        ReadError::Busy { .. } => "BUSY",
        ReadError::NotLeader { .. } | ReadError::Unrouted | ReadError::UnknownRegion { .. } => "CLUSTERDOWN",
        ReadError::EpochMismatch { .. } => "TRYAGAIN",
        _ => "ERR",
    };
    format!("{word} {error}")
}

fn error(text: &str) -> String {
    format!("-{}\r\n", text.replace(['\r', '\n'], " "))
}

fn written(done: &Done) -> String {
    match done {
        Done::Ok => "+OK\r\n".to_owned(),
        Done::Length(length) => format!(":{length}\r\n"),
        Done::Value(None) => "$-1\r\n".to_owned(),
        Done::Value(Some(text)) => format!("${}\r\n{text}\r\n", text.len()),
    }
}

#[cfg(test)]
mod tests {
    use multiraft::StoreId;
    use multiraft_torture::client::{Reply, Told};

    use super::*;

    /// What a run takes an error for.
    fn told(text: String) -> Told {
        Told::of_reply(Reply::Error(text)).unwrap()
    }

    #[test]
    fn only_an_uncertain_write_is_of_unknown_outcome() {
        assert!(matches!(told(of_write(&ProposeError::Uncertain)), Told::Unknown(_)));
        let (region, reason) = (RegionId(7), String::new());
        let no_effect = [
            ProposeError::NotLeader { region, hint: None },
            ProposeError::UnknownRegion { region },
            ProposeError::Unrouted,
            ProposeError::Busy { retry_after: std::time::Duration::ZERO },
            ProposeError::NoSpace { store: StoreId(1) },
            ProposeError::SessionExpired { region },
            ProposeError::Stopped { reason: reason.clone() },
        ];
        for error in no_effect {
            assert!(matches!(told(of_write(&error)), Told::Refused(_)), "{error}");
        }
        let reads = [
            ReadError::NotLeader { region, hint: None },
            ReadError::UnknownRegion { region },
            ReadError::Unrouted,
            ReadError::Busy { retry_after: std::time::Duration::ZERO },
            ReadError::State { reason: reason.clone() },
            ReadError::Stopped { reason },
        ];
        for error in reads {
            assert!(matches!(told(of_read(&error)), Told::Refused(_)), "{error}");
        }
    }
}
