//! The header: what it says, read strictly, written byte for byte as peers do.

use alloc::{
    borrow::Cow,
    boxed::Box,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::{cell::Cell, fmt};

use serde_core::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

/// What a message's header says.
///
/// ```
/// # use wirestate_core::message::{ByteOrder, Header};
/// let header = Header {
///     byteorder: ByteOrder::Little,
///     content_type: "text/json".into(),
///     content_encoding: "utf-8".into(),
///     content_length: 41,
/// };
/// let json = r#"{"byteorder": "little", "content-type": "text/json", "content-encoding": "utf-8", "content-length": 41}"#;
/// assert_eq!(header.to_json(), json.as_bytes());
/// assert_eq!(Header::from_json(json.as_bytes()), Ok(header));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The sender's byte order. The protocol swaps nothing: who reads integers out of the content
    /// does ([`ByteOrder::u32`] and its like). A text in `utf-16` without a mark is in this order.
    pub byteorder: ByteOrder,
    /// What the content is. Types are compared exactly: `Text/JSON` is not `text/json`.
    pub content_type: Cow<'a, str>,
    /// How the content is encoded: a character set, for text.
    pub content_encoding: Cow<'a, str>,
    /// The bytes of content that follow.
    pub content_length: u64,
}

/// The order of the bytes of an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// The least significant byte first.
    Little,
    /// The most significant byte first.
    Big,
}

impl ByteOrder {
    /// This machine's.
    pub const NATIVE: Self = if cfg!(target_endian = "little") { Self::Little } else { Self::Big };

    /// The integer in `bytes`.
    pub const fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    /// The integer in `bytes`.
    pub const fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    /// The integer in `bytes`.
    pub const fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            Self::Little => u64::from_le_bytes(bytes),
            Self::Big => u64::from_be_bytes(bytes),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Little => "little",
            Self::Big => "big",
        }
    }
}

/// What is wrong with a header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It is not UTF-8, be it in a key that nobody reads.
    #[error("the header is not UTF-8: byte {at} of {len}")]
    NotUtf8 {
        /// The first byte that is not, counted from 0.
        at: usize,
        /// The header's length, in bytes.
        len: usize,
    },
    /// It begins with a byte-order mark (which JSON has not; RFC 8259, section 8.1).
    #[error("the header begins with a byte-order mark")]
    ByteOrderMark,
    /// It is not JSON (RFC 8259), or has an escape that is no character (RFC 7493, section 2.1).
    #[error("the header is not JSON: {0}")]
    NotJson(Box<str>),
    /// It is JSON, but no object.
    #[error("the header is {found} where an object is expected")]
    NotAnObject {
        /// What it is.
        found: Kind,
    },
    /// A value in it is nested more deeply than [`MAX_DEPTH`].
    #[error("the header is nested more than {limit} levels deep")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// An object in it has a key twice (RFC 7493, section 2.3).
    #[error("the header has the key {key:?} twice")]
    DuplicateKey {
        /// The key, or how it begins.
        key: Box<str>,
    },
    /// A required key is not there.
    #[error("the header has no {key:?}")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A content length that is a number, but with a sign, a fraction or an exponent, or beyond
    /// 64 bits.
    #[error(
        "the header's \"content-length\" is {found} where a whole number of bytes below 2^64 \
         is expected"
    )]
    ContentLength {
        /// The number, rounded to 17 digits where it has more.
        found: Box<str>,
    },
    /// The value of a required key is of the wrong type.
    #[error("the header's {key:?} is {found} where {expected} is expected")]
    WrongType {
        /// The key.
        key: &'static str,
        /// What is expected.
        expected: &'static str,
        /// What it is.
        found: Kind,
    },
    /// A byte order that is neither `little` nor `big`.
    #[error("the header's \"byteorder\" is {found:?} where \"little\" or \"big\" is expected")]
    ByteOrder {
        /// What it is, or how it begins.
        found: Box<str>,
    },
}

/// A kind of JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Kind {
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
    /// Reads a header strictly.
    ///
    /// Keys that the protocol does not know are allowed, with any value; their order is of no
    /// meaning. A number that no 64-bit float comes near is refused (RFC 8259, section 6, allows to
    /// set limits). Beside the header itself it takes up to 72 bytes for each key that the protocol
    /// does not know, while it is read; what is borrowed from `json` takes nothing.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn from_json(json: &'a [u8]) -> Result<Self, HeaderError> {
        let text = core::str::from_utf8(json)
            .map_err(|error| HeaderError::NotUtf8 { at: error.valid_up_to(), len: json.len() })?;
        if text.starts_with('\u{feff}') {
            return Err(HeaderError::ByteOrderMark);
        }
        let parsed = Parsed::default();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        Any { depth: 1, parsed: &parsed }
            .deserialize(&mut deserializer)
            .and_then(|value| match parsed.header.take() {
                Some(header) => Ok(header),
                None => parsed.fail(HeaderError::NotAnObject { found: value.kind() }),
            })
            .and_then(|header| deserializer.end().map(|()| header))
            .map_err(|error| {
                let not_json = || HeaderError::NotJson(error.to_string().into());
                parsed.problem.take().unwrap_or_else(not_json)
            })
    }

    /// Writes it: the four keys in the order `byteorder`, `content-type`, `content-encoding`,
    /// `content-length`, a space behind each `,` and `:`, and characters beyond ASCII as they are.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(
            LONGEST_FRAME_OF_HEADER + self.content_type.len() + self.content_encoding.len(),
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

    /// The same, borrowing nothing.
    pub fn into_owned(self) -> Header<'static> {
        Header {
            byteorder: self.byteorder,
            content_type: Cow::Owned(self.content_type.into_owned()),
            content_encoding: Cow::Owned(self.content_encoding.into_owned()),
            content_length: self.content_length,
        }
    }
}

/// Appends `text` as a JSON string, with characters beyond ASCII as they are.
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

/// What the visitor leaves behind: the header, or what is wrong with it, if it is no mistake in the
/// JSON.
#[derive(Default)]
struct Parsed<'de> {
    header: Cell<Option<Header<'de>>>,
    problem: Cell<Option<HeaderError>>,
}

impl Parsed<'_> {
    fn fail<T, E: de::Error>(&self, problem: HeaderError) -> Result<T, E> {
        self.problem.set(Some(problem));
        Err(E::custom("refused"))
    }
}

/// What a value came to.
enum Value<'de> {
    String(Cow<'de, str>),
    Integer(u64),
    /// A whole number below 0, down to −2⁶³.
    Negative(i64),
    /// Any other number: with a fraction or an exponent, −0, or beyond 64 bits.
    Float(f64),
    /// Any other value, which was read to its end.
    Kind(Kind),
}

impl Value<'_> {
    const fn kind(&self) -> Kind {
        match self {
            Self::String(_) => Kind::String,
            Self::Integer(_) | Self::Negative(_) | Self::Float(_) => Kind::Number,
            Self::Kind(kind) => *kind,
        }
    }

    /// As a content length.
    fn length(&self) -> Result<u64, HeaderError> {
        let found = match self {
            Self::Integer(length) => return Ok(*length),
            Self::Negative(number) => format!("{number}"),
            // A number with a point, or an exponent where it is long: at most 24 bytes.
            Self::Float(number) => format!("{number:?}"),
            Self::String(_) | Self::Kind(_) => {
                let (key, found) = (CONTENT_LENGTH, self.kind());
                let expected = "a whole number of bytes";
                return Err(HeaderError::WrongType { key, expected, found });
            }
        };
        Err(HeaderError::ContentLength { found: found.into() })
    }
}

/// Reads any value: all of it is held to the rules. It returns strings and numbers, and puts the
/// header into `parsed`.
struct Any<'o, 'de> {
    /// That of the value, where the header itself has 1.
    depth: usize,
    parsed: &'o Parsed<'de>,
}

impl<'de> Any<'_, 'de> {
    /// For what is in it.
    fn deeper(&self) -> Self {
        Self { depth: self.depth + 1, parsed: self.parsed }
    }

    /// The value of the required key `key`.
    fn string<A: MapAccess<'de>>(
        &self,
        map: &mut A,
        key: &'static str,
    ) -> Result<Cow<'de, str>, A::Error> {
        match map.next_value_seed(self.deeper())? {
            Value::String(string) => Ok(string),
            found @ (Value::Integer(_) | Value::Negative(_) | Value::Float(_) | Value::Kind(_)) => {
                let (expected, found) = ("a string", found.kind());
                self.parsed.fail(HeaderError::WrongType { key, expected, found })
            }
        }
    }

    fn required<T, E: de::Error>(&self, key: &'static str, value: Option<T>) -> Result<T, E> {
        value.map_or_else(|| self.parsed.fail(HeaderError::Missing { key }), Ok)
    }

    /// Reads the header's object.
    fn header<A: MapAccess<'de>>(&self, map: &mut A) -> Result<Header<'de>, A::Error> {
        let (mut byteorder, mut content_type) = (None, None);
        let (mut content_encoding, mut content_length) = (None, None);
        let mut others = Vec::new();
        while let Some(Key(key)) = map.next_key()? {
            match &*key {
                BYTEORDER if byteorder.is_none() => {
                    byteorder = Some(match &*self.string(map, BYTEORDER)? {
                        "little" => ByteOrder::Little,
                        "big" => ByteOrder::Big,
                        found => {
                            let found = beginning(found);
                            return self.parsed.fail(HeaderError::ByteOrder { found });
                        }
                    });
                }
                CONTENT_TYPE if content_type.is_none() => {
                    content_type = Some(self.string(map, CONTENT_TYPE)?);
                }
                CONTENT_ENCODING if content_encoding.is_none() => {
                    content_encoding = Some(self.string(map, CONTENT_ENCODING)?);
                }
                CONTENT_LENGTH if content_length.is_none() => {
                    let length = map.next_value_seed(self.deeper())?.length();
                    content_length = Some(length.or_else(|problem| self.parsed.fail(problem))?);
                }
                BYTEORDER | CONTENT_TYPE | CONTENT_ENCODING | CONTENT_LENGTH => {
                    let key = beginning(&key);
                    return self.parsed.fail(HeaderError::DuplicateKey { key });
                }
                _ => {
                    others.push(key);
                    map.next_value_seed(self.deeper())?;
                }
            }
        }
        self.refuse_duplicates(others)?;
        Ok(Header {
            byteorder: self.required(BYTEORDER, byteorder)?,
            content_type: self.required(CONTENT_TYPE, content_type)?,
            content_encoding: self.required(CONTENT_ENCODING, content_encoding)?,
            content_length: self.required(CONTENT_LENGTH, content_length)?,
        })
    }

    fn refuse_duplicates<E: de::Error>(&self, mut keys: Vec<Cow<'_, str>>) -> Result<(), E> {
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => self.parsed.fail(HeaderError::DuplicateKey { key: beginning(&pair[0]) }),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Any<'_, 'de> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_, 'de> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value<'de>, E> {
        Ok(Value::Kind(Kind::Null))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Value<'de>, E> {
        Ok(Value::Kind(Kind::Boolean))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value<'de>, E> {
        Ok(Value::Integer(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value<'de>, E> {
        Ok(Value::Negative(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value<'de>, E> {
        Ok(Value::Float(value))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Owned(text.into())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Value<'de>, A::Error> {
        match self.depth {
            1 => return self.parsed.fail(HeaderError::NotAnObject { found: Kind::Array }),
            2..=MAX_DEPTH => while array.next_element_seed(self.deeper())?.is_some() {},
            _ => return self.parsed.fail(HeaderError::TooDeep { limit: MAX_DEPTH }),
        }
        Ok(Value::Kind(Kind::Array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        match self.depth {
            1 => self.parsed.header.set(Some(self.header(&mut map)?)),
            2..=MAX_DEPTH => {
                let mut keys = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    keys.push(key);
                    map.next_value_seed(self.deeper())?;
                }
                self.refuse_duplicates(keys)?;
            }
            _ => return self.parsed.fail(HeaderError::TooDeep { limit: MAX_DEPTH }),
        }
        Ok(Value::Kind(Kind::Object))
    }
}

/// A key, borrowed unless it has escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E: de::Error>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E: de::Error>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.into())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// How a text of the peer's begins: what goes into an error is bounded.
fn beginning(text: &str) -> Box<str> {
    const MAX_LEN: usize = 32;
    shorten(text.chars().take(MAX_LEN + 1).collect(), MAX_LEN).into()
}

/// The first `longest` characters of `text`, and an ellipsis, if there are more.
pub(super) fn shorten(mut text: String, longest: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(longest) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// How deeply arrays and objects may be nested, the header's own object being the first level.
pub const MAX_DEPTH: usize = 16;

const BYTEORDER: &str = "byteorder";
const CONTENT_TYPE: &str = "content-type";
const CONTENT_ENCODING: &str = "content-encoding";
const CONTENT_LENGTH: &str = "content-length";

/// What [`Header::to_json`] writes around the two texts at most, unless they need escapes.
const LONGEST_FRAME_OF_HEADER: usize = 110;

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = r#"{"byteorder": "little", "content-type": "text/json", "content-encoding": "utf-8", "content-length": 41}"#;

    fn read(json: &str) -> Result<Header<'_>, HeaderError> {
        Header::from_json(json.as_bytes())
    }

    #[test]
    fn the_golden_header_reads_and_writes_the_same() {
        let header = read(GOLDEN).unwrap();
        assert_eq!((header.content_length, &*header.content_type), (41, "text/json"));
        assert!(matches!(header.content_encoding, Cow::Borrowed("utf-8")), "nothing is copied");
        assert_eq!(header.to_json(), GOLDEN.as_bytes());
    }

    #[test]
    fn order_space_escapes_and_further_keys_are_of_no_meaning() {
        let json = "\t{ \"content-length\":41,\"x\":[{\"x\":null},{\"x\":-1.5e3}],\r\n\
                    \"content\\u002dencoding\":\"utf-8\",\"content-type\":\"text\\/json\",\
                    \"byteorder\":\"little\",\"y\":{\"x\":true}} ";
        assert_eq!(read(json), read(GOLDEN));
    }

    #[test]
    fn a_key_may_not_be_there_twice_at_any_level_however_it_is_written() {
        for twice in [
            r#""x":1,"x":2"#,
            r#""x":1,"\u0078":2"#,
            r#""a":[{"x":1,"y":2,"x":3}]"#,
            r#""byteorder":"little""#,
            r#""content\u002dlength":41"#,
        ] {
            let json = GOLDEN.replace('}', &format!(", {twice}}}"));
            assert!(matches!(read(&json), Err(HeaderError::DuplicateKey { .. })), "{json}");
        }
    }

    #[test]
    fn nesting_has_a_limit() {
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
    fn an_error_of_a_length_names_the_figure_and_of_anything_else_the_type() {
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
    fn what_a_peer_wrote_is_cut_short_in_errors() {
        let json = GOLDEN.replace("little", &"é".repeat(1000));
        let error = read(&json).unwrap_err().to_string();
        assert!(error.contains("é…") && error.len() < 200, "{error}");
    }

    #[test]
    fn texts_that_need_escapes_get_them_and_others_are_raw() {
        let header =
            Header { content_type: "🐶\"\\\u{1}\n\u{7f}".into(), ..read(GOLDEN).unwrap() };
        let json = String::from_utf8(header.to_json()).unwrap();
        assert!(json.contains("\"🐶\\\"\\\\\\u0001\\n\u{7f}\""), "{json}");
        assert_eq!(read(&json), Ok(header));
    }

    #[test]
    fn the_longest_header_without_escapes_fits_its_first_allocation() {
        let header = Header { content_length: u64::MAX, ..read(GOLDEN).unwrap() };
        let json = header.to_json();
        assert_eq!(json.capacity(), LONGEST_FRAME_OF_HEADER + "text/json".len() + "utf-8".len());
    }
}
