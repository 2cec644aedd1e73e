//! The echo server's machine.

use core::{num::NonZeroUsize, time::Duration};

use bytes::Bytes;

use crate::{
    ConfigError, ConnectionError, Direction, Event, Fault, Instant, Interest, Linger, Machine,
    Outbound, Status, WriteProgress,
    buffer::{Pool, Ring},
    config::{check_timeout, with_setters},
    machine::impl_reason,
    shared::Shared,
    teardown::{DiscardBudget, Drain, Teardown},
};

/// How an echo server answers, and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The size of a connection's buffer while it has bytes in it. Default: 64 KiB.
    ///
    /// With a [`prefix`](Self::prefix) the buffer is as large as one answer instead.
    pub buffer: NonZeroUsize,
    /// Answer every received chunk with a text in front. Default: none, raw bytes back.
    pub prefix: Option<Prefix>,
    /// A connection is closed within 1.125 times this when the peer acknowledges no byte for this
    /// long, and, once it has acknowledged all, sends none; `None`: never. Default: 300 s. There is
    /// no other deadline, except for the lingering close: a peer that is slow to read is healthy.
    /// Pending output or a pending FIN makes it a reset.
    pub idle_timeout: Option<Duration>,
    /// The close that follows [`Event::ShutDown`](crate::Event::ShutDown).
    pub linger: Linger,
    /// Buffers that the server keeps although no connection uses them. Default: 64.
    pub idle_buffers: usize,
}

/// A text in front of each chunk that is sent back.
///
/// What is a chunk is decided by the network and the kernel, so this is the one machine whose
/// output depends on how its input was cut up. Bytes pass unchanged, whether they are text or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The text.
    pub text: Bytes,
    /// The longest chunk, in bytes; a longer one that is received is answered as several.
    pub chunk: NonZeroUsize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            buffer: const { NonZeroUsize::new(64 * 1024).unwrap() },
            prefix: None,
            idle_timeout: Some(Duration::from_secs(300)),
            linger: Linger::default(),
            idle_buffers: 64,
        }
    }
}

impl Config {
    with_setters! {
        with_buffer(buffer: NonZeroUsize);
        with_prefix(prefix: impl Into<Option<Prefix>>);
        with_idle_timeout(idle_timeout: impl Into<Option<Duration>>);
        with_linger(linger: Linger);
        with_idle_buffers(idle_buffers: usize);
    }

    /// The most bytes that one connection's buffer takes: `buffer`, or with a prefix
    /// `prefix.text.len() + prefix.chunk`. An idle connection has none.
    pub fn buffer_size(&self) -> usize {
        match &self.prefix {
            None => self.buffer.get(),
            Some(prefix) => prefix.text.len().saturating_add(prefix.chunk.get()),
        }
    }
}

/// What the connections of one echo server share: its configuration and its pool of buffers.
/// Clones are the same server.
///
/// With `n` connections it holds at most `(n + idle_buffers) × buffer_size` bytes of buffers.
#[derive(Clone, Debug)]
pub struct Server {
    config: Shared<Config>,
    pool: Pool,
    discards: DiscardBudget,
}

impl Server {
    /// A server without connections.
    ///
    /// # Errors
    /// A timeout in `config` is zero.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        check_timeout("idle_timeout", config.idle_timeout)?;
        check_timeout("linger.time", config.linger.time)?;
        Ok(Self::with_valid(config))
    }

    fn with_valid(config: Config) -> Self {
        let pool = Pool::new(config.buffer_size(), config.idle_buffers);
        Self { config: Shared::new(config), pool, discards: DiscardBudget::default() }
    }

    /// The machine for a connection that was made `now`.
    pub fn machine(&self, now: Instant) -> Echo {
        Echo {
            config: self.config.clone(),
            discards: self.discards.clone(),
            ring: Ring::new(self.pool.clone()),
            state: State::Open,
            progress: WriteProgress::new(now),
        }
    }
}

impl Default for Server {
    /// A server with the default [`Config`].
    fn default() -> Self {
        Self::with_valid(Config::default())
    }
}

/// One connection of an echo server.
///
/// It holds at most [`Config::buffer_size`] bytes, and none while no byte waits to be sent back.
#[derive(Debug)]
pub struct Echo {
    config: Shared<Config>,
    discards: DiscardBudget,
    ring: Ring,
    state: State,
    progress: WriteProgress,
}

#[derive(Clone, Debug)]
enum State {
    Open,
    /// Asked to stop: what is on its way is still echoed.
    Draining(Drain),
    /// It lingers only when it was asked to stop.
    Ending(Teardown<EchoReason>),
}

/// Why an echo server's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EchoReason {
    /// The peer closed its side, and has had every byte back.
    #[error("finished")]
    Finished,
    /// We were asked to stop, and the peer has had every byte back that had arrived by then.
    #[error("asked to stop; bytes that came later, thrown away: {discarded}")]
    ShutDown {
        /// Bytes received behind our FIN.
        discarded: usize,
    },
    /// [`Config::idle_timeout`] ran out.
    #[error("no byte moved for {limit:?}; bytes owed: {unsent}")]
    IdleTimeout {
        /// The limit.
        limit: Duration,
        /// Bytes that the peer did not take.
        unsent: usize,
    },
    /// The connection broke.
    #[error("lost while {way}: {why}; bytes owed: {unsent}")]
    Lost {
        /// At a read or a write.
        way: Direction,
        /// How.
        why: ConnectionError,
        /// Bytes that were received and not sent back.
        unsent: usize,
    },
}

impl_reason!(EchoReason {
    Self::Finished => ("finished", Fault::None),
    Self::ShutDown { .. } => ("shut_down", Fault::Requested),
    Self::IdleTimeout { .. } => ("idle_timeout", Fault::Time),
    Self::Lost { why, .. } => (why.label(), Fault::Lost),
});

impl Echo {
    fn has_room(&self) -> bool {
        match self.config.prefix {
            // Room for a read that is worth its system call.
            None => self.ring.len() <= self.ring.capacity() / 2,
            // The answer to one chunk goes out before the next chunk comes in.
            Some(_) => self.ring.is_empty(),
        }
    }

    /// Sends the pending output and a FIN.
    fn close(&mut self, reason: EchoReason, linger: Option<Linger>, now: Instant) {
        self.state = State::Ending(Teardown::closing(reason, linger, &mut self.progress, now));
    }
}

impl Machine for Echo {
    type Reason = EchoReason;

    fn interest(&self) -> Interest {
        match &self.state {
            State::Open | State::Draining(_) => {
                let write = if self.ring.is_empty() { Outbound::Idle } else { Outbound::Flush };
                Interest { read: self.has_room(), write }
            }
            State::Ending(ending) => ending.interest(!self.ring.is_empty()),
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
                State::Ending(ending) => ending.handle_eof(),
            },
            Event::Error(way, why) => {
                let lost = EchoReason::Lost { way, why, unsent: self.ring.len() };
                match &mut self.state {
                    State::Open | State::Draining(_) => {
                        self.state = State::Ending(Teardown::over(lost));
                    }
                    State::Ending(ending) => ending.handle_error(lost),
                }
            }
            Event::Written(n) => {
                self.ring.consume(n);
                self.progress.written(now, n);
                if let State::Draining(drain) = &mut self.state {
                    drain.wait(now);
                }
            }
            Event::Finished => {
                if let State::Ending(ending) = &mut self.state {
                    ending.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            Event::ShutDown => {
                if let State::Open = self.state {
                    self.state = State::Draining(Drain::new(now));
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
            State::Ending(ending) => ending.poll_timeout(idle),
        }
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Open => "open",
            State::Draining(_) => "draining",
            State::Ending(ending) => ending.state(),
        };
        Status { state, queued: self.ring.len(), lag: 0 }
    }

    fn reason(&self) -> Option<EchoReason> {
        let State::Ending(ending) = &self.state else { return None };
        Some(match ending.reason()? {
            EchoReason::ShutDown { .. } => EchoReason::ShutDown { discarded: ending.discarded() },
            reason @ (EchoReason::Finished
            | EchoReason::IdleTimeout { .. }
            | EchoReason::Lost { .. }) => reason,
        })
    }
}

impl Echo {
    fn handle_read(&mut self, now: Instant, n: usize) {
        if let State::Ending(ending) = &mut self.state {
            return ending.handle_read(now, n, &self.discards);
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

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let closing = matches!(&self.state, State::Ending(ending) if ending.is_closing());
        let queued = closing || !self.ring.is_empty();
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let limit = self.config.idle_timeout;
        // Bytes that only the kernel has taken are pending output as well.
        let unsent = self.ring.len() + unacknowledged;
        let stalled = unsent > 0 && limit.is_some_and(|limit| self.progress.is_stalled(now, limit));
        let idle = EchoReason::IdleTimeout { limit: limit.unwrap_or_default(), unsent };
        match &mut self.state {
            State::Ending(ending) => ending.expire(Some(idle)),
            // A FIN says that all has been sent; it must not say so falsely.
            State::Open | State::Draining(_) if stalled => {
                self.state = State::Ending(Teardown::reset(idle));
            }
            State::Open => self.close(idle, None, now),
            State::Draining(_) => {
                self.close(EchoReason::ShutDown { discarded: 0 }, Some(self.config.linger), now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::{collect_into, deliver};

    #[test]
    fn a_timeout_of_zero_is_an_error_that_names_the_setting() {
        let config = Config::default().with_idle_timeout(Duration::ZERO);
        let error = Server::new(config).unwrap_err();
        assert_eq!(error.to_string(), "idle_timeout must be non-zero");
    }

    #[test]
    fn an_idle_connection_has_given_its_buffer_back() {
        let server = Server::new(Config::default().with_idle_buffers(1)).unwrap();
        let mut echo = server.machine(Instant::EPOCH);
        let buffer = echo.read_buf().as_ptr();
        deliver(&mut echo, &mut &b"hello"[..], Instant::EPOCH);
        collect_into(&mut echo, &mut [0; 64], Instant::EPOCH);
        echo.handle(Instant::EPOCH, Event::Release);
        let pooled = server.pool.take();
        assert_eq!(pooled.as_ptr(), buffer, "it is in the pool");
    }
}
