//! The input of a connection, divided into the heads of requests.

use std::mem;

use crate::buffer::Pool;

/// The received bytes that are not parsed yet. It holds at most one buffer of the pool, and no
/// buffer while it is empty.
///
/// A head is parsed when its first line is complete, and again when the whole head is. So the
/// result does not depend on how the input is split into reads. Each byte is scanned for line ends
/// once.
#[derive(Debug)]
pub(in crate::status) struct Input {
    pool: Pool,
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    /// The position up to which the buffer is scanned for line ends.
    scanned: usize,
    /// The start of the line that contains `scanned`.
    line: usize,
    /// The request line, the first line that is not empty, was found.
    has_request_line: bool,
}

/// The result of [`Input::find`]: the front of the input.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::status) enum Found<'a> {
    /// No further complete line.
    Nothing,
    /// A byte that cannot begin a request.
    NotHttp,
    /// Everything up to the end of the request line. The next search continues after it.
    RequestLine(&'a [u8]),
    /// A complete head, with the empty line at its end.
    Head(&'a [u8]),
    /// The buffer is full, and the head is incomplete.
    TooLong,
}

impl Input {
    pub(in crate::status) fn new(pool: Pool) -> Self {
        Self { pool, buffer: None, start: 0, end: 0, scanned: 0, line: 0, has_request_line: false }
    }

    pub(in crate::status) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The number of bytes.
    pub(in crate::status) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the input begins with a `HEAD` request, whose answer has no content.
    pub(in crate::status) fn begins_with_head_request(&self) -> bool {
        let mut bytes =
            self.buffer.as_ref().map_or(&[][..], |buffer| &buffer[self.start..self.end]);
        while let Some(rest) = bytes.strip_prefix(b"\r\n").or_else(|| bytes.strip_prefix(b"\n")) {
            bytes = rest;
        }
        bytes.starts_with(b"HEAD ")
    }

    /// The free space after the input. It is empty only if the head is too long.
    pub(in crate::status) fn spare(&mut self) -> &mut [u8] {
        let buffer = self.buffer.get_or_insert_with(|| self.pool.take());
        if self.start > 0 {
            buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.scanned -= self.start;
            self.line -= self.start;
            self.start = 0;
        }
        &mut buffer[self.end..]
    }

    /// Whether [`spare`](Self::spare) is not empty.
    pub(in crate::status) fn has_room(&self) -> bool {
        self.buffer.as_ref().is_none_or(|buffer| self.len() < buffer.len())
    }

    pub(in crate::status) fn commit(&mut self, n: usize) {
        self.end += n;
    }

    /// Discards the head of `len` bytes that was found.
    pub(in crate::status) fn consume(&mut self, len: usize) {
        self.start += len;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
        (self.scanned, self.line, self.has_request_line) = (self.start, self.start, false);
    }

    /// Returns the buffer to the pool if it is empty.
    pub(in crate::status) fn release(&mut self) {
        if self.is_empty()
            && let Some(buffer) = self.buffer.take()
        {
            self.pool.give(buffer);
        }
    }

    /// Discards the whole input.
    pub(in crate::status) fn clear(&mut self) {
        self.consume(self.len());
        self.release();
    }

    /// Finds the request line, then the end of the head.
    pub(in crate::status) fn find(&mut self) -> Found<'_> {
        let Some(buffer) = &self.buffer else { return Found::Nothing };
        while let Some(i) = memchr::memchr(b'\n', &buffer[self.scanned..self.end]) {
            let end = self.scanned + i;
            let line = &buffer[mem::replace(&mut self.line, end + 1)..end];
            self.scanned = end + 1;
            let empty = matches!(line, [] | [b'\r']);
            // Empty lines before a request are skipped (RFC 9112, section 2.2).
            if !empty && !mem::replace(&mut self.has_request_line, true) {
                return Found::RequestLine(&buffer[self.start..=end]);
            }
            if empty && self.has_request_line {
                return Found::Head(&buffer[self.start..=end]);
            }
        }
        self.scanned = self.end;
        // The first byte is enough to refuse a TLS handshake, which may never contain a line end.
        if !self.has_request_line
            && let Some(first) = buffer[self.line..self.end].first()
            && !first.is_ascii_graphic()
            && *first != b'\r'
        {
            return Found::NotHttp;
        }
        if self.end - self.start == buffer.len() { Found::TooLong } else { Found::Nothing }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(bytes: &[u8]) -> Input {
        let mut input = Input::new(Pool::new(64, 1));
        input.spare()[..bytes.len()].copy_from_slice(bytes);
        input.commit(bytes.len());
        input
    }

    #[test]
    fn one_head_is_found_after_the_other() {
        let mut input = input(b"\r\nGET / HTTP/1.1\r\nA: b\r\n\r\nGET");
        assert_eq!(input.find(), Found::RequestLine(b"\r\nGET / HTTP/1.1\r\n"));
        let Found::Head(head) = input.find() else { panic!("the head is complete") };
        let len = head.len();
        input.consume(len);
        assert_eq!(input.find(), Found::Nothing);
        assert_eq!(input.len(), 3);
        assert_eq!(input.spare().len(), 61);
    }

    #[test]
    fn a_head_without_end_is_too_long_and_a_handshake_is_not_http() {
        assert_eq!(input(&[b'x'; 64]).find(), Found::TooLong);
        assert_eq!(input(&[b'\n'; 64]).find(), Found::TooLong);
        assert_eq!(input(b"\x16\x03\x01").find(), Found::NotHttp);
        assert_eq!(input(b"\r").find(), Found::Nothing);
    }
}
