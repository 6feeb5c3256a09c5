//! The commands that a connection answers by itself: what clients ask before and beside the data.

use bytes::Bytes;

use super::command::{number, syntax_error, wrong_arity};
use super::front::Front;
use super::glob;
use super::reply::{Protocol, Reply};
use super::table::{self, TABLE};

/// What a connection knows of its client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) address: String,
    pub(crate) name: Bytes,
    pub(crate) library: Bytes,
    pub(crate) library_version: Bytes,
    pub(crate) protocol: Protocol,
    /// Set by `QUIT`: nothing that follows is answered.
    pub(crate) quits: bool,
}

impl Client {
    pub(crate) fn new(id: u64, address: String) -> Self {
        Self {
            id,
            address,
            name: Bytes::new(),
            library: Bytes::new(),
            library_version: Bytes::new(),
            protocol: Protocol::Two,
            quits: false,
        }
    }

    /// Answers one of them.
    pub(crate) async fn answer(&mut self, front: &Front, name: &str, arguments: &[Bytes]) -> Reply {
        match (name, arguments) {
            ("ping", []) => Reply::Simple("PONG"),
            ("ping" | "echo", [text]) => Reply::Bulk(text.clone()),
            ("select", [database]) => select(database),
            ("quit", _) => {
                self.quits = true;
                Reply::OK
            }
            ("hello", _) => self.hello(front, arguments),
            ("client", [what, rest @ ..]) => self.client(what, rest),
            ("config", [what, patterns @ ..]) => config(front, what, patterns),
            ("command", _) => command(arguments),
            ("info", sections) => info(front, sections).await,
            (name, _) => wrong_arity(name),
        }
    }

    fn hello(&mut self, front: &Front, arguments: &[Bytes]) -> Reply {
        let mut protocol = self.protocol;
        let mut name = None;
        let mut words = arguments.iter();
        if let Some(version) = words.next() {
            protocol = match version.as_ref() {
                b"2" => Protocol::Two,
                b"3" => Protocol::Three,
                _ => return Reply::error("NOPROTO unsupported protocol version: there are 2 and 3"),
            };
        }
        while let Some(option) = words.next() {
            match option.to_ascii_uppercase().as_slice() {
                b"AUTH" => {
                    return Reply::error(
                        "ERR AUTH is not supported: nobody is asked for a password here, leave it away",
                    );
                }
                b"SETNAME" => match words.next() {
                    Some(given) if is_plain(given) => name = Some(given.clone()),
                    _ => return Reply::error(BAD_NAME),
                },
                _ => return syntax_error(),
            }
        }
        self.protocol = protocol;
        if let Some(name) = name {
            self.name = name;
        }
        let version = if protocol == Protocol::Two { 2 } else { 3 };
        Reply::Map(vec![
            (Reply::bulk("server"), Reply::bulk("multiraft")),
            (Reply::bulk("version"), Reply::bulk(env!("CARGO_PKG_VERSION"))),
            (Reply::bulk("proto"), Reply::Number(version)),
            (Reply::bulk("id"), Reply::Number(as_number(self.id))),
            (Reply::bulk("mode"), Reply::bulk("standalone")),
            (Reply::bulk("role"), Reply::bulk("master")),
            (Reply::bulk("modules"), Reply::Array(Vec::new())),
            (Reply::bulk("store"), Reply::Number(as_number(front.store))),
        ])
    }

    fn client(&mut self, what: &Bytes, arguments: &[Bytes]) -> Reply {
        match (what.to_ascii_uppercase().as_slice(), arguments) {
            (b"ID", []) => Reply::Number(as_number(self.id)),
            (b"GETNAME", []) if self.name.is_empty() => Reply::Nil,
            (b"GETNAME", []) => Reply::Bulk(self.name.clone()),
            (b"SETNAME", [name]) if is_plain(name) => {
                self.name = name.clone();
                Reply::OK
            }
            (b"SETNAME", [_]) => Reply::error(BAD_NAME),
            (b"SETINFO", [attribute, value]) => match attribute.to_ascii_uppercase().as_slice() {
                _ if !is_plain(value) => {
                    Reply::error("ERR lib-name and lib-ver cannot contain spaces, newlines or special characters.")
                }
                b"LIB-NAME" => {
                    self.library = value.clone();
                    Reply::OK
                }
                b"LIB-VER" => {
                    self.library_version = value.clone();
                    Reply::OK
                }
                _ => Reply::error(format!("ERR Unrecognized option '{}'", attribute.escape_ascii())),
            },
            // Each connection knows only itself.
            (b"INFO" | b"LIST", []) => Reply::Text(self.describe()),
            (b"NO-EVICT" | b"NO-TOUCH", [_]) => Reply::OK,
            _ => Reply::error(format!(
                "ERR unknown subcommand or wrong number of arguments for 'client|{}': there are ID, INFO, LIST, GETNAME, \
                 SETNAME and SETINFO",
                what.escape_ascii()
            )),
        }
    }

    fn describe(&self) -> String {
        format!(
            "id={} addr={} name={} db=0 resp={} lib-name={} lib-ver={}\n",
            self.id,
            self.address,
            self.name.escape_ascii(),
            if self.protocol == Protocol::Two { 2 } else { 3 },
            self.library.escape_ascii(),
            self.library_version.escape_ascii(),
        )
    }
}

const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

fn is_plain(text: &[u8]) -> bool {
    text.len() <= 256 && text.iter().all(u8::is_ascii_graphic)
}

fn select(database: &Bytes) -> Reply {
    match number(database) {
        Ok(0) => Reply::OK,
        Ok(_) => Reply::error("ERR DB index is out of range: there is one database, 0"),
        Err(reply) => reply,
    }
}

/// What tools ask a server for, such as `redis-benchmark` before it starts.
fn config(front: &Front, what: &Bytes, patterns: &[Bytes]) -> Reply {
    if !what.eq_ignore_ascii_case(b"get") {
        return Reply::error("ERR only CONFIG GET is supported: settings are flags of `multiraft serve`");
    }
    if patterns.is_empty() {
        return wrong_arity("config|get");
    }
    let settings = [
        ("save", String::new()),
        ("appendonly", "yes".to_owned()),
        ("appendfsync", "always".to_owned()),
        ("databases", "1".to_owned()),
        ("maxclients", front.limits.max_connections.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("port", front.port.to_string()),
        ("proto-max-bulk-len", front.limits.max_command_bytes.to_string()),
        ("timeout", "0".to_owned()),
    ];
    let wanted =
        |name: &str| patterns.iter().any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()));
    let found = settings.into_iter().filter(|(name, _)| wanted(name));
    Reply::Map(found.map(|(name, value)| (Reply::bulk(name), Reply::bulk(value))).collect())
}

fn command(arguments: &[Bytes]) -> Reply {
    let Some((what, names)) = arguments.split_first() else {
        return Reply::Array(TABLE.iter().map(table::Row::describe).collect());
    };
    match (what.to_ascii_uppercase().as_slice(), names) {
        (b"COUNT", []) => Reply::Number(as_number(TABLE.len() as u64)),
        (b"LIST", []) => Reply::Array(TABLE.iter().map(|row| Reply::bulk(row.name)).collect()),
        (b"INFO", []) => command(&[]),
        (b"INFO", names) => {
            Reply::Array(names.iter().map(|name| table::find(name).map_or(Reply::Nil, table::Row::describe)).collect())
        }
        (b"DOCS", names) => {
            let wanted = |row: &&table::Row| {
                names.is_empty() || names.iter().any(|name| name.eq_ignore_ascii_case(row.name.as_bytes()))
            };
            let found = TABLE.iter().filter(wanted);
            Reply::Map(found.map(|row| (Reply::bulk(row.name), row.document())).collect())
        }
        _ => Reply::error("ERR unknown subcommand of 'command': there are COUNT, LIST, INFO and DOCS"),
    }
}

/// What a store says of itself, in the form that Redis tools read.
async fn info(front: &Front, sections: &[Bytes]) -> Reply {
    let all = ["default", "all", "everything"];
    let wanted = |name: &str| {
        sections.is_empty()
            || sections.iter().any(|section| {
                let section = section.to_ascii_lowercase();
                section == name.as_bytes() || all.iter().any(|word| word.as_bytes() == section)
            })
    };
    let mut text = String::new();
    let mut section = |name: &str, title: &str, lines: &[(&str, String)]| {
        if wanted(name) {
            text.push_str(&format!("{}# {title}\r\n", if text.is_empty() { "" } else { "\r\n" }));
            for (key, value) in lines {
                text.push_str(&format!("{key}:{value}\r\n"));
            }
        }
    };
    let uptime = front.started.elapsed().as_secs();
    section(
        "server",
        "Server",
        &[
            ("multiraft_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("redis_mode", "standalone".to_owned()),
            ("process_id", std::process::id().to_string()),
            ("tcp_port", front.port.to_string()),
            ("uptime_in_seconds", uptime.to_string()),
        ],
    );
    section(
        "clients",
        "Clients",
        &[
            ("connected_clients", front.connections().to_string()),
            ("maxclients", front.limits.max_connections.to_string()),
        ],
    );
    section("stats", "Stats", &[("total_commands_processed", front.commands().to_string())]);
    let status = front.engine.status().await;
    let led = status.regions.iter().filter(|region| region.is_leader).count();
    section(
        "multiraft",
        "Multiraft",
        &[
            ("store", front.store.to_string()),
            ("regions", status.regions.len().to_string()),
            ("regions_led", led.to_string()),
            ("regions_damaged", status.damaged.len().to_string()),
            ("peers_connected", status.peers.iter().filter(|peer| peer.connected).count().to_string()),
            ("log_entries", status.counters.log_entries.to_string()),
            ("log_syncs", status.counters.log_syncs.to_string()),
            ("elections_won", status.counters.elections_won.to_string()),
        ],
    );
    Reply::Text(text)
}

fn as_number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
