//! Parsers of the values of flags.

use core::{
    num::{IntErrorKind, NonZeroU64, ParseIntError},
    str::FromStr,
    time::Duration,
};

use wirestate_core::runtime::unix_path;

use crate::systemd::SocketSelector;

/// A timeout: `30s`, `5m`, `1m 30s`; or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeout(pub(super) Option<Duration>);

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        match humantime::parse_duration(text) {
            Ok(Duration::ZERO) => Err("a timeout must be non-zero; `off` means no limit".into()),
            Ok(limit) => Ok(Self(Some(limit))),
            Err(_) => Err(format!("{EXPECTED_TIME}; or `off`")),
        }
    }
}

/// A time: `30s`, `5m`, `1m 30s`; or `0`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|_| format!("{EXPECTED_TIME}; or 0"))
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
    N::try_from(number).map_err(|_| TOO_LARGE.into())
}

fn number_error(error: &ParseIntError, expected: &str) -> String {
    let too_large = *error.kind() == IntErrorKind::PosOverflow;
    if too_large { TOO_LARGE } else { expected }.into()
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

/// A number of bytes: `1024`, `64KiB`, `16MiB`; not 0.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let bytes: bytesize::ByteSize =
        text.parse().map_err(|_| "expected a number of bytes, as in 1024, 64KiB or 16MiB")?;
    match usize::try_from(bytes.as_u64()) {
        Ok(0) => Err("expected at least 1 byte".into()),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err("the number of bytes is too large".into()),
    }
}

/// A `host:port`, or a `unix:PATH`. Host names are resolved later.
pub(super) fn address(text: &str) -> Result<String, String> {
    if let Some(path) = unix_path(text) {
        return match path.as_os_str().len() {
            0 => Err("expected a path: unix:/run/echo.sock".into()),
            // The length of `sun_path`, with a terminating NUL (unix(7)).
            108.. => Err("the path of a Unix socket has at most 107 bytes".into()),
            _ => Ok(text.into()),
        };
    }
    let Some((host, port)) = text.rsplit_once(':').filter(|_| !text.ends_with(']')) else {
        return Err("expected HOST:PORT or unix:PATH".into());
    };
    if port.parse::<u16>().is_err() {
        return Err(format!("`{port}` is not a port: expected a number from 0 to 65535"));
    }
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) {
        return Err("expected HOST:PORT, with an IPv6 address in brackets: [::1]:7".into());
    }
    Ok(text.into())
}

/// The [`address`] of a server to connect to.
pub(super) fn remote(text: &str) -> Result<String, String> {
    if unix_path(text).is_none()
        && let Some((_, port)) = text.rsplit_once(':')
        && port.parse() == Ok(0_u16)
    {
        return Err("port 0 cannot be connected to".into());
    }
    address(text)
}

/// An [`address`] to listen on, or `systemd` or `systemd:NAME`: an inherited socket.
pub(super) fn listen(text: &str) -> Result<String, String> {
    match SocketSelector::parse(text) {
        Some(SocketSelector::Named("")) => Err("expected a name: systemd:NAME".into()),
        Some(SocketSelector::Next | SocketSelector::Named(_)) => Ok(text.into()),
        None => address(text),
    }
}

/// Help on a value that [`listen`] parses.
pub(super) const LISTEN_HELP: &str = "\
    The address to listen on: HOST:PORT, unix:PATH, unix:@NAME (an abstract socket), systemd (the \
    next socket that the service manager passes) or systemd:NAME (all passed sockets of that \
    name). A host name stands for all its addresses. Port 0 selects a free port";
const EXPECTED_TIME: &str = "expected a time with its unit, as in 500ms, 30s or 1m 30s";
const TOO_LARGE: &str = "the number is too large";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_time_or_off_and_never_zero() {
        assert_eq!("1m 30s".parse(), Ok(Timeout(Some(Duration::from_secs(90)))));
        assert_eq!("off".parse(), Ok(Timeout(None)));
        for invalid in ["0", "0s", "-1s", "30", "soon", ""] {
            assert!(invalid.parse::<Timeout>().is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn an_error_says_which_value_is_expected() {
        let time = "expected a time with its unit, as in 500ms, 30s or 1m 30s";
        for invalid in ["", "x", "5", "5y5", "-1s", "99999999999999999999s"] {
            assert_eq!(super::time(invalid), Err(format!("{time}; or 0")), "{invalid:?}");
            let timeout = invalid.parse::<Timeout>();
            assert_eq!(timeout, Err(format!("{time}; or `off`")), "{invalid:?}");
        }
        for invalid in ["", "x", "1e3", "-1", "1.0"] {
            assert_eq!(number(invalid).unwrap_err(), "expected a whole number", "{invalid:?}");
        }
        for invalid in ["", "0", "many", "1e3", "-1"] {
            let error = count::<u64>(invalid).unwrap_err();
            assert_eq!(error, "expected a whole number, at least 1", "{invalid:?}");
        }
        for invalid in ["", "x", "-1", "1 KiB B"] {
            let error = bytes(invalid).unwrap_err();
            let expected = "expected a number of bytes, as in 1024, 64KiB or 16MiB";
            assert_eq!(error, expected, "{invalid:?}");
        }
        let many = "18446744073709551616";
        assert_eq!(number(many).unwrap_err(), "the number is too large");
        assert_eq!(count::<u64>(many).unwrap_err(), "the number is too large");
        assert_eq!((number("0"), count::<u64>("1")), (Ok(0), Ok(1)));
        assert_eq!(many.parse::<Limit>().unwrap_err(), "the number is too large");
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for valid in ["127.0.0.1:7", "localhost:0", "[::1]:65535", "unix:/run/a:b", "unix:x"] {
            assert_eq!(address(valid).as_deref(), Ok(valid));
        }
        let long = format!("unix:/{}", "x".repeat(107));
        for invalid in
            ["", "localhost", ":7", "localhost:", "localhost:65536", "::1:7", "a:b", "unix:", &long]
        {
            assert!(address(invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn an_ipv6_address_without_a_port_is_an_error_that_asks_for_it() {
        assert_eq!(address("[::1]").unwrap_err(), "expected HOST:PORT or unix:PATH");
    }

    #[test]
    fn port_0_can_be_listened_on_and_not_connected_to() {
        for address in ["127.0.0.1:0", "localhost:00", "[::1]:0"] {
            assert_eq!(listen(address).as_deref(), Ok(address));
            let error = remote(address).unwrap_err();
            assert_eq!(error, "port 0 cannot be connected to", "{address}");
        }
        for valid in ["127.0.0.1:7", "localhost:10", "unix:/run/a:0"] {
            assert_eq!(remote(valid).as_deref(), Ok(valid));
        }
        assert!(remote("localhost").unwrap_err().contains("expected HOST:PORT"));
    }
}
