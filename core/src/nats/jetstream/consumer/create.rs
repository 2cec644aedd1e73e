//! The request by which the server's consumer is made.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::nats::jetstream::ApiRequest;

/// The request for a consumer that begins with the sequence `next`.
pub(super) fn create_request(stream: &str, next: u64) -> ApiRequest {
    #[derive(Serialize)]
    struct Create<'a> {
        stream_name: &'a str,
        config: Config,
    }
    #[derive(Serialize)]
    struct Config {
        deliver_policy: &'static str,
        opt_start_seq: u64,
        ack_policy: &'static str,
        replay_policy: &'static str,
        inactive_threshold: u64,
        mem_storage: bool,
        num_replicas: u8,
    }
    let config = Config {
        deliver_policy: "by_start_sequence",
        opt_start_seq: next,
        ack_policy: "none",
        replay_policy: "instant",
        inactive_threshold: INACTIVE_THRESHOLD_NANOS,
        mem_storage: true,
        num_replicas: 1,
    };
    let create = Create { stream_name: stream, config };
    ApiRequest::new(format_args!("CONSUMER.CREATE.{stream}"), &create)
}

/// What the server says of a consumer that was made.
#[derive(Deserialize)]
pub(super) struct Made {
    pub(super) name: String,
    pub(super) config: MadeConfig,
}

#[derive(Deserialize)]
pub(super) struct MadeConfig {
    /// The most messages of one request; 0: no limit.
    #[serde(default)]
    pub(super) max_batch: i64,
}

/// After how long without a request the server deletes the consumer: 30 s.
const INACTIVE_THRESHOLD_NANOS: u64 = 30_000_000_000;
