//! The limits of open connections: in total, and per address.

use core::net::IpAddr;

/// How many connections may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From all addresses together. Default: 10,000.
    pub connections: usize,
    /// From one IPv4 address or one IPv6 /64 network, the size of one subscriber's network
    /// (RFC 6177). `None`: no limit. Loopback addresses have no limit. Default: 64.
    pub per_address: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 10_000, per_address: Some(64) }
    }
}

/// Why a connection was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// [`Limits::connections`] are open.
    #[error("the limit of open connections is reached: {limit}")]
    Full {
        /// The limit, which is also the number of open connections.
        limit: usize,
    },
    /// [`Limits::per_address`] are open from the peer's network.
    #[error("the limit of open connections from {network} is reached: {limit}")]
    AddressFull {
        /// The peer's IPv4 address, or the first address of its IPv6 /64.
        network: IpAddr,
        /// The limit, which is also the number of open connections.
        limit: usize,
    },
    /// More connections were new within a second than [`Rates::connections`](super::Rates) allows.
    #[error("more than {limit} new connections a second")]
    Rate {
        /// The limit.
        limit: u64,
    },
    /// More connections from the peer's network were new within a second than
    /// [`Rates::connections_per_address`](super::Rates) allows.
    #[error("more than {limit} new connections a second from {network}")]
    AddressRate {
        /// The peer's IPv4 address, or the first address of its IPv6 /64.
        network: IpAddr,
        /// The limit.
        limit: u64,
    },
    /// The [`AccessList`](super::AccessList) denies the peer's address.
    #[error("connections from {address} are denied")]
    Denied {
        /// The peer's address.
        address: IpAddr,
    },
}

impl Refused {
    /// The reason label of the refusal in [`Totals::refused`](super::Totals::refused).
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full { .. } => "connections",
            Self::AddressFull { .. } => "per_address",
            Self::Rate { .. } => "connection_rate",
            Self::AddressRate { .. } => "connection_rate_per_address",
            Self::Denied { .. } => "denied",
        }
    }
}
