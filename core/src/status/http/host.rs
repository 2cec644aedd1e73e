//! The host that a request names, and the hosts that the server answers for.

use core::net::{IpAddr, Ipv6Addr};

/// The host names that a status server answers for, besides `localhost` and all addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedHosts {
    /// All names. For a listener that no browser can reach, for example a Unix socket.
    Any,
    /// These names, in any case, without a port.
    Named(Vec<String>),
}

impl AllowedHosts {
    /// Whether a request for this name or address is answered.
    pub(in crate::status) fn include(&self, name: &str) -> bool {
        let Self::Named(names) = self else { return true };
        let name = name.strip_suffix('.').unwrap_or(name);
        // Names below `localhost` are loopback as well (RFC 6761, section 6.3).
        let top = name.rsplit('.').next().unwrap_or_default();
        name.parse::<IpAddr>().is_ok()
            || top.eq_ignore_ascii_case("localhost")
            || names.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
    }
}

/// The name or address in `host` or `host:port` (RFC 3986, section 3.2.2), without brackets; `None`
/// if it is invalid. A name may be empty.
pub(super) fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            rest.split_once(']').filter(|(address, _)| address.parse::<Ipv6Addr>().is_ok())?
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let in_host = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:".contains(&b);
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let is_valid_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    (host.bytes().all(in_host) && is_valid_port).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_are_refused_and_addresses_never() {
        let hosts = AllowedHosts::Named(vec!["status.example".into()]);
        for allowed in [
            "localhost",
            "LocalHost:8000",
            "a.localhost",
            "localhost.",
            "127.0.0.1:8000",
            "[::1]",
            "[::1]:8000",
            "192.0.2.1",
            "status.example:1",
            "STATUS.example",
        ] {
            assert!(hosts.include(host_of(allowed).unwrap()), "{allowed}");
        }
        for foreign in [
            "",
            ":8000",
            "evil.example",
            "notlocalhost",
            "localhost.evil.example",
            "status.example.evil",
            "%c3%a4localhost",
            "127.0.0.1.evil.example",
        ] {
            assert!(!hosts.include(host_of(foreign).unwrap()), "{foreign}");
            assert!(AllowedHosts::Any.include(foreign));
        }
        for invalid in
            ["[evil]", "[::1", "[::1]evil.example", "::1", "a:b", "a:1:2", "ä", "a b", "a/"]
        {
            assert_eq!(host_of(invalid), None, "{invalid}");
        }
    }
}
