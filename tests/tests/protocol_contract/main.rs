//! The layer for framed protocols alone, with a protocol that uses all of it.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod answers;
mod eviction;
mod frames;
mod memory;
mod model;
mod news;
mod odd;
mod orders;
mod reasons;
mod turns;

use wirestate_core::{
    Instant,
    protocol::{Config, Connection, Server},
};
use wirestate_testkit::contract::Checked;

use crate::orders::Orders;

/// The most bytes of output that a connection may hold in these tests.
const MAX_OUTPUT: usize = 64 * 1024 + 4096;

/// Small limits, so that few bytes reach them.
fn small() -> Config {
    Config::default()
        .with_buffer(16.try_into().unwrap())
        .with_max_frame(100.try_into().unwrap())
        .with_max_in_flight(3.try_into().unwrap())
}

fn machine(config: Config, orders: Orders) -> Checked<Connection<Orders>> {
    let server = Server::new(config).unwrap();
    Checked::new(server.machine(orders, Instant::EPOCH), MAX_OUTPUT).with_deadlines()
}
