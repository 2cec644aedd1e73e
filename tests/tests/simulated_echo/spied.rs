//! A wrapper that reports the events of a machine.

use std::task::Context;

use bytes::Bytes;
use wirestate_core::{ConnectionError, Direction, Event, Instant, Interest, Machine, Status};

/// A machine, and a callback for its input events.
pub(crate) struct Spied<M, F> {
    machine: M,
    spy: F,
}

/// An input event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told<'a> {
    Read(&'a [u8]),
    Eof,
    Lost(Direction, ConnectionError),
}

impl<M: Machine, F: FnMut(Told<'_>)> Spied<M, F> {
    pub(crate) fn new(machine: M, spy: F) -> Self {
        Self { machine, spy }
    }

    pub(crate) fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }
}

#[deny(clippy::missing_trait_methods, reason = "a default method would hide the machine's own")]
impl<M: Machine, F: FnMut(Told<'_>)> Machine for Spied<M, F> {
    type Reason = M::Reason;

    fn interest(&self) -> Interest {
        self.machine.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.machine.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.machine.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], most: usize) -> usize {
        self.machine.write_owned(out, most)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => (self.spy)(Told::Read(&self.machine.read_buf()[..n])),
            Event::Eof => (self.spy)(Told::Eof),
            Event::Error(way, why) => (self.spy)(Told::Lost(way, why)),
            Event::Written(_)
            | Event::Finished
            | Event::Timeout { .. }
            | Event::ShutDown
            | Event::Release => {}
        }
        self.machine.handle(now, event);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.machine.poll_shared(now, cx)
    }

    fn work(&self) -> u64 {
        self.machine.work()
    }

    fn status(&self) -> Status {
        self.machine.status()
    }

    fn reason(&self) -> Option<M::Reason> {
        self.machine.reason()
    }
}
