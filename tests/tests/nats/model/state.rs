//! The state of a cluster: its connections, and what is under way between its nodes.

use std::{collections::BTreeMap, task::Waker, time::Duration};

use bytes::{Bytes, BytesMut};
use wirestate_core::Instant;

use super::{
    Settings, Version, jetstream::JetStream, reply, stream::Publication, subjects::Subscriptions,
};

#[derive(Debug)]
pub(super) struct State {
    pub(super) settings: Settings,
    pub(super) now: Instant,
    /// The connections so far, and everything else that is numbered.
    serial: u64,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) subscriptions: Subscriptions,
    pub(super) addresses: Vec<String>,
    /// The tasks of the nodes that are up.
    pub(super) timekeepers: BTreeMap<String, Option<Waker>>,
    pub(super) route_delays: BTreeMap<String, Duration>,
    /// What is under way to the leader.
    routes: BTreeMap<(Instant, u64), Operation>,
    pub(super) jetstream: JetStream,
}

impl Default for State {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) node: String,
    subscriptions: BTreeMap<String, Subscription>,
    pub(super) outbox: BytesMut,
    pub(super) waker: Option<Waker>,
    pub(super) has_echo: bool,
    pub(super) has_no_responders: bool,
}

#[derive(Debug)]
struct Subscription {
    pattern: String,
    /// How many messages are still delivered; `None`: no limit.
    left: Option<u64>,
}

/// What a client publishes.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) connection: u64,
    pub(super) node: String,
    pub(super) reply: String,
    pub(super) publication: Publication,
    /// Whether somebody has received it.
    pub(super) is_delivered: bool,
}

/// A message for the subscribers of `to`.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) to: String,
    pub(super) subject: String,
    pub(super) reply: String,
    pub(super) headers: Bytes,
    pub(super) payload: Bytes,
    /// The older version writes an empty subject for replies into the line.
    pub(super) is_internal: bool,
}

impl Delivery {
    pub(super) fn new(to: &str, payload: Bytes) -> Self {
        let (to, subject) = (to.to_owned(), to.to_owned());
        let (reply, headers) = (String::new(), Bytes::new());
        Self { to, subject, reply, headers, payload, is_internal: false }
    }

    fn write(&self, subscription: &str, out: &mut BytesMut) {
        let Self { subject, reply, headers, payload, .. } = self;
        let reply = match (&**reply, self.is_internal) {
            ("", true) => " ".to_owned(),
            ("", false) => String::new(),
            (reply, _) => format!("{reply} "),
        };
        let total = headers.len() + payload.len();
        let line = if headers.is_empty() {
            format!("MSG {subject} {subscription} {reply}{total}\r\n")
        } else {
            format!("HMSG {subject} {subscription} {reply}{} {total}\r\n", headers.len())
        };
        for part in [line.as_bytes(), headers, payload, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            jetstream: JetStream::new(settings.clone()),
            settings,
            now: Instant::EPOCH,
            serial: 0,
            connections: BTreeMap::new(),
            subscriptions: Subscriptions::default(),
            addresses: Vec::new(),
            timekeepers: BTreeMap::new(),
            route_delays: BTreeMap::new(),
            routes: BTreeMap::new(),
        }
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(super) fn connect(&mut self, node: &str) -> u64 {
        let id = self.next_serial();
        let info = format!(
            "INFO {{\"server_id\":\"S\",\"version\":{:?},\"client_id\":{id},\"headers\":true,\
             \"max_payload\":{},\"jetstream\":true,\"connect_urls\":{:?}}}\r\n",
            self.settings.version.text(),
            self.settings.max_payload,
            self.addresses
        );
        let connection = Connection {
            node: node.to_owned(),
            subscriptions: BTreeMap::new(),
            outbox: info.as_bytes().into(),
            waker: None,
            has_echo: true,
            has_no_responders: false,
        };
        self.connections.insert(id, connection);
        id
    }

    pub(super) fn disconnect(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(&id) else { return };
        for (name, subscription) in connection.subscriptions {
            self.subscriptions.remove(&subscription.pattern, &(id, name));
        }
    }

    pub(super) fn subscribe(&mut self, id: u64, pattern: &str, name: &str) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let subscription = Subscription { pattern: pattern.to_owned(), left: None };
        connection.subscriptions.insert(name.to_owned(), subscription);
        self.subscriptions.insert(pattern, (id, name.to_owned()));
    }

    pub(super) fn unsubscribe(&mut self, id: u64, name: &str, max: Option<u64>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(subscription) = connection.subscriptions.get_mut(name) else { return };
        subscription.left = max;
        if max.is_none() {
            self.subscriptions.remove(&subscription.pattern, &(id, name.to_owned()));
            connection.subscriptions.remove(name);
        }
    }

    /// Delivers what a client publishes, and sends it to `JetStream`'s leader.
    pub(super) fn publish(&mut self, mut operation: Operation) {
        let Publication { subject, headers, payload } = operation.publication.clone();
        let (to, reply) = (subject.clone(), operation.reply.clone());
        let delivery = Delivery { to, subject, reply, headers, payload, is_internal: false };
        operation.is_delivered = self.deliver(&delivery, Some(operation.connection));
        let delay = self.route_delays.get(&operation.node).copied().unwrap_or_default();
        // What the same node has sent before arrives before.
        let before = self.routes.iter().rfind(|(_, other)| other.node == operation.node);
        let before = before.map_or(Instant::EPOCH, |((at, _), _)| *at);
        let at = before.max(self.now + delay);
        if at > self.now {
            let serial = self.next_serial();
            self.routes.insert((at, serial), operation);
        } else {
            self.arrive(operation);
        }
    }

    fn arrive(&mut self, operation: Operation) {
        let Operation { connection, reply, publication, is_delivered, .. } = operation;
        let (interest, now) = (&self.subscriptions, self.now);
        let Publication { subject, payload, .. } = &publication;
        let is_responded = if subject.starts_with("$JS.API.") {
            self.jetstream.request(subject, payload, &reply, interest, now)
        } else {
            self.jetstream.publish(publication.clone(), &reply, interest, now)
        };
        if is_responded || is_delivered || reply.is_empty() {
            return;
        }
        let Some(connection) = self.connections.get(&connection) else { return };
        if connection.has_no_responders {
            let subject = match self.settings.version {
                Version::V2_9 => String::new(),
                Version::V2_15 => format!("\r\nNats-Subject: {subject}"),
            };
            let headers = reply::status(&format!("503{subject}"));
            self.deliver(&Delivery { headers, ..Delivery::new(&reply, Bytes::new()) }, None);
        }
    }

    /// Delivers a message to all subscribers. Returns whether there are any.
    fn deliver(&mut self, delivery: &Delivery, from: Option<u64>) -> bool {
        let subscribers = self.subscriptions.matching(&delivery.to);
        let subscribers: Vec<_> = subscribers.into_iter().cloned().collect();
        let mut is_delivered = false;
        for (id, name) in subscribers {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            if Some(id) == from && !connection.has_echo {
                continue;
            }
            let Some(subscription) = connection.subscriptions.get_mut(&name) else { continue };
            is_delivered = true;
            let is_last = subscription.left.as_mut().is_some_and(|left| {
                *left = left.saturating_sub(1);
                *left == 0
            });
            delivery.write(&name, &mut connection.outbox);
            connection.wake();
            if is_last {
                self.unsubscribe(id, &name, None);
            }
        }
        is_delivered
    }

    /// Does what is due, and delivers what `JetStream` has sent.
    pub(super) fn settle(&mut self) {
        loop {
            if let Some(entry) = self.routes.first_entry()
                && entry.key().0 <= self.now
            {
                let operation = entry.remove();
                self.arrive(operation);
            } else if self.jetstream.deadline <= self.now {
                self.jetstream.advance(&self.subscriptions, self.now);
            } else if self.jetstream.out.is_empty() {
                return;
            }
            for delivery in std::mem::take(&mut self.jetstream.out) {
                self.deliver(&delivery, None);
            }
        }
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Instant {
        let route = self.routes.first_key_value().map_or(Instant::NEVER, |((at, _), _)| *at);
        route.min(self.jetstream.deadline)
    }
}

impl Connection {
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.outbox.extend_from_slice(bytes);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
