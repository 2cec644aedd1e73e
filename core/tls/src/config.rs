//! The limits of connections with TLS.

use core::time::Duration;

use wirestate_core::ConfigError;

use crate::session::MIN_BUFFER;

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

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
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
