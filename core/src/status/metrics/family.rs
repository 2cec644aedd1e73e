//! Metrics of several services, grouped by their names.

use prometheus_client::metrics::MetricType;

use super::{Metric, MetricValue};
use crate::shared::Shared;

/// Metrics, grouped by their names: a text format of Prometheus names each of them once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::status) struct Families(pub(super) Vec<Family>);

/// All metrics with one name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// The value for each service, or for the process.
    pub(super) values: Vec<(Option<Shared<str>>, MetricValue)>,
}

impl Families {
    /// Adds the metrics of the service called `server`, or of the process.
    pub(in crate::status) fn add(
        &mut self,
        server: Option<&Shared<str>>,
        metrics: impl IntoIterator<Item = Metric>,
    ) {
        for Metric { name, help, value } in metrics {
            let value = (server.cloned(), value);
            match self.0.iter_mut().find(|family| family.name == name) {
                Some(family) => family.values.push(value),
                None => self.0.push(Family { name, help, values: vec![value] }),
            }
        }
    }
}

impl Family {
    /// The Prometheus type, and the suffix of the samples' name.
    pub(super) fn kind(&self) -> (MetricType, &'static str) {
        let (_, value) = self.values.first().expect("a family has a value");
        value.kind()
    }
}
