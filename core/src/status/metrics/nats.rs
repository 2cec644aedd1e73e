//! The metrics of a fan-out's ingest and of its edge.

use super::{
    Metric,
    MetricValue::{Counter, Gauge, GaugeSeconds},
    MetricsSource,
};
use crate::{
    Instant,
    fanout::nats::{EdgeHandle, IngestHandle},
};

impl MetricsSource for IngestHandle {
    fn metrics(&self, _now: Instant) -> Vec<Metric> {
        let counters = self.counters();
        vec![
            Metric::new(
                "wirestate_ingest_lease_held",
                "Whether this ingest holds the lease of the stream, and publishes.",
                Gauge(counters.epoch.is_some().into()),
            ),
            Metric::new(
                "wirestate_ingest_epoch",
                "The epoch of the messages published; 0 without the lease.",
                Gauge(counters.epoch.unwrap_or(0)),
            ),
            Metric::new("wirestate_ingest_epochs", "Epochs begun.", Counter(counters.epochs)),
            Metric::new(
                "wirestate_ingest_leases_lost",
                "How often the lease was lost.",
                Counter(counters.leases_lost),
            ),
            Metric::new(
                "wirestate_ingest_stream_sequence",
                "Sequence in the stream of the last acknowledged message.",
                Gauge(counters.sequence),
            ),
            Metric::new(
                "wirestate_ingest_messages_in_flight",
                "Messages published without an acknowledgement yet.",
                Gauge(counters.in_flight),
            ),
            Metric::new(
                "wirestate_ingest_resumed",
                "How often publishing resumed behind the last message of the stream.",
                Counter(counters.resumed),
            ),
            Metric::new(
                "wirestate_ingest_rejected_messages",
                "Messages dropped because the server refused their length.",
                Counter(counters.rejected),
            ),
        ]
    }
}

impl MetricsSource for EdgeHandle {
    fn metrics(&self, now: Instant) -> Vec<Metric> {
        let counters = self.counters();
        let behind = counters.behind_since.map(|since| now.since(since)).unwrap_or_default();
        vec![
            Metric::new(
                "wirestate_edge_reading",
                "Whether the stream is read at present.",
                Gauge(counters.is_reading.into()),
            ),
            Metric::new(
                "wirestate_edge_consumers",
                "How often the server made a consumer for this edge.",
                Counter(counters.consumers),
            ),
            Metric::new(
                "wirestate_edge_messages",
                "Messages received from the stream.",
                Counter(counters.messages),
            ),
            Metric::new(
                "wirestate_edge_stream_sequence",
                "Sequence in the stream of the last message.",
                Gauge(counters.sequence),
            ),
            Metric::new(
                "wirestate_edge_epoch",
                "The epoch of the last message; 0 without one.",
                Gauge(counters.epoch.unwrap_or(0)),
            ),
            Metric::new(
                "wirestate_edge_gaps",
                "How often messages may be missing.",
                Counter(counters.gaps),
            ),
            Metric::new(
                "wirestate_edge_missing_messages",
                "Messages missing, as far as their number is known.",
                Counter(counters.missing),
            ),
            Metric::new(
                "wirestate_edge_rejected_messages",
                "Messages dropped because they are no whole messages of --frame.",
                Counter(counters.rejected),
            ),
            Metric::new(
                "wirestate_edge_lag_messages",
                "Messages of the stream behind the last one, when the server sent it.",
                Gauge(counters.pending),
            ),
            Metric::new(
                "wirestate_edge_lag_seconds",
                "Time since everything in the stream was received.",
                GaugeSeconds(behind),
            ),
        ]
    }
}
