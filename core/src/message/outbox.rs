//! Messages on their way out.

use alloc::{collections::VecDeque, vec::Vec};
use core::{iter, mem};

use bytes::{Buf, Bytes};

use super::{Content, EncodeError, Message};
use crate::buffer::{Reservation, fill_owned};

/// Frames that wait to be sent: small ones side by side in one piece of memory, so that many go out
/// in one slice; a large content in memory of its own, which is not copied if it is shared.
///
/// What has been sent of the small ones stays until it is as much as the rest, so with a vector's
/// growth it takes at most 4 times [`len`](Self::len), and 64 KiB and one message go into that. A
/// large content takes all of its memory until its last byte is sent.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// The frames in their order, and what each part counts under the quota.
    queue: VecDeque<(Bytes, Reservation)>,
    /// What goes behind it, and how much of that is sent.
    tail: Vec<u8>,
    sent: usize,
    /// Bytes in all.
    len: usize,
}

impl Outbox {
    /// The bytes that count for `content` while it waits to be sent. A content that is copied
    /// beside others does not count, nor one that is shared with another owner.
    pub(super) fn counts(content: &Content<'_>) -> usize {
        match content {
            _ if content.len() < WORTH_A_SLICE => 0,
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

    /// Whether more may be put in: beyond that bound, one message's length at most.
    pub(super) fn has_room(&self) -> bool {
        self.len < HIGH_WATER
    }

    /// Appends a message, whose content counts as `memory` until it is sent.
    pub(super) fn push(
        &mut self,
        message: Message<'_>,
        memory: Reservation,
    ) -> Result<(), EncodeError> {
        let before = self.tail.len();
        message.header().encode(&mut self.tail)?;
        self.len += self.tail.len() - before + message.content.len();
        if message.content.len() < WORTH_A_SLICE {
            self.tail.extend_from_slice(&message.content);
        } else {
            let mut head = Bytes::from(mem::take(&mut self.tail));
            head.advance(mem::take(&mut self.sent));
            let content = message.content.into_bytes();
            self.queue.extend([(head, Reservation::default()), (content, memory)]);
        }
        Ok(())
    }

    pub(super) fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let tail = Some(&self.tail[self.sent..]).filter(|tail| !tail.is_empty());
        let slices = self.queue.iter().map(|(bytes, _)| &bytes[..]).chain(tail);
        out.iter_mut().zip(slices).map(|(out, slice)| *out = slice).count()
    }

    /// Contents of 4 KiB or more are not copied.
    pub(super) fn write_owned(&self, out: &mut [Bytes], most: usize) -> usize {
        let tail = &self.tail[self.sent..];
        let tail = iter::once_with(|| Bytes::copy_from_slice(&tail[..tail.len().min(most)]));
        fill_owned(out, most, self.queue.iter().map(|(bytes, _)| bytes.clone()).chain(tail))
    }

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
        self.sent += n;
        if self.sent == self.tail.len() {
            self.tail.clear();
            self.sent = 0;
        } else if self.sent >= self.tail.len() - self.sent {
            // No more is moved than was sent.
            self.tail.drain(..mem::take(&mut self.sent));
        }
    }

    /// Forgets all that was not sent.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Gives its memory back if it holds nothing.
    pub(super) fn release(&mut self) {
        if self.is_empty() {
            self.clear();
        }
    }
}

/// Above this nothing more is begun: enough for a write that is worth its system call.
pub(super) const HIGH_WATER: usize = 64 * 1024;
/// From here on a content goes out as a slice of its own: to copy less costs less than the slice.
const WORTH_A_SLICE: usize = 4096;
