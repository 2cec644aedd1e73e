//! Coroutines as machines: the contract, every cut, every end, deadlines, wake-ups, and both sides
//! of a connection in the simulator.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

use std::{
    cell::Cell,
    collections::VecDeque,
    future::{Future, poll_fn},
    num::NonZeroUsize,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use proptest::prelude::*;
use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Interest, Machine, Outbound,
    coroutine::{Config, Connection, CoroutineReason, Error, Factory, Io},
    drive::{self, Clock as _, Drive, deliver},
    echo,
    runtime::{Listener as _, Runtime as _},
    serve,
    shared::{Lock, Shared},
};
use wirestate_testkit::{
    contract::Checked,
    coverage::Coverage,
    for_each_case, for_each_seed,
    script::{
        self, CONNECTION_ERRORS, Ending, Op, Transcript, play_out, split_invariant,
        split_invariant_exhaustive,
    },
    sim::{Act, Buffering, Faults, Leftovers, Settings, World, act},
};

const BUFFER: usize = 16;
const NOW: Instant = Instant::EPOCH;

fn config() -> Config {
    Config::default().with_buffer(const { NonZeroUsize::new(BUFFER).unwrap() })
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A machine that is checked, and whose waits for the peer have deadlines.
fn checked<T, E, F>(connection: Connection<T, E, F>) -> Checked<Connection<T, E, F>>
where
    E: wirestate_core::Reason,
    F: Future<Output = Result<T, E>>,
{
    Checked::new(connection, BUFFER).with_deadlines()
}

fn machine<T, F>(
    config: Config,
    coroutine: impl FnOnce(Io) -> F,
) -> Checked<Connection<T, Error, F>>
where
    F: Future<Output = Result<T, Error>>,
{
    checked(Factory::new(config).unwrap().connection(NOW, coroutine))
}

/// Polls until nothing changes.
fn poll(machine: &mut impl Machine, now: Instant) {
    let cx = &mut Context::from_waker(Waker::noop());
    while machine.poll_shared(now, cx) {}
}

/// Replies with the text of an error, and ends with it.
async fn or_reply<T>(io: &mut Io, result: Result<T, Error>) -> Result<T, Error> {
    if let Err(error) = result {
        io.write(error.to_string().as_bytes()).await?;
    }
    result
}

/// A handshake: a length, a name of that length, a line. It returns the line.
async fn negotiate(mut io: Io) -> Result<Vec<u8>, Error> {
    let line = async |io: &mut Io| {
        let [length] = io.read_array().await?;
        let mut name = vec![0; usize::from(length)];
        io.read_exact(&mut name).await?;
        io.write(b"hi ").await?;
        io.write(&name).await?;
        io.read_until(b"\r\n", 8).await
    };
    let line = line(&mut io).await;
    let line = or_reply(&mut io, line).await?;
    io.write(&line).await?;
    Ok(line)
}

/// A session: it sends each line back, which may take 5 s to arrive.
async fn session(mut io: Io) -> Result<(), Error> {
    loop {
        io.set_deadline(None);
        let more = io.has_more().await;
        if !or_reply(&mut io, more).await? {
            return Ok(());
        }
        io.set_deadline(seconds(5));
        let line = io.read_until(b"\n", 12).await;
        let line = or_reply(&mut io, line).await;
        io.write(&line?).await?;
    }
}

/// Each byte of the input is the next operation. Some are dropped before they are complete.
async fn interpret(mut io: Io) -> Result<u8, Error> {
    let mut has_finished = false;
    loop {
        let [operation] = io.read_array().await?;
        let polls = (operation / 16 % 4).checked_sub(1);
        match operation % 16 {
            0..=4 if !has_finished => run(polls, io.write(&[operation; 5])).await?,
            5 if !has_finished => run(polls, io.write(&[operation; 3 * BUFFER])).await?,
            6 => run(polls, io.flush()).await?,
            7 => {
                let deadline = io.now() + seconds(u64::from(operation));
                run(polls, io.sleep_until(deadline)).await?;
            }
            8 => io.set_deadline(seconds(u64::from(operation))),
            9 => run(polls, io.read_until(&[operation, 9], 12)).await?,
            10 => run(polls, io.read_array::<{ 2 * BUFFER }>()).await?,
            11 => run(polls, io.read_array::<12>()).await?,
            12 if operation < 128 => run(polls, io.read(&mut [0; 5])).await?,
            12 => run(polls, io.has_more()).await?,
            13 if operation < 128 => {
                has_finished = true;
                run(polls, io.finish()).await?;
            }
            14 if operation < 64 => return Ok(operation),
            _ => {}
        }
    }
}

/// Runs `operation`; with `polls`, drops it after one poll and as many further ones.
async fn run<T>(
    polls: Option<u8>,
    operation: impl Future<Output = Result<T, Error>>,
) -> Result<(), Error> {
    let (mut operation, mut polls) = (pin!(operation), polls);
    poll_fn(|cx| match (operation.as_mut().poll(cx), &mut polls) {
        (Poll::Ready(result), _) => Poll::Ready(result.map(drop)),
        (Poll::Pending, Some(0)) => Poll::Ready(Ok(())),
        (Poll::Pending, Some(polls)) => {
            *polls -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        (Poll::Pending, None) => Poll::Pending,
    })
    .await
}

#[test]
fn the_contract_is_kept() {
    for_each_case(256, (script::ops(60), any::<bool>()), |(ops, hands_over)| {
        let factory = Factory::new(config().with_write_timeout(seconds(20))).unwrap();
        let handshake = || factory.handshake(NOW, interpret);
        let connection = || factory.connection(NOW, interpret);
        let connection = if hands_over { handshake() } else { connection() };
        script::play(&mut checked(connection), &ops);
        assert_eq!(factory.buffers_in_use(), 0, "all are given back");
    });
}

#[test]
fn a_session_sends_back_whole_lines() {
    for_each_case(256, script::ops(40), |ops| {
        let transcript = script::play(&mut machine(config(), session), &ops);
        // An error reply may follow the lines.
        let mut lines = transcript.output;
        lines.truncate(lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        assert!(transcript.input.starts_with(&lines));
    });
}

const HANDSHAKE: &[u8] = b"\x04nameok\r\n";

#[test]
fn no_cut_changes_the_output() {
    let transcript = split_invariant_exhaustive(|| machine(config(), negotiate), HANDSHAKE);
    assert_eq!(transcript.output, b"hi nameok\r\n");
    assert_eq!((transcript.label, transcript.ending), (Some("finished"), Some(Ending::Fin)));

    let long = [&b"one\ntwo\n"[..], &b"three\n".repeat(10)].concat();
    assert_eq!(split_invariant(|| machine(config(), session), &long).output, long);
    let invalid = b"one\nfifteen letters\n";
    let transcript = split_invariant(|| machine(config(), session), invalid);
    assert_eq!(transcript.output, b"one\nno delimiter within 12 bytes");
    assert_eq!(transcript.label, Some("too_long"));
}

#[test]
fn a_fin_at_any_point_is_answered_and_named() {
    for end in 0..HANDSHAKE.len() {
        let transcript = split_invariant(|| machine(config(), negotiate), &HANDSHAKE[..end]);
        let (received, expected, before) = match end {
            0 => (0, 1, &b""[..]),
            1..5 => (end - 1, 4, &b""[..]),
            _ => (end - 5, end - 4, &b"hi name"[..]),
        };
        let error = format!("the input ended after {received} of {expected} bytes");
        assert_eq!(transcript.output, [before, error.as_bytes()].concat(), "a FIN at {end}");
        assert_eq!((transcript.reason, transcript.done), (Some(error), true), "a FIN at {end}");
    }
}

#[test]
fn an_error_at_any_point_ends_the_connection() {
    for end in 0..HANDSHAKE.len() {
        for direction in [Direction::Read, Direction::Write] {
            let input = HANDSHAKE[..end].to_vec();
            let ops = [Op::Receive(input), Op::Error(direction, ConnectionError::Reset)];
            let transcript = script::play(&mut machine(config(), negotiate), &ops);
            let unsent = if end < 5 { 0 } else { 7 };
            let error = "connection reset by peer";
            let reason = format!("lost while {direction}: {error}; unsent bytes: {unsent}");
            assert_eq!((transcript.reason, transcript.done), (Some(reason), true), "at {end}");
        }
    }
}

fn play(config: Config, ops: &[Op]) -> Transcript {
    play_out(&mut machine(config, session), ops)
}

fn text(transcript: &Transcript) -> (&str, &str) {
    let output = std::str::from_utf8(&transcript.output).unwrap();
    (output, transcript.reason.as_deref().unwrap_or_default())
}

#[test]
fn at_its_deadline_a_coroutine_can_still_reply() {
    let ops = [Op::Receive(b"one\ntw".into()), Op::Advance(seconds(4)), Op::Timeout];
    let transcript = play(config(), &[&ops[..], &[Op::Eof]].concat());
    assert_eq!(text(&transcript), ("one\nnot finished within 5s", "not finished within 5s"));
    assert_eq!(transcript.label, Some("deadline"));

    // The deadline is not that of the next line, and input that arrived before it counts.
    let late = Op::Advance(seconds(4));
    let [first, rest] = [Op::Receive(b"on".into()), Op::Receive(b"e\nt".into())];
    let ops = [first, late.clone(), rest, late.clone(), Op::Receive(b"wo\n".into()), Op::Eof];
    assert_eq!(text(&play(config(), &ops)), ("one\ntwo\n", "finished"));
}

#[test]
fn a_coroutine_that_ignores_its_deadline_is_dropped() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    let is_dropped = Arc::new(AtomicBool::new(false));
    let dropped = Dropped(is_dropped.clone());
    let mut machine =
        checked(Factory::new(config()).unwrap().connection(NOW, |mut io| async move {
            let _dropped = dropped;
            io.write(b"busy").await?;
            std::future::pending::<Result<(), Error>>().await
        }));
    let transcript =
        play_out(&mut machine, &[Op::Receive(vec![0]), Op::Accept(9), Op::Timeout, Op::Eof]);
    assert!(is_dropped.load(SeqCst));
    assert_eq!((&*transcript.output, transcript.label), (&b"busy"[..], Some("deadline")));
    assert_eq!(transcript.ending, Some(Ending::Fin));
}

#[test]
fn a_read_that_waits_too_long_fails() {
    let ops = [Op::Receive(b"one\n".into()), Op::Accept(9), Op::Timeout, Op::Eof];
    let transcript = play(config(), &ops);
    assert_eq!(text(&transcript), ("one\nno byte received for 1m", "no byte received for 1m"));

    // Each byte restarts the time, and so does output.
    let mut machine = machine(config().with_deadline(None), async |mut io: Io| {
        let [_, _, last] = io.read_array().await?;
        io.write(&[last]).await
    });
    let later = Op::Advance(seconds(59));
    let byte = |byte| [later.clone(), Op::SpuriousTimeout, Op::Receive(vec![byte])];
    let transcript = play_out(&mut machine, &[byte(1), byte(2), byte(3)].concat());
    assert_eq!((&*transcript.output, transcript.ending), (&[3][..], Some(Ending::Fin)));
}

#[test]
fn input_that_arrived_before_the_deadline_is_read() {
    let config = config().with_buffer(const { NonZeroUsize::new(100).unwrap() });
    let connection = Factory::new(config).unwrap().connection(NOW, async |mut io: Io| {
        for _ in 0..100 {
            let _: [u8; 1] = io.read_array().await?;
        }
        Ok::<_, Error>(())
    });
    let mut machine = Checked::new(connection, 100);
    deliver(&mut machine, &mut &[0; 100][..], NOW);
    machine.poll_shared(NOW, &mut Context::from_waker(Waker::noop()));
    let now = machine.poll_timeout().unwrap();
    machine.handle(now, Event::Timeout { unacknowledged: 0 });
    poll(&mut machine, now);
    assert_eq!((machine.work(), machine.interest().write), (100, Outbound::Finish));
}

#[test]
fn a_coroutine_whose_last_poll_reads_all_input_is_told_of_its_deadline() {
    let config = config().with_buffer(const { NonZeroUsize::new(100).unwrap() });
    let connection = Factory::new(config).unwrap().connection(NOW, async |mut io: Io| {
        loop {
            let byte = io.read_array::<1>().await;
            or_reply(&mut io, byte).await?;
        }
        #[expect(unreachable_code, reason = "it names the type")]
        Ok::<(), Error>(())
    });
    let mut machine = Checked::new(connection, 100);
    deliver(&mut machine, &mut &[0; 64][..], NOW); // two polls
    machine.poll_shared(NOW, &mut Context::from_waker(Waker::noop()));
    let now = machine.poll_timeout().unwrap();
    machine.handle(now, Event::Timeout { unacknowledged: 0 });
    poll(&mut machine, now);
    assert_eq!(script::collect(&mut machine, now), b"not finished within 10s");
}

#[test]
fn an_item_can_be_larger_than_the_buffer() {
    let coroutine = async |mut io: Io| {
        let item: [u8; 40] = io.read_array().await?;
        io.write(&item).await
    };
    let input: Vec<u8> = (0..40).collect();
    assert_eq!(split_invariant(|| machine(config(), coroutine), &input).output, input);
    let transcript = split_invariant(|| machine(config(), coroutine), &input[..39]);
    assert_eq!(transcript.reason.unwrap(), "the input ended after 39 of 40 bytes");
}

#[test]
fn a_peer_that_acknowledges_nothing_is_reset() {
    let ops = [Op::Advance(seconds(20)), Op::Receive(b"one\n".into())];
    let mut idle = machine(config(), session);
    script::play(&mut idle, &ops);
    assert!(idle.poll_timeout().unwrap() > NOW + seconds(20), "the time begins with the output");

    let transcript = play(config(), &[&ops[..], &[Op::Buffer(1), Op::Timeout]].concat());
    let reason = "no byte acknowledged for 10s; bytes not acknowledged: 4";
    assert_eq!(text(&transcript), ("o", reason));
    assert_eq!(transcript.ending, Some(Ending::Rst));
}

#[test]
fn after_a_shutdown_nothing_new_begins() {
    // What is on its way is answered, and what has begun goes on.
    let received = |text: &str| Op::Receive(text.into());
    let (wait, accept) = (Op::Advance(Duration::from_millis(9)), Op::Accept(99));
    let ops = [
        received("one\n"),
        accept.clone(),
        Op::ShutDown,
        wait.clone(),
        received("tw"),
        Op::Advance(seconds(1)),
        received("o\n"),
        accept,
        wait,
        Op::SpuriousTimeout,
        Op::Timeout,
        Op::Eof,
    ];
    let transcript = play(config(), &ops);
    assert_eq!(text(&transcript), ("one\ntwo\nshutdown requested", "shutdown requested"));

    // A handshake that has not begun fails as well, and one that has begun does not.
    for (begun, expected) in [(&b""[..], "shut_down"), (&b"\x04na"[..], "deadline")] {
        let ops = [Op::Receive(begun.into()), Op::ShutDown, Op::Timeout, Op::Eof];
        let transcript = play_out(&mut machine(config(), negotiate), &ops);
        assert_eq!(transcript.label, Some(expected), "after {begun:?}");
    }
}

#[test]
fn a_coroutine_that_never_waits_does_not_escape_its_deadline() {
    async fn lines_without_end(mut io: Io) -> Result<(), Error> {
        loop {
            io.write(b"x").await?;
        }
    }
    async fn ignores_the_fin(mut io: Io) -> Result<(), Error> {
        loop {
            io.read(&mut [0]).await?;
        }
    }
    async fn ignores_errors(mut io: Io) -> Result<(), Error> {
        loop {
            let _ = io.has_more().await;
        }
    }
    fn ends<F: Future<Output = Result<(), Error>>>(coroutine: fn(Io) -> F) {
        let factory = Factory::new(Config::default().with_write_timeout(None)).unwrap();
        let mut machine = Checked::new(factory.connection(NOW, coroutine), 16 * 1024);
        let cx = &mut Context::from_waker(Waker::noop());
        machine.poll_shared(NOW, cx);
        if machine.interest().read {
            machine.handle(NOW, Event::Eof);
        }
        let late = NOW + seconds(10);
        machine.handle(late, Event::Timeout { unacknowledged: 0 });
        for _ in 0..10 {
            machine.poll_shared(late, cx);
            drive::collect_into(&mut machine, &mut [0; 1024], late);
        }
        assert_eq!(machine.interest().write, Outbound::Finish);
    }
    ends(lines_without_end);
    ends(ignores_the_fin);
    ends(ignores_errors);
}

#[test]
fn a_coroutine_sleeps_until_its_time() {
    let mut machine = machine(config(), async |mut io: Io| {
        let deadline = io.now() + seconds(3);
        io.sleep_until(deadline).await?;
        assert!(io.now() >= deadline);
        io.write(b"awake").await
    });
    poll(&mut machine, NOW);
    assert_eq!(
        (machine.poll_timeout(), machine.status().state),
        (Some(NOW + seconds(3)), "sleeping")
    );
    let early = Op::Advance(Duration::from_millis(2999));
    let transcript = script::play(&mut machine, &[early, Op::SpuriousTimeout]);
    assert_eq!(transcript.output, b"");
    assert_eq!(play_out(&mut machine, &[Op::Timeout]).output, b"awake");
}

#[test]
fn one_poll_completes_a_bounded_number_of_operations() {
    let lines = b"\n".repeat(4096);
    let config = Config::default().with_buffer(NonZeroUsize::new(8192).unwrap());
    let connection = Factory::new(config).unwrap().connection(NOW, session);
    let mut machine = Checked::new(connection, 8192); // checks the work of each call
    let mut input = &lines[..];
    deliver(&mut machine, &mut input, NOW);
    assert!(input.is_empty() && !machine.interest().read);
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(machine.poll_shared(NOW, cx));
    assert!(!machine.interest().read && machine.work() == 32);
    poll(&mut machine, NOW);
    assert_eq!((machine.status().queued, machine.interest().read), (4096, true));
}

#[test]
fn a_write_waits_while_the_buffer_is_full() {
    let mut machine = machine(config(), async |mut io: Io| {
        io.write(&[7; 100]).await?;
        io.flush().await?;
        io.write(b"end").await
    });
    poll(&mut machine, NOW);
    assert_eq!((machine.status().queued, machine.status().state), (BUFFER, "writing"));
    let transcript = play_out(&mut machine, &[]);
    assert_eq!(transcript.output, [&[7; 100][..], b"end"].concat());
}

#[test]
fn after_its_fin_a_coroutine_can_still_read() {
    let mut machine = machine(config(), async |mut io: Io| {
        io.write(b"question").await?;
        io.finish().await?;
        let mut answer = Vec::new();
        while io.has_more().await? {
            let mut piece = [0; 3];
            let n = io.read(&mut piece).await?;
            answer.extend_from_slice(&piece[..n]);
        }
        Ok(answer)
    });
    let ops =
        [Op::Release, Op::Accept(99), Op::Finished, Op::Receive(b"an answer".into()), Op::Eof];
    let transcript = script::play(&mut machine, &ops);
    assert_eq!((transcript.label, transcript.ending), (Some("finished"), Some(Ending::Fin)));
    assert_eq!(machine.machine_mut().take_output().unwrap(), b"an answer");
}

#[test]
fn a_handshake_stays_open_and_leaves_the_rest_of_the_input() {
    let factory = Factory::new(config()).unwrap();
    let mut machine = checked(factory.handshake(NOW, negotiate));
    let more = [HANDSHAKE, b"rest"].concat();
    let transcript = script::play(&mut machine, &[Op::Receive(more), Op::Accept(10), Op::ShutDown]);
    assert_eq!(machine.machine_mut().take_output(), None, "output is pending");
    assert_eq!(machine.interest(), Interest { read: false, write: Outbound::Flush });
    assert_eq!(transcript.reason, None);
    script::play(&mut machine, &[Op::Accept(1)]);
    assert_eq!(machine.interest(), Interest { read: false, write: Outbound::Idle });
    let handshake = machine.machine_mut();
    assert_eq!(handshake.take_output().unwrap(), b"ok\r\n");
    assert_eq!((handshake.take_output(), handshake.take_input()), (None, b"rest".to_vec()));
    assert_eq!(factory.buffers_in_use(), 0);
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let factory = Factory::new(config()).unwrap();
    let mut machine = checked(factory.connection(NOW, session));
    script::play(&mut machine, &[Op::Receive(b"one\ntwo".into())]);
    assert_eq!(factory.buffers_in_use(), 2);
    script::play(&mut machine, &[Op::Accept(99), Op::Receive(b"\n".into()), Op::Accept(99)]);
    script::play(&mut machine, &[Op::Release]);
    assert_eq!(factory.buffers_in_use(), 0);

    // After the FIN there is no read, after which a driver would release the buffer.
    let mut machine = checked(factory.connection(NOW, async |mut io: Io| {
        let _: [u8; 3] = io.read_array().await?;
        let later = io.now() + seconds(1);
        io.sleep_until(later).await?;
        let _: [u8; 3] = io.read_array().await?;
        std::future::pending::<Result<(), Error>>().await
    }));
    script::play(&mut machine, &[Op::Receive(b"one".into()), Op::Receive(b"two".into()), Op::Eof]);
    assert_eq!(factory.buffers_in_use(), 1);
    let after = NOW + seconds(1);
    machine.handle(after, Event::Timeout { unacknowledged: 0 });
    poll(&mut machine, after);
    assert_eq!(factory.buffers_in_use(), 0);
}

#[test]
fn a_timeout_of_zero_is_an_error_that_names_the_setting() {
    let zero = Duration::ZERO;
    for (config, setting) in [
        (config().with_deadline(zero), "deadline"),
        (config().with_read_timeout(zero), "read_timeout"),
        (config().with_write_timeout(zero), "write_timeout"),
        (config().with_linger(wirestate_core::Linger { bytes: 1, time: zero }), "linger.time"),
    ] {
        let error = Factory::new(config).unwrap_err();
        assert_eq!(error.to_string(), format!("{setting} must be non-zero"));
    }
}

/// A queue of messages for one receiver.
#[derive(Clone, Default)]
struct Channel {
    state: Shared<Lock<(VecDeque<&'static str>, Option<Waker>)>>,
}

impl Channel {
    fn send(&self, message: &'static str) {
        let waker = self.state.with(|(messages, waker)| {
            messages.push_back(message);
            waker.take()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<&'static str> {
        self.state.with(|(messages, waker)| {
            *waker = Some(cx.waker().clone());
            messages.pop_front().map_or(Poll::Pending, Poll::Ready)
        })
    }
}

/// Sends messages of a channel, and the lines that it receives, as they come.
async fn chat(mut io: Io, channel: Channel) -> Result<(), Error> {
    loop {
        let next = {
            let mut line = pin!(io.read_until(b"\n", 12));
            poll_fn(|cx| match channel.poll(cx) {
                Poll::Ready(message) => Poll::Ready(Ok(message.into())),
                Poll::Pending => line.as_mut().poll(cx),
            })
            .await?
        };
        io.write(&next).await?;
    }
}

#[test]
fn a_message_of_a_channel_wakes_the_connection_and_loses_no_input() {
    let channel = Channel::default();
    let factory = Factory::new(config()).unwrap();
    let mut machine = checked(factory.connection(NOW, |io| chat(io, channel.clone())));
    poll(&mut machine, NOW);
    // `Checked` panics if the output changes without a call of the waker.
    channel.send("one ");
    poll(&mut machine, NOW);
    assert_eq!(script::collect(&mut machine, NOW), b"one ");
    deliver(&mut machine, &mut &b"thr"[..], NOW);
    poll(&mut machine, NOW);
    channel.send("two ");
    poll(&mut machine, NOW);
    deliver(&mut machine, &mut &b"ee\n"[..], NOW);
    poll(&mut machine, NOW);
    assert_eq!(script::collect(&mut machine, NOW), b"two three\n");
}

/// Polls a future only after its own waker was woken, as an executor inside of a future does.
struct OnlyWhenWoken<F> {
    future: Pin<Box<F>>,
    waker: Arc<ChildWaker>,
}

struct ChildWaker {
    woken: AtomicBool,
    parent: Lock<Option<Waker>>,
}

impl Wake for ChildWaker {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, SeqCst);
        if let Some(parent) = self.parent.with(Option::take) {
            parent.wake();
        }
    }
}

impl<F: Future> OnlyWhenWoken<F> {
    fn new(future: F) -> Self {
        let waker = ChildWaker { woken: AtomicBool::new(true), parent: Lock::new(None) };
        Self { future: Box::pin(future), waker: Arc::new(waker) }
    }
}

impl<F: Future> Future for OnlyWhenWoken<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.waker.parent.with(|parent| *parent = Some(cx.waker().clone()));
        if !self.waker.woken.swap(false, SeqCst) {
            return Poll::Pending;
        }
        let waker = self.waker.clone().into();
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

#[test]
fn a_combinator_may_poll_operations_only_when_they_are_woken() {
    for coroutine in [negotiate_woken, negotiate_twice_woken] {
        let transcript = split_invariant(|| machine(config(), coroutine), HANDSHAKE);
        assert_eq!(transcript.output, b"hi nameok\r\n");
    }
    let lines = b"\n".repeat(40); // more than one poll
    let woken = |io: Io| OnlyWhenWoken::new(session(io));
    assert_eq!(split_invariant(|| machine(config(), woken), &lines).output, lines);
    let late = [Op::Receive(b"one".into()), Op::Timeout, Op::Eof];
    let transcript = play_out(&mut machine(config(), woken), &late);
    assert_eq!(text(&transcript), ("not finished within 5s", "not finished within 5s"));
}

fn negotiate_woken(io: Io) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, Error>>>> {
    Box::pin(OnlyWhenWoken::new(negotiate(io)))
}

fn negotiate_twice_woken(io: Io) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, Error>>>> {
    Box::pin(OnlyWhenWoken::new(OnlyWhenWoken::new(negotiate(io))))
}

/// Sends lines, and returns the lines that come back.
async fn client(mut io: Io, lines: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Error> {
    let mut replies = Vec::new();
    for line in lines {
        io.write(&line).await?;
        replies.push(io.read_until(b"\n", BUFFER).await?);
    }
    io.finish().await?;
    assert!(!io.has_more().await?);
    Ok(replies)
}

fn lines(seed: u64) -> Vec<Vec<u8>> {
    let line = |number| format!("{}\n", (seed + 1) * number % 100_000);
    (1..=1 + seed % 20).map(|number| line(number).into_bytes()).collect()
}

/// Runs a client against a server, both coroutines, with these faults on both sides. Returns what
/// the client has got.
fn simulate(seed: u64, faults: fn(u64) -> Faults) -> Option<Vec<Vec<u8>>> {
    let world = World::new(seed);
    let (server, host) = (world.host("server"), world.host("client"));
    server.set_faults(faults(seed));
    host.set_faults(faults(seed + 1));

    let config = config().with_deadline(None);
    let factory = Factory::new(config.clone()).unwrap();
    let sessions = serve::Server::new(server.clone(), server.listen("server:7").unwrap());
    let handle = sessions.handle();
    let sessions = sessions.serve(move |_, now| checked(factory.connection(now, session)));
    server.run(sessions);

    let runtime = host.clone();
    let replies = host.run(async move {
        let socket = runtime.connect("server:7").await.ok()?;
        let clock = runtime.clock();
        let factory = Factory::new(config).unwrap();
        let client = factory.connection(clock.now(), |io| client(io, lines(seed)));
        let mut drive = Drive::new(checked(client), socket, clock);
        let replies = drive.until(|client, _| client.machine_mut().take_output()).await.ok();
        drive.await;
        replies
    });
    let replies = world.run_until(&replies).unwrap();
    handle.drain();
    world.run().unwrap();
    assert_eq!(world.leftovers(), Leftovers::default());
    replies
}

#[test]
fn a_client_gets_every_line_back_despite_harmless_faults() {
    for_each_seed(50, |seed| assert_eq!(simulate(seed, Faults::harmless).unwrap(), lines(seed)));
}

#[test]
fn a_client_that_finishes_has_every_line_despite_any_fault() {
    let (finished, clients) = (Cell::new(0), Cell::new(0));
    for_each_seed(100, |seed| {
        clients.set(clients.get() + 1);
        if let Some(replies) = simulate(seed, Faults::harmful) {
            assert_eq!(replies, lines(seed));
            finished.set(finished.get() + 1);
        }
    });
    let (finished, clients) = (finished.get(), clients.get());
    let is_likely = (clients / 10..=clients - clients / 10).contains(&finished);
    assert!(is_likely, "{finished} of {clients} clients finished");
}

#[test]
fn messages_of_another_task_are_sent_without_delay() {
    // The simulator reports a lost wake-up if a task makes progress that was not woken.
    for_each_seed(50, |seed| {
        let world = World::new(seed);
        let (server, host) = (world.host("server"), world.host("client"));
        server.set_faults(Faults::harmless(seed));
        let channel = Channel::default();
        let factory = Factory::new(config().with_deadline(None)).unwrap();
        let mut listener = server.listen("server:7").unwrap();
        let (runtime, messages) = (server.clone(), channel.clone());
        server.run(async move {
            let (socket, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            let clock = runtime.clock();
            let chat = factory.connection(clock.now(), |io| chat(io, messages));
            Drive::new(checked(chat), socket, clock).await
        });
        let runtime = host.clone();
        let received = host.run(async move {
            let socket = runtime.connect("server:7").await.unwrap();
            let acts = [Act::Receive(8), Act::Send("line\n".into()), Act::Receive(5), Act::Finish];
            act(runtime, socket, acts.into()).await
        });
        let runtime = server.clone();
        server.run(async move {
            for message in ["one ", "two "] {
                runtime.sleep(seconds(1)).await;
                channel.send(message);
            }
        });
        assert_eq!(world.run_until(&received).unwrap().bytes, b"one two line\n");
        world.run().unwrap();
    });
}

#[test]
fn another_machine_takes_the_connection_over_with_its_output_and_input() {
    for_each_seed(50, |seed| {
        let world = World::new(seed);
        let (server, host) = (world.host("server"), world.host("client"));
        server.set_faults(Faults::harmless(seed));
        host.set_faults(Faults::harmless(seed + 1));
        let runtime = server.clone();
        let servers = serve::Server::new(server.clone(), server.listen("server:7").unwrap());
        let (handle, factory) = (servers.handle(), Factory::new(config()).unwrap());
        server.run(servers.accept(move |socket, admitted, clock| {
            let (factory, next) = (factory.clone(), runtime.clock());
            async move {
                // A sink that still holds output is not reset.
                let mut socket = Buffering::new(socket, 64.try_into().unwrap());
                let handshake = factory.handshake(clock.now(), negotiate);
                let drive = Drive::new(handshake, &mut socket, clock).admitted(admitted);
                let (line, input, admitted) = drive.handshake().await.unwrap();
                assert_eq!(line, b"ok\r\n");
                let mut echo = echo::Server::default().machine(next.now());
                deliver(&mut echo, &mut &input[..], next.now());
                Drive::new(echo, socket, next).admitted(admitted.unwrap()).await;
            }
        }));
        let runtime = host.clone();
        let received = host.run(async move {
            let socket = runtime.connect("server:7").await.unwrap();
            let sent = [HANDSHAKE, b"and more"].concat().into();
            act(runtime, socket, vec![Act::Send(sent), Act::Finish, Act::ReceiveAll]).await
        });
        let received = world.run_until(&received).unwrap();
        assert_eq!((&*received.bytes, received.fin), (&b"hi nameok\r\nand more"[..], true));
        handle.drain();
        world.run().unwrap();
        assert_eq!(handle.table().totals().ended.get("finished").copied(), Some(1));
    });
}

#[test]
fn a_coroutine_that_panics_ends_its_connection_alone() {
    let settings = Settings { catch_panics: true, ..Settings::default() };
    let world = World::with(1, settings);
    let (server, host) = (world.host("server"), world.host("client"));
    let factory = Factory::new(config()).unwrap();
    let servers = serve::Server::new(server.clone(), server.listen("server:7").unwrap());
    let (handle, connections) = (servers.handle(), factory.clone());
    server.run(servers.serve(move |_, now| {
        connections.connection(now, async |mut io: Io| {
            let [byte] = io.read_array().await?;
            assert_ne!(byte, 0, "planted");
            io.write(&[byte]).await
        })
    }));
    let client = |byte: u8| {
        let runtime = host.clone();
        host.run(async move {
            let socket = runtime.connect("server:7").await.unwrap();
            act(runtime, socket, vec![Act::Send(vec![byte].into()), Act::ReceiveAll]).await
        })
    };
    let (bad, good) = (client(0), client(1));
    let (bad, good) = (world.run_until(&bad).unwrap(), world.run_until(&good).unwrap());
    assert_eq!((bad.fin, bad.error, good.bytes), (false, Some(ConnectionError::Reset), vec![1]));
    handle.drain();
    world.run().unwrap();
    assert_eq!((world.panics(), factory.buffers_in_use()), (1, 0));
}

#[test]
fn the_reason_of_a_coroutine_with_its_own_error_is_that_error() {
    #[derive(Clone, Debug, PartialEq, thiserror::Error)]
    #[error("the answer is 42")]
    struct Wrong;
    impl wirestate_core::Reason for Wrong {
        fn label(&self) -> &'static str {
            "wrong"
        }
        fn fault(&self) -> wirestate_core::Fault {
            wirestate_core::Fault::Peer
        }
    }
    let factory = Factory::new(config()).unwrap();
    let mut machine = checked(factory.connection(NOW, async |_io| Err::<(), _>(Wrong)));
    let transcript = play_out(&mut machine, &[Op::Receive(vec![1]), Op::Eof]);
    assert_eq!(
        (transcript.label, machine.reason()),
        (Some("wrong"), Some(CoroutineReason::Failed(Wrong)))
    );
}

#[test]
fn every_reason_is_reached() {
    let coverage = Coverage::start();
    let end = |ops: &[Op]| {
        let mut machine = machine(config().with_deadline(None), session);
        script::play_to_end(&mut machine, ops).label.unwrap()
    };
    let receive = |text: &str| Op::Receive(text.into());
    for (ops, label) in [
        (vec![receive("one\n"), Op::Eof], "finished"),
        (vec![receive("on"), Op::Eof], "truncated"),
        (vec![receive("fifteen letters\n")], "too_long"),
        (vec![Op::Timeout], "read_timeout"),
        (vec![receive("on"), Op::Timeout], "deadline"),
        (vec![Op::ShutDown], "shut_down"),
        (vec![receive("one\n"), Op::Timeout], "write_stalled"),
    ] {
        assert_eq!(end(&ops), label, "{ops:?}");
    }
    for error in CONNECTION_ERRORS {
        assert_eq!(end(&[Op::Error(Direction::Read, error)]), error.label());
    }
    coverage.demand_reasons::<CoroutineReason<Error>>();
}
