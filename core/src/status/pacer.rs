//! The rate at which requests are answered.

use core::{num::NonZeroU32, time::Duration};

use crate::{
    Instant,
    shared::{Lock, Shared},
};

/// Gives each request its turn, in the order of arrival: a burst at once, the others at a rate.
/// Clones are the same pacer.
///
/// A [`Turn`] that is dropped before it is [taken](Turn::take) is given back, so a request whose
/// connection has ended delays no other.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    interval: Duration,
    at_once: u32,
    state: Shared<Lock<State>>,
}

#[derive(Debug)]
struct State {
    /// When the next turn would be if there were no burst (the generic cell rate algorithm; ITU-T
    /// I.371, annex A).
    last: Instant,
    /// Turns that exist.
    open: usize,
    refused: Refused,
}

/// How many turns were refused, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// Too many turns existed.
    pub(super) in_progress: u64,
    /// They would have been too late.
    pub(super) too_late: u64,
}

/// A request's turn.
#[derive(Debug)]
pub(super) struct Turn {
    pacer: Pacer,
    at: Instant,
    is_taken: bool,
}

impl Pacer {
    pub(super) fn new(per_second: NonZeroU32, at_once: u32, now: Instant) -> Self {
        let interval = Duration::from_secs(1) / per_second.get();
        let state = State { last: now, open: 0, refused: Refused::default() };
        Self { interval, at_once, state: Shared::new(Lock::new(state)) }
    }

    /// The turn of a request that arrives at `now`.
    pub(super) fn turn(&self, now: Instant) -> Turn {
        self.turn_within(now, Duration::MAX, usize::MAX).expect("there is no limit to exceed")
    }

    /// As [`turn`](Self::turn), if fewer than `most` turns exist and the wait is at most `longest`.
    /// Otherwise `None`, which is counted as [refused](Self::refused).
    pub(super) fn turn_within(&self, now: Instant, longest: Duration, most: usize) -> Option<Turn> {
        let at = self.state.with(|state| {
            let last = state.last.max(now);
            let wait = last.since(now).saturating_sub(self.interval * (self.at_once - 1));
            if state.open >= most {
                state.refused.in_progress += 1;
                return None;
            }
            if wait > longest {
                state.refused.too_late += 1;
                return None;
            }
            state.last = last + self.interval;
            state.open += 1;
            Some(now + wait)
        })?;
        Some(Turn { pacer: self.clone(), at, is_taken: false })
    }

    /// How many turns were refused so far.
    pub(super) fn refused(&self) -> Refused {
        self.state.with(|state| state.refused)
    }
}

impl Turn {
    /// When the turn comes.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Marks the request as answered: the turn is not given back. It exists until it is dropped.
    pub(super) fn take(&mut self) {
        self.is_taken = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Pacer { interval, state, .. } = &self.pacer;
        state.with(|state| {
            state.open -= 1;
            if !self.is_taken {
                let last = state.last.since_epoch().saturating_sub(*interval);
                state.last = Instant::from_epoch(last);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::EPOCH;

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Ten a second, two at once.
    fn pacer() -> Pacer {
        Pacer::new(const { NonZeroU32::new(10).unwrap() }, 2, NOW)
    }

    fn waits(pacer: &Pacer, count: usize, now: Instant) -> Vec<(Turn, u64)> {
        let turn = |turn: Turn| {
            let wait = turn.at().since(now).as_millis();
            (turn, u64::try_from(wait).unwrap())
        };
        (0..count).map(|_| turn(pacer.turn(now))).collect()
    }

    fn take(turns: Vec<(Turn, u64)>) -> Vec<u64> {
        let take = |(mut turn, wait): (Turn, u64)| {
            turn.take();
            wait
        };
        turns.into_iter().map(take).collect()
    }

    #[test]
    fn some_come_at_once_and_the_others_at_the_rate() {
        let pacer = pacer();
        assert_eq!(take(waits(&pacer, 5, NOW)), [0, 0, 100, 200, 300]);
        assert_eq!(take(waits(&pacer, 2, NOW + millis(450))), [0, 50]);
        assert_eq!(take(waits(&pacer, 3, NOW + millis(5000))), [0, 0, 100]);
    }

    #[test]
    fn a_turn_that_is_not_taken_is_given_back() {
        let pacer = pacer();
        let kept = waits(&pacer, 3, NOW);
        drop(waits(&pacer, 1000, NOW));
        assert_eq!(take(waits(&pacer, 2, NOW)), [200, 300]);
        drop(kept);
        assert_eq!(take(waits(&pacer, 1, NOW)), [100], "two of five were taken");
        drop(waits(&pacer, 1000, NOW));
        assert_eq!(take(waits(&pacer, 3, NOW + millis(1000))), [0, 0, 100], "no more at once");
    }

    #[test]
    fn a_turn_that_would_come_late_is_refused_and_so_is_one_too_many() {
        let pacer = pacer();
        let turn = || pacer.turn_within(NOW, millis(100), 4);
        let mut some = [turn().unwrap(), turn().unwrap(), turn().unwrap()];
        assert!(turn().is_none());
        assert_eq!(pacer.refused(), Refused { in_progress: 0, too_late: 1 });
        some.iter_mut().for_each(Turn::take);
        let later = NOW + millis(1000);
        let last = pacer.turn_within(later, millis(100), 4).unwrap();
        assert!(pacer.turn_within(later, millis(100), 4).is_none());
        assert_eq!(pacer.refused(), Refused { in_progress: 1, too_late: 1 });
        drop((some, last));
        assert!(pacer.turn_within(later, millis(100), 4).is_some());
    }
}
