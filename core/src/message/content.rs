//! The content of a message.

use alloc::{string::String, vec::Vec};
use core::{fmt, ops::Deref};

use bytes::Bytes;

/// The content of a message: borrowed, or shared by reference counting.
#[derive(Clone)]
pub enum Content<'a> {
    /// Borrowed bytes.
    Slice(&'a [u8]),
    /// Bytes that all clones share.
    Bytes(Bytes),
}

impl Content<'_> {
    /// The content as [`Bytes`]. Borrowed bytes are copied.
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
