//! The faults of one direction of one connection.

#[cfg(test)]
mod tests;

use alloc::{
    collections::VecDeque,
    vec::{self, Vec},
};
use core::{fmt, ops::RangeInclusive, time::Duration};

use super::{Faults, Kind, Slice, dice::Dice};
use crate::{Instant, token_bucket::TokenBucket};

/// Decides when the bytes of one direction of one connection pass, and how it ends.
///
/// It holds no bytes: the caller queues them, and so limits their number. The caller reports what
/// it receives from the sender, asks before it sends anything to the receiver, and reports what it
/// has sent:
///
/// ```
/// use core::time::Duration;
/// use wirestate_core::{
///     Instant,
///     faults::{Decision, Faults, Injector, Plan, Sometimes, Wanted},
///     proxy::Side,
/// };
///
/// let ms = Duration::from_millis;
/// let faults = Faults::default().with_delay(Sometimes::always(ms(20)..=ms(20)));
/// let injector = Injector::new(Plan::default().with_to_client(faults), 7)?;
/// let mut gate = injector.gate(1, Side::Client);
///
/// let start = Instant::EPOCH;
/// gate.received(5, start);
/// assert_eq!(gate.next(Wanted::Bytes(5), start), Decision::Hold(start + ms(20)));
/// assert_eq!(gate.next(Wanted::Bytes(5), start + ms(20)), Decision::Pass(5));
/// gate.passed(5, start + ms(20));
/// # Ok::<(), wirestate_core::ConfigError>(())
/// ```
///
/// It holds at most 1,024 times of arrivals, 16 bytes each, and 16 [strikes](Strike). After that
/// many arrivals which wait, the next bytes and the last ones that wait pass together.
#[derive(Debug)]
pub struct Gate {
    dice: Dice,
    slice: Option<Pieces>,
    delay: Duration,
    jitter: Option<RangeInclusive<Duration>>,
    rate: Option<Rate>,
    stall: Option<Stall>,
    /// How the direction ends, and after how many bytes.
    ending: Option<(u64, Ending)>,
    has_ended: bool,
    received: u64,
    passed: u64,
    arrivals: VecDeque<Arrival>,
    /// When the FIN may pass, once it has arrived.
    fin_release: Instant,
    hold: Option<Instant>,
    strikes: Vec<Strike>,
}

/// What the caller wants to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing now.
    Nothing,
    /// This many bytes, at least one.
    Bytes(usize),
    /// A FIN, after all bytes.
    Fin,
}

/// What the caller may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This many bytes at most; or the FIN.
    Pass(usize),
    /// Nothing before this time.
    Hold(Instant),
    /// The direction ends. Do it, and call [`Gate::ended`].
    End(Ending),
    /// Nothing: the direction has ended. Discard the bytes or the FIN.
    Discard,
}

/// How a fault ends a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Both sides are reset.
    Reset,
    /// The receiver gets a FIN.
    HalfClose,
    /// The receiver gets nothing any more.
    BlackHole,
}

impl Ending {
    /// The kind of the fault.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Reset => Kind::Reset,
            Self::HalfClose => Kind::HalfClose,
            Self::BlackHole => Kind::BlackHole,
        }
    }
}

/// A fault that has struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// The kind of the fault.
    pub kind: Kind,
    /// After how many bytes.
    pub at: u64,
    /// The length of the piece, or the rate in bytes a second.
    pub bytes: Option<u64>,
    /// The delay, the first jitter, the pause after a piece, or the duration of a stall.
    pub time: Option<Duration>,
    /// Whether it is the first one of its kind in this direction. Only pieces have others.
    pub is_first: bool,
}

impl fmt::Display for Strike {
    /// Writes what has struck and where: `stall after 5 bytes, 300ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = |count| if count == 1 { "byte" } else { "bytes" };
        write!(f, "{} after {} {}", self.kind, self.at, unit(self.at))?;
        if let Some(bytes) = self.bytes {
            let a_second = if self.kind == Kind::Rate { " a second" } else { "" };
            write!(f, ", {bytes} {}{a_second}", unit(bytes))?;
        }
        self.time.map_or(Ok(()), |time| write!(f, ", {time:?}"))
    }
}

/// Bytes that have arrived together.
#[derive(Debug)]
struct Arrival {
    /// The position behind them.
    end: u64,
    /// When they may pass.
    release: Instant,
}

#[derive(Debug)]
struct Pieces {
    config: Slice,
    /// The number of the current piece, from 0, its length, and the position of its end.
    number: u64,
    length: u64,
    end: u64,
    /// When the current piece may begin.
    begin: Instant,
}

#[derive(Debug)]
struct Rate {
    per_second: u64,
    bucket: TokenBucket,
}

#[derive(Debug)]
struct Stall {
    at: u64,
    time: Duration,
    /// Set when it has begun.
    until: Option<Instant>,
}

impl Gate {
    pub(super) fn new(faults: &Faults, dice: Dice) -> Self {
        let Faults { slice, delay, jitter, rate, stall, half_close, reset, black_hole } = faults;
        let slice = dice.draw(Kind::Slice, slice.as_ref()).map(|slice| {
            let length = dice.between(Kind::Slice, 1, &slice.bytes);
            let begin = Instant::EPOCH;
            Pieces { config: slice.clone(), number: 0, length, end: length, begin }
        });
        let delay = dice.draw(Kind::Delay, delay.as_ref());
        let rate = dice.draw(Kind::Rate, rate.as_ref()).map(|rate| Rate {
            per_second: dice.between(Kind::Rate, 1, rate),
            bucket: TokenBucket::FULL,
        });
        let stall = dice.draw(Kind::Stall, stall.as_ref()).map(|stall| Stall {
            at: dice.between(Kind::Stall, 1, &stall.after),
            time: dice.time_between(Kind::Stall, 2, &stall.time),
            until: None,
        });
        let ending = [
            (Ending::Reset, reset),
            (Ending::HalfClose, half_close),
            (Ending::BlackHole, black_hole),
        ]
        .into_iter()
        .filter_map(|(ending, after)| {
            let after = dice.draw(ending.kind(), after.as_ref())?;
            Some((dice.between(ending.kind(), 1, after), ending))
        });
        Self {
            dice,
            slice,
            delay: delay.map_or(Duration::ZERO, |delay| dice.time_between(Kind::Delay, 1, delay)),
            jitter: dice.draw(Kind::Jitter, jitter.as_ref()).cloned(),
            rate,
            stall,
            ending: ending.min(),
            has_ended: false,
            received: 0,
            passed: 0,
            arrivals: VecDeque::new(),
            fin_release: Instant::EPOCH,
            hold: None,
            strikes: Vec::new(),
        }
    }

    /// Records that `n` bytes, at least one, were received from the sender.
    pub fn received(&mut self, n: usize, now: Instant) {
        if self.has_ended {
            return;
        }
        let jitter = self.jitter.as_ref().map(|jitter| {
            self.dice.time_between(Kind::Jitter, self.received.saturating_add(1), jitter)
        });
        if self.received == 0 {
            let delay = Some(self.delay).filter(|delay| !delay.is_zero());
            let rate = self.rate.as_ref().map(|rate| rate.per_second);
            for (kind, bytes, time) in
                [(Kind::Delay, None, delay), (Kind::Jitter, None, jitter), (Kind::Rate, rate, None)]
            {
                if bytes.is_some() || time.is_some() {
                    self.strike(Strike { kind, at: 0, bytes, time, is_first: true });
                }
            }
        }
        self.received = self.received.saturating_add(n as u64);
        if self.delay.is_zero() && jitter.is_none() {
            return;
        }
        let (end, release) = (self.received, now + self.delay + jitter.unwrap_or_default());
        let is_full = self.arrivals.len() == MAX_ARRIVALS;
        match self.arrivals.back_mut() {
            // Bytes stay in order, so these pass no earlier than the last ones.
            Some(last) if is_full || release <= last.release => {
                *last = Arrival { end, release: last.release.max(release) };
            }
            Some(_) | None => self.arrivals.push_back(Arrival { end, release }),
        }
    }

    /// Records that the FIN of the sender was received.
    pub fn received_fin(&mut self, now: Instant) {
        self.fin_release = now + self.delay;
    }

    /// What may be sent `now`. The same call at the same time returns the same, until something
    /// [passes](Self::passed).
    ///
    /// Ask also when nothing is pending: a direction can end then.
    pub fn next(&mut self, wanted: Wanted, now: Instant) -> Decision {
        if self.has_ended {
            return Decision::Discard;
        }
        let ending = self.ending.filter(|(at, _)| *at == self.passed);
        if wanted == Wanted::Nothing && ending.is_none() {
            return Decision::Pass(0);
        }
        let held = match self.stalled_until(now) {
            Some(until) => Err(until),
            None => match (ending, wanted) {
                (Some((_, ending)), _) => Ok(Decision::End(ending)),
                (None, Wanted::Bytes(n)) => self.passing(n, now).map(Decision::Pass),
                (None, Wanted::Fin) if self.fin_release > now => Err(self.fin_release),
                (None, Wanted::Fin | Wanted::Nothing) => Ok(Decision::Pass(0)),
            },
        };
        self.hold = held.err();
        held.unwrap_or_else(Decision::Hold)
    }

    /// Until when the stall lasts. It begins now, if it is due.
    fn stalled_until(&mut self, now: Instant) -> Option<Instant> {
        let stall = self.stall.as_mut().filter(|stall| stall.at == self.passed)?;
        let (at, time, is_new) = (stall.at, stall.time, stall.until.is_none());
        let until = *stall.until.get_or_insert(now + time);
        if is_new {
            let time = Some(time);
            self.strike(Strike { kind: Kind::Stall, at, bytes: None, time, is_first: true });
        }
        (until > now).then_some(until)
    }

    /// How many of `n` bytes may pass now; otherwise when the first one may.
    fn passing(&mut self, n: usize, now: Instant) -> Result<usize, Instant> {
        let mut end = self.passed.saturating_add(n as u64);
        while self.arrivals.front().is_some_and(|arrival| arrival.end <= self.passed) {
            self.arrivals.pop_front();
        }
        if let Some(first) = self.arrivals.front()
            && first.release > now
        {
            return Err(first.release);
        }
        if let Some(held) = self.arrivals.iter().position(|arrival| arrival.release > now) {
            end = end.min(self.arrivals[held - 1].end);
        }
        if let Some(pieces) = &self.slice {
            if pieces.begin > now {
                return Err(pieces.begin);
            }
            end = end.min(pieces.end);
        }
        for limit in [self.stall.as_ref().map(|stall| stall.at), self.ending.map(|(at, _)| at)] {
            end = end.min(limit.filter(|at| *at > self.passed).unwrap_or(u64::MAX));
        }
        let n = end - self.passed;
        let n = self.rate.as_ref().map_or(Ok(n), |rate| rate.passing(n, now))?;
        Ok(usize::try_from(n).unwrap_or(usize::MAX))
    }

    /// Records that `n` bytes were sent to the receiver, at most as many as
    /// [`Decision::Pass`] allows.
    pub fn passed(&mut self, n: usize, now: Instant) {
        self.passed = self.passed.saturating_add(n as u64);
        if let Some(rate) = &mut self.rate {
            rate.bucket.borrow(rate.cost(n as u64), now);
        }
        let Some(pieces) = self.slice.as_mut().filter(|pieces| pieces.end <= self.passed) else {
            return;
        };
        let (index, dice) = (2 * pieces.number, self.dice);
        let pause = dice.time_between(Kind::Slice, index + 2, &pieces.config.pause);
        let strike = Strike {
            kind: Kind::Slice,
            at: pieces.end,
            bytes: Some(pieces.length),
            time: Some(pause),
            is_first: pieces.number == 0,
        };
        pieces.number += 1;
        pieces.length = dice.between(Kind::Slice, index + 3, &pieces.config.bytes);
        pieces.end = pieces.end.saturating_add(pieces.length);
        pieces.begin = now + pause;
        self.strike(strike);
    }

    /// Records that the caller has done what [`Decision::End`] asked for.
    pub fn ended(&mut self) {
        self.has_ended = true;
        self.hold = None;
        if let Some((at, ending)) = self.ending {
            let kind = ending.kind();
            self.strike(Strike { kind, at, bytes: None, time: None, is_first: true });
        }
    }

    /// How many bytes have passed.
    pub fn position(&self) -> u64 {
        self.passed
    }

    /// When the caller must ask again: the time of the last [`Decision::Hold`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.hold
    }

    /// Forgets a deadline that has passed, although nothing was asked for since.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.hold = self.hold.filter(|hold| *hold > now);
    }

    /// Takes the faults that have struck since the last call, at most the last 16.
    pub fn take_strikes(&mut self) -> vec::Drain<'_, Strike> {
        self.strikes.drain(..)
    }

    fn strike(&mut self, strike: Strike) {
        if self.strikes.len() == MAX_STRIKES {
            self.strikes.remove(0);
        }
        self.strikes.push(strike);
    }
}

impl Rate {
    /// How many of `n` bytes may pass now; otherwise when the first ones may.
    ///
    /// After a wait, the bytes of 10 ms pass at once: a wait for each byte would cost more. Time
    /// that was not used is made up for, up to [`MAX_LATE`].
    fn passing(&self, n: u64, now: Instant) -> Result<u64, Instant> {
        let burst = (self.per_second / 100).max(1);
        let n = n.min(burst);
        let wait = self.bucket.wait(self.cost(n), self.cost(burst) + MAX_LATE, now);
        if wait.is_zero() { Ok(n) } else { Err(now + wait) }
    }

    /// The time in which `n` bytes pass.
    fn cost(&self, n: u64) -> Duration {
        let nanos = u128::from(n) * 1_000_000_000 / u128::from(self.per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// How late a wait for the rate may end, and the rate is still kept.
const MAX_LATE: Duration = Duration::from_millis(10);
/// The most arrivals that wait.
const MAX_ARRIVALS: usize = 1024;
/// The most strikes that were not taken.
const MAX_STRIKES: usize = 16;
