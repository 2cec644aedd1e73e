//! The random numbers of one direction of one connection.

use core::{ops::RangeInclusive, time::Duration};

use super::{
    Kind, Sometimes,
    plan::{CERTAIN, nanos},
};
use crate::{proxy::Side, random::nth};

/// The random numbers of one direction of one connection.
///
/// A number depends on the seed, the connection's number, the direction, the kind of the fault and
/// its index, and on nothing else. So a fault that is added to a plan changes no other fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dice {
    seed: u64,
}

impl Dice {
    /// Each seed is a number of the generator before it: of the run, of the connection, of the
    /// direction (0 to the client, 1 to the upstream), of the kind (in the order of [`Kind::ALL`]).
    pub(super) const fn new(seed: u64, connection: u64, to: Side) -> Self {
        Self { seed: nth(nth(seed, connection), to as u64) }
    }

    const fn number(self, kind: Kind, index: u64) -> u64 {
        nth(nth(self.seed, kind as u64), index)
    }

    /// The fault's value, if this connection has the fault. Takes the number with the index 0.
    pub(super) fn draw<T>(self, kind: Kind, fault: Option<&Sometimes<T>>) -> Option<&T> {
        let Sometimes { chance, value } = fault?;
        let number = scale(self.number(kind, 0), 0, CERTAIN.into());
        (number < u64::from(*chance)).then_some(value)
    }

    /// A number within `range`.
    pub(super) fn between(self, kind: Kind, index: u64, range: &RangeInclusive<u64>) -> u64 {
        let (first, last) = (*range.start(), *range.end());
        scale(self.number(kind, index), first, u128::from(last - first) + 1)
    }

    /// A time within `range`.
    pub(super) fn time_between(
        self,
        kind: Kind,
        index: u64,
        range: &RangeInclusive<Duration>,
    ) -> Duration {
        Duration::from_nanos(self.between(kind, index, &nanos(range)))
    }
}

/// The number of `count` ones, from `first` on, that a random `number` stands for.
fn scale(number: u64, first: u64, count: u128) -> u64 {
    let offset = (u128::from(number) * count) >> 64;
    first + u64::try_from(offset).expect("it is below the count, which is at most 2^64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_cover_their_range_and_no_more() {
        let dice = Dice::new(1, 1, Side::Client);
        let mut seen = [0_u32; 4];
        for index in 0..4000 {
            let number = dice.between(Kind::Slice, index, &(3..=6));
            seen[usize::try_from(number - 3).unwrap()] += 1;
        }
        assert!(seen.iter().all(|count| (900..1100).contains(count)), "{seen:?}");
        assert_eq!(dice.between(Kind::Slice, 0, &(7..=7)), 7);
        let all = 0..=u64::MAX;
        assert!((0..64).any(|index| dice.between(Kind::Slice, index, &all) > u64::MAX / 2));
    }

    #[test]
    fn a_chance_is_the_share_of_the_connections() {
        let fault = Sometimes { chance: 100, value: () };
        let strikes = |kind, to| {
            let strikes =
                |connection: &u64| Dice::new(7, *connection, to).draw(kind, Some(&fault)).is_some();
            (1..=10_000).filter(strikes).count()
        };
        for kind in Kind::ALL {
            for to in Side::BOTH {
                assert!((900..1100).contains(&strikes(kind, to)), "{kind} to the {to}");
            }
        }
    }

    /// These numbers are documented: with others, no earlier run could be repeated.
    #[test]
    fn the_numbers_stay_the_same() {
        let draw = |connection, to, kind, index| {
            Dice::new(42, connection, to).between(kind, index, &(0..=999_999))
        };
        let numbers = [
            draw(1, Side::Client, Kind::Slice, 0),
            draw(1, Side::Client, Kind::Slice, 1),
            draw(1, Side::Client, Kind::BlackHole, 1),
            draw(1, Side::Upstream, Kind::Slice, 1),
            draw(2, Side::Client, Kind::Slice, 1),
        ];
        assert_eq!(numbers, [71_951, 858_243, 410_937, 321_969, 81_370]);
    }
}
