//! Requests to the server's API of streams, and their replies.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, Error as _},
};

use super::StreamConfig;
use crate::nats::{
    Client, Headers, InvalidHeaders, Message, Publish, RequestError, RequestId, SendError,
};

/// A request to the API of `JetStream`: JSON on a subject below `$JS.API`
/// ([NATS API reference](https://docs.nats.io/reference/reference-protocols/nats_api_reference)).
///
/// ```
/// use wirestate_core::nats::jetstream::{ApiReply, ApiRequest, StreamInfo};
///
/// let request = ApiRequest::stream_info("orders");
/// assert_eq!(request.subject(), "$JS.API.STREAM.INFO.orders");
///
/// let reply = r#"{"type":"…","error":{"code":404,"err_code":10059,"description":"not found"}}"#;
/// let error = ApiReply::parse::<StreamInfo>(reply.as_bytes()).unwrap_err();
/// assert_eq!(error.to_string(), "error 10059: not found");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRequest {
    subject: String,
    payload: Bytes,
}

impl ApiRequest {
    /// A request with the operation `name`, such as `STREAM.INFO.orders`, and a payload that is
    /// JSON; nothing for `()`.
    pub(super) fn new(name: impl fmt::Display, payload: &impl Serialize) -> Self {
        let payload = serde_json::to_vec(payload).expect("the keys of all requests are strings");
        // `()`
        let payload = if payload == b"null" { Vec::new() } else { payload };
        Self { subject: format!("$JS.API.{name}"), payload: payload.into() }
    }

    /// Asks for the configuration and the state of a stream. The reply is a
    /// [`StreamInfo`](super::StreamInfo).
    pub fn stream_info(stream: &str) -> Self {
        Self::new(format_args!("STREAM.INFO.{stream}"), &())
    }

    /// Creates a stream. The reply is a [`StreamInfo`](super::StreamInfo). A stream that exists
    /// with another configuration is an error ([`ErrorCode::STREAM_NAME_IN_USE`]).
    pub fn create_stream(config: &StreamConfig) -> Self {
        Self::new(format_args!("STREAM.CREATE.{}", config.name), config)
    }

    /// Reads the message with a sequence. The reply is a [`StoredMessage`]. The stream's leader
    /// answers, so that the reply is never older than the last acknowledged message.
    pub fn message(stream: &str, sequence: u64) -> Self {
        #[derive(Serialize)]
        struct BySequence {
            seq: u64,
        }
        Self::new(format_args!("STREAM.MSG.GET.{stream}"), &BySequence { seq: sequence })
    }

    /// Reads the last message of a subject, as [`message`](Self::message).
    pub fn last_message(stream: &str, subject: &str) -> Self {
        #[derive(Serialize)]
        struct LastBySubject<'a> {
            last_by_subj: &'a str,
        }
        let name = format_args!("STREAM.MSG.GET.{stream}");
        Self::new(name, &LastBySubject { last_by_subj: subject })
    }

    /// The subject of the request.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The JSON of the request; empty if it has none.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Sends the request.
    ///
    /// # Errors
    /// Nothing was sent: see [`SendError`].
    pub fn send(&self, client: &mut Client, now: crate::Instant) -> Result<RequestId, SendError> {
        client.request(&Publish::new(&self.subject, self.payload.clone()), now)
    }
}

/// The reply to an [`ApiRequest`].
#[derive(Debug, Deserialize)]
pub struct ApiReply {
    error: Option<Refusal>,
}

impl ApiReply {
    /// Parses a reply's payload.
    ///
    /// # Errors
    /// The server has refused the request, or the payload is no such reply.
    pub fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ApiError> {
        let malformed = |error: serde_json::Error| ApiError::Malformed(error.to_string());
        let Self { error } = serde_json::from_slice(payload).map_err(malformed)?;
        match error {
            Some(refusal) => Err(ApiError::Refused(refusal)),
            None => serde_json::from_slice(payload).map_err(malformed),
        }
    }

    /// Parses what [`Incoming::Reply`](crate::nats::Incoming::Reply) has.
    ///
    /// # Errors
    /// There is no reply, or as for [`parse`](Self::parse).
    pub fn of<T: DeserializeOwned>(reply: &Result<Message, RequestError>) -> Result<T, ApiError> {
        match reply {
            Ok(message) => Self::parse(message.payload()),
            Err(error) => Err(ApiError::NoReply(*error)),
        }
    }
}

/// Why a request to the API has failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// There is no reply. [`RequestError::NoResponders`]: the server has no `JetStream`, or the
    /// cluster has no leader.
    #[error("the API of JetStream: {0}")]
    NoReply(RequestError),
    /// The server has refused the request.
    #[error(transparent)]
    Refused(Refusal),
    /// The reply is not what the API defines: the text of the JSON library.
    #[error("malformed reply: {0}")]
    Malformed(String),
}

impl ApiError {
    /// The code, if the server has refused the request.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::NoReply(_) | Self::Malformed(_) => None,
        }
    }
}

/// An error with which the server has refused a request, or a message.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("error {}: {description}", code.0)]
pub struct Refusal {
    /// What it is.
    #[serde(rename = "err_code", default)]
    pub code: ErrorCode,
    /// A text for people.
    #[serde(default)]
    pub description: String,
}

/// The code of a [`Refusal`]: `err_code` in the
/// [list of errors](https://github.com/nats-io/nats-server/blob/main/server/errors.json).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// The consumer does not exist.
    pub const CONSUMER_NOT_FOUND: Self = Self(10_014);
    /// The stream does not have the message, or no message.
    pub const MESSAGE_NOT_FOUND: Self = Self(10_037);
    /// A message is longer than the stream allows.
    pub const MESSAGE_TOO_LONG: Self = Self(10_054);
    /// A stream of this name exists with another configuration.
    pub const STREAM_NAME_IN_USE: Self = Self(10_058);
    /// The stream does not exist.
    pub const STREAM_NOT_FOUND: Self = Self(10_059);
    /// The last sequence of the stream, or of the subject, is not the expected one.
    pub const WRONG_LAST_SEQUENCE: Self = Self(10_071);
}

/// A message that is read from a stream by [`ApiRequest::message`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "GetMessage")]
pub struct StoredMessage {
    /// The subject.
    pub subject: String,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// The block of headers.
    headers: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
}

impl StoredMessage {
    /// The headers; none if the message has none.
    ///
    /// # Errors
    /// The publisher has sent bad ones.
    pub fn headers(&self) -> Result<Headers<'_>, InvalidHeaders> {
        if self.headers.is_empty() { Ok(Headers::NONE) } else { Headers::parse(&self.headers) }
    }
}

/// The reply to `STREAM.MSG.GET`.
#[derive(Deserialize)]
struct GetMessage {
    message: EncodedMessage,
}

#[derive(Deserialize)]
struct EncodedMessage {
    subject: String,
    seq: u64,
    #[serde(rename = "hdrs", default, deserialize_with = "decode")]
    headers: Vec<u8>,
    #[serde(rename = "data", default, deserialize_with = "decode")]
    payload: Vec<u8>,
}

impl From<GetMessage> for StoredMessage {
    fn from(GetMessage { message }: GetMessage) -> Self {
        let EncodedMessage { subject, seq, headers, payload } = message;
        Self { subject, sequence: seq, headers, payload }
    }
}

fn decode<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    // `null` stands for nothing.
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    BASE64.decode(text.as_bytes()).map_err(D::Error::custom)
}

/// The acknowledgement of a message that was published to a stream.
///
/// ```
/// use wirestate_core::nats::jetstream::{ErrorCode, PublishAck};
///
/// let ack = PublishAck::parse(br#"{"stream":"orders", "seq":7, "duplicate":true}"#)?;
/// assert_eq!((&*ack.stream, ack.sequence, ack.duplicate), ("orders", 7, true));
///
/// let refusal = br#"{"error":{"code":400,"err_code":10071,
///     "description":"wrong last sequence: 8"},"stream":"orders","seq":0}"#;
/// let error = PublishAck::parse(refusal).unwrap_err();
/// assert_eq!(error.code(), Some(ErrorCode::WRONG_LAST_SEQUENCE));
/// # Ok::<(), wirestate_core::nats::jetstream::ApiError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PublishAck<'a> {
    /// The stream that has stored the message.
    #[serde(borrow)]
    pub stream: alloc::borrow::Cow<'a, str>,
    /// The message's sequence in the stream.
    #[serde(rename = "seq")]
    pub sequence: u64,
    /// Whether the stream has stored a message with the same `Nats-Msg-Id` before.
    #[serde(default)]
    pub duplicate: bool,
}

impl<'a> PublishAck<'a> {
    /// Parses an acknowledgement's payload.
    ///
    /// # Errors
    /// The server has refused the message, or the payload is no acknowledgement.
    pub fn parse(payload: &'a [u8]) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Reply<'a> {
            error: Option<Refusal>,
            #[serde(borrow)]
            stream: Option<alloc::borrow::Cow<'a, str>>,
            seq: Option<u64>,
            #[serde(default)]
            duplicate: bool,
        }
        let malformed = |error: serde_json::Error| ApiError::Malformed(error.to_string());
        let reply: Reply<'a> = serde_json::from_slice(payload).map_err(malformed)?;
        match reply {
            Reply { error: Some(refusal), .. } => Err(ApiError::Refused(refusal)),
            Reply { stream: Some(stream), seq: Some(sequence), duplicate, .. } => {
                Ok(Self { stream, sequence, duplicate })
            }
            Reply { .. } => Err(ApiError::Malformed("no `stream` and `seq`".to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_message_is_decoded() {
        let reply = br#"{"type":"io.nats.jetstream.api.v1.stream_msg_get_response","message":{
            "subject":"a","seq":5,"hdrs":"TkFUUy8xLjANCk5hdHMtTXNnLUlkOiAzLTkNCg0K",
            "data":"aGVsbG8=","time":"2026-01-01T00:00:00Z"}}"#;
        let message: StoredMessage = ApiReply::parse(reply).unwrap();
        assert_eq!((&*message.subject, message.sequence), ("a", 5));
        assert_eq!(message.headers().unwrap().get("Nats-Msg-Id"), Some("3-9"));
        assert_eq!(message.payload, b"hello");

        let empty = br#"{"message":{"subject":"a","seq":5,"time":"2026-01-01T00:00:00Z"}}"#;
        let message: StoredMessage = ApiReply::parse(empty).unwrap();
        assert_eq!((message.headers().unwrap().iter().count(), message.payload.len()), (0, 0));
    }

    #[test]
    fn a_reply_that_is_none_is_an_error_with_the_librarys_text() {
        for bad in ["", "x", "[]", "{", "{}", r#"{"message":{"subject":"a","seq":-1}}"#] {
            let error = ApiReply::parse::<StoredMessage>(bad.as_bytes()).unwrap_err();
            assert!(matches!(error, ApiError::Malformed(_)), "{bad}: {error:?}");
            let error = PublishAck::parse(bad.as_bytes()).unwrap_err();
            assert!(matches!(error, ApiError::Malformed(_)), "{bad}: {error:?}");
            let error =
                ApiReply::parse::<crate::nats::jetstream::StreamInfo>(bad.as_bytes()).unwrap_err();
            assert!(matches!(error, ApiError::Malformed(_)), "{bad}: {error:?}");
        }
        let bad = br#"{"message":{"subject":"a","seq":1,"data":"?"}}"#;
        let error = ApiReply::parse::<StoredMessage>(bad).unwrap_err();
        assert!(matches!(error, ApiError::Malformed(_)), "{error:?}");
    }
}
