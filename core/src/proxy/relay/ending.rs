//! The end of the two sides: a FIN, a reset or a loss of one side is forwarded to the other.

use alloc::string::ToString as _;

use super::{
    ProxyReason, Relay, RelayCall, Side, State,
    state::{Outcome, ReadState, SideState, WriteState},
};
use crate::{ConnectionError, Direction, Instant, Outbound, Reason as _};

impl Relay {
    /// Closes the client's connection, because there is no upstream: sends a FIN, and lingers
    /// ([`Config::linger`](super::Config::linger)). It has no effect if an upstream is connected or
    /// the client is lost.
    pub fn refuse(&mut self, reason: ProxyReason, now: Instant) {
        let text = self.recorder.as_ref().map(|_| reason.to_string()).unwrap_or_default();
        let call = RelayCall::Refuse { label: reason.label(), text: &text };
        self.recorded(now, call, |relay| relay.begin_refusal(reason, now));
    }

    fn begin_refusal(&mut self, reason: ProxyReason, now: Instant) {
        if !matches!(self.state, State::Dialling { .. }) || self.cause.is_some() {
            return;
        }
        self.state = State::Refused { discarded: 0, until: now + self.config.linger.time };
        self.cause = Some(reason);
        self.discard(Side::Client);
        self.sides.upstream =
            SideState { read: ReadState::Fin, write: WriteState::Closed, outcome: None };
        self.settle();
    }

    /// Requests a graceful end. Without an upstream, the client is refused at once. Otherwise the
    /// relay continues until no byte has moved for
    /// [`Config::drain_quiet`](super::Config::drain_quiet), since a proxy does not know where a
    /// message ends. It then sends a FIN both ways.
    ///
    /// An upstream that is lost meanwhile is not replaced. The caller limits the duration
    /// ([`serve::Config::drain_timeout`](crate::serve::Config::drain_timeout)).
    pub fn shut_down(&mut self, now: Instant) {
        self.recorded(now, RelayCall::ShutDown, |relay| relay.begin_drain(now));
    }

    pub(super) fn begin_drain(&mut self, now: Instant) {
        match self.state {
            State::Dialling { .. } => self.begin_refusal(ProxyReason::ShutDown, now),
            State::Replaceable | State::Relaying if self.cause.is_none() && !self.is_done() => {
                self.state = State::Draining { since: now };
            }
            State::Replaceable
            | State::Relaying
            | State::Draining { .. }
            | State::Refused { .. } => {}
        }
    }

    /// Resets both sides for a plan of faults, after `after` bytes to the side `to`. Pending output
    /// is discarded. The RST to `to` waits until it has acknowledged those bytes
    /// ([`forwards_reset`](Self::forwards_reset)). The RST to the other side does not wait.
    ///
    /// Call it while an upstream is connected. A relay that has another reason to end keeps it.
    pub fn inject_reset(&mut self, to: Side, after: u64, now: Instant) {
        let call = RelayCall::InjectReset { to, after };
        self.recorded(now, call, |relay| relay.reset_both(to, after));
    }

    fn reset_both(&mut self, to: Side, after: u64) {
        self.cause.get_or_insert(ProxyReason::InjectedReset { to, after });
        for side in Side::BOTH {
            self.discard(side);
            let state = &mut self.sides[side];
            // Also if this side has ended: the other side lacks its last bytes.
            state.read = ReadState::Aborted;
            if state.outcome.is_none() && (side != to || state.write == WriteState::FinSent) {
                state.write = WriteState::Resetting;
            }
        }
        self.settle();
    }

    /// Whether an RST follows the output to `side`, because the other side was lost. The driver
    /// does not drive `side` until the peer has acknowledged that output
    /// ([`Sink::unacknowledged`](crate::drive::Sink::unacknowledged)). The deadline stays in force.
    pub fn forwards_reset(&self, side: Side) -> bool {
        // This is called in every turn. Without a cause, no side was lost.
        self.cause.is_some()
            && self.sides[side].write == WriteState::Open
            && self.interest(side).write == Outbound::Reset
    }

    /// Handles the FIN of `side`.
    pub(super) fn handle_eof(&mut self, side: Side) {
        if side == Side::Upstream {
            self.commit_to_upstream();
        }
        let read = &mut self.sides[side].read;
        if *read == ReadState::Open {
            *read = ReadState::Fin;
        }
        self.settle();
    }

    /// Records that the FIN or the RST to `side` was sent.
    pub(super) fn handle_finished(&mut self, side: Side) {
        let is_reset = self.interest(side).write == Outbound::Reset;
        let state = &mut self.sides[side];
        if is_reset {
            // Further input is not read, since it cannot be sent to the other side.
            state.read = ReadState::Aborted;
            state.write = WriteState::Closed;
        } else {
            state.write = WriteState::FinSent;
        }
        self.settle();
    }

    /// Records that reading from or writing to `side` failed.
    pub(super) fn handle_error(
        &mut self,
        side: Side,
        direction: Direction,
        error: ConnectionError,
    ) {
        if self.sides[side].outcome.is_some() {
            return;
        }
        // After a failed write, the bytes that had arrived before the reset can still be read. Then
        // the read reports the loss. Without the other side, they cannot be sent.
        let may_have_input = direction == Direction::Write
            && error == ConnectionError::Reset
            && self.sides[side].read == ReadState::Open
            && self.sides[side.other()].write == WriteState::Open
            && !matches!(self.state, State::Dialling { .. });
        if side == Side::Upstream && self.state == State::Replaceable && self.cause.is_none() {
            if may_have_input {
                self.sides.upstream.write = WriteState::Closed;
            } else {
                self.sides.upstream = SideState::OPEN;
                self.buffered.upstream.release();
                self.header.sent = 0;
                self.state = State::Dialling { lost: Some((direction, error)) };
            }
            return;
        }
        let unsent = self.queued(side);
        self.cause.get_or_insert(ProxyReason::Lost { side, direction, error, unsent });
        let (state, other) = self.sides.both_mut(side);
        state.write = WriteState::Closed;
        if !may_have_input {
            state.read = ReadState::Aborted;
            if other.outcome.is_none() && other.write == WriteState::FinSent {
                other.write = WriteState::Resetting;
            }
        }
        self.stop_reading(side.other());
        self.settle();
    }

    /// Stops reading from `side`, and discards the bytes that were received from it, since nothing
    /// can be sent to the other side.
    fn stop_reading(&mut self, side: Side) {
        self.discard(side);
        let state = &mut self.sides[side];
        if state.outcome.is_none() && state.read == ReadState::Open {
            state.read = ReadState::Aborted;
        }
    }

    /// Releases the buffer of each side that is not read any more. Records the outcome of each side
    /// that is not written to either, and discards the bytes that are pending for it. An outcome
    /// never changes.
    pub(super) fn settle(&mut self) {
        let outcome = if self.cause.is_some() { Outcome::Caused } else { Outcome::Finished };
        for side in Side::BOTH {
            if self.sides[side].read == ReadState::Open {
                continue;
            }
            // No further read follows, after which the driver would release the buffer.
            self.buffered[side].release();
            if self.interest(side).write == Outbound::Finished {
                self.discard(side.other());
                self.sides[side].outcome.get_or_insert(outcome);
            }
        }
    }
}
