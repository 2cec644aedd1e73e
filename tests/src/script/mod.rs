//! Scripts: lists of [`Op`]s that [`play`] plays to a machine. An op is an action of the kernel,
//! the peer, the driver or the clock.
//!
//! Every list is a valid script, because the player keeps the driver's part of the contract. Input
//! waits until the machine reads. Any other op that the machine does not allow is skipped. So lists
//! are easy to generate ([`ops_of`]), to shrink and to write by hand. [`check`] compares the output
//! with a model of a protocol. [`for_each_case`](crate::for_each_case) plays random lists, and
//! prints a failing one as a test.
//!
//! ```
//! use wirestate_core::{Instant, echo};
//! use wirestate_testkit::{contract::Checked, for_each_case, script::{self, Op, Ending}};
//!
//! let config = echo::Config::default();
//! let limit = config.buffer_size();
//! let server = echo::Server::new(config).unwrap();
//! let machine = || Checked::new(server.machine(Instant::EPOCH), limit);
//!
//! // A script by hand: the peer sends its FIN before it reads.
//! let ops = [Op::Receive(b"hello".to_vec()), Op::Eof, Op::Accept(4), Op::Accept(4), Op::Finished];
//! let transcript = script::play(&mut machine(), &ops);
//! assert_eq!((&*transcript.output, transcript.ending), (&b"hello"[..], Some(Ending::Fin)));
//!
//! // Generated scripts: the output is always a prefix of the input.
//! for_each_case(256, script::ops(40), |ops| {
//!     let transcript = script::play(&mut machine(), &ops);
//!     assert!(transcript.input.starts_with(&transcript.output));
//! });
//! ```

mod check;
mod cut;
mod relay;
mod strategy;
pub(crate) mod timeline;

use std::{
    collections::VecDeque,
    fmt,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Machine, Outbound, Reason,
    drive::{self, MAX_SLICES},
};

pub(crate) use self::strategy::simpler_ops;
pub use self::{
    check::{Check, check},
    cut::{
        byte_by_byte, cut_invariant, cuts, every_cut, every_cut_in_two, pieces, split_invariant,
        split_invariant_exhaustive, whole,
    },
    relay::{RelayOp, play_relay},
    strategy::{CONNECTION_ERRORS, garbage, ops, ops_of, truncated},
};
use crate::cases::{bytes_source, duration_source};

/// An operation of a script. `Debug` prints its source code, in one line also with `{:#?}`.
///
/// ```
/// use std::time::Duration;
/// use wirestate_testkit::script::Op;
///
/// let ops = [Op::Receive(b"a\r\n".to_vec()), Op::Advance(Duration::from_millis(1500))];
/// let source = r#"[Op::Receive(b"a\r\n".to_vec()), Op::Advance(Duration::from_millis(1500))]"#;
/// assert_eq!(format!("{ops:?}"), source);
/// assert_eq!(format!("{:#?}", Op::Receive(vec![b'x'; 4096])), "Op::Receive(vec![b'x'; 4096])");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// Bytes arrive. The machine reads them as soon as it wants to, in as few reads as its buffer
    /// allows.
    Receive(Vec<u8>),
    /// The peer's FIN arrives, behind the bytes that arrived before.
    Eof,
    /// Reading or writing fails.
    ///
    /// A read error arrives behind the bytes that arrived before. Only the first write error
    /// counts, and only before the machine's FIN or RST; the machine may be idle then, since a sink
    /// may hold output. After a write error, the end of the input is an error too.
    Error(Direction, ConnectionError),
    /// The kernel takes at most this many bytes of output, and the peer acknowledges all bytes that
    /// the kernel has taken so far.
    Accept(usize),
    /// The sink takes at most this many bytes of output as owned buffers
    /// ([`Machine::write_owned`]), and the peer acknowledges none of them.
    Buffer(usize),
    /// The peer has not acknowledged this many bytes, as the kernel counts them. The next
    /// [`Accept`](Self::Accept) sets the number to 0, and [`Buffer`](Self::Buffer) adds to it.
    Unacknowledged(usize),
    /// The driver sends the FIN or RST that the machine wants.
    Finished,
    /// Time passes, without a call to the machine.
    Advance(Duration),
    /// Advances the time to the machine's deadline and sends it `Timeout`.
    ///
    /// Repeats that while the machine's interest and status stay the same, since a machine may use
    /// a timeout only to count acknowledged bytes.
    Timeout,
    /// The driver sends `Timeout`, whether the deadline has passed or not.
    SpuriousTimeout,
    /// The driver sends `Release`, as before it sleeps.
    Release,
    /// The driver sends `ShutDown`: a graceful end is requested.
    ShutDown,
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: &usize| match *n {
            usize::MAX => "usize::MAX".to_owned(),
            n => n.to_string(),
        };
        match self {
            Self::Receive(bytes) => write!(f, "Op::Receive({})", bytes_source(bytes)),
            Self::Eof => f.write_str("Op::Eof"),
            Self::Error(direction, error) => {
                // Without the lines of `{:#?}`.
                let error = format!("{error:?}");
                write!(f, "Op::Error(Direction::{direction:?}, ConnectionError::{error})")
            }
            Self::Accept(n) => write!(f, "Op::Accept({})", number(n)),
            Self::Buffer(n) => write!(f, "Op::Buffer({})", number(n)),
            Self::Unacknowledged(n) => write!(f, "Op::Unacknowledged({})", number(n)),
            Self::Finished => f.write_str("Op::Finished"),
            Self::Advance(time) => write!(f, "Op::Advance({})", duration_source(*time)),
            Self::Timeout => f.write_str("Op::Timeout"),
            Self::SpuriousTimeout => f.write_str("Op::SpuriousTimeout"),
            Self::Release => f.write_str("Op::Release"),
            Self::ShutDown => f.write_str("Op::ShutDown"),
        }
    }
}

/// How a machine, or an end of a simulated connection, has ended its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a FIN.
    Fin,
    /// With an RST.
    Rst,
}

/// The result of a script. `Debug` prints bytes as `b"…"`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Transcript {
    /// The bytes that the machine has read.
    pub input: Vec<u8>,
    /// The bytes that the machine has sent.
    pub output: Vec<u8>,
    /// How the machine has ended its output, if it has.
    pub ending: Option<Ending>,
    /// Whether the machine has ended.
    pub done: bool,
    /// Its reason as text, once it has one.
    pub reason: Option<String>,
    /// Its reason's label, once it has one.
    pub label: Option<&'static str>,
}

impl Transcript {
    /// The differences from `expected` that a peer or a log can see: the first one of the output,
    /// the ending and the reason. `None` if there is none.
    fn difference(&self, expected: &Self) -> Option<String> {
        let mut lines = Vec::new();
        let (is, should) = (&self.output, &expected.output);
        if is != should {
            let at = is.iter().zip(should).take_while(|(is, should)| is == should).count();
            let around = |bytes: &[u8]| {
                let near = at.saturating_sub(CONTEXT)..bytes.len().min(at + CONTEXT);
                format!("{:?} of {} bytes", shown(&bytes[near]), bytes.len())
            };
            lines.push(format!("the output differs at byte {at}"));
            lines.push(format!("  expected: {}", around(should)));
            lines.push(format!("    actual: {}", around(is)));
        }
        let end = |transcript: &Self| (transcript.ending, transcript.reason.clone());
        let (is, should) = (end(self), end(expected));
        if is != should {
            lines.push("the ending differs".into());
            lines.push(format!("  expected: {should:?}"));
            lines.push(format!("    actual: {is:?}"));
        }
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { input, output, ending, done, reason, label } = self;
        f.debug_struct("Transcript")
            .field("input", &shown(input))
            .field("output", &shown(output))
            .field("ending", ending)
            .field("done", done)
            .field("reason", reason)
            .field("label", label)
            .finish()
    }
}

/// `bytes` with the `Debug` of [`Bytes`]: `b"…"`.
fn shown(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// Plays `ops` to `machine`. The clock starts at [`Instant::EPOCH`].
#[track_caller]
pub fn play<M: Machine>(machine: &mut M, ops: &[Op]) -> Transcript {
    let mut player = Player::new(machine);
    for op in ops {
        player.play(op);
    }
    player.transcript()
}

/// Plays `ops` to `machine`, then accepts all its output and sends its FIN or RST, if it wants one.
#[track_caller]
pub fn play_out<M: Machine>(machine: &mut M, ops: &[Op]) -> Transcript {
    let mut player = Player::new(machine);
    for op in ops {
        player.play(op);
    }
    player.play_out();
    player.transcript()
}

/// Plays `ops` to `machine`, then accepts all its output and lets its deadlines pass, until it has
/// ended.
///
/// # Panics
/// If it has not ended after 16 deadlines, or has none.
#[track_caller]
pub fn play_to_end<M: Machine>(machine: &mut M, ops: &[Op]) -> Transcript {
    let mut player = Player::new(machine);
    for op in ops {
        player.play(op);
    }
    for _ in 0..MAX_DEADLINES {
        player.play_out();
        if player.machine().interest().is_done() {
            return player.transcript();
        }
        player.play(&Op::Timeout);
    }
    panic!("it has not ended after {MAX_DEADLINES} deadlines: {:?}", player.transcript());
}

/// Takes all output that `machine` has now, for a test without a script.
///
/// Never returns if the machine's output has no end.
#[track_caller]
pub fn collect<M: Machine>(machine: &mut M, now: Instant) -> Vec<u8> {
    let (mut output, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match drive::collect_into(machine, &mut buffer, now) {
            0 => return output,
            n => output.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Plays a script to a machine, one op at a time.
///
/// # Panics
/// [`play`](Self::play) and [`play_out`](Self::play_out) panic if `poll_shared` keeps returning
/// true, or the output has no end.
#[derive(Debug)]
pub struct Player<'a, M> {
    machine: &'a mut M,
    peer: Peer,
}

/// What a player has besides the machine.
#[derive(Debug, Default)]
struct Peer {
    now: Instant,
    /// Input that has arrived and was not read yet.
    arrived: VecDeque<Arrived>,
    /// The error of a failed write.
    write_error: Option<ConnectionError>,
    /// Bytes that the kernel has taken and that the peer has not acknowledged.
    unacknowledged: usize,
    transcript: Transcript,
    log: timeline::Log,
}

#[derive(Debug)]
enum Arrived {
    Bytes(Bytes),
    Eof,
    Error(ConnectionError),
}

impl<'a, M: Machine> Player<'a, M> {
    /// Starts a script for `machine`, at [`Instant::EPOCH`].
    pub fn new(machine: &'a mut M) -> Self {
        let mut player = Self { machine, peer: Peer::default() };
        player.peer.log = timeline::Log::start();
        player.observe();
        player
    }

    /// The machine.
    pub fn machine(&mut self) -> &mut M {
        self.machine
    }

    /// The current time of the script.
    pub fn now(&self) -> Instant {
        self.peer.now
    }

    /// The bytes that the machine has sent so far.
    pub fn output(&self) -> &[u8] {
        &self.peer.transcript.output
    }

    /// Plays one op, then lets the machine read the input that has arrived, while it wants to.
    #[track_caller]
    pub fn play(&mut self, op: &Op) {
        self.peer.log.set_playing(self.peer.now, true);
        let interest = self.machine.interest();
        match op {
            Op::Receive(bytes) if bytes.is_empty() => {}
            Op::Receive(bytes) => self.peer.arrived.push_back(Arrived::Bytes(shown(bytes))),
            Op::Eof => self.peer.arrived.push_back(Arrived::Eof),
            Op::Error(Direction::Read, error) => {
                self.peer.arrived.push_back(Arrived::Error(*error));
            }
            Op::Error(Direction::Write, error) => {
                let can_fail = match interest.write {
                    Outbound::Idle => {
                        self.peer.transcript.ending.is_none() && self.peer.write_error.is_none()
                    }
                    Outbound::Flush | Outbound::Finish => true,
                    Outbound::Finished | Outbound::Reset => false,
                };
                if can_fail {
                    self.peer.write_error = Some(*error);
                    self.handle(Event::Error(Direction::Write, *error));
                } else {
                    self.skip(op);
                }
            }
            Op::Accept(n) => {
                self.accept(op, *n);
                self.peer.unacknowledged = 0;
            }
            Op::Buffer(n) => self.peer.unacknowledged += self.accept_owned(op, *n),
            Op::Unacknowledged(n) => {
                self.peer.unacknowledged = *n;
                self.peer.log.note(self.peer.now, || format!("{n} bytes are unacknowledged"));
            }
            Op::Finished => self.finish(),
            Op::Advance(time) => self.peer.now += *time,
            Op::Timeout => {
                let state = |machine: &M| (machine.interest(), machine.status());
                let before = state(self.machine);
                for _ in 0..=MAX_OBSERVATIONS {
                    let Some(deadline) = self.machine.poll_timeout() else { break };
                    self.peer.now = self.peer.now.max(deadline);
                    self.time_out();
                    if state(self.machine) != before {
                        break;
                    }
                }
            }
            Op::SpuriousTimeout => self.time_out(),
            Op::Release => self.handle(Event::Release),
            Op::ShutDown => self.handle(Event::ShutDown),
        }
        self.poll_shared();
        self.read();
        if matches!(op, Op::Receive(_) | Op::Eof | Op::Error(Direction::Read, _)) {
            self.peer.note_unread();
        }
        self.peer.log.set_playing(self.peer.now, false);
    }

    /// Accepts all output and sends the machine's FIN or RST, if it wants one.
    ///
    /// # Panics
    /// If `poll_shared` keeps returning true, or the output has no end.
    #[track_caller]
    pub fn play_out(&mut self) {
        for _ in 0..MAX_POLLS {
            match self.machine.interest().write {
                Outbound::Flush => self.play(&Op::Accept(usize::MAX)),
                Outbound::Finish | Outbound::Reset => self.play(&Op::Finished),
                Outbound::Idle | Outbound::Finished => return,
            }
        }
        panic!("the output has no end: it was accepted {MAX_POLLS} times in a row");
    }

    /// Ends the script.
    pub fn transcript(self) -> Transcript {
        let reason = self.machine.reason();
        Transcript {
            done: self.machine.interest().is_done(),
            reason: reason.as_ref().map(ToString::to_string),
            label: reason.as_ref().map(Reason::label),
            ..self.peer.transcript
        }
    }

    /// Records that the machine was dropped.
    pub(crate) fn record_drop(&mut self) {
        self.observe();
        self.peer.log.push(self.peer.now, || wirestate_timeline::Event::Closed);
    }

    /// Records that `op` has no effect, because the machine does not allow it.
    fn skip(&self, op: &Op) {
        self.peer.log.note(self.peer.now, || format!("skipped: {op:?}"));
    }

    #[track_caller]
    fn handle(&mut self, event: Event) {
        self.peer.log.handles(&*self.machine, self.peer.now, event);
        self.machine.handle(self.peer.now, event);
        self.observe();
    }

    #[track_caller]
    fn time_out(&mut self) {
        self.handle(Event::Timeout { unacknowledged: self.peer.unacknowledged });
    }

    fn observe(&mut self) {
        self.peer.log.observe(&*self.machine, self.peer.now);
    }

    #[track_caller]
    fn poll_shared(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..MAX_POLLS {
            let has_changed = self.machine.poll_shared(self.peer.now, cx);
            if has_changed {
                self.peer.log.push(self.peer.now, || wirestate_timeline::Event::Shared);
            }
            self.observe();
            if !has_changed {
                return;
            }
        }
        panic!("poll_shared has returned true {MAX_POLLS} times in a row");
    }

    #[track_caller]
    fn read(&mut self) {
        while self.machine.interest().read {
            match self.peer.arrived.pop_front() {
                None => return,
                Some(Arrived::Bytes(mut bytes)) => {
                    let buf = self.machine.read_buf();
                    let n = buf.len().min(bytes.len());
                    let piece = bytes.split_to(n);
                    buf[..n].copy_from_slice(&piece);
                    self.peer.log.received(self.peer.now, &piece);
                    self.peer.transcript.input.extend(piece);
                    if !bytes.is_empty() {
                        self.peer.arrived.push_front(Arrived::Bytes(bytes));
                    }
                    self.handle(Event::Read(n));
                }
                Some(Arrived::Eof) => match self.peer.write_error {
                    None => self.handle(Event::Eof),
                    Some(error) => self.handle(Event::Error(Direction::Read, error)),
                },
                Some(Arrived::Error(error)) => self.handle(Event::Error(Direction::Read, error)),
            }
            self.poll_shared();
        }
    }

    /// Plays `op`, an `Accept(n)`.
    #[track_caller]
    fn accept(&mut self, op: &Op, n: usize) {
        if n == 0 || self.machine.interest().write != Outbound::Flush {
            return self.skip(op);
        }
        let Peer { now, transcript, log, .. } = &mut self.peer;
        let mut bufs = [&[][..]; MAX_SLICES];
        let count = self.machine.write_bufs(&mut bufs);
        let before = transcript.output.len();
        transcript.output.extend(bufs[..count].iter().copied().flatten().take(n));
        let sent = &transcript.output[before..];
        if sent.len() == n {
            let offered: usize = bufs[..count].iter().map(|buf| buf.len()).sum();
            log.note(*now, || format!("at most {n} of {offered} bytes are accepted"));
        }
        log.sent(*now, sent);
        let written = Event::Written(sent.len());
        self.handle(written);
    }

    /// Plays `op`, a `Buffer(n)`. Returns how many bytes were taken.
    #[track_caller]
    fn accept_owned(&mut self, op: &Op, n: usize) -> usize {
        if n == 0 || self.machine.interest().write != Outbound::Flush {
            self.skip(op);
            return 0;
        }
        let mut bufs = [const { Bytes::new() }; MAX_SLICES];
        let count = self.machine.write_owned(&mut bufs, n);
        let owned = bufs[..count].concat();
        self.peer.log.note(self.peer.now, || {
            format!("at most {n} bytes are buffered, none of them is acknowledged")
        });
        self.peer.log.sent(self.peer.now, &owned);
        self.handle(Event::Written(owned.len()));
        self.peer.transcript.output.extend_from_slice(&owned);
        owned.len()
    }

    #[track_caller]
    fn finish(&mut self) {
        let (ending, shown) = match self.machine.interest().write {
            Outbound::Finish => (Ending::Fin, wirestate_timeline::Event::Finished),
            Outbound::Reset => (Ending::Rst, wirestate_timeline::Event::Reset),
            Outbound::Idle | Outbound::Flush | Outbound::Finished => {
                return self.skip(&Op::Finished);
            }
        };
        self.peer.transcript.ending = Some(ending);
        self.peer.log.push(self.peer.now, || shown);
        self.handle(Event::Finished);
    }
}

impl Peer {
    /// Records what has arrived and was not read.
    fn note_unread(&self) {
        let bytes = |arrived: &Arrived| match arrived {
            Arrived::Bytes(bytes) => bytes.len(),
            Arrived::Eof | Arrived::Error(_) => 0,
        };
        if !self.arrived.is_empty() {
            let unread: usize = self.arrived.iter().map(bytes).sum();
            let end =
                if self.arrived.iter().any(|one| bytes(one) == 0) { " and an end" } else { "" };
            self.log.note(self.now, || format!("not read yet: {unread} bytes{end}"));
        }
    }
}

/// The most timeouts that a machine spends on counting acknowledged bytes before it reports a stall
/// ([`WriteProgress`](wirestate_core::WriteProgress)).
const MAX_OBSERVATIONS: usize = 8;
/// The most deadlines that pass before a machine ends.
const MAX_DEADLINES: usize = 16;
/// The most times in a row that `poll_shared` may return true, or that there may be more output.
const MAX_POLLS: usize = 10_000;
/// The most bytes shown before and after a difference.
const CONTEXT: usize = 24;
