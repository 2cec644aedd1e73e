//! Moves bytes through a machine without a socket.

use bytes::Bytes;

use crate::{Event, Instant, Machine, Outbound, machine::MAX_SLICES};

/// Delivers `input` to the machine, until the machine withdraws [`read`](crate::Interest::read),
/// and advances `input` past the delivered bytes. For wrappers, tests, and IO that owns its
/// buffers.
///
/// If input remains, collect the machine's output ([`collect_into`]), call
/// [`poll_shared`](Machine::poll_shared) until it returns false, and deliver the rest. A machine
/// whose capacity for input depends on others, such as the [upstream](crate::fanout::Upstream) of a
/// fan-out, accepts one read after each `poll_shared` that grants it, and none before the first.
pub fn deliver<M: Machine>(machine: &mut M, input: &mut &[u8], now: Instant) {
    while !input.is_empty() && machine.interest().read {
        let buf = machine.read_buf();
        debug_assert!(!buf.is_empty(), "a machine that wants to read must offer a buffer");
        let n = buf.len().min(input.len());
        let (delivered, rest) = input.split_at(n);
        buf[..n].copy_from_slice(delivered);
        machine.handle(now, Event::Read(n));
        *input = rest;
    }
}

/// Copies the machine's output to the front of `output`, reports it by [`Event::Written`], and
/// returns the number of bytes: fewer than `output.len()` if the machine has no more.
///
/// If the machine wants to send a FIN or an RST, the caller does that.
pub fn collect_into<M: Machine>(machine: &mut M, output: &mut [u8], now: Instant) -> usize {
    let mut filled = 0;
    while filled < output.len() && machine.interest().write == Outbound::Flush {
        let mut bufs = [&[][..]; MAX_SLICES];
        let count = machine.write_bufs(&mut bufs);
        let before = filled;
        for buf in &bufs[..count] {
            let n = buf.len().min(output.len() - filled);
            output[filled..filled + n].copy_from_slice(&buf[..n]);
            filled += n;
        }
        debug_assert!(filled > before, "a machine that wants to flush must have output");
        machine.handle(now, Event::Written(filled - before));
    }
    filled
}

/// Moves at most `max` bytes of the machine's output to the front of `output`, reports them by
/// [`Event::Written`], and returns the number of buffers. For writes that complete later: the
/// caller keeps the buffers until then ([`write_owned`](Machine::write_owned)).
///
/// It stops when the machine has no more output, when `output` is full, or at `max` bytes. If the
/// machine wants to send a FIN or an RST, the caller does that after these writes.
pub fn collect_owned<M: Machine>(
    machine: &mut M,
    output: &mut [Bytes],
    max: usize,
    now: Instant,
) -> usize {
    let (mut count, mut remaining) = (0, max);
    while count < output.len() && remaining > 0 && machine.interest().write == Outbound::Flush {
        let new = machine.write_owned(&mut output[count..], remaining);
        let bytes: usize = output[count..count + new].iter().map(Bytes::len).sum();
        debug_assert!(bytes > 0, "a machine that wants to flush must have output");
        machine.handle(now, Event::Written(bytes));
        count += new;
        remaining -= bytes;
    }
    count
}
