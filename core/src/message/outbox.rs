//! The send queue.

use alloc::{collections::VecDeque, vec::Vec};
use core::{iter, mem};

use bytes::{Buf, Bytes};

use super::{Content, EncodeError, Message};
use crate::buffer::{Reservation, fill_owned};

/// The frames that are not written yet.
///
/// Short frames are copied into one vector, so that many are written as one slice. A content of
/// 4 KiB or more is a slice of its own, and is not copied if it is shared.
///
/// The copied frames take at most 4 × [`len`](Self::len) bytes: written bytes stay in the vector
/// until they are half of it, and a vector doubles its capacity. `len` is at most 64 KiB
/// and one message. A content with a slice of its own keeps all of its memory until its last byte
/// is written.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Slices in the order in which they are written, each with its reservation under the quota.
    queue: VecDeque<(Bytes, Reservation)>,
    /// The copied frames that follow the queue. The first `written` bytes are written.
    tail: Vec<u8>,
    written: usize,
    /// Bytes of output that are pending.
    len: usize,
}

impl Outbox {
    /// How many bytes of the quota `content` takes while it is pending. A content that is copied
    /// takes none, and neither does one that has another owner.
    pub(super) fn reserved_for(content: &Content<'_>) -> usize {
        match content {
            _ if content.len() < MIN_SLICE => 0,
            Content::Bytes(bytes) if !bytes.is_unique() => 0,
            Content::Slice(_) | Content::Bytes(_) => content.len(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether another message may be pushed, of any length: fewer than [`HIGH_WATER_MARK`] bytes
    /// are pending.
    pub(super) fn has_room(&self) -> bool {
        self.len < HIGH_WATER_MARK
    }

    /// Appends a message. Its content keeps `reservation` until it is written.
    pub(super) fn push(
        &mut self,
        message: Message<'_>,
        reservation: Reservation,
    ) -> Result<(), EncodeError> {
        let old_len = self.tail.len();
        message.header().encode(&mut self.tail)?;
        self.len += self.tail.len() - old_len + message.content.len();
        if message.content.len() < MIN_SLICE {
            self.tail.extend_from_slice(&message.content);
        } else {
            let mut head = Bytes::from(mem::take(&mut self.tail));
            head.advance(mem::take(&mut self.written));
            let content = message.content.into_bytes();
            self.queue.extend([(head, Reservation::default()), (content, reservation)]);
        }
        Ok(())
    }

    pub(super) fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let tail = Some(&self.tail[self.written..]).filter(|tail| !tail.is_empty());
        let slices = self.queue.iter().map(|(bytes, _)| &bytes[..]).chain(tail);
        out.iter_mut().zip(slices).map(|(out, slice)| *out = slice).count()
    }

    /// Like `write_bufs`, as [`Bytes`]. Contents of 4 KiB or more are not copied.
    pub(super) fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        let tail = &self.tail[self.written..];
        let tail = iter::once_with(|| Bytes::copy_from_slice(&tail[..tail.len().min(max)]));
        fill_owned(out, max, self.queue.iter().map(|(bytes, _)| bytes.clone()).chain(tail))
    }

    /// Removes the first `n` bytes, which were written.
    pub(super) fn consume(&mut self, mut n: usize) {
        self.len -= n;
        while let Some((first, _)) = self.queue.front_mut() {
            if n < first.len() {
                first.advance(n);
                return;
            }
            n -= first.len();
            self.queue.pop_front();
        }
        self.written += n;
        if self.written == self.tail.len() {
            self.tail.clear();
            self.written = 0;
        } else if self.written >= self.tail.len() - self.written {
            // This moves no more bytes than were written.
            self.tail.drain(..mem::take(&mut self.written));
        }
    }

    /// Discards all output.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Frees the memory if no output is pending.
    pub(super) fn release(&mut self) {
        if self.is_empty() {
            self.clear();
        }
    }
}

/// The number of pending bytes at which no further message is pushed: enough for an efficient
/// write.
pub(super) const HIGH_WATER_MARK: usize = 64 * 1024;
/// The shortest content, in bytes, that is a slice of its own. Shorter ones are cheaper to copy.
const MIN_SLICE: usize = 4096;
