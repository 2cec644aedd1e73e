//! The protocol of a connection: requests in their turn, and their responses.

use bytes::Bytes;

use super::{
    StatusCode,
    http::{self, Found, HeadSearch, Refusal, RequestHead},
    pages::Page,
    rate_limiter::Turn,
    router::Request,
    state::{MAX_HEAD, ServerState},
};
use crate::{
    Instant,
    protocol::{self, Buffer, Immediate, Output, Protocol, ProtocolReason, Replies, Step},
    shared::Shared,
};

/// One connection of a status server.
///
/// It answers requests one after the other, at the rate that the server allows. It answers no
/// further request while one waits for its turn or its response is being sent.
///
/// It holds at most 8 KiB of requests and one response
/// ([`Config::response_size`](super::Config::response_size)), and neither while it is idle.
pub type Connection = protocol::Connection<StatusProtocol>;

/// Why a connection of a status server ended.
pub type StatusReason = ProtocolReason<Refusal>;

/// The [`Protocol`] of a [`Server`](super::Server)'s connections.
#[derive(Debug)]
pub struct StatusProtocol {
    server: Shared<ServerState>,
    search: HeadSearch,
    /// The request that arrives or waits is a `HEAD` request: its response has no content, not
    /// even if it is a refusal.
    is_head_request: bool,
    waiting: Option<Waiting>,
}

/// A request that waits for its turn.
#[derive(Debug)]
struct Waiting {
    until: Instant,
    /// The request. An error ends the connection.
    request: Result<Request, Refusal>,
    answer_turn: Turn,
    /// For an expensive page.
    page_turn: Option<Turn>,
}

/// A response that is being sent.
struct Sending {
    response: Vec<u8>,
    /// For an expensive page, which counts as in progress until this is dropped.
    #[expect(dead_code, reason = "its drop has the effect")]
    page_turn: Option<Turn>,
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        &self.response
    }
}

impl StatusProtocol {
    pub(super) fn new(server: Shared<ServerState>) -> Self {
        Self { server, search: HeadSearch::default(), is_head_request: false, waiting: None }
    }

    /// Takes the next request from the input; `None` if it is incomplete.
    ///
    /// # Errors
    /// The request is refused in a way that ends the connection.
    fn next_request(&mut self, input: &mut Buffer) -> Result<Option<Request>, Refusal> {
        loop {
            let bytes = input.bytes();
            let found = self.search.find(bytes, MAX_HEAD);
            self.is_head_request = self.search.is_head_request(bytes);
            match found {
                Found::RequestLine(line) => http::check_line(line)?,
                Found::Head(head) => {
                    let length = head.len();
                    let head = RequestHead::parse(head)?;
                    let request = Request::new(&head, &self.server.config.hosts)?;
                    input.take(length);
                    self.search = HeadSearch::default();
                    return Ok(Some(request));
                }
                Found::NotHttp => return Err(http::NOT_HTTP),
                Found::TooLong => return Err(http::TOO_LONG),
                Found::Nothing => return Ok(None),
            }
        }
    }

    /// Takes a turn for the request.
    fn wait_for_turn(&self, mut request: Result<Request, Refusal>, now: Instant) -> Waiting {
        let mut page_turn = None;
        if let Ok(request) = &mut request
            && request.page.as_ref().is_ok_and(Page::is_expensive)
        {
            page_turn = self.server.page_turn(now);
            if page_turn.is_none() {
                request.page = Err(TOO_MANY_PAGES);
            }
        }
        let answer_turn = self.server.answers.turn(now);
        let until = page_turn.as_ref().map_or(now, Turn::at).max(answer_turn.at());
        Waiting { until, request, answer_turn, page_turn }
    }

    /// Answers the request in its turn.
    ///
    /// # Errors
    /// The request is refused in a way that ends the connection.
    fn answer(
        &self,
        waiting: Waiting,
        replies: &mut Replies<Immediate<Refusal>>,
    ) -> Result<(), Refusal> {
        let Waiting { request, mut answer_turn, mut page_turn, .. } = waiting;
        for turn in page_turn.iter_mut().chain([&mut answer_turn]) {
            turn.mark_used();
        }
        let Request { page, keep_alive } = request?;
        let response = match page {
            Ok(page) => page.respond(&self.server, replies.now()),
            Err(refusal) => refusal.response(),
        };
        let closes = !keep_alive || replies.is_draining();
        let response = response.into_bytes(self.is_head_request, closes);
        replies.output().push_slice(Bytes::from_owner(Sending { response, page_turn }));
        if closes {
            replies.close();
        }
        Ok(())
    }
}

impl Protocol for StatusProtocol {
    type Input = Buffer;
    type Error = Refusal;
    type Answer = Immediate<Refusal>;

    fn receive(
        &mut self,
        input: &mut Buffer,
        replies: &mut Replies<Self::Answer>,
    ) -> Result<Step, Refusal> {
        let now = replies.now();
        let waiting = match self.waiting.take() {
            Some(waiting) => waiting,
            None => match self.next_request(input).transpose() {
                Some(request) => self.wait_for_turn(request, now),
                None => return Ok(Step::Incomplete { length: None }),
            },
        };
        if now < waiting.until {
            return Ok(Step::WaitUntil(self.waiting.insert(waiting).until));
        }
        self.answer(waiting, replies)?;
        Ok(Step::Taken)
    }

    fn error_reply(&mut self, reason: &StatusReason, output: &mut Output) {
        self.waiting = None; // gives its turns back
        let refusal = match reason {
            ProtocolReason::Malformed(refusal) => *refusal,
            ProtocolReason::FrameTimeout { .. } => http::TOO_LATE,
            ProtocolReason::FrameTooLong { .. } => http::TOO_LONG,
            ProtocolReason::Finished
            | ProtocolReason::Answered
            | ProtocolReason::ShutDown
            | ProtocolReason::IdleTimeout { .. }
            | ProtocolReason::Evicted { .. }
            | ProtocolReason::Truncated { .. }
            | ProtocolReason::Memory(_)
            | ProtocolReason::ServiceTimeout { .. }
            | ProtocolReason::WriteStalled { .. }
            | ProtocolReason::Lost { .. } => return,
        };
        output.extend(&refusal.response().into_bytes(self.is_head_request, true));
    }
}

const TOO_MANY_PAGES: Refusal = Refusal::new(
    StatusCode::ServiceUnavailable,
    "too many pages are requested; try again in a second",
);
