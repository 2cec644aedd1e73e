//! Where the messages of a `fanout-server` come from: the value of `--upstream`.

use crate::{nats::StreamAddress, values};

/// The source of a feed's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// A server at this address, which is dialled.
    Address(String),
    /// Standard input, until its end.
    StandardInput,
    /// A stream of NATS.
    Stream(Box<StreamAddress>),
    /// Clients that connect to the address of `--publishers`.
    Publishers,
}

impl Upstream {
    /// Parses the value of `--upstream`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "-" => Ok(Self::StandardInput),
            text if StreamAddress::has_scheme(text) => {
                text.parse().map(|address| Self::Stream(Box::new(address)))
            }
            address => values::remote(address).map(Self::Address),
        }
    }

    /// The stream that is read.
    pub(super) fn stream(&self) -> Option<&StreamAddress> {
        match self {
            Self::Stream(address) => Some(address),
            Self::Address(_) | Self::StandardInput | Self::Publishers => None,
        }
    }
}
