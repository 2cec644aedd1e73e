//! What a consumer receives.

use alloc::string::String;
use core::time::Duration;

use super::{
    Check, Consumer, ConsumerError, ConsumerEvent, Delivery, GapKind, Open, Start, State,
    StreamGap,
    create::Made,
    delivery::{Metadata, size},
    pulls::Pulls,
};
use crate::{
    Instant,
    nats::{
        Message, StatusCode, Subscription,
        jetstream::{ApiError, ErrorCode, FoundStream, StreamError, StreamInfo},
    },
};

impl Consumer {
    pub(super) fn subscription(&self) -> Option<Subscription> {
        match &self.state {
            State::Open(open) => open.subscription,
            State::Disconnected
            | State::Waiting { .. }
            | State::Finding { .. }
            | State::Making { .. } => None,
        }
    }

    /// The server's consumer is lost, or cannot be made: tries again after a back-off.
    pub(super) fn interrupt(&mut self, reason: ConsumerError, now: Instant) {
        let retry = self.close(now);
        self.events.push_back(ConsumerEvent::Waiting { reason, retry });
    }

    /// Gives up the server's consumer, which the server deletes after a while. Returns how long
    /// until the next attempt.
    fn close(&mut self, now: Instant) -> Duration {
        if let State::Open(open) = &self.state {
            self.stale = open.subscription;
            self.backoff.handle_end(now.since(open.since));
        }
        self.stream.forget();
        let retry = self.backoff.next();
        self.state = State::Waiting { until: now + retry };
        retry
    }

    pub(super) fn handle_made(&mut self, made: Result<Made, ApiError>, now: Instant) {
        match made {
            Err(error) if error.code() == Some(ErrorCode::STREAM_NOT_FOUND) => {
                let stream = self.config.stream.clone();
                self.interrupt(StreamError::Api { stream, error }.into(), now);
            }
            Err(error) => self.interrupt(ConsumerError::Create(error), now),
            Ok(Made { name, config }) => {
                let max_batch = u64::try_from(config.max_batch).ok().filter(|max| *max > 0);
                self.state = State::Open(Open {
                    name,
                    inbox: String::new(),
                    subscription: None,
                    since: now,
                    last_received: now,
                    deliveries: 0,
                    pulls: Pulls::new(self.config.max_bytes.get(), max_batch),
                    is_checked: false,
                    check: Check::Due,
                });
            }
        }
    }

    pub(super) fn handle_found(&mut self, found: Result<FoundStream, StreamError>, now: Instant) {
        let info = match (found, &mut self.state) {
            (Ok(found), _) => found.info,
            // A consumer that was checked before continues. The next request that expires asks
            // again.
            (Err(StreamError::Api { error, .. }), State::Open(open))
                if open.is_checked && error.code() != Some(ErrorCode::STREAM_NOT_FOUND) =>
            {
                open.check = Check::Done;
                return;
            }
            (Err(error), _) => {
                // All messages of a stream that does not exist yet are newer than this consumer.
                if self.next.is_none() && error.is_not_found() {
                    self.begins_with_first = true;
                }
                return self.interrupt(error.into(), now);
            }
        };
        match &self.state {
            State::Finding { .. } => self.begin(info),
            State::Open(Open { check: Check::Sent { next }, .. }) => {
                let next = *next;
                self.check(&info, next, now);
            }
            State::Open(_) | State::Disconnected | State::Waiting { .. } | State::Making { .. } => {
            }
        }
    }

    /// Sets the position in a stream that is found for the first time.
    fn begin(&mut self, info: StreamInfo) {
        let state = info.state;
        self.next = Some(match self.config.start {
            Start::Sequence(sequence) => sequence.max(1),
            Start::Last(_) if self.begins_with_first => state.first_sequence.max(1),
            Start::Last(count) => {
                let last = state.last_sequence.saturating_add(1).saturating_sub(count);
                last.max(state.first_sequence).max(1)
            }
        });
        self.created = Some(info.created);
        self.state = State::Making { request: None };
    }

    /// Compares the stream with the position, which was at `next` when the stream was asked for.
    fn check(&mut self, info: &StreamInfo, next: u64, now: Instant) {
        let state = info.state;
        let behind_since = self.behind_since.take();
        if self.created.as_ref() != Some(&info.created) {
            self.created = Some(info.created.clone());
            return self.jump(GapKind::Replaced, state.first_sequence.max(1), now);
        }
        if let Some(end) = state.last_sequence.checked_add(1).filter(|end| *end < next) {
            // A new leader of a cluster may know the last messages only after a moment.
            let since = behind_since.unwrap_or(now);
            if now.since(since) >= MIN_BEHIND {
                return self.jump(GapKind::Truncated, end, now);
            }
            self.behind_since = Some(since);
            let behind = ConsumerError::Behind { last: state.last_sequence, expected: next };
            return self.interrupt(behind, now);
        }
        let State::Open(open) = &mut self.state else { return };
        open.check = Check::Done;
        if !open.is_checked {
            open.is_checked = true;
            self.events.push_back(ConsumerEvent::Reading { next, stream: state });
        }
    }

    /// Goes on at another sequence, with another consumer of the server.
    fn jump(&mut self, kind: GapKind, found: u64, now: Instant) {
        self.close(now);
        let expected = self.next.replace(found).unwrap_or(found);
        self.events.push_back(ConsumerEvent::Gap(StreamGap { expected, found, kind }));
    }

    pub(super) fn handle_message(&mut self, message: Message, now: Instant) {
        let reply = message.reply_bytes();
        if !Metadata::is_in(reply) {
            return self.handle_status(&message, now);
        }
        let Some(metadata) = Metadata::parse(reply) else {
            let reply = excerpt(&String::from_utf8_lossy(reply));
            return self.interrupt(ConsumerError::Malformed { reply }, now);
        };
        let (State::Open(open), Some(expected)) = (&mut self.state, self.next) else { return };
        let Metadata { sequence, delivery, timestamp, pending } = metadata;
        if delivery != open.deliveries + 1 {
            let expected = open.deliveries + 1;
            let error = ConsumerError::Delivery { expected, found: delivery };
            return self.interrupt(error, now);
        }
        if sequence < expected {
            return self.interrupt(ConsumerError::Sequence { expected, found: sequence }, now);
        }
        let limit = self.config.max_bytes.get();
        if self.queued > limit {
            let queued = self.queued;
            return self.interrupt(ConsumerError::TooMany { queued, limit }, now);
        }
        let size = size(&message);
        open.pulls.received(size);
        open.deliveries = delivery;
        open.last_received = now;
        if sequence > expected {
            let gap = StreamGap { expected, found: sequence, kind: GapKind::Missing };
            self.events.push_back(ConsumerEvent::Gap(gap));
        }
        self.next = Some(sequence + 1);
        self.queued += size;
        let delivery = Delivery { sequence, timestamp, pending, message };
        self.events.push_back(ConsumerEvent::Message(delivery));
    }

    /// Handles a message that is none of the stream
    /// ([ADR-37](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-37.md)).
    fn handle_status(&mut self, message: &Message, now: Instant) {
        // Anybody may publish to the inbox. What has no status is not from the server.
        let Ok(headers) = message.headers() else { return };
        let (Some(code), State::Open(open)) = (headers.status(), &mut self.state) else { return };
        open.last_received = now;
        let number = |name: &str| headers.get(name).and_then(|value| value.parse::<u64>().ok());
        let description = headers.description();
        let is = |text: &str| description.eq_ignore_ascii_case(text);
        let reason = match code {
            StatusCode::IDLE_HEARTBEAT => {
                let found = number("Nats-Last-Consumer").unwrap_or(open.deliveries);
                if found == open.deliveries {
                    return;
                }
                ConsumerError::Delivery { expected: open.deliveries, found }
            }
            StatusCode::NO_RESPONDERS => ConsumerError::NoResponders,
            StatusCode::CONFLICT if is("Consumer Deleted") => ConsumerError::Deleted,
            StatusCode::CONFLICT if is("Leadership Change") => ConsumerError::LeadershipChange,
            _ => {
                let (messages, bytes) = (number(PENDING_MESSAGES), number(PENDING_BYTES));
                let is_end = matches!(code, StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT);
                if let (true, Some(messages), Some(bytes)) = (is_end, messages, bytes) {
                    return open.handle_end(code, messages, bytes, is(MAX_BYTES));
                }
                let description = excerpt(description);
                ConsumerError::Status { code, description }
            }
        };
        self.interrupt(reason, now);
    }
}

impl Open {
    /// Handles the end of a request that was not served in full.
    fn handle_end(&mut self, code: StatusCode, messages: u64, bytes: u64, is_too_long: bool) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if is_too_long {
            self.pulls.refused(bytes);
        }
        self.pulls.ended(messages, bytes);
        if code == StatusCode::REQUEST_TIMEOUT && self.check == Check::Done {
            self.check = Check::Due;
        }
    }
}

/// A text of the server for an error, at most 64 characters.
fn excerpt(text: &str) -> String {
    text.chars().take(MAX_EXCERPT).collect()
}

/// For how long a stream must end before the position until it counts as truncated.
const MIN_BEHIND: Duration = Duration::from_secs(2);
const PENDING_MESSAGES: &str = "Nats-Pending-Messages";
const PENDING_BYTES: &str = "Nats-Pending-Bytes";
/// The description of a status: the next message is longer than what is left of the request.
const MAX_BYTES: &str = "Message Size Exceeds MaxBytes";
const MAX_EXCERPT: usize = 64;
