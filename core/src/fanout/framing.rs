//! Where one message ends and the next begins.

use core::{mem, num::NonZeroUsize};

use memchr::memchr;

/// How a stream is divided into messages.
///
/// In a stream of fixed-size messages, nothing marks the start of a message. So a new connection to
/// the upstream must begin with the start of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Every message has this length, in bytes.
    Fixed(NonZeroUsize),
    /// A message ends with a delimiter, which is part of it.
    Delimited {
        /// The last byte of every message; it occurs nowhere else.
        delimiter: u8,
        /// The longest message with its delimiter, in bytes.
        max: NonZeroUsize,
    },
    /// A message begins with its length in four bytes, big-endian, which does not include these
    /// four bytes.
    LengthPrefixed {
        /// The longest message with its length prefix, in bytes.
        max: NonZeroUsize,
    },
    /// There are no messages: bytes are passed on as they arrive, and each read counts as one
    /// message.
    None,
}

/// A message is longer than its [`Framing`] allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {length} bytes or more; the limit is {limit}")]
pub struct MessageTooLong {
    /// The limit, in bytes.
    pub limit: usize,
    /// The minimum length of the message, as far as it was received, in bytes.
    pub length: usize,
}

/// The complete messages at the beginning of some bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CompleteMessages {
    /// Their total length, in bytes.
    pub(super) bytes: usize,
    /// Their number.
    pub(super) count: u64,
    /// The error, if the beginning of a message that is too long follows them.
    pub(super) error: Option<MessageTooLong>,
}

impl Framing {
    /// The longest message, in bytes; `None` where there are no messages.
    pub fn max_message_size(&self) -> Option<usize> {
        match *self {
            Self::Fixed(size) => Some(size.get()),
            Self::Delimited { max, .. } | Self::LengthPrefixed { max } => Some(max.get()),
            Self::None => None,
        }
    }

    /// The complete messages at the beginning of `bytes`. The first `scanned` bytes are known to
    /// hold no end of a message.
    pub(super) fn complete_messages(&self, bytes: &[u8], mut scanned: usize) -> CompleteMessages {
        let mut complete = CompleteMessages::default();
        if let Self::Fixed(size) = self {
            // A division instead of a loop.
            complete.count = (bytes.len() / size.get()) as u64;
            complete.bytes = bytes.len() - bytes.len() % size.get();
            return complete;
        }
        loop {
            match self.first_message_len(&bytes[complete.bytes..], mem::take(&mut scanned)) {
                Ok(Some(length)) => {
                    complete.bytes += length;
                    complete.count += 1;
                }
                Ok(None) => return complete,
                Err(error) => return CompleteMessages { error: Some(error), ..complete },
            }
        }
    }

    /// How many of `messages` end within the first `len` bytes. All `messages` are complete.
    pub(super) fn count_within(&self, messages: &[u8], len: usize) -> u64 {
        match self {
            // All bytes of one read are one message.
            Self::None => u64::from(len == messages.len()),
            Self::Fixed(_) | Self::Delimited { .. } | Self::LengthPrefixed { .. } => {
                self.complete_messages(&messages[..len], 0).count
            }
        }
    }

    /// The offset after the message that contains the byte at `offset`. All `messages` are
    /// complete.
    pub(super) fn message_end(&self, messages: &[u8], offset: usize) -> usize {
        let mut end = 0;
        while end <= offset {
            match self.first_message_len(&messages[end..], 0) {
                Ok(Some(length)) => end += length,
                Ok(None) | Err(_) => return messages.len(),
            }
        }
        end
    }

    /// The offset of message `index`, counted from 0; the end of `messages` if there are fewer. All
    /// `messages` are complete.
    pub(super) fn message_start(&self, messages: &[u8], index: u64) -> usize {
        if let Self::Fixed(size) = self {
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            return size.get().saturating_mul(index).min(messages.len());
        }
        let mut start = 0;
        for _ in 0..index {
            if start == messages.len() {
                break;
            }
            start += self.message_end(&messages[start..], 0);
        }
        start
    }

    /// The length of the message at the beginning of `bytes`; `None` if it is not complete. The
    /// first `scanned` bytes are known to hold no end of a message.
    fn first_message_len(
        &self,
        bytes: &[u8],
        scanned: usize,
    ) -> Result<Option<usize>, MessageTooLong> {
        let (length, limit) = match *self {
            Self::Fixed(size) => (size.get(), size.get()),
            Self::None => (bytes.len().max(1), usize::MAX),
            Self::Delimited { delimiter, max } => match memchr(delimiter, &bytes[scanned..]) {
                Some(index) => (scanned + index + 1, max.get()),
                // At least the delimiter is missing.
                None => (bytes.len() + 1, max.get()),
            },
            Self::LengthPrefixed { max } => match bytes.first_chunk::<LENGTH_PREFIX>() {
                Some(prefix) => {
                    let content = usize::try_from(u32::from_be_bytes(*prefix));
                    (content.unwrap_or(usize::MAX).saturating_add(LENGTH_PREFIX), max.get())
                }
                None => return Ok(None),
            },
        };
        if length > limit {
            return Err(MessageTooLong { limit, length });
        }
        Ok(Some(length).filter(|&length| length <= bytes.len()))
    }
}

/// The size of a length prefix, in bytes.
pub(super) const LENGTH_PREFIX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: NonZeroUsize = NonZeroUsize::new(4).unwrap();
    const TEN: NonZeroUsize = NonZeroUsize::new(10).unwrap();
    const LINES: Framing = Framing::Delimited { delimiter: b'\n', max: FOUR };
    const PREFIXED: Framing = Framing::LengthPrefixed { max: TEN };

    #[test]
    fn complete_messages_are_found_and_the_rest_is_left() {
        let found = |framing: Framing, bytes: &[u8]| {
            let complete = framing.complete_messages(bytes, 0);
            assert_eq!(complete.error, None);
            (complete.bytes, complete.count)
        };
        assert_eq!(found(Framing::Fixed(FOUR), b"aaaabbbbc"), (8, 2));
        assert_eq!(found(Framing::Fixed(FOUR), b"aaa"), (0, 0));
        assert_eq!(found(LINES, b"a\n\nbc\nd"), (6, 3));
        assert_eq!(found(PREFIXED, b"\0\0\0\x02ab\0\0\0\0\0\0\0\x01"), (10, 2));
        assert_eq!(found(Framing::None, b"abc"), (3, 1));
        assert_eq!(found(Framing::None, b""), (0, 0));
    }

    #[test]
    fn a_message_beyond_the_limit_is_refused_with_limit_and_figure() {
        let too_long = |framing: Framing, bytes: &[u8]| framing.complete_messages(bytes, 0).error;
        assert_eq!(too_long(LINES, b"abc\n"), None, "the limit itself is fine");
        assert_eq!(too_long(LINES, b"abcd\n"), Some(MessageTooLong { limit: 4, length: 5 }));
        assert_eq!(too_long(LINES, b"abc"), None);
        assert!(too_long(LINES, b"abcd").is_some(), "its end can only be the fifth byte, or later");
        assert_eq!(too_long(PREFIXED, b"\0\0\0\x06abcdef"), None);
        assert_eq!(
            too_long(PREFIXED, b"\0\0\0\x07"),
            Some(MessageTooLong { limit: 10, length: 11 })
        );
        assert!(too_long(PREFIXED, b"\xff\xff\xff\xff").is_some(), "no overflow");
        let complete = LINES.complete_messages(b"a\nabcdef", 0);
        assert_eq!((complete.bytes, complete.count), (2, 1), "the message before it is complete");
        assert!(complete.error.is_some());
    }

    #[test]
    fn a_message_is_found_by_its_number_or_one_of_its_bytes() {
        let lines = b"a\n\nbc\n";
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(|offset| LINES.message_end(lines, offset)),
            [2, 2, 3, 6, 6, 6]
        );
        assert_eq!([0, 1, 2, 3, 9].map(|n| LINES.message_start(lines, n)), [0, 2, 3, 6, 6]);
        assert_eq!([0, 1, 2, 5, 6].map(|len| LINES.count_within(lines, len)), [0, 0, 1, 2, 3]);
        assert_eq!([0, 1, 5, 6].map(|len| Framing::None.count_within(lines, len)), [0, 0, 0, 1]);
        let fixed = Framing::Fixed(FOUR);
        assert_eq!([0, 3, 4].map(|offset| fixed.message_end(b"aaaabbbb", offset)), [4, 4, 8]);
        assert_eq!([0, 1, 9].map(|n| fixed.message_start(b"aaaabbbb", n)), [0, 4, 8]);
    }
}
