//! One connection: takes what has come in, carries it out together, answers in order.
//!
//! A round is everything complete in the socket's buffer, within limits. Its data commands are sorted into lanes by region
//! and carried out beside each other; the next round begins when all are answered. So commands of one connection on one
//! region take effect in order (lanes never share a key, see [`Round::lane`]), a read sees the writes before it, and a pipeline costs one proposal a region a round. While a
//! round runs nothing more is read: a client that sends faster than it is served is held back by the transport.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::command::{Command, parse};
use super::front::{Admission, Front};
use super::lanes::{Item, region_of, run_lane};
use super::local::Client;
use super::reply::Reply;
use super::request::{ProtocolError, Request, Requests};
use super::round::{LANES_AT_ONCE, Round};
use super::session;
use super::transaction::{NESTED, Transaction};
use super::walk;

/// The most commands of a round.
const MAX_ROUND_COMMANDS: usize = 1024;
/// A round takes no more commands once it holds this many bytes.
const MAX_ROUND_BYTES: usize = 4 << 20;
/// What is read at once.
const READ_BYTES: usize = 64 << 10;
/// A buffer beyond this counts as memory that all connections share.
const FREE_BYTES: usize = 64 << 10;
/// How long a client may leave its replies unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of what a refused client still sends is read, so that it sees the reply before the connection is reset.
const LINGER: Duration = Duration::from_secs(1);

/// Serves a connection until its client leaves, the server stops, or nonsense comes in.
pub(crate) async fn serve(
    front: Arc<Front>,
    admission: Admission,
    socket: TcpStream,
    stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let address = socket.peer_addr()?.to_string();
    let client = Client::new(front.next_client(), address);
    let requests = Requests::new(front.limits.max_command_bytes);
    let (input, transaction) = (BytesMut::new(), None);
    Connection { front, admission, socket, stopping, client, requests, input, transaction }.run().await
}

struct Connection {
    front: Arc<Front>,
    admission: Admission,
    socket: TcpStream,
    stopping: watch::Receiver<bool>,
    client: Client,
    requests: Requests,
    input: BytesMut,
    /// What is queued, between `MULTI` and `EXEC`.
    transaction: Option<Transaction>,
}

impl Connection {
    async fn run(mut self) -> io::Result<()> {
        loop {
            let (requests, nonsense) = self.take_requests();
            if requests.is_empty() && nonsense.is_none() {
                if !self.read_more().await? {
                    return Ok(());
                }
                continue;
            }
            self.front.count_commands(requests.len());
            let mut round = self.run_round(requests).await?;
            let closes = self.client.quits || nonsense.is_some() || *self.stopping.borrow();
            if let Some(nonsense) = nonsense {
                round.push(self.client.protocol, Some(Reply::error(format!("ERR {nonsense}"))));
            }
            self.send(&mut round).await?;
            if closes {
                return self.close().await;
            }
        }
    }

    /// Reads what has come in; `false` if nothing more will be served.
    async fn read_more(&mut self) -> io::Result<bool> {
        let unfinished = self.input.len();
        let held = unfinished + self.transaction.as_ref().map_or(0, Transaction::bytes);
        if !self.admission.charge(if held > FREE_BYTES { held } else { 0 }) {
            let reply = Reply::error("BUSY the server holds too many unfinished requests: try again later");
            let mut round = Round::default();
            round.push(self.client.protocol, Some(reply));
            self.send(&mut round).await?;
            self.close().await?;
            return Ok(false);
        }
        if unfinished == 0 && self.input.capacity() > 4 * FREE_BYTES {
            self.input = BytesMut::new();
        }
        self.input.reserve(READ_BYTES);
        tokio::select! {
            biased;
            _ = self.stopping.wait_for(|stops| *stops) => Ok(false),
            read = self.socket.read_buf(&mut self.input) => Ok(read? > 0),
        }
    }

    /// The requests of the next round, and whether what follows them is none.
    fn take_requests(&mut self) -> (Vec<Request>, Option<ProtocolError>) {
        let mut requests = Vec::new();
        let before = self.input.len();
        while requests.len() < MAX_ROUND_COMMANDS && before - self.input.len() < MAX_ROUND_BYTES {
            match self.requests.poll(&mut self.input) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(nonsense) => return (requests, Some(nonsense)),
            }
        }
        (requests, None)
    }

    /// Carries the requests out; what is said to them may be sent in part.
    async fn run_round(&mut self, requests: Vec<Request>) -> io::Result<Round> {
        let mut deadline = Instant::now() + self.front.limits.request_timeout;
        let mut round = Round::default();
        for request in requests {
            if self.client.quits {
                break;
            }
            self.sort_in(&mut round, request, deadline).await?;
            if round.is_full() {
                self.run_lanes(&mut round, deadline).await?;
                self.send(&mut round).await?;
                deadline = Instant::now() + self.front.limits.request_timeout;
            }
        }
        self.run_lanes(&mut round, deadline).await?;
        Ok(round)
    }

    /// Puts a command into its lane, or answers it.
    async fn sort_in(&mut self, round: &mut Round, request: Request, deadline: Instant) -> io::Result<()> {
        let slot = round.next_slot();
        let command = match request {
            Request::Command(words) => parse(words),
            Request::TooLarge(size) => Err(too_large(size, self.front.limits.max_command_bytes)),
        };
        let command = match &mut self.transaction {
            None => command,
            Some(transaction) => queued(transaction, command, self.front.limits.max_command_bytes),
        };
        let reply = match command {
            Err(reply) => Some(reply),
            Ok(Command::Local(name, arguments)) => Some(self.client.answer(&self.front, name, &arguments).await),
            Ok(Command::Data(op, shape)) => match region_of(&self.front.engine, &op, deadline).await {
                Err(reply) => Some(reply),
                Ok(region) => {
                    if round.lane(&region).is_none() {
                        self.run_lanes(round, deadline).await?;
                    }
                    let lane = round.lane(&region).expect("invariant: without lanes any region gets one");
                    lane.push_back(Item { slot, op, shape });
                    None
                }
            },
            // What goes over all regions comes after all that was sent before it.
            Ok(Command::Scan(step)) => {
                self.run_lanes(round, deadline).await?;
                Some(walk::scan(&self.front, step, deadline).await)
            }
            Ok(Command::DbSize) => {
                self.run_lanes(round, deadline).await?;
                Some(walk::db_size(&self.front, deadline).await)
            }
            Ok(Command::Session(call)) => {
                self.run_lanes(round, deadline).await?;
                Some(session::run(&self.front.engine, call, deadline).await)
            }
            Ok(Command::Multi) => {
                self.transaction = Some(Transaction::default());
                Some(Reply::OK)
            }
            Ok(Command::Exec) => match self.transaction.take() {
                None => Some(Reply::error("ERR EXEC without MULTI")),
                Some(transaction) => {
                    self.run_lanes(round, deadline).await?;
                    Some(transaction.run(&self.front.engine, deadline).await)
                }
            },
            Ok(Command::Discard) => Some(match self.transaction.take() {
                None => Reply::error("ERR DISCARD without MULTI"),
                Some(_) => Reply::OK,
            }),
        };
        round.push(self.client.protocol, reply);
        Ok(())
    }

    /// Carries all lanes out, beside each other. Sends what is answered whenever too much of it is held; how long the client takes to
    /// read that does not count as time that the other commands take.
    async fn run_lanes(&mut self, round: &mut Round, mut deadline: Instant) -> io::Result<()> {
        let mut waiting = round.take_lanes();
        let mut running = JoinSet::new();
        while !(waiting.is_empty() && running.is_empty()) {
            while running.len() < LANES_AT_ONCE && waiting.len() > 1 && (running.is_empty() || !round.is_full()) {
                let Some((_, lane)) = waiting.pop_first() else { break };
                running.spawn(run_lane(self.front.engine.clone(), lane, deadline));
            }
            let (replies, left) = match waiting.pop_first() {
                // The only one, or the last: it needs no task of its own.
                Some((_, lane)) if waiting.is_empty() && (running.is_empty() || !round.is_full()) => {
                    run_lane(self.front.engine.clone(), lane, deadline).await
                }
                lane => {
                    waiting.extend(lane);
                    let Some(finished) = running.join_next().await else { continue };
                    finished.expect("invariant: a lane does not panic and is not aborted")
                }
            };
            replies.into_iter().for_each(|(slot, reply)| round.answer(slot, reply));
            if let Some(first) = left.front() {
                waiting.insert(first.slot, left);
            }
            if round.is_full() {
                self.send(round).await?;
                deadline = Instant::now() + self.front.limits.request_timeout;
            }
        }
        Ok(())
    }

    /// Sends what is answered, from the front on, up to the first command that is not.
    async fn send(&mut self, round: &mut Round) -> io::Result<()> {
        let mut output = BytesMut::new();
        loop {
            let is_all = round.encode_some(&mut output);
            timeout(WRITE_TIMEOUT, self.socket.write_all(&output)).await??;
            output.clear();
            if is_all {
                return Ok(());
            }
        }
    }

    /// Ends the connection so that the client reads the last reply: what it still sends is read and dropped for a moment.
    async fn close(&mut self) -> io::Result<()> {
        let socket = &mut self.socket;
        socket.shutdown().await?;
        let mut dropped = vec![0; READ_BYTES];
        let drain = async { while matches!(socket.read(&mut dropped).await, Ok(read) if read > 0) {} };
        let _ = timeout(LINGER, drain).await;
        Ok(())
    }
}

/// A command that came between `MULTI` and `EXEC`: the few that are carried out at once, else the reply to it.
fn queued(transaction: &mut Transaction, command: Result<Command, Reply>, max_bytes: usize) -> Result<Command, Reply> {
    match command {
        Ok(Command::Data(op, shape)) => Err(transaction.queue(&op, shape, max_bytes)),
        Ok(Command::Multi) => Err(Reply::error(NESTED)),
        Ok(command @ (Command::Exec | Command::Discard | Command::Local("quit", _))) => Ok(command),
        Ok(_) => Err(transaction.refuse(Reply::error(
            "ERR this command cannot be queued: between MULTI and EXEC there are only commands on keys",
        ))),
        Err(reply) => Err(transaction.refuse(reply)),
    }
}

fn too_large(size: usize, limit: usize) -> Reply {
    Reply::error(format!(
        "ERR the command has {size} bytes, the limit is {limit}: send less at once, or raise --max-command-bytes on every \
         store"
    ))
}
