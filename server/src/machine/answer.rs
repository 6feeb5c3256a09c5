//! What an operation answers, and how the answers of a batch look as the engine's reply.
//!
//! ```text
//! answers = format (1) | count varint | count x answer
//! answer  = code u8 | fields by code
//! ```
//!
//! Of a batch that is not whole there may be fewer answers than operations: the rest was *not* carried out (see [`super::carry_out::REPLY_BUDGET_BYTES`])
//! and can be sent again. A whole batch that was refused has one answer, the refusal.

use bytes::{BufMut, Bytes, BytesMut};

use super::wire::{Malformed, Reader, Writer};

const FORMAT: u8 = 1;

/// What one operation answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was done.
    Done,
    /// Its condition did not hold; nothing was changed.
    NotDone,
    /// A count or a number.
    Number(i64),
    /// A value, or none.
    Value(Option<Bytes>),
    /// Values, or keys.
    Values(Vec<Option<Bytes>>),
    /// It was refused; nothing was changed.
    Refused(Refusal),
}

/// Why an operation was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Refusal {
    /// The value is not a decimal number of 64 bits.
    NotANumber = 1,
    /// The sum would leave 64 bits.
    Overflow = 2,
    /// The value would grow beyond what a command may carry.
    TooLong = 3,
    /// A key does not belong to the region.
    WrongRegion = 4,
    /// The command was not understood: another version wrote it.
    Malformed = 5,
    /// The answers of a whole batch are too long together; nothing of it was carried out.
    AnswersTooLong = 6,
}

impl Answer {
    /// An upper bound of its encoded size, in bytes.
    pub(crate) fn encoded_len(&self) -> usize {
        match self {
            Self::Value(Some(value)) => value.len() + 12,
            Self::Values(values) => {
                values.iter().map(|value| value.as_ref().map_or(0, Bytes::len) + 12).sum::<usize>() + 12
            }
            _ => 12,
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Done => out.put_u8(0),
            Self::NotDone => out.put_u8(1),
            Self::Number(number) => {
                out.put_u8(2);
                out.signed(*number);
            }
            Self::Value(value) => {
                out.put_u8(3);
                out.optional(value.as_deref());
            }
            Self::Values(values) => {
                out.put_u8(4);
                out.varint(values.len() as u64);
                for value in values {
                    out.optional(value.as_deref());
                }
            }
            Self::Refused(refusal) => {
                out.put_u8(5);
                out.put_u8(*refusal as u8);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match reader.u8()? {
            0 => Self::Done,
            1 => Self::NotDone,
            2 => Self::Number(reader.signed()?),
            3 => Self::Value(reader.optional()?),
            4 => {
                let count = reader.count()?;
                Self::Values((0..count).map(|_| reader.optional()).collect::<Result<_, _>>()?)
            }
            5 => Self::Refused(match reader.u8()? {
                1 => Refusal::NotANumber,
                2 => Refusal::Overflow,
                3 => Refusal::TooLong,
                4 => Refusal::WrongRegion,
                5 => Refusal::Malformed,
                6 => Refusal::AnswersTooLong,
                _ => return Err(reader.malformed()),
            }),
            _ => return Err(reader.malformed()),
        })
    }
}

/// The answers of a batch, in order.
pub(crate) fn encode_answers(answers: &[Answer]) -> Bytes {
    let mut out = BytesMut::with_capacity(16);
    out.put_u8(FORMAT);
    out.varint(answers.len() as u64);
    for answer in answers {
        answer.encode(&mut out);
    }
    out.freeze()
}

/// What [`encode_answers`] wrote.
pub(crate) fn decode_answers(input: &[u8]) -> Result<Vec<Answer>, Malformed> {
    let mut reader = Reader::new(input);
    if reader.u8()? != FORMAT {
        return Err(reader.malformed());
    }
    let count = reader.count()?;
    let answers = (0..count).map(|_| Answer::decode(&mut reader)).collect::<Result<_, _>>()?;
    reader.finish()?;
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_comes_back() {
        let answers = vec![
            Answer::Done,
            Answer::NotDone,
            Answer::Number(-7),
            Answer::Value(None),
            Answer::Value(Some(Bytes::from_static(b""))),
            Answer::Values(vec![None, Some(Bytes::from_static(b"x"))]),
            Answer::Refused(Refusal::NotANumber),
            Answer::Refused(Refusal::Malformed),
            Answer::Refused(Refusal::AnswersTooLong),
        ];
        let encoded = encode_answers(&answers);
        assert_eq!(decode_answers(&encoded), Ok(answers.clone()));
        assert!(encoded.len() <= 12 + answers.iter().map(Answer::encoded_len).sum::<usize>());
        for cut in 0..encoded.len() {
            assert!(decode_answers(&encoded[..cut]).is_err());
        }
    }
}
