//! What stores say to each other of the support between them. Absolute numbers: a frame holds one or two of these.

use multiraft_raft::Incarnation;

use super::{WireError, WireFault, frame::kind, reader::Reader, varint::put_varint};
use crate::{SupportAnswer, SupportHeartbeat, SupportMessage, SupportRound, SupportRoundAnswer, SupportVerdict};

const SUPPORTED: u8 = 0;
const WITHDRAWN: u8 = 1;
const NOT_NOW: u8 = 2;

pub(super) fn put_support(out: &mut Vec<u8>, message: &SupportMessage) {
    match message {
        SupportMessage::Heartbeat(heartbeat) => {
            out.push(if heartbeat.farewell { kind::SUPPORT_FAREWELL } else { kind::SUPPORT_HEARTBEAT });
            put_varint(out, heartbeat.incarnation.0);
            put_varint(out, heartbeat.number);
            put_varint(out, heartbeat.sequence);
            put_varint(out, heartbeat.heard.0.0);
            put_varint(out, heartbeat.heard.1);
            put_varint(out, u64::from(heartbeat.wish_ms));
        }
        SupportMessage::Answer(answer) => {
            out.push(kind::SUPPORT_ANSWER);
            put_varint(out, answer.asker.0);
            put_varint(out, answer.number);
            put_varint(out, answer.answered);
            put_varint(out, answer.incarnation.0);
            put_varint(out, answer.sequence);
            match answer.verdict {
                SupportVerdict::Supported { duration_ms } => {
                    out.push(SUPPORTED);
                    put_varint(out, u64::from(duration_ms));
                }
                SupportVerdict::Withdrawn => out.push(WITHDRAWN),
                SupportVerdict::NotNow => out.push(NOT_NOW),
            }
        }
        SupportMessage::Round(round) => {
            out.push(kind::SUPPORT_ROUND);
            put_varint(out, round.incarnation.0);
            put_varint(out, round.round);
            put_varint(out, round.number);
        }
        SupportMessage::RoundAnswer(answer) => {
            out.push(kind::SUPPORT_ROUND_ANSWER);
            put_varint(out, answer.asker.0);
            put_varint(out, answer.round);
            put_varint(out, answer.incarnation.0);
            put_varint(out, answer.number.unwrap_or(0));
        }
    }
}

pub(super) fn read_heartbeat(reader: &mut Reader<'_>, farewell: bool) -> Result<SupportMessage, WireError> {
    Ok(SupportMessage::Heartbeat(SupportHeartbeat {
        incarnation: Incarnation(reader.varint()?),
        number: reader.varint()?,
        sequence: reader.varint()?,
        heard: (Incarnation(reader.varint()?), reader.varint()?),
        wish_ms: reader.varint_u32()?,
        farewell,
    }))
}

pub(super) fn read_answer(reader: &mut Reader<'_>) -> Result<SupportMessage, WireError> {
    let asker = Incarnation(reader.varint()?);
    let (number, answered) = (reader.varint()?, reader.varint()?);
    let (incarnation, sequence) = (Incarnation(reader.varint()?), reader.varint()?);
    let verdict = match reader.byte("a verdict")? {
        SUPPORTED => SupportVerdict::Supported { duration_ms: reader.varint_u32()? },
        WITHDRAWN => SupportVerdict::Withdrawn,
        NOT_NOW => SupportVerdict::NotNow,
        value => return reader.fail(WireFault::Unknown { what: "verdict on support", value }),
    };
    Ok(SupportMessage::Answer(SupportAnswer { asker, number, answered, incarnation, sequence, verdict }))
}

pub(super) fn read_round(reader: &mut Reader<'_>) -> Result<SupportMessage, WireError> {
    Ok(SupportMessage::Round(SupportRound {
        incarnation: Incarnation(reader.varint()?),
        round: reader.varint()?,
        number: reader.varint()?,
    }))
}

pub(super) fn read_round_answer(reader: &mut Reader<'_>) -> Result<SupportMessage, WireError> {
    Ok(SupportMessage::RoundAnswer(SupportRoundAnswer {
        asker: Incarnation(reader.varint()?),
        round: reader.varint()?,
        incarnation: Incarnation(reader.varint()?),
        // Epochs are counted from one.
        number: Some(reader.varint()?).filter(|number| *number > 0),
    }))
}
