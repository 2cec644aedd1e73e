//! The metrics of the process, of every server, and of the status server.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    super::{Service, rate_limiter::Refusals, state::ServerState},
    Families, Metric,
    MetricValue::{Counter, Gauge, GaugeSeconds, Info},
    value::by_reason,
};
use crate::{Instant, admission::Snapshot};

/// All metrics: those of the process, of its services and of the status server.
pub(in crate::status) fn all(server: &ServerState, now: Instant) -> Families {
    let mut families = Families::default();
    families.add(None, of_process(server, now));
    for service in server.services.list() {
        families.add(Some(service.name()), of_service(server, &service));
        families.add(Some(service.name()), service.metrics(now));
    }
    families.add(None, of_status(server));
    families.add(None, server.process_metrics(now));
    families
}

fn of_process(server: &ServerState, now: Instant) -> [Metric; 2] {
    let info = vec![("version", VERSION.to_string())];
    [
        Metric::new("wirestate_build", "The version.", Info(info)),
        Metric::new(
            "wirestate_uptime_seconds",
            "Time since the start.",
            GaugeSeconds(now.since(server.started)),
        ),
    ]
}

fn of_service(server: &ServerState, service: &Service) -> [Metric; 11] {
    let table = service.handle().table();
    let snapshot = table.snapshot();
    let traffic = Traffic::new(&snapshot);
    let totals = snapshot.totals;
    let limit = table.limits().connections as u64;
    [
        Metric::new(
            "wirestate_ready",
            "Whether connections are accepted and no shutdown is requested.",
            Gauge(server.is_ready(service).into()),
        ),
        Metric::new("wirestate_connections_open", "Open connections.", Gauge(totals.open)),
        Metric::new("wirestate_connections_limit", "Limit of open connections.", Gauge(limit)),
        Metric::new(
            "wirestate_connections_accepted",
            "Connections accepted.",
            Counter(totals.accepted),
        ),
        Metric::new(
            "wirestate_connections_refused",
            "Connections refused, by the limit that was reached, or denied.",
            by_reason(totals.refused),
        ),
        Metric::new(
            "wirestate_connections_ended",
            "Connections ended, by reason.",
            by_reason(totals.ended),
        ),
        Metric::new(
            "wirestate_accept_failures",
            "Failed accepts, by reason: connections that ended in the backlog (aborted), and \
             pauses in accepting (exhausted, no_task).",
            by_reason(totals.accept_failures),
        ),
        Metric::new(
            "wirestate_rate_waits",
            "Waits of bytes for a limit of bytes a second, by direction: from clients (receive), \
             and to them (send).",
            by_reason(totals.rate_waits),
        ),
        Metric::new(
            "wirestate_received_bytes",
            "Bytes received from clients.",
            Counter(traffic.received),
        ),
        Metric::new("wirestate_sent_bytes", "Bytes sent to clients.", Counter(traffic.sent)),
        Metric::new(
            "wirestate_queued_bytes",
            "Bytes that wait to be sent to clients.",
            Gauge(traffic.queued),
        ),
    ]
}

fn of_status(server: &ServerState) -> [Metric; 3] {
    let totals = server.own_handle.table().totals();
    let Refusals { in_progress, too_late } = server.pages.refusals();
    let pages_refused = BTreeMap::from([("in_progress", in_progress), ("too_late", too_late)]);
    [
        Metric::new(
            "wirestate_status_connections_refused",
            "Connections to the status server refused, by the limit that was reached.",
            by_reason(totals.refused),
        ),
        Metric::new(
            "wirestate_status_connections_ended",
            "Connections to the status server ended, by reason.",
            by_reason(totals.ended),
        ),
        Metric::new(
            "wirestate_status_pages_refused",
            "Pages answered by 503, by reason: 48 are in progress (in_progress), or the wait \
             exceeds 1 s (too_late).",
            by_reason(pages_refused),
        ),
    ]
}

/// The bytes of a server's connections.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(in crate::status) struct Traffic {
    received: u64,
    sent: u64,
    /// Bytes that wait to be sent.
    queued: u64,
}

impl Traffic {
    /// The bytes of all connections, the ended ones included.
    pub(in crate::status) fn new(snapshot: &Snapshot) -> Self {
        let Snapshot { totals, connections } = snapshot;
        let mut traffic =
            Self { received: totals.bytes_received, sent: totals.bytes_sent, queued: 0 };
        for connection in connections {
            traffic.received += connection.bytes_received();
            traffic.sent += connection.bytes_sent();
            traffic.queued += connection.status().queued as u64;
        }
        traffic
    }
}

/// The version of this crate.
pub(in crate::status) const VERSION: &str = env!("CARGO_PKG_VERSION");
