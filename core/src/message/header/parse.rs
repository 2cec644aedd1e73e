//! The parser of a header.
//!
//! It is a visitor for `serde_json`, so that it also checks the values of unknown keys: their depth
//! and their duplicate keys.

use alloc::{borrow::Cow, boxed::Box, format, string::ToString, vec::Vec};
use core::{cell::Cell, fmt};

use serde_core::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use super::{
    BYTEORDER, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, Header, HeaderError, JsonType,
    MAX_DEPTH, shorten,
};
use crate::message::ByteOrder;

/// Parses a header without a byte-order mark.
pub(super) fn header(text: &str) -> Result<Header<'_>, HeaderError> {
    let parsed = Parsed::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    AnyValue { depth: 1, parsed: &parsed }
        .deserialize(&mut deserializer)
        .and_then(|value| match parsed.header.take() {
            Some(header) => Ok(header),
            None => parsed.fail(HeaderError::NotAnObject { found: value.json_type() }),
        })
        .and_then(|header| deserializer.end().map(|()| header))
        .map_err(|error| {
            let not_json = || HeaderError::NotJson(error.to_string().into());
            parsed.error.take().unwrap_or_else(not_json)
        })
}

/// The result of the visitor: the header, or an error other than [`HeaderError::NotJson`].
#[derive(Default)]
struct Parsed<'de> {
    header: Cell<Option<Header<'de>>>,
    error: Cell<Option<HeaderError>>,
}

impl Parsed<'_> {
    fn fail<T, E: de::Error>(&self, error: HeaderError) -> Result<T, E> {
        self.error.set(Some(error));
        Err(E::custom("refused"))
    }
}

/// A parsed value.
enum Value<'de> {
    String(Cow<'de, str>),
    Integer(u64),
    /// An integer from −2⁶³ to −1.
    Negative(i64),
    /// Any other number: one with a fraction or an exponent, −0, or one that exceeds 64 bits.
    Float(f64),
    /// Any other value.
    Other(JsonType),
}

impl Value<'_> {
    const fn json_type(&self) -> JsonType {
        match self {
            Self::String(_) => JsonType::String,
            Self::Integer(_) | Self::Negative(_) | Self::Float(_) => JsonType::Number,
            Self::Other(json_type) => *json_type,
        }
    }

    /// The value as a content length.
    fn content_length(&self) -> Result<u64, HeaderError> {
        let found = match self {
            Self::Integer(length) => return Ok(*length),
            Self::Negative(number) => format!("{number}"),
            // `Debug` adds a decimal point or an exponent. The text has at most 24 bytes.
            Self::Float(number) => format!("{number:?}"),
            Self::String(_) | Self::Other(_) => {
                let (key, found) = (CONTENT_LENGTH, self.json_type());
                let expected = "a whole number of bytes";
                return Err(HeaderError::WrongType { key, expected, found });
            }
        };
        Err(HeaderError::ContentLength { found: found.into() })
    }
}

/// A visitor that parses any value, and checks the depth and the keys of all values within it. It
/// returns strings and numbers, and stores the header in `parsed`.
struct AnyValue<'o, 'de> {
    /// The depth of the value. The depth of the header is 1.
    depth: usize,
    parsed: &'o Parsed<'de>,
}

impl<'de> AnyValue<'_, 'de> {
    /// A parser of the values within this one.
    fn nested(&self) -> Self {
        Self { depth: self.depth + 1, parsed: self.parsed }
    }

    /// Parses the value of the required key `key`.
    fn required_string<A: MapAccess<'de>>(
        &self,
        map: &mut A,
        key: &'static str,
    ) -> Result<Cow<'de, str>, A::Error> {
        match map.next_value_seed(self.nested())? {
            Value::String(string) => Ok(string),
            found
            @ (Value::Integer(_) | Value::Negative(_) | Value::Float(_) | Value::Other(_)) => {
                let (expected, found) = ("a string", found.json_type());
                self.parsed.fail(HeaderError::WrongType { key, expected, found })
            }
        }
    }

    fn required<T, E: de::Error>(&self, key: &'static str, value: Option<T>) -> Result<T, E> {
        value.map_or_else(|| self.parsed.fail(HeaderError::Missing { key }), Ok)
    }

    /// Parses the members of the header.
    fn header<A: MapAccess<'de>>(&self, map: &mut A) -> Result<Header<'de>, A::Error> {
        let (mut byteorder, mut content_type) = (None, None);
        let (mut content_encoding, mut content_length) = (None, None);
        let mut unknown_keys = Vec::new();
        while let Some(Key(key)) = map.next_key()? {
            match &*key {
                BYTEORDER if byteorder.is_none() => {
                    byteorder = Some(match &*self.required_string(map, BYTEORDER)? {
                        "little" => ByteOrder::Little,
                        "big" => ByteOrder::Big,
                        found => {
                            let found = excerpt(found);
                            return self.parsed.fail(HeaderError::ByteOrder { found });
                        }
                    });
                }
                CONTENT_TYPE if content_type.is_none() => {
                    content_type = Some(self.required_string(map, CONTENT_TYPE)?);
                }
                CONTENT_ENCODING if content_encoding.is_none() => {
                    content_encoding = Some(self.required_string(map, CONTENT_ENCODING)?);
                }
                CONTENT_LENGTH if content_length.is_none() => {
                    let length = map.next_value_seed(self.nested())?.content_length();
                    content_length = Some(length.or_else(|error| self.parsed.fail(error))?);
                }
                BYTEORDER | CONTENT_TYPE | CONTENT_ENCODING | CONTENT_LENGTH => {
                    let key = excerpt(&key);
                    return self.parsed.fail(HeaderError::DuplicateKey { key });
                }
                _ => {
                    unknown_keys.push(key);
                    map.next_value_seed(self.nested())?;
                }
            }
        }
        self.refuse_duplicates(unknown_keys)?;
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
            Some(pair) => self.parsed.fail(HeaderError::DuplicateKey { key: excerpt(&pair[0]) }),
        }
    }
}

impl<'de> DeserializeSeed<'de> for AnyValue<'_, 'de> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyValue<'_, 'de> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value<'de>, E> {
        Ok(Value::Other(JsonType::Null))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Value<'de>, E> {
        Ok(Value::Other(JsonType::Boolean))
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
            1 => return self.parsed.fail(HeaderError::NotAnObject { found: JsonType::Array }),
            2..=MAX_DEPTH => while array.next_element_seed(self.nested())?.is_some() {},
            _ => return self.parsed.fail(HeaderError::TooDeep { limit: MAX_DEPTH }),
        }
        Ok(Value::Other(JsonType::Array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        match self.depth {
            1 => self.parsed.header.set(Some(self.header(&mut map)?)),
            2..=MAX_DEPTH => {
                let mut keys = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    keys.push(key);
                    map.next_value_seed(self.nested())?;
                }
                self.refuse_duplicates(keys)?;
            }
            _ => return self.parsed.fail(HeaderError::TooDeep { limit: MAX_DEPTH }),
        }
        Ok(Value::Other(JsonType::Object))
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

/// The first 32 characters of a text that the peer sent, so that errors stay short.
fn excerpt(text: &str) -> Box<str> {
    const MAX_LEN: usize = 32;
    shorten(text.chars().take(MAX_LEN + 1).collect(), MAX_LEN).into()
}
