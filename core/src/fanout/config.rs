//! The configuration of a feed.

use core::{num::NonZeroUsize, time::Duration};

use super::{Framing, framing::LENGTH_PREFIX};
use crate::{
    ConfigError, Linger,
    config::{check_timeout, with_setters},
};

/// The configuration of a feed: how messages reach all subscribers, and the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Where one message ends and the next begins. Default: fixed, 1,024 bytes.
    pub framing: Framing,
    /// The size of the window, in bytes. It keeps the newest messages for subscribers that are
    /// behind. A chunk uses 128 bytes more than its messages. Minimum: the longest message of
    /// [`framing`](Self::framing). Default: 16 MiB.
    pub window: usize,
    /// What happens to a subscriber that falls out of the window. Default:
    /// [`LagPolicy::Disconnect`].
    pub on_lag: LagPolicy,
    /// How long the upstream may be paused for slow subscribers while others wait. Zero: it is
    /// never paused. Default: 1 s.
    ///
    /// The upstream is paused when a subscriber is about to fall out of the window. While another
    /// subscriber has read everything and waits, all pauses together last for at most `lag_wait` in
    /// any ten times `lag_wait`, and the upstream is paused only for subscribers that have caught
    /// up since they joined or skipped. Once half of the limit is used up, a pause lasts until
    /// these have read half of the window. Once all of it is used up, `on_lag` applies.
    ///
    /// While no subscriber waits, a pause has no limit, and the slowest subscriber sets the pace. A
    /// subscriber that acknowledges no byte is reset after [`write_timeout`](Self::write_timeout).
    ///
    /// [`LagPolicy::Block`] ignores this setting.
    pub lag_wait: Duration,
    /// A subscriber is reset when output or a FIN is pending and it has acknowledged no byte for
    /// this long; `None`: never. The reset may come late, within 1.125 times this duration.
    /// Default: 10 s.
    pub write_timeout: Option<Duration>,
    /// The connection to the upstream is reset when no byte arrives for this long; `None`: never.
    /// The time of a pause does not count. Default: `None`.
    pub upstream_idle_timeout: Option<Duration>,
    /// What happens to subscribers when an epoch begins: messages may be missing before it.
    /// Default: [`GapPolicy::Continue`].
    pub on_gap: GapPolicy,
    /// A [publisher](super::Publisher) is reset when no byte arrives for this long; `None`: never.
    /// The time of a pause does not count. Default: 10 minutes.
    pub publisher_idle_timeout: Option<Duration>,
    /// A [publisher](super::Publisher) is reset when a message is not complete this long after its
    /// first byte; `None`: never. The time of a pause does not count. Default: 30 s.
    pub publisher_message_timeout: Option<Duration>,
    /// The close of a subscription after [`Event::ShutDown`](crate::Event::ShutDown), or at a gap.
    pub linger: Linger,
    /// How many of the last messages a new subscriber gets first. Default: none.
    ///
    /// It gets only messages in the newer half of the window, because the upstream is not paused
    /// for it until it has caught up. With [`LagPolicy::Block`] it gets all messages in the window,
    /// except for those that the chunk being read may displace. With [`GapPolicy::Disconnect`] it
    /// gets no messages from before the present epoch.
    pub replay: u64,
}

/// What happens to a subscriber that falls out of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LagPolicy {
    /// Its connection is reset: a stream of raw bytes cannot show a gap.
    Disconnect,
    /// It gets the rest of a partly sent message, and continues with the next publication. The
    /// messages between are counted as skipped.
    Skip,
    /// No subscriber falls out of the window: the upstream is paused, without limit.
    Block,
}

/// What happens to subscribers [when an epoch begins](super::Feed::begin_epoch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapPolicy {
    /// They continue with the first message of the epoch. A stream of raw bytes does not show the
    /// gap.
    Continue,
    /// They get the messages before the epoch, and a FIN. No connection carries messages of two
    /// epochs.
    Disconnect,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            framing: Framing::Fixed(const { NonZeroUsize::new(1024).unwrap() }),
            window: 16 * 1024 * 1024,
            on_lag: LagPolicy::Disconnect,
            lag_wait: Duration::from_secs(1),
            write_timeout: Some(Duration::from_secs(10)),
            upstream_idle_timeout: None,
            publisher_idle_timeout: Some(Duration::from_mins(10)),
            publisher_message_timeout: Some(Duration::from_secs(30)),
            on_gap: GapPolicy::Continue,
            linger: Linger::default(),
            replay: 0,
        }
    }
}

impl Config {
    with_setters! {
        with_framing(framing: Framing);
        with_window(window: usize);
        with_on_lag(on_lag: LagPolicy);
        with_lag_wait(lag_wait: Duration);
        with_write_timeout(write_timeout: impl Into<Option<Duration>>);
        with_upstream_idle_timeout(upstream_idle_timeout: impl Into<Option<Duration>>);
        with_on_gap(on_gap: GapPolicy);
        with_publisher_idle_timeout(publisher_idle_timeout: impl Into<Option<Duration>>);
        with_publisher_message_timeout(publisher_message_timeout: impl Into<Option<Duration>>);
        with_linger(linger: Linger);
        with_replay(replay: u64);
    }

    /// Checks that a feed can work with this configuration.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check_timeout("write_timeout", self.write_timeout)?;
        check_timeout("upstream_idle_timeout", self.upstream_idle_timeout)?;
        check_timeout("publisher_idle_timeout", self.publisher_idle_timeout)?;
        check_timeout("publisher_message_timeout", self.publisher_message_timeout)?;
        check_timeout("linger.time", self.linger.time)?;
        let at_least = |setting, value: usize, min: usize| {
            let error = ConfigError::TooSmall { setting, value: value as u64, min: min as u64 };
            if value < min { Err(error) } else { Ok(()) }
        };
        if let Framing::LengthPrefixed { max } = self.framing {
            at_least("framing.max", max.get(), LENGTH_PREFIX)?;
        }
        let conflict = |setting| Err(ConfigError::Conflict { setting, with: "framing: None" });
        match self.framing.max_message_size() {
            Some(max) => at_least("window", self.window, max),
            None if self.on_lag == LagPolicy::Skip => conflict("on_lag: Skip"),
            None if self.replay > 0 => conflict("replay"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(config: &Config) -> alloc::string::String {
        use alloc::string::ToString as _;
        config.check().expect_err("it cannot work").to_string()
    }

    #[test]
    fn a_timeout_of_zero_is_an_error_that_names_the_setting() {
        let config = Config::default();
        assert_eq!(
            error(&config.clone().with_write_timeout(Duration::ZERO)),
            "write_timeout must be non-zero"
        );
        assert_eq!(
            error(&config.clone().with_upstream_idle_timeout(Duration::ZERO)),
            "upstream_idle_timeout must be non-zero"
        );
        let linger = Linger { time: Duration::ZERO, ..Linger::default() };
        assert_eq!(error(&config.with_linger(linger)), "linger.time must be non-zero");
    }

    #[test]
    fn a_size_below_its_minimum_is_an_error_with_both() {
        let config = Config::default();
        assert_eq!(
            error(&config.clone().with_window(1023)),
            "window is 1023, but must be at least 1024"
        );
        assert_eq!(config.clone().with_window(1024).check(), Ok(()));
        let framing = Framing::LengthPrefixed { max: const { NonZeroUsize::new(3).unwrap() } };
        assert_eq!(
            error(&config.with_framing(framing)),
            "framing.max is 3, but must be at least 4"
        );
    }

    #[test]
    fn without_messages_none_can_be_skipped_or_replayed() {
        let config = Config::default().with_framing(Framing::None);
        assert_eq!(config.clone().with_window(0).check(), Ok(()));
        assert_eq!(
            error(&config.clone().with_on_lag(LagPolicy::Skip)),
            "on_lag: Skip cannot be combined with framing: None"
        );
        assert_eq!(error(&config.with_replay(1)), "replay cannot be combined with framing: None");
    }
}
