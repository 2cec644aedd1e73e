//! Limits the rate at which requests are answered.

use core::{num::NonZeroU32, time::Duration};

use crate::{
    Instant,
    shared::{Lock, Shared},
    token_bucket::TokenBucket,
};

/// Gives each request its turn, in the order of arrival: a burst at once, further ones at a rate.
/// Clones are the same limiter.
///
/// A [`Turn`] that is dropped before it is [used](Turn::mark_used) is given back. So a request
/// whose connection has ended delays no other request.
#[derive(Clone, Debug)]
pub(super) struct RateLimiter {
    interval: Duration,
    /// The time after which a whole burst is available again.
    burst: Duration,
    state: Shared<Lock<State>>,
}

#[derive(Debug)]
struct State {
    bucket: TokenBucket,
    /// The number of turns that exist.
    open: usize,
    refusals: Refusals,
}

/// How many turns were refused, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusals {
    /// Too many turns existed.
    pub(super) in_progress: u64,
    /// The wait would have been too long.
    pub(super) too_late: u64,
}

/// A request's turn.
#[derive(Debug)]
pub(super) struct Turn {
    limiter: RateLimiter,
    at: Instant,
    is_used: bool,
}

impl RateLimiter {
    /// A limiter to `per_second` turns per second, with a burst of `burst` turns.
    pub(super) fn new(per_second: NonZeroU32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.get();
        let state = State { bucket: TokenBucket::FULL, open: 0, refusals: Refusals::default() };
        Self { interval, burst: interval * burst, state: Shared::new(Lock::new(state)) }
    }

    /// The turn of a request that arrives at `now`.
    pub(super) fn turn(&self, now: Instant) -> Turn {
        self.turn_within(now, Duration::MAX, usize::MAX).expect("there is no limit to exceed")
    }

    /// The turn of a request that arrives at `now`, if fewer than `max_open` turns exist and the
    /// wait is at most `max_wait`. Otherwise `None`, which is counted in
    /// [`refusals`](Self::refusals).
    pub(super) fn turn_within(
        &self,
        now: Instant,
        max_wait: Duration,
        max_open: usize,
    ) -> Option<Turn> {
        let at = self.state.with(|state| {
            if state.open >= max_open {
                state.refusals.in_progress += 1;
                return None;
            }
            let wait = state.bucket.wait(self.interval, self.burst, now);
            if wait > max_wait {
                state.refusals.too_late += 1;
                return None;
            }
            state.bucket.borrow(self.interval, now);
            state.open += 1;
            Some(now + wait)
        })?;
        Some(Turn { limiter: self.clone(), at, is_used: false })
    }

    /// How many turns were refused so far.
    pub(super) fn refusals(&self) -> Refusals {
        self.state.with(|state| state.refusals)
    }
}

impl Turn {
    /// The time of the turn.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Marks the turn as used, so that it is not given back. It exists until it is dropped.
    pub(super) fn mark_used(&mut self) {
        self.is_used = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.limiter.state.with(|state| {
            state.open -= 1;
            if !self.is_used {
                state.bucket.give_back(self.limiter.interval);
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

    /// Ten turns per second, with a burst of two.
    fn limiter() -> RateLimiter {
        RateLimiter::new(const { NonZeroU32::new(10).unwrap() }, 2)
    }

    fn waits(limiter: &RateLimiter, count: usize, now: Instant) -> Vec<(Turn, u64)> {
        let turn = |turn: Turn| {
            let wait = turn.at().since(now).as_millis();
            (turn, u64::try_from(wait).unwrap())
        };
        (0..count).map(|_| turn(limiter.turn(now))).collect()
    }

    fn use_all(turns: Vec<(Turn, u64)>) -> Vec<u64> {
        let use_one = |(mut turn, wait): (Turn, u64)| {
            turn.mark_used();
            wait
        };
        turns.into_iter().map(use_one).collect()
    }

    #[test]
    fn a_burst_comes_at_once_and_the_others_at_the_rate() {
        let limiter = limiter();
        assert_eq!(use_all(waits(&limiter, 5, NOW)), [0, 0, 100, 200, 300]);
        assert_eq!(use_all(waits(&limiter, 2, NOW + millis(450))), [0, 50]);
        assert_eq!(use_all(waits(&limiter, 3, NOW + millis(5000))), [0, 0, 100]);
    }

    #[test]
    fn an_unused_turn_is_given_back() {
        let limiter = limiter();
        let unused = waits(&limiter, 3, NOW);
        drop(waits(&limiter, 1000, NOW));
        assert_eq!(use_all(waits(&limiter, 2, NOW)), [200, 300]);
        drop(unused);
        assert_eq!(use_all(waits(&limiter, 1, NOW)), [100], "two of five were used");
        drop(waits(&limiter, 1000, NOW));
        assert_eq!(use_all(waits(&limiter, 3, NOW + millis(1000))), [0, 0, 100], "no more at once");
    }

    #[test]
    fn a_turn_that_would_be_too_late_is_refused_and_so_is_one_too_many() {
        let limiter = limiter();
        let turn = || limiter.turn_within(NOW, millis(100), 4);
        let mut some = [turn().unwrap(), turn().unwrap(), turn().unwrap()];
        assert!(turn().is_none());
        assert_eq!(limiter.refusals(), Refusals { in_progress: 0, too_late: 1 });
        some.iter_mut().for_each(Turn::mark_used);
        let later = NOW + millis(1000);
        let last = limiter.turn_within(later, millis(100), 4).unwrap();
        assert!(limiter.turn_within(later, millis(100), 4).is_none());
        assert_eq!(limiter.refusals(), Refusals { in_progress: 1, too_late: 1 });
        drop((some, last));
        assert!(limiter.turn_within(later, millis(100), 4).is_some());
    }
}
