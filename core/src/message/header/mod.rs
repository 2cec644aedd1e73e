//! The JSON header of a frame.
//!
//! It is parsed strictly, and written byte for byte as Python's
//! `json.dumps(header, ensure_ascii=False)` writes it.

mod parse;

use alloc::{borrow::Cow, boxed::Box, string::String, vec::Vec};

use super::ByteOrder;

/// The header of a frame.
///
/// ```
/// # use wirestate_core::message::{ByteOrder, Header};
/// let header = Header {
///     byteorder: ByteOrder::Little,
///     content_type: "text/json".into(),
///     content_encoding: "utf-8".into(),
///     content_length: 41,
/// };
/// let json = br#"{"byteorder": "little", "content-type": "text/json", "#.to_vec();
/// let json = [&json[..], br#""content-encoding": "utf-8", "content-length": 41}"#].concat();
/// assert_eq!(header.to_json(), json);
/// assert_eq!(Header::from_json(&json), Ok(header));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The sender's byte order. It applies to a text in `utf-16` without a byte-order mark, and to
    /// integers in the content ([`ByteOrder::u32`] decodes one).
    pub byteorder: ByteOrder,
    /// The type of the content. Types are compared exactly: `Text/JSON` is not `text/json`.
    pub content_type: Cow<'a, str>,
    /// The encoding of the content: for text, its character set.
    pub content_encoding: Cow<'a, str>,
    /// The length of the content that follows, in bytes.
    pub content_length: u64,
}

/// Why a header is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The header is not UTF-8. Unknown keys and their values are checked as well.
    #[error("the header is not UTF-8: byte {at} of {len}")]
    NotUtf8 {
        /// The position of the first invalid byte, from 0.
        at: usize,
        /// The header's length, in bytes.
        len: usize,
    },
    /// The header begins with a byte-order mark, which RFC 8259, section 8.1, forbids.
    #[error("the header begins with a byte-order mark")]
    ByteOrderMark,
    /// The header is not JSON (RFC 8259), or escapes a lone surrogate (RFC 7493, section 2.1).
    #[error("the header is not JSON: {0}")]
    NotJson(Box<str>),
    /// The header is JSON, but not an object.
    #[error("the header is {found} where an object is expected")]
    NotAnObject {
        /// The type of the value.
        found: JsonType,
    },
    /// A value is nested more deeply than [`MAX_DEPTH`].
    #[error("the header is nested more than {limit} levels deep")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// An object has two members with the same key (RFC 7493, section 2.3).
    #[error("the header has the key {key:?} twice")]
    DuplicateKey {
        /// The key, cut after 32 characters.
        key: Box<str>,
    },
    /// A required key is missing.
    #[error("the header has no {key:?}")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// The content length is a number, but has a sign, a fraction or an exponent, or exceeds 64
    /// bits.
    #[error(
        "the header's \"content-length\" is {found} where a whole number of bytes below 2^64 \
         is expected"
    )]
    ContentLength {
        /// The number, rounded to 17 digits.
        found: Box<str>,
    },
    /// The value of a required key has the wrong type.
    #[error("the header's {key:?} is {found} where {expected} is expected")]
    WrongType {
        /// The key.
        key: &'static str,
        /// The expected type, as a phrase with its article.
        expected: &'static str,
        /// The type of the value.
        found: JsonType,
    },
    /// The byte order is neither `little` nor `big`.
    #[error("the header's \"byteorder\" is {found:?} where \"little\" or \"big\" is expected")]
    ByteOrder {
        /// The value, cut after 32 characters.
        found: Box<str>,
    },
}

/// The type of a JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonType {
    /// `null`
    #[error("null")]
    Null,
    /// `true` or `false`
    #[error("a boolean")]
    Boolean,
    /// A number.
    #[error("a number")]
    Number,
    /// A string.
    #[error("a string")]
    String,
    /// An array.
    #[error("an array")]
    Array,
    /// An object.
    #[error("an object")]
    Object,
}

impl<'a> Header<'a> {
    /// Parses a header strictly.
    ///
    /// Keys may come in any order. Unknown keys are allowed, with any JSON value. A number that
    /// exceeds the range of a 64-bit float is refused (RFC 8259, section 6, allows such a limit).
    /// Texts without escapes are borrowed from `json`. The parser holds at most 72 bytes for each
    /// unknown key.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn from_json(json: &'a [u8]) -> Result<Self, HeaderError> {
        let text = core::str::from_utf8(json)
            .map_err(|error| HeaderError::NotUtf8 { at: error.valid_up_to(), len: json.len() })?;
        if text.starts_with('\u{feff}') {
            return Err(HeaderError::ByteOrderMark);
        }
        parse::header(text)
    }

    /// Writes the header: the four keys in the order `byteorder`, `content-type`,
    /// `content-encoding`, `content-length`, with a space after each `,` and `:`. Characters beyond
    /// ASCII are not escaped.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(
            MAX_FIXED_JSON + self.content_type.len() + self.content_encoding.len(),
        );
        self.write_json(&mut json);
        json
    }

    pub(super) fn write_json(&self, json: &mut Vec<u8>) {
        json.extend_from_slice(b"{\"byteorder\": \"");
        json.extend_from_slice(self.byteorder.name().as_bytes());
        json.extend_from_slice(b"\", \"content-type\": ");
        write_string(&self.content_type, json);
        json.extend_from_slice(b", \"content-encoding\": ");
        write_string(&self.content_encoding, json);
        json.extend_from_slice(b", \"content-length\": ");
        json.extend_from_slice(itoa::Buffer::new().format(self.content_length).as_bytes());
        json.push(b'}');
    }

    /// Converts the header to one that borrows nothing.
    pub fn into_owned(self) -> Header<'static> {
        Header {
            byteorder: self.byteorder,
            content_type: Cow::Owned(self.content_type.into_owned()),
            content_encoding: Cow::Owned(self.content_encoding.into_owned()),
            content_length: self.content_length,
        }
    }
}

/// Appends `text` as a JSON string. Characters beyond ASCII are not escaped.
pub(super) fn write_string(text: &str, json: &mut Vec<u8>) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        json.push(b'"');
        json.extend_from_slice(text.as_bytes());
        json.push(b'"');
    } else {
        let escaped = serde_json::to_string(text).expect("a string can always be written");
        json.extend_from_slice(escaped.as_bytes());
    }
}

/// The first `max` characters of `text`, followed by an ellipsis if there are more.
pub(super) fn shorten(mut text: String, max: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(max) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The most levels of objects and arrays in a header. The header itself is the first level.
pub const MAX_DEPTH: usize = 16;

const BYTEORDER: &str = "byteorder";
const CONTENT_TYPE: &str = "content-type";
const CONTENT_ENCODING: &str = "content-encoding";
const CONTENT_LENGTH: &str = "content-length";

/// The most bytes that [`Header::to_json`] writes in addition to the two texts, without escapes.
const MAX_FIXED_JSON: usize = 110;

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = concat!(
        r#"{"byteorder": "little", "content-type": "text/json", "#,
        r#""content-encoding": "utf-8", "content-length": 41}"#,
    );

    fn read(json: &str) -> Result<Header<'_>, HeaderError> {
        Header::from_json(json.as_bytes())
    }

    #[test]
    fn the_golden_header_is_parsed_and_written_unchanged() {
        let header = read(GOLDEN).unwrap();
        assert_eq!((header.content_length, &*header.content_type), (41, "text/json"));
        assert!(matches!(header.content_encoding, Cow::Borrowed("utf-8")), "nothing is copied");
        assert_eq!(header.to_json(), GOLDEN.as_bytes());
    }

    #[test]
    fn order_spaces_escapes_and_unknown_keys_do_not_matter() {
        let json = "\t{ \"content-length\":41,\"x\":[{\"x\":null},{\"x\":-1.5e3}],\r\n\
                    \"content\\u002dencoding\":\"utf-8\",\"content-type\":\"text\\/json\",\
                    \"byteorder\":\"little\",\"y\":{\"x\":true}} ";
        assert_eq!(read(json), read(GOLDEN));
    }

    #[test]
    fn a_duplicate_key_is_refused_at_any_level_and_in_any_spelling() {
        for duplicate in [
            r#""x":1,"x":2"#,
            r#""x":1,"\u0078":2"#,
            r#""a":[{"x":1,"y":2,"x":3}]"#,
            r#""byteorder":"little""#,
            r#""content\u002dlength":41"#,
        ] {
            let json = GOLDEN.replace('}', &format!(", {duplicate}}}"));
            assert!(matches!(read(&json), Err(HeaderError::DuplicateKey { .. })), "{json}");
        }
    }

    #[test]
    fn a_header_nested_too_deeply_is_refused() {
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            GOLDEN.replace('}', &format!(", \"x\": {open}{close}}}"))
        };
        assert!(read(&nested(MAX_DEPTH - 1)).is_ok());
        let limit = MAX_DEPTH;
        assert_eq!(read(&nested(MAX_DEPTH)), Err(HeaderError::TooDeep { limit }));
        assert_eq!(read(&nested(1000)), Err(HeaderError::TooDeep { limit }));
    }

    #[test]
    fn an_invalid_content_length_is_named_by_its_number_or_its_type() {
        let long = format!("-0.5{}", "0".repeat(3000));
        for (value, shown) in [
            ("-1", "-1"),
            ("3.0", "3.0"),
            ("1e3", "1000.0"),
            ("18446744073709551616", "1.8446744073709552e19"),
            ("-1.7976931348623157e308", "-1.7976931348623157e308"),
            (&long, "-0.5"),
            ("true", "a boolean"),
            (r#""3""#, "a string"),
            ("null", "null"),
            ("[3]", "an array"),
        ] {
            let error = read(&GOLDEN.replace("41", value)).unwrap_err().to_string();
            let expected =
                format!("the header's \"content-length\" is {shown} where a whole number of bytes");
            assert!(error.starts_with(&expected), "{value}: {error}");
        }
    }

    #[test]
    fn errors_quote_only_the_beginning_of_a_long_text() {
        let json = GOLDEN.replace("little", &"é".repeat(1000));
        let error = read(&json).unwrap_err().to_string();
        assert!(error.contains("é…") && error.len() < 200, "{error}");
    }

    #[test]
    fn only_texts_that_need_escapes_are_escaped() {
        let header =
            Header { content_type: "🐶\"\\\u{1}\n\u{7f}".into(), ..read(GOLDEN).unwrap() };
        let json = String::from_utf8(header.to_json()).unwrap();
        assert!(json.contains("\"🐶\\\"\\\\\\u0001\\n\u{7f}\""), "{json}");
        assert_eq!(read(&json), Ok(header));
    }

    #[test]
    fn the_longest_header_without_escapes_needs_one_allocation() {
        let header = Header { content_length: u64::MAX, ..read(GOLDEN).unwrap() };
        let json = header.to_json();
        assert_eq!(json.capacity(), MAX_FIXED_JSON + "text/json".len() + "utf-8".len());
    }
}
