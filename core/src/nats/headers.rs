//! The headers of a message.

use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use crate::protocol::Text;

/// Headers to publish, in the form in which they are sent.
///
/// ```
/// # use wirestate_core::nats::HeaderBlock;
/// let mut headers = HeaderBlock::new();
/// headers.push("Nats-Msg-Id", "a-1")?;
/// headers.push("Nats-Expected-Last-Sequence", 41)?;
/// assert_eq!(headers.len(), 63);
/// assert_eq!(headers.push("Nats", "a\r\nb").unwrap_err().to_string(), "a value has byte 0x0d");
/// headers.clear(); // keeps its memory for the next message
/// # Ok::<(), wirestate_core::nats::InvalidHeader>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderBlock {
    /// Lines of a name and a value, each with its line end.
    lines: Vec<u8>,
}

/// Why a header cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHeader {
    /// A name is empty.
    #[error("a name is empty")]
    EmptyName,
    /// A name has a byte other than a printable ASCII character, or a colon.
    #[error("a name has byte {0:#04x}")]
    NameByte(u8),
    /// A value has a CR or an LF.
    #[error("a value has byte {0:#04x}")]
    ValueByte(u8),
}

impl HeaderBlock {
    /// No headers.
    pub const fn new() -> Self {
        Self { lines: Vec::new() }
    }

    /// Appends a header. A name may occur several times.
    ///
    /// # Errors
    /// The name or the value would change the meaning of what follows. Nothing is appended.
    pub fn push(&mut self, name: &str, value: impl fmt::Display) -> Result<(), InvalidHeader> {
        if name.is_empty() {
            return Err(InvalidHeader::EmptyName);
        }
        // RFC 9110, section 5.1, without the characters that only HTTP excludes: ADR-4 of NATS.
        if let Some(byte) = name.bytes().find(|byte| !byte.is_ascii_graphic() || *byte == b':') {
            return Err(InvalidHeader::NameByte(byte));
        }
        let start = self.lines.len();
        self.lines.extend_from_slice(name.as_bytes());
        self.lines.extend_from_slice(b": ");
        let value_start = self.lines.len();
        // Only the value's `Display` can fail. Its text ends early then.
        let _ = write!(Text(&mut self.lines), "{value}");
        let value = &self.lines[value_start..];
        if let Some(&byte) = value.iter().find(|byte| matches!(byte, b'\r' | b'\n')) {
            self.lines.truncate(start);
            return Err(InvalidHeader::ValueByte(byte));
        }
        self.lines.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Removes all headers, and keeps the memory.
    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// Whether there is no header.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The length in bytes on the wire, with the first line and the empty line.
    pub fn len(&self) -> usize {
        FIRST_LINE.len() + self.lines.len() + 2
    }

    /// The three parts on the wire.
    pub(super) fn parts(&self) -> [&[u8]; 3] {
        [FIRST_LINE, &self.lines, b"\r\n"]
    }
}

/// The headers of a received message.
///
/// The server does not check them: they are what the publisher has sent. So they are checked when
/// they are used, and bad ones end no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    status: Option<StatusCode>,
    description: &'a str,
    /// Lines of a name and a value, each with its line end.
    lines: &'a str,
}

/// Why a message's headers cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHeaders {
    /// They do not begin with `NATS/1.0`.
    #[error("the headers do not begin with NATS/1.0")]
    Version,
    /// The first line has something else than a status of three digits and a description.
    #[error("the first line of the headers has no valid status")]
    Status,
    /// A line has no colon, or the last line is not empty.
    #[error("a header has no colon, or the headers have no end")]
    Line,
    /// They are not UTF-8.
    #[error("the headers are not UTF-8")]
    Encoding,
}

impl<'a> Headers<'a> {
    /// No headers.
    pub(in crate::nats) const NONE: Self = Self { status: None, description: "", lines: "" };

    pub(in crate::nats) fn parse(block: &'a [u8]) -> Result<Self, InvalidHeaders> {
        let block = str::from_utf8(block).map_err(|_| InvalidHeaders::Encoding)?;
        let rest = block.strip_prefix(VERSION).ok_or(InvalidHeaders::Version)?;
        let (first, rest) = rest.split_once("\r\n").ok_or(InvalidHeaders::Line)?;
        let lines = rest.strip_suffix("\r\n").ok_or(InvalidHeaders::Line)?;
        let is_line = |line: &str| line.strip_suffix("\r\n").is_some_and(|line| line.contains(':'));
        if !lines.split_inclusive('\n').all(is_line) {
            return Err(InvalidHeaders::Line);
        }
        let Some(first) = first.strip_prefix([' ', '\t']) else {
            let is_end = first.is_empty();
            return if is_end {
                Ok(Self { lines, ..Self::NONE })
            } else {
                Err(InvalidHeaders::Version)
            };
        };
        let first = first.trim();
        let (code, description) = first.split_once([' ', '\t']).unwrap_or((first, ""));
        let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
        let code = code.parse().ok().filter(|_| is_code).ok_or(InvalidHeaders::Status)?;
        let description = description.trim_start();
        Ok(Self { status: Some(StatusCode(code)), description, lines })
    }

    /// The status, which a server sends in place of a message, or with one.
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// The text behind the status, such as `Consumer Deleted`; empty if there is none.
    pub fn description(&self) -> &'a str {
        self.description
    }

    /// The first value of the header `name`, without white space around it. Names are
    /// case-sensitive.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The names and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let lines = self.lines.lines();
        lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim()))
    }
}

/// The status of a message that a server has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusCode(pub u16);

impl StatusCode {
    /// A consumer sends this while it has no message, or asks for flow control.
    pub const IDLE_HEARTBEAT: Self = Self(100);
    /// A request that the server does not understand.
    pub const BAD_REQUEST: Self = Self(400);
    /// There is no such message, or none yet.
    pub const NOT_FOUND: Self = Self(404);
    /// A pull request has expired.
    pub const REQUEST_TIMEOUT: Self = Self(408);
    /// The consumer or the stream does not allow it, or was deleted.
    pub const CONFLICT: Self = Self(409);
    /// Nobody has subscribed to the subject of a request.
    pub const NO_RESPONDERS: Self = Self(503);
}

impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The first line of headers, without a status.
const FIRST_LINE: &[u8] = b"NATS/1.0\r\n";
const VERSION: &str = "NATS/1.0";

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn headers(block: &str) -> Result<Headers<'_>, InvalidHeaders> {
        Headers::parse(block.as_bytes())
    }

    #[test]
    fn headers_are_parsed_as_servers_and_other_clients_send_them() {
        let plain = headers("NATS/1.0\r\nA: 1\r\na:2 \r\nA:\r\n\r\n").unwrap();
        assert_eq!(plain.iter().collect::<Vec<_>>(), vec![("A", "1"), ("a", "2"), ("A", "")]);
        assert_eq!((plain.get("A"), plain.get("b"), plain.status()), (Some("1"), None, None));

        let status = headers("NATS/1.0 503\r\n\r\n").unwrap();
        assert_eq!((status.status(), status.description()), (Some(StatusCode::NO_RESPONDERS), ""));
        let status = headers("NATS/1.0 409 Consumer Deleted\r\nX: y\r\n\r\n").unwrap();
        assert_eq!(status.status(), Some(StatusCode::CONFLICT));
        assert_eq!((status.description(), status.get("X")), ("Consumer Deleted", Some("y")));
    }

    #[test]
    fn bad_headers_have_a_named_error() {
        for (block, error) in [
            ("", InvalidHeaders::Version),
            ("HTTP/1.0\r\n\r\n", InvalidHeaders::Version),
            ("NATS/1.01\r\n\r\n", InvalidHeaders::Version),
            ("NATS/1.0", InvalidHeaders::Line),
            ("NATS/1.0\r\n", InvalidHeaders::Line),
            ("NATS/1.0\r\nA\r\n\r\n", InvalidHeaders::Line),
            ("NATS/1.0\r\nA: 1\r\n", InvalidHeaders::Line),
            ("NATS/1.0\r\n\r\nA: 1\r\n\r\n", InvalidHeaders::Line),
            ("NATS/1.0 50\r\n\r\n", InvalidHeaders::Status),
            ("NATS/1.0 +50\r\n\r\n", InvalidHeaders::Status),
            ("NATS/1.0 No Messages\r\n\r\n", InvalidHeaders::Status),
        ] {
            assert_eq!(headers(block), Err(error), "{block:?}");
        }
        assert_eq!(Headers::parse(b"NATS/1.0\r\nA:\xff\r\n\r\n"), Err(InvalidHeaders::Encoding));
    }

    #[test]
    fn a_header_that_cannot_be_sent_appends_nothing() {
        let mut block = HeaderBlock::new();
        block.push("A", 1).unwrap();
        let before = block.clone();
        for (name, value, error) in [
            ("", "", InvalidHeader::EmptyName),
            ("A:", "", InvalidHeader::NameByte(b':')),
            ("A B", "", InvalidHeader::NameByte(b' ')),
            ("\u{fc}", "", InvalidHeader::NameByte(0xc3)),
            ("A", "1\r\nB: 2", InvalidHeader::ValueByte(b'\r')),
            ("A", "1\n", InvalidHeader::ValueByte(b'\n')),
        ] {
            assert_eq!(block.push(name, value), Err(error));
            assert_eq!(block, before);
        }
    }
}
