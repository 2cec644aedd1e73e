//! The flags that limit new connections and bytes in a second.

use core::num::NonZeroU64;

use clap::{Args, ValueEnum};
use wirestate_core::admission::{ByteRates, OnExcess, Rates};

use crate::values;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Rates")]
pub(super) struct RateFlags {
    /// How many connections may be new in a second; as many may come at once
    #[arg(long, value_name = "PER_SECOND", env = "WIRESTATE_MAX_CONNECTION_RATE",
          value_parser = values::count::<NonZeroU64>)]
    max_connection_rate: Option<NonZeroU64>,
    /// How many connections from one IPv4 address or IPv6 /64 may be new in a second, except from
    /// loopback; those beyond are refused
    #[arg(long, value_name = "PER_SECOND", env = "WIRESTATE_MAX_CONNECTION_RATE_PER_ADDRESS",
          value_parser = values::count::<NonZeroU64>)]
    max_connection_rate_per_address: Option<NonZeroU64>,
    /// What happens to connections beyond --max-connection-rate
    #[arg(
        long,
        value_name = "ACTION",
        value_enum,
        env = "WIRESTATE_ON_CONNECTION_RATE",
        default_value = "refuse",
        requires = "max_connection_rate"
    )]
    on_connection_rate: Action,
    /// How many bytes a second may be received from all clients together. Bytes beyond a rate wait:
    /// the client is slowed down. At most a quarter of them may come at once
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_MAX_RECEIVE_RATE", value_parser = bytes)]
    max_receive_rate: Option<NonZeroU64>,
    /// How many bytes a second may be received from one IPv4 address or IPv6 /64, except from
    /// loopback
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_MAX_RECEIVE_RATE_PER_ADDRESS",
          value_parser = bytes)]
    max_receive_rate_per_address: Option<NonZeroU64>,
    /// How many bytes a second may be received on each connection
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_MAX_RECEIVE_RATE_PER_CONNECTION",
          value_parser = bytes)]
    max_receive_rate_per_connection: Option<NonZeroU64>,
    /// How many bytes a second may be sent to all clients together
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_MAX_SEND_RATE", value_parser = bytes)]
    max_send_rate: Option<NonZeroU64>,
    /// How many bytes a second may be sent to one IPv4 address or IPv6 /64, except to loopback
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_MAX_SEND_RATE_PER_ADDRESS",
          value_parser = bytes)]
    max_send_rate_per_address: Option<NonZeroU64>,
    /// How many bytes a second may be sent on each connection
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_MAX_SEND_RATE_PER_CONNECTION",
          value_parser = bytes)]
    max_send_rate_per_connection: Option<NonZeroU64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    /// They are closed
    Refuse,
    /// They wait until the rate allows the next one
    Wait,
}

/// Bytes a second. With fewer than 1 KiB, a request could not arrive before its deadline.
fn bytes(text: &str) -> Result<NonZeroU64, String> {
    let bytes = values::bytes_within(1024..=isize::MAX as usize, text)?;
    NonZeroU64::new(bytes as u64).ok_or_else(|| "expected at least 1KiB".into())
}

impl RateFlags {
    pub(super) fn rates(&self) -> Rates {
        let receive = ByteRates::default()
            .with_all(self.max_receive_rate)
            .with_per_address(self.max_receive_rate_per_address)
            .with_per_connection(self.max_receive_rate_per_connection);
        let send = ByteRates::default()
            .with_all(self.max_send_rate)
            .with_per_address(self.max_send_rate_per_address)
            .with_per_connection(self.max_send_rate_per_connection);
        let on_excess = match self.on_connection_rate {
            Action::Refuse => OnExcess::Refuse,
            Action::Wait => OnExcess::Wait,
        };
        Rates::default()
            .with_connections(self.max_connection_rate)
            .with_connections_per_address(self.max_connection_rate_per_address)
            .with_on_excess(on_excess)
            .with_receive(receive)
            .with_send(send)
    }
}
