//! The drain: how long connections may take to end after a shutdown was requested.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use tracing::{info, warn};

use super::DrainReport;
use crate::{
    Instant,
    admission::ConnectionTable,
    drive::Clock,
    runtime::within,
    shared::Lock,
    shutdown::{Shutdown, ShutdownHandle},
};

/// Waits until the connections have ended, and resets those that are open after `timeout`. `open`
/// is the number of connections to drain. After a soft stop, does nothing.
pub(super) async fn drain(
    clock: &mut impl Clock,
    table: &ConnectionTable,
    open: usize,
    shutdown: &ShutdownHandle,
    timeout: &Lock<Option<Duration>>,
) -> DrainReport {
    if shutdown.requested() == Shutdown::SoftStop {
        return DrainReport::default();
    }
    if open > 0 && shutdown.requested() == Shutdown::Drain {
        info!(connections = open, server = table.name(), "draining");
        table.shut_down();
        let mut running = timeout
            .with(|timeout| *timeout)
            .map(|timeout| RunningTime { remaining: timeout, counted: clock.now() });
        poll_fn(|cx| {
            let is_over = table.poll_empty(cx).is_ready()
                || shutdown.poll_requested(cx) == Shutdown::Immediate
                || running
                    .as_mut()
                    .is_some_and(|running| running.poll_elapsed(clock, cx).is_ready());
            if is_over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    let aborted = table.connections().len();
    if aborted > 0 {
        warn!(
            connections = aborted,
            server = table.name(),
            "resetting the connections that are still open"
        );
        table.abort();
        // Each task ends at its next poll, unless a handler blocks it.
        let _ = within(clock, Some(ABORT_TIMEOUT), poll_fn(|cx| table.poll_empty(cx))).await;
    }
    DrainReport { drained: open.saturating_sub(aborted), aborted }
}

/// Waits until the connections have ended, or a drain or an immediate shutdown is requested.
pub(super) async fn empty_or_drained(table: &ConnectionTable, shutdown: &ShutdownHandle) {
    poll_fn(|cx| {
        if table.poll_empty(cx).is_ready() || shutdown.poll_requested(cx) >= Shutdown::Drain {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

/// A duration that elapses only while this process runs. So data that arrives while the process is
/// stopped (SIGSTOP, a suspended machine) is still served.
#[derive(Debug)]
struct RunningTime {
    remaining: Duration,
    /// The time up to which the elapsed time was subtracted.
    counted: Instant,
}

impl RunningTime {
    /// Ready once the duration has elapsed.
    fn poll_elapsed(&mut self, clock: &mut impl Clock, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // If the alarm is later than a running process can be, the process was stopped.
            let now = clock.now();
            let elapsed = now.since(self.counted).min(TICK + MAX_ALARM_DELAY);
            self.remaining = self.remaining.saturating_sub(elapsed);
            self.counted = now;
            if self.remaining.is_zero() {
                return Poll::Ready(());
            }
            ready!(clock.poll_until(cx, now + self.remaining.min(TICK)));
        }
    }
}

/// How long the tasks of connections that are reset may take to end.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);
/// The interval at which a [`RunningTime`] subtracts the elapsed time.
const TICK: Duration = Duration::from_millis(250);
/// The longest delay of an alarm in a running process, however busy the machine is.
const MAX_ALARM_DELAY: Duration = Duration::from_millis(500);
