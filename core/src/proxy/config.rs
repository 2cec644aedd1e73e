//! The settings of a proxy.

use core::{num::NonZeroUsize, time::Duration};

use crate::{
    ConfigError, Linger,
    config::{check_timeout, with_setters},
    dial::CheckConfig,
    proxy_protocol::{HeaderPolicy, Version},
};

/// The settings of a proxy.
///
/// A [`RelayFactory`](super::RelayFactory) alone ignores `connect_timeout`, `resolve_interval`,
/// `check`, `accept_proxy`, `send_proxy` and `pipes`: these are for [`Proxy`](super::Proxy).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The size of a buffer, in bytes. A connection holds a buffer for each direction with pending
    /// bytes. At least [`MIN_BUFFER`] with [`accept_proxy`](Self::accept_proxy). Default: 64 KiB.
    pub buffer: NonZeroUsize,
    /// Resets both sides when the connection is idle for this long; `None`: never. Must be
    /// non-zero. Default: 600 s.
    ///
    /// A connection is idle while no byte is received and no sent byte is acknowledged. If one side
    /// has unacknowledged output, bytes received from the other side do not count. The reset comes
    /// within 1.125 times this.
    ///
    /// A connected relay has no other deadline, since a side may read slowly. The same timeout
    /// limits how long a forwarded reset waits until the output before it is acknowledged
    /// ([`Relay::forwards_reset`](super::Relay::forwards_reset)).
    pub idle_timeout: Option<Duration>,
    /// The lingering close of a client for which there is no upstream. `linger.time` must be
    /// non-zero.
    pub linger: Linger,
    /// After [`Relay::shut_down`](super::Relay::shut_down), a connection ends when no byte has
    /// moved for this long and none is pending. A reply that takes longer is cut off. Must be
    /// non-zero. Default: 1 s.
    pub drain_quiet: Duration,
    /// The most unused buffers that the proxy keeps. Default: 64.
    pub idle_buffers: usize,
    /// The most pipes of each [`serve`](super::serve()), for bulk transfers
    /// ([`pipe_limit`](super::RelaySide::pipe_limit)). With 0, or while all are in use, bytes go
    /// through memory. A [`ProxiedConnection`](super::ProxiedConnection) that you make yourself
    /// has no pipes. Default: 256.
    ///
    /// Each pipe takes two open files. It holds at most 64 KiB (pipe(7)), which count towards the
    /// limit of the user (`/proc/sys/fs/pipe-user-pages-soft`, 64 MiB). splice(2) cannot suppress
    /// SIGPIPE. If your process has restored the default action of that signal, the signal kills it
    /// when a peer has closed its connection.
    pub pipes: usize,
    /// How long all attempts to connect one client to an upstream may take together, name
    /// resolution included. Each attempt gets an equal share of the remaining time. `None`: the
    /// operating system's limit for each attempt (about two minutes). Must be non-zero. Default:
    /// 10 s.
    pub connect_timeout: Option<Duration>,
    /// The addresses of a name are looked up again after this time, and before that if one has
    /// failed. `None`: only then. Must be non-zero. Default: 30 s.
    ///
    /// The system's resolver (getaddrinfo(3)) does not say how long an answer is valid.
    pub resolve_interval: Option<Duration>,
    /// Active health checks of the upstreams. Default: `None`, only passive ones.
    pub check: Option<CheckConfig>,
    /// Clients connect through another proxy, and their connections begin with a PROXY header. An
    /// upstream is dialled once the header is complete. Default: `None`, no headers.
    pub accept_proxy: Option<HeaderPolicy>,
    /// Sends each upstream a PROXY header of this version, which names the client. Default: `None`,
    /// no headers.
    pub send_proxy: Option<Version>,
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
            connect_timeout: Some(Duration::from_secs(10)),
            resolve_interval: Some(Duration::from_secs(30)),
            check: None,
            accept_proxy: None,
            send_proxy: None,
        }
    }
}

impl Config {
    with_setters! {
        with_buffer(buffer: NonZeroUsize);
        with_idle_timeout(idle_timeout: impl Into<Option<Duration>>);
        with_linger(linger: Linger);
        with_drain_quiet(drain_quiet: Duration);
        with_idle_buffers(idle_buffers: usize);
        with_pipes(pipes: usize);
        with_connect_timeout(connect_timeout: impl Into<Option<Duration>>);
        with_resolve_interval(resolve_interval: impl Into<Option<Duration>>);
        with_check(check: impl Into<Option<CheckConfig>>);
        with_accept_proxy(accept_proxy: impl Into<Option<HeaderPolicy>>);
        with_send_proxy(send_proxy: impl Into<Option<Version>>);
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        check_timeout("idle_timeout", self.idle_timeout)?;
        check_timeout("linger.time", self.linger.time)?;
        check_timeout("drain_quiet", self.drain_quiet)?;
        check_timeout("connect_timeout", self.connect_timeout)?;
        check_timeout("resolve_interval", self.resolve_interval)?;
        if let Some(check) = &self.check {
            check.check()?;
        }
        let buffer = self.buffer.get();
        if self.accept_proxy.is_some() && buffer < MIN_BUFFER {
            let (value, min) = (buffer as u64, MIN_BUFFER as u64);
            return Err(ConfigError::TooSmall { setting: "buffer", value, min });
        }
        Ok(())
    }
}

/// The smallest [`Config::buffer`] with [`Config::accept_proxy`], in bytes. It holds the bytes that
/// are received together with a header, at most 255.
pub const MIN_BUFFER: usize = 256;

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use super::*;
    use crate::proxy::RelayFactory;

    #[test]
    fn a_configuration_that_cannot_work_is_an_error_that_names_the_setting() {
        let config = Config::default;
        let linger = Linger { time: Duration::ZERO, ..Linger::default() };
        let headers = || config().with_accept_proxy(HeaderPolicy::default());
        for (config, expected) in [
            (config().with_idle_timeout(Duration::ZERO), "idle_timeout must be non-zero"),
            (config().with_linger(linger), "linger.time must be non-zero"),
            (config().with_drain_quiet(Duration::ZERO), "drain_quiet must be non-zero"),
            (config().with_connect_timeout(Duration::ZERO), "connect_timeout must be non-zero"),
            (config().with_resolve_interval(Duration::ZERO), "resolve_interval must be non-zero"),
            (
                config().with_check(CheckConfig::default().with_interval(Duration::ZERO)),
                "check.interval must be non-zero",
            ),
            (
                config().with_check(CheckConfig::default().with_timeout(Duration::ZERO)),
                "check.timeout must be non-zero",
            ),
            (
                headers().with_buffer(const { NonZeroUsize::new(255).unwrap() }),
                "buffer is 255, but must be at least 256",
            ),
        ] {
            assert_eq!(RelayFactory::new(config).unwrap_err().to_string(), expected);
        }
        assert!(RelayFactory::new(headers()).is_ok());
    }
}
