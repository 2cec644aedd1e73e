//! The page `/`: the state and the counts of the servers, in JSON.

use core::{cmp::Reverse, time::Duration};
use std::{borrow::Cow, collections::BTreeMap};

use serde::Serialize;

use super::{
    super::{
        Link, Service,
        http::Response,
        metrics::{Metric, MetricValue, Traffic, VERSION},
        state::ServerState,
    },
    connections::{Row, state},
    json::{self, seconds},
    message,
};
use crate::{Instant, shared::Shared};

#[derive(Serialize)]
struct Overview<'a> {
    message: String,
    version: &'static str,
    /// As `/readyz` says.
    ready: bool,
    #[serde(rename = "uptime_seconds", serialize_with = "seconds")]
    uptime: Duration,
    servers: Vec<ServerOverview<'a>>,
    /// The metrics of the process' [`MetricsSource`](crate::status::MetricsSource), by name.
    figures: BTreeMap<&'static str, Figure>,
}

#[derive(Serialize)]
struct ServerOverview<'a> {
    name: &'a str,
    state: &'static str,
    connections: ConnectionCounts,
    bytes: Traffic,
    /// The server's connections to others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    links: Vec<Link>,
    /// Those of the open connections that lag most, at most [`MAX_LAGGING`].
    lagging: Vec<Row<'a>>,
    /// The metrics of the server's [`MetricsSource`](crate::status::MetricsSource), by name.
    figures: BTreeMap<&'static str, Figure>,
}

#[derive(Serialize)]
struct ConnectionCounts {
    open: u64,
    limit: usize,
    /// The number of open connections in each state.
    states: BTreeMap<&'static str, u64>,
    accepted: u64,
    refused: BTreeMap<&'static str, u64>,
    ended: BTreeMap<&'static str, u64>,
    accept_failures: BTreeMap<&'static str, u64>,
}

pub(super) fn respond(server: &ServerState, now: Instant) -> Response {
    let services = server.services.list();
    json::respond(&Overview {
        message: message(server, &services),
        version: VERSION,
        ready: server.are_ready(&services),
        uptime: now.since(server.started),
        servers: services.iter().map(|service| ServerOverview::new(server, service, now)).collect(),
        figures: figures(server.process_metrics(now)),
    })
}

impl<'a> ServerOverview<'a> {
    fn new(server: &ServerState, service: &'a Service, now: Instant) -> Self {
        let table = service.handle().table();
        let snapshot = table.snapshot();
        let bytes = Traffic::new(&snapshot);
        let (mut by_state, mut lagging) = (BTreeMap::new(), Vec::new());
        for connection in &snapshot.connections {
            let status = connection.status();
            *by_state.entry(state(status)).or_default() += 1;
            if status.lag > 0 {
                lagging.push((status.lag, connection));
            }
        }
        lagging.sort_by_key(|(lag, _)| Reverse(*lag));
        lagging.truncate(MAX_LAGGING);
        let row = |(_, connection): (u64, &Shared<_>)| Row::new(service, connection, now);
        let totals = snapshot.totals;
        Self {
            name: service.name(),
            state: server.state(service),
            connections: ConnectionCounts {
                open: totals.open,
                limit: table.limits().connections,
                states: by_state,
                accepted: totals.accepted,
                refused: totals.refused,
                ended: totals.ended,
                accept_failures: totals.accept_failures,
            },
            bytes,
            links: service.links(now),
            lagging: lagging.into_iter().map(row).collect(),
            figures: figures(service.metrics(now)),
        }
    }
}

/// The value of a metric.
#[derive(Serialize)]
#[serde(untagged)]
enum Figure {
    Amount(u64),
    Time(#[serde(serialize_with = "seconds")] Duration),
    /// By the values of a label.
    Amounts(BTreeMap<Cow<'static, str>, u64>),
}

/// The metrics by name, without histograms and infos, which only `/metrics` shows.
fn figures(metrics: Vec<Metric>) -> BTreeMap<&'static str, Figure> {
    let figure = |Metric { name, value, .. }| {
        let figure = match value {
            MetricValue::Counter(count) | MetricValue::Gauge(count) => Figure::Amount(count),
            MetricValue::CounterSeconds(time) | MetricValue::GaugeSeconds(time) => {
                Figure::Time(time)
            }
            MetricValue::Counters { counts: amounts, .. } | MetricValue::Gauges { amounts, .. } => {
                Figure::Amounts(amounts.into_iter().collect())
            }
            MetricValue::Histogram { .. } | MetricValue::Info(_) => return None,
        };
        Some((name, figure))
    };
    metrics.into_iter().filter_map(figure).collect()
}

/// The most connections in [`ServerOverview::lagging`].
const MAX_LAGGING: usize = 5;
