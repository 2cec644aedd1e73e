//! Loops that fail, and what the testkit says.

use std::{io, net::SocketAddr};

use rustix::time::{ClockId, clock_gettime};
use wirestate_core::shutdown::ShutdownHandle;
use wirestate_testkit::event_loop::{EventLoop, Factory, Scene};

/// A loop that ends before the shutdown.
struct EndsWithAnError;

impl EventLoop for EndsWithAnError {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    fn listen(&mut self, _: Factory) -> io::Result<SocketAddr> {
        Ok(([127, 0, 0, 1], 0).into())
    }

    fn run(&mut self, _: &ShutdownHandle) -> io::Result<()> {
        Err(io::Error::other("planted"))
    }
}

#[test]
#[should_panic(expected = "scene ShutdownWhileIdle: the loop has failed: planted\nlook at this: ")]
fn a_failure_names_the_scene_the_cause_and_what_to_look_at() {
    Scene::ShutdownWhileIdle.play::<EndsWithAnError>();
}

/// The loop of the example, which keeps its CPU busy.
struct Spins(crate::loops::without_wakers::EventLoop);

impl EventLoop for Spins {
    fn new() -> io::Result<Self> {
        <crate::loops::without_wakers::EventLoop as EventLoop>::new().map(Self)
    }

    fn listen(&mut self, machine: Factory) -> io::Result<SocketAddr> {
        self.0.listen(machine)
    }

    fn run(&mut self, shutdown: &ShutdownHandle) -> io::Result<()> {
        // On a busy machine this takes longer than it takes CPU time.
        while clock_gettime(ClockId::ThreadCPUTime).tv_nsec < 200_000_000 {}
        self.0.run(shutdown)
    }
}

#[test]
#[should_panic(expected = "of CPU time, more than 100ms")]
fn a_loop_that_is_busy_while_it_waits_is_found() {
    Scene::ResetDuringRequest.play::<Spins>();
}
