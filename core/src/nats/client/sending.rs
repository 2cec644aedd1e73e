//! What a client sends.

use alloc::{format, string::String};

use super::{Client, Delivered, FlushId, Ping, Stage, State};
use crate::{
    Instant,
    nats::{
        HeaderBlock, InvalidSubject, Publish, RequestId, SendError, Subscription,
        subject::{self, Wildcards},
    },
    protocol::Output,
};

impl Client {
    /// Publishes a message. The server acknowledges none: use a request, or
    /// [`flush`](Self::flush), to learn that it has arrived.
    ///
    /// # Errors
    /// Nothing was sent: see [`SendError`].
    pub fn publish(&mut self, message: &Publish<'_>, now: Instant) -> Result<(), SendError> {
        self.check_room()?;
        self.check_message(message, message.reply.unwrap_or_default())?;
        self.write_message(message, message.reply.unwrap_or_default(), now);
        Ok(())
    }

    /// Publishes a message with a subject for the reply.
    /// [`Incoming::Reply`](crate::nats::Incoming::Reply) has the reply, or says that there is none.
    /// The client subscribes to the subjects of its replies once, with the first request.
    ///
    /// # Errors
    /// Nothing was sent: see [`SendError`].
    pub fn request(&mut self, message: &Publish<'_>, now: Instant) -> Result<RequestId, SendError> {
        self.check_room()?;
        let limit = self.config.max_requests.get();
        if self.requests.len() >= limit {
            return Err(SendError::Busy { limit });
        }
        let reply = format!("{}.{}", self.requests.inbox(), self.requests.next());
        self.check_message(message, &reply)?;
        if self.requests.subscription().is_none() {
            let subject = format!("{}.*", self.requests.inbox());
            let subscription = self.write_subscribe(&subject, None, now);
            self.requests.set_subscription(subscription);
        }
        self.write_message(message, &reply, now);
        Ok(self.requests.sent(now))
    }

    /// A subject for the next subscription that no other client uses, and no other subscription of
    /// this one: messages get it as their reply subject.
    pub(in crate::nats) fn new_inbox(&self) -> String {
        format!("{}.{}.s", self.requests.inbox(), self.last_subscription + 1)
    }

    /// Withdraws the interest in a reply. If it arrives nevertheless, it is dropped.
    pub fn cancel(&mut self, request: RequestId) {
        self.requests.cancel(request);
    }

    /// Subscribes to `subject`, which may have wildcards. Of the subscriptions of one queue
    /// `group`, the server sends each message to one.
    ///
    /// # Errors
    /// Nothing was sent: see [`SendError`].
    pub fn subscribe(
        &mut self,
        subject: &str,
        group: Option<&str>,
        now: Instant,
    ) -> Result<Subscription, SendError> {
        self.check_room()?;
        subject::check(subject, Wildcards::Allowed)?;
        if let Some(group) = group {
            subject::check(group, Wildcards::Forbidden)?;
        }
        self.check_line(subject.len() + group.map_or(0, str::len))?;
        let subscription = self.write_subscribe(subject, group, now);
        self.subscriptions.insert(subscription, Delivered::default());
        Ok(subscription)
    }

    /// Ends a subscription. Messages that are on their way are dropped, except one that waits to be
    /// taken. To get them, use [`unsubscribe_after`](Self::unsubscribe_after).
    ///
    /// # Errors
    /// Nothing was sent: see [`SendError`]. A subscription that has ended is no error.
    pub fn unsubscribe(
        &mut self,
        subscription: Subscription,
        now: Instant,
    ) -> Result<(), SendError> {
        self.check_room()?;
        if self.subscriptions.remove(&subscription).is_some() {
            let id = subscription.0;
            self.write(now, |output| write!(output, "UNSUB {id}\r\n"));
        }
        Ok(())
    }

    /// Ends a subscription once it has received `max` messages in all. If it has received as many,
    /// it ends at once.
    ///
    /// # Errors
    /// Nothing was sent: see [`SendError`]. A subscription that has ended is no error.
    pub fn unsubscribe_after(
        &mut self,
        subscription: Subscription,
        max: u64,
        now: Instant,
    ) -> Result<(), SendError> {
        self.check_room()?;
        let Some(delivered) = self.subscriptions.get_mut(&subscription) else { return Ok(()) };
        if delivered.count >= max {
            return self.unsubscribe(subscription, now);
        }
        delivered.max = Some(max);
        let id = subscription.0;
        self.write(now, |output| write!(output, "UNSUB {id} {max}\r\n"));
        Ok(())
    }

    /// Sends a PING. [`Incoming::Flushed`](crate::nats::Incoming::Flushed) says that the server has
    /// answered it, and so has processed all that was sent before.
    ///
    /// # Errors
    /// Nothing was sent: see [`SendError`].
    pub fn flush(&mut self, now: Instant) -> Result<FlushId, SendError> {
        self.check_room()?;
        let limit = self.config.max_requests.get();
        if self.pings.len() >= limit {
            return Err(SendError::Busy { limit });
        }
        let id = FlushId(self.next_flush);
        self.next_flush += 1;
        self.ping(Ping::Flush(id), now);
        Ok(id)
    }

    /// Whether the client can send: see [`SendError`].
    ///
    /// # Errors
    /// It is not connected, has ended, or too much output is pending.
    pub fn check_room(&self) -> Result<(), SendError> {
        match &self.state {
            State::Open(Stage::Connected) => {}
            State::Open(Stage::Info { .. } | Stage::Connecting) | State::Greeted { .. } => {
                return Err(SendError::NotConnected);
            }
            State::Broken { reason, .. } => return Err(SendError::Ended(reason.clone())),
            State::Ending(ending) => return Err(SendError::Ended(ending.cause().clone())),
        }
        let (pending, limit) = (self.output.len(), self.config.max_pending.get());
        if pending < limit { Ok(()) } else { Err(SendError::Full { pending, limit }) }
    }

    pub(super) fn write(&mut self, now: Instant, append: impl FnOnce(&mut Output)) {
        if self.output.is_empty() {
            self.progress.queued(now);
        }
        if self.written >= self.pongs.until {
            self.pongs.count = 0;
        }
        append(&mut self.output);
    }

    pub(super) fn ping(&mut self, ping: Ping, now: Instant) {
        self.write(now, |output| output.extend(b"PING\r\n"));
        self.pings.push_back((ping, self.queued()));
    }

    fn write_subscribe(
        &mut self,
        subject: &str,
        group: Option<&str>,
        now: Instant,
    ) -> Subscription {
        self.last_subscription += 1;
        let id = self.last_subscription;
        self.write(now, |output| match group {
            Some(group) => write!(output, "SUB {subject} {group} {id}\r\n"),
            None => write!(output, "SUB {subject} {id}\r\n"),
        });
        Subscription(id)
    }

    /// Checks a message whose reply goes to `reply`, if that is not empty.
    fn check_message(&self, message: &Publish<'_>, reply: &str) -> Result<(), SendError> {
        subject::check(message.subject, Wildcards::Forbidden)?;
        if message.reply.is_some() || !reply.is_empty() {
            subject::check(reply, Wildcards::Forbidden)?;
        }
        self.check_line(message.subject.len() + reply.len())?;
        let headers = message.headers.filter(|headers| !headers.is_empty());
        if headers.is_some() && !self.info.headers {
            return Err(SendError::NoHeaders);
        }
        let length = (headers.map_or(0, HeaderBlock::len) + message.payload.len()) as u64;
        match self.info.max_payload.filter(|limit| length > *limit) {
            Some(limit) => Err(SendError::TooLong { length, limit }),
            None => Ok(()),
        }
    }

    /// Checks the length of a line that has `subjects` bytes of subjects.
    fn check_line(&self, subjects: usize) -> Result<(), InvalidSubject> {
        let (length, limit) = (subjects + MAX_LINE_REST, self.config.max_control_line.get());
        if length > limit { Err(InvalidSubject::TooLong { length, limit }) } else { Ok(()) }
    }

    fn write_message(&mut self, message: &Publish<'_>, reply: &str, now: Instant) {
        let Publish { subject, payload, .. } = message;
        let headers = message.headers.filter(|headers| !headers.is_empty());
        self.write(now, |output| {
            output.extend(if headers.is_some() { b"HPUB " } else { b"PUB " });
            output.extend(subject.as_bytes());
            output.extend(b" ");
            if !reply.is_empty() {
                output.extend(reply.as_bytes());
                output.extend(b" ");
            }
            let mut total = payload.len();
            if let Some(headers) = headers {
                total += headers.len();
                write_number(output, headers.len());
                output.extend(b" ");
            }
            write_number(output, total);
            output.extend(b"\r\n");
            for part in headers.iter().flat_map(|headers| headers.parts()) {
                output.extend(part);
            }
            output.push_shared(payload);
            output.extend(b"\r\n");
        });
    }
}

fn write_number(output: &mut Output, number: usize) {
    output.extend(itoa::Buffer::new().format(number).as_bytes());
}

/// The most bytes of a line beside its subjects: a name, two numbers, blanks and the line end.
const MAX_LINE_REST: usize = 52;
