//! The machine of a client that subscribes to a fan-out server.

use core::mem;

use bytes::{Bytes, BytesMut};

use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Status,
    machine::impl_reason,
    teardown::{FIN_TIMEOUT, Teardown},
};

/// A client's connection to a fan-out server: it receives, and sends nothing.
///
/// [`take`](Self::take) returns what was received. Until then no more is read. A FIN that stays
/// pending for 10 s becomes a reset.
///
/// It holds a block of 256 KiB. Bytes that [`take`](Self::take) returns keep the whole block alive.
#[derive(Debug, Default)]
pub struct Client {
    block: BytesMut,
    filled: usize,
    /// `None`: the connection is open.
    teardown: Option<Teardown<ClientReason>>,
}

/// Why a client's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientReason {
    /// The server closed its side.
    #[error("the server closed the connection")]
    Closed,
    /// A shutdown was requested.
    #[error("shutdown requested")]
    ShutDown,
    /// The connection failed.
    #[error("{error} while {direction}")]
    Lost {
        /// The direction of the operation that failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
    },
}

impl_reason!(ClientReason {
    Self::Closed => ("closed", Fault::Peer),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Lost { error, .. } => (ConnectionError: error, Fault::Lost),
});

impl Client {
    /// The machine for a new connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes that were received since the last call; `None` if there are none.
    pub fn take(&mut self) -> Option<Bytes> {
        let filled = mem::take(&mut self.filled);
        (filled > 0).then(|| self.block.split_to(filled).freeze())
    }

    fn close(&mut self, reason: ClientReason, now: Instant) {
        self.teardown.get_or_insert(Teardown::finishing(reason, Some(now + FIN_TIMEOUT)));
    }
}

impl Machine for Client {
    type Reason = ClientReason;

    fn interest(&self) -> Interest {
        match &self.teardown {
            None => Interest { read: self.filled == 0, write: Outbound::Idle },
            Some(teardown) => teardown.interest(false),
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        if self.block.len() < MIN_READ {
            self.block = BytesMut::zeroed(BLOCK);
        }
        &mut self.block
    }

    fn write_bufs<'a>(&'a self, _out: &mut [&'a [u8]]) -> usize {
        0
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.filled = n,
            Event::Eof => self.close(ClientReason::Closed, now),
            Event::Error(direction, error) => {
                let lost = ClientReason::Lost { direction, error };
                match &mut self.teardown {
                    None => self.teardown = Some(Teardown::ended(lost)),
                    Some(teardown) => teardown.handle_error(lost),
                }
            }
            Event::Finished => {
                if let Some(teardown) = &mut self.teardown {
                    teardown.handle_finished(now);
                }
            }
            Event::Timeout { .. } => {
                if let Some(teardown) = &mut self.teardown
                    && teardown.poll_timeout(None).is_some_and(|deadline| deadline <= now)
                {
                    teardown.expire(None);
                }
            }
            Event::ShutDown => self.close(ClientReason::ShutDown, now),
            Event::Written(_) | Event::Release => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.teardown.as_ref().and_then(|teardown| teardown.poll_timeout(None))
    }

    fn status(&self) -> Status {
        let state = self.teardown.as_ref().map_or("open", Teardown::state);
        Status { state, queued: 0, lag: 0 }
    }

    fn reason(&self) -> Option<ClientReason> {
        self.teardown.as_ref().and_then(Teardown::reason)
    }
}

/// The size of a block, and the most that one read receives, in bytes.
const BLOCK: usize = 256 * 1024;
/// A new block is allocated when less space than this remains.
const MIN_READ: usize = 16 * 1024;
