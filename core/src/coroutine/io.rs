//! The coroutine's handle on its connection.

use alloc::vec::Vec;
use core::{
    future::poll_fn,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    Error,
    state::{Fin, IoState, Slot, Wait},
};
use crate::Instant;

/// The handle of a coroutine on its connection: its operations read and write.
///
/// Once the deadline of the coroutine has passed, the operation that waits fails with
/// [`Error::Deadline`], and so does each later one, except one that waits for output: a reply can
/// still be written.
///
/// Only one operation runs at a time. To wait for something else as well (a channel), select
/// between it and one operation, which may be dropped: see each operation for what a drop loses.
/// A peer that sends without reading can fill both directions. Then a write waits, and
/// [`Config::write_timeout`](super::Config::write_timeout) ends the connection.
///
/// # Panics
/// All methods, if they are called outside of the coroutine.
#[derive(Debug)]
pub struct Io {
    slot: Slot,
}

impl Io {
    pub(super) fn new(slot: Slot) -> Self {
        Self { slot }
    }

    /// The time of the current poll. It does not advance while the coroutine runs.
    pub fn now(&self) -> Instant {
        self.with(|state| state.now)
    }

    /// Sets the deadline of the coroutine to `limit` from now; `None`: no deadline. It replaces
    /// [`Config::deadline`](super::Config::deadline).
    ///
    /// After [`Error::Deadline`], call it to get more time.
    pub fn set_deadline(&mut self, limit: impl Into<Option<Duration>>) {
        let limit = limit.into();
        self.with(|state| state.set_deadline(limit));
    }

    /// Waits for the next byte of input. Returns whether there is one: false after the peer's FIN.
    /// A session waits here between two requests. A drop loses nothing.
    ///
    /// # Errors
    /// [`Error::ReadTimeout`], [`Error::ShutDown`].
    pub async fn has_more(&mut self) -> Result<bool, Error> {
        self.wait(Wait::Input { is_new: true }, |state| {
            let has_input = !state.input.is_empty();
            ready_if(has_input || state.has_eof).map_ok(|()| has_input)
        })
        .await
    }

    /// Reads at least one byte, and at most what has arrived and `buf` has space for. Returns the
    /// number of bytes: 0 after the peer's FIN. A drop loses nothing.
    ///
    /// # Errors
    /// [`Error::ReadTimeout`], [`Error::ShutDown`].
    pub async fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        if !self.has_more().await? {
            return Ok(0);
        }
        Ok(self.with(|state| state.take(buf)))
    }

    /// Fills `buf`. If `buf` is larger than [`Config::buffer`](super::Config::buffer), a drop loses
    /// the bytes that were read so far; otherwise nothing.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::ReadTimeout`]; [`Error::ShutDown`] before the first byte of
    /// the connection.
    pub async fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), Error> {
        let (expected, mut filled) = (buf.len(), 0);
        let size = self.with(|state| state.input.capacity());
        for piece in buf.chunks_mut(size) {
            let wait = Wait::Input { is_new: false };
            let read = self.wait(wait, |state| match state.input.len() {
                available if available >= piece.len() => Poll::Ready(Ok(state.take(piece))),
                available if state.has_eof => {
                    Poll::Ready(Err(Error::Truncated { received: filled + available, expected }))
                }
                _ => Poll::Pending,
            });
            filled += read.await?;
        }
        Ok(())
    }

    /// Reads `N` bytes, as [`read_exact`](Self::read_exact).
    ///
    /// # Errors
    /// As [`read_exact`](Self::read_exact).
    pub async fn read_array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        self.read_exact(&mut array).await?;
        Ok(array)
    }

    /// Reads up to and including the first `delimiter`, which is not empty. At most `max` bytes, or
    /// [`Config::buffer`](super::Config::buffer) if that is less. A drop loses nothing.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Truncated`]: then the bytes stay in the input;
    /// [`Error::ReadTimeout`]; [`Error::ShutDown`] before the first byte of the connection.
    pub async fn read_until(&mut self, delimiter: &[u8], max: usize) -> Result<Vec<u8>, Error> {
        // Where the search goes on, so that no byte is searched twice.
        let mut start = 0;
        self.wait(Wait::Input { is_new: false }, |state| {
            let limit = max.min(state.input.capacity());
            let available = state.input.len().min(limit);
            if let Some(end) = find(state.input.slices(), start, available, delimiter) {
                let mut found = alloc::vec![0; end];
                state.take(&mut found);
                return Poll::Ready(Ok(found));
            }
            start = (available + 1).saturating_sub(delimiter.len()).max(start);
            if available == limit {
                Poll::Ready(Err(Error::TooLong { limit }))
            } else if state.has_eof {
                let (received, expected) = (available, available + 1);
                Poll::Ready(Err(Error::Truncated { received, expected }))
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Writes all of `bytes` to the output buffer. It waits while the buffer is full, until the
    /// kernel accepts output. A drop loses the bytes that do not fit yet.
    ///
    /// # Errors
    /// The deadline has passed.
    ///
    /// # Panics
    /// After [`finish`](Self::finish).
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut rest = bytes;
        self.wait(Wait::Output, |state| {
            assert_eq!(state.fin, Fin::None, "nothing can be written after the FIN");
            rest = state.queue(rest);
            ready_if(rest.is_empty())
        })
        .await
    }

    /// Waits until the kernel has accepted all output. Output is sent without it too. A drop loses
    /// nothing.
    ///
    /// # Errors
    /// The deadline has passed.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.wait(Wait::Output, |state| ready_if(!state.has_output())).await
    }

    /// Sends a FIN after the output, and waits until it is sent. The coroutine can still read.
    /// Without it, the FIN is sent when the coroutine returns. A drop does not take it back.
    ///
    /// # Errors
    /// The deadline has passed.
    pub async fn finish(&mut self) -> Result<(), Error> {
        self.with(|state| {
            if state.fin == Fin::None {
                state.fin = Fin::Requested;
                state.progress.queued(state.now);
            }
        });
        self.flush().await
    }

    /// Waits until `deadline`. To limit another operation, use
    /// [`set_deadline`](Self::set_deadline).
    ///
    /// # Errors
    /// The deadline of the coroutine has passed.
    pub async fn sleep_until(&mut self, deadline: Instant) -> Result<(), Error> {
        self.wait(Wait::Until(deadline), |state| ready_if(state.now >= deadline)).await
    }

    /// Runs one operation: waits until `attempt` completes it, or it fails.
    async fn wait<T>(
        &mut self,
        wait: Wait,
        mut attempt: impl FnMut(&mut IoState) -> Poll<Result<T, Error>>,
    ) -> Result<T, Error> {
        let _waiting = WaitGuard(&self.slot);
        poll_fn(|cx: &mut Context<'_>| self.with(|state| state.poll(cx, wait, &mut attempt))).await
    }

    fn with<T>(&self, f: impl FnOnce(&mut IoState) -> T) -> T {
        self.slot.with(|state| {
            f(state.as_mut().expect("an Io works only while its connection polls the coroutine"))
        })
    }
}

/// Ends the wait of an operation when that has completed or is dropped.
struct WaitGuard<'a>(&'a Slot);

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        let waker = self.0.with(|state| state.as_mut().and_then(|state| state.end_wait()));
        drop(waker); // outside the lock
    }
}

fn ready_if(is_complete: bool) -> Poll<Result<(), Error>> {
    if is_complete { Poll::Ready(Ok(())) } else { Poll::Pending }
}

/// The end of the first `delimiter` within the first `len` bytes of `slices`, from `start` on.
fn find(slices: [&[u8]; 2], start: usize, len: usize, delimiter: &[u8]) -> Option<usize> {
    let [first, second] = slices;
    let byte = |index: usize| first.get(index).or_else(|| second.get(index - first.len()));
    (start + delimiter.len()..=len).find(|end| {
        let start = end - delimiter.len();
        delimiter.iter().enumerate().all(|(index, expected)| byte(start + index) == Some(expected))
    })
}
