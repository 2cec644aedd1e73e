//! The event loops of `core/examples`, and an edge-triggered one that keeps each
//! [`Seat`](wirestate_core::drive::Seat) by itself, as loops for the testkit.

#![expect(clippy::duplicate_mod, reason = "each example has the demonstration as its module")]

#[path = "edge_triggered.rs"]
pub(crate) mod edge_triggered;
#[path = "../../../core/examples/foreign_loop.rs"]
pub(crate) mod level_triggered;
#[path = "../../../core/examples/mio_loop.rs"]
pub(crate) mod mio_loop;
#[path = "../../../core/examples/executor/main.rs"]
pub(crate) mod own_executor;
#[path = "../../../core/examples/tcp_socket/mod.rs"]
mod tcp_socket;
#[path = "../../../core/examples/without_wakers.rs"]
pub(crate) mod without_wakers;

use std::{io, net::SocketAddr};

use wirestate_core::{
    admission::{ConnectionTable, Limits},
    shutdown::ShutdownHandle,
};
use wirestate_testkit::event_loop::{EventLoop, Factory};

macro_rules! event_loops {
    ($($($ok:ident)? ($event_loop:ident))*) => {
        $(
            impl EventLoop for $event_loop::EventLoop {
                fn new() -> io::Result<Self> {
                    $($ok)?(Self::new(ConnectionTable::new(Limits::default())))
                }

                fn listen(&mut self, machine: Factory) -> io::Result<SocketAddr> {
                    self.listen(machine)
                }

                fn run(&mut self, shutdown: &ShutdownHandle) -> io::Result<()> {
                    self.run(shutdown)
                }
            }
        )*
    };
}

event_loops! {
    (edge_triggered) (level_triggered) (mio_loop) (own_executor)
    Ok(without_wakers)
}
