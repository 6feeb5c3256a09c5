//! One connection: takes what has come in, carries it out together, answers in order.
//!
//! A round is everything complete in the socket's buffer, within limits. Its data commands are sorted into lanes by region
//! and carried out beside each other; the next round begins when all are answered. So commands of one connection on one
//! region take effect in order (lanes never share a key, see [`Round::lane`]), a read sees the writes before it, and a pipeline costs one proposal a region a round. While a
//! round runs nothing more is read: a client that sends faster than it is served is held back by the transport.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use multiraft::{RegionDescriptor, RegionId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::command::{Command, parse};
use super::front::{Admission, Front};
use super::lanes::{Item, region_of, run_lane};
use super::local::Client;
use super::reply::{Protocol, Reply};
use super::request::{ProtocolError, Request, Requests};
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

/// The commands of one round and what is said to them.
#[derive(Default)]
struct Round {
    /// Each reply, with the protocol version that it goes out in.
    replies: Vec<(Protocol, Option<Reply>)>,
    lanes: HashMap<RegionId, Lane>,
}

/// The commands for one region, as it was when the first of them was sorted in.
#[derive(Debug)]
struct Lane {
    region: Arc<RegionDescriptor>,
    items: VecDeque<Item>,
}

impl Round {
    /// Where commands for a region go; `None` if the lanes have to be carried out first. That is when the regions change
    /// while commands are sorted in: two lanes that share a key would be carried out beside each other, out of order.
    fn lane(&mut self, region: &Arc<RegionDescriptor>) -> Option<&mut VecDeque<Item>> {
        let is_same = |lane: &Lane| lane.region.id == region.id && lane.region.epoch.version == region.epoch.version;
        let known = self.lanes.get(&region.id).is_some_and(is_same);
        if !known && self.lanes.values().any(|lane| lane.region.id == region.id || overlap(&lane.region, region)) {
            return None;
        }
        let lane = self.lanes.entry(region.id);
        let lane = lane.or_insert_with(|| Lane { region: Arc::clone(region), items: VecDeque::new() });
        Some(&mut lane.items)
    }
}

/// Whether two regions share a key.
fn overlap(one: &RegionDescriptor, other: &RegionDescriptor) -> bool {
    let reaches = |end: &Bytes, start: &Bytes| end.is_empty() || start < end;
    reaches(&one.range.end, &other.range.start) && reaches(&other.range.end, &one.range.start)
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
            let replies = self.run_round(requests).await;
            let closes = self.client.quits || nonsense.is_some() || *self.stopping.borrow();
            self.write(replies, nonsense).await?;
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
            self.write(vec![(self.client.protocol, reply)], None).await?;
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

    async fn run_round(&mut self, requests: Vec<Request>) -> Vec<(Protocol, Reply)> {
        let deadline = Instant::now() + self.front.limits.request_timeout;
        let mut round = Round::default();
        for request in requests {
            if self.client.quits {
                break;
            }
            self.sort_in(&mut round, request, deadline).await;
        }
        self.run_lanes(&mut round, deadline).await;
        let lost = || Reply::error("ERR the command was lost inside the server: report this");
        round.replies.into_iter().map(|(protocol, reply)| (protocol, reply.unwrap_or_else(lost))).collect()
    }

    /// Puts a command into its lane, or answers it.
    async fn sort_in(&mut self, round: &mut Round, request: Request, deadline: Instant) {
        let slot = round.replies.len();
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
                        self.run_lanes(round, deadline).await;
                    }
                    let lane = round.lane(&region).expect("invariant: without lanes any region gets one");
                    lane.push_back(Item { slot, op, shape });
                    None
                }
            },
            // What goes over all regions comes after all that was sent before it.
            Ok(Command::Scan(step)) => {
                self.run_lanes(round, deadline).await;
                Some(walk::scan(&self.front, step, deadline).await)
            }
            Ok(Command::DbSize) => {
                self.run_lanes(round, deadline).await;
                Some(walk::db_size(&self.front, deadline).await)
            }
            Ok(Command::Session(call)) => {
                self.run_lanes(round, deadline).await;
                Some(session::run(&self.front.engine, call, deadline).await)
            }
            Ok(Command::Multi) => {
                self.transaction = Some(Transaction::default());
                Some(Reply::OK)
            }
            Ok(Command::Exec) => match self.transaction.take() {
                None => Some(Reply::error("ERR EXEC without MULTI")),
                Some(transaction) => {
                    self.run_lanes(round, deadline).await;
                    Some(transaction.run(&self.front.engine, deadline).await)
                }
            },
            Ok(Command::Discard) => Some(match self.transaction.take() {
                None => Reply::error("ERR DISCARD without MULTI"),
                Some(_) => Reply::OK,
            }),
        };
        round.replies.push((self.client.protocol, reply));
    }

    /// Carries all lanes out, beside each other.
    async fn run_lanes(&self, round: &mut Round, deadline: Instant) {
        let mut lanes = std::mem::take(&mut round.lanes).into_values();
        let Some(first) = lanes.next() else { return };
        let mut others = JoinSet::new();
        for lane in lanes {
            others.spawn(run_lane(self.front.engine.clone(), lane.items, deadline));
        }
        let mut replies = run_lane(self.front.engine.clone(), first.items, deadline).await;
        while let Some(finished) = others.join_next().await {
            replies.extend(finished.expect("invariant: a lane does not panic and is not aborted"));
        }
        for (slot, reply) in replies {
            round.replies[slot].1 = Some(reply);
        }
    }

    async fn write(&mut self, replies: Vec<(Protocol, Reply)>, nonsense: Option<ProtocolError>) -> io::Result<()> {
        let mut output = BytesMut::new();
        for (protocol, reply) in replies {
            reply.encode(protocol, &mut output);
        }
        if let Some(nonsense) = nonsense {
            Reply::error(format!("ERR {nonsense}")).encode(self.client.protocol, &mut output);
        }
        timeout(WRITE_TIMEOUT, self.socket.write_all(&output)).await?
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

#[cfg(test)]
mod tests {
    use multiraft::{KeyRange, RegionEpoch};

    use super::*;
    use crate::machine::Op;
    use crate::resp::command::Shape;

    fn region(id: u64, start: &str, end: &str, version: u64) -> Arc<RegionDescriptor> {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        Arc::new(RegionDescriptor {
            id: RegionId(id),
            range: KeyRange { start: bytes(start), end: bytes(end) },
            epoch: RegionEpoch { conf_version: 1, version },
            replicas: Vec::new(),
        })
    }

    #[test]
    fn regions_that_share_a_key_with_another_lane_wait_for_it() {
        let mut round = Round::default();
        let item = || Item { slot: 0, op: Op::Get { key: Bytes::from_static(b"k") }, shape: Shape::Plain };
        for known in [region(1, "", "k", 4), region(2, "k", "", 7), region(1, "", "k", 4)] {
            round.lane(&known).unwrap().push_back(item());
        }
        assert_eq!(round.lanes[&RegionId(1)].items.len(), 2);
        // The second has split: neither what it kept nor what it gave away may run beside what was sorted in before.
        for changed in [region(2, "k", "p", 8), region(3, "p", "", 8), region(4, "j", "k", 9), region(1, "", "j", 5)] {
            assert!(round.lane(&changed).is_none(), "{changed:?}");
        }
        round.lanes.clear();
        for fresh in [region(2, "k", "p", 8), region(3, "p", "", 8)] {
            assert!(round.lane(&fresh).is_some());
        }
    }
}
