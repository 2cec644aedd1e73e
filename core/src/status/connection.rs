//! One connection of a status server.

use core::{mem, task::Context, time::Duration};

use super::{
    CONNECTIONS, Code,
    head::{Found, Input},
    pacer::Turn,
    page::Page,
    request::{self, Refusal, Request},
    server::Inner,
};
use crate::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Status,
    WriteProgress,
    idle::{Activity, IdleSlot},
    machine::impl_reason,
    shared::Shared,
    teardown::Teardown,
};

/// One connection of a status server. Requests are answered one after the other, at the rate that
/// the server allows. While one waits, no other is read: a client that sends many at once has to
/// wait.
///
/// It holds at most 8 KiB of requests and one response
/// ([`Config::response_size`](super::Config::response_size)), and neither while it is idle.
#[derive(Debug)]
pub struct Connection {
    server: Shared<Inner>,
    input: Input,
    /// The peer has closed its side: what it has asked for by then is answered.
    eof: bool,
    /// It has had an answer.
    is_answered: bool,
    /// Its place in the order in which connections give way. A connection that has given way keeps
    /// its place until it ends: only then is there room.
    place: IdleSlot,
    /// Of the last response, and of the FIN.
    progress: WriteProgress,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Between requests.
    Idle { since: Instant },
    /// In the head of one.
    Head { since: Instant },
    /// Between requests or in the head of one, when the server is full: it gives way to a new
    /// connection, unless the rest of a request has arrived already.
    GivingWay { until: Instant, waited: Duration },
    /// A request waits for its turn.
    Waiting {
        since: Instant,
        until: Instant,
        request: Result<Request, Refusal>,
        answer: Turn,
        /// The turn of a page, if the answer is one.
        page: Option<Turn>,
    },
    /// A response goes out.
    Answering {
        response: Vec<u8>,
        sent: usize,
        since: Instant,
        /// Since it was asked to give way, and how long it had been in this state by then: it ends
        /// when the kernel takes no more.
        giving_way: Option<(Instant, Duration)>,
        /// It is the last one, and why.
        last: Option<StatusReason>,
        /// The turn of a page, which counts as in progress until this is dropped.
        #[expect(dead_code, reason = "what it does, it does when it is dropped")]
        page: Option<Turn>,
    },
    /// It lingers behind a response only.
    Ending(Teardown<StatusReason>),
}

/// Why a status server's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusReason {
    /// Its requests were answered, and the peer closed it or asked for that.
    #[error("finished")]
    Finished,
    /// A request that can't be followed by another one was refused.
    #[error("refused: {code}: {why}")]
    Refused {
        /// As what.
        code: Code,
        /// What the peer was told.
        why: &'static str,
    },
    /// The peer closed its side in the middle of a request's head.
    #[error("the peer closed inside a request; bytes of it: {have}")]
    Truncated {
        /// Bytes of it that came.
        have: usize,
    },
    /// No request came.
    #[error("no request for {limit:?}")]
    IdleTimeout {
        /// [`Config::idle_timeout`](super::Config::idle_timeout).
        limit: Duration,
    },
    /// The server was full, and this connection came first in the order of
    /// [`Activity`](crate::idle::Activity).
    #[error(
        "gave way to a new connection after {waited:.1?} in its last state; the limit of open \
         connections is {limit}"
    )]
    Evicted {
        /// How long it had been without a request, waited for its turn, sent a response or
        /// lingered.
        waited: Duration,
        /// [`CONNECTIONS`](super::CONNECTIONS).
        limit: usize,
    },
    /// A response was not taken.
    #[error("no byte moved for {limit:?}; bytes owed of a response: {unsent}")]
    WriteTimeout {
        /// [`Config::write_timeout`](super::Config::write_timeout).
        limit: Duration,
        /// Bytes that the peer did not take.
        unsent: usize,
    },
    /// We were asked to stop.
    #[error("asked to stop")]
    ShutDown,
    /// The connection broke.
    #[error("lost while {way}: {why}; bytes owed of a response: {unsent}")]
    Lost {
        /// At a read or a write.
        way: Direction,
        /// How.
        why: ConnectionError,
        /// Bytes of a response that were not sent.
        unsent: usize,
    },
}

impl_reason!(StatusReason {
    Self::Finished => ("finished", Fault::None),
    Self::Refused { code, .. } => code.refusal(),
    Self::Truncated { .. } => ("truncated", Fault::Peer),
    // An idle connection is a client's way to be quick the next time.
    Self::IdleTimeout { .. } => ("idle_timeout", Fault::None),
    Self::Evicted { .. } => ("evicted", Fault::None),
    Self::WriteTimeout { .. } => ("write_timeout", Fault::Time),
    Self::ShutDown => ("shut_down", Fault::Requested),
    Self::Lost { why, .. } => (why.label(), Fault::Lost),
});

impl Connection {
    pub(super) fn new(server: Shared<Inner>, input: Input, now: Instant) -> Self {
        let place = server.idle.enter(Activity::Idle, now);
        Self {
            server,
            input,
            eof: false,
            is_answered: false,
            place,
            progress: WriteProgress::new(now),
            state: State::Idle { since: now },
        }
    }

    /// Looks for the next request in what has come in, and begins to answer it.
    fn proceed(&mut self, now: Instant) {
        let answer = loop {
            match self.input.find() {
                Found::RequestLine(line) => {
                    if let Err(refusal) = request::check_line(line) {
                        break Err(refusal);
                    }
                }
                Found::Head(head) => {
                    let len = head.len();
                    let request = request::parse(head, &self.server.config.hosts);
                    break request.inspect(|_| self.input.consume(len));
                }
                Found::Garbage => break Err(request::GARBAGE),
                Found::TooLong => break Err(request::TOO_LONG),
                Found::Nothing => {
                    self.wait(now);
                    return;
                }
            }
        };
        self.wait_for_turn(answer, now);
    }

    /// Answers once the request's turn has come.
    fn wait_for_turn(&mut self, mut request: Result<Request, Refusal>, now: Instant) {
        let mut page = None;
        if let Ok(request) = &mut request
            && request.page.is_ok_and(Page::is_long)
        {
            page = self.server.page_turn(now);
            if page.is_none() {
                request.page = Err(request::TOO_MANY);
            }
        }
        let answer = self.server.answers.turn(now);
        let until = page.as_ref().map_or(now, Turn::at).max(answer.at());
        self.state = State::Waiting { since: now, until, request, answer, page };
        if until <= now {
            self.answer(now);
        }
    }

    /// Nothing is there to be answered.
    fn wait(&mut self, now: Instant) {
        if self.eof {
            let reason = match self.input.len() {
                0 => StatusReason::Finished,
                have => StatusReason::Truncated { have },
            };
            self.close(reason, now);
        } else if self.input.is_empty() {
            self.state = State::Idle { since: now };
        } else if !matches!(self.state, State::Head { .. } | State::GivingWay { .. }) {
            self.state = State::Head { since: now };
        }
    }

    /// Answers the request that waits, since its turn has come.
    fn answer(&mut self, now: Instant) {
        let waiting = mem::replace(&mut self.state, State::Idle { since: now });
        let State::Waiting { request, mut answer, mut page, .. } = waiting else {
            self.state = waiting;
            return;
        };
        for turn in page.iter_mut().chain([&mut answer]) {
            turn.take();
        }
        let request = match request {
            Ok(request) => request,
            Err(refusal) => return self.refuse(refusal, now),
        };
        let response = match request.page {
            Ok(page) => page.make(&self.server, now),
            Err(refusal) => refusal.response(),
        };
        let last = (!request.keep_alive).then_some(match request.page {
            // The one refusal of those that keep the connection which ends it all the same.
            Err(Refusal { code: code @ Code::ContentTooLarge, why }) => {
                StatusReason::Refused { code, why }
            }
            Ok(_) | Err(_) => StatusReason::Finished,
        });
        self.respond(response.into_bytes(request.head_only, last.is_some()), last, page, now);
    }

    /// Answers what can't be followed by another request.
    fn refuse(&mut self, refusal: Refusal, now: Instant) {
        let response = refusal.response().into_bytes(self.input.is_for_head(), true);
        self.input.clear();
        let Refusal { code, why } = refusal;
        self.respond(response, Some(StatusReason::Refused { code, why }), None, now);
    }

    fn respond(
        &mut self,
        response: Vec<u8>,
        last: Option<StatusReason>,
        page: Option<Turn>,
        now: Instant,
    ) {
        self.is_answered = true;
        self.place.update(Activity::Sending, now);
        self.progress = WriteProgress::new(now);
        self.progress.queued(now);
        let giving_way = None;
        self.state = State::Answering { response, sent: 0, since: now, giving_way, last, page };
    }

    /// Sends a FIN.
    fn close(&mut self, reason: StatusReason, now: Instant) {
        self.input.clear();
        // Only a response can be destroyed by a reset.
        let lingers =
            !self.eof && matches!(reason, StatusReason::Finished | StatusReason::Refused { .. });
        let linger = lingers.then_some(self.server.config.linger);
        self.state = State::Ending(Teardown::closing(reason, linger, &mut self.progress, now));
    }

    /// Its activity, and since when; `None` if it is about to end or to change its activity.
    fn activity(&self) -> Option<(Activity, Instant)> {
        Some(match &self.state {
            State::Idle { since } | State::Head { since } => (Activity::Idle, *since),
            State::Waiting { since, .. } if self.is_answered => (Activity::Queued, *since),
            State::Waiting { since, .. } => (Activity::FirstQueued, *since),
            State::Answering { since, .. } => (Activity::Sending, *since),
            State::Ending(ending) => (Activity::Lingering, ending.lingers_since()?),
            State::GivingWay { .. } => return None,
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
            State::Idle { .. } | State::Head { .. } | State::GivingWay { .. } => {
                (true, Outbound::Idle)
            }
            // To notice a client that has left, whose turn others can have.
            State::Waiting { .. } => (!self.eof && self.input.has_room(), Outbound::Idle),
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
            Event::Error(way, why) => self.handle_lost(way, why),
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
            State::GivingWay { until, .. } | State::Waiting { until, .. } => Some(*until),
            State::Answering { giving_way: Some((asked, _)), .. } => Some(*asked),
            State::Answering { .. } => Some(write()),
            State::Ending(ending) => ending.poll_timeout(Some(write())),
        }
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let Some((activity, since)) = self.activity() else { return false };
        self.place.update(activity, since);
        if !self.place.poll_eviction(cx) {
            return false;
        }
        let waited = now.since(since);
        self.state = match &mut self.state {
            // This is a deadline, not an immediate end: what has arrived is read first.
            State::Idle { since } if !self.is_answered => {
                State::GivingWay { until: now.max(*since + FIRST_BYTE_TIME), waited }
            }
            State::Idle { .. } | State::Head { .. } => State::GivingWay { until: now, waited },
            State::Waiting { .. } if self.is_answered => {
                self.close(evicted(waited), now);
                return true;
            }
            // Likewise, output that the kernel takes is sent first.
            State::Answering { giving_way: giving_way @ None, .. } => {
                *giving_way = Some((now, waited));
                return true;
            }
            State::Ending(_) => State::Ending(Teardown::over(evicted(waited))),
            State::GivingWay { .. } | State::Waiting { .. } | State::Answering { .. } => {
                return false;
            }
        };
        true
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Idle { .. } => "idle",
            State::Head { .. } => "head",
            State::GivingWay { .. } => "giving_way",
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
            State::Idle { .. } | State::Head { .. } | State::GivingWay { .. } => {
                self.input.commit(n);
                self.proceed(now);
            }
            // What follows the request is looked at behind its answer.
            State::Waiting { .. } => self.input.commit(n),
            State::Ending(ending) => ending.handle_read(now, n, &self.server.discards),
            State::Answering { .. } => {}
        }
    }

    fn handle_eof(&mut self, now: Instant) {
        self.eof = true;
        match &mut self.state {
            State::Idle { .. } | State::Head { .. } | State::GivingWay { .. } => self.wait(now),
            State::Ending(ending) => ending.handle_eof(),
            State::Waiting { .. } | State::Answering { .. } => {}
        }
    }

    fn handle_lost(&mut self, way: Direction, why: ConnectionError) {
        let lost = StatusReason::Lost { way, why, unsent: self.queued() };
        if let State::Ending(ending) = &mut self.state {
            ending.handle_error(lost);
        } else {
            self.state = State::Ending(Teardown::over(lost));
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
        let closing = matches!(&self.state, State::Ending(ending) if ending.is_closing());
        let queued = closing || self.queued() > 0;
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
            State::Head { .. } => self.refuse(request::TOO_LATE, now),
            State::GivingWay { waited, .. } => {
                let reason = evicted(*waited);
                self.close(reason, now);
            }
            State::Waiting { .. } => self.answer(now),
            State::Answering { giving_way: Some((_, waited)), .. } => {
                self.state = State::Ending(Teardown::reset(evicted(*waited)));
            }
            State::Answering { .. } => self.state = State::Ending(Teardown::reset(stalled)),
            State::Ending(ending) => ending.expire(Some(stalled)),
        }
    }

    /// What was asked for is still answered.
    fn shut_down(&mut self, now: Instant) {
        match &mut self.state {
            State::Idle { .. } | State::Head { .. } | State::GivingWay { .. } => {
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

/// How long a new connection keeps its place until its first byte, which is one round trip away.
const FIRST_BYTE_TIME: Duration = Duration::from_millis(20);

fn evicted(waited: Duration) -> StatusReason {
    StatusReason::Evicted { waited, limit: CONNECTIONS }
}
