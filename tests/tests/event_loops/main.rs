//! The scenes of the testkit with several event loops: those of `core/examples`, and an
//! edge-triggered one that keeps each [`Seat`](wirestate_core::drive::Seat) by itself.

#![expect(clippy::duplicate_mod, reason = "each example has the demonstration as its module")]

mod edge_triggered;
#[path = "../../../core/examples/foreign_loop.rs"]
mod level_triggered;
#[path = "../../../core/examples/mio_loop.rs"]
mod mio_loop;

use std::{io, net::SocketAddr};

use wirestate_core::{
    admission::{ConnectionTable, Limits},
    shutdown::ShutdownHandle,
};
use wirestate_testkit::event_loop::{EventLoop, Factory, Scene};

/// Plays each scene with the loop of a module, in a module of tests.
macro_rules! scenes {
    ($tests:ident, $event_loop:ident) => {
        impl EventLoop for $event_loop::EventLoop {
            fn new() -> io::Result<Self> {
                Self::new(ConnectionTable::new(Limits::default()))
            }

            fn listen(&mut self, machine: Factory) -> io::Result<SocketAddr> {
                self.listen(machine)
            }

            fn run(&mut self, shutdown: &ShutdownHandle) -> io::Result<()> {
                self.run(shutdown)
            }
        }

        mod $tests {
            use super::{Scene, $event_loop::EventLoop};

            scenes! {
                EventLoop;
                echo_in_pieces EchoInPieces
                half_close HalfClose
                replies_from_another_thread RepliesFromAnotherThread
                fan_out FanOut
                resets Resets
                flood_beside_another FloodBesideAnother
                flood_past_deadline FloodPastDeadline
                idle_deadline IdleDeadline
                reset_during_request ResetDuringRequest
                shutdown_during_request ShutdownDuringRequest
                shutdown_while_idle ShutdownWhileIdle
            }
        }
    };
    ($event_loop:ty; $($test:ident $scene:ident)*) => {
        #[test]
        fn every_scene_has_a_test() {
            assert_eq!(Scene::ALL, [$(Scene::$scene),*]);
        }

        $(
            #[test]
            fn $test() {
                Scene::$scene.play::<$event_loop>();
            }
        )*
    };
}

#[test]
fn the_examples_serve_their_clients() {
    level_triggered::main().unwrap();
    mio_loop::main().unwrap();
}

scenes!(level, level_triggered);
scenes!(edge, edge_triggered);
scenes!(mio, mio_loop);
