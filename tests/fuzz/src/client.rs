//! A client's connection under any steps and uses.

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
    steps::{self, KINDS, Shown, Stage, Step},
};
use wirestate_testkit::{
    contract::Checked,
    script::{Ending, Op, Transcript},
};

/// Decodes a client's limits and the steps of its connection from `bytes`: requests that are made
/// inline and through handles, polled and dropped, received bytes and frames, accepted output,
/// time.
///
/// The [contract](wirestate_testkit::contract) holds, and pending output stays within the
/// documented limit. Each request is sent whole and once. Each reply reaches its request. Waiting
/// tasks are woken by replies and by the connection's end. All requests are answered if the server
/// answers them; if the server is gone, the connection ends by its deadlines.
///
/// # Panics
/// If a check fails.
pub fn client(bytes: &[u8]) {
    let Ok(scene) = draw(&mut Unstructured::new(bytes)) else { return };
    let _shown = Shown(&scene);
    let Scene { config, steps, end } = &scene;
    let (limits, in_flight) = (config.frame_limits, config.max_in_flight.get());

    let (client, handle) = Client::with_handle(config.clone()).expect("the configuration is valid");
    let mut machine = Checked::new(client, MAX_QUEUED);
    let mut stage = Stage::new(&mut machine);
    let mut users = Users { handles: vec![handle], ..Users::default() };
    for turn in steps {
        users.play(turn, &mut stage);
        let out = stage.player.machine().status().lag;
        assert!(out <= in_flight as u64, "{out} of {in_flight} are out");
    }
    match end {
        End::ShutDown => {
            users.finish(&mut stage);
            stage.player.play(&Op::ShutDown);
            close(&mut stage);
        }
        End::Deserted => {
            users.finish(&mut stage);
            users.handles.clear();
            // `Release` makes the player poll the machine.
            stage.player.play(&Op::Release);
            close(&mut stage);
        }
        End::Abandoned => {
            stage.player.play(&Op::ShutDown);
            stage.abandon();
        }
    }
    users.settle(&mut stage);
    let Stage { player, .. } = stage;
    let transcript = player.transcript();
    let reason = machine.reason().expect("it is done");
    judge(&transcript, &reason, &users, limits);
}

/// The decoded case.
#[derive(Debug)]
struct Scene {
    config: ClientConfig,
    steps: Vec<Turn>,
    end: End,
}

/// How the connection ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// All requests are answered, then the client is shut down.
    ShutDown,
    /// All requests are answered, then the handles are dropped.
    Deserted,
    /// The client is shut down, and the server is gone.
    Abandoned,
}

#[derive(Debug)]
enum Turn {
    Step(Step),
    /// A request is made inline.
    Inline(Body),
    /// A reply is taken inline.
    Take,
    /// A request is made through a handle.
    Ask {
        handle: u8,
        body: Body,
    },
    /// A request's future is polled.
    Poll {
        which: u8,
    },
    /// It is dropped without a reply.
    Forget {
        which: u8,
    },
    CloneHandle,
    DropHandle {
        which: u8,
    },
}

/// The content of a request, behind four bytes that identify the request.
#[derive(Debug)]
enum Body {
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
    let config = ClientConfig::default()
        .with_frame_limits(limits)
        .with_buffer(count(buffer))
        .with_max_in_flight(count([1, 2, 4, 32][choice & 3]));
    let end = [End::ShutDown, End::Deserted, End::Abandoned][(choice >> 4) % 3];
    let mut steps = Vec::new();
    // Slow steps are rare: few inputs have them.
    let mut large = if u.arbitrary::<u8>()? < 0xf0 { 0..0 } else { 0..MAX_LARGE };
    while !u.is_empty() && steps.len() < MAX_STEPS {
        let kind = u.arbitrary::<u8>()? % (KINDS + 12);
        steps.push(match kind.checked_sub(KINDS) {
            None => Turn::Step(steps::step(kind, u)?),
            Some(0) if large.next().is_some() => Turn::Inline(Body::Large),
            Some(1) if large.next().is_some() => Turn::Inline(Body::Unsendable),
            Some(0..=3) => Turn::Inline(Body::Content(steps::content(u)?)),
            Some(4) => Turn::Take,
            Some(5) if large.next().is_some() => {
                Turn::Ask { handle: u.arbitrary()?, body: Body::Large }
            }
            Some(6) if large.next().is_some() => {
                Turn::Ask { handle: u.arbitrary()?, body: Body::Unsendable }
            }
            Some(5..=7) => {
                let handle = u.arbitrary()?;
                Turn::Ask { handle, body: Body::Content(steps::content(u)?) }
            }
            Some(8) => Turn::Poll { which: u.arbitrary()? },
            Some(9) => Turn::Forget { which: u.arbitrary()? },
            Some(10) => Turn::CloneHandle,
            Some(_) => Turn::DropHandle { which: u.arbitrary()? },
        });
        // Usually the sent bytes arrive at once.
        if kind == 1 {
            steps.push(Turn::Step(Step::Deliver(usize::MAX)));
        }
    }
    Ok(Scene { config, steps, end })
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

/// The number of a request, from its content.
fn id(message: &Message<'_>) -> u32 {
    let id = message.content.first_chunk().expect("each begins with its number");
    u32::from_be_bytes(*id)
}

type Scripting<'a> = Stage<'a, Checked<Client>>;

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
    fn play(&mut self, turn: &Turn, stage: &mut Scripting<'_>) {
        match turn {
            Turn::Step(step) => stage.play(step),
            Turn::Inline(body) => self.ask_inline(body, stage),
            Turn::Take => {
                let client = stage.player.machine().machine_mut();
                self.taken.extend(client.take_reply());
            }
            Turn::Ask { handle, body } => {
                let id = self.number();
                if let Some(handle) = pick(&self.handles, *handle) {
                    let request = self.handles[handle].request(body.message(id));
                    let woken = Arc::new(Woken::default());
                    self.calls.push(Call { id, request, woken, polled: false });
                    self.poll(self.calls.len() - 1);
                }
            }
            Turn::Poll { which } => {
                if let Some(call) = pick(&self.calls, *which) {
                    self.poll(call);
                }
            }
            Turn::Forget { which } => {
                if let Some(call) = pick(&self.calls, *which) {
                    drop(self.calls.remove(call));
                }
            }
            Turn::CloneHandle => self.handles.extend(self.handles.first().cloned()),
            Turn::DropHandle { which } => {
                if let Some(handle) = pick(&self.handles, *which) {
                    drop(self.handles.remove(handle));
                }
            }
        }
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn ask_inline(&mut self, body: &Body, stage: &mut Scripting<'_>) {
        let id = self.number();
        let now = stage.player.now();
        let before = stage.player.machine().status();
        let client = stage.player.machine().machine_mut();
        match client.request(&body.message(id), now) {
            Ok(()) => self.inline.push(id),
            Err(error) => {
                let is_open = matches!(before.state, "idle" | "waiting");
                let ended = matches!(error, RequestError::Ended(_));
                assert_eq!(ended, !is_open, "{error}, {}", before.state);
                assert_eq!(stage.player.machine().status(), before, "it was refused: {error}");
            }
        }
    }

    /// Polls a request's future. Checks that it is ready only if its task was woken.
    fn poll(&mut self, which: usize) {
        let Call { id, request, woken, polled } = &mut self.calls[which];
        let due = woken.take() || !std::mem::replace(polled, true);
        let waker = Waker::from(woken.clone());
        if let Poll::Ready(outcome) = Pin::new(request).poll(&mut Context::from_waker(&waker)) {
            assert!(due, "request {id} is ready ({outcome:?}), but its task was not woken");
            self.outcomes.push((*id, outcome));
            drop(self.calls.remove(which));
        }
    }

    /// Polls the requests whose tasks were woken. Returns whether there were any.
    fn poll_woken(&mut self) -> bool {
        let mut any = false;
        for which in (0..self.calls.len()).rev() {
            let call = &mut self.calls[which];
            if call.woken.take() {
                call.polled = false;
                any = true;
                self.poll(which);
            }
        }
        any
    }

    /// The server reads and answers all requests, and the users take all replies.
    fn finish(&mut self, stage: &mut Scripting<'_>) {
        for _ in 0..MAX_TURNS {
            stage.player.play_out();
            self.play(&Turn::Take, stage);
            let mut woken = self.poll_woken();
            // `Release` makes the player poll the machine.
            stage.player.play(&Op::Release);
            woken |= self.poll_woken();
            let status = stage.player.machine().status();
            // After a failed write, requests stay queued.
            let sent = status.queued == 0 || status.state == "broken";
            if status.lag == 0 && sent && !woken {
                if status.state == "idle" {
                    self.play(&Turn::Take, stage);
                    let left = &self.calls;
                    assert!(left.is_empty(), "all is answered, but for {left:?}");
                }
                return;
            }
            for _ in 0..status.lag {
                stage.play(&Step::Happen(Op::Receive(steps::encoded(&Message::binary("ok")))));
            }
        }
        panic!("all is read and answered, and it is {:?}", stage.player.machine().status());
    }

    /// Checks that no request waits after the connection's end.
    fn settle(&mut self, stage: &mut Scripting<'_>) {
        self.poll_woken();
        assert!(self.calls.is_empty(), "it has ended, and these wait: {:?}", self.calls);
        let now = stage.player.now();
        let client = stage.player.machine().machine_mut();
        while let Some(reply) = client.take_reply() {
            self.taken.push(reply);
        }
        let more = client.request(&Message::binary("more"), now);
        assert!(matches!(more, Err(RequestError::Ended(_))), "it has ended, and {more:?}");
    }
}

/// The index of one of `all`, if there is one.
fn pick<T>(all: &[T], which: u8) -> Option<usize> {
    usize::from(which).checked_rem(all.len())
}

/// Checks that the connection ends without pending output. No time passes.
fn close(stage: &mut Scripting<'_>) {
    stage.player.play_out();
    if !stage.is_done() {
        // Only after a failed write it waits for the rest of the input.
        let status = stage.player.machine().status();
        assert_eq!(status.state, "broken", "no output is pending");
        stage.player.play(&Op::Eof);
    }
    assert!(stage.is_done(), "all is over, and it is {:?}", stage.player.machine().status());
}

/// Checks the ended connection.
fn judge(transcript: &Transcript, reason: &ClientReason, users: &Users, limits: FrameLimits) {
    let arrived = frames::read(&transcript.input, limits, |_| limits.max_content);
    let any = FrameLimits::new(u16::MAX, u64::MAX);
    let Frames { messages: requests, rest } = frames::read(&transcript.output, any, |_| u64::MAX);
    assert!(!matches!(rest, Rest::Wrong(_)), "{rest:?} was sent");
    if transcript.ending == Some(Ending::Fin) {
        assert_eq!(rest, Rest::Nothing, "a FIN within a request");
    }
    let place: BTreeMap<u32, usize> = requests.iter().map(id).zip(0..).collect();
    assert_eq!(place.len(), requests.len(), "a request was sent twice");

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
        match place.get(id) {
            Some(place) => assert_eq!(arrived.messages.get(*place), Some(reply), "to {id}"),
            // The server answered before the whole request was sent.
            None => assert!(arrived.messages[requests.len()..].contains(reply), "to {id}"),
        }
    }
    // Every received reply reached its request.
    let answered = &requests[..requests.len().min(arrived.messages.len())];
    let inline = answered.iter().filter(|request| users.inline.contains(&id(request))).count();
    assert!(users.taken.len() >= inline, "{inline} were answered, {} taken", users.taken.len());
    for (failed, outcome) in &users.outcomes {
        if outcome.is_err() {
            assert!(!answered.iter().any(|request| id(request) == *failed), "{outcome:?}");
        }
    }

    match reason {
        ClientReason::ShutDown => {
            assert_eq!(transcript.ending, Some(Ending::Fin));
            assert_eq!(arrived.messages.len(), requests.len(), "not all were answered");
        }
        ClientReason::Closed => assert_eq!(arrived.rest, Rest::Nothing),
        ClientReason::ClosedEarly { unanswered } => {
            assert_eq!(arrived.rest, Rest::Nothing);
            assert!(
                *unanswered > 0 && arrived.messages.len() + unanswered >= requests.len(),
                "{unanswered}"
            );
        }
        ClientReason::Malformed(error) => assert_eq!(arrived.rest.at_end().as_ref(), Err(error)),
        ClientReason::UnexpectedReply => assert!(arrived.messages.len() > requests.len()),
        ClientReason::FrameTimeout { received, expected, .. } => assert!(received < expected),
        ClientReason::WriteStalled { unacknowledged, .. } => {
            // Or only its FIN was pending, after all replies.
            assert!(*unacknowledged > 0 || arrived.messages.len() == requests.len());
        }
        ClientReason::ReplyTimeout { .. } | ClientReason::Lost { .. } => {}
        ClientReason::Dropped => panic!("the client was not dropped"),
        _ => panic!("an unknown reason: {reason}"),
    }
    let broke = matches!(
        reason,
        ClientReason::UnexpectedReply
            | ClientReason::ReplyTimeout { .. }
            | ClientReason::FrameTimeout { .. }
            | ClientReason::WriteStalled { .. }
    );
    if broke {
        assert_eq!(transcript.ending, Some(Ending::Rst), "{reason}");
    }
}

const LARGE: usize = 80_000;
/// The documented limit of [`Client`]: 64 KiB and one message. The longest message is [`LARGE`],
/// with a header of 119 bytes.
const MAX_QUEUED: usize = 64 * 1024 + 119 + LARGE;
const MAX_STEPS: usize = 64;
/// Enough to exceed the limit on pending output.
const MAX_LARGE: u8 = 3;
/// Each turn answers the requests in flight. A frame that the script has begun may contain some of
/// the replies.
const MAX_TURNS: usize = 1000;
