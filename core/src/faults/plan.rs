//! The plan: which faults a connection can have.

use core::{fmt, ops::RangeInclusive, time::Duration};

use crate::{ConfigError, config::with_setters};

/// Which faults the connections of a proxy can have, in each direction.
///
/// ```
/// use core::time::Duration;
/// use wirestate_core::faults::{Faults, Plan, Sometimes};
///
/// // One connection in ten is reset within the first 4 KiB of its answers. All are slow.
/// let delay = Duration::from_millis(20)..=Duration::from_millis(50);
/// let plan = Plan::default()
///     .with_to_upstream(Faults::default().with_delay(Sometimes::always(delay)))
///     .with_to_client(Faults::default().with_reset(Sometimes { chance: 100, value: 0..=4096 }));
/// assert!(plan.check().is_ok());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The faults of the bytes from the client to the upstream.
    pub to_upstream: Faults,
    /// The faults of the bytes from the upstream to the client.
    pub to_client: Faults,
}

impl Plan {
    with_setters! {
        with_to_upstream(to_upstream: Faults);
        with_to_client(to_client: Faults);
    }

    /// Checks the plan.
    ///
    /// # Errors
    /// A chance is not within 1 to 1000, a range is empty, or the length of a piece or a rate can
    /// be 0.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.to_upstream.check()?;
        self.to_client.check()
    }
}

/// The faults of one direction. Each connection draws which of them it has.
///
/// Each range includes both ends. Positions count the bytes that have passed in this direction,
/// without a PROXY header of the proxy.
///
/// A connection has at most one of `half_close`, `reset` and `black_hole` in each direction: the
/// one with the earliest position. At the same position, a reset comes before a half-close, and a
/// black hole last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// Bytes pass in short pieces.
    pub slice: Option<Sometimes<Slice>>,
    /// Each byte, and the FIN, passes this much later. Drawn once for each connection.
    pub delay: Option<Sometimes<RangeInclusive<Duration>>>,
    /// As `delay`, but drawn for each read from the sender. Bytes stay in order.
    pub jitter: Option<Sometimes<RangeInclusive<Duration>>>,
    /// At most this many bytes pass in a second. At least 1.
    pub rate: Option<Sometimes<RangeInclusive<u64>>>,
    /// For a time, nothing passes.
    pub stall: Option<Sometimes<Stall>>,
    /// After this many bytes, the receiver gets a FIN. Later bytes are discarded.
    pub half_close: Option<Sometimes<RangeInclusive<u64>>>,
    /// After this many bytes, both sides are reset: the receiver once it has acknowledged them, the
    /// sender at once.
    pub reset: Option<Sometimes<RangeInclusive<u64>>>,
    /// After this many bytes, nothing passes any more, not even a FIN. Later bytes are discarded.
    pub black_hole: Option<Sometimes<RangeInclusive<u64>>>,
}

impl Faults {
    with_setters! {
        with_slice(slice: impl Into<Option<Sometimes<Slice>>>);
        with_delay(delay: impl Into<Option<Sometimes<RangeInclusive<Duration>>>>);
        with_jitter(jitter: impl Into<Option<Sometimes<RangeInclusive<Duration>>>>);
        with_rate(rate: impl Into<Option<Sometimes<RangeInclusive<u64>>>>);
        with_stall(stall: impl Into<Option<Sometimes<Stall>>>);
        with_half_close(half_close: impl Into<Option<Sometimes<RangeInclusive<u64>>>>);
        with_reset(reset: impl Into<Option<Sometimes<RangeInclusive<u64>>>>);
        with_black_hole(black_hole: impl Into<Option<Sometimes<RangeInclusive<u64>>>>);
    }

    fn check(&self) -> Result<(), ConfigError> {
        let Self { slice, delay, jitter, rate, stall, half_close, reset, black_hole } = self;
        if let Some(Sometimes { chance, value: Slice { bytes, pause } }) = slice {
            check_chance("slice.chance", *chance)?;
            check_numbers("slice.bytes", bytes, 1)?;
            check_times("slice.pause", pause)?;
        }
        for (name, chance, times) in
            [("delay", "delay.chance", delay), ("jitter", "jitter.chance", jitter)]
        {
            if let Some(times) = times {
                check_chance(chance, times.chance)?;
                check_times(name, &times.value)?;
            }
        }
        if let Some(Sometimes { chance, value: Stall { after, time } }) = stall {
            check_chance("stall.chance", *chance)?;
            check_numbers("stall.after", after, 0)?;
            check_times("stall.time", time)?;
        }
        for (name, chance, numbers, min) in [
            ("rate", "rate.chance", rate, 1),
            ("half_close", "half_close.chance", half_close, 0),
            ("reset", "reset.chance", reset, 0),
            ("black_hole", "black_hole.chance", black_hole, 0),
        ] {
            if let Some(numbers) = numbers {
                check_chance(chance, numbers.chance)?;
                check_numbers(name, &numbers.value, min)?;
            }
        }
        Ok(())
    }
}

/// A fault that some connections have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sometimes<T> {
    /// How many of 1000 connections have it: 1 to 1000.
    pub chance: u16,
    /// What the fault is.
    pub value: T,
}

impl<T> Sometimes<T> {
    /// A fault that every connection has.
    pub const fn always(value: T) -> Self {
        Self { chance: 1000, value }
    }
}

/// Short pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The length of a piece, drawn for each. At least 1. A piece is shorter if no further byte has
    /// arrived.
    pub bytes: RangeInclusive<u64>,
    /// The pause after a piece, drawn for each. Without a pause, the receiver often reads several
    /// pieces at once.
    pub pause: RangeInclusive<Duration>,
}

/// A pause, once in a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// After how many bytes it begins, with the next byte, FIN or fault.
    pub after: RangeInclusive<u64>,
    /// How long it lasts.
    pub time: RangeInclusive<Duration>,
}

fn check_chance(setting: &'static str, chance: u16) -> Result<(), ConfigError> {
    let value = chance.into();
    match chance {
        0 => Err(ConfigError::Zero { setting }),
        1..=CERTAIN => Ok(()),
        _ => Err(ConfigError::TooLarge { setting, value, max: CERTAIN.into() }),
    }
}

fn check_numbers(
    setting: &'static str,
    range: &RangeInclusive<u64>,
    min: u64,
) -> Result<(), ConfigError> {
    for (value, min) in [(*range.start(), min), (*range.end(), *range.start())] {
        if value < min {
            return Err(ConfigError::TooSmall { setting, value, min });
        }
    }
    Ok(())
}

fn check_times(setting: &'static str, range: &RangeInclusive<Duration>) -> Result<(), ConfigError> {
    check_numbers(setting, &nanos(range), 0)
}

/// A range of times in nanoseconds.
pub(super) fn nanos(range: &RangeInclusive<Duration>) -> RangeInclusive<u64> {
    let nanos = |time: &Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    nanos(range.start())..=nanos(range.end())
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// [`Faults::slice`].
    Slice,
    /// [`Faults::delay`].
    Delay,
    /// [`Faults::jitter`].
    Jitter,
    /// [`Faults::rate`].
    Rate,
    /// [`Faults::stall`].
    Stall,
    /// [`Faults::half_close`].
    HalfClose,
    /// [`Faults::reset`].
    Reset,
    /// [`Faults::black_hole`].
    BlackHole,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Slice,
        Self::Delay,
        Self::Jitter,
        Self::Rate,
        Self::Stall,
        Self::HalfClose,
        Self::Reset,
        Self::BlackHole,
    ];

    /// The name in metrics and in the log.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Slice => "slice",
            Self::Delay => "delay",
            Self::Jitter => "jitter",
            Self::Rate => "rate",
            Self::Stall => "stall",
            Self::HalfClose => "half_close",
            Self::Reset => "reset",
            Self::BlackHole => "black_hole",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The chance of a fault that every connection has.
pub(super) const CERTAIN: u16 = 1000;

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use super::*;

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "they are the mistakes")]
    fn a_plan_that_cannot_work_is_an_error_that_names_the_setting() {
        let faults = Faults::default;
        let (ms, zero) = (Duration::from_millis, Duration::ZERO..=Duration::ZERO);
        let slice = |bytes| Sometimes::always(Slice { bytes, pause: zero.clone() });
        for (faults, expected) in [
            (faults().with_slice(slice(0..=9)), "slice.bytes is 0, but must be at least 1"),
            (faults().with_slice(slice(9..=1)), "slice.bytes is 1, but must be at least 9"),
            (
                faults().with_delay(Sometimes::always(ms(2)..=ms(1))),
                "delay is 1000000, but must be at least 2000000",
            ),
            (faults().with_rate(Sometimes::always(0..=0)), "rate is 0, but must be at least 1"),
            (
                faults().with_reset(Sometimes { chance: 0, value: 0..=0 }),
                "reset.chance must be non-zero",
            ),
            (
                faults().with_black_hole(Sometimes { chance: 1001, value: 0..=0 }),
                "black_hole.chance is 1001, but must be at most 1000",
            ),
        ] {
            let plan = Plan::default().with_to_client(faults.clone());
            assert_eq!(plan.check().unwrap_err().to_string(), expected);
            let plan = Plan::default().with_to_upstream(faults);
            assert_eq!(plan.check().unwrap_err().to_string(), expected);
        }
    }
}
