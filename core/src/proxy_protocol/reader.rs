//! Receives a header.

use alloc::vec::Vec;
use core::{net::IpAddr, time::Duration};

use super::{Header, HeaderPolicy, MAX_LEN, ParseError, parse};
use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Status,
    admission::{Peer, Refused},
    machine::impl_reason,
    quantity::Time,
    teardown::{FIN_TIMEOUT, Teardown},
};

/// The machine that receives a header.
///
/// Once the [header](Self::header) is complete, it neither reads nor writes: the caller replaces it
/// by the machine that serves the client. If it closes the connection, a FIN that stays pending for
/// 10 s becomes a reset.
///
/// It holds at most 256 bytes for a header of version 1, and [`MAX_LEN`] for one of version 2, for
/// at most [`Config::timeout`](super::Config::timeout).
#[derive(Debug)]
pub struct HeaderReader {
    buffer: Vec<u8>,
    /// The number of received bytes in the buffer.
    received: usize,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Reading,
    /// The header is complete.
    Complete {
        header: Header,
        length: usize,
    },
    Ending(Teardown<ProxyHeaderReason>),
}

/// Why a connection ended before its header was complete, or because of the header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyHeaderReason {
    /// The peer is in none of the ranges of [`Config::from`](super::Config::from).
    #[error("{peer} is not trusted to send a PROXY header")]
    Untrusted {
        /// The peer's address.
        peer: IpAddr,
    },
    /// The header is invalid.
    #[error("malformed PROXY header: {0}")]
    Malformed(ParseError),
    /// The peer sent a FIN before the header was complete.
    #[error("FIN after {received} bytes of a PROXY header")]
    Truncated {
        /// Bytes received.
        received: usize,
    },
    /// [`Config::timeout`](super::Config::timeout) elapsed.
    #[error(
        "no complete PROXY header within {limit}; bytes received: {received}",
        limit = Time(*limit)
    )]
    Late {
        /// The timeout.
        limit: Duration,
        /// Bytes received.
        received: usize,
    },
    /// The client that the header names was refused.
    #[error("client named by the PROXY header refused: {0}")]
    Refused(Refused),
    /// The connection was lost.
    #[error("lost while {direction}: {error}; bytes of a PROXY header received: {received}")]
    Lost {
        /// Whether a read or a write failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
        /// Bytes received.
        received: usize,
    },
    /// A shutdown was requested.
    #[error("shutdown requested")]
    ShutDown,
}

impl_reason!(ProxyHeaderReason {
    Self::Untrusted { .. } => ("proxy_header_untrusted", Fault::Peer),
    Self::Malformed(_) => ("proxy_header_malformed", Fault::Peer),
    Self::Truncated { .. } => ("proxy_header_truncated", Fault::Peer),
    Self::Late { .. } => ("proxy_header_late", Fault::Time),
    Self::Refused(_) => ("proxy_header_refused", Fault::Limit),
    Self::Lost { error, .. } => (ConnectionError: error, Fault::Lost),
    Self::ShutDown => ("shut_down", Fault::Requested),
});

impl HeaderReader {
    /// A machine that awaits a header from `peer`, which has connected at `now`.
    pub fn new(policy: &HeaderPolicy, peer: Peer, now: Instant) -> Self {
        let state = match peer {
            Peer::Ip(address) if !policy.trusts(peer) => {
                State::Ending(Teardown::reset(ProxyHeaderReason::Untrusted { peer: address.ip() }))
            }
            Peer::Ip(_) | Peer::Local => State::Reading,
        };
        let timeout = policy.config().timeout;
        let deadline = timeout.map(|timeout| now + timeout);
        Self { buffer: Vec::new(), received: 0, timeout, deadline, state }
    }

    /// The header and the bytes that were received after it, fewer than 256; `None` until the
    /// header is complete.
    pub fn header(&self) -> Option<(Header, &[u8])> {
        let State::Complete { header, length } = self.state else { return None };
        Some((header, &self.buffer[length..self.received]))
    }

    /// The length of the header in bytes; 0 until it is complete.
    pub fn header_len(&self) -> usize {
        if let State::Complete { length, .. } = self.state { length } else { 0 }
    }

    /// Resets the connection: the client that the header names may not connect.
    pub fn refuse(&mut self, refused: Refused) {
        self.end(Teardown::reset(ProxyHeaderReason::Refused(refused)));
    }

    /// Ends the connection by a FIN.
    fn close(&mut self, reason: ProxyHeaderReason, now: Instant) {
        self.end(Teardown::finishing(reason, Some(now + FIN_TIMEOUT)));
    }

    fn end(&mut self, ending: Teardown<ProxyHeaderReason>) {
        match self.state {
            State::Reading | State::Complete { .. } => {
                self.state = State::Ending(ending);
                self.buffer = Vec::new();
            }
            State::Ending(_) => {}
        }
    }
}

impl Machine for HeaderReader {
    type Reason = ProxyHeaderReason;

    fn interest(&self) -> Interest {
        match &self.state {
            State::Reading => Interest { read: true, write: Outbound::Idle },
            State::Complete { .. } => Interest { read: false, write: Outbound::Idle },
            State::Ending(ending) => ending.interest(false),
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        // The length of a header that is longer than the first read is known. No byte after the
        // header is read.
        let size = match self.buffer.get(14..16) {
            Some(&[high, low]) if self.received >= FIRST_READ => {
                16 + usize::from(u16::from_be_bytes([high, low]))
            }
            _ => FIRST_READ,
        };
        let size = size.min(MAX_LEN);
        if self.buffer.len() < size {
            self.buffer.resize(size, 0);
        }
        &mut self.buffer[self.received..]
    }

    fn write_bufs<'a>(&'a self, _out: &mut [&'a [u8]]) -> usize {
        0
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => {
                self.received += n;
                match parse(&self.buffer[..self.received]) {
                    Ok(None) => {}
                    Ok(Some((header, length))) => {
                        self.state = State::Complete { header, length };
                    }
                    Err(error) => {
                        self.end(Teardown::reset(ProxyHeaderReason::Malformed(error)));
                    }
                }
            }
            Event::Eof => {
                self.close(ProxyHeaderReason::Truncated { received: self.received }, now);
            }
            Event::Error(direction, error) => {
                let received = self.received;
                let lost = ProxyHeaderReason::Lost { direction, error, received };
                match &mut self.state {
                    State::Reading | State::Complete { .. } => self.end(Teardown::ended(lost)),
                    State::Ending(ending) => ending.handle_error(lost),
                }
            }
            Event::Finished => {
                if let State::Ending(ending) = &mut self.state {
                    ending.handle_finished(now);
                }
            }
            Event::Timeout { .. } => {
                if self.poll_timeout().is_some_and(|deadline| deadline <= now) {
                    let limit = self.timeout.unwrap_or_default();
                    let late = ProxyHeaderReason::Late { limit, received: self.received };
                    match &mut self.state {
                        State::Reading | State::Complete { .. } => self.end(Teardown::reset(late)),
                        State::Ending(ending) => ending.expire(None),
                    }
                }
            }
            Event::ShutDown => self.close(ProxyHeaderReason::ShutDown, now),
            Event::Release => {
                if self.received == 0 {
                    self.buffer = Vec::new();
                }
            }
            Event::Written(_) => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Reading => self.deadline,
            State::Complete { .. } => None,
            State::Ending(ending) => ending.poll_timeout(None),
        }
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Reading | State::Complete { .. } => "proxy_header",
            State::Ending(ending) => ending.state(),
        };
        Status { state, queued: 0, lag: 0 }
    }

    fn reason(&self) -> Option<ProxyHeaderReason> {
        if let State::Ending(ending) = &self.state { ending.reason() } else { None }
    }
}

/// The size of the first read, in bytes. It has room for the longest header without TLVs, of either
/// version (107 or 232 bytes).
const FIRST_READ: usize = 256;
