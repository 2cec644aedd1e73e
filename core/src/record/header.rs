//! The header of a recording: lines of text.

use alloc::{borrow::ToOwned, string::String, vec::Vec};
use core::fmt::Write as _;

use super::{
    ReadError, ReadErrorKind,
    format::{MAGIC, VERSION},
};
use crate::Instant;

/// What a recording says before its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// When the machine was made, on the clock of its runtime.
    pub started_at: Instant,
    /// Whether the received bytes are recorded, or only their lengths. Without them, the recording
    /// cannot be replayed.
    pub has_payloads: bool,
    /// Names and values, for the program: which machine it was, its configuration, its peer. A name
    /// has no space. Several fields may have the same name.
    pub fields: Vec<(String, String)>,
}

impl Header {
    /// A header without fields, of a machine that was made at `started_at`.
    pub fn new(started_at: Instant) -> Self {
        Self { started_at, has_payloads: true, fields: Vec::new() }
    }

    /// Adds a field.
    pub fn with_field(mut self, name: &str, value: impl Into<String>) -> Self {
        self.fields.push((name.to_owned(), value.into()));
        self
    }

    /// The value of the first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    /// The values of all fields of that name.
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(other, _)| other == name).map(|(_, value)| &**value)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut text = String::new();
        let payloads = if self.has_payloads { "yes" } else { "no" };
        let _ = writeln!(text, "{STARTED} {}\n{PAYLOADS} {payloads}", self.started_at.nanos());
        for (name, value) in &self.fields {
            let value = value.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = writeln!(text, "{name} {value}");
        }
        [MAGIC, VERSION, b"\n", text.as_bytes(), b"\n"].concat()
    }

    /// Takes a header from the start of a recording. Returns it and its length.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, usize), ReadError> {
        let mut lines = Lines { bytes, at: 0 };
        let first = lines.next()?;
        let Some(version) = first.strip_prefix(MAGIC) else {
            return Err(ReadErrorKind::NoRecording.at(0));
        };
        if version != VERSION {
            let found = String::from_utf8_lossy(&version[..version.len().min(20)]).into_owned();
            return Err(ReadErrorKind::Version { found }.at(MAGIC.len()));
        }
        let (mut started_at, mut has_payloads) = (None, None);
        let mut fields = Vec::new();
        loop {
            let at = lines.at;
            let line = lines.next()?;
            if line.is_empty() {
                break;
            }
            let wrong = || ReadErrorKind::WrongHeader.at(at);
            let line = str::from_utf8(line).map_err(|_| wrong())?;
            let (name, value) = line.split_once(' ').ok_or_else(wrong)?;
            match name {
                STARTED => {
                    started_at = Some(Instant::from_nanos(value.parse().map_err(|_| wrong())?));
                }
                PAYLOADS if value == "yes" => has_payloads = Some(true),
                PAYLOADS if value == "no" => has_payloads = Some(false),
                PAYLOADS => return Err(wrong()),
                name => fields.push((name.to_owned(), unescaped(value))),
            }
        }
        let (Some(started_at), Some(has_payloads)) = (started_at, has_payloads) else {
            return Err(ReadErrorKind::WrongHeader.at(lines.at));
        };
        Ok((Self { started_at, has_payloads, fields }, lines.at))
    }
}

struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a [u8], ReadError> {
        let rest = &self.bytes[self.at..];
        let available = &rest[..rest.len().min(MAX_HEADER.saturating_sub(self.at))];
        let Some(len) = memchr::memchr(b'\n', available) else {
            let is_cut = available.len() == rest.len();
            // A file of another kind may have no line feed at all.
            let begins = MAGIC.iter().zip(self.bytes).all(|(expected, byte)| expected == byte);
            return Err(match (begins, is_cut) {
                (false, _) => ReadErrorKind::NoRecording.at(0),
                (true, true) => ReadErrorKind::Cut.at(self.bytes.len()),
                (true, false) => ReadErrorKind::WrongHeader.at(self.at),
            });
        };
        self.at += len + 1;
        Ok(&rest[..len])
    }
}

fn unescaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut is_escaped = false;
    for char in value.chars() {
        match char {
            '\\' if !is_escaped => is_escaped = true,
            'n' if is_escaped => {
                text.push('\n');
                is_escaped = false;
            }
            char => {
                text.push(char);
                is_escaped = false;
            }
        }
    }
    text
}

const STARTED: &str = "started";
const PAYLOADS: &str = "payloads";
/// The longest header that is read, in bytes.
const MAX_HEADER: usize = 64 * 1024;
