//! Why a proxied connection ended.

use core::time::Duration;

use super::{super::NoUpstream, Side};
use crate::{ConnectionError, Direction, Fault, proxy_protocol, shared::Shared};

/// Why a proxied connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyReason {
    /// Both sides sent a FIN, and each received everything that the other one sent.
    #[error("finished")]
    Finished,
    /// We were asked to stop, and [`drain_quiet`](super::Config::drain_quiet) passed without a
    /// byte.
    #[error("asked to stop")]
    ShutDown,
    /// [`idle_timeout`](super::Config::idle_timeout) ran out.
    #[error(
        "no byte moved for {limit:?}; bytes owed to the client: {to_client}, \
         to the upstream: {to_upstream}"
    )]
    IdleTimeout {
        /// The limit.
        limit: Duration,
        /// Bytes that the client did not take.
        to_client: usize,
        /// Bytes that the upstream did not take.
        to_upstream: usize,
    },
    /// The connection to one side broke.
    #[error("{side} lost while {way}: {why}; bytes owed to it: {unsent}")]
    Lost {
        /// To which.
        side: Side,
        /// At a read or a write.
        way: Direction,
        /// How.
        why: ConnectionError,
        /// Bytes that were received from the other side, and that it did not take.
        unsent: usize,
    },
    /// No upstream could be connected to; nothing of what the client sent was forwarded.
    #[error(transparent)]
    NoUpstream(NoUpstream),
    /// The client is this proxy itself, which has dialled an upstream.
    #[error("the connection is from this proxy to itself, by upstream {upstream}")]
    Loop {
        /// The upstream's `host:port`.
        upstream: Shared<str>,
    },
    /// The client was to announce itself by a PROXY header, and did not.
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
            Self::NoUpstream(none) => none.label(),
            Self::Loop { .. } => "loop",
            Self::Header(reason) => reason.label(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Finished => Fault::None,
            Self::ShutDown => Fault::Requested,
            Self::IdleTimeout { .. } => Fault::Time,
            Self::Lost { .. } => Fault::Lost,
            Self::NoUpstream(none) => none.fault(),
            Self::Loop { .. } => Fault::Peer,
            Self::Header(reason) => reason.fault(),
        }
    }
}
