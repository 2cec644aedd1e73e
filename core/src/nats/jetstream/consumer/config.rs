//! The configuration of a consumer.

use alloc::string::String;
use core::{num::NonZeroUsize, time::Duration};

use super::pulls::EXPIRES;
use crate::{
    ConfigError,
    config::{check_timeout, with_setters},
};

/// Which stream a consumer reads, from where, and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerConfig {
    /// The stream's name.
    pub stream: String,
    /// The one subject of the stream. A stream with others is not read.
    pub subject: String,
    /// With which message it begins. Default: with the next one that is published.
    pub start: Start,
    /// The most bytes of messages that are asked for or wait to be taken, as the server counts
    /// them: subject, reply subject, headers and payload. At least 1 KiB; default: 4 MiB.
    pub max_bytes: NonZeroUsize,
    /// How often the server sends a heartbeat while it has no message. After three times as long
    /// without either, the server's consumer is taken for lost. Must be non-zero, and at most 15 s;
    /// default: 1 s.
    pub heartbeat: Duration,
    /// The seed of the jitter of the back-off. Give each consumer another one. Default: 0.
    pub seed: u64,
}

/// With which message a consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the last messages of the stream, at most this many. 0: with the next one that is
    /// published. A stream that does not exist yet is read from its first message on.
    Last(u64),
    /// With this sequence, such as the one behind the last message that was stored elsewhere.
    Sequence(u64),
}

impl ConsumerConfig {
    /// Reads the stream with the defaults of each field.
    pub fn new(stream: impl Into<String>, subject: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            subject: subject.into(),
            start: Start::Last(0),
            max_bytes: const { NonZeroUsize::new(4 * 1024 * 1024).unwrap() },
            heartbeat: Duration::from_secs(1),
            seed: 0,
        }
    }

    with_setters! {
        with_start(start: Start);
        with_max_bytes(max_bytes: NonZeroUsize);
        with_heartbeat(heartbeat: Duration);
        with_seed(seed: u64);
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let (value, min) = (self.max_bytes.get() as u64, MIN_BYTES);
        if value < min {
            return Err(ConfigError::TooSmall { setting: "max_bytes", value, min });
        }
        check_timeout("heartbeat", Some(self.heartbeat))?;
        // The server refuses a request that expires before the second heartbeat.
        let max = EXPIRES / 2;
        if self.heartbeat > max {
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let (value, max) = (millis(self.heartbeat), millis(max));
            return Err(ConfigError::TooLarge { setting: "heartbeat in ms", value, max });
        }
        Ok(())
    }

    /// After how long without a message and a heartbeat the server's consumer is taken for lost.
    pub(super) fn heartbeat_limit(&self) -> Duration {
        self.heartbeat * 3
    }
}

const MIN_BYTES: u64 = 1024;
