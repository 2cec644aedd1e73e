//! The report of a run of the load generator, for people and as JSON.

use core::time::Duration;
use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use crate::CommandError;

/// What a [`LoadRun`](super::LoadRun) measured. Its fields are those of the JSON report.
#[derive(Debug, Serialize)]
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
    pub(super) seconds: f64,
    pub(super) latency_us: Latency,
}

/// Connections that failed for reasons of one label.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FailureCount {
    pub(super) connections: u64,
    /// The first reason.
    pub(super) first: String,
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
        let Self { complete, connections, messages, seconds, .. } = self;
        #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
        let (per_second, received) = (*messages as f64 / seconds, self.bytes_received as f64);
        let (mib, rate) = (received / MIB, received / MIB / seconds);
        let verified = match *complete {
            0 => "",
            all if all == *connections as u64 => ", every byte verified",
            _ => ", every byte of these verified",
        };
        writeln!(f, "connections  {complete} of {connections} complete{verified}")?;
        for (label, kind) in &self.failures {
            writeln!(f, "failed       {} {label}: {}", kind.connections, kind.first)?;
        }
        writeln!(f, "messages     {messages} echoed, {mib:.1} MiB, in {seconds:.3} s")?;
        writeln!(f, "throughput   {per_second:.0} messages/s, {rate:.1} MiB/s")?;
        let Latency { p50, p90, p99, p99_9, max } = self.latency_us;
        let [p50, p90, p99, p99_9, max] =
            [p50, p90, p99, p99_9, max].map(|micros| Duration::from_secs_f64(micros / 1e6));
        writeln!(
            f,
            "latency      p50 {p50:.1?}, p90 {p90:.1?}, p99 {p99:.1?}, p99.9 {p99_9:.1?}, \
             max {max:.1?}"
        )
    }
}

const MIB: f64 = 1024.0 * 1024.0;
