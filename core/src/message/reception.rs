//! How long a frame may take to come.

use core::{num::NonZeroU32, time::Duration};

use super::inbox::Partial;
use crate::Instant;

/// The deadlines of a frame, from its first byte on. An idle timer would not do: a peer that sends
/// one byte at a time is never idle.
///
/// While the machine itself does not read, they stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameTimeouts {
    /// Its header must have come whole within this; `None`: no matter when. Default: 5 s.
    pub header: Option<Duration>,
    /// All of it must have come within this, or at [`least_rate`](Self::least_rate), whichever is
    /// later; `None`: no matter when. Default: 30 s.
    pub content: Option<Duration>,
    /// Bytes a second. Default: 1 KiB.
    pub least_rate: NonZeroU32,
}

impl Default for FrameTimeouts {
    fn default() -> Self {
        Self {
            header: Some(Duration::from_secs(5)),
            content: Some(Duration::from_secs(30)),
            least_rate: const { NonZeroU32::new(1024).unwrap() },
        }
    }
}

impl FrameTimeouts {
    /// How long a frame may take of which so much has come.
    pub(super) fn limit(&self, partial: Partial) -> Option<Duration> {
        if !partial.header {
            return self.header;
        }
        let millis = partial.have.saturating_mul(1000) / u64::from(self.least_rate.get());
        Some(self.content?.max(Duration::from_millis(millis)))
    }
}

/// When the frame began that has not come whole.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reception {
    began: Option<Instant>,
    /// Since when the machine does not read.
    held: Option<Instant>,
}

impl Reception {
    /// The frame has come whole.
    pub(super) fn end(&mut self) {
        self.began = None;
    }

    /// What holds now: whether a frame has come in part, and whether the machine reads.
    pub(super) fn update(&mut self, partial: bool, reads: bool, now: Instant) {
        if !partial {
            *self = Self::default();
            return;
        }
        let began = self.began.get_or_insert(now);
        if reads {
            if let Some(held) = self.held.take() {
                *began += now.since(held.max(*began));
            }
        } else {
            self.held.get_or_insert(now);
        }
    }

    /// When its time is up.
    pub(super) fn deadline(&self, limit: Option<Duration>) -> Option<Instant> {
        if self.held.is_some() {
            return None;
        }
        Some(self.began? + limit?)
    }
}
