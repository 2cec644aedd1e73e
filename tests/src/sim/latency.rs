//! How long segments take.

use std::{ops::RangeInclusive, time::Duration};

use super::faults::Dice;

/// How long segments take from one host to another.
///
/// Segments of a connection do not overtake each other: an arrival delivers the oldest segment in
/// flight, as if later segments had made TCP repeat it. So a slow segment delays the connection
/// only if none follows it.
///
/// ```
/// use std::time::Duration;
/// use wirestate_testkit::sim::{Latency, Settings, World};
///
/// let (few, many) = (Duration::from_micros(200), Duration::from_millis(800));
/// let tail = Latency::LongTailed { usual: few..=2 * few, doubles: 200, max: many };
/// let world = World::with(1, Settings { latency: tail, ..Settings::default() });
/// # drop(world);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Latency {
    /// Every segment takes this long.
    Constant(Duration),
    /// Each segment draws its latency from this range.
    Uniform(RangeInclusive<Duration>),
    /// Each connection draws a latency from this range, and each of its segments takes between one
    /// and two times as long.
    PerConnection(RangeInclusive<Duration>),
    /// Most segments have a usual latency, and a few take much longer.
    LongTailed {
        /// The range from which each segment draws its latency at first.
        usual: RangeInclusive<Duration>,
        /// The chance that the latency doubles, and then that it doubles again, and so on, in
        /// thousandths.
        doubles: u16,
        /// The longest latency.
        max: Duration,
    },
}

impl Latency {
    /// Draws the latency of a connection: of its first segments, and of those that carry no data.
    /// Returns also whether it has doubled.
    pub(super) fn of_connection(&self, dice: &mut Dice) -> (Duration, bool) {
        match self {
            Self::Constant(latency) => (*latency, false),
            Self::Uniform(range) | Self::PerConnection(range) => {
                (dice.between("latency", range), false)
            }
            Self::LongTailed { usual, doubles, max } => long_tailed(usual, *doubles, *max, dice),
        }
    }

    /// Draws the latency of a segment. Returns also whether it has doubled.
    pub(super) fn of_segment(&self, of_connection: Duration, dice: &mut Dice) -> (Duration, bool) {
        match self {
            Self::Constant(latency) => (*latency, false),
            Self::Uniform(range) => (dice.between("segment_latency", range), false),
            Self::PerConnection(range) => {
                // The connection has drawn from another range if this one is of a path.
                let latency = of_connection.clamp(*range.start(), *range.end());
                (latency + dice.between("jitter", &(Duration::ZERO..=latency)), false)
            }
            Self::LongTailed { usual, doubles, max } => long_tailed(usual, *doubles, *max, dice),
        }
    }
}

fn long_tailed(
    usual: &RangeInclusive<Duration>,
    doubles: u16,
    max: Duration,
    dice: &mut Dice,
) -> (Duration, bool) {
    let drawn = dice.between("usual_latency", usual);
    let mut latency = drawn;
    while !latency.is_zero() && latency < max && dice.strikes("latency_doubles", doubles) {
        latency *= 2;
    }
    (latency.min(max), latency > drawn)
}
