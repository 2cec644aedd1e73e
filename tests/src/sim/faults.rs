//! Fault plans: how often which call fails.

use std::{fmt, ops::RangeInclusive, time::Duration};

use rand::{RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;

use super::decisions::Stream;
use crate::coverage;

/// How often faults strike on the sockets of one [`Host`](super::Host).
///
/// Each chance is in thousandths: 0 is never, 1000 is always. All faults but the last four are
/// harmless: every byte must still arrive.
///
/// ```
/// use wirestate_testkit::sim::Faults;
/// let busy_host = Faults { short_read: 500, interrupted: 10, ..Faults::NONE };
/// assert!(busy_host.is_harmless());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Per read: it returns only some of the available bytes.
    pub short_read: u16,
    /// Per write: it takes fewer bytes than fit into the buffer.
    pub short_write: u16,
    /// Per read, write or FIN: it blocks without need. The wake-up follows after a delay.
    pub would_block: u16,
    /// Per call that blocks: a spurious wake-up follows after a delay.
    pub spurious_wake: u16,
    /// Per read, write or FIN: a signal interrupts it (`EINTR`).
    pub interrupted: u16,
    /// Per read or write: the network stops delivering in that direction for a delay.
    pub stall: u16,
    /// Per fill of a pipe: the kernel does not support splicing on this socket.
    pub no_splice: u16,
    /// Per write to a full buffer: the kernel enlarges the send buffer by up to an eighth, so that
    /// the write succeeds although the peer has read nothing. At most once in 200 ms.
    pub send_buffer_grows: u16,
    /// Per accept, if several connections wait: it takes another one than the first. Not in a
    /// [`harmless`](Self::harmless) plan, since it makes connections depend on each other.
    pub accept_order: u16,
    /// The range of the delays above.
    pub delay: RangeInclusive<Duration>,
    /// Per accept: the connection was reset while it waited in the backlog.
    pub accept_aborted: u16,
    /// Per write: it succeeds with 0 bytes.
    pub zero_write: u16,
    /// Per read or write: a middlebox resets the connection at both ends.
    pub reset: u16,
    /// Per read or write: this end's kernel gives up the connection (`ETIMEDOUT`). The other end
    /// receives an RST when it sends, or when it probes the connection after a minute (keepalive).
    pub timed_out: u16,
}

impl Faults {
    /// No faults.
    pub const NONE: Self = Self {
        short_read: 0,
        short_write: 0,
        would_block: 0,
        spurious_wake: 0,
        interrupted: 0,
        stall: 0,
        no_splice: 0,
        send_buffer_grows: 0,
        accept_order: 0,
        delay: Duration::from_micros(1)..=Duration::from_millis(500),
        accept_aborted: 0,
        zero_write: 0,
        reset: 0,
        timed_out: 0,
    };

    /// A random plan of harmless faults, from `seed`.
    ///
    /// It includes each fault with a chance of one half, so that no fault hides another in
    /// every plan.
    pub fn harmless(seed: u64) -> Self {
        let rng = &mut XorShiftRng::seed_from_u64(seed);
        let mut draw = |max: u16| if rng.random() { rng.random_range(1..=max) } else { 0 };
        Self {
            short_read: draw(1000),
            short_write: draw(1000),
            would_block: draw(300),
            spurious_wake: draw(300),
            interrupted: draw(300),
            stall: draw(50),
            no_splice: draw(100),
            send_buffer_grows: draw(300),
            ..Self::NONE
        }
    }

    /// A random plan from `seed` that also includes faults that break connections.
    pub fn harmful(seed: u64) -> Self {
        let rng = &mut XorShiftRng::seed_from_u64(!seed);
        let mut draw = |max: u16| if rng.random() { rng.random_range(1..=max) } else { 0 };
        Self {
            accept_aborted: draw(200),
            zero_write: draw(30),
            reset: draw(60),
            timed_out: draw(30),
            ..Self::harmless(seed)
        }
    }

    /// Whether the plan breaks no connection.
    pub fn is_harmless(&self) -> bool {
        self.accept_aborted == 0 && self.zero_write == 0 && self.reset == 0 && self.timed_out == 0
    }

    /// Whether a fault may strike.
    pub(super) fn any(&self) -> bool {
        self.chances().iter().any(|(_, chance)| *chance > 0)
    }

    fn chances(&self) -> [(&'static str, u16); 13] {
        [
            ("short_read", self.short_read),
            ("short_write", self.short_write),
            ("would_block", self.would_block),
            ("spurious_wake", self.spurious_wake),
            ("interrupted", self.interrupted),
            ("stall", self.stall),
            ("no_splice", self.no_splice),
            ("send_buffer_grows", self.send_buffer_grows),
            ("accept_order", self.accept_order),
            ("accept_aborted", self.accept_aborted),
            ("zero_write", self.zero_write),
            ("reset", self.reset),
            ("timed_out", self.timed_out),
        ]
    }
}

impl fmt::Display for Faults {
    /// Writes the faults that may strike, with their chances, and the range of the delays if one
    /// of them has a delay: `short_read 500, stall 20, delay 1µs..=500ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chances = self.chances().into_iter().filter(|(_, chance)| *chance > 0);
        let mut parts: Vec<_> = chances.map(|(name, chance)| format!("{name} {chance}")).collect();
        if self.would_block > 0 || self.spurious_wake > 0 || self.stall > 0 {
            parts.push(format!("delay {:?}", self.delay));
        }
        f.write_str(&parts.join(", "))
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::NONE
    }
}

/// The random numbers of one end of a connection, of a listener, or of the order of the tasks. They
/// depend only on the seed and on whose they are.
///
/// Each decision has a name, which is unique among the callers. The name of a fault's size begins
/// with the name of the fault: `short_read`, `short_read_len`.
#[derive(Clone)]
pub(super) struct Dice {
    rng: XorShiftRng,
    /// Only if the world is recorded or replayed.
    stream: Option<Box<Stream>>,
}

impl Dice {
    pub(super) fn new(seed: u64, stream: Option<Stream>) -> Self {
        Self { rng: XorShiftRng::seed_from_u64(seed), stream: stream.map(Box::new) }
    }

    /// Decides whether something with a chance of `chance` thousandths happens. A chance of 0 draws
    /// no number, so that leaving a fault out of a plan does not change the others.
    pub(super) fn strikes(&mut self, name: &'static str, chance: u16) -> bool {
        if chance == 0 {
            return false;
        }
        let mut random = || self.rng.random_ratio(u32::from(chance.min(1000)), 1000);
        let strikes = match &mut self.stream {
            None => random(),
            Some(stream) => stream.strikes(name, random),
        };
        if strikes {
            coverage::record_fault(name);
        }
        strikes
    }

    /// Decides on a duration.
    pub(super) fn between(
        &mut self,
        name: &'static str,
        range: &RangeInclusive<Duration>,
    ) -> Duration {
        let mut random = || self.rng.random_range(range.clone());
        match &mut self.stream {
            None => random(),
            Some(stream) => stream.between(name, range, random),
        }
    }

    /// Decides on a number from 1 to `max`, which must not be 0. A single choice is no decision.
    pub(super) fn up_to(&mut self, name: &'static str, max: usize) -> usize {
        let mut random = || self.rng.random_range(1..=max);
        match &mut self.stream {
            Some(stream) if max > 1 => stream.up_to(name, max, random),
            None | Some(_) => random(),
        }
    }

    /// Decides whether a scripted peer performs its act `number`, and how many of the `len` bytes
    /// of a `Send` it sends: `None` if the act is left out.
    pub(super) fn act(
        &mut self,
        number: u64,
        len: usize,
        text: impl FnOnce(usize) -> String,
    ) -> Option<usize> {
        match &mut self.stream {
            None => Some(len),
            Some(stream) => stream.act(number, len, text),
        }
    }
}
