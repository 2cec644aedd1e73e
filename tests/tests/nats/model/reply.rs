//! The texts of replies.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use super::{config::StreamConfig, consumer::ConsumerInfo, stream::StreamState};

/// The version of the server whose behaviour is modelled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Version {
    /// 2.9.10.
    V2_9,
    /// 2.15.1.
    #[default]
    V2_15,
}

pub(super) type Metadata = BTreeMap<String, String>;

impl Version {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::V2_9 => "2.9.10",
            Self::V2_15 => "2.15.1",
        }
    }

    /// What the server adds to the configuration of a stream or a consumer.
    pub(super) fn metadata(self) -> Option<Metadata> {
        let pairs = [("_nats.level", "5"), ("_nats.req.level", "0"), ("_nats.ver", self.text())];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        (self == Self::V2_15).then(|| pairs.into())
    }
}

/// An error of the API.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ApiError {
    code: u16,
    err_code: u32,
    description: String,
}

impl ApiError {
    pub(super) fn new(code: u16, err_code: u32, description: impl Into<String>) -> Self {
        Self { code, err_code, description: description.into() }
    }

    pub(super) fn stream_not_found() -> Self {
        Self::new(404, 10059, "stream not found")
    }

    pub(super) fn consumer_not_found() -> Self {
        Self::new(404, 10014, "consumer not found")
    }

    pub(super) fn no_message() -> Self {
        Self::new(404, 10037, "no message found")
    }

    /// There is no leader of the cluster.
    pub(super) fn unavailable() -> Self {
        Self::new(503, 10008, "JetStream system temporarily unavailable")
    }
}

/// A reply of the API: a type, and an error or a content.
#[derive(Debug, Serialize)]
pub(super) struct Reply<T> {
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ApiError>,
    #[serde(flatten)]
    content: T,
}

impl<T: Serialize> Reply<T> {
    pub(super) fn json(name: &str, error: Option<ApiError>, content: T) -> Bytes {
        let r#type = format!("io.nats.jetstream.api.v1.{name}_response");
        json(&Self { r#type, error, content })
    }
}

/// JSON as Go writes it.
pub(super) fn json(value: &impl Serialize) -> Bytes {
    let text = serde_json::to_string(value).unwrap();
    let escaped = [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026")]
        .into_iter()
        .fold(text, |text, (from, to)| text.replace(from, to));
    escaped.into()
}

#[derive(Debug, Serialize)]
pub(super) struct Nothing {}

#[derive(Debug, Serialize)]
pub(super) struct Success {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) success: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) purged: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct StreamInfo {
    /// Only in a reply to STREAM.INFO.
    #[serde(flatten)]
    pub(super) page: Option<Page>,
    #[serde(flatten)]
    pub(super) stream: Option<StreamDescription>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cluster: Option<ClusterInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ts: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) did_create: Option<bool>,
}

#[derive(Debug, Serialize)]
pub(super) struct StreamDescription {
    pub(super) config: StreamConfig,
    pub(super) created: String,
    pub(super) state: StreamState,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Page {
    total: u64,
    offset: u64,
    limit: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct ClusterInfo {
    pub(super) leader: String,
}

#[derive(Debug, Serialize)]
pub(super) struct FoundMessage {
    pub(super) message: MessageText,
}

#[derive(Debug, Serialize)]
pub(super) struct MessageText {
    pub(super) subject: String,
    pub(super) seq: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) hdrs: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) data: String,
    pub(super) time: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ConsumerReply {
    #[serde(flatten)]
    pub(super) consumer: Option<ConsumerInfo>,
}

/// The acknowledgement of a message that was stored, or was stored before.
pub(super) fn acknowledgement(
    version: Version,
    stream: &str,
    sequence: u64,
    is_duplicate: bool,
) -> Bytes {
    let blank = if version == Version::V2_9 { " " } else { "" };
    let duplicate = if is_duplicate { ",\"duplicate\": true" } else { "" };
    format!("{{\"stream\":{stream:?},{blank}\"seq\":{sequence}{duplicate}}}").into()
}

/// The reply to a message that was refused.
pub(super) fn refusal(stream: &str, error: ApiError) -> Bytes {
    #[derive(Serialize)]
    struct Refusal<'a> {
        error: ApiError,
        stream: &'a str,
        seq: u64,
    }
    json(&Refusal { error, stream, seq: 0 })
}

/// Headers with a status and no message.
pub(super) fn status(text: &str) -> Bytes {
    format!("NATS/1.0 {text}\r\n\r\n").into()
}
