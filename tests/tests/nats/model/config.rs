//! The configurations of streams and consumers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Version,
    reply::{ApiError, Metadata},
    stream::Stream,
    subjects::overlap,
};

/// A stream's configuration, as it is requested and shown.
#[expect(clippy::struct_excessive_bools, reason = "they are the API's")]
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StreamConfig {
    pub(super) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    pub(super) subjects: Vec<String>,
    retention: Retention,
    max_consumers: i64,
    pub(super) max_msgs: i64,
    pub(super) max_bytes: i64,
    /// In nanoseconds; 0: no limit.
    pub(super) max_age: u64,
    pub(super) max_msgs_per_subject: i64,
    pub(super) max_msg_size: i64,
    pub(super) discard: Discard,
    pub(super) storage: Storage,
    pub(super) num_replicas: usize,
    /// In nanoseconds.
    pub(super) duplicate_window: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    compression: Option<String>,
    allow_direct: bool,
    mirror_direct: bool,
    sealed: bool,
    deny_delete: bool,
    deny_purge: bool,
    allow_rollup_hdrs: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer_limits: Option<BTreeMap<String, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_msg_ttl: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Retention {
    #[default]
    Limits,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Discard {
    #[default]
    Old,
    New,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Storage {
    #[default]
    File,
    Memory,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            description: String::new(),
            subjects: Vec::new(),
            retention: Retention::Limits,
            max_consumers: -1,
            max_msgs: -1,
            max_bytes: -1,
            max_age: 0,
            max_msgs_per_subject: -1,
            max_msg_size: -1,
            discard: Discard::Old,
            storage: Storage::File,
            num_replicas: 1,
            duplicate_window: 0,
            compression: None,
            allow_direct: false,
            mirror_direct: false,
            sealed: false,
            deny_delete: false,
            deny_purge: false,
            allow_rollup_hdrs: false,
            consumer_limits: None,
            allow_msg_ttl: None,
            metadata: None,
        }
    }
}

impl StreamConfig {
    /// Fills in the server's defaults, or says what is wrong.
    pub(super) fn complete(mut self, version: Version) -> Result<Self, ApiError> {
        for limit in [
            &mut self.max_consumers,
            &mut self.max_msgs,
            &mut self.max_bytes,
            &mut self.max_msgs_per_subject,
            &mut self.max_msg_size,
        ] {
            if *limit == 0 {
                *limit = -1;
            }
        }
        self.num_replicas = self.num_replicas.max(1);
        if self.subjects.is_empty() {
            self.subjects.push(self.name.clone());
        }
        for (index, subject) in self.subjects.iter().enumerate() {
            let is_bad = |token: &str| token.is_empty() || token.contains([' ', '\t']);
            if subject.split('.').any(is_bad) {
                return Err(ApiError::new(500, 10052, "invalid subject"));
            }
            if let Some(other) = self.subjects[..index].iter().find(|one| overlap(one, subject)) {
                let text = match version {
                    Version::V2_9 => "duplicate subjects detected".to_owned(),
                    Version::V2_15 => format!("subject {other:?} overlaps with {subject:?}"),
                };
                return Err(ApiError::new(500, 10052, text));
            }
        }
        if self.max_age != 0 && self.max_age < 100_000_000 {
            return Err(ApiError::new(500, 10052, "max age needs to be >= 100ms"));
        }
        if self.duplicate_window == 0 {
            let max_age = if self.max_age == 0 { u64::MAX } else { self.max_age };
            self.duplicate_window = DUPLICATE_WINDOW.min(max_age);
        }
        if self.max_age != 0 && self.duplicate_window > self.max_age {
            let text = "duplicates window can not be larger then max age";
            return Err(ApiError::new(500, 10052, text));
        }
        if version == Version::V2_15 {
            self.compression = Some("none".to_owned());
            self.consumer_limits = Some(BTreeMap::new());
            self.allow_msg_ttl = Some(false);
            self.metadata = version.metadata();
        }
        Ok(self)
    }
}

/// A consumer's configuration, as it is requested and shown.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ConsumerConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    deliver_policy: DeliverPolicy,
    #[serde(skip_serializing_if = "Option::is_none")]
    opt_start_seq: Option<u64>,
    ack_policy: AckPolicy,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_deliver: Option<i64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    filter_subject: String,
    replay_policy: ReplayPolicy,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_waiting: Option<usize>,
    /// In nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) inactive_threshold: Option<u64>,
    pub(super) num_replicas: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_storage: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum DeliverPolicy {
    #[default]
    All,
    Last,
    New,
    ByStartSequence,
}

/// Other policies are not modelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum AckPolicy {
    #[default]
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum ReplayPolicy {
    #[default]
    Instant,
}

impl ConsumerConfig {
    /// Fills in the server's defaults, or says what is wrong.
    pub(super) fn complete(mut self, version: Version) -> Result<Self, ApiError> {
        let is_by_sequence = self.deliver_policy == DeliverPolicy::ByStartSequence;
        if is_by_sequence && self.opt_start_seq.unwrap_or(0) == 0 {
            let text = "consumer delivery policy is deliver by start sequence, but optional start \
                        sequence is not set";
            return Err(ApiError::new(400, 10094, text));
        }
        self.max_deliver = Some(self.max_deliver.filter(|count| *count != 0).unwrap_or(-1));
        self.max_waiting = Some(self.max_waiting.filter(|count| *count != 0).unwrap_or(512));
        let threshold = self.inactive_threshold.filter(|nanos| *nanos != 0);
        self.inactive_threshold = Some(threshold.unwrap_or(5_000_000_000));
        self.mem_storage = self.mem_storage.filter(|is_memory| *is_memory);
        self.metadata = version.metadata();
        Ok(self)
    }

    /// Why a consumer cannot be changed to `other`.
    pub(super) fn check_update(&self, other: &Self) -> Result<(), ApiError> {
        let text = if self.deliver_policy != other.deliver_policy {
            "deliver policy can not be updated"
        } else if self.opt_start_seq != other.opt_start_seq {
            "start sequence can not be updated"
        } else if self.max_waiting != other.max_waiting {
            "max waiting can not be updated"
        } else {
            return Ok(());
        };
        Err(ApiError::new(500, 10012, text))
    }

    /// The sequence of the first message to deliver.
    pub(super) fn start(&self, stream: &Stream, version: Version) -> u64 {
        let (first, next) = (stream.first_sequence(), stream.last_sequence + 1);
        let start = match self.deliver_policy {
            DeliverPolicy::All => first,
            DeliverPolicy::Last => stream.last_sequence,
            DeliverPolicy::New => next,
            DeliverPolicy::ByStartSequence => self.opt_start_seq.unwrap_or(0),
        };
        let start = start.max(first).max(1);
        // The newer version waits for a message far ahead.
        if version == Version::V2_9 { start.min(next) } else { start }
    }
}

/// 2 min, in nanoseconds.
const DUPLICATE_WINDOW: u64 = 120_000_000_000;
