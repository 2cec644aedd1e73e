//! All declared lengths of a header, and many of a content.

use wirestate_core::message::{ByteOrder, DecodeError, FrameLimits, Message};
use wirestate_testkit::message::golden;

use crate::reading::{by_decoder, by_inbox};

/// The error of a decoder whose input is only the two bytes of a header length.
fn error_of_prefix(limits: FrameLimits, length: u16) -> DecodeError {
    let bytes = length.to_be_bytes();
    let (messages, error) = by_decoder(limits, &[&bytes]);
    assert!(messages.is_empty());
    assert_eq!(by_decoder(limits, &[&bytes[..1], &bytes[1..]]).1, error);
    error.unwrap()
}

#[test]
fn each_of_the_65536_header_lengths_has_its_error_under_the_default_limit() {
    let limits = FrameLimits::default();
    for length in 0..=u16::MAX {
        let expected = match length {
            0 => DecodeError::EmptyHeader,
            1..=4096 => DecodeError::Truncated { received: 2, expected: 2 + u64::from(length) },
            4097.. => DecodeError::HeaderTooLong { declared: length, limit: 4096 },
        };
        assert_eq!(error_of_prefix(limits, length), expected);
        if length % 97 == 0 || (4090..4100).contains(&length) {
            assert_eq!(by_inbox(limits, 0, &[&length.to_be_bytes()]).1, Some(expected));
        }
    }
}

#[test]
fn each_of_the_65536_header_lengths_has_its_error_without_a_limit() {
    let limits = FrameLimits::default().with_max_header(u16::MAX);
    for length in 0..=u16::MAX {
        let expected = match length {
            0 => DecodeError::EmptyHeader,
            1.. => DecodeError::Truncated { received: 2, expected: 2 + u64::from(length) },
        };
        assert_eq!(error_of_prefix(limits, length), expected);
        if length % 977 == 0 || length == u16::MAX {
            assert_eq!(by_inbox(limits, 0, &[&length.to_be_bytes()]).1, Some(expected));
        }
    }
}

#[test]
fn headers_of_all_lengths_are_decoded() {
    let limits = FrameLimits::default().with_max_header(u16::MAX);
    let golden = golden();
    let (header, content) = golden[2..].split_at(103);
    let mut json = header.to_vec();
    let expected = Message { byteorder: ByteOrder::Little, ..Message::json(content) };
    // The lengths around each power of two, and many others.
    let near = |length: u16| {
        (length + 2).is_power_of_two() || (length + 1).is_power_of_two() || length.is_power_of_two()
    };
    for length in (103..=u16::MAX).filter(|length| {
        length % 251 == 0 || *length > u16::MAX - 3 || (*length < u16::MAX - 2 && near(*length))
    }) {
        json.resize(usize::from(length), b' ');
        let frame = [&length.to_be_bytes()[..], &json, content].concat();
        let (messages, error) = by_decoder(limits, &[&frame]);
        assert_eq!(
            (&messages[..], error),
            (&[expected.clone().into_owned()][..], None),
            "{length}"
        );
        assert_eq!(by_inbox(limits, 0, &[&frame]), (messages, None), "{length}");
    }
}
