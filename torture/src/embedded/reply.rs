//! What clients are answered, in the form of RESP. What a call returns is passed on as it is: only "uncertain" is no refusal.

use multiraft::{ProposeError, ReadError};

use super::machine::{Answer, Done};

/// What a machine has answered, unless it has not done what it was asked for: then the reply.
pub(super) fn of_answer(answer: &[u8]) -> Result<Answer, String> {
    match serde_json::from_slice(answer) {
        Ok(Answer::Outside) => Err("CROSSREGION the keys lie in more than one region".to_owned()),
        Ok(Answer::Nonsense) | Err(_) => Err("ERR the machine does not understand what it was asked".to_owned()),
        Ok(answer) => Ok(answer),
    }
}

/// What an error means to whoever asked: the word in front tells.
pub(super) fn of_write(error: &ProposeError) -> String {
    let word = match error {
        ProposeError::Uncertain => "UNCERTAIN",
        ProposeError::Busy { .. } => "BUSY",
        ProposeError::SessionExpired { .. } => "SESSIONEXPIRED",
        ProposeError::NoSpace { .. } | ProposeError::Stopped { .. } => "ERR",
        ProposeError::NotLeader { .. } | ProposeError::Unrouted => "CLUSTERDOWN",
        ProposeError::EpochMismatch { .. } | ProposeError::UnknownRegion { .. } => "TRYAGAIN",
        _ => "ERR",
    };
    format!("{word} {error}")
}

pub(super) fn of_read(error: &ReadError) -> String {
    let word = match error {
        ReadError::Busy { .. } => "BUSY",
        ReadError::NotLeader { .. } | ReadError::Unrouted => "CLUSTERDOWN",
        ReadError::EpochMismatch { .. } | ReadError::UnknownRegion { .. } => "TRYAGAIN",
        _ => "ERR",
    };
    format!("{word} {error}")
}

pub(super) fn error(text: &str) -> String {
    format!("-{}\r\n", text.replace(['\r', '\n'], " "))
}

pub(super) fn simple(text: &str) -> String {
    format!("+{text}\r\n")
}

pub(super) fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

pub(super) fn array(parts: impl ExactSizeIterator<Item = String>) -> String {
    format!("*{}\r\n{}", parts.len(), parts.collect::<String>())
}

pub(super) fn written(done: &Done) -> String {
    let value = |value: &Option<String>| value.as_deref().map_or_else(|| "$-1\r\n".to_owned(), bulk);
    match done {
        Done::Ok => simple("OK"),
        Done::Nothing => value(&None),
        Done::Value(text) => value(text),
        Done::Values(texts) => array(texts.iter().map(value)),
        Done::Number(number) => format!(":{number}\r\n"),
        Done::NotANumber => error("ERR the value is no whole number of 64 bits, or would be none"),
    }
}

#[cfg(test)]
mod tests {
    use multiraft::{RegionId, StoreId};
    use multiraft_torture::client::{Reply, Told};

    use super::*;

    /// What a run takes an error for.
    fn told(text: String) -> Told {
        Told::of_reply(Reply::Error(text)).unwrap()
    }

    #[test]
    fn only_an_uncertain_write_is_of_unknown_outcome() {
        assert!(matches!(told(of_write(&ProposeError::Uncertain)), Told::Unknown(_)));
        let (region, reason) = (RegionId(7), String::new());
        let no_effect = [
            ProposeError::NotLeader { region, hint: None },
            ProposeError::UnknownRegion { region },
            ProposeError::Unrouted,
            ProposeError::Busy { retry_after: std::time::Duration::ZERO },
            ProposeError::NoSpace { store: StoreId(1) },
            ProposeError::SessionExpired { region },
            ProposeError::Stopped { reason: reason.clone() },
        ];
        for error in no_effect {
            assert!(matches!(told(of_write(&error)), Told::Refused(_)), "{error}");
        }
        let reads = [
            ReadError::NotLeader { region, hint: None },
            ReadError::UnknownRegion { region },
            ReadError::Unrouted,
            ReadError::Busy { retry_after: std::time::Duration::ZERO },
            ReadError::State { reason: reason.clone() },
            ReadError::Stopped { reason },
        ];
        for error in reads {
            assert!(matches!(told(of_read(&error)), Told::Refused(_)), "{error}");
        }
    }

    #[test]
    fn a_number_that_is_none_ends_a_run() {
        let written = written(&Done::NotANumber);
        let text = written.strip_prefix('-').and_then(|text| text.strip_suffix("\r\n")).unwrap();
        assert!(Told::of_reply(Reply::Error(text.to_owned())).is_err(), "{text}");
    }
}
