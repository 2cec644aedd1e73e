//! What happens to a connection, drawn from bytes: of each step the first byte says what it is.

use std::{fmt, thread, time::Duration};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use wirestate_core::{
    ConnectionError, Direction, Machine, Outbound,
    message::{ByteOrder, Limits, Message},
};

use wirestate_testkit::script::{Op, Player};

/// What happens to any of the two sides.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The peer sends these bytes; they arrive later.
    Send(Bytes),
    /// So many bytes of what the peer has sent arrive.
    Deliver(usize),
    Happen(Op),
}

/// So many kinds of steps are here.
pub(super) const KINDS: u8 = 16;

/// A step of this kind.
pub(super) fn step(kind: u8, u: &mut Unstructured<'_>) -> Result<Step> {
    Ok(match kind {
        0 | 1 => Step::Send(frame(u)?.into()),
        2 => {
            let length = usize::from(u.arbitrary::<u8>()? % 48).min(u.len());
            Step::Send(Bytes::copy_from_slice(u.bytes(length)?))
        }
        3 => Step::Deliver(usize::from(u.arbitrary::<u8>()?)),
        4 => Step::Deliver(usize::MAX),
        5 => Step::Happen(Op::Accept(usize::from(u.arbitrary::<u8>()?))),
        6 => Step::Happen(Op::Accept(usize::MAX)),
        7 => Step::Happen(Op::Finished),
        8 => Step::Happen(Op::Advance(TIMES[usize::from(u.arbitrary::<u8>()?) % TIMES.len()])),
        9 => Step::Happen(Op::Timeout),
        10 => Step::Happen(Op::SpuriousTimeout),
        11 => Step::Happen(Op::Release),
        12 => Step::Happen(Op::ShutDown),
        13 => Step::Happen(Op::Eof),
        14 => Step::Happen(Op::Error(Direction::Read, lost(u)?)),
        _ => Step::Happen(Op::Error(Direction::Write, lost(u)?)),
    })
}

/// What a step is about a moment later, and long enough for every limit.
const TIMES: [Duration; 6] = [
    Duration::from_nanos(1),
    Duration::from_millis(5),
    Duration::from_millis(300),
    Duration::from_secs(2),
    Duration::from_secs(8),
    Duration::from_secs(100),
];

fn lost(u: &mut Unstructured<'_>) -> Result<ConnectionError> {
    Ok(match u.arbitrary::<u8>()? % 5 {
        0 => ConnectionError::Reset,
        1 => ConnectionError::TimedOut,
        2 => ConnectionError::Unreachable,
        3 => ConnectionError::WriteZero,
        _ => ConnectionError::Other { errno: 5 },
    })
}

/// A frame, as a peer may send it.
fn frame(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let kind = u.arbitrary::<u8>()?;
    let content_type = ["binary/n", "binary/l", "binary/s", "text/json"][usize::from(kind % 4)];
    let byteorder = if kind & 4 == 0 { ByteOrder::Little } else { ByteOrder::Big };
    let content = content(u)?;
    let message = Message { byteorder, ..Message::new(content_type, "binary", content) };
    Ok(encoded(&message))
}

/// A content: a drawn byte, with others in between that tell one place from another.
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

/// Limits on what may arrive, and the size of a receive buffer, drawn.
pub(super) fn limits(u: &mut Unstructured<'_>) -> Result<(Limits, usize)> {
    let choice = usize::from(u.arbitrary::<u8>()?);
    let limits =
        Limits { header: [120, 4096][choice & 1], content: [300, 4096, 0, 30][choice >> 1 & 3] };
    Ok((limits, [1, 200, 8192][(choice >> 3) % 3]))
}

/// The peer's bytes on their way, and the machine that they arrive at.
#[derive(Debug)]
pub(super) struct Stage<'a, M> {
    pub(super) player: Player<'a, M>,
    /// What the peer has sent and has not arrived.
    under_way: Vec<u8>,
}

impl<'a, M: Machine> Stage<'a, M> {
    pub(super) fn new(machine: &'a mut M) -> Self {
        Self { player: Player::new(machine), under_way: Vec::new() }
    }

    pub(super) fn play(&mut self, step: &Step) {
        match step {
            Step::Send(bytes) => self.under_way.extend_from_slice(bytes),
            Step::Deliver(n) => {
                let n = self.under_way.len().min(*n);
                let arrived = self.under_way.drain(..n).collect();
                self.player.play(&Op::Receive(arrived));
            }
            Step::Happen(op) => self.player.play(op),
        }
    }

    pub(super) fn is_done(&mut self) -> bool {
        self.player.machine().interest().is_done()
    }

    /// The peer is gone without a word: only time passes. The machine must come to an end.
    pub(super) fn abandon(&mut self) {
        for _ in 0..MOST_DEADLINES {
            let machine = self.player.machine();
            let (interest, status) = (machine.interest(), machine.status());
            let op = match interest.write {
                Outbound::Finish | Outbound::Reset => Op::Finished,
                Outbound::Idle | Outbound::Flush | Outbound::Finished => {
                    if interest.is_done() {
                        return;
                    }
                    let deadline = self.player.machine().poll_timeout();
                    assert!(deadline.is_some(), "it waits without a deadline: {status:?}");
                    Op::Timeout
                }
            };
            self.player.play(&op);
        }
        panic!("nobody is there, and it is not done after {MOST_DEADLINES} deadlines");
    }
}

/// More than enough: each of the few deadlines may be moved by a few events.
const MOST_DEADLINES: usize = 100;

/// Shows what was drawn where playing it panics.
pub(super) struct Shown<'a>(pub(super) &'a dyn fmt::Debug);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("played: {:#?}", self.0);
        }
    }
}
