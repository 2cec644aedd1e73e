//! The limits of a frame.

use super::{DecodeError, Header};
use crate::config::with_setters;

/// The longest header and the longest content that a frame may declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameLimits {
    /// The longest header, in bytes. The wire format allows at most 65,535. Default: 4 KiB.
    pub max_header: u16,
    /// The longest content, in bytes. Default: 1 MiB.
    pub max_content: u64,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self::new(4096, 1024 * 1024)
    }
}

impl FrameLimits {
    /// Limits of `max_header` and `max_content` bytes.
    pub const fn new(max_header: u16, max_content: u64) -> Self {
        Self { max_header, max_content }
    }

    with_setters! {
        with_max_header(max_header: u16);
        with_max_content(max_content: u64);
    }

    /// The length of the length prefix and the longest header, in bytes.
    pub(super) fn max_head(self) -> usize {
        LENGTH_PREFIX + usize::from(self.max_header)
    }

    /// Decodes the length prefix at the start of `bytes`: the length of the header, in bytes.
    /// `None` if the length prefix is incomplete.
    pub(super) fn header_length(self, bytes: &[u8]) -> Result<Option<usize>, DecodeError> {
        let Some(prefix) = bytes.first_chunk::<LENGTH_PREFIX>() else { return Ok(None) };
        match u16::from_be_bytes(*prefix) {
            0 => Err(DecodeError::EmptyHeader),
            declared if declared > self.max_header => {
                Err(DecodeError::HeaderTooLong { declared, limit: self.max_header })
            }
            length => Ok(Some(usize::from(length))),
        }
    }

    /// Parses a complete header, and checks the content length that it declares.
    pub(super) fn parse_header(self, json: &[u8]) -> Result<Header<'_>, DecodeError> {
        let header = Header::from_json(json)?;
        let (declared, limit) = (header.content_length, self.max_content);
        if declared > limit {
            return Err(DecodeError::ContentTooLong { declared, limit });
        }
        Ok(header)
    }
}

/// The size of the length prefix, in bytes. It begins a frame, and holds the length of the header.
pub(super) const LENGTH_PREFIX: usize = 2;
