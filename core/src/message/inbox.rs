//! The receive buffer, which returns whole messages.

use alloc::{boxed::Box, vec::Vec};
use core::mem;

use super::{Content, DecodeError, FrameLimits, Header, Message, frame_limits::LENGTH_PREFIX};
use crate::{
    ConfigError,
    buffer::{Pool, Quota, QuotaExceeded, Reservation},
    protocol::{Input, NoSpace, PartialFrame},
};

/// Receives whole messages.
///
/// A read fills [`spare`](Self::spare), and a message borrows from there. A content that is larger
/// than the buffer gets an allocation of its own, and later reads fill that directly.
///
/// An inbox holds one buffer of its pool while it holds bytes. A content that is larger than the
/// buffer takes memory for the bytes received and at most 1 MiB more, even if the header declares a
/// greater length. Several inboxes can share a limit on the memory of large contents
/// ([`with_quota`](Self::with_quota)).
///
/// ```
/// use wirestate_core::{buffer::Pool, message::{FrameLimits, Inbox, Message}};
///
/// let mut frame = Vec::new();
/// Message::binary("hello").encode(&mut frame)?;
///
/// let mut inbox = Inbox::new(FrameLimits::default(), Pool::new(64 * 1024, 1))?;
/// inbox.spare()[..frame.len()].copy_from_slice(&frame); // a read
/// inbox.commit(frame.len());
/// let message = inbox.next_message()?.expect("the whole frame has arrived");
/// assert_eq!(&*message.content, b"hello");
/// assert_eq!(inbox.next_message()?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Inbox {
    limits: FrameLimits,
    pool: Pool,
    buffer: Option<Box<[u8]>>,
    /// The unread bytes of the buffer are at `start..end`.
    start: usize,
    end: usize,
    /// The frame whose header is parsed and whose content is incomplete.
    current: Option<CurrentFrame>,
    quota: Quota,
    /// The reservation for a content in an allocation of its own.
    reservation: Reservation,
}

#[derive(Debug)]
struct CurrentFrame {
    header: Header<'static>,
    /// The length of the length prefix and the header, in bytes.
    head: usize,
    content: PartialContent,
}

/// The content of a frame that is being received.
#[derive(Debug)]
enum PartialContent {
    /// In the buffer.
    Buffered { length: usize },
    /// In an allocation of its own. Its first `filled` bytes have arrived.
    Allocated { content: Vec<u8>, filled: usize, length: usize },
    /// Not stored: it is delivered in chunks.
    Streamed { remaining: u64 },
}

/// How a content is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Whole, with its message. It is at most [`FrameLimits::max_content`] bytes long.
    Collect,
    /// In chunks, as they arrive. The message follows with an empty content.
    Stream {
        /// The longest content, in bytes, instead of [`FrameLimits::max_content`].
        max_content: u64,
    },
}

/// A message, or a part of one, that an [`Inbox`] delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A message. Its content is empty if it was [streamed](Delivery::Stream).
    Message(Message<'a>),
    /// The next bytes of a content that is [streamed](Delivery::Stream), at least one.
    Chunk(&'a [u8]),
}

impl Inbox {
    /// An empty inbox.
    ///
    /// # Errors
    /// The buffers of `pool` are smaller than the longest header and its length prefix.
    pub fn new(limits: FrameLimits, pool: Pool) -> Result<Self, ConfigError> {
        let (value, min) = (pool.size(), limits.max_head());
        if value < min {
            let (value, min) = (value as u64, min as u64);
            return Err(ConfigError::TooSmall { setting: "pool.size", value, min });
        }
        Ok(Self::with_valid(limits, pool))
    }

    pub(super) fn with_valid(limits: FrameLimits, pool: Pool) -> Self {
        Self {
            limits,
            pool,
            buffer: None,
            start: 0,
            end: 0,
            current: None,
            quota: Quota::unlimited(),
            reservation: Reservation::default(),
        }
    }

    /// Counts contents that are larger than the buffer under `quota`. Their memory is
    /// [reserved](Self::reserve) there.
    pub fn with_quota(mut self, quota: Quota) -> Self {
        self.quota = quota;
        self
    }

    /// The room for the next read. It is not empty if [`next_message`](Self::next_message) has
    /// returned `None`.
    pub fn spare(&mut self) -> &mut [u8] {
        if let Some(CurrentFrame {
            content: PartialContent::Allocated { content, filled, length },
            ..
        }) = &mut self.current
        {
            if *filled == content.len() {
                let size = grown_size(self.limits, *filled, *length);
                content.reserve_exact(size - *filled);
                content.resize(size, 0);
            }
            return &mut content[*filled..];
        }
        let buffer = self.buffer.get_or_insert_with(|| self.pool.take());
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && buffer.len() - self.end < buffer.len() / 4 {
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut buffer[self.end..]
    }

    /// Adds the first `n` bytes of [`spare`](Self::spare) to the input, after a read has filled
    /// them.
    ///
    /// # Panics
    /// `n` exceeds the length of `spare`.
    pub fn commit(&mut self, n: usize) {
        if let Some(CurrentFrame {
            content: PartialContent::Allocated { content, filled, .. },
            ..
        }) = &mut self.current
        {
            assert!(n <= content.len() - *filled, "{EXCESS}");
            *filled += n;
        } else {
            let size = self.buffer.as_ref().map_or(0, |buffer| buffer.len());
            assert!(n <= size - self.end, "{EXCESS}");
            self.end += n;
        }
    }

    /// The next complete message. `None` means that more input is needed.
    ///
    /// # Errors
    /// The input is not a frame. Every later call returns the same error.
    ///
    /// # Panics
    /// A content is being streamed: use [`next_incoming`](Self::next_incoming) until it has ended.
    pub fn next_message(&mut self) -> Result<Option<Message<'_>>, DecodeError> {
        match self.next_incoming(|_| Delivery::Collect)? {
            Some(Incoming::Message(message)) => Ok(Some(message)),
            Some(Incoming::Chunk(_)) => panic!("next_message was called within a streamed content"),
            None => Ok(None),
        }
    }

    /// The next message, or the next chunk of a streamed content. `None` means that more input is
    /// needed.
    ///
    /// `delivery` is called once for each header, before the length that it declares is checked.
    ///
    /// # Errors
    /// The input is not a frame. Every later call returns the same error if `delivery` makes the
    /// same choice.
    pub fn next_incoming(
        &mut self,
        delivery: impl FnOnce(&Header<'_>) -> Delivery,
    ) -> Result<Option<Incoming<'_>>, DecodeError> {
        let Self { limits, pool, buffer, start, end, current, reservation, .. } = self;
        let buffer = buffer.as_deref().unwrap_or(&[]);
        if current.is_none() {
            *reservation = Reservation::default();
            let bytes = &buffer[*start..*end];
            let Some(length) = limits.header_length(bytes)? else { return Ok(None) };
            let head = LENGTH_PREFIX + length;
            if bytes.len() < head {
                return Ok(None);
            }
            let (header, content) = bytes.split_at(head);
            let header = Header::from_json(&header[LENGTH_PREFIX..])?;
            let delivery = delivery(&header);
            let (declared, limit) = match delivery {
                // A content that exceeds the address space cannot be collected, even if the limit
                // allows it.
                Delivery::Collect => {
                    (header.content_length, limits.max_content.min(MAX_ADDRESSABLE))
                }
                Delivery::Stream { max_content } => (header.content_length, max_content),
            };
            if declared > limit {
                return Err(DecodeError::ContentTooLong { declared, limit });
            }
            *start += head;
            let length = usize::try_from(declared).unwrap_or(usize::MAX);
            let content = match delivery {
                Delivery::Stream { .. } => PartialContent::Streamed { remaining: declared },
                Delivery::Collect if length <= content.len() => {
                    *start += length;
                    let message = message(header, Content::Slice(&content[..length]));
                    return Ok(Some(Incoming::Message(message)));
                }
                Delivery::Collect if length <= pool.size() => PartialContent::Buffered { length },
                Delivery::Collect => {
                    *start = *end;
                    let (content, filled) = (content.to_vec(), content.len());
                    PartialContent::Allocated { content, filled, length }
                }
            };
            *current = Some(CurrentFrame { header: header.into_owned(), head, content });
        }
        let bytes = &buffer[*start..*end];
        let is_complete = match current.as_mut().map(|current| &mut current.content) {
            None => false,
            Some(PartialContent::Buffered { length }) => bytes.len() >= *length,
            Some(PartialContent::Allocated { filled, length, .. }) => filled == length,
            Some(PartialContent::Streamed { remaining: 0 }) => true,
            Some(PartialContent::Streamed { remaining }) => {
                let n = usize::try_from(*remaining).map_or(bytes.len(), |n| n.min(bytes.len()));
                *remaining -= n as u64;
                *start += n;
                return Ok((n > 0).then(|| Incoming::Chunk(&bytes[..n])));
            }
        };
        let Some(CurrentFrame { header, content, .. }) = current.take_if(|_| is_complete) else {
            return Ok(None);
        };
        let content = match content {
            PartialContent::Buffered { length } => {
                *start += length;
                Content::Slice(&bytes[..length])
            }
            PartialContent::Allocated { content, .. } => Content::from(content),
            PartialContent::Streamed { .. } => Content::Slice(&[]),
        };
        Ok(Some(Incoming::Message(message(header, content))))
    }

    /// Reserves, under the [quota](Self::with_quota), the memory that the next call of
    /// [`spare`](Self::spare) allocates. Call it when [`next_message`](Self::next_message) has
    /// returned `None`.
    ///
    /// # Errors
    /// The memory would exceed the quota. The inbox still holds the bytes received.
    pub fn reserve(&mut self) -> Result<(), QuotaExceeded> {
        let Some(CurrentFrame {
            content: PartialContent::Allocated { content, filled, length },
            ..
        }) = &self.current
        else {
            return Ok(());
        };
        if *filled < content.len() {
            return Ok(());
        }
        let size = grown_size(self.limits, *filled, *length);
        self.quota.resize(&mut self.reservation, size)
    }

    /// Removes and returns the reservation for the content of the last message. Otherwise the next
    /// call of [`next_incoming`](Self::next_incoming) ends it.
    pub(super) fn take_reservation(&mut self) -> Reservation {
        mem::take(&mut self.reservation)
    }

    /// How much of the current frame has arrived; `None` between two frames. Call it when
    /// [`next_message`](Self::next_message) has returned `None`.
    pub fn partial(&self) -> Option<PartialFrame> {
        let available = self.end - self.start;
        let Some(CurrentFrame { header, head, content }) = &self.current else {
            let buffer = self.buffer.as_ref().filter(|_| available > 0)?;
            // `next_message` has refused an invalid length.
            let length = self.limits.header_length(&buffer[self.start..self.end]).ok().flatten();
            let expected = (LENGTH_PREFIX + length.unwrap_or(0)) as u64;
            return Some(PartialFrame::new(available as u64, expected, false));
        };
        let content = match content {
            PartialContent::Buffered { .. } => available as u64,
            PartialContent::Allocated { filled, .. } => *filled as u64,
            PartialContent::Streamed { remaining } => {
                header.content_length - remaining + available as u64
            }
        };
        let head = *head as u64;
        let expected = head.saturating_add(header.content_length);
        Some(PartialFrame::new(head + content, expected, true))
    }

    /// Discards all input.
    pub fn clear(&mut self) {
        (self.start, self.end, self.current) = (0, 0, None);
        self.reservation = Reservation::default();
    }

    /// Returns the buffer to the pool if it is empty.
    pub fn release(&mut self) {
        if self.start == self.end
            && let Some(buffer) = self.buffer.take()
        {
            (self.start, self.end) = (0, 0);
            self.pool.give(buffer);
        }
    }
}

impl Input for Inbox {
    fn spare(&mut self) -> &mut [u8] {
        self.spare()
    }

    fn commit(&mut self, n: usize) {
        self.commit(n);
    }

    /// Always: the buffer is longer than a header, and a content has an allocation of its own.
    fn has_space(&self) -> bool {
        true
    }

    fn partial(&self) -> Option<PartialFrame> {
        self.partial()
    }

    fn reserve(&mut self, _length: Option<usize>) -> Result<(), NoSpace> {
        Ok(self.reserve()?)
    }

    fn clear(&mut self) {
        self.clear();
    }

    fn release(&mut self) {
        self.release();
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.clear();
        self.release();
    }
}

fn message<'a>(header: Header<'a>, content: Content<'a>) -> Message<'a> {
    let Header { byteorder, content_type, content_encoding, content_length: _ } = header;
    Message { byteorder, content_type, content_encoding, content }
}

/// The size, in bytes, to which the allocation of a content grows when it is full.
///
/// The content is `length` bytes long, and `filled` bytes have arrived. The size doubles, by at
/// least 64 KiB and at most a sixteenth of the limit (never more than 1 MiB). So a peer can claim
/// at most 1 MiB more memory than it has sent. With a limit of up to 16 MiB, a content is copied at
/// most about 16 times. With a larger limit, it is copied once for each MiB, unless the allocator
/// extends it in place: stream contents of that size.
fn grown_size(limits: FrameLimits, filled: usize, length: usize) -> usize {
    const MIN_GROWTH: usize = 64 * 1024;
    const MAX_GROWTH: usize = 1024 * 1024;
    let share = usize::try_from(limits.max_content / 16).unwrap_or(MAX_GROWTH);
    let growth = filled.clamp(MIN_GROWTH, share.clamp(MIN_GROWTH, MAX_GROWTH));
    filled + growth.min(length - filled)
}

/// The longest content that fits into a vector, in bytes.
const MAX_ADDRESSABLE: u64 = isize::MAX as u64;
const EXCESS: &str = "committed more bytes than `spare` has";

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_buffer_smaller_than_the_longest_header_is_an_error_with_both_figures() {
        let limits = FrameLimits::default();
        let error = Inbox::new(limits, Pool::new(4097, 0)).unwrap_err();
        assert_eq!(error.to_string(), "pool.size is 4097, but must be at least 4098");
        assert!(Inbox::new(limits, Pool::new(4098, 0)).is_ok());
    }
}
