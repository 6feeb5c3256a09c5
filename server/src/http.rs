//! As much HTTP/1.1 as the admin and metrics endpoints need: one request a connection, small, in time.
//!
//! Not for the open network: there is no TLS and nobody is asked who they are, which is why these endpoints listen on
//! loopback. A request from a web page (one with an `Origin`) is refused, so that no page can reach them through a browser.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_BODY_BYTES: usize = 16 << 20;
/// The most bytes of an answer that [`exchange`] takes.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// How long reading a request, or writing its response, may take.
const IO_TIMEOUT: Duration = Duration::from_secs(10);
/// How many requests are served at once.
const MAX_CONNECTIONS: usize = 64;
/// How long to wait after an accept failed, for want of file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query, as sent.
    pub(crate) target: String,
    pub(crate) body: Bytes,
}

impl Request {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// A response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
}

impl Response {
    pub(crate) fn json(status: u16, value: &impl serde::Serialize) -> Self {
        let body = serde_json::to_vec(value).expect("invariant: what is told here has only string keys");
        Self { status, content_type: "application/json", body: body.into() }
    }

    pub(crate) fn text(status: u16, text: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; version=0.0.4; charset=utf-8", body: Bytes::from(text.into()) }
    }

    fn reason(&self) -> &'static str {
        match self.status {
            200 => "OK",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            _ => "Service Unavailable",
        }
    }
}

/// Serves requests until it is dropped.
pub(crate) async fn serve<H, F>(listener: TcpListener, handler: H)
where
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("invariant: the semaphore is never closed");
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            if let Err(error) = serve_one(socket, handler).await {
                tracing::debug!(%error, "an HTTP connection ended early");
            }
            drop(permit);
        });
    }
}

async fn serve_one<H, F>(mut socket: TcpStream, handler: H) -> io::Result<()>
where
    H: Fn(Request) -> F,
    F: Future<Output = Response>,
{
    let response = match timeout(IO_TIMEOUT, read_request(&mut socket)).await? {
        Ok(request) => handler(request).await,
        Err(refusal) => refusal,
    };
    let head = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        response.status,
        response.reason(),
        response.content_type,
        response.body.len()
    );
    let write = async {
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(&response.body).await?;
        socket.shutdown().await
    };
    timeout(IO_TIMEOUT, write).await?
}

async fn read_request(socket: &mut (impl AsyncRead + Unpin)) -> Result<Request, Response> {
    let refused = |text: &str| Response::text(400, format!("{text}\n"));
    let broken = |_| refused("the connection broke");
    let mut input = BytesMut::new();
    let head_len = loop {
        if let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if input.len() > MAX_HEAD_BYTES {
            return Err(refused("the header is too long"));
        }
        if socket.read_buf(&mut input).await.map_err(broken)? == 0 {
            return Err(refused("the request ends early"));
        }
    };
    let head = input.split_to(head_len);
    let (method, target, body_len) = parse_head(&head)?;
    while input.len() < body_len {
        if socket.read_buf(&mut input).await.map_err(broken)? == 0 {
            return Err(refused("the request ends early"));
        }
    }
    input.truncate(body_len);
    Ok(Request { method, target, body: input.freeze() })
}

fn parse_head(head: &[u8]) -> Result<(String, String, usize), Response> {
    let refused = |text: &str| Response::text(400, format!("{text}\n"));
    let text = std::str::from_utf8(head).map_err(|_| refused("the header is not text"))?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0")) = (words.next(), words.next(), words.next()) else {
        return Err(refused("this is no HTTP/1.1 request"));
    };
    let mut body_len = 0;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("origin") {
            return Err(Response::text(403, "web pages are not served here\n"));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(refused("send the body with a content-length"));
        }
        if name.eq_ignore_ascii_case("content-length") {
            body_len = value.trim().parse().map_err(|_| refused("the content-length is no number"))?;
        }
    }
    if body_len > MAX_BODY_BYTES {
        return Err(refused("the body is too long"));
    }
    Ok((method.to_owned(), target.to_owned(), body_len))
}

/// Asks an endpoint of this kind; the body of a response with status 200.
pub(crate) async fn ask(address: SocketAddr, method: &str, target: &str, body: &[u8]) -> io::Result<Bytes> {
    match exchange(address, method, target, body, IO_TIMEOUT * 3).await? {
        (200, answer) => Ok(answer),
        (status, answer) => Err(io::Error::other(format!("{target}: {status}: {}", answer.escape_ascii()))),
    }
}

/// Asks an endpoint of this kind; status and body of its response.
pub(crate) async fn exchange(
    address: SocketAddr,
    method: &str,
    target: &str,
    body: &[u8],
    patience: Duration,
) -> io::Result<(u16, Bytes)> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        let head = format!("{method} {target} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n", body.len());
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(body).await?;
        read_answer(&mut socket).await
    };
    let answer = timeout(patience, exchange).await??;
    parse_answer(&answer).ok_or_else(no_http)
}

/// Everything up to the end of the connection, unless it does not begin as an answer does.
async fn read_answer(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    const BEGIN: &[u8] = b"HTTP/1.1 ";
    let mut answer = BytesMut::new();
    while socket.read_buf(&mut answer).await? > 0 {
        let common = answer.len().min(BEGIN.len());
        if answer[..common] != BEGIN[..common] {
            return Err(no_http());
        }
        if answer.len() > MAX_ANSWER_BYTES {
            return Err(io::Error::other("the answer is too long"));
        }
    }
    Ok(answer.freeze())
}

fn no_http() -> io::Error {
    io::Error::other("what answered there speaks no HTTP, or broke off")
}

fn parse_answer(answer: &Bytes) -> Option<(u16, Bytes)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length =
        lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let body = answer.slice(end + 4..);
    match length {
        Some((_, length)) => (length.trim().parse() == Ok(body.len())).then_some((status, body)),
        None => Some((status, body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(input: &[u8]) -> Result<Request, Response> {
        read_request(&mut &*input).await
    }

    #[tokio::test]
    async fn a_request_is_taken_apart() {
        let request = read(b"POST /x?a=1&b=2 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcdef").await.unwrap();
        assert_eq!((request.method.as_str(), request.path()), ("POST", "/x"));
        assert_eq!((request.parameter("b"), request.parameter("c")), (Some("2"), None));
        assert_eq!(request.body, "abc");
    }

    #[tokio::test]
    async fn what_is_no_small_plain_request_is_refused() {
        let endless = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &[b'y'; MAX_HEAD_BYTES]].concat();
        let cases: [(&[u8], u16); 7] = [
            (b"GET /\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n", 400),
            (b"\xff\xff / HTTP/1.1\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\norigin: http://example.org\r\n\r\n", 403),
            (&endless, 400),
        ];
        for (input, status) in cases {
            assert_eq!(read(input).await.unwrap_err().status, status);
        }
    }

    #[tokio::test]
    async fn a_question_is_answered_over_a_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let echo = |request: Request| async move {
            if request.path() == "/echo" { Response::text(200, "found") } else { Response::text(404, "nothing") }
        };
        let server = tokio::spawn(serve(listener, echo));
        assert_eq!(ask(address, "GET", "/echo", b"").await.unwrap(), "found");
        assert!(ask(address, "GET", "/other", b"").await.is_err());
        let (status, text) = exchange(address, "GET", "/other", b"", IO_TIMEOUT).await.unwrap();
        assert_eq!((status, text), (404, Bytes::from_static(b"nothing")));
        server.abort();
    }

    #[test]
    fn an_answer_that_breaks_off_is_none() {
        let whole = Bytes::from_static(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
        assert_eq!(parse_answer(&whole), Some((200, Bytes::from_static(b"hello"))));
        for len in 0..whole.len() {
            assert_eq!(parse_answer(&whole.slice(..len)), None, "{len}");
        }
        assert_eq!(parse_answer(&Bytes::from_static(b"SSH-2.0-x\r\n\r\n")), None);
    }
}
