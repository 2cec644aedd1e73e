//! Frames out of bytes, as they come.

use alloc::vec::Vec;

use super::{Header, HeaderError};
use crate::Fault;

/// How much a frame may declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest header, in bytes; 65,535 is the longest that there can be. Default: 4 KiB.
    pub header: u16,
    /// The longest content, in bytes. Default: 1 MiB.
    pub content: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { header: 4096, content: 1024 * 1024 }
    }
}

/// Why bytes are no frame. The same bytes give the same error, however they were cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A header of no bytes, which can't be an object.
    #[error("a header of 0 bytes")]
    EmptyHeader,
    /// [`Limits::header`]
    #[error("a header of {declared} bytes, more than the limit of {limit}")]
    HeaderTooLong {
        /// What the frame declares.
        declared: u16,
        /// The limit.
        limit: u16,
    },
    /// The header is wrong.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// [`Limits::content`]
    #[error("a content of {declared} bytes, more than the limit of {limit}")]
    ContentTooLong {
        /// What the header declares.
        declared: u64,
        /// The limit.
        limit: u64,
    },
    /// The input ended within a frame.
    #[error("the input ended after {have} of a frame's {need} bytes")]
    Truncated {
        /// Bytes of the frame that have come.
        have: u64,
        /// Bytes that the frame has, as far as that is known: 2 while its header's length is not,
        /// then without the content while the header is not.
        need: u64,
    },
}

impl DecodeError {
    /// A short name, for a metric's label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::EmptyHeader => "empty_header",
            Self::HeaderTooLong { .. } => "header_too_long",
            Self::Header(_) => "bad_header",
            Self::ContentTooLong { .. } => "content_too_long",
            Self::Truncated { .. } => "truncated",
        }
    }

    /// Whose fault it was: the peer broke the protocol, or it hit a limit.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::EmptyHeader | Self::Header(_) | Self::Truncated { .. } => Fault::Peer,
            Self::HeaderTooLong { .. } | Self::ContentTooLong { .. } => Fault::Limit,
        }
    }
}

impl Limits {
    /// The length of the header that begins a frame, once its two bytes are there.
    pub(super) fn header_length(self, frame: &[u8]) -> Result<Option<usize>, DecodeError> {
        let Some(prefix) = frame.first_chunk::<PREFIX>() else { return Ok(None) };
        match u16::from_be_bytes(*prefix) {
            0 => Err(DecodeError::EmptyHeader),
            declared if declared > self.header => {
                Err(DecodeError::HeaderTooLong { declared, limit: self.header })
            }
            length => Ok(Some(usize::from(length))),
        }
    }

    /// Reads a header that is there whole.
    pub(super) fn read_header(self, json: &[u8]) -> Result<Header<'_>, DecodeError> {
        let header = Header::from_json(json)?;
        let (declared, limit) = (header.content_length, self.content);
        if declared > limit {
            return Err(DecodeError::ContentTooLong { declared, limit });
        }
        Ok(header)
    }
}

/// What a [`Decoder`] has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A frame's header.
    Header(Header<'a>),
    /// The next bytes of its content, never none.
    Content(&'a [u8]),
    /// Its content is over; there need not have been any.
    End,
}

/// Finds frames in bytes, wherever these were cut, and holds none but those of a header that was
/// cut, until its content is over: at most twice 2 + [`Limits::header`] (a vector's growth). So a
/// content may be of any length.
///
/// For whole messages there is [`Inbox`](super::Inbox).
///
/// ```
/// use wirestate_core::message::{Decoder, Event, Limits, Message};
///
/// let mut frame = Vec::new();
/// Message::binary("hello").encode(&mut frame)?;
///
/// let mut decoder = Decoder::new(Limits::default());
/// let mut content = Vec::new();
/// for mut piece in frame.chunks(7) {
///     while let Some(event) = decoder.decode(&mut piece)? {
///         match event {
///             Event::Header(header) => assert_eq!(header.content_length, 5),
///             Event::Content(bytes) => content.extend_from_slice(bytes),
///             Event::End => assert_eq!(content, b"hello"),
///         }
///     }
/// }
/// decoder.finish()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Decoder {
    limits: Limits,
    state: State,
    /// What has come of a header that was cut, and its two bytes.
    head: Vec<u8>,
}

#[derive(Clone, Debug)]
enum State {
    Head,
    Content {
        left: u64,
        /// The whole content's.
        length: u64,
        /// The bytes before it.
        head: u64,
    },
    Failed(DecodeError),
}

impl Decoder {
    /// A decoder at the beginning of a frame.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Head, head: Vec::new() }
    }

    /// What comes next in `input`, which is moved past it; `None` once all of `input` was taken.
    ///
    /// # Errors
    /// The input is no frame. It stays so: the same error is answered ever after, and nothing more
    /// is taken.
    pub fn decode<'d, 'i: 'd>(
        &'d mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Event<'d>>, DecodeError> {
        match self.state {
            State::Head => self.decode_head(input),
            State::Content { left: 0, .. } => {
                self.state = State::Head;
                self.head = Vec::new();
                Ok(Some(Event::End))
            }
            State::Content { .. } if input.is_empty() => Ok(None),
            State::Content { ref mut left, .. } => {
                let n = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= n as u64;
                Ok(Some(Event::Content(take(input, n))))
            }
            State::Failed(ref error) => Err(error.clone()),
        }
    }

    /// The input has ended.
    ///
    /// # Errors
    /// It did so within a frame, or was none before.
    pub fn finish(&self) -> Result<(), DecodeError> {
        let (have, need) = match &self.state {
            State::Failed(error) => return Err(error.clone()),
            State::Head if self.head.is_empty() => return Ok(()),
            State::Head => {
                // A header that is too long was refused before.
                let length = self.limits.header_length(&self.head)?.unwrap_or(0);
                (self.head.len() as u64, (PREFIX + length) as u64)
            }
            // Its end only was not asked for.
            State::Content { left: 0, .. } => return Ok(()),
            State::Content { left, length, head } => {
                (head.saturating_add(length - left), head.saturating_add(*length))
            }
        };
        Err(DecodeError::Truncated { have, need })
    }

    fn decode_head<'d, 'i: 'd>(
        &'d mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Event<'d>>, DecodeError> {
        let Self { limits, state, head } = self;
        if head.is_empty()
            && let Some(length) = limits.header_length(input).map_err(|error| state.fail(error))?
            && input.len() >= PREFIX + length
        {
            // Nothing was cut, so nothing is copied.
            return state.begin(*limits, take(input, PREFIX + length));
        }
        loop {
            let length = limits.header_length(head).map_err(|error| state.fail(error))?;
            let need = PREFIX + length.unwrap_or(0);
            if length.is_some() && head.len() == need {
                return state.begin(*limits, head);
            }
            let missing = need - head.len();
            let n = missing.min(input.len());
            head.extend_from_slice(take(input, n));
            if n < missing {
                return Ok(None);
            }
        }
    }
}

impl State {
    /// A content follows the `head`.
    fn begin<'a>(
        &mut self,
        limits: Limits,
        head: &'a [u8],
    ) -> Result<Option<Event<'a>>, DecodeError> {
        let header = limits.read_header(&head[PREFIX..]).map_err(|error| self.fail(error))?;
        let left = header.content_length;
        *self = Self::Content { left, length: left, head: head.len() as u64 };
        Ok(Some(Event::Header(header)))
    }

    fn fail(&mut self, error: DecodeError) -> DecodeError {
        *self = Self::Failed(error.clone());
        error
    }
}

fn take<'a>(input: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(n);
    *input = rest;
    taken
}

/// The bytes that say how long a header is.
pub(super) const PREFIX: usize = 2;
