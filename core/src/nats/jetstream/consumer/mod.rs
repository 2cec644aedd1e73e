//! Reading a stream in order, over connections and over losses of the server's consumer.

mod config;
mod create;
mod delivery;
mod event;
mod pulls;
mod receiving;
#[cfg(test)]
mod tests;

use alloc::{collections::VecDeque, format, string::String};

pub use self::{
    config::{ConsumerConfig, Start},
    delivery::Delivery,
    event::{ConsumerError, ConsumerEvent, GapKind, StreamGap},
};
use self::{
    create::create_request,
    pulls::{Pull, Pulls},
};
use super::{ApiReply, EnsureStream, StreamConfig};
use crate::{
    ConfigError, Instant,
    dial::Backoff,
    nats::{Client, Incoming, Publish, RequestId, SendError, Subscription},
};

/// Reads a stream in order from a position, over connections and over losses of the server's
/// consumer.
///
/// It is no machine: it sends by a [`Client`], and gets what the client has received. For each
/// connection, call [`connected`](Self::connected), then [`handle`](Self::handle) for all that is
/// incoming, [`take_event`](Self::take_event) until it returns `None`, [`pump`](Self::pump) after
/// that, and [`handle_timeout`](Self::handle_timeout) at [`poll_timeout`](Self::poll_timeout).
///
/// ```
/// use wirestate_core::{Instant, drive};
/// use wirestate_core::nats::{Client, Config};
/// use wirestate_core::nats::jetstream::{Consumer, ConsumerConfig, ConsumerEvent, Start};
///
/// let now = Instant::EPOCH;
/// let mut client = Client::new(Config::default(), now)?;
/// let config = ConsumerConfig::new("orders", "orders.new").with_start(Start::Last(1));
/// let mut consumer = Consumer::new(config)?;
///
/// // The driver's part: bytes in, bytes out. The reply to a request goes to its inbox.
/// let receive = |client: &mut Client, text: String| {
///     drive::deliver(client, &mut text.as_bytes(), now);
/// };
/// let reply = |client: &mut Client, inbox: &str, json: &str| {
///     receive(client, format!("MSG {inbox} 1 {}\r\n{json}\r\n", json.len()));
/// };
/// let sent = |client: &mut Client| {
///     let mut buffer = [0; 4096];
///     let n = drive::collect_into(client, &mut buffer, now);
///     String::from_utf8_lossy(&buffer[..n]).into_owned()
/// };
/// let handle = |client: &mut Client, consumer: &mut Consumer| {
///     let incoming = client.take_incoming(now).expect("something was received");
///     assert!(consumer.handle(client, incoming, now).is_none(), "it is the consumer's");
/// };
///
/// receive(&mut client, "INFO {\"server_id\":\"S\",\"headers\":true}\r\nPONG\r\n".into());
/// client.take_incoming(now);
/// sent(&mut client);
/// consumer.connected(&mut client, now);
///
/// // The stream is found: it has the messages 1 to 7. A consumer is made that begins with the last
/// // one, and the stream is looked at again: it might have been replaced meanwhile.
/// let stream = r#"{"config":{"name":"orders","subjects":["orders.new"],"storage":"file",
///     "num_replicas":1,"max_bytes":-1,"max_age":0,"discard":"old"},
///     "created":"2026-01-01T00:00:00Z","state":{"messages":7,"first_seq":1,"last_seq":7}}"#;
/// assert!(sent(&mut client).contains("PUB $JS.API.STREAM.INFO.orders _INBOX.S.0.0 0"));
/// reply(&mut client, "_INBOX.S.0.0", stream);
/// handle(&mut client, &mut consumer);
/// assert!(sent(&mut client).contains("\"opt_start_seq\":7"));
/// reply(&mut client, "_INBOX.S.0.1", r#"{"name":"c1","config":{}}"#);
/// handle(&mut client, &mut consumer);
/// sent(&mut client);
/// reply(&mut client, "_INBOX.S.0.2", stream);
/// handle(&mut client, &mut consumer);
/// assert!(matches!(consumer.take_event(), Some(ConsumerEvent::Reading { next: 7, .. })));
///
/// // Messages are asked for, and arrive.
/// let pull = "PUB $JS.API.CONSUMER.MSG.NEXT.orders.c1 _INBOX.S.0.2.s";
/// assert!(sent(&mut client).starts_with(pull));
/// let message = "MSG orders.new 2 $JS.ACK.orders.c1.1.7.1.1700000000.0 3\r\nnew\r\n";
/// receive(&mut client, message.into());
/// handle(&mut client, &mut consumer);
/// let Some(ConsumerEvent::Message(delivery)) = consumer.take_event() else { panic!() };
/// assert_eq!((delivery.sequence, delivery.message.payload()), (7, &b"new"[..]));
/// consumer.pump(&mut client, now);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Order
///
/// The messages have ascending sequences, without duplicates. Between two whose sequences are not
/// consecutive there is a [`ConsumerEvent::Gap`]. The server's consumer is ephemeral and has no
/// acknowledgements. It is made again, from the next sequence, when it is lost: it was deleted, its
/// server is gone, no heartbeat arrives, or a delivery was lost on its way. Sequences are compared
/// with those of the stream whenever a consumer is made, and every 30 s without a message.
///
/// One thing cannot be seen by sequences alone: a stream that has lost messages at its end, and has
/// stored as many others before it is looked at. Ids of the publisher show it ([`Delivery::id`]).
///
/// # Backpressure
///
/// Messages that were received wait here until they are taken. While they wait, no more are asked
/// for. So give it all that the client has received, even while you take nothing: otherwise
/// heartbeats and the server's PINGs would wait, too. After 30 s without a request, the server
/// deletes its consumer; the next request then finds none
/// ([`ConsumerError::NoResponders`]), and it is made again.
///
/// # Memory
///
/// It holds at most [`ConsumerConfig::max_bytes`] and one message, which keep their blocks of the
/// receive buffer ([`Message`](crate::nats::Message)), and their places in a queue: four times
/// `size_of::<ConsumerEvent>()` for each, since a gap may be before it, and a queue doubles. By the
/// count of `max_bytes`, a message has at least 30 bytes.
#[derive(Debug)]
pub struct Consumer {
    config: ConsumerConfig,
    stream: EnsureStream,
    /// The sequence of the next message; `None` before the stream was found.
    next: Option<u64>,
    /// The stream did not exist when it was first looked for.
    begins_with_first: bool,
    /// When the stream was created.
    created: Option<String>,
    /// Since when the stream ends before `next`.
    behind_since: Option<Instant>,
    state: State,
    /// The subscription of a consumer that was lost, which is to be ended.
    stale: Option<Subscription>,
    /// What was not taken.
    events: VecDeque<ConsumerEvent>,
    /// The bytes of the messages in `events`.
    queued: usize,
    backoff: Backoff,
}

#[derive(Debug)]
enum State {
    Disconnected,
    Waiting {
        until: Instant,
    },
    /// The stream is looked for.
    Finding {
        is_sent: bool,
    },
    /// A consumer is made.
    Making {
        request: Option<RequestId>,
    },
    /// There is a consumer.
    Open(Open),
}

/// A consumer of the server.
#[derive(Debug)]
struct Open {
    name: String,
    inbox: String,
    /// `None` while it could not be sent.
    subscription: Option<Subscription>,
    since: Instant,
    /// When a message or a heartbeat was last received, or the wait for one began.
    last_received: Instant,
    /// The number of deliveries.
    deliveries: u64,
    pulls: Pulls,
    /// Whether the stream was looked at since the consumer was made.
    is_checked: bool,
    check: Check,
}

/// Whether the stream is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Due,
    Sent {
        /// The next sequence then.
        next: u64,
    },
    Done,
}

/// In the order in which an owner meets them.
impl Consumer {
    /// A consumer that waits for a connection.
    ///
    /// # Errors
    /// A setting is zero, or out of its range.
    pub fn new(config: ConsumerConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let stream = StreamConfig::new(&*config.stream, &*config.subject);
        Ok(Self {
            stream: EnsureStream::new(stream, false),
            next: None,
            begins_with_first: false,
            created: None,
            behind_since: None,
            state: State::Disconnected,
            stale: None,
            events: VecDeque::new(),
            queued: 0,
            backoff: Backoff::new(config.seed),
            config,
        })
    }

    /// Begins to read on a new connection, after [`Incoming::Connected`]. It goes on with the
    /// sequence behind the last message that was received on the one before.
    pub fn connected(&mut self, client: &mut Client, now: Instant) {
        self.disconnected();
        self.state = self.first_step();
        self.pump(client, now);
    }

    /// Forgets the connection, which has ended. Messages that were received can still be taken.
    pub fn disconnected(&mut self) {
        self.stream.forget();
        self.stale = None;
        self.behind_since = None;
        self.state = State::Disconnected;
    }

    /// Handles what the client has received. Returns what is not for this consumer.
    pub fn handle(
        &mut self,
        client: &mut Client,
        incoming: Incoming,
        now: Instant,
    ) -> Option<Incoming> {
        match incoming {
            Incoming::Message(message) => {
                let subscription = Some(message.subscription());
                if self.subscription() == subscription {
                    self.handle_message(message, now);
                } else if self.stale != subscription {
                    return Some(Incoming::Message(message));
                }
            }
            Incoming::Reply { request, reply } => {
                if let State::Making { request: own } = &mut self.state
                    && own.take_if(|own| *own == request).is_some()
                {
                    self.handle_made(ApiReply::of(&reply), now);
                } else if let Some(found) = self.stream.handle(client, request, &reply, now) {
                    self.handle_found(found, now);
                } else {
                    return Some(Incoming::Reply { request, reply });
                }
            }
            other @ (Incoming::Connected
            | Incoming::Flushed(_)
            | Incoming::Servers
            | Incoming::LameDuck
            | Incoming::Error(_)) => return Some(other),
        }
        self.pump(client, now);
        None
    }

    /// Removes and returns what has happened. Call [`pump`](Self::pump) afterwards.
    pub fn take_event(&mut self) -> Option<ConsumerEvent> {
        let event = self.events.pop_front()?;
        if let ConsumerEvent::Message(delivery) = &event {
            self.queued -= delivery.size();
        }
        Some(event)
    }

    /// Sends what is to be sent, as far as the client has room: call it after each turn of the
    /// driver, and when events were taken. It is cheap if there is nothing.
    pub fn pump(&mut self, client: &mut Client, now: Instant) {
        match self.send(client, now) {
            // It is tried again at the next call, or on the next connection.
            Ok(())
            | Err(
                SendError::Full { .. }
                | SendError::Busy { .. }
                | SendError::NotConnected
                | SendError::Ended(_),
            ) => {}
            Err(
                error @ (SendError::Subject(_) | SendError::TooLong { .. } | SendError::NoHeaders),
            ) => self.interrupt(ConsumerError::Send(error), now),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { until } => Some(*until),
            State::Open(open) if open.pulls.is_outstanding() => {
                Some(open.last_received + self.config.heartbeat_limit())
            }
            State::Open(_) | State::Disconnected | State::Finding { .. } | State::Making { .. } => {
                None
            }
        }
    }

    /// Handles a deadline that has expired. Without one, it has no effect.
    pub fn handle_timeout(&mut self, client: &mut Client, now: Instant) {
        if self.poll_timeout().is_none_or(|deadline| deadline > now) {
            return;
        }
        match &self.state {
            State::Waiting { .. } => self.state = self.first_step(),
            State::Open(_) => {
                let limit = self.config.heartbeat_limit();
                self.interrupt(ConsumerError::HeartbeatMissed { limit }, now);
            }
            State::Disconnected | State::Finding { .. } | State::Making { .. } => {}
        }
        self.pump(client, now);
    }

    /// The sequence of the next message to be received; `None` before the stream was found.
    pub fn next_sequence(&self) -> Option<u64> {
        self.next
    }

    /// Whether there is a consumer of the server that delivers messages.
    pub fn is_reading(&self) -> bool {
        matches!(&self.state, State::Open(open) if open.is_checked)
    }
}

/// What is sent.
impl Consumer {
    /// The position is known once the stream was found. Then a consumer comes first, so that what
    /// is found of the stream after it applies to it.
    fn first_step(&self) -> State {
        match self.next {
            None => State::Finding { is_sent: false },
            Some(_) => State::Making { request: None },
        }
    }

    fn send(&mut self, client: &mut Client, now: Instant) -> Result<(), SendError> {
        if let Some(stale) = self.stale {
            client.unsubscribe(stale, now)?;
            self.stale = None;
        }
        match &mut self.state {
            State::Disconnected
            | State::Waiting { .. }
            | State::Finding { is_sent: true }
            | State::Making { request: Some(_) } => {}
            // Nothing is begun before the owner has taken the rest. So the events are bounded.
            State::Finding { .. } | State::Making { .. } if !self.events.is_empty() => {}
            State::Finding { is_sent } => {
                self.stream.send(client, now)?;
                *is_sent = true;
            }
            State::Making { request } => {
                let create = create_request(&self.config.stream, self.next.unwrap_or(1));
                *request = Some(create.send(client, now)?);
            }
            State::Open(open) => {
                if open.subscription.is_none() {
                    open.inbox = client.new_inbox();
                    open.subscription = Some(client.subscribe(&open.inbox, None, now)?);
                }
                if open.check == Check::Due {
                    self.stream.send(client, now)?;
                    open.check = Check::Sent { next: self.next.unwrap_or(1) };
                }
                if open.is_checked {
                    open.pull(&self.config, self.queued, client, now)?;
                }
            }
        }
        Ok(())
    }
}

impl Open {
    /// Asks for messages, if there is space for more.
    fn pull(
        &mut self,
        config: &ConsumerConfig,
        queued: usize,
        client: &mut Client,
        now: Instant,
    ) -> Result<(), SendError> {
        while let Some(pull) = self.pulls.next(queued) {
            let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", config.stream, self.name);
            let request = Publish::new(&subject, pull.to_json(config.heartbeat));
            client.publish(&request.with_reply(&self.inbox), now)?;
            if !self.pulls.is_outstanding() {
                self.last_received = now;
            }
            self.pulls.sent(pull);
            if pull == Pull::One {
                break;
            }
        }
        Ok(())
    }
}
