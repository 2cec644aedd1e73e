//! Why a proxied connection ended.

use core::time::Duration;

use super::{super::DialError, Side};
use crate::{
    ConnectionError, Direction, Fault, machine::impl_reason, proxy_protocol::ProxyHeaderReason,
    quantity::Time, shared::Shared,
};

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
    Header(ProxyHeaderReason),
}

impl_reason!(ProxyReason {
    Self::Finished => ("finished", Fault::None),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::IdleTimeout { .. } => ("idle_timeout", Fault::Time),
    Self::Lost { side: Side::Client, .. } => ("client_lost", Fault::Lost),
    Self::Lost { side: Side::Upstream, .. } => ("upstream_lost", Fault::Lost),
    Self::NoUpstream(DialError { timeout: Some(_), .. }) => ("connect_timeout", Fault::Time),
    Self::NoUpstream(DialError { timeout: None, .. }) => ("no_upstream", Fault::Lost),
    Self::Loop { .. } => ("loop", Fault::Peer),
    Self::InjectedReset { .. } => ("injected_reset", Fault::Requested),
    Self::Header(reason) => (ProxyHeaderReason: reason),
});
