//! Decoding text by the name of its character set.

use alloc::{borrow::Cow, string::String};

use encoding_rs::{DecoderResult, Encoding, UTF_16BE, UTF_16LE};

use super::ByteOrder;

/// Why text cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The name is not that of a supported character set.
    #[error("the character set {name:?} is unknown")]
    UnknownCharacterSet {
        /// The name, cut after 32 characters.
        name: String,
    },
    /// The bytes are malformed in the character set.
    #[error("the content is not {name}")]
    Malformed {
        /// The name, cut after 32 characters.
        name: String,
    },
}

/// Decodes `bytes` in the character set `name`. A text in UTF-8 or ASCII is borrowed.
///
/// Names are compared without regard to case. Supported are the labels of the [Encoding Standard]
/// and Python's common names for the same character sets, for example `utf_8`, `utf-16-le` and
/// `latin-1`. Two labels differ from the standard, which maps both to windows-1252: `ascii` is
/// US-ASCII, and `latin-1` is ISO 8859-1.
///
/// `utf-16` is decoded by its byte-order mark, or without one by `byteorder`, the sender's order.
/// (RFC 2781, section 4.3, says big-endian, but only where the order is not known otherwise.)
/// `utf-16-le` and `utf-16-be` name their order. A leading byte-order mark is removed.
///
/// [Encoding Standard]: https://encoding.spec.whatwg.org/#names-and-labels
///
/// # Errors
/// The name is unknown, or the bytes are malformed. Malformed bytes are never replaced.
pub fn decode<'a>(
    name: &str,
    byteorder: ByteOrder,
    bytes: &'a [u8],
) -> Result<Cow<'a, str>, TextError> {
    if name == "utf-8"
        && let Ok(text) = core::str::from_utf8(bytes)
    {
        return Ok(Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text)));
    }
    let malformed = || TextError::Malformed { name: excerpt(name) };
    let label = name.trim_ascii().to_ascii_lowercase();
    let hyphens = label.replace('_', "-");
    let encoding = match &*hyphens {
        "ascii" | "us-ascii" | "iso646-us" | "646" | "ansi-x3.4-1968" | "cp367" | "iso-ir-6" => {
            let text = core::str::from_utf8(bytes).map_err(|_| malformed())?;
            return if text.is_ascii() { Ok(Cow::Borrowed(text)) } else { Err(malformed()) };
        }
        "latin-1" | "latin1" | "latin" | "l1" | "iso-8859-1" | "iso8859-1" | "iso88591"
        | "iso-8859-1:1987" | "iso-ir-100" | "csisolatin1" | "8859" | "cp819" | "ibm819" => {
            return Ok(bytes.iter().copied().map(char::from).collect::<String>().into());
        }
        "utf-16" | "utf16" | "u16" => match (bytes, byteorder) {
            ([0xfe, 0xff, ..], _) => UTF_16BE,
            ([0xff, 0xfe, ..], _) | (_, ByteOrder::Little) => UTF_16LE,
            (_, ByteOrder::Big) => UTF_16BE,
        },
        "utf-16-le" => UTF_16LE,
        "utf-16-be" => UTF_16BE,
        "u8" | "utf" | "utf8" | "utf-8-sig" => encoding_rs::UTF_8,
        "cp932" => encoding_rs::SHIFT_JIS,
        "cp936" => encoding_rs::GBK,
        "cp949" => encoding_rs::EUC_KR,
        "mac-roman" => encoding_rs::MACINTOSH,
        "latin9" => encoding_rs::ISO_8859_15,
        hyphens => Encoding::for_label_no_replacement(label.as_bytes())
            .or_else(|| Encoding::for_label_no_replacement(hyphens.as_bytes()))
            .ok_or_else(|| TextError::UnknownCharacterSet { name: excerpt(name) })?,
    };
    decode_strictly(encoding, bytes).ok_or_else(malformed)
}

/// Decodes `bytes` without their byte-order mark; `None` if they are malformed.
fn decode_strictly<'a>(encoding: &'static Encoding, bytes: &'a [u8]) -> Option<Cow<'a, str>> {
    if encoding == encoding_rs::UTF_8 {
        let text = core::str::from_utf8(bytes).ok()?;
        return Some(Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text)));
    }
    let mut decoder = encoding.new_decoder_with_bom_removal();
    let mut text = String::new();
    text.try_reserve(decoder.max_utf8_buffer_length_without_replacement(bytes.len())?).ok()?;
    match decoder.decode_to_string_without_replacement(bytes, &mut text, true) {
        (DecoderResult::InputEmpty, _) => Some(text.into()),
        (DecoderResult::OutputFull | DecoderResult::Malformed(..), _) => None,
    }
}

/// The first 32 characters of a name that the peer sent, so that errors stay short.
fn excerpt(name: &str) -> String {
    name.chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    fn decode<'a>(name: &str, bytes: &'a [u8]) -> Result<Cow<'a, str>, TextError> {
        super::decode(name, ByteOrder::Little, bytes)
    }

    #[test]
    fn utf_16_without_a_byte_order_mark_is_in_the_senders_order() {
        let (little, big) = (b"g\0\xfc\0", b"\0g\0\xfc");
        let (marked_little, marked_big) = (b"\xff\xfeg\0\xfc\0", b"\xfe\xff\0g\0\xfc");
        for (name, byteorder, bytes) in [
            ("utf-16", ByteOrder::Little, &little[..]),
            ("utf-16", ByteOrder::Big, big),
            ("UTF_16", ByteOrder::Big, big),
            ("utf-16", ByteOrder::Big, marked_little),
            ("utf-16", ByteOrder::Little, marked_big),
            ("utf-16-le", ByteOrder::Big, little),
            ("utf-16be", ByteOrder::Little, big),
        ] {
            let text = super::decode(name, byteorder, bytes);
            assert_eq!(text.as_deref(), Ok("gü"), "{name} {byteorder:?} {bytes:x?}");
        }
        assert_eq!(super::decode("utf-16", ByteOrder::Big, b"").as_deref(), Ok(""));
    }

    #[test]
    fn text_is_decoded_in_the_character_set_that_is_named() {
        for (name, bytes) in [
            ("utf-8", "grün 🐶".as_bytes()),
            ("UTF_8", "grün 🐶".as_bytes()),
            ("utf-8", b"\xef\xbb\xbfgr\xc3\xbcn \xf0\x9f\x90\xb6"),
            ("utf-16", b"\xff\xfeg\0r\0\xfc\0n\0 \0\x3d\xd8\x36\xdc"),
            ("utf-16", b"\xfe\xff\0g\0r\0\xfc\0n\0 \xd8\x3d\xdc\x36"),
            ("utf-16-be", b"\0g\0r\0\xfc\0n\0 \xd8\x3d\xdc\x36"),
            ("UTF-16LE", b"g\0r\0\xfc\0n\0 \0\x3d\xd8\x36\xdc"),
            ("gb18030", b"gr\xa8\xb9n \x949\xce8"),
        ] {
            let text = decode(name, bytes);
            assert_eq!(text.as_deref(), Ok("grün 🐶"), "{name} {bytes:x?}");
        }
        assert_eq!(decode("latin-1", b"gr\xfcn \x85").as_deref(), Ok("grün \u{85}"));
        assert_eq!(decode("cp1252", b"gr\xfcn \x85").as_deref(), Ok("grün …"));
        assert_eq!(decode("ibm819", b"\x85").as_deref(), Ok("\u{85}"));
        for name in ["ms_kanji", "Shift_JIS", "shift-jis", "cp932"] {
            assert_eq!(decode(name, b"\x82\xa0").as_deref(), Ok("あ"), "{name}");
        }
        assert_eq!(decode("iso_8859-2:1987", b"\xb1").as_deref(), Ok("ą"));
        assert_eq!(decode("ascii", b"green").as_deref(), Ok("green"));
        assert_eq!(decode("koi8-r", b"\xc4\xc1").as_deref(), Ok("да"));
    }

    #[test]
    fn malformed_bytes_and_unknown_names_are_errors() {
        for (name, bytes) in [
            ("utf-8", &b"\xff"[..]),
            ("utf-16", b"\xff\xfe\x3d\xd8"),
            ("utf-16", b"g"),
            ("ascii", b"gr\xfcn"),
            ("shift_jis", b"\x81"),
        ] {
            let error = decode(name, bytes).unwrap_err();
            assert_eq!(error, TextError::Malformed { name: name.into() });
        }
        for unknown in ["klingon", "", "binary", "replacement", "iso-2022-kr", "utf-32"] {
            let error = decode(unknown, b"x").unwrap_err();
            assert_eq!(error, TextError::UnknownCharacterSet { name: unknown.into() });
        }
        assert!(decode(&"x".repeat(10_000), b"").unwrap_err().to_string().len() < 100);
    }
}
