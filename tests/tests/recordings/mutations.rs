//! A machine that differs from the one inside it.

#![expect(clippy::wildcard_enum_match_arm, reason = "a mutation changes one thing")]

use core::task::Context;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use wirestate_core::{
    AnyReason, Event, Fault, Instant, Interest, Machine, Outbound, Reason, Status,
    drive::MAX_SLICES, record::Recordable,
};

/// How a machine differs from the one inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    None,
    /// Its input lacks the byte at this index.
    LosesByte(usize),
    /// It gets the byte at this index twice.
    DoublesByte(usize),
    /// It gets another byte at this index.
    ChangesByte(usize),
    /// It loses the first byte of a read of this length.
    LosesByteOfRead(usize),
    /// Output of up to this many bytes waits for more.
    HoldsBack(usize),
    /// It reads no more after this many bytes.
    StopsReading(usize),
    /// The peer's FIN has no effect.
    IgnoresEof,
    /// Its FIN comes after this many bytes, in place of the rest.
    FinTooEarly(usize),
    /// It ends with an RST in place of a FIN.
    ResetsForFin,
    /// It ends with another reason.
    OtherReason,
    /// A deadline passes without effect, this often.
    IgnoresTimeouts(usize),
    /// It shuts down at this timeout, even before a deadline.
    EndsAtTimeout(usize),
    /// It shuts down at a timeout with this many unacknowledged bytes.
    EndsUnacknowledged(usize),
    /// It shuts down when nothing has happened for this long.
    IsImpatient(Duration),
    /// It panics when it receives this byte.
    PanicsOnByte(u8),
    /// It panics at the peer's FIN.
    PanicsOnEof,
}

pub(crate) fn mutations() -> impl Strategy<Value = Mutation> {
    let index = || 0..40_usize;
    prop_oneof![
        1 => Just(Mutation::None),
        2 => index().prop_map(Mutation::LosesByte),
        2 => index().prop_map(Mutation::DoublesByte),
        2 => index().prop_map(Mutation::ChangesByte),
        2 => (1..20_usize).prop_map(Mutation::LosesByteOfRead),
        2 => (1..20_usize).prop_map(Mutation::HoldsBack),
        1 => index().prop_map(Mutation::StopsReading),
        1 => Just(Mutation::IgnoresEof),
        2 => index().prop_map(Mutation::FinTooEarly),
        1 => Just(Mutation::ResetsForFin),
        1 => Just(Mutation::OtherReason),
        1 => (1..4_usize).prop_map(Mutation::IgnoresTimeouts),
        1 => (0..4_usize).prop_map(Mutation::EndsAtTimeout),
        1 => (0..20_usize).prop_map(Mutation::EndsUnacknowledged),
        1 => (1..40_u64).prop_map(|time| Mutation::IsImpatient(Duration::from_secs(time))),
        2 => any::<u8>().prop_map(Mutation::PanicsOnByte),
        1 => Just(Mutation::PanicsOnEof),
    ]
}

/// A machine with a mutation.
#[derive(Debug)]
pub(crate) struct Mutant<M> {
    inner: M,
    mutation: Mutation,
    now: Instant,
    received: usize,
    sent: usize,
    timeouts: usize,
    /// The peer has sent a FIN, and the inner machine does not know it.
    has_eof: bool,
    /// Its FIN or RST was sent in place of the inner machine's.
    has_ended: bool,
}

impl<M: Machine> Mutant<M> {
    pub(crate) fn new(inner: M, mutation: Mutation, now: Instant) -> Self {
        Self {
            inner,
            mutation,
            now,
            received: 0,
            sent: 0,
            timeouts: 0,
            has_eof: false,
            has_ended: false,
        }
    }

    fn read(&mut self, now: Instant, n: usize) {
        let (mutation, at, buf) = (self.mutation, self.received, self.inner.read_buf());
        self.received += n;
        if let Mutation::PanicsOnByte(byte) = mutation {
            assert!(!buf[..n].contains(&byte), "a planted bug");
        }
        let is_here = |index: &usize| (at..at + n).contains(index);
        let n = match mutation {
            Mutation::LosesByte(index) if is_here(&index) => {
                buf.copy_within(index - at + 1..n, index - at);
                n - 1
            }
            Mutation::LosesByteOfRead(len) if len == n => {
                buf.copy_within(1..n, 0);
                n - 1
            }
            Mutation::DoublesByte(index) if is_here(&index) && n < buf.len() => {
                buf.copy_within(index - at..n, index - at + 1);
                n + 1
            }
            Mutation::ChangesByte(index) if is_here(&index) => {
                buf[index - at] ^= 1;
                n
            }
            _ => n,
        };
        if n > 0 {
            self.inner.handle(now, Event::Read(n));
        }
    }

    fn offered(&self) -> usize {
        let mut bufs = [&[][..]; MAX_SLICES];
        let count = self.inner.write_bufs(&mut bufs);
        bufs[..count].iter().map(|buf| buf.len()).sum()
    }
}

impl<M: Recordable> Recordable for Mutant<M> {
    fn begin_recording(&mut self) {
        self.inner.begin_recording();
    }

    fn take_outside(&mut self, out: &mut Vec<u8>) {
        self.inner.take_outside(out);
    }

    fn restore_outside(&mut self, outside: &[u8]) -> Result<(), &'static str> {
        self.inner.restore_outside(outside)
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl<M: Machine> Machine for Mutant<M> {
    type Reason = AnyReason;

    fn interest(&self) -> Interest {
        let Interest { mut read, mut write } = self.inner.interest();
        if self.has_ended || self.inner.interest().is_done() {
            return Interest::DONE;
        }
        match self.mutation {
            Mutation::HoldsBack(n) if write == Outbound::Flush && self.offered() <= n => {
                write = Outbound::Idle;
            }
            Mutation::StopsReading(n) => read &= self.received < n,
            Mutation::FinTooEarly(n) if write == Outbound::Flush && self.sent >= n => {
                write = Outbound::Finish;
            }
            Mutation::ResetsForFin if write == Outbound::Finish => write = Outbound::Reset,
            _ => {}
        }
        read &= !self.has_eof;
        // The inner machine waits for input.
        if !read && write == Outbound::Finished {
            write = Outbound::Idle;
        }
        Interest { read, write }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.inner.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.inner.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.inner.write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        if self.has_ended {
            return;
        }
        let pause = now.since(self.now);
        self.now = now;
        match event {
            Event::Read(n) => self.read(now, n),
            Event::Eof if self.mutation == Mutation::IgnoresEof => self.has_eof = true,
            Event::Finished if self.interest().write != self.inner.interest().write => {
                self.has_ended = true;
                return;
            }
            Event::Timeout { unacknowledged } => {
                self.timeouts += 1;
                match self.mutation {
                    Mutation::IgnoresTimeouts(n) if self.timeouts <= n => return,
                    _ => self.inner.handle(now, event),
                }
                let ends = match self.mutation {
                    Mutation::EndsAtTimeout(n) => self.timeouts > n,
                    Mutation::EndsUnacknowledged(n) => unacknowledged == n,
                    _ => false,
                };
                if ends {
                    self.inner.handle(now, Event::ShutDown);
                }
            }
            Event::Eof
            | Event::Written(_)
            | Event::Finished
            | Event::Error(..)
            | Event::ShutDown
            | Event::Release => {
                assert!(event != Event::Eof || self.mutation != Mutation::PanicsOnEof, "at a FIN");
                if let Event::Written(n) = event {
                    self.sent += n;
                }
                self.inner.handle(now, event);
            }
        }
        if matches!(self.mutation, Mutation::IsImpatient(limit) if pause >= limit) {
            self.inner.handle(now, Event::ShutDown);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.interest().is_done() { None } else { self.inner.poll_timeout() }
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.inner.poll_shared(now, cx)
    }

    fn work(&self) -> u64 {
        self.inner.work()
    }

    fn status(&self) -> Status {
        self.inner.status()
    }

    fn reason(&self) -> Option<AnyReason> {
        let reason = self.inner.reason();
        if self.has_ended || reason.is_some() && self.mutation == Mutation::OtherReason {
            return Some(AnyReason::of(&Planted));
        }
        reason.map(|reason| AnyReason::of(&reason))
    }
}

/// The reason of a mutation.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a planted bug")]
struct Planted;

impl Reason for Planted {
    fn label(&self) -> &'static str {
        "planted"
    }

    fn fault(&self) -> Fault {
        Fault::Bug
    }
}
