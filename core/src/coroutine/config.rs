//! The settings of a coroutine's connection.

use core::{num::NonZeroUsize, time::Duration};

use crate::{
    ConfigError, Linger,
    config::{check_timeout, with_setters},
};

/// The limits and timeouts of a coroutine's connection. The defaults are for handshakes: a session
/// has no [`deadline`](Self::deadline), or one for each request ([`Io::set_deadline`]).
///
/// [`Io::set_deadline`]: super::Io::set_deadline
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The size of the input buffer and of the output buffer, in bytes. [`Io::read_until`] cannot
    /// wait for more. [`Io::write`] waits while the output buffer is full. Default: 16 KiB.
    ///
    /// [`Io::read_until`]: super::Io::read_until
    /// [`Io::write`]: super::Io::write
    pub buffer: NonZeroUsize,
    /// How long the coroutine may take, from the start of the connection; `None`: no limit. Must be
    /// non-zero. Default: 10 s.
    pub deadline: Option<Duration>,
    /// How long a read may wait without a byte received or sent; `None`: no limit. The time begins
    /// once all output is written. Must be non-zero. Default: 60 s.
    pub read_timeout: Option<Duration>,
    /// Resets a connection whose peer acknowledges no byte for this long while output or a FIN is
    /// pending; `None`: never. The reset comes within 1.125 times this. Must be non-zero.
    /// Default: 10 s.
    pub write_timeout: Option<Duration>,
    /// The lingering close at the end. `linger.time` must be non-zero.
    pub linger: Linger,
    /// The most unused buffers that the factory keeps. Default: 64.
    pub idle_buffers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            buffer: const { NonZeroUsize::new(16 * 1024).unwrap() },
            deadline: Some(Duration::from_secs(10)),
            read_timeout: Some(Duration::from_secs(60)),
            write_timeout: Some(Duration::from_secs(10)),
            linger: Linger::default(),
            idle_buffers: 64,
        }
    }
}

impl Config {
    with_setters! {
        with_buffer(buffer: NonZeroUsize);
        with_deadline(deadline: impl Into<Option<Duration>>);
        with_read_timeout(read_timeout: impl Into<Option<Duration>>);
        with_write_timeout(write_timeout: impl Into<Option<Duration>>);
        with_linger(linger: Linger);
        with_idle_buffers(idle_buffers: usize);
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check_timeout("deadline", self.deadline)?;
        check_timeout("read_timeout", self.read_timeout)?;
        check_timeout("write_timeout", self.write_timeout)?;
        check_timeout("linger.time", self.linger.time)
    }
}
