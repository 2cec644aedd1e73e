//! The end of a client's connection: timeouts, errors, and a shutdown.

use core::time::Duration;

use super::{Client, Ping, Stage, State};
use crate::{
    ConnectionError, Direction, Instant, WriteProgress,
    nats::{ClientReason, Incoming, RequestError},
    teardown::Teardown,
};

impl Client {
    pub(super) fn handle_eof(&mut self, now: Instant) {
        match &mut self.state {
            State::Open(_) | State::Greeted { .. } => {
                let reason = self.take_rest().unwrap_or_else(|| match self.receiver.partial() {
                    Some(partial) => ClientReason::Truncated { received: partial.received },
                    None => ClientReason::Closed { last_error: self.last_error.clone() },
                });
                self.close(reason, now);
            }
            State::Broken { .. } => self.end_broken(),
            State::Ending(ending) => ending.handle_eof(),
        }
    }

    pub(super) fn handle_error(
        &mut self,
        now: Instant,
        direction: Direction,
        error: ConnectionError,
    ) {
        let last_error = self.last_error.clone();
        let lost = ClientReason::Lost { direction, error, last_error };
        match (&mut self.state, direction) {
            // Input that has arrived may be an error that explains the failure.
            (State::Open(_), Direction::Write) => {
                self.output.clear();
                self.state = State::Broken { reason: lost, until: now + FINAL_READ_TIMEOUT };
            }
            (State::Open(_) | State::Greeted { .. }, _) => {
                let reason = self.take_rest().unwrap_or(lost);
                self.end(Teardown::ended(reason));
            }
            (State::Broken { .. }, _) => self.end_broken(),
            (State::Ending(ending), _) => ending.handle_error(lost),
        }
    }

    /// Ends a connection whose writing has failed.
    pub(super) fn end_broken(&mut self) {
        let rest = self.take_rest();
        if let State::Broken { reason, .. } = &self.state {
            let reason = rest.unwrap_or_else(|| reason.clone());
            self.end(Teardown::ended(reason));
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let is_closing = matches!(&self.state, State::Ending(ending) if ending.is_closing());
        let queued = is_closing || !self.output.is_empty();
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let write_timeout = self.config.write_timeout;
        let unacknowledged = self.output.len() + unacknowledged;
        let stalled = |limit| ClientReason::WriteStalled { limit, unacknowledged };
        let stage = match &mut self.state {
            State::Open(stage) => *stage,
            State::Greeted { .. } => return self.reset(ClientReason::Greeted),
            State::Broken { .. } => return self.end_broken(),
            State::Ending(ending) => return ending.expire(write_timeout.map(stalled)),
        };
        if let Some(limit) = write_timeout.filter(|limit| self.progress.is_stalled(now, *limit))
            && self.progress.is_outstanding()
        {
            return self.reset(stalled(limit));
        }
        while let Some(limit) = self.config.request_timeout
            && let Some(request) = self.requests.take_expired(limit, now)
        {
            let reply = Err(RequestError::Timeout { limit });
            self.ready.push_back(Incoming::Reply { request, reply });
        }
        let is_due =
            |since: Instant, limit: Option<Duration>| limit.filter(|limit| since + *limit <= now);
        if let Some(frame) = self.receiver.partial()
            && !matches!(stage, Stage::Info { .. })
            && let Some(limit) = self.config.frame_timeouts.limit(frame)
            && self.frame_timer.deadline(Some(limit)).is_some_and(|deadline| deadline <= now)
        {
            let (received, expected) = (frame.received, frame.expected);
            return self.reset(ClientReason::FrameTimeout { received, expected, limit });
        }
        if !self.is_reading() {
            return;
        }
        match stage {
            Stage::Info { since } => {
                if let Some(limit) = is_due(since, self.config.info_timeout) {
                    self.reset(ClientReason::InfoTimeout { limit });
                }
            }
            Stage::Connecting | Stage::Connected if self.awaits_pong() => {
                if let Some(limit) = is_due(self.awaited_since, self.config.pong_timeout) {
                    self.reset(ClientReason::PongTimeout { limit });
                }
            }
            Stage::Connecting | Stage::Connected if !self.pings.is_empty() => {}
            Stage::Connecting | Stage::Connected => {
                if is_due(self.last_received, self.config.ping_interval).is_some() {
                    self.ping(Ping::KeepAlive, now);
                }
            }
        }
    }

    pub(super) fn shut_down(&mut self, now: Instant) {
        match self.state {
            State::Open(_) | State::Greeted { .. } => {
                let linger = Some(self.config.linger);
                let reason = ClientReason::ShutDown;
                let ending = Teardown::closing(reason, linger, &mut self.progress, now);
                self.receiver.clear();
                self.state = State::Ending(ending);
            }
            State::Broken { .. } | State::Ending(_) => {}
        }
    }

    /// Sends a FIN, or an RST if output is pending: a FIN would mean that it is complete.
    pub(super) fn close(&mut self, reason: ClientReason, now: Instant) {
        if self.output.is_empty() {
            let until = self.config.write_timeout.map(|limit| now + limit);
            self.end(Teardown::finishing(reason, until));
        } else {
            self.reset(reason);
        }
    }

    pub(super) fn reset(&mut self, reason: ClientReason) {
        self.end(Teardown::reset(reason));
    }

    pub(super) fn end(&mut self, ending: Teardown<ClientReason>) {
        self.output.clear();
        self.receiver.clear();
        self.is_paused = false;
        self.state = State::Ending(ending);
    }
}

/// How long the client continues to read after a write has failed.
const FINAL_READ_TIMEOUT: Duration = Duration::from_secs(1);
