//! The limits of open connections, in all and per address.

use core::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// An address and port.
    Ip(SocketAddr),
    /// A process on this machine, over a Unix socket. It has no address.
    Local,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Local => f.write_str("local"),
        }
    }
}

impl Peer {
    /// The network that the peer's connections count under: its IPv4 address or its IPv6 /64.
    /// `None` for loopback and [`Local`](Self::Local).
    pub(super) fn network(self) -> Option<IpAddr> {
        let Self::Ip(address) = self else { return None };
        let ip = address.ip().to_canonical();
        if ip.is_loopback() {
            return None;
        }
        Some(match ip {
            IpAddr::V4(_) => ip,
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        })
    }
}

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
}

impl Refused {
    /// The reason label of the refusal in [`Totals::refused`](super::Totals::refused).
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full { .. } => "connections",
            Self::AddressFull { .. } => "per_address",
        }
    }
}
