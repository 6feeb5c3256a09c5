//! A real cluster for tests: the program itself, three processes, certificates, sockets, disks.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use multiraft_torture::ground::{Clocks, Net, Proxy, Spaces, clean_up_after};
use tempfile::TempDir;

pub(crate) use multiraft_torture::ground::free_address as address;

/// Longer than any reply takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) fn multiraft() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_multiraft"));
    command.env("RUST_LOG", "warn").stdin(Stdio::null());
    command
}

/// Runs the program to its end, which it must come to: one that serves instead is ended after a minute.
pub(crate) fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_multiraft")]).args(arguments);
    command.env("RUST_LOG", "warn").stdin(Stdio::null()).output().unwrap()
}

/// What it said on stderr when it failed; it must fail, and in order.
pub(crate) fn failure(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}: {text}", output.status);
    assert!(!text.contains("panicked") && !text.contains("stack backtrace"), "{text}");
    text
}

/// A store's place, and its process while it runs.
pub(crate) struct Store {
    pub(crate) id: u64,
    pub(crate) listen: SocketAddr,
    pub(crate) resp: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
    child: Option<Child>,
}

/// Where a cluster's stores run.
pub(crate) enum Ground {
    /// On loopback.
    Plain,
    /// On loopback, and what they say to each other passes a proxy.
    Proxied,
    /// Each in a network namespace of its own.
    Spaces(Spaces),
}

/// Three stores in a directory of their own. What still runs is killed when the cluster is dropped.
pub(crate) struct Cluster {
    dir: TempDir,
    pub(crate) stores: Vec<Store>,
    pub(crate) net: Net,
    /// None while stores run on the machine's own.
    clocks: Option<Clocks>,
    extra: Vec<String>,
    /// What stores say on stderr goes to a file of each in the directory, which stays if the test fails.
    keeps_logs: bool,
}

impl Cluster {
    /// Three running stores; `extra` flags go to each.
    pub(crate) fn start(extra: &[&str]) -> Self {
        let mut cluster = Self::prepare(extra);
        for at in 0..3 {
            cluster.spawn(at);
        }
        for at in 0..3 {
            cluster.wait_ready(at);
        }
        cluster
    }

    /// Certificates and places for three stores, none of which runs.
    pub(crate) fn prepare(extra: &[&str]) -> Self {
        Self::prepare_many(3, extra)
    }

    /// Certificates and places for so many stores, none of which runs.
    pub(crate) fn prepare_many(stores: u64, extra: &[&str]) -> Self {
        Self::prepare_on(Ground::Plain, stores, extra)
    }

    /// The same, somewhere else.
    pub(crate) fn prepare_on(ground: Ground, stores: u64, extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certs = dir.path().join("certs");
        let made = run(&["certs", "--out", certs.to_str().unwrap(), "--stores", &stores.to_string()]);
        assert!(made.status.success(), "{made:?}");
        let ids = 1..=stores;
        let stores: Vec<Store> = match &ground {
            Ground::Plain | Ground::Proxied => ids.map(place).collect(),
            Ground::Spaces(spaces) => ids.map(|id| place_at(id, spaces.address(id))).collect(),
        };
        let listens: Vec<_> = stores.iter().map(|store| (store.id, store.listen)).collect();
        let net = match ground {
            Ground::Plain => Net::Plain,
            Ground::Proxied => Net::Proxy(Proxy::start(&listens, u64::from(std::process::id())).unwrap()),
            Ground::Spaces(spaces) => Net::Spaces(spaces),
        };
        let extra = extra.iter().map(|text| (*text).to_owned()).collect();
        Self { dir, stores, net, clocks: None, extra, keeps_logs: false }
    }

    /// From now on, stores start with clocks that can be turned.
    pub(crate) fn rule_clocks(&mut self) {
        self.clocks = Some(Clocks::new(self.path(), cfg!(feature = "torture")));
    }

    /// The clocks of stores that were started with such.
    pub(crate) fn clocks(&self) -> &Clocks {
        self.clocks.as_ref().unwrap()
    }

    /// From now on, what stores say goes to files.
    pub(crate) fn keep_logs(&mut self) {
        self.keeps_logs = true;
    }

    /// No store has panicked, as far as the files tell.
    pub(crate) fn check_logs(&self) {
        for at in 0..self.stores.len() {
            let said = std::fs::read_to_string(self.log_file(at)).unwrap();
            let found = said.lines().find(|line| line.contains("panicked at") || line.contains("assertion"));
            assert_eq!(found, None, "store {}", at + 1);
        }
    }

    /// Where a store's words go, if they are kept.
    pub(crate) fn log_file(&self, at: usize) -> PathBuf {
        self.path().join(format!("store-{}.log", self.stores[at].id))
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data_dir(&self, at: usize) -> PathBuf {
        self.path().join(format!("store-{}", self.stores[at].id))
    }

    pub(crate) fn cert(&self, name: &str) -> String {
        self.path().join("certs").join(name).to_str().unwrap().to_owned()
    }

    /// The command line of a store.
    pub(crate) fn arguments(&self, at: usize) -> Vec<String> {
        let store = &self.stores[at];
        let mut arguments = vec!["serve".to_owned()];
        let mut flag = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        flag("--store", store.id.to_string());
        flag("--dir", self.data_dir(at).to_str().unwrap().to_owned());
        flag("--listen", store.listen.to_string());
        for peer in (0..self.stores.len()).filter(|peer| *peer != at) {
            flag("--peer", self.peer(at, peer));
        }
        flag("--ca", self.cert("ca.pem"));
        flag("--cert", self.cert(&format!("store-{}.pem", store.id)));
        flag("--key", self.cert(&format!("store-{}-key.pem", store.id)));
        flag("--resp", store.resp.to_string());
        flag("--admin", store.admin.to_string());
        flag("--metrics", store.metrics.to_string());
        if matches!(self.net, Net::Spaces(_)) {
            arguments.push("--expose".to_owned());
        }
        arguments.extend(self.extra.iter().cloned());
        arguments
    }

    /// What the command line of a store says of another.
    pub(crate) fn peer(&self, at: usize, peer: usize) -> String {
        let (store, peer) = (&self.stores[at], &self.stores[peer]);
        format!("{}={}", peer.id, self.net.way(store.id, peer.id, peer.listen))
    }

    pub(crate) fn spawn(&mut self, at: usize) {
        let arguments = self.arguments(at);
        self.spawn_with(at, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }

    pub(crate) fn spawn_with(&mut self, at: usize, arguments: &[&str]) {
        let mut command = self.net.command(self.stores[at].id, env!("CARGO_BIN_EXE_multiraft"));
        command.env("RUST_LOG", "warn").stdin(Stdio::null()).args(arguments);
        self.spawn_command(at, command);
    }

    /// Runs a store by way of another program, which must become it: a wrapper whose last arguments are the command line.
    pub(crate) fn spawn_under(&mut self, at: usize, wrapper: &[&str]) {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(env!("CARGO_BIN_EXE_multiraft")).args(self.arguments(at));
        command.env("RUST_LOG", "warn").stdin(Stdio::null());
        self.spawn_command(at, command);
    }

    fn spawn_command(&mut self, at: usize, mut command: Command) {
        if self.keeps_logs {
            let file = OpenOptions::new().create(true).append(true).open(self.log_file(at)).unwrap();
            command.stderr(file).env("RUST_LOG", "warn,multiraft=debug");
        }
        if let Some(clocks) = &self.clocks {
            command.envs(clocks.environment(self.stores[at].id).unwrap());
            command.envs(clocks.preload().map(|library| ("LD_PRELOAD", library)));
        }
        self.stores[at].child = Some(command.stdout(Stdio::piped()).spawn().unwrap());
    }

    /// The process of a running store.
    pub(crate) fn pid(&self, at: usize) -> u32 {
        self.stores[at].child.as_ref().unwrap().id()
    }

    pub(crate) fn wait_ready(&mut self, at: usize) {
        let store = &mut self.stores[at];
        let stdout = store.child.as_mut().unwrap().stdout.take().unwrap();
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, format!("ready store={}\n", store.id));
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, at: usize) {
        let mut child = self.stores[at].child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        clean_up_after(child.id());
    }

    /// How a store has ended that nobody told to; `None` while it runs.
    pub(crate) fn has_ended(&mut self, at: usize) -> Option<ExitStatus> {
        self.stores[at].child.as_mut().unwrap().try_wait().unwrap()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, at: usize, name: &str) {
        let pid = self.pid(at).to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Waits for the end of a store that was told to stop; its exit code.
    pub(crate) fn wait_end(&mut self, at: usize) -> Option<i32> {
        self.stores[at].child.take().unwrap().wait().unwrap().code()
    }

    /// Runs `multiraft ctl` against a store: what it printed, and whether it went well.
    pub(crate) fn ctl(&self, at: usize, command: &str) -> Output {
        let admin = self.stores[at].admin.to_string();
        let words = command.split(' ');
        run(&["ctl", "--json", "--admin", &admin].into_iter().chain(words).collect::<Vec<_>>())
    }

    pub(crate) fn client(&self, at: usize) -> Client {
        Client::connect(self.stores[at].resp)
    }
}

impl Drop for Cluster {
    #[allow(clippy::print_stdout, reason = "whoever reads of a failure wants to know")]
    fn drop(&mut self) {
        for child in self.stores.iter_mut().filter_map(|store| store.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
            clean_up_after(child.id());
        }
        if self.keeps_logs && std::thread::panicking() {
            self.dir.disable_cleanup(true);
            println!("what the stores said and wrote is in {}", self.path().display());
        }
    }
}

fn place(id: u64) -> Store {
    Store { id, listen: address(), resp: address(), admin: address(), metrics: address(), child: None }
}

/// The same at an address where nobody else is.
fn place_at(id: u64, ip: IpAddr) -> Store {
    let [listen, resp, admin, metrics] = [7100, 6379, 7180, 7190].map(|port| SocketAddr::from((ip, port)));
    Store { id, listen, resp, admin, metrics, child: None }
}

/// A connection that speaks the Redis protocol as bytes.
pub(crate) struct Client {
    socket: TcpStream,
    input: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    /// `None` if nobody listens there.
    pub(crate) fn try_connect(address: SocketAddr) -> Option<Self> {
        TcpStream::connect(address).ok().map(Self::over)
    }

    fn over(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let input = BufReader::new(socket.try_clone().unwrap());
        Self { socket, input }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Sends a command whose words are parted by blanks.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.send(&request(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>()));
        self.reply()
    }

    pub(crate) fn ask_bytes(&mut self, words: &[&[u8]]) -> String {
        self.send(&request(words));
        self.reply()
    }

    /// One whole reply as it came, line ends shown as `|`.
    pub(crate) fn reply(&mut self) -> String {
        let line = self.line();
        let count = || line[1..].parse::<i64>().unwrap();
        let mut text = format!("{line}|");
        match line.as_bytes()[0] {
            b'$' | b'=' if count() >= 0 => {
                let mut bytes = vec![0; usize::try_from(count()).unwrap() + 2];
                self.input.read_exact(&mut bytes).unwrap();
                text.push_str(&String::from_utf8_lossy(&bytes[..bytes.len() - 2]));
                text.push('|');
            }
            b'*' => (0..count()).for_each(|_| text.push_str(&self.reply())),
            b'%' => (0..count() * 2).for_each(|_| text.push_str(&self.reply())),
            _ => {}
        }
        text
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.input.read_until(b'\n', &mut line).unwrap();
        assert!(line.ends_with(b"\r\n"), "the connection was closed within a reply: {}", line.escape_ascii());
        String::from_utf8(line[..line.len() - 2].to_vec()).unwrap()
    }

    /// As many one-line replies as come before the connection breaks, at most `count`.
    pub(crate) fn lines(&mut self, bytes: &[u8], count: usize) -> Vec<String> {
        if self.socket.write_all(bytes).is_err() {
            return Vec::new();
        }
        let whole = |line: std::io::Result<String>| line.ok();
        (&mut self.input).lines().take(count).map_while(whole).collect()
    }

    /// Whether the server has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(self.input.read(&mut [0]), Ok(0))
    }
}

/// A request as clients send it.
pub(crate) fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend(format!("${}\r\n", word.len()).bytes());
        out.extend(*word);
        out.extend(b"\r\n");
    }
    out
}

/// Hands a region over through an admin endpoint, again while stores elect somebody else: a store that gets no processor time for a
/// while loses what it leads.
pub(crate) fn hand_over(admin: SocketAddr, region: u64, store: u64) {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        let (told, body) = http(admin, &format!("POST /transfer?region={region}&store={store}"), "");
        if told == "HTTP/1.1 200 OK" {
            return;
        }
        assert!(told == "HTTP/1.1 503 Service Unavailable" && Instant::now() < give_up, "{told}: {body}");
    }
}

/// Asks an HTTP endpoint; status line and body.
pub(crate) fn http(address: SocketAddr, request_line: &str, body: &str) -> (String, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(socket, "{request_line} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}
