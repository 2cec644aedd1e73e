//! The frames in bytes, read by the plainest program: all at once, from the start. What machines
//! make of the same bytes is held against it.

use wirestate_core::message::{Content, DecodeError, Header, Limits, Message};

/// What bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frames {
    /// The whole frames, up to the first that is none.
    pub(super) messages: Vec<Message<'static>>,
    pub(super) rest: Rest,
}

/// What follows the whole frames.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Nothing,
    /// A part of a frame, and its content as far as it has come, if its header has.
    Part {
        have: u64,
        need: u64,
        begun: Option<Message<'static>>,
    },
    Wrong(DecodeError),
}

impl Rest {
    /// What an end of the input here comes to.
    pub(super) fn at_end(&self) -> Result<(), DecodeError> {
        match self {
            Self::Nothing => Ok(()),
            Self::Part { have, need, begun: _ } => {
                Err(DecodeError::Truncated { have: *have, need: *need })
            }
            Self::Wrong(error) => Err(error.clone()),
        }
    }
}

/// Reads `input`. `longest` is the longest content that may follow a header.
pub(super) fn read(
    mut input: &[u8],
    limits: Limits,
    longest: impl Fn(&Header<'_>) -> u64,
) -> Frames {
    let mut messages = Vec::new();
    let rest = loop {
        match frame(input, limits, &longest) {
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
    limits: Limits,
    longest: &impl Fn(&Header<'_>) -> u64,
) -> Result<(Message<'static>, &'i [u8]), Rest> {
    let have = input.len() as u64;
    let part = |need, begun| Rest::Part { have, need, begun };
    let (first, second) = match input {
        [] => return Err(Rest::Nothing),
        [_] => return Err(part(2, None)),
        [first, second, ..] => (*first, *second),
    };
    let declared = u16::from_be_bytes([first, second]);
    if declared == 0 {
        return Err(Rest::Wrong(DecodeError::EmptyHeader));
    }
    if declared > limits.header {
        return Err(Rest::Wrong(DecodeError::HeaderTooLong { declared, limit: limits.header }));
    }
    let head = 2 + usize::from(declared);
    if input.len() < head {
        return Err(part(head as u64, None));
    }
    let (json, rest) = (&input[2..head], &input[head..]);
    let header = Header::from_json(json).map_err(|error| Rest::Wrong(error.into()))?;
    let (declared, limit) = (header.content_length, longest(&header));
    if declared > limit {
        return Err(Rest::Wrong(DecodeError::ContentTooLong { declared, limit }));
    }
    let length = usize::try_from(declared).unwrap_or(usize::MAX);
    let (content, rest) = rest.split_at(length.min(rest.len()));
    let message = with_content(header.into_owned(), content);
    if content.len() < length {
        return Err(part(declared.saturating_add(head as u64), Some(message)));
    }
    Ok((message, rest))
}

/// The message of `header` with this much of its content.
pub(super) fn with_content(header: Header<'static>, content: &[u8]) -> Message<'static> {
    let Header { byteorder, content_type, content_encoding, content_length: _ } = header;
    let content = Content::from(content.to_vec());
    Message { byteorder, content_type, content_encoding, content }
}
