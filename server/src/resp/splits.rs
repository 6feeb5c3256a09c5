//! Clients of two stores, one of them without any replica, while regions split: what they are told stays right.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use multiraft::{Bootstrap, Config, Engine, StateKind, StoreId, Tls};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Front, Limits, serve};
use crate::certs::CertFiles;
use crate::machine::KeyValue;

const KEYS: usize = 120;

fn key(n: usize) -> String {
    format!("key:{n:04}")
}

struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(port: u16) -> Self {
        Self(BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap()))
    }

    async fn send(&mut self, lines: &str) {
        self.0.get_mut().write_all(lines.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    /// A bulk string's text, or the line of anything else.
    async fn reply(&mut self) -> String {
        let head = self.line().await;
        if head.starts_with('$') && head != "$-1" { self.line().await } else { head }
    }

    /// One step of a scan: the next cursor, and keys.
    async fn scan(&mut self, cursor: &str) -> (String, Vec<String>) {
        self.send(&format!("SCAN {cursor} COUNT 17\r\n")).await;
        assert_eq!(self.line().await, "*2");
        let next = self.reply().await;
        let head = self.line().await;
        let count = head.strip_prefix('*').and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{head}"));
        let mut keys = Vec::new();
        for _ in 0..count {
            keys.push(self.reply().await);
        }
        (next, keys)
    }
}

/// Reads its own writes through one pipeline, in order.
async fn write_and_read(port: u16, name: usize, done: Arc<AtomicBool>) -> usize {
    let mut client = Client::connect(port).await;
    let mut rounds = 0;
    while !done.load(Ordering::SeqCst) {
        let lines = |n: usize| {
            let key = key(n);
            format!("SET {key} {rounds}\r\nGET {key}\r\nINCR {key}\r\nSTRLEN {key}\r\nGET {key}\r\n")
        };
        // Two clients, each with keys of its own.
        let own: Vec<usize> = (0..KEYS).filter(|n| n % 2 == name).collect();
        client.send(&own.iter().map(|n| lines(*n)).collect::<String>()).await;
        for n in own {
            let (old, new) = (rounds.to_string(), (rounds + 1).to_string());
            let expected = ["+OK".to_owned(), old, format!(":{new}"), format!(":{}", new.len()), new];
            for expected in expected {
                assert_eq!(client.reply().await, expected, "{} in round {rounds}", key(n));
            }
        }
        rounds += 1;
    }
    rounds
}

async fn scan_and_count(port: u16, done: Arc<AtomicBool>) -> usize {
    let mut client = Client::connect(port).await;
    let all: Vec<String> = (0..KEYS).map(key).collect();
    let mut rounds = 0;
    while !done.load(Ordering::SeqCst) {
        let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
        loop {
            let (next, keys) = client.scan(&cursor).await;
            found.extend(keys);
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(found, all);
        client.send("DBSIZE\r\n").await;
        assert_eq!(client.reply().await, format!(":{KEYS}"));
        // Of one region however it splits: between a key and itself no split fits.
        client.send(&format!("MGET {0} {0}\r\n", key(rounds % KEYS))).await;
        assert_eq!(client.line().await, "*2");
        let (one, other) = (client.reply().await, client.reply().await);
        assert!(one == other && one.parse::<usize>().is_ok(), "{one} {other}");
        rounds += 1;
    }
    rounds
}

struct Store {
    engine: Engine,
    port: u16,
}

async fn start(
    certs: &CertFiles,
    dir: &std::path::Path,
    ports: [u16; 2],
    store: u64,
    stops: watch::Receiver<bool>,
) -> Store {
    let mut config = Config::default();
    config.workers = 2;
    let address = |store: u64| std::net::SocketAddr::from(([127, 0, 0, 1], ports[store as usize - 1]));
    let other = 3 - store;
    let mut builder = Engine::builder()
        .store(StoreId(store))
        .data_dir(dir.join(store.to_string()))
        .listen(address(store))
        .tls(Tls::from_pem_files(certs.ca(), certs.cert(store), certs.key(store)).unwrap())
        .state_machine(KeyValue)
        .state(StateKind::Memory)
        .peer(StoreId(other), address(other))
        .config(config);
    if store == 1 {
        builder = builder.bootstrap(Bootstrap { boundaries: Vec::new(), stores: vec![StoreId(1)] });
    }
    let engine = builder.start().await.unwrap();
    let limits = Limits { request_timeout: Duration::from_secs(20), max_command_bytes: 1 << 20, max_connections: 10 };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(serve(Arc::new(Front::new(engine.clone(), limits, store, port)), listener, stops));
    Store { engine, port }
}

/// Two free ports; given back before the stores take them.
fn free_ports() -> [u16; 2] {
    let sockets = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_any_store_see_every_key_once_and_their_own_writes_while_regions_split() {
    let dir = tempfile::tempdir().unwrap();
    let certs = CertFiles::new(dir.path().join("certs"));
    certs.create(2).unwrap();
    let (stop, stops) = watch::channel(false);
    let ports = free_ports();
    let first = start(&certs, dir.path(), ports, 1, stops.clone()).await;
    let second = start(&certs, dir.path(), ports, 2, stops).await;
    let mut client = Client::connect(second.port).await;
    for n in 0..KEYS {
        client.send(&format!("SET {} 0\r\n", key(n))).await;
        assert_eq!(client.reply().await, "+OK");
    }
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for (name, port) in [first.port, second.port].into_iter().enumerate() {
        clients.push(tokio::spawn(write_and_read(port, name, Arc::clone(&done))));
        clients.push(tokio::spawn(scan_and_count(port, Arc::clone(&done))));
    }
    for n in 0..20 {
        let at = key(1 + n * 53 % (KEYS - 1));
        let region = first.engine.region_for(at.as_bytes()).unwrap();
        first.engine.split(region.id, [at]).await.unwrap();
        tokio::task::yield_now().await;
    }
    done.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    client.send(&format!("MGET {} {}\r\n", key(0), key(KEYS - 1))).await;
    assert!(client.reply().await.starts_with("-CROSSSLOT"));
    stop.send_replace(true);
    second.engine.shutdown().await;
    first.engine.shutdown().await;
}
