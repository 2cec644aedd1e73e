//! The stage finds each planted lost wake-up of a machine that shares state, and nothing else.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use proptest::{
    prelude::*,
    test_runner::{Config as Cases, TestError, TestRunner},
};
use wirestate_core::{
    AnyReason, ConnectionError, Erased, Event, Fault, Instant, Interest, Machine, Outbound, Reason,
    Status,
    fanout::{self, Feed, Framing, LagPolicy, Subscriber, Upstream},
    protocol::{self, Buffer, Immediate, Malformed, Protocol, Replies, Step},
    shared::Lock,
};
use wirestate_testkit::{
    contract::Checked,
    script::{self, Ending, Op, Transcript},
    stage::{self, Stage, Staged},
};

/// The bug of a [`Member`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// Registers its waker only at the first poll.
    RegistersOnce,
    /// Registers its waker until it was woken, and then never again.
    LosesWaker,
    /// Registers its waker only at the third poll in a row that finds no news.
    RegistersLate,
    /// Wakes no other member.
    WakesNobody,
    /// Wakes no other member when it is dropped.
    DropsSilently,
    /// Takes the news in a poll that returns false.
    Silent,
    /// Wakes itself at every poll.
    WakesItself,
    /// Sends a byte more at each timeout, without registering its waker.
    Ticks,
}

/// What the members of a chat share.
#[derive(Debug, Default)]
struct Room {
    text: Vec<u8>,
    wakers: Vec<Waker>,
}

fn say(room: &Lock<Room>, text: &[u8], aloud: bool) {
    let wakers = room.with(|room| {
        room.text.extend_from_slice(text);
        if aloud { mem::take(&mut room.wakers) } else { Vec::new() }
    });
    wakers.into_iter().for_each(Waker::wake);
}

/// A member of a chat. It sends what any member receives, and `.` for each member that leaves.
#[derive(Debug)]
struct Member {
    bug: Bug,
    room: Arc<Lock<Room>>,
    buffer: [u8; 8],
    pending: Vec<u8>,
    seen: usize,
    polls: u32,
    /// How many polls have found no news since one did.
    idle_polls: u32,
    deadline: Option<Instant>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Closing,
    Ended(End),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum End {
    #[error("finished")]
    Finished,
    #[error("lost: {0}")]
    Lost(ConnectionError),
}

impl Reason for End {
    fn label(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Lost(error) => error.label(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Finished => Fault::None,
            Self::Lost(_) => Fault::Lost,
        }
    }
}

fn chat(bug: Bug, count: usize) -> (Vec<Member>, Arc<Lock<Room>>) {
    let room = Arc::new(Lock::new(Room::default()));
    let member = |room| Member {
        bug,
        room,
        buffer: [0; 8],
        pending: Vec::new(),
        seen: 0,
        polls: 0,
        idle_polls: 2,
        deadline: (bug == Bug::Ticks).then_some(Instant::EPOCH + Duration::from_secs(1)),
        phase: Phase::Open,
    };
    ((0..count).map(|_| member(room.clone())).collect(), room)
}

impl Machine for Member {
    type Reason = End;

    fn interest(&self) -> Interest {
        let write = match self.phase {
            Phase::Ended(_) => Outbound::Finished,
            Phase::Open | Phase::Closing if !self.pending.is_empty() => Outbound::Flush,
            Phase::Open => Outbound::Idle,
            Phase::Closing => Outbound::Finish,
        };
        Interest { read: self.phase == Phase::Open, write }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        out[0] = &self.pending;
        1
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match (event, self.phase) {
            (Event::Read(n), _) => {
                say(&self.room, &self.buffer[..n], self.bug != Bug::WakesNobody);
            }
            (Event::Written(n), _) => drop(self.pending.drain(..n)),
            (Event::Eof | Event::ShutDown, Phase::Open) => self.phase = Phase::Closing,
            (Event::Error(_, error), Phase::Open | Phase::Closing) => {
                self.phase = Phase::Ended(End::Lost(error));
            }
            (Event::Finished, _) => self.phase = Phase::Ended(End::Finished),
            (Event::Timeout { .. }, Phase::Open | Phase::Closing) => {
                if let Some(deadline) = &mut self.deadline
                    && *deadline <= now
                {
                    *deadline = now + Duration::from_secs(1);
                }
            }
            (
                Event::Eof
                | Event::ShutDown
                | Event::Error(..)
                | Event::Timeout { .. }
                | Event::Release,
                _,
            ) => {}
        }
        if let Phase::Ended(_) = self.phase {
            self.deadline = None;
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    fn poll_shared(&mut self, _now: Instant, cx: &mut Context<'_>) -> bool {
        self.polls += 1;
        if self.bug == Bug::WakesItself {
            cx.waker().wake_by_ref();
        }
        self.room.with(|room| {
            let news = &room.text[self.seen..];
            if news.is_empty() || self.phase != Phase::Open {
                self.idle_polls += 1;
                let registers = match self.bug {
                    Bug::RegistersOnce => self.polls == 1,
                    Bug::LosesWaker | Bug::Ticks => self.seen == 0,
                    Bug::RegistersLate => self.idle_polls > 2,
                    Bug::None
                    | Bug::WakesNobody
                    | Bug::DropsSilently
                    | Bug::Silent
                    | Bug::WakesItself => true,
                };
                if registers {
                    room.wakers.push(cx.waker().clone());
                }
                return false;
            }
            self.pending.extend_from_slice(news);
            self.seen = room.text.len();
            self.idle_polls = 0;
            self.bug != Bug::Silent
        })
    }

    fn status(&self) -> Status {
        Status { queued: self.pending.len(), ..Status::default() }
    }

    fn reason(&self) -> Option<End> {
        if let Phase::Ended(end) = self.phase { Some(end) } else { None }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        say(&self.room, b".", self.bug != Bug::DropsSilently);
    }
}

fn receive(text: &str) -> Op {
    Op::Receive(text.into())
}

/// The message of a panic.
fn panic_of<T>(f: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).err().expect("it does not panic");
    *panic.downcast::<String>().unwrap()
}

/// 64 cases, the same in each run, without shrinking.
fn runner() -> TestRunner {
    let cases = Cases { failure_persistence: None, max_shrink_iters: 0, ..Cases::with_cases(64) };
    TestRunner::new_with_rng(cases, TestRunner::deterministic().new_rng())
}

/// Plays random interleaved scripts to three members. Their outputs are prefixes of one text.
fn random<M: Machine>(machine: impl Fn(Member) -> M, bug: Bug) -> Result<(), String> {
    let scripts = stage::interleaved((0..3).map(|_| script::ops(20)));
    let result = runner().run(&scripts, |ops| {
        let transcripts = stage::play_out(chat(bug, 3).0.into_iter().map(&machine), &ops);
        let longest = transcripts.iter().map(|played| &played.output).max_by_key(|out| out.len());
        prop_assert!(transcripts.iter().all(|played| longest.unwrap().starts_with(&played.output)));
        Ok(())
    });
    result.map_err(|error| match error {
        TestError::Fail(reason, _) => reason.message().to_owned(),
        TestError::Abort(reason) => panic!("{reason}"),
    })
}

#[test]
fn every_lost_wake_up_is_found() {
    let checked = |member| Checked::new(member, usize::MAX);
    assert_eq!(random(checked, Bug::None), Ok(()));
    for bug in [
        Bug::RegistersOnce,
        Bug::LosesWaker,
        Bug::RegistersLate,
        Bug::WakesNobody,
        Bug::DropsSilently,
    ] {
        let with_checked = random(checked, bug).expect_err("the bug is not found");
        let unchecked = random(|member| member, bug).expect_err("the bug is not found");
        for found in [with_checked, unchecked] {
            let names_all = found.starts_with("machine ") && found.contains("\nthe last ops:\n");
            assert!(names_all && found.contains("its waker was not woken"), "{bug:?}: {found}");
        }
    }
    let found = random(|member| member, Bug::Silent).expect_err("the bug is not found");
    assert!(found.contains("poll_shared returns false, but changes"), "{found}");
    let found = random(|member| member, Bug::WakesItself).expect_err("the bug is not found");
    assert!(found.contains("wake each other without end"), "{found}");
}

#[test]
fn a_panic_names_the_machine_its_interest_and_the_last_ops() {
    let message = panic_of(|| {
        let ops = [(0, receive("a")), (1, Op::Accept(1)), (0, receive("b"))];
        stage::play(chat(Bug::LosesWaker, 2).0, &ops)
    });
    let interest = |write| Interest { read: true, write };
    let (is, was) = (interest(Outbound::Flush), interest(Outbound::Idle));
    let expected = [
        format!(
            "machine 1 at 0ns: it wants {is:?} instead of {was:?}, but its waker was not woken"
        ),
        "the last ops:".into(),
        r#"    (0, Op::Receive(b"a".to_vec())),"#.into(),
        "    (1, Op::Accept(1)),".into(),
        r#"    (0, Op::Receive(b"b".to_vec())),"#.into(),
    ];
    assert_eq!(message, expected.join("\n"));
}

#[test]
fn the_check_needs_no_second_machine() {
    let run = |bug| {
        let (members, room) = chat(bug, 1);
        let mut members: Vec<_> = members.into_iter().map(Staged::new).collect();
        let mut stage = Stage::new(&mut members);
        for text in ["one", "two"] {
            say(&room, text.as_bytes(), true);
            stage.settle();
            stage.play(0, &Op::Accept(100));
        }
        assert_eq!(stage.output(0), b"onetwo");
    };
    run(Bug::None);
    for bug in [Bug::RegistersOnce, Bug::LosesWaker, Bug::RegistersLate] {
        let message = panic_of(|| run(bug));
        assert!(message.starts_with("machine 0 at 0ns: "), "{bug:?}: {message}");
    }
}

#[test]
fn a_machine_that_ends_or_is_aborted_is_dropped() {
    let (members, _) = chat(Bug::None, 3);
    let mut members: Vec<_> = members.into_iter().map(Staged::new).collect();
    let mut stage = Stage::new(&mut members);
    stage.play(0, &Op::Eof);
    stage.play(0, &Op::Finished);
    assert!(stage.machine(0).is_none());
    stage.abort(1);
    assert!(stage.machine(1).is_none());
    stage.play(1, &receive("not read"));
    stage.play_out();
    assert_eq!(stage.output(2), b"..");
    let [one, two, three]: [Transcript; 3] = stage.transcripts().try_into().unwrap();
    assert_eq!((one.ending, one.done, one.label), (Some(Ending::Fin), true, Some("finished")));
    assert_eq!((two.ending, two.done, two.label), (None, true, None));
    assert_eq!((three.ending, three.done, three.label), (None, false, None));
    let message = panic_of(|| stage::play(chat(Bug::None, 1).0, &[(1, Op::Eof)]));
    assert_eq!(message, "machine 1 does not exist, the stage has 1");
}

#[test]
fn the_machines_have_one_clock_and_their_timeouts_come_in_time() {
    let (members, room) = chat(Bug::Ticks, 2);
    let mut members: Vec<_> = members.into_iter().map(Staged::new).collect();
    let mut stage = Stage::new(&mut members);
    let now = Instant::EPOCH + Duration::from_millis(2500);
    stage.play(0, &Op::Advance(now.since_epoch()));
    assert_eq!(stage.now(), now);
    for index in 0..2 {
        let deadline = stage.machine(index).unwrap().poll_timeout();
        assert_eq!(deadline, Some(now + Duration::from_secs(1)), "the clock of machine {index}");
    }
    // A turn at a deadline takes news without a wake-up, which is no lost one.
    stage.play(0, &receive("a"));
    say(&room, b"b", true);
    stage.play(1, &Op::Advance(Duration::from_secs(1)));
    assert_eq!(stage.now(), now + Duration::from_secs(1));
    stage.play_out();
    assert_eq!((stage.output(0), stage.output(1)), (&b"ab"[..], &b"ab"[..]));
}

/// A framed protocol whose members get the lines of all, with wakers of its own.
struct Chat {
    registers_once: bool,
    room: Arc<Lock<Room>>,
    seen: usize,
    polls: u32,
}

impl Protocol for Chat {
    type Input = Buffer;
    type Error = Malformed;
    type Answer = Immediate<Malformed>;

    fn receive(
        &mut self,
        input: &mut Buffer,
        _replies: &mut Replies<Self::Answer>,
    ) -> Result<Step, Malformed> {
        let Some(line) = input.take_until(b'\n') else {
            return Ok(Step::Incomplete { length: None });
        };
        say(&self.room, line, true);
        Ok(Step::Taken)
    }

    fn poll_news(
        &mut self,
        replies: &mut Replies<Self::Answer>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Malformed>> {
        self.polls += 1;
        self.room.with(|room| {
            if self.seen == room.text.len() {
                if !self.registers_once || self.polls == 1 {
                    room.wakers.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
            replies.output().extend(&room.text[self.seen..]);
            self.seen = room.text.len();
            Poll::Ready(Ok(()))
        })
    }
}

#[test]
fn a_waker_that_a_protocol_registers_once_is_found() {
    let lines = || "[a-z]{0,9}\n".prop_map(String::into_bytes);
    let server = protocol::Server::new(protocol::Config::default()).unwrap();
    let run = |registers_once| {
        let scripts = stage::interleaved((0..2).map(|_| script::ops_of(lines(), 20)));
        runner().run(&scripts, |ops| {
            let room = Arc::new(Lock::new(Room::default()));
            let machines = (0..2).map(|_| {
                let chat = Chat { registers_once, room: room.clone(), seen: 0, polls: 0 };
                Checked::new(server.machine(chat, Instant::EPOCH), 1 << 20)
            });
            stage::play_out(machines, &ops);
            Ok(())
        })
    };
    run(false).unwrap();
    let error = run(true).unwrap_err().to_string();
    assert!(error.contains("its waker was not woken"), "{error}");
}

/// The machines of a fan-out lose no wake-up.
#[test]
fn a_feed_wakes_all_its_machines() {
    let policies = [LagPolicy::Disconnect, LagPolicy::Skip, LagPolicy::Block];
    let scripts = stage::interleaved((0..3).map(|_| script::ops(40)));
    runner()
        .run(&(prop::sample::select(policies.to_vec()), scripts), |(on_lag, ops)| {
            let framing = Framing::Fixed(4.try_into().unwrap());
            let config = fanout::Config::default().with_framing(framing).with_window(700);
            let feed = Feed::new(config.with_on_lag(on_lag)).unwrap();
            let erased = || -> Box<dyn Machine<Reason = AnyReason>> {
                Box::new(Erased(Checked::new(Subscriber::new(&feed, Instant::EPOCH), 1 << 20)))
            };
            let upstream = Checked::new(Upstream::new(&feed, Instant::EPOCH), 0);
            let machines: Vec<Box<dyn Machine<Reason = AnyReason>>> =
                vec![Box::new(Erased(upstream)), erased(), erased()];
            let transcripts = stage::play_out(machines, &ops);
            for subscriber in &transcripts[1..] {
                if on_lag != LagPolicy::Skip {
                    prop_assert!(transcripts[0].input.starts_with(&subscriber.output));
                }
            }
            prop_assert_eq!(feed.counters().subscribers, 0);
            Ok(())
        })
        .unwrap();
}
