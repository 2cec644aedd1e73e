//! The flags of a server behind a proxy that sends PROXY headers.

use std::net::IpAddr;

use clap::Args;
use ipnet::IpNet;
use wirestate_core::proxy_protocol::{Config, HeaderPolicy};

use crate::values;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Behind a proxy")]
pub(super) struct AcceptProxyFlags {
    /// Require a PROXY header of version 1 or 2, which names the client, at the start of each
    /// connection; a connection without it is reset. The header has at most 4KiB and must be
    /// complete within 5 s
    #[arg(long, env = "WIRESTATE_ACCEPT_PROXY", value_parser = values::boolean)]
    accept_proxy: bool,
    /// An address, or a range as in 10.0.0.0/8, that may send PROXY headers; can be given several
    /// times. Connections from other addresses are reset [default: loopback addresses]
    #[arg(long, value_name = "CIDR", env = "WIRESTATE_PROXY_FROM", requires = "accept_proxy",
          value_delimiter = ',', value_parser = range)]
    proxy_from: Vec<IpNet>,
}

/// Parses an address, or a range of addresses (CIDR, RFC 4632).
fn range(text: &str) -> Result<IpNet, String> {
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

impl AcceptProxyFlags {
    pub(super) fn policy(&self) -> Option<HeaderPolicy> {
        self.accept_proxy.then(|| match &self.proxy_from[..] {
            [] => HeaderPolicy::default(),
            from => HeaderPolicy::new(Config::default().with_from(from))
                .expect("the default timeout is non-zero"),
        })
    }

    pub(super) fn behind_proxies(&self) -> bool {
        self.accept_proxy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
