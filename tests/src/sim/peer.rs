//! Peers without a machine, that do as they are told: what a well-behaved machine never does.

use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;
use wirestate_core::{ConnectionError, drive::Sink};

use super::{Host, Socket};

/// Something that a peer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Sends these bytes, for as long as that takes.
    Send(Bytes),
    /// Receives so many bytes, or up to the end of the input.
    Receive(usize),
    /// Receives up to the end of the input.
    ReceiveAll,
    /// Does nothing for a while: reads nothing either.
    Wait(Duration),
    /// Sends a FIN, and can go on receiving.
    Finish,
    /// Resets the connection. The last act.
    Reset,
}

/// What a peer has heard by the end of its acts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The other end's FIN.
    pub fin: bool,
    /// The connection was lost, and what was still to be done was not done.
    pub lost: Option<ConnectionError>,
}

/// Does `acts` on `socket`, one after the other, then closes it.
pub async fn act(host: Host, mut socket: Socket, acts: Vec<Act>) -> Heard {
    let mut heard = Heard::default();
    for act in acts {
        let done = match act {
            Act::Send(bytes) => socket.send(&bytes).await,
            Act::Receive(n) => receive(&mut socket, n, &mut heard).await,
            Act::ReceiveAll => receive(&mut socket, usize::MAX, &mut heard).await,
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
        if let Err(why) = done {
            heard.lost = Some(why);
            break;
        }
    }
    heard
}

/// What a peer without manners does, drawn from `seed`: it sends what it does not read back, reads
/// what nobody sends, sleeps for up to a minute at a time, closes or resets wherever it stands.
pub fn rude(seed: u64) -> Vec<Act> {
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
    mut n: usize,
    heard: &mut Heard,
) -> Result<(), ConnectionError> {
    let mut buf = [0; 4096];
    while n > 0 && !heard.fin {
        let room = buf.len().min(n);
        let received = socket.receive(&mut buf[..room]).await?;
        heard.bytes.extend_from_slice(&buf[..received]);
        heard.fin = received == 0;
        n -= received;
    }
    Ok(())
}
