//! A machine whose input is observed.

use std::task::Context;

use bytes::Bytes;
use wirestate_core::{ConnectionError, Direction, Event, Instant, Interest, Machine, Status};

/// A machine, and a function that is called with its input.
pub(crate) struct Observed<M, F> {
    machine: M,
    observe: F,
}

/// Input of a machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input<'a> {
    Read(&'a [u8]),
    Eof,
    Error(Direction, ConnectionError),
}

impl<M: Machine, F: FnMut(Input<'_>)> Observed<M, F> {
    pub(crate) fn new(machine: M, observe: F) -> Self {
        Self { machine, observe }
    }

    pub(crate) fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }
}

#[deny(clippy::missing_trait_methods, reason = "a method that is not forwarded has no effect")]
impl<M: Machine, F: FnMut(Input<'_>)> Machine for Observed<M, F> {
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

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.machine.write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => (self.observe)(Input::Read(&self.machine.read_buf()[..n])),
            Event::Eof => (self.observe)(Input::Eof),
            Event::Error(direction, error) => (self.observe)(Input::Error(direction, error)),
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
