//! What goes wrong, as plain data.

use std::{ops::RangeInclusive, time::Duration};

use rand::{RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;

/// How often what goes wrong on the sockets of one [`Host`](super::Host): each fault's chance is in
/// thousandths, 0 never and 1000 always.
///
/// All but the last three leave a connection whole: under them, every byte must still arrive.
///
/// ```
/// use wirestate_testkit::sim::Faults;
/// let slow_disk_fast_network = Faults { short_read: 500, interrupted: 10, ..Faults::NONE };
/// assert!(slow_disk_fast_network.is_harmless());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Per read: it finds only some of the bytes that are there.
    pub short_read: u16,
    /// Per write: it takes only some of the bytes that there is room for.
    pub short_write: u16,
    /// Per read, write or FIN: it would block, although it need not. The wake-up follows.
    pub would_block: u16,
    /// Per call that would block: a wake-up follows for no reason.
    pub spurious_wake: u16,
    /// Per read, write or FIN: a signal comes in between.
    pub interrupted: u16,
    /// Per write or read: the network stops delivering in that direction for a while.
    pub stall: u16,
    /// Per fill of a pipe: the kernel can't, and never could.
    pub no_splice: u16,
    /// Per write that finds no room: the kernel enlarges the send buffer, and takes up to an eighth
    /// of a buffer more although the peer takes nothing; at most every 200 ms.
    pub send_buffer_grows: u16,
    /// How long such a while is, and how late the wake-ups are that faults delay.
    pub delay: RangeInclusive<Duration>,
    /// Per accept: the connection was reset in the backlog.
    pub accept_aborted: u16,
    /// Per write: it takes nothing, and calls that a success.
    pub zero_write: u16,
    /// Per read or write: something between the two ends resets the connection, at both.
    pub reset: u16,
    /// Per read or write: this end's kernel gives up (`ETIMEDOUT`). The other end hears nothing of
    /// it, until it sends something or, after a minute, its keepalive probe is answered by an RST.
    pub timed_out: u16,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        short_read: 0,
        short_write: 0,
        would_block: 0,
        spurious_wake: 0,
        interrupted: 0,
        stall: 0,
        no_splice: 0,
        send_buffer_grows: 0,
        delay: Duration::from_micros(1)..=Duration::from_millis(500),
        accept_aborted: 0,
        zero_write: 0,
        reset: 0,
        timed_out: 0,
    };

    /// A plan drawn from `seed`, of faults that leave every connection whole. Each fault is in it
    /// or not with even chance, so that no fault hides behind another in every run.
    pub fn harmless(seed: u64) -> Self {
        let rng = &mut XorShiftRng::seed_from_u64(seed);
        let mut draw = |most: u16| if rng.random() { rng.random_range(1..=most) } else { 0 };
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

    /// A plan drawn from `seed`, in which connections break as well.
    pub fn harmful(seed: u64) -> Self {
        let rng = &mut XorShiftRng::seed_from_u64(!seed);
        let mut draw = |most: u16| if rng.random() { rng.random_range(1..=most) } else { 0 };
        Self {
            accept_aborted: draw(200),
            zero_write: draw(30),
            reset: draw(60),
            timed_out: draw(30),
            ..Self::harmless(seed)
        }
    }

    /// Whether every connection stays whole under this plan.
    pub fn is_harmless(&self) -> bool {
        self.accept_aborted == 0 && self.zero_write == 0 && self.reset == 0 && self.timed_out == 0
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::NONE
    }
}

/// The dice of one end of one connection. They depend on the seed and on which connection it is,
/// and on nothing that happens elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Dice {
    rng: XorShiftRng,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: XorShiftRng::seed_from_u64(seed) }
    }

    /// Whether what has a chance of `chance` thousandths comes to pass. A chance of 0 throws no
    /// die, so that a plan without a fault is the run without it.
    pub(super) fn strikes(&mut self, chance: u16) -> bool {
        chance > 0 && self.rng.random_ratio(u32::from(chance.min(1000)), 1000)
    }

    pub(super) fn between(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        self.rng.random_range(range.clone())
    }

    /// One of `1..=most`; `most` is not 0.
    pub(super) fn up_to(&mut self, most: usize) -> usize {
        self.rng.random_range(1..=most)
    }
}
