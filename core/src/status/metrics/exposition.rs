//! Metrics in Prometheus' text formats.

use core::{fmt, time::Duration};
use std::collections::BTreeMap;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, MetricEncoder, text},
    registry::Registry,
};

use super::{Families, MetricValue, family::Family};
use crate::quantity::Seconds;

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

/// Writes metrics in a text format.
pub(in crate::status) fn expose(families: Families, exposition: Exposition) -> String {
    let suffixes = families.0.iter().map(|family| (family.name, family.kind().1)).collect();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(families));
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

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            let Family { name, help, values } = family;
            let mut metric = encoder.encode_descriptor(name, help, None, family.kind().0)?;
            for (server, value) in values {
                let server = server.as_ref().map(|name| ("server", &**name));
                encode_value(&mut metric, server, value)?;
            }
        }
        Ok(())
    }
}

type Label<'a> = (&'a str, &'a str);

/// Writes the samples of one value.
fn encode_value(
    metric: &mut MetricEncoder<'_>,
    server: Option<Label<'_>>,
    value: &MetricValue,
) -> fmt::Result {
    let own = Vec::from_iter(server);
    let with = |label, value| [&own[..], &[(label, value)]].concat();
    match value {
        MetricValue::Counter(count) => {
            encode_sample(metric, &own, |sample| encode_counter(sample, count))
        }
        MetricValue::CounterSeconds(time) => {
            encode_sample(metric, &own, |sample| encode_counter(sample, &Seconds(*time).to_f64()))
        }
        MetricValue::Counters { label, counts } => counts.iter().try_for_each(|(value, count)| {
            encode_sample(metric, &with(label, value), |sample| encode_counter(sample, count))
        }),
        MetricValue::Gauge(amount) => {
            encode_sample(metric, &own, |sample| sample.encode_gauge(amount))
        }
        MetricValue::GaugeSeconds(time) => {
            encode_sample(metric, &own, |sample| sample.encode_gauge(&Seconds(*time).to_f64()))
        }
        MetricValue::Gauges { label, amounts } => amounts.iter().try_for_each(|(value, amount)| {
            encode_sample(metric, &with(label, value), |sample| sample.encode_gauge(amount))
        }),
        MetricValue::Histogram { bounds, counts, sum } => {
            let bounds = bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(counts.iter().copied()).collect();
            let (sum, count) = (Seconds(*sum).to_f64(), counts.iter().sum());
            encode_sample(metric, &own, |sample| {
                sample.encode_histogram::<[Label<'_>; 0]>(sum, count, &buckets, None)
            })
        }
        MetricValue::Info(labels) => {
            let labels = labels.iter().map(|(label, value)| (*label, &**value));
            metric.encode_info(&server.into_iter().chain(labels).collect::<Vec<_>>())
        }
    }
}

fn encode_counter(sample: &mut MetricEncoder<'_>, count: &impl EncodeCounterValue) -> fmt::Result {
    sample.encode_counter::<[Label<'_>; 0], _, u64>(count, None)
}

/// Calls `write` with an encoder that has these labels. Without labels, it writes no braces.
fn encode_sample(
    metric: &mut MetricEncoder<'_>,
    labels: &[Label<'_>],
    write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if labels.is_empty() {
        return write(metric);
    }
    write(&mut metric.encode_family(&labels)?)
}

#[cfg(test)]
mod tests {
    use super::{super::Metric, *};

    #[test]
    fn both_formats_have_the_same_samples() {
        let histogram = |sum| MetricValue::Histogram {
            bounds: vec![Duration::from_millis(5)],
            counts: vec![1, 2],
            sum: Duration::from_secs(sum),
        };
        let reasons = MetricValue::Counters { label: "reason", counts: vec![("x\"\n".into(), 1)] };
        let of_service = |count| {
            [
                Metric::new("wirestate_a", "A.", MetricValue::Counter(count)),
                Metric::new("wirestate_b_seconds", "B.", histogram(count)),
                Metric::new("wirestate_c", "C.", reasons.clone()),
            ]
        };
        let version = MetricValue::Info(vec![("version", "1".into())]);
        let mut families = Families::default();
        families.add(None, [Metric::new("wirestate_build", "D.", version)]);
        families.add(Some(&"one".into()), of_service(3));
        families.add(Some(&"\"2\"".into()), of_service(4));
        families.add(None, [Metric::new("wirestate_e", "E.", reasons.clone())]);
        let histogram = |server: &str, sum| {
            format!(
                "wirestate_b_seconds_sum{{server=\"{server}\"}} {sum}.0\n\
                 wirestate_b_seconds_count{{server=\"{server}\"}} 3\n\
                 wirestate_b_seconds_bucket{{le=\"0.005\",server=\"{server}\"}} 1\n\
                 wirestate_b_seconds_bucket{{le=\"+Inf\",server=\"{server}\"}} 3\n"
            )
        };
        let (info, a, c, e) = (
            "wirestate_build_info{version=\"1\"} 1\n",
            "wirestate_a_total{server=\"one\"} 3\nwirestate_a_total{server=\"\\\"2\\\"\"} 4\n",
            "wirestate_c_total{server=\"one\",reason=\"x\\\"\\n\"} 1\n\
             wirestate_c_total{server=\"\\\"2\\\"\",reason=\"x\\\"\\n\"} 1\n",
            "wirestate_e_total{reason=\"x\\\"\\n\"} 1\n",
        );
        let b = histogram("one", 3) + &histogram("\\\"2\\\"", 4);
        assert_eq!(
            expose(families.clone(), Exposition::OpenMetrics),
            format!(
                "# HELP wirestate_build D.\n# TYPE wirestate_build info\n{info}\
                 # HELP wirestate_a A.\n# TYPE wirestate_a counter\n{a}\
                 # HELP wirestate_b_seconds B.\n# TYPE wirestate_b_seconds histogram\n{b}\
                 # HELP wirestate_c C.\n# TYPE wirestate_c counter\n{c}\
                 # HELP wirestate_e E.\n# TYPE wirestate_e counter\n{e}# EOF\n"
            )
        );
        assert_eq!(
            expose(families, Exposition::Text),
            format!(
                "# HELP wirestate_build_info D.\n# TYPE wirestate_build_info gauge\n{info}\
                 # HELP wirestate_a_total A.\n# TYPE wirestate_a_total counter\n{a}\
                 # HELP wirestate_b_seconds B.\n# TYPE wirestate_b_seconds histogram\n{b}\
                 # HELP wirestate_c_total C.\n# TYPE wirestate_c_total counter\n{c}\
                 # HELP wirestate_e_total E.\n# TYPE wirestate_e_total counter\n{e}"
            )
        );
    }
}
