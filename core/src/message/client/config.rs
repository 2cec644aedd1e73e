//! The configuration of a client.

use core::{num::NonZeroUsize, time::Duration};

use crate::{
    ConfigError,
    config::{check_timeout, with_setters},
    message::{FrameLimits, FrameTimeouts},
};

/// The limits and timeouts of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The longest header and content of a reply.
    pub frame_limits: FrameLimits,
    /// How long a reply may take to arrive, from its first byte to its last.
    pub frame_timeouts: FrameTimeouts,
    /// The size of the receive buffer in bytes, or the longest header with its length prefix if
    /// that is longer. Default: 16 KiB.
    pub buffer: NonZeroUsize,
    /// The most requests in flight: requests that were sent and have no reply. A reply to an inline
    /// request counts until [`Client::take_reply`](super::Client::take_reply) returns it.
    /// Default: 32.
    pub max_in_flight: NonZeroUsize,
    /// The longest wait for the first byte of a reply; `None`: no limit. The wait starts again
    /// whenever output is written and whenever a reply arrives. Must be non-zero. Default: 30 s.
    pub reply_timeout: Option<Duration>,
    /// Resets the connection if the server acknowledges no byte for this long while output or a FIN
    /// is pending; `None`: never. The reset comes within 1.125 times this. Must be non-zero.
    /// Default: 10 s.
    pub write_timeout: Option<Duration>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            frame_limits: FrameLimits::default(),
            frame_timeouts: FrameTimeouts::default(),
            buffer: const { NonZeroUsize::new(16 * 1024).unwrap() },
            max_in_flight: const { NonZeroUsize::new(32).unwrap() },
            reply_timeout: Some(Duration::from_secs(30)),
            write_timeout: Some(Duration::from_secs(10)),
        }
    }
}

impl ClientConfig {
    with_setters! {
        with_frame_limits(frame_limits: FrameLimits);
        with_frame_timeouts(frame_timeouts: FrameTimeouts);
        with_buffer(buffer: NonZeroUsize);
        with_max_in_flight(max_in_flight: NonZeroUsize);
        with_reply_timeout(reply_timeout: impl Into<Option<Duration>>);
        with_write_timeout(write_timeout: impl Into<Option<Duration>>);
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.frame_timeouts.check()?;
        check_timeout("reply_timeout", self.reply_timeout)?;
        check_timeout("write_timeout", self.write_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_of_zero_is_an_error_that_names_the_setting() {
        let (config, zero) = (ClientConfig::default, Duration::ZERO);
        let timeouts = FrameTimeouts::default();
        for (config, setting) in [
            (config().with_frame_timeouts(timeouts.with_header(zero)), "frame_timeouts.header"),
            (config().with_frame_timeouts(timeouts.with_content(zero)), "frame_timeouts.content"),
            (config().with_reply_timeout(zero), "reply_timeout"),
            (config().with_write_timeout(zero), "write_timeout"),
        ] {
            assert_eq!(config.check(), Err(ConfigError::Zero { setting }));
        }
        assert_eq!(config().with_reply_timeout(None).with_write_timeout(None).check(), Ok(()));
    }
}
