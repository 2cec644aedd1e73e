//! What is known of the addresses that connect: their open connections, and their rates.

use alloc::collections::BTreeMap;
use core::net::IpAddr;

use super::{
    Rates, Refused,
    rates::{CONNECTION_BURST, cost},
    throttle::Buckets,
};
use crate::{Instant, shared::Shared, token_bucket::TokenBucket};

/// The addresses of a table's connections, by network ([`Peer::network`](super::Peer)).
///
/// An address stays after its last connection has ended until its rates are as new, which takes
/// about a second. Of these, at most [`MAX_IDLE`] stay; the rates of others are forgotten.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    by_network: BTreeMap<IpAddr, Address>,
    /// How many have no open connection.
    idle: usize,
}

#[derive(Debug, Default)]
struct Address {
    open: usize,
    connections: TokenBucket,
    /// `None` if its bytes have no limit.
    bytes: Option<Shared<Buckets>>,
}

impl Addresses {
    /// How many connections of `network` are open.
    pub(super) fn open(&self, network: IpAddr) -> usize {
        self.by_network.get(&network).map_or(0, |address| address.open)
    }

    /// Returns an error if the rate allows no new connection of `network` now.
    pub(super) fn check_rate(
        &self,
        network: IpAddr,
        rates: &Rates,
        now: Instant,
    ) -> Result<(), Refused> {
        let Some(rate) = rates.connections_per_address else { return Ok(()) };
        let Some(address) = self.by_network.get(&network) else { return Ok(()) };
        if address.connections.wait(cost(1, rate), CONNECTION_BURST, now).is_zero() {
            return Ok(());
        }
        Err(Refused::AddressRate { network, limit: rate.get() })
    }

    /// Counts a new connection of `network`. Returns the buckets of its bytes.
    pub(super) fn add(
        &mut self,
        network: IpAddr,
        rates: &Rates,
        now: Instant,
    ) -> Option<Shared<Buckets>> {
        let mut is_new = false;
        let address = self.by_network.entry(network).or_insert_with(|| {
            is_new = true;
            Address::default()
        });
        if address.open == 0 && !is_new {
            self.idle -= 1;
        }
        address.open += 1;
        if let Some(rate) = rates.connections_per_address {
            address.connections.borrow(cost(1, rate), now);
        }
        if address.bytes.is_none() {
            address.bytes = Buckets::of_address(rates).map(Shared::new);
        }
        address.bytes.clone()
    }

    /// Records the end of a connection of `network`.
    pub(super) fn remove(&mut self, network: IpAddr, rates: &Rates, now: Instant) {
        let Some(address) = self.by_network.get_mut(&network) else { return };
        address.open -= 1;
        if address.open > 0 {
            return;
        }
        if !rates.limits_addresses() || address.is_as_new(now) {
            self.by_network.remove(&network);
            return;
        }
        self.idle += 1;
        if self.idle > MAX_IDLE {
            self.by_network.retain(|_, address| address.open > 0 || !address.is_as_new(now));
            self.idle = self.by_network.values().filter(|address| address.open == 0).count();
        }
        if self.idle > MAX_IDLE {
            self.by_network.retain(|_, address| address.open > 0);
            self.idle = 0;
        }
    }

    /// New connections have other rates.
    #[cfg(feature = "std")]
    pub(super) fn forget_rates(&mut self) {
        self.by_network.retain(|_, address| {
            (address.connections, address.bytes) = (TokenBucket::FULL, None);
            address.open > 0
        });
        self.idle = 0;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_network.len()
    }
}

impl Address {
    fn is_as_new(&self, now: Instant) -> bool {
        self.connections.is_full(now) && self.bytes.as_ref().is_none_or(|bytes| bytes.are_full(now))
    }
}

/// How many addresses without an open connection stay.
pub(super) const MAX_IDLE: usize = 16_384;
