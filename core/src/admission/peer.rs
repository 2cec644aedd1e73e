//! The peer of a connection, and the network that it belongs to.

use core::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

/// The peer of a connection.
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
