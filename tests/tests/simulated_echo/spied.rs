//! A machine that somebody listens in on.

use std::task::Context;

use wirestate_core::{Instant, Interest, Lost, Machine, Status, Way};

/// A machine, and who is told what it is told.
pub(crate) struct Spied<M, F> {
    machine: M,
    spy: F,
}

/// What a machine is told of its input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told<'a> {
    Read(&'a [u8]),
    Eof,
    Lost(Way, Lost),
}

impl<M: Machine, F: FnMut(Told<'_>)> Spied<M, F> {
    pub(crate) fn new(machine: M, spy: F) -> Self {
        Self { machine, spy }
    }

    pub(crate) fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }
}

impl<M: Machine, F: FnMut(Told<'_>)> Machine for Spied<M, F> {
    type Reason = M::Reason;

    fn interest(&self) -> Interest {
        self.machine.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.machine.read_buf()
    }

    fn handle_read(&mut self, now: Instant, n: usize) {
        (self.spy)(Told::Read(&self.machine.read_buf()[..n]));
        self.machine.handle_read(now, n);
    }

    fn handle_eof(&mut self, now: Instant) {
        (self.spy)(Told::Eof);
        self.machine.handle_eof(now);
    }

    fn handle_lost(&mut self, now: Instant, way: Way, why: Lost) {
        (self.spy)(Told::Lost(way, why));
        self.machine.handle_lost(now, way, why);
    }

    fn release(&mut self) {
        self.machine.release();
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.machine.write_bufs(out)
    }

    fn handle_written(&mut self, now: Instant, n: usize) {
        self.machine.handle_written(now, n);
    }

    fn handle_finished(&mut self, now: Instant) {
        self.machine.handle_finished(now);
    }

    fn shut_down(&mut self, now: Instant) {
        self.machine.shut_down(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        self.machine.handle_timeout(now, unacknowledged);
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
