//! The clock of a simulated host.

use std::{
    mem::replace,
    task::{Context, Poll},
    time::Duration,
};

use wirestate_core::{Instant, drive};

use super::World;

/// A clock of a simulated host, with one alarm that goes off exactly at its deadline.
#[derive(Debug)]
pub struct Clock {
    world: World,
    host: usize,
    id: usize,
}

impl Clock {
    pub(super) fn new(world: World, host: usize) -> Self {
        let id = world.network(|network| network.alarms.add_clock(host));
        Self { world, host, id }
    }
}

impl drive::Clock for Clock {
    const PERSISTENT: bool = true;

    fn now(&self) -> Instant {
        self.world.network(|network| network.hosts[self.host].clock.at(network.now))
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.world.network(|network| {
            let is_reached = network.hosts[self.host].clock.at(network.now) >= deadline;
            if is_reached || deadline == Instant::NEVER {
                network.alarms.clear(self.id);
                return if is_reached { Poll::Ready(()) } else { Poll::Pending };
            }
            let due = network.due(self.host, deadline);
            network.alarms.set(self.id, deadline, due, cx.waker());
            Poll::Pending
        })
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.world.network(|network| network.alarms.remove_clock(self.id));
    }
}

/// The time that a host's clock shows.
#[derive(Debug)]
pub(super) struct ClockState {
    /// The world's time when the clock was last changed.
    since: Instant,
    /// What the clock showed then.
    shown: Instant,
    /// By how many parts per million the clock is fast. Above −1,000,000.
    drift: i32,
    /// A frozen clock continues at this time by the world's clock.
    frozen_until: Option<Instant>,
}

impl ClockState {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, shown: now, drift: 0, frozen_until: None }
    }

    /// What the clock shows at `now`.
    pub(super) fn at(&self, now: Instant) -> Instant {
        if self.frozen_until.is_some() {
            return self.shown;
        }
        self.shown + scale(now.since(self.since), self.rate(), MILLION, false)
    }

    /// When the clock shows `shown`, by the world's clock. `None`: never, if nothing changes.
    pub(super) fn when(&self, shown: Instant) -> Option<Instant> {
        if self.frozen_until.is_some() && self.shown < shown {
            return None;
        }
        let when = self.since + scale(shown.since(self.shown), MILLION, self.rate(), true);
        (when < Instant::NEVER).then_some(when)
    }

    pub(super) fn set_ahead(&mut self, now: Instant, by: Duration) {
        self.set(now, self.at(now) + by);
    }

    pub(super) fn set_back(&mut self, now: Instant, by: Duration) {
        let shown = self.at(now).since_epoch().saturating_sub(by);
        self.set(now, Instant::from_epoch(shown));
    }

    /// Returns whether the clock has drifted before.
    pub(super) fn set_drift(&mut self, now: Instant, parts_per_million: i32) -> bool {
        self.set(now, self.at(now));
        replace(&mut self.drift, parts_per_million) != 0
    }

    pub(super) fn freeze(&mut self, now: Instant, until: Instant) {
        self.set(now, self.at(now));
        self.frozen_until = self.frozen_until.max(Some(until));
    }

    /// From now on the clock advances as the world's does. Returns whether it has not done so.
    pub(super) fn heal(&mut self, now: Instant) -> bool {
        let has_drifted = self.set_drift(now, 0);
        self.frozen_until.take().is_some() || has_drifted
    }

    /// Ends a freeze that lasts until `now` at the latest. Returns whether it has.
    pub(super) fn thaw(&mut self, now: Instant) -> bool {
        let is_over = self.frozen_until.is_some_and(|until| until <= now);
        if is_over {
            self.set(now, self.shown);
            self.frozen_until = None;
        }
        is_over
    }

    fn set(&mut self, now: Instant, shown: Instant) {
        (self.since, self.shown) = (now, shown);
    }

    /// How many microseconds the clock advances in a second.
    fn rate(&self) -> u64 {
        MILLION.saturating_add_signed(self.drift.into())
    }
}

/// `duration` times `numerator` / `denominator`, rounded up or down.
fn scale(duration: Duration, numerator: u64, denominator: u64, up: bool) -> Duration {
    if numerator == denominator {
        return duration;
    }
    let product = duration.as_nanos() * u128::from(numerator);
    let denominator = u128::from(denominator);
    let nanos = if up { product.div_ceil(denominator) } else { product / denominator };
    u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
}

const MILLION: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_goes_off_when_the_clock_shows_its_deadline_and_not_before() {
        let start = Instant::from_epoch(Duration::from_secs(1_000_000));
        for drift in [-999_999, -500_000, -333, -1, 0, 1, 77, 999_999, i32::MAX] {
            let mut clock = ClockState::new(start);
            clock.set_drift(start, drift);
            for nanos in [1, 2, 3, 999, 1_000_001, 1_234_567_890] {
                let deadline = start + Duration::from_nanos(nanos);
                let due = clock.when(deadline).expect("the clock advances").since_epoch();
                let before = due.saturating_sub(Duration::from_nanos(1));
                let shows = |time| clock.at(Instant::from_epoch(time)) >= deadline;
                assert_eq!((shows(before), shows(due)), (false, true), "{drift} ppm, {nanos} ns");
            }
        }
    }
}
