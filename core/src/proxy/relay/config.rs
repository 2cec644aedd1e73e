//! The limits of a proxy's connections, and what they share.

use core::{num::NonZeroUsize, time::Duration};

use super::Relay;
use crate::{Instant, Linger, buffer::Pool, shared::Shared, teardown::DiscardBudget};

/// The limits of a proxy's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The size of each of a connection's two buffers while it has bytes in it. Default: 64 KiB.
    pub buffer: NonZeroUsize,
    /// A connection is reset within 1.125 times this when neither side acknowledges a byte for this
    /// long, and none is received from a side whose other side has acknowledged all; `None`: never,
    /// and a reset that is passed on waits without limit. Default: 600 s. Once there is an upstream
    /// there is no other deadline: a side that is slow to read is healthy. It also bounds how long
    /// a reset waits that is passed on.
    pub idle_timeout: Option<Duration>,
    /// How a client is let go for which there is no upstream.
    pub linger: Linger,
    /// After [`Relay::shut_down`] a connection goes on until no byte has moved for this long and
    /// none waits to be sent: a request whose answer takes longer is cut short. Default: 1 s.
    pub drain_quiet: Duration,
    /// Buffers that the proxy keeps although no connection uses them. Default: 64.
    pub idle_buffers: usize,
    /// Pipes that each [`serve`](crate::proxy::serve()) has at most, for bytes that come in bulk
    /// ([`pipe_limit`](super::RelaySide::pipe_limit)). Default: 256. With 0, or while all are in
    /// use, bytes go through memory. A [`Connection`](crate::proxy::Connection) that you make
    /// yourself has no pipes.
    ///
    /// Each takes two open files. The kernel keeps at most 64 KiB in it (pipe(7)), which count
    /// under its user's limit (`/proc/sys/fs/pipe-user-pages-soft`, 64 MiB). A process that has
    /// restored the default of SIGPIPE ends by one when a peer is gone, since splice(2) can't be
    /// told to leave that signal away.
    pub pipes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            buffer: const { NonZeroUsize::new(64 * 1024).unwrap() },
            idle_timeout: Some(Duration::from_secs(600)),
            linger: Linger::default(),
            drain_quiet: Duration::from_secs(1),
            idle_buffers: 64,
            pipes: 256,
        }
    }
}

/// What the connections of one proxy share: the limits, and the pool of buffers. Clones are the
/// same.
///
/// With `n` connections it holds at most `(2 × n + idle_buffers) × buffer` bytes of buffers.
#[derive(Clone, Debug)]
pub struct RelayFactory {
    pub(super) config: Shared<Config>,
    pub(super) pool: Pool,
    pub(super) discards: DiscardBudget,
}

impl RelayFactory {
    /// A proxy without connections.
    ///
    /// # Panics
    /// If a time in `config` is zero: it would have passed before anything could happen.
    pub fn new(config: Config) -> Self {
        assert!(config.idle_timeout != Some(Duration::ZERO), "an idle timeout must be a time");
        assert!(config.linger.time > Duration::ZERO, "a linger time must be a time");
        assert!(config.drain_quiet > Duration::ZERO, "a time of quiet must be a time");
        let pool = Pool::new(config.buffer.get(), config.idle_buffers);
        Self { config: Shared::new(config), pool, discards: DiscardBudget::default() }
    }

    /// The machine for a client that was accepted `now`, and that has no upstream yet.
    pub fn relay(&self, now: Instant) -> Relay {
        Relay::new(self, now)
    }

    /// How many buffers hold bytes, or are being read into; an idle connection has none.
    pub fn buffers_in_use(&self) -> usize {
        self.pool.in_use()
    }

    /// The limits.
    pub fn config(&self) -> &Config {
        &self.config
    }
}
