//! Moving bytes through a machine without a socket.

use bytes::Bytes;

use super::MAX_SLICES;
use crate::{Event, Instant, Machine, Outbound};

/// Hands `input` to the machine, as much as it takes, and moves `input` past that. For wrappers,
/// tests, and IO that owns its buffers.
///
/// It stops where the machine withdraws [`read`](crate::Interest::read). With input left over, take
/// the machine's output ([`collect_into`]), call [`poll_shared`](Machine::poll_shared) until it
/// returns false, and feed the rest. A machine whose room for input depends on others, such as the
/// [upstream](crate::fanout::Upstream) of a fan-out, takes one read after each `poll_shared` that
/// grants it, and none before the first.
pub fn deliver<M: Machine>(machine: &mut M, input: &mut &[u8], now: Instant) {
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

/// Copies the machine's output to the front of `output`, reports it by [`Event::Written`], and
/// returns how many bytes that is: fewer than `output.len()` if the machine has no more.
///
/// A FIN or an RST that the machine wants to send is left to the caller.
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

/// Moves at most `most` bytes of the machine's output to the front of `output`, reports them by
/// [`Event::Written`], and returns how many buffers they fill. For writes that complete later: the
/// caller keeps the buffers until then ([`write_owned`](Machine::write_owned)).
///
/// It stops where the machine has no more output, `output` is full or `most` is reached. A FIN that
/// the machine wants to send, behind these writes, or an RST is left to the caller.
pub fn collect_owned<M: Machine>(
    machine: &mut M,
    output: &mut [Bytes],
    most: usize,
    now: Instant,
) -> usize {
    let (mut count, mut left) = (0, most);
    while count < output.len() && left > 0 && machine.interest().write == Outbound::Flush {
        let new = machine.write_owned(&mut output[count..], left);
        let bytes: usize = output[count..count + new].iter().map(Bytes::len).sum();
        debug_assert!(bytes > 0, "a machine that wants to flush must have output");
        machine.handle(now, Event::Written(bytes));
        count += new;
        left -= bytes;
    }
    count
}
