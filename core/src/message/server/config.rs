//! The configuration of a server.

use core::{num::NonZeroUsize, time::Duration};

use crate::{
    ConfigError, Linger,
    config::with_setters,
    message::{FrameLimits, FrameTimeouts},
    protocol as framed,
};

/// The limits and timeouts of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The longest header and content of a request.
    pub frame_limits: FrameLimits,
    /// How long a request may take to arrive, from its first byte to its last.
    pub frame_timeouts: FrameTimeouts,
    /// The size of a connection's receive buffer in bytes, or the longest header with its length
    /// prefix if that is longer. Default: 64 KiB.
    pub buffer: NonZeroUsize,
    /// The most requests of one connection that wait for a
    /// [`Reply::Pending`](super::super::service::Reply::Pending). All of them are polled when one
    /// is woken. Default: 32.
    pub max_in_flight: NonZeroUsize,
    /// How long the service may take for a reply; `None`: no limit. Must be non-zero.
    /// Default: 60 s.
    pub service_timeout: Option<Duration>,
    /// Closes a connection that has had no request and no pending reply for this long; `None`:
    /// never. Must be non-zero. Default: 60 s.
    pub idle_timeout: Option<Duration>,
    /// Resets a connection whose peer acknowledges no byte for this long while output or a FIN is
    /// pending; `None`: never. The reset comes within 1.125 times this. Must be non-zero.
    /// Default: 10 s.
    pub write_timeout: Option<Duration>,
    /// The lingering close after an error, a timeout or
    /// [`Event::ShutDown`](crate::Event::ShutDown). `linger.time` must be non-zero.
    pub linger: Linger,
    /// Whether a connection is closed after its first reply. Default: no.
    pub one_shot: bool,
    /// The most unused receive buffers that the server keeps. Default: 64.
    pub idle_buffers: usize,
    /// The most bytes of large contents ([`Server`] defines them) that all connections hold
    /// together. A request or reply that exceeds this limit is answered by an error, and its
    /// connection is closed. While more than half of it is in use, [`FrameTimeouts::min_rate`]
    /// extends no timeout. Default: 256 MiB.
    ///
    /// [`Server`]: super::Server
    pub max_memory: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            frame_limits: FrameLimits::default(),
            frame_timeouts: FrameTimeouts::default(),
            buffer: const { NonZeroUsize::new(64 * 1024).unwrap() },
            max_in_flight: const { NonZeroUsize::new(32).unwrap() },
            service_timeout: Some(Duration::from_secs(60)),
            idle_timeout: Some(Duration::from_secs(60)),
            write_timeout: Some(Duration::from_secs(10)),
            linger: Linger::default(),
            one_shot: false,
            idle_buffers: 64,
            max_memory: 256 * 1024 * 1024,
        }
    }
}

impl Config {
    with_setters! {
        with_frame_limits(frame_limits: FrameLimits);
        with_frame_timeouts(frame_timeouts: FrameTimeouts);
        with_buffer(buffer: NonZeroUsize);
        with_max_in_flight(max_in_flight: NonZeroUsize);
        with_service_timeout(service_timeout: impl Into<Option<Duration>>);
        with_idle_timeout(idle_timeout: impl Into<Option<Duration>>);
        with_write_timeout(write_timeout: impl Into<Option<Duration>>);
        with_linger(linger: Linger);
        with_one_shot(one_shot: bool);
        with_idle_buffers(idle_buffers: usize);
        with_max_memory(max_memory: usize);
    }

    /// The size of a receive buffer in bytes: [`buffer`](Self::buffer), or the longest header with
    /// its length prefix if that is longer.
    pub fn buffer_size(&self) -> usize {
        self.buffer.get().max(self.frame_limits.max_head())
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.clone().into_connection().check()
    }

    /// The settings of the layer below.
    pub(super) fn into_connection(self) -> framed::Config {
        let buffer = self
            .frame_limits
            .max_head()
            .try_into()
            .map_or(self.buffer, |head| self.buffer.max(head));
        framed::Config::default()
            .with_buffer(buffer)
            .with_frame_timeouts(self.frame_timeouts)
            .with_max_in_flight(self.max_in_flight)
            .with_service_timeout(self.service_timeout)
            .with_idle_timeout(self.idle_timeout)
            .with_write_timeout(self.write_timeout)
            .with_linger(self.linger)
            .with_idle_buffers(self.idle_buffers)
            .with_max_memory(self.max_memory)
    }
}
