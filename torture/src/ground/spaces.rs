//! A network namespace for each store, and one for the bridge between them.
//!
//! ```text
//!  the machine             NAME-hub               NAME-1                    NAME is mr, the process, n, a number
//!  NAME .254 ── root ┐  ┌── s1 ── eth0 .1 ◀── filter: what comes in from another store may be dropped
//!                    bridge ── s2 ── eth0 .2    NAME-2
//! ```
//!
//! The addresses are of 198.18.0.0/15, which is set aside for tests (RFC 2544). On the machine itself there is one interface
//! more, and nothing else changes. All of it goes when the cluster does; SIGKILL leaves it
//! behind, and `ip netns delete` of each name removes it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::Value;

use super::{Fault, Faults, Met};
use crate::cleanup::{Guard, at_end, making};
use crate::trouble::{Outcome, Trouble, While};

/// The filter's table in a store's namespace.
const TABLE: &str = "inet fire";
/// The machine's own place in the subnet.
const MACHINE: u8 = 254;

/// Namespaces for a cluster.
#[derive(Debug)]
pub struct Spaces {
    name: String,
    /// The subnet's first three numbers.
    subnet: [u8; 3],
    /// The stores whose filter drops something.
    struck: Mutex<BTreeSet<u64>>,
    /// Removes them.
    made: Option<Guard>,
}

impl Spaces {
    /// Namespaces for stores 1 to `stores`.
    ///
    /// # Errors
    /// Why there can be none on this machine.
    pub fn make(stores: u64) -> Outcome<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mr{}n{number}", std::process::id());
        // Of an earlier process of the same number, if anybody's.
        remove(&name);
        let subnet = free_subnet(number)?;
        let _making = making();
        let made = at_end({
            let name = name.clone();
            move || remove(&name)
        })?;
        // From here on, dropping it removes whatever is there.
        let spaces = Self { name, subnet, struck: Mutex::default(), made: Some(made) };
        spaces.build(stores)?;
        Ok(spaces)
    }

    fn build(&self, stores: u64) -> Outcome<()> {
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
    pub fn address(&self, store: u64) -> IpAddr {
        // A cluster of more than 200 stores has not been built.
        self.own_address(u8::try_from(store).unwrap_or(u8::MAX))
    }

    fn own_address(&self, last: u8) -> IpAddr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, last).into()
    }

    fn space(&self, store: u64) -> String {
        format!("{}-{store}", self.name)
    }

    /// A program in a store's namespace. `ip` becomes it, so that its process is the one that was started.
    pub fn command(&self, store: u64, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(store), program]);
        command
    }

    pub(super) fn strike(&self, faults: &Faults) -> Outcome<()> {
        self.heal()?;
        let receivers: BTreeSet<u64> = faults.keys().map(|(_, to)| *to).collect();
        self.lock().extend(&receivers);
        for to in receivers {
            let of_store = faults.iter().filter(|((_, receiver), _)| *receiver == to);
            let senders: Vec<(u64, Fault)> = of_store.map(|((from, _), fault)| (*from, *fault)).collect();
            self.filter(to, &senders)?;
        }
        Ok(())
    }

    pub(super) fn heal(&self) -> Outcome<Met> {
        let struck = std::mem::take(&mut *self.lock());
        let mut met = Met::new();
        for to in struck {
            met.extend(self.dropped(to)?.into_iter().map(|(from, packets)| ((from, to), packets)));
            self.filter(to, &[])?;
        }
        Ok(met)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.struck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a store's filter is this one.
    fn filter(&self, to: u64, senders: &[(u64, Fault)]) -> Outcome<()> {
        // In one transaction: there is no moment with half of it. Added first, so that there is something to delete.
        let mut text = format!("add table {TABLE}\ndelete table {TABLE}\n");
        if !senders.is_empty() {
            let _ =
                writeln!(text, "table {TABLE} {{\nchain input {{\ntype filter hook input priority 0; policy accept;");
            for (from, fault) in senders {
                let chance = match fault {
                    Fault::Cut => String::new(),
                    Fault::Loss(percent) => format!("numgen random mod 100 < {percent}"),
                    Fault::Late(_) | Fault::Twice(_) => {
                        return Err(Trouble::new(
                            "the filter only drops: run on the proxy to have packets late or twice",
                        ));
                    }
                };
                let _ = writeln!(text, "ip saddr {} {chance} counter drop", self.address(*from));
            }
            text.push_str("}\n}\n");
        }
        run("ip", &["netns", "exec", &self.space(to), "nft", "-f", "-"], &text).map(drop)
    }

    /// How many packets a store's filter has dropped, by sender.
    fn dropped(&self, to: u64) -> Outcome<Vec<(u64, u64)>> {
        let list = format!("netns exec {} nft -j list table {TABLE}", self.space(to));
        let told: Value = serde_json::from_str(&ip_says(&list)?).trying(|| "reading what nft counts".to_owned())?;
        let parts = told["nftables"].as_array().map_or(&[][..], Vec::as_slice);
        let rules = parts.iter().filter_map(|part| part["rule"]["expr"].as_array());
        let counted = rules.map(|expr| {
            let sender = expr.iter().find_map(|part| part["match"]["right"].as_str())?;
            let packets = expr.iter().find_map(|part| part["counter"]["packets"].as_u64())?;
            Some((sender.rsplit('.').next()?.parse().ok()?, packets))
        });
        counted.collect::<Option<_>>().ok_or_else(|| Trouble::new(format!("nft counts in a way of its own: {told}")))
    }

    /// The first part of all names.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether anything of this name is there.
    pub fn is_there(name: &str) -> bool {
        !spaces_of(name).is_empty() || ip(&format!("link show dev {name}")).is_ok()
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        drop(self.made.take());
        assert!(thread::panicking() || !Self::is_there(&self.name), "something of {} is left", self.name);
    }
}

/// A subnet that this machine is not in.
fn free_subnet(number: u32) -> Outcome<[u8; 3]> {
    let first = std::process::id().wrapping_mul(31).wrapping_add(number);
    for at in 0..512 {
        let place = first.wrapping_add(at) % 512;
        let subnet = [198, 18 + (place / 256) as u8, (place % 256) as u8];
        let [a, b, c] = subnet;
        if ip_says(&format!("-4 address show to {a}.{b}.{c}.0/24"))?.is_empty() {
            return Ok(subnet);
        }
    }
    Err(Trouble::new("no subnet of 198.18.0.0/15 is free"))
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

fn ip(line: &str) -> Outcome<()> {
    ip_says(line).map(drop)
}

fn ip_says(line: &str) -> Outcome<String> {
    run("ip", &line.split(' ').collect::<Vec<_>>(), "")
}

/// What a program prints; else what it says when it fails.
fn run(program: &str, arguments: &[&str], input: &str) -> Outcome<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().trying(|| program.to_owned())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that has ended already says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Trouble::new(format!("{program} {}: {}", arguments.join(" "), said.trim_end())))
}
