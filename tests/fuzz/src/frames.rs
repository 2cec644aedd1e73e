//! A simple reader of frames, to compare the machines with. It reads all bytes at once, from the
//! start.

use wirestate_core::message::{Content, DecodeError, FrameLimits, Header, Message};

/// The frames in some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frames {
    /// The whole frames, up to the first invalid one.
    pub(super) messages: Vec<Message<'static>>,
    pub(super) rest: Rest,
}

/// What follows the whole frames of an input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// No byte.
    Nothing,
    /// A part of a frame. `partial` has the received content, if the header is complete.
    Incomplete { received: u64, expected: u64, partial: Option<Message<'static>> },
    /// An invalid frame.
    Invalid(DecodeError),
}

impl Rest {
    /// The result of a decoder if the input ends here.
    pub(super) fn at_end(&self) -> Result<(), DecodeError> {
        match self {
            Self::Nothing => Ok(()),
            Self::Incomplete { received, expected, partial: _ } => {
                Err(DecodeError::Truncated { received: *received, expected: *expected })
            }
            Self::Invalid(error) => Err(error.clone()),
        }
    }
}

/// Reads `input`. `max_content` returns the limit on the content of a frame, by its header.
pub(super) fn read(
    mut input: &[u8],
    limits: FrameLimits,
    max_content: impl Fn(&Header<'_>) -> u64,
) -> Frames {
    let mut messages = Vec::new();
    let rest = loop {
        match frame(input, limits, &max_content) {
            Ok((message, rest)) => {
                messages.push(message);
                input = rest;
            }
            Err(rest) => break rest,
        }
    };
    Frames { messages, rest }
}

fn frame<'i>(
    input: &'i [u8],
    limits: FrameLimits,
    max_content: &impl Fn(&Header<'_>) -> u64,
) -> Result<(Message<'static>, &'i [u8]), Rest> {
    let received = input.len() as u64;
    let incomplete = |expected, partial| Rest::Incomplete { received, expected, partial };
    let (first, second) = match input {
        [] => return Err(Rest::Nothing),
        [_] => return Err(incomplete(2, None)),
        [first, second, ..] => (*first, *second),
    };
    let declared = u16::from_be_bytes([first, second]);
    if declared == 0 {
        return Err(Rest::Invalid(DecodeError::EmptyHeader));
    }
    if declared > limits.max_header {
        return Err(Rest::Invalid(DecodeError::HeaderTooLong {
            declared,
            limit: limits.max_header,
        }));
    }
    let head = 2 + usize::from(declared);
    if input.len() < head {
        return Err(incomplete(head as u64, None));
    }
    let (json, rest) = (&input[2..head], &input[head..]);
    let header = Header::from_json(json).map_err(|error| Rest::Invalid(error.into()))?;
    let (declared, limit) = (header.content_length, max_content(&header));
    if declared > limit {
        return Err(Rest::Invalid(DecodeError::ContentTooLong { declared, limit }));
    }
    let length = usize::try_from(declared).unwrap_or(usize::MAX);
    let (content, rest) = rest.split_at(length.min(rest.len()));
    let message = with_content(header.into_owned(), content);
    if content.len() < length {
        return Err(incomplete(declared.saturating_add(head as u64), Some(message)));
    }
    Ok((message, rest))
}

/// The message of `header` with `content`, which may be incomplete.
pub(super) fn with_content(header: Header<'static>, content: &[u8]) -> Message<'static> {
    let Header { byteorder, content_type, content_encoding, content_length: _ } = header;
    let content = Content::from(content.to_vec());
    Message { byteorder, content_type, content_encoding, content }
}
