//! The operations that a server sends.

use alloc::{string::String, vec::Vec};
use core::ops::Range;

use super::{Subscription, message::Head};
use crate::machine::impl_label;

/// An operation's line. Ranges refer to the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The JSON text.
    Info(Range<usize>),
    Message(Head),
    Ping,
    Pong,
    Ok,
    /// The text, without quotes.
    Error(Range<usize>),
}

/// How a server breaks the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The first bytes are not those of a NATS server.
    #[error("not a NATS server: it begins with \"{begin}\"")]
    NotNats {
        /// The first bytes, at most 16, escaped.
        begin: String,
    },
    /// A line ends without a CR before the LF.
    #[error("a line ends without a CR")]
    LineEnd,
    /// There is no such operation.
    #[error("unknown operation \"{begin}\"")]
    UnknownOperation {
        /// The first bytes of the line, at most 16, escaped.
        begin: String,
    },
    /// A message's line has too few or too many fields.
    #[error("a line of a message with {count} fields")]
    Fields {
        /// The number of fields.
        count: usize,
    },
    /// A number is none, or too large.
    #[error("not a number: \"{text}\"")]
    Number {
        /// The first bytes of the field, at most 16, escaped.
        text: String,
    },
    /// The headers are longer than headers and payload together.
    #[error("a message with {headers} bytes of headers, but {total} bytes in all")]
    HeadersLength {
        /// The length of the headers.
        headers: usize,
        /// The length of headers and payload.
        total: usize,
    },
    /// A message does not end where its length says.
    #[error("a message of {length} bytes has no line end after them")]
    Payload {
        /// The length of headers and payload.
        length: usize,
    },
    /// A PONG to no PING.
    #[error("a PONG to no PING")]
    UnexpectedPong,
    /// Something else than INFO before the first INFO.
    #[error("an operation before INFO")]
    BeforeInfo,
}

impl_label!(pub(super) Malformed {
    Self::NotNats { .. } => "not_nats",
    Self::LineEnd
    | Self::UnknownOperation { .. }
    | Self::Fields { .. }
    | Self::Number { .. }
    | Self::HeadersLength { .. }
    | Self::Payload { .. }
    | Self::UnexpectedPong
    | Self::BeforeInfo => "malformed",
});

/// Parses a line, which includes its line end.
pub(super) fn parse(line: &[u8]) -> Result<Line, Malformed> {
    let text = line.strip_suffix(b"\r\n").ok_or(Malformed::LineEnd)?;
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let name_end = text.iter().position(is_blank).unwrap_or(text.len());
    let (name, rest) = text.split_at(name_end);
    let argument = || {
        let trimmed = rest.trim_ascii();
        let start = name_end + (rest.len() - rest.trim_ascii_start().len());
        start..start + trimmed.len()
    };
    let is = |operation: &[u8]| name.eq_ignore_ascii_case(operation);
    if is(b"MSG") {
        parse_message(line, name_end, false).map(Line::Message)
    } else if is(b"HMSG") {
        parse_message(line, name_end, true).map(Line::Message)
    } else if is(b"PING") {
        Ok(Line::Ping)
    } else if is(b"PONG") {
        Ok(Line::Pong)
    } else if is(b"+OK") {
        Ok(Line::Ok)
    } else if is(b"INFO") {
        Ok(Line::Info(argument()))
    } else if is(b"-ERR") {
        let Range { mut start, mut end } = argument();
        if end - start >= 2 && line[start] == b'\'' && line[end - 1] == b'\'' {
            (start, end) = (start + 1, end - 1);
        }
        Ok(Line::Error(start..end))
    } else {
        Err(Malformed::UnknownOperation { begin: excerpt(text) })
    }
}

/// Parses the fields of `MSG` or `HMSG` behind the name: the subject, the subscription's id, the
/// subject for replies or none, the length of the headers if it has any, and the whole length.
fn parse_message(line: &[u8], start: usize, has_headers: bool) -> Result<Head, Malformed> {
    let lengths = if has_headers { 2 } else { 1 };
    let mut fields = [(0, 0); MAX_FIELDS];
    let (mut count, mut position) = (0, start);
    let end = line.len() - 2;
    while position < end {
        if matches!(line[position], b' ' | b'\t') {
            position += 1;
            continue;
        }
        let field_start = position;
        while position < end && !matches!(line[position], b' ' | b'\t') {
            position += 1;
        }
        if count < MAX_FIELDS {
            fields[count] = (field_start, position);
        }
        count += 1;
    }
    let has_reply = match count.checked_sub(2 + lengths) {
        Some(0) => false,
        Some(1) => true,
        Some(_) | None => return Err(Malformed::Fields { count }),
    };
    let number = |field: usize| {
        let digits = &line[fields[field].0..fields[field].1];
        parse_number(digits).ok_or_else(|| Malformed::Number { text: excerpt(digits) })
    };
    let length = |field: usize| {
        let (start, end) = fields[field];
        let too_large = || Malformed::Number { text: excerpt(&line[start..end]) };
        usize::try_from(number(field)?).map_err(|_| too_large())
    };
    // A line is at most `max_control_line` long, and longer ones than 4 GiB are not stored.
    let range = |field: usize| {
        let (start, end) = fields[field];
        u32::try_from(start).unwrap_or(u32::MAX)..u32::try_from(end).unwrap_or(u32::MAX)
    };
    let total = length(count - 1)?;
    let headers = if has_headers { length(count - 2)? } else { 0 };
    if headers > total {
        return Err(Malformed::HeadersLength { headers, total });
    }
    Ok(Head {
        subscription: Subscription(number(1)?),
        subject: range(0),
        reply: if has_reply { range(2) } else { 0..0 },
        line: line.len(),
        headers,
        total,
    })
}

/// The most fields of a message's line: subject, id, reply, and two lengths.
const MAX_FIELDS: usize = 5;

/// The most bytes of an excerpt.
pub(super) const MAX_EXCERPT: usize = 16;

/// A number of digits only.
pub(super) fn parse_number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let digit =
        |number: u64, byte: &u8| number.checked_mul(10)?.checked_add(u64::from(byte - b'0'));
    if is_number { digits.iter().try_fold(0, digit) } else { None }
}

/// The first bytes, escaped, for an error.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let escaped: Vec<u8> =
        bytes.iter().take(MAX_EXCERPT).flat_map(|byte| byte.escape_ascii()).collect();
    String::from_utf8_lossy(&escaped).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(line: &str) -> Result<(&str, &str, u64, usize, usize), Malformed> {
        let parsed = parse(line.as_bytes())?;
        let Line::Message(head) = parsed else { panic!("{parsed:?}") };
        let part = |range: &Range<u32>| &line[range.start as usize..range.end as usize];
        let Head { subscription, headers, total, .. } = &head;
        Ok((part(&head.subject), part(&head.reply), subscription.0, *headers, *total))
    }

    #[test]
    fn names_ignore_case_and_fields_are_separated_by_any_blanks() {
        assert_eq!(message("MSG a 1 5\r\n"), Ok(("a", "", 1, 0, 5)));
        assert_eq!(message("msg \t a.b\t 12  r.s  0 \r\n"), Ok(("a.b", "r.s", 12, 0, 0)));
        assert_eq!(message("HMSG a 1 12 17\r\n"), Ok(("a", "", 1, 12, 17)));
        assert_eq!(message("hMsg a 1 r 12 12\r\n"), Ok(("a", "r", 1, 12, 12)));
        assert_eq!(parse(b"ping\r\n"), Ok(Line::Ping));
        assert_eq!(parse(b"PONG \r\n"), Ok(Line::Pong));
        assert_eq!(parse(b"+OK\r\n"), Ok(Line::Ok));
        assert_eq!(parse(b"INFO  {} \r\n"), Ok(Line::Info(6..8)));
        assert_eq!(parse(b"-ERR 'a b'\r\n"), Ok(Line::Error(6..9)));
        assert_eq!(parse(b"-ERR\r\n"), Ok(Line::Error(4..4)));
        assert_eq!(parse(b"-ERR '\r\n"), Ok(Line::Error(5..6)));
    }

    #[test]
    fn bad_lines_have_a_named_error() {
        let number = |text: &str| Malformed::Number { text: text.into() };
        for (line, error) in [
            ("PING\n", Malformed::LineEnd),
            ("\r\n", Malformed::UnknownOperation { begin: String::new() }),
            ("PUB a 1\r\n", Malformed::UnknownOperation { begin: "PUB a 1".into() }),
            ("MSG\r\n", Malformed::Fields { count: 0 }),
            ("MSG a 1\r\n", Malformed::Fields { count: 2 }),
            ("MSG a 1 b 2 3\r\n", Malformed::Fields { count: 5 }),
            ("HMSG a 1 2\r\n", Malformed::Fields { count: 3 }),
            ("HMSG a 1 b 2 3 4 5 6 7\r\n", Malformed::Fields { count: 9 }),
            ("MSG a x 1\r\n", number("x")),
            ("MSG a 1 -1\r\n", number("-1")),
            ("MSG a 1 +1\r\n", number("+1")),
            ("MSG a 1 18446744073709551616\r\n", number("1844674407370955")),
            ("HMSG a 1 3 2\r\n", Malformed::HeadersLength { headers: 3, total: 2 }),
        ] {
            assert_eq!(parse(line.as_bytes()), Err(error), "{line:?}");
        }
    }
}
