//! What the status shows of a server's connection to a stream.

use wirestate_core::{
    Instant,
    fanout::Feed,
    nats::DialEvent,
    quantity::Time,
    shared::{Lock, Shared},
    status::{Link, LinkRole, Metric, MetricValue, MetricsSource},
};

use super::StreamAddress;

/// The state of the connection to a stream. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct LinkState {
    role: LinkRole,
    /// Without a secret.
    address: Shared<str>,
    /// The feed that counts failures, if it has this upstream.
    feed: Option<Feed>,
    current: Shared<Lock<Current>>,
}

#[derive(Clone, Debug, Default)]
struct Current {
    connection: Connection,
    connects: u64,
    failures: u64,
}

#[derive(Clone, Debug, Default)]
enum Connection {
    #[default]
    Connecting,
    Connected {
        server: String,
        since: Instant,
    },
    Away {
        reason: String,
        since: Instant,
    },
}

impl LinkState {
    /// The stream to which a server publishes.
    pub(crate) fn publishes_to(address: &StreamAddress) -> Self {
        Self::new(LinkRole::PublishesTo, address, None)
    }

    /// The stream that is the upstream of `feed`.
    pub(crate) fn reads_from(address: &StreamAddress, feed: &Feed) -> Self {
        Self::new(LinkRole::ReadsFrom, address, Some(feed.clone()))
    }

    fn new(role: LinkRole, address: &StreamAddress, feed: Option<Feed>) -> Self {
        Self { role, address: address.to_string().into(), feed, current: Shared::default() }
    }

    /// Records what has happened.
    pub(super) fn observe(&self, event: DialEvent<'_>, now: Instant) {
        if let (DialEvent::Failed { .. }, Some(feed)) = (event, &self.feed) {
            feed.connect_failed();
        }
        self.current.with(|current| match event {
            DialEvent::Failed { error, .. } => {
                current.failures += 1;
                current.connection.end(error, now);
            }
            DialEvent::Connected { address } => {
                current.connects += 1;
                current.connection = Connection::Connected { server: address.into(), since: now };
            }
            DialEvent::Ended { reason, .. } => current.connection.end(reason, now),
        });
    }
}

impl Connection {
    fn end(&mut self, reason: &str, now: Instant) {
        let since = match self {
            Self::Away { since, .. } => *since,
            Self::Connecting | Self::Connected { .. } => now,
        };
        *self = Self::Away { reason: reason.chars().take(MAX_REASON).collect(), since };
    }
}

impl MetricsSource for LinkState {
    fn metrics(&self, _now: Instant) -> Vec<Metric> {
        if self.feed.is_some() {
            // It has them.
            return Vec::new();
        }
        let Current { connection, connects, failures } = self.current.with(|it| it.clone());
        let is_up = matches!(connection, Connection::Connected { .. });
        vec![
            Metric::new(
                "wirestate_publish_up",
                "Whether the server is connected to a server of the stream (--publish).",
                MetricValue::Gauge(is_up.into()),
            ),
            Metric::new(
                "wirestate_publish_connects",
                "Connections made to servers of the stream, the first one and reconnects.",
                MetricValue::Counter(connects),
            ),
            Metric::new(
                "wirestate_publish_failures",
                "Attempts to connect to a server of the stream that failed.",
                MetricValue::Counter(failures),
            ),
        ]
    }

    fn links(&self, now: Instant) -> Vec<Link> {
        let (is_up, state) = self.current.with(|current| match &current.connection {
            Connection::Connecting => (false, "connecting".into()),
            Connection::Connected { server, since } => {
                (true, format!("connected to {server} for {}", Time(now.since(*since))))
            }
            Connection::Away { reason, since } => {
                (false, format!("away for {}: {reason}", Time(now.since(*since))))
            }
        });
        vec![Link { role: self.role, address: self.address.to_string(), is_up, state }]
    }
}

/// The most characters of a reason. It may have a text of the server.
const MAX_REASON: usize = 200;
