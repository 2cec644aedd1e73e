//! A small line protocol with a planted bug of framing, queueing or deadlines.

#![expect(clippy::wildcard_enum_match_arm, reason = "each method has its own bugs")]

use std::time::Duration;

use wirestate_core::{
    ConnectionError, Event, Fault, Instant, Interest, Machine, Outbound, Reason, Status,
};

/// The bug of a [`Lines`] machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineBug {
    None,
    /// Drops a reply that does not fit below the high-water mark.
    ReplyLostWhenFull,
    /// The same, but the high-water mark is [`FLOOD`].
    ReplyLostInFlood,
    /// Looks for the delimiter in the last read only.
    SplitDelimiter,
    /// Drops pending replies at the peer's FIN.
    RepliesDroppedAtFin,
    /// Answers lines that it holds back at the high-water mark after the next read or the FIN.
    StallsWhenFull,
    /// Does not move its deadline after a write.
    WriteMovesNoDeadline,
    /// Does not move its deadline after a read.
    ReadMovesNoDeadline,
    /// Answers on, whatever the peer accepts, and reports no queued bytes.
    Unbounded,
}

impl LineBug {
    /// All bugs, and none.
    pub(crate) const ALL: [Self; 9] = [
        Self::None,
        Self::ReplyLostWhenFull,
        Self::ReplyLostInFlood,
        Self::SplitDelimiter,
        Self::RepliesDroppedAtFin,
        Self::StallsWhenFull,
        Self::WriteMovesNoDeadline,
        Self::ReadMovesNoDeadline,
        Self::Unbounded,
    ];
}

/// Answers each line, which ends with CR LF, with its length and CR LF.
#[derive(Debug)]
pub(crate) struct Lines {
    bug: LineBug,
    input: [u8; MAX_LINE],
    filled: usize,
    output: Vec<u8>,
    last_activity: Instant,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Closing(LineReason),
    Resetting(LineReason),
    Ended(LineReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineReason {
    #[error("closed by the peer")]
    Finished,
    #[error("shutdown requested")]
    ShutDown,
    #[error("a line of more than {MAX_LINE} bytes")]
    TooLong,
    #[error("idle for {IDLE_TIMEOUT:?}")]
    Idle,
    #[error("lost: {0}")]
    Lost(ConnectionError),
}

impl Reason for LineReason {
    fn label(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ShutDown => "shut_down",
            Self::TooLong => "too_long",
            Self::Idle => "idle",
            Self::Lost(error) => error.label(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Finished => Fault::None,
            Self::ShutDown => Fault::Requested,
            Self::TooLong => Fault::Limit,
            Self::Idle => Fault::Time,
            Self::Lost(_) => Fault::Lost,
        }
    }
}

impl Lines {
    pub(crate) fn new(bug: LineBug) -> Self {
        Self {
            bug,
            input: [0; MAX_LINE],
            filled: 0,
            output: Vec::new(),
            last_activity: Instant::EPOCH,
            state: State::Open,
        }
    }

    /// Answers the whole lines of the input, while there is space. A line's delimiter ends after
    /// `searched` bytes or later.
    fn answer(&mut self, mut searched: usize) {
        if self.bug == LineBug::SplitDelimiter {
            searched += 1;
        }
        while self.has_space() {
            let from = searched.saturating_sub(1).min(self.filled);
            let found = self.input[from..self.filled].windows(2).position(|two| two == b"\r\n");
            let Some(len) = found.map(|at| from + at) else { break };
            let reply = format!("{len}\r\n");
            let drops = match self.bug {
                LineBug::ReplyLostWhenFull => self.output.len() + reply.len() > HIGH_WATER,
                LineBug::ReplyLostInFlood => self.output.len() + reply.len() > FLOOD,
                _ => false,
            };
            if !drops {
                self.output.extend(reply.as_bytes());
            }
            self.input.copy_within(len + 2..self.filled, 0);
            self.filled -= len + 2;
            searched = 0;
        }
        if self.filled == MAX_LINE && self.has_space() {
            self.output.extend(b"too long\r\n");
            self.state = State::Closing(LineReason::TooLong);
        }
    }

    fn has_space(&self) -> bool {
        let limit = match self.bug {
            LineBug::ReplyLostWhenFull | LineBug::ReplyLostInFlood | LineBug::Unbounded => {
                usize::MAX
            }
            _ => HIGH_WATER,
        };
        self.state == State::Open && self.output.len() < limit
    }
}

impl Machine for Lines {
    type Reason = LineReason;

    fn interest(&self) -> Interest {
        let write = match self.state {
            State::Resetting(_) => Outbound::Reset,
            State::Ended(_) => Outbound::Finished,
            State::Open | State::Closing(_) if !self.output.is_empty() => Outbound::Flush,
            State::Open => Outbound::Idle,
            State::Closing(_) => Outbound::Finish,
        };
        Interest { read: self.has_space(), write }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        &mut self.input[self.filled..]
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        out[0] = &self.output;
        1
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => {
                if self.bug != LineBug::ReadMovesNoDeadline {
                    self.last_activity = now;
                }
                self.filled += n;
                self.answer(self.filled - n);
            }
            Event::Written(n) => {
                if self.bug != LineBug::WriteMovesNoDeadline {
                    self.last_activity = now;
                }
                self.output.drain(..n);
                if self.bug != LineBug::StallsWhenFull {
                    self.answer(0);
                }
            }
            Event::Eof | Event::ShutDown if self.state == State::Open => {
                let is_fin = event == Event::Eof;
                if is_fin && self.bug == LineBug::StallsWhenFull {
                    self.answer(0);
                }
                if is_fin && self.bug == LineBug::RepliesDroppedAtFin {
                    self.output.clear();
                }
                let reason = if is_fin { LineReason::Finished } else { LineReason::ShutDown };
                self.state = State::Closing(reason);
            }
            Event::Error(_, error) => match self.state {
                State::Ended(_) => {}
                State::Open | State::Closing(_) | State::Resetting(_) => {
                    self.state = State::Ended(LineReason::Lost(error));
                }
            },
            Event::Finished => {
                if let State::Closing(reason) | State::Resetting(reason) = self.state {
                    self.state = State::Ended(reason);
                }
            }
            Event::Timeout { .. } => {
                if self.poll_timeout().is_some_and(|deadline| deadline <= now) {
                    self.state = State::Resetting(LineReason::Idle);
                }
            }
            Event::Eof | Event::ShutDown | Event::Release => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Open | State::Closing(_) => Some(self.last_activity + IDLE_TIMEOUT),
            State::Resetting(_) | State::Ended(_) => None,
        }
    }

    fn status(&self) -> Status {
        let queued = if self.bug == LineBug::Unbounded { 0 } else { self.output.len() };
        Status { queued, ..Status::default() }
    }

    fn reason(&self) -> Option<LineReason> {
        match self.state {
            State::Ended(reason) => Some(reason),
            State::Open | State::Closing(_) | State::Resetting(_) => None,
        }
    }
}

/// The most bytes of a line, with its delimiter.
pub(crate) const MAX_LINE: usize = 24;
/// The machine answers no line while its output has at least this many bytes.
pub(crate) const HIGH_WATER: usize = 32;
/// More output than the replies to one of the testkit's random scripts without a flood.
pub(crate) const FLOOD: usize = 4096;
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
