//! Why a client has no upstream.

use alloc::string::String;
use core::{fmt, time::Duration};

use crate::{quantity::Time, shared::Shared};

/// No upstream could be connected to, or none stayed connected until a byte was forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DialError {
    /// The attempts, in order.
    pub attempts: Shared<[FailedAttempt]>,
    /// [`Config::connect_timeout`](super::super::Config::connect_timeout), if it has elapsed.
    pub timeout: Option<Duration>,
}

/// An attempt to connect to an upstream that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedAttempt {
    /// The upstream's address, `host:port` or `unix:PATH`.
    pub upstream: Shared<str>,
    /// Why it failed.
    pub error: String,
}

impl DialError {
    /// An error without an attempt: there was no upstream to try. `timeout`:
    /// [`timeout`](Self::timeout).
    pub fn new(timeout: Option<Duration>) -> Self {
        Self { attempts: [].into(), timeout }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no upstream reachable")?;
        if let Some(timeout) = self.timeout {
            write!(f, " within {}", Time(timeout))?;
        }
        for (i, FailedAttempt { upstream, error }) in self.attempts.iter().enumerate() {
            write!(f, "{} {upstream}: {error}", if i == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl core::error::Error for DialError {}
