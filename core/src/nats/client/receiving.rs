//! What a client does with what the server sends.

use super::{Client, Mode, Ping, Stage, State};
use crate::{
    Instant,
    nats::{
        ClientReason, Incoming, Info, Malformed, Message, RequestError, ServerError, StatusCode,
        connect::write_connect, receiver::Operation,
    },
    protocol::Output,
    teardown::Teardown,
};

impl Client {
    /// Whether the client accepts input. It does not while something waits to be taken.
    pub(super) fn is_reading(&self) -> bool {
        let is_open = match &self.state {
            State::Open(_) | State::Broken { .. } => true,
            State::Greeted { .. } | State::Ending(_) => false,
        };
        is_open && self.ready.is_empty() && !self.is_paused && !self.is_full_of_pongs()
    }

    /// Applies the operations that were received, up to one that the owner has to take.
    pub(super) fn advance(&mut self, now: Instant) {
        self.is_paused = false;
        let mut budget = MAX_OPERATIONS;
        while self.is_reading() {
            if budget == 0 {
                self.is_paused = true;
                break;
            }
            budget -= 1;
            match self.receiver.next() {
                Ok(None) => break,
                Ok(Some(operation)) => {
                    self.received += 1;
                    self.frame_timer.stop();
                    self.apply(operation, now);
                }
                Err(reason) => match self.state {
                    State::Broken { .. } => self.end_broken(),
                    State::Open(_) | State::Greeted { .. } | State::Ending(_) => {
                        self.reset(reason);
                    }
                },
            }
        }
        self.update_reading(now);
    }

    /// Starts, pauses and resumes what depends on whether the client reads.
    pub(super) fn update_reading(&mut self, now: Instant) {
        let is_reading = self.is_reading();
        if is_reading && !self.was_reading {
            self.last_received = now;
            self.awaited_since = now;
        }
        self.was_reading = is_reading;
        self.frame_timer.update(self.receiver.len() > 0, is_reading, now);
    }

    fn apply(&mut self, operation: Operation, now: Instant) {
        let stage = match &self.state {
            State::Open(stage) => Some(*stage),
            // Nothing is answered any more.
            State::Broken { .. } => None,
            State::Greeted { .. } | State::Ending(_) => return,
        };
        let is_first = matches!(stage, Some(Stage::Info { .. }));
        match operation {
            Operation::Error(text) => self.handle_server_error(ServerError::new(text), now),
            Operation::Info(info) if is_first => self.handle_first_info(info, now),
            Operation::Message(_) | Operation::Ping | Operation::Pong | Operation::Ok
                if is_first =>
            {
                self.reset(Malformed::BeforeInfo.into());
            }
            Operation::Info(info) => self.handle_info(info),
            Operation::Message(message) => self.deliver(message),
            Operation::Ping if stage.is_some() => {
                self.write(now, |output| output.extend(b"PONG\r\n"));
                self.pongs.count += 1;
                self.pongs.until = self.queued();
            }
            Operation::Pong if stage.is_some() => self.handle_pong(),
            Operation::Ping | Operation::Pong | Operation::Ok => {}
        }
    }

    /// Takes all operations that were received, at the end of the input. Returns the error with
    /// which the server has ended the connection, or how it broke the protocol.
    pub(super) fn take_rest(&mut self) -> Option<ClientReason> {
        loop {
            match self.receiver.next() {
                Ok(None) => return self.receiver.is_other_protocol().map(ClientReason::from),
                Ok(Some(Operation::Error(text))) => {
                    let error = ServerError::new(text);
                    if error.kind.ends_connection() {
                        return Some(ClientReason::Refused(error));
                    }
                    self.last_error = Some(error.clone());
                    self.ready.push_back(Incoming::Error(error));
                }
                Ok(Some(Operation::Message(message))) => self.deliver(message),
                Ok(Some(
                    Operation::Info(_) | Operation::Ping | Operation::Pong | Operation::Ok,
                )) => {}
                Err(reason) => return Some(reason),
            }
        }
    }

    pub(super) fn handle_first_info(&mut self, info: Info, now: Instant) {
        if self.mode == Mode::HandOver {
            let bytes = self.receiver.len();
            self.info = info;
            if bytes > 0 {
                return self.reset(ClientReason::InputBeforeTls { bytes });
            }
            let until = self.config.info_timeout.map(|limit| now + limit);
            self.state = State::Greeted { until };
            return;
        }
        if info.tls_required && !self.config.encrypted {
            return self.close(ClientReason::TlsRequired, now);
        }
        let inbox = self.config.inbox.clone().unwrap_or_else(|| info.inbox());
        self.requests.set_inbox(inbox);
        self.info = info;
        let mut connect = Output::default();
        match write_connect(&mut connect, &self.config, &self.info) {
            Ok(()) => {}
            Err(error) => return self.close(ClientReason::Signing(error), now),
        }
        self.progress.queued(now);
        self.output = connect;
        self.state = State::Open(Stage::Connecting);
        self.ping(Ping::Connect, now);
    }

    fn handle_info(&mut self, info: Info) {
        if info.connect_urls != self.info.connect_urls {
            self.ready.push_back(Incoming::Servers);
        }
        if info.lame_duck && !self.info.lame_duck {
            self.ready.push_back(Incoming::LameDuck);
        }
        self.info = info;
    }

    fn handle_pong(&mut self) {
        match self.pings.pop_front().map(|(ping, _)| ping) {
            None => self.reset(Malformed::UnexpectedPong.into()),
            Some(Ping::Connect) => {
                self.state = State::Open(Stage::Connected);
                self.ready.push_back(Incoming::Connected);
            }
            Some(Ping::KeepAlive) => {}
            Some(Ping::Flush(id)) => self.ready.push_back(Incoming::Flushed(id)),
        }
        self.awaited_since = self.last_received;
    }

    fn handle_server_error(&mut self, error: ServerError, now: Instant) {
        if !error.kind.ends_connection() {
            self.last_error = Some(error.clone());
            // A greeting has no owner that takes it.
            if !matches!(self.state, State::Open(Stage::Info { .. })) {
                self.ready.push_back(Incoming::Error(error));
            }
            return;
        }
        let refused = ClientReason::Refused(error);
        match &mut self.state {
            State::Broken { .. } => self.end(Teardown::ended(refused)),
            State::Open(_) | State::Greeted { .. } | State::Ending(_) => self.close(refused, now),
        }
    }

    fn deliver(&mut self, message: Message) {
        let subscription = message.subscription();
        if self.requests.subscription() == Some(subscription) {
            let Some(request) = self.requests.take(message.subject_bytes()) else { return };
            let has_no_responders =
                message.payload().is_empty() && message.status() == Some(StatusCode::NO_RESPONDERS);
            let reply =
                if has_no_responders { Err(RequestError::NoResponders) } else { Ok(message) };
            self.ready.push_back(Incoming::Reply { request, reply });
            return;
        }
        // Of a subscription that has ended, messages may still be on their way.
        let Some(delivered) = self.subscriptions.get_mut(&subscription) else { return };
        delivered.count += 1;
        if delivered.max == Some(delivered.count) {
            self.subscriptions.remove(&subscription);
        }
        self.ready.push_back(Incoming::Message(message));
    }

    /// Whether a PING was written that has no PONG.
    pub(super) fn awaits_pong(&self) -> bool {
        self.pings.front().is_some_and(|(_, end)| *end <= self.written)
    }

    fn is_full_of_pongs(&self) -> bool {
        self.pongs.count >= MAX_PONGS && self.written < self.pongs.until
    }
}

/// The most operations that one call applies, about 50 µs.
const MAX_OPERATIONS: usize = 512;
/// The most PONGs that are queued before all of them must be written. At most twice as many are
/// pending.
const MAX_PONGS: usize = 64;
