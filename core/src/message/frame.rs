//! A message, and its bytes.

use alloc::{borrow::Cow, format, string::String, vec::Vec};
use core::{fmt, ops::Deref};

use bytes::Bytes;

use super::{
    ByteOrder, Header,
    header::{shorten, write_string},
    text,
    text::TextError,
};

/// A message: on the wire two bytes that say how long its header is, the header, the content.
///
/// What was received borrows from the buffer that it was received in, as far as it can.
/// Two messages are equal if their bytes are.
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
    /// What the content is.
    pub content_type: Cow<'a, str>,
    /// How the content is encoded: a character set, for text.
    pub content_encoding: Cow<'a, str>,
    /// The content.
    pub content: Content<'a>,
}

/// Why a message can't be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Two bytes can't say how long the header is.
    #[error("the header would be {length} bytes, more than the limit of {limit}")]
    HeaderTooLong {
        /// What it would be.
        length: usize,
        /// The most that there can be.
        limit: u16,
    },
}

impl<'a> Message<'a> {
    /// A JSON text, in UTF-8.
    pub fn json(json: impl Into<Content<'a>>) -> Self {
        Self::new(TEXT_JSON, UTF_8, json)
    }

    /// Bytes without a type of their own: `binary/octet-stream`.
    pub fn binary(content: impl Into<Content<'a>>) -> Self {
        Self::new("binary/octet-stream", "binary", content)
    }

    /// What a server answers with when it can't: `{"result": "Error: …"}`, of 1,000 characters at
    /// most: an error may quote what the peer sent.
    pub fn error(error: impl fmt::Display) -> Message<'static> {
        Self::result(&shorten(format!("Error: {error}"), LONGEST_ERROR))
    }

    /// A reply: `{"result": …}`, with `result` as a JSON string.
    pub fn result(result: &str) -> Message<'static> {
        // Just as much as there is without escapes: then no byte is moved, here or by `Bytes`.
        let mut json = Vec::with_capacity(br#"{"result": ""}"#.len() + result.len());
        json.extend_from_slice(b"{\"result\": ");
        write_string(result, &mut json);
        json.push(b'}');
        Message::json(json)
    }

    /// A message of this machine's byte order.
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

    /// Whether the content is JSON. Types are compared exactly, as peers do: a `Text/JSON`, or one
    /// with parameters, is not.
    pub fn is_json(&self) -> bool {
        self.content_type == TEXT_JSON
    }

    /// The content as text, by the character set that the header names ([`text::decode`]).
    ///
    /// # Errors
    /// The character set is unknown, or the content is none of its.
    pub fn text(&self) -> Result<Cow<'_, str>, TextError> {
        text::decode(&self.content_encoding, self.byteorder, &self.content)
    }

    /// Its header.
    pub fn header(&self) -> Header<'_> {
        Header {
            byteorder: self.byteorder,
            content_type: Cow::Borrowed(&*self.content_type),
            content_encoding: Cow::Borrowed(&*self.content_encoding),
            content_length: self.content.len() as u64,
        }
    }

    /// Appends the whole frame.
    ///
    /// # Errors
    /// The header is too long; nothing is appended.
    pub fn encode(&self, frame: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.header().encode(frame)?;
        frame.extend_from_slice(&self.content);
        Ok(())
    }

    /// The same, borrowing nothing. A content that was too large for the receive buffer is not
    /// copied: it was received where it is.
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
    /// Appends its two bytes of length and the header itself: what comes before the content.
    ///
    /// # Errors
    /// It is too long; nothing is appended.
    pub fn encode(&self, frame: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = frame.len();
        frame.extend_from_slice(&[0, 0]);
        self.write_json(frame);
        let length = frame.len() - start - 2;
        let Ok(prefix) = u16::try_from(length) else {
            frame.truncate(start);
            return Err(EncodeError::HeaderTooLong { length, limit: u16::MAX });
        };
        frame[start..start + 2].copy_from_slice(&prefix.to_be_bytes());
        Ok(())
    }
}

/// A message's content: borrowed, or shared.
#[derive(Clone)]
pub enum Content<'a> {
    /// Bytes that belong to somebody else.
    Slice(&'a [u8]),
    /// Bytes that belong to all who have a clone.
    Bytes(Bytes),
}

impl Content<'_> {
    /// The bytes; those that were borrowed are copied.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Slice(slice) => Bytes::copy_from_slice(slice),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl Deref for Content<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Slice(slice) => slice,
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl PartialEq for Content<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Content<'_> {}

impl fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

impl<'a> From<&'a [u8]> for Content<'a> {
    fn from(slice: &'a [u8]) -> Self {
        Self::Slice(slice)
    }
}

impl<'a> From<&'a str> for Content<'a> {
    fn from(text: &'a str) -> Self {
        Self::Slice(text.as_bytes())
    }
}

impl From<Bytes> for Content<'_> {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Content<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<String> for Content<'_> {
    fn from(text: String) -> Self {
        Self::Bytes(text.into())
    }
}

const TEXT_JSON: &str = "text/json";
const UTF_8: &str = "utf-8";
/// In characters.
const LONGEST_ERROR: usize = 1000;
