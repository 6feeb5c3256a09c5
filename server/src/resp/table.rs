//! The commands that there are: one row each, from which arity checks, `COMMAND` and `COMMAND DOCS` follow.

use super::reply::Reply;

/// What is told about a command.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// How many words it has, its name included; negative: at least as many.
    pub(crate) arity: i64,
    /// `write`, `readonly` and so on, as Redis names them.
    pub(crate) flags: &'static [&'static str],
    /// First key, last key, step between keys; zeros if it has none.
    pub(crate) keys: (i64, i64, i64),
    pub(crate) group: &'static str,
    pub(crate) summary: &'static str,
}

const WRITE: &[&str] = &["write"];
const READ: &[&str] = &["readonly"];
const FAST: &[&str] = &["fast"];
const ONE: (i64, i64, i64) = (1, 1, 1);
const ALL: (i64, i64, i64) = (1, -1, 1);
const NONE: (i64, i64, i64) = (0, 0, 0);

const fn row(
    name: &'static str,
    arity: i64,
    flags: &'static [&'static str],
    keys: (i64, i64, i64),
    group: &'static str,
    summary: &'static str,
) -> Row {
    Row { name, arity, flags, keys, group, summary }
}

/// Every command, by name.
pub(crate) const TABLE: &[Row] = &[
    row("append", 3, WRITE, ONE, "string", "Appends to a value; an absent key is empty. Answers the new length."),
    row("client", -2, FAST, NONE, "connection", "ID, INFO, LIST, GETNAME, SETNAME, SETINFO of this connection."),
    row("command", -1, FAST, NONE, "server", "Tells about commands: COUNT, LIST, INFO, DOCS."),
    row("config", -2, FAST, NONE, "server", "GET: settings, as far as tools ask for them."),
    row("dbsize", 1, READ, NONE, "server", "Counts the keys; linearizable region by region."),
    row("decr", 2, WRITE, ONE, "string", "Takes one from a number; an absent key is zero."),
    row("decrby", 3, WRITE, ONE, "string", "Takes from a number; an absent key is zero."),
    row("del", -2, WRITE, ALL, "generic", "Removes keys of one region, answers how many were there."),
    row("discard", 1, FAST, NONE, "transactions", "Drops what was queued since MULTI."),
    row("echo", 2, FAST, NONE, "connection", "Answers what it was given."),
    row(
        "exec",
        1,
        FAST,
        NONE,
        "transactions",
        "Carries out what was queued since MULTI, all of it at one moment or nothing.",
    ),
    row("exists", -2, READ, ALL, "generic", "Counts how many of the keys, of one region, are there."),
    row("get", 2, READ, ONE, "string", "The value of a key."),
    row("getset", 3, WRITE, ONE, "string", "Sets a key, answers what it held before."),
    row("hello", -1, FAST, NONE, "connection", "Chooses the protocol version, 2 or 3."),
    row("incr", 2, WRITE, ONE, "string", "Adds one to a number; an absent key is zero."),
    row("incrby", 3, WRITE, ONE, "string", "Adds to a number; an absent key is zero."),
    row("info", -1, FAST, NONE, "server", "What this store says of itself."),
    row("mget", -2, READ, ALL, "string", "The values of keys of one region."),
    row("mset", -3, WRITE, (1, -1, 2), "string", "Sets keys of one region, all at once."),
    row(
        "multi",
        1,
        FAST,
        NONE,
        "transactions",
        "From here to EXEC or DISCARD, commands on keys of one region are queued.",
    ),
    row("ping", -1, FAST, NONE, "connection", "Answers PONG, or what it was given."),
    row("quit", -1, FAST, NONE, "connection", "Closes the connection."),
    row("scan", -2, READ, NONE, "generic", "Walks through the keys in their order: cursor, MATCH, COUNT."),
    row("select", 2, FAST, NONE, "connection", "There is one database, 0."),
    row(
        "session",
        -3,
        WRITE,
        NONE,
        "generic",
        "OPEN key: a token; DO token sequence acknowledged command ...: a write that takes effect once.",
    ),
    row("set", -3, WRITE, ONE, "string", "Sets a key: NX, XX, IFEQ old, GET."),
    row("setnx", 3, WRITE, ONE, "string", "Sets a key if it is absent, answers 1 or 0."),
    row("strlen", 2, READ, ONE, "string", "The length of a value; zero if the key is absent."),
];

/// The row of a command, whatever the case of its name.
pub(crate) fn find(name: &[u8]) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name.as_bytes().eq_ignore_ascii_case(name))
}

impl Row {
    /// Whether `words` words, the name included, may be a call of it.
    pub(crate) fn takes(&self, words: usize) -> bool {
        let words = i64::try_from(words).unwrap_or(i64::MAX);
        if self.arity < 0 { words >= -self.arity } else { words == self.arity }
    }

    /// What `COMMAND` says of it.
    pub(crate) fn describe(&self) -> Reply {
        let (first, last, step) = self.keys;
        let flags = self.flags.iter().map(|flag| Reply::Simple(flag)).collect();
        let categories = Vec::new();
        Reply::Array(vec![
            Reply::bulk(self.name),
            Reply::Number(self.arity),
            Reply::Array(flags),
            Reply::Number(first),
            Reply::Number(last),
            Reply::Number(step),
            Reply::Array(categories),
        ])
    }

    /// What `COMMAND DOCS` says of it.
    pub(crate) fn document(&self) -> Reply {
        Reply::Map(vec![
            (Reply::bulk("summary"), Reply::bulk(self.summary)),
            (Reply::bulk("since"), Reply::bulk(env!("CARGO_PKG_VERSION"))),
            (Reply::bulk("group"), Reply::bulk(self.group)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ascend_and_are_found_in_any_case() {
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
        assert_eq!(find(b"GeT").map(|row| row.name), Some("get"));
        assert!(find(b"flushall").is_none());
    }
}
