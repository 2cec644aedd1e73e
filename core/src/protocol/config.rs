//! The configuration of a server for a framed protocol.

use core::{num::NonZeroUsize, time::Duration};

use super::{FrameTimeouts, HIGH_WATER_MARK};
use crate::{
    ConfigError, Fault, Linger,
    config::{check_timeout, with_setters},
};

/// The limits and timeouts of a [`Server`](super::Server).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The size of a connection's receive buffer in bytes. Default: 64 KiB.
    pub buffer: NonZeroUsize,
    /// The longest frame in bytes, if the protocol receives in a [`Buffer`](super::Buffer).
    /// Default: 1 MiB.
    pub max_frame: NonZeroUsize,
    /// The number of pending bytes of output at which no further frame is answered. With 1, each
    /// reply is written before the next frame is answered. Default: 64 KiB
    /// ([`HIGH_WATER_MARK`]).
    pub high_water_mark: NonZeroUsize,
    /// How long a frame may take to arrive, from its first byte to its last.
    pub frame_timeouts: FrameTimeouts,
    /// The most answers of one connection that are pending ([`Replies::defer`]), with the replies
    /// that wait behind them. All of them are polled when one is woken. Default: 32.
    ///
    /// [`Replies::defer`]: super::Replies::defer
    pub max_in_flight: NonZeroUsize,
    /// How long an answer may be pending; `None`: no limit. Must be non-zero. Default: 60 s.
    pub service_timeout: Option<Duration>,
    /// Closes a connection that has had no frame and no pending reply for this long; `None`: never.
    /// Must be non-zero. Default: 60 s.
    ///
    /// [`Protocol::is_idle`](super::Protocol::is_idle) can exempt a connection.
    pub idle_timeout: Option<Duration>,
    /// Whose fault an idle timeout is. [`Fault::None`] suits a protocol whose clients keep idle
    /// connections so that the next request is quicker. Default: [`Fault::Time`].
    pub idle_fault: Fault,
    /// Resets a connection whose peer acknowledges no byte for this long while output or a FIN is
    /// pending; `None`: never. The reset comes within 1.125 times this. Must be non-zero.
    /// Default: 10 s.
    pub write_timeout: Option<Duration>,
    /// The lingering close after an error, a timeout or
    /// [`Event::ShutDown`](crate::Event::ShutDown). `linger.time` must be non-zero.
    pub linger: Linger,
    /// The most unused receive buffers that the server keeps. Default: 64.
    pub idle_buffers: usize,
    /// The most bytes of long frames and replies that all connections hold together: frames that
    /// exceed [`buffer`](Self::buffer), and replies of 4 KiB or more that are not shared
    /// ([`Output::push`](super::Output::push); copied ones do not count). A frame or reply that
    /// exceeds this limit ends its connection. While more than half of it is in use,
    /// [`FrameTimeouts::min_rate`] extends no timeout. Default: 256 MiB.
    pub max_memory: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            buffer: const { NonZeroUsize::new(64 * 1024).unwrap() },
            max_frame: const { NonZeroUsize::new(1024 * 1024).unwrap() },
            high_water_mark: const { NonZeroUsize::new(HIGH_WATER_MARK).unwrap() },
            frame_timeouts: FrameTimeouts::default(),
            max_in_flight: const { NonZeroUsize::new(32).unwrap() },
            service_timeout: Some(Duration::from_secs(60)),
            idle_timeout: Some(Duration::from_secs(60)),
            idle_fault: Fault::Time,
            write_timeout: Some(Duration::from_secs(10)),
            linger: Linger::default(),
            idle_buffers: 64,
            max_memory: 256 * 1024 * 1024,
        }
    }
}

impl Config {
    with_setters! {
        with_buffer(buffer: NonZeroUsize);
        with_max_frame(max_frame: NonZeroUsize);
        with_high_water_mark(high_water_mark: NonZeroUsize);
        with_frame_timeouts(frame_timeouts: FrameTimeouts);
        with_max_in_flight(max_in_flight: NonZeroUsize);
        with_service_timeout(service_timeout: impl Into<Option<Duration>>);
        with_idle_timeout(idle_timeout: impl Into<Option<Duration>>);
        with_idle_fault(idle_fault: Fault);
        with_write_timeout(write_timeout: impl Into<Option<Duration>>);
        with_linger(linger: Linger);
        with_idle_buffers(idle_buffers: usize);
        with_max_memory(max_memory: usize);
    }

    /// Sets every timeout to `limit`, except `linger.time`. For tests in which a peer that is
    /// active within `limit` must not time out.
    pub fn with_timeouts(self, limit: Duration) -> Self {
        let frame_timeouts = self.frame_timeouts.with_header(limit).with_content(limit);
        self.with_frame_timeouts(frame_timeouts)
            .with_service_timeout(limit)
            .with_idle_timeout(limit)
            .with_write_timeout(limit)
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.frame_timeouts.check()?;
        check_timeout("service_timeout", self.service_timeout)?;
        check_timeout("idle_timeout", self.idle_timeout)?;
        check_timeout("write_timeout", self.write_timeout)?;
        check_timeout("linger.time", self.linger.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_of_zero_is_an_error_that_names_the_setting() {
        let (config, zero) = (Config::default, Duration::ZERO);
        let timeouts = FrameTimeouts::default();
        let linger = Linger { time: zero, ..Linger::default() };
        for (config, setting) in [
            (config().with_frame_timeouts(timeouts.with_header(zero)), "frame_timeouts.header"),
            (config().with_frame_timeouts(timeouts.with_content(zero)), "frame_timeouts.content"),
            (config().with_service_timeout(zero), "service_timeout"),
            (config().with_idle_timeout(zero), "idle_timeout"),
            (config().with_write_timeout(zero), "write_timeout"),
            (config().with_linger(linger), "linger.time"),
        ] {
            assert_eq!(config.check(), Err(ConfigError::Zero { setting }));
        }
        let none = timeouts.with_header(None).with_content(None);
        let patient = config().with_frame_timeouts(none).with_service_timeout(None);
        assert_eq!(patient.with_idle_timeout(None).with_write_timeout(None).check(), Ok(()));
    }
}
