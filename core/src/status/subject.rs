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
pub trait MetricsSource: Debug + Send + Sync + 'static {
    /// What it counts.
    fn metrics(&self) -> Vec<Metric>;
}

impl MetricsSource for Feed {
    fn metrics(&self) -> Vec<Metric> {
        let counters = self.counters();
        vec![
            Metric::new("wirestate_upstream_up", Value::Gauge(counters.upstream_up.into()))
                .help("Whether the upstream is connected."),
            Metric::new("wirestate_upstream_connects", Value::Counter(counters.upstream_connects))
                .help("Connections made to the upstream; all but the first are reconnects."),
            Metric::new("wirestate_upstream_failures", Value::Counter(counters.upstream_failures))
                .help("Attempts to connect to the upstream that failed."),
            Metric::new("wirestate_upstream_ended", by_reason(counters.upstream_ended))
                .help("Connections to the upstream ended, by reason."),
            Metric::new("wirestate_upstream_messages", Value::Counter(counters.messages_in))
                .help("Messages received from the upstream, whole."),
            Metric::new("wirestate_upstream_bytes", Value::Counter(counters.bytes_in))
                .help("Bytes of messages received from the upstream."),
            Metric::new(
                "wirestate_upstream_tail_dropped_bytes",
                Value::Counter(counters.tail_bytes_dropped),
            )
            .help("Bytes of messages that the upstream's end cut short."),
            Metric::new("wirestate_upstream_held_seconds", Value::CounterSeconds(counters.held))
                .help("How long the upstream was not read from because of subscribers."),
            Metric::new(
                "wirestate_upstream_held_waiting_seconds",
                Value::CounterSeconds(counters.held_waiting),
            )
            .help("For how long of that time a subscriber waited: limited by --lag-wait."),
            Metric::new("wirestate_fanout_subscribers", Value::Gauge(counters.subscribers))
                .help("Subscribers now."),
            Metric::new("wirestate_fanout_lag_messages", Value::Gauge(counters.lag))
                .help("How many messages the slowest subscriber is behind."),
            Metric::new("wirestate_fanout_delivered_messages", Value::Counter(counters.delivered))
                .help("Messages delivered, to all subscribers together."),
            Metric::new("wirestate_fanout_skipped_messages", Value::Counter(counters.skipped))
                .help("Messages that subscribers missed because they lagged (--on-lag skip)."),
            Metric::new("wirestate_fanout_lagged_subscribers", Value::Counter(counters.lagged))
                .help(
                    "Subscribers that were disconnected because they lagged (--on-lag disconnect).",
                ),
            Metric::new(
                "wirestate_fanout_never_caught_up",
                Value::Counter(counters.never_caught_up),
            )
            .help("Times that a subscriber lagged without having caught up: not waited for."),
            Metric::new(
                "wirestate_fanout_latency_seconds",
                Value::Histogram {
                    bounds: LATENCY_BOUNDS.to_vec(),
                    counts: counters.latency.to_vec(),
                    sum: counters.latency_sum,
                },
            )
            .help("From the last byte in from the upstream to the last byte out to a subscriber."),
        ]
    }
}

#[cfg(feature = "message")]
impl<S> MetricsSource for crate::message::Server<S>
where
    S: Debug + Send + Sync + 'static,
{
    fn metrics(&self) -> Vec<Metric> {
        vec![
            Metric::new("wirestate_requests", Value::Counter(self.requests()))
                .help("Requests passed to the service."),
            Metric::new("wirestate_content_bytes", Value::Gauge(self.memory() as u64))
                .help("Bytes of large contents that are held."),
        ]
    }
}

/// By upstream: they are configured, so they are few.
impl MetricsSource for Upstreams {
    fn metrics(&self) -> Vec<Metric> {
        let counters = self.counters();
        let by_upstream = |count: fn(&UpstreamCounters) -> u64| {
            let amount = |of: &UpstreamCounters| (of.address.to_string().into(), count(of));
            counters.iter().map(amount).collect::<Vec<_>>()
        };
        let label = "upstream";
        let counter = |count| Value::Counters { label, counts: by_upstream(count) };
        let gauge = |amount| Value::Gauges { label, amounts: by_upstream(amount) };
        vec![
            Metric::new("wirestate_proxy_upstream_up", gauge(|upstream| upstream.up.into()))
                .help("Whether it has not failed since it was last of use."),
            Metric::new("wirestate_proxy_upstream_connects", counter(|upstream| upstream.connects))
                .help("Connections made."),
            Metric::new("wirestate_proxy_upstream_failures", counter(|upstream| upstream.failures))
                .help("Attempts to connect that failed, and connections that it ended early."),
            Metric::new("wirestate_proxy_upstream_connections", gauge(|upstream| upstream.open))
                .help("Connections that are open or being made."),
        ]
    }
}
