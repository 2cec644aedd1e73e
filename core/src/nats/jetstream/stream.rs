//! The configuration and the state of a stream.

use alloc::{
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ApiError, ApiReply, ApiRequest, ErrorCode};
use crate::{
    Instant,
    nats::{Client, Message, RequestError, RequestId, SendError},
};

/// The configuration of a stream, as far as this client sets it
/// ([NATS: streams](https://docs.nats.io/nats-concepts/jetstream/streams)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StreamConfig {
    /// The name, without blanks, dots, wildcards and slashes.
    pub name: String,
    /// The subjects of which the stream stores the messages.
    #[serde(default)]
    pub subjects: Vec<String>,
    /// Where the messages are. Default: in files.
    pub storage: Storage,
    /// On how many servers of the cluster, 1 to 5. Default: 1.
    #[serde(rename = "num_replicas")]
    pub replicas: usize,
    /// The most bytes of messages; the oldest ones are removed. Default: no limit.
    #[serde(with = "limit")]
    pub max_bytes: Option<u64>,
    /// The age in which a message is removed. Default: no limit.
    #[serde(with = "nanoseconds")]
    pub max_age: Option<Duration>,
    /// The most messages of each subject; the oldest ones are removed. Default: no limit.
    #[serde(rename = "max_msgs_per_subject", default, with = "limit")]
    pub max_messages_per_subject: Option<u64>,
    /// For how long the stream knows the `Nats-Msg-Id` of a message. At most `max_age`. Default:
    /// the server's, 2 minutes.
    #[serde(default, with = "nanoseconds", skip_serializing_if = "Option::is_none")]
    pub duplicate_window: Option<Duration>,
    /// What happens to a message for which there is no space. Default: the oldest ones are removed.
    pub discard: Discard,
    /// Whether a message can remove those before it, by `Nats-Rollup`. Default: false.
    #[serde(rename = "allow_rollup_hdrs", default)]
    pub allow_rollup: bool,
    /// Whether the API can delete no message. Default: false.
    #[serde(default)]
    pub deny_delete: bool,
}

/// Where a stream has its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// In files. They are written to disk in intervals, by default every 2 minutes.
    #[default]
    File,
    /// In the memory of the server.
    Memory,
}

/// What happens to a message for which a stream has no space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// The oldest messages are removed.
    #[default]
    Old,
    /// The message is refused.
    New,
}

impl StreamConfig {
    /// A stream of one subject, with the defaults of each field.
    pub fn new(name: impl Into<String>, subject: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            subjects: vec![subject.into()],
            storage: Storage::File,
            replicas: 1,
            max_bytes: None,
            max_age: None,
            max_messages_per_subject: None,
            duplicate_window: None,
            discard: Discard::Old,
            allow_rollup: false,
            deny_delete: false,
        }
    }
}

/// What the server says of a stream. Fields that this client does not use are left out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct StreamInfo {
    /// The configuration.
    pub config: StreamConfig,
    /// When the stream was created, as text (RFC 3339). A stream that was deleted and created again
    /// has another one.
    pub created: String,
    /// What it has.
    pub state: StreamState,
}

/// What a stream has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct StreamState {
    /// The number of messages.
    pub messages: u64,
    /// The sequence of the first message; of the next one if there is none, or 0.
    #[serde(rename = "first_seq")]
    pub first_sequence: u64,
    /// The sequence of the last message that was stored, also if it was removed; 0 if none was.
    #[serde(rename = "last_seq")]
    pub last_sequence: u64,
}

/// Finds a stream, and creates it if there is none.
///
/// It sends one or more requests: [`handle`](Self::handle) each reply.
#[derive(Clone, Debug)]
pub struct EnsureStream {
    config: StreamConfig,
    creates: bool,
    request: Option<RequestId>,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Find,
    Create,
}

/// What [`EnsureStream`] has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundStream {
    /// The stream.
    pub info: StreamInfo,
    /// Whether it was created now.
    pub is_new: bool,
}

/// Why a stream cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The server cannot be asked, or has refused.
    #[error("stream {stream}: {error}")]
    Api {
        /// The stream's name.
        stream: String,
        /// Why.
        error: ApiError,
    },
    /// It stores other subjects, so its sequences do not count the messages of one.
    #[error("stream {stream} has the subjects {found:?}, expected only {expected:?}")]
    Subjects {
        /// The stream's name.
        stream: String,
        /// Its subjects.
        found: Vec<String>,
        /// The expected ones.
        expected: Vec<String>,
    },
}

impl StreamError {
    /// Whether the stream does not exist.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Api { error, .. } => error.code() == Some(ErrorCode::STREAM_NOT_FOUND),
            Self::Subjects { .. } => false,
        }
    }
}

impl EnsureStream {
    /// Finds the stream of this name and with these subjects. `creates`: whether it is created with
    /// this configuration if it does not exist. The other settings of an existing one stay.
    pub fn new(config: StreamConfig, creates: bool) -> Self {
        Self { config, creates, request: None, step: Step::Find }
    }

    /// The configuration that was given.
    pub fn config(&self) -> &StreamConfig {
        &self.config
    }

    /// Asks for the stream. Requests that were sent before are forgotten.
    ///
    /// # Errors
    /// Nothing was sent: see [`SendError`].
    pub fn send(&mut self, client: &mut Client, now: Instant) -> Result<(), SendError> {
        self.forget();
        self.send_step(Step::Find, client, now)
    }

    /// Forgets the request that has no reply, such as when the connection has ended.
    pub fn forget(&mut self) {
        self.request = None;
    }

    fn send_step(
        &mut self,
        step: Step,
        client: &mut Client,
        now: Instant,
    ) -> Result<(), SendError> {
        let request = match step {
            Step::Find => ApiRequest::stream_info(&self.config.name),
            Step::Create => ApiRequest::create_stream(&self.config),
        };
        self.request = Some(request.send(client, now)?);
        self.step = step;
        Ok(())
    }

    /// Handles the reply to `request`; `None`: it is not from here, or there is another request
    /// now.
    pub fn handle(
        &mut self,
        client: &mut Client,
        request: RequestId,
        reply: &Result<Message, RequestError>,
        now: Instant,
    ) -> Option<Result<FoundStream, StreamError>> {
        self.request.take_if(|own| *own == request)?;
        let info = match (ApiReply::of::<StreamInfo>(reply), self.step) {
            (Ok(info), _) => info,
            (Err(error), Step::Find)
                if self.creates && error.code() == Some(ErrorCode::STREAM_NOT_FOUND) =>
            {
                let sent = self.send_step(Step::Create, client, now);
                // Without space for a request, the caller tries again.
                return sent.err().map(|_| Err(self.api_error(error)));
            }
            (Err(error), Step::Find | Step::Create) => return Some(Err(self.api_error(error))),
        };
        if info.config.subjects != self.config.subjects {
            return Some(Err(StreamError::Subjects {
                stream: self.config.name.clone(),
                found: info.config.subjects,
                expected: self.config.subjects.clone(),
            }));
        }
        Some(Ok(FoundStream { info, is_new: self.step == Step::Create }))
    }

    fn api_error(&self, error: ApiError) -> StreamError {
        StreamError::Api { stream: self.config.name.clone(), error }
    }
}

/// A limit, of which -1 and 0 stand for none.
mod limit {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
    pub(super) fn serialize<S: Serializer>(
        limit: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        let limit = i64::deserialize(deserializer)?;
        Ok(u64::try_from(limit).ok().filter(|limit| *limit > 0))
    }
}

/// A time in nanoseconds, of which 0 stands for none.
mod nanoseconds {
    use super::{Deserialize, Deserializer, Duration, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
    pub(super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let nanos = time.unwrap_or_default().as_nanos();
        i64::try_from(nanos).unwrap_or(i64::MAX).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let nanos = u64::try_from(i64::deserialize(deserializer)?).unwrap_or(0);
        Ok((nanos > 0).then(|| Duration::from_nanos(nanos)))
    }
}

/// The name of a stream for a subject: its dots are replaced.
///
/// # Errors
/// The subject has a wildcard or another character that no name of a stream has.
pub fn stream_name(subject: &str) -> Result<String, InvalidStreamName> {
    check_stream_name(&subject.replace('.', "_")).map(ToString::to_string)
}

/// Checks the name of a stream, and returns it.
///
/// # Errors
/// It is empty, longer than 255 bytes, or has another character than letters, digits, `-` and `_`
/// in ASCII. (The server allows a few more, which stand for nothing in file systems and subjects.)
pub fn check_stream_name(name: &str) -> Result<&str, InvalidStreamName> {
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))) {
        Some(found) => Err(InvalidStreamName::Character(found)),
        None if name.is_empty() => Err(InvalidStreamName::Empty),
        None if name.len() > MAX_STREAM_NAME => {
            Err(InvalidStreamName::TooLong { length: name.len(), limit: MAX_STREAM_NAME })
        }
        None => Ok(name),
    }
}

/// Why a text is not the name of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidStreamName {
    /// It is empty.
    #[error("the name of a stream is empty")]
    Empty,
    /// It has a character that is not allowed.
    #[error("the name of a stream has {0:?}, expected letters, digits, `-` and `_`")]
    Character(char),
    /// It is too long.
    #[error("the name of a stream has {length} bytes, the limit is {limit}")]
    TooLong {
        /// The length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

/// The longest name of a stream, in bytes (`JSMaxNameLen` of the server).
const MAX_STREAM_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_written_as_the_api_defines_it() {
        let mut config = StreamConfig::new("orders", "orders.new");
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(
            json,
            r#"{"name":"orders","subjects":["orders.new"],"storage":"file","num_replicas":1,"#
                .to_owned()
                + r#""max_bytes":-1,"max_age":0,"max_msgs_per_subject":-1,"discard":"old","#
                + r#""allow_rollup_hdrs":false,"deny_delete":false}"#
        );
        config.max_bytes = Some(1 << 30);
        config.max_age = Some(Duration::from_secs(60));
        config.duplicate_window = Some(Duration::from_secs(10));
        let json = serde_json::to_string(&config).unwrap();
        assert!(json.contains(r#""max_age":60000000000,"#), "{json}");
        assert_eq!(serde_json::from_str::<StreamConfig>(&json).unwrap(), config);
    }

    #[test]
    fn the_name_of_a_stream_is_checked() {
        assert_eq!(stream_name("orders.new").as_deref(), Ok("orders_new"));
        assert_eq!(stream_name("orders.>"), Err(InvalidStreamName::Character('>')));
        assert_eq!(check_stream_name(""), Err(InvalidStreamName::Empty));
        assert_eq!(check_stream_name("a b"), Err(InvalidStreamName::Character(' ')));
        assert_eq!(
            check_stream_name(&"x".repeat(256)),
            Err(InvalidStreamName::TooLong { length: 256, limit: 255 })
        );
    }
}
