//! What happens to a machine, as plain data: a list of [`Op`]s that [`play`] plays to it.
//!
//! A script is what a kernel and a peer might do. Whatever the list, the player keeps to the
//! driver's part of the contract, so every list is a script: what the machine does not ask for at
//! that moment waits (bytes, the end of the input) or is passed over. That makes lists easy to draw
//! ([`ops`]), to shrink and to write down.
//!
//! ```
//! use proptest::prelude::*;
//! use wirestate_core::{Instant, echo};
//! use wirestate_testkit::{contract::Checked, script::{self, Op, Sent}};
//!
//! let config = echo::Config::default();
//! let limit = config.buffer_size();
//! let server = echo::Server::new(config).unwrap();
//! let machine = || Checked::new(server.machine(Instant::EPOCH), limit);
//!
//! // One script, written by hand: the peer closes before it reads.
//! let ops = [Op::Receive(b"hello".to_vec()), Op::Eof, Op::Accept(4), Op::Accept(4), Op::Finished];
//! let transcript = script::play(&mut machine(), &ops);
//! assert_eq!((&*transcript.output, transcript.sent), (&b"hello"[..], Some(Sent::Fin)));
//!
//! // Many scripts, drawn: nothing comes out that did not go in.
//! proptest!(|(ops in script::ops(40))| {
//!     let transcript = script::play(&mut machine(), &ops);
//!     prop_assert!(transcript.input.starts_with(&transcript.output));
//! });
//! ```

mod cut;
mod strategy;

use std::{
    collections::VecDeque,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Machine, Outbound, Reason,
    drive::{self, MAX_SLICES},
};

pub use self::{
    cut::{
        byte_by_byte, cut_invariant, cuts, every_cut, every_cut_in_two, pieces, split_invariant,
        split_invariant_exhaustive, whole,
    },
    strategy::ops,
};

/// Something that happens to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// These bytes arrive. The machine gets them in one read, or in as many as its buffer makes
    /// necessary, as soon as it reads.
    Receive(Vec<u8>),
    /// The peer's FIN arrives behind all that has arrived before.
    Eof,
    /// Reading or writing fails. Reading does so behind all that has arrived before. Writing does so
    /// once, before the machine's FIN or RST, also while it has nothing to send (a sink may hold
    /// output); afterwards the end of the input is an error as well.
    Lost(Direction, ConnectionError),
    /// The kernel takes at most this many bytes of output, and the peer acknowledges all that the
    /// kernel has taken.
    Accept(usize),
    /// The sink takes at most this many bytes of output, as buffers of its own
    /// ([`Machine::write_owned`]), and the peer acknowledges none of them.
    Buffer(usize),
    /// The FIN or RST that the machine wants is sent.
    Finished,
    /// Time passes, and the driver has not noticed yet.
    Advance(Duration),
    /// Advances the time to the machine's deadline, and tells the machine. Repeats this if the
    /// machine has only observed the acknowledged bytes, which changes nothing that a driver sees.
    Timeout,
    /// The driver says that time has passed, whether the deadline has been reached or not.
    SpuriousTimeout,
    /// The driver is about to sleep.
    Release,
    /// The machine is asked for a graceful end.
    ShutDown,
}

/// How the machine has ended its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// By a FIN.
    Fin,
    /// By an RST.
    Rst,
}

/// What came of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// The bytes that the machine was given.
    pub input: Vec<u8>,
    /// The bytes that it has sent.
    pub output: Vec<u8>,
    /// What it has sent behind them.
    pub sent: Option<Sent>,
    /// Whether it has ended.
    pub done: bool,
    /// Why, with all its figures, as soon as it says so.
    pub reason: Option<String>,
    /// The reason's label.
    pub label: Option<&'static str>,
}

/// Plays `ops` to `machine`. The clock starts at [`Instant::EPOCH`].
pub fn play<M: Machine>(machine: &mut M, ops: &[Op]) -> Transcript {
    let mut player = Player::new(machine);
    for op in ops {
        player.play(op);
    }
    player.transcript()
}

/// Plays `ops` to `machine`, then accepts all output and sends what it wants sent, until it wants
/// no more.
pub fn play_out<M: Machine>(machine: &mut M, ops: &[Op]) -> Transcript {
    let mut player = Player::new(machine);
    for op in ops {
        player.play(op);
    }
    player.play_out();
    player.transcript()
}

/// Takes all output that `machine` has now, for a test that plays no script.
///
/// A machine whose output has no end fills the memory.
pub fn collect<M: Machine>(machine: &mut M, now: Instant) -> Vec<u8> {
    let (mut output, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match drive::collect_into(machine, &mut buffer, now) {
            0 => return output,
            n => output.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Plays one script to one machine, op by op.
///
/// # Panics
/// All that plays panics if the machine finds something new in what it shares, over and over.
#[derive(Debug)]
pub struct Player<'a, M> {
    machine: &'a mut M,
    now: Instant,
    /// What has arrived and is not read.
    arrived: VecDeque<Arrived>,
    /// A write failed.
    broken: Option<ConnectionError>,
    /// Bytes that the kernel has taken and the peer has not acknowledged.
    unacknowledged: usize,
    transcript: Transcript,
}

#[derive(Debug)]
enum Arrived {
    Bytes(Vec<u8>),
    Eof,
    Lost(ConnectionError),
}

impl<'a, M: Machine> Player<'a, M> {
    /// A player at the start of a script.
    pub fn new(machine: &'a mut M) -> Self {
        let transcript = Transcript::default();
        Self {
            machine,
            now: Instant::EPOCH,
            arrived: VecDeque::new(),
            broken: None,
            unacknowledged: 0,
            transcript,
        }
    }

    /// The machine.
    pub fn machine(&mut self) -> &mut M {
        self.machine
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What the machine has sent so far.
    pub fn output(&self) -> &[u8] {
        &self.transcript.output
    }

    /// Plays one op, then lets the machine read what has arrived, as far as it will.
    pub fn play(&mut self, op: &Op) {
        let interest = self.machine.interest();
        match op {
            Op::Receive(bytes) if bytes.is_empty() => {}
            Op::Receive(bytes) => self.arrived.push_back(Arrived::Bytes(bytes.clone())),
            Op::Eof => self.arrived.push_back(Arrived::Eof),
            Op::Lost(Direction::Read, why) => self.arrived.push_back(Arrived::Lost(*why)),
            Op::Lost(Direction::Write, why) => {
                let is_open = match interest.write {
                    Outbound::Idle => self.transcript.sent.is_none() && self.broken.is_none(),
                    Outbound::Flush | Outbound::Finish => true,
                    Outbound::Finished | Outbound::Reset => false,
                };
                if is_open {
                    self.broken = Some(*why);
                    self.machine.handle(self.now, Event::Error(Direction::Write, *why));
                }
            }
            Op::Accept(n) => {
                self.accept(*n);
                self.unacknowledged = 0;
            }
            Op::Buffer(n) => self.unacknowledged += self.accept_owned(*n),
            Op::Finished => self.finish(),
            Op::Advance(time) => self.now += *time,
            Op::Timeout => {
                let seen = |machine: &M| (machine.interest(), machine.status());
                let before = seen(self.machine);
                for _ in 0..=OBSERVATIONS {
                    let Some(deadline) = self.machine.poll_timeout() else { break };
                    self.now = self.now.max(deadline);
                    self.machine
                        .handle(self.now, Event::Timeout { unacknowledged: self.unacknowledged });
                    if seen(self.machine) != before {
                        break;
                    }
                }
            }
            Op::SpuriousTimeout => self
                .machine
                .handle(self.now, Event::Timeout { unacknowledged: self.unacknowledged }),
            Op::Release => self.machine.handle(self.now, Event::Release),
            Op::ShutDown => self.machine.handle(self.now, Event::ShutDown),
        }
        self.share();
        self.read();
    }

    /// Accepts all output and sends what is wanted, until the machine wants no more.
    pub fn play_out(&mut self) {
        loop {
            match self.machine.interest().write {
                Outbound::Flush => self.play(&Op::Accept(usize::MAX)),
                Outbound::Finish | Outbound::Reset => self.play(&Op::Finished),
                Outbound::Idle | Outbound::Finished => return,
            }
        }
    }

    /// What has come of it so far.
    pub fn transcript(self) -> Transcript {
        let reason = self.machine.reason();
        Transcript {
            done: self.machine.interest().is_done(),
            reason: reason.as_ref().map(ToString::to_string),
            label: reason.as_ref().map(Reason::label),
            ..self.transcript
        }
    }

    fn share(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        let news = (0..MOST_NEWS).take_while(|_| self.machine.poll_shared(self.now, cx)).count();
        assert!(news < MOST_NEWS, "poll_shared finds something new for ever");
    }

    fn read(&mut self) {
        while self.machine.interest().read {
            match self.arrived.pop_front() {
                None => return,
                Some(Arrived::Bytes(mut bytes)) => {
                    let buf = self.machine.read_buf();
                    let n = buf.len().min(bytes.len());
                    buf[..n].copy_from_slice(&bytes[..n]);
                    self.transcript.input.extend(bytes.drain(..n));
                    if !bytes.is_empty() {
                        self.arrived.push_front(Arrived::Bytes(bytes));
                    }
                    self.machine.handle(self.now, Event::Read(n));
                }
                Some(Arrived::Eof) => match self.broken {
                    None => self.machine.handle(self.now, Event::Eof),
                    Some(why) => self.machine.handle(self.now, Event::Error(Direction::Read, why)),
                },
                Some(Arrived::Lost(why)) => {
                    self.machine.handle(self.now, Event::Error(Direction::Read, why));
                }
            }
            self.share();
        }
    }

    fn accept(&mut self, n: usize) {
        if n == 0 || self.machine.interest().write != Outbound::Flush {
            return;
        }
        let mut bufs = [&[][..]; MAX_SLICES];
        let count = self.machine.write_bufs(&mut bufs);
        let before = self.transcript.output.len();
        self.transcript.output.extend(bufs[..count].iter().copied().flatten().take(n));
        self.machine.handle(self.now, Event::Written(self.transcript.output.len() - before));
    }

    /// How many bytes were taken.
    fn accept_owned(&mut self, n: usize) -> usize {
        if n == 0 || self.machine.interest().write != Outbound::Flush {
            return 0;
        }
        let mut bufs = [const { Bytes::new() }; MAX_SLICES];
        let count = self.machine.write_owned(&mut bufs, n);
        let owned = bufs[..count].concat();
        self.machine.handle(self.now, Event::Written(owned.len()));
        self.transcript.output.extend_from_slice(&owned);
        owned.len()
    }

    fn finish(&mut self) {
        self.transcript.sent = match self.machine.interest().write {
            Outbound::Finish => Some(Sent::Fin),
            Outbound::Reset => Some(Sent::Rst),
            Outbound::Idle | Outbound::Flush | Outbound::Finished => return,
        };
        self.machine.handle(self.now, Event::Finished);
    }
}

/// The most observations of acknowledged bytes before a machine detects a stall
/// ([`WriteProgress`](wirestate_core::WriteProgress)).
const OBSERVATIONS: usize = 8;
/// So often does what is shared move at most between two things that happen.
const MOST_NEWS: usize = 10_000;
