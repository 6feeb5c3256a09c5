//! Sessions that callers hold themselves: a name that outlives the process which opened the session, and commands that are
//! numbered by whoever repeats them.
//!
//! A [`Session`](crate::Session) numbers its commands and repeats them only as long as it lives. Here the caller keeps the
//! token and the numbers, and may repeat a command of unknown outcome through any store, also after that store or the
//! caller has started anew. Regions do the same for both: see [`crate::region::sessions`] for what they remember.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use multiraft_raft::LogIndex;
use multiraft_transport::{SessionId, SessionSeq};

use crate::engine::Engine;
use crate::error::ProposeError;
use crate::region::sessions::FORGOTTEN;
use crate::session::{PAUSE, fresh_id, opening, read_opening};

/// The name of a session that a caller holds: the session's id, and the index of the log entry that opened it.
///
/// As text 32 hexadecimal digits, a hyphen and a decimal number; what [`FromStr`] takes is what [`Display`](fmt::Display)
/// writes and nothing else. The token is no secret and no proof: whoever has it can use the session. One that names
/// nothing is found out when it is used, with [`ProposeError::SessionExpired`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionToken {
    id: SessionId,
    opened: LogIndex,
}

/// A text that is no session token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a session token: pass on, unchanged, what the opening of the session has answered")]
pub struct SessionTokenError;

impl SessionToken {
    /// The name of the session, unique for ever.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }
}

impl fmt::Display for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{}", self.id.0, self.opened.get())
    }
}

impl FromStr for SessionToken {
    type Err = SessionTokenError;

    fn from_str(text: &str) -> Result<Self, SessionTokenError> {
        let (id, opened) = text.split_once('-').ok_or(SessionTokenError)?;
        let id = u128::from_str_radix(id, 16).map_err(|_| SessionTokenError)?;
        let opened: u64 = opened.parse().map_err(|_| SessionTokenError)?;
        let token = Self { id: SessionId(id), opened: LogIndex(opened) };
        // One spelling only: no sign, no capital, no zero in front, and no session that index zero could have opened.
        if opened == 0 || token.id == FORGOTTEN || token.to_string() != text {
            Err(SessionTokenError)
        } else {
            Ok(token)
        }
    }
}

impl Engine {
    /// Opens a session for [`Engine::propose_once`] in the region that owns `key`.
    ///
    /// The session is known there, and in what this region becomes by splits and merges; for keys of other regions, open
    /// another one. A region remembers the 4,096 sessions that were used last.
    ///
    /// # Errors
    /// [`ProposeError`]. After [`ProposeError::Uncertain`] a session may have been opened that nobody will use, which does no harm:
    /// open another.
    pub async fn open_session(&self, key: impl AsRef<[u8]>) -> Result<SessionToken, ProposeError> {
        let (key, deadline) = (key.as_ref(), self.deadline(None));
        let (id, mut pause) = (fresh_id(), PAUSE);
        loop {
            // Opened twice under one id, it is the same session in one region, and one that nobody names in another.
            let error = match self.propose_routed(key, opening(id), Bytes::new(), deadline).await {
                Ok(reply) => return Ok(SessionToken { id, opened: read_opening(&reply)? }),
                Err(error) => error,
            };
            let again = error == ProposeError::Uncertain || error.may_heal();
            if !again || !self.pause(&mut pause, deadline).await {
                return Err(error);
            }
        }
    }

    /// Has a command carried out at most once, by the region that owns `key`, however often this is called with the same token,
    /// `sequence`, `key` and `command`, and through whichever store; returns the answer that the state machine gave when it
    /// was carried out. All keys that the command touches must belong to that region.
    ///
    /// **Numbers.** `sequence` is the caller's number of the command in the session, from 1. Each number stands for one command
    /// and one `key`, for ever: a second command under a number that was used may be told the first one's answer, or be carried
    /// out in addition, in another region. Numbers may be used in any order and beside each other.
    ///
    /// **What is acknowledged.** `acknowledged` says that the caller has the answers of all numbers up to it, or does not
    /// want them any more, in the session as a whole. Their answers are forgotten when a command with this `acknowledged` is
    /// carried out in the region; from then on none of them is carried out there any more. A lower one that comes late
    /// changes nothing. Every caller of a session may pass zero, as long as it has few commands: of a session a region
    /// keeps 1,024 answers, or 1 MiB of them. Beyond, a new command has no effect and is tried again until the time is up, then
    /// answered with [`ProposeError::Busy`].
    ///
    /// **Repeating.** After [`ProposeError::Uncertain`], or if the caller has stopped and does not know, call again with the same
    /// arguments. It does not matter whether the first attempt comes before or after the second, or whether the key has come
    /// to another region by splits and merges in between: what a region has carried out, it, its parts and what absorbs it know.
    ///
    /// **Other keys.** A region that neither opened the session nor comes from one that did answers
    /// [`ProposeError::SessionExpired`] and carries nothing out. Open another session there for new commands. Never repeat a command
    /// of unknown outcome under another token: that would be a new command.
    ///
    /// # Errors
    /// [`ProposeError`]. Any but [`ProposeError::Uncertain`] means that *this call* had no effect and never will; an earlier one
    /// with the same number may have had. [`ProposeError::SessionExpired`]: the region has forgotten the session, or never knew
    /// it, or the number was acknowledged; if this repeats a call of unknown outcome, nobody can tell that any more: read, and
    /// decide. [`ProposeError::Refused`] at once if `sequence` is zero or `acknowledged` is not below it.
    pub async fn propose_once(
        &self,
        token: &SessionToken,
        sequence: u64,
        acknowledged: u64,
        key: impl AsRef<[u8]>,
        command: impl Into<Bytes>,
    ) -> Result<Bytes, ProposeError> {
        check_numbers(sequence, acknowledged)?;
        let (key, command, deadline) = (key.as_ref(), command.into(), self.deadline(None));
        let seq = SessionSeq { session: token.id, opened: token.opened, sequence, acknowledged };
        let (mut pause, mut is_uncertain) = (PAUSE, false);
        loop {
            let error = match self.propose_routed(key, seq, command.clone(), deadline).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            is_uncertain |= error == ProposeError::Uncertain;
            let again = error == ProposeError::Uncertain || error.may_heal();
            if !again || !self.pause(&mut pause, deadline).await {
                return Err(if is_uncertain { ProposeError::Uncertain } else { error });
            }
        }
    }
}

/// Number zero opens sessions, and a number that is acknowledged while it is asked for is a caller's mistake.
fn check_numbers(sequence: u64, acknowledged: u64) -> Result<(), ProposeError> {
    if acknowledged < sequence {
        return Ok(());
    }
    Err(ProposeError::Refused {
        reason: format!(
            "a session's commands are numbered from 1, and what is acknowledged lies below the number of the command: \
             sequence {sequence}, acknowledged {acknowledged}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_no_other_spelling_of_it() {
        let token = SessionToken { id: SessionId(0xabc << 64 | 7), opened: LogIndex(105) };
        let text = token.to_string();
        assert_eq!(text, "0000000000000abc0000000000000007-105");
        assert_eq!(text.parse(), Ok(token));
        let digits = &text[..32];
        let refused = [
            "".to_owned(),
            digits.to_owned(),
            format!("{digits}-"),
            format!("{digits}-0"),
            format!("{digits}-0105"),
            format!("{digits}-+105"),
            format!("{digits}-105 "),
            format!("{digits}-105-1"),
            format!("{digits}-18446744073709551616"),
            format!("{}-105", digits.to_uppercase()),
            format!("+{}-105", &digits[1..]),
            format!("0{digits}-105"),
            format!("{}-105", &digits[1..]),
            format!("{}-105", "f".repeat(32)),
        ];
        for text in refused {
            assert_eq!(text.parse::<SessionToken>(), Err(SessionTokenError), "{text}");
        }
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        for (sequence, acknowledged) in [(0, 0), (1, 1), (5, 9), (u64::MAX, u64::MAX)] {
            assert!(matches!(check_numbers(sequence, acknowledged), Err(ProposeError::Refused { .. })));
        }
        assert_eq!(check_numbers(1, 0), Ok(()));
        assert_eq!(check_numbers(u64::MAX, u64::MAX - 1), Ok(()));
    }
}
