//! Where one message ends and the next begins.

use core::{mem, num::NonZeroUsize};

use memchr::memchr;

/// How a stream is cut into messages.
///
/// A stream of fixed-size messages can't be re-synchronised from its middle: it has to be read from
/// its beginning, as it is after each connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Every message is as long as this, in bytes.
    Fixed(NonZeroUsize),
    /// A message ends with this byte, which belongs to it, and is at most `max` bytes long with it.
    Delimited {
        /// The last byte of every message, and in no other place.
        delimiter: u8,
        /// The longest message, in bytes.
        max: NonZeroUsize,
    },
    /// A message begins with its length in four bytes, big-endian, which does not count itself;
    /// with it, the message is at most `max` bytes long.
    LengthPrefixed {
        /// The longest message, in bytes.
        max: NonZeroUsize,
    },
    /// There are no messages: bytes are passed on as they come, and each read counts as one.
    None,
}

/// A message is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {length} bytes or more; the limit is {limit}")]
pub struct TooLong {
    /// The limit, in bytes.
    pub limit: usize,
    /// How long the message is at least, in bytes.
    pub length: usize,
}

/// The whole messages at the beginning of some bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// How many bytes they take.
    pub bytes: usize,
    /// How many messages they are.
    pub messages: u64,
    /// What follows them is the beginning of a message that is too long.
    pub too_long: Option<TooLong>,
}

/// The bytes of a length before a message.
const PREFIX: usize = 4;

impl Framing {
    /// The longest message, in bytes; `None` where there are no messages.
    pub fn longest(&self) -> Option<usize> {
        match *self {
            Self::Fixed(size) => Some(size.get()),
            Self::Delimited { max, .. } | Self::LengthPrefixed { max } => Some(max.get()),
            Self::None => None,
        }
    }

    /// The length of the message that `bytes` begins with; `None` where it is not whole. The first
    /// `seen` bytes were looked at before, and did not hold its end.
    ///
    /// # Errors
    /// It is longer than it may be.
    fn first(&self, bytes: &[u8], seen: usize) -> Result<Option<usize>, TooLong> {
        let (length, limit) = match *self {
            Self::Fixed(size) => (size.get(), size.get()),
            Self::None => (bytes.len().max(1), usize::MAX),
            Self::Delimited { delimiter, max } => match memchr(delimiter, &bytes[seen..]) {
                Some(at) => (seen + at + 1, max.get()),
                // At least the delimiter is missing.
                None => (bytes.len() + 1, max.get()),
            },
            Self::LengthPrefixed { max } => match bytes.first_chunk::<PREFIX>() {
                Some(prefix) => {
                    let content = usize::try_from(u32::from_be_bytes(*prefix));
                    (content.unwrap_or(usize::MAX).saturating_add(PREFIX), max.get())
                }
                None => return Ok(None),
            },
        };
        if length > limit {
            return Err(TooLong { limit, length });
        }
        Ok(Some(length).filter(|&length| length <= bytes.len()))
    }

    /// The whole messages at the beginning of `bytes`, of which the first `seen` hold no end.
    pub fn whole(&self, bytes: &[u8], mut seen: usize) -> Whole {
        let mut whole = Whole::default();
        if let Self::Fixed(size) = self {
            // No need to go from one to the next.
            whole.messages = (bytes.len() / size.get()) as u64;
            whole.bytes = bytes.len() - bytes.len() % size.get();
            return whole;
        }
        loop {
            match self.first(&bytes[whole.bytes..], mem::take(&mut seen)) {
                Ok(Some(length)) => {
                    whole.bytes += length;
                    whole.messages += 1;
                }
                Ok(None) => return whole,
                Err(too_long) => return Whole { too_long: Some(too_long), ..whole },
            }
        }
    }

    /// How many of `messages`, which are whole ones, end within their first `at` bytes.
    pub fn whole_within(&self, messages: &[u8], at: usize) -> u64 {
        match self {
            // All that was read at once is one.
            Self::None => u64::from(at == messages.len()),
            Self::Fixed(_) | Self::Delimited { .. } | Self::LengthPrefixed { .. } => {
                self.whole(&messages[..at], 0).messages
            }
        }
    }

    /// Where the message ends that byte `at` of `messages` belongs to; `messages` are whole ones.
    pub fn end_of_message(&self, messages: &[u8], at: usize) -> usize {
        let mut end = 0;
        while end <= at {
            match self.first(&messages[end..], 0) {
                Ok(Some(length)) => end += length,
                Ok(None) | Err(_) => return messages.len(),
            }
        }
        end
    }

    /// Where message number `count` of `messages` begins, counted from 0.
    pub fn start_of_message(&self, messages: &[u8], count: u64) -> usize {
        if let Self::Fixed(size) = self {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            return size.get().saturating_mul(count).min(messages.len());
        }
        let mut start = 0;
        for _ in 0..count {
            if start == messages.len() {
                break;
            }
            start = self.end_of_message(&messages[start..], 0) + start;
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: NonZeroUsize = NonZeroUsize::new(4).unwrap();
    const TEN: NonZeroUsize = NonZeroUsize::new(10).unwrap();
    const LINES: Framing = Framing::Delimited { delimiter: b'\n', max: FOUR };
    const PREFIXED: Framing = Framing::LengthPrefixed { max: TEN };

    #[test]
    fn whole_messages_are_found_and_the_rest_is_left() {
        let found = |framing: Framing, bytes: &[u8]| {
            let whole = framing.whole(bytes, 0);
            assert_eq!(whole.too_long, None);
            (whole.bytes, whole.messages)
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
        let too_long = |framing: Framing, bytes: &[u8]| framing.whole(bytes, 0).too_long;
        assert_eq!(too_long(LINES, b"abc\n"), None, "the limit itself is fine");
        assert_eq!(too_long(LINES, b"abcd\n"), Some(TooLong { limit: 4, length: 5 }));
        assert_eq!(too_long(LINES, b"abc"), None);
        assert!(too_long(LINES, b"abcd").is_some(), "its end can only be the fifth byte, or later");
        assert_eq!(too_long(PREFIXED, b"\0\0\0\x06abcdef"), None);
        assert_eq!(too_long(PREFIXED, b"\0\0\0\x07"), Some(TooLong { limit: 10, length: 11 }));
        assert!(too_long(PREFIXED, b"\xff\xff\xff\xff").is_some(), "no overflow");
        let whole = LINES.whole(b"a\nabcdef", 0);
        assert_eq!((whole.bytes, whole.messages), (2, 1), "what came before it is whole");
        assert!(whole.too_long.is_some());
    }

    #[test]
    fn a_message_is_found_by_its_number_or_one_of_its_bytes() {
        let lines = b"a\n\nbc\n";
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(|at| LINES.end_of_message(lines, at)),
            [2, 2, 3, 6, 6, 6]
        );
        assert_eq!([0, 1, 2, 3, 9].map(|n| LINES.start_of_message(lines, n)), [0, 2, 3, 6, 6]);
        assert_eq!([0, 1, 2, 5, 6].map(|at| LINES.whole_within(lines, at)), [0, 0, 1, 2, 3]);
        assert_eq!([0, 1, 5, 6].map(|at| Framing::None.whole_within(lines, at)), [0, 0, 0, 1]);
        let fixed = Framing::Fixed(FOUR);
        assert_eq!([0, 3, 4].map(|at| fixed.end_of_message(b"aaaabbbb", at)), [4, 4, 8]);
        assert_eq!([0, 1, 9].map(|n| fixed.start_of_message(b"aaaabbbb", n)), [0, 4, 8]);
    }
}
