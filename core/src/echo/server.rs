//! The echo server's machine.

use core::{num::NonZeroUsize, time::Duration};

use bytes::Bytes;

use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Linger, Machine, Outbound, Status,
    WriteProgress,
    buffer::{Pool, Ring},
    linger::DiscardBudget,
    shared::Shared,
};

/// How an echo server answers, and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The size of a connection's buffer while it has bytes in it. Default: 64 KiB.
    ///
    /// With a [`prefix`](Self::prefix) the buffer is as large as one answer instead.
    pub buffer: NonZeroUsize,
    /// Answer every received chunk with a text in front. Default: none, raw bytes back.
    pub prefix: Option<Prefix>,
    /// A connection is closed within 1.125 times this when the peer acknowledges no byte for this
    /// long, and, once it has acknowledged all, sends none; `None`: never. Default: 300 s. There is
    /// no other deadline: a peer that is slow to read is healthy.
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
    /// # Panics
    /// If a time in `config` is zero: it would have passed before anything could happen.
    pub fn new(config: Config) -> Self {
        assert!(config.idle_timeout != Some(Duration::ZERO), "an idle timeout must be a time");
        assert!(config.linger.time > Duration::ZERO, "a linger time must be a time");
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
    Draining {
        /// Since when input is awaited, while nothing waits to be sent back.
        since: Instant,
        /// How long input may be awaited yet, in all.
        left: Duration,
    },
    /// Reads no more; what is owed, then a FIN.
    Closing(Reason),
    /// Our FIN is out because we were asked to stop: what the peer sends is thrown away.
    Lingering {
        until: Instant,
        discarded: usize,
    },
    Resetting(Reason),
    Over(Reason),
}

/// Why an echo server's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
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

impl crate::Reason for Reason {
    fn label(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ShutDown { .. } => "shut_down",
            Self::IdleTimeout { .. } => "idle_timeout",
            Self::Lost { why, .. } => why.label(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Finished => Fault::None,
            Self::ShutDown { .. } => Fault::Asked,
            Self::IdleTimeout { .. } => Fault::Time,
            Self::Lost { .. } => Fault::Lost,
        }
    }
}

impl Echo {
    fn has_room(&self) -> bool {
        match self.config.prefix {
            // Room for a read that is worth its system call.
            None => self.ring.len() <= self.ring.capacity() / 2,
            // The answer to one chunk goes out before the next chunk comes in.
            Some(_) => self.ring.is_empty(),
        }
    }

    fn outbound_or(&self, when_empty: Outbound) -> Outbound {
        if self.ring.is_empty() { when_empty } else { Outbound::Flush }
    }
}

impl Machine for Echo {
    type Reason = Reason;

    fn interest(&self) -> Interest {
        match &self.state {
            State::Open | State::Draining { .. } => {
                Interest { read: self.has_room(), write: self.outbound_or(Outbound::Idle) }
            }
            State::Closing(_) => {
                Interest { read: false, write: self.outbound_or(Outbound::Finish) }
            }
            State::Lingering { .. } => Interest { read: true, write: Outbound::Finished },
            State::Resetting(_) => Interest { read: false, write: Outbound::Reset },
            State::Over(_) => Interest::DONE,
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
            Event::Eof => match self.state {
                State::Open | State::Draining { .. } => {
                    self.state = State::Closing(Reason::Finished);
                }
                State::Lingering { discarded, .. } => {
                    self.state = State::Over(Reason::ShutDown { discarded });
                }
                State::Closing(_) | State::Resetting(_) | State::Over(_) => {}
            },
            Event::Error(way, why) => self.handle_lost(way, why),
            Event::Written(n) => {
                self.ring.consume(n);
                self.progress.written(now, n);
                if let State::Draining { since, .. } = &mut self.state {
                    *since = now;
                }
            }
            Event::Finished => self.handle_finished(now),
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            // What is on its way is still echoed: until nothing has come for 10 ms, or input was awaited
            // for 200 ms in all. A peer that sends without pause, or does not read, is not ended by that;
            // whoever asks bounds it ([`Options::drain_timeout`](crate::serve::Options::drain_timeout)).
            Event::ShutDown => {
                if let State::Open = self.state {
                    self.state = State::Draining { since: now, left: DRAIN_WAIT };
                }
            }
            Event::Release => {
                self.ring.release();
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let idle = self.config.idle_timeout.map(|limit| self.progress.deadline(limit));
        match self.state {
            State::Draining { since, left } if self.ring.is_empty() => {
                let quiet = since + left.min(DRAIN_QUIET);
                Some(idle.map_or(quiet, |idle| idle.min(quiet)))
            }
            State::Open | State::Draining { .. } | State::Closing(_) => idle,
            State::Lingering { until, .. } => Some(until),
            State::Resetting(_) | State::Over(_) => None,
        }
    }

    fn status(&self) -> Status {
        let state = match self.state {
            State::Open => "open",
            State::Draining { .. } => "draining",
            State::Closing(_) => "closing",
            State::Lingering { .. } => "lingering",
            State::Resetting(_) => "resetting",
            State::Over(_) => "over",
        };
        Status { state, queued: self.ring.len(), lag: 0 }
    }

    fn reason(&self) -> Option<Reason> {
        match &self.state {
            State::Over(reason) => Some(reason.clone()),
            State::Open
            | State::Draining { .. }
            | State::Closing(_)
            | State::Lingering { .. }
            | State::Resetting(_) => None,
        }
    }
}

impl Echo {
    fn handle_read(&mut self, now: Instant, n: usize) {
        if let State::Draining { since, left } = &mut self.state
            && self.ring.is_empty()
        {
            *left = left.saturating_sub(now.since(*since));
        }
        match &mut self.state {
            State::Open | State::Draining { .. } => {
                let prefix = self.config.prefix.as_ref().map_or(0, |prefix| prefix.text.len());
                if self.ring.is_empty() {
                    self.progress.queued(now);
                }
                self.ring.commit(prefix + n);
            }
            State::Lingering { discarded, .. } => {
                if !self.discards.discard(self.config.linger, discarded, n, now) {
                    self.state = State::Over(Reason::ShutDown { discarded: *discarded });
                }
            }
            State::Closing(_) | State::Resetting(_) | State::Over(_) => {}
        }
    }

    fn handle_lost(&mut self, way: Direction, why: ConnectionError) {
        match self.state {
            State::Open | State::Draining { .. } | State::Closing(_) => {
                let reason = Reason::Lost { way, why, unsent: self.ring.len() };
                self.state = match why {
                    ConnectionError::Reset => State::Over(reason),
                    // The connection may live on at the peer's end, where a FIN would look clean.
                    ConnectionError::TimedOut
                    | ConnectionError::Unreachable
                    | ConnectionError::WriteZero
                    | ConnectionError::Layer
                    | ConnectionError::Other { .. } => State::Resetting(reason),
                };
            }
            State::Lingering { discarded, .. } => {
                self.state = State::Over(Reason::ShutDown { discarded });
            }
            State::Resetting(_) | State::Over(_) => {}
        }
    }

    fn handle_finished(&mut self, now: Instant) {
        match &self.state {
            State::Closing(Reason::ShutDown { discarded }) => {
                let until = now + self.config.linger.time;
                self.state = State::Lingering { until, discarded: *discarded };
            }
            State::Closing(reason) | State::Resetting(reason) => {
                self.state = State::Over(reason.clone());
            }
            State::Open | State::Draining { .. } | State::Lingering { .. } | State::Over(_) => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        if self.poll_timeout().is_none_or(|deadline| deadline > now) {
            return;
        }
        self.progress.observe(now, !self.ring.is_empty(), unacknowledged);
        if self.poll_timeout().is_none_or(|deadline| deadline > now) {
            return;
        }
        let limit = self.config.idle_timeout.unwrap_or_default();
        // Bytes that only the kernel has taken are pending output as well.
        let unsent = self.ring.len() + unacknowledged;
        let idle = Reason::IdleTimeout { limit, unsent };
        self.state = match self.state {
            State::Draining { .. } if self.ring.is_empty() => {
                State::Closing(Reason::ShutDown { discarded: 0 })
            }
            State::Open if unsent == 0 => State::Closing(idle),
            // A FIN says that all has been sent; it must not say so falsely.
            State::Open | State::Draining { .. } | State::Closing(_) => State::Resetting(idle),
            State::Lingering { discarded, .. } => State::Over(Reason::ShutDown { discarded }),
            State::Resetting(_) | State::Over(_) => return,
        };
        if self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            // The idle time starts anew for what is left to be done.
            self.progress.restart(now);
        }
    }
}

/// Nothing more is on its way when nothing has come for so long. (What TCP has to send again comes later:
/// it waits 200 ms at least on Linux.)
const DRAIN_QUIET: Duration = Duration::from_millis(10);
/// How long input is awaited in all. A peer in lockstep, which always has something on its way, is
/// ended by this; one that has megabytes under way is not, since it is hardly ever awaited.
const DRAIN_WAIT: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::{collect_into, feed};

    #[test]
    fn an_idle_connection_has_given_its_buffer_back() {
        let server = Server::new(Config { idle_buffers: 1, ..Config::default() });
        let mut echo = server.machine(Instant::EPOCH);
        let buffer = echo.read_buf().as_ptr();
        feed(&mut echo, &mut &b"hello"[..], Instant::EPOCH);
        collect_into(&mut echo, &mut [0; 64], Instant::EPOCH);
        echo.handle(Instant::EPOCH, Event::Release);
        let pooled = server.pool.take();
        assert_eq!(pooled.as_ptr(), buffer, "it is in the pool");
    }
}
