//! From the words of a request to what is to be done, or to the error that the caller gets. Knows nothing of regions.

use bytes::Bytes;

use super::reply::Reply;
use super::session;
use super::table;
use crate::machine::{Answer, Condition, Op, Refusal, decimal};

/// The longest key, in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 64 << 10;
/// The most keys that one step of `SCAN` looks at.
pub(crate) const MAX_SCAN_COUNT: u64 = 10_000;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// An operation on one region.
    Data(Op, Shape),
    /// A step through all keys.
    Scan(ScanStep),
    /// The number of all keys.
    DbSize,
    /// What concerns a session that the client holds.
    Session(session::Call),
    /// Commands are queued from here on.
    Multi,
    /// The queued commands are carried out.
    Exec,
    /// The queued commands are dropped.
    Discard,
    /// What the connection answers by itself: the command's name in lower case, and its arguments.
    Local(&'static str, Vec<Bytes>),
}

/// How an answer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As it is: done is OK, not done is nil.
    Plain,
    /// Done is 1, not done is 0.
    Flag,
}

/// One call of `SCAN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScanStep {
    pub(crate) cursor: u64,
    pub(crate) pattern: Option<Bytes>,
    pub(crate) count: u64,
}

pub(crate) const SYNTAX_ERROR: &str = "ERR syntax error";
const NOT_A_NUMBER: &str = "ERR value is not an integer or out of range";

/// Understands the words of a request.
pub(crate) fn parse(mut words: Vec<Bytes>) -> Result<Command, Reply> {
    let Some(name) = words.first() else { return Err(Reply::error("ERR empty command")) };
    let Some(row) = table::find(name) else { return Err(unknown_command(&words)) };
    if !row.takes(words.len()) {
        return Err(wrong_arity(row.name));
    }
    let arguments = words.split_off(1);
    let command = parse_arguments(row.name, arguments)?;
    match &command {
        Command::Data(op, _) => check_key_lengths(op.keys())?,
        Command::Session(session::Call::Open { key }) => check_key_lengths(vec![key])?,
        _ => {}
    }
    Ok(command)
}

fn parse_arguments(name: &'static str, arguments: Vec<Bytes>) -> Result<Command, Reply> {
    let plain = |op| Ok(Command::Data(op, Shape::Plain));
    let set = |arguments: Vec<Bytes>, condition, previous| {
        let [key, value] = exactly(name, arguments)?;
        Ok(Op::Set { key, value, condition, previous })
    };
    match name {
        "get" => plain(Op::Get { key: only(name, arguments)? }),
        "set" => plain(parse_set(arguments)?),
        "getset" => plain(set(arguments, Condition::Always, true)?),
        "setnx" => Ok(Command::Data(set(arguments, Condition::Absent, false)?, Shape::Flag)),
        "del" => plain(Op::Delete { keys: arguments }),
        "exists" => plain(Op::Exists { keys: arguments }),
        "incr" => plain(Op::Add { key: only(name, arguments)?, delta: 1 }),
        "decr" => plain(Op::Add { key: only(name, arguments)?, delta: -1 }),
        "incrby" => {
            let [key, delta] = exactly(name, arguments)?;
            plain(Op::Add { key, delta: number(&delta)? })
        }
        "decrby" => {
            let [key, delta] = exactly(name, arguments)?;
            let delta = number(&delta)?.checked_neg().ok_or_else(|| Reply::error("ERR decrement would overflow"))?;
            plain(Op::Add { key, delta })
        }
        "append" => {
            let [key, suffix] = exactly(name, arguments)?;
            plain(Op::Append { key, suffix })
        }
        "strlen" => plain(Op::Length { key: only(name, arguments)? }),
        "mget" => plain(Op::GetMany { keys: arguments }),
        "mset" => plain(parse_mset(arguments)?),
        "scan" => parse_scan(&arguments).map(Command::Scan),
        "dbsize" => Ok(Command::DbSize),
        "session" => session::parse_call(arguments).map(Command::Session),
        "multi" => Ok(Command::Multi),
        "exec" => Ok(Command::Exec),
        "discard" => Ok(Command::Discard),
        name => Ok(Command::Local(name, arguments)),
    }
}

fn parse_set(arguments: Vec<Bytes>) -> Result<Op, Reply> {
    let mut words = arguments.into_iter();
    let (Some(key), Some(value)) = (words.next(), words.next()) else { return Err(wrong_arity("set")) };
    let mut condition = Condition::Always;
    let mut previous = false;
    while let Some(option) = words.next() {
        let wanted = match option.to_ascii_uppercase().as_slice() {
            b"GET" => {
                previous = true;
                continue;
            }
            b"NX" => Condition::Absent,
            b"XX" => Condition::Present,
            b"IFEQ" => Condition::Equals(words.next().ok_or_else(syntax_error)?),
            b"EX" | b"PX" | b"EXAT" | b"PXAT" | b"KEEPTTL" => {
                let option = option.escape_ascii();
                return Err(Reply::error(format!(
                    "ERR SET option '{option}' is not supported: keys do not expire here"
                )));
            }
            _ => return Err(syntax_error()),
        };
        // Said twice, NX and XX mean no more than once; any other pair contradicts itself.
        let repeated = condition == wanted && !matches!(wanted, Condition::Equals(_));
        if condition != Condition::Always && !repeated {
            return Err(syntax_error());
        }
        condition = wanted;
    }
    Ok(Op::Set { key, value, condition, previous })
}

fn parse_mset(arguments: Vec<Bytes>) -> Result<Op, Reply> {
    let mut pairs = Vec::with_capacity(arguments.len() / 2);
    let mut words = arguments.into_iter();
    while let Some(key) = words.next() {
        pairs.push((key, words.next().ok_or_else(|| wrong_arity("mset"))?));
    }
    Ok(Op::SetMany { pairs })
}

fn parse_scan(arguments: &[Bytes]) -> Result<ScanStep, Reply> {
    let cursor = arguments.first().and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let mut step =
        ScanStep { cursor: cursor.ok_or_else(|| Reply::error("ERR invalid cursor"))?, pattern: None, count: 10 };
    for option in arguments[1..].chunks(2) {
        let [name, value] = option else { return Err(syntax_error()) };
        match name.to_ascii_uppercase().as_slice() {
            b"MATCH" => step.pattern = Some(value.clone()),
            b"COUNT" => {
                let count = u64::try_from(number(value)?).ok().filter(|count| *count > 0);
                step.count = count.ok_or_else(syntax_error)?.min(MAX_SCAN_COUNT);
            }
            b"TYPE" if value.eq_ignore_ascii_case(b"string") => {}
            b"TYPE" => {
                return Err(Reply::error("ERR SCAN option 'TYPE' knows only 'string': all values are strings here"));
            }
            _ => return Err(syntax_error()),
        }
    }
    Ok(step)
}

/// How an answer of the state machine is told to the caller.
pub(crate) fn reply_of(answer: Answer, shape: Shape) -> Reply {
    let value = |value: Option<Bytes>| value.map_or(Reply::Nil, Reply::Bulk);
    match (answer, shape) {
        (Answer::Done, Shape::Plain) => Reply::OK,
        (Answer::NotDone, Shape::Plain) => Reply::Nil,
        (Answer::Done, Shape::Flag) => Reply::Number(1),
        (Answer::NotDone, Shape::Flag) => Reply::Number(0),
        (Answer::Number(number), _) => Reply::Number(number),
        (Answer::Value(found), _) => value(found),
        (Answer::Values(found), _) => Reply::Array(found.into_iter().map(value).collect()),
        (Answer::Refused(refusal), _) => Reply::error(match refusal {
            Refusal::NotANumber => NOT_A_NUMBER,
            Refusal::Overflow => "ERR increment or decrement would overflow",
            Refusal::TooLong => "ERR string exceeds maximum allowed size (8388608 bytes): keep it in several keys",
            Refusal::WrongRegion => "TRYAGAIN the regions are changing: try again",
            Refusal::AnswersTooLong => {
                "ERR the replies of this transaction would have more than 8388608 bytes together; nothing was done: read in \
                 smaller ones"
            }
            Refusal::Malformed => "ERR the stores of this cluster run versions that do not understand each other",
        }),
    }
}

fn check_key_lengths(keys: Vec<&Bytes>) -> Result<(), Reply> {
    match keys.into_iter().map(Bytes::len).max() {
        Some(length) if length > MAX_KEY_BYTES => Err(Reply::error(format!(
            "ERR the key has {length} bytes, the limit is {MAX_KEY_BYTES}: use a shorter key"
        ))),
        _ => Ok(()),
    }
}

fn only(name: &str, arguments: Vec<Bytes>) -> Result<Bytes, Reply> {
    let [argument] = exactly(name, arguments)?;
    Ok(argument)
}

fn exactly<const N: usize>(name: &str, arguments: Vec<Bytes>) -> Result<[Bytes; N], Reply> {
    arguments.try_into().map_err(|_| wrong_arity(name))
}

pub(crate) fn number(text: &[u8]) -> Result<i64, Reply> {
    decimal(text).ok_or(Reply::Error(NOT_A_NUMBER.into()))
}

pub(crate) fn syntax_error() -> Reply {
    Reply::Error(SYNTAX_ERROR.into())
}

pub(crate) fn wrong_arity(name: &str) -> Reply {
    Reply::error(format!("ERR wrong number of arguments for '{name}' command"))
}

fn unknown_command(words: &[Bytes]) -> Reply {
    if [&b"WATCH"[..], b"UNWATCH"].iter().any(|name| words[0].eq_ignore_ascii_case(name)) {
        return Reply::error(
            "ERR WATCH is not offered: let a command itself look at what it changes, as SET key value IFEQ old does",
        );
    }
    let shown = |word: &Bytes| word[..word.len().min(64)].escape_ascii().to_string();
    let mut text = format!("ERR unknown command '{}', with args beginning with: ", shown(&words[0]));
    for word in words[1..].iter().take(4) {
        text.push_str(&format!("'{}' ", shown(word)));
    }
    Reply::error(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Bytes> {
        line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
    }

    fn data(line: &str) -> (Op, Shape) {
        match parse(words(line)) {
            Ok(Command::Data(op, shape)) => (op, shape),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn refused(line: &str) -> String {
        match parse(words(line)) {
            Err(Reply::Error(text)) => text.into_owned(),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn b(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[test]
    fn each_data_command_becomes_its_operation() {
        let set = |condition, previous| Op::Set { key: b("k"), value: b("v"), condition, previous };
        let plain = [
            ("GET k", Op::Get { key: b("k") }),
            ("set k v", set(Condition::Always, false)),
            ("SET k v NX", set(Condition::Absent, false)),
            ("SET k v XX XX", set(Condition::Present, false)),
            ("SET k v get nx", set(Condition::Absent, true)),
            ("SET k v IFEQ old GET", set(Condition::Equals(b("old")), true)),
            ("GETSET k v", set(Condition::Always, true)),
            ("DEL a b", Op::Delete { keys: vec![b("a"), b("b")] }),
            ("EXISTS a a", Op::Exists { keys: vec![b("a"), b("a")] }),
            ("INCR k", Op::Add { key: b("k"), delta: 1 }),
            ("DECR k", Op::Add { key: b("k"), delta: -1 }),
            ("INCRBY k -5", Op::Add { key: b("k"), delta: -5 }),
            ("DECRBY k -5", Op::Add { key: b("k"), delta: 5 }),
            ("APPEND k v", Op::Append { key: b("k"), suffix: b("v") }),
            ("STRLEN k", Op::Length { key: b("k") }),
            ("MGET a b", Op::GetMany { keys: vec![b("a"), b("b")] }),
            ("MSET a 1 b 2", Op::SetMany { pairs: vec![(b("a"), b("1")), (b("b"), b("2"))] }),
        ];
        for (line, op) in plain {
            assert_eq!(data(line), (op, Shape::Plain), "{line}");
        }
        assert_eq!(data("SETNX k v"), (set(Condition::Absent, false), Shape::Flag));
    }

    #[test]
    fn what_cannot_be_understood_is_refused_as_redis_does() {
        let refusals = [
            ("GET", "ERR wrong number of arguments for 'get' command"),
            ("get a b", "ERR wrong number of arguments for 'get' command"),
            ("MSET a 1 b", "ERR wrong number of arguments for 'mset' command"),
            ("SET k v NX XX", SYNTAX_ERROR),
            ("SET k v NX IFEQ x", SYNTAX_ERROR),
            ("SET k v IFEQ x XX", SYNTAX_ERROR),
            ("SET k v IFEQ x IFEQ x", SYNTAX_ERROR),
            ("SET k v IFEQ", SYNTAX_ERROR),
            ("SET k v BLAH", SYNTAX_ERROR),
            ("SET k v EX 10", "ERR SET option 'EX' is not supported: keys do not expire here"),
            ("SET k v keepttl", "ERR SET option 'keepttl' is not supported: keys do not expire here"),
            ("INCRBY k x", NOT_A_NUMBER),
            ("INCRBY k 9223372036854775808", NOT_A_NUMBER),
            ("DECRBY k -9223372036854775808", "ERR decrement would overflow"),
            ("SCAN x", "ERR invalid cursor"),
            ("SCAN -1", "ERR invalid cursor"),
            ("SCAN 0 COUNT 0", SYNTAX_ERROR),
            ("SCAN 0 COUNT x", NOT_A_NUMBER),
            ("SCAN 0 MATCH", SYNTAX_ERROR),
            (
                "WATCH k",
                "ERR WATCH is not offered: let a command itself look at what it changes, as SET key value IFEQ old does",
            ),
            ("EXEC now", "ERR wrong number of arguments for 'exec' command"),
            ("FLUSHALL now", "ERR unknown command 'FLUSHALL', with args beginning with: 'now' "),
        ];
        for (line, text) in refusals {
            assert_eq!(refused(line), text, "{line}");
        }
        let long = format!("GET {}", "k".repeat(MAX_KEY_BYTES + 1));
        assert!(refused(&long).starts_with("ERR the key has 65537 bytes"));
    }

    #[test]
    fn scan_options() {
        let step = ScanStep { cursor: 17, pattern: Some(b("a*")), count: MAX_SCAN_COUNT };
        assert_eq!(parse(words("SCAN 17 MATCH a* COUNT 999999 TYPE string")), Ok(Command::Scan(step)));
    }
}
