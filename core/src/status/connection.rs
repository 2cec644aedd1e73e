//! The machine of one connection: states, deadlines, and the end.

use core::{mem, task::Context, time::Duration};

use super::{
    MAX_CONNECTIONS, StatusCode, StatusReason,
    http::{self, Found, Input, Refusal, RequestHead},
    pages::Page,
    rate_limiter::Turn,
    router::Request,
    state::ServerState,
};
use crate::{
    ConnectionError, Direction, Event, Instant, Interest, Machine, Outbound, Status, WriteProgress,
    idle::{Activity, IdleSlot},
    shared::Shared,
    teardown::Teardown,
};

/// One connection of a status server.
///
/// It answers requests one after the other, at the rate that the server allows. It reads no further
/// request while one waits for its turn or its response is being sent.
///
/// It holds at most 8 KiB of requests and one response
/// ([`Config::response_size`](super::Config::response_size)), and neither while it is idle.
#[derive(Debug)]
pub struct Connection {
    server: Shared<ServerState>,
    input: Input,
    /// The peer's FIN has arrived. Requests that arrived before it are answered.
    has_eof: bool,
    /// A request of this connection was answered.
    is_answered: bool,
    /// The connection's slot in the order of eviction. An evicted connection keeps its slot until
    /// it ends, since the new connection can be admitted only then.
    slot: IdleSlot,
    /// Whether the peer acknowledges the last response and the FIN.
    progress: WriteProgress,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Between requests.
    Idle { since: Instant },
    /// Within the head of a request.
    Head { since: Instant },
    /// The connection was idle or within a head, and is being evicted. It ends at `until`, unless a
    /// complete request has arrived by then.
    Evicting { until: Instant, waited: Duration },
    /// A request waits for its turn.
    Waiting {
        since: Instant,
        until: Instant,
        /// The request. An error ends the connection after its response.
        request: Result<Request, Refusal>,
        answer_turn: Turn,
        /// For an expensive page.
        page_turn: Option<Turn>,
    },
    /// A response is being sent.
    Answering {
        response: Vec<u8>,
        sent: usize,
        since: Instant,
        /// If the connection is being evicted: when that began, and how long the connection had
        /// been in this state before. It ends when the kernel accepts no more output.
        evicting: Option<(Instant, Duration)>,
        /// Why the connection ends after this response, if it does.
        last: Option<StatusReason>,
        /// For an expensive page, which counts as in progress until this is dropped.
        #[expect(dead_code, reason = "its drop has the effect")]
        page_turn: Option<Turn>,
    },
    /// The connection has ended, or ends. It lingers only after a response.
    Ending(Teardown<StatusReason>),
}

impl Connection {
    pub(super) fn new(server: Shared<ServerState>, input: Input, now: Instant) -> Self {
        let slot = server.idle.enter(Activity::Idle, now);
        Self {
            server,
            input,
            has_eof: false,
            is_answered: false,
            slot,
            progress: WriteProgress::new(now),
            state: State::Idle { since: now },
        }
    }

    /// Finds the next request in the input, and takes a turn for it.
    fn proceed(&mut self, now: Instant) {
        let request = loop {
            match self.input.find() {
                Found::RequestLine(line) => {
                    if let Err(refusal) = http::check_line(line) {
                        break Err(refusal);
                    }
                }
                Found::Head(head) => {
                    let len = head.len();
                    let request = RequestHead::parse(head)
                        .map(|head| Request::new(&head, &self.server.config.hosts));
                    break request.inspect(|_| self.input.consume(len));
                }
                Found::NotHttp => break Err(http::NOT_HTTP),
                Found::TooLong => break Err(http::TOO_LONG),
                Found::Nothing => {
                    self.wait(now);
                    return;
                }
            }
        };
        self.wait_for_turn(request, now);
    }

    /// Takes a turn for the request, and answers the request if the turn is now.
    fn wait_for_turn(&mut self, mut request: Result<Request, Refusal>, now: Instant) {
        let mut page_turn = None;
        if let Ok(request) = &mut request
            && request.page.is_ok_and(Page::is_expensive)
        {
            page_turn = self.server.page_turn(now);
            if page_turn.is_none() {
                request.page = Err(TOO_MANY_PAGES);
            }
        }
        let answer_turn = self.server.answers.turn(now);
        let until = page_turn.as_ref().map_or(now, Turn::at).max(answer_turn.at());
        self.state = State::Waiting { since: now, until, request, answer_turn, page_turn };
        if until <= now {
            self.answer(now);
        }
    }

    /// Waits for the next request, or ends if the peer has closed its side.
    fn wait(&mut self, now: Instant) {
        if self.has_eof {
            let reason = match self.input.len() {
                0 => StatusReason::Finished,
                received => StatusReason::Truncated { received },
            };
            self.close(reason, now);
        } else if self.input.is_empty() {
            self.state = State::Idle { since: now };
        } else if !matches!(self.state, State::Head { .. } | State::Evicting { .. }) {
            self.state = State::Head { since: now };
        }
    }

    /// Answers the waiting request in its turn.
    fn answer(&mut self, now: Instant) {
        let waiting = mem::replace(&mut self.state, State::Idle { since: now });
        let State::Waiting { request, mut answer_turn, mut page_turn, .. } = waiting else {
            self.state = waiting;
            return;
        };
        for turn in page_turn.iter_mut().chain([&mut answer_turn]) {
            turn.mark_used();
        }
        let request = match request {
            Ok(request) => request,
            Err(refusal) => return self.refuse(refusal, now),
        };
        let response = match request.page {
            Ok(page) => page.respond(&self.server, now),
            Err(refusal) => refusal.response(),
        };
        let last = (!request.keep_alive).then_some(match request.page {
            // The content is not read, so this refusal ends the connection.
            Err(Refusal { code: code @ StatusCode::ContentTooLarge, message }) => {
                StatusReason::Refused { code, message }
            }
            Ok(_) | Err(_) => StatusReason::Finished,
        });
        let response = response.into_bytes(request.head_only, last.is_some());
        self.respond(response, last, page_turn, now);
    }

    /// Refuses a request after which no other can be read.
    fn refuse(&mut self, refusal: Refusal, now: Instant) {
        let response = refusal.response().into_bytes(self.input.begins_with_head_request(), true);
        self.input.clear();
        let Refusal { code, message } = refusal;
        self.respond(response, Some(StatusReason::Refused { code, message }), None, now);
    }

    fn respond(
        &mut self,
        response: Vec<u8>,
        last: Option<StatusReason>,
        page_turn: Option<Turn>,
        now: Instant,
    ) {
        self.is_answered = true;
        self.slot.update(Activity::Sending, now);
        self.progress = WriteProgress::new(now);
        self.progress.queued(now);
        let evicting = None;
        self.state = State::Answering { response, sent: 0, since: now, evicting, last, page_turn };
    }

    /// Sends a FIN, and lingers after a response.
    fn close(&mut self, reason: StatusReason, now: Instant) {
        self.input.clear();
        // The lingering close protects a response from a reset (RFC 9112, section 9.6). With
        // another reason, there is no response to protect.
        let lingers = !self.has_eof
            && matches!(reason, StatusReason::Finished | StatusReason::Refused { .. });
        let linger = lingers.then_some(self.server.config.linger);
        self.state = State::Ending(Teardown::closing(reason, linger, &mut self.progress, now));
    }

    /// The connection's activity and when it began; `None` while it is being evicted, and at its
    /// end unless it lingers.
    fn activity(&self) -> Option<(Activity, Instant)> {
        Some(match &self.state {
            State::Idle { since } | State::Head { since } => (Activity::Idle, *since),
            State::Waiting { since, .. } if self.is_answered => (Activity::Queued, *since),
            State::Waiting { since, .. } => (Activity::FirstQueued, *since),
            State::Answering { since, .. } => (Activity::Sending, *since),
            State::Ending(ending) => (Activity::Lingering, ending.lingers_since()?),
            State::Evicting { .. } => return None,
        })
    }

    fn queued(&self) -> usize {
        let State::Answering { response, sent, .. } = &self.state else { return 0 };
        response.len() - sent
    }
}

impl Machine for Connection {
    type Reason = StatusReason;

    fn interest(&self) -> Interest {
        let (read, write) = match &self.state {
            State::Idle { .. } | State::Head { .. } | State::Evicting { .. } => {
                (true, Outbound::Idle)
            }
            // It reads in order to notice that the peer has left, and then gives its turn back.
            State::Waiting { .. } => (!self.has_eof && self.input.has_room(), Outbound::Idle),
            State::Answering { .. } => (false, Outbound::Flush),
            State::Ending(ending) => return ending.interest(false),
        };
        Interest { read, write }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.input.spare()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let State::Answering { response, sent, .. } = &self.state else { return 0 };
        out[0] = &response[*sent..];
        1
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.handle_read(now, n),
            Event::Eof => self.handle_eof(now),
            Event::Error(direction, error) => self.handle_error(direction, error),
            Event::Written(n) => self.handle_written(now, n),
            Event::Finished => {
                if let State::Ending(ending) = &mut self.state {
                    ending.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            Event::ShutDown => self.shut_down(now),
            Event::Release => {
                self.input.release();
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let config = &self.server.config;
        let write = || self.progress.deadline(config.write_timeout);
        match &self.state {
            State::Idle { since } => Some(*since + config.idle_timeout),
            State::Head { since } => Some(*since + config.head_timeout),
            State::Evicting { until, .. } | State::Waiting { until, .. } => Some(*until),
            State::Answering { evicting: Some((since, _)), .. } => Some(*since),
            State::Answering { .. } => Some(write()),
            State::Ending(ending) => ending.poll_timeout(Some(write())),
        }
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let Some((activity, since)) = self.activity() else { return false };
        self.slot.update(activity, since);
        if !self.slot.poll_eviction(cx) {
            return false;
        }
        let waited = now.since(since);
        self.state = match &mut self.state {
            // A deadline instead of an immediate end: input that has arrived is read first.
            State::Idle { since } if !self.is_answered => {
                State::Evicting { until: now.max(*since + FIRST_BYTE_TIME), waited }
            }
            State::Idle { .. } | State::Head { .. } => State::Evicting { until: now, waited },
            State::Waiting { .. } if self.is_answered => {
                self.close(evicted(waited), now);
                return true;
            }
            // Likewise, output that the kernel accepts is sent first.
            State::Answering { evicting: evicting @ None, .. } => {
                *evicting = Some((now, waited));
                return true;
            }
            State::Ending(_) => State::Ending(Teardown::ended(evicted(waited))),
            State::Evicting { .. } | State::Waiting { .. } | State::Answering { .. } => {
                return false;
            }
        };
        true
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Idle { .. } => "idle",
            State::Head { .. } => "head",
            State::Evicting { .. } => "evicting",
            State::Waiting { .. } => "waiting",
            State::Answering { .. } => "answering",
            State::Ending(ending) => ending.state(),
        };
        Status { state, queued: self.queued(), lag: 0 }
    }

    fn reason(&self) -> Option<StatusReason> {
        let State::Ending(ending) = &self.state else { return None };
        ending.reason()
    }
}

impl Connection {
    fn handle_read(&mut self, now: Instant, n: usize) {
        match &mut self.state {
            State::Idle { .. } | State::Head { .. } | State::Evicting { .. } => {
                self.input.commit(n);
                self.proceed(now);
            }
            // The next request is parsed after this one is answered.
            State::Waiting { .. } => self.input.commit(n),
            State::Ending(ending) => ending.handle_read(now, n, &self.server.discards),
            State::Answering { .. } => {}
        }
    }

    fn handle_eof(&mut self, now: Instant) {
        self.has_eof = true;
        match &mut self.state {
            State::Idle { .. } | State::Head { .. } | State::Evicting { .. } => self.wait(now),
            State::Ending(ending) => ending.handle_eof(),
            State::Waiting { .. } | State::Answering { .. } => {}
        }
    }

    fn handle_error(&mut self, direction: Direction, error: ConnectionError) {
        let lost = StatusReason::Lost { direction, error, unsent: self.queued() };
        if let State::Ending(ending) = &mut self.state {
            ending.handle_error(lost);
        } else {
            self.state = State::Ending(Teardown::ended(lost));
        }
    }

    fn handle_written(&mut self, now: Instant, n: usize) {
        let State::Answering { response, sent, last, .. } = &mut self.state else { return };
        *sent += n;
        self.progress.written(now, n);
        if *sent < response.len() {
            return;
        }
        if let Some(reason) = last.take() {
            self.close(reason, now);
        } else {
            self.state = State::Idle { since: now };
            self.proceed(now);
        }
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let is_closing = matches!(&self.state, State::Ending(ending) if ending.is_closing());
        let queued = is_closing || self.queued() > 0;
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let config = &self.server.config;
        let (limit, unsent) = (config.write_timeout, self.queued() + unacknowledged);
        let stalled = StatusReason::WriteTimeout { limit, unsent };
        match &mut self.state {
            State::Idle { .. } => {
                let reason = StatusReason::IdleTimeout { limit: config.idle_timeout };
                self.close(reason, now);
            }
            State::Head { .. } => self.refuse(http::TOO_LATE, now),
            State::Evicting { waited, .. } => {
                let reason = evicted(*waited);
                self.close(reason, now);
            }
            State::Waiting { .. } => self.answer(now),
            State::Answering { evicting: Some((_, waited)), .. } => {
                self.state = State::Ending(Teardown::reset(evicted(*waited)));
            }
            State::Answering { .. } => self.state = State::Ending(Teardown::reset(stalled)),
            State::Ending(ending) => ending.expire(Some(stalled)),
        }
    }

    /// Closes the connection. A request that has arrived is answered first.
    fn shut_down(&mut self, now: Instant) {
        match &mut self.state {
            State::Idle { .. } | State::Head { .. } | State::Evicting { .. } => {
                self.close(StatusReason::ShutDown, now);
            }
            State::Waiting { request, .. } => {
                if let Ok(request) = request {
                    request.keep_alive = false;
                }
            }
            State::Answering { last, .. } => {
                last.get_or_insert(StatusReason::ShutDown);
            }
            State::Ending(_) => {}
        }
    }
}

fn evicted(waited: Duration) -> StatusReason {
    StatusReason::Evicted { waited, limit: MAX_CONNECTIONS }
}

const TOO_MANY_PAGES: Refusal = Refusal::new(
    StatusCode::ServiceUnavailable,
    "too many pages are requested; try again in a second",
);

/// How long a new connection is not evicted, so that its first byte, one round trip away, can
/// arrive.
const FIRST_BYTE_TIME: Duration = Duration::from_millis(20);
