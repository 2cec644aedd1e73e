//! The numbers and times in a source's messages.

use core::{num::NonZeroUsize, ops::Range, str, time::Duration};

use wirestate_core::Instant;

/// Counts the messages of a `fanout-source`, and checks their numbers and times.
#[derive(Debug)]
pub(crate) struct MessageInspector {
    /// The size of a message, in bytes.
    frame: usize,
    /// The time from Unix' epoch to the clock's.
    epoch: Duration,
    /// How many bytes of the current message have been received.
    offset: usize,
    /// The first bytes of the current message.
    head: [u8; HEAD],
    /// Complete messages.
    pub(crate) messages: u64,
    /// The number of the last message that has one.
    last: Option<u64>,
    /// How many times a number was not the number before it plus one.
    pub(crate) gaps: u64,
    /// How old the last message was when its last byte was received.
    pub(crate) lag: Option<Duration>,
}

impl MessageInspector {
    /// An inspector of messages of `frame` bytes. `epoch` is the time from Unix' epoch to the
    /// clock's.
    pub(crate) fn new(frame: NonZeroUsize, epoch: Duration) -> Self {
        Self {
            frame: frame.get(),
            epoch,
            offset: 0,
            head: [0; HEAD],
            messages: 0,
            last: None,
            gaps: 0,
            lag: None,
        }
    }

    /// Inspects the next bytes of the stream.
    pub(crate) fn inspect(&mut self, mut bytes: &[u8], now: Instant) {
        while !bytes.is_empty() {
            let n = bytes.len().min(self.frame - self.offset);
            if self.offset < HEAD {
                let m = n.min(HEAD - self.offset);
                self.head[self.offset..self.offset + m].copy_from_slice(&bytes[..m]);
            }
            self.offset += n;
            bytes = &bytes[n..];
            if self.offset == self.frame {
                self.offset = 0;
                self.messages += 1;
                self.inspect_head(now);
            }
        }
    }

    /// How many bytes of an incomplete message have been received.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    fn inspect_head(&mut self, now: Instant) {
        let digits = |range: Range<usize>| {
            let text = str::from_utf8(self.head.get(range)?).ok()?;
            text.parse::<u64>().ok()
        };
        let Some(number) = digits(0..20) else { return };
        let made_at = digits(21..41);
        if self.last.is_some_and(|last| number != last + 1) {
            self.gaps += 1;
        }
        self.last = Some(number);
        self.lag = made_at.map(|made_at| {
            (self.epoch + now.since_epoch()).saturating_sub(Duration::from_nanos(made_at))
        });
    }
}

/// The number and the time, in twenty digits each, with a space between.
const HEAD: usize = 41;
