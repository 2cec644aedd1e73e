//! A health check: what is sent to a server, and what it must answer.

use alloc::{
    string::{String, ToString as _},
    vec,
    vec::Vec,
};
use core::{num::NonZeroU32, time::Duration};

use bytes::Bytes;

use crate::{
    ConfigError, ConnectionError, Direction, Event, Fault, Instant, Interest, Linger, Machine,
    Outbound, Status, WriteProgress,
    config::{check_timeout, with_setters},
    machine::impl_reason,
    teardown::{DiscardBudget, Teardown},
};

/// The active health checks of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckConfig {
    /// The time from the end of a check to the next one. Must be non-zero. Default: 5 s.
    pub interval: Duration,
    /// A check that takes longer has failed. Must be non-zero. Default: 2 s.
    pub timeout: Duration,
    /// What is sent to the server. Default: nothing.
    pub send: Bytes,
    /// What the server must send first. Default: nothing. If `send` is empty as well, a server that
    /// can be connected to has passed.
    pub expect: Bytes,
    /// After this many checks in a row that passed, a server is up again. Default: 2.
    pub rise: NonZeroU32,
    /// After this many checks in a row that failed, a server is down. Default: 3.
    pub fall: NonZeroU32,
}

impl Default for CheckConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            send: Bytes::new(),
            expect: Bytes::new(),
            rise: const { NonZeroU32::new(2).unwrap() },
            fall: const { NonZeroU32::new(3).unwrap() },
        }
    }
}

impl CheckConfig {
    with_setters! {
        with_interval(interval: Duration);
        with_timeout(timeout: Duration);
        with_send(send: impl Into<Bytes>);
        with_expect(expect: impl Into<Bytes>);
        with_rise(rise: NonZeroU32);
        with_fall(fall: NonZeroU32);
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        check_timeout("check.interval", self.interval)?;
        check_timeout("check.timeout", self.timeout)
    }
}

/// The machine of one health check: sends a text, and compares what the server sends with another
/// one.
///
/// It ends by a FIN, and discards up to 64 KiB until the server's FIN, for at most 200 ms, so that
/// the server is not reset. If not everything was sent, it ends by a reset.
///
/// It holds a buffer of the size of what it expects, at least of 512 bytes.
///
/// ```
/// use std::time::Duration;
/// use wirestate_core::{
///     Event, Instant, Machine, dial::{Check, CheckReason}, drive,
/// };
///
/// let now = Instant::EPOCH;
/// let mut check = Check::new("PING\r\n", "+PONG", now, now + Duration::from_secs(2));
/// let mut sent = [0; 6];
/// drive::collect_into(&mut check, &mut sent, now);
/// assert_eq!(&sent, b"PING\r\n");
/// drive::deliver(&mut check, &mut &b"-LOADING"[..], now);
/// assert_eq!(check.status().state, "closing");
/// check.handle(now, Event::Finished);
/// check.handle(now, Event::Eof);
/// let CheckReason::Unexpected { received, .. } = check.reason().unwrap() else { panic!() };
/// assert_eq!(received, "-");
/// ```
#[derive(Debug)]
pub struct Check {
    /// What is still to be sent.
    send: Bytes,
    expect: Bytes,
    buffer: Vec<u8>,
    /// How many bytes in `buffer` are a part of the answer.
    len: usize,
    until: Instant,
    discards: DiscardBudget,
    /// `None`: the check continues.
    teardown: Option<Teardown<CheckReason>>,
}

/// How a health check ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckReason {
    /// Everything was sent, and the server has sent what is expected.
    #[error("passed")]
    Passed,
    /// The server has sent something else.
    #[error("it sent \"{received}\", expected \"{expected}\"")]
    Unexpected {
        /// What it has sent, at most as long as what is expected. Other bytes than ASCII text are
        /// escaped.
        received: String,
        /// What is expected, in the same form.
        expected: String,
    },
    /// The server has sent a FIN before.
    #[error("it closed the connection after {have} of {need} bytes")]
    Closed {
        /// How many bytes it has sent.
        have: usize,
        /// How many bytes are expected.
        need: usize,
    },
    /// The time has run out.
    #[error("no answer by the deadline; bytes received: {have} of {need}")]
    Timeout {
        /// How many bytes it has sent.
        have: usize,
        /// How many bytes are expected.
        need: usize,
    },
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

impl_reason!(CheckReason {
    Self::Passed => ("passed", Fault::None),
    Self::Unexpected { .. } => ("unexpected", Fault::Peer),
    Self::Closed { .. } => ("closed", Fault::Peer),
    Self::Timeout { .. } => ("timeout", Fault::Time),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Lost { error, .. } => (ConnectionError: error, Fault::Lost),
});

impl Check {
    /// A check of a connection that was made `now`, which fails at `until`. If `send` and `expect`
    /// are empty, it has passed.
    pub fn new(
        send: impl Into<Bytes>,
        expect: impl Into<Bytes>,
        now: Instant,
        until: Instant,
    ) -> Self {
        let expect = expect.into();
        let buffer = vec![0; expect.len().max(MIN_BUFFER)];
        let (send, discards) = (send.into(), DiscardBudget::default());
        let mut check = Self { send, expect, buffer, len: 0, until, discards, teardown: None };
        check.pass_if_complete(now);
        check
    }

    fn expects_input(&self) -> bool {
        self.len < self.expect.len()
    }

    fn pass_if_complete(&mut self, now: Instant) {
        if self.send.is_empty() && !self.expects_input() {
            self.end(CheckReason::Passed, Some(LINGER), now);
        }
    }

    /// Ends by a FIN and `linger`, or by a reset if not everything was sent.
    fn end(&mut self, reason: CheckReason, linger: Option<Linger>, now: Instant) {
        if self.teardown.is_some() {
            return;
        }
        self.teardown = Some(if self.send.is_empty() {
            let linger = linger.map(|linger| {
                let time = linger.time.min(self.until.since(now));
                Linger { time, ..linger }
            });
            Teardown::closing(reason, linger, &mut WriteProgress::new(now), now)
        } else {
            Teardown::reset(reason)
        });
    }

    fn handle_read(&mut self, n: usize, now: Instant) {
        if let Some(teardown) = &mut self.teardown {
            teardown.handle_read(now, n, &self.discards);
            return;
        }
        let from = self.len;
        self.len += n;
        let expected = self.expect[from..].iter();
        let same = expected.zip(&self.buffer[from..self.len]).take_while(|(a, b)| a == b).count();
        if same == n {
            self.pass_if_complete(now);
        } else {
            // Up to the first wrong byte, so that it does not depend on the cut.
            let received = self.buffer[..=from + same].escape_ascii().to_string();
            let expected = self.expect.escape_ascii().to_string();
            self.end(CheckReason::Unexpected { received, expected }, Some(LINGER), now);
        }
    }
}

impl Machine for Check {
    type Reason = CheckReason;

    fn interest(&self) -> Interest {
        if let Some(teardown) = &self.teardown {
            return teardown.interest(false);
        }
        let write = if self.send.is_empty() { Outbound::Idle } else { Outbound::Flush };
        Interest { read: self.expects_input(), write }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        match self.teardown {
            None => &mut self.buffer[self.len..self.expect.len()],
            Some(_) => &mut self.buffer,
        }
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        out[0] = &self.send;
        usize::from(self.teardown.is_none() && !self.send.is_empty())
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.handle_read(n, now),
            Event::Written(n) => {
                self.send = self.send.slice(n..);
                self.pass_if_complete(now);
            }
            Event::Eof => match &mut self.teardown {
                None => {
                    let (have, need) = (self.len, self.expect.len());
                    self.end(CheckReason::Closed { have, need }, None, now);
                }
                Some(teardown) => teardown.handle_eof(),
            },
            Event::Error(direction, error) => {
                let lost = CheckReason::Lost { direction, error };
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
                if self.poll_timeout().is_none_or(|deadline| now < deadline) {
                    return;
                }
                match &mut self.teardown {
                    None => {
                        let (have, need) = (self.len, self.expect.len());
                        self.teardown = Some(Teardown::reset(CheckReason::Timeout { have, need }));
                    }
                    Some(teardown) => teardown.expire(None),
                }
            }
            Event::ShutDown => self.end(CheckReason::ShutDown, None, now),
            Event::Release => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.teardown {
            None => Some(self.until),
            Some(teardown) => teardown.poll_timeout(Some(self.until)),
        }
    }

    fn status(&self) -> Status {
        let state = self.teardown.as_ref().map_or("checking", Teardown::state);
        Status { state, queued: self.send.len(), lag: 0 }
    }

    fn reason(&self) -> Option<CheckReason> {
        self.teardown.as_ref().and_then(Teardown::reason)
    }
}

/// The smallest buffer, in bytes.
const MIN_BUFFER: usize = 512;
/// The lingering close.
const LINGER: Linger = Linger { bytes: 64 * 1024, time: Duration::from_millis(200) };
