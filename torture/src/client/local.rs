//! Reads of bounded age, which a store answers from what its own replica has applied: `POST /local` of its admin endpoint.
//!
//! One exchange a connection, of HTTP/1.1 as far as that needs it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::resp::{Reply, Timed};
use super::told::Told;
use crate::trouble::{Outcome, Trouble};

/// The longest response that is taken, in bytes.
const RESPONSE_BYTES_MAX: u64 = 1 << 20;

#[derive(Deserialize)]
struct Values {
    values: Vec<Option<String>>,
}

/// Connects to an admin endpoint for one exchange.
///
/// # Errors
/// Nobody takes the connection in time. Nothing was asked.
pub fn connect(address: SocketAddr, timeout: Duration) -> Result<TcpStream, String> {
    let timeout = timeout.max(Duration::from_millis(1));
    let open = || {
        let socket = TcpStream::connect_timeout(&address, timeout)?;
        socket.set_write_timeout(Some(timeout))?;
        Ok(socket)
    };
    open().map_err(|error: std::io::Error| format!("{address} takes no connection: {error}"))
}

/// What the store holds under a key, or held no longer than `staleness_ms` ago: answered is a [`Reply::Value`].
///
/// # Errors
/// The response is none that may come.
pub fn read(socket: TcpStream, timeout: Duration, key: &str, staleness_ms: u64) -> Outcome<Told> {
    let key: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
    let body = serde_json::json!({ "keys": [key], "staleness_ms": staleness_ms }).to_string();
    let request = format!("POST /local HTTP/1.1\r\nhost: store\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut response = Vec::new();
    let exchange = || {
        let mut socket = socket;
        socket.write_all(request.as_bytes())?;
        let mut source = Timed { socket, deadline: Instant::now() + timeout }.take(RESPONSE_BYTES_MAX);
        source.read_to_end(&mut response).map(|_| ())
    };
    if let Err(error) = exchange() {
        return Ok(Told::Unknown(format!("no answer: {error}")));
    }
    understand(&response)
}

fn understand(response: &[u8]) -> Outcome<Told> {
    let trouble = |what: &str| {
        let shown = response[..response.len().min(200)].escape_ascii();
        Trouble::new(format!("POST /local: {what}: `{shown}`"))
    };
    if response.is_empty() {
        return Ok(Told::Unknown("no answer: the connection has ended".to_owned()));
    }
    if !(response.starts_with(b"HTTP/1.1 ") || b"HTTP/1.1 ".starts_with(response)) {
        return Err(trouble("this is no HTTP"));
    }
    let torn = || Told::Unknown("no answer: the connection has ended within it".to_owned());
    let Some(head_length) = response.windows(4).position(|end| end == b"\r\n\r\n") else { return Ok(torn()) };
    let (head, body) = (&response[..head_length], &response[head_length + 4..]);
    let head = std::str::from_utf8(head).map_err(|_| trouble("its head is no text"))?;
    let named = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    };
    let length = head.lines().skip(1).find_map(named).ok_or_else(|| trouble("it has no length"))?;
    let Some(body) = body.get(..length) else { return Ok(torn()) };
    match head.split(' ').nth(1) {
        Some("200") => {}
        // The store cannot tell.
        Some("503") => return Ok(Told::Refused(String::from_utf8_lossy(body).trim_end().to_owned())),
        _ => return Err(trouble("such an answer no request here may cause")),
    }
    let told: Values = serde_json::from_slice(body).map_err(|error| trouble(&error.to_string()))?;
    match told.values.as_slice() {
        [None] => Ok(Told::Answered(Reply::Value(None))),
        [Some(text)] => match unhex(text) {
            Some(bytes) => Ok(Told::Answered(Reply::Value(Some(bytes)))),
            None => Err(trouble("its value is not in hexadecimal digits")),
        },
        _ => Err(trouble("one value was asked for")),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[test]
    fn values_refusals_and_torn_responses_are_told_apart() {
        let value = |bytes: Option<&[u8]>| Ok(Told::Answered(Reply::Value(bytes.map(<[u8]>::to_vec))));
        let whole = response("200 OK", r#"{"values":["3132"]}"#);
        assert_eq!(understand(&whole), value(Some(b"12")));
        assert_eq!(understand(&response("200 OK", r#"{"values":[null]}"#)), value(None));
        let refused = response("503 Service Unavailable", "no leader confirmed the read in time\n");
        assert_eq!(understand(&refused), Ok(Told::Refused("no leader confirmed the read in time".to_owned())));
        for length in 0..whole.len() {
            assert!(matches!(understand(&whole[..length]), Ok(Told::Unknown(_))), "{length}");
        }
    }

    #[test]
    fn what_no_store_says_is_trouble() {
        let bodies = ["", "{}", r#"{"values":[]}"#, r#"{"values":["3"]}"#, r#"{"values":["zz"]}"#, r#"{"values":[1]}"#];
        for body in bodies {
            assert!(understand(&response("200 OK", body)).is_err(), "{body}");
        }
        assert!(understand(&response("404 Not Found", "there is no such thing")).is_err());
        assert!(understand(b"+OK\r\n").is_err());
        assert!(understand(b"HTTP/1.1 200 OK\r\n\r\n{}").is_err());
        assert!(understand(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n{}").is_err());
    }
}
