//! The limits of what happens in a second: new connections, and bytes.

use core::{num::NonZeroU64, time::Duration};

use crate::config::with_setters;

/// How many connections may be new in a second, and how many bytes may move in a second. `None`: no
/// limit, which is the default of each.
///
/// An address is an IPv4 address or an IPv6 /64, as in [`Limits::per_address`]. Loopback addresses
/// have no limits per address.
///
/// [`Limits::per_address`]: super::Limits::per_address
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rates {
    /// New connections a second, from all addresses together. As many may come at once.
    pub connections: Option<NonZeroU64>,
    /// New connections a second from one address. As many may come at once. Those beyond are
    /// refused.
    pub connections_per_address: Option<NonZeroU64>,
    /// What happens to connections beyond [`connections`](Self::connections).
    pub on_excess: OnExcess,
    /// Bytes received from clients.
    pub receive: ByteRates,
    /// Bytes sent to clients.
    pub send: ByteRates,
}

/// What happens to new connections beyond a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExcess {
    /// They are refused.
    #[default]
    Refuse,
    /// They wait in the backlog until the rate allows the next one, at most 1 s each.
    Wait,
}

/// Bytes a second in one direction. Bytes beyond a rate wait: the driver does not read or write
/// before the rate allows it, so the peer is slowed down.
///
/// A quarter of the bytes of a second may move at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ByteRates {
    /// Of all connections together.
    pub all: Option<NonZeroU64>,
    /// Of all connections from one address.
    pub per_address: Option<NonZeroU64>,
    /// Of each connection.
    pub per_connection: Option<NonZeroU64>,
}

impl Rates {
    with_setters! {
        with_connections(connections: impl Into<Option<NonZeroU64>>);
        with_connections_per_address(connections_per_address: impl Into<Option<NonZeroU64>>);
        with_on_excess(on_excess: OnExcess);
        with_receive(receive: ByteRates);
        with_send(send: ByteRates);
    }

    /// Whether bytes are limited.
    pub(super) fn limits_bytes(&self) -> bool {
        self.receive != ByteRates::default() || self.send != ByteRates::default()
    }

    /// Whether an address has limits of its own.
    pub(super) fn limits_addresses(&self) -> bool {
        let bytes = [self.receive, self.send];
        self.connections_per_address.is_some()
            || bytes.iter().any(|rates| rates.per_address.is_some())
    }
}

impl ByteRates {
    with_setters! {
        with_all(all: impl Into<Option<NonZeroU64>>);
        with_per_address(per_address: impl Into<Option<NonZeroU64>>);
        with_per_connection(per_connection: impl Into<Option<NonZeroU64>>);
    }
}

/// The time in which `count` tokens are regained at `rate` a second.
pub(super) fn cost(count: u64, rate: NonZeroU64) -> Duration {
    let nanos = (u128::from(count) * 1_000_000_000).div_ceil(u128::from(rate.get()));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How many new connections may come at once, as the time in which they are regained.
pub(super) const CONNECTION_BURST: Duration = Duration::from_secs(1);
