//! The commands `fanout-source`, `fanout-server` and `fanout-client`.

pub(super) mod client;
mod from_standard_input;
mod inspector;
pub(super) mod publishers;
mod publishing;
pub(super) mod reading;
pub(super) mod server;
pub(super) mod source;
mod upstream;

use core::{num::NonZeroUsize, time::Duration};
use std::time::{SystemTime, UNIX_EPOCH};

use wirestate_core::drive::Clock;

pub(super) use self::{inspector::MessageInspector, publishers::FEED};
use crate::{CommandRuntime, values};

fn message_size(text: &str) -> Result<NonZeroUsize, String> {
    let size = values::bytes_within(1..=MAX_MESSAGE, text)?;
    NonZeroUsize::new(size).ok_or_else(|| "expected at least 1B".into())
}

/// Returns the time from Unix' epoch to the epoch of the runtime's clock.
pub(super) fn unix_epoch<R: CommandRuntime>(runtime: &R) -> Duration {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    unix.saturating_sub(runtime.clock().now().since_epoch())
}

/// The largest message, in bytes.
const MAX_MESSAGE: usize = 1024 * 1024;
