//! The receive buffer, in which operations are found.

use alloc::string::String;

use bytes::{Bytes, BytesMut};

use super::{
    Info, Malformed, Message,
    message::Head,
    operation::{self, Line, MAX_EXCERPT, excerpt},
    reason::ClientReason,
};
use crate::protocol::PartialFrame;

/// The limits of what is received, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceiveLimits {
    pub(super) block: usize,
    pub(super) max_info: usize,
    pub(super) max_control_line: usize,
    pub(super) max_message: usize,
}

/// An operation that a server has sent.
#[derive(Debug)]
pub(super) enum Operation {
    Info(Info),
    Message(Message),
    Ping,
    Pong,
    Ok,
    /// The text of `-ERR`.
    Error(String),
}

/// A linear receive buffer: one block of memory, which messages share with it.
///
/// An operation that does not fit into the block gets a larger one, which doubles as the bytes
/// arrive: at most twice the bytes received, whatever length is declared.
#[derive(Debug)]
pub(super) struct Receiver {
    limits: ReceiveLimits,
    /// The received bytes, from the next operation on, and space behind them.
    block: BytesMut,
    /// How many bytes of the block were received.
    filled: usize,
    /// No line end is before this position.
    searched: usize,
    /// The line of the next message, whose payload is incomplete.
    head: Option<Head>,
    /// INFO or an error was received: this is a NATS server.
    is_nats: bool,
}

impl Receiver {
    pub(super) fn new(limits: ReceiveLimits) -> Self {
        let block = BytesMut::new();
        Self { limits, block, filled: 0, searched: 0, head: None, is_nats: false }
    }

    /// The space for the next read.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        if self.block.len() - self.filled < MIN_READ {
            let doubled = self.filled.saturating_mul(2).min(self.expected().unwrap_or(usize::MAX));
            let size = doubled.max(self.filled).saturating_add(MIN_READ).max(self.limits.block);
            let mut block = BytesMut::zeroed(size);
            block[..self.filled].copy_from_slice(&self.block[..self.filled]);
            self.block = block;
        }
        &mut self.block[self.filled..]
    }

    pub(super) fn commit(&mut self, n: usize) {
        self.filled += n;
    }

    /// Records that INFO was received before.
    pub(super) fn set_is_nats(&mut self) {
        self.is_nats = true;
    }

    /// The number of bytes that were received and not taken.
    pub(super) fn len(&self) -> usize {
        self.filled
    }

    /// Discards the input, and frees the block.
    pub(super) fn clear(&mut self) {
        *self = Self { is_nats: self.is_nats, ..Self::new(self.limits) };
    }

    /// The length of the next operation, if it is known.
    fn expected(&self) -> Option<usize> {
        self.head.as_ref().map(Head::len)
    }

    /// How much of the next operation has arrived; `None` if no byte has.
    pub(super) fn partial(&self) -> Option<PartialFrame> {
        let (received, expected) = (self.filled as u64, self.expected());
        let length = expected.unwrap_or(0) as u64;
        let partial = PartialFrame::new(received, length, expected.is_some());
        (received > 0).then_some(partial)
    }

    /// Takes the next operation; `None` if it is incomplete.
    pub(super) fn next(&mut self) -> Result<Option<Operation>, ClientReason> {
        if let Some(head) = self.head.take() {
            return self.take_message(head);
        }
        if !self.is_nats {
            self.check_begin()?;
        }
        let Some(line) = self.find_line()? else { return Ok(None) };
        let parsed = operation::parse(&self.block[..line])?;
        self.is_nats = true;
        let operation = match parsed {
            Line::Message(head) => {
                let (length, limit) = (head.total, self.limits.max_message);
                if length > limit {
                    return Err(ClientReason::MessageTooLong { length, limit });
                }
                return self.take_message(head);
            }
            Line::Info(json) => Operation::Info(Info::parse(&self.block[json])?),
            Line::Ping => Operation::Ping,
            Line::Pong => Operation::Pong,
            Line::Ok => Operation::Ok,
            Line::Error(text) => {
                Operation::Error(String::from_utf8_lossy(&self.block[text]).into_owned())
            }
        };
        self.take(line);
        Ok(Some(operation))
    }

    /// Takes the message of which `head` is the line, if it is complete.
    fn take_message(&mut self, head: Head) -> Result<Option<Operation>, ClientReason> {
        let length = head.len();
        if self.filled < length {
            self.head = Some(head);
            return Ok(None);
        }
        if self.block[length - 2..length] != *b"\r\n" {
            return Err(Malformed::Payload { length: head.total }.into());
        }
        let bytes = self.take(length);
        Ok(Some(Operation::Message(Message { head, bytes })))
    }

    fn take(&mut self, n: usize) -> Bytes {
        self.filled -= n;
        self.searched = 0;
        self.block.split_to(n).freeze()
    }

    /// The error for a peer that is no NATS server, at the end of the input.
    pub(super) fn is_other_protocol(&self) -> Option<Malformed> {
        let received = &self.block[..self.filled];
        let is_begin = |name: &[u8]| {
            let n = received.len().min(name.len());
            received[..n].eq_ignore_ascii_case(&name[..n])
        };
        if self.is_nats || FIRST.iter().any(|name| is_begin(name)) {
            return None;
        }
        let line = received.split(|byte| *byte == b'\n').next().unwrap_or_default();
        Some(Malformed::NotNats { begin: excerpt(line.trim_ascii_end()) })
    }

    /// Checks that the first operation begins as one that a server begins with. Other protocols,
    /// such as TLS, need not have a line end.
    fn check_begin(&self) -> Result<(), Malformed> {
        let has_excerpt = self.filled >= MAX_EXCERPT
            || memchr::memchr(b'\n', &self.block[..self.filled]).is_some();
        match self.is_other_protocol() {
            Some(error) if has_excerpt => Err(error),
            Some(_) | None => Ok(()),
        }
    }

    /// The length of the next line, with its line end; `None` if it is incomplete.
    fn find_line(&mut self) -> Result<Option<usize>, ClientReason> {
        let received = &self.block[..self.filled];
        let is_info = received.len() >= 4 && received[..4].eq_ignore_ascii_case(b"INFO");
        let limit = if is_info { self.limits.max_info } else { self.limits.max_control_line };
        let found = memchr::memchr(b'\n', &received[self.searched..]);
        let length = found.map_or(self.filled, |found| self.searched + found + 1);
        if length > limit {
            return Err(ClientReason::LineTooLong { limit });
        }
        self.searched = self.filled;
        Ok(found.map(|_| length))
    }
}

/// What the first operation begins with.
const FIRST: [&[u8]; 2] = [b"INFO", b"-ERR"];
/// A new block is allocated when less space than this follows the last byte.
const MIN_READ: usize = 4 * 1024;
