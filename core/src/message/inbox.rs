//! Whole messages out of bytes, each received where it is used.

use alloc::{boxed::Box, vec::Vec};

use super::{Content, DecodeError, Header, Limits, Message, decoder::PREFIX};
use crate::buffer::{Pool, Quota, QuotaExceeded, Reservation};

/// Collects whole messages. The kernel reads into [`spare`](Self::spare), and a message borrows
/// from there; only a content that is larger than the buffer has memory of its own, which the
/// kernel then reads into.
///
/// It holds one buffer of the pool while it holds bytes, and of a larger content what has arrived
/// and room for 1 MiB more at most, whatever length was declared. Several inboxes can share a limit
/// on the memory of such contents ([`under`](Self::under)).
///
/// ```
/// use wirestate_core::{buffer::Pool, message::{Inbox, Limits, Message}};
///
/// let mut frame = Vec::new();
/// Message::binary("hello").encode(&mut frame)?;
///
/// let mut inbox = Inbox::new(Limits::default(), Pool::new(64 * 1024, 1));
/// inbox.spare()[..frame.len()].copy_from_slice(&frame); // a read
/// inbox.commit(frame.len());
/// let message = inbox.take()?.expect("all of it is there");
/// assert_eq!(&*message.content, b"hello");
/// assert_eq!(inbox.take()?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Inbox {
    limits: Limits,
    pool: Pool,
    buffer: Option<Box<[u8]>>,
    /// The bytes that are not taken yet.
    start: usize,
    end: usize,
    /// The frame whose header was taken.
    begun: Option<Begun>,
    quota: Quota,
    /// The memory of a content that is larger than the buffer.
    memory: Reservation,
}

#[derive(Debug)]
struct Begun {
    header: Header<'static>,
    /// How long the frame is before its content.
    head: usize,
    content: Where,
}

/// Where a content that has not come whole comes to.
#[derive(Debug)]
enum Where {
    /// In the buffer.
    Buffer { length: usize },
    /// To memory of its own, of which the first `filled` bytes have come.
    Own { content: Vec<u8>, filled: usize, length: usize },
    /// Away, in pieces.
    Stream { left: u64 },
}

/// How a content is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Whole, with its message: at most [`Limits::content`] bytes.
    Collect,
    /// In pieces, as they come; the message follows without a content.
    Stream {
        /// The most bytes that it may declare, in place of [`Limits::content`].
        limit: u64,
    },
}

/// What an [`Inbox`] has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A message.
    Message(Message<'a>),
    /// A piece of a content that is [streamed](Delivery::Stream). When all pieces have come, the
    /// message does, without a content.
    Piece(&'a [u8]),
}

/// A frame that has not come whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Bytes of it that have come.
    pub have: u64,
    /// Bytes that it has, as far as that is known ([`DecodeError::Truncated`]).
    pub need: u64,
    /// Whether its header has come.
    pub header: bool,
}

impl Inbox {
    /// An empty inbox.
    ///
    /// # Panics
    /// If a buffer of `pool` can't hold the longest header and its two bytes.
    pub fn new(limits: Limits, pool: Pool) -> Self {
        let longest = PREFIX + usize::from(limits.header);
        assert!(pool.size() >= longest, "a buffer must hold the longest header");
        Self {
            limits,
            pool,
            buffer: None,
            start: 0,
            end: 0,
            begun: None,
            quota: Quota::unlimited(),
            memory: Reservation::default(),
        }
    }

    /// Counts contents that are larger than the buffer under `quota`, when memory for them is
    /// [reserved](Self::reserve).
    pub fn under(mut self, quota: Quota) -> Self {
        self.quota = quota;
        self
    }

    /// Reserves the memory that the next [`spare`](Self::spare) will allocate, if it does. Call it
    /// when [`take`](Self::take) has returned no message.
    ///
    /// # Errors
    /// The quota has no room for it. The bytes received so far are kept.
    pub fn reserve(&mut self) -> Result<(), QuotaExceeded> {
        let Some(Begun { content: Where::Own { content, filled, length }, .. }) = &self.begun
        else {
            return Ok(());
        };
        if *filled < content.len() {
            return Ok(());
        }
        let size = grown(self.limits, *filled, *length);
        self.quota.resize(&mut self.memory, size)
    }

    /// The reservation of the last message's content. Unless it is taken, it ends when the next
    /// message is asked for.
    pub(super) fn take_memory(&mut self) -> Reservation {
        core::mem::take(&mut self.memory)
    }

    /// Where the next bytes go: never empty once [`take`](Self::take) has answered that there is
    /// nothing.
    pub fn spare(&mut self) -> &mut [u8] {
        if let Some(Begun { content: Where::Own { content, filled, length }, .. }) = &mut self.begun
        {
            if *filled == content.len() {
                let size = grown(self.limits, *filled, *length);
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

    /// The first `n` bytes of [`spare`](Self::spare) have arrived.
    ///
    /// # Panics
    /// If that is more than there was room for.
    pub fn commit(&mut self, n: usize) {
        if let Some(Begun { content: Where::Own { content, filled, .. }, .. }) = &mut self.begun {
            assert!(n <= content.len() - *filled, "committed more than there was room for");
            *filled += n;
        } else {
            let size = self.buffer.as_ref().map_or(0, |buffer| buffer.len());
            assert!(n <= size - self.end, "committed more than there was room for");
            self.end += n;
        }
    }

    /// The next message that has come whole.
    ///
    /// # Errors
    /// The input is no frame. It stays so: the same error is answered ever after.
    ///
    /// # Panics
    /// If a content is being streamed ([`take_by`](Self::take_by)).
    pub fn take(&mut self) -> Result<Option<Message<'_>>, DecodeError> {
        match self.take_by(|_| Delivery::Collect)? {
            Some(Incoming::Message(message)) => Ok(Some(message)),
            Some(Incoming::Piece(_)) => panic!("a content is being streamed"),
            None => Ok(None),
        }
    }

    /// The next message, or the next piece of one's content: `delivery` chooses, for each header,
    /// before what that declares is held to the limit.
    ///
    /// # Errors
    /// The input is no frame, and is left where it is.
    pub fn take_by(
        &mut self,
        delivery: impl FnOnce(&Header<'_>) -> Delivery,
    ) -> Result<Option<Incoming<'_>>, DecodeError> {
        let Self { limits, pool, buffer, start, end, begun, memory, .. } = self;
        let buffer = buffer.as_deref().unwrap_or(&[]);
        if begun.is_none() {
            *memory = Reservation::default();
            let bytes = &buffer[*start..*end];
            let Some(length) = limits.header_length(bytes)? else { return Ok(None) };
            let head = PREFIX + length;
            if bytes.len() < head {
                return Ok(None);
            }
            let (header, content) = bytes.split_at(head);
            let header = Header::from_json(&header[PREFIX..])?;
            let delivery = delivery(&header);
            let (declared, limit) = match delivery {
                // What can't be addressed can't be collected, whatever the limit is.
                Delivery::Collect => (header.content_length, limits.content.min(ADDRESSABLE)),
                Delivery::Stream { limit } => (header.content_length, limit),
            };
            if declared > limit {
                return Err(DecodeError::ContentTooLong { declared, limit });
            }
            *start += head;
            let length = usize::try_from(declared).unwrap_or(usize::MAX);
            let content = match delivery {
                Delivery::Stream { .. } => Where::Stream { left: declared },
                Delivery::Collect if length <= content.len() => {
                    *start += length;
                    let message = message(header, Content::Slice(&content[..length]));
                    return Ok(Some(Incoming::Message(message)));
                }
                Delivery::Collect if length <= pool.size() => Where::Buffer { length },
                Delivery::Collect => {
                    *start = *end;
                    Where::Own { content: content.to_vec(), filled: content.len(), length }
                }
            };
            *begun = Some(Begun { header: header.into_owned(), head, content });
        }
        let bytes = &buffer[*start..*end];
        let whole = match begun.as_mut().map(|begun| &mut begun.content) {
            None => false,
            Some(Where::Buffer { length }) => bytes.len() >= *length,
            Some(Where::Own { filled, length, .. }) => filled == length,
            Some(Where::Stream { left: 0 }) => true,
            Some(Where::Stream { left }) => {
                let n = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= n as u64;
                *start += n;
                return Ok((n > 0).then(|| Incoming::Piece(&bytes[..n])));
            }
        };
        let Some(Begun { header, content, .. }) = begun.take_if(|_| whole) else { return Ok(None) };
        let content = match content {
            Where::Buffer { length } => {
                *start += length;
                Content::Slice(&bytes[..length])
            }
            Where::Own { content, .. } => Content::from(content),
            Where::Stream { .. } => Content::Slice(&[]),
        };
        Ok(Some(Incoming::Message(message(header, content))))
    }

    /// The frame that has not come whole, if its first byte has come. For when
    /// [`take`](Self::take) has answered that there is nothing.
    pub fn partial(&self) -> Option<Partial> {
        let available = self.end - self.start;
        let Some(Begun { header, head, content }) = &self.begun else {
            let buffer = self.buffer.as_ref().filter(|_| available > 0)?;
            // What can't be a header was refused before.
            let length = self.limits.header_length(&buffer[self.start..self.end]).ok().flatten();
            let need = (PREFIX + length.unwrap_or(0)) as u64;
            return Some(Partial { have: available as u64, need, header: false });
        };
        let have = match content {
            Where::Buffer { .. } => available as u64,
            Where::Own { filled, .. } => *filled as u64,
            Where::Stream { left } => header.content_length - left + available as u64,
        };
        let (head, length) = (*head as u64, header.content_length);
        Some(Partial { have: head + have, need: head.saturating_add(length), header: true })
    }

    /// Forgets all that has come.
    pub fn clear(&mut self) {
        (self.start, self.end, self.begun) = (0, 0, None);
        self.memory = Reservation::default();
    }

    /// Gives the buffer back if it holds nothing.
    pub fn release(&mut self) {
        if self.start == self.end
            && let Some(buffer) = self.buffer.take()
        {
            (self.start, self.end) = (0, 0);
            self.pool.give(buffer);
        }
    }
}

fn message<'a>(header: Header<'a>, content: Content<'a>) -> Message<'a> {
    let Header { byteorder, content_type, content_encoding, content_length: _ } = header;
    Message { byteorder, content_type, content_encoding, content }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.clear();
        self.release();
    }
}

/// The size to which the memory of a content grows, for a content of `length` bytes that is larger
/// than the buffer and of which `filled` bytes have arrived. The size doubles, by at least 64 KiB
/// and at most a sixteenth of the limit (never more than 1 MiB). So the memory that a peer can
/// claim exceeds what it has sent by a constant. Up to a limit of 16 MiB the content is moved some
/// sixteen times. (Beyond that, an allocator that can't extend it in place moves it once a MiB:
/// stream such contents.)
fn grown(limits: Limits, filled: usize, length: usize) -> usize {
    const LEAST: usize = 64 * 1024;
    const MOST: usize = 1024 * 1024;
    let share = usize::try_from(limits.content / 16).unwrap_or(MOST);
    let step = filled.clamp(LEAST, share.clamp(LEAST, MOST));
    filled + step.min(length - filled)
}

/// The longest content that memory has addresses for (a vector's limit).
const ADDRESSABLE: u64 = isize::MAX as u64;
