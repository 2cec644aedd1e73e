//! A metric as plain data: the types. The names are in `server`, `fanout`, `message` and `proxy`.

use core::time::Duration;
use std::{borrow::Cow, collections::BTreeMap};

use prometheus_client::metrics::MetricType;

/// One metric: something that is counted or measured.
///
/// Never use a client's address as a label. Prometheus keeps one time series for each value of a
/// label. Clients belong in the log and in the list of connections.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// The name, in base units and with the unit at its end (`wirestate_fanout_latency_seconds`),
    /// by Prometheus' convention. The exposition appends `_total` for a counter and `_info` for an
    /// info.
    pub name: &'static str,
    /// What it measures, in one line.
    pub help: &'static str,
    /// The value now.
    pub value: MetricValue,
}

impl Metric {
    /// A metric of these parts.
    pub const fn new(name: &'static str, help: &'static str, value: MetricValue) -> Self {
        Self { name, help, value }
    }
}

/// The value of a [`Metric`], which is also its type.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum MetricValue {
    /// A count that only grows.
    Counter(u64),
    /// A time that only grows. Exposed in seconds.
    CounterSeconds(Duration),
    /// Counts that only grow, one for each value of a label.
    Counters {
        /// The label's name.
        label: &'static str,
        /// The label's values, and the count of each.
        counts: Vec<(Cow<'static, str>, u64)>,
    },
    /// An amount that can grow and shrink.
    Gauge(u64),
    /// A time that can grow and shrink. Exposed in seconds.
    GaugeSeconds(Duration),
    /// Amounts that can grow and shrink, one for each value of a label.
    Gauges {
        /// The label's name.
        label: &'static str,
        /// The label's values, and the amount of each.
        amounts: Vec<(Cow<'static, str>, u64)>,
    },
    /// A distribution of times. Exposed in seconds.
    Histogram {
        /// The upper bounds of the buckets, ascending.
        bounds: Vec<Duration>,
        /// The number of measurements in each bucket. One more entry than `bounds`: the last one
        /// counts those above the last bound.
        counts: Vec<u64>,
        /// The sum of all times.
        sum: Duration,
    },
    /// Constants, as labels and their values.
    Info(Vec<(&'static str, String)>),
}

impl MetricValue {
    /// The Prometheus type, and the suffix of the samples' name.
    pub(super) fn kind(&self) -> (MetricType, &'static str) {
        match self {
            Self::Counter(_) | Self::CounterSeconds(_) | Self::Counters { .. } => {
                (MetricType::Counter, "_total")
            }
            Self::Gauge(_) | Self::GaugeSeconds(_) | Self::Gauges { .. } => (MetricType::Gauge, ""),
            Self::Histogram { .. } => (MetricType::Histogram, ""),
            Self::Info(_) => (MetricType::Info, "_info"),
        }
    }
}

/// Counts that only grow, one for each reason.
pub(super) fn by_reason(counts: BTreeMap<&'static str, u64>) -> MetricValue {
    let counts = counts.into_iter().map(|(reason, count)| (reason.into(), count)).collect();
    MetricValue::Counters { label: "reason", counts }
}
