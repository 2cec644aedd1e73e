//! Where the messages of a `fanout-server` come from: the value of `--upstream`.

use crate::values;

/// The source of a feed's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// A server at this address, which is dialled.
    Address(String),
    /// Standard input, until its end.
    StandardInput,
}

impl Upstream {
    /// Parses the value of `--upstream`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "-" => Ok(Self::StandardInput),
            address => values::remote(address).map(Self::Address),
        }
    }

    /// The address of a server that is dialled.
    pub(super) fn address(&self) -> Option<&str> {
        match self {
            Self::Address(address) => Some(address),
            Self::StandardInput => None,
        }
    }
}
