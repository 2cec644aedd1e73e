//! Time: a number that the driver passes to the machines.

use core::{
    fmt,
    num::NonZeroU64,
    ops::{Add, AddAssign},
    time::Duration,
};

/// A point in time: nanoseconds since an epoch that the driver chose.
///
/// The core never reads a clock. All instants that one machine receives must come from one clock
/// and must not go backwards. [`Drive`](crate::drive::Drive) ensures the latter.
///
/// Arithmetic saturates 584 years after the epoch, so `now + Duration::MAX` is
/// [`NEVER`](Self::NEVER).
///
/// ```
/// # use wirestate_core::Instant;
/// # use std::time::Duration;
/// let start = Instant::from_epoch(Duration::from_secs(5));
/// let deadline = start + Duration::from_millis(250);
/// assert_eq!(deadline.since(start), Duration::from_millis(250));
/// assert_eq!(start.since(deadline), Duration::ZERO);
/// assert_eq!(format!("{deadline:?}"), "5.25s");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    /// Nanoseconds since the epoch, plus 1: a non-zero number gives `Option<Instant>` the same
    /// size. Each connection holds several of these.
    nanos_plus_one: NonZeroU64,
}

impl Instant {
    /// The epoch itself.
    pub const EPOCH: Self = Self { nanos_plus_one: NonZeroU64::MIN };

    /// The latest instant, which is never reached: it means no deadline.
    pub const NEVER: Self = Self { nanos_plus_one: NonZeroU64::MAX };

    /// The instant `elapsed` after the epoch.
    pub fn from_epoch(elapsed: Duration) -> Self {
        Self::from_nanos(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) const fn from_nanos(nanos: u64) -> Self {
        Self { nanos_plus_one: NonZeroU64::MIN.saturating_add(nanos) }
    }

    pub(crate) const fn nanos(self) -> u64 {
        self.nanos_plus_one.get() - 1
    }

    /// The time since the epoch.
    pub const fn since_epoch(self) -> Duration {
        Duration::from_nanos(self.nanos())
    }

    /// The time since `earlier`; zero if `earlier` is later than this instant.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos().saturating_sub(earlier.nanos()))
    }
}

impl Default for Instant {
    fn default() -> Self {
        Self::EPOCH
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self::from_nanos(self.nanos().saturating_add(Self::from_epoch(duration).nanos()))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

/// As `Display`: the time since the epoch, such as `1.5s`.
impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.since_epoch())
    }
}
