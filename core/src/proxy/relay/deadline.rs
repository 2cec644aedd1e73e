//! The deadline that both sides share: of the idle timeout, the drain or the lingering close.

use core::time::Duration;

use super::{
    PerSide, ProxyReason, Relay, RelayCall, Side, State,
    state::{ReadState, SideState, WriteState},
};
use crate::Instant;

impl Relay {
    /// The deadline of both sides. `None` while there is no upstream: the dialler has its own
    /// deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_done() {
            return None;
        }
        let idle = self.config.idle_timeout.map(|limit| self.idle_deadline(limit));
        match self.state {
            State::Dialling { .. } => None,
            State::Refused { until, .. } => {
                let client = self.sides.client;
                (client.read == ReadState::Open || client.write == WriteState::Open)
                    .then_some(until)
            }
            State::Draining { since } if self.is_quiet() => {
                let quiet = self.last_activity.max(since) + self.config.drain_quiet;
                Some(idle.map_or(quiet, |idle| idle.min(quiet)))
            }
            State::Replaceable | State::Relaying | State::Draining { .. } => idle,
        }
    }

    /// When the idle timeout elapses, or when the acknowledged bytes are next observed, if that is
    /// earlier.
    fn idle_deadline(&self, limit: Duration) -> Instant {
        let PerSide { client, upstream } = &self.progress;
        let idle = client.last_progress().max(upstream.last_progress()) + limit;
        let observations = [client.next_observation(limit), upstream.next_observation(limit)];
        observations.into_iter().flatten().fold(idle, Instant::min)
    }

    /// Restarts the idle timeout.
    pub(super) fn restart_idle_timeout(&mut self, now: Instant) {
        self.last_activity = now;
        self.progress.client.restart(now);
        self.progress.upstream.restart(now);
    }

    /// Handles the deadline if it has passed. `to_client` and `to_upstream` are the bytes that were
    /// sent to each side and are not acknowledged ([`Timeout`](crate::Event::Timeout)). A call
    /// before the deadline changes nothing.
    pub fn handle_timeout(&mut self, now: Instant, to_client: usize, to_upstream: usize) {
        self.recorded(now, RelayCall::Timeout { to_client, to_upstream }, |relay| {
            relay.handle_deadline(now, to_client, to_upstream);
        });
    }

    pub(super) fn handle_deadline(&mut self, now: Instant, to_client: usize, to_upstream: usize) {
        let is_due = |relay: &Self| relay.poll_timeout().is_some_and(|deadline| deadline <= now);
        if !is_due(self) {
            return;
        }
        for (side, unacknowledged) in [(Side::Client, to_client), (Side::Upstream, to_upstream)] {
            let queued = self.queued(side) > 0;
            self.progress[side].observe(now, queued, unacknowledged);
        }
        if !is_due(self) {
            return;
        }
        match self.state {
            State::Draining { .. } if self.is_quiet() => self.finish_drain(),
            State::Refused { .. } => self.finish_linger(),
            State::Dialling { .. }
            | State::Replaceable
            | State::Relaying
            | State::Draining { .. } => self.reset_idle(),
        }
        // The FINs and RSTs that are now pending have the whole timeout.
        self.restart_idle_timeout(now);
        self.settle();
    }

    /// Whether nothing is pending, and neither side was lost.
    fn is_quiet(&self) -> bool {
        self.cause.is_none() && Side::BOTH.iter().all(|side| self.queued(*side) == 0)
    }

    /// Ends a complete drain: sends a FIN to each side that was sent none.
    fn finish_drain(&mut self) {
        self.cause = Some(ProxyReason::ShutDown);
        for side in Side::BOTH {
            let read = &mut self.sides[side].read;
            if *read == ReadState::Open {
                *read = ReadState::Fin;
            }
        }
    }

    /// Ends the lingering close of a refused client.
    fn finish_linger(&mut self) {
        let client = &mut self.sides.client;
        client.read = ReadState::Aborted;
        if client.write == WriteState::Open {
            client.write = WriteState::Resetting; // the FIN is still pending
        }
    }

    /// Resets both sides, since the idle timeout has elapsed.
    fn reset_idle(&mut self) {
        let limit = self.config.idle_timeout.unwrap_or_default();
        let (to_client, to_upstream) = (self.queued(Side::Client), self.queued(Side::Upstream));
        self.cause.get_or_insert(ProxyReason::IdleTimeout { limit, to_client, to_upstream });
        for side in Side::BOTH {
            self.discard(side);
            let state = &mut self.sides[side];
            if state.outcome.is_none() {
                *state = SideState {
                    read: ReadState::Aborted,
                    write: WriteState::Resetting,
                    outcome: None,
                };
            }
        }
    }
}
