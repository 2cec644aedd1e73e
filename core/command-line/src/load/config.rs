//! The configuration of a connection of the load generator.

use std::{
    num::{NonZeroU64, NonZeroUsize},
    time::Duration,
};

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
    /// When each message is due. `None`, the default: as soon as the pace allows it.
    pub schedule: Option<Schedule>,
    /// The connection is reset when no byte moves for this long, although a message is due or in
    /// flight; `None`: never. Must be non-zero. Default: 30 s.
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

/// When the messages of a connection are due: an open loop, in which a message is due whether or
/// not earlier ones have come back.
///
/// The connections of a run share its rate, and take turns: message `k` of connection `i` of `n` is
/// due `(k * n + i) / rate` seconds after the connection was made.
///
/// A message that is due waits while the connection has as many messages in flight as its [`Pace`]
/// allows, or the server reads nothing. Its latency counts from the time at which it was due, so a
/// stall of the server is in the latency of every message that was due meanwhile. A closed loop
/// sends nothing meanwhile, so the stall is in the latency of few messages: *coordinated omission*
/// (Gil Tene, "How NOT to Measure Latency", 2013), for which wrk2 and `HdrHistogram` correct too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Messages a second, of all connections together.
    pub rate: NonZeroU64,
    /// How many connections share the rate.
    pub connections: NonZeroUsize,
    /// Which of the connections this is, counted from 0.
    pub index: usize,
}

impl Schedule {
    /// How many messages of the connection are due `elapsed` after it was made.
    pub(super) fn due(&self, elapsed: Duration) -> u64 {
        let slots = elapsed.as_nanos().saturating_mul(self.rate.get().into()) / NANOS_PER_SECOND;
        let connections = self.connections.get() as u128;
        let due = (slots + connections).saturating_sub(self.index as u128) / connections;
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    /// When message `number`, counted from 0, is due after the connection was made.
    pub(super) fn due_after(&self, number: u64) -> Duration {
        let connections = self.connections.get() as u128;
        let slot =
            u128::from(number).saturating_mul(connections).saturating_add(self.index as u128);
        let nanos = slot.saturating_mul(NANOS_PER_SECOND).div_ceil(self.rate.get().into());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
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
            schedule: None,
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

    /// Sets [`schedule`](Self::schedule).
    pub fn with_schedule(mut self, schedule: impl Into<Option<Schedule>>) -> Self {
        self.schedule = schedule.into();
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

const NANOS_PER_SECOND: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_turns_and_a_message_is_due_at_its_time() {
        for (rate, connections) in [(1, 1), (3, 1), (10, 4), (1_000_000, 7), (u64::MAX, 1000)] {
            let schedule = |index| Schedule {
                rate: NonZeroU64::new(rate).unwrap(),
                connections: NonZeroUsize::new(connections).unwrap(),
                index,
            };
            let first = [0, 1, 2].map(|index| schedule(index % connections).due_after(0));
            assert_eq!(first[0], Duration::ZERO);
            assert!(first.is_sorted() || connections < 3, "{first:?}");
            for index in [0, connections - 1] {
                for number in [0, 1, 2, 1000] {
                    let schedule = schedule(index);
                    let due = schedule.due_after(number);
                    assert!(schedule.due(due) > number, "{schedule:?} {number}");
                    if let Some(before) = due.checked_sub(Duration::from_nanos(1)) {
                        assert!(schedule.due(before) <= number, "{schedule:?} {number}");
                    }
                }
            }
        }
    }

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
