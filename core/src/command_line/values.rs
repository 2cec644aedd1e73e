//! Flags' values.

use core::{fmt, str::FromStr, time::Duration};

use super::systemd::Passed;
use crate::runtime::unix_path;

/// A time after which something ends: `30s`, `5m`, `1m 30s`; or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeout(pub(super) Option<Duration>);

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        match humantime::parse_duration(text) {
            Ok(Duration::ZERO) => Err("0 would end it at once; `off` is no limit".into()),
            Ok(limit) => Ok(Self(Some(limit))),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => humantime::format_duration(limit).fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// A time: `30s`, `5m`, `1m 30s`; or `0`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// A number from 1 up; or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit(pub(super) Option<usize>);

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(0) => Err("0 would admit nobody; `off` is no limit".into()),
            Ok(limit) => Ok(Self(Some(limit))),
            Err(_) => Err("expected a whole number, or `off`".into()),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => limit.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// A number of bytes: `1024`, `64KiB`, `16MiB`; not 0.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let bytes: bytesize::ByteSize = text.parse()?;
    match usize::try_from(bytes.as_u64()) {
        Ok(0) => Err("0 bytes hold nothing".into()),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err("more than this machine can address".into()),
    }
}

/// A `host:port`, or a `unix:PATH`. Names are looked up later; what can't be an address is refused
/// here.
pub(super) fn address(text: &str) -> Result<String, String> {
    if let Some(path) = unix_path(text) {
        return match path.as_os_str().len() {
            0 => Err("expected a path: unix:/run/echo.sock".into()),
            // What an address has room for (unix(7)).
            108.. => Err("the path of a Unix socket has at most 107 bytes".into()),
            _ => Ok(text.into()),
        };
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("expected HOST:PORT or unix:PATH".into());
    };
    if port.parse::<u16>().is_err() {
        return Err(format!("`{port}` is not a port: expected a number up to 65535"));
    }
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) {
        return Err("expected HOST:PORT, with an IPv6 address in brackets: [::1]:7".into());
    }
    Ok(text.into())
}

/// An [`address`], or `systemd` or `systemd:NAME`: a socket that the service manager passes.
pub(super) fn listen(text: &str) -> Result<String, String> {
    match Passed::parse(text) {
        Some(Passed::Named("")) => Err("expected a name: systemd:NAME".into()),
        Some(Passed::Next | Passed::Named(_)) => Ok(text.into()),
        None => address(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_time_or_off_and_never_nothing() {
        assert_eq!("1m 30s".parse(), Ok(Timeout(Some(Duration::from_secs(90)))));
        assert_eq!("off".parse(), Ok(Timeout(None)));
        for wrong in ["0", "0s", "-1s", "30", "soon", ""] {
            assert!(wrong.parse::<Timeout>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for right in ["127.0.0.1:7", "localhost:0", "[::1]:65535", "unix:/run/a:b", "unix:x"] {
            assert_eq!(address(right).as_deref(), Ok(right));
        }
        let long = format!("unix:/{}", "x".repeat(107));
        for wrong in
            ["", "localhost", ":7", "localhost:", "localhost:65536", "::1:7", "a:b", "unix:", &long]
        {
            assert!(address(wrong).is_err(), "{wrong:?}");
        }
    }
}
