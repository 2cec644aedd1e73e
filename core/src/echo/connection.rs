//! One connection of an echo server.

use core::time::Duration;

use super::Config;
use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Linger, Machine, Outbound, Status,
    WriteProgress,
    buffer::{Pool, Ring},
    machine::impl_reason,
    quantity::Time,
    record::Recordable,
    shared::Shared,
    teardown::{DiscardBudget, InFlightWait, Teardown},
};

/// One connection of an echo server. [`Server::machine`](super::Server::machine) makes it.
///
/// It holds a buffer of [`Config::buffer_size`] bytes, and none while no byte waits to be sent
/// back.
#[derive(Debug)]
pub struct Connection {
    config: Shared<Config>,
    discards: DiscardBudget,
    ring: Ring,
    state: State,
    progress: WriteProgress,
}

#[derive(Clone, Debug)]
enum State {
    Open,
    /// A shutdown was requested: input that is on its way is still echoed.
    Draining(InFlightWait),
    /// It lingers only after a requested shutdown.
    Ending(Teardown<EchoReason>),
}

/// Why a connection of an echo server ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EchoReason {
    /// The peer closed its side, and every byte was sent back.
    #[error("finished")]
    Finished,
    /// A shutdown was requested, and every byte that had arrived by then was sent back.
    #[error("shutdown requested; bytes discarded after the FIN: {discarded}")]
    ShutDown {
        /// Bytes received after our FIN.
        discarded: usize,
    },
    /// [`Config::idle_timeout`] ran out.
    #[error("no byte moved for {limit}; unsent bytes: {unsent}", limit = Time(*limit))]
    IdleTimeout {
        /// The limit.
        limit: Duration,
        /// Bytes that were not sent, or not acknowledged.
        unsent: usize,
    },
    /// The connection failed.
    #[error("lost while {direction}: {error}; unsent bytes: {unsent}")]
    Lost {
        /// The direction of the operation that failed.
        direction: Direction,
        /// The error.
        error: ConnectionError,
        /// Bytes that were received and not sent back.
        unsent: usize,
    },
}

impl_reason!(EchoReason {
    Self::Finished => ("finished", Fault::None),
    Self::ShutDown { .. } => ("shut_down", Fault::Requested),
    Self::IdleTimeout { .. } => ("idle_timeout", Fault::Time),
    Self::Lost { error, .. } => (ConnectionError: error, Fault::Lost),
});

impl Connection {
    pub(super) fn new(
        config: Shared<Config>,
        pool: Pool,
        discards: DiscardBudget,
        now: Instant,
    ) -> Self {
        let (ring, progress) = (Ring::new(pool), WriteProgress::new(now));
        Self { config, discards, ring, state: State::Open, progress }
    }

    /// Whether to read more input.
    fn has_capacity(&self) -> bool {
        match self.config.prefix {
            // A read into less than half of the buffer is not worth its system call.
            None => self.ring.len() <= self.ring.capacity() / 2,
            // The reply to one chunk is sent before the next chunk is read.
            Some(_) => self.ring.is_empty(),
        }
    }

    /// Sends the pending output and a FIN.
    fn close(&mut self, reason: EchoReason, linger: Option<Linger>, now: Instant) {
        self.state = State::Ending(Teardown::closing(reason, linger, &mut self.progress, now));
    }

    fn handle_read(&mut self, now: Instant, n: usize) {
        if let State::Ending(teardown) = &mut self.state {
            return teardown.handle_read(now, n, &self.discards);
        }
        if self.ring.is_empty() {
            if let State::Draining(drain) = &mut self.state {
                drain.handle_read(now);
            }
            self.progress.queued(now);
        }
        let prefix = self.config.prefix.as_ref().map_or(0, |prefix| prefix.text.len());
        self.ring.commit(prefix + n);
    }

    fn handle_error(&mut self, direction: Direction, error: ConnectionError) {
        let lost = EchoReason::Lost { direction, error, unsent: self.ring.len() };
        match &mut self.state {
            State::Open | State::Draining(_) => self.state = State::Ending(Teardown::ended(lost)),
            State::Ending(teardown) => teardown.handle_error(lost),
        }
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let is_closing = matches!(&self.state, State::Ending(teardown) if teardown.is_closing());
        let queued = is_closing || !self.ring.is_empty();
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let limit = self.config.idle_timeout;
        // Bytes that the kernel has accepted are pending until they are acknowledged.
        let unsent = self.ring.len() + unacknowledged;
        let is_stalled =
            unsent > 0 && limit.is_some_and(|limit| self.progress.is_stalled(now, limit));
        let idle = EchoReason::IdleTimeout { limit: limit.unwrap_or_default(), unsent };
        match &mut self.state {
            State::Ending(teardown) => teardown.expire(Some(idle)),
            // A FIN would mean that the output is complete.
            State::Open | State::Draining(_) if is_stalled => {
                self.state = State::Ending(Teardown::reset(idle));
            }
            State::Open => self.close(idle, None, now),
            State::Draining(_) => {
                self.close(EchoReason::ShutDown { discarded: 0 }, Some(self.config.linger), now);
            }
        }
    }
}

/// It shares nothing.
impl Recordable for Connection {}

impl Machine for Connection {
    type Reason = EchoReason;

    fn interest(&self) -> Interest {
        match &self.state {
            State::Open | State::Draining(_) => {
                let write = if self.ring.is_empty() { Outbound::Idle } else { Outbound::Flush };
                Interest { read: self.has_capacity(), write }
            }
            State::Ending(teardown) => teardown.interest(!self.ring.is_empty()),
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        let spare = self.ring.spare();
        match &self.config.prefix {
            None => spare,
            Some(prefix) => {
                let (head, chunk) = spare.split_at_mut(prefix.text.len());
                head.copy_from_slice(&prefix.text);
                chunk
            }
        }
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.ring.write_bufs(out)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.handle_read(now, n),
            Event::Eof => match &mut self.state {
                State::Open | State::Draining(_) => self.close(EchoReason::Finished, None, now),
                State::Ending(teardown) => teardown.handle_eof(),
            },
            Event::Error(direction, error) => self.handle_error(direction, error),
            Event::Written(n) => {
                self.ring.consume(n);
                self.progress.written(now, n);
                if let State::Draining(drain) = &mut self.state {
                    drain.wait(now);
                }
            }
            Event::Finished => {
                if let State::Ending(teardown) = &mut self.state {
                    teardown.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            Event::ShutDown => {
                if let State::Open = self.state {
                    self.state = State::Draining(InFlightWait::new(now));
                }
            }
            Event::Release => {
                self.ring.release();
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let idle = self.config.idle_timeout.map(|limit| self.progress.deadline(limit));
        match &self.state {
            State::Draining(drain) if self.ring.is_empty() => {
                Some(drain.deadline()).into_iter().chain(idle).min()
            }
            State::Open | State::Draining(_) => idle,
            State::Ending(teardown) => teardown.poll_timeout(idle),
        }
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Open => "open",
            State::Draining(_) => "draining",
            State::Ending(teardown) => teardown.state(),
        };
        Status { state, queued: self.ring.len(), lag: 0 }
    }

    fn reason(&self) -> Option<EchoReason> {
        let State::Ending(teardown) = &self.state else { return None };
        Some(match teardown.reason()? {
            EchoReason::ShutDown { .. } => EchoReason::ShutDown { discarded: teardown.discarded() },
            reason @ (EchoReason::Finished
            | EchoReason::IdleTimeout { .. }
            | EchoReason::Lost { .. }) => reason,
        })
    }
}
