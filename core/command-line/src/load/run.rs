//! A run of the load generator: many connections at the same time.

use core::{
    convert::Infallible,
    ffi::c_int,
    pin::pin,
    task::{Poll, Waker},
    time::Duration,
};
use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use wirestate_core::{
    Fault, Instant, Reason,
    admission::{Admitted, ConnectionTable, Limits, Peer},
    buffer::Pool,
    drive::{Clock, Drive, Ended},
    quantity::Time,
    shared::{Lock, Shared},
    shutdown::ShutdownHandle,
};
use wirestate_tls::Client;

use super::{
    Load, LoadConfig, Schedule,
    report::{FailureCount, InSeconds, Latency, OpenLoop, Report, per_second},
};
use crate::{
    CommandError, CommandRuntime,
    connect::ConnectFlags,
    open_files::{self, RESERVED_FILES},
    tls,
};

/// Connections to one echo server, each with a [`Load`].
pub(crate) struct LoadRun {
    address: String,
    connections: usize,
    /// How many messages all connections send in all.
    total: u64,
    schedule: Option<Schedule>,
    table: ConnectionTable,
    tally: Shared<Lock<Tally>>,
    /// Ends attempts to connect.
    shutdown: ShutdownHandle,
    began: Instant,
}

/// The totals of all connections.
struct Tally {
    /// The round-trip times of all messages that came back completely, in nanoseconds.
    round_trips: Histogram<u64>,
    complete: u64,
    failures: BTreeMap<&'static str, FailureCount>,
    /// In an open loop, messages that were due and did not come back, of connections that have
    /// ended.
    unanswered: u64,
    /// Connections whose task has finished or panicked.
    finished: usize,
    /// When the connections were shut down.
    stopped: Option<Instant>,
    /// Woken when a task finishes.
    waker: Option<Waker>,
}

/// Sums over all connections of a run.
struct Totals {
    open: u64,
    bytes_sent: u64,
    bytes_received: u64,
    /// Messages without their echo, of open connections.
    unanswered: u64,
}

/// Counts a connection's task as finished when it is dropped.
struct TaskGuard(Shared<Lock<Tally>>);

/// The progress of a [`LoadRun`]. Its fields are those of a JSON line.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "progress")]
pub(crate) struct Progress {
    /// The time since the start.
    pub(crate) seconds: InSeconds,
    /// An estimate of the time until the end. `None`: unknown, or the run is stopped.
    pub(crate) seconds_left: Option<InSeconds>,
    /// Connections that are open or being opened.
    pub(crate) open: u64,
    /// Connections that have failed.
    pub(crate) failed: u64,
    /// Messages that came back completely.
    pub(crate) messages: u64,
    /// Messages in flight and, in an open loop, messages that are due and were not sent.
    pub(crate) unanswered: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    /// Messages that came back since the last progress, per second.
    pub(crate) messages_per_second: u64,
    /// Bytes received since the last progress, per second.
    pub(crate) bytes_per_second: u64,
}

/// Why a connection has failed that its machine did not end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
struct Failure {
    label: &'static str,
    text: String,
}

impl Failure {
    fn not_connected(text: String) -> Self {
        Self { label: "not_connected", text }
    }

    /// Messages were in flight for `wait` after the end.
    fn unfinished(wait: Duration) -> Self {
        let text = format!("messages in flight did not come back within {}", Time(wait));
        Self { label: "unfinished", text }
    }
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

impl Reason for Failure {
    fn label(&self) -> &'static str {
        self.label
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
            unanswered: 0,
            finished: 0,
            stopped: None,
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

    fn failed(&self) -> u64 {
        self.failures.values().map(|failures| failures.connections).sum()
    }
}

impl LoadRun {
    /// Starts all connections.
    pub(crate) fn start<R: CommandRuntime>(
        runtime: &R,
        address: &str,
        connections: usize,
        config: &LoadConfig,
        connect: ConnectFlags,
        tls: Option<&Client>,
    ) -> Result<Self, CommandError> {
        let limit = open_files::raise_limit();
        let files = (connections as u64)
            .saturating_mul(R::FILES_PER_CONNECTION as u64)
            .saturating_add(RESERVED_FILES);
        if files > limit {
            return Err(CommandError::TooManyConnections { connections, files, limit });
        }
        let messages = config.messages.iter().filter(|message| !message.is_empty()).count();
        let run = Self {
            address: address.to_string(),
            connections,
            total: (messages as u64)
                .saturating_mul(config.rounds)
                .saturating_mul(connections as u64),
            schedule: config.schedule,
            table: ConnectionTable::new(Limits { connections, per_address: None }),
            tally: Shared::new(Lock::new(Tally::new())),
            shutdown: ShutdownHandle::new(),
            began: runtime.clock().now(),
        };
        let pool = Pool::new(READ_BUFFER, connections.min(64));
        for index in 0..connections {
            let admitted = run
                .table
                .admit(Peer::Local, run.began)
                .expect("the table's limit is the number of connections");
            let mut config = config.clone();
            if let Some(schedule) = &mut config.schedule {
                schedule.index = index;
            }
            let connection = run.connection(
                runtime.clone(),
                admitted,
                config,
                pool.clone(),
                connect,
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
        connect: ConnectFlags,
        tls: Option<Client>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (address, guard) = (self.address.clone(), TaskGuard(self.tally.clone()));
        let shutdown = self.shutdown.clone();
        async move {
            let tally = &guard.0;
            let connected = shutdown.unless_requested(connect.connect(&runtime, &address)).await;
            let clock = runtime.clock();
            let now = clock.now();
            let not_connected = match connected {
                Some(Ok(socket)) => {
                    let round_trips = tally.clone();
                    let load = Load::new(config, pool, now, move |time| {
                        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                        round_trips.with(|tally| tally.round_trips.saturating_record(nanos));
                    });
                    let load = load.expect("the command line rejects timeouts of 0");
                    let load = tls::around(tls.as_ref(), load, now);
                    let mut drive = Drive::new(load, socket, clock).admitted(admitted);
                    let Err(ended) = drive.until(|_, _| None::<Infallible>).await;
                    let unanswered = drive.machine().inner().unanswered();
                    let now = runtime.clock().now();
                    tally.with(|tally| {
                        tally.unanswered += unanswered;
                        match ended {
                            Ended::Reason(reason) => tally.ended(&reason),
                            Ended::Aborted => {
                                let wait = tally.stopped.map(|stopped| now.since(stopped));
                                tally.ended(&Failure::unfinished(wait.unwrap_or_default()));
                            }
                        }
                    });
                    return;
                }
                Some(Err(error)) => Failure::not_connected(error.to_string()),
                None => Failure::not_connected(format!(
                    "the run ended before {address} was connected to"
                )),
            };
            tally.with(|tally| tally.ended(&not_connected));
            admitted.end(&not_connected, now);
        }
    }

    /// Shuts all connections down: they begin no further message, and complete those in flight.
    fn stop(&self, now: Instant) {
        self.tally.with(|tally| tally.stopped = tally.stopped.or(Some(now)));
        self.shutdown.drain();
        self.table.shut_down();
    }

    /// Waits until all connections have ended, and calls `show` once a second.
    ///
    /// After `duration`, or with the signal that `interrupted` returns, no message is sent any
    /// more. Messages in flight may then still come back, for 10 s after `duration` and for 2 s
    /// after a signal. After that, connections are reset. Returns the signal.
    pub(crate) async fn finish<R: CommandRuntime>(
        &self,
        runtime: &R,
        duration: Option<Duration>,
        interrupted: impl Future<Output = c_int>,
        mut show: impl FnMut(&Progress) -> Result<(), CommandError>,
    ) -> Result<Option<c_int>, CommandError> {
        let mut interrupted = pin!(interrupted);
        let mut clock = runtime.clock();
        let mut next_show = self.began + SHOW_INTERVAL;
        let mut stop_at = duration.map(|duration| self.began + duration);
        let (mut give_up_at, mut signal) = (None, None);
        let mut last = self.progress(self.began, stop_at, None);
        poll_fn(|cx| {
            if signal.is_none()
                && let Poll::Ready(received) = interrupted.as_mut().poll(cx)
            {
                let now = clock.now();
                (signal, stop_at, give_up_at) = (Some(received), None, Some(now + INTERRUPT_WAIT));
                self.stop(now);
            }
            let is_finished = self.tally.with(|tally| {
                tally.waker = Some(cx.waker().clone());
                tally.finished == self.connections
            });
            if is_finished {
                return Poll::Ready(Ok(signal));
            }
            loop {
                let deadlines = [Some(next_show), stop_at, give_up_at].into_iter().flatten();
                let deadline = deadlines.min().unwrap_or(next_show);
                if clock.poll_until(cx, deadline).is_pending() {
                    return Poll::Pending;
                }
                let now = clock.now();
                if give_up_at.is_some_and(|at| at <= now) {
                    give_up_at = None;
                    self.table.abort();
                }
                if stop_at.is_some_and(|at| at <= now) {
                    (stop_at, give_up_at) = (None, Some(now + IN_FLIGHT_WAIT));
                    self.stop(now);
                }
                if next_show <= now {
                    let progress = self.progress(now, stop_at, Some(&last));
                    if let Err(error) = show(&progress) {
                        return Poll::Ready(Err(error));
                    }
                    last = progress;
                    next_show = now.max(next_show) + SHOW_INTERVAL;
                }
            }
        })
        .await
    }

    /// The progress. `last` is the one before.
    fn progress(
        &self,
        now: Instant,
        stop_at: Option<Instant>,
        last: Option<&Progress>,
    ) -> Progress {
        let totals = self.totals();
        let elapsed = now.since(self.began);
        let (failed, messages, is_stopped) = self
            .tally
            .with(|tally| (tally.failed(), tally.round_trips.len(), tally.stopped.is_some()));
        let since = last.map_or(elapsed, |last| elapsed.saturating_sub(last.seconds.0));
        let new_messages = messages.saturating_sub(last.map_or(0, |last| last.messages));
        let last_bytes = last.map_or(0, |last| last.bytes_received);
        let new_bytes = totals.bytes_received.saturating_sub(last_bytes);
        let rest = u128::from(self.total - messages.min(self.total));
        let estimate = (elapsed.as_nanos().saturating_mul(rest)).checked_div(messages.into());
        let estimate = estimate.and_then(|nanos| u64::try_from(nanos).ok());
        let until_stop = stop_at.map(|stop_at| stop_at.since(now));
        let left = [estimate.map(Duration::from_nanos), until_stop].into_iter().flatten().min();
        Progress {
            seconds: InSeconds(elapsed),
            seconds_left: left.filter(|_| !is_stopped).map(InSeconds),
            open: totals.open,
            failed,
            messages,
            unanswered: totals.unanswered,
            bytes_sent: totals.bytes_sent,
            bytes_received: totals.bytes_received,
            messages_per_second: per_second(new_messages, since),
            bytes_per_second: per_second(new_bytes, since),
        }
    }

    /// The sums over all connections.
    fn totals(&self) -> Totals {
        let snapshot = self.table.snapshot();
        let totals = snapshot.totals;
        let mut sums = Totals {
            open: totals.open,
            bytes_sent: totals.bytes_sent,
            bytes_received: totals.bytes_received,
            unanswered: 0,
        };
        for connection in snapshot.connections {
            sums.bytes_sent += connection.bytes_sent();
            sums.bytes_received += connection.bytes_received();
            sums.unanswered += connection.status().lag;
        }
        sums
    }

    /// The report. Call it after [`finish`](Self::finish). `is_interrupted` says whether a signal
    /// ended the run.
    pub(crate) fn report<R: CommandRuntime>(&self, runtime: &R, is_interrupted: bool) -> Report {
        let now = runtime.clock().now();
        let elapsed = now.since(self.began);
        let totals = self.totals();
        self.tally.with(|tally| {
            let stopped = tally.stopped.unwrap_or(now);
            let messages = tally.round_trips.len();
            let open_loop = self.schedule.map(|schedule| {
                let unanswered = tally.unanswered + totals.unanswered;
                OpenLoop {
                    rate: schedule.rate.get(),
                    offered_per_second: per_second(
                        messages + unanswered,
                        stopped.since(self.began),
                    ),
                    unanswered,
                }
            });
            Report {
                address: self.address.clone(),
                connections: self.connections,
                complete: tally.complete,
                failures: tally.failures.clone(),
                messages,
                bytes_sent: totals.bytes_sent,
                bytes_received: totals.bytes_received,
                seconds: InSeconds(elapsed),
                messages_per_second: per_second(messages, elapsed),
                bytes_per_second: per_second(totals.bytes_received, elapsed),
                open_loop,
                latency_us: Latency::new(&tally.round_trips),
                is_interrupted,
            }
        })
    }
}

/// The size of a connection's read buffer, in bytes.
const READ_BUFFER: usize = 64 * 1024;
const SHOW_INTERVAL: Duration = Duration::from_secs(1);
/// How long messages in flight may take to come back after the duration of a run.
const IN_FLIGHT_WAIT: Duration = Duration::from_secs(10);
/// How long messages in flight may take to come back after a signal.
const INTERRUPT_WAIT: Duration = Duration::from_secs(2);
/// An hour, in nanoseconds. Longer round trips are recorded as this.
const MAX_ROUND_TRIP: u64 = 3_600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
