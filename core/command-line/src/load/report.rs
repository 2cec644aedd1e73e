//! The report of a run of the load generator, for people and as JSON.

use core::time::Duration;
use std::{collections::BTreeMap, fmt};

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};
use wirestate_core::quantity::{Seconds, Size, Time};

use crate::CommandError;

/// What a [`LoadRun`](super::LoadRun) measured. Its fields are those of the JSON report.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "report")]
pub(crate) struct Report {
    pub(super) address: String,
    pub(super) connections: usize,
    /// Connections on which all bytes came back.
    pub(super) complete: u64,
    /// Connections that failed, by the label of their reason.
    pub(super) failures: BTreeMap<&'static str, FailureCount>,
    /// Messages that came back completely.
    pub(super) messages: u64,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) seconds: InSeconds,
    pub(super) messages_per_second: u64,
    pub(super) bytes_per_second: u64,
    /// `None` in a closed loop.
    pub(super) open_loop: Option<OpenLoop>,
    /// `None` without a message.
    pub(super) latency_us: Option<Latency>,
    /// Whether a signal ended the run.
    #[serde(rename = "interrupted")]
    pub(super) is_interrupted: bool,
}

/// A time, in JSON a number of seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InSeconds(pub(crate) Duration);

impl Serialize for InSeconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(Seconds(self.0).to_f64())
    }
}

/// Connections that failed for reasons of one label.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FailureCount {
    pub(super) connections: u64,
    /// The first reason.
    pub(super) first: String,
}

/// How the schedule of an open loop was kept.
#[derive(Debug, Serialize)]
pub(super) struct OpenLoop {
    /// The requested rate, in messages a second.
    pub(super) rate: u64,
    /// How many messages were due, per second until the run was stopped.
    pub(super) offered_per_second: u64,
    /// Messages that were due by then and did not come back.
    pub(super) unanswered: u64,
}

/// Quantiles of the messages' round-trip times, in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
    pub(super) max: f64,
}

impl Latency {
    /// The quantiles of round-trip times in nanoseconds. `None` if there are none.
    pub(super) fn new(round_trips: &Histogram<u64>) -> Option<Self> {
        let quantile = |quantile| micros(round_trips.value_at_quantile(quantile));
        (!round_trips.is_empty()).then(|| Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: micros(round_trips.max()),
        })
    }
}

/// Returns nanoseconds as microseconds. Their shortest text has at most three decimals.
#[expect(clippy::cast_precision_loss, reason = "three digits are significant")]
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// Returns `count` in `time`, per second.
pub(super) fn per_second(count: u64, time: Duration) -> u64 {
    let nanos = time.as_nanos().max(1);
    u64::try_from((u128::from(count) * 1_000_000_000 + nanos / 2) / nanos).unwrap_or(u64::MAX)
}

impl Report {
    /// Returns an error unless all bytes came back on all connections.
    pub(crate) fn check(&self) -> Result<(), CommandError> {
        let failed = self.connections as u64 - self.complete;
        if failed == 0 {
            return Ok(());
        }
        let first = self.failures.values().next().map_or("a panic", |kind| &kind.first).to_string();
        let Self { address, connections, .. } = self;
        Err(CommandError::Incomplete {
            address: address.clone(),
            failed,
            connections: *connections,
            first,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { complete, connections, messages, messages_per_second, .. } = self;
        let verified = match *complete {
            0 => "",
            all if all == *connections as u64 => ", every byte verified",
            _ => ", every byte of these verified",
        };
        writeln!(f, "connections  {complete} of {connections} complete{verified}")?;
        for (label, kind) in &self.failures {
            writeln!(f, "failed       {} {label}: {}", kind.connections, kind.first)?;
        }
        let (received, time) = (Size(self.bytes_received), Time(self.seconds.0));
        let interrupted = if self.is_interrupted { " (interrupted)" } else { "" };
        writeln!(f, "messages     {messages} echoed, {received}, in {time}{interrupted}")?;
        let rate = Size(self.bytes_per_second);
        writeln!(f, "throughput   {messages_per_second} messages/s, {rate}/s")?;
        if let Some(OpenLoop { rate, offered_per_second, unanswered }) = self.open_loop {
            writeln!(
                f,
                "open loop    {offered_per_second} messages/s were due (--rate {rate}), \
                 {unanswered} did not come back"
            )?;
        }
        let Some(Latency { p50, p90, p99, p99_9, max }) = self.latency_us else { return Ok(()) };
        let [p50, p90, p99, p99_9, max] =
            [p50, p90, p99, p99_9, max].map(|micros| Time(Duration::from_secs_f64(micros / 1e6)));
        writeln!(f, "latency      p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}, max {max}")
    }
}
