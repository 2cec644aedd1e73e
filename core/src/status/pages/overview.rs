//! The page `/`: the server's name, state and counts, in JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    super::{
        http::Response,
        metrics::{Metric, MetricValue, Traffic, VERSION},
        state::ServerState,
    },
    json::{self, seconds},
};
use crate::Instant;

#[derive(Serialize)]
struct Overview {
    message: String,
    server: &'static str,
    version: &'static str,
    state: &'static str,
    uptime_seconds: f64,
    connections: ConnectionCounts,
    bytes: Traffic,
    /// The metrics of the server's [`MetricsSource`](crate::status::MetricsSource), by name.
    figures: Map<String, Value>,
}

#[derive(Serialize)]
struct ConnectionCounts {
    open: u64,
    limit: usize,
    accepted: u64,
    refused: BTreeMap<&'static str, u64>,
    ended: BTreeMap<&'static str, u64>,
    accept_failures: BTreeMap<&'static str, u64>,
}

pub(super) fn respond(server: &ServerState, now: Instant) -> Response {
    let name = server.config.name;
    let state = server.state();
    let message = match state {
        "accepting" => format!("{name} is accepting connections"),
        state => format!("{name} is {state}"),
    };
    let snapshot = server.service.table().snapshot();
    let traffic = Traffic::new(&snapshot);
    let totals = snapshot.totals;
    json::respond(&Overview {
        message,
        server: name,
        version: VERSION,
        state,
        uptime_seconds: seconds(now.since(server.started)),
        connections: ConnectionCounts {
            open: totals.open,
            limit: server.service.table().limits().connections,
            accepted: totals.accepted,
            refused: totals.refused,
            ended: totals.ended,
            accept_failures: totals.accept_failures,
        },
        bytes: traffic,
        figures: server.service_metrics().into_iter().filter_map(figure).collect(),
    })
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
