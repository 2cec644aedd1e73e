//! Metrics in Prometheus' text formats.

use core::{fmt, time::Duration};
use std::collections::BTreeMap;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

use super::{Metric, MetricValue};

/// A text format of Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::status) enum Exposition {
    /// Prometheus' text format, version 0.0.4.
    Text,
    /// `OpenMetrics`, version 1.0.0.
    OpenMetrics,
}

impl Exposition {
    /// The media type, for `Content-Type`.
    pub(in crate::status) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes `metrics` in a text format.
pub(in crate::status) fn expose(metrics: Vec<Metric>, exposition: Exposition) -> String {
    let suffixes = metrics.iter().map(|metric| (metric.name, metric.value.kind().1)).collect();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Metrics(metrics)));
    let mut open_metrics = String::new();
    text::encode(&mut open_metrics, &registry).expect("writing to a string does not fail");
    match exposition {
        Exposition::OpenMetrics => open_metrics,
        Exposition::Text => {
            open_metrics.lines().filter_map(|line| to_text_format(line, &suffixes)).collect()
        }
    }
}

/// Converts a line of `OpenMetrics` to Prometheus' text format, version 0.0.4; `None` for the end
/// marker `# EOF`.
///
/// In the text format, the comments on a metric use the name of its samples, with `_total` or
/// `_info`, and the type `info` does not exist.
fn to_text_format(line: &str, suffixes: &BTreeMap<&str, &str>) -> Option<String> {
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
                MetricValue::Counter(count) => {
                    metric.encode_counter::<Unlabelled, _, u64>(count, None)?;
                }
                MetricValue::CounterSeconds(time) => {
                    metric.encode_counter::<Unlabelled, _, u64>(&time.as_secs_f64(), None)?;
                }
                MetricValue::Counters { label, counts } => {
                    for (value, count) in counts {
                        let labels = [(*label, &**value)];
                        let mut family = metric.encode_family(&labels)?;
                        family.encode_counter::<Unlabelled, _, u64>(count, None)?;
                    }
                }
                MetricValue::Gauge(amount) => metric.encode_gauge(amount)?,
                MetricValue::GaugeSeconds(time) => metric.encode_gauge(&time.as_secs_f64())?,
                MetricValue::Gauges { label, amounts } => {
                    for (value, amount) in amounts {
                        let labels = [(*label, &**value)];
                        metric.encode_family(&labels)?.encode_gauge(amount)?;
                    }
                }
                MetricValue::Histogram { bounds, counts, sum } => {
                    let bounds = bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
                    let buckets: Vec<_> = bounds.zip(counts.iter().copied()).collect();
                    let (sum, count) = (sum.as_secs_f64(), counts.iter().sum());
                    metric.encode_histogram::<Unlabelled>(sum, count, &buckets, None)?;
                }
                MetricValue::Info(labels) => metric.encode_info(labels)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_have_the_same_samples() {
        let metrics = vec![
            Metric { name: "wirestate_a", help: "A.", value: MetricValue::Counter(3) },
            Metric {
                name: "wirestate_b_seconds",
                help: "B.",
                value: MetricValue::Histogram {
                    bounds: vec![Duration::from_millis(5)],
                    counts: vec![1, 2],
                    sum: Duration::from_secs(1),
                },
            },
            Metric {
                name: "wirestate_c",
                help: "C.",
                value: MetricValue::Counters { label: "reason", counts: vec![("x\"\n".into(), 1)] },
            },
            Metric {
                name: "wirestate_build",
                help: "D.",
                value: MetricValue::Info(vec![("version", "1".into())]),
            },
        ];
        let samples = "wirestate_b_seconds_sum 1.0\nwirestate_b_seconds_count 3\n\
            wirestate_b_seconds_bucket{le=\"0.005\"} 1\n\
            wirestate_b_seconds_bucket{le=\"+Inf\"} 3\n";
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
                "# HELP wirestate_a_total A.\n# TYPE wirestate_a_total counter\n\
                 wirestate_a_total 3\n\
                 # HELP wirestate_b_seconds B.\n# TYPE wirestate_b_seconds histogram\n{samples}\
                 # HELP wirestate_c_total C.\n# TYPE wirestate_c_total counter\n\
                 wirestate_c_total{{reason=\"x\\\"\\n\"}} 1\n\
                 # HELP wirestate_build_info D.\n# TYPE wirestate_build_info gauge\n\
                 wirestate_build_info{{version=\"1\"}} 1\n"
            )
        );
    }
}
