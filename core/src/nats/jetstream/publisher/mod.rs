//! A publisher: numbered messages to one stream, in order and exactly once.

mod event;
#[cfg(test)]
mod model;
mod resync;
#[cfg(test)]
mod tests;

use alloc::{collections::VecDeque, string::String};
use core::num::NonZeroUsize;

use bytes::Bytes;

use self::resync::{Epoch, Found, Last};
use super::{
    ApiError, ApiReply, ApiRequest, EnsureStream, ErrorCode, FoundStream, MESSAGE_ID, MessageId,
    PublishAck, StoredMessage, StreamConfig,
};
use crate::{
    Instant,
    dial::Backoff,
    nats::{Client, HeaderBlock, Incoming, Message, Publish, RequestError, RequestId, SendError},
};

pub use self::event::{EpochEnd, MessageRefused, PublishError, PublisherEvent, PublisherProblem};

/// Publishes numbered messages to one stream, in order and exactly once within an epoch.
///
/// ```
/// use wirestate_core::{Instant, drive};
/// use wirestate_core::nats::{Client, Config};
/// use wirestate_core::nats::jetstream::{Publisher, PublisherEvent, StreamConfig};
///
/// let now = Instant::EPOCH;
/// let mut client = Client::new(Config::default(), now)?;
/// let mut publisher = Publisher::new(StreamConfig::new("orders", "orders.new"), 7);
/// let receive = |client: &mut Client, text: &str| {
///     drive::deliver(client, &mut text.as_bytes(), now);
/// };
/// let sent = |client: &mut Client| {
///     let mut buffer = [0; 4096];
///     let n = drive::collect_into(client, &mut buffer, now);
///     String::from_utf8_lossy(&buffer[..n]).into_owned()
/// };
/// // The reply to request `number`.
/// let reply = |client: &mut Client, publisher: &mut Publisher, number: u64, json: &str| {
///     receive(client, &format!("MSG _INBOX.S.0.{number} 1 {}\r\n{json}\r\n", json.len()));
///     let incoming = client.take_incoming(now).expect("it is complete");
///     assert!(publisher.handle(client, incoming, now).is_none());
/// };
/// receive(&mut client, "INFO {\"server_id\":\"S\",\"headers\":true}\r\nPONG\r\n");
/// client.take_incoming(now);
/// sent(&mut client);
///
/// // Epoch 3 begins with message 10. The stream has the messages up to sequence 7.
/// publisher.begin_epoch(3, 10, now);
/// publisher.connected(&mut client, now);
/// assert!(sent(&mut client).contains("PUB $JS.API.STREAM.INFO.orders "));
/// reply(&mut client, &mut publisher, 0, r#"{"config":{"name":"orders",
///     "subjects":["orders.new"],"storage":"file","num_replicas":1,"max_bytes":-1,"max_age":0,
///     "discard":"old"},"created":"2026-01-01T00:00:00Z","state":{"first_seq":1,"last_seq":7,
///     "messages":7}}"#);
/// assert!(sent(&mut client).contains("PUB $JS.API.STREAM.MSG.GET.orders "));
/// let last = r#"{"message":{"subject":"orders.new","seq":7}}"#;
/// reply(&mut client, &mut publisher, 1, last);
/// assert_eq!(publisher.take_event(), Some(PublisherEvent::Resumed { from: 10 }));
///
/// // Two messages are in flight. The first one is acknowledged.
/// publisher.publish(&mut client, 10, "ten".into(), now)?;
/// publisher.publish(&mut client, 11, "eleven".into(), now)?;
/// assert!(sent(&mut client).ends_with(
///     "Nats-Msg-Id: 3-11\r\nNats-Expected-Last-Sequence: 8\r\n\
///      Nats-Expected-Last-Msg-Id: 3-10\r\n\r\neleven\r\n"
/// ));
/// reply(&mut client, &mut publisher, 2, r#"{"stream":"orders","seq":8}"#);
/// assert_eq!(publisher.take_event(), Some(PublisherEvent::Acknowledged { before: 11 }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It keeps no message. Its owner offers them by their positions, and keeps each until it is
/// [acknowledged](PublisherEvent::Acknowledged). [`next_position`](Self::next_position) says which
/// one to offer, and goes back after a failure.
///
/// Many messages are in flight at once. Each has an id, which is its epoch and position, and is
/// stored only behind the message before it: the publisher sends the expected last sequence of the
/// stream, and the expected id of the last message. (The sequence alone does not suffice. A message
/// of somebody else may take the sequence of one in flight, and the next one in flight would be
/// stored behind it.) So it needs no `duplicate_window`, and messages of an old connection or of a
/// former holder of the [`Lease`](super::Lease) do no harm, however late they arrive.
///
/// After any failure, and on each connection, it reads the last message of the stream, and resumes
/// behind it. If it cannot be sure that the stream has each message exactly once, the epoch
/// [ends](EpochEnd), and the owner begins another one: between two epochs, messages may be missing
/// or come twice.
///
/// Call [`pump`](Self::pump) in each turn of the driver, and take the [events](Self::take_event)
/// after each call. A stream that does not exist is created.
///
/// The client needs a [`request_timeout`](crate::nats::Config::request_timeout), more
/// [`max_requests`](crate::nats::Config::max_requests) than are in flight here, and a
/// [`max_message`](crate::nats::Config::max_message) of 4/3 of the longest message in the stream:
/// the last one is read as Base64.
///
/// It holds 8 bytes for each message in flight, the stream's configuration, and the events that
/// were not taken.
#[derive(Debug)]
pub struct Publisher {
    stream: EnsureStream,
    max_in_flight: usize,
    /// `None` before the first one, and when one has ended.
    epoch: Option<Epoch>,
    is_connected: bool,
    is_suspended: bool,
    state: State,
    /// The requests without an acknowledgement, the first one for the first unacknowledged
    /// position. They are cancelled by `pump` unless the publisher is ready.
    in_flight: VecDeque<RequestId>,
    /// The next message was refused for its length. The epoch ends when those before it are
    /// acknowledged.
    refused: Option<SendError>,
    /// Up to which position [`PublisherEvent::Acknowledged`] was returned.
    reported: u64,
    /// The first position that is neither acknowledged nor dropped.
    position: u64,
    backoff: Backoff,
    /// Nothing was acknowledged since the last failure.
    has_failed: bool,
    /// Kept for its memory.
    headers: HeaderBlock,
    events: VecDeque<PublisherEvent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// There is no connection, or no epoch.
    Idle,
    Wait {
        until: Instant,
    },
    Find,
    Finding,
    Read(Found),
    Reading(RequestId, Found),
    /// The message before the next one is `after`; `None`: none of this epoch on this connection.
    Ready {
        after: Option<MessageId>,
    },
}

impl Publisher {
    /// A publisher to the first subject of `stream`, of which this must be the only one. `seed` is
    /// for the jitter of its back-off.
    pub fn new(stream: StreamConfig, seed: u64) -> Self {
        Self {
            stream: EnsureStream::new(stream, true),
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            epoch: None,
            is_connected: false,
            is_suspended: false,
            state: State::Idle,
            in_flight: VecDeque::new(),
            refused: None,
            reported: 0,
            position: 0,
            backoff: Backoff::new(seed),
            has_failed: false,
            headers: HeaderBlock::new(),
            events: VecDeque::new(),
        }
    }

    /// Sets the most messages without an acknowledgement. Default: 1,000.
    pub fn with_max_in_flight(self, max: NonZeroUsize) -> Self {
        Self { max_in_flight: max.get(), ..self }
    }

    /// Begins an epoch with the message at position `from`. `epoch` must be higher than each epoch
    /// before it, of any publisher: [`Lease`](super::Lease) has such numbers.
    ///
    /// Messages in flight are not awaited any more, and the stream may have them or not. So call it
    /// when none is, unless they are given up.
    pub fn begin_epoch(&mut self, epoch: u64, from: u64, now: Instant) {
        self.epoch = Some(Epoch::new(epoch, from));
        self.position = from;
        self.reported = from;
        self.refused = None;
        self.is_suspended = false;
        self.state = match (self.is_connected, self.has_failed) {
            (false, _) => State::Idle,
            (true, true) => State::Wait { until: now + self.backoff.next() },
            (true, false) => State::Find,
        };
    }

    /// Ends the epoch, such as when the lease was lost. Nothing more is published, and no event
    /// follows.
    pub fn end_epoch(&mut self) {
        self.epoch = None;
        self.refused = None;
        self.state = State::Idle;
    }

    /// Publishes nothing until [`resume`](Self::resume), such as when the lease has expired. The
    /// epoch stays.
    pub fn suspend(&mut self) {
        self.refused = None;
        self.is_suspended = true;
        self.state = State::Idle;
    }

    /// Goes on with the epoch after [`suspend`](Self::suspend). The stream's last message is read
    /// before: if somebody else has published meanwhile, the epoch ends
    /// ([`EpochEnd::HigherEpoch`]).
    pub fn resume(&mut self) {
        self.is_suspended = false;
        if self.is_connected && self.epoch.is_some() {
            self.state = State::Find;
        }
    }

    /// The epoch; `None` before the first one, and when one has ended.
    pub fn epoch(&self) -> Option<u64> {
        self.epoch.as_ref().map(|epoch| epoch.number)
    }

    /// Starts on a new connection. Requests on the last one are forgotten.
    pub fn connected(&mut self, client: &mut Client, now: Instant) {
        self.disconnected();
        self.is_connected = true;
        if self.epoch.is_some() && !self.is_suspended {
            self.state = State::Find;
        }
        self.pump(client, now);
    }

    /// Forgets the requests on a connection that has ended.
    pub fn disconnected(&mut self) {
        self.is_connected = false;
        self.in_flight.clear();
        self.stream.forget();
        self.refused = None;
        self.state = State::Idle;
    }

    /// The position of the next message to publish; `None` while none can be.
    pub fn next_position(&self) -> Option<u64> {
        let is_ready = matches!(self.state, State::Ready { .. }) && self.refused.is_none();
        let in_flight = self.in_flight.len();
        (is_ready && in_flight < self.max_in_flight).then(|| self.position + in_flight as u64)
    }

    /// Publishes the message at `position`, which must be [`next_position`](Self::next_position).
    ///
    /// # Errors
    /// Nothing was sent. If the message is too long for the server, the epoch ends when the
    /// messages in flight are acknowledged, with [`EpochEnd::Refused`].
    pub fn publish(
        &mut self,
        client: &mut Client,
        position: u64,
        payload: Bytes,
        now: Instant,
    ) -> Result<(), PublishError> {
        let (next, in_flight) = (self.next_position(), self.in_flight.len() as u64);
        let (State::Ready { after }, Some(epoch)) = (&mut self.state, &mut self.epoch) else {
            return Err(PublishError::NotNext { position, next });
        };
        let (true, Some(base)) = (next == Some(position), &epoch.base) else {
            return Err(PublishError::NotNext { position, next });
        };
        let id = MessageId { epoch: epoch.number, position };
        let expected = base.sequence.saturating_add(in_flight);
        set_headers(&mut self.headers, id, expected, *after);
        let subject = self.stream.config().subjects.first().map_or("", String::as_str);
        let message = Publish::new(subject, payload).with_headers(&self.headers);
        match client.request(&message, now) {
            Ok(request) => {
                self.in_flight.push_back(request);
                epoch.offered = epoch.offered.max(position + 1);
                *after = Some(id);
                Ok(())
            }
            Err(error) => {
                if matches!(error, SendError::TooLong { .. }) {
                    self.refused = Some(error.clone());
                    self.end_if_refused();
                } else if !error.is_temporary() {
                    self.fail(PublisherProblem::Send(error.clone()), now);
                }
                Err(error.into())
            }
        }
    }

    /// The number of messages that are not acknowledged yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The first position that is neither acknowledged nor dropped. The next epoch begins with it,
    /// unless messages are skipped.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The sequence of the stream behind which the message at [`position`](Self::position) belongs;
    /// `None` while it is unknown.
    pub fn sequence(&self) -> Option<u64> {
        self.epoch.as_ref()?.base.as_ref().map(|base| base.sequence)
    }

    /// Sends what has to be sent, as far as the client has room. Call it in each turn of the
    /// driver, and after each method that has no client.
    pub fn pump(&mut self, client: &mut Client, now: Instant) {
        if !matches!(self.state, State::Ready { .. }) {
            self.in_flight.drain(..).for_each(|request| client.cancel(request));
        }
        let sent = match &self.state {
            State::Find => self.stream.send(client, now).map(|()| State::Finding),
            State::Read(found) => {
                let name = &self.stream.config().name;
                let request = ApiRequest::message(name, found.last_sequence).send(client, now);
                request.map(|request| State::Reading(request, found.clone()))
            }
            State::Idle
            | State::Wait { .. }
            | State::Finding
            | State::Reading(..)
            | State::Ready { .. } => return,
        };
        match sent {
            Ok(state) => self.state = state,
            Err(error) if error.is_temporary() => {}
            Err(error) => self.fail(PublisherProblem::Send(error), now),
        }
    }

    /// Handles what the client has received. Returns what is not for this publisher.
    pub fn handle(
        &mut self,
        client: &mut Client,
        incoming: Incoming,
        now: Instant,
    ) -> Option<Incoming> {
        let Incoming::Reply { request, reply } = incoming else { return Some(incoming) };
        if !self.handle_reply(client, request, &reply, now) {
            return Some(Incoming::Reply { request, reply });
        }
        self.pump(client, now);
        None
    }

    /// Returns whether it was a request of this publisher.
    fn handle_reply(
        &mut self,
        client: &mut Client,
        request: RequestId,
        reply: &Result<Message, RequestError>,
        now: Instant,
    ) -> bool {
        let is_ready = matches!(self.state, State::Ready { .. });
        match self.in_flight.binary_search(&request) {
            Ok(0) if is_ready => {
                self.in_flight.pop_front();
                self.handle_ack(reply, now);
            }
            Ok(_) if is_ready => {
                self.fail(PublisherProblem::Order { position: self.position }, now);
            }
            Ok(_) => {}
            Err(_) => return self.handle_resync(client, request, reply, now),
        }
        true
    }

    /// Handles the reply to a request about the stream.
    fn handle_resync(
        &mut self,
        client: &mut Client,
        request: RequestId,
        reply: &Result<Message, RequestError>,
        now: Instant,
    ) -> bool {
        match &self.state {
            State::Finding => match self.stream.handle(client, request, reply, now) {
                Some(Ok(found)) => self.handle_stream(found),
                Some(Err(error)) => self.fail(PublisherProblem::Stream(error), now),
                None => return false,
            },
            State::Reading(own, found) if *own == request => {
                let found = found.clone();
                match ApiReply::of::<StoredMessage>(reply) {
                    Ok(message) => self.resume_behind(found, Last::of(&message)),
                    Err(error) if error.code() == Some(ErrorCode::MESSAGE_NOT_FOUND) => {
                        self.resume_behind(found, Last::None);
                    }
                    Err(error) => self.fail(PublisherProblem::Read(error), now),
                }
            }
            State::Idle
            | State::Wait { .. }
            | State::Find
            | State::Read(_)
            | State::Reading(..)
            | State::Ready { .. } => return false,
        }
        true
    }

    fn handle_ack(&mut self, reply: &Result<Message, RequestError>, now: Instant) {
        let Some(Epoch { number, base: Some(base), .. }) = &mut self.epoch else { return };
        let (position, expected) = (self.position, base.sequence.saturating_add(1));
        let ack = match reply {
            Ok(message) => PublishAck::parse(message.payload()),
            Err(error) => Err(ApiError::NoReply(*error)),
        };
        match ack {
            Ok(ack) if ack.sequence == expected && ack.stream == self.stream.config().name => {
                base.sequence = expected;
                base.is_own = true;
                self.position += 1;
                if self.has_failed {
                    self.has_failed = false;
                    self.backoff.reset();
                }
                self.end_if_refused();
            }
            // The stream knows the id of an earlier lease.
            Ok(ack) if ack.duplicate && ack.sequence < expected => {
                let (sequence, found) = (ack.sequence, *number);
                self.end(EpochEnd::HigherEpoch { sequence, found });
            }
            Ok(ack) => {
                let found = ack.sequence;
                self.fail(PublisherProblem::Acknowledgement { position, found, expected }, now);
            }
            Err(ApiError::Refused(refusal)) if refusal.code == ErrorCode::MESSAGE_TOO_LONG => {
                self.drop_refused(MessageRefused::Stream(refusal));
            }
            Err(error) => self.fail(PublisherProblem::Publish { position, error }, now),
        }
    }

    /// Ends the epoch if the next message was refused, and all before it are acknowledged.
    fn end_if_refused(&mut self) {
        if self.in_flight.is_empty()
            && let Some(error) = self.refused.take()
        {
            self.drop_refused(MessageRefused::Server(error));
        }
    }

    /// Drops the message at `position`.
    fn drop_refused(&mut self, reason: MessageRefused) {
        let position = self.position;
        self.report();
        self.position += 1;
        self.reported = self.position;
        self.end(EpochEnd::Refused { position, reason });
    }

    fn handle_stream(&mut self, found: FoundStream) {
        let FoundStream { info, is_new } = found;
        if is_new {
            self.push(PublisherEvent::StreamCreated);
        }
        let found = Found { created: info.created, last_sequence: info.state.last_sequence };
        if found.last_sequence == 0 {
            self.resume_behind(found, Last::None);
        } else {
            self.state = State::Read(found);
        }
    }

    fn resume_behind(&mut self, found: Found, last: Last) {
        let Some(epoch) = &mut self.epoch else { return };
        match epoch.resume(self.position, found, last) {
            Ok(from) => {
                self.position = from;
                self.state = State::Ready { after: None };
                self.push(PublisherEvent::Resumed { from });
            }
            Err(end) => self.end(end),
        }
    }

    fn fail(&mut self, problem: PublisherProblem, now: Instant) {
        self.has_failed = true;
        self.refused = None;
        self.state = State::Wait { until: now + self.backoff.next() };
        self.push(PublisherEvent::Waiting(problem));
    }

    fn end(&mut self, end: EpochEnd) {
        self.has_failed = true;
        self.end_epoch();
        self.push(PublisherEvent::EpochEnded(end));
    }

    fn push(&mut self, event: PublisherEvent) {
        self.report();
        self.events.push_back(event);
    }

    /// Reports what is acknowledged: many messages by one event.
    fn report(&mut self) {
        if self.reported != self.position {
            self.reported = self.position;
            self.events.push_back(PublisherEvent::Acknowledged { before: self.position });
        }
    }

    /// Removes and returns the next event. Take all of them after each other method.
    pub fn take_event(&mut self) -> Option<PublisherEvent> {
        if self.events.is_empty() {
            self.report();
        }
        self.events.pop_front()
    }

    /// The next time at which [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Wait { until } => Some(until),
            State::Idle
            | State::Find
            | State::Finding
            | State::Read(_)
            | State::Reading(..)
            | State::Ready { .. } => None,
        }
    }

    /// Handles a deadline of [`poll_timeout`](Self::poll_timeout) that may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|until| until <= now) {
            self.state = State::Find;
        }
    }
}

/// Sets the headers of message `id`: the stream's last sequence before it, and the id of the last
/// message.
fn set_headers(headers: &mut HeaderBlock, id: MessageId, sequence: u64, after: Option<MessageId>) {
    headers.clear();
    headers.push(MESSAGE_ID, id).expect(VALID);
    headers.push("Nats-Expected-Last-Sequence", sequence).expect(VALID);
    if let Some(after) = after {
        headers.push("Nats-Expected-Last-Msg-Id", after).expect(VALID);
    }
}

/// The most messages in flight. It leaves some of the client's default of 1,024 requests to others.
const DEFAULT_MAX_IN_FLIGHT: usize = 1000;
const VALID: &str = "the name and the value are valid";
