//! The metrics of a proxy: for each upstream, and of the faults that it injects.

use super::{Metric, MetricValue, MetricsSource};
use crate::{
    Instant,
    faults::{Injector, Kind},
    proxy::{EndpointCounters, Side, UpstreamCounters, Upstreams},
};

/// One time series per upstream that is configured, and one per address of a name: at most 64 for
/// each upstream.
impl MetricsSource for Upstreams {
    fn metrics(&self, _now: Instant) -> Vec<Metric> {
        let counters = self.counters();
        let by_upstream = |count: fn(&UpstreamCounters) -> u64| {
            let amount = |of: &UpstreamCounters| (of.address.to_string().into(), count(of));
            counters.iter().map(amount).collect::<Vec<_>>()
        };
        let by_address = |amount: fn(&EndpointCounters) -> u64| {
            let named = counters.iter().flat_map(|of| of.endpoints.iter().map(move |it| (of, it)));
            let named = named.filter(|(of, endpoint)| of.address != endpoint.address);
            let amount = |(of, endpoint): (&UpstreamCounters, &EndpointCounters)| {
                (format!("{} {}", of.address, endpoint.address).into(), amount(endpoint))
            };
            MetricValue::Gauges { label: "address", amounts: named.map(amount).collect() }
        };
        let label = "upstream";
        let counter = |count| MetricValue::Counters { label, counts: by_upstream(count) };
        let gauge = |amount| MetricValue::Gauges { label, amounts: by_upstream(amount) };
        let mut metrics = vec![
            Metric::new(
                "wirestate_proxy_upstream_up",
                "1 while an address of the upstream is up; it is down from a failure to a success.",
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
                "wirestate_proxy_upstream_check_failures",
                "Health checks of the upstream that failed.",
                counter(|upstream| upstream.check_failures),
            ),
            Metric::new(
                "wirestate_proxy_upstream_lookup_failures",
                "Lookups of the upstream's name that failed.",
                counter(|upstream| upstream.lookup_failures),
            ),
            Metric::new(
                "wirestate_proxy_upstream_connections",
                "Connections that are open or being opened.",
                gauge(|upstream| upstream.open),
            ),
            Metric::new(
                "wirestate_proxy_upstream_backup",
                "1 if the upstream is used only while no other one is available, otherwise 0.",
                gauge(|upstream| upstream.is_backup.into()),
            ),
        ];
        if counters.iter().any(|of| of.endpoints.iter().any(|it| it.address != of.address)) {
            metrics.extend([
                Metric::new(
                    "wirestate_proxy_address_up",
                    "1 while this address of an upstream's name is up, otherwise 0.",
                    by_address(|endpoint| endpoint.up.into()),
                ),
                Metric::new(
                    "wirestate_proxy_address_connections",
                    "Connections to this address of a name that are open or being opened.",
                    by_address(|endpoint| endpoint.open),
                ),
            ]);
        }
        metrics
    }
}

/// One time series for each kind of fault and direction.
impl MetricsSource for Injector {
    fn metrics(&self, _now: Instant) -> Vec<Metric> {
        let counters = |to| {
            let count = |kind: Kind| (kind.label().into(), self.counted(to, kind));
            MetricValue::Counters { label: "fault", counts: Kind::ALL.map(count).into() }
        };
        vec![
            Metric::new(
                "wirestate_proxy_faults_to_client",
                "Connections on which this fault has struck bytes to the client.",
                counters(Side::Client),
            ),
            Metric::new(
                "wirestate_proxy_faults_to_upstream",
                "Connections on which this fault has struck bytes to the upstream.",
                counters(Side::Upstream),
            ),
        ]
    }
}
