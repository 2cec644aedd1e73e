//! Which subjects a client sends.

use crate::quantity::Size;

/// Why a subject, a queue group or an inbox cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSubject {
    /// It is empty, or one of its tokens is: it begins or ends with a dot, or has two in a row.
    #[error("a subject has an empty token")]
    EmptyToken,
    /// It has a space or a control character, which would end the subject on the wire.
    #[error("a subject has byte {byte:#04x} at {position}")]
    Byte {
        /// The byte.
        byte: u8,
        /// Its position.
        position: usize,
    },
    /// A subject to which is published has a wildcard, or `>` is not the last token.
    #[error("a subject has a wildcard where none is allowed")]
    Wildcard,
    /// The operation's line would be too long for the server.
    #[error("a line of {}, above the limit of {}", Size(*length as u64), Size(*limit as u64))]
    TooLong {
        /// The length of the line in bytes, or an upper bound of it.
        length: usize,
        /// The limit in bytes ([`Config::max_control_line`](super::Config::max_control_line)).
        limit: usize,
    },
}

/// Checks a subject to which messages are published: tokens that are separated by dots, without
/// white space, control characters and wildcards.
///
/// # Errors
/// The subject cannot be sent.
///
/// ```
/// use wirestate_core::nats::{InvalidSubject, check_subject};
///
/// assert_eq!(check_subject("orders.new"), Ok(()));
/// assert_eq!(check_subject("orders.*"), Err(InvalidSubject::Wildcard));
/// ```
pub fn check_subject(subject: &str) -> Result<(), InvalidSubject> {
    check(subject, Wildcards::Forbidden)
}

/// Whether wildcards are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wildcards {
    Allowed,
    Forbidden,
}

/// Checks a subject: tokens that are separated by dots. A wildcard (`*`, or `>` at the end) is a
/// token of its own; inside a token these characters have no meaning.
pub(super) fn check(subject: &str, wildcards: Wildcards) -> Result<(), InvalidSubject> {
    let bytes = subject.as_bytes();
    let mut start = 0;
    loop {
        let mut end = start;
        while let Some(&byte) = bytes.get(end)
            && byte != b'.'
        {
            if byte <= b' ' || byte == 0x7f {
                return Err(InvalidSubject::Byte { byte, position: end });
            }
            end += 1;
        }
        match &bytes[start..end] {
            b"" => return Err(InvalidSubject::EmptyToken),
            b"*" | b">" if wildcards == Wildcards::Forbidden => {
                return Err(InvalidSubject::Wildcard);
            }
            b">" if end < bytes.len() => return Err(InvalidSubject::Wildcard),
            _ => {}
        }
        if end == bytes.len() {
            return Ok(());
        }
        start = end + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_no_empty_token_no_space_and_wildcards_only_where_they_are_allowed() {
        use InvalidSubject::{Byte, EmptyToken, Wildcard};
        for (subject, published, subscribed) in [
            ("a", Ok(()), Ok(())),
            ("a.b-c.ü", Ok(()), Ok(())),
            ("$JS.API.>x", Ok(()), Ok(())),
            ("a.*b", Ok(()), Ok(())),
            ("", Err(EmptyToken), Err(EmptyToken)),
            (".", Err(EmptyToken), Err(EmptyToken)),
            ("a.", Err(EmptyToken), Err(EmptyToken)),
            (".a", Err(EmptyToken), Err(EmptyToken)),
            ("a..b", Err(EmptyToken), Err(EmptyToken)),
            ("*", Err(Wildcard), Ok(())),
            ("a.*.b", Err(Wildcard), Ok(())),
            ("a.>", Err(Wildcard), Ok(())),
            (">.a", Err(Wildcard), Err(Wildcard)),
            ("a b", Err(Byte { byte: b' ', position: 1 }), Err(Byte { byte: b' ', position: 1 })),
            (
                "a.\r\nPING",
                Err(Byte { byte: b'\r', position: 2 }),
                Err(Byte { byte: b'\r', position: 2 }),
            ),
        ] {
            assert_eq!(check(subject, Wildcards::Forbidden), published, "{subject:?}");
            assert_eq!(check(subject, Wildcards::Allowed), subscribed, "{subject:?}");
        }
    }
}
