//! The pages.

use core::{fmt::Write, time::Duration};
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, json};

use super::{
    Metric, Value,
    metric::{self, by_reason},
    pacer::Refused,
    response::{Code, PLAIN, Response},
    server::Inner,
};
use crate::{
    Instant,
    admission::{Conn, Snapshot},
    shared::Shared,
};

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// What this is, and how it is.
    Root,
    /// It lives.
    Health,
    /// It is worth connecting.
    Ready,
    /// All counts.
    Metrics(Exposition),
    /// The open connections.
    Connections(Format),
}

/// How Prometheus likes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposition {
    /// Prometheus' text format, version 0.0.4.
    Text,
    /// `OpenMetrics`, version 1.0.0.
    OpenMetrics,
}

/// How the connections are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// A table for a terminal.
    Text,
    /// For programs.
    Json,
    /// For a browser, which renews it.
    Html,
}

impl Page {
    /// Whether making and sending the page is expensive.
    pub(super) fn is_long(self) -> bool {
        match self {
            Self::Root | Self::Metrics(_) | Self::Connections(_) => true,
            Self::Health | Self::Ready => false,
        }
    }

    pub(super) fn make(self, server: &Inner, now: Instant) -> Response {
        match self {
            Self::Health => Response::text(Code::Ok, "alive"),
            Self::Ready if server.is_ready() => Response::text(Code::Ok, "ready"),
            Self::Ready => Response::text(Code::ServiceUnavailable, "stopping"),
            Self::Root => root(server, now),
            Self::Metrics(exposition) => {
                let content_type = match exposition {
                    Exposition::Text => "text/plain; version=0.0.4; charset=utf-8",
                    Exposition::OpenMetrics => {
                        "application/openmetrics-text; version=1.0.0; charset=utf-8"
                    }
                };
                let content = metric::expose(metrics(server, now), exposition).into_bytes();
                Response::new(Code::Ok, content_type, content)
            }
            Self::Connections(format) => {
                let listing = Listing::new(server, now);
                let (content_type, content, policy) = match format {
                    Format::Text => (PLAIN, listing.text().into_bytes(), None),
                    Format::Json => (JSON, to_json(&listing), None),
                    Format::Html => (HTML, listing.html().into_bytes(), Some(POLICY)),
                };
                Response { policy, ..Response::new(Code::Ok, content_type, content) }
            }
        }
    }
}

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("all keys are texts");
    bytes.push(b'\n');
    bytes
}

fn root(server: &Inner, now: Instant) -> Response {
    let name = server.config.name;
    let (state, message) = if server.is_ready() {
        ("accepting", format!("{name} is accepting connections"))
    } else {
        ("stopping", format!("{name} is stopping"))
    };
    let Snapshot { totals, connections } = server.service.table().snapshot();
    let moved = Moved::new(&connections);
    let figures = server.subject.iter().flat_map(|subject| subject.metrics()).filter_map(figure);
    let content = to_json(&Root {
        message,
        server: name,
        version: VERSION,
        state,
        uptime_seconds: seconds(now.since(server.started)),
        connections: Counts {
            open: totals.open,
            limit: server.service.table().limits().connections,
            accepted: totals.accepted,
            refused: totals.refused,
            ended: totals.ended,
            accept_failures: totals.accept_failures,
        },
        bytes: Moved {
            received: totals.bytes_in + moved.received,
            sent: totals.bytes_out + moved.sent,
            queued: moved.queued,
        },
        figures: figures.collect(),
    });
    Response::new(Code::Ok, JSON, content)
}

#[derive(Serialize)]
struct Root {
    message: String,
    server: &'static str,
    version: &'static str,
    state: &'static str,
    uptime_seconds: f64,
    connections: Counts,
    bytes: Moved,
    /// What the server counts beyond these, by the metric's name.
    figures: Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct Counts {
    open: u64,
    limit: usize,
    accepted: u64,
    refused: BTreeMap<&'static str, u64>,
    ended: BTreeMap<&'static str, u64>,
    accept_failures: BTreeMap<&'static str, u64>,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A metric as `/` shows it; what takes more than a line is for `/metrics` alone.
fn figure(metric: Metric) -> Option<(String, serde_json::Value)> {
    let value = match metric.value {
        Value::Counter(count) | Value::Gauge(count) => json!(count),
        Value::CounterSeconds(time) | Value::GaugeSeconds(time) => json!(seconds(time)),
        Value::Counters { counts: values, .. } | Value::Gauges { amounts: values, .. } => {
            json!(BTreeMap::from_iter(values))
        }
        Value::Histogram { .. } | Value::Info(_) => return None,
    };
    Some((metric.name.into(), value))
}

/// Seconds, to the millisecond.
fn seconds(time: Duration) -> f64 {
    let millis = u32::try_from(time.as_millis()).map_or(time.as_secs_f64() * 1000.0, f64::from);
    millis / 1000.0
}

/// What the open connections have moved, and what waits in them.
#[derive(Default, Serialize)]
struct Moved {
    received: u64,
    sent: u64,
    queued: u64,
}

impl Moved {
    fn new(connections: &[Shared<Conn>]) -> Self {
        let mut moved = Self::default();
        for conn in connections {
            moved.received += conn.bytes_in();
            moved.sent += conn.bytes_out();
            moved.queued += conn.status().queued as u64;
        }
        moved
    }
}

fn metrics(server: &Inner, now: Instant) -> Vec<Metric> {
    let Snapshot { totals, connections } = server.service.table().snapshot();
    let moved = Moved::new(&connections);
    let limit = server.service.table().limits().connections;
    let own = server.own.table().totals();
    let Refused { in_progress, too_late } = server.pages.refused();
    let refused = BTreeMap::from([("in_progress", in_progress), ("too_late", too_late)]);
    let info = vec![("server", server.config.name.to_string()), ("version", VERSION.to_string())];
    let mut metrics = vec![
        Metric::new("wirestate_build", Value::Info(info)).help("What runs here."),
        Metric::new("wirestate_uptime_seconds", Value::GaugeSeconds(now.since(server.started)))
            .help("Time since the start."),
        Metric::new("wirestate_ready", Value::Gauge(server.is_ready().into()))
            .help("Whether it is worth connecting, as /readyz says."),
        Metric::new("wirestate_connections_open", Value::Gauge(totals.open))
            .help("Open connections."),
        Metric::new("wirestate_connections_limit", Value::Gauge(limit as u64))
            .help("Open connections at most."),
        Metric::new("wirestate_connections_accepted", Value::Counter(totals.accepted))
            .help("Connections accepted."),
        Metric::new("wirestate_connections_refused", by_reason(totals.refused))
            .help("Connections refused, by the limit that was reached."),
        Metric::new("wirestate_connections_ended", by_reason(totals.ended))
            .help("Connections ended, by reason."),
        Metric::new("wirestate_accept_failures", by_reason(totals.accept_failures)).help(
            "Connections aborted in the backlog, and pauses in accepting (exhausted, no_task).",
        ),
        Metric::new("wirestate_received_bytes", Value::Counter(totals.bytes_in + moved.received))
            .help("Bytes received from clients."),
        Metric::new("wirestate_sent_bytes", Value::Counter(totals.bytes_out + moved.sent))
            .help("Bytes sent to clients."),
        Metric::new("wirestate_queued_bytes", Value::Gauge(moved.queued))
            .help("Bytes that wait to be sent to clients."),
        Metric::new("wirestate_status_connections_refused", by_reason(own.refused))
            .help("Connections to the status server refused, by the limit that was reached."),
        Metric::new("wirestate_status_connections_ended", by_reason(own.ended))
            .help("Connections to the status server ended, by reason."),
        Metric::new("wirestate_status_pages_refused", by_reason(refused))
            .help("Pages that were answered by 503: 48 in progress, or no turn within a second."),
    ];
    metrics.extend(server.subject.iter().flat_map(|subject| subject.metrics()));
    metrics
}

/// The open connections, the oldest first, and no more than may be listed.
#[derive(Serialize)]
struct Listing {
    server: &'static str,
    state: &'static str,
    uptime_seconds: f64,
    open: u64,
    connections: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    id: u64,
    peer: String,
    state: &'static str,
    bytes_in: u64,
    bytes_out: u64,
    age_seconds: f64,
    idle_seconds: f64,
    lag: u64,
    queued: usize,
}

/// The columns of a table: those of text are on the left.
const COLUMNS: [&str; 9] =
    ["id", "peer", "state", "bytes in", "bytes out", "age", "idle", "lag", "queued"];

impl Listing {
    fn new(server: &Inner, now: Instant) -> Self {
        let Snapshot { totals, connections } = server.service.table().snapshot();
        let line = |conn: &Shared<Conn>| {
            let status = conn.status();
            Line {
                id: conn.id(),
                peer: conn.peer().to_string(),
                // Until it has nothing to do for the first time, it has not said how it is.
                state: if status.state.is_empty() { "new" } else { status.state },
                bytes_in: conn.bytes_in(),
                bytes_out: conn.bytes_out(),
                age_seconds: seconds(now.since(conn.since())),
                idle_seconds: seconds(now.since(conn.moved())),
                lag: status.lag,
                queued: status.queued,
            }
        };
        Self {
            server: server.config.name,
            state: if server.is_ready() { "accepting" } else { "stopping" },
            uptime_seconds: seconds(now.since(server.started)),
            open: totals.open,
            connections: connections.iter().take(server.config.listed).map(line).collect(),
        }
    }

    fn summary(&self) -> String {
        let Self { server, state, uptime_seconds, open, connections } = self;
        let mut summary =
            format!("{server} is {state}, up for {uptime_seconds:.0} s; open connections: {open}");
        if connections.len() as u64 != *open {
            push(&mut summary, format_args!(", of which {} are listed", connections.len()));
        }
        summary
    }

    fn text(&self) -> String {
        let mut text = self.summary() + "\n";
        let mut row = |cells: &[String; 9]| {
            let [id, peer, state, received, sent, age, idle, lag, queued] = cells;
            push(
                &mut text,
                format_args!(
                    "{id:>8} {peer:<22} {state:<10} {received:>14} {sent:>14} {age:>10} \
                     {idle:>10} {lag:>8} {queued:>9}\n"
                ),
            );
        };
        row(&COLUMNS.map(String::from));
        for line in &self.connections {
            row(&line.cells());
        }
        text
    }

    fn html(&self) -> String {
        let mut html = String::from(PAGE_TOP);
        push(&mut html, format_args!("<title>{}</title>\n", Escaped(self.server)));
        push(&mut html, format_args!("<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"));
        push(&mut html, format_args!("<p>{}</p>\n<table>\n<tr>", Escaped(&self.summary())));
        for column in COLUMNS {
            push(&mut html, format_args!("<th>{}</th>", Escaped(column)));
        }
        html += "</tr>\n";
        for line in &self.connections {
            html += "<tr>";
            for cell in line.cells() {
                push(&mut html, format_args!("<td>{}</td>", Escaped(&cell)));
            }
            html += "</tr>\n";
        }
        html += "</table>\n</main>\n";
        push(&mut html, format_args!("<script>{SCRIPT}</script>\n</body>\n</html>\n"));
        html
    }
}

fn push(text: &mut String, what: core::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a string takes all that fits the memory");
}

impl Line {
    fn cells(&self) -> [String; 9] {
        [
            self.id.to_string(),
            self.peer.clone(),
            self.state.to_string(),
            self.bytes_in.to_string(),
            self.bytes_out.to_string(),
            format!("{:.1} s", self.age_seconds),
            format!("{:.1} s", self.idle_seconds),
            self.lag.to_string(),
            self.queued.to_string(),
        ]
    }
}

/// A text that stays one inside HTML.
struct Escaped<'a>(&'a str);

impl core::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The icon is none, or browsers would ask for one.
const PAGE_TOP: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
"#;

const STYLE: &str = r#"
body { font: 14px system-ui, sans-serif; margin: 2em; color-scheme: light dark }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .2em .8em; text-align: right; border-bottom: 1px solid #8884 }
td:nth-child(2), td:nth-child(3), th:nth-child(2), th:nth-child(3) { text-align: left }
body.lost main { opacity: .4 }
body.lost::before { content: "The server does not answer." }
"#;

/// Puts the table of a new page in the place of the old one, every two seconds.
const SCRIPT: &str = r"
const renew = async () => {
  try {
    const answer = await fetch('/connections?format=html');
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    document.querySelector('main').replaceWith(page.querySelector('main'));
    document.body.className = 'live';
  } catch {
    document.body.className = 'lost';
  }
  setTimeout(renew, 2000);
};
setTimeout(renew, 2000);
";

/// Only this style and this script, named by their SHA-256 (Content Security Policy, level 2), and
/// nothing from anywhere else.
const POLICY: &str = "default-src 'none'; connect-src 'self'; img-src data:; \
    script-src 'sha256-hKtcjNMwwzU3f6gVgD6Zc7LMKB7Ijcwk6Fa2FwS//Y8='; \
    style-src 'sha256-flLVMQUPJccU0Pw/ZB+Moekvyp+1C8kr5qvve85L7/A='; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::server::Config;

    #[test]
    fn a_line_has_at_most_what_is_counted_for_it() {
        let line = || Line {
            id: u64::MAX,
            peer: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535".into(),
            state: "a-name-as-long-as-none-is",
            bytes_in: u64::MAX,
            bytes_out: u64::MAX,
            age_seconds: seconds(Duration::MAX),
            idle_seconds: seconds(Duration::MAX),
            lag: u64::MAX,
            queued: usize::MAX,
        };
        let listing = |lines| Listing {
            server: "a-server-of-a-long-name",
            state: "accepting",
            uptime_seconds: seconds(Duration::MAX),
            open: u64::MAX,
            connections: core::iter::repeat_with(line).take(lines).collect(),
        };
        let config = |listed| Config { listed, ..Config::new("x") };
        for format in [
            |listing: &Listing| listing.text().len(),
            |listing: &Listing| listing.html().len(),
            |listing: &Listing| to_json(listing).len(),
        ] {
            for lines in [0, 1000] {
                let (len, most) = (format(&listing(lines)), config(lines).response_size());
                assert!(len <= most, "{len} of {most}");
            }
        }
    }

    #[test]
    fn what_comes_from_elsewhere_stays_text() {
        let line = "<script>alert('1' & \"2\")</script>";
        assert_eq!(
            Escaped(line).to_string(),
            "&lt;script&gt;alert(&#39;1&#39; &amp; &quot;2&quot;)&lt;/script&gt;"
        );
    }
}
