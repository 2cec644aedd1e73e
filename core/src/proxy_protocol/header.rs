//! The header itself.

use alloc::{format, vec::Vec};
use core::{
    array,
    fmt::Display,
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str,
};

use crc::{CRC_32_ISCSI, Crc};

use crate::admission::Peer;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Nothing of a client: the proxy speaks for itself (a health check), or doesn't know, or the
    /// client has no address of a TCP connection (a Unix socket, a datagram).
    Local,
    /// A TCP connection.
    Tcp {
        /// The client's address.
        source: SocketAddr,
        /// The address that the client connected to.
        destination: SocketAddr,
    },
}

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What is wrong with a header. No further byte would mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is something else.
    #[error("it begins like neither version of the protocol")]
    Signature,
    /// Version 1: no line.
    #[error("its line has no end within {limit} bytes")]
    LineTooLong {
        /// The limit.
        limit: usize,
    },
    /// Version 1: one of carriage return and line feed without the other.
    #[error("its line does not end by a carriage return and a line feed")]
    LineEnd,
    /// Version 1: something else than `TCP4`, `TCP6` or `UNKNOWN`.
    #[error("its protocol is none of TCP4, TCP6 and UNKNOWN")]
    Protocol,
    /// Version 1: not two addresses and two ports, with a space between them.
    #[error("it has {found} fields behind its protocol, expected 4")]
    Fields {
        /// How many there are.
        found: usize,
    },
    /// Version 1: not an address.
    #[error("its {0} address is neither an IPv4 nor an IPv6 address")]
    Address(Field),
    /// Version 1: not a port.
    #[error("its {0} port is not a number from 0 to 65535 without leading zeroes")]
    Port(Field),
    /// Another version behind the signature of version 2.
    #[error("its version is {0}, expected 2")]
    Version(u8),
    /// Version 2: neither `LOCAL` nor `PROXY`.
    #[error("its command is {0}, expected 0 or 1")]
    Command(u8),
    /// Version 2: no family of addresses.
    #[error("its address family is {0}, expected 0 to 3")]
    Family(u8),
    /// Version 2: no transport protocol.
    #[error("its transport protocol is {0}, expected 0 to 2")]
    Transport(u8),
    /// Version 2: more than one checksum.
    #[error("it has a second checksum at byte {at}")]
    Checksums {
        /// Where its TLV begins.
        at: usize,
    },
    /// Version 2: longer than anybody needs.
    #[error("it would have {length} bytes, and may have {limit}")]
    TooLong {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Version 2: a TLV is not all there.
    #[error("its TLV at byte {at} takes {need} bytes, of which it has {have}")]
    Tlv {
        /// Where it begins, counted from the header's first byte.
        at: usize,
        /// Its type, its length, and as much as that says.
        need: usize,
        /// What there is.
        have: usize,
    },
    /// Version 2: a checksum of another length.
    #[error("its CRC32C has {length} bytes, expected 4")]
    ChecksumLength {
        /// What it has.
        length: usize,
    },
    /// Version 2: it is not what was sent.
    #[error("its CRC32C is said to be {found:#010x}, and is {computed:#010x}")]
    Checksum {
        /// What it says.
        found: u32,
        /// What it is.
        computed: u32,
    },
    /// Version 2: too short for its addresses.
    #[error("it has {have} bytes for addresses that take {need}")]
    TooShort {
        /// What there is.
        have: usize,
        /// What there must be.
        need: usize,
    },
}

/// Which of the two ends of the announced connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Field {
    /// The client's.
    #[error("source")]
    Source,
    /// The one that the client connected to.
    #[error("destination")]
    Destination,
}

/// Reads the header that `bytes` begin with: what it says, and its length. `None` where it may still
/// become one.
///
/// The answer to some bytes is the answer to all that begin with them, unless it is `None`: so it
/// does not depend on how they were cut.
///
/// # Errors
/// It is none, and no further byte makes it one.
///
/// ```
/// use wirestate_core::proxy_protocol::{Header, parse};
///
/// let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\nhello";
/// assert_eq!(parse(&line[..20]), Ok(None));
/// let header = Header::Tcp {
///     source: "192.0.2.7:50000".parse()?,
///     destination: "198.51.100.1:443".parse()?,
/// };
/// assert_eq!(parse(line), Ok(Some((header, line.len() - 5))));
/// # Ok::<(), core::net::AddrParseError>(())
/// ```
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    if begins(bytes, SIGNATURE) {
        return parse_binary(bytes);
    }
    if begins(bytes, GREETING) { parse_line(bytes) } else { Err(Malformed::Signature) }
}

/// Whether `bytes` are how `start` begins, or begin with it.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let n = bytes.len().min(start.len());
    bytes[..n] == start[..n]
}

/// Section 2.1.
fn parse_line(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    // The carriage return comes at latest where there is still room for the line feed.
    let line = &bytes[..bytes.len().min(MAX_LINE - 1)];
    let Some(end) = line.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        let is_too_long = line.len() == MAX_LINE - 1;
        return if is_too_long { Err(LINE_TOO_LONG) } else { Ok(None) };
    };
    match (bytes[end], bytes.get(end + 1)) {
        (b'\r', None) => return Ok(None),
        (b'\r', Some(b'\n')) => {}
        _ => return Err(Malformed::LineEnd),
    }
    // It begins with the greeting, unless the line ended within that.
    let line = bytes[..end].strip_prefix(GREETING).ok_or(Malformed::Signature)?;
    let header = parse_fields(line)?;
    Ok(Some((header, end + 2)))
}

fn parse_fields(line: &[u8]) -> Result<Header, Malformed> {
    let mut fields = line.split(|byte| *byte == b' ');
    let protocol = fields.next().unwrap_or_default();
    if protocol == b"UNKNOWN" {
        // "The receiver must ignore anything presented before the CRLF is found."
        return Ok(Header::Local);
    }
    if !matches!(protocol, b"TCP4" | b"TCP6") {
        return Err(Malformed::Protocol);
    }
    let found = fields.clone().count();
    let [Some(from), Some(to), Some(from_port), Some(to_port), None] =
        array::from_fn(|_| fields.next())
    else {
        return Err(Malformed::Fields { found });
    };
    let (source, destination) = (address(Field::Source, from)?, address(Field::Destination, to)?);
    Ok(Header::Tcp {
        source: SocketAddr::new(source, port(Field::Source, from_port)?),
        destination: SocketAddr::new(destination, port(Field::Destination, to_port)?),
    })
}

/// An address of either family, whatever the protocol says: nginx names the client's family and
/// writes its own address after the client's, even where the `realip` module has replaced the
/// client's by one of the other family (`PROXY TCP6 2001:db8::1 127.0.0.1 50000 443`).
fn address(field: Field, text: &[u8]) -> Result<IpAddr, Malformed> {
    let address = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    address.ok_or(Malformed::Address(field))
}

fn port(field: Field, text: &[u8]) -> Result<u16, Malformed> {
    let is_number =
        text.iter().all(u8::is_ascii_digit) && (text == b"0" || !text.starts_with(b"0"));
    let number = str::from_utf8(text).ok().filter(|_| is_number);
    number.and_then(|text| text.parse().ok()).ok_or(Malformed::Port(field))
}

/// Section 2.2.
fn parse_binary(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let Some(version_and_command) = bytes.get(12) else { return Ok(None) };
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        0x22..=0x2f => return Err(Malformed::Command(version_and_command & 0xf)),
        _ => return Err(Malformed::Version(version_and_command >> 4)),
    };
    let Some(family_and_transport) = bytes.get(13) else { return Ok(None) };
    // A local connection's family "is ignored".
    let family_and_transport = if is_local { 0 } else { *family_and_transport };
    let (family, transport) = (family_and_transport >> 4, family_and_transport & 0xf);
    let need = match family {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return Err(Malformed::Family(family)),
    };
    if transport > 2 {
        return Err(Malformed::Transport(transport));
    }
    let Some(&[high, low]) = bytes.get(14..16) else { return Ok(None) };
    let have = usize::from(u16::from_be_bytes([high, low]));
    let length = 16 + have;
    if length > MAX_LEN {
        return Err(Malformed::TooLong { length, limit: MAX_LEN });
    }
    if have < need {
        return Err(Malformed::TooShort { have, need });
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    // A local connection's block is discarded whole; how long the addresses of no family are, nobody
    // says.
    if need > 0 {
        check_tlvs(header, 16 + need)?;
    }
    // Valid headers for anything but a TCP connection (a datagram, a Unix socket) fall back to
    // `UNSPEC`.
    let header = match (family, transport) {
        (1, STREAM) => addresses::<4>(&header[16..]),
        (2, STREAM) => addresses::<16>(&header[16..]),
        _ => Header::Local,
    };
    Ok(Some((header, length)))
}

/// Section 2.2, "additional bytes": types, lengths and values from byte `at` to the header's end. All but
/// a checksum are for others to know.
fn check_tlvs(header: &[u8], mut at: usize) -> Result<(), Malformed> {
    let mut has_sum = false;
    while let left @ [kind, ..] = &header[at..] {
        let length = match *left {
            [_, high, low, ..] => usize::from(u16::from_be_bytes([high, low])),
            _ => 0,
        };
        let (need, have) = (3 + length, left.len());
        let value = left.get(3..need).ok_or(Malformed::Tlv { at, need, have })?;
        if *kind == TYPE_CRC32C {
            // Each would be over the whole header.
            if mem::replace(&mut has_sum, true) {
                return Err(Malformed::Checksums { at });
            }
            check_sum(header, at + 3, value)?;
        }
        at += need;
    }
    Ok(())
}

/// Section 2.2.3: over the whole header, with zeroes in place of the checksum, which is at byte `at`.
fn check_sum(header: &[u8], at: usize, value: &[u8]) -> Result<(), Malformed> {
    let wrong = |_| Malformed::ChecksumLength { length: value.len() };
    let found = u32::from_be_bytes(value.try_into().map_err(wrong)?);
    let mut digest = CRC32C.digest();
    for part in [&header[..at], &[0; 4], &header[at + 4..]] {
        digest.update(part);
    }
    let computed = digest.finalize();
    if computed == found { Ok(()) } else { Err(Malformed::Checksum { found, computed }) }
}

/// Two addresses of `N` bytes each, then two ports.
fn addresses<const N: usize>(bytes: &[u8]) -> Header
where
    IpAddr: From<[u8; N]>,
{
    let end = |address: usize, port: usize| {
        let octets: [u8; N] = array::from_fn(|index| bytes[address + index]);
        SocketAddr::new(octets.into(), u16::from_be_bytes([bytes[port], bytes[port + 1]]))
    };
    Header::Tcp { source: end(0, 2 * N), destination: end(N, 2 * N + 2) }
}

/// The header that announces `client`, which connected to `destination`: at most 107 bytes.
///
/// Somebody without an address is announced as `UNKNOWN`, or as `PROXY` of the family `AF_UNSPEC`
/// (section 2.2 keeps `LOCAL` for connections of the proxy's own). Where the two are of different
/// families, the IPv4 one is written as an IPv6 one (`::ffff:192.0.2.1`; RFC 4291, section 2.5.5.2);
/// a destination that isn't known is written as the unspecified address.
///
/// ```
/// use wirestate_core::{admission::Peer, proxy_protocol::{Version, announce}};
///
/// let client = Peer::Ip("192.0.2.7:50000".parse()?);
/// let line = announce(Version::V1, client, Some("198.51.100.1:443".parse()?));
/// assert_eq!(line, b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n");
/// # Ok::<(), core::net::AddrParseError>(())
/// ```
pub fn announce(version: Version, client: Peer, destination: Option<SocketAddr>) -> Vec<u8> {
    let Peer::Ip(source) = client else {
        return match version {
            Version::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
            Version::V2 => binary(0x21, 0x00, &[]),
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
        binary(0x21, family, &[from, to, &ports].concat())
    };
    match (version, from, destination.ip().to_canonical()) {
        (Version::V1, IpAddr::V4(from), IpAddr::V4(to)) => line("TCP4", &from, &to),
        (Version::V1, from, to) => line("TCP6", &as_v6(from), &as_v6(to)),
        (Version::V2, IpAddr::V4(from), IpAddr::V4(to)) => {
            block(0x11, &from.octets(), &to.octets())
        }
        (Version::V2, from, to) => block(0x21, &as_v6(from).octets(), &as_v6(to).octets()),
    }
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn binary(version_and_command: u8, family_and_transport: u8, addresses: &[u8]) -> Vec<u8> {
    let length = u16::try_from(addresses.len()).expect("two addresses and two ports are short");
    let head = [version_and_command, family_and_transport];
    [SIGNATURE, &head, &length.to_be_bytes(), addresses].concat()
}

/// The longest header of version 2 that is accepted, in bytes. Its addresses take 232 at most; the
/// rest is room for TLVs (a certificate, a cloud's names), of which nginx takes as much.
pub const MAX_LEN: usize = 4096;
/// The longest line of version 1, in bytes (section 2.1).
const MAX_LINE: usize = 107;
const LINE_TOO_LONG: Malformed = Malformed::LineTooLong { limit: MAX_LINE };
const GREETING: &[u8] = b"PROXY ";
const TYPE_CRC32C: u8 = 0x03;
/// `SOCK_STREAM`, as a transport protocol (section 2.2).
const STREAM: u8 = 1;
/// RFC 4960, appendix B.
static CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// It can't begin a line of any text protocol (section 2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(source: &str, destination: &str) -> Header {
        Header::Tcp { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn v2(head: [u8; 2], body: &[u8]) -> Vec<u8> {
        binary(head[0], head[1], body)
    }

    /// The examples of sections 2.1 and 2.2, and what else is a header.
    #[test]
    fn headers_are_understood() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0x50, 0x01, 0xbb];
        let tcp4 = header("192.0.2.7:50000", "198.51.100.1:443");
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 7, 9);
        let longest = format!(
            "PROXY TCP6 {0} {0} 65535 65535\r\n",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
        let unknown = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        assert_eq!((longest.len(), unknown.len()), (104, 107));
        let all_ones = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        // ALPN, a NOOP, an empty one, and one that nobody knows.
        let tlvs = [&[0x01, 0, 2, b'h', b'2', 0x04, 0, 1, 0xff][..], &[0x05, 0, 0, 0xee, 0, 1, 7]];
        let with_tlvs = [&v4[..], &tlvs.concat()].concat();
        let cases: Vec<(Vec<u8>, Header)> = alloc::vec![
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n".to_vec(), tcp4),
            (
                b"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n".to_vec(),
                header("255.255.255.255:65535", "0.0.0.0:0")
            ),
            (b"PROXY TCP6 ::1 2001:DB8::2 7 9\r\n".to_vec(), header("[::1]:7", "[2001:db8::2]:9")),
            (longest.into_bytes(), header(all_ones, all_ones)),
            (
                b"PROXY TCP6 2001:db8::1 127.0.0.1 1234 80\r\n".to_vec(),
                header("[2001:db8::1]:1234", "127.0.0.1:80")
            ),
            (b"PROXY TCP4 192.0.2.7 ::1 7 9\r\n".to_vec(), header("192.0.2.7:7", "[::1]:9")),
            (b"PROXY TCP4 ::1 ::2 7 9\r\n".to_vec(), header("[::1]:7", "[::2]:9")),
            (
                b"PROXY TCP6 ::ffff:192.0.2.7 192.0.2.8 7 9\r\n".to_vec(),
                header("[::ffff:192.0.2.7]:7", "192.0.2.8:9")
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Header::Local),
            (b"PROXY UNKNOWN a b c d e f g \xff\0\r\n".to_vec(), Header::Local),
            (unknown.into_bytes(), Header::Local),
            (v2([0x21, 0x11], &v4), tcp4),
            (v2([0x21, 0x11], &with_tlvs), tcp4),
            (v2([0x21, 0x21], &v6), header("[::1]:7", "[::2]:9")),
            (v2([0x21, 0x31], &[0; 216]), Header::Local),
            (v2([0x21, 0x12], &v4), Header::Local),
            (v2([0x21, 0x12], &with_tlvs), Header::Local),
            (v2([0x21, 0x22], &v6), Header::Local),
            (v2([0x21, 0x32], &[0; 216]), Header::Local),
            (v2([0x21, 0x00], &[]), Header::Local),
            (v2([0x21, 0x10], &v4), Header::Local),
            (v2([0x20, 0x00], &[]), Header::Local),
            (v2([0x20, 0xff], &[1, 2, 3]), Header::Local),
            (v2([0x20, 0x11], &[&v4[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat()), Header::Local),
            (HAPROXY_V4.to_vec(), header("127.0.0.1:47474", "127.0.0.1:47001")),
            (HAPROXY_V6.to_vec(), header("[::1]:47984", "[::1]:47002")),
            (HAPROXY_LOCAL.to_vec(), Header::Local),
            (v2([0x21, 0x11], &[&v4[..], &[0; MAX_LEN - 28]].concat()), tcp4),
        ];
        for (bytes, said) in cases {
            let shown = alloc::string::String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(parse(&bytes), Ok(Some((said, bytes.len()))), "{shown:?}");
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Ok(None), "{shown:?}, cut at {end}");
            }
            let more = [&bytes[..], b"\r\nPROXY "].concat();
            assert_eq!(parse(&more), Ok(Some((said, bytes.len()))), "{shown:?}, and more");
        }
    }

    /// Each with the byte count at which it is known to be wrong.
    #[test]
    fn what_is_no_header_is_refused_by_name() {
        use Malformed::{
            Address, Command, Family, Fields, LineEnd, Port, Protocol, Signature, TooLong,
            TooShort, Transport,
        };
        let text = |text: &str| text.as_bytes().to_vec();
        let v4 = [0; 12];
        let cases: Vec<(&str, Vec<u8>, Malformed)> = alloc::vec![
            ("another protocol", text("GET / HTTP/1.1\r\n"), Signature),
            ("another protocol that begins alike", text("PROPFIND / HTTP/1.1\r\n"), Signature),
            ("lower case", text("proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n"), Signature),
            ("no space", text("PROXY\r\n"), Signature),
            ("a tab", text("PROXY\tTCP4 1.1.1.1 2.2.2.2 1 2\r\n"), Signature),
            (
                "a wrong signature",
                [b"\r\n\r\n\0\r\nQUIX\n".as_slice(), &[0; 9]].concat(),
                Signature
            ),
            ("no protocol", text("PROXY \r\n"), Protocol),
            ("lower-case protocol", text("PROXY tcp4 1.1.1.1 2.2.2.2 1 2\r\n"), Protocol),
            ("UDP", text("PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n"), Protocol),
            ("more than UNKNOWN", text("PROXY UNKNOWNS\r\n"), Protocol),
            ("two spaces", text("PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n"), Fields { found: 5 }),
            ("a field too few", text("PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n"), Fields { found: 3 }),
            ("a field too many", text("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n"), Fields { found: 5 }),
            (
                "a space at the end",
                text("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n"),
                Fields { found: 5 }
            ),
            ("an empty address", text("PROXY TCP6 ::1  1 2\r\n"), Address(Field::Destination)),
            ("brackets", text("PROXY TCP6 [::1] ::2 1 2\r\n"), Address(Field::Source)),
            ("a prefix", text("PROXY TCP4 1.1.1.1/8 2.2.2.2 1 2\r\n"), Address(Field::Source)),
            (
                "an address with a port",
                text("PROXY TCP4 1.1.1.1:1 ::2 1 2\r\n"),
                Address(Field::Source)
            ),
            ("a name", text("PROXY TCP4 1.1.1.1 localhost 1 2\r\n"), Address(Field::Destination)),
            ("a leading zero", text("PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n"), Address(Field::Source)),
            (
                "a byte too large",
                text("PROXY TCP4 256.1.1.1 2.2.2.2 1 2\r\n"),
                Address(Field::Source)
            ),
            ("a zone", text("PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n"), Address(Field::Source)),
            ("no UTF-8", b"PROXY TCP4 1.1.1.\xff 2.2.2.2 1 2\r\n".to_vec(), Address(Field::Source)),
            (
                "a port too large",
                text("PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n"),
                Port(Field::Source)
            ),
            ("a sign", text("PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n"), Port(Field::Source)),
            ("a minus", text("PROXY TCP4 1.1.1.1 2.2.2.2 1 -2\r\n"), Port(Field::Destination)),
            (
                "a leading zero",
                text("PROXY TCP4 1.1.1.1 2.2.2.2 1 02\r\n"),
                Port(Field::Destination)
            ),
            ("an empty port", text("PROXY TCP4 1.1.1.1 2.2.2.2 1 \r\n"), Port(Field::Destination)),
            ("a line feed alone", text("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n"), LineEnd),
            ("a carriage return alone", text("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\rx"), LineEnd),
            (
                "a line too long",
                [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 92]].concat(),
                LINE_TOO_LONG
            ),
            ("version 1 in binary", v2([0x11, 0x11], &v4), Malformed::Version(1)),
            ("version 3", v2([0x31, 0x11], &v4), Malformed::Version(3)),
            ("a command", v2([0x22, 0x11], &v4), Command(2)),
            ("a family", v2([0x21, 0x41], &v4), Family(4)),
            ("a transport protocol", v2([0x21, 0x13], &v4), Transport(3)),
            (
                "short of IPv4 addresses",
                v2([0x21, 0x11], &v4[..11]),
                TooShort { have: 11, need: 12 }
            ),
            ("IPv4 addresses as IPv6", v2([0x21, 0x21], &v4), TooShort { have: 12, need: 36 }),
            (
                "short of Unix addresses",
                v2([0x21, 0x31], &[0; 215]),
                TooShort { have: 215, need: 216 }
            ),
            ("too long", v2([0x21, 0x11], &[0; 4081]), TooLong { length: 4097, limit: 4096 }),
            (
                "as long as can be",
                v2([0x20, 0x00], &[0; 65_535]),
                TooLong { length: 65_551, limit: 4096 }
            ),
        ];
        for (name, bytes, wrong) in cases {
            assert_refused(name, &bytes, wrong);
        }
    }

    /// Section 2.2: which versions, commands, families and transport protocols are valid, and which
    /// of them fall back to `UNSPEC`.
    #[test]
    fn each_version_command_family_and_transport_protocol_is_taken_as_specified() {
        // Two addresses, and TLVs of no length behind them, whatever the family.
        let mut body = [0; 216];
        body[..12].copy_from_slice(&[192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0x50, 0x01, 0xbb]);
        for (first, second) in (0..=u8::MAX).flat_map(|a| (0..=u8::MAX).map(move |b| (a, b))) {
            let bytes = v2([first, second], &body);
            let said = match (first >> 4, first & 0xf, second >> 4, second & 0xf) {
                (2, 1, 1, 1) => Ok(header("192.0.2.7:50000", "198.51.100.1:443")),
                (2, 1, 2, 1) => Ok(header("[c000:207:c633:6401:c350:1bb::]:0", "[::]:0")),
                (2, 0, _, _) | (2, 1, 0..=3, 0..=2) => Ok(Header::Local),
                (2, 1, 0..=3, transport) => Err(Malformed::Transport(transport)),
                (2, 1, family, _) => Err(Malformed::Family(family)),
                (2, command, _, _) => Err(Malformed::Command(command)),
                (version, _, _, _) => Err(Malformed::Version(version)),
            };
            let said = said.map(|header| Some((header, bytes.len())));
            assert_eq!(parse(&bytes), said, "{first:#04x} {second:#04x}");
            assert_eq!(parse(&bytes[..13]).is_err(), first & 0xfe != 0x20, "{first:#04x}");
        }
    }

    fn assert_refused(name: &str, bytes: &[u8], wrong: Malformed) {
        assert_eq!(parse(bytes), Err(wrong), "{name}");
        // Whatever comes behind it, and however it is cut: the same.
        let known = (0..bytes.len()).find(|end| parse(&bytes[..*end]) != Ok(None));
        for end in known.unwrap_or(bytes.len())..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Err(wrong), "{name}, cut at {end}");
        }
    }

    #[test]
    fn tlvs_that_are_wrong_are_refused_by_name() {
        use Malformed::{Checksum, ChecksumLength, Tlv};
        let v4 = [0; 12];
        let cases: Vec<(&str, Vec<u8>, Malformed)> = alloc::vec![
            (
                "a TLV without a length",
                v2([0x21, 0x11], &[&v4[..], &[0x04, 0]].concat()),
                Tlv { at: 28, need: 3, have: 2 }
            ),
            (
                "a second TLV that is longer than the header",
                v2([0x21, 0x11], &[&v4[..], &[0x04, 0, 0, 0xee, 0xff, 0xff, 1]].concat()),
                Tlv { at: 31, need: 65_538, have: 4 }
            ),
            (
                "TLVs behind the addresses of another family",
                v2([0x21, 0x31], &[&[0; 216][..], &[0x04, 0, 1]].concat()),
                Tlv { at: 232, need: 4, have: 3 }
            ),
            (
                "a checksum of three bytes",
                v2([0x21, 0x11], &[&v4[..], &[0x03, 0, 3, 1, 2, 3]].concat()),
                ChecksumLength { length: 3 }
            ),
            (
                "a wrong checksum behind the addresses of a datagram",
                v2([0x21, 0x12], &[&v4[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat()),
                Checksum { found: 0x0102_0304, computed: 0x448c_b449 }
            ),
            (
                "a wrong checksum",
                v2([0x21, 0x11], &[&v4[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat()),
                Checksum { found: 0x0102_0304, computed: 0xa0b2_8795 }
            ),
        ];
        for (name, bytes, wrong) in cases {
            assert_refused(name, &bytes, wrong);
        }
    }

    #[test]
    fn there_is_one_checksum_at_most() {
        let mut header =
            v2([0x21, 0x11], &[&[0; 12][..], &[0x03, 0, 4, 0, 0, 0, 0].repeat(2)].concat());
        let sum = CRC32C.checksum(&header);
        header[31..35].copy_from_slice(&sum.to_be_bytes());
        assert_refused("two checksums", &header, Malformed::Checksums { at: 35 });
    }

    /// As `HAProxy` 2.6 sends them with `proxy-v2-options crc32c,unique-id`, and for its own checks.
    const HAPROXY_V4: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x22\
        \x7f\0\0\x01\x7f\0\0\x01\xb9\x72\xb7\x99\
        \x03\0\x04\xb6\x13\xd5\x20\x05\0\x0cclient-47474";
    const HAPROXY_V6: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x33\
        \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\xbb\x70\xb7\x9a\
        \x03\0\x04\x20\xb3\x24\xe1\x05\0\x0547984";
    const HAPROXY_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\x07\x03\0\x04\xa9\xb8\x7e\x8f";

    #[test]
    fn a_flipped_bit_is_noticed_by_the_checksum() {
        let is_wrong = |at: usize, bit: u8| {
            let mut bytes = HAPROXY_V4.to_vec();
            bytes[at] ^= 1 << bit;
            matches!(parse(&bytes), Err(Malformed::Checksum { .. }))
        };
        // The addresses, the checksum itself, and the value of the other TLV.
        for at in (16..28).chain(31..35).chain(38..HAPROXY_V4.len()) {
            assert!((0..8).all(|bit| is_wrong(at, bit)), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn what_is_announced_is_understood(
            source: (IpAddr, u16), destination: (IpAddr, u16), binary: bool,
        ) {
            let (from, to) = (SocketAddr::from(source), SocketAddr::from(destination));
            let version = if binary { Version::V2 } else { Version::V1 };
            let bytes = announce(version, Peer::Ip(from), Some(to));
            prop_assert!(bytes.len() <= MAX_LINE);
            let Ok(Some((Header::Tcp { source, destination }, length))) = parse(&bytes) else {
                panic!("{:?}", parse(&bytes));
            };
            prop_assert_eq!(length, bytes.len());
            prop_assert_eq!(source.ip().to_canonical(), from.ip().to_canonical());
            prop_assert_eq!(destination.ip().to_canonical(), to.ip().to_canonical());
            prop_assert_eq!((source.port(), destination.port()), (from.port(), to.port()));
        }

        #[test]
        fn no_bytes_make_it_panic_and_an_answer_stays(
            start in prop_oneof![Just(GREETING), Just(SIGNATURE), Just(&b"PROXY TCP4 "[..]), Just(&b""[..])],
            bytes: Vec<u8>,
        ) {
            let bytes = [start, &bytes].concat();
            let mut answer = Ok(None);
            for end in 0..=bytes.len() {
                let next = parse(&bytes[..end]);
                if answer != Ok(None) {
                    prop_assert_eq!(next, answer);
                }
                answer = next;
            }
        }
    }

    #[test]
    fn golden_bytes() {
        let client = Peer::Ip("192.0.2.7:50000".parse().unwrap());
        let to = Some("198.51.100.1:443".parse().unwrap());
        assert_eq!(
            announce(Version::V2, client, to),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\xc3\x50\x01\xbb"
        );
        let client = Peer::Ip("[2001:db8::7]:50000".parse().unwrap());
        assert_eq!(
            announce(Version::V1, client, to),
            b"PROXY TCP6 2001:db8::7 ::ffff:198.51.100.1 50000 443\r\n"
        );
        assert_eq!(announce(Version::V1, client, None), b"PROXY TCP6 2001:db8::7 :: 50000 0\r\n");
        assert_eq!(announce(Version::V1, Peer::Local, to), b"PROXY UNKNOWN\r\n");
        assert_eq!(announce(Version::V2, Peer::Local, to), b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0");
    }
}
