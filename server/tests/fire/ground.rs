//! Where the stores of a trial run: a seed decides, as far as the machine lets it.

use crate::STORES;
use crate::harness::Ground;
use multiraft_torture::ground::{Clocks, Net, Spaces};

/// Says where stores are to run, whatever the seed says: `spaces`, `proxy`.
const WANTED: &str = "MULTIRAFT_FIRE_NET";

/// The ground of a seed. Namespaces that cannot be had are replaced by the proxy, unless they were asked for by name.
pub(crate) fn of_seed(seed: u64) -> Ground {
    let by_seed = if (seed / 4).is_multiple_of(2) { "spaces" } else { "proxy" };
    let wanted = std::env::var(WANTED).ok();
    match wanted.as_deref().unwrap_or(by_seed) {
        "proxy" => Ground::Proxied,
        "spaces" => match Spaces::make(STORES) {
            Ok(spaces) => Ground::Spaces(spaces),
            Err(reason) => {
                assert!(wanted.is_none(), "{WANTED}: {reason}");
                println!("no namespaces, a proxy instead: {reason}");
                Ground::Proxied
            }
        },
        other => panic!("{WANTED} is spaces or proxy, not {other}"),
    }
}

/// What can be done to stores there, and what not.
pub(crate) fn describe(net: &Net, clocks: &Clocks) -> String {
    let net = match net {
        Net::Plain => "none",
        Net::Proxy(_) => "a proxy on loopback",
        Net::Spaces(_) => "namespaces",
    };
    let pace = if clocks.can_drift() { "drift" } else { "do not drift (not built with --features torture)" };
    let day = if clocks.can_jump() { "jumps" } else { "does not jump (libfaketime is not installed)" };
    format!("between stores: {net}; clocks {pace}; the time of day {day}")
}
