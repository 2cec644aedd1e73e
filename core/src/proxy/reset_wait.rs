//! The wait of a forwarded reset until the output before it is acknowledged.

use std::{boxed::Box, time::Duration};

use crate::{Instant, drive::Sink};

/// The wait of a forwarded reset. A sink does not report acknowledgements, so they are polled at
/// growing intervals.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResetWait {
    pub(super) next_poll: Instant,
    interval: Duration,
}

impl ResetWait {
    /// The wait after `last`, if output is still unacknowledged at `now`.
    fn poll_again(now: Instant, last: Option<Self>) -> Self {
        let interval = last.map_or(MIN_INTERVAL, |last| (last.interval * 2).min(MAX_INTERVAL));
        Self { next_poll: now + interval, interval }
    }
}

/// Whether the reset of `socket` must wait until the output before it is acknowledged.
pub(super) fn must_wait(
    wait: &mut Option<Box<ResetWait>>,
    socket: &impl Sink,
    now: Instant,
) -> bool {
    if wait.as_ref().is_none_or(|wait| wait.next_poll <= now) {
        let last = wait.take().map(|wait| *wait);
        *wait = (socket.unacknowledged() > 0).then(|| ResetWait::poll_again(now, last).into());
    }
    wait.is_some()
}

/// The first interval at which a forwarded reset polls for acknowledgements. It doubles each time.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
/// The longest interval at which a forwarded reset polls for acknowledgements.
const MAX_INTERVAL: Duration = Duration::from_millis(100);
