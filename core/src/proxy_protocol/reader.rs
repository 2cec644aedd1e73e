//! Receiving a header.

use alloc::{vec, vec::Vec};
use core::{net::IpAddr, time::Duration};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Header, MAX_LEN, Malformed, parse};
use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Status,
    admission::{Peer, Refused},
    teardown::{FIN_TIMEOUT, Teardown},
};

/// From whom headers are accepted, and for how long they are awaited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The addresses that may send one; whoever else connects is reset. Default: the loopback ones,
    /// `127.0.0.0/8` and `::1`. A peer without an address, on a Unix socket, may: whoever can connect
    /// to that is for its permissions to say.
    pub from: Vec<IpNet>,
    /// A header must be whole so long after the connection was made; `None`: whenever it likes.
    /// Default: 5 s.
    pub timeout: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        let v4 = Ipv4Net::new_assert([127, 0, 0, 0].into(), 8);
        let v6 = Ipv6Net::new_assert([0, 0, 0, 0, 0, 0, 0, 1].into(), 128);
        Self { from: vec![v4.into(), v6.into()], timeout: Some(Duration::from_secs(5)) }
    }
}

impl Config {
    /// Whether a header of `peer`'s is believed.
    pub fn trusts(&self, peer: Peer) -> bool {
        match peer {
            Peer::Ip(address) => {
                let address = address.ip().to_canonical();
                self.from.iter().any(|range| range.contains(&address))
            }
            Peer::Local => true,
        }
    }
}

/// The machine that receives a header, and nothing else: once it has one, it neither reads nor writes,
/// and waits to be replaced by what the connection is for. If its FIN stays pending for 10 s, it is
/// reset.
///
/// It holds at most 256 bytes of a header of version 1, and 4,096 (the longest one) of version 2,
/// for at most [`Config::timeout`].
#[derive(Debug)]
pub struct HeaderReader {
    buffer: Vec<u8>,
    filled: usize,
    limit: Option<Duration>,
    until: Option<Instant>,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Reading,
    /// It is whole, and so long.
    Read(Header, usize),
    Ending(Teardown<ProxyHeaderReason>),
}

/// Why a connection ended before it had a header, or because of what that said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderReason {
    /// The peer may not send one.
    #[error("{peer} may not announce clients: it is in none of the ranges that may")]
    Untrusted {
        /// Its address.
        peer: IpAddr,
    },
    /// It sent something else.
    #[error("malformed PROXY header: {0}")]
    Malformed(Malformed),
    /// It closed its side before the header was whole.
    #[error("closed after {have} bytes of a PROXY header")]
    Truncated {
        /// What it had sent.
        have: usize,
    },
    /// [`Config::timeout`] ran out.
    #[error("no whole PROXY header within {limit:?}, but {have} bytes")]
    Late {
        /// The limit.
        limit: Duration,
        /// What it had sent.
        have: usize,
    },
    /// The client that the header names may not connect.
    #[error("announced client refused: {0}")]
    Refused(Refused),
    /// The connection broke.
    #[error("lost while {way}: {why}; it had sent {have} bytes of a PROXY header")]
    Lost {
        /// At a read or a write.
        way: Direction,
        /// How.
        why: ConnectionError,
        /// What it had sent.
        have: usize,
    },
    /// We were asked to stop.
    #[error("asked to stop")]
    ShutDown,
}

impl crate::Reason for ProxyHeaderReason {
    fn label(&self) -> &'static str {
        match self {
            Self::Untrusted { .. } => "proxy_header_untrusted",
            Self::Malformed(_) => "proxy_header_malformed",
            Self::Truncated { .. } => "proxy_header_truncated",
            Self::Late { .. } => "proxy_header_late",
            Self::Refused(_) => "announced_refused",
            Self::Lost { why, .. } => why.label(),
            Self::ShutDown => "shut_down",
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Untrusted { .. } | Self::Malformed(_) | Self::Truncated { .. } => Fault::Peer,
            Self::Late { .. } => Fault::Time,
            Self::Refused(_) => Fault::Limit,
            Self::Lost { .. } => Fault::Lost,
            Self::ShutDown => Fault::Requested,
        }
    }
}

impl HeaderReader {
    /// Awaits a header from `peer`, which connected `now`.
    pub fn new(config: &Config, peer: Peer, now: Instant) -> Self {
        let state = match peer {
            Peer::Ip(address) if !config.trusts(peer) => {
                State::Ending(Teardown::reset(ProxyHeaderReason::Untrusted { peer: address.ip() }))
            }
            Peer::Ip(_) | Peer::Local => State::Reading,
        };
        let until = config.timeout.map(|limit| now + limit);
        Self { buffer: Vec::new(), filled: 0, limit: config.timeout, until, state }
    }

    /// What the header says, once it is whole; and what was received behind it, fewer than 256 bytes.
    pub fn header(&self) -> Option<(Header, &[u8])> {
        let State::Read(header, length) = self.state else { return None };
        Some((header, &self.buffer[length..self.filled]))
    }

    /// The length of the header in bytes, once it is complete.
    pub fn header_len(&self) -> usize {
        if let State::Read(_, length) = self.state { length } else { 0 }
    }

    /// The client that the header names may not connect.
    pub fn refuse(&mut self, refused: Refused) {
        self.end(Teardown::reset(ProxyHeaderReason::Refused(refused)));
    }

    /// Sends a FIN.
    fn close(&mut self, reason: ProxyHeaderReason, now: Instant) {
        self.end(Teardown::finishing(reason, Some(now + FIN_TIMEOUT)));
    }

    fn end(&mut self, ending: Teardown<ProxyHeaderReason>) {
        match self.state {
            State::Reading | State::Read(..) => {
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
            State::Read(..) => Interest { read: false, write: Outbound::Idle },
            State::Ending(ending) => ending.interest(false),
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        // A header that is longer says so in its first bytes: none of what is behind it is read.
        let size = match self.buffer.get(14..16) {
            Some(&[high, low]) if self.filled >= FIRST => {
                16 + usize::from(u16::from_be_bytes([high, low]))
            }
            _ => FIRST,
        };
        let size = size.min(MAX_LEN);
        if self.buffer.len() < size {
            self.buffer.resize(size, 0);
        }
        &mut self.buffer[self.filled..]
    }

    fn write_bufs<'a>(&'a self, _out: &mut [&'a [u8]]) -> usize {
        0
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => {
                self.filled += n;
                match parse(&self.buffer[..self.filled]) {
                    Ok(None) => {}
                    Ok(Some((header, length))) => self.state = State::Read(header, length),
                    Err(malformed) => {
                        self.end(Teardown::reset(ProxyHeaderReason::Malformed(malformed)));
                    }
                }
            }
            Event::Eof => self.close(ProxyHeaderReason::Truncated { have: self.filled }, now),
            Event::Error(way, why) => {
                let lost = ProxyHeaderReason::Lost { way, why, have: self.filled };
                match &mut self.state {
                    State::Reading | State::Read(..) => self.end(Teardown::over(lost)),
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
                    let limit = self.limit.unwrap_or_default();
                    let late = ProxyHeaderReason::Late { limit, have: self.filled };
                    match &mut self.state {
                        State::Reading | State::Read(..) => self.end(Teardown::reset(late)),
                        State::Ending(ending) => ending.expire(None),
                    }
                }
            }
            Event::ShutDown => self.close(ProxyHeaderReason::ShutDown, now),
            Event::Release => {
                if self.filled == 0 {
                    self.buffer = Vec::new();
                }
            }
            Event::Written(_) => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Reading => self.until,
            State::Read(..) => None,
            State::Ending(ending) => ending.poll_timeout(None),
        }
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Reading | State::Read(..) => "proxy_header",
            State::Ending(ending) => ending.state(),
        };
        Status { state, queued: 0, lag: 0 }
    }

    fn reason(&self) -> Option<ProxyHeaderReason> {
        if let State::Ending(ending) = &self.state { ending.reason() } else { None }
    }
}

/// How much is read at first: all of a header without TLVs, of either version (107 or 232 bytes).
const FIRST: usize = 256;
