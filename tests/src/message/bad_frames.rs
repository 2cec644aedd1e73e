//! Invalid frames, by name, with the error of each.

use std::iter;

use wirestate_core::message::{DecodeError, FrameLimits};

use super::{
    GOLDEN_HEADER,
    bad_headers::{self, BadHeader, bad_headers, not_json, with_value},
    golden,
};

/// Bytes that a decoder with [`FrameLimits::default`] must refuse when the input ends, or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFrame {
    /// A unique name that says what is wrong.
    pub name: String,
    /// The bytes: valid frames, then the invalid one.
    pub bytes: Vec<u8>,
    /// The number of valid frames before the invalid one.
    pub frames_before: usize,
    /// The error that the decoder must return, as in [`BadHeader::error`].
    pub error: DecodeError,
}

impl BadFrame {
    /// Whether `error` is the error that the decoder must return.
    pub fn expects(&self, error: &DecodeError) -> bool {
        match (&self.error, error) {
            (DecodeError::Header(expected), DecodeError::Header(found)) => {
                bad_headers::matches(expected, found)
            }
            (expected, found) => expected == found,
        }
    }
}

/// The frames of all [`bad_headers`], and frames with other errors: their lengths, truncated
/// frames, other protocols.
pub fn bad_frames() -> Vec<BadFrame> {
    let headers = bad_headers().into_iter().map(|BadHeader { name, json, error }| BadFrame {
        name,
        bytes: with_length(&json),
        frames_before: 0,
        error: error.into(),
    });
    let mut bad: Vec<BadFrame> = headers.filter(|bad| bad.bytes.len() > 2).collect();
    let frames = [
        header_lengths(),
        content_lengths(),
        truncated_frames(),
        other_protocols(),
        later_frames(),
    ];
    bad.extend(frames.into_iter().flatten());
    bad
}

/// `json` behind the two bytes of its length.
fn with_length(json: &[u8]) -> Vec<u8> {
    let length = u16::try_from(json.len()).expect("each header has at most 65,535 bytes");
    [&length.to_be_bytes(), json].concat()
}

fn bad_frame(
    name: impl Into<String>,
    bytes: impl Into<Vec<u8>>,
    error: impl Into<DecodeError>,
) -> BadFrame {
    BadFrame { name: name.into(), bytes: bytes.into(), frames_before: 0, error: error.into() }
}

fn header_lengths() -> Vec<BadFrame> {
    let limit = FrameLimits::default().max_header;
    let too_long = |declared| DecodeError::HeaderTooLong { declared, limit };
    let golden = GOLDEN_HEADER.as_bytes();
    let mut bad = vec![
        bad_frame("header length: 0", [0, 0], DecodeError::EmptyHeader),
        bad_frame(
            "header length: 0 before a header",
            [&[0, 0], golden].concat(),
            DecodeError::EmptyHeader,
        ),
    ];
    for declared in [limit + 1, limit + 2, 0x7fff, 0x8000, 0xff00, 0xfffe, 0xffff] {
        let name = format!("header length: {declared}");
        bad.push(bad_frame(name, declared.to_be_bytes(), too_long(declared)));
    }
    // Valid but for its length.
    let padded = |length: u16| {
        let mut json = golden.to_vec();
        json.resize(usize::from(length), b' ');
        with_length(&json)
    };
    for length in [limit + 1, u16::MAX] {
        let name = format!("header length: {length}, complete");
        bad.push(bad_frame(name, padded(length), too_long(length)));
    }
    let short = [&102_u16.to_be_bytes(), golden].concat();
    let error = not_json("EOF while parsing an object");
    bad.push(bad_frame("header length: one too small", short, error));
    let long = [&104_u16.to_be_bytes()[..], golden, b"{}"].concat();
    let error = not_json("trailing characters");
    bad.push(bad_frame("header length: one too large", long, error));
    let swapped = [&103_u16.to_le_bytes(), golden].concat();
    bad.push(bad_frame("header length: little-endian", swapped, too_long(0x6700)));
    let wide = [&103_u32.to_be_bytes(), golden].concat();
    bad.push(bad_frame("header length: in four bytes", wide, DecodeError::EmptyHeader));
    let wide = [&103_u32.to_le_bytes(), golden].concat();
    let error = too_long(0x6700);
    bad.push(bad_frame("header length: in four bytes, little-endian", wide, error));
    bad
}

fn content_lengths() -> Vec<BadFrame> {
    let limit = FrameLimits::default().max_content;
    let declares = [
        limit + 1,
        (1 << 31) - 1,
        1 << 31,
        u64::from(u32::MAX),
        1 << 32,
        (1 << 53) + 1,
        4_000_000_000_000,
        (1 << 63) - 1,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    let bad = declares.map(|declared| {
        let json = with_value("content-length", &declared.to_string());
        let error = DecodeError::ContentTooLong { declared, limit };
        bad_frame(format!("content length: {declared}"), with_length(json.as_bytes()), error)
    });
    bad.into()
}

/// Inputs that end within a frame.
fn truncated_frames() -> Vec<BadFrame> {
    let frame = golden();
    let mut bad: Vec<BadFrame> = [1, 2, 3, 50, 104, 105, 106, 145]
        .into_iter()
        .map(|received: usize| {
            let expected = match received {
                ..2 => 2,
                2..105 => 105,
                105.. => 146,
            };
            let error = DecodeError::Truncated { received: received as u64, expected };
            bad_frame(format!("truncated: after {received} bytes"), &frame[..received], error)
        })
        .collect();
    let longest = with_value("content-length", "1048576");
    let head = with_length(longest.as_bytes());
    let (received, expected) = (head.len() as u64, head.len() as u64 + 1_048_576);
    let error = DecodeError::Truncated { received, expected };
    bad.push(bad_frame("truncated: before the longest content", &*head, error));
    let error = DecodeError::Truncated { received: received + 70_000, expected };
    let bytes = [head, vec![b' '; 70_000]].concat();
    bad.push(bad_frame("truncated: within the longest content", bytes, error));
    let error = DecodeError::Truncated { received: 2, expected: 2 + 4096 };
    bad.push(bad_frame("truncated: before the longest header", 4096_u16.to_be_bytes(), error));
    bad
}

/// The first bytes of other protocols.
fn other_protocols() -> Vec<BadFrame> {
    let limit = FrameLimits::default().max_header;
    let too_long = |declared| DecodeError::HeaderTooLong { declared, limit };
    let postgres = b"\0\0\0\x08\x04\xd2\x16\x2f";
    vec![
        bad_frame("HTTP", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", too_long(0x4745)),
        bad_frame("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", too_long(0x5052)),
        bad_frame("TLS", *b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", too_long(0x1603)),
        bad_frame("SSH", "SSH-2.0-OpenSSH_9.9\r\n", too_long(0x5353)),
        bad_frame("PROXY", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", too_long(0x5052)),
        bad_frame(
            "PROXY, version 2",
            *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
            DecodeError::Truncated { received: 16, expected: 2 + 0x0d0a },
        ),
        bad_frame("PostgreSQL", *postgres, DecodeError::EmptyHeader),
        bad_frame("a bare header", GOLDEN_HEADER, too_long(0x7b22)),
        bad_frame("a line", "\r\n", DecodeError::Truncated { received: 2, expected: 2 + 0x0d0a }),
        bad_frame("a letter", "x", DecodeError::Truncated { received: 1, expected: 2 }),
        bad_frame("zeros", [0; 64], DecodeError::EmptyHeader),
        bad_frame("ones", [0xff; 64], too_long(0xffff)),
    ]
}

/// Invalid frames behind valid ones.
fn later_frames() -> Vec<BadFrame> {
    let limit = FrameLimits::default().max_header;
    let no_colon = with_length(GOLDEN_HEADER.replacen(": ", " ", 1).as_bytes());
    let bad = [
        ("an empty header", vec![0, 0], DecodeError::EmptyHeader),
        (
            "a header too long",
            vec![255, 255],
            DecodeError::HeaderTooLong { declared: 65535, limit },
        ),
        ("not JSON", no_colon, not_json("expected `:`").into()),
        (
            "a truncated header",
            vec![0, 103, b'{'],
            DecodeError::Truncated { received: 3, expected: 105 },
        ),
        ("a truncated length", vec![b'\n'], DecodeError::Truncated { received: 1, expected: 2 }),
    ];
    let after = |frames_before: usize| {
        bad.iter().map(move |(name, bytes, error)| BadFrame {
            name: format!("after {frames_before} frames: {name}"),
            bytes: iter::repeat_n(golden(), frames_before)
                .flatten()
                .chain(bytes.iter().copied())
                .collect(),
            frames_before,
            error: error.clone(),
        })
    };
    [1, 3].into_iter().flat_map(after).collect()
}
