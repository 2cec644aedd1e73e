//! The configuration of a connection of the load generator.

use std::{num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use wirestate_core::{ConfigError, shared::Shared};

/// The messages of a connection, their pace, and its deadlines.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadConfig {
    /// The messages of one round. Empty messages are not sent. Default: two messages of 22 bytes,
    /// `Message 1 from client.` and `Message 2 from client.`.
    pub messages: Shared<[Bytes]>,
    /// How many rounds of messages the connection sends. With 0, it closes at once. Default: 1.
    pub rounds: u64,
    /// How many messages may be in flight. Default: 1,024.
    pub pace: Pace,
    /// The connection is reset when no byte moves for this long; `None`: never. Must be non-zero.
    /// Default: 30 s.
    pub idle_timeout: Option<Duration>,
    /// How long the client's FIN may be pending before the connection is reset, and how long the
    /// client then waits for the server's FIN before it closes. Must be non-zero. Default: 2 s.
    pub close_timeout: Duration,
}

/// How many messages of a connection may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// One: each message waits for the echo of the message before it.
    Lockstep,
    /// This many. A message does not wait for the echo of the message before it.
    Pipelined(NonZeroUsize),
}

impl Default for LoadConfig {
    /// One round of the messages that the client of the tutorial [Socket Programming in
    /// Python](https://realpython.com/python-sockets/) sends.
    fn default() -> Self {
        Self {
            messages: Shared::new([
                Bytes::from_static(b"Message 1 from client."),
                Bytes::from_static(b"Message 2 from client."),
            ]),
            rounds: 1,
            pace: Pace::Pipelined(const { NonZeroUsize::new(1024).unwrap() }),
            idle_timeout: Some(Duration::from_secs(30)),
            close_timeout: Duration::from_secs(2),
        }
    }
}

impl LoadConfig {
    /// Sets [`messages`](Self::messages).
    pub fn with_messages(mut self, messages: impl Into<Shared<[Bytes]>>) -> Self {
        self.messages = messages.into();
        self
    }

    /// Sets [`rounds`](Self::rounds).
    pub fn with_rounds(mut self, rounds: u64) -> Self {
        self.rounds = rounds;
        self
    }

    /// Sets [`pace`](Self::pace).
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Sets [`idle_timeout`](Self::idle_timeout).
    pub fn with_idle_timeout(mut self, idle_timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = idle_timeout.into();
        self
    }

    /// Sets [`close_timeout`](Self::close_timeout).
    pub fn with_close_timeout(mut self, close_timeout: Duration) -> Self {
        self.close_timeout = close_timeout;
        self
    }

    /// Returns an error if a timeout is zero.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let zero = |setting| Err(ConfigError::Zero { setting });
        match (self.idle_timeout, self.close_timeout) {
            (Some(Duration::ZERO), _) => zero("idle_timeout"),
            (_, Duration::ZERO) => zero("close_timeout"),
            (Some(_) | None, _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_of_zero_is_an_error() {
        let config = LoadConfig::default();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.clone().with_idle_timeout(None).check(), Ok(()));
        for (config, setting) in [
            (config.clone().with_idle_timeout(Duration::ZERO), "idle_timeout"),
            (config.clone().with_close_timeout(Duration::ZERO), "close_timeout"),
        ] {
            assert_eq!(config.check(), Err(ConfigError::Zero { setting }));
        }
    }
}
