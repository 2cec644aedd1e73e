//! The state that the connections of one protocol share.

use core::future::Future;

use super::{Config, Connection, Io};
use crate::{ConfigError, Instant, buffer::Pool, shared::Shared, teardown::DiscardBudget};

/// Makes the [`Connection`] for each coroutine. The connections share its settings and its pool of
/// buffers. Clones are the same factory.
///
/// With `n` connections it holds at most `(2 × n + idle_buffers) × buffer` bytes of buffers.
#[derive(Clone, Debug)]
pub struct Factory {
    pub(super) config: Shared<Config>,
    pub(super) pool: Pool,
    pub(super) discards: DiscardBudget,
}

impl Factory {
    /// A factory with these settings.
    ///
    /// # Errors
    /// A timeout in `config` is zero.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self::with_valid(config))
    }

    fn with_valid(config: Config) -> Self {
        let pool = Pool::new(config.buffer.get(), config.idle_buffers);
        Self { config: Shared::new(config), pool, discards: DiscardBudget::default() }
    }

    /// The machine of `coroutine`, for a connection that was made at `now`. It closes the
    /// connection once the coroutine has ended.
    pub fn connection<T, E, F>(
        &self,
        now: Instant,
        coroutine: impl FnOnce(Io) -> F,
    ) -> Connection<T, E, F>
    where
        F: Future<Output = Result<T, E>>,
    {
        Connection::new(self, now, coroutine, false)
    }

    /// As [`connection`](Self::connection), but if the coroutine returns `Ok`, the connection stays
    /// open, for another machine.
    ///
    /// It then reads no more. [`Drive::handshake`](crate::drive::Drive::handshake) returns the
    /// value once all output is written, with the input that the coroutine has not read. A shutdown
    /// that is requested meanwhile is left to the other machine.
    pub fn handshake<T, E, F>(
        &self,
        now: Instant,
        coroutine: impl FnOnce(Io) -> F,
    ) -> Connection<T, E, F>
    where
        F: Future<Output = Result<T, E>>,
    {
        Connection::new(self, now, coroutine, true)
    }

    /// The number of buffers that hold bytes or are being read into. An idle connection has none.
    pub fn buffers_in_use(&self) -> usize {
        self.pool.in_use()
    }
}

impl Default for Factory {
    /// A factory with the default [`Config`].
    fn default() -> Self {
        Self::with_valid(Config::default())
    }
}
