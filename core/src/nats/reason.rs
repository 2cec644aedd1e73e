//! Why a client's connection ended, and the errors of servers.

use alloc::string::String;
use core::time::Duration;

use super::{InvalidInfo, Malformed};
use crate::{
    ConnectionError, Direction, Fault,
    machine::{impl_label, impl_reason},
    quantity::{Size, Time},
};

/// Why a client's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientReason {
    /// A shutdown was requested, and all output is sent.
    #[error("closed")]
    ShutDown,
    /// INFO was received, and the TLS handshake follows ([`Greeting`](super::Greeting)).
    #[error("INFO received")]
    Greeted,
    /// The server closed the connection.
    #[error("the server closed the connection{}", After(last_error.as_ref()))]
    Closed {
        /// The last error that the server has reported and that did not end the connection.
        last_error: Option<ServerError>,
    },
    /// The server closed the connection inside an operation.
    #[error(
        "the server closed the connection inside an operation; bytes received of it: {received}"
    )]
    Truncated {
        /// Bytes of the operation that have arrived.
        received: u64,
    },
    /// The server reported an error with which it ends the connection.
    #[error("the server reported: {0}")]
    Refused(ServerError),
    /// The server requires TLS, and [`Config::encrypted`](super::Config::encrypted) is not set.
    #[error("the server requires TLS")]
    TlsRequired,
    /// Bytes followed INFO before the TLS handshake. They are not authenticated.
    #[error("{bytes} bytes in plain text before the TLS handshake")]
    InputBeforeTls {
        /// Their number.
        bytes: usize,
    },
    /// The signer has failed.
    #[error("cannot sign the nonce: {0}")]
    Signing(String),
    /// The server broke the protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The server sent a malformed INFO.
    #[error(transparent)]
    InvalidInfo(#[from] InvalidInfo),
    /// A line is too long: [`Config::max_info`](super::Config::max_info) or
    /// [`Config::max_control_line`](super::Config::max_control_line).
    #[error("a line of more than {}, which is the limit", Size(*limit as u64))]
    LineTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A message is longer than [`Config::max_message`](super::Config::max_message).
    #[error("a message of {}, above the limit of {}", Size(*length as u64), Size(*limit as u64))]
    MessageTooLong {
        /// The declared length of headers and payload in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// No INFO arrived within [`Config::info_timeout`](super::Config::info_timeout).
    #[error("no INFO within {}", Time(*limit))]
    InfoTimeout {
        /// The limit.
        limit: Duration,
    },
    /// No PONG arrived within [`Config::pong_timeout`](super::Config::pong_timeout).
    #[error("no PONG within {}", Time(*limit))]
    PongTimeout {
        /// The limit.
        limit: Duration,
    },
    /// An operation did not arrive in time
    /// ([`Config::frame_timeouts`](super::Config::frame_timeouts)).
    #[error("received {received} bytes of an operation within {}", Time(*limit))]
    FrameTimeout {
        /// Bytes of the operation that have arrived.
        received: u64,
        /// The length of the operation; 0 if its line is incomplete.
        expected: u64,
        /// The limit, which depends on the bytes received.
        limit: Duration,
    },
    /// The server acknowledged no output within
    /// [`Config::write_timeout`](super::Config::write_timeout).
    #[error(
        "the server acknowledged no byte for {}; bytes not acknowledged: {unacknowledged}",
        Time(*limit)
    )]
    WriteStalled {
        /// The limit.
        limit: Duration,
        /// Bytes of output that the server has not acknowledged.
        unacknowledged: usize,
    },
    /// The connection failed.
    #[error("{error} while {direction}{}", After(last_error.as_ref()))]
    Lost {
        /// Whether a read or a write failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
        /// The last error that the server has reported and that did not end the connection.
        last_error: Option<ServerError>,
    },
}

impl_reason!(ClientReason {
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Greeted => ("greeted", Fault::None),
    Self::Closed { .. } => ("closed", Fault::Lost),
    Self::Truncated { .. } => ("truncated", Fault::Lost),
    Self::Refused(error) => (ServerErrorKind: error.kind, Fault::Peer),
    Self::TlsRequired => ("tls_required", Fault::Peer),
    Self::InputBeforeTls { .. } => ("input_before_tls", Fault::Peer),
    Self::Signing(_) => ("signing", Fault::Requested),
    Self::Malformed(error) => (Malformed: error, Fault::Peer),
    Self::InvalidInfo(_) => ("malformed_info", Fault::Peer),
    Self::LineTooLong { .. } => ("line_too_long", Fault::Limit),
    Self::MessageTooLong { .. } => ("message_too_long", Fault::Limit),
    Self::InfoTimeout { .. } => ("info_timeout", Fault::Time),
    Self::PongTimeout { .. } => ("pong_timeout", Fault::Time),
    Self::FrameTimeout { .. } => ("frame_timeout", Fault::Time),
    Self::WriteStalled { .. } => ("write_stalled", Fault::Time),
    Self::Lost { error, .. } => (ConnectionError: error, Fault::Lost),
});

/// The text about an error that came before.
struct After<'a>(Option<&'a ServerError>);

impl core::fmt::Display for After<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.map_or(Ok(()), |error| write!(f, "; it had reported: {error}"))
    }
}

/// An error that a server has reported: `-ERR`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ServerError {
    /// What it is about.
    pub kind: ServerErrorKind,
    /// The server's text, at most 4 KiB, with the subject if it is about one.
    pub text: String,
}

impl ServerError {
    pub(super) fn new(text: String) -> Self {
        Self { kind: ServerErrorKind::of(&text), text }
    }
}

/// What an error of a server is about. The texts are those of nats-server 2.9 to 2.15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerErrorKind {
    /// The credentials are wrong, or there are none. It ends the connection.
    Authorization,
    /// CONNECT came too late. It ends the connection.
    AuthenticationTimeout,
    /// The credentials have expired, were revoked, or their account is gone. It ends the
    /// connection.
    AuthenticationExpired,
    /// The server or the account has too many connections. It ends the connection.
    MaxConnections,
    /// The client answered no PING in time. It ends the connection.
    StaleConnection,
    /// The client does not keep up. It ends the connection.
    SlowConsumer,
    /// A published message is too long. It ends the connection.
    MaxPayload,
    /// The server did not understand the client. It ends the connection.
    Protocol,
    /// The server requires TLS. It ends the connection.
    TlsRequired,
    /// The port is one for other servers. It ends the connection.
    WrongPort,
    /// The client may not publish to the subject. The message is lost.
    PublishPermission,
    /// The client may not subscribe to the subject. Nothing will arrive.
    SubscribePermission,
    /// A subject is invalid. The message is lost, or the subscription receives nothing.
    InvalidSubject,
    /// The account has too many subscriptions. The subscription receives nothing.
    MaxSubscriptions,
    /// Another error. The server decides whether it ends the connection.
    Other,
}

impl ServerErrorKind {
    /// Whether the server ends the connection after it.
    pub fn ends_connection(self) -> bool {
        match self {
            Self::Authorization
            | Self::AuthenticationTimeout
            | Self::AuthenticationExpired
            | Self::MaxConnections
            | Self::StaleConnection
            | Self::SlowConsumer
            | Self::MaxPayload
            | Self::Protocol
            | Self::TlsRequired
            | Self::WrongPort => true,
            Self::PublishPermission
            | Self::SubscribePermission
            | Self::InvalidSubject
            | Self::MaxSubscriptions
            | Self::Other => false,
        }
    }

    fn of(text: &str) -> Self {
        let text = text.as_bytes();
        let begins = |(begin, _): &&(&str, Self)| {
            text.get(..begin.len()).is_some_and(|text| text.eq_ignore_ascii_case(begin.as_bytes()))
        };
        TEXTS.iter().find(begins).map_or(Self::Other, |(_, kind)| *kind)
    }
}

impl_label!(ServerErrorKind {
    Self::Authorization => "authorization",
    Self::AuthenticationTimeout => "authentication_timeout",
    Self::AuthenticationExpired => "authentication_expired",
    Self::MaxConnections => "max_connections",
    Self::StaleConnection => "stale_connection",
    Self::SlowConsumer => "slow_consumer",
    Self::MaxPayload => "max_payload",
    Self::Protocol => "protocol",
    Self::TlsRequired => "tls_required",
    Self::WrongPort => "wrong_port",
    Self::PublishPermission => "publish_permission",
    Self::SubscribePermission => "subscribe_permission",
    Self::InvalidSubject => "invalid_subject",
    Self::MaxSubscriptions => "max_subscriptions",
    Self::Other => "server_error",
});

/// How the texts begin.
const TEXTS: &[(&str, ServerErrorKind)] = &[
    ("Authorization Violation", ServerErrorKind::Authorization),
    ("Authorization Timeout", ServerErrorKind::AuthenticationTimeout),
    ("Authentication Timeout", ServerErrorKind::AuthenticationTimeout),
    ("User Authentication Expired", ServerErrorKind::AuthenticationExpired),
    ("User Authentication Revoked", ServerErrorKind::AuthenticationExpired),
    ("Account Authentication Expired", ServerErrorKind::AuthenticationExpired),
    ("Failed Account Registration", ServerErrorKind::AuthenticationExpired),
    ("Maximum Connections Exceeded", ServerErrorKind::MaxConnections),
    ("Maximum Account Active Connections Exceeded", ServerErrorKind::MaxConnections),
    ("Stale Connection", ServerErrorKind::StaleConnection),
    ("Slow Consumer", ServerErrorKind::SlowConsumer),
    ("Maximum Payload", ServerErrorKind::MaxPayload),
    ("Maximum Control Line Exceeded", ServerErrorKind::Protocol),
    ("Unknown Protocol Operation", ServerErrorKind::Protocol),
    ("Parser Error", ServerErrorKind::Protocol),
    ("Invalid Client Protocol", ServerErrorKind::Protocol),
    ("No Responders Requires Headers", ServerErrorKind::Protocol),
    ("Message Headers Not Supported", ServerErrorKind::Protocol),
    ("Secure Connection - TLS Required", ServerErrorKind::TlsRequired),
    ("Attempted To Connect To", ServerErrorKind::WrongPort),
    ("Permissions Violation for Publish", ServerErrorKind::PublishPermission),
    ("Permissions Violation for Subscription", ServerErrorKind::SubscribePermission),
    ("Invalid Publish Subject", ServerErrorKind::InvalidSubject),
    ("Invalid Subject", ServerErrorKind::InvalidSubject),
    ("Maximum Subscriptions Exceeded", ServerErrorKind::MaxSubscriptions),
];
