//! The machine of a client that subscribes.

use bytes::{Bytes, BytesMut};

use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Status,
};

/// A subscription, seen from the client: it only reads. [`take`](Self::take) hands over what has
/// come in; until then no more is read.
///
/// It holds a block of 256 KiB, of which what was handed over is a part.
#[derive(Debug)]
pub struct Receiver {
    block: BytesMut,
    filled: usize,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Open,
    Closing(ReceiverReason),
    Over(ReceiverReason),
}

/// Why a subscription ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiverReason {
    /// The server closed.
    #[error("the server closed the connection")]
    Closed,
    /// We were asked to end it, and did.
    #[error("closed")]
    ShutDown,
    /// The connection broke.
    #[error("{why} while {way}")]
    Lost {
        /// At a read or a write.
        way: Direction,
        /// How.
        why: ConnectionError,
    },
}

impl crate::Reason for ReceiverReason {
    fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ShutDown => "shut_down",
            Self::Lost { why, .. } => why.label(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Closed => Fault::Peer,
            Self::ShutDown => Fault::Asked,
            Self::Lost { .. } => Fault::Lost,
        }
    }
}

impl Receiver {
    /// A subscription on a new connection.
    pub fn new() -> Self {
        Self { block: BytesMut::new(), filled: 0, state: State::Open }
    }

    /// What has come in since the last time; `None` if nothing has.
    pub fn take(&mut self) -> Option<Bytes> {
        let filled = core::mem::take(&mut self.filled);
        (filled > 0).then(|| self.block.split_to(filled).freeze())
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine for Receiver {
    type Reason = ReceiverReason;

    fn interest(&self) -> Interest {
        match self.state {
            State::Open => Interest { read: self.filled == 0, write: Outbound::Idle },
            State::Closing(_) => Interest { read: false, write: Outbound::Finish },
            State::Over(_) => Interest::DONE,
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        if self.block.len() < LEAST_READ {
            self.block = BytesMut::zeroed(BLOCK);
        }
        &mut self.block
    }

    fn write_bufs<'a>(&'a self, _out: &mut [&'a [u8]]) -> usize {
        0
    }

    fn handle(&mut self, _now: Instant, event: Event) {
        match event {
            Event::Read(n) => {
                self.filled = n;
            }
            Event::Eof => {
                if let State::Open = self.state {
                    self.state = State::Closing(ReceiverReason::Closed);
                }
            }
            Event::Error(way, why) => {
                self.state = match self.state {
                    State::Open => State::Over(ReceiverReason::Lost { way, why }),
                    State::Closing(reason) | State::Over(reason) => State::Over(reason),
                };
            }
            Event::Finished => {
                if let State::Closing(reason) = self.state {
                    self.state = State::Over(reason);
                }
            }
            Event::ShutDown => {
                if let State::Open = self.state {
                    self.state = State::Closing(ReceiverReason::ShutDown);
                }
            }
            Event::Written(_) | Event::Timeout { .. } | Event::Release => {}
        }
    }

    fn status(&self) -> Status {
        let state = match self.state {
            State::Open => "open",
            State::Closing(_) => "closing",
            State::Over(_) => "over",
        };
        Status { state, queued: 0, lag: 0 }
    }

    fn reason(&self) -> Option<ReceiverReason> {
        match self.state {
            State::Over(reason) => Some(reason),
            State::Open | State::Closing(_) => None,
        }
    }
}

/// How much is read at once, in bytes.
const BLOCK: usize = 256 * 1024;
/// With less room than this, a new block is begun.
const LEAST_READ: usize = 16 * 1024;
