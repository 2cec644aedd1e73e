//! Scripted peers, which may do what a correct machine never does.

use std::{fmt, time::Duration};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;
use wirestate_core::{ConnectionError, drive::Sink};

use super::{Barrier, Excerpt, Host, Socket};

/// A step of a scripted peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Sends all of these bytes.
    Send(Bytes),
    /// Receives this many bytes, or fewer if the input ends.
    Receive(usize),
    /// Receives up to and including the next occurrence of these bytes, or less if the input ends.
    /// Bytes that an earlier act has received do not count.
    ReceiveUntil(Bytes),
    /// Receives this many lines, each up to and including `\n`, or fewer if the input ends.
    ReceiveLines(usize),
    /// Receives until the end of the input.
    ReceiveAll,
    /// Waits until all peers of the barrier have reached it. A peer whose acts end early counts as
    /// one that has reached all its barriers.
    Barrier(Barrier),
    /// Waits, without reading.
    Wait(Duration),
    /// Sends a FIN. The peer can still receive.
    Finish,
    /// Resets the connection. Later acts are skipped.
    Reset,
}

impl Act {
    /// The act as in Rust, with the first 24 of the `len` bytes that it sends.
    fn text(&self, len: usize) -> String {
        match self {
            Self::Send(bytes) if len > 4 && bytes[..len].iter().all(|byte| *byte == bytes[0]) => {
                format!("Send([{:#04x}; {len}])", bytes[0])
            }
            Self::Send(bytes) => format!("Send({:?})", Excerpt::of(&bytes[..len])),
            Self::Barrier(_) => "Barrier".to_owned(),
            Self::Receive(_)
            | Self::ReceiveUntil(_)
            | Self::ReceiveLines(_)
            | Self::ReceiveAll
            | Self::Wait(_)
            | Self::Finish
            | Self::Reset => format!("{self:?}"),
        }
    }

    /// Keeps the other peers of a barrier from waiting for this one.
    fn leave_out(self) {
        if let Self::Barrier(barrier) = self {
            barrier.arrive();
        }
    }
}

/// What a scripted peer has received.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// The received bytes.
    pub bytes: Vec<u8>,
    /// Whether the other end's FIN was received.
    pub fin: bool,
    /// The error that ended the acts early.
    pub error: Option<ConnectionError>,
}

impl fmt::Debug for Received {
    /// Shows the bytes as `b"…"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, fin, error } = self;
        f.debug_struct("Received")
            .field("bytes", &format_args!("b\"{}\"", bytes.escape_ascii()))
            .field("fin", fin)
            .field("error", error)
            .finish()
    }
}

/// Performs `acts` on `socket` in order, then closes it.
pub async fn act(host: Host, mut socket: Socket, acts: Vec<Act>) -> Received {
    let mut received = Received::default();
    let mut acts = acts.into_iter();
    for (number, act) in (0..).zip(acts.by_ref()) {
        let len = if let Act::Send(bytes) = &act { bytes.len() } else { 0 };
        let Some(len) = socket.decide_act(number, len, |len| act.text(len)) else {
            act.leave_out();
            continue;
        };
        let result = match act {
            Act::Send(bytes) => socket.send(&bytes[..len]).await,
            Act::Receive(n) => receive(&mut socket, n, &mut received).await,
            Act::ReceiveUntil(bytes) => receive_until(&mut socket, &bytes, 1, &mut received).await,
            Act::ReceiveLines(n) => receive_until(&mut socket, b"\n", n, &mut received).await,
            Act::ReceiveAll => receive(&mut socket, usize::MAX, &mut received).await,
            Act::Barrier(barrier) => {
                barrier.wait().await;
                Ok(())
            }
            Act::Wait(duration) => {
                host.sleep(duration).await;
                Ok(())
            }
            Act::Finish => socket.finish().await,
            Act::Reset => {
                socket.reset();
                break;
            }
        };
        if let Err(error) = result {
            received.error = Some(error);
            break;
        }
    }
    acts.for_each(Act::leave_out);
    received
}

/// Random acts of a misbehaving peer, from `seed`.
///
/// It sends without reading the replies, waits for bytes that never come, sleeps for up to a minute
/// at a time, and ends its output or resets at any point.
pub fn misbehaving(seed: u64) -> Vec<Act> {
    let rng = &mut XorShiftRng::seed_from_u64(seed);
    let mut finished = false;
    let mut acts = Vec::new();
    for _ in 0..rng.random_range(1..=12) {
        acts.push(match rng.random_range(0..8) {
            0..=2 if !finished => {
                let byte = rng.random();
                Act::Send(vec![byte; rng.random_range(1..=20_000)].into())
            }
            0..=4 => Act::Receive(rng.random_range(1..=20_000)),
            5 => Act::Wait(Duration::from_millis(rng.random_range(1..=60_000))),
            6 if !finished => {
                finished = true;
                Act::Finish
            }
            6 => Act::ReceiveAll,
            _ => {
                acts.push(Act::Reset);
                break;
            }
        });
    }
    acts
}

async fn receive(
    socket: &mut Socket,
    mut max: usize,
    received: &mut Received,
) -> Result<(), ConnectionError> {
    let mut buf = [0; 4096];
    while max > 0 && !received.fin {
        let space = buf.len().min(max);
        let n = socket.receive(&mut buf[..space]).await?;
        received.bytes.extend_from_slice(&buf[..n]);
        received.fin = n == 0;
        max -= n;
    }
    Ok(())
}

/// Receives up to and including the `count`th occurrence of `delimiter`.
async fn receive_until(
    socket: &mut Socket,
    delimiter: &[u8],
    count: usize,
    received: &mut Received,
) -> Result<(), ConnectionError> {
    for _ in 0..count {
        if received.fin {
            break;
        }
        received.fin = !socket.receive_until(delimiter, &mut received.bytes).await?;
    }
    Ok(())
}
