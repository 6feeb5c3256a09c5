//! `SESSION OPEN` and `SESSION DO`: writes that a client may repeat, through any store, and that take effect once.
//!
//! The client holds the token and numbers its commands; what is promised, and what its numbers mean, is
//! [`Engine::propose_once`]'s to say. A command of a session is one proposal of its own.

use bytes::Bytes;
use multiraft::{Engine, ProposeError, SessionToken};
use tokio::time::{Instant, timeout_at};

use super::command::{Command, Shape, parse, reply_of, syntax_error, wrong_arity};
use super::lanes::{CROSS_REGION, Trouble, of_propose_error};
use super::reply::Reply;
use crate::machine::{Answer, Op, Refusal, decimal, decode_answers, encode_batch};

const UNCERTAIN: &str = "UNCERTAIN the outcome is unknown: send the command again with the same token, number and key";
const NOT_A_WRITE: &str = "ERR only a command that writes keys can be sent in a session: send the others as they are";
const BAD_NUMBERS: &str = "ERR the commands of a session are numbered from 1, and what is acknowledged lies below the number: \
    SESSION DO token sequence acknowledged command [argument ...]";

/// A call of `SESSION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Opens a session in the region that owns a key.
    Open { key: Bytes },
    /// A write, under a number.
    Do { token: SessionToken, sequence: u64, acknowledged: u64, op: Op, shape: Shape },
}

/// Understands the words behind `SESSION`.
pub(crate) fn parse_call(arguments: Vec<Bytes>) -> Result<Call, Reply> {
    let mut words = arguments.into_iter();
    let what = words.next().ok_or_else(|| wrong_arity("session"))?;
    match what.to_ascii_uppercase().as_slice() {
        b"OPEN" => match (words.next(), words.next()) {
            (Some(key), None) => Ok(Call::Open { key }),
            _ => Err(wrong_arity("session|open")),
        },
        b"DO" => {
            let (Some(token), Some(sequence), Some(acknowledged)) = (words.next(), words.next(), words.next()) else {
                return Err(wrong_arity("session|do"));
            };
            let token = std::str::from_utf8(&token).ok().and_then(|text| text.parse().ok());
            let token = token.ok_or_else(|| Reply::error(format!("ERR {}", multiraft::SessionTokenError)))?;
            let (Some(sequence), Some(acknowledged)) = (number(&sequence), number(&acknowledged)) else {
                return Err(Reply::Error(BAD_NUMBERS.into()));
            };
            if acknowledged >= sequence {
                return Err(Reply::Error(BAD_NUMBERS.into()));
            }
            let words: Vec<Bytes> = words.collect();
            if words.is_empty() {
                return Err(wrong_arity("session|do"));
            }
            match parse(words)? {
                Command::Data(op, shape) if op.is_write() => Ok(Call::Do { token, sequence, acknowledged, op, shape }),
                _ => Err(Reply::Error(NOT_A_WRITE.into())),
            }
        }
        _ => Err(syntax_error()),
    }
}

/// A number of a command; those of the protocol end at 2^63 - 1.
fn number(text: &[u8]) -> Option<u64> {
    decimal(text).and_then(|number| u64::try_from(number).ok())
}

/// Carries a call out.
pub(crate) async fn run(engine: &Engine, call: Call, deadline: Instant) -> Reply {
    match call {
        Call::Open { key } => match timeout_at(deadline, engine.open_session(key)).await {
            Ok(Ok(token)) => Reply::bulk(token.to_string()),
            // Nobody knows the name of a session that was opened without an answer.
            Err(_) | Ok(Err(ProposeError::Uncertain)) => {
                Reply::error("TRYAGAIN no answer in time: open another session")
            }
            Ok(Err(error)) => error_reply(error),
        },
        Call::Do { token, sequence, acknowledged, op, shape } => {
            // Whether all keys lie in one region is for that region to say: a repetition, after a split between them, gets the
            // first answer.
            let Some(key) = op.keys().first().map(|key| Bytes::clone(key)) else { return syntax_error() };
            let batch = encode_batch(std::iter::once(&op));
            let proposed = engine.propose_once(&token, sequence, acknowledged, key, batch);
            match timeout_at(deadline, proposed).await {
                Ok(Ok(answers)) => reply(&answers, shape),
                Ok(Err(error)) => error_reply(error),
                Err(_) => Reply::Error(UNCERTAIN.into()),
            }
        }
    }
}

fn reply(answers: &[u8], shape: Shape) -> Reply {
    match decode_answers(answers).ok().and_then(|answers| answers.into_iter().next()) {
        // The region that owned the first key did not own the others. That is this number's answer for ever.
        Some(Answer::Refused(Refusal::WrongRegion)) => Reply::Error(CROSS_REGION.into()),
        Some(answer) => reply_of(answer, shape),
        None => Reply::error("ERR the stores of this cluster run versions that do not understand each other"),
    }
}

fn error_reply(error: ProposeError) -> Reply {
    if let ProposeError::SessionExpired { region } = error {
        return Reply::error(format!(
            "SESSIONEXPIRED region {region} does not know the session, or not any more, or the number was acknowledged: \
             open another one for new commands; whether an earlier attempt took effect, only a read can tell"
        ));
    }
    match of_propose_error(error) {
        Trouble::Again(_, reply) | Trouble::Failed(reply) => reply,
        Trouble::Uncertain => Reply::Error(UNCERTAIN.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Condition;

    const TOKEN: &str = "00000000000000010000000000000002-9";

    fn call(line: &str) -> Result<Call, Reply> {
        parse_call(line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect())
    }

    #[test]
    fn calls_are_understood() {
        let key = Bytes::from_static(b"k");
        assert_eq!(call("open k"), Ok(Call::Open { key: key.clone() }));
        let op = Op::Set { key, value: Bytes::from_static(b"v"), condition: Condition::Absent, previous: false };
        let token = TOKEN.parse().unwrap();
        let wanted = Call::Do { token, sequence: 7, acknowledged: 3, op, shape: Shape::Flag };
        assert_eq!(call(&format!("DO {TOKEN} 7 3 SETNX k v")), Ok(wanted));
    }

    #[test]
    fn what_is_no_write_or_no_number_is_refused() {
        let refused = |line: &str| match call(line) {
            Err(Reply::Error(text)) => text.into_owned(),
            other => panic!("{line}: {other:?}"),
        };
        for command in ["GET k", "MGET k", "PING", "DBSIZE", "MULTI", "SESSION OPEN k"] {
            assert_eq!(refused(&format!("DO {TOKEN} 1 0 {command}")), NOT_A_WRITE, "{command}");
        }
        for numbers in ["0 0", "1 1", "-1 0", "1 -1", "x 0", "01 0", "9223372036854775808 0"] {
            assert_eq!(refused(&format!("DO {TOKEN} {numbers} SET k v")), BAD_NUMBERS, "{numbers}");
        }
        assert!(refused("DO token 1 0 SET k v").starts_with("ERR not a session token: "));
        assert!(refused(&format!("DO {TOKEN} 1 0 NOSUCH k")).starts_with("ERR unknown command 'NOSUCH'"));
        assert_eq!(refused(&format!("DO {TOKEN} 1 0")), "ERR wrong number of arguments for 'session|do' command");
        assert_eq!(refused("OPEN"), "ERR wrong number of arguments for 'session|open' command");
        assert_eq!(refused("CLOSE k"), "ERR syntax error");
    }
}
