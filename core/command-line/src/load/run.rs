//! A run of the load generator: many connections at the same time.

use core::{
    task::{Poll, Waker},
    time::Duration,
};
use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
};

use hdrhistogram::Histogram;
use wirestate_core::{
    Fault, Instant, Reason,
    admission::{Admitted, ConnectionTable, Limits, Peer},
    buffer::Pool,
    drive::{Clock, Drive},
    runtime::connect_within,
    shared::{Lock, Shared},
};
use wirestate_tls::Client;

use super::{
    Load, LoadConfig,
    report::{FailureCount, Latency, Report},
};
use crate::{
    CommandError, CommandRuntime,
    open_files::{self, RESERVED_FILES},
    tls,
};

/// Connections to one echo server, each with a [`Load`].
pub(crate) struct LoadRun {
    address: String,
    connections: usize,
    table: ConnectionTable,
    tally: Shared<Lock<Tally>>,
    began: Instant,
}

/// The totals of all connections.
struct Tally {
    /// The round-trip times of all messages that came back completely, in nanoseconds.
    round_trips: Histogram<u64>,
    complete: u64,
    failures: BTreeMap<&'static str, FailureCount>,
    /// Connections whose task has finished or panicked.
    finished: usize,
    /// Woken when a task finishes.
    waker: Option<Waker>,
}

/// Counts a connection's task as finished when it is dropped.
struct TaskGuard(Shared<Lock<Tally>>);

/// The progress of a [`LoadRun`].
pub(crate) struct Progress {
    /// Connections that are open or being opened.
    pub(crate) open: u64,
    /// Connections that have failed.
    pub(crate) failed: u64,
    /// Messages that came back completely.
    pub(crate) messages: u64,
    /// The time since the start.
    pub(crate) elapsed: Duration,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot connect to {address}: {error}")]
struct NotConnected {
    address: String,
    error: String,
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        let waker = self.0.with(|tally| {
            tally.finished += 1;
            tally.waker.take()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Reason for NotConnected {
    fn label(&self) -> &'static str {
        "not_connected"
    }

    fn fault(&self) -> Fault {
        Fault::Lost
    }
}

impl Tally {
    fn new() -> Self {
        Self {
            round_trips: Histogram::new_with_max(MAX_ROUND_TRIP, SIGNIFICANT_DIGITS)
                .expect("the maximum is above the minimum"),
            complete: 0,
            failures: BTreeMap::new(),
            finished: 0,
            waker: None,
        }
    }

    fn ended(&mut self, reason: &impl Reason) {
        if reason.fault() == Fault::None {
            self.complete += 1;
            return;
        }
        let failures = self
            .failures
            .entry(reason.label())
            .or_insert_with(|| FailureCount { connections: 0, first: reason.to_string() });
        failures.connections += 1;
    }
}

impl LoadRun {
    /// Starts all connections.
    pub(crate) fn start<R: CommandRuntime>(
        runtime: &R,
        address: &str,
        connections: usize,
        config: &LoadConfig,
        connect_timeout: Option<Duration>,
        tls: Option<&Client>,
    ) -> Result<Self, CommandError> {
        let limit = open_files::raise_limit();
        let files = (connections as u64)
            .saturating_mul(R::FILES_PER_CONNECTION as u64)
            .saturating_add(RESERVED_FILES);
        if files > limit {
            return Err(CommandError::TooManyConnections { connections, files, limit });
        }
        let run = Self {
            address: address.to_string(),
            connections,
            table: ConnectionTable::new(Limits { connections, per_address: None }),
            tally: Shared::new(Lock::new(Tally::new())),
            began: runtime.clock().now(),
        };
        let pool = Pool::new(READ_BUFFER, connections.min(64));
        for _ in 0..connections {
            let admitted = run
                .table
                .admit(Peer::Local, run.began)
                .expect("the table's limit is the number of connections");
            let connection = run.connection(
                runtime.clone(),
                admitted,
                config.clone(),
                pool.clone(),
                connect_timeout,
                tls.cloned(),
            );
            runtime.spawn(connection).map_err(CommandError::Spawn)?;
        }
        Ok(run)
    }

    fn connection<R: CommandRuntime>(
        &self,
        runtime: R,
        admitted: Admitted,
        config: LoadConfig,
        pool: Pool,
        connect_timeout: Option<Duration>,
        tls: Option<Client>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (address, guard) = (self.address.clone(), TaskGuard(self.tally.clone()));
        async move {
            let tally = &guard.0;
            let connected = connect_within(&runtime, &address, connect_timeout).await;
            let clock = runtime.clock();
            let now = clock.now();
            match connected {
                Ok(socket) => {
                    let round_trips = tally.clone();
                    let load = Load::new(config, pool, now, move |time| {
                        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                        round_trips.with(|tally| tally.round_trips.saturating_record(nanos));
                    });
                    let load = load.expect("the command line rejects timeouts of 0");
                    let load = tls::around(tls.as_ref(), load, now);
                    let ended = Drive::new(load, socket, clock).admitted(admitted).await;
                    tally.with(|tally| tally.ended(&ended));
                }
                Err(error) => {
                    let reason = NotConnected { address, error: error.to_string() };
                    tally.with(|tally| tally.ended(&reason));
                    admitted.end(&reason, now);
                }
            }
        }
    }

    /// Shuts all connections down: they begin no further message, and complete those in flight.
    pub(crate) fn stop(&self) {
        self.table.shut_down();
    }

    /// Waits until all connections have ended, and calls `show` four times a second.
    pub(crate) async fn finish<R: CommandRuntime>(
        &self,
        runtime: &R,
        mut show: impl FnMut(&Progress),
    ) {
        let mut clock = runtime.clock();
        let mut next = clock.now() + SHOW_INTERVAL;
        poll_fn(|cx| {
            while clock.poll_until(cx, next).is_ready() {
                let now = clock.now();
                show(&self.progress(now));
                next = now + SHOW_INTERVAL;
            }
            self.tally.with(|tally| {
                if tally.finished == self.connections {
                    return Poll::Ready(());
                }
                tally.waker = Some(cx.waker().clone());
                Poll::Pending
            })
        })
        .await;
    }

    fn progress(&self, now: Instant) -> Progress {
        let open = self.table.totals().open;
        self.tally.with(|tally| Progress {
            open,
            failed: tally.failures.values().map(|failures| failures.connections).sum(),
            messages: tally.round_trips.len(),
            elapsed: now.since(self.began),
        })
    }

    /// The report. Call it after [`finish`](Self::finish).
    pub(crate) fn report<R: CommandRuntime>(&self, runtime: &R) -> Report {
        let elapsed = runtime.clock().now().since(self.began);
        let totals = self.table.totals();
        self.tally.with(|tally| {
            let micros = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64() * 1e6;
            let quantile = |quantile| micros(tally.round_trips.value_at_quantile(quantile));
            Report {
                address: self.address.clone(),
                connections: self.connections,
                complete: tally.complete,
                failures: tally.failures.clone(),
                messages: tally.round_trips.len(),
                bytes_sent: totals.bytes_sent,
                bytes_received: totals.bytes_received,
                seconds: elapsed.as_secs_f64(),
                latency_us: Latency {
                    p50: quantile(0.5),
                    p90: quantile(0.9),
                    p99: quantile(0.99),
                    p99_9: quantile(0.999),
                    max: micros(tally.round_trips.max()),
                },
            }
        })
    }
}

/// The size of a connection's read buffer, in bytes.
const READ_BUFFER: usize = 64 * 1024;
const SHOW_INTERVAL: Duration = Duration::from_millis(250);
/// An hour, in nanoseconds. Longer round trips are recorded as this.
const MAX_ROUND_TRIP: u64 = 3_600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
