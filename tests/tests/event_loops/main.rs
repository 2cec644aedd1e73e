//! The scenes of the testkit with several event loops: those of `core/examples`, and an
//! edge-triggered one that keeps each [`Seat`](wirestate_core::drive::Seat) by itself.

#![expect(clippy::duplicate_mod, reason = "each example has the demonstration as its module")]

mod edge_triggered;
mod failing;
#[path = "../../../core/examples/foreign_loop.rs"]
mod level_triggered;
#[path = "../../../core/examples/mio_loop.rs"]
mod mio_loop;
#[path = "../../../core/examples/executor/main.rs"]
mod own_executor;
#[path = "../../../core/examples/tcp_socket/mod.rs"]
mod tcp_socket;
#[path = "../../../core/examples/without_wakers.rs"]
mod without_wakers;

use std::{io, net::SocketAddr};

use wirestate_core::{
    admission::{ConnectionTable, Limits},
    shutdown::ShutdownHandle,
};
use wirestate_testkit::event_loop::{self, EventLoop, Factory};

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

            #[test]
            fn $event_loop() {
                event_loop::check::<$event_loop::EventLoop>();
            }
        )*
    };
}

event_loops! {
    (edge_triggered) (level_triggered) (mio_loop) (own_executor)
    Ok(without_wakers)
}

#[test]
fn the_examples_serve_their_clients() {
    level_triggered::main().unwrap();
    mio_loop::main().unwrap();
    own_executor::main().unwrap();
    without_wakers::main().unwrap();
}
