//! Runs a server's connection with any steps.

use std::{cell::RefCell, num::NonZeroUsize, rc::Rc, time::Duration};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use wirestate_core::{
    Instant, Linger, Machine,
    message::{
        Config, Connection, DecodeError, Delivery, FrameLimits, Header, Message, MessageReason,
        Server,
        service::{PendingRequest, Reply, RequestQueue, Service},
    },
    shared::Promised,
};

use crate::{
    frames::{self, Rest},
    steps::{self, KINDS, PrintOnPanic, Stage, Step},
};
use wirestate_testkit::{
    contract::Checked,
    script::{Ending, Op, Transcript},
};

/// Decodes a server's limits and the steps of a connection from `bytes`: received bytes and frames,
/// accepted output, time, and replies of a service that answers some requests later and in any
/// order.
///
/// Checks the [contract](wirestate_testkit::contract), and the documented limit on pending output.
/// A reply wakes a sleeping task. The service gets the received requests in order. The peer gets
/// the replies in the same order, followed by at most one error reply with the connection's reason.
/// If the peer sends its FIN and all requests are answered, the connection ends without a deadline.
/// If the peer is gone, it ends by its deadlines.
///
/// # Panics
/// If a check fails.
pub fn server(bytes: &[u8]) {
    let Ok(case) = decode(&mut Unstructured::new(bytes)) else { return };
    let _shown = PrintOnPanic(&case);
    let Case { config, streamed, steps, peer_gone } = &case;
    let (limits, in_flight, streamed) =
        (config.frame_limits, config.max_in_flight.get(), *streamed);

    let log = Rc::new(RefCell::new(Log::default()));
    let service =
        Scripted { streamed, queue: RequestQueue::default(), log: log.clone(), pieces: None };
    let connection = Server::new(config.clone(), service)
        .expect("the configuration is valid")
        .machine(Instant::EPOCH);
    let mut machine = Checked::new(connection, MAX_QUEUED);
    let mut stage = Stage::new(&mut machine);
    for action in steps {
        match action {
            Action::Step(step) => stage.play(step),
            Action::Answer { index, reply } => log.borrow_mut().answer(*index, Some(reply)),
            Action::Drop { index } => log.borrow_mut().answer(*index, None),
        }
        let status = stage.player.machine().status();
        assert!(
            status.lag <= in_flight as u64,
            "requests in flight: {}, limit: {in_flight}",
            status.lag
        );
    }
    if *peer_gone {
        stage.abandon();
    } else {
        finish(&mut stage, &log);
    }
    let Stage { player, .. } = stage;
    let transcript = player.transcript();
    let reason = machine.reason().expect("the connection has ended");
    drop(machine);
    let log = log.borrow();
    check_ended(&transcript, &reason, &log, limits, streamed);
    assert!(
        !config.one_shot || log.requests.len() <= 1,
        "requests of a one-shot connection: {}",
        log.requests.len()
    );
}

/// A decoded case.
#[derive(Debug)]
struct Case {
    config: Config,
    /// The limit on streamed contents.
    streamed: u64,
    steps: Vec<Action>,
    /// Whether the peer is gone at the end.
    peer_gone: bool,
}

/// A step of the connection or of the service.
#[derive(Debug)]
enum Action {
    Step(Step),
    /// A waiting request is answered.
    Answer {
        index: u8,
        reply: Answer,
    },
    /// A waiting request is dropped without a reply.
    Drop {
        index: u8,
    },
}

/// A reply.
#[derive(Clone, Debug)]
enum Answer {
    Content(Bytes),
    /// A content that fills the limit on pending output alone.
    Large,
    /// A header that is too long to be sent.
    Unsendable,
}

fn decode(u: &mut Unstructured<'_>) -> Result<Case> {
    let (limits, buffer) = steps::limits(u)?;
    let choice = usize::from(u.arbitrary::<u8>()?);
    let count = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
    let config = Config::default()
        .with_frame_limits(limits)
        .with_buffer(count(buffer))
        .with_max_in_flight(count([1, 2, 4, 32][choice & 3]))
        .with_service_timeout(Duration::from_secs([1, 60][choice >> 2 & 1]))
        .with_linger(Linger { bytes: 200, ..Linger::default() })
        .with_one_shot(choice & 0x38 == 0x38)
        .with_idle_buffers(1);
    let peer_gone = choice & 0x40 != 0;
    let streamed = if choice & 0x80 == 0 { 1000 } else { 10 };
    let mut steps = Vec::new();
    // Only few inputs may have these steps, because they are slow.
    let mut large = if u.arbitrary::<u8>()? < 0xf0 { 0..0 } else { 0..MAX_LARGE };
    while !u.is_empty() && steps.len() < MAX_STEPS {
        let kind = u.arbitrary::<u8>()? % (KINDS + 6);
        steps.push(match kind.checked_sub(KINDS) {
            None => Action::Step(steps::step(kind, u)?),
            Some(0) => Action::Drop { index: u.arbitrary()? },
            Some(1) if large.next().is_some() => {
                Action::Answer { index: u.arbitrary()?, reply: Answer::Large }
            }
            Some(2) if large.next().is_some() => {
                Action::Answer { index: u.arbitrary()?, reply: Answer::Unsendable }
            }
            Some(_) => {
                let index = u.arbitrary()?;
                Action::Answer { index, reply: Answer::Content(steps::content(u)?) }
            }
        });
        // Usually the sent bytes arrive at once.
        if kind == 1 {
            steps.push(Action::Step(Step::Deliver(usize::MAX)));
        }
    }
    Ok(Case { config, streamed, steps, peer_gone })
}

impl Answer {
    fn message(&self) -> Message<'static> {
        match self {
            Self::Content(content) => Message::binary(content.clone()),
            Self::Large => Message::binary(Bytes::from_static(&LARGE)),
            Self::Unsendable => {
                let content_type = "x".repeat(usize::from(u16::MAX)).into();
                Message { content_type, ..Message::json("{}") }
            }
        }
    }
}

/// A service that answers `binary/n` at once, and `binary/s` at once with the streamed content. It
/// answers other types when the case says so.
#[derive(Clone, Debug)]
struct Scripted {
    streamed: u64,
    queue: RequestQueue,
    log: Rc<RefCell<Log>>,
    /// The streamed pieces of the current content.
    pieces: Option<Vec<u8>>,
}

/// The requests of the service, and its replies.
#[derive(Debug, Default)]
struct Log {
    requests: Vec<Message<'static>>,
    /// The frames of the replies.
    replies: Vec<Option<Vec<u8>>>,
    /// The waiting requests and their numbers.
    pending: Vec<(usize, PendingRequest)>,
}

impl Log {
    fn answer(&mut self, index: u8, reply: Option<&Answer>) {
        if self.pending.is_empty() {
            return;
        }
        let (number, request) = self.pending.swap_remove(usize::from(index) % self.pending.len());
        let reply = reply.map(Answer::message);
        let dropped = || Message::error("the request was dropped");
        self.replies[number] = Some(frame_of(&reply.clone().unwrap_or_else(dropped)));
        match reply {
            None => drop(request),
            Some(reply) => request.reply(reply),
        }
    }
}

/// The frame that is sent for a reply: an error reply if the reply cannot be sent.
fn frame_of(reply: &Message<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    match reply.encode(&mut frame) {
        Ok(()) => frame,
        Err(error) => steps::encoded(&Message::error(error)),
    }
}

fn is_streamed(header: &Header<'_>) -> bool {
    header.content_type == "binary/s"
}

impl Service for Scripted {
    type Pending = Promised<Message<'static>>;

    fn call(&mut self, request: Message<'_>) -> Reply<Self::Pending> {
        let request = match self.pieces.take() {
            None => request.into_owned(),
            Some(content) => {
                assert!(request.content.is_empty(), "a streamed message has content");
                Message { content: content.into(), ..request.into_owned() }
            }
        };
        let mut log = self.log.borrow_mut();
        log.requests.push(request.clone());
        if matches!(&*request.content_type, "binary/n" | "binary/s") {
            let reply =
                Message { byteorder: request.byteorder, ..Message::binary(request.content) };
            log.replies.push(Some(frame_of(&reply)));
            return Reply::Ready(reply);
        }
        let number = log.replies.len();
        log.replies.push(None);
        let reply = self.queue.call(request);
        let request = self.queue.take().expect("`call` has added a request");
        log.pending.push((number, request));
        reply
    }

    fn delivery(&mut self, header: &Header<'_>) -> Delivery {
        if !is_streamed(header) {
            return Delivery::Collect;
        }
        self.pieces = Some(Vec::new());
        Delivery::Stream { max_content: self.streamed }
    }

    fn chunk(&mut self, piece: &[u8]) {
        assert!(!piece.is_empty(), "an empty piece");
        self.pieces.as_mut().expect("the content is streamed").extend_from_slice(piece);
    }
}

type ServerStage<'a> = Stage<'a, Checked<Connection<Scripted>>>;

/// The peer reads all output and sends its FIN, and all requests are answered. No time passes.
fn finish(stage: &mut ServerStage<'_>, log: &RefCell<Log>) {
    stage.player.play(&Op::Eof);
    for _ in 0..MAX_ROUNDS {
        log.borrow_mut().answer(0, Some(&Answer::Content(Bytes::from_static(b"finished"))));
        // `Release` makes the player poll the machine.
        stage.player.play(&Op::Release);
        stage.player.play_out();
        if stage.is_done() {
            return;
        }
    }
    panic!(
        "all requests are answered, but the connection is {:?}",
        stage.player.machine().status()
    );
}

/// Checks the ended connection.
fn check_ended(
    transcript: &Transcript,
    reason: &MessageReason,
    log: &Log,
    limits: FrameLimits,
    streamed: u64,
) {
    let max_content =
        |header: &Header<'_>| if is_streamed(header) { streamed } else { limits.max_content };
    let received = frames::read(&transcript.input, limits, max_content);
    let Log { requests, replies, pending: _ } = log;
    assert!(
        received.messages.starts_with(requests),
        "the service got {requests:?}, which the peer has not sent"
    );

    let sent = &transcript.output;
    let answered: Vec<&Vec<u8>> = replies.iter().map_while(Option::as_ref).collect();
    let all_answered = answered.len() == replies.len();
    let assert_output = |replies: &[&Vec<u8>], error: Option<&MessageReason>| {
        let mut expected =
            replies.iter().map(|reply| reply.as_slice()).collect::<Vec<_>>().concat();
        if let Some(error) = error {
            expected.extend(steps::encoded(&Message::error(error)));
        }
        assert!(*sent == expected, "the output is {}, not {}", show(sent), show(&expected));
        assert_eq!(transcript.ending, Some(Ending::Fin));
    };
    // After the peer's fault the service may be too slow. Then the error reply follows the replies
    // that were ready.
    let assert_last_is_error = || {
        let error = steps::encoded(&Message::error(reason));
        let replies = sent.strip_suffix(error.as_slice()).expect("the error reply comes last");
        let mut sizes = answered.iter().scan(0, |size, reply| {
            *size += reply.len();
            Some(*size)
        });
        let count = if replies.is_empty() {
            0
        } else {
            sizes
                .position(|size| size == replies.len())
                .expect("whole replies precede the error reply")
                + 1
        };
        assert_output(&answered[..count], Some(reason));
    };
    match reason {
        MessageReason::Finished => {
            assert_eq!(received.rest, Rest::Nothing);
            assert_eq!(
                requests.len(),
                received.messages.len(),
                "the service did not get all requests"
            );
            assert!(all_answered);
            assert_output(&answered, None);
        }
        MessageReason::Answered | MessageReason::ShutDown | MessageReason::IdleTimeout { .. } => {
            assert!(all_answered);
            assert_output(&answered, None);
        }
        MessageReason::Malformed(error) => {
            assert_eq!(received.rest.at_end().as_ref(), Err(error));
            assert_eq!(
                requests.len(),
                received.messages.len(),
                "the service did not get all requests"
            );
            assert_last_is_error();
        }
        MessageReason::Truncated { received: bytes, expected } => {
            let truncated = DecodeError::Truncated { received: *bytes, expected: *expected };
            assert_eq!(received.rest.at_end().as_ref(), Err(&truncated));
            assert_eq!(requests.len(), received.messages.len());
            assert_last_is_error();
        }
        MessageReason::FrameTimeout { received, expected, .. } => {
            assert!(
                received < expected || *expected == 2,
                "the frame has {received} of {expected} bytes"
            );
            assert_last_is_error();
        }
        MessageReason::Memory(_) => assert_last_is_error(),
        MessageReason::ServiceTimeout { unanswered, .. } => {
            // Replies behind the first one that is not ready are not sent.
            assert_output(&answered[..requests.len() - unanswered], Some(reason));
        }
        MessageReason::WriteStalled { unacknowledged, .. } => {
            assert_eq!(transcript.ending, Some(Ending::Rst));
            if *unacknowledged == 0 {
                // Only its FIN was pending.
                let all: usize = answered.iter().map(|reply| reply.len()).sum();
                assert!(sent.len() >= all, "output is missing");
            }
            check_truncated_output(sent, &answered);
        }
        MessageReason::Lost { .. } => {
            assert_ne!(transcript.ending, Some(Ending::Fin), "a lost connection ends with a FIN");
            check_truncated_output(sent, &answered);
        }
        MessageReason::FrameTooLong { .. } | _ => panic!("an unknown reason: {reason}"),
    }
}

/// Checks output that may be cut anywhere: replies, followed by at most one error reply.
fn check_truncated_output(sent: &[u8], answered: &[&Vec<u8>]) {
    let mut rest = sent;
    for reply in answered {
        let Some(after) = rest.strip_prefix(reply.as_slice()) else {
            let remainder = if reply.starts_with(rest) { &[] } else { rest };
            return check_error_reply(remainder);
        };
        rest = after;
    }
    check_error_reply(rest);
}

/// Checks that `sent` is at most one error reply, which may be incomplete.
fn check_error_reply(sent: &[u8]) {
    let limits = FrameLimits::new(u16::MAX, u64::MAX);
    let frames::Frames { messages, rest } = frames::read(sent, limits, |_| u64::MAX);
    let part = match rest {
        Rest::Nothing => None,
        Rest::Incomplete { partial, .. } => partial,
        Rest::Invalid(error) => panic!("the output has an invalid frame: {error}"),
    };
    assert!(messages.len() <= 1, "messages that are no replies: {}", messages.len());
    let errors = messages.iter().chain(&part);
    for Message { content, .. } in errors {
        let n = content.len().min(ERROR.len());
        assert_eq!(content[..n], ERROR[..n], "neither a reply to a request nor an error reply");
    }
}

/// The first 200 bytes, for an error message.
fn show(bytes: &[u8]) -> String {
    let first = &bytes[..bytes.len().min(200)];
    format!("{} bytes, {}", bytes.len(), first.escape_ascii())
}

/// The beginning of an error reply's content.
const ERROR: &[u8] = b"{\"result\": \"Error: ";
/// A content that fills the limit on pending output alone.
static LARGE: [u8; 80_000] = [b'.'; 80_000];
/// The documented limit of [`Connection`]: 64 KiB, one message and an error reply. The longest
/// message is [`LARGE`], with a header of 119 bytes.
const MAX_QUEUED: usize = 64 * 1024 + 119 + LARGE.len() + MAX_ERROR;
/// The longest error reply to a full buffer: that of a service timeout.
const MAX_ERROR: usize = 170;
/// The most steps of a case.
const MAX_STEPS: usize = 64;
/// The most large contents of a case: enough to exceed the limit on pending output.
const MAX_LARGE: u8 = 3;
/// The most rounds until the connection ends. Each answers one of at most 32 waiting requests, or
/// accepts output.
const MAX_ROUNDS: usize = 1000;
