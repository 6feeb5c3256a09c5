//! What stores tell of themselves and of their regions, and what operators ask of them. A store may be gone meanwhile.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Program;
use crate::cleanup::{at_end, making};
use crate::trouble::{Outcome, Trouble, While};

/// How long a store that stands still is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a change of a region is waited for; what it has begun goes on without anybody who waits, or is taken up again.
const CHANGE_SECONDS: &str = "30";

/// A replica as it is told of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Replica {
    /// Its number.
    pub id: u64,
    /// Where it is.
    pub store: u64,
    /// `voter`, `learner`, `witness`, and the roles of a joint configuration.
    pub role: String,
}

/// A region as a store knows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Region {
    /// Its number; 1 is the root region, which owns no keys of clients.
    pub id: u64,
    /// Its first key, in hexadecimal digits.
    pub start: String,
    /// The key behind its last; empty is the end of all keys.
    pub end: String,
    /// Its epoch.
    pub conf_version: u64,
    /// Its epoch.
    pub version: u64,
    /// Its members.
    pub replicas: Vec<Replica>,
    /// The store that leads it, as far as the store that was asked knows.
    pub leader: Option<u64>,
    /// Whether that is the store that was asked.
    #[serde(default)]
    pub is_leader: bool,
    /// The term there.
    #[serde(default)]
    pub term: u64,
    /// How far its log is committed there.
    #[serde(default)]
    pub commit: u64,
    /// How far it is applied there.
    #[serde(default)]
    pub applied: Option<u64>,
    /// How long its log is there.
    #[serde(default)]
    pub last_index: u64,
}

impl Region {
    /// Its member on a store.
    #[must_use]
    pub fn replica_on(&self, store: u64) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.store == store)
    }

    /// Three voters, and nothing else.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.replicas.len() == 3 && self.replicas.iter().all(|replica| replica.role == "voter")
    }

    /// Whether it owns this key.
    #[must_use]
    pub fn owns(&self, key: &[u8]) -> bool {
        let key = hex(key);
        self.id != 1 && self.start <= key && (self.end.is_empty() || key < self.end)
    }
}

/// Another store, as a store tells of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Peer {
    /// Its number.
    pub store: u64,
    /// The version of the wire format in which the two talk, if they have a link.
    pub wire_version: Option<u16>,
}

/// What a store says of itself.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Its number.
    pub store: u64,
    /// Its regions.
    pub regions: Vec<Region>,
    /// Regions whose replica there was found damaged.
    pub damaged: Vec<Value>,
    /// Its log may have lost votes of replicas that it does not know: it has to begin anew.
    pub lacks_promises: bool,
    /// It begins anew, and takes no replica yet.
    pub rejoining: bool,
    /// Its members up to this one were lost with an earlier data directory.
    pub floor: Option<u64>,
    /// The newest version of the wire format that it speaks; not told by a program that embeds the engine.
    pub wire_version: Option<u16>,
    /// All others that it knows; as above.
    #[serde(default)]
    pub peers: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    regions: Vec<Region>,
}

/// A store's admin endpoint.
#[derive(Clone, Debug)]
pub struct Admin {
    address: SocketAddr,
    program: Program,
}

impl Admin {
    pub(super) fn new(address: SocketAddr, program: Program) -> Self {
        Self { address, program }
    }

    /// How the store stands.
    ///
    /// # Errors
    /// It does not say.
    pub fn status(&self) -> Outcome<Status> {
        self.ask("GET /status", "")
    }

    /// All regions, as the store knows them.
    ///
    /// # Errors
    /// It does not say.
    pub fn regions(&self) -> Outcome<Vec<Region>> {
        let told = self.ctl(&["regions"])?;
        let listed: Listed = serde_json::from_value(told).trying(|| "reading what `ctl regions` printed".to_owned())?;
        Ok(listed.regions)
    }

    /// What the store's own replica holds under keys, in hexadecimal digits.
    ///
    /// # Errors
    /// It does not say.
    pub fn local(&self, keys: &[Vec<u8>]) -> Outcome<Vec<Option<String>>> {
        #[derive(Deserialize)]
        struct Told {
            values: Vec<Option<String>>,
        }
        let keys: Vec<String> = keys.iter().map(|key| hex(key)).collect();
        let told: Told = self.ask("POST /local", &serde_json::json!({ "keys": keys }).to_string())?;
        Ok(told.values)
    }

    /// Replaces a region's damaged replica on a store by a new one.
    ///
    /// # Errors
    /// It is refused, or takes too long.
    pub fn repair(&self, region: u64, store: u64) -> Outcome<Value> {
        self.ask("POST /repair", &serde_json::json!({ "region": region, "store": store }).to_string())
    }

    /// Runs `multiraft ctl` on it; the object that it prints.
    ///
    /// # Errors
    /// What it says when it fails, or that it took too long.
    pub fn ctl(&self, words: &[&str]) -> Outcome<Value> {
        let mut program = Command::new("timeout");
        program.arg(CHANGE_SECONDS).arg(self.program.path()).args([
            "ctl",
            "--json",
            "--admin",
            &self.address.to_string(),
        ]);
        if !self.address.ip().is_loopback() {
            program.arg("--expose");
        }
        program.args(words).env("RUST_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let making = making();
        let child = program.spawn().trying(|| "running ctl".to_owned())?;
        let pid = Pid::from_child(&child);
        let end = at_end(move || {
            // `timeout` hands it on. One that has ended, and was not waited for, takes it without harm.
            let _ = kill_process(pid, Signal::TERM);
        })?;
        drop(making);
        let output = child.wait_with_output();
        // It has been waited for: its number may be another's by now.
        end.keep();
        let output = output.trying(|| "running ctl".to_owned())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let code = output.status.code();
            return Err(Trouble::new(format!("{}: {code:?}: {}", words.join(" "), said.trim_end())));
        }
        serde_json::from_str(text.lines().last().unwrap_or_default())
            .trying(|| format!("reading what ctl printed: {text}"))
    }

    fn ask<T: DeserializeOwned>(&self, request_line: &str, body: &str) -> Outcome<T> {
        let trying = || format!("asking {} for {request_line}", self.address);
        let (head, body) = exchange(self.address, request_line, body).trying(trying)?;
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(Trouble::new(format!("{}: {head}: {body}", trying())));
        }
        serde_json::from_str(&body).trying(trying)
    }
}

/// What a store counts by that name, with whatever labels.
pub(super) fn metric(address: SocketAddr, name: &str) -> Outcome<u64> {
    let (head, body) = exchange(address, "GET /metrics", "").trying(|| format!("asking {address} for its metrics"))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(Trouble::new(format!("{address} tells no metrics: {head}")));
    }
    Ok(sum(&body, name))
}

fn sum(metrics: &str, name: &str) -> u64 {
    let of_name = metrics.lines().filter_map(|line| line.strip_prefix(name));
    let told = of_name.filter(|rest| rest.starts_with(['{', ' '])).filter_map(|rest| rest.rsplit(' ').next());
    told.filter_map(|number| number.parse::<u64>().ok()).sum()
}

/// A key as the admin endpoint writes it.
fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn exchange(address: SocketAddr, request_line: &str, body: &str) -> std::io::Result<(String, String)> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(socket, "{request_line} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_a_name_are_added_up_and_no_others() {
        let told = "# TYPE a_total counter\na_total{worker=\"0\"} 2\na_total{worker=\"1\"} 3\na_total_more 7\nb 9\na_total 1\n";
        assert_eq!((sum(told, "a_total"), sum(told, "b"), sum(told, "c")), (6, 9, 0));
    }
}
