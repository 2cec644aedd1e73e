//! A message, and its encoding as a frame.

use alloc::{borrow::Cow, format, vec::Vec};
use core::fmt;

use super::{
    ByteOrder, Content, Header,
    frame_limits::LENGTH_PREFIX,
    header::{shorten, write_string},
    text,
    text::TextError,
};
use crate::protocol::{MIN_SLICE, Output};

/// A message: its type, its encoding and its content.
///
/// It is sent as a frame: two bytes with the length of the header, the header, the content.
///
/// A received message borrows from the receive buffer if its content fits into that buffer.
/// Messages are compared by value: a borrowed content equals a shared one with the same bytes.
///
/// ```
/// # use wirestate_core::message::{ByteOrder, Message};
/// let message = Message { byteorder: ByteOrder::Little, ..Message::json(r#"{"a": 1}"#) };
/// let mut frame = Vec::new();
/// message.encode(&mut frame)?;
/// assert_eq!(
///     frame,
///     b"\0f{\"byteorder\": \"little\", \"content-type\": \"text/json\", \
///       \"content-encoding\": \"utf-8\", \"content-length\": 8}{\"a\": 1}",
/// );
/// # Ok::<(), wirestate_core::message::EncodeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The sender's byte order.
    pub byteorder: ByteOrder,
    /// The type of the content.
    pub content_type: Cow<'a, str>,
    /// The encoding of the content: for text, its character set.
    pub content_encoding: Cow<'a, str>,
    /// The content.
    pub content: Content<'a>,
}

/// Why a message cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The header's length does not fit into the two bytes of the length prefix.
    #[error("the header would be {length} bytes, more than the limit of {limit}")]
    HeaderTooLong {
        /// The header's length, in bytes.
        length: usize,
        /// The longest header that can be sent, in bytes.
        limit: u16,
    },
}

impl<'a> Message<'a> {
    /// A JSON text in UTF-8, of type `text/json`. The text is not checked.
    pub fn json(json: impl Into<Content<'a>>) -> Self {
        Self::new(TEXT_JSON, UTF_8, json)
    }

    /// Bytes of type `binary/octet-stream`.
    pub fn binary(content: impl Into<Content<'a>>) -> Self {
        Self::new("binary/octet-stream", "binary", content)
    }

    /// An error reply: `{"result": "Error: …"}`.
    ///
    /// The text is cut after 1,000 characters, since `error` may quote a text that the peer sent.
    pub fn error(error: impl fmt::Display) -> Message<'static> {
        Self::result(&shorten(format!("Error: {error}"), MAX_ERROR))
    }

    /// A reply: `{"result": …}`, with `result` as a JSON string.
    pub fn result(result: &str) -> Message<'static> {
        // The exact capacity for a text without escapes: neither the vector nor `Bytes`
        // reallocates.
        let mut json = Vec::with_capacity(br#"{"result": ""}"#.len() + result.len());
        json.extend_from_slice(b"{\"result\": ");
        write_string(result, &mut json);
        json.push(b'}');
        Message::json(json)
    }

    /// A message in the byte order of this computer.
    pub fn new(
        content_type: &'static str,
        content_encoding: &'static str,
        content: impl Into<Content<'a>>,
    ) -> Self {
        Self {
            byteorder: ByteOrder::NATIVE,
            content_type: content_type.into(),
            content_encoding: content_encoding.into(),
            content: content.into(),
        }
    }

    /// Whether the type is exactly `text/json`. `Text/JSON` and a type with parameters are not.
    pub fn is_json(&self) -> bool {
        self.content_type == TEXT_JSON
    }

    /// Decodes the content as text in the character set that the header names ([`text::decode`]).
    ///
    /// # Errors
    /// The character set is unknown, or the content is malformed in it.
    pub fn text(&self) -> Result<Cow<'_, str>, TextError> {
        text::decode(&self.content_encoding, self.byteorder, &self.content)
    }

    /// The header of the message.
    pub fn header(&self) -> Header<'_> {
        Header {
            byteorder: self.byteorder,
            content_type: Cow::Borrowed(&*self.content_type),
            content_encoding: Cow::Borrowed(&*self.content_encoding),
            content_length: self.content.len() as u64,
        }
    }

    /// Appends the frame to `frame`.
    ///
    /// # Errors
    /// The header is too long. Nothing is appended.
    pub fn encode(&self, frame: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.header().encode(frame)?;
        frame.extend_from_slice(&self.content);
        Ok(())
    }

    /// Appends the frame to `output`. A content of 4 KiB or more is not copied if it is shared.
    ///
    /// # Errors
    /// The header is too long. Nothing is appended.
    pub(super) fn append_to(self, output: &mut Output) -> Result<(), EncodeError> {
        self.header().encode(output.tail())?;
        if self.content.len() < MIN_SLICE {
            output.extend(&self.content);
        } else {
            output.push(self.content.into_bytes());
        }
        Ok(())
    }

    /// Converts the message to one that borrows nothing.
    ///
    /// A borrowed content is copied. A received content is borrowed only if it fits into the
    /// receive buffer; a larger one has an allocation of its own already.
    pub fn into_owned(self) -> Message<'static> {
        Message {
            byteorder: self.byteorder,
            content_type: Cow::Owned(self.content_type.into_owned()),
            content_encoding: Cow::Owned(self.content_encoding.into_owned()),
            content: Content::Bytes(self.content.into_bytes()),
        }
    }
}

impl Header<'_> {
    /// Appends the length prefix and the header to `frame`.
    ///
    /// # Errors
    /// The header is too long. Nothing is appended.
    pub fn encode(&self, frame: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = frame.len();
        frame.extend_from_slice(&[0; LENGTH_PREFIX]);
        self.write_json(frame);
        let length = frame.len() - start - LENGTH_PREFIX;
        let Ok(prefix) = u16::try_from(length) else {
            frame.truncate(start);
            return Err(EncodeError::HeaderTooLong { length, limit: u16::MAX });
        };
        frame[start..start + LENGTH_PREFIX].copy_from_slice(&prefix.to_be_bytes());
        Ok(())
    }
}

const TEXT_JSON: &str = "text/json";
const UTF_8: &str = "utf-8";
/// The longest text of an error reply, in characters.
const MAX_ERROR: usize = 1000;
