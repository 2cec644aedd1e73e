//! Moving bytes through a machine without a socket.

use alloc::vec::Vec;

use super::MAX_SLICES;
use crate::{Event, Instant, Machine, Outbound};

/// Hands `input` to the machine, as much as it will take, and moves `input` past that.
///
/// What is left in `input` is backpressure: the machine wants something else first, most often to
/// be rid of output ([`collect`]). For wrappers, tests, and IO that owns its buffers.
pub fn feed<M: Machine>(machine: &mut M, input: &mut &[u8], now: Instant) {
    while !input.is_empty() && machine.interest().read {
        let buf = machine.read_buf();
        debug_assert!(!buf.is_empty(), "a machine that wants to read must have room");
        let n = buf.len().min(input.len());
        let (taken, rest) = input.split_at(n);
        buf[..n].copy_from_slice(taken);
        machine.handle(now, Event::Read(n));
        *input = rest;
    }
}

/// Takes all output that the machine has now, appends it to `output`, and says so to the machine.
///
/// A FIN or an RST that the machine wants to send is left to the caller. A machine whose output
/// has no end fills the memory: take such a one's output by
/// [`write_bufs`](Machine::write_bufs) itself.
pub fn collect<M: Machine>(machine: &mut M, output: &mut Vec<u8>, now: Instant) {
    while machine.interest().write == Outbound::Flush {
        let mut bufs = [&[][..]; MAX_SLICES];
        let count = machine.write_bufs(&mut bufs);
        let before = output.len();
        for buf in &bufs[..count] {
            output.extend_from_slice(buf);
        }
        let n = output.len() - before;
        debug_assert!(n > 0, "a machine that wants to flush must have something to flush");
        machine.handle(now, Event::Written(n));
    }
}
