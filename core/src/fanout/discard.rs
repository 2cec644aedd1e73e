//! Input that a machine discards.

use alloc::{boxed::Box, vec};
use core::time::Duration;

use crate::Instant;

/// Reads and discards a peer's input, and limits its rate.
///
/// Reads go into a buffer of 64 bytes. After a read that fills it, reads go into one of 16 KiB,
/// which is freed when no input is left. Once 64 KiB were read within 100 ms, reading pauses until
/// the end of these 100 ms. So a flood costs at most 640 KiB a second, and the peer's FIN or reset
/// is noticed only after all input before it.
#[derive(Debug)]
pub(super) struct Discard {
    small: [u8; 64],
    large: Option<Box<[u8]>>,
    /// How many bytes were read in the present period.
    read: usize,
    period_start: Instant,
    /// Reading is paused until this time.
    paused_until: Option<Instant>,
}

impl Discard {
    pub(super) fn new() -> Self {
        Self {
            small: [0; 64],
            large: None,
            read: 0,
            period_start: Instant::EPOCH,
            paused_until: None,
        }
    }

    /// Whether to read now.
    pub(super) fn wants_more(&self) -> bool {
        self.paused_until.is_none()
    }

    /// The buffer for the next read.
    pub(super) fn read_buf(&mut self) -> &mut [u8] {
        self.large.as_deref_mut().unwrap_or(&mut self.small)
    }

    /// Handles a read of `n` bytes. A small buffer that is full is replaced by the larger one.
    pub(super) fn handle_read(&mut self, n: usize) {
        if n == self.small.len() {
            self.large.get_or_insert_with(|| vec![0; LARGE].into_boxed_slice());
        }
    }

    /// Counts `n` bytes towards the limit.
    pub(super) fn limit(&mut self, now: Instant, n: usize) {
        if now.since(self.period_start) >= PERIOD {
            (self.read, self.period_start) = (0, now);
        }
        self.read += n;
        if self.read >= MAX_PER_PERIOD {
            self.paused_until = Some(self.period_start + PERIOD);
            self.release();
        }
    }

    /// Frees the larger buffer.
    pub(super) fn release(&mut self) {
        self.large = None;
    }

    /// When reading resumes.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Resumes reading, if the pause is over.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.paused_until = self.paused_until.filter(|until| *until > now);
    }
}

/// The size of the larger buffer, in bytes.
const LARGE: usize = 16 * 1024;
/// How many bytes are read in a [`PERIOD`]; the last read may exceed them.
const MAX_PER_PERIOD: usize = 64 * 1024;
const PERIOD: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::EPOCH + Duration::from_millis(millis)
    }

    /// Fills the buffer until reading pauses; returns the number of reads.
    fn flood(discard: &mut Discard, now: Instant) -> usize {
        let mut reads = 0;
        while discard.wants_more() {
            let n = discard.read_buf().len();
            discard.handle_read(n);
            discard.limit(now, n);
            reads += 1;
        }
        reads
    }

    #[test]
    fn a_flood_is_read_in_large_pieces_and_not_without_limit() {
        let mut discard = Discard::new();
        assert_eq!(flood(&mut discard, at(1000)), 5);
        assert!(discard.large.is_none(), "while nothing is read, no buffer is held");
        assert_eq!(discard.poll_timeout(), Some(at(1100)));
        discard.handle_timeout(at(1099));
        assert!(!discard.wants_more());
        discard.handle_timeout(at(1100));
        assert_eq!(discard.poll_timeout(), None);
        assert_eq!(flood(&mut discard, at(1100)), 5);
    }

    #[test]
    fn a_peer_that_sends_little_is_read_into_the_small_buffer_without_pauses() {
        let mut discard = Discard::new();
        for second in 0..100 {
            for n in [63, 1, 63] {
                discard.handle_read(n);
                discard.limit(at(1000 * second), n);
            }
            assert!(discard.large.is_none() && discard.wants_more());
        }
        discard.handle_read(64);
        assert_eq!(discard.read_buf().len(), LARGE);
        discard.release();
        assert_eq!(discard.read_buf().len(), 64);
    }
}
