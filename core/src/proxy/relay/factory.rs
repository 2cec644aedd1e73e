//! The state that the relays of one proxy share.

use super::{super::Config, Relay};
use crate::{ConfigError, Instant, buffer::Pool, shared::Shared, teardown::DiscardBudget};

/// Makes the [`Relay`] for each connection of a proxy. The relays share its settings and its pool
/// of buffers. Clones are the same factory.
///
/// With `n` connections it holds at most `(2 × n + idle_buffers) × buffer` bytes of buffers.
#[derive(Clone, Debug)]
pub struct RelayFactory {
    pub(super) config: Shared<Config>,
    pub(super) pool: Pool,
    pub(super) discards: DiscardBudget,
}

impl RelayFactory {
    /// A factory with these settings.
    ///
    /// # Errors
    /// A timeout in `config` is zero, or [`Config::buffer`] is below
    /// [`MIN_BUFFER`](super::super::MIN_BUFFER) with [`Config::accept_proxy`].
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self::with_valid(config))
    }

    fn with_valid(config: Config) -> Self {
        let pool = Pool::new(config.buffer.get(), config.idle_buffers);
        Self { config: Shared::new(config), pool, discards: DiscardBudget::default() }
    }

    /// The machine for a client that was accepted at `now` and has no upstream yet.
    pub fn relay(&self, now: Instant) -> Relay {
        Relay::new(self, now)
    }

    /// The number of buffers that hold bytes or are being read into. An idle connection has none.
    pub fn buffers_in_use(&self) -> usize {
        self.pool.in_use()
    }

    #[cfg(feature = "std")]
    pub(in super::super) fn shared_config(&self) -> Shared<Config> {
        self.config.clone()
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl Default for RelayFactory {
    /// A factory with the default [`Config`].
    fn default() -> Self {
        Self::with_valid(Config::default())
    }
}
