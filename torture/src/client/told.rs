//! What an answer means for whoever asked: it took effect, it did not, or nobody knows.
//!
//! A refusal is taken at its word: it is recorded as "no effect, ever", and the judge holds the store to it.

use super::resp::{Broken, Reply};
use crate::trouble::{Outcome, Trouble};

/// How an error begins after which the command may or may not have taken effect.
const UNKNOWN: &str = "UNCERTAIN ";

/// How errors begin that a store may give while stores die, disks fill and regions change. None of them means an effect.
const REFUSALS: &[&str] = &[
    "CLUSTERDOWN ",
    "TRYAGAIN ",
    "BUSY ",
    "CROSSREGION ",
    "CROSSSLOT ",
    "EXECABORT ",
    SESSION_EXPIRED,
    "ERR this store has stopped: ",
    "ERR the state store failed: ",
    "ERR refused: the state store failed: ",
    "ERR the disk of store ",
    // Of SCAN: the store has begun anew, or has given out too many others since.
    "ERR unknown cursor ",
];

/// How the error begins that ends a session.
pub const SESSION_EXPIRED: &str = "SESSIONEXPIRED ";

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was carried out, and this is the reply, no error.
    Answered(Reply),
    /// It had no effect and never will, for this reason.
    Refused(String),
    /// It may have had an effect, or may yet.
    Unknown(String),
}

impl Told {
    /// What a reply means.
    ///
    /// # Errors
    /// An error that no store gives to a request of this harness.
    pub fn of_reply(reply: Reply) -> Outcome<Self> {
        match reply {
            Reply::Error(text) if text.starts_with(UNKNOWN) => Ok(Self::Unknown(text)),
            Reply::Error(text) if REFUSALS.iter().any(|known| text.starts_with(known)) => Ok(Self::Refused(text)),
            Reply::Error(text) => Err(Trouble::new(format!("a store says `{text}`, which no request here may cause"))),
            reply => Ok(Self::Answered(reply)),
        }
    }

    /// What it means that none came although the request was sent.
    ///
    /// # Errors
    /// What came makes no sense.
    pub fn of_broken(broken: Broken) -> Outcome<Self> {
        match broken {
            Broken::Lost(_) => Ok(Self::Unknown(broken.to_string())),
            Broken::Nonsense(_) => Err(Trouble::new(broken.to_string())),
        }
    }

    /// What an exchange means.
    ///
    /// # Errors
    /// As the other two.
    pub fn of(exchange: Result<Reply, Broken>) -> Outcome<Self> {
        exchange.map_or_else(Self::of_broken, Self::of_reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_a_store_is_known_for_what_it_means() {
        let error = |text: &str| Told::of_reply(Reply::Error(text.to_owned()));
        for text in [
            "CLUSTERDOWN no leader of region 3 was reached in time: try again",
            "TRYAGAIN the regions are changing: try again",
            "BUSY too much to do: try again in 5ms",
            "CROSSSLOT the keys of this command lie in more than one region: send a command for each of them",
            "CROSSREGION the keys lie in more than one region",
            "SESSIONEXPIRED open another",
            "EXECABORT discarded",
            "ERR this store has stopped: it was told to",
            "ERR the disk of store 2 is full: free some space there, it goes on by itself",
            "ERR refused: the state store failed: input/output error",
            "ERR unknown cursor 17: it is too old, or another store gave it out; begin again with SCAN 0",
        ] {
            assert_eq!(error(text), Ok(Told::Refused(text.to_owned())));
        }
        let uncertain = "UNCERTAIN the outcome is unknown: the command may have taken effect";
        assert_eq!(error(uncertain), Ok(Told::Unknown(uncertain.to_owned())));
        for text in ["ERR syntax error", "WRONGTYPE no", "", "TRYAGAIN", "UNCERTAIN", "ERR unknown command 'MULTI'"] {
            assert!(error(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_open_and_nonsense_ends_the_run() {
        assert!(matches!(Told::of(Err(Broken::Lost("it ended".to_owned()))), Ok(Told::Unknown(_))));
        assert!(Told::of(Err(Broken::Nonsense("HTTP".to_owned()))).is_err());
        assert_eq!(Told::of(Ok(Reply::Value(None))), Ok(Told::Answered(Reply::Value(None))));
    }
}
