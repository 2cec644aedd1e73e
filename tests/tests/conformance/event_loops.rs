//! The event loops of the examples, each on a thread of its own.

use std::{
    io,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use wirestate_core::{Erased, Instant, Machine, shutdown::ShutdownHandle};
use wirestate_testkit::event_loop::{EventLoop, Factory};

use crate::{
    loops::{edge_triggered, level_triggered, mio_loop, own_executor, without_wakers},
    program::{Plays, Program},
    sockets::Running,
};

/// A program for each loop. It listens for each of the factories: for clients, and for what
/// publishes to them.
pub(crate) fn programs(factories: fn() -> Vec<Factory>) -> Vec<Program> {
    vec![
        program::<edge_triggered::EventLoop>("edge-triggered loop", factories),
        program::<level_triggered::EventLoop>("foreign_loop", factories),
        program::<mio_loop::EventLoop>("mio_loop", factories),
        program::<own_executor::EventLoop>("executor", factories),
        program::<without_wakers::EventLoop>("without_wakers", factories),
    ]
}

fn program<L: EventLoop>(name: &'static str, factories: fn() -> Vec<Factory>) -> Program {
    Program { name, plays: Plays::OnSockets(Box::new(move |_| Some(start::<L>(factories())))) }
}

/// A factory for any machine.
pub(crate) fn factory<M: Machine + 'static>(
    mut machine: impl FnMut(Instant) -> M + Send + 'static,
) -> Factory {
    Box::new(move |now| Box::new(Erased(machine(now))))
}

/// A loop that ends when this is dropped.
struct Serving {
    shutdown: ShutdownHandle,
    thread: Option<JoinHandle<io::Result<()>>>,
}

fn start<L: EventLoop>(factories: Vec<Factory>) -> Running {
    let (listening, addresses) = mpsc::channel();
    let shutdown = ShutdownHandle::new();
    let requested = shutdown.clone();
    let thread = thread::spawn(move || {
        let mut event_loop = L::new()?;
        for factory in factories {
            let address = event_loop.listen(factory)?.to_string();
            listening.send(address).expect("the test waits for the address");
        }
        drop(listening);
        event_loop.run(&requested)
    });
    let address = addresses.recv().expect("the loop listens");
    let publish = addresses.recv().ok();
    Running { address, publish, _process: Box::new(Serving { shutdown, thread: Some(thread) }) }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.shutdown.drain();
        // After a failure, a connection may never end.
        if let Some(thread) = self.thread.take().filter(|_| !thread::panicking()) {
            thread.join().expect("the loop does not panic").expect("the loop does not fail");
        }
    }
}
