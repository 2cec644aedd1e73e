//! The metrics of a fan-out: of its upstream, its subscribers and its latency.

use super::{
    Metric,
    MetricValue::{Counter, CounterSeconds, Gauge, GaugeSeconds, Histogram},
    MetricsSource,
    value::by_reason,
};
use crate::{
    Instant,
    fanout::{Counters, Feed, LATENCY_BOUNDS},
};

impl MetricsSource for Feed {
    fn metrics(&self, now: Instant) -> Vec<Metric> {
        let counters = self.counters();
        [upstream(&counters), subscribers(&counters), readers(&counters, now)].concat()
    }
}

fn upstream(counters: &Counters) -> Vec<Metric> {
    vec![
        Metric::new(
            "wirestate_upstream_up",
            "Whether the upstream is connected.",
            Gauge(counters.upstream_up.into()),
        ),
        Metric::new(
            "wirestate_upstream_connects",
            "Connections made to the upstream, the first one and reconnects.",
            Counter(counters.upstream_connects),
        ),
        Metric::new(
            "wirestate_upstream_failures",
            "Attempts to connect to the upstream that failed.",
            Counter(counters.upstream_failures),
        ),
        Metric::new(
            "wirestate_upstream_ended",
            "Connections to the upstream ended, by reason.",
            by_reason(counters.upstream_ended.clone()),
        ),
        Metric::new(
            "wirestate_upstream_messages",
            "Whole messages received from the upstream.",
            Counter(counters.messages_in),
        ),
        Metric::new(
            "wirestate_upstream_bytes",
            "Bytes of messages received from the upstream.",
            Counter(counters.bytes_received),
        ),
        Metric::new(
            "wirestate_upstream_tail_dropped_bytes",
            "Bytes of incomplete messages, discarded at the end of an upstream connection.",
            Counter(counters.tail_bytes_dropped),
        ),
        Metric::new(
            "wirestate_upstream_paused_seconds",
            "Time for which the upstream was paused because subscribers lagged.",
            CounterSeconds(counters.paused),
        ),
        Metric::new(
            "wirestate_upstream_paused_waiting_seconds",
            "Part of wirestate_upstream_paused_seconds in which a subscriber waited for data \
             (--lag-wait).",
            CounterSeconds(counters.paused_waiting),
        ),
        Metric::new(
            "wirestate_upstream_paused_readers_seconds",
            "Part of wirestate_upstream_paused_seconds that was because of a reader that is no \
             subscriber.",
            CounterSeconds(counters.paused_for_readers),
        ),
        Metric::new(
            "wirestate_fanout_publishers",
            "Connected publishers (--publishers).",
            Gauge(counters.publishers),
        ),
        Metric::new(
            "wirestate_fanout_epochs",
            "Epochs begun after the first one: messages may be missing before each.",
            Counter(counters.epoch),
        ),
    ]
}

fn subscribers(counters: &Counters) -> Vec<Metric> {
    vec![
        Metric::new(
            "wirestate_fanout_subscribers",
            "Connected subscribers.",
            Gauge(counters.subscribers),
        ),
        Metric::new(
            "wirestate_fanout_lag_messages",
            "Messages that the slowest subscriber is behind.",
            Gauge(counters.lag),
        ),
        Metric::new(
            "wirestate_fanout_delivered_messages",
            "Messages delivered to all subscribers together.",
            Counter(counters.delivered),
        ),
        Metric::new(
            "wirestate_fanout_skipped_messages",
            "Messages skipped for subscribers that lagged (--on-lag skip).",
            Counter(counters.skipped),
        ),
        Metric::new(
            "wirestate_fanout_lagged_subscribers",
            "Subscribers disconnected because they lagged (--on-lag disconnect).",
            Counter(counters.lagged),
        ),
        Metric::new(
            "wirestate_fanout_never_caught_up",
            "Times that the upstream was not paused for a subscriber that lagged, because the \
             subscriber had not caught up.",
            Counter(counters.never_caught_up),
        ),
        Metric::new(
            "wirestate_fanout_gap_ended_subscribers",
            "Subscribers disconnected because an epoch began (--on-gap disconnect).",
            Counter(counters.gap_ended),
        ),
        Metric::new(
            "wirestate_fanout_latency_seconds",
            "Time from the last byte received from the upstream to the last byte sent to a \
             subscriber.",
            Histogram {
                bounds: LATENCY_BOUNDS.to_vec(),
                counts: counters.latency.to_vec(),
                sum: counters.latency_sum,
            },
        ),
    ]
}

/// The metrics of readers that are no subscribers.
fn readers(counters: &Counters, now: Instant) -> Vec<Metric> {
    let lag = counters.reader_oldest.map(|oldest| now.since(oldest)).unwrap_or_default();
    vec![
        Metric::new(
            "wirestate_fanout_readers",
            "Readers of the feed that are no subscribers.",
            Gauge(counters.readers),
        ),
        Metric::new(
            "wirestate_fanout_reader_lag_messages",
            "Messages that the slowest reader has not acknowledged.",
            Gauge(counters.reader_lag),
        ),
        Metric::new(
            "wirestate_fanout_reader_lag_seconds",
            "Age of the oldest message that the slowest reader has not acknowledged.",
            GaugeSeconds(lag),
        ),
        Metric::new(
            "wirestate_fanout_reader_acknowledged_messages",
            "Messages that readers acknowledged.",
            Counter(counters.reader_acknowledged),
        ),
        Metric::new(
            "wirestate_fanout_reader_skipped_messages",
            "Messages that readers skipped.",
            Counter(counters.reader_skipped),
        ),
    ]
}
