//! A test that cannot fail proves nothing: machines with a bug each, and the harness that must find
//! it. The same machine without a bug must pass all of it.
//!
//! This is also the list of what each part of the testkit is for.

#![expect(clippy::unwrap_used, reason = "it is how a test fails, also outside of its function")]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use proptest::test_runner::{Config as Cases, TestRunner};
use wirestate_core::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Machine, Outbound, Reason, Status,
    drive::Drive,
    runtime::{Listener as _, Runtime},
    shared::Lock,
};
use wirestate_testkit::{
    contract::Checked,
    script,
    sim::{Act, Faults, Record, Settings, Side, World, act},
};

/// What is wrong with a [`Ring`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// Sends the bytes behind the ring's wrap from the wrong place.
    Wrap,
    /// Takes a write for a complete one.
    ShortWrite,
    /// Offers an empty slice behind the wrap.
    EmptySlice,
    /// Wants to read with a full buffer.
    NoRoom,
    /// Forgets that its FIN is out.
    SecondFin,
    /// Sends its FIN before the bytes that it owes.
    EarlyFin,
    /// Takes a reset for an end of the input.
    CleanReset,
    /// Goes on reading behind the end of the input.
    ReadsBehindEof,
    /// Ends, and does not say why.
    NoReason,
    /// Thinks better of its reason.
    OtherReason,
    /// Leaves its deadline where it was.
    LateDeadline,
    /// Believes any call that time has passed.
    EarlyDeadline,
    /// Is shut down once more each time.
    Shutdowns,
    /// Keeps a count of all bytes for the bytes that it holds.
    Memory,
    /// Wakes itself whenever it is polled.
    Spins,
    /// Throws away the waker that it is to be woken by.
    LostWakeUp,
    /// Keeps the first waker that it is polled with, and no later one.
    RegistersOnce,
    /// Changes by what is shared, and does not say so.
    Secretive,
    /// Answers differently according to where the input was cut.
    Cuts,
    /// Keeps its socket open for ever, once the peer has gone.
    NeverEnds,
}

/// An echo in a ring of 8 bytes, which holds back its output until a gate is opened.
#[derive(Debug)]
struct Ring {
    bug: Bug,
    buffer: [u8; 8],
    start: usize,
    len: usize,
    total: usize,
    phase: Phase,
    moved: Instant,
    shut_downs: u64,
    gate: Arc<Lock<Gate>>,
    open: bool,
    registered: bool,
    /// Its deadline comes every second, and changes nothing else.
    ticks: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Closing(Over),
    Over(Over),
}

#[derive(Debug, Default)]
struct Gate {
    open: bool,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Over {
    #[error("finished")]
    Finished,
    #[error("idle")]
    Idle,
    #[error("lost: {0}")]
    Lost(ConnectionError),
}

impl Reason for Over {
    fn label(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Idle => "idle",
            Self::Lost(why) => why.label(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Finished => Fault::None,
            Self::Idle => Fault::Time,
            Self::Lost(_) => Fault::Lost,
        }
    }
}

const IDLE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_secs(1);

impl Ring {
    fn new(bug: Bug, gate: Arc<Lock<Gate>>, now: Instant) -> Self {
        Self {
            bug,
            buffer: [0; 8],
            start: 0,
            len: 0,
            total: 0,
            phase: Phase::Open,
            moved: now,
            shut_downs: 0,
            gate,
            open: false,
            registered: false,
            ticks: false,
        }
    }

    fn slices(&self) -> [&[u8]; 2] {
        let end = self.start + self.len;
        let wrong = usize::from(self.bug == Bug::Wrap);
        match end.checked_sub(8) {
            None | Some(0) => [&self.buffer[self.start..end], &[]],
            Some(8) => [&self.buffer, &[]],
            Some(wrapped) => [&self.buffer[self.start..], &self.buffer[wrong..wrapped + wrong]],
        }
    }
}

impl Machine for Ring {
    type Reason = Over;

    fn interest(&self) -> Interest {
        let room = self.len < 8 || self.bug == Bug::NoRoom;
        match self.phase {
            Phase::Open => {
                let write =
                    if self.len > 0 && self.open { Outbound::Flush } else { Outbound::Idle };
                Interest { read: room, write }
            }
            Phase::Closing(_) => Interest {
                read: self.bug == Bug::ReadsBehindEof && room,
                write: if self.len > 0 && self.bug != Bug::EarlyFin {
                    Outbound::Flush
                } else {
                    Outbound::Finish
                },
            },
            Phase::Over(_) if self.bug == Bug::NeverEnds => {
                Interest { read: false, write: Outbound::Idle }
            }
            Phase::Over(_) => Interest::DONE,
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        let end = self.start + self.len;
        if end < 8 { &mut self.buffer[end..] } else { &mut self.buffer[end - 8..self.start] }
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let [first, second] = self.slices();
        (out[0], out[1]) = (first, second);
        if second.is_empty() && self.bug != Bug::EmptySlice { 1 } else { 2 }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => {
                if self.bug == Bug::Cuts && n == 3 {
                    self.read_buf()[0] = b'!';
                }
                self.len += n;
                self.total += n;
                self.moved = now;
            }
            Event::Eof => {
                self.phase = Phase::Closing(Over::Finished);
            }
            Event::Error(way, why) => {
                if self.bug == Bug::CleanReset && way == Direction::Read {
                    return self.handle(now, Event::Eof);
                }
                self.phase = Phase::Over(Over::Lost(why));
            }
            Event::Written(n) => {
                let n = if self.bug == Bug::ShortWrite { self.len } else { n };
                self.start = (self.start + n) % 8;
                self.len -= n;
                self.moved = now;
            }
            Event::Finished => {
                if let Phase::Closing(why) = self.phase
                    && self.bug != Bug::SecondFin
                {
                    self.phase = Phase::Over(why);
                }
            }
            Event::Timeout { .. } => self.handle_timeout(now),
            Event::ShutDown => {
                self.shut_downs += 1;
                if self.phase == Phase::Open {
                    self.phase = Phase::Closing(Over::Finished);
                }
            }
            Event::Release => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let wait = if self.ticks { TICK } else { IDLE };
        (self.phase == Phase::Open).then(|| self.moved + wait)
    }

    fn poll_shared(&mut self, _now: Instant, cx: &mut Context<'_>) -> bool {
        if self.bug == Bug::Spins {
            cx.waker().wake_by_ref();
        }
        let was = self.open;
        self.open = self.gate.with(|gate| {
            let once = self.bug == Bug::RegistersOnce && self.registered;
            if self.bug != Bug::LostWakeUp && !once {
                gate.waker = Some(cx.waker().clone());
            }
            gate.open
        });
        self.registered = true;
        was != self.open && self.bug != Bug::Secretive
    }

    fn status(&self) -> Status {
        let queued = if self.bug == Bug::Memory { self.total } else { self.len };
        let lag = if self.bug == Bug::Shutdowns { self.shut_downs } else { 0 };
        Status { state: "", queued, lag }
    }

    fn reason(&self) -> Option<Over> {
        match self.phase {
            Phase::Over(why) if self.bug != Bug::NoReason => Some(why),
            Phase::Open | Phase::Closing(_) | Phase::Over(_) => None,
        }
    }
}

impl Ring {
    fn handle_timeout(&mut self, now: Instant) {
        if self.ticks {
            self.moved = now;
            return;
        }
        let due = self.poll_timeout().is_some_and(|deadline| deadline <= now);
        if due && self.bug == Bug::LateDeadline {
            return;
        }
        if due || (self.bug == Bug::EarlyDeadline && self.phase == Phase::Open) {
            self.phase = Phase::Closing(Over::Idle);
        }
        if let Phase::Over(why) = &mut self.phase
            && self.bug == Bug::OtherReason
        {
            *why = Over::Idle;
        }
    }
}

/// Alone, held to the contract, by drawn scripts and by every cut.
fn alone(bug: Bug) {
    let machine = |open| {
        let gate = Arc::new(Lock::new(Gate { open, waker: None }));
        (Checked::new(Ring::new(bug, gate.clone(), Instant::EPOCH), 8), gate)
    };
    let cases = Cases { failure_persistence: None, ..Cases::with_cases(400) };
    TestRunner::new_with_rng(cases, TestRunner::deterministic().new_rng())
        .run(&script::ops(60), |ops| {
            let (mut machine, gate) = machine(false);
            let mut player = script::Player::new(&mut machine);
            for (i, op) in ops.iter().enumerate() {
                gate.with(|gate| gate.open = i >= 2);
                player.play(op);
            }
            player.play_out();
            let transcript = player.transcript();
            assert!(transcript.input.starts_with(&transcript.output), "not what was received");
            let broke = ops.iter().any(|op| matches!(op, script::Op::Lost(..)));
            let closed = ops.iter().any(|op| matches!(op, script::Op::Eof | script::Op::ShutDown));
            if transcript.label == Some("finished") {
                assert!(closed || !broke, "a loss is no clean end");
                assert_eq!(transcript.input.len(), transcript.output.len(), "bytes are lacking");
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    script::split_invariant_exhaustive(|| machine(true).0, b"0123456789");
}

/// On a simulated network, as a real driver drives it. The gate is opened when the bytes have
/// arrived and the machine sleeps.
fn driven(bug: Bug) {
    for seed in 0..18 {
        let settings = Settings { buffer: 32, ..Settings::default() };
        let world = World::with(seed, settings);
        let (server, client) = (world.host("server"), world.host("client"));
        server.set_faults(Faults { short_write: 700, ..Faults::NONE });
        let gate = Arc::new(Lock::new(Gate::default()));
        let mut listener = server.listen("server:7").unwrap();
        let (runtime, shared) = (server.clone(), gate.clone());
        let serving = server.run(async move {
            let (socket, _peer) =
                std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            let clock = runtime.clock();
            let now = wirestate_core::drive::Clock::now(&clock);
            Drive::new(Ring::new(bug, shared, now), socket, clock).await
        });
        let opener = server.clone();
        server.run(async move {
            opener.sleep(GATE).await;
            let waker = gate.with(|gate| {
                gate.open = true;
                gate.waker.take()
            });
            waker.into_iter().for_each(Waker::wake);
        });
        let message: Vec<u8> = (0..60).collect();
        let send = Act::Send(message.clone().into());
        let acts = match seed % 3 {
            0 => vec![send, Act::Finish, Act::Wait(2 * GATE), Act::ReceiveAll],
            1 => vec![send, Act::Receive(60), Act::Finish, Act::ReceiveAll],
            _ => vec![send, Act::Receive(60), Act::Reset],
        };
        let runtime = client.clone();
        let heard = client.run(async move {
            let socket = runtime.connect("server:7").await.unwrap();
            act(runtime, socket, acts).await
        });
        world.run().unwrap_or_else(|halted| panic!("{halted}"));
        assert!(world.now().since(Instant::EPOCH) < Duration::from_secs(1_000_030), "too late");
        assert_eq!(heard.take().unwrap().bytes, message);
        let clean = serving.take().unwrap().to_string() == "finished";
        let reset = |record: &Record| record.side == Side::Server && record.lost.is_some();
        assert_ne!(clean, world.records().iter().any(reset), "an end is clean or a loss");
    }
}

/// What wakes a sleeping task besides the waker of what it waits for.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    /// Its alarm.
    Alarm,
    /// Nothing at all.
    SpuriousWake,
    /// Input.
    Input,
}

/// On a simulated network, with `disturbance` after the gate was opened. The gate wakes its waker
/// once before that.
fn disturbed(bug: Bug, disturbance: Disturbance) {
    for seed in 0..10 {
        let world = World::new(seed);
        let (server, client) = (world.host("server"), world.host("client"));
        if let Disturbance::SpuriousWake = disturbance {
            let delay = 2 * GATE..=3 * GATE;
            server.set_faults(Faults { spurious_wake: 1000, delay, ..Faults::NONE });
        }
        let gate = Arc::new(Lock::new(Gate::default()));
        let mut listener = server.listen("server:7").unwrap();
        let (runtime, shared) = (server.clone(), gate.clone());
        server.run(async move {
            let (socket, _peer) =
                std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            let clock = runtime.clock();
            let mut ring = Ring::new(bug, shared, wirestate_core::drive::Clock::now(&clock));
            ring.ticks = matches!(disturbance, Disturbance::Alarm);
            Drive::new(ring, socket, clock).await
        });
        let opener = server.clone();
        server.run(async move {
            for opens in [false, true] {
                opener.sleep(GATE / 2).await;
                let waker = gate.with(|gate| {
                    gate.open = opens;
                    gate.waker.take()
                });
                waker.into_iter().for_each(Waker::wake);
            }
        });
        let acts = vec![
            Act::Send(b"held".as_slice().into()),
            Act::Wait(4 * GATE),
            Act::Send(b"more".as_slice().into()),
            Act::Receive(8),
            Act::Finish,
            Act::ReceiveAll,
        ];
        let runtime = client.clone();
        let heard = client.run(async move {
            let socket = runtime.connect("server:7").await.unwrap();
            act(runtime, socket, acts).await
        });
        world.run().unwrap_or_else(|halted| panic!("{halted}"));
        assert_eq!(heard.take().unwrap().bytes, b"heldmore");
    }
}

/// When the gate is opened.
const GATE: Duration = Duration::from_secs(1);

fn finds(harness: fn(Bug), bug: Bug) -> bool {
    catch_unwind(AssertUnwindSafe(|| harness(bug))).is_err()
}

#[test]
fn without_a_bug_all_is_well() {
    alone(Bug::None);
    driven(Bug::None);
}

#[test]
fn scripts_and_the_contract_find_what_is_wrong_with_a_machine() {
    for bug in [
        Bug::Wrap,
        Bug::ShortWrite,
        Bug::EmptySlice,
        Bug::NoRoom,
        Bug::SecondFin,
        Bug::EarlyFin,
        Bug::CleanReset,
        Bug::ReadsBehindEof,
        Bug::NoReason,
        Bug::OtherReason,
        Bug::LateDeadline,
        Bug::EarlyDeadline,
        Bug::Shutdowns,
        Bug::Memory,
        Bug::Secretive,
        Bug::Cuts,
    ] {
        assert!(finds(alone, bug), "{bug:?} was not found");
    }
}

#[test]
fn the_world_finds_what_shows_between_a_machine_its_driver_and_its_peers() {
    for bug in [
        Bug::Wrap,
        Bug::ShortWrite,
        Bug::SecondFin,
        Bug::EarlyFin,
        Bug::Spins,
        Bug::LostWakeUp,
        Bug::NeverEnds,
    ] {
        assert!(finds(driven, bug), "{bug:?} was not found");
    }
}

#[test]
fn the_world_finds_a_lost_wake_up_whatever_else_wakes_the_task() {
    let disturbances = [Disturbance::Alarm, Disturbance::SpuriousWake, Disturbance::Input];
    for disturbance in disturbances {
        disturbed(Bug::None, disturbance);
        for bug in [Bug::LostWakeUp, Bug::RegistersOnce] {
            let found = catch_unwind(AssertUnwindSafe(|| disturbed(bug, disturbance))).is_err();
            assert!(found, "{bug:?} was hidden by {disturbance:?}");
        }
    }
}
