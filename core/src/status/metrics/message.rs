//! The metrics of a message server.

use core::fmt::Debug;

use super::{Metric, MetricValue, MetricsSource};
use crate::{Instant, message::Server};

impl<S> MetricsSource for Server<S>
where
    S: Debug + Send + Sync + 'static,
{
    fn metrics(&self, _now: Instant) -> Vec<Metric> {
        vec![
            Metric::new(
                "wirestate_requests",
                "Requests passed to the service.",
                MetricValue::Counter(self.requests()),
            ),
            Metric::new(
                "wirestate_content_bytes",
                "Memory reserved for large contents.",
                MetricValue::Gauge(self.memory() as u64),
            ),
        ]
    }
}
