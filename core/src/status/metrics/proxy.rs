//! The metrics of a proxy, for each upstream.

use super::{Metric, MetricValue, MetricsSource};
use crate::{
    Instant,
    proxy::{UpstreamCounters, Upstreams},
};

/// One time series per upstream. Upstreams are configured, so there are few.
impl MetricsSource for Upstreams {
    fn metrics(&self, _now: Instant) -> Vec<Metric> {
        let counters = self.counters();
        let by_upstream = |count: fn(&UpstreamCounters) -> u64| {
            let amount = |of: &UpstreamCounters| (of.address.to_string().into(), count(of));
            counters.iter().map(amount).collect::<Vec<_>>()
        };
        let label = "upstream";
        let counter = |count| MetricValue::Counters { label, counts: by_upstream(count) };
        let gauge = |amount| MetricValue::Gauges { label, amounts: by_upstream(amount) };
        vec![
            Metric::new(
                "wirestate_proxy_upstream_up",
                "0 from a failed connection to the next successful one, otherwise 1.",
                gauge(|upstream| upstream.up.into()),
            ),
            Metric::new(
                "wirestate_proxy_upstream_connects",
                "Connections made to the upstream.",
                counter(|upstream| upstream.connects),
            ),
            Metric::new(
                "wirestate_proxy_upstream_failures",
                "Failed attempts to connect, and connections that the upstream ended early.",
                counter(|upstream| upstream.failures),
            ),
            Metric::new(
                "wirestate_proxy_upstream_connections",
                "Connections that are open or being opened.",
                gauge(|upstream| upstream.open),
            ),
        ]
    }
}
