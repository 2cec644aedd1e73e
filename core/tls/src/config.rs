//! The limits of connections with TLS.

use core::time::Duration;

use wirestate_core::{ConfigError, Instant, Machine, buffer::Pool, teardown::DiscardBudget};

use crate::{
    Tls,
    session::{HEADER, MAX_PLAINTEXT, MIN_BUFFER, Session},
};

/// The limits of a connection with TLS.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The size of each of the two buffers of a connection for ciphertext, and so the limit of a
    /// handshake message, in bytes. Default: 64 KiB. At least 34,821.
    pub buffer: usize,
    /// How many unused buffers are kept for later connections. Default: 64.
    pub idle_buffers: usize,
    /// How long the handshake may take, from the start of the connection; `None`: without limit.
    /// Default: 10 s.
    pub handshake_timeout: Option<Duration>,
    /// How long encrypted output may be pending while the peer acknowledges nothing; `None`:
    /// without limit. Default: 10 s.
    ///
    /// The inner machine's own deadline counts this output too, as unacknowledged. This one also
    /// applies to an inner machine that has no deadline. An alert has a limit of 10 s in any case.
    pub write_timeout: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            buffer: 64 * 1024,
            idle_buffers: 64,
            handshake_timeout: Some(Duration::from_secs(10)),
            write_timeout: Some(Duration::from_secs(10)),
        }
    }
}

impl Config {
    /// Sets [`buffer`](Self::buffer).
    pub fn with_buffer(self, buffer: usize) -> Self {
        Self { buffer, ..self }
    }

    /// Sets [`idle_buffers`](Self::idle_buffers).
    pub fn with_idle_buffers(self, idle_buffers: usize) -> Self {
        Self { idle_buffers, ..self }
    }

    /// Sets [`handshake_timeout`](Self::handshake_timeout).
    pub fn with_handshake_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        Self { handshake_timeout: timeout.into(), ..self }
    }

    /// Sets [`write_timeout`](Self::write_timeout).
    pub fn with_write_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        Self { write_timeout: timeout.into(), ..self }
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.buffer < MIN_BUFFER {
            let (value, min) = (self.buffer as u64, MIN_BUFFER as u64);
            return Err(ConfigError::TooSmall { setting: "buffer", value, min });
        }
        for (setting, timeout) in
            [("handshake_timeout", self.handshake_timeout), ("write_timeout", self.write_timeout)]
        {
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                return Err(ConfigError::Zero { setting });
            }
        }
        Ok(())
    }
}

/// The limits that all connections of a server or client share.
#[derive(Debug)]
pub(crate) struct Limits {
    config: Config,
    pub(crate) pool: Pool,
    discards: DiscardBudget,
}

impl Limits {
    pub(crate) fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        let pool = Pool::new(config.buffer, config.idle_buffers);
        Ok(Self { config, pool, discards: DiscardBudget::default() })
    }

    /// Puts TLS around the machine of a new connection.
    pub(crate) fn machine<M: Machine>(&self, inner: M, session: Session, now: Instant) -> Tls<M> {
        Tls::new(inner, session, self.config.clone(), self.discards.clone(), now)
    }
}

/// Checks that rustls does not divide 16 KiB into several records: there is no space for their
/// headers. `size` is the longest record of a configuration, `None` the longest that is allowed.
pub(crate) fn check_fragment_size(size: Option<usize>) -> Result<(), ConfigError> {
    let (setting, longest) = ("max_fragment_size", (MAX_PLAINTEXT + HEADER) as u64);
    match size.map(|size| size as u64) {
        Some(value) if value < longest => {
            Err(ConfigError::TooSmall { setting, value, min: longest })
        }
        Some(value) if value > longest => {
            Err(ConfigError::TooLarge { setting, value, max: longest })
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_longest_records_are_accepted() {
        assert_eq!(check_fragment_size(None), Ok(()));
        assert_eq!(check_fragment_size(Some(16_389)), Ok(()));
        for (size, error) in [
            (31, "max_fragment_size is 31, but must be at least 16389"),
            (1024, "max_fragment_size is 1024, but must be at least 16389"),
            (16_390, "max_fragment_size is 16390, but must be at most 16389"),
        ] {
            assert_eq!(check_fragment_size(Some(size)).unwrap_err().to_string(), error);
        }
    }
}
