//! Where one request's head ends in what has come in.

use std::mem;

use crate::buffer::Pool;

/// What has come in and was not answered: at most one buffer of the pool, and none while there is
/// nothing.
///
/// A head is looked at when its first line is whole, and again when all of it is. So what is made
/// of it does not depend on how it was cut, and each byte is looked at once.
#[derive(Debug)]
pub(super) struct Input {
    pool: Pool,
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    /// Up to where line ends were looked for.
    scanned: usize,
    /// Where the line begins in which that is.
    line: usize,
    /// A line of the head has been seen that is not empty: the request line.
    begun: bool,
}

/// What there is at the front of the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// No line that has not been seen before, and room for one.
    Nothing,
    /// What can't begin a request.
    Garbage,
    /// Everything up to the end of the request line. Asked again, it goes on behind that.
    RequestLine(&'a [u8]),
    /// A whole head, with the empty line at its end.
    Head(&'a [u8]),
    /// No end of the head as far as there is room.
    TooLong,
}

impl Input {
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool, buffer: None, start: 0, end: 0, scanned: 0, line: 0, begun: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether they begin with a request whose answer has no content.
    pub(super) fn is_for_head(&self) -> bool {
        let mut bytes =
            self.buffer.as_ref().map_or(&[][..], |buffer| &buffer[self.start..self.end]);
        while let Some(rest) = bytes.strip_prefix(b"\r\n").or_else(|| bytes.strip_prefix(b"\n")) {
            bytes = rest;
        }
        bytes.starts_with(b"HEAD ")
    }

    /// The room behind them, which is not empty unless the head is too long.
    pub(super) fn spare(&mut self) -> &mut [u8] {
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
    pub(super) fn has_room(&self) -> bool {
        self.buffer.as_ref().is_none_or(|buffer| self.len() < buffer.len())
    }

    pub(super) fn commit(&mut self, n: usize) {
        self.end += n;
    }

    /// Drops the head that was found, of `len` bytes.
    pub(super) fn consume(&mut self, len: usize) {
        self.start += len;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
        (self.scanned, self.line, self.begun) = (self.start, self.start, false);
    }

    /// Gives the buffer back, if there is nothing in it.
    pub(super) fn release(&mut self) {
        if self.is_empty()
            && let Some(buffer) = self.buffer.take()
        {
            self.pool.give(buffer);
        }
    }

    /// Drops all there is.
    pub(super) fn clear(&mut self) {
        self.consume(self.len());
        self.release();
    }

    pub(super) fn find(&mut self) -> Found<'_> {
        let Some(buffer) = &self.buffer else { return Found::Nothing };
        while let Some(i) = memchr::memchr(b'\n', &buffer[self.scanned..self.end]) {
            let end = self.scanned + i;
            let line = &buffer[mem::replace(&mut self.line, end + 1)..end];
            self.scanned = end + 1;
            let empty = matches!(line, [] | [b'\r']);
            // Empty lines before a request are passed over (RFC 9112, section 2.2).
            if !empty && !mem::replace(&mut self.begun, true) {
                return Found::RequestLine(&buffer[self.start..=end]);
            }
            if empty && self.begun {
                return Found::Head(&buffer[self.start..=end]);
            }
        }
        self.scanned = self.end;
        // Where the first line has just begun: a TLS handshake would never come to a line's end.
        if !self.begun
            && let Some(first) = buffer[self.line..self.end].first()
            && !first.is_ascii_graphic()
            && *first != b'\r'
        {
            return Found::Garbage;
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
    fn one_head_is_found_behind_the_other() {
        let mut input = input(b"\r\nGET / HTTP/1.1\r\nA: b\r\n\r\nGET");
        assert_eq!(input.find(), Found::RequestLine(b"\r\nGET / HTTP/1.1\r\n"));
        let Found::Head(head) = input.find() else { panic!("it is whole") };
        let len = head.len();
        input.consume(len);
        assert_eq!(input.find(), Found::Nothing);
        assert_eq!(input.len(), 3);
        assert_eq!(input.spare().len(), 61);
    }

    #[test]
    fn a_head_without_end_is_too_long_and_a_handshake_is_garbage() {
        assert_eq!(input(&[b'x'; 64]).find(), Found::TooLong);
        assert_eq!(input(&[b'\n'; 64]).find(), Found::TooLong);
        assert_eq!(input(b"\x16\x03\x01").find(), Found::Garbage);
        assert_eq!(input(b"\r").find(), Found::Nothing);
    }
}
