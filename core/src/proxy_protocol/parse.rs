//! Parses a header.

use core::{
    array, mem,
    net::{IpAddr, SocketAddr},
    str,
};

use crc::{CRC_32_ISCSI, Crc};

use super::{
    Header, MAX_LEN,
    header::{MAX_LINE, V1_PREFIX, V2_SIGNATURE},
};

/// Why a header is invalid. Further bytes do not change the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The first bytes are those of neither version.
    #[error("begins like neither version 1 nor version 2")]
    Signature,
    /// Version 1: the line is too long.
    #[error("line longer than {limit} bytes")]
    LineTooLong {
        /// The limit.
        limit: usize,
    },
    /// Version 1: a CR or an LF without the other.
    #[error("line does not end in CR LF")]
    LineEnd,
    /// Version 1: the protocol is none of `TCP4`, `TCP6` and `UNKNOWN`.
    #[error("protocol is none of TCP4, TCP6 and UNKNOWN")]
    Protocol,
    /// Version 1: the protocol is not followed by two addresses and two ports, each after one
    /// space.
    #[error("{found} fields after the protocol, expected 4")]
    Fields {
        /// The number of fields.
        found: usize,
    },
    /// Version 1: an address is invalid.
    #[error("{0} address is neither an IPv4 nor an IPv6 address")]
    Address(Endpoint),
    /// Version 1: a port is invalid.
    #[error("{0} port is not a number from 0 to 65535 without leading zeroes")]
    Port(Endpoint),
    /// The version after the signature of version 2 is not 2.
    #[error("version is {0}, expected 2")]
    Version(u8),
    /// Version 2: the command is neither `LOCAL` nor `PROXY`.
    #[error("command is {0}, expected 0 or 1")]
    Command(u8),
    /// Version 2: the address family is unknown.
    #[error("address family is {0}, expected 0 to 3")]
    Family(u8),
    /// Version 2: the transport protocol is unknown.
    #[error("transport protocol is {0}, expected 0 to 2")]
    Transport(u8),
    /// Version 2: more than one checksum.
    #[error("second checksum at byte {at}")]
    DuplicateChecksum {
        /// The offset of its TLV in the header.
        at: usize,
    },
    /// Version 2: the header is longer than [`MAX_LEN`].
    #[error("header has {length} bytes, but must have at most {limit}")]
    TooLong {
        /// The length of the header.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Version 2: a TLV is longer than the rest of the header.
    #[error("TLV at byte {at} takes {required} bytes, but {available} are left")]
    Tlv {
        /// The offset of the TLV in the header.
        at: usize,
        /// Its size: type, length and value.
        required: usize,
        /// The remaining bytes of the header.
        available: usize,
    },
    /// Version 2: the checksum does not have 4 bytes.
    #[error("CRC32C has {length} bytes, expected 4")]
    ChecksumLength {
        /// The length of the checksum.
        length: usize,
    },
    /// Version 2: the checksum is wrong.
    #[error("CRC32C in the header is {found:#010x}, computed {computed:#010x}")]
    Checksum {
        /// The checksum in the header.
        found: u32,
        /// The checksum of the header.
        computed: u32,
    },
    /// Version 2: the header is too short for its addresses.
    #[error("{available} bytes for addresses that take {required}")]
    TooShort {
        /// The bytes after the fixed part of the header.
        available: usize,
        /// The size of two addresses of its family, with ports.
        required: usize,
    },
}

/// An end of the connection that a header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Endpoint {
    /// The client.
    #[error("source")]
    Source,
    /// The address that the client has connected to.
    #[error("destination")]
    Destination,
}

/// Parses the header at the start of `bytes`. Returns it with its length, or `None` if it is
/// incomplete.
///
/// The result does not depend on how the input was split: once it is not `None`, further bytes do
/// not change it.
///
/// # Errors
/// `bytes` are not the start of a valid header.
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
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, ParseError> {
    if matches_prefix(bytes, V2_SIGNATURE) {
        return parse_v2(bytes);
    }
    if matches_prefix(bytes, V1_PREFIX) { parse_v1(bytes) } else { Err(ParseError::Signature) }
}

/// Whether `bytes` begin with `prefix`, or are a part of it.
fn matches_prefix(bytes: &[u8], prefix: &[u8]) -> bool {
    let n = bytes.len().min(prefix.len());
    bytes[..n] == prefix[..n]
}

/// Parses a header of version 1 (section 2.1).
fn parse_v1(bytes: &[u8]) -> Result<Option<(Header, usize)>, ParseError> {
    // The LF takes the last byte of the longest line.
    let line = &bytes[..bytes.len().min(MAX_LINE - 1)];
    let Some(end) = line.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        let is_too_long = line.len() == MAX_LINE - 1;
        return if is_too_long { Err(TOO_LONG) } else { Ok(None) };
    };
    match (bytes[end], bytes.get(end + 1)) {
        (b'\r', None) => return Ok(None),
        (b'\r', Some(b'\n')) => {}
        _ => return Err(ParseError::LineEnd),
    }
    // The prefix is missing if the line ends within it.
    let line = bytes[..end].strip_prefix(V1_PREFIX).ok_or(ParseError::Signature)?;
    let header = parse_fields(line)?;
    Ok(Some((header, end + 2)))
}

fn parse_fields(line: &[u8]) -> Result<Header, ParseError> {
    let mut fields = line.split(|byte| *byte == b' ');
    let protocol = fields.next().unwrap_or_default();
    if protocol == b"UNKNOWN" {
        // "The receiver must ignore anything presented before the CRLF is found."
        return Ok(Header::Local);
    }
    if !matches!(protocol, b"TCP4" | b"TCP6") {
        return Err(ParseError::Protocol);
    }
    let found = fields.clone().count();
    let [Some(from), Some(to), Some(from_port), Some(to_port), None] =
        array::from_fn(|_| fields.next())
    else {
        return Err(ParseError::Fields { found });
    };
    let source = parse_address(Endpoint::Source, from)?;
    let destination = parse_address(Endpoint::Destination, to)?;
    Ok(Header::Tcp {
        source: SocketAddr::new(source, parse_port(Endpoint::Source, from_port)?),
        destination: SocketAddr::new(destination, parse_port(Endpoint::Destination, to_port)?),
    })
}

/// Parses an address of either family, regardless of the protocol field.
///
/// nginx writes the family of the client's address, then that address and its own. With the
/// `realip` module, the two can be of different families
/// (`PROXY TCP6 2001:db8::1 127.0.0.1 50000 443`).
fn parse_address(endpoint: Endpoint, text: &[u8]) -> Result<IpAddr, ParseError> {
    let address = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    address.ok_or(ParseError::Address(endpoint))
}

fn parse_port(endpoint: Endpoint, text: &[u8]) -> Result<u16, ParseError> {
    let is_number =
        text.iter().all(u8::is_ascii_digit) && (text == b"0" || !text.starts_with(b"0"));
    let number = str::from_utf8(text).ok().filter(|_| is_number);
    number.and_then(|text| text.parse().ok()).ok_or(ParseError::Port(endpoint))
}

/// Parses a header of version 2 (section 2.2).
fn parse_v2(bytes: &[u8]) -> Result<Option<(Header, usize)>, ParseError> {
    let Some(version_and_command) = bytes.get(12) else { return Ok(None) };
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        0x22..=0x2f => return Err(ParseError::Command(version_and_command & 0xf)),
        _ => return Err(ParseError::Version(version_and_command >> 4)),
    };
    let Some(family_and_transport) = bytes.get(13) else { return Ok(None) };
    // The family of a `LOCAL` header "is ignored" (section 2.2).
    let family_and_transport = if is_local { 0 } else { *family_and_transport };
    let (family, transport) = (family_and_transport >> 4, family_and_transport & 0xf);
    let required = match family {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return Err(ParseError::Family(family)),
    };
    if transport > 2 {
        return Err(ParseError::Transport(transport));
    }
    let Some(&[high, low]) = bytes.get(14..16) else { return Ok(None) };
    let available = usize::from(u16::from_be_bytes([high, low]));
    let length = 16 + available;
    if length > MAX_LEN {
        return Err(ParseError::TooLong { length, limit: MAX_LEN });
    }
    if available < required {
        return Err(ParseError::TooShort { available, required });
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    // With `LOCAL`, everything after the fixed part is skipped. With `UNSPEC`, the size of the
    // addresses is unknown, and so is the start of the TLVs.
    if required > 0 {
        check_tlvs(header, 16 + required)?;
    }
    // A datagram or a Unix socket is treated as `UNSPEC`.
    let header = match (family, transport) {
        (1, STREAM) => parse_addresses::<4>(&header[16..]),
        (2, STREAM) => parse_addresses::<16>(&header[16..]),
        _ => Header::Local,
    };
    Ok(Some((header, length)))
}

/// Checks the TLVs from byte `at` to the end of the header (section 2.2, "additional bytes"): their
/// lengths, and the checksum if there is one.
fn check_tlvs(header: &[u8], mut at: usize) -> Result<(), ParseError> {
    let mut has_checksum = false;
    while let rest @ [kind, ..] = &header[at..] {
        let length = match *rest {
            [_, high, low, ..] => usize::from(u16::from_be_bytes([high, low])),
            _ => 0,
        };
        let (required, available) = (3 + length, rest.len());
        let value = rest.get(3..required).ok_or(ParseError::Tlv { at, required, available })?;
        if *kind == TYPE_CRC32C {
            // Two checksums cannot both be computed: each covers the other.
            if mem::replace(&mut has_checksum, true) {
                return Err(ParseError::DuplicateChecksum { at });
            }
            verify_checksum(header, at + 3, value)?;
        }
        at += required;
    }
    Ok(())
}

/// Verifies the checksum `value` at byte `at`. It is computed over the whole header, with zeroes in
/// its own place (section 2.2.3).
fn verify_checksum(header: &[u8], at: usize, value: &[u8]) -> Result<(), ParseError> {
    let wrong_length = |_| ParseError::ChecksumLength { length: value.len() };
    let found = u32::from_be_bytes(value.try_into().map_err(wrong_length)?);
    let mut digest = CRC32C.digest();
    for part in [&header[..at], &[0; 4], &header[at + 4..]] {
        digest.update(part);
    }
    let computed = digest.finalize();
    if computed == found { Ok(()) } else { Err(ParseError::Checksum { found, computed }) }
}

/// Parses two addresses of `N` bytes each, then two ports.
fn parse_addresses<const N: usize>(bytes: &[u8]) -> Header
where
    IpAddr: From<[u8; N]>,
{
    let endpoint = |address: usize, port: usize| {
        let octets: [u8; N] = array::from_fn(|index| bytes[address + index]);
        SocketAddr::new(octets.into(), u16::from_be_bytes([bytes[port], bytes[port + 1]]))
    };
    Header::Tcp { source: endpoint(0, 2 * N), destination: endpoint(N, 2 * N + 2) }
}

const TOO_LONG: ParseError = ParseError::LineTooLong { limit: MAX_LINE };
/// `PP2_TYPE_CRC32C` (section 2.2).
const TYPE_CRC32C: u8 = 0x03;
/// `SOCK_STREAM`, as a transport protocol (section 2.2).
const STREAM: u8 = 1;
/// CRC32C (RFC 4960, appendix B).
static CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            Version,
            encode::{self, encode},
        },
        *,
    };
    use crate::admission::Peer;

    fn header(source: &str, destination: &str) -> Header {
        Header::Tcp { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn v2(head: [u8; 2], body: &[u8]) -> Vec<u8> {
        encode::encode_v2(head[0], head[1], body)
    }

    /// The examples of sections 2.1 and 2.2, and others.
    #[test]
    fn valid_headers_are_parsed() {
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
        // ALPN, NOOP, an empty one, and one of an unknown type.
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
        for (bytes, expected) in cases {
            let shown = alloc::string::String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(parse(&bytes), Ok(Some((expected, bytes.len()))), "{shown:?}");
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Ok(None), "{shown:?}, cut at {end}");
            }
            let more = [&bytes[..], b"\r\nPROXY "].concat();
            assert_eq!(parse(&more), Ok(Some((expected, bytes.len()))), "{shown:?}, and more");
        }
    }

    #[test]
    fn an_invalid_header_of_version_1_is_an_error_that_names_what_is_wrong() {
        use ParseError::{Address, Fields, LineEnd, Port, Protocol, Signature};
        let text = |text: &str| text.as_bytes().to_vec();
        let cases: Vec<(&str, Vec<u8>, ParseError)> = alloc::vec![
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
            ("an empty address", text("PROXY TCP6 ::1  1 2\r\n"), Address(Endpoint::Destination)),
            ("brackets", text("PROXY TCP6 [::1] ::2 1 2\r\n"), Address(Endpoint::Source)),
            ("a prefix", text("PROXY TCP4 1.1.1.1/8 2.2.2.2 1 2\r\n"), Address(Endpoint::Source)),
            (
                "an address with a port",
                text("PROXY TCP4 1.1.1.1:1 ::2 1 2\r\n"),
                Address(Endpoint::Source)
            ),
            (
                "a name",
                text("PROXY TCP4 1.1.1.1 localhost 1 2\r\n"),
                Address(Endpoint::Destination)
            ),
            (
                "a leading zero",
                text("PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n"),
                Address(Endpoint::Source)
            ),
            (
                "a byte too large",
                text("PROXY TCP4 256.1.1.1 2.2.2.2 1 2\r\n"),
                Address(Endpoint::Source)
            ),
            ("a zone", text("PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n"), Address(Endpoint::Source)),
            (
                "no UTF-8",
                b"PROXY TCP4 1.1.1.\xff 2.2.2.2 1 2\r\n".to_vec(),
                Address(Endpoint::Source)
            ),
            (
                "a port too large",
                text("PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n"),
                Port(Endpoint::Source)
            ),
            ("a sign", text("PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n"), Port(Endpoint::Source)),
            ("a minus", text("PROXY TCP4 1.1.1.1 2.2.2.2 1 -2\r\n"), Port(Endpoint::Destination)),
            (
                "a leading zero",
                text("PROXY TCP4 1.1.1.1 2.2.2.2 1 02\r\n"),
                Port(Endpoint::Destination)
            ),
            (
                "an empty port",
                text("PROXY TCP4 1.1.1.1 2.2.2.2 1 \r\n"),
                Port(Endpoint::Destination)
            ),
            ("a line feed alone", text("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n"), LineEnd),
            ("a carriage return alone", text("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\rx"), LineEnd),
            ("a line too long", [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 92]].concat(), TOO_LONG),
        ];
        for (name, bytes, error) in cases {
            assert_error(name, &bytes, error);
        }
    }

    #[test]
    fn an_invalid_header_of_version_2_is_an_error_that_names_what_is_wrong() {
        use ParseError::{Command, Family, TooLong, TooShort, Transport, Version};
        let v4 = [0; 12];
        let cases: Vec<(&str, Vec<u8>, ParseError)> = alloc::vec![
            ("version 1 in binary", v2([0x11, 0x11], &v4), Version(1)),
            ("version 3", v2([0x31, 0x11], &v4), Version(3)),
            ("a command", v2([0x22, 0x11], &v4), Command(2)),
            ("a family", v2([0x21, 0x41], &v4), Family(4)),
            ("a transport protocol", v2([0x21, 0x13], &v4), Transport(3)),
            (
                "short of IPv4 addresses",
                v2([0x21, 0x11], &v4[..11]),
                TooShort { available: 11, required: 12 }
            ),
            (
                "IPv4 addresses as IPv6",
                v2([0x21, 0x21], &v4),
                TooShort { available: 12, required: 36 }
            ),
            (
                "short of Unix addresses",
                v2([0x21, 0x31], &[0; 215]),
                TooShort { available: 215, required: 216 }
            ),
            ("too long", v2([0x21, 0x11], &[0; 4081]), TooLong { length: 4097, limit: 4096 }),
            (
                "as long as can be",
                v2([0x20, 0x00], &[0; 65_535]),
                TooLong { length: 65_551, limit: 4096 }
            ),
        ];
        for (name, bytes, error) in cases {
            assert_error(name, &bytes, error);
        }
    }

    /// Section 2.2: which versions, commands, families and transport protocols are valid, and which
    /// of them fall back to `UNSPEC`.
    #[test]
    fn each_version_command_family_and_transport_protocol_is_parsed_as_specified() {
        // Two addresses, then empty TLVs, for each family.
        let mut body = [0; 216];
        body[..12].copy_from_slice(&[192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0x50, 0x01, 0xbb]);
        for (first, second) in (0..=u8::MAX).flat_map(|a| (0..=u8::MAX).map(move |b| (a, b))) {
            let bytes = v2([first, second], &body);
            let expected = match (first >> 4, first & 0xf, second >> 4, second & 0xf) {
                (2, 1, 1, 1) => Ok(header("192.0.2.7:50000", "198.51.100.1:443")),
                (2, 1, 2, 1) => Ok(header("[c000:207:c633:6401:c350:1bb::]:0", "[::]:0")),
                (2, 0, _, _) | (2, 1, 0..=3, 0..=2) => Ok(Header::Local),
                (2, 1, 0..=3, transport) => Err(ParseError::Transport(transport)),
                (2, 1, family, _) => Err(ParseError::Family(family)),
                (2, command, _, _) => Err(ParseError::Command(command)),
                (version, _, _, _) => Err(ParseError::Version(version)),
            };
            let expected = expected.map(|header| Some((header, bytes.len())));
            assert_eq!(parse(&bytes), expected, "{first:#04x} {second:#04x}");
            assert_eq!(parse(&bytes[..13]).is_err(), first & 0xfe != 0x20, "{first:#04x}");
        }
    }

    fn assert_error(name: &str, bytes: &[u8], error: ParseError) {
        assert_eq!(parse(bytes), Err(error), "{name}");
        // The error does not depend on the bytes that follow it.
        let known = (0..bytes.len()).find(|end| parse(&bytes[..*end]) != Ok(None));
        for end in known.unwrap_or(bytes.len())..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Err(error), "{name}, cut at {end}");
        }
    }

    #[test]
    fn an_invalid_tlv_is_an_error_that_names_what_is_wrong() {
        use ParseError::{Checksum, ChecksumLength, Tlv};
        let v4 = [0; 12];
        let cases: Vec<(&str, Vec<u8>, ParseError)> = alloc::vec![
            (
                "a TLV without a length",
                v2([0x21, 0x11], &[&v4[..], &[0x04, 0]].concat()),
                Tlv { at: 28, required: 3, available: 2 }
            ),
            (
                "a second TLV that is longer than the header",
                v2([0x21, 0x11], &[&v4[..], &[0x04, 0, 0, 0xee, 0xff, 0xff, 1]].concat()),
                Tlv { at: 31, required: 65_538, available: 4 }
            ),
            (
                "TLVs after the addresses of another family",
                v2([0x21, 0x31], &[&[0; 216][..], &[0x04, 0, 1]].concat()),
                Tlv { at: 232, required: 4, available: 3 }
            ),
            (
                "a checksum of three bytes",
                v2([0x21, 0x11], &[&v4[..], &[0x03, 0, 3, 1, 2, 3]].concat()),
                ChecksumLength { length: 3 }
            ),
            (
                "a wrong checksum after the addresses of a datagram",
                v2([0x21, 0x12], &[&v4[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat()),
                Checksum { found: 0x0102_0304, computed: 0x448c_b449 }
            ),
            (
                "a wrong checksum",
                v2([0x21, 0x11], &[&v4[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat()),
                Checksum { found: 0x0102_0304, computed: 0xa0b2_8795 }
            ),
        ];
        for (name, bytes, error) in cases {
            assert_error(name, &bytes, error);
        }
    }

    #[test]
    fn a_second_checksum_is_an_error() {
        let mut header =
            v2([0x21, 0x11], &[&[0; 12][..], &[0x03, 0, 4, 0, 0, 0, 0].repeat(2)].concat());
        let sum = CRC32C.checksum(&header);
        header[31..35].copy_from_slice(&sum.to_be_bytes());
        assert_error("two checksums", &header, ParseError::DuplicateChecksum { at: 35 });
    }

    /// Headers of `HAProxy` 2.6 with `proxy-v2-options crc32c,unique-id`, and of its health checks.
    const HAPROXY_V4: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x22\
        \x7f\0\0\x01\x7f\0\0\x01\xb9\x72\xb7\x99\
        \x03\0\x04\xb6\x13\xd5\x20\x05\0\x0cclient-47474";
    const HAPROXY_V6: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x33\
        \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\xbb\x70\xb7\x9a\
        \x03\0\x04\x20\xb3\x24\xe1\x05\0\x0547984";
    const HAPROXY_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\x07\x03\0\x04\xa9\xb8\x7e\x8f";

    #[test]
    fn the_checksum_detects_a_flipped_bit() {
        let is_wrong = |at: usize, bit: u8| {
            let mut bytes = HAPROXY_V4.to_vec();
            bytes[at] ^= 1 << bit;
            matches!(parse(&bytes), Err(ParseError::Checksum { .. }))
        };
        // The addresses, the checksum itself, and the value of the other TLV.
        for at in (16..28).chain(31..35).chain(38..HAPROXY_V4.len()) {
            assert!((0..8).all(|bit| is_wrong(at, bit)), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn an_encoded_header_is_parsed_to_the_same_addresses(
            source: (IpAddr, u16), destination: (IpAddr, u16), binary: bool,
        ) {
            let (from, to) = (SocketAddr::from(source), SocketAddr::from(destination));
            let version = if binary { Version::V2 } else { Version::V1 };
            let bytes = encode(version, Peer::Ip(from), Some(to));
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
        fn no_input_panics_and_further_bytes_do_not_change_the_result(
            start in prop_oneof![
                Just(V1_PREFIX),
                Just(V2_SIGNATURE),
                Just(&b"PROXY TCP4 "[..]),
                Just(&b""[..]),
            ],
            bytes: Vec<u8>,
        ) {
            let bytes = [start, &bytes].concat();
            let mut result = Ok(None);
            for end in 0..=bytes.len() {
                let next = parse(&bytes[..end]);
                if result != Ok(None) {
                    prop_assert_eq!(next, result);
                }
                result = next;
            }
        }
    }
}
