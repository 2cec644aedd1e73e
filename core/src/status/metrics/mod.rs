//! The metrics: their names, their help texts, and the formats for Prometheus.
//!
//! | file | metrics |
//! |---|---|
//! | `server` | of the process, of every server (`wirestate_connections_…`), of the status server |
//! | `fanout` | `wirestate_upstream_…`, `wirestate_fanout_…` |
//! | `message` | `wirestate_requests`, `wirestate_content_bytes` |
//! | `nats` | `wirestate_ingest_…`, `wirestate_edge_…` |
//! | `proxy` | `wirestate_proxy_upstream_…`, `wirestate_proxy_faults_…` |
//!
//! Each metric of a service has the label `server`, with the service's name. Metrics of the process
//! and of the status server do not have it. The command line adds the metrics of its log. The file
//! `value` has the types, `family` groups metrics by their names, and `exposition` has Prometheus'
//! text formats.

mod exposition;
mod family;
mod fanout;
#[cfg(feature = "message")]
mod message;
#[cfg(feature = "nats")]
mod nats;
mod proxy;
mod server;
mod value;

use core::fmt::Debug;

pub use self::value::{Metric, MetricValue};
pub(super) use self::{
    exposition::{Exposition, expose},
    family::Families,
    server::{Traffic, VERSION, all},
};
use super::Link;
use crate::Instant;

/// A server with metrics beyond those of its table of connections, or a process with metrics.
///
/// The status server calls it at each request for `/` and `/metrics`. So it must return quickly,
/// and return a bounded number of metrics.
pub trait MetricsSource: Debug + Send + Sync + 'static {
    /// The metrics at `now`, a time of the runtime's clock.
    fn metrics(&self, now: Instant) -> Vec<Metric>;

    /// The server's connections to others at `now`, for the page `/`. Default: none.
    fn links(&self, _now: Instant) -> Vec<Link> {
        Vec::new()
    }
}
