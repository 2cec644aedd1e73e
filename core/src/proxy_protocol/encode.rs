//! Encodes a header.

use alloc::{format, vec::Vec};
use core::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{Version, header::V2_SIGNATURE};
use crate::admission::Peer;

/// Encodes the header for `client`, which has connected to `destination`. At most 107 bytes.
///
/// A client without an address becomes `UNKNOWN` in version 1, and `PROXY` with the family
/// `AF_UNSPEC` in version 2: section 2.2 reserves `LOCAL` for connections that the proxy makes for
/// itself. If the two addresses are of different families, the IPv4 address is mapped to IPv6
/// (`::ffff:192.0.2.1`; RFC 4291, section 2.5.5.2). An unknown destination becomes the unspecified
/// address.
///
/// ```
/// use wirestate_core::{admission::Peer, proxy_protocol::{Version, encode}};
///
/// let client = Peer::Ip("192.0.2.7:50000".parse()?);
/// let line = encode(Version::V1, client, Some("198.51.100.1:443".parse()?));
/// assert_eq!(line, b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n");
/// # Ok::<(), core::net::AddrParseError>(())
/// ```
pub fn encode(version: Version, client: Peer, destination: Option<SocketAddr>) -> Vec<u8> {
    let Peer::Ip(source) = client else {
        return match version {
            Version::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
            Version::V2 => encode_v2(0x21, 0x00, &[]),
        };
    };
    let from = source.ip().to_canonical();
    let destination = destination.unwrap_or_else(|| match from {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    });
    let (from_port, to_port) = (source.port(), destination.port());
    let line = |protocol, from: &dyn Display, to: &dyn Display| {
        format!("PROXY {protocol} {from} {to} {from_port} {to_port}\r\n").into_bytes()
    };
    let block = |family, from: &[u8], to: &[u8]| {
        let ports = [from_port.to_be_bytes(), to_port.to_be_bytes()].concat();
        encode_v2(0x21, family, &[from, to, &ports].concat())
    };
    match (version, from, destination.ip().to_canonical()) {
        (Version::V1, IpAddr::V4(from), IpAddr::V4(to)) => line("TCP4", &from, &to),
        (Version::V1, from, to) => line("TCP6", &to_v6(from), &to_v6(to)),
        (Version::V2, IpAddr::V4(from), IpAddr::V4(to)) => {
            block(0x11, &from.octets(), &to.octets())
        }
        (Version::V2, from, to) => block(0x21, &to_v6(from).octets(), &to_v6(to).octets()),
    }
}

/// A PROXY header of a connection that is the proxy's own, such as a health check: `LOCAL`, or
/// `UNKNOWN` in version 1 (proxy-protocol.txt, sections 2.1 and 2.2).
#[cfg(feature = "std")]
pub(crate) fn encode_local(version: Version) -> Vec<u8> {
    match version {
        Version::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
        Version::V2 => encode_v2(0x20, 0x00, &[]),
    }
}

fn to_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

pub(super) fn encode_v2(
    version_and_command: u8,
    family_and_transport: u8,
    addresses: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(addresses.len()).expect("two addresses and two ports are short");
    let head = [version_and_command, family_and_transport];
    [V2_SIGNATURE, &head, &length.to_be_bytes(), addresses].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_these_bytes() {
        let client = Peer::Ip("192.0.2.7:50000".parse().unwrap());
        let to = Some("198.51.100.1:443".parse().unwrap());
        assert_eq!(
            encode(Version::V2, client, to),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\xc3\x50\x01\xbb"
        );
        let client = Peer::Ip("[2001:db8::7]:50000".parse().unwrap());
        assert_eq!(
            encode(Version::V1, client, to),
            b"PROXY TCP6 2001:db8::7 ::ffff:198.51.100.1 50000 443\r\n"
        );
        assert_eq!(encode(Version::V1, client, None), b"PROXY TCP6 2001:db8::7 :: 50000 0\r\n");
        assert_eq!(encode(Version::V1, Peer::Local, to), b"PROXY UNKNOWN\r\n");
        assert_eq!(encode(Version::V2, Peer::Local, to), b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0");
    }
}
