//! A received message.

use alloc::{borrow::Cow, string::String};
use core::ops::Range;

use bytes::Bytes;

use super::{Headers, InvalidHeaders, StatusCode};

/// A subscription of a [`Client`](super::Client): the id that the server repeats in each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subscription(pub(super) u64);

impl Subscription {
    /// The id on the wire.
    pub fn id(self) -> u64 {
        self.0
    }
}

/// A received message: one handle to a part of the receive buffer.
///
/// It keeps its block of [`Config::buffer`](super::Config::buffer) bytes alive, or its own length
/// and 4 KiB where that is more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub(super) head: Head,
    /// The whole operation: the line, the headers, the payload, and the line end.
    pub(super) bytes: Bytes,
}

/// Where the parts of a message are in its operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) subscription: Subscription,
    pub(super) subject: Range<u32>,
    /// Empty if there is none.
    pub(super) reply: Range<u32>,
    /// The length of the line, with its line end.
    pub(super) line: usize,
    /// The length of the headers; 0 without any.
    pub(super) headers: usize,
    /// The length of the headers and the payload.
    pub(super) total: usize,
}

impl Head {
    /// The length of the operation.
    pub(super) fn len(&self) -> usize {
        self.line.saturating_add(self.total).saturating_add(2)
    }
}

impl Message {
    /// The subscription to which it was delivered.
    pub fn subscription(&self) -> Subscription {
        self.head.subscription
    }

    /// The subject. Bytes that are not UTF-8 are replaced: the server does not check the subjects
    /// of publishers.
    pub fn subject(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.subject_bytes())
    }

    /// The subject as it was received.
    pub fn subject_bytes(&self) -> &[u8] {
        self.part(&self.head.subject)
    }

    /// The subject to which a reply goes.
    pub fn reply(&self) -> Option<Cow<'_, str>> {
        let reply = self.reply_bytes();
        (!reply.is_empty()).then(|| String::from_utf8_lossy(reply))
    }

    /// The subject to which a reply goes, as it was received; empty if there is none.
    pub(super) fn reply_bytes(&self) -> &[u8] {
        self.part(&self.head.reply)
    }

    fn part(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    fn payload_range(&self) -> Range<usize> {
        let Head { line, headers, total, .. } = self.head;
        line + headers..line + total
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.payload_range()]
    }

    /// The payload, without a copy. It keeps the same memory alive as the message.
    pub fn into_payload(self) -> Bytes {
        self.bytes.slice(self.payload_range())
    }

    /// The headers; none if the message has none.
    ///
    /// # Errors
    /// The publisher has sent bad ones. The server does not check them.
    pub fn headers(&self) -> Result<Headers<'_>, InvalidHeaders> {
        match self.header_bytes() {
            b"" => Ok(Headers::NONE),
            block => Headers::parse(block),
        }
    }

    /// The headers as they were received; empty if there are none.
    pub fn header_bytes(&self) -> &[u8] {
        &self.bytes[self.head.line..][..self.head.headers]
    }

    /// The status in the headers, such as [`StatusCode::IDLE_HEARTBEAT`]; `None` without one, or if
    /// the headers are bad.
    pub fn status(&self) -> Option<StatusCode> {
        self.headers().ok()?.status()
    }
}
