//! A clock's alarm, set as seldom as can be.

use core::{
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use super::Clock;
use crate::Instant;

/// A clock that never goes backwards, and one deadline.
///
/// Setting a runtime's alarm is dear (a lock and a tree, with some), and most deadlines are moved
/// away long before they are reached. So an alarm that is set for an earlier time is left alone;
/// when it goes off, the deadline of that moment is looked at again. Until then the clock is not even
/// asked, if its alarm [stays](Clock::PERSISTENT).
#[derive(Debug)]
pub(super) struct Timer<C> {
    clock: C,
    now: Instant,
    /// What the alarm is set for.
    alarm: Option<Instant>,
    /// Whom the alarm wakes, where it stays.
    woken: Option<Waker>,
    /// When input that does not end was first found to hide a deadline that has passed.
    overdue: Option<Instant>,
}

impl<C> Timer<C> {
    /// The time as of the last reading.
    pub(super) fn now(&self) -> Instant {
        self.now
    }
}

impl<C: Clock> Timer<C> {
    pub(super) fn new(clock: C) -> Self {
        let now = clock.now();
        Self { clock, now, alarm: None, woken: None, overdue: None }
    }

    /// Reads the clock. A reading before an earlier one counts as equal to it.
    pub(super) fn refresh(&mut self) -> Instant {
        self.now = self.now.max(self.clock.now());
        self.now
    }

    /// Wakes `cx` after other tasks have run.
    pub(super) fn yield_now(&mut self, cx: &mut Context<'_>) {
        self.clock.yield_now(cx);
    }

    /// Ready, with the time, once `deadline` has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<Instant> {
        // No alarm is needed for what has passed; and some round it up.
        if deadline <= self.now {
            self.alarm = self.alarm.filter(|alarm| *alarm > self.now);
            return Poll::Ready(self.now);
        }
        self.overdue = None;
        loop {
            ready!(self.poll_alarm(cx, self.alarm.map_or(deadline, |alarm| alarm.min(deadline))));
            self.alarm = None;
            let now = self.refresh();
            if now >= deadline {
                return Poll::Ready(now);
            }
        }
    }

    /// Ready once the alarm goes off.
    fn poll_alarm(&mut self, cx: &mut Context<'_>, alarm: Instant) -> Poll<()> {
        let wakes = self.woken.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if wakes && alarm > self.now && self.alarm == Some(alarm) {
            return Poll::Pending;
        }
        self.alarm = Some(alarm);
        if C::PERSISTENT && !wakes {
            self.woken = Some(cx.waker().clone());
        }
        self.clock.poll_until(cx, alarm)
    }

    /// Whether `deadline` is to be acted on although input still comes: it has passed, and
    /// [`OVERDUE`] after that was first found here, input came still.
    pub(super) fn is_overdue(&mut self, deadline: Option<Instant>) -> bool {
        if deadline.is_none_or(|deadline| deadline > self.now) {
            self.overdue = None;
            return false;
        }
        let since = *self.overdue.get_or_insert(self.now);
        let overdue = self.now.since(since) > OVERDUE;
        if overdue {
            self.overdue = None;
        }
        overdue
    }
}

/// For how long input that does not end may hide a deadline.
const OVERDUE: Duration = Duration::from_millis(100);

#[cfg(all(test, feature = "std"))]
mod tests {
    use alloc::{sync::Arc, task::Wake, vec::Vec};
    use core::cell::Cell;

    use super::*;

    /// Counts how often it is asked.
    #[derive(Default)]
    struct Counting<const PERSISTENT: bool> {
        now: Cell<u64>,
        asked: u32,
    }

    impl<const PERSISTENT: bool> Clock for Counting<PERSISTENT> {
        const PERSISTENT: bool = PERSISTENT;

        fn now(&self) -> Instant {
            Instant::from_nanos(self.now.get())
        }

        fn poll_until(&mut self, _cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
            self.asked += 1;
            if self.now() >= deadline { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    struct Nobody;
    impl Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }

    /// Is polled at these times, each by the first or the second of two wakers: how often the clock was
    /// asked after each.
    fn asked<const PERSISTENT: bool>(polls: &[(u64, usize, u64)]) -> Vec<u32> {
        let wakers = [Waker::from(Arc::new(Nobody)), Waker::from(Arc::new(Nobody))];
        let mut timer = Timer::new(Counting::<PERSISTENT>::default());
        let poll = |&(now, waker, deadline): &(u64, usize, u64)| {
            timer.clock.now.set(now);
            timer.refresh();
            let mut cx = Context::from_waker(&wakers[waker]);
            let polled = timer.poll(&mut cx, Instant::from_nanos(deadline));
            assert_eq!(polled.is_ready(), now >= deadline, "at {now}");
            timer.clock.asked
        };
        polls.iter().map(poll).collect()
    }

    #[test]
    fn an_alarm_that_stays_is_set_again_only_for_another_time_or_waker() {
        let polls =
            [(0, 0, 10), (1, 0, 10), (2, 0, 20), (3, 1, 20), (4, 1, 20), (5, 1, 8), (6, 1, 8)];
        assert_eq!(asked::<true>(&polls), [1, 1, 1, 2, 2, 3, 3]);
        assert_eq!(asked::<false>(&polls), [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn an_alarm_that_has_gone_off_is_noticed_and_set_for_the_deadline_of_that_moment() {
        // At 10 it goes off for a deadline that has moved to 20.
        let polls = [(0, 0, 10), (9, 0, 20), (10, 0, 20), (19, 0, 20), (20, 0, 20), (21, 0, 30)];
        assert_eq!(asked::<true>(&polls), [1, 1, 3, 3, 3, 4], "what has passed needs no alarm");
    }
}
