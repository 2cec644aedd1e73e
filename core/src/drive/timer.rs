//! A driver's clock and alarm. The alarm is set as rarely as possible.

use core::task::{Context, Poll, Waker, ready};

use super::{Clock, Ended, Next};
use crate::Instant;

/// A clock that never goes backwards, and one alarm.
///
/// Setting a runtime's alarm is expensive (some take a lock and update a tree), and most deadlines
/// move long before they are reached. So an alarm for an earlier time stays set. When it fires, it
/// is set again, for the deadline of that moment. Until then, a clock whose alarm is
/// [persistent](Clock::PERSISTENT) is not called.
#[derive(Debug)]
pub(crate) struct Timer<C> {
    clock: C,
    now: Instant,
    /// The deadline that the alarm is set for.
    alarm: Option<Instant>,
    /// The waker that a persistent alarm wakes.
    waker: Option<Waker>,
}

impl<C: Clock> Timer<C> {
    pub(crate) fn new(clock: C) -> Self {
        let now = clock.now();
        Self { clock, now, alarm: None, waker: None }
    }

    /// Calls a driver's `poll` with the time, until it is done or sleeps. The last argument of
    /// `poll` says whether the task was woken: then the sockets may have become ready.
    pub(crate) fn run<T, R>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(Instant, &mut Context<'_>, bool) -> Result<T, Next<R>>,
    ) -> Poll<Result<T, Ended<R>>> {
        let mut now = self.refresh();
        let mut was_woken = true;
        loop {
            match poll(now, cx, was_woken) {
                Ok(value) => return Poll::Ready(Ok(value)),
                Err(Next::Done(ended)) => return Poll::Ready(Err(ended)),
                Err(Next::Again) => {
                    self.clock.yield_now(cx);
                    return Poll::Pending;
                }
                Err(Next::Sleep { until: None, .. }) => return Poll::Pending,
                Err(Next::Sleep { until: Some(deadline), .. }) => {
                    now = ready!(self.poll(cx, deadline));
                }
            }
            was_woken = false;
        }
    }

    /// Reads the clock. A reading before an earlier one counts as equal to it.
    fn refresh(&mut self) -> Instant {
        self.now = self.now.max(self.clock.now());
        self.now
    }

    /// Ready, with the time, once `deadline` has passed.
    fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<Instant> {
        self.alarm = self.alarm.filter(|alarm| *alarm > self.now);
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
        let wakes = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if wakes && alarm > self.now && self.alarm == Some(alarm) {
            return Poll::Pending;
        }
        self.alarm = Some(alarm);
        if C::PERSISTENT && !wakes {
            self.waker = Some(cx.waker().clone());
        }
        self.clock.poll_until(cx, alarm)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use alloc::{sync::Arc, task::Wake, vec::Vec};
    use core::cell::Cell;

    use super::*;

    /// A clock that counts the calls of `poll_until`.
    #[derive(Default)]
    struct Counting<const PERSISTENT: bool> {
        now: Cell<u64>,
        calls: u32,
    }

    impl<const PERSISTENT: bool> Clock for Counting<PERSISTENT> {
        const PERSISTENT: bool = PERSISTENT;

        fn now(&self) -> Instant {
            Instant::from_nanos(self.now.get())
        }

        fn poll_until(&mut self, _cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
            self.calls += 1;
            if self.now() >= deadline { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    struct NoopWake;
    impl Wake for NoopWake {
        fn wake(self: Arc<Self>) {}
    }

    /// Polls a timer. Each poll has a time, one of two wakers, and a deadline. Returns the number
    /// of calls of the clock after each poll.
    fn calls<const PERSISTENT: bool>(polls: &[(u64, usize, u64)]) -> Vec<u32> {
        let wakers = [Waker::from(Arc::new(NoopWake)), Waker::from(Arc::new(NoopWake))];
        let mut timer = Timer::new(Counting::<PERSISTENT>::default());
        let poll = |&(now, waker, deadline): &(u64, usize, u64)| {
            timer.clock.now.set(now);
            timer.refresh();
            let mut cx = Context::from_waker(&wakers[waker]);
            let polled = timer.poll(&mut cx, Instant::from_nanos(deadline));
            assert_eq!(polled.is_ready(), now >= deadline, "at {now}");
            timer.clock.calls
        };
        polls.iter().map(poll).collect()
    }

    #[test]
    fn a_persistent_alarm_is_set_again_only_for_another_time_or_waker() {
        let polls =
            [(0, 0, 10), (1, 0, 10), (2, 0, 20), (3, 1, 20), (4, 1, 20), (5, 1, 8), (6, 1, 8)];
        assert_eq!(calls::<true>(&polls), [1, 1, 1, 2, 2, 3, 3]);
        assert_eq!(calls::<false>(&polls), [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn an_alarm_that_fires_is_set_for_the_deadline_of_that_moment() {
        // At 10 it fires, although the deadline has moved to 20.
        let polls = [(0, 0, 10), (9, 0, 20), (10, 0, 20), (19, 0, 20), (21, 0, 30)];
        assert_eq!(calls::<true>(&polls), [1, 1, 2, 2, 3], "a passed alarm needs no call");
    }
}
