//! Proptest strategies for headers, contents and messages.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::select};
use wirestate_core::message::{ByteOrder, Header, Message};

use super::bad_frames::{BadFrame, bad_frames};

/// Strings for header values: common values, strings that need escapes, non-ASCII strings, the
/// empty string, and random strings of up to 24 characters.
pub fn texts() -> impl Strategy<Value = String> {
    const TEXTS: [&str; 16] = [
        "text/json",
        "utf-8",
        "binary",
        "binary/custom-client-binary-type",
        "",
        " ",
        "\"",
        "\\",
        "\\\"\\u0022",
        "\0\u{1}\u{1f}\n\r\t\u{8}\u{c}",
        "\u{7f}\u{80}\u{2028}\u{2029}\u{feff}",
        "grün",
        "🐶",
        "\u{10ffff}\u{e000}\u{d7ff}",
        "{\"byteorder\": \"big\"}",
        "a/b",
    ];
    prop_oneof![
        2 => select(&TEXTS[..]).prop_map(String::from),
        1 => vec(any::<char>(), 0..=24).prop_map(String::from_iter),
    ]
}

/// Either byte order.
pub fn byteorders() -> impl Strategy<Value = ByteOrder> {
    select(&[ByteOrder::Little, ByteOrder::Big][..])
}

/// Headers with [`texts`] and any content length.
pub fn headers() -> impl Strategy<Value = Header<'static>> {
    let length = prop_oneof![0..=9_u64, any::<u64>(), Just(u64::MAX)];
    (byteorders(), texts(), texts(), length).prop_map(
        |(byteorder, content_type, content_encoding, content_length)| Header {
            byteorder,
            content_type: content_type.into(),
            content_encoding: content_encoding.into(),
            content_length,
        },
    )
}

/// Contents of up to four times `boundary` bytes. Lengths of 0, 1 and around `boundary` are
/// frequent.
///
/// Use the size of your buffer as `boundary`.
pub fn contents(boundary: usize) -> impl Strategy<Value = Bytes> {
    let sizes = [0, 1, boundary.saturating_sub(1), boundary, boundary + 1, 2 * boundary];
    let size = prop_oneof![3 => select(sizes.to_vec()), 2 => 0..=4 * boundary];
    // Drawing each byte is slow. Consecutive bytes differ by a constant, so that a test
    // finds lost or moved bytes.
    (size, any::<u8>(), 1..=u8::MAX).prop_map(|(size, first, step)| {
        let next = |byte: &u8| Some(byte.wrapping_add(step));
        std::iter::successors(Some(first), next).take(size).collect()
    })
}

/// Messages with [`texts`] and [`contents`].
pub fn messages(boundary: usize) -> impl Strategy<Value = Message<'static>> {
    (byteorders(), texts(), texts(), contents(boundary)).prop_map(
        |(byteorder, content_type, content_encoding, content)| Message {
            byteorder,
            content_type: content_type.into(),
            content_encoding: content_encoding.into(),
            content: content.into(),
        },
    )
}

/// One of [`bad_frames`].
pub fn any_bad_frame() -> impl Strategy<Value = BadFrame> {
    select(bad_frames())
}
