//! Event loops without a runtime, on real sockets: the level-triggered loop of
//! `core/examples/foreign_loop.rs`, and an edge-triggered one.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod edge_triggered;
#[path = "../../../core/examples/foreign_loop.rs"]
mod level_triggered;
mod scenarios;

use std::{io, net::SocketAddr};

use wirestate_core::{Instant, admission::ConnectionTable, shutdown::ShutdownHandle};

use crate::level_triggered::Protocol;

/// An event loop that the scenarios run.
trait EventLoop: Sized {
    fn new(table: ConnectionTable) -> io::Result<Self>;

    /// Listens on a free port of the loopback address.
    fn listen(
        &mut self,
        protocol: impl FnMut(Instant) -> Protocol + 'static,
    ) -> io::Result<SocketAddr>;

    /// Applies `shutdown`. Returns false once a shutdown was requested and the last connection has
    /// ended.
    fn goes_on(&mut self, shutdown: &ShutdownHandle) -> bool;

    /// Waits once, and polls the connections that have an event.
    fn round(&mut self) -> io::Result<()>;
}

impl EventLoop for level_triggered::EventLoop {
    fn new(table: ConnectionTable) -> io::Result<Self> {
        Self::new(table)
    }

    fn listen(
        &mut self,
        protocol: impl FnMut(Instant) -> Protocol + 'static,
    ) -> io::Result<SocketAddr> {
        self.listen(protocol)
    }

    fn goes_on(&mut self, shutdown: &ShutdownHandle) -> bool {
        self.goes_on(shutdown)
    }

    fn round(&mut self) -> io::Result<()> {
        self.round()
    }
}

#[test]
fn the_example_serves_its_clients() {
    level_triggered::main().unwrap();
}

macro_rules! scenarios {
    ($($scenario:ident)*) => {
        mod level {
            $(#[test] fn $scenario() {
                crate::scenarios::$scenario::<crate::level_triggered::EventLoop>();
            })*
        }

        mod edge {
            $(#[test] fn $scenario() {
                crate::scenarios::$scenario::<crate::edge_triggered::EventLoop>();
            })*
        }
    };
}

scenarios! {
    every_byte_comes_back_in_any_chunks
    a_half_closed_client_gets_all_bytes_back
    a_subscriber_that_sends_without_pause_and_reads_nothing_is_reset
    a_reset_during_a_request_does_not_keep_the_loop_busy
    a_shutdown_during_a_request_does_not_keep_the_loop_busy
    connections_that_are_reset_at_any_time_end_alone
    published_messages_reach_every_subscriber
    a_reply_from_another_thread_wakes_its_connection
    a_shutdown_ends_idle_connections
}
