//! What the trial asks of the stores' admin endpoints, and changes through `multiraft ctl`; a store may be gone meanwhile.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// How long a store that stands still is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a change of a region is waited for; what it has begun goes on without anybody who waits, or is taken up again.
const CHANGE_SECONDS: &str = "30";

/// A replica as it is told of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Replica {
    pub(crate) id: u64,
    pub(crate) store: u64,
    pub(crate) role: String,
}

/// A region as a store knows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Region {
    pub(crate) id: u64,
    pub(crate) start: String,
    pub(crate) end: String,
    pub(crate) conf_version: u64,
    pub(crate) version: u64,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) leader: Option<u64>,
    #[serde(default)]
    pub(crate) is_leader: bool,
    #[serde(default)]
    pub(crate) term: u64,
    #[serde(default)]
    pub(crate) commit: u64,
    #[serde(default)]
    pub(crate) applied: Option<u64>,
    #[serde(default)]
    pub(crate) last_index: u64,
}

impl Region {
    pub(crate) fn replica_on(&self, store: u64) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.store == store)
    }

    /// Three voters, and nothing else.
    pub(crate) fn is_whole(&self) -> bool {
        self.replicas.len() == 3 && self.replicas.iter().all(|replica| replica.role == "voter")
    }

    /// Whether it owns this key.
    pub(crate) fn owns(&self, key: &str) -> bool {
        let key = hex(key);
        self.id != 1 && self.start <= key && (self.end.is_empty() || key < self.end)
    }
}

/// What a store says of itself.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) store: u64,
    pub(crate) regions: Vec<Region>,
    pub(crate) damaged: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    regions: Vec<Region>,
}

/// A key as the admin endpoint writes it.
pub(crate) fn hex(key: &str) -> String {
    key.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// A value that it wrote.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

pub(crate) fn status(address: SocketAddr) -> Result<Status, String> {
    ask(address, "GET /status", "")
}

/// What a store holds under keys by itself.
pub(crate) fn local(address: SocketAddr, keys: &[String]) -> Result<Vec<Option<String>>, String> {
    let keys: Vec<String> = keys.iter().map(|key| hex(key)).collect();
    values(address, serde_json::json!({ "keys": keys }))
}

/// What a store says that a key holds, or held no longer ago than that.
pub(crate) fn bounded(address: SocketAddr, key: &str, staleness_ms: u64) -> Result<Option<String>, String> {
    let told = values(address, serde_json::json!({ "keys": [hex(key)], "staleness_ms": staleness_ms }))?;
    told.into_iter().next().ok_or_else(|| "nothing was told".to_owned())
}

fn values(address: SocketAddr, query: Value) -> Result<Vec<Option<String>>, String> {
    #[derive(Deserialize)]
    struct Told {
        values: Vec<Option<String>>,
    }
    let told: Told = ask(address, "POST /local", &query.to_string())?;
    Ok(told.values)
}

/// All regions, as a store knows them.
pub(crate) fn regions(address: SocketAddr) -> Result<Vec<Region>, String> {
    let told = ctl(address, "regions")?;
    serde_json::from_value(told).map(|listed: Listed| listed.regions).map_err(|error| error.to_string())
}

/// Runs `multiraft ctl`; the object that it prints, or what it says when it fails.
pub(crate) fn ctl(address: SocketAddr, command: &str) -> Result<Value, String> {
    let mut program = Command::new("timeout");
    program.args([CHANGE_SECONDS, env!("CARGO_BIN_EXE_multiraft"), "ctl", "--json", "--admin", &address.to_string()]);
    if !address.ip().is_loopback() {
        program.arg("--expose");
    }
    let output = program.args(command.split(' ')).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "ctl {command}: {said}");
    if !output.status.success() {
        return Err(format!("{:?}: {}", output.status.code(), said.trim_end()));
    }
    serde_json::from_str(text.lines().last().unwrap_or_default()).map_err(|error| format!("{error}: {text}"))
}

fn ask<T: DeserializeOwned>(address: SocketAddr, request_line: &str, body: &str) -> Result<T, String> {
    let (head, body) = exchange(address, request_line, body).map_err(|error| error.to_string())?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(format!("{head}: {body}"));
    }
    serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))
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
