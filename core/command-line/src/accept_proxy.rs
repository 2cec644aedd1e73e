//! The flags of a server behind a proxy that sends PROXY headers.

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
          value_delimiter = ',', value_parser = values::range)]
    proxy_from: Vec<IpNet>,
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
