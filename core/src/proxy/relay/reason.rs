//! Why a proxied connection ended.

use core::time::Duration;

use super::{super::DialError, Side};
use crate::{ConnectionError, Direction, Fault, proxy_protocol, quantity::Time, shared::Shared};

/// Why a proxied connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyReason {
    /// Both sides sent a FIN, and each was sent all bytes of the other.
    #[error("finished")]
    Finished,
    /// A shutdown was requested, and no byte moved for
    /// [`drain_quiet`](super::Config::drain_quiet).
    #[error("shutdown requested")]
    ShutDown,
    /// [`idle_timeout`](super::Config::idle_timeout) elapsed.
    #[error(
        "no byte moved for {limit}; unsent bytes: {to_client} to the client, \
         {to_upstream} to the upstream",
        limit = Time(*limit)
    )]
    IdleTimeout {
        /// The timeout.
        limit: Duration,
        /// Bytes that were pending for the client.
        to_client: usize,
        /// Bytes that were pending for the upstream.
        to_upstream: usize,
    },
    /// The connection to one side was lost.
    #[error("{side} lost while {direction}: {error}; unsent bytes: {unsent}")]
    Lost {
        /// The side that was lost.
        side: Side,
        /// Whether a read or a write failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
        /// Bytes that were pending for the lost side.
        unsent: usize,
    },
    /// No upstream could be connected to. None of the client's bytes were forwarded.
    #[error(transparent)]
    NoUpstream(DialError),
    /// The client is this proxy itself: the address of an upstream leads to this proxy.
    #[error("the connection is from this proxy to itself, through upstream {upstream}")]
    Loop {
        /// The address of the upstream, `host:port` or `unix:PATH`.
        upstream: Shared<str>,
    },
    /// Both sides were reset by a plan of faults ([`faults`](crate::faults)).
    #[error("reset by the plan of faults, after {after} bytes to the {to}")]
    InjectedReset {
        /// The direction that the plan ends.
        to: Side,
        /// How many bytes had passed in it.
        after: u64,
    },
    /// The client's connection ended before it had a valid PROXY header.
    #[error(transparent)]
    Header(proxy_protocol::ProxyHeaderReason),
}

impl crate::Reason for ProxyReason {
    fn label(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ShutDown => "shut_down",
            Self::IdleTimeout { .. } => "idle_timeout",
            Self::Lost { side: Side::Client, .. } => "client_lost",
            Self::Lost { side: Side::Upstream, .. } => "upstream_lost",
            Self::NoUpstream(error) => error.label(),
            Self::Loop { .. } => "loop",
            Self::InjectedReset { .. } => "injected_reset",
            Self::Header(reason) => reason.label(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Finished => Fault::None,
            Self::ShutDown | Self::InjectedReset { .. } => Fault::Requested,
            Self::IdleTimeout { .. } => Fault::Time,
            Self::Lost { .. } => Fault::Lost,
            Self::NoUpstream(error) => error.fault(),
            Self::Loop { .. } => Fault::Peer,
            Self::Header(reason) => reason.fault(),
        }
    }
}
