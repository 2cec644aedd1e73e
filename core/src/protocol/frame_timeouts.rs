//! How long a frame may take to arrive.

use core::{num::NonZeroU32, time::Duration};

use super::PartialFrame;
use crate::{
    ConfigError, Instant,
    config::{check_timeout, with_setters},
};

/// How long a frame may take to arrive, from its first byte to its last.
///
/// An idle timeout is not enough: a peer that sends one byte at a time is never idle. Time in which
/// the machine does not read does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameTimeouts {
    /// The time for the header: until the length of the frame is known. For a frame whose length is
    /// not declared, such as a line, it is the time for the whole frame. `None`: no limit. Must be
    /// non-zero. Default: 5 s.
    pub header: Option<Duration>,
    /// The time for the whole frame; `None`: no limit. Must be non-zero. A frame that arrives at
    /// [`min_rate`](Self::min_rate) or faster may take longer. Default: 30 s.
    pub content: Option<Duration>,
    /// The slowest rate at which a long frame may arrive, in bytes per second. After `n` bytes, a
    /// frame may have taken `n / min_rate` seconds, even if [`content`](Self::content) is shorter.
    /// Default: 1 KiB per second.
    pub min_rate: NonZeroU32,
}

impl Default for FrameTimeouts {
    fn default() -> Self {
        Self {
            header: Some(Duration::from_secs(5)),
            content: Some(Duration::from_secs(30)),
            min_rate: const { NonZeroU32::new(1024).unwrap() },
        }
    }
}

impl FrameTimeouts {
    with_setters! {
        with_header(header: impl Into<Option<Duration>>);
        with_content(content: impl Into<Option<Duration>>);
        with_min_rate(min_rate: NonZeroU32);
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        check_timeout("frame_timeouts.header", self.header)?;
        check_timeout("frame_timeouts.content", self.content)
    }

    /// How long `frame` may take. The limit grows with the bytes received.
    pub(crate) fn limit(&self, frame: PartialFrame) -> Option<Duration> {
        if !frame.has_header {
            return self.header;
        }
        let millis = frame.received.saturating_mul(1000) / u64::from(self.min_rate.get());
        Some(self.content?.max(Duration::from_millis(millis)))
    }
}

/// Measures how long the current frame has taken. It is paused while the machine does not read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameTimer {
    /// When the frame began, plus the time of all pauses.
    started: Option<Instant>,
    /// When the current pause began.
    paused: Option<Instant>,
}

impl FrameTimer {
    /// Stops the timer, since the frame is complete.
    pub(crate) fn stop(&mut self) {
        self.started = None;
    }

    /// Starts, pauses, resumes or stops the timer. `is_partial`: a part of a frame has arrived.
    pub(crate) fn update(&mut self, is_partial: bool, is_reading: bool, now: Instant) {
        if !is_partial {
            *self = Self::default();
            return;
        }
        let started = self.started.get_or_insert(now);
        if is_reading {
            if let Some(paused) = self.paused.take() {
                *started += now.since(paused.max(*started));
            }
        } else {
            self.paused.get_or_insert(now);
        }
    }

    /// When a frame that may take `limit` must be complete; `None` while the timer is paused.
    pub(crate) fn deadline(&self, limit: Option<Duration>) -> Option<Instant> {
        if self.paused.is_some() {
            return None;
        }
        Some(self.started? + limit?)
    }
}
