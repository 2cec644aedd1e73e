//! A stage: several machines that share state, without sockets.
//!
//! A [`Stage`] plays each [`Op`] to one of its machines. It then gives a turn to each machine that
//! the op has woken, and to no other, as an executor does. Then it polls each machine that had
//! no turn. That poll must not resume reading and not change the wanted output; if it returns
//! false, it must change nothing. Otherwise a wake-up was **lost**: in production the machine would
//! sleep until its peer or a deadline happened to wake it. The panic names the machine, its
//! interest and the last ops.
//!
//! That finds a waker that is registered only once, dropped after its first wake-up, or forgotten
//! on one path. (A machine with pending output may queue more without a wake-up: its driver polls
//! it again when the sink has accepted output.)
//!
//! In this chat, each member gets the lines of all:
//!
//! ```
//! use std::task::{Context, Poll, ready};
//! use proptest::prelude::*;
//! use wirestate_core::{Instant, protocol::*, topic::{self, Subscription, Topic}};
//! use wirestate_testkit::{for_each_case, script::{self, Op}, stage::{self, Stage, Staged}};
//!
//! struct Member(Subscription<Vec<u8>>);
//!
//! impl Protocol for Member {
//!     type Input = Buffer;
//!     type Error = Malformed;
//!     type Answer = Immediate;
//!
//!     fn receive(
//!         &mut self,
//!         input: &mut Buffer,
//!         _replies: &mut Replies,
//!     ) -> Result<Step, Malformed> {
//!         let Some(line) = input.take_until(b'\n') else {
//!             return Ok(Step::Incomplete { length: None });
//!         };
//!         self.0.topic().publish([line, b"\n"].concat());
//!         Ok(Step::Taken)
//!     }
//!
//!     // A bug here, such as a poll that registers no waker, makes the stage panic.
//!     fn poll_news(
//!         &mut self,
//!         replies: &mut Replies,
//!         cx: &mut Context<'_>,
//!     ) -> Poll<Result<(), Malformed>> {
//!         match ready!(self.0.poll_next(cx)) {
//!             Ok(line) => replies.output().extend(&line),
//!             Err(_) => return Poll::Ready(Err("too slow".into())),
//!         }
//!         Poll::Ready(Ok(()))
//!     }
//! }
//!
//! let server = Server::new(Config::default()).unwrap();
//! let chat = || {
//!     let topic = Topic::new(topic::Config::default(), Vec::len).unwrap();
//!     [(); 2].map(|()| server.machine(Member(topic.subscribe()), Instant::EPOCH))
//! };
//!
//! // A script by hand.
//! let mut machines = chat().map(Staged::new);
//! let mut stage = Stage::new(&mut machines);
//! stage.play(0, &Op::Receive(b"hello\n".to_vec()));
//! stage.play(1, &Op::Receive(b"you\n".to_vec()));
//! stage.play(1, &Op::Accept(100));
//! assert_eq!((stage.output(0), stage.output(1)), (&b""[..], &b"hello\nyou\n"[..]));
//!
//! // Generated scripts, interleaved: both get the same lines, as far as they read.
//! let lines = || "[a-z]{0,9}\n".prop_map(String::into_bytes);
//! let scripts = [script::ops_of(lines(), 20), script::ops_of(lines(), 20)];
//! for_each_case(256, stage::interleaved(scripts), |ops| {
//!     let transcripts = stage::play_out(chat(), &ops);
//!     let [a, b] = [&transcripts[0].output, &transcripts[1].output];
//!     assert!(a.starts_with(b) || b.starts_with(a));
//! });
//! ```
//!
//! # Which check finds a lost wake-up
//!
//! - A stage: for machines, with exact wake-ups. With a stage of one machine, change the shared
//!   state through its handle and call [`Stage::settle`].
//! - [`Checked`](crate::contract::Checked): in any test that polls a machine which sleeps. Wrap the
//!   machines on a stage in it, so that the other rules are checked as well.
//! - The [simulator](crate::sim): for machines, drivers and tasks together, as
//!   [`Halted::LostWakeUp`](crate::sim::Halted::LostWakeUp).

use std::{
    collections::VecDeque,
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Wake, Waker},
};

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use wirestate_core::{Event, Instant, Interest, Machine, Outbound, Status};

use crate::{
    cases::Smaller,
    script::{Op, Player, Transcript, simpler_ops},
};

/// Several machines that share state. See the [module](self).
///
/// The machines have one clock, which starts at [`Instant::EPOCH`]. The stage treats them as
/// drivers do: it sends `Timeout` to each machine whose deadline an op has passed, and drops a
/// machine that has ended.
#[derive(Debug)]
pub struct Stage<'a, M: Machine> {
    players: Vec<Player<'a, Staged<M>>>,
    now: Instant,
    /// The last ops, at most [`LAST_OPS`].
    last: VecDeque<(usize, Op)>,
}

/// A machine on a stage.
///
/// It passes on a `poll_shared` only if the machine is due: at first, after its waker was woken,
/// after any event, and when its deadline has passed.
#[derive(Debug)]
pub struct Staged<M: Machine> {
    /// `None` once the machine was dropped.
    machine: Option<M>,
    reason: Option<M::Reason>,
    work: u64,
    woken: Arc<Woken>,
    waker: Waker,
    /// Whether an event came, or `poll_shared` has returned true, since it has returned false.
    due: bool,
    /// Whether the machine was polled in this step.
    polled: bool,
}

impl<M: Machine> Staged<M> {
    /// Puts `machine` on a stage.
    pub fn new(machine: M) -> Self {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        Self {
            machine: Some(machine),
            reason: None,
            work: 0,
            woken,
            waker,
            due: true,
            polled: false,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.machine.is_some() && (self.due || self.woken.0.load(SeqCst) || self.is_late(now))
    }

    /// Whether its deadline has passed.
    fn is_late(&self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|deadline| deadline <= now)
    }

    /// Drops the machine.
    fn drop_machine(&mut self) {
        if let Some(machine) = self.machine.take() {
            (self.reason, self.work) = (machine.reason(), machine.work());
        }
    }

    /// What a driver can observe, except the bytes of the output.
    fn observe(&self) -> (Interest, Option<Instant>, u64, Status, bool) {
        let is_ended = self.reason().is_some();
        (self.interest(), self.poll_timeout(), self.work(), self.status(), is_ended)
    }

    /// Polls a machine that sleeps, until `poll_shared` returns false.
    ///
    /// # Panics
    /// If it should have been woken.
    fn check_wake_up(&mut self, now: Instant) {
        let before = self.observe();
        let Some(machine) = &mut self.machine else { return };
        let cx = &mut Context::from_waker(&self.waker);
        let news = (0..MAX_ROUNDS).take_while(|_| machine.poll_shared(now, cx)).count();
        let after = self.observe();
        let (was, is) = (before.0, after.0);
        let wants_more = is.write != was.write || (is.read && !was.read);
        assert!(!wants_more, "it wants {is:?} instead of {was:?}, but its waker was not woken");
        assert!(
            news > 0 || after == before,
            "poll_shared returns false, but changes what it shows from {before:?} to {after:?}"
        );
        assert!(news < MAX_ROUNDS, "poll_shared has returned true {MAX_ROUNDS} times in a row");
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl<M: Machine> Machine for Staged<M> {
    type Reason = M::Reason;

    fn interest(&self) -> Interest {
        self.machine.as_ref().map_or(Interest::DONE, Machine::interest)
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.machine.as_mut().map_or(&mut [], Machine::read_buf)
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.machine.as_ref().map_or(0, |machine| machine.write_bufs(out))
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.machine.as_ref().map_or(0, |machine| machine.write_owned(out, max))
    }

    fn handle(&mut self, now: Instant, event: Event) {
        if let Some(machine) = &mut self.machine {
            self.due |= event != Event::Release;
            machine.handle(now, event);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine.as_ref().and_then(Machine::poll_timeout)
    }

    fn poll_shared(&mut self, now: Instant, _cx: &mut Context<'_>) -> bool {
        if !self.is_due(now) {
            return false;
        }
        let Some(machine) = &mut self.machine else { return false };
        self.woken.0.store(false, SeqCst);
        self.polled = true;
        self.due = machine.poll_shared(now, &mut Context::from_waker(&self.waker));
        self.due
    }

    fn work(&self) -> u64 {
        self.machine.as_ref().map_or(self.work, Machine::work)
    }

    fn status(&self) -> Status {
        self.machine.as_ref().map_or_else(Status::default, Machine::status)
    }

    fn reason(&self) -> Option<M::Reason> {
        self.machine.as_ref().map_or_else(|| self.reason.clone(), Machine::reason)
    }
}

impl<'a, M: Machine> Stage<'a, M> {
    /// Puts `machines` on a stage, and gives each its first turn.
    ///
    /// # Panics
    /// As [`settle`](Self::settle).
    #[track_caller]
    pub fn new(machines: &'a mut [Staged<M>]) -> Self {
        let players = machines.iter_mut().map(Player::new).collect();
        let mut stage = Self { players, now: Instant::EPOCH, last: VecDeque::new() };
        stage.settle();
        stage
    }

    /// The current time of the stage.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The machine `index`, counted from 0; `None` if it has ended.
    ///
    /// # Panics
    /// If there is no machine `index`.
    #[track_caller]
    pub fn machine(&mut self, index: usize) -> Option<&mut M> {
        self.check_index(index);
        self.players[index].machine().machine.as_mut()
    }

    /// The bytes that the machine `index` has sent so far.
    ///
    /// # Panics
    /// If there is no machine `index`.
    #[track_caller]
    pub fn output(&self, index: usize) -> &[u8] {
        self.check_index(index);
        self.players[index].output()
    }

    /// Plays one op to the machine `index`, then [settles](Self::settle).
    ///
    /// # Panics
    /// If there is no machine `index`, or as [`settle`](Self::settle).
    #[track_caller]
    pub fn play(&mut self, index: usize, op: &Op) {
        if self.last.len() == LAST_OPS {
            self.last.pop_front();
        }
        self.last.push_back((index, op.clone()));
        let now = self.now;
        self.now = self.with(index, |player| {
            player.play(&Op::Advance(now.since(player.now())));
            player.play(op);
            player.now()
        });
        self.settle();
    }

    /// Drops the machine `index`, as an abort of its connection does, then
    /// [settles](Self::settle).
    ///
    /// # Panics
    /// If there is no machine `index`, or as [`settle`](Self::settle).
    #[track_caller]
    pub fn abort(&mut self, index: usize) {
        self.with(index, drop_machine);
        self.settle();
    }

    /// Gives turns to the machines that are due, until none is, and checks the others. Call it
    /// after the shared state was changed through a handle.
    ///
    /// # Panics
    /// If a wake-up was lost, if machines wake each other without end, if a deadline stays in the
    /// past after `Timeout`, or if a machine panics.
    #[track_caller]
    pub fn settle(&mut self) {
        let now = self.now;
        for _ in 0..MAX_ROUNDS {
            if self.turns() {
                continue;
            }
            for index in 0..self.players.len() {
                self.with(index, |player| {
                    let staged = player.machine();
                    if !std::mem::take(&mut staged.polled) {
                        staged.check_wake_up(now);
                    }
                });
            }
            // A check that finds news may have woken others.
            if !self.players.iter_mut().any(|player| player.machine().is_due(now)) {
                return;
            }
        }
        panic!(
            "machines wake each other without end, or a deadline stays in the past{}",
            self.last_ops()
        );
    }

    /// Accepts all output of all machines and sends their FIN or RST, if they want one.
    ///
    /// # Panics
    /// If the output has no end, or as [`settle`](Self::settle).
    #[track_caller]
    pub fn play_out(&mut self) {
        let wants = |player: &mut Player<'_, Staged<M>>| match player.machine().interest().write {
            Outbound::Idle | Outbound::Finished => false,
            Outbound::Flush | Outbound::Finish | Outbound::Reset => true,
        };
        let mut rounds = 0;
        while let Some(index) = self.players.iter_mut().position(wants) {
            rounds += 1;
            assert!(rounds < MAX_ROUNDS, "the output has no end{}", self.last_ops());
            let now = self.now;
            self.with(index, |player| {
                player.play(&Op::Advance(now.since(player.now())));
                player.play_out();
            });
            self.settle();
        }
    }

    /// Ends the script, after a last check: the transcript of each machine.
    ///
    /// # Panics
    /// As [`settle`](Self::settle).
    #[track_caller]
    pub fn transcripts(mut self) -> Vec<Transcript> {
        self.settle();
        self.players.into_iter().map(Player::transcript).collect()
    }

    /// Calls `f` with the player `index`. A panic of `f` continues with the index and the last ops.
    #[track_caller]
    fn with<T>(&mut self, index: usize, f: impl FnOnce(&mut Player<'a, Staged<M>>) -> T) -> T {
        self.check_index(index);
        let player = &mut self.players[index];
        catch_unwind(AssertUnwindSafe(|| f(player))).unwrap_or_else(|panic| {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            match message.or_else(|| panic.downcast_ref::<&str>().copied()) {
                Some(message) => {
                    panic!("machine {index} at {}: {message}{}", self.now, self.last_ops())
                }
                None => resume_unwind(panic),
            }
        })
    }

    #[track_caller]
    fn check_index(&self, index: usize) {
        let count = self.players.len();
        assert!(index < count, "machine {index} does not exist, the stage has {count}");
    }

    /// Gives one turn to each machine that is due. False if none is.
    fn turns(&mut self) -> bool {
        let now = self.now;
        let mut had_turns = false;
        for index in 0..self.players.len() {
            had_turns |= self.with(index, |player| {
                let staged = player.machine();
                if staged.machine.is_some() && staged.interest().is_done() {
                    drop_machine(player);
                    return true;
                }
                let is_due = staged.is_due(now);
                if is_due {
                    player.play(&Op::Advance(now.since(player.now())));
                    if player.machine().is_late(now) {
                        player.play(&Op::SpuriousTimeout);
                    }
                }
                is_due
            });
        }
        had_turns
    }

    /// The last ops, one a line, for a panic.
    fn last_ops(&self) -> String {
        let mut text = "\nthe last ops:".to_owned();
        for (index, op) in &self.last {
            let _ = write!(text, "\n    ({index}, {op:?}),");
        }
        text
    }
}

/// Plays `ops` to `machines` on a [`Stage`]: each op to the machine with this index. Returns their
/// transcripts.
///
/// # Panics
/// As [`Stage::play`].
#[track_caller]
pub fn play<M: Machine>(
    machines: impl IntoIterator<Item = M>,
    ops: &[(usize, Op)],
) -> Vec<Transcript> {
    with_stage(machines, ops, |_| {})
}

/// As [`play`], then accepts all output and sends each FIN or RST that a machine wants.
///
/// # Panics
/// As [`Stage::play`] and [`Stage::play_out`].
#[track_caller]
pub fn play_out<M: Machine>(
    machines: impl IntoIterator<Item = M>,
    ops: &[(usize, Op)],
) -> Vec<Transcript> {
    with_stage(machines, ops, |stage| stage.play_out())
}

#[track_caller]
fn with_stage<M: Machine>(
    machines: impl IntoIterator<Item = M>,
    ops: &[(usize, Op)],
    end: impl FnOnce(&mut Stage<'_, M>),
) -> Vec<Transcript> {
    let mut machines: Vec<_> = machines.into_iter().map(Staged::new).collect();
    let mut stage = Stage::new(&mut machines);
    for (index, op) in ops {
        stage.play(*index, op);
    }
    end(&mut stage);
    stage.transcripts()
}

/// Random interleavings of `scripts`, the first of which is for machine 0. The ops of each script
/// keep their order.
///
/// A failing interleaving shrinks towards one script after the other.
pub fn interleaved<S: Strategy<Value = Vec<Op>>>(
    scripts: impl IntoIterator<Item = S>,
) -> impl Strategy<Value = Vec<(usize, Op)>> {
    let scripts: Vec<S> = scripts.into_iter().collect();
    let strategy = (scripts, vec(any::<u8>(), CHOICES)).prop_map(|(scripts, choices)| {
        let mut rest: Vec<_> = scripts.into_iter().map(Vec::into_iter).enumerate().collect();
        let mut ops = Vec::new();
        for choice in choices.into_iter().map(usize::from).cycle() {
            rest.retain(|(_, script)| script.len() > 0);
            if rest.is_empty() {
                break;
            }
            let chosen = choice % rest.len();
            let (index, script) = &mut rest[chosen];
            ops.extend(script.next().map(|op| (*index, op)));
        }
        ops
    });
    let simpler =
        |(index, op): &(usize, Op)| simpler_ops(op).into_iter().map(|op| (*index, op)).collect();
    Smaller { strategy, simpler }
}

fn drop_machine<M: Machine>(player: &mut Player<'_, Staged<M>>) {
    player.machine().drop_machine();
    player.record_drop();
}

/// Whether a waker was woken.
#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// How many ops a panic shows.
const LAST_OPS: usize = 8;
/// The most rounds of turns after one op.
const MAX_ROUNDS: usize = 1000;
/// How many choices determine an interleaving. A longer script repeats them.
const CHOICES: usize = 64;
