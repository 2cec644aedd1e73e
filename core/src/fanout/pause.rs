//! Pauses of the upstream: when, for which subscribers, and for how long.

use core::{
    task::{Context, Waker},
    time::Duration,
};

use super::{
    Config, LagPolicy, Pace,
    state::{CatchUp, Cause, Pause, State},
};
use crate::Instant;

/// The result of [`Feed::poll_capacity`](super::Feed::poll_capacity): whether a chunk can be
/// published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// The chunk can be published.
    Available,
    /// The upstream is paused. Call `poll_capacity` again when the waker is woken, or at `until`.
    Paused {
        /// When the pause reaches its time limit; `None`: there is none while no subscriber waits.
        until: Option<Instant>,
    },
}

impl Pause {
    /// Removes a subscriber or reader that has read up to the target, or has left. Returns the
    /// upstream's waker if it was the last cause.
    pub(super) fn remove_cause(&mut self) -> Option<Waker> {
        self.causes = self.causes.saturating_sub(1);
        if self.causes == 0 { self.upstream.take() } else { None }
    }
}

impl State {
    /// Whether a chunk of `bytes` bytes can be published, or the upstream is paused.
    pub(super) fn poll_capacity(
        &mut self,
        config: &Config,
        now: Instant,
        bytes: usize,
        cx: &mut Context<'_>,
    ) -> Capacity {
        if let Some(replayed) = &self.replayed {
            return replayed.capacity;
        }
        let Config { on_lag, lag_wait, window, .. } = *config;
        let waits_for_subscribers = on_lag == LagPolicy::Block || !lag_wait.is_zero();
        if !waits_for_subscribers && self.readers.is_empty() {
            return Capacity::Available;
        }
        self.end_pause(now);
        let new_start = self.log.start_after(bytes);
        if new_start == self.log.start() {
            return Capacity::Available;
        }
        if self.pause_for_readers(new_start, now, cx) {
            return Capacity::Paused { until: None };
        }
        if !waits_for_subscribers {
            return Capacity::Available;
        }
        let is_unlimited = on_lag == LagPolicy::Block;
        let has_no_limit = is_unlimited || self.waiting == 0;
        let remaining = if has_no_limit { Duration::MAX } else { self.pause_budget.remaining(now) };
        if remaining.is_zero() {
            return Capacity::Available;
        }
        // If the upstream is faster than all subscribers, a slow one stays at the start of the
        // window, and the others wait for it at each message. So the last half of the budget lets
        // it catch up.
        let is_half_spent = remaining < lag_wait / 2;
        let target =
            if is_half_spent { self.log.start_after(bytes.max(window / 2)) } else { new_start };
        let mut causes = 0;
        for (_, entry) in &mut self.subscribers {
            let limit = if entry.pauses_upstream { target } else { new_start };
            let counts = has_no_limit || entry.catch_up == CatchUp::CaughtUp;
            entry.pauses_upstream = entry.is_behind(limit) && counts && !entry.has_lagged;
            causes += usize::from(entry.pauses_upstream);
        }
        if causes == 0 {
            return Capacity::Available;
        }
        self.pause = Some(Pause {
            since: now,
            target,
            cause: Cause::Subscribers,
            causes,
            waiting_since: (self.waiting > 0).then_some(now),
            is_unlimited,
            upstream: Some(cx.waker().clone()),
        });
        Capacity::Paused { until: (!has_no_limit).then(|| now + remaining) }
    }

    /// Pauses the upstream if readers that block have not acknowledged everything before
    /// `new_start`. Returns whether it is paused.
    ///
    /// This pause uses nothing of the budget, and has no time limit.
    fn pause_for_readers(&mut self, new_start: u64, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut causes = 0;
        for (_, entry) in &mut self.readers {
            entry.pauses_upstream = entry.pace == Pace::Blocks && entry.position < new_start;
            causes += usize::from(entry.pauses_upstream);
        }
        if causes == 0 {
            return false;
        }
        for (_, entry) in &mut self.subscribers {
            entry.pauses_upstream = false;
        }
        self.pause = Some(Pause {
            since: now,
            target: new_start,
            cause: Cause::Readers,
            causes,
            waiting_since: None,
            is_unlimited: true,
            upstream: Some(cx.waker().clone()),
        });
        true
    }

    /// Ends the pause, if there is one, and accounts for its time.
    pub(super) fn end_pause(&mut self, now: Instant) {
        let Some(pause) = self.pause.take() else { return };
        self.counters.paused += now.since(pause.since);
        match (pause.cause, pause.waiting_since) {
            (Cause::Readers, _) => self.counters.paused_for_readers += now.since(pause.since),
            (Cause::Subscribers, Some(since)) => {
                self.counters.paused_waiting += now.since(since);
                self.pause_budget.spend(since, now);
            }
            (Cause::Subscribers, None) => {}
        }
    }

    /// Records that a subscriber has read everything and waits. If it is the first one, the pause
    /// has a time limit from now on: returns the upstream's waker, so that it polls the capacity
    /// again.
    pub(super) fn begin_waiting(&mut self, now: Instant) -> Option<Waker> {
        self.waiting += 1;
        let pause = self.pause.as_mut().filter(|_| self.waiting == 1)?;
        pause.waiting_since.get_or_insert(now);
        if pause.is_unlimited { None } else { pause.upstream.take() }
    }

    /// Records that a subscriber no longer waits, although nothing was published. If it was the
    /// last one, the pause has no time limit from now on: returns the upstream's waker, so that it
    /// polls the capacity again.
    pub(super) fn end_waiting(&mut self) -> Option<Waker> {
        self.waiting -= 1;
        self.pause.as_mut().filter(|_| self.waiting == 0)?.upstream.take()
    }
}
