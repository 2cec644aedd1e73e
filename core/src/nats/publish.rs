//! What a client sends.

use bytes::Bytes;

use super::{ClientReason, HeaderBlock, InvalidSubject};
use crate::quantity::Size;

/// A message to publish.
#[derive(Clone, Debug)]
pub struct Publish<'a> {
    pub(super) subject: &'a str,
    pub(super) reply: Option<&'a str>,
    pub(super) headers: Option<&'a HeaderBlock>,
    pub(super) payload: Bytes,
}

impl<'a> Publish<'a> {
    /// A message to `subject`, without headers.
    pub fn new(subject: &'a str, payload: impl Into<Bytes>) -> Self {
        Self { subject, reply: None, headers: None, payload: payload.into() }
    }

    /// Sets the subject to which a reply goes. [`Client::request`](super::Client::request) replaces
    /// it.
    pub fn with_reply(self, subject: &'a str) -> Self {
        Self { reply: Some(subject), ..self }
    }

    /// Sets the headers.
    pub fn with_headers(self, headers: &'a HeaderBlock) -> Self {
        Self { headers: Some(headers), ..self }
    }
}

/// Why nothing was sent. The connection continues, except after [`SendError::Ended`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The server has not accepted CONNECT yet ([`Incoming::Connected`](super::Incoming)).
    #[error("the server has not accepted the connection yet")]
    NotConnected,
    /// A subject or a queue group cannot be sent.
    #[error(transparent)]
    Subject(#[from] InvalidSubject),
    /// The message is longer than the server allows ([`Info::max_payload`](super::Info)).
    #[error("a message of {}, above the server's limit of {}", Size(*length), Size(*limit))]
    TooLong {
        /// The length of headers and payload in bytes.
        length: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The message has headers, which the server does not know.
    #[error("the server does not know headers")]
    NoHeaders,
    /// Too much output is pending: try again when some is written.
    #[error("{} are pending, the limit is {}", Size(*pending as u64), Size(*limit as u64))]
    Full {
        /// Bytes of output that are pending.
        pending: usize,
        /// The limit in bytes ([`Config::max_pending`](super::Config::max_pending)).
        limit: usize,
    },
    /// Too many requests have no reply, or too many flushes no answer.
    #[error("{limit} requests have no reply, which is the limit")]
    Busy {
        /// The limit ([`Config::max_requests`](super::Config::max_requests)).
        limit: usize,
    },
    /// The connection has ended, or is ending.
    #[error(transparent)]
    Ended(#[from] ClientReason),
}

impl SendError {
    /// Whether the same can be sent later, by this client or by the next one.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::NotConnected | Self::Full { .. } | Self::Busy { .. } | Self::Ended(_) => true,
            Self::Subject(_) | Self::TooLong { .. } | Self::NoHeaders => false,
        }
    }
}
