//! A small model of a server with one stream and its consumers.

use std::collections::{BTreeMap, VecDeque};

use super::*;

/// The stream `orders`, as it was created last.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) created: u64,
    pub(super) last: u64,
    /// The messages that were not removed.
    pub(super) messages: BTreeMap<u64, String>,
}

impl Stream {
    fn first(&self) -> u64 {
        self.messages.first_key_value().map_or(self.last + 1, |(sequence, _)| *sequence)
    }
}

#[derive(Debug)]
struct Pull {
    reply: String,
    messages: u64,
    /// `None`: no limit.
    bytes: Option<usize>,
}

#[derive(Debug)]
struct ServerConsumer {
    start: u64,
    next: u64,
    deliveries: u64,
    pulls: VecDeque<Pull>,
}

/// A server, by the line. It serves requests for messages by turns, as the real one.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) stream: Option<Stream>,
    consumers: BTreeMap<String, ServerConsumer>,
    made: u64,
    /// The subscriptions of the connection: subjects and ids.
    subscriptions: BTreeMap<String, u64>,
    /// What is on its way to the client.
    pub(super) outgoing: VecDeque<String>,
}

impl Server {
    /// Forgets the connection.
    pub(super) fn disconnect(&mut self) {
        self.subscriptions.clear();
        self.outgoing.clear();
    }

    /// Handles what a client has sent.
    pub(super) fn handle(&mut self, sent: &str) {
        let mut lines = sent.split("\r\n");
        while let Some(line) = lines.next() {
            let fields: Vec<&str> = line.split(' ').collect();
            match *fields {
                ["SUB", subject, id] => {
                    self.subscriptions.insert(subject.into(), id.parse().unwrap());
                }
                ["UNSUB", id] => {
                    let id: u64 = id.parse().unwrap();
                    self.subscriptions.retain(|_, other| *other != id);
                }
                ["PUB", subject, reply, _] => {
                    let payload = lines.next().unwrap();
                    let operation = subject.strip_prefix("$JS.API.").unwrap();
                    if operation == "STREAM.INFO.orders" {
                        self.send(reply, &self.info());
                    } else if operation == "CONSUMER.CREATE.orders" {
                        let made = self.make(payload);
                        self.send(reply, &made);
                    } else {
                        let name = operation.strip_prefix("CONSUMER.MSG.NEXT.orders.").unwrap();
                        self.pull(name, reply, payload);
                    }
                }
                _ => assert!(line.is_empty() || line.starts_with("CONNECT") || line == "PING"),
            }
        }
        self.serve();
    }

    fn id(&self, subject: &str) -> Option<u64> {
        let inbox = |(prefix, id): (&String, &u64)| {
            let prefix = prefix.strip_suffix('*')?;
            subject.starts_with(prefix).then_some(*id)
        };
        let direct = self.subscriptions.get(subject).copied();
        direct.or_else(|| self.subscriptions.iter().find_map(inbox))
    }

    fn send(&mut self, subject: &str, payload: &str) {
        if let Some(id) = self.id(subject) {
            let length = payload.len();
            self.outgoing.push_back(format!("MSG {subject} {id} {length}\r\n{payload}\r\n"));
        }
    }

    fn status(&mut self, subject: &str, text: &str) {
        if let Some(id) = self.id(subject) {
            let headers = format!("NATS/1.0 {text}\r\n\r\n");
            let length = headers.len();
            let message = format!("HMSG {subject} {id} {length} {length}\r\n{headers}\r\n");
            self.outgoing.push_back(message);
        }
    }

    fn info(&self) -> String {
        match &self.stream {
            Some(stream) => stream_json(stream.created, stream.first(), stream.last),
            None => NOT_FOUND.into(),
        }
    }

    fn make(&mut self, json: &str) -> String {
        if self.stream.is_none() {
            return NOT_FOUND.into();
        }
        self.made += 1;
        let name = format!("c{}", self.made);
        let start: u64 = number(json, "opt_start_seq").unwrap();
        let pulls = VecDeque::new();
        let made = ServerConsumer { start, next: start, deliveries: 0, pulls };
        self.consumers.insert(name.clone(), made);
        format!("{{\"name\":\"{name}\",\"config\":{{}}}}")
    }

    fn pull(&mut self, name: &str, reply: &str, json: &str) {
        let Some(consumer) = self.consumers.get_mut(name) else {
            return self.status(reply, "503");
        };
        let bytes = number(json, "max_bytes").map(|bytes| usize::try_from(bytes).unwrap());
        let messages = number(json, "batch").unwrap();
        consumer.pulls.push_back(Pull { reply: reply.into(), messages, bytes });
    }

    /// Sends the messages that were asked for.
    pub(super) fn serve(&mut self) {
        let names: Vec<String> = self.consumers.keys().cloned().collect();
        for name in names {
            while self.serve_one(&name, false) {}
        }
    }

    /// Sends the next message of a consumer, or loses it on its way. Returns whether there was one.
    fn serve_one(&mut self, name: &str, is_lost: bool) -> bool {
        let Some(stream) = &self.stream else { return false };
        let Some(consumer) = self.consumers.get_mut(name) else { return false };
        let Some((sequence, payload)) = stream.messages.range(consumer.next..).next() else {
            return false;
        };
        let Some(mut pull) = consumer.pulls.pop_front() else { return false };
        let delivery = consumer.deliveries + 1;
        let reply = format!("$JS.ACK.orders.{name}.1.{sequence}.{delivery}.170.0");
        let size = "new".len() + reply.len() + payload.len();
        if pull.bytes.is_some_and(|bytes| bytes < size) {
            let text = format!("409 Message Size Exceeds MaxBytes\r\n{}", pending(&pull));
            self.status(&pull.reply, &text);
            return true;
        }
        consumer.next = sequence + 1;
        consumer.deliveries = delivery;
        pull.messages -= 1;
        pull.bytes = pull.bytes.map(|bytes| bytes - size);
        let message = self
            .id(&pull.reply)
            .map(|id| format!("MSG new {id} {reply} {}\r\n{payload}\r\n", payload.len()));
        let is_served = pull.messages == 0 || pull.bytes == Some(0);
        if let Some(consumer) = self.consumers.get_mut(name).filter(|_| !is_served) {
            consumer.pulls.push_back(pull);
        }
        self.outgoing.extend(message.filter(|_| !is_lost));
        true
    }

    /// The consumer that was made last.
    fn last_consumer(&self) -> Option<String> {
        let name = format!("c{}", self.made);
        self.consumers.contains_key(&name).then_some(name)
    }

    pub(super) fn lose_delivery(&mut self) {
        if let Some(name) = self.last_consumer() {
            self.serve_one(&name, true);
        }
    }

    /// Deletes all consumers, with or without a word.
    pub(super) fn delete_consumers(&mut self, says: bool) {
        for (_, consumer) in std::mem::take(&mut self.consumers) {
            for pull in consumer.pulls.iter().filter(|_| says) {
                self.status(&pull.reply, "409 Consumer Deleted");
            }
        }
    }

    /// Consumers without a state on disk begin anew when their server starts again.
    pub(super) fn restart_consumers(&mut self) {
        for consumer in self.consumers.values_mut() {
            (consumer.next, consumer.deliveries) = (consumer.start, 0);
        }
    }

    pub(super) fn expire_pulls(&mut self) {
        let mut consumers = std::mem::take(&mut self.consumers);
        for pull in consumers.values_mut().flat_map(|consumer| consumer.pulls.drain(..)) {
            self.status(&pull.reply, &format!("408 Request Timeout\r\n{}", pending(&pull)));
        }
        self.consumers = consumers;
    }

    pub(super) fn heartbeat(&mut self) {
        let consumers = std::mem::take(&mut self.consumers);
        for consumer in consumers.values() {
            if let Some(pull) = consumer.pulls.front() {
                let (deliveries, sequence) = (consumer.deliveries, consumer.next - 1);
                let text = format!(
                    "100 Idle Heartbeat\r\nNats-Last-Consumer: {deliveries}\r\n\
                     Nats-Last-Stream: {sequence}"
                );
                self.status(&pull.reply, &text);
            }
        }
        self.consumers = consumers;
    }
}

fn pending(pull: &Pull) -> String {
    let bytes = pull.bytes.unwrap_or(0);
    format!("Nats-Pending-Messages: {}\r\nNats-Pending-Bytes: {bytes}", pull.messages)
}

/// The number of a field of JSON.
fn number(json: &str, name: &str) -> Option<u64> {
    let (_, rest) = json.split_once(&format!("\"{name}\":"))?;
    rest.split([',', '}']).next()?.parse().ok()
}

const NOT_FOUND: &str =
    "{\"error\":{\"code\":404,\"err_code\":10059,\"description\":\"stream not found\"}}";
