//! What the server says, and how it looks in either version of the protocol.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use redis_protocol::{resp2, resp3};

/// Which protocol version a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// RESP2, which every connection starts with.
    #[default]
    Two,
    /// RESP3, after `HELLO 3`.
    Three,
}

/// One answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// A short text.
    Simple(&'static str),
    /// An error; starts with a code in capitals.
    Error(Cow<'static, str>),
    /// A number.
    Number(i64),
    /// Bytes.
    Bulk(Bytes),
    /// Text for people; in RESP3 marked as such.
    Text(String),
    /// Nothing.
    Nil,
    /// A list.
    Array(Vec<Reply>),
    /// Pairs; a list of keys and values in RESP2.
    Map(Vec<(Reply, Reply)>),
}

impl Reply {
    pub(crate) const OK: Self = Self::Simple("OK");

    /// An error, from a text that is not known beforehand. Line ends would break the protocol and are replaced.
    pub(crate) fn error(text: impl Into<String>) -> Self {
        let text: String = text.into();
        Self::Error(Cow::Owned(text.replace(['\r', '\n'], " ")))
    }

    /// A bulk string of a text.
    pub(crate) fn bulk(text: impl Into<String>) -> Self {
        Self::Bulk(Bytes::from(text.into()))
    }

    /// About how many bytes it holds.
    pub(crate) fn bytes(&self) -> usize {
        let content = match self {
            Self::Bulk(bytes) => bytes.len(),
            Self::Text(text) => text.len(),
            Self::Array(parts) => parts.iter().map(Self::bytes).sum(),
            Self::Map(pairs) => pairs.iter().map(|(key, value)| key.bytes() + value.bytes()).sum(),
            Self::Error(text) => text.len(),
            Self::Simple(_) | Self::Number(_) | Self::Nil => 0,
        };
        content + size_of::<Self>()
    }

    /// Appends the reply to what is sent.
    pub(crate) fn encode(self, protocol: Protocol, out: &mut BytesMut) {
        let encoded = match protocol {
            Protocol::Two => resp2::encode::extend_encode(out, &self.into_resp2(), false),
            Protocol::Three => self.encode_resp3(out),
        };
        encoded.expect("invariant: the buffer grows as needed and every reply is of a kind that both versions have");
    }

    fn into_resp2(self) -> resp2::types::BytesFrame {
        use resp2::types::BytesFrame;
        match self {
            Self::Simple(text) => BytesFrame::SimpleString(Bytes::from_static(text.as_bytes())),
            Self::Error(text) => BytesFrame::Error(text.into_owned().into()),
            Self::Number(number) => BytesFrame::Integer(number),
            Self::Bulk(bytes) => BytesFrame::BulkString(bytes),
            Self::Text(text) => BytesFrame::BulkString(Bytes::from(text)),
            Self::Nil => BytesFrame::Null,
            Self::Array(items) => BytesFrame::Array(items.into_iter().map(Self::into_resp2).collect()),
            Self::Map(pairs) => BytesFrame::Array(
                pairs.into_iter().flat_map(|(key, value)| [key, value]).map(Self::into_resp2).collect(),
            ),
        }
    }

    fn encode_resp3(self, out: &mut BytesMut) -> Result<usize, redis_protocol::error::RedisProtocolError> {
        resp3::encode::complete::extend_encode(out, &self.into_resp3(), false)
    }

    fn into_resp3(self) -> resp3::types::BytesFrame {
        use resp3::types::{BytesFrame, VerbatimStringFormat};
        let attributes = None;
        match self {
            Self::Simple(text) => BytesFrame::SimpleString { data: Bytes::from_static(text.as_bytes()), attributes },
            Self::Error(text) => BytesFrame::SimpleError { data: text.into_owned().into(), attributes },
            Self::Number(data) => BytesFrame::Number { data, attributes },
            Self::Bulk(data) => BytesFrame::BlobString { data, attributes },
            Self::Text(text) => {
                BytesFrame::VerbatimString { data: Bytes::from(text), format: VerbatimStringFormat::Text, attributes }
            }
            Self::Nil => BytesFrame::Null,
            Self::Array(items) => {
                BytesFrame::Array { data: items.into_iter().map(Self::into_resp3).collect(), attributes }
            }
            Self::Map(pairs) => BytesFrame::Map {
                data: pairs.into_iter().map(|(key, value)| (key.into_resp3(), value.into_resp3())).collect(),
                attributes,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(reply: Reply, protocol: Protocol) -> String {
        let mut out = BytesMut::new();
        reply.encode(protocol, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn each_kind_of_reply_in_both_versions() {
        let map = Reply::Map(vec![(Reply::bulk("k"), Reply::Number(1))]);
        let cases = [
            (Reply::OK, "+OK\r\n", "+OK\r\n"),
            (Reply::error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (Reply::Number(-5), ":-5\r\n", ":-5\r\n"),
            (Reply::bulk("ab"), "$2\r\nab\r\n", "$2\r\nab\r\n"),
            (Reply::Text("ab".to_owned()), "$2\r\nab\r\n", "=6\r\ntxt:ab\r\n"),
            (Reply::Nil, "$-1\r\n", "_\r\n"),
            (Reply::Array(vec![Reply::Nil, Reply::Number(1)]), "*2\r\n$-1\r\n:1\r\n", "*2\r\n_\r\n:1\r\n"),
            (map, "*2\r\n$1\r\nk\r\n:1\r\n", "%1\r\n$1\r\nk\r\n:1\r\n"),
        ];
        for (reply, two, three) in cases {
            assert_eq!(encoded(reply.clone(), Protocol::Two), two);
            assert_eq!(encoded(reply, Protocol::Three), three);
        }
    }
}
