//! What is counted, as plain data, and how Prometheus reads it.

use core::{fmt, time::Duration};
use std::{borrow::Cow, collections::BTreeMap};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::MetricType,
    registry::Registry,
};

use super::page::Exposition;

/// One thing that is counted or measured.
///
/// Who a client is belongs into the log and the list of connections, never into a label: each value
/// of a label is a series that Prometheus keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name, in base units and with the unit at its end, as Prometheus wants names
    /// (`wirestate_fanout_latency_seconds`). A counter's gets `_total` behind it, an info's `_info`.
    pub name: &'static str,
    /// What it is: one line.
    pub help: &'static str,
    /// How much it is.
    pub value: Value,
}

impl Metric {
    /// So much of `name`, with an empty [`help`](Self::help()).
    pub const fn new(name: &'static str, value: Value) -> Self {
        Self { name, help: "", value }
    }

    /// The same with a help text, which is one line.
    pub fn help(self, help: &'static str) -> Self {
        Self { help, ..self }
    }
}

/// How much a [`Metric`] is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A count that only grows.
    Counter(u64),
    /// A time that only grows; seconds.
    CounterSeconds(Duration),
    /// Counts that only grow, by the value of one label.
    Counters {
        /// The label.
        label: &'static str,
        /// A count for each of its values.
        counts: Vec<(Cow<'static, str>, u64)>,
    },
    /// An amount that comes and goes.
    Gauge(u64),
    /// A time that comes and goes; seconds.
    GaugeSeconds(Duration),
    /// Amounts that come and go, by the value of one label.
    Gauges {
        /// The label.
        label: &'static str,
        /// An amount for each of its values.
        amounts: Vec<(Cow<'static, str>, u64)>,
    },
    /// How many times something took how long; seconds.
    Histogram {
        /// The upper bounds of the buckets, ascending.
        bounds: Vec<Duration>,
        /// How many fell below the bound of the same place and not below one before; the last count
        /// is of those beyond the last bound.
        counts: Vec<u64>,
        /// How long all of them took together.
        sum: Duration,
    },
    /// What does not change, as labels.
    Info(Vec<(&'static str, String)>),
}

impl Value {
    /// Its type, and what that puts behind the name of a sample.
    fn kind(&self) -> (MetricType, &'static str) {
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

/// Counts that only grow, by the reason for what is counted.
pub(super) fn by_reason(counts: BTreeMap<&'static str, u64>) -> Value {
    let counts = counts.into_iter().map(|(reason, count)| (reason.into(), count)).collect();
    Value::Counters { label: "reason", counts }
}

/// Writes `metrics` down for Prometheus.
pub(super) fn expose(metrics: Vec<Metric>, exposition: Exposition) -> String {
    let suffixes = metrics.iter().map(|metric| (metric.name, metric.value.kind().1)).collect();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Metrics(metrics)));
    let mut open_metrics = String::new();
    text::encode(&mut open_metrics, &registry).expect("a string takes all that fits the memory");
    match exposition {
        Exposition::OpenMetrics => open_metrics,
        Exposition::Text => {
            open_metrics.lines().filter_map(|line| older(line, &suffixes)).collect()
        }
    }
}

/// A line of `OpenMetrics` as Prometheus' older text format (version 0.0.4) has it. There, what is
/// said of a metric is said of the name that its samples have, with `_total` or `_info`; there is
/// no type `info`, and no mark of the end.
fn older(line: &str, suffixes: &BTreeMap<&str, &str>) -> Option<String> {
    let Some(comment) = line.strip_prefix("# ") else { return Some(format!("{line}\n")) };
    let (keyword, rest) = comment.split_once(' ')?;
    let (name, rest) = rest.split_once(' ')?;
    let suffix = suffixes.get(name).unwrap_or(&"");
    let rest = if (keyword, rest) == ("TYPE", "info") { "gauge" } else { rest };
    Some(format!("# {keyword} {name}{suffix} {rest}\n"))
}

#[derive(Debug)]
struct Metrics(Vec<Metric>);

/// No labels.
type Unlabelled = [(&'static str, &'static str); 0];

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Metric { name, help, value } in &self.0 {
            let mut metric = encoder.encode_descriptor(name, help, None, value.kind().0)?;
            match value {
                Value::Counter(count) => {
                    metric.encode_counter::<Unlabelled, _, u64>(count, None)?;
                }
                Value::CounterSeconds(time) => {
                    metric.encode_counter::<Unlabelled, _, u64>(&time.as_secs_f64(), None)?;
                }
                Value::Counters { label, counts } => {
                    for (value, count) in counts {
                        let labels = [(*label, &**value)];
                        let mut family = metric.encode_family(&labels)?;
                        family.encode_counter::<Unlabelled, _, u64>(count, None)?;
                    }
                }
                Value::Gauge(amount) => metric.encode_gauge(amount)?,
                Value::GaugeSeconds(time) => metric.encode_gauge(&time.as_secs_f64())?,
                Value::Gauges { label, amounts } => {
                    for (value, amount) in amounts {
                        let labels = [(*label, &**value)];
                        metric.encode_family(&labels)?.encode_gauge(amount)?;
                    }
                }
                Value::Histogram { bounds, counts, sum } => {
                    let bounds = bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
                    let buckets: Vec<_> = bounds.zip(counts.iter().copied()).collect();
                    let (sum, count) = (sum.as_secs_f64(), counts.iter().sum());
                    metric.encode_histogram::<Unlabelled>(sum, count, &buckets, None)?;
                }
                Value::Info(labels) => metric.encode_info(labels)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same_each_in_its_way() {
        let metrics = vec![
            Metric { name: "wirestate_a", help: "A.", value: Value::Counter(3) },
            Metric {
                name: "wirestate_b_seconds",
                help: "B.",
                value: Value::Histogram {
                    bounds: vec![Duration::from_millis(5)],
                    counts: vec![1, 2],
                    sum: Duration::from_secs(1),
                },
            },
            Metric {
                name: "wirestate_c",
                help: "C.",
                value: Value::Counters { label: "reason", counts: vec![("x\"\n".into(), 1)] },
            },
            Metric {
                name: "wirestate_build",
                help: "D.",
                value: Value::Info(vec![("version", "1".into())]),
            },
        ];
        let samples = "wirestate_b_seconds_sum 1.0\nwirestate_b_seconds_count 3\n\
            wirestate_b_seconds_bucket{le=\"0.005\"} 1\nwirestate_b_seconds_bucket{le=\"+Inf\"} 3\n";
        assert_eq!(
            expose(metrics.clone(), Exposition::OpenMetrics),
            format!(
                "# HELP wirestate_a A.\n# TYPE wirestate_a counter\nwirestate_a_total 3\n\
                 # HELP wirestate_b_seconds B.\n# TYPE wirestate_b_seconds histogram\n{samples}\
                 # HELP wirestate_c C.\n# TYPE wirestate_c counter\n\
                 wirestate_c_total{{reason=\"x\\\"\\n\"}} 1\n\
                 # HELP wirestate_build D.\n# TYPE wirestate_build info\n\
                 wirestate_build_info{{version=\"1\"}} 1\n# EOF\n"
            )
        );
        assert_eq!(
            expose(metrics, Exposition::Text),
            format!(
                "# HELP wirestate_a_total A.\n# TYPE wirestate_a_total counter\nwirestate_a_total 3\n\
                 # HELP wirestate_b_seconds B.\n# TYPE wirestate_b_seconds histogram\n{samples}\
                 # HELP wirestate_c_total C.\n# TYPE wirestate_c_total counter\n\
                 wirestate_c_total{{reason=\"x\\\"\\n\"}} 1\n\
                 # HELP wirestate_build_info D.\n# TYPE wirestate_build_info gauge\n\
                 wirestate_build_info{{version=\"1\"}} 1\n"
            )
        );
    }
}
