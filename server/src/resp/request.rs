//! From bytes to requests: where one request ends, within limits, before the codec takes it apart.
//!
//! The codec decodes complete frames. This scanner finds their ends as bytes come in, looks at each byte once, and bounds
//! what a connection may make the server hold: a request beyond the limit is passed over without being kept and then told
//! as [`Request::TooLarge`], so that the connection goes on. What is no request at all is a [`ProtocolError`], after which
//! nothing on the connection makes sense any more.

use bytes::{Buf, Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes_mut;
use redis_protocol::resp2::types::BytesFrame;

/// The most arguments that a request may have.
const MAX_ARGUMENTS: usize = 1 << 20;
/// The longest argument that is passed over rather than treated as nonsense.
const MAX_BULK_BYTES: usize = 512 << 20;
/// The longest line: of an inline request, or of a length.
const MAX_LINE_BYTES: usize = 64 << 10;
/// What an argument costs beside its bytes, when a request is measured.
const ARGUMENT_OVERHEAD: usize = 16;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// A command and its arguments; at least one.
    Command(Vec<Bytes>),
    /// A request of this many bytes, which was passed over.
    TooLarge(usize),
}

/// The peer does not speak the protocol. The text follows Redis'.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Protocol error: {0}")]
pub(crate) struct ProtocolError(pub(crate) String);

/// Takes requests out of a connection's bytes.
pub(crate) struct Requests {
    limit: usize,
    state: State,
}

/// Where in a request the scan stands.
enum State {
    /// Before the first byte of a request.
    Start,
    /// Within an array of `missing` more arguments; everything before `at` was looked at and is well-formed.
    Array { missing: usize, at: usize, size: usize },
    /// Within a request beyond the limit: `missing` more arguments, after `skip` more bytes.
    TooLarge { missing: usize, skip: usize, size: usize },
}

impl Requests {
    /// Requests of at most `limit` bytes of arguments.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, state: State::Start }
    }

    /// Takes the next complete request out of `input`; `None` if more bytes are needed.
    pub(crate) fn poll(&mut self, input: &mut BytesMut) -> Result<Option<Request>, ProtocolError> {
        loop {
            let found = match self.state {
                State::Start => match input.first() {
                    None => return Ok(None),
                    Some(b'*') => self.poll_header(input)?,
                    Some(_) => self.poll_inline(input)?,
                },
                State::Array { missing, at, size } => self.poll_argument(input, missing, at, size)?,
                State::TooLarge { missing, skip, size } => self.poll_too_large(input, missing, skip, size)?,
            };
            match found {
                Step::More => return Ok(None),
                Step::Again => {}
                Step::Found(request) => {
                    self.state = State::Start;
                    return Ok(Some(request));
                }
            }
        }
    }

    fn poll_header(&mut self, input: &mut BytesMut) -> Result<Step, ProtocolError> {
        let Some((count, end)) = number_line(input, 0, "invalid multibulk length")? else { return Ok(Step::More) };
        if count <= 0 {
            input.advance(end);
            return Ok(Step::Again);
        }
        let missing = usize::try_from(count).unwrap_or(usize::MAX);
        if missing > MAX_ARGUMENTS {
            return Err(ProtocolError("invalid multibulk length".to_owned()));
        }
        self.state = State::Array { missing, at: end, size: 0 };
        Ok(Step::Again)
    }

    fn poll_argument(
        &mut self,
        input: &mut BytesMut,
        missing: usize,
        at: usize,
        size: usize,
    ) -> Result<Step, ProtocolError> {
        if missing == 0 {
            return take_frame(input, at).map(Step::Found);
        }
        let Some((length, payload)) = bulk_header(input, at)? else { return Ok(Step::More) };
        let size = size + length + ARGUMENT_OVERHEAD;
        if size > self.limit {
            input.advance(payload);
            self.state = State::TooLarge { missing: missing - 1, skip: length + 2, size };
            return Ok(Step::Again);
        }
        let end = payload + length;
        match input.get(end..end + 2) {
            None => return Ok(Step::More),
            Some(b"\r\n") => self.state = State::Array { missing: missing - 1, at: end + 2, size },
            Some(_) => return Err(ProtocolError("expected CRLF after an argument".to_owned())),
        }
        Ok(Step::Again)
    }

    fn poll_too_large(
        &mut self,
        input: &mut BytesMut,
        missing: usize,
        skip: usize,
        size: usize,
    ) -> Result<Step, ProtocolError> {
        let passed = skip.min(input.len());
        input.advance(passed);
        if passed < skip {
            self.state = State::TooLarge { missing, skip: skip - passed, size };
            return Ok(Step::More);
        }
        if missing == 0 {
            return Ok(Step::Found(Request::TooLarge(size)));
        }
        self.state = State::TooLarge { missing, skip: 0, size };
        let Some((length, payload)) = bulk_header(input, 0)? else { return Ok(Step::More) };
        input.advance(payload);
        let size = size.saturating_add(length + ARGUMENT_OVERHEAD);
        self.state = State::TooLarge { missing: missing - 1, skip: length + 2, size };
        Ok(Step::Again)
    }

    fn poll_inline(&mut self, input: &mut BytesMut) -> Result<Step, ProtocolError> {
        let Some(end) = input.iter().take(MAX_LINE_BYTES).position(|byte| *byte == b'\n') else {
            if input.len() >= MAX_LINE_BYTES {
                return Err(ProtocolError("too big inline request".to_owned()));
            }
            return Ok(Step::More);
        };
        let line = input.split_to(end + 1);
        let words = split_words(&line).ok_or_else(|| ProtocolError("unbalanced quotes in request".to_owned()))?;
        if words.is_empty() { Ok(Step::Again) } else { Ok(Step::Found(Request::Command(words))) }
    }
}

enum Step {
    More,
    Again,
    Found(Request),
}

/// The length of the argument whose header starts at `at`, and where its bytes start.
fn bulk_header(input: &[u8], at: usize) -> Result<Option<(usize, usize)>, ProtocolError> {
    match input.get(at) {
        None => return Ok(None),
        Some(b'$') => {}
        Some(other) => return Err(ProtocolError(format!("expected '$', got '{}'", other.escape_ascii()))),
    }
    let Some((length, end)) = number_line(input, at, "invalid bulk length")? else { return Ok(None) };
    match usize::try_from(length) {
        Ok(length) if length <= MAX_BULK_BYTES => Ok(Some((length, end))),
        _ => Err(ProtocolError("invalid bulk length".to_owned())),
    }
}

/// The number in the line at `at`, behind its first byte, and where the next line starts.
fn number_line(input: &[u8], at: usize, refusal: &str) -> Result<Option<(i64, usize)>, ProtocolError> {
    /// A sign, the digits of the largest number, and the line's end.
    const LONGEST: usize = 24;
    let line = &input[(at + 1).min(input.len())..];
    let Some(length) = line.iter().take(LONGEST).position(|byte| *byte == b'\n') else {
        if line.len() >= LONGEST {
            return Err(ProtocolError(refusal.to_owned()));
        }
        return Ok(None);
    };
    let number = line[..length].strip_suffix(b"\r").and_then(crate::machine::decimal);
    match number {
        Some(number) => Ok(Some((number, at + 1 + length + 1))),
        None => Err(ProtocolError(refusal.to_owned())),
    }
}

/// Has the codec take apart the complete frame of `length` bytes in front of `input`.
fn take_frame(input: &mut BytesMut, length: usize) -> Result<Request, ProtocolError> {
    let mut frame = input.split_to(length);
    let refused = || ProtocolError("malformed request".to_owned());
    let decoded = decode_bytes_mut(&mut frame).map_err(|error| ProtocolError(error.to_string()))?;
    let Some((BytesFrame::Array(arguments), _, _)) = decoded else { return Err(refused()) };
    let arguments = arguments
        .into_iter()
        .map(|argument| match argument {
            BytesFrame::BulkString(bytes) => Ok(bytes),
            _ => Err(refused()),
        })
        .collect::<Result<_, _>>()?;
    Ok(Request::Command(arguments))
}

/// The words of an inline request: parted by blanks, in quotes if they hold some. `None` if a quote stays open.
fn split_words(line: &[u8]) -> Option<Vec<Bytes>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let blanks = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        rest = &rest[blanks..];
        match rest.first() {
            None => return Some(words),
            Some(quote @ (b'"' | b'\'')) => {
                let (word, after) = quoted(&rest[1..], *quote)?;
                if after.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                    return None;
                }
                words.push(word);
                rest = after;
            }
            Some(_) => {
                let length = rest.iter().take_while(|byte| !byte.is_ascii_whitespace()).count();
                words.push(Bytes::copy_from_slice(&rest[..length]));
                rest = &rest[length..];
            }
        }
    }
}

/// The quoted word in front of `input` and what follows its closing quote.
fn quoted(input: &[u8], quote: u8) -> Option<(Bytes, &[u8])> {
    let mut word = Vec::new();
    let mut at = 0;
    loop {
        let byte = *input.get(at)?;
        at += 1;
        if byte == quote {
            return Some((Bytes::from(word), &input[at..]));
        }
        if byte != b'\\' {
            word.push(byte);
            continue;
        }
        let escaped = *input.get(at)?;
        at += 1;
        if quote == b'\'' && escaped != b'\'' {
            word.push(b'\\');
        }
        word.push(match (quote, escaped) {
            (b'\'', other) => other,
            (_, b'n') => b'\n',
            (_, b'r') => b'\r',
            (_, b't') => b'\t',
            (_, b'b') => 8,
            (_, b'a') => 7,
            (_, b'x') => match input.get(at..at + 2).and_then(hex_byte) {
                Some(byte) => {
                    at += 2;
                    byte
                }
                None => b'x',
            },
            (_, other) => other,
        });
    }
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    match digits {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(words: &[&str]) -> Request {
        Request::Command(words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect())
    }

    /// Everything that `input` holds, given `step` bytes at a time.
    fn all(input: &[u8], step: usize, limit: usize) -> Result<Vec<Request>, ProtocolError> {
        let mut requests = Requests::new(limit);
        let mut buffer = BytesMut::new();
        let mut found = Vec::new();
        for chunk in input.chunks(step) {
            buffer.extend_from_slice(chunk);
            while let Some(request) = requests.poll(&mut buffer)? {
                found.push(request);
            }
        }
        Ok(found)
    }

    #[test]
    fn pipelined_requests_come_out_in_order_however_they_are_cut() {
        let input =
            b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*0\r\n*-1\r\n\r\nPING\r\n*1\r\n$0\r\n\r\nSET k 'a b' \"\\x41\\n\"\r\n";
        let expected =
            vec![command(&["GET", "k"]), command(&["PING"]), command(&[""]), command(&["SET", "k", "a b", "A\n"])];
        for step in 1..=input.len() {
            assert_eq!(all(input, step, 1 << 20).as_ref(), Ok(&expected), "cut every {step} bytes");
        }
    }

    #[test]
    fn a_request_over_the_limit_is_passed_over_and_the_next_is_served() {
        let input = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\n0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\r\n*1\r\n$4\r\nPING\r\n";
        for step in [1, 7, input.len()] {
            assert_eq!(all(input, step, 100), Ok(vec![Request::TooLarge(152), command(&["PING"])]));
        }
    }

    #[test]
    fn nonsense_is_a_protocol_error() {
        let refusals: [(&[u8], &str); 9] = [
            (b"*x\r\n", "invalid multibulk length"),
            (b"*1048577\r\n", "invalid multibulk length"),
            (b"*99999999999999999999999999", "invalid multibulk length"),
            (b"*1\r\n:1\r\n", "expected '$', got ':'"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$999999999999\r\n", "invalid bulk length"),
            (b"*1\r\n$1\r\nabc\r\n", "expected CRLF after an argument"),
            (b"GET 'k\r\n", "unbalanced quotes in request"),
            (b"*1\n", "invalid multibulk length"),
        ];
        for (input, text) in refusals {
            assert_eq!(all(input, 3, 1 << 20), Err(ProtocolError(text.to_owned())), "{}", input.escape_ascii());
        }
        let endless = vec![b'a'; MAX_LINE_BYTES + 1];
        assert_eq!(all(&endless, 4096, 1 << 20), Err(ProtocolError("too big inline request".to_owned())));
    }

    #[test]
    fn nested_arrays_are_refused_before_they_are_decoded() {
        let nested = b"*1\r\n".repeat(1 << 16);
        assert_eq!(all(&nested, 4096, 1 << 20), Err(ProtocolError("expected '$', got '*'".to_owned())));
    }

    /// Pieces of requests, so that random inputs get past the first byte.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        const KNOWN: [&[u8]; 12] = [
            b"*2\r\n",
            b"*1\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"$3\r\nGET\r\n",
            b"$0\r\n\r\n",
            b"$1\r\nk\r\n",
            b"$70\r\n",
            b"$-1\r\n",
            b"PING\r\n",
            b"\"a\\x4",
            b"\n",
        ];
        let piece = prop_oneof![
            4 => proptest::sample::select(&KNOWN[..]).prop_map(<[u8]>::to_vec),
            1 => proptest::collection::vec(any::<u8>(), 0..80),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_mean_the_same_however_they_are_cut(input in pieces(), step in 1_usize..40) {
            prop_assert_eq!(all(&input, step, 64), all(&input, input.len().max(1), 64));
        }
    }
}
