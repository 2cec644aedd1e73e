//! Parsers of the values of flags. An error says what is expected.

use core::{
    net::{IpAddr, Ipv6Addr},
    num::{IntErrorKind, NonZeroU64, ParseIntError},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use bytes::Bytes;
use bytesize::ByteSize;
use ipnet::IpNet;
use wirestate_core::{quantity::Size, runtime::unix_path};

use crate::systemd::SocketSelector;

/// A timeout: `30s`, `5m`, `1m 30s`; or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeout(pub(super) Option<Duration>);

impl Timeout {
    /// The source code that sets it by the method `setter`; empty if it is the default.
    pub(super) fn setting_source(self, setter: &str, default: Option<Duration>) -> String {
        match self.0 {
            limit if limit == default => String::new(),
            None => format!(".{setter}(None)"),
            Some(limit) => format!(".{setter}({})", time_source(limit)),
        }
    }
}

/// The source code of a time.
pub(super) fn time_source(time: Duration) -> String {
    let nanos = time.as_nanos();
    if nanos.is_multiple_of(1_000_000) {
        format!("std::time::Duration::from_millis({})", nanos / 1_000_000)
    } else {
        format!("std::time::Duration::from_nanos({nanos})")
    }
}

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            "0" => Err(ZERO_TIMEOUT.into()),
            _ => match time(text) {
                Ok(Duration::ZERO) => Err(ZERO_TIMEOUT.into()),
                Ok(limit) => Ok(Self(Some(limit))),
                Err(error) => Err(format!("{error}; or `off`")),
            },
        }
    }
}

/// A time: `30s`, `5m`, `1m 30s`, `0s`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    // Without `M`, a month, and the names of units.
    let mut units = text.split(|char: char| char.is_ascii_digit() || char == ' ');
    let is_known = |unit: &str| ["", "us", "ms", "s", "m", "h", "d"].contains(&unit);
    let parsed = if units.all(is_known) { humantime::parse_duration(text).ok() } else { None };
    parsed.ok_or_else(|| {
        let has_no_unit = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let example = if has_no_unit { format!("{text}s") } else { "30s".into() };
        format!("expected a time with its unit, as in 500ms, {example} or 1m 30s")
    })
}

/// As [`time`], but not 0.
pub(super) fn nonzero_time(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time.is_zero() { Err("the time must be non-zero".into()) } else { Ok(time) }
}

/// Bytes as a text, with `\r`, `\n`, `\t`, `\\` and `\xHH`. At most 4 KiB.
pub(super) fn escaped(text: &str) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let (byte, length) = match after.as_bytes() {
            [b'r', ..] => (b'\r', 1),
            [b'n', ..] => (b'\n', 1),
            [b't', ..] => (b'\t', 1),
            [b'\\', ..] => (b'\\', 1),
            [b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (u8::from_str_radix(&after[1..3], 16).map_err(|error| error.to_string())?, 3)
            }
            _ => return Err(r"a backslash begins \r, \n, \t, \\ or \xHH".into()),
        };
        bytes.push(byte);
        rest = &after[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    if bytes.is_empty() || bytes.len() > MAX_ESCAPED {
        return Err(format!("expected 1 to {MAX_ESCAPED} bytes, not {}", bytes.len()));
    }
    Ok(bytes.into())
}

/// A whole number.
pub(super) fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|error| number_error(&error, "expected a whole number"))
}

/// A whole number, at least 1.
pub(super) fn count<N: TryFrom<NonZeroU64>>(text: &str) -> Result<N, String> {
    let number: NonZeroU64 = text
        .parse()
        .map_err(|error| number_error(&error, "expected a whole number, at least 1"))?;
    N::try_from(number).map_err(|_| too_large())
}

fn number_error(error: &ParseIntError, expected: &str) -> String {
    let is_too_large = *error.kind() == IntErrorKind::PosOverflow;
    if is_too_large { too_large() } else { expected.into() }
}

fn too_large() -> String {
    format!("the number is too large, expected at most {}", usize::MAX)
}

/// A whole number, at least 1; or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit(pub(super) Option<usize>);

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(0) => Err("a limit must be non-zero; `off` means no limit".into()),
            Ok(limit) => Ok(Self(Some(limit))),
            Err(error) => Err(number_error(&error, "expected a whole number, or `off`")),
        }
    }
}

/// A number of bytes: `1024`, `64KiB`, `16MiB`; not 0, and not more than an allocation can have.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    bytes_within(1..=isize::MAX as usize, text)
}

/// A number of bytes, within a range.
pub(super) fn bytes_within(range: RangeInclusive<usize>, text: &str) -> Result<usize, String> {
    const EXPECTED: &str = "expected a number of bytes, as in 1024, 64KiB or 16MiB";
    // `64K` is 64,000 bytes to some programs and 65,536 to others.
    let unit = text.trim_start_matches(|char: char| char.is_ascii_digit() || ". ".contains(char));
    if !["", "B", "KiB", "MiB", "GiB", "TiB"].contains(&unit) {
        return Err(EXPECTED.into());
    }
    // A number that is too large becomes `u64::MAX`, which is outside every range.
    let bytes: ByteSize = text.parse().map_err(|_| EXPECTED)?;
    match usize::try_from(bytes.as_u64()) {
        Ok(bytes) if bytes < *range.start() => {
            Err(format!("expected at least {}", exact_size(*range.start())))
        }
        Ok(bytes) if bytes <= *range.end() => Ok(bytes),
        Ok(_) | Err(_) => Err(format!("expected at most {}", exact_size(*range.end()))),
    }
}

/// `bytes` with a unit, if that does not round it.
pub(super) fn exact_size(bytes: usize) -> String {
    let size = Size(bytes as u64).to_string();
    let is_exact = size.parse::<ByteSize>().is_ok_and(|size| size.as_u64() == bytes as u64);
    if is_exact { size } else { format!("{bytes}B") }
}

/// An address, or a range of addresses (CIDR, RFC 4632).
pub(super) fn range(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let range: IpNet = text
        .parse()
        .or_else(|_| address())
        .map_err(|_| "expected an address, or a range as in 10.0.0.0/8 or 2001:db8::/32")?;
    match range.trunc() {
        first if first == range => Ok(range),
        first => Err(format!("a range begins with its first address, write {first}")),
    }
}

/// A host name, without a scheme and a port.
pub(super) fn host(text: &str) -> Result<String, String> {
    let is_valid = |char: char| char.is_alphanumeric() || "-_.".contains(char);
    if text.chars().all(is_valid) && text.contains(char::is_alphanumeric) {
        return Ok(text.into());
    }
    Err("expected a host name, without a scheme and a port".into())
}

/// The value of an environment variable for a flag that takes no value.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

/// The address of a server to connect to: `HOST:PORT` or `unix:PATH`. Host names are resolved
/// later.
pub(super) fn remote(text: &str) -> Result<String, String> {
    address(text, Use::Connect)
}

/// An address to listen on: as for [`remote`], or `systemd` or `systemd:NAME` for an inherited
/// socket.
pub(super) fn listen(text: &str) -> Result<String, String> {
    match SocketSelector::parse(text) {
        Some(SocketSelector::Named("")) => Err("expected a name: systemd:NAME".into()),
        Some(SocketSelector::Next | SocketSelector::Named(_)) => Ok(text.into()),
        None => address(text, Use::Listen),
    }
}

/// What an address is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Listen,
    Connect,
}

fn address(text: &str, purpose: Use) -> Result<String, String> {
    if let Some(path) = unix_path(text) {
        return match path.as_os_str().len() {
            0 => Err("the path is missing, write unix:/run/echo.sock".into()),
            // The length of `sun_path`, with a terminating NUL (unix(7)).
            108.. => Err("the path of a Unix socket has at most 107 bytes".into()),
            _ => Ok(text.into()),
        };
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.trim_end_matches('/');
        return Err(format!("expected no scheme such as `{scheme}://`, write {rest}"));
    }
    if text.contains('/') || !text.contains(':') && text.rsplit('.').next() == Some("sock") {
        return Err(format!("a path needs the prefix unix:, write unix:{text}"));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(format!(
            "an IPv6 address needs brackets and a port, write [{text}]:PORT, as in [::1]:7"
        ));
    }
    let (host, port) = match text.rsplit_once(':').filter(|_| !text.ends_with(']')) {
        Some((host, port)) if !port.is_empty() => (host, port),
        Some((host, _)) if !host.is_empty() => return Err(port_missing(host)),
        None if text.parse::<u16>().is_ok() => return Err(host_missing(text, purpose)),
        None if !text.is_empty() => return Err(port_missing(text)),
        Some(_) | None => return Err("expected HOST:PORT or unix:PATH".into()),
    };
    match port.parse::<u16>() {
        Ok(0) if purpose == Use::Connect => return Err("port 0 cannot be connected to".into()),
        Ok(_) => {}
        Err(_) => {
            return Err(format!("`{port}` is not a port: expected a number from 0 to 65535"));
        }
    }
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(ipv6) => match ipv6.split('%').next().map(Ipv6Addr::from_str) {
            Some(Ok(_)) => Ok(text.into()),
            Some(Err(_)) | None => Err(format!("`{ipv6}` is not an IPv6 address")),
        },
        None if matches!(host, "" | "*") => Err(host_missing(port, purpose)),
        None if host.contains(':') => {
            Err("expected HOST:PORT, with an IPv6 address in brackets, as in [::1]:7".into())
        }
        None if host.chars().all(|char| char.is_alphanumeric() || "-_.".contains(char)) => {
            Ok(text.into())
        }
        None => Err(format!("`{host}` is not a host name: expected letters, digits, `-` and `.`")),
    }
}

/// The error of an address without a port, with what to write instead.
fn port_missing(host: &str) -> String {
    let host = host.trim_end_matches(':');
    format!("the port is missing, write {host}:PORT, as in {host}:5000")
}

/// The error of an address that is only a port, with what to write instead.
fn host_missing(port: &str, purpose: Use) -> String {
    match purpose {
        Use::Listen => format!(
            "the host is missing, write 127.0.0.1:{port} for this machine alone, 0.0.0.0:{port} \
             for all its IPv4 addresses, or [::]:{port} for IPv6 as well"
        ),
        Use::Connect => {
            format!("the host is missing, write localhost:{port}, or another host's name")
        }
    }
}

/// Help on a value that [`listen`] parses.
pub(super) const LISTEN_HELP: &str = "\
    An address to listen on: HOST:PORT, unix:PATH, unix:@NAME (an abstract socket), systemd (the \
    next socket that the service manager passes) or systemd:NAME (all passed sockets of that \
    name); can be given several times. A host name stands for all its addresses. Port 0 selects a \
    free port";
/// The most bytes of an escaped text.
const MAX_ESCAPED: usize = 4096;
const ZERO_TIMEOUT: &str = "a timeout must be non-zero; `off` means no limit";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_time_or_off_and_never_zero() {
        assert_eq!("1m 30s".parse(), Ok(Timeout(Some(Duration::from_secs(90)))));
        assert_eq!("off".parse(), Ok(Timeout(None)));
        for zero in ["0", "0s", "0ms"] {
            assert_eq!(zero.parse::<Timeout>(), Err(ZERO_TIMEOUT.into()));
        }
        for invalid in ["-1s", "30", "soon", ""] {
            let error = invalid.parse::<Timeout>().unwrap_err();
            assert!(error.ends_with("; or `off`"), "{invalid:?}: {error}");
        }
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!((time("0"), time("0s")), (Ok(Duration::ZERO), Ok(Duration::ZERO)));
        let expected = "expected a time with its unit, as in 500ms, 30s or 1m 30s";
        for invalid in
            ["", "x", "5y5", "-1s", "99999999999999999999s", "1M", "1min", "2w", "5 seconds"]
        {
            assert_eq!(time(invalid).unwrap_err(), expected, "{invalid:?}");
        }
        let error = time("7").unwrap_err();
        assert_eq!(error, "expected a time with its unit, as in 500ms, 7s or 1m 30s");
    }

    #[test]
    fn a_number_is_whole_and_not_too_large() {
        for invalid in ["", "x", "1e3", "-1", "1.0"] {
            assert_eq!(number(invalid).unwrap_err(), "expected a whole number", "{invalid:?}");
        }
        for invalid in ["", "0", "many", "1e3", "-1"] {
            let error = count::<u64>(invalid).unwrap_err();
            assert_eq!(error, "expected a whole number, at least 1", "{invalid:?}");
        }
        let many = "18446744073709551616";
        let error = "the number is too large, expected at most 18446744073709551615";
        assert_eq!(number(many).unwrap_err(), error);
        assert_eq!(count::<u64>(many).unwrap_err(), error);
        assert_eq!((number("0"), count::<u64>("1")), (Ok(0), Ok(1)));
        assert_eq!(many.parse::<Limit>().unwrap_err(), error);
    }

    #[test]
    fn bytes_have_a_unit_or_none_and_limits() {
        for (text, expected) in
            [("1", 1), ("1024", 1024), ("64KiB", 64 << 10), ("1.5 MiB", 3 << 19), ("2B", 2)]
        {
            assert_eq!(bytes(text), Ok(expected));
        }
        for invalid in ["", "x", "-1", "1 KiB B", "64K", "64k", "64kB", "1M"] {
            let error = bytes(invalid).unwrap_err();
            let expected = "expected a number of bytes, as in 1024, 64KiB or 16MiB";
            assert_eq!(error, expected, "{invalid:?}");
        }
        let within = |text| bytes_within(128..=65535, text);
        assert_eq!((within("128"), within("65535")), (Ok(128), Ok(65535)));
        assert_eq!(within("127").unwrap_err(), "expected at least 128B");
        assert_eq!(within("64KiB").unwrap_err(), "expected at most 65535B");
        assert_eq!(bytes("0").unwrap_err(), "expected at least 1B");
        let mib = |text| bytes_within(1..=1 << 20, text).unwrap_err();
        for too_large in ["1048577", "2MiB", "20000000TiB"] {
            assert_eq!(mib(too_large), "expected at most 1MiB");
        }
        assert!(bytes("20000000TiB").unwrap_err().starts_with("expected at most "));
    }

    #[test]
    fn a_range_is_an_address_or_a_network() {
        for (text, member) in [
            ("10.0.0.0/8", "10.1.2.3"),
            ("192.0.2.7", "192.0.2.7"),
            ("2001:db8::/32", "2001:db8::7"),
            ("0.0.0.0/0", "203.0.113.1"),
        ] {
            let range = range(text).unwrap();
            assert!(range.contains(&member.parse::<IpAddr>().unwrap()), "{member} in {text}");
        }
        for invalid in
            ["", "10.1.2.3/8", "10.0.0.0/33", "10.0.0/8", "localhost", "10.0.0.1:80", "*"]
        {
            assert!(range(invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn bytes_can_be_escaped() {
        for (text, expected) in [
            ("PING", &b"PING"[..]),
            (r"PING\r\n", b"PING\r\n"),
            (r"\\\x00\xfFé\t", b"\\\0\xff\xc3\xa9\t"),
        ] {
            assert_eq!(escaped(text).as_deref(), Ok(expected));
        }
        for invalid in [r"\", r"a\q", r"\x1", r"\xé", r"\x+1", r"x\"] {
            let error = escaped(invalid).unwrap_err();
            assert_eq!(error, r"a backslash begins \r, \n, \t, \\ or \xHH", "{invalid}");
        }
        let error = escaped(&"x".repeat(4097)).unwrap_err();
        assert_eq!(error, "expected 1 to 4096 bytes, not 4097");
    }

    #[test]
    fn an_address_has_a_host_and_a_port_or_a_path() {
        for valid in [
            "127.0.0.1:7",
            "localhost:10",
            "my_host.example:1",
            "[::1]:65535",
            "[fe80::1%eth0]:80",
            "unix:/run/a:0",
            "unix:x",
            "unix:@name",
        ] {
            assert_eq!(listen(valid).as_deref(), Ok(valid));
            assert_eq!(remote(valid).as_deref(), Ok(valid));
        }
        for valid in ["systemd", "systemd:web"] {
            assert_eq!(listen(valid).as_deref(), Ok(valid));
            assert!(remote(valid).is_err());
        }
    }

    #[test]
    fn port_0_can_be_listened_on_and_not_connected_to() {
        for address in ["127.0.0.1:0", "localhost:00", "[::1]:0"] {
            assert_eq!(listen(address).as_deref(), Ok(address));
            let error = remote(address).unwrap_err();
            assert_eq!(error, "port 0 cannot be connected to", "{address}");
        }
    }

    #[test]
    fn the_error_of_an_address_says_what_to_write() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (address, to_write) in [
            ("localhost", "the port is missing, write localhost:PORT"),
            ("localhost:", "the port is missing, write localhost:PORT"),
            ("127.0.0.1", "the port is missing, write 127.0.0.1:PORT"),
            ("[::1]", "the port is missing, write [::1]:PORT"),
            ("/tmp/x.sock", "write unix:/tmp/x.sock"),
            ("./x.sock", "write unix:./x.sock"),
            ("x.sock", "write unix:x.sock"),
            ("http://localhost:5000/", "write localhost:5000"),
            ("::1", "write [::1]:PORT"),
            ("::1:7", "brackets"),
            ("a:b", "`b` is not a port: expected a number from 0 to 65535"),
            ("localhost:65536", "`65536` is not a port"),
            ("a:b:7", "with an IPv6 address in brackets"),
            ("[localhost]:7", "`localhost` is not an IPv6 address"),
            ("a b:7", "`a b` is not a host name"),
            ("", "expected HOST:PORT or unix:PATH"),
            (":", "expected HOST:PORT or unix:PATH"),
            ("unix:", "write unix:/run/echo.sock"),
            (&long, "at most 107 bytes"),
        ] {
            for error in [listen(address), remote(address)].map(Result::unwrap_err) {
                assert!(error.contains(to_write), "{address:?}: {error}");
            }
        }
        for port in ["5000", ":5000", "*:5000"] {
            let error = listen(port).unwrap_err();
            for address in ["127.0.0.1:5000", "0.0.0.0:5000", "[::]:5000"] {
                assert!(error.contains(address), "{port:?}: {error}");
            }
            assert!(remote(port).unwrap_err().contains("write localhost:5000"));
        }
    }
}
