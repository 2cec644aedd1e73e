//! A pull consumer: its position, and the pull requests that wait for messages.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wirestate_core::Instant;

use super::{
    Version,
    config::ConsumerConfig,
    reply::status,
    state::Delivery,
    stream::Stream,
    subjects::Subscriptions,
    time::{rfc3339, unix_nanos},
};

/// A pull request, as it is sent.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PullRequest {
    batch: i64,
    max_bytes: u64,
    /// In nanoseconds.
    expires: u64,
    idle_heartbeat: u64,
    no_wait: bool,
}

/// A pull request that waits for messages.
#[derive(Debug)]
struct Pull {
    reply: String,
    batch: u64,
    /// 0: no limit.
    max_bytes: u64,
    expires: Option<Instant>,
    heartbeat: Option<(Duration, Instant)>,
    /// Whether it ends when there is no message.
    no_wait: bool,
    has_delivered: bool,
}

impl Pull {
    fn status(&self, version: Version, text: &str) -> Delivery {
        let Self { batch, max_bytes, .. } = self;
        let text =
            format!("{text}\r\nNats-Pending-Messages: {batch}\r\nNats-Pending-Bytes: {max_bytes}");
        Delivery::status(version, &self.reply, &text)
    }
}

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) name: String,
    pub(super) config: ConsumerConfig,
    created: Instant,
    /// The node that has it.
    pub(super) node: String,
    /// The sequence in the stream of the next message.
    next: u64,
    /// The number of messages delivered.
    delivered: u64,
    /// The sequence before the next message, unless nothing was delivered.
    floor: u64,
    last_active: Option<Instant>,
    pulls: VecDeque<Pull>,
    /// When a pull request last came, or waited.
    used_at: Instant,
}

impl Consumer {
    pub(super) fn new(
        name: String,
        config: ConsumerConfig,
        node: String,
        stream: &Stream,
        version: Version,
        now: Instant,
    ) -> Self {
        let next = config.start(stream, version);
        let floor = if version == Version::V2_9 { 0 } else { next - 1 };
        Self {
            name,
            config,
            created: now,
            node,
            next,
            delivered: 0,
            floor,
            last_active: None,
            pulls: VecDeque::new(),
            used_at: now,
        }
    }

    /// Begins again: its node has restarted, and had it in memory.
    pub(super) fn restart(&mut self, stream: &Stream, version: Version, now: Instant) {
        let (name, config) = (self.name.clone(), self.config.clone());
        let created = self.created;
        *self = Self::new(name, config, self.node.clone(), stream, version, now);
        self.created = created;
    }

    /// Answers a pull request, or lets it wait.
    pub(super) fn pull(
        &mut self,
        reply: &str,
        payload: &[u8],
        stream: &Stream,
        context: &mut Pulling<'_>,
    ) {
        let (version, now) = (context.version, context.now);
        self.used_at = now;
        let error = |text: &str| Delivery::status(version, reply, text);
        let request = match parse(payload) {
            Ok(request) => request,
            Err(text) => {
                return context.out.push(error(&format!("400 Bad Request - {text}")));
            }
        };
        let nanos = |nanos: u64| (nanos > 0).then(|| Duration::from_nanos(nanos));
        let heartbeat = nanos(request.idle_heartbeat);
        if request.idle_heartbeat.saturating_mul(2) > request.expires && heartbeat.is_some() {
            return context.out.push(error("400 Bad Request - heartbeat value too large"));
        }
        let expires = nanos(request.expires).map(|after| now + after);
        let pending = stream.count_from(self.next);
        if request.no_wait && pending == 0 && expires.is_none() {
            return context.out.push(error("404 No Messages"));
        }
        if Some(self.pulls.len()) == self.config.max_waiting {
            self.drop_uninterested(context.interest);
        }
        if Some(self.pulls.len()) == self.config.max_waiting {
            // The newer version lets a client with heartbeats wait for them.
            if version == Version::V2_9 || heartbeat.is_none() {
                context.out.push(error("409 Exceeded MaxWaiting"));
            }
            return;
        }
        self.pulls.push_back(Pull {
            reply: reply.to_owned(),
            // A server takes a negative number as it is: one message, and the request ends.
            batch: u64::try_from(request.batch).unwrap_or(0).max(1),
            max_bytes: request.max_bytes,
            expires,
            heartbeat: heartbeat.map(|every| (every, now + every)),
            no_wait: request.no_wait,
            has_delivered: false,
        });
        self.deliver(stream, context);
    }

    /// Delivers what there is to those who wait.
    pub(super) fn deliver(&mut self, stream: &Stream, context: &mut Pulling<'_>) {
        let version = context.version;
        while !self.pulls.is_empty()
            && let Some((&sequence, stored)) = stream.messages.range(self.next..).next()
        {
            let publication = &stored.publication;
            let reply = format!(
                "$JS.ACK.{}.{}.1.{sequence}.{}.{}.{}",
                stream.config.name,
                self.name,
                self.delivered + 1,
                unix_nanos(stored.at),
                stream.count_from(sequence + 1),
            );
            let size = publication.subject.len()
                + reply.len()
                + publication.headers.len()
                + publication.payload.len();
            let Some(mut pull) = self.next_pull(size as u64, context) else { break };
            pull.batch -= 1;
            pull.has_delivered = true;
            if let Some((every, next)) = &mut pull.heartbeat {
                *next = context.now + *every;
            }
            self.next = sequence + 1;
            self.delivered += 1;
            self.floor = sequence;
            self.last_active = Some(context.now);
            context.out.push(Delivery {
                to: pull.reply.clone(),
                subject: publication.subject.clone(),
                reply,
                headers: publication.headers.clone(),
                payload: publication.payload.clone(),
                is_internal: false,
            });
            if pull.batch > 0 {
                self.pulls.push_back(pull);
            } else if pull.max_bytes > 0 && version == Version::V2_15 {
                context.out.push(pull.status(version, "409 Batch Completed"));
            }
        }
        if self.pulls.is_empty() {
            self.used_at = context.now;
        }
        let ends = |pull: &Pull| pull.no_wait && (pull.expires.is_none() || pull.has_delivered);
        while let Some(index) = self.pulls.iter().position(ends) {
            let Some(pull) = self.pulls.remove(index) else { break };
            context.out.push(Delivery::status(version, &pull.reply, "404 No Messages"));
        }
    }

    /// Takes the pull request that gets a message of `size` bytes. Requests that have expired, have
    /// no room for it, or nobody waits for, are ended.
    fn next_pull(&mut self, size: u64, context: &mut Pulling<'_>) -> Option<Pull> {
        let version = context.version;
        while let Some(mut pull) = self.pulls.pop_front() {
            if pull.expires.is_some_and(|expires| expires <= context.now) {
                context.out.push(pull.status(version, "408 Request Timeout"));
            } else if pull.max_bytes > 0 && size > pull.max_bytes {
                context.out.push(pull.status(version, "409 Message Size Exceeds MaxBytes"));
            } else if context.interest.has_interest(&pull.reply) {
                if pull.max_bytes > 0 {
                    pull.max_bytes -= size;
                    if pull.max_bytes == 0 {
                        pull.batch = 1;
                    }
                }
                return Some(pull);
            }
        }
        None
    }

    fn drop_uninterested(&mut self, interest: &Subscriptions) {
        self.pulls.retain(|pull| interest.has_interest(&pull.reply));
    }

    /// Ends pull requests that have expired, and sends heartbeats.
    pub(super) fn advance(&mut self, context: &mut Pulling<'_>) {
        let Pulling { version, now, interest, .. } = *context;
        let waited = !self.pulls.is_empty();
        let (last_consumer, last_stream) = (self.delivered, self.next - 1);
        self.pulls.retain_mut(|pull| {
            if pull.expires.is_some_and(|expires| expires <= now) {
                context.out.push(pull.status(version, "408 Request Timeout"));
                return false;
            }
            if !interest.has_interest(&pull.reply) {
                return false;
            }
            if let Some((every, next)) = &mut pull.heartbeat
                && *next <= now
            {
                let text = format!(
                    "100 Idle Heartbeat\r\nNats-Last-Consumer: {last_consumer}\r\n\
                     Nats-Last-Stream: {last_stream}"
                );
                context.out.push(Delivery::status(version, &pull.reply, &text));
                *next = now + *every;
            }
            true
        });
        if waited {
            self.used_at = now;
        }
    }

    /// When [`advance`](Self::advance) has something to do, or the consumer is to be deleted.
    pub(super) fn deadline(&self) -> Instant {
        let threshold = Duration::from_nanos(self.config.inactive_threshold.unwrap_or(0));
        let deadlines = self.pulls.iter().flat_map(|pull| {
            [pull.expires, pull.heartbeat.map(|(_, next)| next), Some(self.used_at + threshold)]
        });
        deadlines.flatten().min().unwrap_or(self.used_at + threshold)
    }

    /// Whether no request has waited for [`ConsumerConfig::inactive_threshold`].
    pub(super) fn is_abandoned(&self, now: Instant) -> bool {
        let threshold = Duration::from_nanos(self.config.inactive_threshold.unwrap_or(0));
        self.pulls.is_empty() && self.used_at + threshold <= now
    }

    /// Ends all pull requests.
    pub(super) fn delete(&mut self, context: &mut Pulling<'_>) {
        for pull in self.pulls.drain(..) {
            let text = "409 Consumer Deleted";
            context.out.push(Delivery::status(context.version, &pull.reply, text));
        }
    }

    /// Goes on behind the messages of a stream that was purged.
    pub(super) fn purge(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    pub(super) fn info(&self, stream: &Stream, version: Version, now: Instant) -> ConsumerInfo {
        let floor = if self.delivered == 0 { self.floor } else { self.next - 1 };
        ConsumerInfo {
            stream_name: stream.config.name.clone(),
            name: self.name.clone(),
            created: rfc3339(Some(self.created)),
            config: self.config.clone(),
            delivered: Position {
                consumer_seq: self.delivered,
                stream_seq: self.next - 1,
                last_active: self.last_active.map(|at| rfc3339(Some(at))),
            },
            ack_floor: Position {
                consumer_seq: self.delivered,
                stream_seq: floor,
                last_active: None,
            },
            num_ack_pending: 0,
            num_redelivered: 0,
            num_waiting: self.pulls.len(),
            num_pending: stream.count_from(self.next),
            ts: (version == Version::V2_15).then(|| rfc3339(Some(now))),
        }
    }
}

/// What a consumer needs to answer.
#[derive(Debug)]
pub(super) struct Pulling<'a> {
    pub(super) version: Version,
    pub(super) now: Instant,
    pub(super) interest: &'a Subscriptions,
    pub(super) out: &'a mut Vec<Delivery>,
}

impl Delivery {
    /// A status for a pull request.
    fn status(version: Version, reply: &str, text: &str) -> Self {
        Self {
            to: reply.to_owned(),
            subject: reply.to_owned(),
            reply: String::new(),
            headers: status(text),
            payload: Bytes::new(),
            is_internal: version == Version::V2_9,
        }
    }
}

/// The request in `payload`: JSON, a number, or one message.
fn parse(payload: &[u8]) -> Result<PullRequest, String> {
    let text = str::from_utf8(payload).unwrap().trim();
    if text.starts_with('{') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    let batch = text.parse().unwrap_or(1);
    Ok(PullRequest { batch, ..PullRequest::default() })
}

/// What CONSUMER.INFO shows of a consumer.
#[derive(Debug, Serialize)]
pub(super) struct ConsumerInfo {
    stream_name: String,
    name: String,
    created: String,
    config: ConsumerConfig,
    delivered: Position,
    ack_floor: Position,
    num_ack_pending: u64,
    num_redelivered: u64,
    num_waiting: usize,
    num_pending: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<String>,
}

#[derive(Debug, Serialize)]
struct Position {
    consumer_seq: u64,
    stream_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_active: Option<String>,
}
