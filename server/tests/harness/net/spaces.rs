//! A network namespace for each store, and one for the bridge between them.
//!
//! ```text
//!  the machine             NAME-hub               NAME-1                    NAME is mr, the process, n, a number
//!  NAME .254 ── root ┐  ┌── s1 ── eth0 .1 ◀── filter: what comes in from another store may be dropped
//!                    bridge ── s2 ── eth0 .2    NAME-2
//! ```
//!
//! The addresses are of 198.18.0.0/15, which is set aside for tests (RFC 2544). On the machine itself there is one interface
//! more, and nothing else changes. All of it goes when the cluster does, also in a panic, on SIGINT and on SIGTERM; SIGKILL
//! leaves it behind, and `ip netns delete` of each name removes it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

use serde_json::Value;

use super::{Fault, Faults, Met};

/// The filter's table in a store's namespace.
const TABLE: &str = "inet fire";
/// The machine's own place in the subnet.
const MACHINE: u8 = 254;

/// The namespaces that this process has made, by the first part of their names.
static MADE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Namespaces for a cluster.
pub(crate) struct Spaces {
    name: String,
    /// The subnet's first three numbers.
    subnet: [u8; 3],
    /// The stores whose filter drops something.
    struck: Mutex<BTreeSet<u64>>,
}

impl Spaces {
    /// Namespaces for stores 1 to `stores`; else why there can be none on this machine.
    pub(crate) fn make(stores: u64) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        clean_up_on_signals();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mr{}n{number}", std::process::id());
        // Of an earlier process of the same number, if anybody's.
        remove(&name);
        MADE.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        let subnet = free_subnet(number)?;
        // From here on, dropping it removes whatever is there.
        let spaces = Self { name, subnet, struck: Mutex::default() };
        spaces.build(stores)?;
        Ok(spaces)
    }

    fn build(&self, stores: u64) -> Result<(), String> {
        let (name, hub) = (&self.name, format!("{}-hub", self.name));
        let in_hub = |line: &str| ip(&format!("-n {hub} {line}"));
        ip(&format!("netns add {hub}"))?;
        ip(&format!("link add {name} type veth peer name root netns {hub}"))?;
        in_hub("link add bridge type bridge")?;
        in_hub("link set root master bridge up")?;
        in_hub("link set bridge up")?;
        for store in 1..=stores {
            let space = self.space(store);
            ip(&format!("netns add {space}"))?;
            in_hub(&format!("link add s{store} type veth peer name eth0 netns {space}"))?;
            in_hub(&format!("link set s{store} master bridge up"))?;
            ip(&format!("-n {space} address add {}/24 dev eth0", self.address(store)))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
            // Whether there is a filter, and all that it needs.
            self.filter(store, &[(store, Fault::Cut), (store, Fault::Loss(50))])?;
            self.filter(store, &[])?;
        }
        ip(&format!("address add {}/24 dev {name}", self.own_address(MACHINE)))?;
        ip(&format!("link set {name} up"))
    }

    /// Where a store is.
    pub(crate) fn address(&self, store: u64) -> IpAddr {
        self.own_address(u8::try_from(store).unwrap())
    }

    fn own_address(&self, last: u8) -> IpAddr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, last).into()
    }

    fn space(&self, store: u64) -> String {
        format!("{}-{store}", self.name)
    }

    /// A program in a store's namespace. `ip` becomes it, so that its process is the one that was started.
    pub(crate) fn command(&self, store: u64, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(store), program]);
        command
    }

    pub(super) fn strike(&self, faults: &Faults) {
        self.heal();
        let mut struck = self.struck.lock().unwrap();
        struck.extend(faults.keys().map(|(_, to)| *to));
        for to in struck.iter() {
            let of_store = faults.iter().filter(|((_, receiver), _)| receiver == to);
            let senders: Vec<(u64, Fault)> = of_store.map(|((from, _), fault)| (*from, *fault)).collect();
            self.filter(*to, &senders).unwrap();
        }
    }

    pub(super) fn heal(&self) -> Met {
        let struck = std::mem::take(&mut *self.struck.lock().unwrap());
        let mut met = Met::new();
        for to in struck {
            met.extend(self.dropped(to).into_iter().map(|(from, packets)| ((from, to), packets)));
            self.filter(to, &[]).unwrap();
        }
        met
    }

    /// From now on a store's filter is this one.
    fn filter(&self, to: u64, senders: &[(u64, Fault)]) -> Result<(), String> {
        // In one transaction: there is no moment with half of it. Added first, so that there is something to delete.
        let mut text = format!("add table {TABLE}\ndelete table {TABLE}\n");
        if !senders.is_empty() {
            let _ =
                writeln!(text, "table {TABLE} {{\nchain input {{\ntype filter hook input priority 0; policy accept;");
            for (from, fault) in senders {
                let chance = match fault {
                    Fault::Cut => String::new(),
                    Fault::Loss(percent) => format!("numgen random mod 100 < {percent}"),
                    Fault::Late(_) => panic!("the filter drops, and delays nothing"),
                };
                let _ = writeln!(text, "ip saddr {} {chance} counter drop", self.address(*from));
            }
            text.push_str("}\n}\n");
        }
        run("ip", &["netns", "exec", &self.space(to), "nft", "-f", "-"], &text).map(drop)
    }

    /// How many packets a store's filter has dropped, by sender.
    fn dropped(&self, to: u64) -> Vec<(u64, u64)> {
        let list = format!("netns exec {} nft -j list table {TABLE}", self.space(to));
        let told: Value = serde_json::from_str(&ip_says(&list).unwrap()).unwrap();
        let parts = told["nftables"].as_array().unwrap().iter().filter_map(|part| part["rule"]["expr"].as_array());
        parts
            .map(|expr| {
                let sender = expr.iter().find_map(|part| part["match"]["right"].as_str()).unwrap();
                let packets = expr.iter().find_map(|part| part["counter"]["packets"].as_u64()).unwrap();
                (sender.rsplit('.').next().unwrap().parse().unwrap(), packets)
            })
            .collect()
    }

    /// The first part of all names.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether anything of this name is there.
    pub(crate) fn is_there(name: &str) -> bool {
        !spaces_of(name).is_empty() || ip(&format!("link show dev {name}")).is_ok()
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        remove(&self.name);
        MADE.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        let is_left = Self::is_there(&self.name);
        assert!(thread::panicking() || !is_left, "something of {} is left", self.name);
    }
}

/// A subnet that this machine is not in.
fn free_subnet(number: u32) -> Result<[u8; 3], String> {
    let first = std::process::id().wrapping_mul(31).wrapping_add(number);
    for at in 0..512 {
        let place = first.wrapping_add(at) % 512;
        let subnet = [198, 18 + u8::try_from(place / 256).unwrap(), u8::try_from(place % 256).unwrap()];
        let [a, b, c] = subnet;
        if ip_says(&format!("-4 address show to {a}.{b}.{c}.0/24"))?.is_empty() {
            return Ok(subnet);
        }
    }
    Err("no subnet of 198.18.0.0/15 is free".to_owned())
}

/// The namespaces whose names begin with this one.
fn spaces_of(name: &str) -> Vec<String> {
    let listed = ip_says("netns list").unwrap_or_default();
    let names = listed.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned);
    names.filter(|space| space.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))).collect()
}

/// Removes namespaces, what runs in them, and the machine's interface. What is not there is no trouble.
fn remove(name: &str) {
    for space in spaces_of(name) {
        for pid in ip_says(&format!("netns pids {space}")).unwrap_or_default().lines() {
            let _ = run("kill", &["-KILL", pid], "");
        }
        let _ = ip(&format!("netns delete {space}"));
    }
    // The interface goes with its other end, but not at once.
    let _ = ip(&format!("link delete dev {name}"));
}

/// SIGINT and SIGTERM remove what this process has made, before they end it as they do.
fn clean_up_on_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            let (mut told, teller) = UnixStream::pair().unwrap();
            signal_hook::low_level::pipe::register(signal, teller).unwrap();
            thread::spawn(move || {
                let _ = told.read(&mut [0]);
                MADE.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|name| remove(name));
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            });
        }
    });
}

fn ip(line: &str) -> Result<(), String> {
    ip_says(line).map(drop)
}

fn ip_says(line: &str) -> Result<String, String> {
    run("ip", &line.split(' ').collect::<Vec<_>>(), "")
}

/// What a program prints; else what it says when it fails.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    // A program that has ended already says why.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim_end()))
}
