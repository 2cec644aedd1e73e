//! The list of open connections of the page `/connections`, and its text format.

use core::{
    fmt::{self, Write},
    time::Duration,
};

use serde::{Serialize, Serializer};

use super::{
    super::{Service, state::ServerState},
    json::seconds,
    message,
};
use crate::{
    Instant, Status,
    admission::ConnectionEntry,
    quantity::{Size, Time},
    shared::Shared,
};

/// The open connections, the oldest first, at most
/// [`Config::listed`](super::super::Config::listed).
#[derive(Serialize)]
pub(super) struct ConnectionList<'a> {
    /// The state of the servers, in one line.
    pub(super) message: String,
    #[serde(rename = "uptime_seconds", serialize_with = "seconds")]
    uptime: Duration,
    /// The number of open connections, listed or not.
    open: u64,
    pub(super) connections: Vec<Row<'a>>,
}

/// One connection.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    server: &'a str,
    /// Each server numbers its own connections.
    id: u64,
    peer: String,
    state: &'static str,
    bytes_received: u64,
    bytes_sent: u64,
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    age: Duration,
    #[serde(rename = "idle_seconds", serialize_with = "seconds")]
    idle: Duration,
    lag: u64,
    queued: usize,
    /// The upstream of a proxied connection, as it is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    /// The address that was dialled for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_address: Option<String>,
    /// How long connecting to it took.
    #[serde(rename = "connect_seconds", serialize_with = "optional_seconds")]
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<Duration>,
    /// As whom the peer has authenticated itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
}

/// The headings of the columns, in the order of [`Row::cells`].
pub(super) const COLUMNS: [&str; 13] = [
    "server", "id", "peer", "state", "received", "sent", "age", "idle", "lag", "queued", "connect",
    "upstream", "identity",
];

impl<'a> ConnectionList<'a> {
    pub(super) fn new(server: &ServerState, services: &'a [Service], now: Instant) -> Self {
        let mut connections: Vec<_> = services
            .iter()
            .flat_map(|service| {
                let connections = service.handle().table().connections();
                connections.into_iter().map(move |connection| (service, connection))
            })
            .collect();
        let open = connections.len() as u64;
        // Those of one service are already in this order.
        connections.sort_by_key(|(_, connection)| connection.since());
        connections.truncate(server.config.listed);
        let row =
            |(service, connection): (&'a Service, Shared<_>)| Row::new(service, &connection, now);
        Self {
            message: message(server, services),
            uptime: now.since(server.started),
            open,
            connections: connections.into_iter().map(row).collect(),
        }
    }

    /// The state of the servers, in one line.
    pub(super) fn summary(&self) -> String {
        let Self { message, uptime, open, connections } = self;
        let uptime = Time(*uptime);
        let mut summary = format!("{message}, up for {uptime}; open connections: {open}");
        if connections.len() as u64 != *open {
            push(&mut summary, format_args!(", of which {} are listed", connections.len()));
        }
        summary
    }

    /// The list as text: the summary, and a table for a terminal.
    pub(super) fn text(&self) -> String {
        let mut text = self.summary() + "\n";
        let width = self.connections.iter().map(|row| row.server.chars().count()).max();
        let width = width.unwrap_or_default().max(COLUMNS[0].len());
        let mut row = |cells: &[String; 13]| {
            let [server, id, peer, state, received, sent, age, idle, lag, queued, ..] = cells;
            let [.., connect, upstream, identity] = cells;
            push(
                &mut text,
                format_args!(
                    "{server:<width$} {id:>8} {peer:<22} {state:<17} {received:>9} {sent:>9} \
                     {age:>12} {idle:>12} {lag:>8} {queued:>9} \
                     {connect:>9} {upstream:<22} {identity}\n"
                ),
            );
        };
        row(&COLUMNS.map(String::from));
        for connection in &self.connections {
            row(&connection.cells());
        }
        text
    }
}

impl<'a> Row<'a> {
    pub(super) fn new(service: &'a Service, connection: &ConnectionEntry, now: Instant) -> Self {
        let (status, upstream) = (connection.status(), connection.upstream());
        let endpoint = upstream.as_ref().map(|upstream| &upstream.endpoint);
        Self {
            server: service.name(),
            id: connection.id(),
            peer: connection.peer().to_string(),
            state: state(status),
            bytes_received: connection.bytes_received(),
            bytes_sent: connection.bytes_sent(),
            age: now.since(connection.since()),
            idle: now.since(connection.last_activity()),
            lag: status.lag,
            queued: status.queued,
            upstream: endpoint.map(|endpoint| endpoint.upstream().to_string()),
            upstream_address: endpoint.map(|endpoint| endpoint.address().to_string()),
            connect: upstream.as_ref().map(|upstream| upstream.connect_time),
            identity: connection.identity().map(|identity| identity.to_string()),
        }
    }

    /// The row's cells, in the order of [`COLUMNS`].
    pub(super) fn cells(&self) -> [String; 13] {
        [
            self.server.to_string(),
            self.id.to_string(),
            self.peer.clone(),
            self.state.to_string(),
            Size(self.bytes_received).to_string(),
            Size(self.bytes_sent).to_string(),
            Time(self.age).to_string(),
            Time(self.idle).to_string(),
            self.lag.to_string(),
            Size(self.queued as u64).to_string(),
            self.connect.map(|connect| Time(connect).to_string()).unwrap_or_default(),
            self.upstream_cell(),
            self.identity.clone().unwrap_or_default(),
        ]
    }

    /// The upstream, with the address that was dialled if a name is configured.
    fn upstream_cell(&self) -> String {
        match (&self.upstream, &self.upstream_address) {
            (Some(upstream), Some(address)) if upstream != address => {
                format!("{upstream} ({address})")
            }
            (Some(upstream), _) => upstream.clone(),
            (None, _) => String::new(),
        }
    }
}

/// Serializes a time as a number of seconds, or null.
#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn optional_seconds<S: Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => seconds(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// The name of a connection's state.
pub(super) fn state(status: Status) -> &'static str {
    // A driver first publishes the status when it first sleeps.
    if status.state.is_empty() { "new" } else { status.state }
}

/// Appends to a text.
pub(super) fn push(text: &mut String, more: fmt::Arguments<'_>) {
    text.write_fmt(more).expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::{
        super::{html, json::to_json},
        *,
    };
    use crate::status::Config;

    /// 64 bytes, each of which is escaped in HTML or in JSON.
    static NAME: LazyLock<String> = LazyLock::new(|| "&\u{1}".repeat(32));

    #[test]
    fn a_list_in_any_format_is_at_most_as_long_as_the_config_says() {
        let row = || Row {
            server: &NAME,
            id: u64::MAX,
            peer: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535".into(),
            state: "the-longest-name-of-state",
            bytes_received: u64::MAX,
            bytes_sent: u64::MAX,
            age: Duration::MAX,
            idle: Duration::MAX,
            lag: u64::MAX,
            queued: usize::MAX,
            // The longest name (RFC 1035, section 2.3.4), and the longest path (unix(7)).
            upstream: Some(format!("{}:65535", "x".repeat(255))),
            upstream_address: Some(format!("unix:{}", "&".repeat(107))),
            connect: Some(Duration::MAX),
            identity: Some("&".repeat(100)),
        };
        let list = |rows| ConnectionList {
            message: format!("{} is accepting connections", *NAME),
            uptime: Duration::MAX,
            open: u64::MAX,
            connections: core::iter::repeat_with(row).take(rows).collect(),
        };
        for format in [
            |list: &ConnectionList| list.text().len(),
            |list: &ConnectionList| html::connections_page(list).len(),
            |list: &ConnectionList| to_json(list).len(),
        ] {
            for rows in [0, 1000] {
                let limit = Config::default().with_listed(rows).response_size(1);
                let len = format(&list(rows));
                assert!(len <= limit, "{len} of {limit}");
            }
        }
    }
}
