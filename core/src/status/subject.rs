//! What servers have to say beyond their tables of connections.

use std::fmt::Debug;

use super::{Metric, Value, metric::by_reason};
use crate::{
    fanout::{Feed, LATENCY_BOUNDS},
    proxy::{UpstreamCounters, Upstreams},
};

/// A server that has more to say than what its table of connections counts.
///
/// It is asked at each request for `/` and `/metrics`, so it is to answer at once, and with a
/// bounded number of metrics.
pub trait Subject: Debug + Send + Sync + 'static {
    /// What it counts.
    fn metrics(&self) -> Vec<Metric>;
}

impl Subject for Feed {
    fn metrics(&self) -> Vec<Metric> {
        let counters = self.counters();
        vec![
            Metric::new(
                "wirestate_upstream_up",
                "Whether the upstream is connected.",
                Value::Gauge(counters.upstream_up.into()),
            ),
            Metric::new(
                "wirestate_upstream_connects",
                "Connections made to the upstream; all but the first are reconnects.",
                Value::Counter(counters.upstream_connects),
            ),
            Metric::new(
                "wirestate_upstream_failures",
                "Attempts to connect to the upstream that failed.",
                Value::Counter(counters.upstream_failures),
            ),
            Metric::new(
                "wirestate_upstream_ended",
                "Connections to the upstream ended, by reason.",
                by_reason(counters.upstream_ended),
            ),
            Metric::new(
                "wirestate_upstream_messages",
                "Messages received from the upstream, whole.",
                Value::Counter(counters.messages_in),
            ),
            Metric::new(
                "wirestate_upstream_bytes",
                "Bytes of messages received from the upstream.",
                Value::Counter(counters.bytes_in),
            ),
            Metric::new(
                "wirestate_upstream_tail_dropped_bytes",
                "Bytes of messages that the upstream's end cut short.",
                Value::Counter(counters.tail_bytes_dropped),
            ),
            Metric::new(
                "wirestate_upstream_held_seconds",
                "How long the upstream was not read from because of subscribers.",
                Value::CounterSeconds(counters.held),
            ),
            Metric::new(
                "wirestate_upstream_held_waiting_seconds",
                "For how long of that time a subscriber waited: limited by --lag-wait.",
                Value::CounterSeconds(counters.held_waiting),
            ),
            Metric::new(
                "wirestate_fanout_subscribers",
                "Subscribers now.",
                Value::Gauge(counters.subscribers),
            ),
            Metric::new(
                "wirestate_fanout_lag_messages",
                "How many messages the slowest subscriber is behind.",
                Value::Gauge(counters.lag),
            ),
            Metric::new(
                "wirestate_fanout_delivered_messages",
                "Messages delivered, to all subscribers together.",
                Value::Counter(counters.delivered),
            ),
            Metric::new(
                "wirestate_fanout_skipped_messages",
                "Messages that subscribers missed because they lagged (--on-lag skip).",
                Value::Counter(counters.skipped),
            ),
            Metric::new(
                "wirestate_fanout_lagged_subscribers",
                "Subscribers that were disconnected because they lagged (--on-lag disconnect).",
                Value::Counter(counters.lagged),
            ),
            Metric::new(
                "wirestate_fanout_never_caught_up",
                "Times that a subscriber lagged without having caught up: not waited for.",
                Value::Counter(counters.never_caught_up),
            ),
            Metric::new(
                "wirestate_fanout_latency_seconds",
                "From the last byte in from the upstream to the last byte out to a subscriber.",
                Value::Histogram {
                    bounds: LATENCY_BOUNDS.to_vec(),
                    counts: counters.latency.to_vec(),
                    sum: counters.latency_sum,
                },
            ),
        ]
    }
}

#[cfg(feature = "message")]
impl<S> Subject for crate::message::Server<S>
where
    S: Debug + Send + Sync + 'static,
{
    fn metrics(&self) -> Vec<Metric> {
        vec![
            Metric::new(
                "wirestate_requests",
                "Requests passed to the service.",
                Value::Counter(self.requests()),
            ),
            Metric::new(
                "wirestate_content_bytes",
                "Bytes of large contents that are held.",
                Value::Gauge(self.memory() as u64),
            ),
        ]
    }
}

/// By upstream: they are configured, so they are few.
impl Subject for Upstreams {
    fn metrics(&self) -> Vec<Metric> {
        let counters = self.counters();
        let by_upstream = |count: fn(&UpstreamCounters) -> u64| {
            let each = counters
                .iter()
                .map(|upstream| (upstream.address.to_string().into(), count(upstream)));
            each.collect::<Vec<_>>()
        };
        let label = "upstream";
        let counter = |count| Value::Counters { label, counts: by_upstream(count) };
        let gauge = |amount| Value::Gauges { label, amounts: by_upstream(amount) };
        vec![
            Metric::new(
                "wirestate_proxy_upstream_up",
                "Whether it has not failed since it was last of use.",
                gauge(|upstream| upstream.up.into()),
            ),
            Metric::new(
                "wirestate_proxy_upstream_connects",
                "Connections made.",
                counter(|upstream| upstream.connects),
            ),
            Metric::new(
                "wirestate_proxy_upstream_failures",
                "Attempts to connect that failed, and connections that it ended early.",
                counter(|upstream| upstream.failures),
            ),
            Metric::new(
                "wirestate_proxy_upstream_connections",
                "Connections that are open or being made.",
                gauge(|upstream| upstream.open),
            ),
        ]
    }
}
