//! The configuration of a client.

use alloc::string::String;
use core::{num::NonZeroUsize, time::Duration};

use super::Credentials;
use crate::{
    ConfigError, Linger,
    config::{check_timeout, with_setters},
    protocol::FrameTimeouts,
};

/// The limits and timeouts of a client, and how it introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The client's name, for the server's log and monitoring. Default: `wirestate`.
    pub name: String,
    /// Default: none.
    pub credentials: Credentials,
    /// The machine is inside of TLS. Default: false.
    pub encrypted: bool,
    /// Whether the server delivers the client's own messages to its own subscriptions. Default:
    /// true.
    pub echo: bool,
    /// The prefix of the subjects of replies. It must belong to this client alone; another one
    /// with the same prefix would get its replies. Default: `None`, which makes one from INFO:
    /// `_INBOX.`, the server's id, a dot, the client's id, which are unique together.
    pub inbox: Option<String>,
    /// The size of a block of the receive buffer in bytes, at least 4 KiB. Default: 64 KiB.
    pub buffer: NonZeroUsize,
    /// The longest INFO in bytes, at least 512. Default: 64 KiB.
    pub max_info: NonZeroUsize,
    /// The longest line of any other operation, sent or received, in bytes, at least 128. Default:
    /// 4 KiB, which is the default of the server's `max_control_line`.
    pub max_control_line: NonZeroUsize,
    /// The longest received message in bytes, headers and payload together. It limits what is
    /// received; the server's `max_payload` limits what is published. Default: 8 MiB, beyond which
    /// NATS advises against a greater `max_payload`.
    pub max_message: NonZeroUsize,
    /// The number of pending bytes of output at which nothing more is published. Default: 1 MiB.
    pub max_pending: NonZeroUsize,
    /// The most requests without a reply. Default: 1,024.
    pub max_requests: NonZeroUsize,
    /// How long a reply to a request may take; `None`: no limit. Must be non-zero. Default: 5 s.
    pub request_timeout: Option<Duration>,
    /// How long INFO may take, from the connection on; `None`: no limit. Must be non-zero. Default:
    /// 5 s.
    pub info_timeout: Option<Duration>,
    /// Sends a PING when nothing was received for this long; `None`: never. Must be non-zero.
    /// Default: 20 s.
    pub ping_interval: Option<Duration>,
    /// How long a PONG may take once its PING is written, CONNECT's included; `None`: no limit.
    /// Time in which the client does not read does not count. Must be non-zero. Default: 10 s.
    pub pong_timeout: Option<Duration>,
    /// How long an operation may take to arrive, from its first byte to its last. `header` applies
    /// to its line, `content` to the whole message.
    pub frame_timeouts: FrameTimeouts,
    /// Resets the connection if the server acknowledges no byte for this long while output or a FIN
    /// is pending; `None`: never. The reset comes within 1.125 times this. Must be non-zero.
    /// Default: 10 s.
    pub write_timeout: Option<Duration>,
    /// The lingering close after [`Event::ShutDown`](crate::Event::ShutDown). `linger.time` must be
    /// non-zero.
    pub linger: Linger,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "wirestate".into(),
            credentials: Credentials::None,
            encrypted: false,
            echo: true,
            inbox: None,
            buffer: const { NonZeroUsize::new(64 * 1024).unwrap() },
            max_info: const { NonZeroUsize::new(64 * 1024).unwrap() },
            max_control_line: const { NonZeroUsize::new(4 * 1024).unwrap() },
            max_message: const { NonZeroUsize::new(8 * 1024 * 1024).unwrap() },
            max_pending: const { NonZeroUsize::new(1024 * 1024).unwrap() },
            max_requests: const { NonZeroUsize::new(1024).unwrap() },
            request_timeout: Some(Duration::from_secs(5)),
            info_timeout: Some(Duration::from_secs(5)),
            ping_interval: Some(Duration::from_secs(20)),
            pong_timeout: Some(Duration::from_secs(10)),
            frame_timeouts: FrameTimeouts::default(),
            write_timeout: Some(Duration::from_secs(10)),
            linger: Linger::default(),
        }
    }
}

impl Config {
    with_setters! {
        with_name(name: impl Into<String>);
        with_credentials(credentials: Credentials);
        with_encrypted(encrypted: bool);
        with_echo(echo: bool);
        with_inbox(inbox: impl Into<Option<String>>);
        with_buffer(buffer: NonZeroUsize);
        with_max_info(max_info: NonZeroUsize);
        with_max_control_line(max_control_line: NonZeroUsize);
        with_max_message(max_message: NonZeroUsize);
        with_max_pending(max_pending: NonZeroUsize);
        with_max_requests(max_requests: NonZeroUsize);
        with_request_timeout(request_timeout: impl Into<Option<Duration>>);
        with_info_timeout(info_timeout: impl Into<Option<Duration>>);
        with_ping_interval(ping_interval: impl Into<Option<Duration>>);
        with_pong_timeout(pong_timeout: impl Into<Option<Duration>>);
        with_frame_timeouts(frame_timeouts: FrameTimeouts);
        with_write_timeout(write_timeout: impl Into<Option<Duration>>);
        with_linger(linger: Linger);
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (setting, size, min) in [
            ("buffer", self.buffer, MIN_BUFFER),
            ("max_info", self.max_info, MIN_INFO),
            ("max_control_line", self.max_control_line, MIN_CONTROL_LINE),
        ] {
            let value = size.get();
            if value < min {
                let (value, min) = (value as u64, min as u64);
                return Err(ConfigError::TooSmall { setting, value, min });
            }
        }
        self.frame_timeouts.check()?;
        for (setting, timeout) in [
            ("request_timeout", self.request_timeout),
            ("info_timeout", self.info_timeout),
            ("ping_interval", self.ping_interval),
            ("pong_timeout", self.pong_timeout),
            ("write_timeout", self.write_timeout),
            ("linger.time", Some(self.linger.time)),
        ] {
            check_timeout(setting, timeout)?;
        }
        Ok(())
    }
}

const MIN_BUFFER: usize = 4 * 1024;
const MIN_INFO: usize = 512;
const MIN_CONTROL_LINE: usize = 128;
