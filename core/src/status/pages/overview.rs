//! The page `/`: the state and the counts of the servers, in JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    super::{
        Service,
        http::Response,
        metrics::{Metric, MetricValue, Traffic, VERSION},
        state::ServerState,
    },
    connections::state,
    json::{self, seconds},
    message,
};
use crate::Instant;

#[derive(Serialize)]
struct Overview<'a> {
    message: String,
    version: &'static str,
    /// As `/readyz` says.
    ready: bool,
    uptime_seconds: f64,
    servers: Vec<ServerOverview<'a>>,
    /// The metrics of the process' [`MetricsSource`](crate::status::MetricsSource), by name.
    figures: Map<String, Value>,
}

#[derive(Serialize)]
struct ServerOverview<'a> {
    name: &'a str,
    state: &'static str,
    connections: ConnectionCounts,
    bytes: Traffic,
    /// The metrics of the server's [`MetricsSource`](crate::status::MetricsSource), by name.
    figures: Map<String, Value>,
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
        uptime_seconds: seconds(now.since(server.started)),
        servers: services.iter().map(|service| ServerOverview::new(server, service)).collect(),
        figures: server.process_metrics().into_iter().filter_map(figure).collect(),
    })
}

impl<'a> ServerOverview<'a> {
    fn new(server: &ServerState, service: &'a Service) -> Self {
        let table = service.handle().table();
        let snapshot = table.snapshot();
        let bytes = Traffic::new(&snapshot);
        let mut states = BTreeMap::new();
        for connection in &snapshot.connections {
            *states.entry(state(connection.status())).or_default() += 1;
        }
        let totals = snapshot.totals;
        Self {
            name: service.name(),
            state: server.state(service),
            connections: ConnectionCounts {
                open: totals.open,
                limit: table.limits().connections,
                states,
                accepted: totals.accepted,
                refused: totals.refused,
                ended: totals.ended,
                accept_failures: totals.accept_failures,
            },
            bytes,
            figures: service.metrics().into_iter().filter_map(figure).collect(),
        }
    }
}

/// A metric's name and value; `None` for a histogram or an info, which only `/metrics` shows.
fn figure(metric: Metric) -> Option<(String, Value)> {
    let value = match metric.value {
        MetricValue::Counter(count) | MetricValue::Gauge(count) => json!(count),
        MetricValue::CounterSeconds(time) | MetricValue::GaugeSeconds(time) => json!(seconds(time)),
        MetricValue::Counters { counts: values, .. }
        | MetricValue::Gauges { amounts: values, .. } => json!(BTreeMap::from_iter(values)),
        MetricValue::Histogram { .. } | MetricValue::Info(_) => return None,
    };
    Some((metric.name.into(), value))
}
