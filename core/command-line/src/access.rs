//! The flags that say which addresses may connect.

use clap::Args;
use ipnet::IpNet;
use wirestate_core::admission::AccessList;

use crate::values;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Access")]
pub(super) struct AccessFlags {
    /// An address, or a range as in 10.0.0.0/8, that may connect; can be given several times. With
    /// it, all addresses are denied that no range allows. The most specific of all ranges decides,
    /// whatever their order. With --accept-proxy, the address is the one that the header names.
    /// Peers on a Unix socket may always connect
    #[arg(long, value_name = "CIDR", env = "WIRESTATE_ALLOW", value_delimiter = ',',
          value_parser = values::range)]
    allow: Vec<IpNet>,
    /// An address or a range that may not connect, as --allow; can be given several times
    #[arg(long, value_name = "CIDR", env = "WIRESTATE_DENY", value_delimiter = ',',
          value_parser = values::range)]
    deny: Vec<IpNet>,
}

impl AccessFlags {
    /// Returns an error if flags contradict each other.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.allow.iter().find(|range| self.deny.contains(range)) {
            Some(range) => Err(format!("{range} cannot be in --allow and in --deny")),
            None => Ok(()),
        }
    }

    pub(super) fn list(&self) -> AccessList {
        let mut list = AccessList::default();
        for &range in &self.allow {
            list.allow(range);
        }
        for &range in &self.deny {
            list.deny(range);
        }
        list
    }
}
