//! The service of `app-server`: a search in a table, over the
//! [JSON-header protocol](wirestate_core::message). It is the service of the tutorial
//! [Socket Programming in Python](https://realpython.com/python-sockets/).
//!
//! | request | reply |
//! |---|---|
//! | JSON `{"action": "search", "value": V}` | `{"result": S}`, S is the table's entry for V |
//! | the same, if the table has no entry for V | `{"result": "No match for 'V'."}` |
//! | JSON with another action A | `{"result": "Error: invalid action 'A'."}` |
//! | content that is not JSON | `First 10 bytes of request: ` and these bytes |
//!
//! [`request`] makes JSON for the action `search`. Any other action is sent as bytes: the action,
//! directly followed by the value.
//!
//! ```
//! use wirestate_command_line::search::{self, Table};
//!
//! let table = Table::from_json(br#"{"ring": "one of twenty"}"#)?;
//! let reply = table.answer(&search::request("search", "ring"));
//! assert_eq!(&*reply.content, br#"{"result": "one of twenty"}"#);
//! assert_eq!(search::result(&reply)?, b"one of twenty"[..]);
//!
//! let reply = table.answer(&search::request("search", "wing"));
//! assert!(search::is_no_match(&search::result(&reply)?, "wing"));
//!
//! let reply = table.answer(&search::request("shout", "ring"));
//! assert_eq!(search::result(&reply)?, b"First 10 bytes of request: shoutring"[..]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{borrow::Cow, collections::BTreeMap, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;
use wirestate_core::{
    message::{Message, service, text::TextError},
    shared::{Lock, Shared},
};

/// A table of strings by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    entries: BTreeMap<String, String>,
}

/// The error of [`Table::from_json`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The text is not a JSON object whose values are strings.
    #[error("expected a JSON object of strings: {0}")]
    NotAnObjectOfStrings(#[from] serde_json::Error),
}

impl Default for Table {
    /// A few entries for trials.
    fn default() -> Self {
        let entries = [
            ("morpheus", "Shaper of dreams, son of sleep."),
            ("ring", "Bent wire that holds keys, promises or a boxing match."),
            ("🐶", "A dog: four legs, one nose, no questions."),
        ];
        let entries = entries.map(|(key, entry)| (key.to_owned(), entry.to_owned()));
        Self { entries: entries.into() }
    }
}

impl Table {
    /// Parses a table: a JSON object whose values are strings, in UTF-8. If a key occurs twice, its
    /// last value is used.
    ///
    /// # Errors
    /// `json` is not such an object.
    pub fn from_json(json: &[u8]) -> Result<Self, TableError> {
        Ok(Self { entries: serde_json::from_slice(json)? })
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the table has no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The reply to a request.
    pub fn answer(&self, request: &Message<'_>) -> Message<'static> {
        if !request.is_json() {
            let first = &request.content[..request.content.len().min(10)];
            let content = [b"First 10 bytes of request: ", first].concat();
            return Message::new("binary/custom-server-binary-type", "binary", content);
        }
        let [action, value] = match read_fields(request, ["action", "value"]) {
            Ok(query) => query.map(|value| value.unwrap_or_else(null)),
            Err(error) => return Message::error(error),
        };
        if !matches!(&action, DisplayedValue::Text(action) if action == "search") {
            return Message::error(format_args!("invalid action '{action}'."));
        }
        let entry = match &value {
            DisplayedValue::Text(value) => self.entries.get(value),
            DisplayedValue::Other(_) => None,
        };
        match entry {
            Some(entry) => Message::result(entry),
            None => Message::result(&no_match(&value)),
        }
    }
}

fn no_match(value: impl fmt::Display) -> String {
    format!("No match for '{value}'.")
}

/// Whether the `result` of a search for `value` is that the table has no entry for it.
pub fn is_no_match(result: &[u8], value: &str) -> bool {
    result == no_match(value).as_bytes()
}

/// A table that can be replaced while services search in it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct SharedTable {
    current: Shared<Lock<Shared<Table>>>,
}

impl SharedTable {
    /// Replaces the table, for requests from now on.
    pub fn replace(&self, table: Table) {
        self.current.with(|current| *current = Shared::new(table));
    }
}

impl From<Table> for SharedTable {
    fn from(table: Table) -> Self {
        Self { current: Shared::new(Lock::new(Shared::new(table))) }
    }
}

/// The service that searches in `table`.
pub fn service(
    table: impl Into<SharedTable>,
) -> service::Function<impl FnMut(Message<'_>) -> Message<'static> + Clone> {
    let table = table.into();
    service::function(move |request| {
        let table = table.current.with(|table| table.clone());
        table.answer(&request)
    })
}

/// A request: JSON for the action `search`, bytes for any other action.
pub fn request(action: &str, value: &str) -> Message<'static> {
    if action != "search" {
        let content = [action, value].concat();
        return Message::new("binary/custom-client-binary-type", "binary", content);
    }
    Message::json(format!(r#"{{"action": "search", "value": {}}}"#, Value::from(value)))
}

/// The result in a reply: the field `result` of JSON, otherwise the whole content.
///
/// # Errors
/// The reply reports an error, or is JSON without a result.
pub fn result(reply: &Message<'_>) -> Result<Bytes, ResultError> {
    if !reply.is_json() {
        return Ok(reply.content.clone().into_bytes());
    }
    let [result] = read_fields(reply, ["result"])?;
    let result = result.ok_or(ResultError::Missing)?.to_string();
    match result.strip_prefix("Error: ") {
        Some(error) => Err(ResultError::Server(error.to_owned())),
        None => Ok(result.into()),
    }
}

/// The error of [`result`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// The server reports an error.
    #[error("the server reports an error: {0}")]
    Server(String),
    /// The reply is JSON without the field `result`.
    #[error("the reply has no field \"result\"")]
    Missing,
    /// The content is not the text that its header declares.
    #[error("the reply is invalid: {0}")]
    Content(#[from] ContentError),
}

/// Why a content cannot be read as a JSON object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// The content is not text in the character set that its header names.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The text is not JSON, or not of the expected form.
    #[error("the content is wrong: {0}")]
    Json(#[from] serde_json::Error),
}

/// Parses a content that is a JSON object, and returns the values of `keys`. If a key occurs twice,
/// its last value is used.
fn read_fields<const N: usize>(
    message: &Message<'_>,
    keys: [&'static str; N],
) -> Result<[Option<DisplayedValue>; N], ContentError> {
    let text = message.text()?;
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let values = deserializer.deserialize_map(Fields(keys))?;
    deserializer.end()?;
    Ok(values)
}

/// A JSON value in the form of Python, as the tutorial's server shows it: null is `None`, true is
/// `True`.
enum DisplayedValue {
    Text(String),
    Other(String),
}

impl fmt::Display for DisplayedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Other(text) => f.write_str(text),
        }
    }
}

/// The value of a key that is missing, or null.
fn null() -> DisplayedValue {
    DisplayedValue::Other("None".to_owned())
}

/// A key of an object. It is borrowed unless it contains escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads the values of these keys from an object.
struct Fields<const N: usize>([&'static str; N]);

impl<'de, const N: usize> Visitor<'de> for Fields<N> {
    type Value = [Option<DisplayedValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [const { None }; N];
        while let Some(Key(key)) = map.next_key()? {
            match self.0.iter().position(|field| *field == key) {
                Some(field) => values[field] = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(values)
    }
}

impl<'de> Deserialize<'de> for DisplayedValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;
        impl Visitor<'_> for ValueVisitor {
            type Value = DisplayedValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a number, a boolean or null")
            }

            fn visit_unit<E: de::Error>(self) -> Result<DisplayedValue, E> {
                Ok(null())
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<DisplayedValue, E> {
                Ok(DisplayedValue::Other(if value { "True" } else { "False" }.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<DisplayedValue, E> {
                Ok(DisplayedValue::Other(value.to_string()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<DisplayedValue, E> {
                Ok(DisplayedValue::Other(value.to_string()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<DisplayedValue, E> {
                Ok(DisplayedValue::Other(format!("{value:?}")))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<DisplayedValue, E> {
                Ok(DisplayedValue::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(ValueVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(json: &[u8]) -> String {
        let reply = Table::default().answer(&Message::json(json));
        assert!(reply.is_json() && reply.content_encoding == "utf-8");
        String::from_utf8(reply.content.to_vec()).unwrap()
    }

    #[test]
    fn a_search_returns_the_entry_or_no_match() {
        assert!(answer(br#"{"action": "search", "value": "ring"}"#).contains("holds keys"));
        assert!(
            answer(r#"{"value": "🐶", "x": [1], "action": "search"}"#.as_bytes()).contains("dog")
        );
        for (value, shown) in [
            (r#""it's""#, "it's"),
            (r#""a\"b""#, "a\\\"b"),
            ("5", "5"),
            ("true", "True"),
            ("null", "None"),
            ("1.5", "1.5"),
        ] {
            let query = format!(r#"{{"action": "search", "value": {value}}}"#);
            let reply = format!(r#"{{"result": "No match for '{shown}'."}}"#);
            assert_eq!(answer(query.as_bytes()), reply);
        }
        assert_eq!(answer(br#"{"action": "search"}"#), r#"{"result": "No match for 'None'."}"#);
    }

    #[test]
    fn an_invalid_search_gets_an_error_reply() {
        for (content, error) in [
            (&br#"{"action": "dance", "value": 1}"#[..], "invalid action 'dance'."),
            (b"{}", "invalid action 'None'."),
            (b"[]", "the content is wrong: invalid type: sequence, expected an object"),
            (b"", "the content is wrong: EOF while parsing"),
            (br#"{"action": "search", "value": []}"#, "expected a string, a number"),
            (b"\xff", "the content is not utf-8"),
        ] {
            let reply = answer(content);
            assert!(
                reply.starts_with(r#"{"result": "Error: "#) && reply.contains(error),
                "{reply}"
            );
        }
        let klingon = Message { content_encoding: "klingon".into(), ..Message::json("{}") };
        let reply = Table::default().answer(&klingon);
        let error = result(&reply).unwrap_err().to_string();
        assert_eq!(error, "the server reports an error: the character set \"klingon\" is unknown");
    }

    #[test]
    fn text_may_be_in_any_character_set() {
        let utf_16 = "{\"action\": \"search\", \"value\": \"ring\"}".encode_utf16();
        let content: Vec<u8> = utf_16.flat_map(u16::to_be_bytes).collect();
        let request = Message { content_encoding: "utf-16-be".into(), ..Message::json(content) };
        let reply = Table::default().answer(&request);
        assert!(result(&reply).unwrap().starts_with(b"Bent wire"));
    }

    #[test]
    fn content_that_is_not_json_is_answered_by_its_first_ten_bytes() {
        for (content, first) in
            [(&b""[..], &b""[..]), (b"\xff\0", b"\xff\0"), (b"0123456789ab", b"0123456789")]
        {
            for content_type in ["binary/x", "Text/JSON", "text/json; charset=utf-8", ""] {
                let request = Message::new(content_type, "binary", content);
                let reply = Table::default().answer(&request);
                assert_eq!(*reply.content, [b"First 10 bytes of request: ", first].concat());
                assert_eq!(reply.content_type, "binary/custom-server-binary-type");
            }
        }
    }

    #[test]
    fn a_request_has_the_bytes_of_the_tutorials_client() {
        let golden = b"\0g{\"byteorder\": \"little\", \"content-type\": \"text/json\", \
            \"content-encoding\": \"utf-8\", \"content-length\": 41}\
            {\"action\": \"search\", \"value\": \"morpheus\"}";
        let mut frame = Vec::new();
        let byteorder = wirestate_core::message::ByteOrder::Little;
        Message { byteorder, ..request("search", "morpheus") }.encode(&mut frame).unwrap();
        assert_eq!(frame.escape_ascii().to_string(), golden.escape_ascii().to_string());
    }
}
