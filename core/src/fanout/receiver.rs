//! The machine of a client that subscribes.

use bytes::{Bytes, BytesMut};

use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Status,
    machine::impl_reason,
    teardown::{FIN_TIMEOUT, Teardown},
};

/// A subscription, seen from the client: it only reads. [`take`](Self::take) hands over what has
/// come in; until then no more is read. If its FIN stays pending for 10 s, it is reset.
///
/// It holds a block of 256 KiB, of which what was handed over is a part.
#[derive(Debug)]
pub struct Receiver {
    block: BytesMut,
    filled: usize,
    /// `None`: it subscribes.
    end: Option<Teardown<ReceiverReason>>,
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

impl_reason!(ReceiverReason {
    Self::Closed => ("closed", Fault::Peer),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Lost { why, .. } => (why.label(), Fault::Lost),
});

impl Receiver {
    /// A subscription on a new connection.
    pub fn new() -> Self {
        Self { block: BytesMut::new(), filled: 0, end: None }
    }

    /// What has come in since the last time; `None` if nothing has.
    pub fn take(&mut self) -> Option<Bytes> {
        let filled = core::mem::take(&mut self.filled);
        (filled > 0).then(|| self.block.split_to(filled).freeze())
    }

    fn close(&mut self, reason: ReceiverReason, now: Instant) {
        self.end.get_or_insert(Teardown::finishing(reason, Some(now + FIN_TIMEOUT)));
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
        match &self.end {
            None => Interest { read: self.filled == 0, write: Outbound::Idle },
            Some(end) => end.interest(false),
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

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => {
                self.filled = n;
            }
            Event::Eof => self.close(ReceiverReason::Closed, now),
            Event::Error(way, why) => {
                let lost = ReceiverReason::Lost { way, why };
                match &mut self.end {
                    None => self.end = Some(Teardown::over(lost)),
                    Some(end) => end.handle_error(lost),
                }
            }
            Event::Finished => {
                if let Some(end) = &mut self.end {
                    end.handle_finished(now);
                }
            }
            Event::Timeout { .. } => {
                if let Some(end) = &mut self.end
                    && end.poll_timeout(None).is_some_and(|deadline| deadline <= now)
                {
                    end.expire(None);
                }
            }
            Event::ShutDown => self.close(ReceiverReason::ShutDown, now),
            Event::Written(_) | Event::Release => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.end.as_ref().and_then(|end| end.poll_timeout(None))
    }

    fn status(&self) -> Status {
        let state = self.end.as_ref().map_or("open", Teardown::state);
        Status { state, queued: 0, lag: 0 }
    }

    fn reason(&self) -> Option<ReceiverReason> {
        self.end.as_ref().and_then(Teardown::reason)
    }
}

/// How much is read at once, in bytes.
const BLOCK: usize = 256 * 1024;
/// With less room than this, a new block is begun.
const LEAST_READ: usize = 16 * 1024;
