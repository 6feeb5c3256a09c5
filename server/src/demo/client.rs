//! A Redis client as small as the demo needs: one connection, one command at a time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes_mut;
use redis_protocol::resp2::encode::extend_encode;
use redis_protocol::resp2::types::BytesFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Beyond the server's own time-out: then it is gone.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection to a store.
pub(crate) struct Client {
    socket: TcpStream,
    input: BytesMut,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is there, on a majority of disks.
    Acknowledged,
    /// It had no effect; the text says why.
    Refused(String),
    /// It may have had an effect.
    Uncertain,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = timeout(REPLY_TIMEOUT, TcpStream::connect(address)).await??;
        socket.set_nodelay(true)?;
        Ok(Self { socket, input: BytesMut::new() })
    }

    /// Sets a key. An error means that the connection broke, with the outcome in doubt.
    pub(crate) async fn set(&mut self, key: &Bytes, value: &Bytes) -> io::Result<Written> {
        self.write(&[Bytes::from_static(b"SET"), key.clone(), value.clone()]).await
    }

    /// Deletes a key, whether it is there or not. An error means that the connection broke, with the outcome in doubt.
    pub(crate) async fn delete(&mut self, key: &Bytes) -> io::Result<Written> {
        self.write(&[Bytes::from_static(b"DEL"), key.clone()]).await
    }

    async fn write(&mut self, words: &[Bytes]) -> io::Result<Written> {
        let frame = BytesFrame::Array(words.iter().cloned().map(BytesFrame::BulkString).collect());
        let mut output = BytesMut::new();
        extend_encode(&mut output, &frame, false).map_err(io::Error::other)?;
        self.socket.write_all(&output).await?;
        match timeout(REPLY_TIMEOUT, self.reply()).await?? {
            BytesFrame::SimpleString(text) if text == "OK" => Ok(Written::Acknowledged),
            BytesFrame::Integer(_) => Ok(Written::Acknowledged),
            BytesFrame::Error(text) if text.starts_with("UNCERTAIN") => Ok(Written::Uncertain),
            BytesFrame::Error(text) => Ok(Written::Refused(text.to_string())),
            other => Err(io::Error::other(format!("a write was answered by {other:?}"))),
        }
    }

    async fn reply(&mut self) -> io::Result<BytesFrame> {
        loop {
            if let Some((frame, _, _)) = decode_bytes_mut(&mut self.input).map_err(io::Error::other)? {
                return Ok(frame);
            }
            if self.socket.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
