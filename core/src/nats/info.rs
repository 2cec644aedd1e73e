//! What a server says of itself.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;

use serde_core::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

/// What a server says of itself: INFO. It sends one when the connection is made, and another one
/// whenever something has changed.
///
/// Fields that a server leaves out are empty, false, 0 or `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "the fields of INFO")]
pub struct Info {
    /// The server's id, another one after each start.
    pub server_id: String,
    /// The server's name.
    pub server_name: String,
    /// The server's version, such as `2.9.10`.
    pub version: String,
    /// The cluster's name.
    pub cluster: String,
    /// The domain of `JetStream`.
    pub domain: String,
    /// The version of the protocol.
    pub proto: u64,
    /// The id of this connection on the server.
    pub client_id: u64,
    /// The longest message that the server accepts in bytes, headers and payload together; `None`:
    /// it names no limit.
    pub max_payload: Option<u64>,
    /// Whether the server knows headers.
    pub headers: bool,
    /// Whether the server has `JetStream`.
    pub jetstream: bool,
    /// Whether the client must authenticate.
    pub auth_required: bool,
    /// Whether the client must use TLS.
    pub tls_required: bool,
    /// Whether the client may use TLS.
    pub tls_available: bool,
    /// The server is about to stop: connect to another one.
    pub lame_duck: bool,
    /// The nonce to sign; empty if there is none.
    pub nonce: String,
    /// The addresses of the cluster's servers, each `HOST:PORT`.
    pub connect_urls: Vec<String>,
}

/// An INFO cannot be parsed: the text of the JSON library.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed INFO: {0}")]
pub struct InvalidInfo(String);

impl Info {
    pub(super) fn parse(json: &[u8]) -> Result<Self, InvalidInfo> {
        serde_json::from_slice(json).map_err(|error| InvalidInfo(error.to_string()))
    }

    /// The prefix of the subjects of replies that belongs to this connection alone.
    pub(super) fn inbox(&self) -> String {
        format!("_INBOX.{}.{}", self.server_id, self.client_id)
    }
}

impl<'de> Deserialize<'de> for Info {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InfoVisitor)
    }
}

struct InfoVisitor;

impl<'de> Visitor<'de> for InfoVisitor {
    type Value = Info;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Info, A::Error> {
        let mut info = Info::default();
        while let Some(Key(field)) = map.next_key()? {
            let Some(field) = field else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            match field {
                Field::ServerId => info.server_id = map.next_value()?,
                Field::ServerName => info.server_name = map.next_value()?,
                Field::Version => info.version = map.next_value()?,
                Field::Cluster => info.cluster = map.next_value()?,
                Field::Domain => info.domain = map.next_value()?,
                Field::Proto => info.proto = map.next_value()?,
                Field::ClientId => info.client_id = map.next_value()?,
                // An account without a limit has -1.
                Field::MaxPayload => {
                    info.max_payload = u64::try_from(map.next_value::<i64>()?).ok();
                }
                Field::Headers => info.headers = map.next_value()?,
                Field::Jetstream => info.jetstream = map.next_value()?,
                Field::AuthRequired => info.auth_required = map.next_value()?,
                Field::TlsRequired => info.tls_required = map.next_value()?,
                Field::TlsAvailable => info.tls_available = map.next_value()?,
                Field::LameDuck => info.lame_duck = map.next_value()?,
                Field::Nonce => info.nonce = map.next_value()?,
                Field::ConnectUrls => info.connect_urls = map.next_value()?,
            }
        }
        Ok(info)
    }
}

enum Field {
    ServerId,
    ServerName,
    Version,
    Cluster,
    Domain,
    Proto,
    ClientId,
    MaxPayload,
    Headers,
    Jetstream,
    AuthRequired,
    TlsRequired,
    TlsAvailable,
    LameDuck,
    Nonce,
    ConnectUrls,
}

/// A field's name; `None` for one that is ignored.
struct Key(Option<Field>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Key, E> {
        Ok(Key(Some(match name {
            "server_id" => Field::ServerId,
            "server_name" => Field::ServerName,
            "version" => Field::Version,
            "cluster" => Field::Cluster,
            "domain" => Field::Domain,
            "proto" => Field::Proto,
            "client_id" => Field::ClientId,
            "max_payload" => Field::MaxPayload,
            "headers" => Field::Headers,
            "jetstream" => Field::Jetstream,
            "auth_required" => Field::AuthRequired,
            "tls_required" => Field::TlsRequired,
            "tls_available" => Field::TlsAvailable,
            "ldm" => Field::LameDuck,
            "nonce" => Field::Nonce,
            "connect_urls" => Field::ConnectUrls,
            _ => return Ok(Key(None)),
        })))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn unknown_fields_are_ignored_and_wrong_types_are_errors() {
        let json = br#"{"server_id":"a\u00fc","x":{"y":[1,{}]},"max_payload":-1,"ldm":true,
            "connect_urls":["1.2.3.4:1","[::1]:2"],"port":4222,"client_id":18446744073709551615}"#;
        let info = Info::parse(json).unwrap();
        let expected = Info {
            server_id: "aü".into(),
            lame_duck: true,
            client_id: u64::MAX,
            connect_urls: vec!["1.2.3.4:1".into(), "[::1]:2".into()],
            ..Info::default()
        };
        assert_eq!(info, expected);
        assert_eq!(Info::parse(br#"{"max_payload":7}"#).unwrap().max_payload, Some(7));
        for json in [
            "",
            "1",
            "[]",
            "{",
            "{} {}",
            r#"{"server_id":1}"#,
            r#"{"max_payload":1.5}"#,
            r#"{"max_payload":9223372036854775808}"#,
            r#"{"connect_urls":"a"}"#,
            r#"{"ldm":1}"#,
            "{\"a\":\u{1}}",
        ] {
            let error = Info::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("malformed INFO: "), "{json}: {error}");
        }
    }
}
