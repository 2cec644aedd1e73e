//! Which peers may send a header, and within which time.

use alloc::{vec, vec::Vec};
use core::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    ConfigError,
    admission::Peer,
    config::{check_timeout, with_setters},
    shared::Shared,
};

/// The settings of a [`HeaderPolicy`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The address ranges from which headers are accepted. A connection from another address is
    /// reset. A peer on a Unix socket is always accepted, since the permissions of the socket
    /// decide which processes can connect. Default: the loopback addresses, `127.0.0.0/8` and
    /// `::1`.
    pub from: Vec<IpNet>,
    /// The time from accepting the connection to the end of the header; `None`: no limit. Must be
    /// non-zero. Default: 5 s.
    pub timeout: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        let v4 = Ipv4Net::new_assert([127, 0, 0, 0].into(), 8);
        let v6 = Ipv6Net::new_assert([0, 0, 0, 0, 0, 0, 0, 1].into(), 128);
        Self { from: vec![v4.into(), v6.into()], timeout: Some(Duration::from_secs(5)) }
    }
}

impl Config {
    with_setters! {
        with_from(from: impl Into<Vec<IpNet>>);
        with_timeout(timeout: impl Into<Option<Duration>>);
    }
}

/// Decides which peers may send a header, and within which time. Clones share their settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderPolicy {
    config: Shared<Config>,
}

impl HeaderPolicy {
    /// A policy with these settings.
    ///
    /// # Errors
    /// [`Config::timeout`] is zero.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        check_timeout("timeout", config.timeout)?;
        Ok(Self { config: Shared::new(config) })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether a header from `peer` is accepted.
    pub fn trusts(&self, peer: Peer) -> bool {
        match peer {
            Peer::Ip(address) => {
                let address = address.ip().to_canonical();
                self.config.from.iter().any(|range| range.contains(&address))
            }
            Peer::Local => true,
        }
    }
}

impl Default for HeaderPolicy {
    /// A policy with the default [`Config`].
    fn default() -> Self {
        Self { config: Shared::new(Config::default()) }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use super::*;

    #[test]
    fn a_timeout_of_zero_is_an_error_that_names_the_setting() {
        let config = Config::default().with_timeout(Duration::ZERO);
        let error = HeaderPolicy::new(config).unwrap_err();
        assert_eq!(error.to_string(), "timeout must be non-zero");
    }

    /// A dual-stack socket shows an IPv4 peer as an IPv6 one (RFC 4291, section 2.5.5.2).
    #[test]
    fn a_mapped_address_is_trusted_like_the_ipv4_address() {
        let policy = HeaderPolicy::default();
        for (address, is_trusted) in [
            ("127.0.0.1:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("[::1]:1", true),
            ("[::ffff:192.0.2.1]:1", false),
        ] {
            let peer = Peer::Ip(address.parse().unwrap());
            assert_eq!(policy.trusts(peer), is_trusted, "{address}");
        }
    }
}
