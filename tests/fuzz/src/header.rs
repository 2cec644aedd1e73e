//! Compares the header's reader with a generic JSON reader.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use wirestate_core::message::{ByteOrder, Header, HeaderError, JsonType, MAX_DEPTH};

/// Checks the header's reader with `bytes`.
///
/// It accepts what a generic JSON reader accepts, except for duplicate keys and values that are too
/// deep, and returns the same header. Encoding the header gives the documented bytes, which are
/// read back unchanged. It refuses other bytes with the right error, whose text has a bounded
/// length.
///
/// # Panics
/// If a check fails.
pub fn header(bytes: &[u8]) {
    let read = Header::from_json(bytes);
    let expected = generic_result(bytes);
    match (&read, &expected) {
        (Ok(header), Ok(expected)) => {
            assert_eq!(header, expected, "a generic reader returns another header");
            check_encoding(header);
        }
        (Err(error), Err(refusal)) => {
            let message = error.to_string();
            assert!(message.len() <= MAX_MESSAGE, "{} bytes: {message}", message.len());
            assert!(refusal.explains(error), "the error is {error:?}, the cause {refusal:?}");
        }
        (read, expected) => {
            panic!("the header's reader returns {read:?}, a generic reader {expected:?}")
        }
    }
}

/// Checks that the header is encoded as documented and read back unchanged.
fn check_encoding(header: &Header<'_>) {
    let json = header.to_json();
    let text = |text: &str| serde_json::to_string(text).expect("a string can be encoded");
    let byteorder = match header.byteorder {
        ByteOrder::Little => "little",
        ByteOrder::Big => "big",
    };
    let expected = format!(
        "{{\"byteorder\": \"{byteorder}\", \"content-type\": {}, \"content-encoding\": {}, \
         \"content-length\": {}}}",
        text(&header.content_type),
        text(&header.content_encoding),
        header.content_length,
    );
    assert_eq!(String::from_utf8_lossy(&json), expected);
    assert_eq!(Header::from_json(&json).as_ref(), Ok(header));

    let mut frame = vec![7];
    match header.encode(&mut frame) {
        Ok(()) => {
            let length =
                u16::try_from(json.len()).expect("an encoded header has at most 65,535 bytes");
            assert_eq!(frame, [&[7][..], &length.to_be_bytes(), &json].concat());
        }
        Err(error) => {
            assert!(json.len() > usize::from(u16::MAX), "{error} at {} bytes", json.len());
            assert_eq!(frame, [7], "bytes were appended although encoding failed");
        }
    }
}

/// The cause for which bytes are not a header, as far as it does not depend on where a reader
/// stops.
#[derive(Debug)]
enum Refusal {
    NotUtf8 {
        at: usize,
    },
    ByteOrderMark,
    /// Not JSON, or nested too deeply for the generic reader. The header's reader may find a
    /// duplicate key or a wrong value first.
    NotJson,
    NotAnObject(JsonType),
    /// A JSON object with at least one of these errors.
    Wrong {
        /// Nested more deeply than [`MAX_DEPTH`].
        too_deep: bool,
        duplicate_key: bool,
        /// A key is missing, or a value is wrong.
        bad_value: bool,
    },
}

impl Refusal {
    fn explains(&self, error: &HeaderError) -> bool {
        let is_mark = *error == HeaderError::ByteOrderMark;
        match self {
            Self::NotUtf8 { at } => {
                matches!(error, HeaderError::NotUtf8 { at: found, len: _ } if found == at)
            }
            Self::ByteOrderMark => is_mark,
            // The header's reader may find another error first.
            Self::NotJson => !is_mark && !matches!(error, HeaderError::NotUtf8 { .. }),
            Self::NotAnObject(kind) => *error == HeaderError::NotAnObject { found: *kind },
            Self::Wrong { too_deep, duplicate_key, bad_value } => match error {
                HeaderError::TooDeep { limit } => *too_deep && *limit == MAX_DEPTH,
                HeaderError::DuplicateKey { .. } => *duplicate_key,
                HeaderError::Missing { .. }
                | HeaderError::ContentLength { .. }
                | HeaderError::WrongType { .. }
                | HeaderError::ByteOrder { .. } => *bad_value,
                HeaderError::NotUtf8 { .. }
                | HeaderError::ByteOrderMark
                | HeaderError::NotJson(_)
                | HeaderError::NotAnObject { .. }
                | _ => false,
            },
        }
    }
}

/// The result of a generic JSON reader for the same bytes.
fn generic_result(bytes: &[u8]) -> Result<Header<'static>, Refusal> {
    let text =
        std::str::from_utf8(bytes).map_err(|error| Refusal::NotUtf8 { at: error.valid_up_to() })?;
    if text.starts_with('\u{feff}') {
        return Err(Refusal::ByteOrderMark);
    }
    let json: Json = serde_json::from_str(text).map_err(|_| Refusal::NotJson)?;
    let Json::Object(pairs) = &json else { return Err(Refusal::NotAnObject(json.kind())) };

    let value = |key| pairs.iter().find(|(found, _)| found == key).map(|(_, value)| value);
    let string = |key| match value(key) {
        Some(Json::String(text)) => Some(text.clone()),
        Some(Json::Other(_) | Json::Integer(_) | Json::Array(_) | Json::Object(_)) | None => None,
    };
    let byteorder = match string("byteorder").as_deref() {
        Some("little") => Some(ByteOrder::Little),
        Some("big") => Some(ByteOrder::Big),
        Some(_) | None => None,
    };
    let content_length = match value("content-length") {
        Some(Json::Integer(length)) => Some(*length),
        Some(Json::Other(_) | Json::String(_) | Json::Array(_) | Json::Object(_)) | None => None,
    };
    let (too_deep, duplicate_key) = (json.depth() > MAX_DEPTH, json.has_duplicate_key());
    match (byteorder, string("content-type"), string("content-encoding"), content_length) {
        (Some(byteorder), Some(content_type), Some(content_encoding), Some(content_length))
            if !too_deep && !duplicate_key =>
        {
            let (content_type, content_encoding) = (content_type.into(), content_encoding.into());
            Ok(Header { byteorder, content_type, content_encoding, content_length })
        }
        (Some(_), Some(_), Some(_), Some(_)) => {
            Err(Refusal::Wrong { too_deep, duplicate_key, bad_value: false })
        }
        _ => Err(Refusal::Wrong { too_deep, duplicate_key, bad_value: true }),
    }
}

/// Any JSON value. Objects keep duplicate keys and the order of keys.
#[derive(Debug)]
enum Json {
    Other(JsonType),
    Integer(u64),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn kind(&self) -> JsonType {
        match self {
            Self::Other(kind) => *kind,
            Self::Integer(_) => JsonType::Number,
            Self::String(_) => JsonType::String,
            Self::Array(_) => JsonType::Array,
            Self::Object(_) => JsonType::Object,
        }
    }

    /// The nesting depth of arrays and objects.
    fn depth(&self) -> usize {
        match self {
            Self::Other(_) | Self::Integer(_) | Self::String(_) => 0,
            Self::Array(values) => 1 + values.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(pairs) => {
                1 + pairs.iter().map(|(_, value)| value.depth()).max().unwrap_or(0)
            }
        }
    }

    fn has_duplicate_key(&self) -> bool {
        match self {
            Self::Other(_) | Self::Integer(_) | Self::String(_) => false,
            Self::Array(values) => values.iter().any(Self::has_duplicate_key),
            Self::Object(pairs) => {
                let mut keys: Vec<&str> = pairs.iter().map(|(key, _)| &**key).collect();
                keys.sort_unstable();
                keys.windows(2).any(|pair| pair[0] == pair[1])
                    || pairs.iter().any(|(_, value)| value.has_duplicate_key())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Other(JsonType::Null))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other(JsonType::Boolean))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Integer(value))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Other(JsonType::Number))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Other(JsonType::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = array.next_element()? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Json::Object(pairs))
    }
}

/// The limit on the text of an error: at most 32 characters of the peer, at up to ten bytes each
/// (`\u{10ffff}`), and a sentence around them.
const MAX_MESSAGE: usize = 400;
