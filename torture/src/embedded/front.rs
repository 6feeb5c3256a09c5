//! Clients within the store's process. Somebody tells them over a socket what to ask, as a Redis client would write it.
//!
//! Connections take turns: those of one do their writes by `propose_key`, of the next in a session that the engine holds, of the next in
//! one that it holds itself; and those of one walk over keys in another way than those of the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use multiraft::{Consistency, Engine, ProposeError, RegionId, Session, SessionToken};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};

use super::command::{Command, parse};
use super::hex::hex;
use super::machine::{Answer, Done, Op, Query, bytes};
use super::reply::{array, bulk, error, of_answer, of_read, of_write, simple, written};
use super::walk::Walk;

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

    fn client(&self) -> Client<'_> {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let way = match number % 3 {
            0 => Way::Plain,
            1 => Way::Session(self.engine.session()),
            _ => Way::Tokens(BTreeMap::new()),
        };
        let walk = if number.is_multiple_of(2) { Walk::ByScan } else { Walk::ByKeys };
        Client { front: self, way, walk, queued: None }
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
    walk: Walk,
    /// What was queued since `MULTI`.
    queued: Option<Vec<Op>>,
}

async fn talk(front: &Front, socket: TcpStream) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    let (input, mut output) = socket.into_split();
    let mut input = BufReader::new(input);
    let mut client = front.client();
    loop {
        let words = command(&mut input).await?;
        let reply = client.answer(&words.iter().map(String::as_str).collect::<Vec<_>>()).await;
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
    async fn answer(&mut self, words: &[&str]) -> String {
        let Some(command) = parse(words) else { return error("ERR unknown command") };
        let reply = match (command, &mut self.queued) {
            (Command::Multi, queued @ None) => {
                *queued = Some(Vec::new());
                Ok(simple("OK"))
            }
            (Command::Data(op), Some(queued)) => {
                queued.push(op);
                Ok(simple("QUEUED"))
            }
            (Command::Exec, queued @ Some(_)) => {
                let ops = queued.take().unwrap_or_default();
                self.carry_out(ops).await.map(|done| array(done.iter().map(written)))
            }
            (Command::Exec, None) => Err("ERR EXEC without MULTI".to_owned()),
            (_, Some(_)) => Err("ERR not between MULTI and EXEC".to_owned()),
            (Command::Data(op), None) => self.carry_out(vec![op]).await.map(|done| done.iter().map(written).collect()),
            (Command::Scan { from, count }, None) => self.step(from, count).await,
            (Command::Open { key }, None) => self.open(&key).await,
            (Command::Once { token, sequence, acknowledged, op }, None) => {
                self.once(&token, (sequence, acknowledged), op).await
            }
        };
        reply.unwrap_or_else(|text| error(&text))
    }

    async fn carry_out(&mut self, ops: Vec<Op>) -> Result<Vec<Done>, String> {
        let Some(key) = ops.first().and_then(|op| op.keys().first().map(|key| (*key).to_owned())) else {
            return Ok(Vec::new());
        };
        let answer = if ops.iter().all(Op::is_read) {
            let query = bytes(&Query::Ops(ops));
            self.front.engine.read_key(&key, query, self.front.reads).await.map_err(|error| of_read(&error))?
        } else {
            self.write(&key, bytes(&ops)).await.map_err(|error| of_write(&error))?
        };
        done_of(&answer)
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
                    None => match engine.open_session(key).await {
                        Ok(token) => (token, 0),
                        // Whatever has become of it, nobody will use it: the write was not asked for.
                        Err(ProposeError::Uncertain) => return Err(ProposeError::NotLeader { region, hint: None }),
                        Err(error) => return Err(error),
                    },
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

    /// The next cursor, and the keys of a step.
    async fn step(&self, from: Bytes, count: usize) -> Result<String, String> {
        let (keys, next) = self.walk.step(&self.front.engine, self.front.reads, from, count).await?;
        let cursor = next.map_or_else(|| "0".to_owned(), |key| hex(&key));
        Ok(array([bulk(&cursor), array(keys.iter().map(|key| bulk(key)))].into_iter()))
    }

    async fn open(&self, key: &str) -> Result<String, String> {
        match self.front.engine.open_session(key).await {
            Ok(token) => Ok(bulk(&token.to_string())),
            // Nobody will use what may have been opened.
            Err(ProposeError::Uncertain) => Err("TRYAGAIN no answer in time: open another session".to_owned()),
            Err(error) => Err(of_write(&error)),
        }
    }

    /// The client that is told to ask holds the session: it may have asked the same through another store.
    async fn once(&self, token: &SessionToken, (sequence, acknowledged): (u64, u64), op: Op) -> Result<String, String> {
        let ops = vec![op];
        let key = ops[0].keys()[0];
        let proposed = self.front.engine.propose_once(token, sequence, acknowledged, key, bytes(&ops)).await;
        let done = done_of(&proposed.map_err(|error| of_write(&error))?)?;
        Ok(done.iter().map(written).collect())
    }
}

fn done_of(answer: &[u8]) -> Result<Vec<Done>, String> {
    match of_answer(answer)? {
        Answer::Done(done) => Ok(done),
        other => Err(format!("ERR commands were carried out, and {other:?} was answered")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::lone_store;
    use super::*;

    async fn ask(client: &mut Client<'_>, line: &str) -> String {
        client.answer(&line.split(' ').collect::<Vec<_>>()).await
    }

    /// A client of each way to write, beside the two ways to walk.
    fn clients(front: &Front) -> Vec<Client<'_>> {
        (0..6).map(|_| front.client()).collect()
    }

    #[tokio::test]
    async fn each_way_of_writing_does_what_was_asked() {
        let (_dir, engine) = lone_store::start(&["m"]).await;
        let front = Front::new(engine, Consistency::Linearizable);
        for client in &mut clients(&front) {
            let steps = [
                ("SET lock free NX", "+OK\r\n"),
                ("SET lock other NX", "$-1\r\n"),
                ("SET lock me IFEQ free", "+OK\r\n"),
                ("SET lock me IFEQ free", "$-1\r\n"),
                ("GET lock", "$2\r\nme\r\n"),
                ("GET token", "$-1\r\n"),
                ("INCR token", ":1\r\n"),
                ("INCRBY token 4", ":5\r\n"),
                ("DECRBY token 7", ":-2\r\n"),
                ("GET token", "$2\r\n-2\r\n"),
                ("INCR lock", "-ERR the value is no whole number of 64 bits, or would be none\r\n"),
                (
                    "INCRBY token -9223372036854775807",
                    "-ERR the value is no whole number of 64 bits, or would be none\r\n",
                ),
                ("APPEND list 1,", ":2\r\n"),
                ("APPEND list 2,", ":4\r\n"),
                ("MSET a.1 100 a.2 100", "+OK\r\n"),
                ("MGET a.2 a.3 a.1", "*3\r\n$3\r\n100\r\n$-1\r\n$3\r\n100\r\n"),
                ("DEL a.1 a.2 a.3", ":2\r\n"),
                ("DEL a.1", ":0\r\n"),
                ("MSET a.1 1 z.1 1", "-CROSSREGION the keys lie in more than one region\r\n"),
                ("MGET a.1 z.1", "-CROSSREGION the keys lie in more than one region\r\n"),
                ("DEL lock list token", "-CROSSREGION the keys lie in more than one region\r\n"),
                ("DEL lock list", ":2\r\n"),
                ("DEL token", ":1\r\n"),
                ("GETDEL lock", "-ERR unknown command\r\n"),
            ];
            for (line, wanted) in steps {
                assert_eq!(ask(client, line).await, wanted, "{line}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_queued_is_done_together_or_not_at_all() {
        let (_dir, engine) = lone_store::start(&["m"]).await;
        let front = Front::new(engine, Consistency::Linearizable);
        for (number, client) in (1..).zip(&mut clients(&front)) {
            let done = format!("*3\r\n:{}\r\n:{number}\r\n${}\r\n{number}\r\n", -number, 1);
            for (line, wanted) in [
                ("EXEC", "-ERR EXEC without MULTI\r\n"),
                ("MULTI", "+OK\r\n"),
                ("DECRBY a 1", "+QUEUED\r\n"),
                ("INCRBY b 1", "+QUEUED\r\n"),
                ("SCAN 0 COUNT 1", "-ERR not between MULTI and EXEC\r\n"),
                ("GET b", "+QUEUED\r\n"),
                ("EXEC", &done),
                ("MULTI", "+OK\r\n"),
                ("INCRBY b 1", "+QUEUED\r\n"),
                ("INCRBY z 1", "+QUEUED\r\n"),
                ("EXEC", "-CROSSREGION the keys lie in more than one region\r\n"),
                ("GET b", &format!("$1\r\n{number}\r\n")),
            ] {
                assert_eq!(ask(client, line).await, wanted, "{line}");
            }
        }
    }

    #[tokio::test]
    async fn a_command_of_a_session_counts_once_whoever_passes_it_on() {
        let (_dir, engine) = lone_store::start(&["m"]).await;
        let front = Front::new(engine, Consistency::Linearizable);
        let mut clients = clients(&front);
        let opened = ask(&mut clients[0], "SESSION OPEN log").await;
        let token = opened.lines().nth(1).unwrap().to_owned();
        for client in &mut clients {
            assert_eq!(ask(client, &format!("SESSION DO {token} 1 0 APPEND log 1,")).await, ":2\r\n");
        }
        assert_eq!(ask(&mut clients[1], &format!("SESSION DO {token} 2 1 APPEND log 2,")).await, ":4\r\n");
        let late = ask(&mut clients[2], &format!("SESSION DO {token} 1 0 APPEND log 1,")).await;
        assert!(late.starts_with("-SESSIONEXPIRED "), "{late}");
        // Another region does not know the session.
        let elsewhere = ask(&mut clients[2], &format!("SESSION DO {token} 3 2 APPEND zoo 1,")).await;
        assert!(elsewhere.starts_with("-SESSIONEXPIRED "), "{elsewhere}");
        assert_eq!(ask(&mut clients[0], "GET log").await, "$4\r\n1,2,\r\n");
    }

    /// All keys by steps of `count`, with what happens between two steps.
    async fn walk(client: &mut Client<'_>, count: usize, mut between: impl AsyncFnMut(usize)) -> Vec<String> {
        let (mut cursor, mut keys) = ("0".to_owned(), Vec::new());
        for step in 0.. {
            let reply = ask(client, &format!("SCAN {cursor} COUNT {count}")).await;
            let mut texts = reply.lines().filter(|line| !line.starts_with(['*', '$']));
            cursor = texts.next().unwrap().to_owned();
            let found: Vec<String> = texts.map(str::to_owned).collect();
            assert!(found.len() <= count, "{reply}");
            keys.extend(found);
            if cursor == "0" {
                break;
            }
            between(step).await;
        }
        keys
    }

    #[tokio::test]
    async fn a_walk_meets_each_key_once_while_regions_split_and_merge() {
        let (_dir, engine) = lone_store::start(&["b", "m"]).await;
        let front = Front::new(engine.clone(), Consistency::Linearizable);
        let mut clients = clients(&front);
        let all: Vec<String> = ('a'..='z').flat_map(|letter| [format!("{letter}"), format!("{letter}.1")]).collect();
        for key in &all {
            assert_eq!(ask(&mut clients[0], &format!("SET {key} x")).await, "+OK\r\n");
        }
        for client in &mut clients[..2] {
            for count in [1, 7, 52, 1_000] {
                assert_eq!(walk(client, count, async |_| ()).await, all, "{count}");
            }
        }
        // What is behind the walk and what lies before it is cut, and put together again.
        for client in &mut clients[..2] {
            let walked = walk(client, 9, async |_| {
                let region = engine.locate("m", None).await.unwrap();
                if region.range.end.is_empty() {
                    engine.split(region.id, vec![Bytes::from_static(b"q"), Bytes::from_static(b"t.0")]).await.unwrap();
                } else {
                    for key in ["q", "t.0"] {
                        let source = engine.locate(key, None).await.unwrap();
                        engine.merge(source.id, region.id).await.unwrap();
                    }
                }
            });
            assert_eq!(walked.await, all);
        }
    }

    #[tokio::test]
    async fn a_cursor_that_is_none_is_refused() {
        let (_dir, engine) = lone_store::start(&[]).await;
        let front = Front::new(engine, Consistency::Linearizable);
        assert_eq!(ask(&mut front.client(), "SCAN 17x COUNT 1").await, "-ERR unknown command\r\n");
    }
}
