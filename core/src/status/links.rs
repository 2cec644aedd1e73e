//! The connections of a server to others, for the page `/`.

use serde::{Serialize, Serializer};

/// A connection of a server to another one that outlives single connections, such as one to a
/// stream that it publishes to.
///
/// Texts that are longer than a line of 200 characters make responses longer than
/// [`Config::response_size`](super::Config::response_size).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// What the connection is for.
    pub role: LinkRole,
    /// What the server is connected to, without secrets.
    pub address: String,
    /// Whether it is connected.
    #[serde(rename = "up")]
    pub is_up: bool,
    /// The state, for people.
    pub state: String,
}

/// What a [`Link`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRole {
    /// The server reads from it.
    ReadsFrom,
    /// The server publishes to it.
    PublishesTo,
}

impl Serialize for LinkRole {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::ReadsFrom => "reads from",
            Self::PublishesTo => "publishes to",
        })
    }
}
