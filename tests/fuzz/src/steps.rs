//! The steps of a connection, decoded from bytes: the first byte of each step is its kind.

use std::{fmt, thread, time::Duration};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use wirestate_core::{
    ConnectionError, Direction, Machine, Outbound,
    message::{ByteOrder, FrameLimits, Message},
};

use wirestate_testkit::script::{Op, Player};

/// A step of a server's or a client's connection.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The peer sends these bytes. They arrive later.
    Send(Bytes),
    /// At most this many of the bytes that the peer has sent arrive.
    Deliver(usize),
    /// An op of a script.
    Op(Op),
}

/// The number of kinds of steps.
pub(super) const KINDS: u8 = 16;

/// Decodes a step of this kind.
pub(super) fn step(kind: u8, u: &mut Unstructured<'_>) -> Result<Step> {
    Ok(match kind {
        0 | 1 => Step::Send(frame(u)?.into()),
        2 => {
            let length = usize::from(u.arbitrary::<u8>()? % 48).min(u.len());
            Step::Send(Bytes::copy_from_slice(u.bytes(length)?))
        }
        3 => Step::Deliver(usize::from(u.arbitrary::<u8>()?)),
        4 => Step::Deliver(usize::MAX),
        5 => Step::Op(Op::Accept(usize::from(u.arbitrary::<u8>()?))),
        6 => Step::Op(Op::Accept(usize::MAX)),
        7 => Step::Op(Op::Finished),
        8 => Step::Op(Op::Advance(TIMES[usize::from(u.arbitrary::<u8>()?) % TIMES.len()])),
        9 => Step::Op(Op::Timeout),
        10 => Step::Op(Op::SpuriousTimeout),
        11 => Step::Op(Op::Release),
        12 => Step::Op(Op::ShutDown),
        13 => Step::Op(Op::Eof),
        14 => Step::Op(Op::Error(Direction::Read, error(u)?)),
        _ => Step::Op(Op::Error(Direction::Write, error(u)?)),
    })
}

/// The durations of steps, from a nanosecond to more than every time limit.
const TIMES: [Duration; 6] = [
    Duration::from_nanos(1),
    Duration::from_millis(5),
    Duration::from_millis(300),
    Duration::from_secs(2),
    Duration::from_secs(8),
    Duration::from_secs(100),
];

fn error(u: &mut Unstructured<'_>) -> Result<ConnectionError> {
    Ok(match u.arbitrary::<u8>()? % 5 {
        0 => ConnectionError::Reset,
        1 => ConnectionError::TimedOut,
        2 => ConnectionError::Unreachable,
        3 => ConnectionError::WriteZero,
        _ => ConnectionError::Other { errno: 5 },
    })
}

/// Decodes a frame of the peer.
fn frame(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let kind = u.arbitrary::<u8>()?;
    let content_type = ["binary/n", "binary/l", "binary/s", "text/json"][usize::from(kind % 4)];
    let byteorder = if kind & 4 == 0 { ByteOrder::Little } else { ByteOrder::Big };
    let content = content(u)?;
    let message = Message { byteorder, ..Message::new(content_type, "binary", content) };
    Ok(encoded(&message))
}

/// Decodes a content: one byte repeated, with other bytes in between that identify positions.
pub(super) fn content(u: &mut Unstructured<'_>) -> Result<Bytes> {
    let length = match u.arbitrary::<u8>()? {
        length @ 0..192 => usize::from(length),
        length => usize::from(length - 191) * 64,
    };
    let first = u.arbitrary::<u8>()?;
    let mut content = vec![first; length];
    for (at, byte) in content.iter_mut().enumerate().skip(1).step_by(7) {
        *byte = at.to_le_bytes()[0];
    }
    Ok(content.into())
}

/// The bytes of a message whose header is short.
pub(super) fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    message.encode(&mut frame).expect("the header is short");
    frame
}

/// Decodes the limits on messages, and the size of a receive buffer.
pub(super) fn limits(u: &mut Unstructured<'_>) -> Result<(FrameLimits, usize)> {
    let choice = usize::from(u.arbitrary::<u8>()?);
    let limits = FrameLimits::new([120, 4096][choice & 1], [300, 4096, 0, 30][choice >> 1 & 3]);
    Ok((limits, [1, 200, 8192][(choice >> 3) % 3]))
}

/// A machine, and the bytes of its peer that are in flight.
#[derive(Debug)]
pub(super) struct Stage<'a, M> {
    pub(super) player: Player<'a, M>,
    /// Bytes that the peer has sent and that have not arrived.
    in_flight: Vec<u8>,
}

impl<'a, M: Machine> Stage<'a, M> {
    pub(super) fn new(machine: &'a mut M) -> Self {
        Self { player: Player::new(machine), in_flight: Vec::new() }
    }

    pub(super) fn play(&mut self, step: &Step) {
        match step {
            Step::Send(bytes) => self.in_flight.extend_from_slice(bytes),
            Step::Deliver(n) => {
                let n = self.in_flight.len().min(*n);
                let arrived = self.in_flight.drain(..n).collect();
                self.player.play(&Op::Receive(arrived));
            }
            Step::Op(op) => self.player.play(op),
        }
    }

    pub(super) fn is_done(&mut self) -> bool {
        self.player.machine().interest().is_done()
    }

    /// Lets only time pass, as if the peer were gone. Checks that the machine ends.
    pub(super) fn abandon(&mut self) {
        for _ in 0..MAX_DEADLINES {
            let machine = self.player.machine();
            let (interest, status) = (machine.interest(), machine.status());
            let op = match interest.write {
                Outbound::Finish | Outbound::Reset => Op::Finished,
                Outbound::Idle | Outbound::Flush | Outbound::Finished => {
                    if interest.is_done() {
                        return;
                    }
                    let deadline = self.player.machine().poll_timeout();
                    assert!(deadline.is_some(), "the machine waits without a deadline: {status:?}");
                    Op::Timeout
                }
            };
            self.player.play(&op);
        }
        panic!("the peer is gone, but the machine has not ended after {MAX_DEADLINES} deadlines");
    }
}

/// The most deadlines until a machine ends.
const MAX_DEADLINES: usize = 100;

/// Prints a decoded case if the thread panics while it is played.
pub(super) struct PrintOnPanic<'a>(pub(super) &'a dyn fmt::Debug);

impl Drop for PrintOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the decoded case: {:#?}", self.0);
        }
    }
}
