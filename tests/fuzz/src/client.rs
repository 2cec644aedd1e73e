//! Runs a client's connection with any steps, and any requests of its users.

use std::{
    collections::BTreeMap,
    future::Future as _,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use wirestate_core::{
    Machine,
    message::{
        Client, ClientConfig, ClientReason, FrameLimits, Handle, Message, ReplyFuture, RequestError,
    },
};

use crate::{
    frames::{self, Frames, Rest},
    steps::{self, KINDS, PrintOnPanic, Stage, Step},
};
use wirestate_testkit::{
    contract::Checked,
    script::{Ending, Op, Transcript},
};

/// Decodes a client's limits and the steps of its connection from `bytes`: requests that are made
/// inline and through handles, polled and dropped, received bytes and frames, accepted output,
/// time.
///
/// Checks the [contract](wirestate_testkit::contract), and the documented limit on pending output.
/// Each request is sent whole and once. Each reply reaches its request. Replies and the
/// connection's end wake the waiting tasks. If the server answers, all requests are answered. If
/// the server is gone, the connection ends by its deadlines.
///
/// # Panics
/// If a check fails.
pub fn client(bytes: &[u8]) {
    let Ok(case) = decode(&mut Unstructured::new(bytes)) else { return };
    let _shown = PrintOnPanic(&case);
    let Case { config, steps, end } = &case;
    let (limits, in_flight) = (config.frame_limits, config.max_in_flight.get());

    let (client, handle) = Client::with_handle(config.clone()).expect("the configuration is valid");
    let mut machine = Checked::new(client, MAX_QUEUED);
    let mut stage = Stage::new(&mut machine);
    let mut users = Users { handles: vec![handle], ..Users::default() };
    for action in steps {
        users.play(action, &mut stage);
        let in_use = stage.player.machine().status().lag;
        assert!(in_use <= in_flight as u64, "requests in flight: {in_use}, limit: {in_flight}");
    }
    match end {
        End::ShutDown => {
            users.finish(&mut stage);
            stage.player.play(&Op::ShutDown);
            close(&mut stage);
        }
        End::HandlesDropped => {
            users.finish(&mut stage);
            users.handles.clear();
            // `Release` makes the player poll the machine.
            stage.player.play(&Op::Release);
            close(&mut stage);
        }
        End::ServerGone => {
            stage.player.play(&Op::ShutDown);
            stage.abandon();
        }
    }
    users.check_end(&mut stage);
    let Stage { player, .. } = stage;
    let transcript = player.transcript();
    let reason = machine.reason().expect("the connection has ended");
    check_ended(&transcript, &reason, &users, limits);
}

/// A decoded case.
#[derive(Debug)]
struct Case {
    config: ClientConfig,
    steps: Vec<Action>,
    end: End,
}

/// How the connection ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// All requests are answered, then the client is shut down.
    ShutDown,
    /// All requests are answered, then the handles are dropped.
    HandlesDropped,
    /// The client is shut down, but the server is gone.
    ServerGone,
}

/// A step of the connection or of the client's users.
#[derive(Debug)]
enum Action {
    Step(Step),
    /// A request is made inline.
    Inline(Body),
    /// A reply is taken inline.
    Take,
    /// A request is made through a handle.
    Request {
        handle: u8,
        body: Body,
    },
    /// A request's future is polled.
    Poll {
        index: u8,
    },
    /// A request's future is dropped.
    Drop {
        index: u8,
    },
    CloneHandle,
    DropHandle {
        index: u8,
    },
}

/// The content of a request, behind four bytes that identify the request.
#[derive(Debug)]
enum Body {
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
    let config = ClientConfig::default()
        .with_frame_limits(limits)
        .with_buffer(count(buffer))
        .with_max_in_flight(count([1, 2, 4, 32][choice & 3]));
    let end = [End::ShutDown, End::HandlesDropped, End::ServerGone][(choice >> 4) % 3];
    let mut steps = Vec::new();
    // Only few inputs may have these steps, because they are slow.
    let mut large = if u.arbitrary::<u8>()? < 0xf0 { 0..0 } else { 0..MAX_LARGE };
    while !u.is_empty() && steps.len() < MAX_STEPS {
        let kind = u.arbitrary::<u8>()? % (KINDS + 12);
        steps.push(match kind.checked_sub(KINDS) {
            None => Action::Step(steps::step(kind, u)?),
            Some(0) if large.next().is_some() => Action::Inline(Body::Large),
            Some(1) if large.next().is_some() => Action::Inline(Body::Unsendable),
            Some(0..=3) => Action::Inline(Body::Content(steps::content(u)?)),
            Some(4) => Action::Take,
            Some(5) if large.next().is_some() => {
                Action::Request { handle: u.arbitrary()?, body: Body::Large }
            }
            Some(6) if large.next().is_some() => {
                Action::Request { handle: u.arbitrary()?, body: Body::Unsendable }
            }
            Some(5..=7) => {
                let handle = u.arbitrary()?;
                Action::Request { handle, body: Body::Content(steps::content(u)?) }
            }
            Some(8) => Action::Poll { index: u.arbitrary()? },
            Some(9) => Action::Drop { index: u.arbitrary()? },
            Some(10) => Action::CloneHandle,
            Some(_) => Action::DropHandle { index: u.arbitrary()? },
        });
        // Usually the sent bytes arrive at once.
        if kind == 1 {
            steps.push(Action::Step(Step::Deliver(usize::MAX)));
        }
    }
    Ok(Case { config, steps, end })
}

impl Body {
    fn message(&self, id: u32) -> Message<'static> {
        let mut content = id.to_be_bytes().to_vec();
        match self {
            Self::Content(more) => content.extend_from_slice(more),
            Self::Large => content.resize(LARGE, b'.'),
            Self::Unsendable => {
                let content_type = "x".repeat(usize::from(u16::MAX)).into();
                return Message { content_type, ..Message::binary(content) };
            }
        }
        Message::binary(content)
    }
}

/// The id of a request, from its content.
fn id(message: &Message<'_>) -> u32 {
    let id = message.content.first_chunk().expect("a request begins with its id");
    u32::from_be_bytes(*id)
}

type ClientStage<'a> = Stage<'a, Checked<Client>>;

/// The users of the client, and the replies that they have received.
#[derive(Debug, Default)]
struct Users {
    next: u32,
    /// The requests that were made inline, and the replies that were taken.
    inline: Vec<u32>,
    taken: Vec<Message<'static>>,
    handles: Vec<Handle>,
    calls: Vec<Call>,
    outcomes: Vec<(u32, std::result::Result<Message<'static>, RequestError>)>,
}

/// A request through a handle, and the task that waits for its reply.
#[derive(Debug)]
struct Call {
    id: u32,
    request: ReplyFuture,
    woken: Arc<Woken>,
    polled: bool,
}

/// A waker that remembers whether it was woken.
#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Woken {
    /// Whether it was woken since the last call.
    fn take(&self) -> bool {
        self.0.swap(false, SeqCst)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

impl Users {
    fn play(&mut self, action: &Action, stage: &mut ClientStage<'_>) {
        match action {
            Action::Step(step) => stage.play(step),
            Action::Inline(body) => self.request_inline(body, stage),
            Action::Take => {
                let client = stage.player.machine().machine_mut();
                self.taken.extend(client.take_reply());
            }
            Action::Request { handle, body } => {
                let id = self.new_id();
                if let Some(handle) = pick(&self.handles, *handle) {
                    let request = self.handles[handle].request(body.message(id));
                    let woken = Arc::new(Woken::default());
                    self.calls.push(Call { id, request, woken, polled: false });
                    self.poll(self.calls.len() - 1);
                }
            }
            Action::Poll { index } => {
                if let Some(call) = pick(&self.calls, *index) {
                    self.poll(call);
                }
            }
            Action::Drop { index } => {
                if let Some(call) = pick(&self.calls, *index) {
                    drop(self.calls.remove(call));
                }
            }
            Action::CloneHandle => self.handles.extend(self.handles.first().cloned()),
            Action::DropHandle { index } => {
                if let Some(handle) = pick(&self.handles, *index) {
                    drop(self.handles.remove(handle));
                }
            }
        }
    }

    fn new_id(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn request_inline(&mut self, body: &Body, stage: &mut ClientStage<'_>) {
        let id = self.new_id();
        let now = stage.player.now();
        let before = stage.player.machine().status();
        let client = stage.player.machine().machine_mut();
        match client.request(&body.message(id), now) {
            Ok(()) => self.inline.push(id),
            Err(error) => {
                let is_open = matches!(before.state, "idle" | "waiting");
                let ended = matches!(error, RequestError::Ended(_));
                assert_eq!(ended, !is_open, "{error}, {}", before.state);
                assert_eq!(
                    stage.player.machine().status(),
                    before,
                    "the refused request changes the status: {error}"
                );
            }
        }
    }

    /// Polls a request's future. Checks that it is ready only if its task was woken.
    fn poll(&mut self, index: usize) {
        let Call { id, request, woken, polled } = &mut self.calls[index];
        let may_be_ready = woken.take() || !std::mem::replace(polled, true);
        let waker = Waker::from(woken.clone());
        if let Poll::Ready(outcome) = Pin::new(request).poll(&mut Context::from_waker(&waker)) {
            assert!(
                may_be_ready,
                "request {id} is ready ({outcome:?}), but its task was not woken"
            );
            self.outcomes.push((*id, outcome));
            drop(self.calls.remove(index));
        }
    }

    /// Polls the requests whose tasks were woken. Returns whether a task was woken.
    fn poll_woken(&mut self) -> bool {
        let mut any_woken = false;
        for index in (0..self.calls.len()).rev() {
            let call = &mut self.calls[index];
            if call.woken.take() {
                call.polled = false;
                any_woken = true;
                self.poll(index);
            }
        }
        any_woken
    }

    /// The server reads and answers all requests, and the users take all replies.
    fn finish(&mut self, stage: &mut ClientStage<'_>) {
        for _ in 0..MAX_ROUNDS {
            stage.player.play_out();
            self.play(&Action::Take, stage);
            let mut woken = self.poll_woken();
            // `Release` makes the player poll the machine.
            stage.player.play(&Op::Release);
            woken |= self.poll_woken();
            let status = stage.player.machine().status();
            // After a failed write, requests stay queued.
            let sent = status.queued == 0 || status.state == "broken";
            if status.lag == 0 && sent && !woken {
                if status.state == "idle" {
                    self.play(&Action::Take, stage);
                    let waiting = &self.calls;
                    assert!(
                        waiting.is_empty(),
                        "all requests are answered, but these wait: {waiting:?}"
                    );
                }
                return;
            }
            for _ in 0..status.lag {
                stage.play(&Step::Op(Op::Receive(steps::encoded(&Message::binary("ok")))));
            }
        }
        panic!(
            "all requests are answered, but the client is {:?}",
            stage.player.machine().status()
        );
    }

    /// Checks that no request waits after the connection's end.
    fn check_end(&mut self, stage: &mut ClientStage<'_>) {
        self.poll_woken();
        assert!(
            self.calls.is_empty(),
            "the connection has ended, but these wait: {:?}",
            self.calls
        );
        let now = stage.player.now();
        let client = stage.player.machine().machine_mut();
        while let Some(reply) = client.take_reply() {
            self.taken.push(reply);
        }
        let more = client.request(&Message::binary("more"), now);
        assert!(
            matches!(more, Err(RequestError::Ended(_))),
            "the connection has ended, but a request gets {more:?}"
        );
    }
}

/// An index of `all`; `None` if `all` is empty.
fn pick<T>(all: &[T], index: u8) -> Option<usize> {
    usize::from(index).checked_rem(all.len())
}

/// Checks that the connection ends without pending output. No time passes.
fn close(stage: &mut ClientStage<'_>) {
    stage.player.play_out();
    if !stage.is_done() {
        // It waits for the rest of the input only after a failed write.
        let status = stage.player.machine().status();
        assert_eq!(status.state, "broken", "it waits although no output is pending");
        stage.player.play(&Op::Eof);
    }
    assert!(stage.is_done(), "the client does not end: {:?}", stage.player.machine().status());
}

/// Checks the ended connection.
fn check_ended(transcript: &Transcript, reason: &ClientReason, users: &Users, limits: FrameLimits) {
    let received = frames::read(&transcript.input, limits, |_| limits.max_content);
    let any = FrameLimits::new(u16::MAX, u64::MAX);
    let Frames { messages: requests, rest } = frames::read(&transcript.output, any, |_| u64::MAX);
    assert!(!matches!(rest, Rest::Invalid(_)), "the output is {rest:?}");
    if transcript.ending == Some(Ending::Fin) {
        assert_eq!(rest, Rest::Nothing, "a FIN within a request");
    }
    let index_of: BTreeMap<u32, usize> = requests.iter().map(id).zip(0..).collect();
    assert_eq!(index_of.len(), requests.len(), "a request was sent twice");

    // Inline requests are sent in order, and their replies are taken in the same order.
    let inline = requests.iter().map(id).filter(|id| users.inline.contains(id));
    assert!(users.inline.iter().copied().zip(inline).all(|(made, sent)| made == sent));
    assert!(users.taken.len() <= users.inline.len(), "more replies than requests");
    let inline = users.inline.iter().zip(&users.taken);
    let by_handle = users.outcomes.iter().filter_map(|(id, outcome)| {
        // The error of a failed request is the connection's reason or an earlier one.
        outcome.as_ref().ok().map(|reply| (id, reply))
    });
    for (id, reply) in inline.chain(by_handle) {
        match index_of.get(id) {
            Some(index) => {
                assert_eq!(received.messages.get(*index), Some(reply), "the reply to request {id}");
            }
            // The server answered before the whole request was sent.
            None => assert!(
                received.messages[requests.len()..].contains(reply),
                "the reply to request {id}"
            ),
        }
    }
    // Every received reply reached its request.
    let answered = &requests[..requests.len().min(received.messages.len())];
    let inline = answered.iter().filter(|request| users.inline.contains(&id(request))).count();
    assert!(
        users.taken.len() >= inline,
        "inline requests answered: {inline}, replies taken: {}",
        users.taken.len()
    );
    for (failed, outcome) in &users.outcomes {
        if outcome.is_err() {
            assert!(!answered.iter().any(|request| id(request) == *failed), "{outcome:?}");
        }
    }

    match reason {
        ClientReason::ShutDown => {
            assert_eq!(transcript.ending, Some(Ending::Fin));
            assert_eq!(received.messages.len(), requests.len(), "a request has no reply");
        }
        ClientReason::Closed => assert_eq!(received.rest, Rest::Nothing),
        ClientReason::ClosedEarly { unanswered } => {
            assert_eq!(received.rest, Rest::Nothing);
            assert!(
                *unanswered > 0 && received.messages.len() + unanswered >= requests.len(),
                "{unanswered}"
            );
        }
        ClientReason::Malformed(error) => assert_eq!(received.rest.at_end().as_ref(), Err(error)),
        ClientReason::UnexpectedReply => assert!(received.messages.len() > requests.len()),
        ClientReason::FrameTimeout { received, expected, .. } => assert!(received < expected),
        ClientReason::WriteStalled { unacknowledged, .. } => {
            // If all bytes are acknowledged, its FIN was pending, after all replies.
            assert!(*unacknowledged > 0 || received.messages.len() == requests.len());
        }
        ClientReason::ReplyTimeout { .. } | ClientReason::Lost { .. } => {}
        ClientReason::Dropped => panic!("the client was not dropped"),
        _ => panic!("an unknown reason: {reason}"),
    }
    let is_reset = matches!(
        reason,
        ClientReason::UnexpectedReply
            | ClientReason::ReplyTimeout { .. }
            | ClientReason::FrameTimeout { .. }
            | ClientReason::WriteStalled { .. }
    );
    if is_reset {
        assert_eq!(transcript.ending, Some(Ending::Rst), "{reason}");
    }
}

/// The size of a large content, in bytes.
const LARGE: usize = 80_000;
/// The documented limit of [`Client`]: 64 KiB and one message. The longest message is [`LARGE`],
/// with a header of 119 bytes.
const MAX_QUEUED: usize = 64 * 1024 + 119 + LARGE;
/// The most steps of a case.
const MAX_STEPS: usize = 64;
/// The most large contents of a case: enough to exceed the limit on pending output.
const MAX_LARGE: u8 = 3;
/// The most rounds until all requests are answered. Each round answers the requests in flight. A
/// partial frame of the case may contain some of the replies.
const MAX_ROUNDS: usize = 1000;
