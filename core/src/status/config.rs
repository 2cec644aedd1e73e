//! The configuration of a status server.

use core::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use super::{AllowedHosts, state::MAX_HEAD};
use crate::{
    ConfigError, Fault, Linger,
    config::{check_timeout, with_setters},
    protocol::{self, FrameTimeouts},
};

/// The settings and limits of a status server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The host names that the server answers for. Default: `localhost` and all addresses.
    pub hosts: AllowedHosts,
    /// How long the head of a request may take, from its first byte to its last. Must be non-zero.
    /// Default: 5 s.
    pub head_timeout: Duration,
    /// How long a connection may be without a request. Must be non-zero. Default: 30 s.
    pub idle_timeout: Duration,
    /// Resets a connection whose peer acknowledges no byte for this long while a response or a FIN
    /// is pending. The reset comes within 1.125 times this. Must be non-zero. Default: 10 s.
    pub write_timeout: Duration,
    /// The lingering close after the last response, a timeout or
    /// [`Event::ShutDown`](crate::Event::ShutDown). `linger.time` must be non-zero.
    pub linger: Linger,
    /// The most connections that `/connections` lists. Default: 1,000.
    pub listed: usize,
    /// The most pages `/`, `/metrics` and `/connections` per second, for all connections together,
    /// with a burst of 10. A page that would wait for more than
    /// [`MAX_PAGE_WAIT`](super::MAX_PAGE_WAIT) is refused. Default: 100.
    pub pages_per_second: NonZeroU32,
    /// The most requests that are answered per second, for all connections together. 64 of them may
    /// be answered at once. A request waits at most [`MAX_CONNECTIONS`](super::MAX_CONNECTIONS)
    /// divided by this rate. Default: 5,000.
    pub answers_per_second: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hosts: AllowedHosts::Named(Vec::new()),
            head_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(10),
            linger: Linger::default(),
            listed: 1000,
            pages_per_second: const { NonZeroU32::new(100).unwrap() },
            answers_per_second: const { NonZeroU32::new(5000).unwrap() },
        }
    }
}

impl Config {
    with_setters! {
        with_hosts(hosts: AllowedHosts);
        with_head_timeout(head_timeout: Duration);
        with_idle_timeout(idle_timeout: Duration);
        with_write_timeout(write_timeout: Duration);
        with_linger(linger: Linger);
        with_listed(listed: usize);
        with_pages_per_second(pages_per_second: NonZeroU32);
        with_answers_per_second(answers_per_second: NonZeroU32);
    }

    /// The size of the longest response of a server with `services` services, in bytes: 64 KiB for
    /// the head and the page, 64 KiB for each service's counts, and 2 KiB for each connection
    /// that is [`listed`](Self::listed).
    ///
    /// At most [`MAX_PAGES_IN_PROGRESS`](super::MAX_PAGES_IN_PROGRESS) connections hold a response
    /// of that size. The others hold one of at most 1 KiB. Each connection holds 8 KiB for
    /// requests. An idle connection holds neither.
    pub fn response_size(&self, services: usize) -> usize {
        let counts = services.saturating_mul(MAX_COUNTS_SIZE);
        let rows = self.listed.saturating_mul(MAX_ROW_SIZE);
        MAX_PAGE_SIZE.saturating_add(counts).saturating_add(rows)
    }

    /// The settings of the layer below. Each response is written before the next request is
    /// answered, so that a connection holds one.
    pub(super) fn connection(&self) -> protocol::Config {
        const HEAD: NonZeroUsize = NonZeroUsize::new(MAX_HEAD).unwrap();
        protocol::Config::default()
            .with_buffer(HEAD)
            .with_max_frame(HEAD)
            .with_high_water_mark(NonZeroUsize::MIN)
            .with_idle_fault(Fault::None)
            .with_frame_timeouts(FrameTimeouts::default().with_header(self.head_timeout))
            .with_idle_timeout(self.idle_timeout)
            .with_write_timeout(self.write_timeout)
            .with_linger(self.linger)
            .with_idle_buffers(IDLE_BUFFERS)
    }

    /// Checks that every timeout is non-zero.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check_timeout("head_timeout", self.head_timeout)?;
        check_timeout("idle_timeout", self.idle_timeout)?;
        check_timeout("write_timeout", self.write_timeout)?;
        check_timeout("linger.time", self.linger.time)
    }
}

/// The most unused buffers that the status server keeps.
const IDLE_BUFFERS: usize = 4;
/// The longest response without services and listed connections, in bytes.
const MAX_PAGE_SIZE: usize = 64 * 1024;
/// The longest counts of one service in any format, in bytes.
const MAX_COUNTS_SIZE: usize = 64 * 1024;
/// The longest row for one listed connection in any format, in bytes.
const MAX_ROW_SIZE: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_of_zero_is_an_error_that_names_the_setting() {
        let config = Config::default;
        assert_eq!(config().check(), Ok(()));
        let zero = Duration::ZERO;
        for (config, setting) in [
            (config().with_head_timeout(zero), "head_timeout"),
            (config().with_idle_timeout(zero), "idle_timeout"),
            (config().with_write_timeout(zero), "write_timeout"),
            (config().with_linger(Linger { time: zero, ..Linger::default() }), "linger.time"),
        ] {
            assert_eq!(config.check(), Err(ConfigError::Zero { setting }));
        }
    }
}
