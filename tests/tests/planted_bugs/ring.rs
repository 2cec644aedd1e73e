//! An echo machine with a planted bug.

#![expect(clippy::wildcard_enum_match_arm, reason = "each method has its own bugs")]

use std::{
    cell::Cell,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use wirestate_core::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Reason, Status,
    shared::Lock,
};

/// The bug of a [`Ring`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    /// Sends the bytes after the ring's wrap from the wrong position.
    Wrap,
    /// Handles a short write like a complete one.
    ShortWrite,
    /// Offers an empty slice after the wrap.
    EmptySlice,
    /// Wants to read although its buffer is full.
    NoBuffer,
    /// Sends a second FIN.
    SecondFin,
    /// Sends its FIN before pending output.
    EarlyFin,
    /// Handles a reset like the end of the input.
    CleanReset,
    /// Continues to read after the end of the input.
    ReadsAfterEof,
    /// Ends without a FIN after its output.
    EndsWithoutFin,
    /// Wants a reset after its FIN.
    ResetsAfterFin,
    /// Is open again after its FIN.
    Reopens,
    /// Wants to send its FIN no longer when its deadline has passed.
    WithdrawsFin,
    /// Has no deadline, like a wrapper that does not forward `poll_timeout`.
    ForgetsTimeout,
    /// Wants to flush without output.
    NothingToFlush,
    /// Returns other memory at each `read_buf`.
    OtherMemory,
    /// Clears its memory in `read_buf`.
    ClearsMemory,
    /// Offers more owned bytes than the limit of the call.
    OwnedTooMany,
    /// Offers other owned bytes than its output.
    OwnedOther,
    /// Offers an empty owned buffer.
    OwnedEmpty,
    /// Continues to write after a write has failed.
    WritesAfterError,
    /// Ignores a failed write while it has no output.
    IdleErrorIgnored,
    /// Ends without a reason.
    NoReason,
    /// Changes its reason.
    OtherReason,
    /// Does not move its deadline after a timeout.
    LateDeadline,
    /// Handles a timeout before its deadline.
    EarlyDeadline,
    /// Has the deadline `Instant::NEVER` while it flushes.
    Never,
    /// Counts timeouts after its end.
    TimeoutAtEnd,
    /// Counts each `ShutDown`.
    Shutdowns,
    /// Reports all received bytes as queued.
    Memory,
    /// Wakes itself whenever it is polled.
    Spins,
    /// Does not register its waker.
    LostWakeUp,
    /// Registers only the first waker.
    RegistersOnce,
    /// Changes in `poll_shared`, which returns false.
    SilentChange,
    /// Reports its queued bytes as its work.
    WorkDecreases,
    /// Does too much work in one call.
    LongCall,
    /// Drops its output at `Release`.
    ReleaseChanges,
    /// Wants to read at every second call of `interest`.
    InterestAlternates,
    /// Reads the shared state in `interest`.
    ChangesBetweenCalls,
    /// Changes its output if a read has three bytes.
    Cuts,
    /// Keeps its socket open after the end.
    NeverEnds,
}

/// An echo with a ring of 8 bytes, which withholds its output until a gate is opened.
#[derive(Debug)]
pub(crate) struct Ring {
    bug: Bug,
    buffer: [u8; 8],
    start: usize,
    len: usize,
    total: usize,
    phase: Phase,
    last_activity: Instant,
    shut_downs: u64,
    timeouts: u64,
    gate: Arc<Lock<Gate>>,
    open: bool,
    registered: bool,
    /// Has a deadline every second that has no effect.
    pub(crate) ticks: bool,
    calls: Cell<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Closing(EndReason),
    Resetting(EndReason),
    Done(EndReason),
}

/// Shared state that a machine observes in `poll_shared`.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    pub(crate) open: bool,
    pub(crate) waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndReason {
    #[error("finished")]
    Finished,
    #[error("idle")]
    Idle,
    #[error("lost: {0}")]
    Lost(ConnectionError),
}

impl Reason for EndReason {
    fn label(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Idle => "idle",
            Self::Lost(error) => error.label(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Finished => Fault::None,
            Self::Idle => Fault::Time,
            Self::Lost(_) => Fault::Lost,
        }
    }
}

impl Ring {
    pub(crate) fn new(bug: Bug, gate: Arc<Lock<Gate>>, now: Instant) -> Self {
        Self {
            bug,
            buffer: [0; 8],
            start: 0,
            len: 0,
            total: 0,
            phase: Phase::Open,
            last_activity: now,
            shut_downs: 0,
            timeouts: 0,
            gate,
            open: false,
            registered: false,
            ticks: false,
            calls: Cell::new(0),
        }
    }

    fn slices(&self) -> [&[u8]; 2] {
        let end = self.start + self.len;
        let offset = usize::from(self.bug == Bug::Wrap);
        match end.checked_sub(8) {
            None | Some(0) => [&self.buffer[self.start..end], &[]],
            Some(8) => [&self.buffer, &[]],
            Some(wrapped) => [&self.buffer[self.start..], &self.buffer[offset..wrapped + offset]],
        }
    }
}

impl Machine for Ring {
    type Reason = EndReason;

    fn interest(&self) -> Interest {
        self.calls.set(self.calls.get() + 1);
        let has_space = match self.bug {
            Bug::NoBuffer => true,
            Bug::InterestAlternates => self.calls.get().is_multiple_of(2),
            _ => self.len < 8,
        };
        let open = if self.bug == Bug::ChangesBetweenCalls {
            self.gate.with(|gate| gate.open)
        } else {
            self.open
        };
        let flushes = match self.bug {
            Bug::NothingToFlush => open,
            _ => open && self.len > 0,
        };
        match self.phase {
            Phase::Open => Interest {
                read: has_space,
                write: if flushes { Outbound::Flush } else { Outbound::Idle },
            },
            Phase::Closing(_) => Interest {
                read: self.bug == Bug::ReadsAfterEof && has_space,
                write: match self.bug {
                    Bug::EarlyFin => Outbound::Finish,
                    _ if self.len > 0 => Outbound::Flush,
                    Bug::EndsWithoutFin => Outbound::Finished,
                    Bug::WithdrawsFin if self.timeouts > 0 => Outbound::Idle,
                    _ => Outbound::Finish,
                },
            },
            Phase::Resetting(_) => Interest { read: false, write: Outbound::Reset },
            Phase::Done(_) if self.bug == Bug::NeverEnds => {
                Interest { read: false, write: Outbound::Idle }
            }
            Phase::Done(_) => Interest::DONE,
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        let end = self.start + self.len;
        let buf =
            if end < 8 { &mut self.buffer[end..] } else { &mut self.buffer[end - 8..self.start] };
        match self.bug {
            Bug::ClearsMemory => buf.fill(0),
            Bug::OtherMemory if buf.len() > 1 => {
                self.calls.set(self.calls.get() + 1);
                return &mut buf[self.calls.get() % 2..];
            }
            _ => {}
        }
        buf
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let [first, second] = self.slices();
        (out[0], out[1]) = (first, second);
        match self.bug {
            Bug::EmptySlice => 2,
            Bug::NothingToFlush if first.is_empty() => 0,
            _ => 1 + usize::from(!second.is_empty()),
        }
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        let mut bytes = self.slices().concat();
        match self.bug {
            Bug::OwnedOther => bytes.fill(b'?'),
            Bug::OwnedEmpty => bytes.clear(),
            _ => {}
        }
        if self.bug != Bug::OwnedTooMany {
            bytes.truncate(max);
        }
        out[0] = bytes.into();
        1
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => {
                if self.bug == Bug::Cuts && n == 3 {
                    self.read_buf()[0] = b'!';
                }
                self.len += n;
                self.total += n;
                self.last_activity = now;
            }
            Event::Eof => {
                self.phase = Phase::Closing(EndReason::Finished);
            }
            Event::Error(direction, error) => match (self.bug, direction) {
                (Bug::CleanReset, Direction::Read) => self.handle(now, Event::Eof),
                (Bug::WritesAfterError, Direction::Write) if self.len > 0 => {}
                (Bug::IdleErrorIgnored, Direction::Write)
                    if self.phase == Phase::Open && self.len == 0 => {}
                _ => self.phase = Phase::Done(EndReason::Lost(error)),
            },
            Event::Written(n) => {
                let n = if self.bug == Bug::ShortWrite { self.len } else { n };
                self.start = (self.start + n) % 8;
                self.len -= n;
                self.last_activity = now;
            }
            Event::Finished => match (self.bug, self.phase) {
                (Bug::SecondFin, _) => {}
                (Bug::Reopens, _) => self.phase = Phase::Open,
                (Bug::ResetsAfterFin, Phase::Closing(reason)) => {
                    self.phase = Phase::Resetting(reason);
                }
                (_, Phase::Closing(reason) | Phase::Resetting(reason)) => {
                    self.phase = Phase::Done(reason);
                }
                (_, Phase::Open | Phase::Done(_)) => {}
            },
            Event::Timeout { .. } => self.handle_timeout(now),
            Event::ShutDown => {
                self.shut_downs += 1;
                if self.phase == Phase::Open {
                    self.phase = Phase::Closing(EndReason::Finished);
                }
            }
            Event::Release if self.bug == Bug::ReleaseChanges => (self.start, self.len) = (0, 0),
            Event::Release => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let limit = if self.ticks { TICK } else { IDLE_TIMEOUT };
        match (self.bug, self.phase) {
            (Bug::ForgetsTimeout, _) | (_, Phase::Done(_) | Phase::Resetting(_)) => None,
            (Bug::Never, _) if self.len > 0 => Some(Instant::NEVER),
            (_, Phase::Open | Phase::Closing(_)) => Some(self.last_activity + limit),
        }
    }

    fn poll_shared(&mut self, _now: Instant, cx: &mut Context<'_>) -> bool {
        if self.bug == Bug::Spins {
            cx.waker().wake_by_ref();
        }
        let was = self.open;
        self.open = self.gate.with(|gate| {
            let once = self.bug == Bug::RegistersOnce && self.registered;
            if self.bug != Bug::LostWakeUp && !once {
                gate.waker = Some(cx.waker().clone());
            }
            gate.open
        });
        self.registered = true;
        was != self.open && self.bug != Bug::SilentChange
    }

    fn work(&self) -> u64 {
        match self.bug {
            Bug::WorkDecreases => self.len as u64,
            Bug::LongCall => self.total as u64 * 65,
            _ => 0,
        }
    }

    fn status(&self) -> Status {
        let queued = if self.bug == Bug::Memory { self.total } else { self.len };
        let lag = match self.bug {
            Bug::Shutdowns => self.shut_downs,
            Bug::TimeoutAtEnd => self.timeouts,
            _ => 0,
        };
        Status { state: "", queued, lag }
    }

    fn reason(&self) -> Option<EndReason> {
        match self.phase {
            Phase::Done(reason) if self.bug != Bug::NoReason => Some(reason),
            Phase::Open | Phase::Closing(_) | Phase::Resetting(_) | Phase::Done(_) => None,
        }
    }
}

impl Ring {
    fn handle_timeout(&mut self, now: Instant) {
        if self.ticks {
            self.last_activity = now;
            return;
        }
        self.timeouts += u64::from(matches!(self.phase, Phase::Done(_)));
        let due = self.poll_timeout().is_some_and(|deadline| deadline <= now);
        if due && self.bug == Bug::LateDeadline {
            return;
        }
        if due && self.bug == Bug::WithdrawsFin && matches!(self.phase, Phase::Closing(_)) {
            (self.timeouts, self.last_activity) = (1, now);
            return;
        }
        let is_early = self.bug == Bug::EarlyDeadline && self.phase == Phase::Open;
        if due && matches!(self.phase, Phase::Closing(_)) {
            self.phase = Phase::Resetting(EndReason::Idle);
        } else if due || is_early {
            (self.phase, self.last_activity) = (Phase::Closing(EndReason::Idle), now);
        }
        if let Phase::Done(reason) = &mut self.phase
            && self.bug == Bug::OtherReason
        {
            *reason = EndReason::Idle;
        }
    }
}

/// Opens the gate, and wakes the waker that is registered with it.
pub(crate) fn open(gate: &Lock<Gate>) {
    let waker = gate.with(|gate| {
        gate.open = true;
        gate.waker.take()
    });
    waker.into_iter().for_each(Waker::wake);
}

const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_secs(1);
