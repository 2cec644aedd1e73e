//! Encoded messages are decoded again.

use std::borrow::Cow;

use proptest::{collection::vec, prelude::*};
use wirestate_core::message::{Config, DecodeError, FrameLimits, Header, Message};
use wirestate_testkit::{
    message::{frames, headers, messages},
    proptest_config,
    script::{cuts, pieces},
};

use crate::reading::{by_client, by_decoder, by_inbox, by_server, by_streaming_inbox};

/// Generated headers have at most 250 bytes, plus two strings of 24 characters that take six bytes
/// each as escapes.
const LIMITS: FrameLimits = FrameLimits::new(450, 1 << 20);
/// The size of the smallest buffer that holds the longest header.
const MIN_BUFFER: usize = 452;

/// Up to four messages with contents around the size of the smallest buffer, their frames, and a
/// cut of the frames.
fn messages_and_cut() -> impl Strategy<Value = (Vec<Message<'static>>, Vec<u8>, Vec<usize>)> {
    vec(messages(MIN_BUFFER), 0..=4).prop_flat_map(|sent| {
        let bytes = frames(&sent);
        let cut = cuts(bytes.len());
        (Just(sent), Just(bytes), cut)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..proptest_config() })]

    #[test]
    fn a_header_is_parsed_as_it_was_written(header in headers()) {
        let json = header.to_json();
        let read = Header::from_json(&json).unwrap();
        prop_assert_eq!(&read, &header);
        // Values that can be borrowed are not copied.
        let escaped = |text: &str| text.contains(|c: char| c < ' ' || c == '"' || c == '\\');
        prop_assert_eq!(matches!(read.content_type, Cow::Owned(_)), escaped(&header.content_type));
        prop_assert!(!str::from_utf8(&json).unwrap().contains(|c: char| c < ' '));
        // Another JSON parser reads the same.
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        prop_assert_eq!(&value["content-type"], &*header.content_type);
        prop_assert_eq!(&value["content-encoding"], &*header.content_encoding);
        prop_assert_eq!(&value["content-length"], header.content_length);
    }

    #[test]
    fn every_decoder_returns_the_messages_that_were_sent_for_every_cut(
        (sent, bytes, cut) in messages_and_cut(),
        extra in prop_oneof![Just(0), 0..MIN_BUFFER],
    ) {
        let pieces: Vec<&[u8]> = pieces(&bytes, &cut).collect();
        prop_assert_eq!(&by_decoder(LIMITS, &pieces), &(sent.clone(), None));
        prop_assert_eq!(&by_inbox(LIMITS, extra, &pieces), &(sent.clone(), None));
        prop_assert_eq!(&by_streaming_inbox(LIMITS, extra, &pieces), &(sent.clone(), None));
        prop_assert_eq!(&by_client(LIMITS, &pieces), &(sent.clone(), None));
        let buffer = (1 + extra).try_into().unwrap();
        let config = Config::default().with_frame_limits(LIMITS).with_buffer(buffer);
        let served = by_server(&config, &pieces);
        prop_assert_eq!(&served.replies, &sent);
        prop_assert_eq!(&served.output, &bytes, "the output differs from the input");
        prop_assert_eq!(served.reason.unwrap().to_string(), "finished");
        prop_assert!(served.fin);
    }

    /// The figures of the error are the same too: they do not depend on the cut.
    #[test]
    fn a_truncated_input_is_the_same_error_for_every_decoder(
        (sent, bytes, cut) in messages_and_cut(),
        at in any::<prop::sample::Index>(),
        extra in 0..MIN_BUFFER,
    ) {
        let at = if bytes.is_empty() { 0 } else { at.index(bytes.len()) };
        let pieces = pieces(&bytes[..at], &cut).filter(|piece| !piece.is_empty());
        let pieces: Vec<&[u8]> = pieces.collect();
        let read = by_decoder(LIMITS, &pieces);
        prop_assert!(sent.starts_with(&read.0));
        let is_truncated = matches!(read.1, None | Some(DecodeError::Truncated { .. }));
        prop_assert!(is_truncated, "{:?}", read.1);
        if let Some(DecodeError::Truncated { received, expected }) = read.1 {
            let figures = (received, expected);
            prop_assert!(received < expected || figures == (2, 2), "{figures:?}");
            let whole = frames(&read.0).len() as u64;
            prop_assert_eq!(whole + received, at as u64, "the figure is not exact");
        }
        prop_assert_eq!(&by_inbox(LIMITS, extra, &pieces), &read);
        prop_assert_eq!(&by_streaming_inbox(LIMITS, extra, &pieces), &read);
        prop_assert_eq!(&by_client(LIMITS, &pieces), &read);
        let served = by_server(&Config::default().with_frame_limits(LIMITS), &pieces);
        let error = read.1.into_iter().map(Message::error);
        let expected: Vec<Message<'_>> = read.0.into_iter().chain(error).collect();
        prop_assert_eq!(served.replies, expected, "a truncated message gets another reply");
    }
}

#[test]
fn contents_of_all_sizes_around_the_buffers_are_received() {
    for size in MIN_BUFFER - 130..=MIN_BUFFER + 2 {
        let sent = [Message::binary(vec![7; size]), Message::json("{}"), Message::binary("")];
        let bytes = frames(&sent);
        for length in [1, 2, 3, 100, MIN_BUFFER - 1, MIN_BUFFER, MIN_BUFFER + 1, usize::MAX] {
            let pieces: Vec<&[u8]> = bytes.chunks(length).collect();
            assert_eq!(by_inbox(LIMITS, 0, &pieces), (sent.to_vec(), None), "{size}, {length}");
        }
    }
}

#[test]
fn a_header_of_more_than_65535_bytes_is_not_encoded() {
    // 65,535 bytes is the longest header.
    let overhead =
        Message { content_type: "".into(), ..Message::binary("") }.header().to_json().len();
    let longest = "x".repeat(65_535 - overhead);
    let message = Message { content_type: longest.clone().into(), ..Message::binary("") };
    let limits = LIMITS.with_max_header(u16::MAX);
    let bytes = frames([&message]);
    assert_eq!(by_decoder(limits, &[&bytes]), (vec![message.clone()], None));
    let config = Config::default().with_frame_limits(limits);
    assert_eq!(by_server(&config, &[&bytes]).output, bytes);

    let message = Message { content_type: (longest + "x").into(), ..message };
    let mut bytes = b"before".to_vec();
    let error = message.encode(&mut bytes).unwrap_err();
    assert_eq!(error.to_string(), "the header would be 65536 bytes, more than the limit of 65535");
    assert_eq!(bytes, b"before", "bytes were appended although encoding failed");
}

/// No content length makes the figures overflow.
#[test]
fn a_truncated_content_of_the_greatest_length_is_an_error_with_both_figures() {
    let limits = FrameLimits::new(450, u64::MAX);
    let empty = Message::binary("");
    let header = Header { content_length: u64::MAX, ..empty.header() };
    let mut bytes = Vec::new();
    header.encode(&mut bytes).unwrap();
    bytes.extend([1, 2, 3]);
    let received = bytes.len() as u64;
    let truncated = DecodeError::Truncated { received, expected: u64::MAX };
    let pieces = [&bytes[..]];
    assert_eq!(
        by_streaming_inbox(limits, 0, &pieces).1,
        Some(DecodeError::ContentTooLong { declared: u64::MAX, limit: i64::MAX as u64 })
    );
    assert_eq!(by_decoder(limits, &pieces).1, Some(truncated));
}
