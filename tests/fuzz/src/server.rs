//! A server's connection under any steps.

use std::{cell::RefCell, num::NonZeroUsize, rc::Rc, time::Duration};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use wirestate_core::{
    Instant, Linger, Machine,
    message::{
        Config, Connection, Delivery, FrameLimits, Header, Message, MessageReason, Server,
        service::{PendingReply, PendingRequest, Reply, RequestQueue, Service},
    },
};

use crate::{
    frames::{self, Rest},
    steps::{self, KINDS, Shown, Stage, Step},
};
use wirestate_testkit::{
    contract::Checked,
    script::{Ending, Op, Transcript},
};

/// Decodes a server's limits and the steps of a connection from `bytes`: received bytes and frames,
/// accepted output, time, and replies of a service that answers some requests later and in any
/// order.
///
/// The [contract](wirestate_testkit::contract) holds, no reply is missed by a sleeping task, and
/// pending output stays within the documented limit. The service gets the received requests in
/// order. The peer gets the replies in the same order, followed by at most one error reply with the
/// connection's reason. The connection ends without a deadline if the peer sends its FIN and all
/// requests are answered, and by its deadlines if the peer is gone.
///
/// # Panics
/// If a check fails.
pub fn server(bytes: &[u8]) {
    let Ok(scene) = draw(&mut Unstructured::new(bytes)) else { return };
    let _shown = Shown(&scene);
    let Scene { config, streamed, steps, abandoned } = &scene;
    let (limits, in_flight, streamed) =
        (config.frame_limits, config.max_in_flight.get(), *streamed);

    let log = Rc::new(RefCell::new(Log::default()));
    let service =
        Scripted { streamed, events: RequestQueue::default(), log: log.clone(), pieces: None };
    let connection = Server::new(config.clone(), service)
        .expect("the configuration is valid")
        .machine(Instant::EPOCH);
    let mut machine = Checked::new(connection, MAX_QUEUED);
    let mut stage = Stage::new(&mut machine);
    for step in steps {
        match step {
            Turn::Step(step) => stage.play(step),
            Turn::Answer { which, reply } => log.borrow_mut().answer(*which, Some(reply)),
            Turn::Forget { which } => log.borrow_mut().answer(*which, None),
        }
        let status = stage.player.machine().status();
        assert!(status.lag <= in_flight as u64, "{} of {in_flight} are in flight", status.lag);
    }
    if *abandoned {
        stage.abandon();
    } else {
        heal(&mut stage, &log);
    }
    let Stage { player, .. } = stage;
    let transcript = player.transcript();
    let reason = machine.reason().expect("it is done");
    drop(machine);
    let log = log.borrow();
    judge(&transcript, &reason, &log, limits, streamed);
    assert!(!config.one_shot || log.requests.len() <= 1, "one shot, {}", log.requests.len());
}

/// The decoded case.
#[derive(Debug)]
struct Scene {
    config: Config,
    /// The limit on streamed contents.
    streamed: u64,
    steps: Vec<Turn>,
    /// Whether the peer is gone at the end.
    abandoned: bool,
}

#[derive(Debug)]
enum Turn {
    Step(Step),
    /// A waiting request is answered.
    Answer {
        which: u8,
        reply: Answer,
    },
    /// It is dropped without a reply.
    Forget {
        which: u8,
    },
}

/// A reply.
#[derive(Clone, Debug)]
enum Answer {
    Content(Bytes),
    /// A content so large that nothing else fits beside it.
    Large,
    /// A header that is too long to be sent.
    Unsendable,
}

fn draw(u: &mut Unstructured<'_>) -> Result<Scene> {
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
    let abandoned = choice & 0x40 != 0;
    let streamed = if choice & 0x80 == 0 { 1000 } else { 10 };
    let mut steps = Vec::new();
    // Slow steps are rare: few inputs have them.
    let mut large = if u.arbitrary::<u8>()? < 0xf0 { 0..0 } else { 0..MAX_LARGE };
    while !u.is_empty() && steps.len() < MAX_STEPS {
        let kind = u.arbitrary::<u8>()? % (KINDS + 6);
        steps.push(match kind.checked_sub(KINDS) {
            None => Turn::Step(steps::step(kind, u)?),
            Some(0) => Turn::Forget { which: u.arbitrary()? },
            Some(1) if large.next().is_some() => {
                Turn::Answer { which: u.arbitrary()?, reply: Answer::Large }
            }
            Some(2) if large.next().is_some() => {
                Turn::Answer { which: u.arbitrary()?, reply: Answer::Unsendable }
            }
            Some(_) => {
                let which = u.arbitrary()?;
                Turn::Answer { which, reply: Answer::Content(steps::content(u)?) }
            }
        });
        // Usually the sent bytes arrive at once.
        if kind == 1 {
            steps.push(Turn::Step(Step::Deliver(usize::MAX)));
        }
    }
    Ok(Scene { config, streamed, steps, abandoned })
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

/// A service that answers `binary/n` at once, `binary/s` at once with the streamed content, and all
/// other types when the case says so.
#[derive(Clone, Debug)]
struct Scripted {
    streamed: u64,
    events: RequestQueue,
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
    asked: Vec<(usize, PendingRequest)>,
}

impl Log {
    fn answer(&mut self, which: u8, reply: Option<&Answer>) {
        if self.asked.is_empty() {
            return;
        }
        let (number, asked) = self.asked.swap_remove(usize::from(which) % self.asked.len());
        let reply = reply.map(Answer::message);
        let dropped = || Message::error("the request was dropped");
        self.replies[number] = Some(frame_of(&reply.clone().unwrap_or_else(dropped)));
        match reply {
            None => drop(asked),
            Some(reply) => asked.reply(reply),
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
    type Pending = PendingReply;

    fn call(&mut self, request: Message<'_>) -> Reply<PendingReply> {
        let request = match self.pieces.take() {
            None => request.into_owned(),
            Some(content) => {
                assert!(request.content.is_empty(), "it was streamed");
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
        let reply = self.events.call(request);
        let asked = self.events.take().expect("it was just asked");
        log.asked.push((number, asked));
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
        assert!(!piece.is_empty(), "a piece of no bytes");
        self.pieces.as_mut().expect("it is not streamed").extend_from_slice(piece);
    }
}

type Scripting<'a> = Stage<'a, Checked<Connection<Scripted>>>;

/// The peer reads all output and sends its FIN, and all requests are answered. No time passes.
fn heal(stage: &mut Scripting<'_>, log: &RefCell<Log>) {
    stage.player.play(&Op::Eof);
    for _ in 0..MAX_TURNS {
        log.borrow_mut().answer(0, Some(&Answer::Content(Bytes::from_static(b"healed"))));
        // `Release` makes the player poll the machine.
        stage.player.play(&Op::Release);
        stage.player.play_out();
        if stage.is_done() {
            return;
        }
    }
    panic!("all is read and answered, and it is {:?}", stage.player.machine().status());
}

/// Checks the ended connection.
fn judge(
    transcript: &Transcript,
    reason: &MessageReason,
    log: &Log,
    limits: FrameLimits,
    streamed: u64,
) {
    let longest =
        |header: &Header<'_>| if is_streamed(header) { streamed } else { limits.max_content };
    let arrived = frames::read(&transcript.input, limits, longest);
    let Log { requests, replies, asked: _ } = log;
    assert!(arrived.messages.starts_with(requests), "{requests:?} were not all asked");

    let sent = &transcript.output;
    let answered: Vec<&Vec<u8>> = replies.iter().map_while(Option::as_ref).collect();
    let owed_nothing = answered.len() == replies.len();
    let exactly = |replies: &[&Vec<u8>], error: Option<&MessageReason>| {
        let mut expected =
            replies.iter().map(|reply| reply.as_slice()).collect::<Vec<_>>().concat();
        if let Some(error) = error {
            expected.extend(steps::encoded(&Message::error(error)));
        }
        assert!(*sent == expected, "sent {} where it is {}", show(sent), show(&expected));
        assert_eq!(transcript.ending, Some(Ending::Fin));
    };
    // If the service is then too slow, the peer still gets the error reply for its own fault, after
    // the replies that were ready.
    let own_fault = || {
        let error = steps::encoded(&Message::error(reason));
        let replies = sent.strip_suffix(error.as_slice()).expect("the error is the last");
        let mut sizes = answered.iter().scan(0, |size, reply| {
            *size += reply.len();
            Some(*size)
        });
        let count = if replies.is_empty() {
            0
        } else {
            sizes.position(|size| size == replies.len()).expect("whole replies") + 1
        };
        exactly(&answered[..count], Some(reason));
    };
    match reason {
        MessageReason::Finished => {
            assert_eq!(arrived.rest, Rest::Nothing);
            assert_eq!(requests.len(), arrived.messages.len(), "not all were asked");
            assert!(owed_nothing);
            exactly(&answered, None);
        }
        MessageReason::Answered | MessageReason::ShutDown | MessageReason::IdleTimeout { .. } => {
            assert!(owed_nothing);
            exactly(&answered, None);
        }
        MessageReason::Malformed(error) => {
            assert_eq!(arrived.rest.at_end().as_ref(), Err(error));
            assert_eq!(requests.len(), arrived.messages.len(), "not all were asked");
            own_fault();
        }
        MessageReason::FrameTimeout { received, expected, .. } => {
            assert!(
                received < expected || *expected == 2,
                "{received} of {expected} bytes are all"
            );
            own_fault();
        }
        MessageReason::Memory(_) => own_fault(),
        MessageReason::ServiceTimeout { unanswered, .. } => {
            // The ready replies wait behind the one that is not ready.
            exactly(&answered[..requests.len() - unanswered], Some(reason));
        }
        MessageReason::WriteStalled { unacknowledged, .. } => {
            assert_eq!(transcript.ending, Some(Ending::Rst));
            if *unacknowledged == 0 {
                // Only its FIN was pending.
                let all: usize = answered.iter().map(|reply| reply.len()).sum();
                assert!(sent.len() >= all, "output is missing");
            }
            cut_short(sent, &answered);
        }
        MessageReason::Lost { .. } => {
            assert_ne!(transcript.ending, Some(Ending::Fin), "what was lost looks clean");
            cut_short(sent, &answered);
        }
        _ => panic!("an unknown reason: {reason}"),
    }
}

/// Checks output that may be cut anywhere: replies, followed by at most one error reply.
fn cut_short(sent: &[u8], answered: &[&Vec<u8>]) {
    let mut rest = sent;
    for reply in answered {
        let Some(after) = rest.strip_prefix(reply.as_slice()) else {
            let behind = if reply.starts_with(rest) { &[] } else { rest };
            return is_an_error(behind);
        };
        rest = after;
    }
    is_an_error(rest);
}

/// Checks that `sent` is at most one error reply, which may be incomplete.
fn is_an_error(sent: &[u8]) {
    let limits = FrameLimits::new(u16::MAX, u64::MAX);
    let frames::Frames { messages, rest } = frames::read(sent, limits, |_| u64::MAX);
    let part = match rest {
        Rest::Nothing => None,
        Rest::Part { begun, .. } => begun,
        Rest::Wrong(error) => panic!("{error} in what was sent"),
    };
    assert!(messages.len() <= 1, "{} are no replies", messages.len());
    let errors = messages.iter().chain(&part);
    for Message { content, .. } in errors {
        let n = content.len().min(ERROR.len());
        assert_eq!(content[..n], ERROR[..n], "no reply to any request, and no error");
    }
}

/// The first 200 bytes, for an error message.
fn show(bytes: &[u8]) -> String {
    let first = &bytes[..bytes.len().min(200)];
    format!("{} bytes, {}", bytes.len(), first.escape_ascii())
}

const ERROR: &[u8] = b"{\"result\": \"Error: ";
/// A content so large that nothing else fits beside it.
static LARGE: [u8; 80_000] = [b'.'; 80_000];
/// The documented limit of [`Connection`]: 64 KiB, one message and an error reply. The longest
/// message is [`LARGE`], with a header of 119 bytes.
const MAX_QUEUED: usize = 64 * 1024 + 119 + LARGE.len() + MAX_ERROR;
/// The longest error reply to a full buffer: that of a service timeout.
const MAX_ERROR: usize = 170;
const MAX_STEPS: usize = 64;
/// Enough to exceed the limit on pending output.
const MAX_LARGE: u8 = 3;
/// Each turn answers one of at most 32 waiting requests, or takes output.
const MAX_TURNS: usize = 1000;
