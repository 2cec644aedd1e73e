//! The echo server: its configuration, and the state that its connections share.

use core::{num::NonZeroUsize, time::Duration};

use bytes::Bytes;

use super::Connection;
use crate::{
    ConfigError, Instant, Linger,
    buffer::Pool,
    config::{check_timeout, with_setters},
    shared::Shared,
    teardown::DiscardBudget,
};

/// How an echo server replies, and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The size of a connection's buffer, in bytes. Default: 64 KiB.
    ///
    /// With a [`prefix`](Self::prefix) the buffer has the size of one reply instead.
    pub buffer: NonZeroUsize,
    /// A text to send in front of every received chunk; `None`: no text. Default: `None`.
    pub prefix: Option<Prefix>,
    /// A connection is closed when no byte was received or acknowledged for this long; `None`:
    /// never. Default: 300 s.
    ///
    /// It is reset instead if output or a FIN is pending; then only acknowledged bytes count. The
    /// end may come late, within 1.125 times this duration. There is no other deadline, except for
    /// the lingering close, so a peer may read slowly.
    pub idle_timeout: Option<Duration>,
    /// The close after [`Event::ShutDown`](crate::Event::ShutDown).
    pub linger: Linger,
    /// How many buffers to keep when no connection uses them. Default: 64.
    pub idle_buffers: usize,
}

/// A text that is sent in front of every chunk.
///
/// A chunk is what one read returns, so the network and the kernel decide where it ends. With a
/// prefix, an echo is the only machine whose output depends on how its input is divided into reads.
/// Bytes pass unchanged, whether they are text or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The text.
    pub text: Bytes,
    /// The longest chunk, in bytes: the most that one read receives.
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

    /// The size of one connection's buffer, in bytes: `buffer`, or `prefix.text.len() +
    /// prefix.chunk`. An idle connection has no buffer.
    pub fn buffer_size(&self) -> usize {
        match &self.prefix {
            None => self.buffer.get(),
            Some(prefix) => prefix.text.len().saturating_add(prefix.chunk.get()),
        }
    }
}

/// An echo server: the configuration and the pool of buffers that its [connections](Connection)
/// share. Clones are the same server.
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
    pub fn machine(&self, now: Instant) -> Connection {
        let (config, discards) = (self.config.clone(), self.discards.clone());
        Connection::new(config, self.pool.clone(), discards, now)
    }
}

impl Default for Server {
    /// A server with the default [`Config`].
    fn default() -> Self {
        Self::with_valid(Config::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Event, Machine as _,
        drive::{collect_into, deliver},
    };

    #[test]
    fn a_timeout_of_zero_is_an_error_that_names_the_setting() {
        let config = Config::default().with_idle_timeout(Duration::ZERO);
        let error = Server::new(config).unwrap_err();
        assert_eq!(error.to_string(), "idle_timeout must be non-zero");
        let linger = Linger { time: Duration::ZERO, ..Linger::default() };
        let error = Server::new(Config::default().with_linger(linger)).unwrap_err();
        assert_eq!(error.to_string(), "linger.time must be non-zero");
    }

    #[test]
    fn an_idle_connection_returns_its_buffer() {
        let server = Server::new(Config::default().with_idle_buffers(1)).unwrap();
        let mut connection = server.machine(Instant::EPOCH);
        let buffer = connection.read_buf().as_ptr();
        deliver(&mut connection, &mut &b"hello"[..], Instant::EPOCH);
        collect_into(&mut connection, &mut [0; 64], Instant::EPOCH);
        connection.handle(Instant::EPOCH, Event::Release);
        let pooled = server.pool.take();
        assert_eq!(pooled.as_ptr(), buffer, "the pool has the buffer");
    }
}
