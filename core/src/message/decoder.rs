//! An incremental decoder of frames.

use alloc::vec::Vec;

use super::{FrameLimits, Header, HeaderError, frame_limits::LENGTH_PREFIX};
use crate::{Fault, machine::impl_reason};

/// Splits a stream of bytes into frames.
///
/// The frames do not depend on how the stream is split into reads.
///
/// A decoder does not store contents, so a content may be of any length. If a header arrives in
/// parts, the decoder holds the header until the frame ends: at most
/// 2 × (2 + [`FrameLimits::max_header`]) bytes, because a vector doubles its capacity.
///
/// To receive whole messages, use an [`Inbox`](super::Inbox).
///
/// ```
/// use wirestate_core::message::{DecodeEvent, Decoder, FrameLimits, Message};
///
/// let mut frame = Vec::new();
/// Message::binary("hello").encode(&mut frame)?;
///
/// let mut decoder = Decoder::new(FrameLimits::default());
/// let mut content = Vec::new();
/// for mut input in frame.chunks(7) {
///     while let Some(event) = decoder.decode(&mut input)? {
///         match event {
///             DecodeEvent::Header(header) => assert_eq!(header.content_length, 5),
///             DecodeEvent::Content(bytes) => content.extend_from_slice(bytes),
///             DecodeEvent::End => assert_eq!(content, b"hello"),
///         }
///     }
/// }
/// decoder.finish()?; // the stream did not end within a frame
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Decoder {
    limits: FrameLimits,
    state: State,
    /// The length prefix and header of a frame whose header arrived in parts.
    head: Vec<u8>,
}

/// An event of a [`Decoder`]. Each frame has its events in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeEvent<'a> {
    /// The header of a frame.
    Header(Header<'a>),
    /// The next bytes of the content, at least one. An empty content has no event of this kind.
    Content(&'a [u8]),
    /// The end of the frame.
    End,
}

/// Why input is not a sequence of frames.
///
/// The error does not depend on how the input is split into reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The length prefix declares a header of 0 bytes, which cannot be a JSON object.
    #[error("a header of 0 bytes")]
    EmptyHeader,
    /// The length prefix declares a header longer than [`FrameLimits::max_header`].
    #[error("a header of {declared} bytes, more than the limit of {limit}")]
    HeaderTooLong {
        /// The declared length, in bytes.
        declared: u16,
        /// The limit, in bytes.
        limit: u16,
    },
    /// The header is invalid.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The header declares a content longer than [`FrameLimits::max_content`], or than
    /// [`Delivery::Stream::max_content`](super::Delivery::Stream::max_content).
    #[error("a content of {declared} bytes, more than the limit of {limit}")]
    ContentTooLong {
        /// The declared length, in bytes.
        declared: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The input ended within a frame.
    #[error("the input ended after {received} of a frame's {expected} bytes")]
    Truncated {
        /// Bytes of the frame that have arrived.
        received: u64,
        /// The length of the frame as far as it is known, in bytes: 2 until the length prefix has
        /// arrived, then without the content until the header has arrived.
        expected: u64,
    },
}

impl_reason!(DecodeError {
    Self::EmptyHeader => ("empty_header", Fault::Peer),
    Self::HeaderTooLong { .. } => ("header_too_long", Fault::Limit),
    Self::Header(_) => ("bad_header", Fault::Peer),
    Self::ContentTooLong { .. } => ("content_too_long", Fault::Limit),
    Self::Truncated { .. } => ("truncated", Fault::Peer),
});

#[derive(Clone, Debug)]
enum State {
    /// Within a length prefix or a header.
    Head,
    Content {
        /// Bytes of content that have not arrived.
        remaining: u64,
        /// The length of the whole content, in bytes.
        length: u64,
        /// The length of the length prefix and the header, in bytes.
        head: u64,
    },
    Failed(DecodeError),
}

impl Decoder {
    /// A decoder at the start of a frame.
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits, state: State::Head, head: Vec::new() }
    }

    /// Returns the next event in `input`, and advances `input` past it. `None` means that all of
    /// `input` is consumed and the next event needs more.
    ///
    /// # Errors
    /// The input is not a frame. Every later call returns the same error and consumes nothing.
    pub fn decode<'d, 'i: 'd>(
        &'d mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<DecodeEvent<'d>>, DecodeError> {
        match self.state {
            State::Head => self.decode_head(input),
            State::Content { remaining: 0, .. } => {
                self.state = State::Head;
                self.head = Vec::new();
                Ok(Some(DecodeEvent::End))
            }
            State::Content { .. } if input.is_empty() => Ok(None),
            State::Content { ref mut remaining, .. } => {
                let n = usize::try_from(*remaining).map_or(input.len(), |n| n.min(input.len()));
                *remaining -= n as u64;
                Ok(Some(DecodeEvent::Content(split_off(input, n))))
            }
            State::Failed(ref error) => Err(error.clone()),
        }
    }

    /// Checks that the last frame is complete. Call this at the end of the input.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], or the error that [`decode`](Self::decode) returned before.
    pub fn finish(&self) -> Result<(), DecodeError> {
        let (received, expected) = match &self.state {
            State::Failed(error) => return Err(error.clone()),
            State::Head if self.head.is_empty() => return Ok(()),
            State::Head => {
                // `decode` has refused a header that is too long.
                let length = self.limits.header_length(&self.head)?.unwrap_or(0);
                (self.head.len() as u64, (LENGTH_PREFIX + length) as u64)
            }
            // The frame is complete, although `decode` has not returned its end.
            State::Content { remaining: 0, .. } => return Ok(()),
            State::Content { remaining, length, head } => {
                (head.saturating_add(length - remaining), head.saturating_add(*length))
            }
        };
        Err(DecodeError::Truncated { received, expected })
    }

    fn decode_head<'d, 'i: 'd>(
        &'d mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<DecodeEvent<'d>>, DecodeError> {
        let Self { limits, state, head } = self;
        if head.is_empty()
            && let Some(length) = limits.header_length(input).map_err(|error| state.fail(error))?
            && input.len() >= LENGTH_PREFIX + length
        {
            // The header is whole in `input`, so it is not copied.
            return state.begin_content(*limits, split_off(input, LENGTH_PREFIX + length));
        }
        loop {
            let length = limits.header_length(head).map_err(|error| state.fail(error))?;
            let expected = LENGTH_PREFIX + length.unwrap_or(0);
            if length.is_some() && head.len() == expected {
                return state.begin_content(*limits, head);
            }
            let missing = expected - head.len();
            let n = missing.min(input.len());
            head.extend_from_slice(split_off(input, n));
            if n < missing {
                return Ok(None);
            }
        }
    }
}

impl State {
    /// Parses the header in `head`. The content is expected next.
    fn begin_content<'a>(
        &mut self,
        limits: FrameLimits,
        head: &'a [u8],
    ) -> Result<Option<DecodeEvent<'a>>, DecodeError> {
        let json = &head[LENGTH_PREFIX..];
        let header = limits.parse_header(json).map_err(|error| self.fail(error))?;
        let length = header.content_length;
        *self = Self::Content { remaining: length, length, head: head.len() as u64 };
        Ok(Some(DecodeEvent::Header(header)))
    }

    fn fail(&mut self, error: DecodeError) -> DecodeError {
        *self = Self::Failed(error.clone());
        error
    }
}

/// Removes the first `n` bytes from `input`, and returns them.
fn split_off<'a>(input: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (first, rest) = input.split_at(n);
    *input = rest;
    first
}
