//! Finds the head of a request in the input of a connection.

use std::mem;

/// Finds the end of a head, while the head arrives.
///
/// A head is parsed when its first line is complete, and again when the whole head is. So the
/// result does not depend on how the input is split into reads. Each byte is scanned for line ends
/// once.
#[derive(Debug, Default)]
pub(in crate::status) struct HeadSearch {
    /// The position up to which the input is scanned for line ends.
    scanned: usize,
    /// The start of the line that contains `scanned`.
    line: usize,
    /// The start of the request line, the first line that is not empty, once its end is found.
    request_line: Option<usize>,
}

/// The result of [`HeadSearch::find`]: the front of the input.
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
    /// The head is incomplete, and as long as a head may be.
    TooLong,
}

impl HeadSearch {
    /// Finds the request line in `input`, then the end of the head. `input` begins with the same
    /// head in each call, and has at most `max` bytes.
    pub(in crate::status) fn find<'a>(&mut self, input: &'a [u8], max: usize) -> Found<'a> {
        while let Some(i) = memchr::memchr(b'\n', &input[self.scanned..]) {
            let end = self.scanned + i;
            let start = mem::replace(&mut self.line, end + 1);
            self.scanned = end + 1;
            let is_empty = matches!(input[start..end], [] | [b'\r']);
            // Empty lines before a request are skipped (RFC 9112, section 2.2).
            if !is_empty && self.request_line.is_none() {
                self.request_line = Some(start);
                return Found::RequestLine(&input[..=end]);
            }
            if is_empty && self.request_line.is_some() {
                return Found::Head(&input[..=end]);
            }
        }
        self.scanned = input.len();
        // The first byte is enough to refuse a TLS handshake, which may never contain a line end.
        if self.request_line.is_none()
            && let Some(first) = input[self.line..].first()
            && !first.is_ascii_graphic()
            && *first != b'\r'
        {
            return Found::NotHttp;
        }
        if input.len() == max { Found::TooLong } else { Found::Nothing }
    }

    /// Whether this is the head of a `HEAD` request, whose answer has no content.
    pub(in crate::status) fn is_head_request(&self, input: &[u8]) -> bool {
        input[self.request_line.unwrap_or(self.line)..].starts_with(b"HEAD ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 64;

    #[test]
    fn the_request_line_is_found_before_the_end_of_the_head() {
        let input = b"\r\nHEAD / HTTP/1.1\r\nA: b\r\n\r\nGET";
        let mut search = HeadSearch::default();
        assert_eq!(search.find(&input[..7], MAX), Found::Nothing);
        assert!(search.is_head_request(&input[..7]));
        assert_eq!(search.find(input, MAX), Found::RequestLine(b"\r\nHEAD / HTTP/1.1\r\n"));
        assert_eq!(search.find(input, MAX), Found::Head(&input[..27]));
        assert!(search.is_head_request(input));
        let mut search = HeadSearch::default();
        assert_eq!(search.find(&input[27..], MAX), Found::Nothing);
        assert!(!search.is_head_request(&input[27..]));
    }

    #[test]
    fn a_head_without_end_is_too_long_and_a_handshake_is_not_http() {
        let find = |input: &[u8]| match HeadSearch::default().find(input, MAX) {
            Found::TooLong => "too long",
            Found::NotHttp => "not HTTP",
            Found::Nothing => "nothing",
            Found::RequestLine(_) | Found::Head(_) => "a line",
        };
        assert_eq!(find(&[b'x'; MAX]), "too long");
        assert_eq!(find(&[b'\n'; MAX]), "too long");
        assert_eq!(find(b"\x16\x03\x01"), "not HTTP");
        assert_eq!(find(b"\r"), "nothing");
    }
}
